# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From everything that was seen to findings: all rules, root causes first. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import (
    access,
    answers,
    configuration,
    database,
    environment,
    folklore,
    host,
    identity,
    neighbours,
    public,
    service,
    words,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import (
    SEVERITIES,
    Clue,
    Finding,
    Rule,
    Rulebook,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULEBOOKS", "Diagnosis", "diagnose", "every_rule"]

_OWN = Rulebook("doctor")


@_OWN.rule(
    "unseen",
    severity="warning",
    cause="The part did not answer in time, or could not be read.",
    remedy="Mend what is said of it; then ask again.",
    symptom=True,
)
def _unseen(seen: Seen) -> Iterable[Clue]:
    """A part of the installation could not be looked at."""
    for part, why in sorted(seen.unseen.items()):
        yield Clue(f"Of the {part}, nothing could be seen.", why)


# From the ground upwards: what stands on a broken part is looked at after it.
RULEBOOKS = (
    host.RULES,
    environment.RULES,
    identity.RULES,
    access.RULES,
    configuration.RULES,
    database.RULES,
    neighbours.RULES,
    service.RULES,
    answers.RULES,
    public.RULES,
    words.RULES,
    folklore.RULES,
    _OWN,
)


def every_rule() -> tuple[Rule, ...]:
    """Return all rules, in the order in which their findings are told."""
    return tuple(rule for book in RULEBOOKS for rule in book.rules)


@dataclass(frozen=True)
class Diagnosis:
    """The findings, the gravest root cause first, and those that only follow from them."""

    findings: tuple[Finding, ...]
    consequences: tuple[Finding, ...] = ()

    def count(self, severity: str) -> int:
        """Return how many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each severity."""
        return {severity: self.count(severity) for severity in SEVERITIES}


def _found(rules: Sequence[Rule], seen: Seen) -> list[tuple[Rule, Finding]]:
    found = []
    for rule in rules:
        try:
            found += [(rule, finding) for finding in rule.findings(seen)]
        except Exception as error:  # what was seen of a damaged host is damaged too; the other rules still speak
            note = Finding(
                "doctor.rule_failed",
                "info",
                f"The rule {rule.id} could not decide.",
                type(error).__name__,
                "What was seen of this host is of a form that the rule does not know.",
                "Tell the maintainers of the collection, with the line above.",
                "",
                False,
            )
            found.append((rule, note))
    return found


def _explained(found: Sequence[tuple[Rule, Finding]]) -> dict[int, int]:
    """Return, by position, which finding explains another. What is explained itself explains nothing more."""
    explained: dict[int, int] = {}
    for position, (rule, cause) in enumerate(found):
        if position in explained or cause.id != rule.id:
            continue
        for other, (consequence_rule, consequence) in enumerate(found):
            if other in explained or consequence.id == cause.id:
                continue
            follows = any(fnmatchcase(consequence.id, pattern) for pattern in rule.explains)
            if follows or (rule.stops and consequence_rule.symptom and not rule.symptom):
                explained[other] = position
    return explained


def diagnose(seen: Seen, rules: Sequence[Rule] | None = None) -> Diagnosis:
    """Return what is wrong with an installation; one cause is one finding, however much it breaks."""
    found = _found(every_rule() if rules is None else rules, seen)
    explained = _explained(found)
    roots, consequences = [], []
    for position, (_rule, finding) in enumerate(found):
        if position in explained:
            consequences.append(finding)
            continue
        follows = [found[other][1].id for other, cause in explained.items() if cause == position]
        roots.append(replace(finding, follows=tuple(dict.fromkeys(follows))))
    roots.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(roots), tuple(consequences))
