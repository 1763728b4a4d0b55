# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._upgrade import upgrade_lines, upgrade_refusals

GATE = {"current": {"version": "1.150.0"}, "target": {"version": "1.163.2"}}


class Tagged(int):
    """A number as newer ansible-core hands it over: with its origin."""


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("synapse_canary", 0, None),
        ("synapse_canary", 2, None),
        ("synapse_canary", ["b"], None),
        ("synapse_canary", "2", None),
        ("synapse_canary", "3", None),
        ("synapse_canary", 3, None),
        ("synapse_canary", -1, "from 0,"),
        ("synapse_canary", True, "a number of hosts"),
        ("synapse_canary", "b", "a number of hosts"),
        ("synapse_canary", ["c"], "names c"),
        ("synapse_batch", [1, "1%", "100%"], None),
        ("synapse_batch", [Tagged(1)], None),
        ("synapse_canary", Tagged(1), None),
        ("synapse_batch", [], "a list such as"),
        ("synapse_batch", 5, "a list such as"),
        ("synapse_batch", [0], "has 0"),
        ("synapse_batch", [True], "has True"),
        ("synapse_batch", ["0%"], "has '0%'"),
        ("synapse_batch", ["101%"], "has '101%'"),
        ("synapse_rollback", True, None),
        ("synapse_rollback", "true", None),
        ("synapse_rollback", "perhaps", "true and false"),
        ("synapse_rollback", 1, "true and false"),
    ],
)
def test_an_order_that_cannot_be_is_refused(setting: str, value: object, words: str | None) -> None:
    settings: dict[str, t.Any] = {"synapse_canary": 1, "synapse_batch": ["100%"], "synapse_rollback": False}
    refusals = upgrade_refusals({**settings, setting: value}, ["a", "b"])
    assert len(refusals) == (words is not None)
    assert words is None or words in refusals[0]
    assert words is None or setting in refusals[0]


@pytest.mark.parametrize(
    ("known", "where", "line"),
    [
        ({"_synapse_gate": GATE}, "proven", "h: 1.150.0 -> 1.163.2, proven healthy"),
        (
            {"_synapse_gate": GATE, "_synapse_backup": {"path": "/b/1.sqlite3"}},
            "proven",
            "h: 1.150.0 -> 1.163.2, proven healthy; the database as it was before: /b/1.sqlite3",
        ),
        (
            {"_synapse_gate": {"skipped": True}, "_synapse_environment": {"release": "1.163.2-ab"}},
            "proven",
            "h: 1.163.2-ab is in place, nothing to do, proven healthy",
        ),
        (
            {"_synapse_switched": {"pending": True}, "_synapse_environment": {"release": "1.163.2-ab"}},
            "proven",
            "h: 1.163.2-ab is in place, with what had changed beside it or was left open, proven healthy",
        ),
        ({"_synapse_gate": {**GATE, "current": {}}}, "proven", "h: an environment that says no version -> 1.163.2, "),
        (
            {
                "_synapse_gate": {**GATE, "current": {"version": None}, "database": {"state": "missing"}},
                "_synapse_switched": {"pending": True},
                "_synapse_environment": {"release": "1.163.2-ab"},
            },
            "proven",
            "h: 1.163.2-ab is in place, with what had changed beside it or was left open, proven healthy",
        ),
        ({"_synapse_failure": {"msg": " Prove: no. "}}, "failed", "h: FAILED: Prove: no."),
        ({"_synapse_failure": {"skipped": True}, "ansible_failed_result": {"msg": "no"}}, "failed", "h: FAILED: no"),
        ({}, "failed", "h: FAILED: see above"),
        ({"_synapse_failure": {"msg": "no"}}, "unknown", "h: UNKNOWN: it went out of reach in the middle of it"),
        ({}, "away", "h: out of reach, nothing was done"),
        ({}, "", "h: untouched, because a server before it was not proven"),
    ],
)
def test_what_an_upgrade_came_to(known: dict[str, t.Any], where: str, line: str) -> None:
    groups = {name: ["h"] if name == where else [] for name in ("proven", "failed", "away", "unknown")}
    [said] = upgrade_lines({"h": known}, ["h"], **groups)
    assert said.startswith(line)


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({"_synapse_gate": GATE}, "h: would go 1.150.0 -> 1.163.2"),
        (
            {"_synapse_switched": {"pending": True}, "_synapse_environment": {"release": "1.163.2-ab"}},
            "h: 1.163.2-ab would be in place, with what changes beside it or was left open",
        ),
    ],
)
def test_check_mode_says_what_would_be(known: dict[str, t.Any], line: str) -> None:
    assert upgrade_lines({"h": known}, ["h"], proven=["h"], failed=[], away=[], predicted=True) == [line]
