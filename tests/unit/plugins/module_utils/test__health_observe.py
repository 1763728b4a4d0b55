# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a server: when a wait ends, which log is quoted, what is read without starting anything."""

from __future__ import annotations

import functools
import http.server
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _health, _health_observe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health import Listener, Process
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health_observe import (
    Outcome,
    Wanted,
    installed_version,
    observe_process,
    prove,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

RECORDED = pathlib.Path(__file__).parent / "recorded" / "startup"


def shown(**properties: object) -> str:
    return "".join(f"{name}={value}\n" for name, value in {"LoadState": "loaded", "MainPID": 0, **properties}.items())


RUNNING = shown(ActiveState="active", SubState="running", MainPID=7, ActiveEnterTimestampMonotonic=1, InvocationID="a1")
STARTING = shown(ActiveState="activating", SubState="start", InvocationID="a1")
FAILED = shown(ActiveState="failed", SubState="failed", Result="exit-code", ExecMainStatus=1, InvocationID="a1")


class Systemd:
    """Stands for systemctl and journalctl: one answer after the other, the last one for ever."""

    def __init__(self, *shows: str, journals: t.Mapping[str, str] | None = None) -> None:
        self.shows = list(shows)
        self.journals = journals or {}
        self.commands: list[list[str]] = []

    def __call__(self, argv: t.Sequence[str], **_named: t.Any) -> CommandResult:
        self.commands.append(list(argv))
        if argv[0] == "systemctl":
            return CommandResult(0, self.shows.pop(0) if len(self.shows) > 1 else self.shows[0], "")
        return CommandResult(0, self.journals.get("invocation" if "INVOCATION" in argv[-1] else "unit", ""), "")


@pytest.fixture
def closed_url() -> t.Iterator[str]:
    """A URL at which nobody listens, and nobody will."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


def look(systemd: Systemd, url: str, timeout: float = 30.0, **options: t.Any) -> tuple[Outcome, float]:
    wanted = Wanted((Listener(url, frozenset({"health"})),), unit="s.service", timeout=timeout, **options)
    started = time.monotonic()
    return prove(systemd, wanted), time.monotonic() - started


def test_a_failed_unit_ends_the_wait_at_once_and_is_quoted(closed_url: str) -> None:
    journal = (RECORDED / "journal-port.txt").read_text(encoding="utf-8")
    outcome, taken = look(Systemd(FAILED, journals={"invocation": journal}), closed_url, wait=True)
    assert not outcome.healthy
    assert outcome.reason is not None
    assert "Address already in use" in outcome.reason
    assert taken < 5


def test_a_unit_that_restarts_over_and_over_ends_the_wait(closed_url: str) -> None:
    again = shown(ActiveState="activating", SubState="auto-restart", Result="exit-code", NRestarts=2, InvocationID="a2")
    first = shown(ActiveState="activating", SubState="start", NRestarts=0, InvocationID="a1")
    journal = (RECORDED / "journal-config.txt").read_text(encoding="utf-8")
    # The latest start has not said anything yet; the ones before have.
    outcome, taken = look(Systemd(first, again, journals={"unit": journal}), closed_url, wait=True)
    assert outcome.checks[0].detail == "the service keeps ending: it was restarted 2 times (result exit-code)"
    assert outcome.reason == "Error in configuration: Missing mandatory `server_name` config option."
    assert taken < 10


def test_a_unit_that_is_starting_is_waited_for_until_the_time_is_over(closed_url: str) -> None:
    systemd = Systemd(STARTING)
    outcome, taken = look(systemd, closed_url, wait=True, timeout=1.5)
    assert not outcome.healthy
    assert 1.4 < taken < 6
    # Asking systemd is not free: it is asked now and then, not at every look.
    assert len([command for command in systemd.commands if command[0] == "systemctl"]) <= 6


@pytest.fixture
def stranger_url(tmp_path: pathlib.Path) -> t.Iterator[str]:
    """A URL at which somebody else answers: 404 to everything."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_who_has_taken_the_port_does_not_end_the_wait_before_the_start_has_failed(
    stranger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the reason would be that of the stranger, and not the server's own."""
    monkeypatch.setattr(_health, "_SETTLE", 0.0)
    journal = (RECORDED / "journal-port.txt").read_text(encoding="utf-8")
    outcome, _taken = look(
        Systemd(STARTING, STARTING, FAILED, journals={"invocation": journal}), stranger_url, wait=True
    )
    assert outcome.checks[0].detail.startswith("the service has failed")
    assert outcome.reason is not None
    assert "Address already in use" in outcome.reason


def test_old_failures_of_a_unit_that_runs_are_not_quoted(closed_url: str) -> None:
    journal = (RECORDED / "journal-config.txt").read_text(encoding="utf-8")
    outcome, _taken = look(Systemd(RUNNING, journals={"unit": journal}), closed_url)
    assert outcome.reason is None


def test_without_a_wait_systemd_is_asked_once(closed_url: str) -> None:
    systemd = Systemd(STARTING)
    look(systemd, closed_url)
    assert [command[0] for command in systemd.commands] == ["systemctl", "journalctl", "journalctl"]


def test_no_systemd_is_a_failed_check(closed_url: str) -> None:
    def nothing(_argv: t.Sequence[str], **_named: t.Any) -> CommandResult:
        return CommandResult(127, "", "systemctl: No such file or directory")

    outcome = prove(nothing, Wanted((Listener(closed_url, frozenset({"health"})),), unit="s.service", wait=True))
    assert "pid_file instead of unit" in outcome.checks[0].detail


@pytest.mark.parametrize("age", [0, 3600])
def test_a_log_that_is_older_than_the_wait_is_not_quoted(closed_url: str, tmp_path: pathlib.Path, age: float) -> None:
    log = tmp_path / "homeserver.log"
    log.write_text((RECORDED / "port.log").read_text(encoding="utf-8"), encoding="utf-8")
    os.utime(log, (time.time() - age, time.time() - age))
    outcome, _taken = look(Systemd(FAILED), closed_url, wait=True, log_file=str(log))
    assert (outcome.reason is not None) == (age == 0)


def test_the_installed_version_is_read_without_starting_anything(tmp_path: pathlib.Path) -> None:
    packages = tmp_path / "venv/lib/python3.11/site-packages"
    python = str(tmp_path / "venv/bin/python")
    assert installed_version(python) is None
    (packages / "matrix_synapse_ldap3-0.3.0.dist-info").mkdir(parents=True)
    assert installed_version(python) is None
    (packages / "matrix_synapse-1.163.2.dist-info").mkdir()
    assert installed_version(python) == "1.163.2"
    # lib64 is a link to lib in an environment.
    (tmp_path / "venv/lib64").symlink_to("lib")
    assert installed_version(python) == "1.163.2"
    (packages / "matrix_synapse-1.162.0.dist-info").mkdir()
    assert installed_version(python) is None


@pytest.mark.parametrize(
    ("text", "pid"), [(None, None), ("", 0), ("x\n", 0), ("0\n", 0), ("-1\n", 0), ("99999999999999999999\n", None)]
)
def test_pid_files_that_lead_nowhere(tmp_path: pathlib.Path, text: str | None, pid: int | None) -> None:
    path = tmp_path / "s.pid"
    if text is not None:
        path.write_text(text, encoding="ascii")
    found = observe_process(str(path))
    assert not found.alive
    assert found.pid == (pid if text is None or pid is not None else int(text))


def test_a_process_is_alive_until_it_is_a_zombie(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.pid"
    process = subprocess.Popen([sys.executable, "-c", "input()", "synapse"], stdin=subprocess.PIPE)
    path.write_text(f"{process.pid}\n", encoding="ascii")
    found = observe_process(str(path))
    assert found.alive
    assert found.command is not None
    process.kill()
    deadline = time.monotonic() + 10
    while observe_process(str(path)).alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert observe_process(str(path)) == Process(str(path), process.pid)
    process.communicate()


def test_what_hangs_is_not_waited_for() -> None:
    question = _health_observe._Question("health", "x", lambda _timeout: time.sleep(30))
    started = time.monotonic()
    answers = _health_observe._in_parallel([question], 0.2)
    assert str(answers["health", "x"]) == "no answer within 0.2 s"
    assert time.monotonic() - started < 5


def test_a_pipe_as_pid_file_or_log_stops_nothing(tmp_path: pathlib.Path) -> None:
    for name in ("pid", "log"):
        os.mkfifo(tmp_path / name)
    assert observe_process(str(tmp_path / "pid")) == Process(str(tmp_path / "pid"), 0)
    wanted = Wanted(pid_file=str(tmp_path / "pid"), log_file=str(tmp_path / "log"))
    assert prove(Systemd(FAILED), wanted).reason is None


def test_a_link_in_the_place_of_the_log_is_not_quoted(tmp_path: pathlib.Path) -> None:
    secret, log = tmp_path / "secret", tmp_path / "log"
    secret.write_text("ValueError: of somebody else\n", encoding="utf-8")
    log.symlink_to(secret)
    missing = str(tmp_path / "pid")
    assert prove(Systemd(FAILED), Wanted(pid_file=missing, log_file=str(log))).reason is None
    assert prove(Systemd(FAILED), Wanted(pid_file=missing, log_file=str(secret))).reason is not None


def test_of_a_stopped_unit_no_older_failure_is_quoted(closed_url: str) -> None:
    stopped = shown(ActiveState="inactive", SubState="dead", Result="success", ExecMainStatus=0, InvocationID="a1")
    outcome = look(Systemd(stopped, journals={"unit": "ValueError: last week"}), closed_url)[0]
    assert outcome.reason is None
