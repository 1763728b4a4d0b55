# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd says of a unit, as the doctor wants to know it (org.freedesktop.systemd1(5), systemd.exec(5)). Pure."""

from __future__ import annotations

import re
import shlex
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _health, _logs

__all__ = ["PROPERTIES", "Command", "Option", "UnitSeen", "ended", "options_of", "parse"]

PROPERTIES = (
    "Id,Names,LoadState,LoadError,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,MainPID,NRestarts,InvocationID,"
    "ActiveEnterTimestampMonotonic,StatusText,Job,UnitFileState,NeedDaemonReload,"
    "FragmentPath,DropInPaths,ConditionResult,AssertResult,Type,NotifyAccess,Restart,TimeoutStartUSec,PIDFile,"
    "ExecStart,ExecStartPre,Environment,EnvironmentFiles,User,Group,DynamicUser,WorkingDirectory,RootDirectory,"
    "RootImage,ProtectSystem,ProtectHome,PrivateTmp,ReadWritePaths,ReadOnlyPaths,InaccessiblePaths,BindPaths,"
    "BindReadOnlyPaths,TemporaryFileSystem,StateDirectory,LogsDirectory,CacheDirectory,RuntimeDirectory,LimitNOFILE,"
    "LimitNOFILESoft,MemoryMax,MemoryCurrent,WantedBy,RequiredBy,TriggeredBy"
)

# systemd.exec(5), "Process exit codes": what failed before the program ran.
STEPS = {
    200: "CHDIR",
    202: "FDS",
    203: "EXEC",
    204: "MEMORY",
    205: "LIMITS",
    206: "OOM_ADJUST",
    208: "STDIN",
    209: "STDOUT",
    210: "CHROOT",
    214: "SETSCHEDULER",
    215: "CPUAFFINITY",
    216: "GROUP",
    217: "USER",
    218: "CAPABILITIES",
    219: "CGROUP",
    222: "STDERR",
    224: "PAM",
    225: "NETWORK",
    226: "NAMESPACE",
    227: "NO_NEW_PRIVILEGES",
    228: "SECCOMP",
    229: "SELINUX_CONTEXT",
    231: "APPARMOR_PROFILE",
    232: "ADDRESS_FAMILIES",
    233: "RUNTIME_DIRECTORY",
    237: "KEYRING",
    238: "STATE_DIRECTORY",
    239: "CACHE_DIRECTORY",
    240: "LOGS_DIRECTORY",
    241: "CONFIGURATION_DIRECTORY",
    243: "CREDENTIALS",
}
SIGNALS = {4: "ILL", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 11: "SEGV", 15: "TERM", 31: "SYS"}

_COMMAND = re.compile(
    r"\{ path=(?P<path>.*?) ; argv\[\]=(?P<argv>.*?) ; (?:ignore_errors|flags)=(?P<ignore>.*?) ;"
    r".*?; code=(?P<code>\S+) ; status=(?P<status>\d+)(?:/\S+)? \}"
)
_FILE = re.compile(r"^(.*) \(ignore_errors=(yes|no)\)$")
# What is kept of unit files; the values of others may be secrets, and are nobody's business.
_KEPT = frozenset(
    [
        "AssertPathExists",
        "ConditionPathExists",
        "AssertFileNotEmpty",
        "ConditionFileNotEmpty",
        "AssertPathIsMountPoint",
        "ConditionPathIsMountPoint",
        "AssertPathIsDirectory",
        "ConditionPathIsDirectory",
        "RequiresMountsFor",
        "StartLimitIntervalSec",
        "StartLimitBurst",
        "Type",
        "NotifyAccess",
        "User",
        "Group",
        "WorkingDirectory",
        "ExecStart",
        "ExecStartPre",
        "EnvironmentFile",
        "Restart",
        "RestartSec",
        "TimeoutStartSec",
        "PIDFile",
        "LimitNOFILE",
        "MemoryMax",
        "MemoryHigh",
        "MemoryLimit",
        "ProtectSystem",
        "ProtectHome",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "BindPaths",
        "StandardOutput",
        "StandardError",
        "StateDirectory",
        "LogsDirectory",
        "CacheDirectory",
        "RuntimeDirectory",
        "SystemCallFilter",
        "RestrictAddressFamilies",
        "PrivateNetwork",
        "RootDirectory",
        "DynamicUser",
    ]
)


@dataclass(frozen=True)
class Command:
    """A command of a unit. ``argv`` as systemd shows it: split at spaces, whatever the quotes were.

    ``code`` and ``status`` are those of its latest run: ``exited`` or ``killed``, and the number.
    """

    path: str
    argv: tuple[str, ...]
    ignored: bool = False
    code: str = ""
    status: int = 0


@dataclass(frozen=True)
class Option:
    """One line of a unit file; the line counts from 1."""

    key: str
    value: str
    path: str
    line: int


@dataclass(frozen=True)
class UnitSeen:
    """A unit. ``state`` is what synapse_health makes of it, ``options`` what its files say, in their order.

    ``managed``: the collection wrote the unit's own file. ``preload`` is LD_PRELOAD of its environment, ``age`` for how
    many seconds it has been active.
    """

    name: str
    state: _health.Unit
    names: tuple[str, ...] = ()
    load_error: str = ""
    file_state: str = ""
    stale: bool = False
    fragment: str = ""
    drop_ins: tuple[str, ...] = ()
    managed: bool = False
    options: tuple[Option, ...] = ()
    condition: bool = True
    assertion: bool = True
    kind: str = ""
    restart: str = ""
    notify_access: str = ""
    start_limit: str = ""
    pid_file: str = ""
    commands: tuple[Command, ...] = ()
    before: tuple[Command, ...] = ()
    preload: tuple[str, ...] = ()
    environment_files: tuple[tuple[str, bool], ...] = ()
    user: str = ""
    group: str = ""
    dynamic_user: bool = False
    directory: str = ""
    root: str = ""
    protect_system: str = ""
    protect_home: str = ""
    writable: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    files_limit: int | None = None
    memory_max: int | None = None
    memory: int | None = None
    wanted: bool = False
    age: float | None = None

    @property
    def found(self) -> bool:
        """Whether systemd has a unit of this name."""
        return self.state.load not in ("", "not-found")

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self.state.active in ("active", "reloading", "refreshing") and self.state.sub != "auto-restart"

    @property
    def starting(self) -> bool:
        """Whether its start is under way, and has not failed before."""
        return self.state.active == "activating" and self.state.sub != "auto-restart"

    @property
    def status(self) -> int:
        """How its main process ended: exit status, or signal."""
        return int(self.state.exit_status) if self.state.exit_status.isdigit() else 0

    @property
    def signalled(self) -> bool:
        """Whether a signal ended its main process (CLD_KILLED 2, CLD_DUMPED 3 of waitid(2))."""
        return self.state.exit_code in ("2", "3", "killed", "dumped")

    def exited(self, status: int) -> bool:
        """Whether its main process, or what ran before that, ended with this exit status."""
        if self.up:
            return False
        before = any(command.code == "exited" and command.status == status for command in self.before)
        return before or (not self.signalled and self.status == status)

    def origin(self, *keys: str) -> Option | None:
        """Return the last line of its files that sets one of these options."""
        return next((option for option in reversed(self.options) if option.key in keys), None)

    def where(self, *keys: str) -> str:
        """Say which line of which file sets one of these options, to be put behind a sentence."""
        option = self.origin(*keys)
        if option is None:
            return ""
        return f" ({option.path} line {option.line}: {option.key}={option.value[:160]})"

    def ours(self, *keys: str) -> bool:
        """Whether a file that the collection writes is what sets these options."""
        option = self.origin(*keys)
        return self.managed and (option is None or option.path == self.fragment)


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and len(text) < 19 else None


def _words(text: str) -> tuple[str, ...]:
    """Split a list as systemctl shows it: C-style quotes where there are spaces within."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(text.split())


def _commands(lines: t.Iterable[str]) -> tuple[Command, ...]:
    found = []
    for line in lines:
        for match in _COMMAND.finditer(line):
            ignored = match.group("ignore") == "yes" or "ignore-failure" in match.group("ignore")
            argv = tuple(_logs.redact(match.group("argv")).split())
            found.append(Command(match.group("path"), argv, ignored, match.group("code"), int(match.group("status"))))
    return tuple(found)


def _preloaded(environment: str) -> tuple[str, ...]:
    for word in _words(environment):
        name, equals, value = word.partition("=")
        if equals and name == "LD_PRELOAD":
            return tuple(part for part in re.split(r"[\s:]+", value) if part)
    return ()


def _error(text: str) -> str:
    """What a D-Bus error says: its name stands in front of the quoted message."""
    match = re.fullmatch(r'\S+ "(.*)"', text.strip())
    told = match.group(1) if match else text.strip()
    return "" if told in ("", '""') else told


def parse(name: str, block: str) -> UnitSeen:
    """Read what ``systemctl show -p PROPERTIES`` says of one unit."""
    lines: dict[str, list[str]] = {}
    for line in block.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            lines.setdefault(key, []).append(value)
    said = {key: values[-1] for key, values in lines.items()}
    files = [_FILE.match(line) for line in lines.get("EnvironmentFiles", ())]

    def paths(*keys: str) -> tuple[str, ...]:
        return tuple(word for key in keys for word in _words(said.get(key, "")))

    directories = (
        ("StateDirectory", "/var/lib"),
        ("LogsDirectory", "/var/log"),
        ("CacheDirectory", "/var/cache"),
        ("RuntimeDirectory", "/run"),
    )
    given = tuple(f"{base}/{word.partition(':')[0]}" for key, base in directories for word in _words(said.get(key, "")))
    return UnitSeen(
        name=said.get("Id") or name,
        state=_health.parse_unit(said.get("Id") or name, block),
        names=(name, *paths("Names")),
        load_error=_error(said.get("LoadError", "")),
        file_state=said.get("UnitFileState", ""),
        stale=said.get("NeedDaemonReload") == "yes",
        fragment=said.get("FragmentPath", ""),
        drop_ins=paths("DropInPaths"),
        condition=said.get("ConditionResult") != "no",
        assertion=said.get("AssertResult") != "no",
        kind=said.get("Type", ""),
        restart=said.get("Restart", ""),
        notify_access=said.get("NotifyAccess", ""),
        start_limit=said.get("TimeoutStartUSec", ""),
        pid_file=said.get("PIDFile", ""),
        commands=_commands(lines.get("ExecStart", ())),
        before=_commands(lines.get("ExecStartPre", ())),
        preload=_preloaded(said.get("Environment", "")),
        environment_files=tuple((match.group(1), match.group(2) == "yes") for match in files if match),
        user=said.get("User", ""),
        group=said.get("Group", ""),
        dynamic_user=said.get("DynamicUser") == "yes",
        directory=said.get("WorkingDirectory", ""),
        root=said.get("RootDirectory", "") or said.get("RootImage", ""),
        protect_system=said.get("ProtectSystem", ""),
        protect_home=said.get("ProtectHome", ""),
        writable=paths("ReadWritePaths"),
        read_only=paths("ReadOnlyPaths"),
        hidden=paths("InaccessiblePaths"),
        bound=paths("BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem") + given,
        files_limit=_number(said.get("LimitNOFILE", "")),
        memory_max=_number(said.get("MemoryMax", "")),
        memory=_number(said.get("MemoryCurrent", "")),
        wanted=any(said.get(key) for key in ("WantedBy", "RequiredBy", "TriggeredBy")),
    )


def options_of(path: str, text: str) -> tuple[Option, ...]:
    """Return the lines of a unit file that the rules want to know, as they are written."""
    found = []
    number = 0
    pending, began = "", 0
    for line in text.splitlines():
        number += 1
        pending, began = (pending + " " + line.strip(), began) if pending else (line.strip(), number)
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip()
            continue
        key, equals, value = pending.partition("=")
        if equals and key.strip() in _KEPT:
            found.append(Option(key.strip(), _logs.redact(value.strip()), path, began))
        pending = ""
    return tuple(found)


def ended(unit: UnitSeen) -> str:
    """Say how the unit's main process ended, in systemd's own words."""
    if unit.signalled:
        return f"code=killed, status={unit.status}/{SIGNALS.get(unit.status, 'signal')}"
    failed = next((one for one in unit.before if one.code in ("exited", "killed") and one.status), None)
    if failed is not None and not unit.status:
        step = f"/{STEPS[failed.status]}" if failed.status in STEPS else ""
        return f"ExecStartPre={failed.path}: code={failed.code}, status={failed.status}{step}"
    if unit.status:
        return f"code=exited, status={unit.status}/{STEPS.get(unit.status, 'FAILURE')}"
    return f"Result={unit.state.result}" if unit.state.result not in ("", "success") else ""
