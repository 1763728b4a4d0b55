# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process is the Synapse that a pid file speaks of, and what to do about it. Pure, no I/O, no Ansible.

How Synapse behaves as a daemon (synapse/util/daemonize.py and synapse/app/_base.py, 1.163.2): it reads the
configuration and upgrades the database, locks the pid file, forks, and the parent exits with 0; only then the child
points its standard streams at nothing, writes its id and listens. On SIGTERM it removes the pid file.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = [
    "Plan",
    "Process",
    "Verdict",
    "command",
    "configs_of",
    "is_ours",
    "judge",
    "listening",
    "parse_pid",
    "parse_stat",
    "plan",
]

_FLAGS = {"-c", "--config-path"}
_DAEMON = {"-D", "--daemonize"}
_LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h
_ACCEPTS = 0x10000  # __SO_ACCEPTCON, include/uapi/linux/net.h


@dataclass(frozen=True)
class Process:
    """A living process: its id, its arguments, and when it started (clock ticks since boot, proc_pid_stat(5))."""

    pid: int
    argv: tuple[str, ...]
    started: int


@dataclass(frozen=True)
class Verdict:
    """What runs, if anything does; ``stale`` says that the pid file is there and speaks of nothing of ours."""

    process: Process | None
    stale: bool

    @property
    def running(self) -> bool:
        """Whether the daemon runs."""
        return self.process is not None


@dataclass(frozen=True)
class Plan:
    """The steps, in the order: stop, remove a stale pid file, start."""

    stop: bool
    remove: bool
    start: bool
    before: str
    after: str

    @property
    def changed(self) -> bool:
        """Whether there is any step."""
        return self.stop or self.remove or self.start

    @property
    def diff(self) -> dict[str, dict[str, str]]:
        """What ``--diff`` shows."""
        stale = {"pid_file": "names no such process"} if self.remove else {}
        return {"before": {"state": self.before, **stale}, "after": {"state": self.after}}


def parse_pid(data: bytes | None) -> int | None:
    """Return the process id in a pid file; ``None`` where the file is missing, empty or holds something else."""
    match = re.fullmatch(rb"\s*([1-9][0-9]{0,9})\s*", data or b"")
    return int(match.group(1)) if match else None


def parse_stat(text: str) -> tuple[str, int] | None:
    """Return state letter and start time out of ``/proc/PID/stat``; the name in it may hold spaces and brackets."""
    fields = text[text.rfind(")") + 1 :].split()
    try:
        return fields[0], int(fields[19])
    except (IndexError, ValueError):
        return None


def command(
    python: str, app: str, config_paths: t.Sequence[str], args: t.Sequence[str], *, daemonize: bool = True
) -> list[str]:
    """Return the command that starts the daemon; neither its folder nor PYTHONPATH is searched for modules."""
    configs = [part for path in config_paths for part in ("-c", path)]
    return [python, "-I", "-m", app, *configs, *(["--daemonize"] if daemonize else []), *args]


def configs_of(argv: t.Sequence[str]) -> list[str]:
    """Return the configurations that a command line of Synapse names."""
    found = []
    for index, word in enumerate(argv):
        if word in _FLAGS and index + 1 < len(argv):
            found.append(argv[index + 1])
        elif word.startswith("--config-path="):
            found.append(word.split("=", 1)[1])
        elif word.startswith("-c") and not word.startswith("--") and len(word) > 2:
            found.append(word[2:])
    return found


def _runs(argv: t.Sequence[str], app: str) -> bool:
    """Whether a command line starts ``app``: as a module, as a file, or by the script that pip makes for it."""
    file = app.replace(".", "/") + ".py"
    script = {"synapse.app.homeserver": "synapse_homeserver", "synapse.app.generic_worker": "synapse_worker"}.get(app)
    head = argv[:6]
    return (
        any(head[index : index + 2] == ("-m", app) for index in range(len(head)))
        or any(word == file or word.endswith("/" + file) for word in head)
        or any(os.path.basename(word) == script for word in head[:2])
    )


def is_ours(argv: t.Sequence[str], app: str, config_paths: t.Sequence[str], *, named: bool) -> bool:
    """Whether a command line is that of the daemon.

    With ``named`` the pid file names the process: a configuration that was given relative to a folder, which nobody
    knows any more, then counts by its name.
    """
    argv = tuple(argv)
    if not _runs(argv, app):
        return False
    wanted = [os.path.normpath(path) for path in config_paths]
    found = [os.path.normpath(path) for path in configs_of(argv)]
    if found == wanted:
        return True
    relative = any(not os.path.isabs(path) for path in found)
    return named and relative and [os.path.basename(p) for p in found] == [os.path.basename(p) for p in wanted]


def judge(
    *,
    pid_file: bytes | None,
    named: Process | None,
    others: t.Sequence[Process],
    app: str,
    config_paths: t.Sequence[str],
) -> Verdict:
    """Say whether the daemon runs.

    ``pid_file`` is what the file holds, ``named`` the living process of that id, ``others`` all processes that might be
    it where the file does not say. Raises ``SynapseError`` where something else runs Synapse with this configuration.
    """
    if named is not None and is_ours(named.argv, app, config_paths, named=True):
        return Verdict(named, stale=False)
    found = [process for process in others if is_ours(process.argv, app, config_paths, named=False)]
    foreign = [process for process in found if not _DAEMON & set(process.argv)]
    config = " and ".join(config_paths)
    if foreign:
        raise SynapseError(
            f"Synapse runs with {config} already, as process {foreign[0].pid}, and not as a daemon: something else, "
            "such as systemd or a terminal, started it. Stop it there first, or leave it to that."
        )
    if len(found) > 1:
        pids = ", ".join(str(process.pid) for process in found)
        raise SynapseError(
            f"Several daemons run with {config}: processes {pids}, and the pid file names none of them. Find out which "
            "one answers, stop the others with 'kill', and run again."
        )
    return Verdict(found[0] if found else None, stale=pid_file is not None)


def plan(state: str, verdict: Verdict) -> Plan:
    """Return the steps to ``state``: ``started``, ``stopped`` or ``restarted``."""
    before = "started" if verdict.running else "stopped"
    if state == "stopped":
        return Plan(stop=verdict.running, remove=verdict.stale, start=False, before=before, after="stopped")
    start = state == "restarted" or not verdict.running
    # A daemon whose pid file was lost or spoilt is left alone where it shall run anyway: the file is its lock.
    return Plan(
        stop=state == "restarted" and verdict.running,
        remove=verdict.stale and start,
        start=start,
        before=before,
        after=state if state == "restarted" else "started",
    )


def _entries(table: str) -> t.Iterator[list[str]]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 6:
            yield fields


def listening(tcp: str, unix: str) -> frozenset[str]:
    """Return the inodes of listening sockets out of ``/proc/PID/net/tcp`` (and ``tcp6``, appended) and ``.../unix``."""
    found = {fields[9] for fields in _entries(tcp) if len(fields) > 9 and fields[3] == _LISTEN}
    for fields in _entries(unix):
        try:
            if int(fields[3], 16) & _ACCEPTS:
                found.add(fields[6])
        except ValueError:
            continue
    return frozenset(found)
