# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the processes of this host, as /proc tells of them. Changes nothing. No Ansible."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _daemon
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._daemon import Process

__all__ = ["listens", "process", "processes", "sockets", "text"]


def text(path: str) -> str:
    """Return a file of /proc; nothing where the process is gone, or is somebody else's."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def process(pid: int) -> Process | None:
    """Return the living process with this id; a zombie does not live."""
    facts = _daemon.parse_stat(text(f"/proc/{pid}/stat"))
    if facts is None or facts[0] in {"Z", "X", "x"}:
        return None
    return Process(pid, tuple(text(f"/proc/{pid}/cmdline").split("\0")[:-1]), facts[1])


def _is_here(name: str, own: os.stat_result) -> bool:
    """Whether a process is in this pid namespace."""
    try:
        status = os.stat(f"/proc/{name}/ns/pid")
    except PermissionError:
        # Root without CAP_SYS_PTRACE, as in many containers: of a process elsewhere the line has more than one number.
        line = re.search(r"^NSpid:(.*)$", text(f"/proc/{name}/status"), re.MULTILINE)
        return line is not None and len(line.group(1).split()) == 1
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino)


def processes() -> t.Iterator[Process]:
    """Return all other living processes of this pid namespace: those of containers are none of our business."""
    own = os.stat("/proc/self/ns/pid")
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        if "synapse" not in text(f"/proc/{name}/cmdline"):
            continue
        found = process(int(name))
        if found is not None and _is_here(name, own):
            yield found


def sockets(pid: int | str) -> frozenset[str]:
    """Return the inodes of the sockets that a process has open, as far as this process may see them."""
    found = set()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return frozenset()
    for name in names:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:  # closed since
            continue
        if link.startswith("socket:["):
            found.add(link[8:-1])
    return frozenset(found)


def listens(known: Process) -> bool:
    """Whether the process accepts connections on any socket."""
    base = f"/proc/{known.pid}"
    inodes = _daemon.listening(text(f"{base}/net/tcp") + "\n" + text(f"{base}/net/tcp6"), text(f"{base}/net/unix"))
    return bool(sockets(known.pid) & inodes)
