# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
import json
import typing as t
from pathlib import Path

import jsonschema
import pytest
from sample_fleet import MOMENT, answer, finding, fleet

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import Diagnosis
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import REPAIRS, SEVERITIES, Finding
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.report import report_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report import (
    FORMAT,
    database_words,
    failure_of,
    fleet_report,
    report_text,
)

SCHEMA: dict[str, t.Any] = json.loads(
    (Path(__file__).resolve().parents[4] / "docs" / "report.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

ERROR = finding("a.b", "error", "Wrong.")
WARNING = finding("a.c", "warning", "Soon wrong.")
CRITICAL = finding("a.d", "critical", "Gone.")
SERVES = answer("a")["checks"]


def complaints(report: t.Any) -> list[str]:
    """Return what the schema says against a report."""
    return [f"{list(error.absolute_path)}: {error.message}" for error in VALIDATOR.iter_errors(report)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_fleet_of_every_kind_is_as_the_schema_says() -> None:
    report = json.loads(report_text(fleet(), MOMENT))
    assert complaints(report) == []
    assert {host["state"] for host in report["hosts"]} == {"healthy", "not_healthy", "unreachable", "unknown"}


def test_what_the_doctor_itself_reports_is_as_the_schema_says() -> None:
    found = Finding("host.full", "critical", "Full.", "/ 100%", "Too much.", "rm it", "service", True, ("a.b",))
    blind = report_of(Seen(Request(), unseen={"database": "it did not answer in time"}), Diagnosis((found,), (found,)))
    assert complaints(json.loads(report_text({"one": blind}, MOMENT))) == []


def test_the_schema_knows_what_the_doctor_knows() -> None:
    told = SCHEMA["$defs"]["finding"]["properties"]
    assert tuple(told["severity"]["enum"]) == SEVERITIES
    assert set(told["repair"]["enum"]) == set(REPAIRS)
    assert SCHEMA["properties"]["format"]["const"] == FORMAT


@pytest.mark.parametrize(
    "path",
    [
        *(("totals",), ("hosts", 0, "counts"), ("hosts", 0, "key_ids"), ("hosts", 0, "host")),
        *(
            ("hosts", 2, "findings", 0, "severity"),
            ("hosts", 2, "findings", 0, "remedy"),
            ("hosts", 0, "checks", 0, "ok"),
        ),
    ],
    ids=str,
)
def test_the_schema_refuses_a_report_without_a_part(path: tuple[t.Any, ...]) -> None:
    report = json.loads(report_text(fleet(), MOMENT))
    part = report
    for step in path[:-1]:
        part = part[step]
    del part[path[-1]]
    assert complaints(report)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    report = json.loads(report_text(fleet(), MOMENT))
    for place in (report, report["totals"], report["hosts"][0]):
        changed = copy.deepcopy(report)
        target = changed if place is report else changed["totals"] if place is report["totals"] else changed["hosts"][0]
        target["surprise"] = 1
        assert complaints(changed)


def test_hosts_stay_in_the_order_of_the_inventory() -> None:
    assert [host["host"] for host in fleet_report(fleet(), MOMENT)["hosts"]] == list(fleet())


def test_the_totals_add_up() -> None:
    totals = fleet_report(fleet(), MOMENT)["totals"]
    assert (
        totals["hosts"] == totals["healthy"] + totals["not_healthy"] + totals["unreachable"] + totals["unknown"] == 12
    )
    assert totals["findings"] == {"critical": 2, "error": 3, "warning": 5, "info": 3}


def test_hosts_are_gathered_by_their_release() -> None:
    answers = {"a": answer("x", release="1-b"), "b": answer("x", release="1-a"), "c": answer("x", release="1-b")}
    answers["d"] = answer("x", release=None)
    assert list(fleet_report(answers, MOMENT)["releases"].items()) == [("1-a", ["b"]), ("1-b", ["a", "c"])]


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\x9b2J", "a\u202eb", "\u2066", float("nan")])
def test_what_cannot_be_written_or_seen_is_spelt_out(text: t.Any) -> None:
    written = report_text({"one": answer("a", finding("a.b", "error", "Wrong.", evidence=text))}, MOMENT)
    written.encode("utf-8")
    assert json.loads(written)["hosts"][0]["findings"][0]["evidence"] != text
    assert "NaN" not in written


@pytest.mark.parametrize(
    ("said", "fails"),
    [
        (answer("a"), ()),
        (answer("a", WARNING), ("warning",)),
        (answer("a", ERROR, checks=SERVES), ("error", "warning")),
        # It was stopped: that may be an error, but nobody is served.
        (answer("a", ERROR), ("critical", "error", "warning")),
        (answer("a", ERROR, checks=[]), ("critical", "error", "warning")),
        (answer("a", CRITICAL, ERROR), ("critical", "error", "warning")),
        # Nothing explains why it does not serve: that is as bad as it gets.
        (answer("a", healthy=False), ("critical", "error", "warning")),
        (answer("a", WARNING, healthy=False), ("critical", "error", "warning")),
        ({"unreachable": True, "msg": "no route"}, ("critical", "error", "warning")),
        ({"failed": True, "msg": "no Python"}, ("critical", "error", "warning")),
        ({}, ("critical", "error", "warning")),
    ],
)
def test_a_host_fails_from_the_severity_that_is_asked_for(said: dict[str, t.Any], fails: tuple[str, ...]) -> None:
    assert [one for one in ("critical", "error", "warning", "never") if failure_of(said, one)] == list(fails)


def test_the_reason_is_the_diagnosis_or_why_there_is_none() -> None:
    assert failure_of(answer("a", ERROR)) == "Not healthy (1 error): Wrong."
    assert failure_of({"unreachable": True, "msg": "no route"}) == "Out of reach: no route"
    assert failure_of({}) == "Could not be asked: no reason was given"


def test_what_kept_a_module_from_running_is_told() -> None:
    said = {"failed": True, "msg": "No start of json char found", "module_stderr": "x\n/bin/sh: 1: sudo: not found\n"}
    assert failure_of(said) == "Could not be asked: No start of json char found /bin/sh: 1: sudo: not found"
    assert fleet_report({"one": said}, MOMENT)["hosts"][0]["message"].endswith("sudo: not found")


def test_a_severity_that_is_none_fails_in_words() -> None:
    assert "allowed are critical, error, warning, never" in failure_of(answer("a"), "grave")


@pytest.mark.parametrize(
    ("database", "words"),
    [
        (None, ""),
        ({"engine": "sqlite3", "server_version": "3.46.1"}, "SQLite 3.46.1"),
        ({"engine": "psycopg2", "server_version": None}, "PostgreSQL"),
        ({"engine": "mysql"}, "mysql"),
        ({"engine": ""}, ""),
    ],
)
def test_databases_have_the_names_that_people_use(database: dict[str, t.Any] | None, words: str) -> None:
    assert database_words(database) == words
