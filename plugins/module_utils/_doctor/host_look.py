# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at disks, clock, memory and files of the host. A file system that does not answer holds nothing else up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import stat
import threading
import time
import typing as t
from functools import partial

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.host import (
    Host,
    Space,
    parse_numbers,
    spaces_of,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["log_files", "look", "places"]

_PATIENCE = 3.0  # seconds for all file systems together
_SMALL = 64 * 1024
_LOG_CONFIG = 256 * 1024
_UNSYNCHRONISED = 0x40  # STA_UNSYNC of linux/timex.h
_TIMEX = 512  # bytes, more than struct timex has anywhere
_STATUS = 40  # where its field status begins on 64 bits: modes, offset, freq, maxerror, esterror come before
_FILENAME = re.compile(r"""\bfilename["']?[ \t]*:[ \t]*["']?([^"',}#\n]+)""")


def log_files(context: Context) -> tuple[str, ...]:
    """Return the log files that the request and the log configuration name."""
    found = list(context.request.log_files)
    path = context.settings.text("log_config") if context.settings is not None else None
    if path is not None and path.startswith("/"):
        with contextlib.suppress(SynapseError):
            text = (_files.read(path, limit=_LOG_CONFIG) or b"").decode("utf-8", "replace")
            found += [name.strip() for name in _FILENAME.findall(text) if name.startswith("/") and "\0" not in name]
    return tuple(dict.fromkeys(found))


def places(context: Context) -> Iterator[tuple[str, str]]:
    """Return what this server has where."""
    settings, request = context.settings, context.request
    if settings is not None:
        database = settings.text("database", "args", "database") if settings.engine == "sqlite3" else None
        if database is not None and database.startswith("/"):
            yield "database", os.path.dirname(os.path.realpath(database))
        if settings.engine == "psycopg2" and os.path.isdir("/var/lib/postgresql"):
            yield "database", "/var/lib/postgresql"
        media = settings.text("media_store_path")
        if media is not None and media.startswith("/"):
            yield "media", media
        pid_file = settings.text("pid_file")
        if pid_file is not None and pid_file.startswith("/") and not pid_file.startswith("/run/"):
            yield "data", os.path.dirname(pid_file)
    for path in log_files(context):
        yield "logs", os.path.dirname(path)
    if os.path.isdir("/var/lib/synapse"):
        yield "data", "/var/lib/synapse"
    releases = request.releases_path or os.path.join(os.path.dirname(context.environment), "releases")
    if os.path.isdir(releases):
        yield "releases", releases
    yield "temporary files", "/tmp"  # noqa: S108 - looked at, not written to


def _space(use: str, path: str) -> Space | None:
    while path != "/" and not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        status = os.statvfs(path)
        device = os.stat(path).st_dev
    except OSError:
        return None
    unit = status.f_frsize
    return Space(
        (use,),
        path,
        device,
        status.f_blocks * unit,
        status.f_bavail * unit,
        status.f_files,
        status.f_favail,
        bool(status.f_flag & os.ST_RDONLY),
    )


def _patiently(work: Callable[[], t.Any], until: float) -> tuple[bool, t.Any]:
    """Do something that may hang; return whether it ended in time, and what came of it."""
    results: list[t.Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(max(until - time.monotonic(), 0.05))
    return bool(results), results[0] if results else None


def _spaces(context: Context) -> tuple[Space, ...]:
    until = time.monotonic() + _PATIENCE
    ended, listed = _patiently(lambda: list(places(context)), until)
    found = []
    for use, path in dict.fromkeys(listed if ended else ()):
        answered, space = _patiently(partial(_space, use, path), until)
        if not answered:
            found.append(Space((use,), path, hangs=True))
        elif space is not None:
            found.append(space)
    return spaces_of(found)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_SMALL)
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _container() -> bool:
    """Whether this is a container (systemd-detect-virt(1) looks at the same)."""
    return (
        bool(_text("/run/systemd/container")) or os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")
    )


def _synchronised() -> bool | None:
    """Return what the kernel says of its clock; only asked, nothing is set (adjtimex(2))."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    buffer = ctypes.create_string_buffer(_TIMEX)
    try:
        if ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    status = int.from_bytes(buffer.raw[_STATUS : _STATUS + 4], "little")
    return not status & _UNSYNCHRONISED


def _newest(context: Context) -> tuple[float, str] | None:
    """Return the latest time at which the server wrote its log or its database."""
    found = []
    database = context.settings.text("database", "args", "database") if context.settings is not None else None
    for path in (*log_files(context), *([database] if database is not None and database.startswith("/") else [])):
        with contextlib.suppress(OSError):
            found.append((os.stat(path).st_mtime, path))
    return max(found, default=None)


def _pair(text: str, first: int, second: int) -> tuple[int, int] | None:
    words = text.split()
    if len(words) > max(first, second) and words[first].isdigit() and words[second].isdigit():
        return int(words[first]), int(words[second])
    return None


def _localhost() -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo("localhost", None, proto=socket.IPPROTO_TCP)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def look(context: Context) -> Host:
    """Look; nothing is set, and nothing is waited for for long."""
    temporary = None
    with contextlib.suppress(OSError):
        temporary = stat.S_IMODE(os.stat("/tmp").st_mode)  # noqa: S108 - looked at, not written to
    used = _number("/sys/fs/cgroup/memory.current")
    cached = parse_numbers(_text("/sys/fs/cgroup/memory.stat")).get("inactive_file", 0)
    processes = _number("/sys/fs/cgroup/pids.current"), _number("/sys/fs/cgroup/pids.max")
    resolved, addresses = _patiently(_localhost, time.monotonic() + _PATIENCE)
    return Host(
        _spaces(context),
        parse_numbers(_text("/proc/meminfo")) or None,
        _number("/sys/fs/cgroup/memory.max"),
        None if used is None else max(used - cached, 0),
        _container(),
        _patiently(lambda: _newest(context), time.monotonic() + _PATIENCE)[1],
        _synchronised(),
        _pair(_text("/proc/sys/fs/file-nr"), 0, 2),
        (processes[0], processes[1]) if processes[0] is not None and processes[1] is not None else None,
        temporary,
        addresses if resolved else None,
    )
