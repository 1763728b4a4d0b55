# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet is upgraded in batches; one server in trouble, at each stage in turn, holds back all after it and no other.

The tests build on one another, in the order in which they stand: each run goes on where the one before it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import testinfra
from deployed import UNIT, VERSION, Controller, ask, started

if t.TYPE_CHECKING:
    from collections.abc import Iterator

OLD, NEW = "1.162.0", VERSION
FLEET = {name: testinfra.get_host(f"docker://{name}") for name in ("fleet-1", "fleet-2", "fleet-3", "fleet-4")}
DROP_IN = f"/etc/systemd/system/{UNIT}.service.d/trouble.conf"
LIVE_IS_NEW = f"readlink /var/lib/synapse/venv | grep -q /{NEW}-"
# Says that it is ready, listens, and is no homeserver.
IMPOSTOR = (
    "import os, socket, http.server as h; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    "s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'READY=1'); "
    "h.HTTPServer(('127.0.0.1', 8008), h.BaseHTTPRequestHandler).serve_forever()"
)


SET_COMPATIBLE = (
    "import sqlite3, sys; c = sqlite3.connect('/var/lib/synapse/homeserver.db', timeout=30); "
    "c.execute('UPDATE schema_compat_version SET compat_version = ?', (int(sys.argv[1]),)); c.commit()"
)


class Run(t.NamedTuple):
    """How a run of the playbook ended, and what it said of each server."""

    rc: int
    output: str
    lines: dict[str, str]


def upgrade(folder: Path, *arguments: str, **variables: t.Any) -> Run:
    """Upgrade the whole fleet as an operator would."""
    extra = folder / "extra-vars.json"
    extra.write_text(json.dumps({"synapse_version": NEW, **variables}), encoding="utf-8")
    ended = subprocess.run(
        [
            *("ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]),
            *("--extra-vars", f"@{extra}", *arguments, "matrix_fleet.synapse.upgrade"),
        ],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )
    report = ended.stdout.partition("TASK [One line a host]")[2].partition("TASK [")[0]
    lines = dict(re.findall(r'^\s*"([\w-]+): (.*)",?$', report, re.MULTILINE))
    return Run(ended.returncode, ended.stdout, lines)


def versions() -> list[str]:
    """Return what each server answers with, in order."""
    path = "/_matrix/federation/v1/version"
    return [ask(host, path)["server"]["version"] for host in FLEET.values()]


def processes() -> list[str]:
    """Return what tells one start of each server from another."""
    return [started(host) for host in FLEET.values()]


def check(run: Run, failed: str, reason: str, serving: list[str]) -> None:
    """Check that one server failed for a reason, and what each of them serves now."""
    assert run.rc != 0, run.output
    assert [name for name, line in run.lines.items() if line.startswith("FAILED")] == [failed], run.output
    assert reason in run.lines[failed], run.lines[failed]
    later = [name for name in FLEET if name > failed and not run.lines[name].startswith(NEW)]
    assert all(run.lines[name].startswith("untouched") for name in later), run.lines
    assert versions() == serving


@contextlib.contextmanager
def drop_in(name: str, text: str) -> Iterator[None]:
    """Let one server's unit have an addition."""
    host = FLEET[name]
    host.check_output(f"mkdir -p {os.path.dirname(DROP_IN)}")
    host.run_expect([0], f"cat > {DROP_IN} <<'END'\n[Service]\n{text}\nEND\n")
    host.check_output("systemctl daemon-reload")
    try:
        yield
    finally:
        host.check_output(f"rm {DROP_IN} && systemctl daemon-reload")


def test_the_fleet_serves_the_older_version_before() -> None:
    assert versions() == [OLD] * 4


def test_check_mode_says_what_would_be_and_touches_nobody(tmp_path: Path) -> None:
    before = processes()
    run = upgrade(tmp_path, "--check", "--limit", "fleet-1,fleet-3")
    assert run.rc == 0, run.output
    assert run.lines == {name: f"would go {OLD} -> {NEW}" for name in ("fleet-1", "fleet-3")}
    assert processes() == before
    left = f"ls -d /var/lib/synapse/.trial* || ls -d /var/lib/synapse/releases/{NEW}-*"
    assert all(host.run(left).rc for host in FLEET.values())


def test_a_build_that_fails_on_the_canary_leaves_all_others_untouched(tmp_path: Path) -> None:
    lock = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / f"{NEW}.lock").read_text(encoding="utf-8")
    broken = tmp_path / "broken.lock"
    # Of one package all hashes are wrong.
    wrong = re.sub(r"(?ms)^(attrs==.*?)(?=^\S)", lambda found: re.sub(r"[0-9a-f]{64}", "0" * 64, found[1]), lock)
    assert wrong != lock
    broken.write_text(wrong, encoding="utf-8")
    before = processes()
    run = upgrade(tmp_path, site_locks={"fleet-1": str(broken)})
    check(run, "fleet-1", "attrs", [OLD] * 4)
    assert processes() == before


def test_a_gate_that_refuses_stops_the_batches_after_it(tmp_path: Path) -> None:
    def compatible(version: int) -> None:
        FLEET["fleet-2"].check_output(f'runuser -u synapse -- python3 -c "{SET_COMPATIBLE}" {version}')

    before = processes()[1:]
    compatible(999)
    try:
        run = upgrade(tmp_path, synapse_batch=[1, "100%"])
    finally:
        compatible(84)
    check(run, "fleet-2", "schema 999", [NEW, OLD, OLD, OLD])
    assert run.lines["fleet-1"].startswith(f"{OLD} -> {NEW}, proven healthy")
    assert processes()[1:] == before


def test_a_start_that_fails_comes_back_and_the_rest_of_its_batch_goes_on(tmp_path: Path) -> None:
    with drop_in("fleet-3", f"ExecStartPre=/bin/sh -c '! {LIVE_IS_NEW}'"):
        before = processes()
        run = upgrade(tmp_path, synapse_canary=0, synapse_batch=[3, 1])
        check(run, "fleet-3", "answers again, proven healthy", [NEW, NEW, OLD, OLD])
    after = processes()
    assert (before[0], before[3]) == (after[0], after[3]), "a server with nothing to do, or untouched, was restarted"
    assert "nothing to do" in run.lines["fleet-1"]


def test_a_proof_that_fails_comes_back_too(tmp_path: Path) -> None:
    unit = FLEET["fleet-4"].check_output(f"systemctl show {UNIT} -p ExecStart")
    real = re.search(r"argv\[\]=(.*?) ;", unit)
    assert real is not None
    start = f"/bin/sh -c 'if {LIVE_IS_NEW}; then exec /usr/bin/python3 -c \"{IMPOSTOR}\"; fi; exec {real[1]}'"
    # The quotes inside are the shell's; systemd takes the whole for one word.
    script = "/var/lib/synapse-start"
    FLEET["fleet-4"].run_expect([0], f"cat > {script} <<'END'\n#!/bin/sh\nexec {start}\nEND\nchmod 0755 {script}")
    with drop_in("fleet-4", f"ExecStart=\nExecStart={script}"):
        run = upgrade(tmp_path, synapse_canary=0, synapse_batch=[2], synapse_upgrade_timeout=45)
        check(run, "fleet-4", "answers again, proven healthy", [NEW, NEW, NEW, OLD])


def test_a_server_out_of_reach_holds_nobody_up_and_the_run_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    before = processes()[:3]
    run = upgrade(tmp_path, "--inventory", "gone.invalid,", synapse_canary=["fleet-4"])
    assert run.rc != 0
    assert "gone.invalid is out of reach" in run.output
    assert versions() == [NEW] * 4, run.output
    assert processes()[:3] == before
    assert run.lines["fleet-4"].startswith(f"{OLD} -> {NEW}, proven healthy")


@pytest.mark.parametrize("canary", [-1, ["nobody"]])
def test_an_order_that_cannot_be_is_refused(tmp_path: Path, canary: t.Any) -> None:
    run = upgrade(tmp_path, synapse_canary=canary)
    assert run.rc != 0
    assert "synapse_canary" in run.output


def test_the_whole_fleet_has_one_set_of_packages(tmp_path: Path) -> None:
    live = {host.check_output("basename $(readlink -f /var/lib/synapse/venv)") for host in FLEET.values()}
    assert len(live) == 1
    run = upgrade(tmp_path)
    assert run.rc == 0, run.output
    assert all("nothing to do, proven healthy" in line for line in run.lines.values())


@pytest.mark.parametrize("name", ["fleet-2", "fleet-3"])
def test_nothing_is_wrong_with_them_in_the_end(name: str, tmp_path: Path) -> None:
    assert Controller(FLEET[name], tmp_path).ailments() == []
