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
    now="NOW",
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
FOLDER = Live("folder", "/s/venv", "", Seen({"matrix-synapse": "0.9"}, BROKEN))
EMPTY_FOLDER = Live("folder", "/s/venv")

# wanted, host -> build, name, switch, adopt, previous, changed
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
    "made by hand": (WANTED, Host(FOLDER), (True, NAME, True, "adopted-0.9-NOW", "adopted-0.9-NOW", True)),
    "made by hand, empty": (
        WANTED,
        Host(EMPTY_FOLDER),
        (True, NAME, True, "adopted-unknown-NOW", "adopted-unknown-NOW", True),
    ),
    "made by hand, not to be activated": (
        replace(WANTED, activate=False),
        Host(FOLDER),
        (True, NAME, False, "", "", True),
    ),
    "a link elsewhere": (WANTED, Host(Live("link", "/opt/v")), (True, NAME, True, "", "", True)),
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
    assert (todo.build, todo.name, todo.switch, todo.adopt, todo.previous, todo.changed) == expected


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
    assert adopted.endswith("This folder is kept as /s/releases/adopted-0.9-NOW.")
    waiting = plan(replace(WANTED, activate=False), Host(FOLDER)).problems[0]["action"]
    assert waiting == f"The release {NAME} is built beside it; it takes its place when it is activated."


def test_the_diff_shows_what_is_live_and_what_will_be() -> None:
    todo = plan(WANTED, Host(live(OLD), (OLD,), (OLD.name,)))
    assert todo.before == f"release {OLD.name} (live)\nmatrix-synapse 1.0\n"
    assert todo.after == f"release {NAME} (live)\nmatrix-synapse 2.0\n"
    same = plan(WANTED, Host(live(release()), (release(),), (NAME,), release()))
    assert same.before == same.after


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
