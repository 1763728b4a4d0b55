# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor.changes import compare, lines


def report(*names: str, healthy: bool | None = None, severity: str = "error") -> dict[str, t.Any]:
    """Return a report with findings of these names."""
    findings = [
        {"id": name, "severity": severity, "summary": f"{name} is wrong.", "evidence": "seen", "remedy": "mend it"}
        for name in names
    ]
    well = not names if healthy is None else healthy
    return {"healthy": well, "findings": findings, "summary": "In one sentence.", "server_name": "example.org"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, report(), False),
        (None, report("a.b"), True),
        (report(), report(), False),
        (report("a.b"), report("a.b"), False),
        (report(), report("a.b"), True),
        (report("a.b"), report(), True),
        (report("a.b"), report("a.b", "c.d"), True),
        (report("a.b"), report("c.d"), True),
        (report(healthy=True), report(healthy=False), True),
        (report(), report("a.b", severity="info", healthy=True), False),
        (report(), report("a.b", severity="warning", healthy=True), True),
        ({"healthy": True, "findings": "nonsense"}, report(), False),
    ],
)
def test_a_change_is_told_and_nothing_else(
    before: dict[str, t.Any] | None, after: dict[str, t.Any], told: bool
) -> None:
    change = compare(before, after)
    assert bool(change) is told
    assert bool(lines(change, after)) is told


def test_a_line_for_the_whole_one_for_each_finding_and_one_for_each_that_is_over() -> None:
    after = report("c.d")
    assert lines(compare(report("a.b"), after), after) == [
        "<3>example.org: In one sentence.",
        "<3>c.d: c.d is wrong. seen To do: mend it",
        "<5>a.b is over: a.b is wrong.",
    ]


def test_a_finding_of_many_lines_is_one_line() -> None:
    after = report("c.d")
    after["findings"][0]["evidence"] = "first\n  second\n<0>third"
    assert lines(compare(report(), after), after)[1] == "<3>c.d: c.d is wrong. first second <0>third To do: mend it"
