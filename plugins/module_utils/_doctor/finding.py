# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a finding is, and how a rule is written. Pure, no I/O, no Ansible.

A rule is one function: it is given everything that was seen, and yields a ``Clue`` for each thing that is wrong. What
does not depend on the case (cause, remedy, which repair) stands in its decorator, from where the documentation takes
it too.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["REPAIRS", "SEVERITIES", "Clue", "Finding", "Rule", "Rulebook"]

# The gravest first. critical: an identity or data is in danger, or the server cannot serve at all; error: something
# does not work as it was meant; warning: it will not for long, or is not as safe as it should be; info: good to know.
SEVERITIES = ("critical", "error", "warning", "info")

# The tags of the playbook repair. Empty: nothing here can mend it, a person has to.
REPAIRS = ("", "reinstall", "permissions", "key", "config", "service")


@dataclass(frozen=True)
class Clue:
    """One thing that a rule saw. What is ``None`` is as the rule says in general.

    ``summary`` is one plain sentence about this case, ``evidence`` the line, the path or the value that shows it, never
    a secret.
    """

    summary: str
    evidence: str = ""
    severity: str | None = None
    cause: str | None = None
    remedy: str | None = None
    repair: str | None = None
    safe: bool | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, as a person is told it. ``follows`` are the ids of findings that this one explains."""

    id: str
    severity: str
    summary: str
    evidence: str
    cause: str
    remedy: str
    repair: str
    safe: bool
    follows: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        """Return the finding as plain data."""
        return {**asdict(self), "follows": list(self.follows)}


@dataclass(frozen=True)
class Rule:
    """One rule. ``title`` is the docstring of its function.

    ``explains``: patterns (fnmatch) of the ids of findings that are a consequence where this rule has found something.
    ``stops``: what it finds keeps the server from serving, so that it explains every symptom. ``symptom``: what it
    finds only shows that something is wrong elsewhere; it is told where nothing better is known.
    """

    id: str
    severity: str
    title: str
    cause: str
    remedy: str
    repair: str
    safe: bool
    explains: tuple[str, ...]
    stops: bool
    symptom: bool
    check: Callable[[Seen], Iterable[Clue]]

    def findings(self, seen: Seen) -> Iterator[Finding]:
        """Return what this rule finds."""
        for clue in self.check(seen):
            yield Finding(
                id=self.id,
                severity=clue.severity or self.severity,
                summary=clue.summary,
                evidence=clue.evidence,
                cause=self.cause if clue.cause is None else clue.cause,
                remedy=self.remedy if clue.remedy is None else clue.remedy,
                repair=self.repair if clue.repair is None else clue.repair,
                safe=self.safe if clue.safe is None else clue.safe,
            )


class Rulebook:
    """The rules about one part of an installation, in the order in which their findings are told."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.rules: list[Rule] = []

    def rule(
        self,
        name: str,
        *,
        severity: str,
        cause: str,
        remedy: str,
        repair: str = "",
        safe: bool = False,
        explains: tuple[str, ...] = (),
        stops: bool = False,
        symptom: bool = False,
    ) -> Callable[[Callable[[Seen], Iterable[Clue]]], Callable[[Seen], Iterable[Clue]]]:
        """Add the decorated function as the rule ``<part>.<name>``; its docstring is the rule's title."""

        def add(check: Callable[[Seen], Iterable[Clue]]) -> Callable[[Seen], Iterable[Clue]]:
            title = (check.__doc__ or "").strip().split("\n")[0]
            self.rules.append(
                Rule(
                    f"{self.part}.{name}", severity, title, cause, remedy, repair, safe, explains, stops, symptom, check
                )
            )
            return check

        return add
