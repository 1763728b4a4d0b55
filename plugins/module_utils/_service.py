# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd says of units, and what is to be done about them. Pure, no I/O, no Ansible."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = [
    "PROPERTIES",
    "Plan",
    "Unit",
    "Wanted",
    "full_name",
    "needs_jobs",
    "parse_jobs",
    "parse_show",
    "plan",
    "skipped",
]

PROPERTIES = (
    "Id",
    "LoadState",
    "LoadError",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "Job",
    "Result",
    "Type",
    "ExecMainStatus",
)

_SUFFIXES = (".service", ".socket", ".target", ".timer", ".path", ".mount", ".slice", ".automount", ".swap", ".scope")
_UP = {"active", "activating", "reloading", "refreshing"}
_DOWN = {"inactive", "failed"}
# What "systemctl is-enabled" calls enabled for good, or as enabled as it can be (systemctl(1)).
_ENABLED = {"enabled", "alias", "static", "indirect", "generated"}
_TO_DISABLE = {"enabled", "enabled-runtime", "alias"}
# A job that brings a unit up, or leaves it up.
_STARTING = {"start", "restart", "try-restart", "reload", "reload-or-start", "verify-active"}
_MASKED = {"masked", "masked-runtime"}
_JOB = re.compile(r"^\s*\d+\s+(\S+)\s+(\S+)\s+(waiting|running)\s*$")


@dataclass(frozen=True)
class Unit:
    """A unit as systemd knows it (org.freedesktop.systemd1(5)).

    ``id`` differs from ``name`` where that is an alias; ``job`` is the kind of the job queued for it, if any.
    ``kind`` is the ``Type=`` of a service.
    """

    name: str
    id: str = ""
    load: str = "loaded"
    load_error: str = ""
    active: str = "inactive"
    sub: str = "dead"
    file: str = "disabled"
    stale: bool = False
    queued: bool = False
    job: str = ""
    result: str = "success"
    status: str = "0"
    kind: str = ""

    @property
    def up(self) -> bool:
        """Whether it runs, or is on its way up; a job that will stop it counts."""
        return self.active in _UP and self.job != "stop"

    @property
    def down(self) -> bool:
        """Whether it does not run, and nothing is queued that starts it."""
        return self.active in _DOWN and self.job not in _STARTING

    @property
    def told(self) -> str:
        """Its state, as ``--diff`` shows it."""
        return f"{self.active} ({self.job} queued)" if self.job else self.active

    @property
    def started(self) -> bool:
        """Whether a start that systemd calls done has led to something: what runs, or a job that ended well."""
        return self.up or (self.kind == "oneshot" and self.active == "inactive")


@dataclass(frozen=True)
class Wanted:
    """What is wanted of each unit; ``None`` leaves that half as it is."""

    state: str | None = None
    enabled: bool | None = None


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: enable or disable, forget failures of what starts, then act on each unit in turn."""

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    verb: str = ""
    units: tuple[str, ...] = ()
    reload: bool = False
    before: dict[str, dict[str, str]] = field(default_factory=dict)
    after: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether there is anything to do; that systemd reads unit files again is no change."""
        return bool(self.enable or self.disable or self.units)

    @property
    def diff(self) -> dict[str, dict[str, dict[str, str]]]:
        """What ``--diff`` shows."""
        return {"before": self.before, "after": self.after}


def full_name(name: str) -> str:
    """Return a unit's name with its kind; one without is a service's. Raises ``SynapseError`` for what is none."""
    # What begins with "-" would be an option, and patterns name units that happen to be loaded.
    if not re.fullmatch(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}", name):
        raise SynapseError(
            f"{name!r} is no name of a unit: give one such as matrix-synapse.service, without a path or patterns."
        )
    return name if name.endswith(_SUFFIXES) else f"{name}.service"


def parse_show(text: str, names: t.Sequence[str]) -> list[Unit]:
    """Read ``systemctl show -p PROPERTIES UNIT...``: a block a unit, in the order in which they were asked for.

    Raises ``SynapseError`` where that is not what came back.
    """
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]
    if len(blocks) != len(names):
        raise SynapseError(
            f"systemctl was asked about {len(names)} units and told of {len(blocks)}: {text.strip()[:300]!r}. Look at "
            "what 'systemctl show' says on that host."
        )
    return [_unit(name, block) for name, block in zip(names, blocks)]


def _unit(name: str, block: str) -> Unit:
    told = dict(line.partition("=")[::2] for line in block.splitlines())
    return Unit(
        name,
        id=told.get("Id", name),
        load=told.get("LoadState", ""),
        load_error=_words(told.get("LoadError", "")),
        active=told.get("ActiveState", ""),
        sub=told.get("SubState", ""),
        file=told.get("UnitFileState", ""),
        stale=told.get("NeedDaemonReload") == "yes",
        queued=told.get("Job", "0") not in {"", "0"},
        result=told.get("Result", ""),
        status=told.get("ExecMainStatus", "0"),
        kind=told.get("Type", ""),
    )


def _words(error: str) -> str:
    """What a D-Bus error says: its name stands in front of the quoted message."""
    match = re.fullmatch(r'\S+ "(.*)"', error.strip())
    told = match.group(1) if match else error.strip()
    return "" if told in {"", '""'} else told


def needs_jobs(units: t.Iterable[Unit]) -> bool:
    """Whether the kind of a queued job has to be asked for."""
    return any(unit.queued for unit in units)


def parse_jobs(text: str) -> dict[str, str]:
    """Read ``systemctl list-jobs --no-legend``: the kind of the job that is queued for each unit."""
    matches = (_JOB.match(line) for line in text.splitlines())
    return {match.group(1): match.group(2) for match in matches if match}


def skipped(journal: str) -> str | None:
    """Return what the end of a unit's log says of a start that a condition in its file forbade, as a sentence."""
    last = (journal.splitlines() or [""])[-1].strip()
    # As systemd 252, 257 and versions before 250 say it.
    told = re.search(
        r"was skipped because .+|skipped, unmet condition check .+|Condition check resulted in .+ being skipped", last
    )
    return f"{last.rstrip('.')}." if told else None


def _refuse(unit: Unit, wanted: Wanted) -> None:
    """Raise ``SynapseError`` where systemd could not do what is wanted."""
    starts = wanted.state in {"started", "restarted"}
    if not starts and not wanted.enabled:
        return
    what = "started" if starts else "enabled"
    if unit.load == "masked" or unit.file in _MASKED:
        raise SynapseError(
            f"Unit {unit.name} is masked, so that it cannot be {what}: somebody wanted that. Undo it with "
            f"'systemctl unmask {unit.name}', then run again.",
            unit=unit.name,
        )
    if unit.load == "not-found":
        raise SynapseError(
            f"The host has no unit {unit.name}, so that it cannot be {what}: write its file first (and read it with "
            "'daemon_reload: true'), or correct the name.",
            unit=unit.name,
        )
    if unit.load in {"error", "bad-setting"}:
        raise SynapseError(
            f"systemd refuses the file of unit {unit.name}: {unit.load_error or unit.load}. Correct it; "
            f"'systemd-analyze verify {unit.name}' names the line.",
            unit=unit.name,
        )
    if wanted.enabled and unit.file in {"transient", "bad"}:
        raise SynapseError(
            f"Unit {unit.name} cannot be enabled, systemd calls its file {unit.file}: write a file for it first.",
            unit=unit.name,
        )


def _acts(unit: Unit, state: str | None) -> bool:
    if state == "started":
        return not unit.up
    if state == "stopped":
        return not unit.down
    return state == "restarted"


def plan(wanted: Wanted, units: t.Sequence[Unit]) -> Plan:
    """Decide what to do about units, given in the order in which they start; they stop in the opposite one.

    Raises ``SynapseError`` where systemd could not do it.
    """
    for unit in units:
        _refuse(unit, wanted)
    enable = tuple(unit.name for unit in units if wanted.enabled and unit.file not in _ENABLED)
    disable = tuple(unit.name for unit in units if wanted.enabled is False and unit.file in _TO_DISABLE)
    acting = [unit for unit in units if _acts(unit, wanted.state)]
    starts = wanted.state in {"started", "restarted"}
    if not starts:
        acting.reverse()
    after = "inactive" if wanted.state == "stopped" else "active"
    names = {unit.name for unit in acting}
    return Plan(
        enable=enable,
        disable=disable,
        # What failed is not started before, and what was started often of late is refused (start-limit-hit).
        reset=tuple(unit.name for unit in acting if starts),
        verb={"started": "start", "restarted": "restart", "stopped": "stop"}.get(wanted.state or "", ""),
        units=tuple(unit.name for unit in acting),
        # What is started is started as it is written now.
        reload=starts and any(unit.stale for unit in acting),
        before={unit.name: {"state": unit.told, "file": unit.file} for unit in units},
        after={
            unit.name: {
                "state": f"{after} (restarted)"
                if wanted.state == "restarted"
                else (after if unit.name in names else unit.told),
                "file": "enabled" if unit.name in enable else ("disabled" if unit.name in disable else unit.file),
            }
            for unit in units
        },
    )
