# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cases of tests/faults are well-formed, and ask for findings that there are."""

from __future__ import annotations

import re
import typing as t
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import every_rule

CASES = [
    pytest.param(case, id=f"{path.stem}-{case['id']}")
    for path in sorted((Path(__file__).resolve().parents[1] / "faults" / "cases").glob("*.yml"))
    for case in yaml.safe_load(path.read_text(encoding="utf-8"))
]
IDS = [rule.id for rule in every_rule()]
KEYS = {
    *("id", "title", "inject", "finding", "outcome", "host", "restart", "says", "keeps", "skip", "settle"),
    *("always", "more_keys", "variables"),
}


def test_no_two_cases_have_one_id() -> None:
    ids = [case.values[0]["id"] for case in CASES]
    assert sorted(one for one in set(ids) if ids.count(one) > 1) == []


@pytest.mark.parametrize("case", CASES)
def test_a_case_says_all_there_is_to_say(case: dict[str, t.Any]) -> None:
    assert set(case) <= KEYS
    assert re.fullmatch(r"[A-Z][0-9][0-9A-Z]", case["id"])
    assert case["outcome"] in {"mended", "refused", "nothing"}
    assert case.get("host", "sqlite") in {"sqlite", "postgresql"}
    if case.get("skip"):
        return
    assert case["inject"].strip()
    assert any(fnmatchcase(name, case["finding"]) for name in IDS), f"no rule is called {case['finding']}"
    assert case["outcome"] != "refused" or case["says"]
    re.compile(case.get("says", ""))


def test_some_cases_run_on_each_change() -> None:
    assert sum(bool(case.values[0].get("always")) for case in CASES) >= 10
