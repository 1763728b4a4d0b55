# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two versions' facts about one configuration, side by side."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import Wanted
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._upgrade_report import (
    Option,
    Report,
    compare,
    unanswered,
)

FILE = "/etc/synapse/homeserver.yaml"
FAILURE = {
    "kind": "config",
    "type": "ConfigError",
    "path": ["a"],
    "message": "a is not allowed",
    "causes": [],
    "errno": None,
    "known": [],
    "missing": False,
}
SETTINGS = {
    "engines": ["psycopg2"],
    "redis": True,
    "worker_app": None,
    "worker_name": None,
    "instance_map": {},
    "metrics": False,
    "federation_off": True,
    "media_given": True,
    "media_used": True,
    "inline_secrets": [],
}


@pytest.mark.parametrize("old", [{}, {"version": "1", "runs": 3}, {"version": "1", "runs": [{"process": "main"}]}])
def test_an_answer_that_is_none_is_said(old: dict[str, t.Any]) -> None:
    report = compare(old, answer("1.163.2"), Wanted())
    assert report.before is None
    assert "cannot be understood" in str(report.problem)


def unread(path: str, *, known: bool = False) -> dict[str, t.Any]:
    return {"path": path.split("."), "known": known, "siblings": []}


def answer(version: str, read: str = "", *entries: dict[str, t.Any], **facts: t.Any) -> dict[str, t.Any]:
    """What the probe of one version answers: the options that were read, and those that were not."""
    document = {"path": FILE, "coming": False, "failure": None, "mapping": True, "duplicates": [], "exposed": False}
    listener = {"option": ["listeners", 0], "type": "http", "port": 1, "addresses": [""], "socket": None, "tls": False}
    run = {
        "process": "main",
        "documents": [document],
        "failures": [],
        "notes": [],
        "read": [path.split(".") for path in read.split()],
        "unread": list(entries),
        "vocabulary": {},
        "words": [],
        "options": [],
        "paths": [],
        "listeners": [{**listener, "resources": ["client", "federation"]}],
        "settings": SETTINGS,
        "lines": {"a": [0, 4], "b": [0, 5], "b.c": [0, 6]},
        **facts,
    }
    return {
        "version": version,
        "account": "synapse",
        "runs": [run],
        "logs": {},
        "app_services": [],
        "tls": None,
        "old_keys": [],
        "driver": [],
        "same_secret": [True],
        "apps": {},
    }


def paths(options: tuple[Option, ...]) -> list[str]:
    return [option.path for option in options]


@pytest.mark.parametrize(
    ("old", "new", "lost", "gained", "unknown"),
    [
        pytest.param(("a b b.c",), ("a b b.c",), [], [], [], id="all the same"),
        pytest.param(("a",), ("", unread("a")), ["a"], [], [], id="ended"),
        pytest.param(("b b.c",), ("b", unread("b.c")), ["b.c"], [], [], id="ended within"),
        pytest.param(("b b.c",), ("", unread("b")), ["b"], [], [], id="all of it ended"),
        pytest.param(("", unread("a")), ("a",), [], ["a"], [], id="new"),
        pytest.param(("", unread("b")), ("b b.c",), [], ["b"], [], id="new with all in it"),
        pytest.param(("", unread("a")), ("", unread("a")), [], [], ["a"], id="known to neither"),
        pytest.param(("", unread("b")), ("b", unread("b.c")), [], ["b"], ["b.c"], id="new with a slip in it"),
        pytest.param(("a",), ("", unread("a", known=True)), ["a"], [], [], id="not read with these settings"),
        pytest.param(("", unread("a", known=True)), ("", unread("a", known=True)), [], [], [], id="idle in both"),
        pytest.param(("", unread("a", known=True)), ("", unread("a")), [], [], [], id="idle, then gone"),
    ],
)
def test_what_is_read(
    old: tuple[t.Any, ...], new: tuple[t.Any, ...], lost: list[str], gained: list[str], unknown: list[str]
) -> None:
    report = compare(answer("1.1", *old), answer("1.2", *new), Wanted())
    assert (paths(report.no_longer_read), paths(report.newly_read)) == (lost, gained)
    assert paths(report.unknown_to_both) == unknown


def test_where_a_version_failed_a_name_that_it_knows_says_nothing() -> None:
    entry, failed = unread("a", known=True), {"failures": [FAILURE]}
    assert compare(answer("1.1", "a"), answer("1.2", "", entry, **failed), Wanted()).no_longer_read == ()
    assert compare(answer("1.1", "", entry, **failed), answer("1.2", "a"), Wanted()).newly_read == ()
    gone = answer("1.2", "", unread("a"), **failed)
    assert paths(compare(answer("1.1", "a"), gone, Wanted()).no_longer_read) == ["a"]


def test_a_secret_that_was_refused_in_its_place_is_no_such_failure() -> None:
    entry, failure = unread("a", known=True), {**FAILURE, "kind": "inline", "path": ["s"]}
    report = compare(answer("1.1", "a"), answer("1.2", "", entry, failures=[failure]), Wanted())
    assert paths(report.no_longer_read) == ["a"]


def test_the_place_and_the_advice_are_told_even_where_unknown_options_are_ignored() -> None:
    new = answer("1.2", "", unread("experimental_features.msc1"), unread("a"))
    report = compare(answer("1.1", "a experimental_features.msc1"), new, Wanted(unknown_options="ignore"))
    assert report.no_longer_read[0].suggestion == "The experiment has ended in this version: remove the option."
    assert report.no_longer_read[1] == Option("a", report.no_longer_read[1].suggestion, FILE, 4)
    assert "Remove it" in str(report.no_longer_read[1].suggestion)


def test_an_option_that_is_vouched_for_is_not_called_unknown() -> None:
    both = unread("a"), unread("x-anchor")
    assert compare(answer("1.1", "", *both), answer("1.2", "", *both), Wanted(allow_unknown=("a",))).lines() == [
        "Synapse 1.2 reads all of this configuration that 1.1 reads, and nothing more."
    ]


def test_only_what_the_new_version_alone_refuses_is_newly_refused() -> None:
    refusing = answer("1.2", "a", failures=[FAILURE])
    report = compare(answer("1.1", "a"), refusing, Wanted())
    assert report.lines() == [f"Synapse 1.2 refuses a ({FILE} line 4), which 1.1 takes. a is not allowed"]
    assert compare(refusing, refusing, Wanted()).newly_refused == ()
    assert compare(refusing, answer("1.1", "a"), Wanted()).newly_refused == ()


def test_a_process_that_only_one_side_has_is_left_out() -> None:
    old = answer("1.1", "a", process="/etc/worker.yaml")
    assert compare(old, answer("1.2", "", unread("a")), Wanted()).no_longer_read == ()


def test_the_sentences() -> None:
    report = Report("1.1", "1.2", (Option("a", "Drop it.", FILE, 4),), (Option("b", None, FILE),), (), (Option("c"),))
    assert report.lines() == [
        f"Synapse 1.2 does not read a ({FILE} line 4), which 1.1 does. Drop it.",
        f"Synapse 1.2 reads b ({FILE}), which has no effect in 1.1.",
        "Neither 1.1 nor 1.2 knows c.",
    ]
    assert report.as_dict()["no_longer_read"] == [{"path": "a", "suggestion": "Drop it.", "file": FILE, "line": 4}]


def test_a_release_that_cannot_be_asked() -> None:
    report = unanswered("1.2", "it is gone.")
    assert report.lines() == ["What changes for this configuration with Synapse 1.2 is not known: it is gone."]
    assert report.as_dict() == {
        "from": None,
        "to": "1.2",
        "no_longer_read": [],
        "newly_read": [],
        "newly_refused": [],
        "unknown_to_both": [],
        "problem": "it is gone.",
    }
