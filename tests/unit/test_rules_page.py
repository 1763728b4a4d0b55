# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of all rules: it is what the code says, and the code says of each rule what a reader needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import every_rule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import REPAIRS, SEVERITIES, Rule

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "bin" / "make_rules_page.py"
RULES = every_rule()


def check() -> subprocess.CompletedProcess[str]:
    """Ask whether the page is current."""
    return subprocess.run([sys.executable, PROGRAM, "--check"], capture_output=True, text=True, check=False)


def test_the_page_is_what_the_code_says() -> None:
    ended = check()
    assert ended.returncode == 0, ended.stderr


def test_every_rule_has_a_place_that_links_can_name() -> None:
    headings = re.findall(r"^### (\S+)$", (ROOT / "docs" / "rules.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == len(set(headings))


def test_no_two_rules_have_one_name() -> None:
    names = [rule.id for rule in RULES]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_a_reader_needs(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", rule.id)
    assert rule.severity in SEVERITIES
    assert rule.repair in REPAIRS
    assert rule.title.endswith("."), rule.title
    assert rule.cause
    assert rule.remedy
    assert rule.repair or not rule.safe, "what nothing mends cannot be mended safely"
