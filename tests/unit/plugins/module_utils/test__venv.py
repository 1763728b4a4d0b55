# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment: what is wrong with it, and what is done about it, as tables."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import Manifest, Release
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import (
    Finding,
    Host,
    Live,
    Seen,
    Wanted,
    candidates,
    difference,
    findings_of,
    minor_of_name,
    plan,
    plan_absent,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_tree import Distribution, Tree

SYNAPSE = Distribution("matrix-synapse", "1.163.2")
TREE = Tree(
    path="/v",
    interpreter="/usr/bin/python3.11",
    base="/usr/bin/python3.11",
    config_version="3.11.2",
    libraries=("3.11",),
    distributions=(SYNAPSE,),
    leftovers=(),
    extensions={"311": 20},
    unreadable=(),
    scripts_elsewhere=(),
    noexec=False,
)
LOCK = {"matrix-synapse": "1.163.2"}
FINDINGS: dict[str, tuple[Tree, str, dict[str, str] | None, list[str]]] = {
    "all is well": (TREE, "3.11.2", LOCK, []),
    "a patch release of Python is all right": (TREE, "3.11.9", LOCK, []),
    "no interpreter": (replace(TREE, interpreter=None), "", LOCK, ["interpreter_missing"]),
    "an interpreter that does not start": (TREE, "", LOCK, ["interpreter_broken"]),
    "another minor version": (
        replace(TREE, libraries=("3.10",), extensions={"310": 9}),
        "3.11.2",
        LOCK,
        ["interpreter_changed", "extension_mismatch"],
    ),
    "only the configuration is of another version": (
        replace(TREE, config_version="3.10.1"),
        "3.11.2",
        LOCK,
        ["interpreter_changed"],
    ),
    "extensions of another version": (replace(TREE, extensions={"310": 9}), "3.11.2", LOCK, ["extension_mismatch"]),
    "extensions of two versions": (replace(TREE, extensions={"310": 9, "311": 20}), "3.11.2", LOCK, []),
    "no Synapse": (replace(TREE, distributions=()), "3.11.2", None, ["synapse_missing"]),
    "another Synapse, no lock": (
        replace(TREE, distributions=(replace(SYNAPSE, version="1.100.0"),)),
        "3.11.2",
        None,
        ["synapse_version"],
    ),
    "another Synapse than the lock's": (
        replace(TREE, distributions=(replace(SYNAPSE, version="1.100.0"),)),
        "3.11.2",
        LOCK,
        ["distribution_version"],
    ),
    "both psycopg2": (
        replace(TREE, distributions=(SYNAPSE, Distribution("psycopg2", "2"), Distribution("psycopg2-binary", "2"))),
        "3.11.2",
        None,
        ["psycopg2_conflict"],
    ),
    "a missing package": (TREE, "3.11.2", {**LOCK, "twisted": "26"}, ["distribution_missing"]),
    "a foreign package": (
        replace(TREE, distributions=(SYNAPSE, Distribution("left-pad", "1"))),
        "3.11.2",
        LOCK,
        ["distribution_foreign"],
    ),
    "a foreign package where there is no lock": (
        replace(TREE, distributions=(SYNAPSE, Distribution("left-pad", "1"))),
        "3.11.2",
        None,
        [],
    ),
    "one package twice": (replace(TREE, distributions=(SYNAPSE, SYNAPSE)), "3.11.2", LOCK, ["distribution_duplicate"]),
    "half a package": (
        replace(TREE, distributions=(replace(SYNAPSE, complete=False, missing=("a",), altered=("b",)),)),
        "3.11.2",
        LOCK,
        ["distribution_incomplete", "files_missing", "files_altered"],
    ),
    "leftovers, hidden files, a moved folder, noexec": (
        replace(TREE, leftovers=("~x",), unreadable=("lib",), scripts_elsewhere=("bin/synctl",), noexec=True),
        "3.11.2",
        LOCK,
        ["distribution_leftover", "unreadable", "scripts_elsewhere", "noexec"],
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_is_wrong_is_found_and_nothing_else(name: str) -> None:
    tree, running, expected, ids = FINDINGS[name]
    found = findings_of(tree, running=running, expected=expected, version="1.163.2")
    assert [one.id for one in found] == ids
    assert all(one.evidence for one in found)


def test_evidence_names_three_examples_and_counts_the_rest() -> None:
    tree = replace(TREE, unreadable=("a", "b", "c", "d", "e"))
    (finding,) = findings_of(tree, running="3.11.2", expected=LOCK, version="1.163.2")
    assert finding.evidence == "only root can read a, b, c and 2 more"


# --------------------------------------------------------------------------------------------------------------- plan

DIGEST = "0" * 64
WANTED = Wanted(
    path="/s/venv",
    releases_path="/s/releases",
    version="2.0",
    request="asked",
    digest=DIGEST,
    expected={"matrix-synapse": "2.0"},
    python=None,
    activate=True,
    rebuild=False,
    keep=3,
)
NAME = "2.0-000000000000"
BROKEN = (Finding("files_missing", "x"),)


def release(
    name: str = NAME, *, day: int = 1, request: str = "asked", digest: str = DIGEST, incomplete: bool = False
) -> Release:
    manifest = Manifest(
        version=name.split("-", maxsplit=1)[0],
        lock_digest=digest,
        request=request,
        python="/usr/bin/python3.11",
        python_version="3.11.2",
        python_stamp="",
        packages={"matrix-synapse": name.split("-", maxsplit=1)[0]},
        installer="uv",
        proven_at=f"2026-01-{day:02}",
        tree="",
    )
    return Release(name, f"/s/releases/{name}", None if incomplete else manifest, incomplete)


def live(one: Release, findings: tuple[Finding, ...] = ()) -> Live:
    return Live("release", one.path, one.name, Seen(one.manifest.packages if one.manifest else {}, findings))


OLD = release("1.0-111111111111", request="other", digest="1" * 64)
NOTHING = Live("nothing")
FOLDER = Live("folder", "/s/venv", "", Seen({"matrix-synapse": "0.9"}, BROKEN), "THEN")
EMPTY_FOLDER = Live("folder", "/s/venv", since="THEN")
RECORD = plan(WANTED, Host(FOLDER)).record

# wanted, host -> build, name, switch, adopt as, previous, changed
PLANS: dict[str, tuple[Wanted, Host, tuple[bool, str, bool, str, str, bool]]] = {
    "a bare host": (WANTED, Host(NOTHING), (True, NAME, True, "", "", True)),
    "a bare host, not to be activated": (
        replace(WANTED, activate=False),
        Host(NOTHING),
        (True, NAME, False, "", "", True),
    ),
    "nothing to do": (
        WANTED,
        Host(live(release()), (release(),), (NAME,), release()),
        (False, NAME, False, "", "", False),
    ),
    "built before, not live": (
        WANTED,
        Host(live(OLD), (OLD, release()), (OLD.name, NAME), release()),
        (False, NAME, True, "", OLD.name, True),
    ),
    "built before, not to be activated": (
        replace(WANTED, activate=False),
        Host(live(OLD), (OLD, release()), (OLD.name, NAME), release()),
        (False, NAME, False, "", OLD.name, False),
    ),
    "an upgrade": (WANTED, Host(live(OLD), (OLD,), (OLD.name,)), (True, NAME, True, "", OLD.name, True)),
    "a broken live release": (
        WANTED,
        Host(live(release(), BROKEN), (release(),), (NAME,)),
        (True, f"{NAME}.2", True, "", NAME, True),
    ),
    "broken for the second time": (
        WANTED,
        Host(live(release(f"{NAME}.2"), BROKEN), (release(), release(f"{NAME}.2")), (NAME, f"{NAME}.2")),
        (True, f"{NAME}.3", True, "", f"{NAME}.2", True),
    ),
    "rebuilt although it is whole": (
        replace(WANTED, rebuild=True),
        Host(live(release()), (release(),), (NAME,), release()),
        (True, f"{NAME}.2", True, "", NAME, True),
    ),
    "a build that was interrupted": (
        WANTED,
        Host(live(OLD), (OLD, release(incomplete=True)), (OLD.name, NAME)),
        (True, NAME, True, "", OLD.name, True),
    ),
    "a leftover beside a whole release": (
        WANTED,
        Host(live(release()), (release(), release("9.0-999999999999", incomplete=True)), (NAME,), release()),
        (False, NAME, False, "", "", True),
    ),
    "somebody's folder has the name": (WANTED, Host(NOTHING, (), (NAME,)), (True, f"{NAME}.2", True, "", "", True)),
    "made by hand": (WANTED, Host(FOLDER), (True, NAME, True, "adopted-0.9-THEN", "adopted-0.9-THEN", True)),
    "made by hand, empty": (
        WANTED,
        Host(EMPTY_FOLDER),
        (True, NAME, True, "adopted-unknown-THEN", "adopted-unknown-THEN", True),
    ),
    "made by hand, not to be activated": (
        replace(WANTED, activate=False),
        Host(FOLDER),
        (True, NAME, False, "adopted-0.9-THEN", "", True),
    ),
    "made by hand, built before, not yet written down": (
        replace(WANTED, activate=False),
        Host(FOLDER, (release(),), (NAME,), release()),
        (False, NAME, False, "adopted-0.9-THEN", "", True),
    ),
    "made by hand, built before, written down": (
        replace(WANTED, activate=False),
        Host(FOLDER, (release(),), (NAME, "adopted-0.9-THEN.json"), release(), recorded=RECORD),
        (False, NAME, False, "adopted-0.9-THEN", "", False),
    ),
    "made by hand, changed since it was written down": (
        replace(WANTED, activate=False),
        Host(FOLDER, (release(),), (NAME, "adopted-0.9-THEN.json"), release(), recorded=RECORD.replace("0.9", "0.8")),
        (False, NAME, False, "adopted-0.9-THEN", "", True),
    ),
    "made by hand, and another one is kept by that name": (
        WANTED,
        Host(FOLDER, (), ("adopted-0.9-THEN",)),
        (True, NAME, True, "adopted-0.9-THEN.2", "adopted-0.9-THEN.2", True),
    ),
    "a link elsewhere": (WANTED, Host(Live("link", "/opt/v")), (True, NAME, True, "", "/opt/v", True)),
    "went back to what was made by hand": (
        WANTED,
        Host(Live("link", f"{WANTED.releases_path}/adopted-0.9-THEN")),
        (True, NAME, True, "", "adopted-0.9-THEN", True),
    ),
    "no lock yet": (
        replace(WANTED, digest=None, expected=None),
        Host(NOTHING),
        (True, "2.0-unresolved", True, "", "", True),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_is_to_be_done(name: str) -> None:
    wanted, host, expected = PLANS[name]
    todo = plan(wanted, host)
    assert (todo.build, todo.name, todo.switch, todo.adopt_as, todo.previous, todo.changed) == expected


def test_what_is_live_is_never_cleared_or_pruned() -> None:
    half = release(incomplete=True)
    host = Host(live(half, BROKEN), (half, OLD), (NAME, OLD.name))
    todo = plan(replace(WANTED, keep=1), host)
    assert half not in todo.clear
    assert half not in todo.prune
    assert todo.name == f"{NAME}.2"


def test_pruning_counts_the_release_that_is_built() -> None:
    releases = tuple(
        release(f"1.{number}-111111111111", day=number, request="other", digest="1" * 64) for number in (1, 2, 3, 4)
    )
    host = Host(live(releases[3]), releases, tuple(one.name for one in releases))
    assert [one.name for one in plan(WANTED, host).prune] == [releases[0].name, releases[1].name]
    assert plan(replace(WANTED, activate=False), host).prune == ()


def aged(*days: int) -> tuple[Release, ...]:
    return tuple(release(f"1.{day}-111111111111", day=day, request="other", digest="1" * 64) for day in days)


A, B, C, D = aged(1, 2, 3, 4)
MINE = release(day=9)
HELD = replace(A, name="adopted-1.0-THEN")
HALF = release("1.9-999999999999", incomplete=True)
# keep, activate, all releases (the last one is what is wanted and sound), which is live -> which go
PRUNED: dict[str, tuple[int, bool, tuple[Release, ...], Release, list[Release]]] = {
    "enough room": (3, True, (A, MINE), MINE, []),
    "just enough room": (3, True, (A, B, MINE), MINE, []),
    "switched by somebody else": (3, True, (A, B, C, MINE), MINE, [A]),
    "fewer are wanted than before": (2, True, (A, B, C, D, MINE), MINE, [A, B, C]),
    "one to go back to always stays": (1, True, (A, B, C, MINE), MINE, [A, B]),
    "one is wanted and two are there": (1, True, (A, MINE), MINE, []),
    "only the live one is there": (1, True, (MINE,), MINE, []),
    "it is the oldest that is live": (2, True, (B, C, release(day=1)), release(day=1), [B]),
    "what was made by hand does not count": (2, True, (HELD, A, MINE), MINE, []),
    "what was made by hand stays": (1, True, (HELD, A, B, MINE), MINE, [A]),
    "what was never proven does not count": (2, True, (HALF, A, MINE), MINE, []),
    "not to be activated": (1, False, (A, B, C, MINE), MINE, []),
    "switched now": (2, True, (A, B, C, MINE), C, [A, B]),
    "switched now, away from the oldest": (1, True, (A, B, C, MINE), A, [B, C]),
}


@pytest.mark.parametrize("case", PRUNED)
def test_which_releases_are_too_many(case: str) -> None:
    keep, activate, releases, serving, gone = PRUNED[case]
    host = Host(live(serving), releases, tuple(one.name for one in releases), releases[-1])
    todo = plan(replace(WANTED, keep=keep, activate=activate), host)
    assert [one.name for one in todo.prune] == [one.name for one in gone]
    assert todo.changed is (bool(gone) or todo.switch or HALF in releases)
    assert todo.before.count("(old)") == len(gone)
    if activate:
        left = tuple(one for one in releases if one not in todo.prune + todo.clear)
        again = plan(replace(WANTED, keep=keep), Host(live(releases[-1]), left, (), releases[-1]))
        assert not again.changed, "a second run has nothing left to remove"


def test_every_problem_says_what_is_done_about_it() -> None:
    half = release("9.0-999999999999", incomplete=True)
    host = Host(live(OLD, BROKEN), (OLD, release(), half), (OLD.name, NAME), None, {NAME: BROKEN})
    todo = plan(WANTED, host)
    assert [(one["id"], one["action"]) for one in todo.problems] == [
        ("files_missing", f"The release {NAME}.2 is built beside it and takes its place."),
        ("files_missing", f"It is not used; the release {NAME}.2 is built beside it."),
        ("build_interrupted", "It is removed."),
    ]
    adopted = plan(WANTED, Host(FOLDER)).problems[0]["action"]
    assert adopted.endswith("This folder is then kept as /s/releases/adopted-0.9-THEN.")
    waiting = plan(replace(WANTED, activate=False), Host(FOLDER)).problems[0]["action"]
    assert waiting == (
        f"The release {NAME} is built beside it; it takes its place when it is activated. "
        "This folder is then kept as /s/releases/adopted-0.9-THEN."
    )


def test_the_diff_shows_what_is_live_and_what_will_be() -> None:
    todo = plan(WANTED, Host(live(OLD), (OLD,), (OLD.name,)))
    assert todo.before == f"release {OLD.name} (live)\nmatrix-synapse 1.0\n"
    assert todo.after == f"release {NAME} (live)\nmatrix-synapse 2.0\n"
    same = plan(WANTED, Host(live(release()), (release(),), (NAME,), release()))
    assert same.before == same.after
    fewer = plan(replace(WANTED, keep=1), Host(live(MINE), (A, B, MINE), (), MINE))
    assert fewer.before == f"{fewer.after}release {A.name} (old)\n"
    kept = plan(replace(WANTED, activate=False), Host(FOLDER, (MINE,), (), MINE))
    assert kept.after.endswith("record adopted-0.9-THEN.json\n")


CANDIDATES: dict[str, tuple[dict[str, t.Any], list[str]]] = {
    "by request or by lock, the live one first, then the newest": ({}, ["b", "c", "a"]),
    "another lock and another request": ({"request": "x", "digest": "x"}, []),
    "the interpreter asked for": ({"python": "/usr/bin/python3.11"}, ["b", "c", "a"]),
    "another interpreter asked for": ({"python": "/usr/bin/python3.12"}, []),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_which_releases_are_what_is_asked_for(name: str) -> None:
    changes, expected = CANDIDATES[name]
    releases = (
        release("a", day=1),
        release("b", day=2, request="other"),
        release("c", day=3, digest="1" * 64),
        release("d", incomplete=True),
        replace(release("e"), incomplete=True),
    )
    found = candidates(replace(WANTED, **changes), releases, "b")
    assert [one.name for one in found] == expected


def test_absent_takes_all_that_is_ours() -> None:
    half = release("9.0-999999999999", incomplete=True)
    todo = plan_absent(Host(live(OLD), (OLD, half)), "/s/venv")
    assert todo.changed
    assert todo.switch
    assert todo.clear == (OLD, half)
    assert not plan_absent(Host(NOTHING), "/s/venv").changed


def test_how_packages_differ() -> None:
    assert difference({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == {
        "added": {"d": "1"},
        "removed": {"a": "1"},
        "changed": {"b": {"before": "1", "after": "2"}},
    }


@pytest.mark.parametrize(("path", "minor"), [("/usr/bin/python3.11", "3.11"), ("/x/python3", ""), ("/x/pypy3.10", "")])
def test_an_interpreter_s_name_may_tell_its_version(path: str, minor: str) -> None:
    assert minor_of_name(path) == minor
