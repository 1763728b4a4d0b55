# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets what: the decision on one object, without a file system."""

from __future__ import annotations

import os
import stat
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _permissions
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions import Change, Rule, Skip
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

REG, DIR, LNK, SOCK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK
RULE = Rule("/srv", 7, 8, 0o770, True, 0o750, 0o640)


def found(kind: int, mode: int, uid: int = 7, gid: int = 8, links: int = 1) -> os.stat_result:
    return os.stat_result((kind | mode, 1, 1, links, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("rule", "seen", "wanted"),
    [
        (RULE, found(REG, 0o640), None),
        (RULE, found(DIR, 0o750), None),
        (RULE, found(LNK, 0o777), None),
        (RULE, found(SOCK, 0o777, uid=0), None),
        (RULE, found(REG, 0o644), (None, None, 0o640)),
        (RULE, found(REG, 0o600), (None, None, 0o640)),
        (RULE, found(REG, 0o640, uid=0), (7, None, None)),
        (RULE, found(REG, 0o640, gid=0), (None, 8, None)),
        (RULE, found(DIR, 0o755, uid=0, gid=0), (7, 8, 0o750)),
        (RULE, found(DIR, 0o2750), (None, None, 0o750)),
        (RULE, found(LNK, 0o777, uid=0), (7, None, None)),
        (RULE, found(REG, 0o4755), (None, None, 0o640)),
        # Nobody asked for a mode, and a change of owner must not make a file that runs as its new owner.
        (Rule("/srv", uid=0), found(REG, 0o4755), (0, None, 0o755)),
        (Rule("/srv", uid=0), found(DIR, 0o2755), (0, None, None)),
        (Rule("/srv"), found(REG, 0o4755, uid=0), None),
        # Several names.
        (RULE, found(REG, 0o640, links=2), None),
        (RULE, found(REG, 0o644, links=2), (None, None, 0o640)),
        (RULE, found(REG, 0o640, uid=0, links=2), "2 names"),
        (RULE, found(REG, 0o640, gid=42, links=2), "2 names"),
        (Rule("/srv", file_mode=0o640, recurse=True), found(REG, 0o600, uid=0, links=3), "3 names"),
        (Rule("/srv", file_mode=0o640, recurse=True), found(REG, 0o600, uid=5, links=3), (None, None, 0o640)),
        (Rule("/srv", 7, 8, hard_links=True), found(REG, 0o640, uid=0, links=2), (7, None, None)),
        (RULE, found(DIR, 0o755, links=9), (None, None, 0o750)),
    ],
)
def test_decision(rule: Rule, seen: os.stat_result, wanted: t.Any) -> None:
    decision = _permissions.decide(rule, "/srv/x", seen, top=False, tree_uid=5)
    if isinstance(decision, Skip):
        assert isinstance(wanted, str)
        assert wanted in decision.reason
    elif decision is not None:
        assert (decision.uid, decision.gid, decision.mode) == wanted
    else:
        assert wanted is None


def test_the_path_itself_may_have_a_mode_of_its_own() -> None:
    decision = _permissions.decide(RULE, "/srv", found(DIR, 0o750), top=True, tree_uid=7)
    assert isinstance(decision, Change)
    assert decision.mode == 0o770
    assert (
        _permissions.decide(Rule("/srv", directory_mode=0o750), "/srv", found(DIR, 0o750), top=True, tree_uid=7) is None
    )


@given(
    st.integers(0, 0o7777),
    st.sampled_from([REG, DIR, LNK]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 2),
)
def test_a_second_look_after_a_change_finds_nothing(mode: int, kind: int, uid: int, gid: int, links: int) -> None:
    rule = Rule("/srv", 1, 2, None, True, 0o750, 0o640)
    decision = _permissions.decide(rule, "/srv/x", found(kind, mode, uid, gid, links), top=False, tree_uid=1)
    if isinstance(decision, Change):
        after = decision.after
        seen = found(kind, after[2], after[0], after[1], links)
        assert _permissions.decide(rule, "/srv/x", seen, top=False, tree_uid=1) is None
        if kind != LNK:
            assert after[2] == (0o640 if kind == REG else 0o750)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([Rule("srv")], "not absolute"),
        ([Rule("/srv"), Rule("/srv")], "twice"),
        ([Rule("/", recurse=True)], "whole file system"),
        ([Rule("/srv", recurse=True, file_mode=0o4750)], "would let every file there run"),
        ([Rule("/srv", file_mode=0o640)], "add recurse"),
        ([Rule("/srv", exclude=("x",))], "add recurse"),
    ],
)
def test_dangerous_and_senseless_rules_are_refused(rules: list[Rule], words: str) -> None:
    with pytest.raises(SynapseError, match=words):
        _permissions.check_rules(rules)


def test_a_path_below_another_has_its_own_rule() -> None:
    rules = [Rule("/srv", recurse=True), Rule("/srv/a/key"), Rule("/srvx"), Rule("/srv/b", recurse=True)]
    assert _permissions.nested(rules[0], rules) == {"/srv/a/key": False, "/srv/b": True}


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["*.key"], "a/b.key", True),
        (["*.key"], "a/b.keys", False),
        (["cache"], "x/cache", True),
        (["x/cache/"], "x/cache", True),
        (["x/cache"], "y/x/cache", False),
        (["x/*"], "x/y/z", True),
        (["a", "b"], "b", True),
        (["[ab]?"], "b1", True),
        (["a*"], "a\nb", True),
    ],
)
def test_exclusions(patterns: list[str], path: str, excluded: bool) -> None:
    function = _permissions.excluder(patterns)
    assert function is not None
    assert function(path, path.rsplit("/", 1)[-1]) == excluded


def test_no_pattern_needs_no_function() -> None:
    assert _permissions.excluder([]) is None


def test_the_diff_is_bounded_and_cannot_write_to_a_terminal() -> None:
    change = Change("/srv/\x1b[31mx\n", 0, None, 0o640, (7, 8, 0o644))
    diff = _permissions.describe([change], 3, {0: "root", 7: "synapse"}, {})
    assert diff["before"] == "/srv/\\x1b[31mx\\n synapse:8 0644\nand 2 more\n"
    assert diff["after"] == "/srv/\\x1b[31mx\\n root:8 0640\nand 2 more\n"
