# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What installed packages want and do not have: what ``pip check`` says, without pip. Pure.

Read are the ``Requires-Dist`` lines of METADATA (PEP 508). What cannot be read wants nothing: a doubt is no finding.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import applies, canonical, version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SYNAPSE", "Lack", "Wish", "allows", "extras_of", "lacks", "markers_of", "parse"]

SYNAPSE = "matrix-synapse"
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^\]]*)\])?\s*"
    r"(?:\(?(?P<versions>[\w\s.,<>=!~*+-]*)\)?)\s*(?P<address>@[^;]*)?(?:;(?P<marker>.*))?"
)
_CLAUSE = re.compile(r"(===|==|!=|<=|>=|~=|<|>)\s*([A-Za-z0-9.*+!_-]+)")
_EXTRA = re.compile(r"extra\s*==\s*(?:'([^']*)'|\"([^\"]*)\")")
# A module that two packages provide: either will do (psycopg2-binary is psycopg2, built).
_INSTEAD = {"psycopg2": "psycopg2-binary"}
# What Synapse's own check leaves out, too: it is needed to build Synapse (synapse/util/check_dependencies.py, 1.163.2).
_NOT_NEEDED = {"setuptools-rust"}


@dataclass(frozen=True)
class Wish:
    """One requirement: a package, which of its extras, which versions, and when."""

    name: str
    extras: tuple[str, ...]
    versions: str
    marker: str


@dataclass(frozen=True)
class Lack:
    """What is wanted, and not there: ``by`` wants ``name`` in ``versions``; ``found`` is ``None`` for nothing."""

    by: str
    name: str
    versions: str
    found: str | None

    @property
    def wanted(self) -> str:
        """What is wanted, as it would be given to pip."""
        return f"{self.name}{self.versions}"


def parse(line: str) -> Wish | None:
    """Read what follows ``Requires-Dist:``; ``None`` where it cannot be read."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    extras = tuple(canonical(one.strip()) for one in (found["extras"] or "").split(",") if one.strip())
    versions = "" if found["address"] else re.sub(r"\s+", "", found["versions"] or "")
    return Wish(canonical(found["name"]), extras, versions, (found["marker"] or "").strip())


def _key(version: str) -> tuple[tuple[int, int | str], ...]:
    return version_key(version.rpartition("!")[2])


def _clause(operator: str, wanted: str, version: str) -> bool:
    if operator == "===":
        return wanted == version
    if wanted.endswith(".*"):
        same = f"{version}.".startswith(wanted[:-1])
        return same == (operator == "==")
    if operator == "~=":
        stem = wanted.rpartition(".")[0]
        return _key(version) >= _key(wanted) and f"{version}.".startswith(f"{stem}.")
    first, second = _key(version), _key(wanted)
    order = (first > second) - (first < second)
    return order in {"==": (0,), "!=": (-1, 1), "<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1)}[operator]


def allows(versions: str, version: str) -> bool:
    """Whether a specifier such as ``>=2.0,<3`` allows a version, which may be a pre-release."""
    return all(_clause(operator, wanted, version) for operator, wanted in _CLAUSE.findall(versions))


def markers_of(version: str, implementation: str = "CPython", machine: str = "") -> dict[str, str]:
    """Return the values of environment markers on Linux, for a Python of this version."""
    return {
        "implementation_name": implementation.lower(),
        "implementation_version": version,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": implementation,
        "platform_system": "Linux",
        "python_full_version": version,
        "python_version": ".".join(version.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }


def _holds(marker: str, markers: Mapping[str, str]) -> bool:
    try:
        return applies(marker, markers)
    except SynapseError:
        return False


def _met(wish: Wish, packages: Mapping[str, str]) -> tuple[bool, str | None]:
    """Whether a wish is met, and by which version."""
    version = packages.get(wish.name, packages.get(_INSTEAD.get(wish.name, "")))
    return version is not None and allows(wish.versions, version), version


def _wishes(lines: Iterable[str], markers: Mapping[str, str], extras: Iterable[str]) -> list[Wish]:
    """Return the wishes that hold, with any of the extras; without one in any case."""
    found = []
    for wish in filter(None, map(parse, lines)):
        if wish.name not in _NOT_NEEDED and any(
            _holds(wish.marker, {**markers, "extra": extra}) for extra in ("", *extras)
        ):
            found.append(wish)
    return found


def lacks(
    wants: Mapping[str, tuple[str, ...]],
    packages: Mapping[str, str],
    markers: Mapping[str, str],
    extras: tuple[str, ...] = (),
) -> tuple[list[Lack], frozenset[str]]:
    """Return what Synapse and all that it wants lack, and the names of all that it wants; ``extras`` are Synapse's.

    ``wants`` are the lines by package, ``packages`` the versions. What another extra of Synapse wants counts where it
    is there in a version that will not do: Synapse refuses that, too.
    """
    found: dict[tuple[str, str], Lack] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(SYNAPSE, extras)]
    done: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        for wish in _wishes(wants.get(name, ()), markers, extras):
            met, version = _met(wish, packages)
            # What only an extra wants is told with the feature that needs it.
            if not met and (name != SYNAPSE or _holds(wish.marker, markers)):
                found.setdefault((name, wish.name), Lack(name, wish.name, wish.versions, version))
            if version is not None:
                waiting.append((wish.name, wish.extras))
    for extra, of_extra in extras_of(wants.get(SYNAPSE, ()), packages, markers).items():
        for lack in of_extra if extra != "test" else ():
            if lack.found is not None:
                found.setdefault((SYNAPSE, lack.name), lack)
    return [found[key] for key in sorted(found)], frozenset(name for name, _extras in done)


def extras_of(
    lines: Iterable[str], packages: Mapping[str, str], markers: Mapping[str, str]
) -> dict[str, tuple[Lack, ...]]:
    """Return what each extra of Synapse lacks, for the extras that lack something."""
    wishes = [wish for wish in map(parse, lines) if wish is not None and "extra" in wish.marker]
    names = sorted({first or second for wish in wishes for first, second in _EXTRA.findall(wish.marker)})
    found: dict[str, tuple[Lack, ...]] = {}
    for extra in names:
        missing = {}
        for wish in wishes:
            if not _holds(wish.marker, {**markers, "extra": extra}):
                continue
            met, version = _met(wish, packages)
            if not met:
                missing[wish.name] = Lack(SYNAPSE, wish.name, wish.versions, version)
        if missing:
            found[extra] = tuple(missing[name] for name in sorted(missing))
    return found
