# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``synapse_host`` does about accounts, as far as a machine can be asked that is to keep its own.

Real accounts are made and changed where hosts are thrown away, in ``molecule/default``.
"""

from __future__ import annotations

import grp
import os
import pwd
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import run, start, wait

STRANGER = "nobody-has-this-name"


@pytest.fixture
def host(tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    return lambda **arguments: run("synapse_host", arguments, tmp_path / "answer.json")


def test_without_a_user_it_only_tells(host: t.Callable[..., dict[str, t.Any]]) -> None:
    answer = host()
    assert answer["changed"] is False
    assert answer["effective_user"] == pwd.getpwuid(os.geteuid()).pw_name
    assert (answer["service_manager"] == "systemd") is os.path.isdir("/run/systemd/system")
    assert "uid" not in answer


def test_an_account_in_order_is_left_alone(host: t.Callable[..., dict[str, t.Any]]) -> None:
    me = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(me.pw_gid).gr_name
    answer = host(user=me.pw_name, group=group, home=me.pw_dir, shell=me.pw_shell)
    assert (answer["changed"], answer["uid"], answer["gid"]) == (False, me.pw_uid, me.pw_gid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")
def test_check_mode_predicts_a_new_account_and_makes_none(host: t.Callable[..., dict[str, t.Any]]) -> None:
    answer = host(user=STRANGER, home="/srv/x", _ansible_check_mode=True, _ansible_diff=True)
    assert (answer["changed"], answer["uid"], answer["gid"]) == (True, None, None)
    assert answer["diff"]["after"]["user"]["home"] == "/srv/x"
    assert STRANGER not in [entry.pw_name for entry in pwd.getpwall()]


@pytest.mark.skipif(os.geteuid() != 0, reason="root plays somebody else here")
def test_who_is_not_root_is_told_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    pid = start("synapse_host", {"user": STRANGER}, tmp_path / "answer", lambda: os.setuid(65534))
    assert "become: true" in wait(pid, tmp_path / "answer").answer["msg"]


def test_a_refused_host_is_told_all_reasons_before_anything_else(host: t.Callable[..., dict[str, t.Any]]) -> None:
    answer = host(user=STRANGER, refusals={"always": ["First.", "Second."]})
    assert answer["failed"]
    assert answer["msg"] == "First.\nSecond."
    assert answer["refusals"] == ["First.", "Second."]
    assert STRANGER not in [entry.pw_name for entry in pwd.getpwall()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")
def test_what_the_tool_says_is_told(tmp_path: Path) -> None:
    for name in ("groupadd", "useradd"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$0: cannot lock /etc/group; try again later." >&2\nexit 10\n')
        (tmp_path / name).chmod(0o755)

    def before() -> None:
        os.environ["PATH"] = f"{tmp_path}:{os.environ['PATH']}"

    answer = wait(start("synapse_host", {"user": STRANGER}, tmp_path / "answer", before), tmp_path / "answer").answer
    assert f"groupadd could not make or change {STRANGER!r}" in answer["msg"]
    assert "cannot lock /etc/group" in answer["msg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")
def test_what_busybox_is_given(tmp_path: Path) -> None:
    """A BusyBox that is played: it writes down what it is called with."""
    (tmp_path / "busybox").write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {tmp_path}/called\n')
    (tmp_path / "busybox").chmod(0o755)
    for name in ("addgroup", "adduser"):
        (tmp_path / name).symlink_to("busybox")

    def before() -> None:
        from ansible_collections.matrix_fleet.synapse.plugins.modules import synapse_host

        tools = {name: str(tmp_path / name) for name in ("addgroup", "adduser")}
        real = synapse_host._tools

        def only_these(module: t.Any) -> dict[str, str]:
            os.environ["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
            return {name: path for name, path in real(module).items() if path in tools.values()}

        synapse_host._tools = only_these

    answer = wait(start("synapse_host", {"user": STRANGER}, tmp_path / "answer", before), tmp_path / "answer").answer
    called = (tmp_path / "called").read_text().splitlines()
    assert [line.split()[0] for line in called] == ["addgroup", "adduser"]
    assert called[0] == f"addgroup -S {STRANGER}"
    # It made nothing, and that is seen.
    assert "the host does not know them yet" in answer["msg"]
