# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions about the environment that Synapse runs in: what is wrong with it, and what is to be done. Pure."""

from __future__ import annotations

import json
import posixpath
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import (
    ADOPTED,
    Release,
    free_name,
    latest,
    name_of,
    to_prune,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import Plugin
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_tree import Tree

__all__ = [
    "UNRESOLVED",
    "Finding",
    "Host",
    "Live",
    "Plan",
    "Seen",
    "Wanted",
    "adopted_name",
    "candidates",
    "difference",
    "findings_of",
    "minor_of_name",
    "plan",
    "plan_absent",
]

# Stands for the digest in a release's name while nothing has been resolved: check mode without a lock.
UNRESOLVED = "unresolved"
_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an environment: a stable id and what was seen."""

    id: str
    evidence: str


@dataclass(frozen=True)
class Seen:
    """What is known of one environment: version by package, what is wrong, the Synapse in it (empty: none), plugins."""

    packages: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    plugins: tuple[Plugin, ...] = ()

    @property
    def version(self) -> str:
        return self.packages.get("matrix-synapse", "")


@dataclass(frozen=True)
class Live:
    """What ``path`` is: ``nothing``, a link to a ``release`` of ours, a ``link`` elsewhere, a hand-made ``folder``.

    ``since`` is when a hand-made folder was last changed (``20260131T120000Z``): part of the name it is kept by.
    """

    kind: str
    target: str = ""
    name: str = ""
    seen: Seen = Seen()
    since: str = ""


@dataclass(frozen=True)
class Wanted:
    """What the operator asked for. ``digest`` and ``expected`` are ``None`` until a lock is known.

    ``python`` is the real path of the interpreter to build from, ``None`` where any that works will do.
    """

    path: str
    releases_path: str
    version: str
    request: str
    digest: str | None
    expected: Mapping[str, str] | None
    python: str | None
    activate: bool
    rebuild: bool
    keep: int


@dataclass(frozen=True)
class Host:
    """What was found: what is live, our releases, every name under ``releases_path``, and the first sound candidate.

    ``recorded`` is the text of the record that an earlier run made of a hand-made folder, empty where there is none.
    """

    live: Live
    releases: tuple[Release, ...] = ()
    names: tuple[str, ...] = ()
    sound: Release | None = None
    damaged: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    recorded: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be done, and everything that is returned about it; real run and check mode share it.

    ``adopt_as`` is the name under ``releases_path`` by which a hand-made folder is kept when it gives way, now or
    later; ``record`` is the text to write down about it, beside that name, empty where it stands there.
    """

    build: bool
    name: str
    version: str
    packages: Mapping[str, str]
    switch: bool
    adopt_as: str
    record: str
    previous: str
    clear: tuple[Release, ...]
    prune: tuple[Release, ...]
    problems: tuple[dict[str, str], ...]
    before: str
    after: str
    packages_changed: dict[str, t.Any]

    @property
    def changed(self) -> bool:
        return self.build or self.switch or bool(self.clear or self.prune or self.record)


def minor_of_name(path: str) -> str:
    """Return ``3.11`` for an interpreter called ``python3.11``; empty where the name does not tell."""
    found = re.fullmatch(r"python(\d+\.\d+)", posixpath.basename(path))
    return found[1] if found else ""


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_EXAMPLES])
    return shown if len(items) <= _EXAMPLES else f"{shown} and {len(items) - _EXAMPLES} more"


def _interpreter(tree: Tree, running: str) -> list[Finding]:
    if tree.interpreter is None:
        return [Finding("interpreter_missing", f"{tree.path}/bin/python leads to {tree.base}, which does not exist")]
    found = []
    minor = ".".join(running.split(".")[:2])
    if not running:
        found.append(Finding("interpreter_broken", f"{tree.interpreter} does not start"))
    elif tree.libraries and minor not in tree.libraries:
        made_for = ", ".join(tree.libraries)
        evidence = f"{tree.interpreter} is Python {minor}, the packages lie in a folder for Python {made_for}"
        found.append(Finding("interpreter_changed", evidence))
    configured = ".".join(tree.config_version.split(".")[:2])
    if running and configured and configured != minor and not found:
        evidence = f"pyvenv.cfg says Python {configured}, {tree.interpreter} is Python {minor}"
        found.append(Finding("interpreter_changed", evidence))
    tag = minor.replace(".", "")
    foreign = {name: count for name, count in tree.extensions.items() if name != tag}
    if running and foreign and tag not in tree.extensions:
        counts = ", ".join(f"{count} for cpython-{name}" for name, count in sorted(foreign.items()))
        found.append(Finding("extension_mismatch", f"no compiled extension is for Python {minor}; found {counts}"))
    return found


def _packages(tree: Tree, expected: Mapping[str, str] | None, version: str) -> list[Finding]:
    packages = tree.packages
    found = []
    names = [one.name for one in tree.distributions]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(Finding("distribution_duplicate", f"{name} is installed {names.count(name)} times"))
    if "matrix-synapse" not in packages:
        found.append(Finding("synapse_missing", f"matrix-synapse is not installed in {tree.path}"))
    elif expected is None and packages["matrix-synapse"] != version:
        found.append(Finding("synapse_version", f"matrix-synapse is {packages['matrix-synapse']}, wanted is {version}"))
    if {"psycopg2", "psycopg2-binary"} <= set(packages):
        evidence = "psycopg2 and psycopg2-binary are both installed and own the same files"
        found.append(Finding("psycopg2_conflict", evidence))
    for name, wanted in sorted((expected or {}).items()):
        if name not in packages:
            found.append(Finding("distribution_missing", f"{name} {wanted} is not installed"))
        elif packages[name] != wanted:
            found.append(Finding("distribution_version", f"{name} is {packages[name]}, the lock says {wanted}"))
    if expected is not None:
        foreign = [f"{name} {packages[name]}" for name in sorted(packages) if name not in expected]
        if foreign:
            found.append(Finding("distribution_foreign", f"not in the lock: {', '.join(foreign)}"))
    return found


def _files(tree: Tree) -> list[Finding]:
    found = []
    for one in tree.distributions:
        if not one.complete:
            found.append(Finding("distribution_incomplete", f"{one.name} {one.version} has no METADATA or no RECORD"))
        if one.missing:
            found.append(Finding("files_missing", f"{one.name} {one.version}: {_some(one.missing)}"))
        if one.altered:
            found.append(Finding("files_altered", f"{one.name} {one.version}: {_some(one.altered)}"))
    if tree.leftovers:
        found.append(Finding("distribution_leftover", f"an interrupted uninstall left {_some(tree.leftovers)}"))
    if tree.unreadable:
        evidence = f"only root can read {_some(tree.unreadable)}"
        found.append(Finding("unreadable", evidence))
    if tree.scripts_elsewhere:
        evidence = f"{_some(tree.scripts_elsewhere)} start an interpreter of another place: the folder was moved"
        found.append(Finding("scripts_elsewhere", evidence))
    if tree.noexec:
        evidence = f"{tree.path} is on a file system mounted noexec, where no compiled extension loads"
        found.append(Finding("noexec", evidence))
    return found


def findings_of(tree: Tree, *, running: str, expected: Mapping[str, str] | None, version: str) -> tuple[Finding, ...]:
    """Return everything that is wrong with an environment that was looked at closely.

    ``running`` is the version that its interpreter states, empty where it does not start; ``expected`` is version by
    name, ``None`` where only Synapse's own ``version`` is known.
    """
    return (*_interpreter(tree, running), *_packages(tree, expected, version), *_files(tree))


def candidates(wanted: Wanted, releases: Sequence[Release], live: str) -> tuple[Release, ...]:
    """Return the proven releases that are what is asked for: the live one first, then the newest first."""

    def fits(release: Release) -> bool:
        manifest = release.manifest
        if manifest is None or not release.proven or wanted.python not in {None, manifest.python}:
            return False
        return manifest.request == wanted.request or manifest.lock_digest == wanted.digest

    fitting = [release for release in releases if fits(release)]
    fitting.sort(key=lambda release: release.manifest.proven_at if release.manifest else "", reverse=True)
    fitting.sort(key=lambda release: release.name != live)
    return tuple(fitting)


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, t.Any]:
    """Return what differs between two sets of packages, as it is returned to the operator."""
    return {
        "added": {name: after[name] for name in sorted(after) if name not in before},
        "removed": {name: before[name] for name in sorted(before) if name not in after},
        "changed": {
            name: {"before": before[name], "after": after[name]}
            for name in sorted(after)
            if name in before and before[name] != after[name]
        },
    }


def adopted_name(live: Live, names: Sequence[str]) -> str:
    """Return the name by which a hand-made folder is kept when it gives way; empty where there is none.

    It is the same in every run until then: it is made of what the folder holds and when it was last changed.
    """
    if live.kind != "folder":
        return ""
    return free_name(f"{ADOPTED}{live.seen.version or 'unknown'}-{live.since}", names)


def _record(live: Live) -> str:
    """Return what is written down about a hand-made environment, beside it: nothing in it is ever changed."""
    known: dict[str, t.Any] = {
        "packages": dict(live.seen.packages),
        "problems": [one.evidence for one in live.seen.findings],
        "plugins": [
            {"name": one.name, "version": one.version, "modules": list(one.modules)} for one in live.seen.plugins
        ],
    }
    return json.dumps(known, indent=2, sort_keys=True) + "\n"


def _state(release: str, packages: Mapping[str, str], live: bool, others: Sequence[str] = ()) -> str:
    lines = [f"release {release} ({'live' if live else 'not live'})"] if release else []
    lines += [f"{name} {packages[name]}" for name in sorted(packages)] if release else []
    return "".join(f"{line}\n" for line in [*lines, *others])


def _to_prune(wanted: Wanted, host: Host, name: str, *, build: bool, switch: bool) -> tuple[Release, ...]:
    """Return the releases that are too many: what is or becomes live stays, and the one to go back to."""
    if not wanted.activate:
        return ()
    if switch:
        return to_prune(host.releases, keep=wanted.keep - 1 if build else wanted.keep, spare=(name, host.live.name))
    return to_prune(host.releases, keep=wanted.keep, spare=(name, latest(host.releases, apart_from=name)))


def _problems(wanted: Wanted, host: Host, name: str, build: bool, adopt: str) -> tuple[dict[str, str], ...]:
    live = host.live
    action = f"The release {name} is {'built beside it' if build else 'whole'}"
    action += " and takes its place." if wanted.activate else "; it takes its place when it is activated."
    if adopt:
        action += f" This folder is then kept as {posixpath.join(wanted.releases_path, adopt)}."
    found = []
    if live.name != name:
        found += [{"id": one.id, "evidence": one.evidence, "action": action} for one in live.seen.findings]
    for damaged, findings in sorted(host.damaged.items()):
        if damaged != live.name:
            kept = f"It is not used; the release {name} is {'built beside it' if build else 'used'}."
            found += [{"id": one.id, "evidence": f"{damaged}: {one.evidence}", "action": kept} for one in findings]
    for release in host.releases:
        if release.incomplete and release.name != live.name:
            evidence = f"{release.path} was never finished"
            found.append({"id": "build_interrupted", "evidence": evidence, "action": "It is removed."})
    return tuple(found)


def _linked(wanted: Wanted, live: Live) -> str:
    """What a link leads to that is no release of ours: what was made by hand, where somebody went back to it."""
    if live.kind != "link":
        return ""
    folder, name = posixpath.split(live.target)
    return name if folder == wanted.releases_path else live.target


def plan(wanted: Wanted, host: Host) -> Plan:
    """Decide what is to be done so that a proven release of what is wanted exists, and is live if it is to be."""
    live = host.live
    clear = tuple(release for release in host.releases if release.incomplete and release.name != live.name)
    sound = None if wanted.rebuild else host.sound
    if sound is not None and sound.manifest is not None:
        build, name = False, sound.name
        version, packages = sound.manifest.version, sound.manifest.packages
    else:
        gone = {release.name for release in clear}
        taken = [one for one in host.names if one not in gone]
        build, name = True, free_name(name_of(wanted.version, wanted.digest or UNRESOLVED), taken)
        version, packages = wanted.version, dict(wanted.expected or {})
    switch = wanted.activate and live.name != name
    adopt_as = adopted_name(live, host.names)
    record = _record(live) if adopt_as else ""
    previous = adopt_as if switch and adopt_as else live.name or _linked(wanted, live)
    prune = _to_prune(wanted, host, name, build=build, switch=switch)
    before = live.name or (live.target if live.kind != "nothing" else "")
    return Plan(
        build=build,
        name=name,
        version=version,
        packages=packages,
        switch=switch,
        adopt_as=adopt_as,
        record="" if record == host.recorded else record,
        previous="" if previous == name else previous,
        clear=clear,
        prune=prune,
        problems=_problems(wanted, host, name, build, adopt_as),
        before=_state(before, live.seen.packages, True, [f"release {one.name} (old)" for one in prune]),
        after=_state(
            name,
            packages,
            wanted.activate or live.name == name,
            [f"record {adopt_as}.json"] if record != host.recorded else [],
        ),
        packages_changed=difference(live.seen.packages, packages),
    )


def plan_absent(host: Host, path: str) -> Plan:
    """Decide what goes: the link where it leads to a release of ours, and every folder that is ours."""
    ours = host.live.kind == "release"
    return Plan(
        build=False,
        name="",
        version="",
        packages={},
        switch=ours,
        adopt_as="",
        record="",
        previous="",
        clear=host.releases,
        prune=(),
        problems=(),
        before="".join(f"{one}\n" for one in ([path] if ours else []) + [one.path for one in host.releases]),
        after="",
        packages_changed=difference(host.live.seen.packages if ours else {}, {}),
    )
