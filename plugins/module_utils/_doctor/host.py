# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that the server stands on: disks, clock, memory, files. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Host", "Space", "parse_numbers", "spaces_of"]

RULES = Rulebook("host")

_MEBI = 1024 * 1024
_FULL = _MEBI  # bytes; less than that is nothing, whatever it is for
_FULL_DATA = 16 * _MEBI  # what a schema and a transaction or two need
_LOW = 256 * _MEBI
_LOW_SHARE = 0.1
_INODES_FULL = 32
_INODES_LOW = 1000
_INODES_SHARE = 0.01
_MEMORY_LOW = 64 * _MEBI
_CLOCK = (
    600.0  # seconds; servers that are further apart than that refuse each other's certificates and keys sooner or later
)
# What keeps the server from serving where it is full, the gravest first.
_VITAL = ("database", "data")


@dataclass(frozen=True)
class Space:
    """A file system. ``uses`` is what this server has there, ``path`` one of these places. Sizes are in bytes.

    ``free`` is what others than root may use. ``hangs``: it did not answer.
    """

    uses: tuple[str, ...]
    path: str
    device: int = 0
    total: int = 0
    free: int = 0
    inodes: int = 0
    free_inodes: int = 0
    read_only: bool = False
    hangs: bool = False

    @property
    def vital(self) -> bool:
        """Whether the database or the service's own folder is there."""
        return any(use in self.uses for use in _VITAL)

    @property
    def what(self) -> str:
        """What is there, in a sentence."""
        return " and ".join(self.uses) or "files"


def spaces_of(found: Iterable[Space]) -> tuple[Space, ...]:
    """Put together what lies on the same file system."""
    by_device: dict[tuple[object, ...], list[Space]] = {}
    for space in found:
        same_one = (space.path,) if space.hangs else (space.device, space.total, space.read_only)
        by_device.setdefault(same_one, []).append(space)
    return tuple(
        Space(
            tuple(dict.fromkeys(use for one in same for use in one.uses)),
            same[0].path,
            same[0].device,
            same[0].total,
            same[0].free,
            same[0].inodes,
            same[0].free_inodes,
            same[0].read_only,
            same[0].hangs,
        )
        for same in by_device.values()
    )


def parse_numbers(text: str) -> dict[str, int]:
    """Read ``NAME: NUMBER kB`` or ``NAME NUMBER`` lines (/proc/meminfo, files of cgroups); kB become bytes."""
    found = {}
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0]] = int(words[1]) * (1024 if words[2:3] == ["kB"] else 1)
    return found


@dataclass(frozen=True)
class Host:
    """What was seen. What is ``None`` was not.

    ``memory`` is /proc/meminfo in bytes; ``limit`` and ``used`` are what the container of this host may use and uses.
    ``newest`` is the latest time that the server itself wrote a file, with its path; ``synchronised``: what the kernel
    says of its clock. ``files``: file handles in use and allowed.
    """

    spaces: tuple[Space, ...] = ()
    memory: Mapping[str, int] | None = None
    limit: int | None = None
    used: int | None = None
    container: bool = False
    newest: tuple[float, str] | None = None
    synchronised: bool | None = None
    files: tuple[int, int] | None = None
    processes: tuple[int, int] | None = None
    temporary_mode: int | None = None
    localhost: tuple[str, ...] | None = None


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _spaces(seen: Seen) -> Iterator[Space]:
    for space in seen.host.spaces if seen.host is not None else ():
        if not space.hangs:
            yield space


def _full(space: Space) -> bool:
    return not space.read_only and space.free < (_FULL_DATA if space.vital else _FULL)


def _full_clue(space: Space) -> Clue:
    return Clue(
        f"The disk of the {space.what} is full: {_size(space.free)} is all the space left on the file system of "
        f"{space.path}.",
        f"{_size(space.free)} free of {_size(space.total)}",
        severity="critical" if space.vital else None,
    )


@RULES.rule(
    "file_system_hangs",
    severity="critical",
    cause="The server or the network of a network file system (NFS, CIFS, Ceph) is gone, or a disk fails.",
    remedy="Look at dmesg and at the storage; do not restart Synapse before it answers again.",
    stops=True,
    explains=("doctor.unseen",),
)
def _hangs(seen: Seen) -> Iterable[Clue]:
    """A file system does not answer."""
    for space in seen.host.spaces if seen.host is not None else ():
        if space.hangs:
            yield Clue(f"The file system of {space.path} ({space.what}) does not answer.", space.path)


@RULES.rule(
    "disk_full",
    severity="error",
    cause="The database, the media or the logs have grown, or another program has filled the file system.",
    remedy="du -xh --max-depth=2 MOUNTPOINT | sort -h | tail shows what takes the space. Free it outside of Synapse's "
    "data: "
    "old logs, packages, backups elsewhere; or make the volume larger. Never remove media, -wal or pg_wal files by "
    "hand, "
    "nor a log that is open: truncate it (: > FILE) after compressing a copy.",
    stops=True,
    explains=("database.full", "database.readonly", "database.file_unusable", "database.unreachable"),
)
def _disk_full(seen: Seen) -> Iterable[Clue]:
    """A file system that the server writes to has no space left."""
    for space in _spaces(seen):
        if _full(space) and space.vital:
            yield _full_clue(space)


@RULES.rule(
    "logs_full",
    severity="error",
    cause="Logs are not rotated, or something else has filled the file system.",
    remedy="Compress or move old logs: ls -lS FOLDER. Do not rm the log that is open; truncate it (: > FILE) after "
    "copying. "
    "Then set rotation in the log configuration.",
    explains=("words.*",),
)
def _other_full(seen: Seen) -> Iterable[Clue]:
    """A file system of the logs, the media or other parts has no space left (ENOSPC)."""
    for space in _spaces(seen):
        if _full(space) and not space.vital:
            yield _full_clue(space)


@RULES.rule(
    "disk_low",
    severity="warning",
    cause="The database, the media or the logs have grown, or another program has filled the file system.",
    remedy="Make room, or make the volume larger, before it is full: du -xh --max-depth=2 MOUNTPOINT | sort -h | tail",
)
def _disk_low(seen: Seen) -> Iterable[Clue]:
    """A file system that the server writes to is nearly full."""
    for space in _spaces(seen):
        if not _full(space) and not space.read_only and space.free < min(_LOW, space.total * _LOW_SHARE):
            yield Clue(
                f"The disk of the {space.what} is nearly full: {_size(space.free)} are left on the file system of "
                f"{space.path}.",
                f"{_size(space.free)} free of {_size(space.total)}",
            )


@RULES.rule(
    "inodes",
    severity="warning",
    cause="Very many small files: thumbnails, caches, sessions, mail queues. A file system without free inodes "
    "refuses new "
    "files with 'No space left on device' while df shows free space.",
    remedy="df -i; then find the folder with the most files: du -x --inodes -d 3 MOUNTPOINT | sort -n | tail",
    explains=("database.full", "database.file_unusable", "words.*"),
)
def _inodes(seen: Seen) -> Iterable[Clue]:
    """A file system has no inodes left for new files."""
    for space in _spaces(seen):
        if space.read_only or not space.inodes:
            continue
        none = space.free_inodes < min(_INODES_FULL, space.inodes / 2)
        if none or space.free_inodes < min(_INODES_LOW, space.inodes * _INODES_SHARE):
            yield Clue(
                f"The file system of {space.path} ({space.what}) has {'no' if none else 'few'} inodes left: new files "
                f"{'fail' if none else 'will fail'} with 'No space left on device', as if the disk were full.",
                f"{space.free_inodes} inodes free of {space.inodes}",
                severity=("critical" if space.vital else "error") if none else None,
            )


@RULES.rule(
    "read_only",
    severity="critical",
    cause="The kernel mounts a file system read-only when its disk has failed (errors=remount-ro); or somebody "
    "mounted it "
    "so.",
    remedy="Look at dmesg for errors of the disk first, and make a backup. Then: mount -o remount,rw MOUNTPOINT, "
    "after an "
    "fsck where there were errors.",
    stops=True,
    explains=("database.readonly", "database.file_unusable", "access.*"),
)
def _read_only(seen: Seen) -> Iterable[Clue]:
    """A file system that the server writes to is mounted read-only."""
    for space in _spaces(seen):
        if space.read_only and any(use in ("database", "data", "media", "logs") for use in space.uses):
            yield Clue(f"The file system of {space.path} ({space.what}) is mounted read-only.", space.path)


@RULES.rule(
    "clock",
    severity="error",
    cause="The clock was set back, or has stood still: a virtual machine that was paused, a dead battery, no time "
    "server. "
    "Tokens, certificates, retries and the order of events depend on it.",
    remedy="timedatectl set-ntp true (or install chrony), and look at: timedatectl status. Restart Synapse afterwards.",
)
def _clock(seen: Seen) -> Iterable[Clue]:
    """The clock of the host is behind."""
    newest = seen.host.newest if seen.host is not None else None
    if newest is not None and newest[0] > seen.now + _CLOCK:
        yield Clue(
            "The clock of the host is behind: the server has written a file that lies in the future.",
            f"{newest[1]} is {int((newest[0] - seen.now) / 60)} minutes ahead of the clock",
        )


@RULES.rule(
    "clock_unsynchronised",
    severity="info",
    cause="No program keeps the clock right (systemd-timesyncd, chrony, ntpd), or it has not reached a time server "
    "yet.",
    remedy="timedatectl set-ntp true, or install chrony",
)
def _unsynchronised(seen: Seen) -> Iterable[Clue]:
    """The clock of the host is not synchronised."""
    if seen.host is not None and seen.host.synchronised is False and not seen.host.container:
        yield Clue("The clock of the host is not synchronised with a time server.", "adjtimex says STA_UNSYNC")


@RULES.rule(
    "memory",
    severity="warning",
    cause="Synapse with its caches, the database and the other programs need more than there is; the kernel then "
    "kills the "
    "largest.",
    remedy="Lower caches.global_factor, add memory or swap; ps -eo rss,cmd --sort -rss | head shows what takes it.",
)
def _memory(seen: Seen) -> Iterable[Clue]:
    """The host has nearly no memory left."""
    host = seen.host
    if host is None:
        return
    if host.limit is not None and host.used is not None and host.used > 0.97 * host.limit:
        yield Clue(
            f"The memory of this container is used up: {_size(host.used)} of {_size(host.limit)}.", "memory.current"
        )
    memory = host.memory or {}
    available, swap = memory.get("MemAvailable"), memory.get("SwapFree", 0)
    if available is not None and available + swap < _MEMORY_LOW:
        yield Clue(
            f"The host has nearly no memory left: {_size(available)} available.",
            f"MemAvailable {_size(available)}, SwapFree {_size(swap)}",
        )


@RULES.rule(
    "limits",
    severity="warning",
    cause="A program leaks file handles or processes, or the limit is too low for what runs here.",
    remedy="sysctl fs.file-max, sysctl kernel.pid_max; lsof | awk '{print $1}' | sort | uniq -c | sort -n | tail "
    "shows who "
    "has the most.",
)
def _limits(seen: Seen) -> Iterable[Clue]:
    """The host has nearly no file handles or processes left."""
    if seen.host is None:
        return
    for what, pair in (("file handles", seen.host.files), ("processes", seen.host.processes)):
        if pair is not None and pair[1] > 0 and pair[0] > 0.95 * pair[1]:
            yield Clue(f"The host has nearly no {what} left.", f"{pair[0]} of {pair[1]} are in use")


@RULES.rule(
    "temporary_folder",
    severity="warning",
    cause="Somebody changed the mode of /tmp; programs that are not root cannot make files there then.",
    remedy="chmod 1777 /tmp",
)
def _temporary(seen: Seen) -> Iterable[Clue]:
    """The folder for temporary files is not for everybody."""
    mode = seen.host.temporary_mode if seen.host is not None else None
    if mode is not None and mode & 0o1777 != 0o1777:
        yield Clue(f"The folder /tmp has the mode {mode:04o} instead of 1777.", f"{mode:04o}")


@RULES.rule(
    "localhost",
    severity="error",
    cause="/etc/hosts lacks the line of localhost, and nothing else knows the name. Redis, workers, the database and "
    "the "
    "proxy are often reached by it.",
    remedy="Write into /etc/hosts: 127.0.0.1 localhost",
    explains=("database.unknown_host",),
)
def _localhost(seen: Seen) -> Iterable[Clue]:
    """The name localhost does not lead to this host."""
    addresses = seen.host.localhost if seen.host is not None else None
    if addresses is None:
        return
    wrong = [one for one in addresses if not one.startswith("127.") and one != "::1"]
    if wrong or not addresses:
        yield Clue("The name localhost does not lead to this host.", ", ".join(wrong) or "it cannot be resolved")
