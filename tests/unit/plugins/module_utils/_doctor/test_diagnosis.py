# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import diagnosis
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import (
    REPAIRS,
    SEVERITIES,
    Clue,
    Rule,
    Rulebook,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.report import report_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen

if t.TYPE_CHECKING:
    from collections.abc import Iterable

SEEN = Seen(Request())


def book(*rules: tuple[str, dict[str, t.Any]]) -> list[Rule]:
    """Return rules that all find something, by their names and what is special about each."""
    found = Rulebook("part")
    for name, special in rules:
        given = {"severity": "error", "cause": "a cause", "remedy": "a remedy", **special}

        def check(seen: Seen, name: str = name) -> Iterable[Clue]:
            """Something is wrong."""
            yield Clue(f"{name} is wrong", "the evidence")

        found.rule(name, **given)(check)
    return found.rules


def ids(found: Iterable[t.Any]) -> list[str]:
    return [one.id for one in found]


def test_a_cause_is_told_with_the_names_of_what_follows_from_it() -> None:
    result = diagnosis.diagnose(
        SEEN, book(("cause", {"explains": ("part.effect*",)}), ("effect", {}), ("effect_2", {}))
    )
    assert ids(result.findings) == ["part.cause"]
    assert result.findings[0].follows == ("part.effect", "part.effect_2")
    assert ids(result.consequences) == ["part.effect", "part.effect_2"]


def test_what_is_explained_explains_nothing_more() -> None:
    rules = book(("a", {"explains": ("part.b",)}), ("b", {"explains": ("part.c",)}), ("c", {}))
    assert ids(diagnosis.diagnose(SEEN, rules).findings) == ["part.a", "part.c"]


def test_a_cause_that_is_found_later_explains_what_was_found_before() -> None:
    rules = book(("effect", {}), ("cause", {"explains": ("part.effect",)}))
    assert ids(diagnosis.diagnose(SEEN, rules).findings) == ["part.cause"]


def test_what_stops_the_server_explains_all_symptoms() -> None:
    rules = book(("cause", {"stops": True}), ("down", {"symptom": True}), ("other", {}))
    result = diagnosis.diagnose(SEEN, rules)
    assert ids(result.findings) == ["part.cause", "part.other"]
    assert result.findings[0].follows == ("part.down",)


def test_a_symptom_is_told_where_no_cause_is_known() -> None:
    assert ids(diagnosis.diagnose(SEEN, book(("down", {"symptom": True}))).findings) == ["part.down"]


def test_two_that_explain_each_other_leave_the_first() -> None:
    rules = book(("a", {"explains": ("part.b",)}), ("b", {"explains": ("part.a",)}))
    assert ids(diagnosis.diagnose(SEEN, rules).findings) == ["part.a"]


def test_the_gravest_comes_first_and_otherwise_the_order_of_the_rules_counts() -> None:
    rules = book(("w", {"severity": "warning"}), ("e", {}), ("c", {"severity": "critical"}), ("e2", {}))
    assert ids(diagnosis.diagnose(SEEN, rules).findings) == ["part.c", "part.e", "part.e2", "part.w"]


def test_a_rule_that_breaks_does_not_silence_the_others() -> None:
    found = Rulebook("part")

    def broken(seen: Seen) -> Iterable[Clue]:
        """Break."""
        raise KeyError("what a damaged host has in store")

    found.rule("broken", severity="error", cause="", remedy="")(broken)
    result = diagnosis.diagnose(SEEN, [*found.rules, *book(("other", {}))])
    assert ids(result.findings) == ["part.other", "doctor.rule_failed"]
    assert "part.broken" in result.findings[1].summary


def test_what_could_not_be_seen_is_said() -> None:
    result = diagnosis.diagnose(Seen(Request(), unseen={"database": "it did not answer in time"}))
    (finding,) = [one for one in result.findings if one.id == "doctor.unseen"]
    assert (finding.evidence, finding.severity) == ("it did not answer in time", "warning")


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.id) for rule in diagnosis.every_rule()])
def test_every_rule_says_what_a_person_needs(rule: Rule) -> None:
    assert rule.severity in SEVERITIES
    assert rule.repair in REPAIRS
    assert not rule.safe or rule.repair
    assert rule.title.endswith(".")
    assert rule.cause.endswith(".")
    assert rule.remedy
    assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", rule.id)
    known = [one.id for one in diagnosis.every_rule()]
    for pattern in rule.explains:
        assert any(diagnosis.fnmatchcase(name, pattern) for name in known), (
            f"{rule.id} explains {pattern}, which is none"
        )


def test_no_two_rules_have_one_name() -> None:
    names = [rule.id for rule in diagnosis.every_rule()]
    assert len(names) == len(set(names))


def test_nothing_that_was_seen_is_no_failure_of_a_rule() -> None:
    result = diagnosis.diagnose(SEEN)
    assert "doctor.rule_failed" not in ids(result.findings)


def test_the_report_has_every_key_even_of_a_host_where_nothing_was_seen() -> None:
    report = report_of(SEEN, diagnosis.diagnose(SEEN))
    assert report["healthy"] is False
    assert report["version"] is None
    assert set(report["counts"]) == set(SEVERITIES)
