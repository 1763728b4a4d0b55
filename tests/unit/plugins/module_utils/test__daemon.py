# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _daemon
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._daemon import Plan, Process, Verdict
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

APP, WORKER = "synapse.app.homeserver", "synapse.app.generic_worker"
CONFIG = "/etc/synapse/homeserver.yaml"
PYTHON = "/var/lib/synapse/venv/bin/python"
OURS = (PYTHON, "-I", "-m", APP, "-c", CONFIG, "--daemonize")


def process(*argv: str, pid: int = 7) -> Process:
    return Process(pid, argv, 100)


@pytest.mark.parametrize(
    ("data", "pid"),
    [
        (b"12", 12),
        (b" 12\n", 12),
        (None, None),
        (b"", None),
        (b"\n", None),
        (b"0", None),
        (b"-1", None),
        (b"1 2", None),
        (b"12x", None),
        (b"99999999999", None),
        ("١٢".encode(), None),
    ],
)
def test_pid_files(data: bytes | None, pid: int | None) -> None:
    assert _daemon.parse_pid(data) == pid


@given(st.binary(max_size=40))
def test_a_pid_is_positive_or_none(data: bytes) -> None:
    pid = _daemon.parse_pid(data)
    assert pid is None or pid > 0


# Recorded on Linux 6.1; the second name was chosen to mislead.
STAT = "4711 (python) S 1 4711 4711 0 -1 4194624 31 0 0 0 210 33 0 0 20 0 9 0 1234567 987 65 18446744073709551615 1 1\n"
ODD = STAT.replace("(python)", "(a) Z 1 (b) R)")


@pytest.mark.parametrize(
    ("text", "facts"),
    [(STAT, ("S", 1234567)), (ODD, ("S", 1234567)), ("", None), ("4711 (python) S 1", None), (STAT[:60], None)],
)
def test_state_and_start_time(text: str, facts: tuple[str, int] | None) -> None:
    assert _daemon.parse_stat(text) == facts


def test_the_command_that_starts_the_daemon_is_recognised_as_it() -> None:
    for configs in ([CONFIG], [CONFIG, "/etc/synapse/workers/one.yaml"]):
        argv = _daemon.command(PYTHON, APP, configs, ["--no-secrets-in-config"])
        assert argv[:4] == [PYTHON, "-I", "-m", APP]
        assert "--daemonize" in argv
        assert _daemon.is_ours(argv, APP, configs, named=False)
        assert not _daemon.is_ours(argv, WORKER, configs, named=True)
        assert not _daemon.is_ours(argv, APP, ["/srv/other.yaml"], named=True)


@pytest.mark.parametrize(
    ("argv", "named", "ours"),
    [
        (OURS, False, True),
        ((PYTHON, "-m", APP, f"--config-path={CONFIG}"), False, True),
        ((PYTHON, "-m", APP, "--config-path", CONFIG), False, True),
        ((PYTHON, "-m", APP, f"-c{CONFIG}"), False, True),
        ((PYTHON, "-m", APP, "-c", "/etc//synapse/./homeserver.yaml"), False, True),
        ((PYTHON, "-B", "/venv/lib/python3.11/site-packages/synapse/app/homeserver.py", "-c", CONFIG), False, True),
        ((PYTHON, "/venv/bin/synapse_homeserver", "-c", CONFIG), False, True),
        # Given relative to a folder that nobody knows any more: believed where the pid file says so.
        ((PYTHON, "-m", APP, "-c", "homeserver.yaml"), True, True),
        ((PYTHON, "-m", APP, "-c", "homeserver.yaml"), False, False),
        ((PYTHON, "-m", APP, "-c", "other.yaml"), True, False),
        ((PYTHON, "-m", APP, "-c", "/srv/homeserver.yaml"), True, False),
        ((PYTHON, "-m", APP, "-c", CONFIG, "-c", "/more.yaml"), True, False),
        ((PYTHON, "-m", WORKER, "-c", CONFIG), True, False),
        ((PYTHON, "-m", "synapse.config", "-c", CONFIG), True, False),
        (("vi", CONFIG), True, False),
        (("tail", "-c", CONFIG, "-m", APP + ".log"), True, False),
        ((PYTHON, "-m", APP), True, False),
        ((), True, False),
    ],
)
def test_command_lines(argv: tuple[str, ...], named: bool, ours: bool) -> None:
    assert _daemon.is_ours(argv, APP, [CONFIG], named=named) is ours


def judge(pid_file: bytes | None, named: Process | None = None, others: t.Sequence[Process] = ()) -> Verdict:
    return _daemon.judge(pid_file=pid_file, named=named, others=others, app=APP, config_paths=[CONFIG])


SYNAPSE, OTHER = process(*OURS), process("/usr/sbin/cron")


@pytest.mark.parametrize(
    ("pid_file", "named", "others", "verdict"),
    [
        (None, None, [], Verdict(None, stale=False)),
        (b"", None, [], Verdict(None, stale=True)),
        (b"rubbish", None, [OTHER], Verdict(None, stale=True)),
        (b"7", None, [], Verdict(None, stale=True)),
        (b"7", OTHER, [], Verdict(None, stale=True)),
        (b"7", SYNAPSE, [], Verdict(SYNAPSE, stale=False)),
        (None, None, [SYNAPSE], Verdict(SYNAPSE, stale=False)),
        (b"9", OTHER, [OTHER, SYNAPSE], Verdict(SYNAPSE, stale=True)),
    ],
)
def test_what_runs(pid_file: bytes | None, named: Process | None, others: list[Process], verdict: Verdict) -> None:
    assert judge(pid_file, named, others) == verdict


def test_a_process_that_something_else_started_is_refused() -> None:
    with pytest.raises(SynapseError, match="as process 8, and not as a daemon: something else, such as systemd"):
        judge(None, None, [process(*OURS[:-1], pid=8)])
    # The configuration itself may say "daemonize"; then the pid file names it.
    assert judge(b"8", process(*OURS[:-1], pid=8)).running


def test_several_daemons_are_not_guessed_between() -> None:
    with pytest.raises(SynapseError, match="processes 7, 8"):
        judge(None, None, [SYNAPSE, process(*OURS, pid=8)])


RUNS, LOST, STOPPED, STALE = (
    Verdict(SYNAPSE, stale=False),
    Verdict(SYNAPSE, stale=True),
    Verdict(None, stale=False),
    Verdict(None, stale=True),
)


@pytest.mark.parametrize(
    ("state", "verdict", "steps"),
    [
        ("started", RUNS, ""),
        ("started", LOST, ""),
        ("started", STOPPED, "start"),
        ("started", STALE, "remove start"),
        ("stopped", RUNS, "stop"),
        ("stopped", LOST, "stop remove"),
        ("stopped", STOPPED, ""),
        ("stopped", STALE, "remove"),
        ("restarted", RUNS, "stop start"),
        ("restarted", LOST, "stop remove start"),
        ("restarted", STOPPED, "start"),
        ("restarted", STALE, "remove start"),
    ],
)
def test_steps(state: str, verdict: Verdict, steps: str) -> None:
    todo: Plan = _daemon.plan(state, verdict)
    assert " ".join(name for name in ("stop", "remove", "start") if getattr(todo, name)) == steps
    assert todo.changed is bool(steps)
    assert (todo.diff["before"] != todo.diff["after"]) is bool(steps)


# Recorded on Linux 6.1.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F48 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 29173 1 0000000000000000 100
   1: 0100007F:1F48 0100007F:D1F2 01 00000000:00000000 00:00000000 00000000     0        0 29999 1 0000000000000000 20
"""
UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 31337 /run/synapse/main.sock
0000000000000000: 00000003 00000000 00000000 0001 03 31338
"""


def test_only_sockets_that_accept_count_as_listening() -> None:
    assert _daemon.listening(TCP, UNIX) == {"29173", "31337"}
    assert _daemon.listening("", "") == frozenset()
    assert _daemon.listening("\n" + TCP, "") == {"29173"}


@given(st.text(max_size=300), st.text(max_size=300))
def test_unknown_tables_are_survived(tcp: str, unix: str) -> None:
    _daemon.listening(tcp, unix)
    _daemon.parse_stat(tcp)
