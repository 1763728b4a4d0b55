# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which findings a host and its database give, and what follows from them."""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _gate
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._backup import Manifest, room_wanted
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._gate import (
    AtHand,
    Code,
    Database,
    Observed,
    Room,
    Verdict,
    judge,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._schema_versions import NEWEST

ROOT = Path(__file__).resolve().parents[4]
GIB = 1024**3
NEW = Code("1.163.2", 94, 84, "3.11.2", ">=3.10.0,<4.0.0", 12)
OLD = Code("1.150.0", 93, 84)
SQLITE = Database("sqlite", "/srv/hs.db", server_version="3.40.1", schema=93, compat=84, size=GIB)
POSTGRESQL = Database(
    "postgresql", "synapse", server_version="15.18", schema=93, compat=84, size=10 * GIB, collation="C", ctype="C"
)
SEEN = Observed(NEW, OLD, SQLITE)


def verdict(
    *,
    target: dict[str, t.Any] | None = None,
    current: dict[str, t.Any] | None = None,
    database: dict[str, t.Any] | None = None,
    base: Database = SQLITE,
    **seen: t.Any,
) -> Verdict:
    """Judge what is usual, but for the differences given."""
    return judge(
        dataclasses.replace(
            SEEN,
            target=dataclasses.replace(NEW, **(target or {})),
            current=dataclasses.replace(OLD, **(current or {})),
            database=dataclasses.replace(base, **(database or {})),
            **seen,
        )
    )


def found(given: Verdict) -> dict[str, str]:
    """Severity by finding."""
    return {finding.id: finding.severity for finding in given.findings}


ANSWER: dict[str, t.Any] = {
    "python": "3.11.2",
    "synapse": {
        "version": "1.163.2",
        "requires_python": ">=3.10",
        "schema_version": 94,
        "compat_version": 84,
        "oldest_delta": 73,
    },
    "problem": None,
    "database": {"state": "ready", "reason": "", "refusal": None, "unknown_updates": [], "pending": ["a"], "size": 1},
}


def test_an_answer_is_taken_for_one() -> None:
    _gate.check_answer(ANSWER, "/python", asked=True)
    _gate.check_answer({**ANSWER, "database": None, "synapse": None, "problem": "x"}, "/python", asked=False)


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("", {}, "python"),
        ("", {**ANSWER, "synapse": 3}, "synapse"),
        ("", {**ANSWER, "synapse": {}}, "version"),
        ("", {**ANSWER, "database": None}, "database"),
        ("", {**ANSWER, "database": {}}, "state"),
        ("synapse", {"schema_version": "94"}, "schema_version"),
        ("synapse", {"schema_version": True}, "schema_version"),
        ("database", {"state": None}, "state"),
        ("database", {"size": "1"}, "size"),
        ("database", {"pending": "a"}, "pending"),
        ("database", {"pending": [1]}, "pending"),
        ("database", {"unknown_updates": [1]}, "unknown_updates"),
        ("database", {"refusal": {"kind": "version"}}, "text"),
    ],
)
def test_an_answer_that_is_none_is_said_and_not_indexed(part: str, value: dict[str, t.Any], named: str) -> None:
    answer = {**ANSWER, part: {**ANSWER[part], **value}} if part else value
    with pytest.raises(SynapseError, match="cannot be understood") as caught:
        _gate.check_answer(answer, "/python", asked=True)
    assert named in caught.value.msg
    assert "rc" not in caught.value.details


@pytest.mark.parametrize("database", [SQLITE, POSTGRESQL])
def test_an_upgrade_with_a_way_back_gives_no_finding(database: Database) -> None:
    given = judge(dataclasses.replace(SEEN, database=database))
    assert given.findings == ()
    assert (given.allowed, given.direction, given.way_back) == (True, "upgrade", True)
    assert given.lowest_version == "1.100.0"
    assert given.msg == "Synapse 1.163.2 may serve."


# What each finding takes: differences from the usual, then the severity, and whether the release may serve
TABLE: list[tuple[str, str | None, dict[str, t.Any]]] = [
    ("environment_missing", "error", {"target": {"present": False, "asked": False}}),
    ("environment_missing", "info", {"target": {"present": False, "asked": False}, "check_mode": True}),
    ("environment_missing", None, {"check_mode": True}),
    ("environment_broken", "error", {"target": {"problem": "ImportError: no twisted"}}),
    ("environment_broken", None, {"target": {"problem": "x", "present": False}, "check_mode": True}),
    ("python_too_old", "error", {"target": {"python": "3.9.2"}}),
    ("python_too_old", "error", {"target": {"python": "3.9.2", "requires_python": None}}),
    ("python_too_old", None, {"target": {"python": "3.10.0"}}),
    ("python_too_old", None, {"target": {"python": "3.14.0"}}),
    ("python_too_old", None, {"target": {"python": None}}),
    ("sqlite_too_old", "error", {"database": {"refusal": ("version", "Synapse requires sqlite 3.37.2 or above.")}}),
    ("sqlite_too_old", "error", {"target": {"asked": False}, "database": {"server_version": "3.34.1"}}),
    ("sqlite_too_old", None, {"target": {"asked": False}, "database": {"server_version": "3.37.2"}}),
    ("sqlite_too_old", None, {"database": {"server_version": "3.34.1"}}),  # its own code was asked, and content
    ("database_missing", "info", {"database": {"state": "missing", "schema": None, "compat": None, "size": None}}),
    ("database_missing", "info", {"database": {"state": "empty", "schema": None, "compat": None}}),
    ("database_unreachable", "error", {"database": {"state": "unreachable", "reason": "Permission denied"}}),
    ("database_unreachable", "error", {"database": {"state": "unfinished", "reason": "a journal"}}),
    ("database_locked", "error", {"database": {"state": "locked", "reason": "database is locked"}}),
    ("database_damaged", "error", {"database": {"state": "damaged", "reason": "malformed"}}),
    ("driver_missing", "error", {"database": {"state": "driverless", "reason": "No module named '_sqlite3'"}}),
    ("downgrade_forbidden", "error", {"database": {"compat": 95, "schema": 96}}),
    ("downgrade_forbidden", None, {"database": {"compat": 94, "schema": 96}}),
    ("downgrade_forbidden", None, {"database": {"compat": None, "schema": 58}}),
    ("downgrade", "info", {"current": {"version": "1.164.0", "schema": 95}, "database": {"schema": 95}}),
    ("downgrade", None, {"current": {"version": "1.164.0", "schema": 95}, "database": {"schema": 96, "compat": 95}}),
    ("schema_too_old", "error", {"database": {"schema": 10, "compat": None}}),
    ("schema_too_old", None, {"database": {"schema": 11, "compat": None}}),
    ("background_updates_pending", "warning", {"database": {"pending": ("one",)}}),
    ("background_updates_pending", "warning", {"database": {"pending": ("one",), "unknown_updates": ("one",)}}),
    ("no_way_back", "warning", {"current": {"version": "1.99.0", "schema": 83}}),
    ("no_way_back", "warning", {"current": {"version": None, "schema": None}}),
    ("no_way_back", "warning", {"target": {"compat": None}}),
    ("no_way_back", None, {"current": {"schema": 83}, "database": {"state": "empty", "schema": None}}),
    ("version_skipped", "info", {"current": {"version": "1.97.0", "schema": 80}}),
    ("version_skipped", None, {"current": {"version": "1.150.0", "schema": 93}}),
    ("workers_before_main", "error", {"unit": "synapse", "workers": {"w@1": "unordered"}}),
    ("workers_before_main", "warning", {"unit": "synapse", "workers": {"w": "unordered"}, "database": {"schema": 94}}),
    ("workers_before_main", "warning", {"unit": "synapse", "workers": {"w": "missing"}}),
    ("workers_before_main", None, {"unit": "synapse", "workers": {"w": "ordered"}}),
]
PG_TABLE: list[tuple[str, str | None, dict[str, t.Any]]] = [
    ("postgresql_too_old", "error", {"database": {"refusal": ("version", "Synapse requires PostgreSQL 14 or above.")}}),
    ("postgresql_too_old", "error", {"target": {"asked": False}, "database": {"server_version": "13.11"}}),
    ("postgresql_too_old", None, {"target": {"asked": False}, "database": {"server_version": "14.0"}}),
    ("postgresql_collation", "error", {"database": {"refusal": ("setup", "Should be 'C'"), "collation": "de_DE"}}),
    ("database_unreachable", "error", {"database": {"state": "unreachable", "reason": "FATAL: no role"}}),
    ("driver_missing", "error", {"database": {"state": "driverless", "reason": "No module named 'psycopg2'"}}),
]
NEEDED = room_wanted("sqlite", GIB)
DISK_TABLE: list[tuple[str, str | None, dict[str, t.Any]]] = [
    ("sqlite", None, {"backup": True, "backup_room": Room("/b", NEEDED, 1)}),
    ("sqlite", "error", {"backup": True, "backup_room": Room("/b", NEEDED - 1, 1)}),
    ("sqlite", None, {"backup": False, "backup_room": Room("/b", 0, 1)}),
    ("sqlite", None, {"database_room": Room("/d", GIB // 10 + 1, 2)}),
    ("sqlite", "warning", {"database_room": Room("/d", GIB // 10 - 1, 2)}),
    ("sqlite", None, {"database_room": Room("/d", 0, 2), "database": {"schema": 94}}),
    ("sqlite", None, {"backup": True, "backup_room": Room("/b", NEEDED, 1), "database_room": Room("/d", GIB, 2)}),
    ("sqlite", "warning", {"backup": True, "backup_room": Room("/b", NEEDED, 1), "database_room": Room("/d", GIB, 1)}),
    ("sqlite", None, {"backup": True, "backup_room": Room("/b", 0, 1), "database": {"size": None}}),
    ("postgresql", "error", {"backup": True, "backup_room": Room("/b", GIB, 1)}),
    ("postgresql", None, {"backup": True, "backup_room": Room("/b", 5 * GIB, 1)}),
]


def check(id_: str, severity: str | None, given: Verdict) -> None:
    """See that a finding has its severity, and that it alone decides what it has to."""
    assert found(given).get(id_) == severity
    assert given.allowed == ("error" not in found(given).values())
    if severity is not None:
        assert severity in _gate.CATALOGUE[id_].severities
    for finding in given.findings:
        assert finding.message
        assert finding.remedy.endswith(".")
        assert not finding.message.endswith(".")
        if finding.severity == "error":
            assert finding.message in given.msg
            assert finding.remedy in given.msg


@pytest.mark.parametrize(("id_", "severity", "difference"), TABLE)
def test_findings(id_: str, severity: str | None, difference: dict[str, t.Any]) -> None:
    check(id_, severity, verdict(**difference))


@pytest.mark.parametrize(("id_", "severity", "difference"), PG_TABLE)
def test_findings_with_postgresql(id_: str, severity: str | None, difference: dict[str, t.Any]) -> None:
    check(id_, severity, verdict(base=POSTGRESQL, **difference))


@pytest.mark.parametrize(("engine", "severity", "difference"), DISK_TABLE)
def test_room(engine: str, severity: str | None, difference: dict[str, t.Any]) -> None:
    check("disk", severity, verdict(base=SQLITE if engine == "sqlite" else POSTGRESQL, **difference))


def test_each_kind_of_finding_is_in_a_table() -> None:
    seen = {(id_, severity) for id_, severity, _difference in TABLE + PG_TABLE if severity}
    seen |= {("disk", severity) for _engine, severity, _difference in DISK_TABLE if severity}
    assert seen == {(id_, severity) for id_, kind in _gate.CATALOGUE.items() for severity in kind.severities}


def test_errors_come_first() -> None:
    given = verdict(
        current={"version": "1.97.0", "schema": 80}, database={"pending": ("one",)}, target={"python": "3.9.1"}
    )
    assert [finding.severity for finding in given.findings] == ["error", "warning", "warning", "info"]


def backup(file: str, engine: str, compat: int | None) -> Manifest:
    """A backup."""
    return Manifest(file, engine, "x", "1.99.0", 83, compat, 1, "0" * 64, "2026-01-01T00:00:00Z")


def test_a_forbidden_downgrade_names_what_is_allowed_and_the_backup() -> None:
    backups = (
        backup("20260102T000000Z-b.sqlite3", "sqlite", 83),
        backup("20260101T000000Z-a.sqlite3", "sqlite", None),
        backup("20260103T000000Z-c.sqlite3", "sqlite", 84),
        backup("20260104T000000Z-d.pgdump", "postgresql", 83),
    )
    given = verdict(
        target={"version": "1.99.0", "schema": 83, "compat": 83},
        current={"version": "1.163.2", "schema": 94},
        database={"schema": 94},
        releases=(AtHand("1.163.2-a", "1.163.2", 94), AtHand("1.99.0-b", "1.99.0", 83), AtHand("x", "1.120.0", None)),
        backups=backups,
        backup_path="/b",
    )
    assert found(given) == {"downgrade_forbidden": "error"}
    assert (given.direction, given.lowest_version, given.newest_backup) == (
        "downgrade",
        "1.100.0",
        "/b/20260102T000000Z-b.sqlite3",
    )
    assert "lowest release that can is 1.100.0" in given.msg
    assert "At hand on this host: 1.163.2 (1.163.2-a). To go back to 1.99.0" in given.msg
    assert "the newest is /b/20260102T000000Z-b.sqlite3." in given.msg


def test_a_database_newer_than_all_that_is_known_says_so() -> None:
    given = verdict(database={"schema": 200, "compat": 200})
    assert given.lowest_version is None
    assert f"newer than {NEWEST}" in given.msg


def test_without_a_backup_the_warning_is_louder() -> None:
    old = {"version": "1.99.0", "schema": 83}
    quiet = verdict(current=old, backup=True).findings[0]
    loud = verdict(current=old).findings[0]
    assert quiet.id == loud.id == "no_way_back"
    assert "the only way back" in quiet.remedy
    assert "NO way back" in loud.remedy


def test_a_rollback_is_not_stopped_by_what_it_does_not_need() -> None:
    """The old release is asked for again after the new one has served: it must be let."""
    given = judge(
        dataclasses.replace(
            SEEN,
            target=dataclasses.replace(NEW, version="1.150.0", schema=93),
            current=dataclasses.replace(OLD, version="1.163.2", schema=94),
            database=dataclasses.replace(SQLITE, schema=94, pending=("new",), unknown_updates=("new",)),
            unit="synapse",
            workers={"w": "unordered"},
            database_room=Room("/d", 0, 1),
        )
    )
    assert found(given) == {
        "background_updates_pending": "warning",
        "workers_before_main": "warning",
        "downgrade": "info",
    }
    assert given.allowed
    assert given.way_back


@pytest.mark.parametrize(
    ("current", "direction"),
    [
        (None, "none"),
        (Code(None), "none"),
        (Code("1.163.2"), "same"),
        (Code("1.163.10"), "downgrade"),
        (Code("1.163.2rc1"), "upgrade"),
    ],
)
def test_direction(current: Code | None, direction: str) -> None:
    assert judge(dataclasses.replace(SEEN, current=current)).direction == direction


@pytest.mark.parametrize(
    ("knows", "writes", "has", "way_back"),
    [
        (84, 84, 84, True),
        (83, 84, 84, False),
        (93, 84, 93, True),
        (93, 84, 94, False),
        (93, 94, None, False),
        (94, 94, None, True),
        (None, 84, 84, False),
    ],
)
def test_the_way_back(knows: int | None, writes: int, has: int | None, way_back: bool) -> None:
    given = verdict(current={"schema": knows}, target={"compat": writes}, database={"compat": has})
    assert given.way_back is way_back
    assert ("no_way_back" in found(given)) is not way_back


def test_the_way_back_is_to_what_served_before_an_upgrade_that_was_interrupted() -> None:
    """From 1.99.0 to 1.150.0, interrupted there; a rollback goes back to 1.99.0, whatever 1.150.0 could read."""
    half = {"version": "1.150.0", "schema": 93}
    given = verdict(current=half, back=dataclasses.replace(OLD, version="1.99.0", schema=83))
    assert (given.way_back, given.direction) == (False, "upgrade")
    [finding] = [one for one in given.findings if one.id == "no_way_back"]
    assert "Synapse 1.99.0 cannot read the database any more" in finding.message
    assert verdict(current=half).way_back is True


@pytest.mark.parametrize(
    ("compat", "lowest"),
    [(None, "1.37.0"), (59, "1.37.0"), (62, "1.41.0"), (72, "1.62.0"), (84, "1.100.0"), (94, "1.151.0"), (999, None)],
)
def test_the_lowest_version(compat: int | None, lowest: str | None) -> None:
    assert _gate.lowest_version(compat) == lowest


@pytest.mark.parametrize(
    ("schema", "compat", "expected"),
    [
        (94, 84, ()),
        (83, 84, ("1.100.0",)),
        (72, 84, ("1.68.0", "1.77.0", "1.83.0", "1.90.0", "1.96.0", "1.100.0")),
        (20, 84, ()),
    ],
)
def test_stops(schema: int, compat: int, expected: tuple[str, ...]) -> None:
    assert _gate.stops(schema, compat) == expected
    for version in expected:
        row = _gate.known(version)
        assert row is not None
        assert row.compat <= schema < row.schema
        schema = row.schema


@pytest.mark.parametrize(
    ("version", "schema"),
    [
        ("1.36.0", None),
        ("1.37.0", 59),
        ("1.105.0", 84),
        ("1.150.0", 93),
        ("1.150.0rc1", 93),
        (NEWEST, 94),
        ("2.0", None),
    ],
)
def test_what_is_known_of_a_version(version: str, schema: int | None) -> None:
    row = _gate.known(version)
    assert (row and row.schema) == schema
    assert _gate.known(None) is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("SCHEMA_VERSION = 94\nSCHEMA_COMPAT_VERSION = (\n    # why\n    84\n)\n", (94, 84)),
        ("SCHEMA_VERSION: int = 72\n", (72, None)),
        ("SCHEMA_VERSION = True\n", (None, None)),
        ("this is (not python", (None, None)),
        ("\0", (None, None)),
        pytest.param("-" * 200_000 + "1", (None, None), id="nested too deeply"),
        pytest.param("x = " + "+".join(["1"] * 100_000), (None, None), id="added too often"),
    ],
)
def test_constants(source: str, expected: tuple[int | None, int | None]) -> None:
    assert _gate.constants(source) == expected


UNITS = """\
Id=synapse.service
Names=synapse.service matrix.service
LoadState=loaded
Before=shutdown.target early.service
After=network-online.target

Id=synapse-worker@one.service
Names=synapse-worker@one.service
LoadState=loaded
After=basic.target synapse.service

Id=two.service
Names=two.service
LoadState=loaded
After=basic.target

Id=early.service
Names=early.service
LoadState=loaded
After=

Id=gone.service
Names=gone.service
LoadState=not-found
After=
"""


def test_the_order_of_units() -> None:
    workers = ["synapse-worker@one", "two.service", "early", "gone", "unheard"]
    expected = ["ordered", "unordered", "ordered", "missing", "missing"]
    assert _gate.parse_units(UNITS, "synapse", workers) == dict(zip(workers, expected, strict=True))
    assert _gate.parse_units(UNITS, "matrix.service", workers[:1]) == {"synapse-worker@one": "ordered"}


def test_the_guide_lists_every_finding() -> None:
    lines = ["| finding | severity | when | where it comes from |", "|---|---|---|---|"]
    lines += [
        f"| `{id_}` | {' or '.join(k.severities)} | {k.when} | {k.source} |" for id_, k in _gate.CATALOGUE.items()
    ]
    assert "\n".join(lines) + "\n" in (ROOT / "docs" / "upgrade-gate.md").read_text(encoding="utf-8")
