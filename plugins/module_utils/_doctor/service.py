# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What starts and watches the server: unit, process, limits. Pure."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.manager import STEPS, ended

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.manager import Option, UnitSeen
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health import Process

__all__ = ["RULES", "Path", "Running", "Service"]

RULES = Rulebook("service")

_FEW_FILES = 1024  # what Linux gives as a soft limit, and Synapse alone needs for its libraries, clients and servers
_SMALL = 256 * 1024 * 1024  # bytes; Synapse 1.163.2 takes 115 MB before it has begun
_LOOP = 3
_PROTECTED = {"strict": ("/",), "full": ("/usr", "/boot", "/efi", "/etc"), "yes": ("/usr", "/boot", "/efi")}
_HOMES = ("/home", "/root", "/run/user")
# What is only silence; who else answers there is a cause of its own.
_SILENCE = ("answers.refused", "answers.silent", "answers.unhealthy", "answers.key", "answers.other_server")
_EVERYTHING = ("service.failed", "service.loop", "service.stopped", "service.starting", "service.drop_in")


@dataclass(frozen=True)
class Path:
    """A path that a unit needs before Synapse begins. ``blocked`` is what keeps the unit's account from it.

    ``kind``: ``program``, ``directory``, ``environment`` (EnvironmentFile), ``namespace`` (ReadWritePaths and the
    like) or ``preload`` (LD_PRELOAD).
    """

    kind: str
    path: str
    problem: str = ""
    blocked: str | None = None


@dataclass(frozen=True)
class Running:
    """A main process of Synapse that serves this configuration. ``unit`` is where systemd counts it in.

    ``packages`` is the folder of libraries that it has loaded, ``gone`` says that these files exist no more.
    """

    pid: int
    argv: tuple[str, ...] = ()
    uid: int | None = None
    started: float | None = None
    unit: str = ""
    open_files: int | None = None
    files_limit: int | None = None
    packages: str | None = None
    gone: bool = False


@dataclass(frozen=True)
class Service:
    """What was seen. ``user`` is whom the unit, or else the running process, runs the server as.

    ``asked`` is the unit that was named, ``unit`` the one that starts the server, ``seen`` what systemd says of it.
    ``missing`` are conditions of its file that do not hold; ``unmounted`` places of fstab where nothing is mounted.
    """

    user: str | None = None
    unit: str | None = None
    asked: str | None = None
    seen: UnitSeen | None = None
    systemd: bool = False
    workers: tuple[UnitSeen, ...] = ()
    running: tuple[Running, ...] = ()
    paths: tuple[Path, ...] = ()
    unknown_account: str = ""
    unmounted: tuple[str, ...] = ()
    config_changed: float | None = None
    environment: str | None = None
    daemon: Process | None = None
    missing: tuple[Option, ...] = ()

    @property
    def main(self) -> UnitSeen | None:
        """The unit, where systemd has it and can use it."""
        return self.seen if self.seen is not None and self.seen.state.load == "loaded" else None

    @property
    def strays(self) -> tuple[Running, ...]:
        """The processes that serve the configuration beside the unit's own."""
        if self.seen is None or not self.seen.found:
            return ()
        own = self.seen.state.pid
        return tuple(one for one in self.running if one.pid != own and not (own and one.unit == self.seen.name))


def _main(seen: Seen) -> UnitSeen | None:
    return seen.service.main if seen.service is not None else None


def _grave(unit: UnitSeen, severity: str = "error") -> str:
    """What is critical where the server is down is less so while it still runs."""
    return severity if unit.up else "critical"


def _repaired(clue: Clue, unit: UnitSeen, *keys: str) -> Clue:
    """Let the unit be written anew where a file of the collection is what is wrong."""
    return replace(clue, repair="config", safe=True) if unit.ours(*keys) else clue


def _words(seen: Seen) -> str:
    """What the server itself said, to be put behind a sentence."""
    line = seen.words.line if seen.words is not None else None
    return f"; its own words: {line}" if line and "Main process exited" not in line else ""


def _in_environment(seen: Seen, path: str) -> bool:
    folder = os.path.dirname(os.path.dirname(os.path.normpath(seen.request.python)))
    return os.path.normpath(path).startswith(f"{folder}/")


def _below(path: str, places: t.Iterable[str]) -> bool:
    return any(place in ("/", path) or path.startswith(f"{place.rstrip('/')}/") for place in places)


@RULES.rule(
    "unit_renamed",
    severity="info",
    cause="The server was set up by other means, or under another name of the service.",
    remedy="Name that unit: synapse_service_name in the inventory, or the option unit.",
)
def _unit_renamed(seen: Seen) -> Iterator[Clue]:
    """The unit that was named does not exist, and another one starts the server."""
    service, unit = seen.service, _main(seen)
    if service is not None and unit is not None and service.asked and service.asked not in unit.names:
        yield Clue(f"There is no unit {service.asked}; {unit.name} is what starts Synapse.", unit.fragment or unit.name)


@RULES.rule(
    "unit_missing",
    severity="critical",
    cause="Its file was removed with a package or by hand, or was never written.",
    remedy="ansible-playbook matrix_fleet.synapse.repair --tags config, which writes the unit; or write its file, then "
    "systemctl daemon-reload.",
    stops=True,
    explains=(*_EVERYTHING, "service.unwatched"),
)
def _unit_missing(seen: Seen) -> Iterator[Clue]:
    """systemd has no unit that starts the server."""
    service = seen.service
    if service is None or service.seen is None or service.seen.found or service.running:
        return
    managed = seen.settings is not None and seen.settings.managed
    clue = Clue(
        f"The unit {service.asked} does not exist, and no other unit starts Synapse with this configuration.",
        f"systemctl show {service.asked}: LoadState=not-found",
    )
    yield replace(clue, repair="config", safe=True) if managed else clue


@RULES.rule(
    "unwatched",
    severity="warning",
    cause="It was started by hand, by synctl or by a script: nothing starts it again after a crash or a reboot.",
    remedy="Let a unit start it: ansible-playbook matrix_fleet.synapse.deploy, or write one; stop this process by its "
    "id "
    "first (kill PID).",
)
def _unwatched(seen: Seen) -> Iterator[Clue]:
    """The server runs, and no unit watches it."""
    service = seen.service
    if service is None or service.seen is None or service.seen.found:
        return
    # A daemon that its pid file leads to is run as it is meant to.
    known = service.daemon.pid if service.daemon is not None and service.daemon.alive else None
    for one in [one for one in service.running if known is None or one.pid != known][:1]:
        beside = f", and not the process {known} of the pid file" if known is not None else ""
        yield Clue(f"Synapse runs as process {one.pid}, which no unit watches{beside}.", " ".join(one.argv)[:300])


@RULES.rule(
    "masked",
    severity="critical",
    cause="Somebody ran 'systemctl mask', which forbids every start.",
    remedy="systemctl unmask UNIT && systemctl start UNIT, if the server is to run again.",
    stops=True,
    explains=_EVERYTHING,
)
def _masked(seen: Seen) -> Iterator[Clue]:
    """The unit is masked."""
    unit = seen.service.seen if seen.service is not None else None
    if unit is None or not (unit.state.load == "masked" or unit.file_state.startswith("masked")):
        return
    yield Clue(
        f"The unit {unit.name} is masked, so that nothing can start it.",
        f"LoadState={unit.state.load}, UnitFileState={unit.file_state}",
        severity=_grave(unit, "warning"),
        remedy=f"systemctl unmask {unit.name} && systemctl start {unit.name}, if the server is to run again.",
    )


@RULES.rule(
    "unit_refused",
    severity="critical",
    cause="A line of the unit's file, or of a drop-in, is not what systemd understands.",
    remedy="systemd-analyze verify UNIT names the line; correct it, then systemctl daemon-reload.",
    stops=True,
    explains=_EVERYTHING,
)
def _unit_refused(seen: Seen) -> Iterator[Clue]:
    """systemd refuses the unit's file."""
    unit = seen.service.seen if seen.service is not None else None
    if unit is None or unit.state.load not in ("error", "bad-setting"):
        return
    clue = Clue(
        f"systemd refuses the file of {unit.name} (LoadState={unit.state.load}).",
        f"{unit.fragment}: {unit.load_error or 'see systemd-analyze verify'}",
        severity=_grave(unit),
        remedy=f"systemd-analyze verify {unit.name} names the line; correct it, then systemctl daemon-reload.",
    )
    yield replace(clue, repair="config", safe=True) if unit.managed and not unit.drop_ins else clue


@RULES.rule(
    "account_missing",
    severity="critical",
    cause="The account was removed, or the unit names another than the host has.",
    remedy="useradd --system --home-dir /var/lib/synapse --shell /usr/sbin/nologin NAME with the number that owns the "
    "data (stat -c %u /var/lib/synapse), or correct User= and Group=; then systemctl daemon-reload.",
    stops=True,
    explains=_EVERYTHING,
)
def _account_missing(seen: Seen) -> Iterator[Clue]:
    """The account that the unit names does not exist."""
    unit = _main(seen)
    if unit is None or seen.service is None:
        return
    unknown = seen.service.unknown_account
    step = next((step for step in (216, 217) if unit.exited(step)), None)
    if not unknown and step is None:
        return
    named = unknown or (f"User={unit.user}" if step == 217 else f"Group={unit.group}")
    status = f"status={step}/{STEPS[step]}" if step is not None else "systemd ends such a start with 217/USER"
    key = named.partition("=")[0]
    clue = Clue(
        f"The unit {unit.name} runs as {named}, and the host does not know that account.",
        f"{status}{unit.where(key)}",
        severity=_grave(unit),
    )
    # Where the unit names another account than the inventory does, its file is what is wrong.
    differs = key == "Group" or seen.request.user not in (None, unit.user)
    yield _repaired(clue, unit, key) if unit.origin(key) is not None and differs else clue


def _programs(seen: Seen, *, denied: bool) -> Iterator[tuple[UnitSeen, Path]]:
    """Return what is wrong with programs that the unit starts."""
    unit = _main(seen)
    if unit is None or seen.service is None:
        return
    for path in seen.service.paths:
        if path.kind == "program" and (path.problem == "denied") == denied:
            ignored = all(command.ignored for command in unit.before if command.path == path.path)
            if any(command.path == path.path for command in unit.commands) or not ignored:
                yield unit, path


def _program_clue(unit: UnitSeen, path: Path) -> Clue:
    clue = Clue(
        f"The unit {unit.name} cannot start its program {path.path}: {path.problem} (203/EXEC).",
        f"ExecStart={path.path}: {path.problem}{unit.where('ExecStart')}",
        severity=_grave(unit),
    )
    return _repaired(clue, unit, "ExecStart")


@RULES.rule(
    "program_missing",
    severity="critical",
    cause="The environment was moved or built elsewhere, a drop-in or an edited unit names another path, or the "
    "interpreter in a script's first line went away. systemd reports status=203/EXEC.",
    remedy="Let ExecStart name the interpreter that exists: systemctl edit --full UNIT, then systemctl daemon-reload "
    "&& "
    "systemctl restart UNIT; systemctl cat UNIT shows which file has the line.",
    stops=True,
    explains=_EVERYTHING,
)
def _program_missing(seen: Seen) -> Iterator[Clue]:
    """The program that the unit names in ExecStart cannot be started."""
    for unit, path in _programs(seen, denied=False):
        if not _in_environment(seen, path.path):
            yield _program_clue(unit, path)


@RULES.rule(
    "program_broken",
    severity="critical",
    cause="The environment that Synapse runs in is damaged.",
    remedy="ansible-playbook matrix_fleet.synapse.repair --tags reinstall",
    repair="reinstall",
    safe=True,
    symptom=True,
    explains=(*_EVERYTHING, *_SILENCE, "words.*"),
)
def _program_broken(seen: Seen) -> Iterator[Clue]:
    """The interpreter that the unit starts is missing in the environment, or cannot be executed."""
    for unit, path in _programs(seen, denied=False):
        if _in_environment(seen, path.path):
            yield replace(_program_clue(unit, path), repair=None, safe=None)


@RULES.rule(
    "program_unreachable",
    severity="critical",
    cause="The program lies below a folder that the unit's account may not enter, such as /root, or may not be "
    "executed "
    "by it. systemd reports status=203/EXEC, Permission denied.",
    remedy="Put the environment where the account can reach it (/opt, /var/lib), or open the one folder for it "
    "(chmod o+x FOLDER); never loosen /root.",
    stops=True,
    explains=(*_EVERYTHING, "access.*"),
)
def _program_unreachable(seen: Seen) -> Iterator[Clue]:
    """The account that the unit runs as has no permission for the program in ExecStart."""
    for started, path in _programs(seen, denied=True):
        clue = Clue(
            f"The user {started.user or 'root'} has no permission to start {path.path}: {path.blocked} keeps it out "
            "(203/EXEC).",
            f"ExecStart={path.path}, permission denied at {path.blocked}{started.where('ExecStart')}",
            severity=_grave(started),
        )
        if _in_environment(seen, path.path):
            yield replace(clue, repair="permissions", safe=True)
        else:
            yield _repaired(clue, started, "ExecStart")
    unit = _main(seen)
    if unit is None or unit.protect_home not in ("yes", "tmpfs"):
        return
    for command in unit.commands:
        if _below(command.path, _HOMES):
            clue = Clue(
                f"The unit {unit.name} hides {command.path} from itself: ProtectHome={unit.protect_home} (203/EXEC).",
                f"ExecStart={command.path}{unit.where('ProtectHome')}",
                severity=_grave(unit),
                cause="With ProtectHome= a unit sees nothing in /home, /root and /run/user.",
            )
            yield _repaired(clue, unit, "ProtectHome", "ExecStart")


@RULES.rule(
    "program_refused",
    severity="critical",
    cause="The file is no program for this machine, or a security module forbids it (systemd: 203/EXEC).",
    remedy="journalctl -u UNIT -n 20 names the error; file PROGRAM says what it is; ausearch -m avc or dmesg shows a "
    "refusal by SELinux or AppArmor.",
    symptom=True,
    explains=(*_EVERYTHING, *_SILENCE, "words.*"),
)
def _program_refused(seen: Seen) -> Iterator[Clue]:
    """systemd could not start the program in ExecStart, although it looks right."""
    unit = _main(seen)
    if unit is None or seen.service is None or not unit.exited(203):
        return
    if any(path.kind == "program" for path in seen.service.paths):
        return
    for command in unit.commands[:1]:
        yield Clue(
            f"systemd could not start {command.path} (status=203/EXEC).", f"ExecStart={command.path}{_words(seen)}"
        )


def _folders(seen: Seen) -> Iterator[tuple[UnitSeen, Path, str | None, bool]]:
    """Return a WorkingDirectory that cannot be entered, the mount that it lacks, and whether the server lives in it."""
    unit, service = _main(seen), seen.service
    if unit is None or service is None:
        return
    for path in service.paths:
        if path.kind == "directory":
            place = next((one for one in service.unmounted if _below(path.path, [one])), None)
            inside = any(_below(one, [path.path]) for one in (*_data(seen), os.path.normpath(seen.request.python)))
            yield unit, path, place, inside


def _folder_clue(unit: UnitSeen, path: Path, place: str | None) -> Clue:
    mount = f"; {place} is in /etc/fstab and is not mounted" if place else ""
    what = f"{path.blocked} keeps {unit.user or 'root'} out" if path.blocked else path.problem
    return Clue(
        f"The WorkingDirectory {path.path} of {unit.name} cannot be entered: {what} (200/CHDIR){mount}.",
        f"WorkingDirectory={path.path}: {path.blocked or path.problem}{unit.where('WorkingDirectory')}",
        severity=_grave(unit),
        remedy=f"mount {place}" if place else None,
    )


@RULES.rule(
    "home_missing",
    severity="critical",
    cause="The folder that holds the server's data was moved or removed, or its file system is not mounted. systemd "
    "reports status=200/CHDIR.",
    remedy="findmnt --fstab shows whether it is a disk of its own: mount it. Else bring the folder back from where it "
    "was moved to, or from the backup. Never make an empty folder in its place: Synapse would begin anew in it.",
    stops=True,
    explains=(
        *_EVERYTHING,
        "service.namespace",
        "service.program_broken",
        "environment.*",
        "database.*",
        "access.*",
        "configuration.unasked",
        "folklore.*",
    ),
)
def _home_missing(seen: Seen) -> Iterator[Clue]:
    """The WorkingDirectory of the unit, which holds the server's data, is gone: a mount is missing."""
    for unit, path, place, inside in _folders(seen):
        if inside and path.blocked is None:
            yield _folder_clue(unit, path, place)


@RULES.rule(
    "directory_missing",
    severity="critical",
    cause="The unit names a folder that does not exist or that its account may not enter, or a file system is not "
    "mounted. systemd reports status=200/CHDIR.",
    remedy="Where the folder is on a disk of its own, mount it (findmnt --fstab; mount FOLDER); else correct "
    "WorkingDirectory= and systemctl daemon-reload.",
    stops=True,
    explains=(*_EVERYTHING, "service.namespace"),
)
def _directory_missing(seen: Seen) -> Iterator[Clue]:
    """The WorkingDirectory of the unit cannot be entered."""
    for unit, path, place, inside in _folders(seen):
        clue = _folder_clue(unit, path, place)
        if path.blocked is not None:
            yield replace(clue, repair="permissions", safe=True)
        elif not inside:
            yield clue if place else _repaired(clue, unit, "WorkingDirectory")


def _data(seen: Seen) -> list[str]:
    """Return the absolute paths that the server writes to, as the configuration names them."""
    settings = seen.settings
    if settings is None:
        return []
    found = [settings.text("media_store_path") if settings.get("enable_media_repo") is not False else None]
    if settings.engine == "sqlite3":
        found.append(settings.text("database", "args", "database"))
    if seen.words is not None:
        found += seen.words.files
    return [os.path.normpath(path) for path in found if path and path.startswith("/")]


@RULES.rule(
    "namespace",
    severity="critical",
    cause="A path that the unit's sandbox names does not exist, so that systemd cannot set it up: "
    "status=226/NAMESPACE.",
    remedy="Make or mount the folder, or put a '-' before it in ReadWritePaths=, where it may be missing; then "
    "systemctl "
    "daemon-reload. Do not switch the sandbox off.",
    stops=True,
    explains=_EVERYTHING,
)
def _namespace(seen: Seen) -> Iterator[Clue]:
    """The unit's sandbox cannot be set up (226/NAMESPACE)."""
    unit, service = _main(seen), seen.service
    if unit is None or service is None:
        return
    missing = [path for path in service.paths if path.kind == "namespace"]
    for path in missing:
        place = next((one for one in service.unmounted if _below(path.path, [one])), None)
        keys = [one.key for one in unit.options if path.path in one.value.split() and one.key.endswith("Paths")]
        key = keys[-1] if keys else "ReadWritePaths"
        clue = Clue(
            f"The unit {unit.name} names {path.path} in {key} for its sandbox, and {path.problem} (226/NAMESPACE).",
            f"{key}: {path.path}{unit.where(key)}",
            severity=_grave(unit),
            remedy=f"mount {place}" if place else None,
        )
        if place is None and not any(_below(one, [path.path]) for one in _data(seen)):
            clue = _repaired(clue, unit, key)
        yield clue
    if not missing and unit.exited(226):
        yield Clue(
            f"systemd could not set up the sandbox of {unit.name} (status=226/NAMESPACE).",
            f"ReadWritePaths, ProtectSystem and the like{_words(seen)}",
            cause="A path of the sandbox cannot be mounted, or this host, often a container, allows no namespaces.",
        )


def _readonly(unit: UnitSeen, path: str) -> str | None:
    """Return which option of the unit keeps a path from being written to."""
    writable = [one.lstrip("-+") for one in unit.writable]
    writable += [one.partition(":")[2].partition(":")[0] or one for one in unit.bound]
    if _below(path, [one for one in writable if one]):
        closer = [one.lstrip("-+") for one in unit.read_only]
        deepest = max((len(one) for one in writable if one and _below(path, [one])), default=0)
        return "ReadOnlyPaths" if any(_below(path, [one]) and len(one) > deepest for one in closer) else None
    if _below(path, [one.lstrip("-+") for one in unit.read_only]):
        return "ReadOnlyPaths"
    if unit.protect_home in ("yes", "tmpfs", "read-only") and _below(path, _HOMES):
        return "ProtectHome"
    if unit.protect_system == "strict" and _below(path, ("/dev", "/proc", "/sys")):
        return None
    return "ProtectSystem" if _below(path, _PROTECTED.get(unit.protect_system, ())) else None


@RULES.rule(
    "sandbox",
    severity="critical",
    cause="The unit was hardened (ProtectSystem=, ReadOnlyPaths=, ProtectHome=) without all paths that Synapse writes "
    "to: database, media, log, pid file. It fails there although modes and owners are right.",
    remedy="systemctl edit UNIT, add '[Service]' and 'ReadWritePaths=PATH', then systemctl daemon-reload && systemctl "
    "restart UNIT. Do not switch the sandbox off.",
    stops=True,
    explains=(*_EVERYTHING, "words.*", "database.*"),
)
def _sandbox(seen: Seen) -> Iterator[Clue]:
    """The unit's sandbox keeps Synapse from a path that it has to write to."""
    unit = _main(seen)
    if unit is None or unit.root:
        return
    options: dict[str, list[str]] = {}
    for path in dict.fromkeys(_data(seen)):
        option = _readonly(unit, path)
        if option is not None:
            options.setdefault(option, []).append(path)
    for option, paths in options.items():
        value = {"ProtectSystem": unit.protect_system, "ProtectHome": unit.protect_home}.get(option, "")
        clue = Clue(
            f"The unit {unit.name} may not write to {', '.join(paths)}: {option}"
            f"{f'={value}' if value else ''} forbids it, and ReadWritePaths does not allow it.",
            f"ReadWritePaths={' '.join(unit.writable) or '(none)'}{unit.where('ReadWritePaths', option)}",
            severity=_grave(unit),
            remedy=f"systemctl edit {unit.name}, add '[Service]' and 'ReadWritePaths={' '.join(paths)}', then "
            "systemctl "
            f"daemon-reload && systemctl restart {unit.name}. Do not switch the sandbox off.",
        )
        yield _repaired(clue, unit, "ReadWritePaths", option)


@RULES.rule(
    "environment_file",
    severity="critical",
    cause="The file was removed, often with a package, and the unit insists on it: systemd reports Result=resources.",
    remedy="Put the file back, or write EnvironmentFile=-PATH if it may be missing (systemctl edit --full UNIT); then "
    "systemctl daemon-reload && systemctl restart UNIT.",
    stops=True,
    explains=_EVERYTHING,
)
def _environment_file(seen: Seen) -> Iterator[Clue]:
    """The EnvironmentFile of the unit does not exist."""
    unit, service = _main(seen), seen.service
    if unit is None or service is None:
        return
    for path in service.paths:
        if path.kind == "environment":
            clue = Clue(
                f"The EnvironmentFile {path.path} of {unit.name} cannot be read: {path.problem} (Result=resources).",
                f"EnvironmentFile={path.path}{unit.where('EnvironmentFile')}",
                severity=_grave(unit),
            )
            yield _repaired(clue, unit, "EnvironmentFile")


@RULES.rule(
    "preload",
    severity="warning",
    cause="The library, often jemalloc, was removed or has another path on this release of the system. The loader "
    "ignores it and complains at each start; Synapse then uses more memory.",
    remedy="Install it (apt-get install libjemalloc2), or correct LD_PRELOAD: /usr/lib/x86_64-linux-gnu/"
    "libjemalloc.so.2 on Debian; then systemctl daemon-reload && systemctl restart UNIT.",
)
def _preload(seen: Seen) -> Iterator[Clue]:
    """LD_PRELOAD of the unit names a library that does not exist."""
    unit, service = _main(seen), seen.service
    if unit is not None and service is not None:
        for path in service.paths:
            if path.kind == "preload":
                yield Clue(
                    f"LD_PRELOAD of {unit.name} names {path.path}, and {path.problem}.", f"LD_PRELOAD={path.path}"
                )


def _daemonizes(seen: Seen, unit: UnitSeen) -> str | None:
    """Say what makes Synapse put itself into the background, ``None`` where nothing does."""
    for command in unit.commands:
        if os.path.basename(command.path) == "synctl" or any(word.endswith("/synctl") for word in command.argv):
            return "ExecStart uses synctl"
        for flag in ("-D", "--daemonize"):
            if flag in command.argv:
                return f"ExecStart has {flag}"
    daemonize = seen.settings.get("daemonize") if seen.settings is not None else None
    return f"daemonize: {str(daemonize).lower()} in the configuration" if daemonize else None


@RULES.rule(
    "type",
    severity="critical",
    cause="With Type=forking systemd waits for a process that goes into the background, with Type=notify for a message "
    "from one that stays; whoever gets the other kind gives up (timeout, protocol) or loses sight of the server.",
    remedy="Type=notify in the unit, and no daemonize: true in the configuration, no --daemonize and no synctl in "
    "ExecStart. Stop a server that runs beside the unit by its id first (kill PID); then systemctl daemon-reload && "
    "systemctl restart UNIT.",
    stops=True,
    explains=(*_EVERYTHING, "service.start_timeout", "service.stray", "service.several", "answers.port_taken"),
)
def _type(seen: Seen) -> Iterator[Clue]:
    """Type= of the unit does not fit how Synapse is started (daemonize)."""
    unit = _main(seen)
    if unit is None or unit.kind not in ("forking", "notify", "notify-reload", "simple", "exec"):
        return
    why = _daemonizes(seen, unit)
    if (unit.kind == "forking") == (why is not None):
        return
    if why is None:
        summary = (
            f"The unit {unit.name} is Type=forking, and Synapse does not go into the background (daemonize is off)."
        )
        then = "the start ends in a timeout"
    else:
        summary = f"The unit {unit.name} is Type={unit.kind}, and Synapse puts itself into the background: {why}."
        notify = unit.kind.startswith("notify")
        then = "the start fails with result 'protocol'" if notify else "systemd believes that it has ended"
    stray = "".join(f"; process {one.pid} runs beside it" for one in (seen.service.strays if seen.service else ()))
    clue = Clue(summary, f"Type={unit.kind}: {then}{unit.where('Type')}{stray}", severity=_grave(unit))
    from_unit = why is None or "ExecStart" in why
    managed = seen.settings is not None and seen.settings.managed
    if unit.ours("Type", *(["ExecStart"] if from_unit else [])) and (from_unit or managed) and not stray:
        clue = replace(clue, repair="config", safe=True)
    yield clue


@RULES.rule(
    "pid_file_differs",
    severity="error",
    cause="systemd waits for the file in PIDFile=, and Synapse writes another one: the start ends in a timeout.",
    remedy="Let PIDFile= of the unit and pid_file of the configuration name the same path.",
    explains=("service.start_timeout", "service.failed", "service.loop"),
)
def _pid_file_differs(seen: Seen) -> Iterator[Clue]:
    """PIDFile= of the unit is not the pid_file of the configuration."""
    unit = _main(seen)
    written = seen.settings.text("pid_file") if seen.settings is not None else None
    if unit is None or unit.kind != "forking" or not unit.pid_file or written is None or not written.startswith("/"):
        return
    if os.path.normpath(written.replace("/var/run/", "/run/")) != unit.pid_file.replace("/var/run/", "/run/"):
        yield Clue(
            f"The unit {unit.name} waits for the pid file {unit.pid_file}, and Synapse writes {written}.",
            f"PIDFile={unit.pid_file}{unit.where('PIDFile')}; pid_file: {written}",
        )


@RULES.rule(
    "several",
    severity="critical",
    cause="The server was started by hand, by synctl or by a second unit while it ran already. Two processes on one "
    "database hand out the same stream positions and overwrite each other's caches.",
    remedy="Stop the one that the unit does not watch: kill PID (SIGTERM, by its id); then systemctl restart UNIT.",
)
def _several(seen: Seen) -> Iterator[Clue]:
    """Several processes of Synapse serve the same configuration."""
    service = seen.service
    running = service.running if service is not None else ()
    watched = service.seen if service is not None and service.seen is not None and service.seen.found else None
    if len(running) > 1 and (watched is None or watched.up):
        listed = ", ".join(f"{one.pid} ({one.unit or 'no unit'})" for one in running)
        yield Clue(f"{len(running)} processes of Synapse serve this configuration at once.", f"processes {listed}")


@RULES.rule(
    "stray",
    severity="critical",
    cause="It was started by hand, by synctl, by another unit, or went into the background. It keeps the ports, the "
    "database and the pid file, so that the unit cannot start its own.",
    remedy="Stop it by its id (kill PID, not pkill), wait until it is gone, then systemctl start UNIT.",
    stops=True,
    explains=(*_EVERYTHING, *_SILENCE, "answers.port_taken", "answers.old_version", "words.*"),
)
def _stray(seen: Seen) -> Iterator[Clue]:
    """Synapse runs beside its unit, which cannot start because of it."""
    service = seen.service
    if service is None or service.seen is None or service.seen.up:
        return
    for one in service.strays:
        yield Clue(
            f"Synapse runs as process {one.pid} outside of {service.seen.name}, which is {service.seen.state.active}.",
            f"process {one.pid} ({one.unit or 'no unit'}): {' '.join(one.argv)[:200]}",
            remedy=f"kill {one.pid}, wait until it is gone, then systemctl start {service.seen.name}.",
        )


@RULES.rule(
    "out_of_memory",
    severity="critical",
    cause="The kernel's OOM killer ended Synapse because the host, or the unit's MemoryMax=, had no memory left; its "
    "own "
    "log just stops. Synapse needs about 115 MB before it serves anybody, and ten times that for large rooms.",
    remedy="Raise MemoryMax= (systemctl edit UNIT) or the host's memory, add swap, or lower caches.global_factor; see "
    "journalctl -k | grep -i 'out of memory'.",
    stops=True,
    explains=(*_EVERYTHING, "service.killed", "host.memory*"),
)
def _out_of_memory(seen: Seen) -> Iterator[Clue]:
    """Synapse was killed for memory (OOM)."""
    unit = _main(seen)
    if unit is None:
        return
    killed = unit.state.result == "oom-kill"
    by_kill = unit.signalled and unit.status == 9 and not unit.up
    said = seen.words.killed if seen.words is not None else None
    small = unit.memory_max is not None and unit.memory_max < _SMALL
    if not (killed or (by_kill and (small or said)) or (said and not unit.up)):
        return
    limit = f"MemoryMax={unit.memory_max // 1024 // 1024}M" if unit.memory_max is not None else "no MemoryMax="
    clue = Clue(
        f"Synapse was killed because memory ran out (OOM): {ended(unit) or 'killed'}, {limit}.",
        f"Result={unit.state.result}, {limit}{unit.where('MemoryMax')}{f'; {said}' if said else ''}",
        severity=_grave(unit),
    )
    yield _repaired(clue, unit, "MemoryMax") if small and unit.origin("MemoryMax") is not None else clue


@RULES.rule(
    "memory_max",
    severity="warning",
    cause="At its limit the kernel first slows the server down, then kills it (OOM).",
    remedy="Raise MemoryMax= (synapse_service_memory_max, or systemctl edit UNIT), or lower caches.global_factor.",
)
def _memory_max(seen: Seen) -> Iterator[Clue]:
    """The unit has nearly used up its MemoryMax."""
    unit = _main(seen)
    if unit is None or unit.memory_max is None or unit.memory is None or not unit.up:
        return
    if unit.memory > 0.95 * unit.memory_max:
        megabytes = f"{unit.memory // 1024 // 1024} of {unit.memory_max // 1024 // 1024} MB"
        yield Clue(f"The memory of {unit.name} is nearly used up: {megabytes}.", f"MemoryMax{unit.where('MemoryMax')}")


@RULES.rule(
    "files_limit",
    severity="error",
    cause="Every client, every federated server and every database connection is an open file. Past the limit (ulimit "
    "-n) Synapse cannot accept or open anything: EMFILE, 'Too many open files', while /health may still answer.",
    remedy="systemctl edit UNIT, add '[Service]' and 'LimitNOFILE=65536', then systemctl daemon-reload && systemctl "
    "restart UNIT; remove soft_file_limit from the configuration if it is lower.",
    explains=("words.*", "answers.*", *_EVERYTHING),
)
def _files_limit(seen: Seen) -> Iterator[Clue]:
    """The limit of open files is too low (LimitNOFILE, ulimit)."""
    unit, service = _main(seen), seen.service
    if service is None:
        return
    if unit is not None and unit.files_limit is not None and unit.files_limit < _FEW_FILES:
        clue = Clue(
            f"The unit {unit.name} may have {unit.files_limit} files open (LimitNOFILE), which is too few: EMFILE.",
            f"LimitNOFILE={unit.files_limit}{unit.where('LimitNOFILE')}",
            severity=_grave(unit),
        )
        yield _repaired(clue, unit, "LimitNOFILE")
        return
    for one in service.running:
        if one.open_files is not None and one.files_limit and one.open_files > 0.8 * one.files_limit:
            yield Clue(
                f"Process {one.pid} has {one.open_files} of {one.files_limit} files open (ulimit, LimitNOFILE): EMFILE "
                "is near.",
                f"/proc/{one.pid}/limits: Max open files {one.files_limit}",
            )


@RULES.rule(
    "assertion",
    severity="critical",
    cause="A condition in the unit's file forbids the start: AssertPathExists= keeps Synapse from making up what is "
    "missing, such as a signing key, which would be a new identity.",
    remedy="Bring back what is missing (a backup, a mount), then systemctl start UNIT. Do not remove the line.",
    symptom=True,
    explains=(*_EVERYTHING, *_SILENCE, "words.*"),
)
def _assertion(seen: Seen) -> Iterator[Clue]:
    """A condition or assertion of the unit does not hold, so that it is not started."""
    unit, service = _main(seen), seen.service
    if unit is None or service is None or unit.up or (unit.condition and unit.assertion):
        return
    kinds = [kind for kind, holds in (("Condition", unit.condition), ("Assert", unit.assertion)) if not holds]
    unmet = [option for option in service.missing if option.key.startswith(tuple(kinds))]
    evidence = "; ".join(f"{one.key}={one.value} ({one.path} line {one.line})" for one in unmet)
    told = f": {unmet[0].key}={unmet[0].value} does not hold" if unmet else ""
    yield Clue(
        f"systemd does not start {unit.name} because of a condition in its file{told}.",
        evidence or f"{kinds[0]}Result=no; see systemctl status {unit.name}",
    )


@RULES.rule(
    "start_pre",
    severity="critical",
    cause="What runs before the server (ExecStartPre=) failed, so that the server itself was never started.",
    remedy="Run that command by hand as the service's user, mend what it says, then systemctl restart UNIT.",
    symptom=True,
    explains=("service.failed", "service.loop", *_SILENCE),
)
def _start_pre(seen: Seen) -> Iterator[Clue]:
    """A command of ExecStartPre failed."""
    unit = _main(seen)
    if unit is None or unit.up:
        return
    for command in unit.before:
        if command.code in ("exited", "killed", "dumped") and command.status and not command.ignored:
            yield Clue(
                f"ExecStartPre of {unit.name} failed with {command.code} {command.status}: {command.path}.",
                f"{' '.join(command.argv)[:200]}{unit.where('ExecStartPre')}{_words(seen)}",
            )


@RULES.rule(
    "mints_key",
    severity="info",
    cause="The Debian package's unit runs Synapse with --generate-keys before each start: where the signing key is "
    "missing it makes a new one, which is another identity, without a word.",
    remedy="Keep a backup of the signing key, and add 'AssertPathExists=KEY FILE' to the unit (systemctl edit UNIT).",
)
def _mints_key(seen: Seen) -> Iterator[Clue]:
    """The unit would make a new signing key where the key is missing."""
    unit = _main(seen)
    if unit is None or unit.origin("AssertPathExists") is not None:
        return
    for command in (*unit.before, *unit.commands):
        if "--generate-keys" in command.argv:
            yield Clue(f"{unit.name} runs --generate-keys before each start.", " ".join(command.argv)[:200])
            return


@RULES.rule(
    "start_timeout",
    severity="critical",
    cause="systemd waits TimeoutStartSec= for a start and then ends it; the migration of a large database takes "
    "longer. "
    "A start that is cut off over and over never finishes it.",
    remedy="systemctl edit UNIT, add '[Service]' and 'TimeoutStartSec=infinity', then systemctl daemon-reload && "
    "systemctl restart UNIT, and watch its log.",
    symptom=True,
    explains=("service.failed", "service.loop", *_SILENCE, "words.last_error"),
)
def _start_timeout(seen: Seen) -> Iterator[Clue]:
    """systemd gave up waiting for the start (timeout)."""
    unit = _main(seen)
    if unit is None or unit.up or unit.state.result != "timeout":
        return
    limit = f"TimeoutStartSec={unit.start_limit}"
    clue = Clue(
        f"systemd ended the start of {unit.name} after a timeout ({limit}, Type={unit.kind}).",
        f"Result=timeout, NotifyAccess={unit.notify_access}{unit.where('TimeoutStartSec', 'Type')}{_words(seen)}",
    )
    yield _repaired(clue, unit, "TimeoutStartSec")


_KILLS = {
    9: "Somebody, the OOM killer or a watchdog killed it with SIGKILL; it could not write anything any more.",
    4: "The processor does not know an instruction of a library: it was built for another machine.",
    6: "A library gave up (abort).",
    11: "A compiled library is damaged or does not fit the others (segmentation fault).",
    31: "SystemCallFilter= of the unit forbids a system call that Synapse or one of its libraries makes.",
}


@RULES.rule(
    "killed",
    severity="critical",
    cause="A signal ended it.",
    remedy="coredumpctl info and journalctl -k -n 50 show what happened; then systemctl reset-failed UNIT && systemctl "
    "start UNIT.",
    repair="service",
    safe=True,
    symptom=True,
    explains=("service.failed", "service.loop", *_SILENCE, "words.last_error"),
)
def _killed(seen: Seen) -> Iterator[Clue]:
    """A signal ended the server."""
    unit = _main(seen)
    if unit is None or unit.up or not unit.signalled or unit.state.result in ("success", "timeout", "oom-kill"):
        return
    repair = {4: "reinstall", 6: "", 11: "reinstall", 31: "config"}.get(unit.status, "service")
    yield Clue(
        f"Synapse was killed by a signal: {ended(unit)}.",
        f"Result={unit.state.result}{_words(seen)}",
        cause=_KILLS.get(unit.status),
        repair=repair,
        safe=bool(repair) and (repair != "config" or unit.managed),
    )


@RULES.rule(
    "output",
    severity="critical",
    cause="systemd cannot open what StandardOutput= or StandardError= names: its folder is missing, or full, or may "
    "not "
    "be written to (status=209/STDOUT, 222/STDERR).",
    remedy="Make the folder of that file, or use StandardOutput=journal; then systemctl daemon-reload && systemctl "
    "restart UNIT.",
    stops=True,
    explains=_EVERYTHING,
)
def _output(seen: Seen) -> Iterator[Clue]:
    """systemd cannot open the unit's standard output."""
    unit = _main(seen)
    if unit is None:
        return
    for step, key in ((209, "StandardOutput"), (222, "StandardError")):
        if unit.exited(step):
            clue = Clue(
                f"systemd cannot open {key} of {unit.name} (status={step}/{STEPS[step]}).", f"{key}{unit.where(key)}"
            )
            yield _repaired(clue, unit, key)


@RULES.rule(
    "step",
    severity="critical",
    cause="systemd prepares the process before the program begins (systemd.exec(5), process exit codes), and this step "
    "failed: an option of the unit asks for what this host, or its container, does not allow.",
    remedy="journalctl -u UNIT -n 20 names what failed; correct that option (systemctl cat UNIT), then systemctl "
    "daemon-reload && systemctl restart UNIT.",
    stops=True,
    explains=_EVERYTHING,
)
def _step(seen: Seen) -> Iterator[Clue]:
    """systemd could not prepare the unit's process."""
    unit = _main(seen)
    told = {200, 203, 209, 216, 217, 222, 226}
    if unit is None:
        return
    for status, step in STEPS.items():
        if status not in told and unit.exited(status):
            yield Clue(f"systemd could not prepare {unit.name}: status={status}/{step}.", ended(unit) + _words(seen))


@RULES.rule(
    "stopped",
    severity="error",
    cause="Somebody stopped it, or it was never started since the host booted.",
    remedy="systemctl start UNIT",
    repair="service",
    safe=True,
    stops=True,
)
def _stopped(seen: Seen) -> Iterator[Clue]:
    """The server is stopped, and did not fail."""
    service = seen.service
    unit = _main(seen)
    if unit is not None:
        clean = unit.state.active == "inactive" and not unit.state.job and unit.state.result in ("success", "")
        if clean and unit.condition and unit.assertion:
            boot = "" if unit.file_state != "disabled" else " It is not enabled, so that a reboot leaves it stopped."
            yield Clue(
                f"The unit {unit.name} is stopped.{boot}",
                f"ActiveState=inactive, Result={unit.state.result}, UnitFileState={unit.file_state}",
                remedy=f"systemctl start {unit.name}",
            )
    elif service is not None and service.daemon is not None and not service.running:
        daemon = service.daemon
        if not daemon.alive:
            what = f"process {daemon.pid} of it is gone" if daemon.pid else "there is none"
            yield Clue(
                f"Synapse does not run: of its pid file {daemon.pid_file}, {what}.",
                daemon.pid_file,
                remedy="ansible-playbook matrix_fleet.synapse.deploy, which starts what it deployed; or start it as it "
                f"was started before (python -m synapse.app.homeserver --daemonize), which writes {daemon.pid_file}.",
            )


@RULES.rule(
    "loop",
    severity="critical",
    cause="Something ends the server at each start, and Restart= of the unit starts it again: a restart loop.",
    remedy="systemctl stop UNIT, mend what the first of these starts says (journalctl -u UNIT), then systemctl start "
    "UNIT.",
    symptom=True,
    explains=("service.failed", *_SILENCE, "words.last_error"),
)
def _loop(seen: Seen) -> Iterator[Clue]:
    """The server is in a restart loop."""
    unit = _main(seen)
    if unit is None or unit.state.restarts < _LOOP:
        return
    young = unit.up and unit.age is not None and unit.age < 60
    if not young and (unit.up or unit.state.active == "inactive"):
        return
    if (young or unit.starting) and seen.answers is not None and seen.answers.healthy:
        # What ended it may be over, such as a database that was away; a minute tells. It was asked after its unit was.
        yield Clue(
            f"The unit {unit.name} was started again {unit.state.restarts} times, and serves now.",
            f"NRestarts={unit.state.restarts}",
            severity="warning",
            remedy=f"Look again in a minute; journalctl -u {unit.name} says what ended it.",
        )
        return
    how = ended(unit)
    yield Clue(
        f"The unit {unit.name} is in a restart loop: it was started again {unit.state.restarts} times.",
        f"NRestarts={unit.state.restarts}{f', {how}' if how else ''}{_words(seen)}",
        remedy=f"systemctl stop {unit.name}, mend what it says (journalctl -u {unit.name}), then systemctl start "
        f"{unit.name}.",
    )


@RULES.rule(
    "failed",
    severity="critical",
    cause="The server ended by itself.",
    remedy="journalctl -u UNIT -n 50 shows its words; mend that, then systemctl reset-failed UNIT && systemctl start "
    "UNIT.",
    repair="service",
    safe=True,
    symptom=True,
    explains=(*_SILENCE, "words.last_error", "service.drop_in"),
)
def _failed(seen: Seen) -> Iterator[Clue]:
    """The server has failed."""
    unit = _main(seen)
    if unit is None or unit.up or unit.starting:
        return
    # What systemd counts as a success was stopped, whatever signal that took.
    if unit.state.active != "failed" and unit.state.sub != "auto-restart" and unit.state.result in ("success", ""):
        return
    limit = unit.state.result == "start-limit-hit"
    gave_up = " and systemd gave up after too many starts (start-limit-hit)" if limit else ""
    yield Clue(
        f"The unit {unit.name} has failed{gave_up}: {ended(unit) or unit.state.result}.",
        f"Result={unit.state.result}{_words(seen)}",
        remedy=f"journalctl -u {unit.name} -n 50 shows its words; mend that, then systemctl reset-failed {unit.name} "
        "&& "
        f"systemctl start {unit.name}.",
    )


@RULES.rule(
    "starting",
    severity="warning",
    cause="A new version migrates the database before it serves, which may take minutes or hours; or the database does "
    "not answer.",
    remedy="Let it work: do not restart it. Its log says what it does (journalctl -fu UNIT).",
    symptom=True,
    explains=(*_SILENCE,),
)
def _starting(seen: Seen) -> Iterator[Clue]:
    """The server is still starting."""
    unit = _main(seen)
    if unit is None or not unit.starting or unit.state.restarts >= _LOOP:
        return
    yield Clue(
        f"The unit {unit.name} is still starting.",
        f"ActiveState=activating, SubState={unit.state.sub}"
        f"{f', {unit.state.status_text}' if unit.state.status_text else ''}{_words(seen)}",
    )


@RULES.rule(
    "disabled",
    severity="warning",
    cause="The unit was never enabled, or was disabled: nothing starts the server with the host.",
    remedy="systemctl enable UNIT",
    repair="service",
    safe=True,
)
def _disabled(seen: Seen) -> Iterator[Clue]:
    """The server runs, but is not started with the host."""
    unit = _main(seen)
    if unit is not None and unit.up and unit.file_state == "disabled" and not unit.wanted:
        yield Clue(
            f"The unit {unit.name} is disabled: after a reboot the server stays down.",
            "UnitFileState=disabled",
            remedy=f"systemctl enable {unit.name}",
        )


@RULES.rule(
    "reload_needed",
    severity="warning",
    cause="A unit file was changed, and systemd still goes by what it read before: its next start would not be that of "
    "the file.",
    remedy="systemctl daemon-reload, then systemctl restart UNIT when that suits.",
    repair="service",
    safe=True,
)
def _reload_needed(seen: Seen) -> Iterator[Clue]:
    """The unit's file changed, and systemd has not read it (daemon-reload)."""
    service = seen.service
    units = [] if service is None else [unit for unit in (service.main, *service.workers) if unit is not None]
    for unit in units:
        if unit.stale:
            files = ", ".join((unit.fragment, *unit.drop_ins))
            severity = None if unit.up or unit.starting else "error"
            yield Clue(
                f"systemd has not read the changed file of {unit.name}: daemon-reload is needed.", files, severity
            )


@RULES.rule(
    "drop_in",
    severity="info",
    cause="A drop-in (systemctl edit) changes what the unit's own file says; the collection does not write it.",
    remedy="systemctl cat UNIT shows it; systemctl revert UNIT removes drop-ins in /etc.",
)
def _drop_in(seen: Seen) -> Iterator[Clue]:
    """Drop-ins override the unit."""
    unit = _main(seen)
    if unit is None or not unit.managed:
        return
    for path in unit.drop_ins:
        keys = sorted({option.key for option in unit.options if option.path == path})
        yield Clue(f"{path} overrides {unit.name}: {', '.join(keys) or 'other options'}.", path)


@RULES.rule(
    "other_config",
    severity="warning",
    cause="The unit was written for another installation, or the configuration has moved.",
    remedy="Name the file that the server uses (config_path), or correct ExecStart and systemctl daemon-reload.",
)
def _other_config(seen: Seen) -> Iterator[Clue]:
    """The unit starts Synapse with another configuration than the one that is looked at."""
    unit = _main(seen)
    if unit is None:
        return
    for command in unit.commands:
        line = " ".join(command.argv)
        named = [match.rstrip("/") for match in re.findall(r"(?:--config-path[= ]|-c ?)(/\S+)", line)]
        wanted = {path.rstrip("/") for path in seen.request.config_paths}
        wanted |= {os.path.dirname(path) for path in wanted}
        if named and not wanted & set(named):
            clue = Clue(
                f"The unit {unit.name} starts Synapse with {', '.join(named)}, not with "
                f"{', '.join(seen.request.config_paths)}.",
                f"ExecStart{unit.where('ExecStart')}",
            )
            yield _repaired(clue, unit, "ExecStart")


@RULES.rule(
    "other_environment",
    severity="warning",
    cause="The server was installed anew elsewhere, or the unit was edited: what is upgraded is not what runs.",
    remedy="Name the interpreter that the unit starts (python), or correct ExecStart and systemctl daemon-reload.",
    explains=("service.restart_pending",),
)
def _other_environment(seen: Seen) -> Iterator[Clue]:
    """The unit starts Synapse from another environment than the one that is looked at."""
    unit, service = _main(seen), seen.service
    if unit is None or service is None or any(path.kind == "program" for path in service.paths):
        return
    for command in unit.commands:
        name = os.path.basename(command.path)
        own = _in_environment(seen, command.path) or (
            service.environment is not None and _below(command.path, [service.environment])
        )
        if re.match(r"python|synapse_|synctl", name) and "synapse" in " ".join(command.argv) and not own:
            clue = Clue(
                f"The unit {unit.name} starts {command.path}, not {seen.request.python}.",
                f"ExecStart{unit.where('ExecStart')}",
            )
            yield _repaired(clue, unit, "ExecStart")


@RULES.rule(
    "root",
    severity="warning",
    cause="A homeserver needs no rights of root, and a flaw in it would give them away; what it writes then belongs to "
    "root, and the right account cannot use it later.",
    remedy="User=synapse and Group=synapse in the unit; then chown -R synapse:synapse on data, media and logs, and "
    "restart it.",
)
def _root(seen: Seen) -> Iterator[Clue]:
    """The server runs as root."""
    unit, service = _main(seen), seen.service
    if service is None:
        return
    named = unit is not None and not unit.dynamic_user and unit.user in ("", "root", "0") and bool(unit.commands)
    if named or any(one.uid == 0 for one in service.running):
        clue = Clue("Synapse runs as root.", f"User={unit.user}{unit.where('User')}" if unit is not None else "")
        yield _repaired(clue, unit, "User") if unit is not None else clue


@RULES.rule(
    "other_user",
    severity="warning",
    cause="Unit and inventory name different accounts: owners and modes are set for one, and the other one runs.",
    remedy="Let User= of the unit and synapse_user name the same account.",
)
def _other_user(seen: Seen) -> Iterator[Clue]:
    """The unit runs as another account than the one that was named."""
    unit, wanted = _main(seen), seen.request.user
    if unit is None or wanted is None or not unit.user or unit.dynamic_user:
        return
    if wanted != unit.user and not (wanted.isdecimal() or unit.user.isdecimal()):
        clue = Clue(
            f"The unit {unit.name} runs as {unit.user}, not as {wanted}.", f"User={unit.user}{unit.where('User')}"
        )
        yield _repaired(clue, unit, "User")


@RULES.rule(
    "release_gone",
    severity="warning",
    cause="The environment, or the system's Python, was replaced or removed while the server ran. What it has not "
    "loaded "
    "yet is not there any more.",
    remedy="systemctl restart UNIT",
    repair="service",
)
def _release_gone(seen: Seen) -> Iterator[Clue]:
    """The server runs from files that were removed: a restart is pending."""
    for one in seen.service.running if seen.service is not None else ():
        if one.gone:
            yield Clue(f"Process {one.pid} runs from files that exist no more.", one.packages or "its interpreter")


@RULES.rule(
    "restart_pending",
    severity="info",
    cause="The server reads its configuration, and loads its code, when it starts.",
    remedy="systemctl restart UNIT when that suits.",
    explains=(),
)
def _restart_pending(seen: Seen) -> Iterator[Clue]:
    """The configuration or the environment changed after the server was started."""
    service = seen.service
    if service is None:
        return
    for one in service.running:
        changed = service.config_changed
        if changed is not None and one.started is not None and changed > one.started + 5:
            yield Clue(f"The configuration changed after process {one.pid} was started: a restart is pending.")
        if one.gone or one.packages is None or service.environment is None:
            continue
        if not _below(one.packages, [service.environment]):
            yield Clue(
                f"Process {one.pid} runs another release than the environment leads to: a restart is pending.",
                f"{one.packages}, not {service.environment}",
            )


@RULES.rule(
    "worker_down",
    severity="error",
    cause="A worker does not run: what it is responsible for (sync, federation, media) does not happen.",
    remedy="journalctl -u UNIT -n 50 shows its words; mend that, then systemctl restart UNIT.",
    repair="service",
    safe=True,
    symptom=True,
)
def _worker_down(seen: Seen) -> Iterator[Clue]:
    """A worker's unit is not running."""
    service = seen.service
    for unit in service.workers if service is not None else ():
        if unit.up or (unit.starting and unit.state.restarts < _LOOP):
            continue
        loop = f", NRestarts={unit.state.restarts}" if unit.state.restarts else ""
        line = seen.words.worker_lines.get(unit.name) if seen.words is not None else None
        state = unit.state.load if unit.state.load != "loaded" else unit.state.active
        yield Clue(
            f"The worker {unit.name} does not run ({state}).",
            f"{ended(unit) or f'ActiveState={unit.state.active}'}{loop}{f'; its own words: {line}' if line else ''}",
            remedy=f"journalctl -u {unit.name} -n 50 shows its words; mend that, then systemctl restart {unit.name}.",
            repair="config" if unit.state.load == "not-found" else None,
        )
