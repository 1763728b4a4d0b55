# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: what the server said of itself: journal and log files."""

from __future__ import annotations

import os
import re
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _logs
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import messages
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.messages import Entry
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.words import Words
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.manager import UnitSeen

__all__ = ["access_address", "entries_of_journal", "entries_of_log", "log_paths", "look"]

_TAIL = 512 * 1024  # bytes of a log that are searched
_SHORT = 16 * 1024  # a log shorter than this was rotated lately: the one before it is read too
_LINES = "1200"
_WIDTH = 4000  # characters of a line; what decides stands at its beginning
_DEFAULTS = ("/var/log/synapse/homeserver.log", "/var/log/matrix-synapse/homeserver.log")
_ENTRY = re.compile(r"^(\d{9,11}\.\d+) \S+ (.*?)(?:\[\d+\])?: (.*)$")
_STAMP = re.compile(r"^(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)")
_STARTING = re.compile(r"^Starting .*\.$")
_STARTED = re.compile(r"^Started .*\.$")
_SERVER = re.compile(r"\*\*\*\*\* STARTING SERVER \*\*\*\*\*")
_FILENAME = re.compile(r"""(?m)^[^#\n]*\bfilename["']?\s*:\s*(?:"([^"\n]+)"|'([^'\n]+)'|([^\s,}#]+))""")
_OOM = re.compile(r"killed by the OOM killer|oom-kill|Out of memory: Killed")
_BOGUS = "synapse.crypto.signing_key"
# "... - synapse.access.http.8008 - 460 - INFO - GET-12 - 203.0.113.7 - 8008 - {@alice:hs} Processed request: ...", as
# synapse/http/site.py of 1.163.2 has it.
_ACCESS = re.compile(r" - (\S+) - \S+ - \{(@\S+?)\} Processed request: ")
_LOCAL = re.compile(r"(?:::ffff:)?127\.|::1$")


def entries_of_journal(text: str) -> list[Entry]:
    """Read what ``journalctl --output short-unix`` says."""
    found: list[Entry] = []
    for line in text.splitlines():
        match = _ENTRY.match(line)
        if match is not None:
            found.append(Entry(match.group(3)[:_WIDTH], float(match.group(1))))
        elif found:
            # The further lines of one message are indented.
            found.append(Entry(line.strip()[:_WIDTH], found[-1].time))
    return found


def entries_of_log(text: str, end: float | None = None) -> list[Entry]:
    """Read a log of Synapse: a line without a time of its own belongs to the one before it. Times are local ones."""
    found: list[Entry] = []
    now: float | None = None
    for line in text.splitlines():
        match = _STAMP.match(line)
        if match is not None:
            year, month, day, hour, minute, second = (int(part) for part in match.groups())
            try:
                now = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
            except (OverflowError, ValueError):
                now = end
        found.append(Entry(line[:_WIDTH], now if now is not None else end))
    return found


def _starts(entries: Sequence[Entry]) -> list[int]:
    """Return where systemd starts the unit; "Started" is a start of its own where no "Starting" came before."""
    found = []
    pending = False
    for index, entry in enumerate(entries):
        if _STARTING.match(entry.text):
            found.append(index)
            pending = True
        elif _STARTED.match(entry.text):
            if not pending:
                found.append(index)
            pending = False
    return found


def _since_start(entries: list[Entry], starts: int = 1) -> list[Entry]:
    """Return what was said since the latest starts: of the unit in a journal, of Synapse in its log."""
    found = _starts(entries) or [i for i, entry in enumerate(entries) if _SERVER.search(entry.text)]
    return entries[found[-min(starts, len(found))] :] if found else entries


def _journal(context: Context, unit: str) -> list[Entry]:
    command = ["journalctl", "--no-pager", "--quiet", "--output", "short-unix", "--lines", _LINES]
    result = context.run([*command, *_logs.of_unit(unit)], timeout=context.left(6.0))
    return entries_of_journal(result.stdout) if result.rc == 0 else []


def _bogus(context: Context) -> str | None:
    """Return a line of today's journal about the module that never existed, whoever wrote it."""
    command = ["journalctl", "--no-pager", "--quiet", "--output", "cat", "--lines", "5", "--since", "-1d"]
    pattern = f"No module named .?{_BOGUS.replace('.', '[.]')}"
    result = context.run([*command, "--grep", pattern], timeout=context.left(2.0))
    lines = [line for line in result.stdout.splitlines() if _BOGUS in line] if result.rc == 0 else []
    return _logs.redact(lines[-1].strip())[:300] if lines else None


def log_paths(text: str, folder: str) -> list[str]:
    """Return the files that a logging configuration writes to; one without a folder is in the server's own."""
    names = ["".join(match).strip() for match in _FILENAME.findall(text)]
    # A damaged file may name what no path can be.
    return [os.path.normpath(os.path.join(folder, name)) for name in names if name and "\0" not in name]


def _paths(context: Context) -> tuple[str, ...]:
    found = list(context.request.log_files)
    unit = context.service.main if context.service is not None else None
    folder = unit.directory.lstrip("!") if unit is not None and unit.directory.startswith(("/", "!/")) else "/"
    config = context.settings.text("log_config") if context.settings is not None else None
    if config is not None:
        try:
            text = (context.read(os.path.join(folder, config)) or b"").decode("utf-8", "replace")
            found += log_paths(text, folder)
        except SynapseError:
            pass  # the configuration's own rules tell it
    return tuple(dict.fromkeys(found)) or tuple(path for path in _DEFAULTS if os.path.isfile(path))


def _rotated(path: str) -> str | None:
    """Return the log before this one, where this one has hardly begun."""
    try:
        folder, name = os.path.split(path)
        if os.path.getsize(path) > _SHORT:
            return None
        pattern = re.compile(re.escape(name) + r"\.(?:1|\d{4}-\d\d-\d\d)")
        older = [os.path.join(folder, one) for one in os.listdir(folder) if pattern.fullmatch(one)]
        return max(older, key=os.path.getmtime, default=None)
    except OSError:
        return None


def _log(path: str) -> list[Entry]:
    """Return the end of a log, together with the one before it."""
    found: list[Entry] = []
    for one in (_rotated(path), path):
        if one is None:
            continue
        try:
            end = os.stat(one).st_mtime
        except OSError:
            continue
        found += entries_of_log(_files.tail(one, _TAIL).decode("utf-8", "replace"), end)
    return found


def _text(entries: Sequence[Entry]) -> str:
    return "\n".join(entry.text for entry in entries)


def _decisive(journal: list[Entry], logs: list[list[Entry]]) -> str | None:
    """Return why a server that is down did not stay: of its journal, else of its log, which is to be as recent."""
    line = _logs.latest_words(_text(journal))
    if line is not None and not line.startswith("Main process exited"):
        return line
    latest = max((entry.time for entry in journal if entry.time), default=None)
    for log in logs:
        written = log[-1].time if log else None
        if written is not None and latest is not None and written < latest - 300:
            continue
        found = _logs.decisive_line(_text(_since_start(log)))
        if found is not None:
            return found
    return line


def access_address(entries: Sequence[Entry]) -> str | None:
    """Return the one loopback address that all of the latest requests of several users came from."""
    users, addresses, count = set(), set(), 0
    for entry in entries:
        match = _ACCESS.search(entry.text)
        if match is not None:
            addresses.add(match.group(1))
            users.add(match.group(2))
            count += 1
    if len(addresses) == 1 and len(users) >= 3 and count >= 50 and _LOCAL.match(min(addresses)):
        return min(addresses)
    return None


def _down(context: Context) -> bool | None:
    """Whether the server is down and did not stop on purpose; ``None`` for one that is stopped."""
    service = context.service
    unit = service.main if service is not None else None
    if service is None or unit is None:
        return not service.running if service is not None else True
    if unit.up:
        return False
    clean = unit.state.active == "inactive" and unit.state.result in ("success", "")
    return None if clean and not service.running else True


def _workers(context: Context) -> Iterator[tuple[str, str]]:
    units: Sequence[UnitSeen] = context.service.workers if context.service is not None else ()
    for unit in units[:20]:
        if not unit.up and unit.found:
            line = _logs.latest_words(_text(_journal(context, unit.name)))
            if line is not None:
                yield unit.name, line


def look(context: Context) -> Words:
    """Read the journal of the unit and the end of the logs; keep what counts of them."""
    service = context.service
    unit = service.main if service is not None else None
    journal = _journal(context, unit.name) if unit is not None else []
    files = _paths(context)
    logs = [_log(path) for path in files]
    down = _down(context)
    if unit is not None:
        # What was said before this row of starts is no word about it.
        journal = _since_start(journal, unit.state.restarts + 1)
    line = _decisive(journal, logs) if down else None
    start = None
    recurring: tuple[messages.Match, ...] = ()
    if down:
        latest = [*_since_start(journal), *(entry for log in logs for entry in _since_start(log))]
        start = messages.recognise(latest, line)
    elif down is False:
        since = next((one.started for one in service.running if one.started), None) if service is not None else None
        said = [entry for one in (journal, *logs) for entry in _since_start(one)]
        if since is not None:
            said = [entry for entry in said if entry.time is None or entry.time >= since - 5]
        recurring = messages.recurring(said, time.time())
    # A start that has just begun says nothing yet: then the one before it counts.
    killed = next((entry.text for entry in reversed(_since_start(journal, 2)) if _OOM.search(entry.text)), None)
    public = context.settings is not None and context.settings.text("public_baseurl") is not None
    return Words(
        line=line,
        start=start,
        recurring=recurring,
        killed=_logs.redact(killed)[:300] if killed is not None and down else None,
        bogus=_bogus(context) if service is not None and service.systemd else None,
        files=files,
        worker_lines=dict(_workers(context)),
        one_address=access_address([entry for log in logs for entry in log]) if public else None,
    )
