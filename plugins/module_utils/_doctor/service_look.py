# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: what starts and watches the server: unit, process, limits. Runs first, and alone: it has to be quick."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import time
import typing as t
from dataclasses import replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import (
    _daemon,
    _files,
    _health_observe,
    _logs,
    _processes,
    _service,
    _units,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_files import expand
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import manager
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Path, Running, Service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.manager import UnitSeen

__all__ = ["look", "paths_of"]

_LARGEST = 256 * 1024  # bytes of a unit file
_MANAGED = "# Managed by Ansible (matrix_fleet.synapse)."
_APP = "synapse.app.homeserver"
_CHECKS = frozenset({"--generate-keys", "--generate-config", "--help", "-h"})
_LIBRARY = re.compile(r" (/\S.*/site-packages)/synapse/[^/]*\.so( \(deleted\))?$", re.MULTILINE)
_ACL = "system.posix_acl_access"


def _text(path: str) -> str:
    try:
        return (_files.read(path, limit=_LARGEST) or b"").decode("utf-8", "replace")
    except SynapseError:
        return ""


# Units


def _show(context: Context, names: Sequence[str]) -> dict[str, UnitSeen] | None:
    """Ask systemd about units; ``None`` where there is no systemd to ask."""
    result = context.run(["systemctl", "show", "--property", manager.PROPERTIES, "--", *names], timeout=context.left(5))
    if result.rc != 0:
        return None
    blocks = re.split(r"\n\s*\n", result.stdout.strip())
    return {name: _with_files(manager.parse(name, block)) for name, block in zip(names, blocks)}


def _with_files(unit: UnitSeen) -> UnitSeen:
    """Add what the unit's files say."""
    texts = [(path, _text(path)) for path in (unit.fragment, *unit.drop_ins) if path]
    options = tuple(option for path, text in texts for option in manager.options_of(path, text))
    managed = bool(texts) and texts[0][1].startswith(_MANAGED)
    since = unit.state.active_since
    age = time.monotonic() - since if unit.up and since is not None else None
    return replace(unit, options=options, managed=managed, age=age)


def _names(request_units: Iterable[str | None]) -> list[str]:
    """Return the full names of units; what is no name cannot be asked about."""
    found = []
    for name in request_units:
        if name:
            try:
                found.append(_service.full_name(name))
            except SynapseError:
                continue
    return list(dict.fromkeys(found))


def _candidates(configs: Sequence[str]) -> list[str]:
    """Return the units that start this homeserver, or else any: where the unit that was named does not exist."""
    exact, other = [], []
    for name, file in sorted(_units.files_of(_units.PLACES).items()):
        if "@." in name:
            continue
        text = _text(file)
        if any(_units.serves(text, config) for config in configs):
            exact.append(name)
        elif re.search(r"(?m)^\s*ExecStart\s*=.*(?:synapse\.app\.homeserver|/synapse_homeserver\b|/synctl\b)", text):
            other.append(name)
    return exact or other


def _other_unit(context: Context) -> UnitSeen | None:
    """Return the unit that starts the server under another name, if there is just one that can be meant."""
    names = _candidates(context.request.config_paths)
    found = list((_show(context, names) or {}).values()) if names else []
    running = [unit for unit in found if unit.up or unit.starting]
    chosen = running or [unit for unit in found if unit.file_state.startswith("enabled")] or found
    return chosen[0] if len(chosen) == 1 else None


# Processes


def _started(ticks: int) -> float | None:
    """Return when a process started, in seconds since 1970."""
    match = re.search(r"^btime (\d+)$", _processes.text("/proc/stat"), re.MULTILINE)
    return int(match.group(1)) + ticks / os.sysconf("SC_CLK_TCK") if match else None


def _limit(pid: int) -> int | None:
    match = re.search(r"^Max open files\s+(\d+)", _processes.text(f"/proc/{pid}/limits"), re.MULTILINE)
    return int(match.group(1)) if match else None


def _open_files(pid: int) -> int | None:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def _unit_of(pid: int) -> str:
    """Return the unit in whose control group a process is."""
    for line in _processes.text(f"/proc/{pid}/cgroup").splitlines():
        parts = [part for part in line.rpartition(":")[2].split("/") if part.endswith((".service", ".scope"))]
        if parts:
            return parts[-1]
    return ""


def _running(process: _daemon.Process) -> Running:
    """Return what is to be known of a process."""
    pid = process.pid
    status = _processes.text(f"/proc/{pid}/status")
    uid = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    library = _LIBRARY.search(_processes.text(f"/proc/{pid}/maps"))
    try:
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        program = ""
    return Running(
        pid=pid,
        argv=tuple(_logs.redact(" ".join(process.argv)).split()),
        uid=int(uid.group(1)) if uid else None,
        started=_started(process.started),
        unit=_unit_of(pid),
        open_files=_open_files(pid),
        files_limit=_limit(pid),
        packages=library.group(1) if library else None,
        gone=bool(library and library.group(2)) or program.endswith(" (deleted)"),
    )


def _serves(process: _daemon.Process, configs: Sequence[str]) -> bool:
    """Whether a process is a main one that reads any of these files; a relative name is one in its own folder."""
    named = _daemon.configs_of(process.argv)
    if _CHECKS & set(process.argv) or not named or not _daemon.is_ours(process.argv, _APP, named, named=False):
        return False
    try:
        folder = os.readlink(f"/proc/{process.pid}/cwd")
    except OSError:
        folder = "/"
    return not {os.path.normpath(os.path.join(folder, one)) for one in named}.isdisjoint(map(os.path.normpath, configs))


def _processes_of(configs: Sequence[str]) -> tuple[Running, ...]:
    """Return the main processes that serve this configuration."""
    try:
        found = [_running(process) for process in _processes.processes() if _serves(process, configs)]
    except OSError:  # no /proc
        return ()
    return tuple(sorted(found, key=lambda one: one.pid))


# Files


def _identity(unit: UnitSeen) -> tuple[int, frozenset[int]] | None:
    """Return uid and groups that the unit's process gets, ``None`` where the host does not know them."""
    try:
        entry = pwd.getpwuid(int(unit.user)) if unit.user.isdecimal() else pwd.getpwnam(unit.user or "root")
        group = entry.pw_gid
        if unit.group:
            group = int(unit.group) if unit.group.isdecimal() else grp.getgrnam(unit.group).gr_gid
        return entry.pw_uid, frozenset({group, *os.getgrouplist(entry.pw_name, entry.pw_gid)})
    except (KeyError, OverflowError, ValueError):
        return None


def _allowed(path: str, bit: int, who: tuple[int, frozenset[int]]) -> bool:
    """Whether modes let somebody use a path for one thing (4 read, 2 write, 1 execute). Raises ``OSError``."""
    status = os.stat(path)
    if who[0] == 0:
        return bit != 1 or stat.S_ISDIR(status.st_mode) or bool(status.st_mode & 0o111)
    try:
        if _ACL in os.listxattr(path):
            return True  # more than the mode decides; the kernel's own words will tell
    except OSError:
        pass
    if status.st_uid == who[0]:
        return bool(status.st_mode & bit << 6)
    return bool(status.st_mode & (bit << 3 if status.st_gid in who[1] else bit))


def _parents(path: str) -> Iterator[str]:
    """Return the folders above a path and above what it leads to, from the root on."""
    seen = set()
    for one in (path, os.path.realpath(path)):
        above = os.path.dirname(one)
        folders = []
        while above not in ("/", ""):
            folders.append(above)
            above = os.path.dirname(above)
        for folder in reversed(folders):
            if folder not in seen:
                seen.add(folder)
                yield folder


def _blocked(path: str, bit: int, who: tuple[int, frozenset[int]] | None) -> str | None:
    """Return the first thing on the way to a path, or itself, that keeps somebody from it."""
    if who is None:
        return None
    try:
        for folder in _parents(path):
            if not _allowed(folder, 1, who):
                return folder
        return None if _allowed(path, bit, who) else path
    except OSError:
        return None


def _shebang(path: str) -> str | None:
    """Return the interpreter that a script names, where that does not exist."""
    try:
        with open(path, "rb") as stream:
            first = stream.read(256).split(b"\n", 1)[0]
    except OSError:
        return None
    words = first[2:].split()
    if not first.startswith(b"#!") or not words:
        return None
    interpreter = words[0].decode("utf-8", "replace")
    return None if os.path.exists(interpreter) else interpreter


def _no_exec(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def _looked_at(path: str) -> tuple[str, os.stat_result | None]:
    """Return what is wrong with a path as such, and its status."""
    try:
        return "", os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            return f"it is a link to {os.readlink(path)}, which does not exist", None
        return "it does not exist", None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return "its file system is not connected", None
        return (error.strerror or "it cannot be looked at").lower(), None


def _program(path: str, who: tuple[int, frozenset[int]] | None) -> Path:
    """Look at a program that a unit is to start."""
    problem, status = _looked_at(path)
    if status is None:
        return Path("program", path, problem)
    if not stat.S_ISREG(status.st_mode):
        return Path("program", path, "it is no file")
    if not status.st_mode & 0o111:
        return Path("program", path, "it is not executable")
    if _no_exec(path):
        return Path("program", path, "its file system is mounted noexec")
    if stat.S_ISREG(status.st_mode):
        interpreter = _shebang(path)
        if interpreter is not None:
            return Path("program", path, f"its first line names {interpreter}, which does not exist")
    blocked = _blocked(path, 1, who)
    return Path("program", path, "" if blocked is None else "denied", blocked)


def _mounts() -> tuple[str, ...]:
    """Return the places of fstab at which nothing is mounted."""
    found = []
    for line in _text("/etc/fstab").splitlines():
        words = line.split()
        if len(words) > 3 and not line.lstrip().startswith("#") and words[1].startswith("/"):
            place = words[1].rstrip("/")
            if place and words[2] != "swap" and not os.path.ismount(place):
                found.append(place)
    return tuple(found)


def paths_of(unit: UnitSeen) -> tuple[Path, ...]:
    """Look at every path that the unit needs before Synapse begins; only what is wrong is returned."""
    if unit.root:
        return ()  # its paths are in another tree
    who = _identity(unit)
    found = [_program(command.path, who) for command in (*unit.before, *unit.commands) if command.path.startswith("/")]
    directory = unit.directory
    if directory.startswith("/"):
        problem, status = _looked_at(directory)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            problem = "it is no folder"
        blocked = None if problem else _blocked(directory, 1, who)
        found.append(Path("directory", directory, problem or ("denied" if blocked else ""), blocked))
    for path, optional in unit.environment_files:
        if not optional and not re.search(r"[*?\[]", path):
            found.append(Path("environment", path, _looked_at(path)[0]))
    for path in (*unit.writable, *unit.read_only, *unit.hidden):
        plain = path.lstrip("+")
        if plain.startswith("/") and not _within_given(unit, plain):
            found.append(Path("namespace", plain, _looked_at(plain)[0]))
    found += [Path("preload", path, _looked_at(path)[0]) for path in unit.preload if path.startswith("/")]
    return tuple(path for path in dict.fromkeys(found) if path.problem)


def _within_given(unit: UnitSeen, path: str) -> bool:
    """Whether systemd itself makes the path (RuntimeDirectory and the like)."""
    return any(path == given or path.startswith(f"{given}/") for given in unit.bound)


def _account_problem(unit: UnitSeen) -> str:
    """Say which account of the unit the host does not know."""
    if unit.dynamic_user:
        return ""
    try:
        if unit.user and not unit.user.isdecimal():
            pwd.getpwnam(unit.user)
    except KeyError:
        return f"User={unit.user}"
    try:
        if unit.group and not unit.group.isdecimal():
            grp.getgrnam(unit.group)
    except KeyError:
        return f"Group={unit.group}"
    return ""


def _changed(paths: Iterable[str]) -> float | None:
    """Return when the latest of these files was changed."""
    times = []
    for path in paths:
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def _user(unit: UnitSeen | None, running: Sequence[Running]) -> str | None:
    if unit is not None and unit.found and unit.user:
        return unit.user
    uid = next((one.uid for one in running if one.uid is not None), None)
    if uid is None:
        return "root" if unit is not None and unit.found and unit.commands else None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def look(context: Context) -> Service:
    """Ask systemd once, and look at the processes that serve this configuration."""
    request = context.request
    main, workers = _names([request.unit]), _names(request.worker_units)
    shown = _show(context, [*main, *workers]) if main or workers else None
    unit = shown[main[0]] if shown and main and main[0] in shown else None
    renamed = None
    if unit is not None and not unit.found:
        renamed = _other_unit(context)
    configs = list(expand(request.config_paths))
    running = _processes_of(request.config_paths)
    judged = renamed or unit
    release = os.path.realpath(context.environment)
    return Service(
        user=_user(judged, running),
        unit=judged.name if judged is not None and judged.found else None,
        asked=main[0] if main else None,
        seen=judged,
        systemd=shown is not None,
        workers=tuple(shown[name] for name in workers if name in shown) if shown else (),
        running=running,
        paths=paths_of(judged) if judged is not None and judged.found else (),
        unknown_account=_account_problem(judged) if judged is not None else "",
        unmounted=_mounts(),
        config_changed=_changed(configs),
        environment=release if os.path.isdir(release) else None,
        daemon=_health_observe.observe_process(request.pid_file) if request.pid_file else None,
        missing=tuple(_unmet(judged)) if judged is not None else (),
    )


def _unmet(unit: UnitSeen) -> Iterator[manager.Option]:
    """Return the conditions and assertions about paths that do not hold now."""
    for option in unit.options:
        if not re.match(r"(?:Assert|Condition)Path(?:Exists|IsDirectory|IsMountPoint)$|\w+FileNotEmpty$", option.key):
            continue
        path = option.value.lstrip("|!")
        if not path.startswith("/"):
            continue
        holds = {"IsMountPoint": os.path.ismount, "IsDirectory": os.path.isdir}.get(
            re.sub(r"^(?:Assert|Condition)(?:Path|File)", "", option.key), os.path.exists
        )(path)
        if holds == ("!" in option.value[:2]):
            yield option
