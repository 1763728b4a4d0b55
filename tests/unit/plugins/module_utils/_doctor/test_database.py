# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules about databases: each has a case in which it finds something, and all are silent about a healthy one."""

from __future__ import annotations

import json
import sqlite3
import sys
import typing as t
from dataclasses import replace

import pytest
import yaml

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import database as part
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import database_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.database import (
    Cluster,
    Database,
    Fault,
    Old,
    One,
    Sequence,
    SqliteFile,
    kind_of,
    parse_clusters,
    parse_locks,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import database_health as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

if t.TYPE_CHECKING:
    from pathlib import Path

SQLITE = One(
    where="/data/homeserver.db",
    least="3.37.2",
    server_version="3.46.1",
    size=2_000_000,
    file=SqliteFile("/data/homeserver.db", "/data/homeserver.db", size=2_000_000),
    tables=170,
    version_rows=1,
    schema_version=94,
    compat_version=84,
    applied=94,
    pending=(),
    users=True,
)
POSTGRESQL = One(
    engine="psycopg2",
    where="synapse",
    host="127.0.0.1",
    port="5432",
    user="synapse",
    connected=True,
    least="14",
    server_version="15.18",
    encoding="UTF8",
    collation="C",
    ctype="C",
    read_only="off",
    max_connections=100,
    reserved_connections=3,
    role="synapse",
    owner="synapse",
    schema="public",
    frozen_age=1000,
    tables=170,
    version_rows=1,
    schema_version=94,
    compat_version=84,
    applied=94,
    pending=(),
    users=True,
    sequences=(Sequence("events_stream_seq", "events", "stream_ordering", "events", 40, 40, 42),),
)


def seen(
    one: One,
    *,
    args: dict[str, t.Any] | None = None,
    managed: bool = False,
    clusters: tuple[Cluster, ...] = (),
    **more: t.Any,
) -> Seen:
    """Return what was seen of a server with one database."""
    config = {"database": {"name": one.engine, "args": args or {}}}
    settings = Settings((ConfigFile("/etc/synapse/homeserver.yaml", managed=managed),), config)
    database = Database(
        **{"parts": (one,), "clusters": clusters, "version": "1.163.2", "schema": 94, "oldest_delta": 73, **more}
    )
    return Seen(request=Request(), settings=settings, database=database)


def found(what: Seen) -> list[tuple[str, str]]:
    """Return the ids without their part, and the severities, of what is found."""
    return [(one.id.partition(".")[2], one.severity) for rule in part.RULES.rules for one in rule.findings(what)]


def unreachable(text: str, **more: t.Any) -> One:
    return replace(
        One("master", "psycopg2", "synapse", "db", "5432", "synapse"),
        error=Fault("connect", "OperationalError", text),
        **more,
    )


@pytest.mark.parametrize("one", [SQLITE, POSTGRESQL])
def test_a_healthy_database_is_not_talked_about(one: One) -> None:
    assert found(seen(one, past="there is media")) == []


def test_nothing_is_found_where_nothing_was_seen() -> None:
    assert found(Seen(request=Request())) == []


# As psycopg2 2.9.10 with libpq 15 and 17 says it.
AT = 'connection to server at "db", port 5432 failed: '
SOCKET = 'connection to server on socket "/run/x/.s.PGSQL.5432" failed: '
HELP = " Is the server running locally and accepting connections on that socket?"
ENTRY = 'FATAL: no pg_hba.conf entry for host "10.0.0.2", user "synapse", database "synapse", '
WORDS = {
    AT + "Connection refused Is the server running on that host and accepting TCP/IP connections?": "refused",
    'could not translate host name "db" to address: Name or service not known': "unknown_host",
    SOCKET + "No such file or directory" + HELP: "socket_missing",
    SOCKET + "Permission denied" + HELP: "socket_missing",
    AT + "timeout expired": "no_answer",
    AT + "No route to host": "no_answer",
    AT + "server closed the connection unexpectedly": "no_answer",
    AT + "FATAL: the database system is starting up": "starting",
    AT + "FATAL: the database system is not yet accepting connections": "starting",
    AT + "received invalid response to SSL negotiation: H": "foreign_server",
    AT + 'FATAL: password authentication failed for user "synapse"': "password",
    AT + "fe_sendauth: no password supplied": "password",
    SOCKET + 'FATAL: Peer authentication failed for user "synapse"': "access_rules",
    AT + ENTRY + "no encryption": "access_rules",
    AT + ENTRY + "SSL encryption": "access_rules",
    AT + 'FATAL: role "synapse" is not permitted to log in': "access_rules",
    AT + 'FATAL: database "synapse" does not exist': "database_missing",
    AT + "FATAL: sorry, too many clients already": "connections",
    AT + 'FATAL: too many connections for role "synapse"': "connections",
    AT + "FATAL: remaining connection slots are reserved for non-replication superuser connections": "connections",
    AT + "server does not support SSL, but SSL was required": "tls",
    AT + "SSL error: certificate verify failed": "tls",
    'invalid dsn: invalid connection option "bogus"': "arguments",
    'could not extend file "base/1/2": No space left on device HINT: Check free disk space.': "full",
    "etwas in einer anderen Sprache": "unreachable",
}


@pytest.mark.parametrize("text", WORDS)
def test_what_libpq_says_is_understood(text: str) -> None:
    assert [name for name, _severity in found(seen(unreachable(text)))] == [WORDS[text]]


def test_each_fault_of_the_connection_is_told_once_and_hides_the_symptoms() -> None:
    rules = {rule.id: rule for rule in part.RULES.rules}
    for name in set(WORDS.values()):
        assert rules[f"database.{name}"].stops, name


def test_what_the_collection_wrote_may_be_written_anew() -> None:
    for managed, repair in ((True, ("config", True)), (False, ("", False))):
        what = seen(unreachable('password authentication failed for user "synapse"'), managed=managed)
        (one,) = (one for rule in part.RULES.rules for one in rule.findings(what))
        assert (one.repair, one.safe) == repair


@pytest.mark.parametrize(
    ("given", "hint"),
    [("none", "has no password"), ("int", "quotes"), ("padded", "white space"), ("str", "")],
)
def test_a_password_that_yaml_changed_is_named(given: str, hint: str) -> None:
    (one,) = part._password(seen(unreachable("password authentication failed", given=given)))
    assert hint in one.evidence


def test_other_clusters_of_the_host_are_named() -> None:
    clusters = (Cluster("15", "main", "5433", "online"),)
    one = replace(unreachable("Connection refused"), host="localhost")
    (clue,) = part._refused(seen(one, clusters=clusters))
    assert "15/main is online at port 5433" in clue.evidence


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"standby": True}, ("standby", "critical")),
        ({"read_only": "on"}, ("standby", "critical")),
        ({"may_create": False, "owner": "postgres"}, ("privileges", "critical")),
        ({"refused": 2, "foreign": 2, "foreign_shown": (("events", "postgres"),)}, ("privileges", "critical")),
        ({"foreign": 2, "foreign_shown": (("events", "postgres"),)}, ("privileges", "warning")),
        (
            {"error": Fault("query", "InsufficientPrivilege", "permission denied for table x")},
            ("privileges", "critical"),
        ),
        ({"encoding": "SQL_ASCII"}, ("locale", "critical")),
        ({"collation": "C.UTF-8"}, ("locale", "critical")),
        ({"ctype": "de_DE.UTF-8"}, ("locale", "critical")),
        ({"collation": "de_DE.UTF-8", "unsafe_locale": True}, ("locale_unsafe", "warning")),
        (
            {"collation": "de_DE.UTF-8", "unsafe_locale": True, "collation_versions": ("2.31", "2.36")},
            ("locale_unsafe", "error"),
        ),
        ({"server_version": "13.14"}, ("too_old", "critical")),
        ({"server_version": "13.14", "least": None}, ("too_old", "critical")),
        ({"compat_version": 95}, ("schema_too_new", "critical")),
        ({"schema_version": 60, "applied": 60}, ("schema_too_old", "critical")),
        ({"version_rows": 0, "schema_version": None}, ("schema_damaged", "critical")),
        ({"version_rows": 2}, ("schema_damaged", "critical")),
        ({"schema_version": 90}, ("schema_damaged", "critical")),
        ({"pool": 200}, ("pool", "warning")),
        ({"role_limit": 3}, ("pool", "warning")),
        ({"blocked": 2, "blocked_seconds": 90}, ("blocked", "warning")),
        (
            {"error": Fault("query", "LockNotAvailable", "canceling statement due to lock timeout")},
            ("blocked", "error"),
        ),
        ({"frozen_age": 1_500_000_000}, ("wraparound", "warning")),
        ({"frozen_age": 2_100_000_000}, ("wraparound", "critical")),
        ({"pending": ("a",)}, ("updates_pending", "info")),
        ({"pending": ("a",), "unknown_updates": ("a",)}, ("updates_pending", "warning")),
        ({"sequences": (Sequence("s", "t", "id", "x", 9, 9, 1),)}, ("sequences", "error")),
        ({"sequences": (Sequence("s", "t", "id", "x", 1, 9, 1),)}, ("sequences", "critical")),
        ({"sequences": (Sequence("s", "t", "id", None, 9, None, 1),)}, ("sequences_behind", "warning")),
        ({"tables": 3, "version_rows": None, "schema_version": None, "users": None}, ("tables_foreign", "warning")),
        ({"error": Fault("driver", "ImportError", "libpq.so.5: cannot open")}, ("driver_missing", "critical")),
    ],
)
def test_a_fault_of_postgresql_is_named(changes: dict[str, t.Any], expected: tuple[str, str]) -> None:
    assert found(seen(replace(POSTGRESQL, **changes))) == [expected]


def test_versions_that_are_just_new_enough_are_not_told() -> None:
    assert found(seen(replace(POSTGRESQL, server_version="14.0"))) == []
    assert found(seen(replace(SQLITE, server_version="3.37.2"))) == []
    assert found(seen(replace(SQLITE, server_version="3.37.1"))) == [("too_old", "critical")]


def test_a_downgrade_names_the_oldest_release_that_can_read_the_database() -> None:
    what = seen(replace(POSTGRESQL, compat_version=94), schema=93)
    (one,) = part._schema_too_new(what)
    assert "1.151.0" in (one.remedy or "")


def test_of_a_stream_that_is_ahead_the_remedy_names_it() -> None:
    one = replace(POSTGRESQL, sequences=(Sequence("s", "t", "id", "events", 1, 9, 1),))
    (clue,) = part._sequences(seen(one))
    assert "DELETE FROM stream_positions WHERE stream_name = 'events'" in (clue.remedy or "")
    assert "at 9" in clue.evidence


EMPTY = replace(
    POSTGRESQL, tables=0, version_rows=None, schema_version=None, compat_version=None, applied=None, users=None
)


def test_an_empty_database_is_a_fault_only_of_a_server_that_has_served() -> None:
    assert found(seen(EMPTY)) == []
    assert found(seen(EMPTY, past="there is media")) == [("empty", "critical")]


@pytest.mark.parametrize(
    ("one", "old", "expected"),
    [
        (EMPTY, Old("/data/homeserver.db", 0.0, 94, ("x",), True), [("not_ported", "critical")]),
        (replace(POSTGRESQL, users=False), Old("/data/homeserver.db", 0.0, 94, (), True), [("not_ported", "critical")]),
        (EMPTY, Old("/data/homeserver.db", 0.0, 94, ("x",), False), [("port_waits", "warning")]),
        (POSTGRESQL, Old("/data/homeserver.db", 0.0, 94, ("x",), True), []),
    ],
)
def test_data_that_were_not_ported_are_found(one: One, old: Old, expected: list[tuple[str, str]]) -> None:
    assert found(seen(one, old=old)) == expected


@pytest.mark.parametrize("name", ["allow_unsafe_locale", "synchronous_commit", "txn_limit"])
def test_an_option_of_synapse_among_those_of_the_driver_is_named(name: str) -> None:
    (one,) = part._arguments(seen(POSTGRESQL, args={name: True}))
    assert name in one.summary
    assert "one level up" in (one.remedy or "")


def sqlite(**changes: t.Any) -> One:
    """Return an SQLite database whose file was seen so."""
    return replace(
        One(where="/data/homeserver.db", server_version="3.46.1"),
        file=replace(SqliteFile("/data/homeserver.db", "/data/homeserver.db", size=2_000_000), **changes),
    )


@pytest.mark.parametrize(
    ("one", "past", "expected"),
    [
        (sqlite(kind="missing", size=None), "", []),
        (sqlite(kind="missing", size=None), "media", [("file_missing", "critical")]),
        (sqlite(kind="missing", size=None, wal=4096), "", [("file_missing", "critical")]),
        (sqlite(kind="missing", size=None, deleted="/proc/1/fd/3"), "", [("file_missing", "critical")]),
        (sqlite(kind="missing", size=None, folder=False), "media", [("folder_missing", "critical")]),
        (sqlite(size=0), "", []),
        (sqlite(size=0), "media", [("file_missing", "critical")]),
        (sqlite(kind="other"), "", [("not_sqlite", "critical")]),
        (sqlite(magic=False), "", [("not_sqlite", "critical")]),
        (sqlite(truncated=True), "", [("malformed", "critical")]),
        (sqlite(damage="row 3 missing from index x"), "", [("malformed", "critical")]),
        (sqlite(refused=("/data",)), "", [("readonly", "critical")]),
        (sqlite(readonly=True), "", [("readonly", "critical")]),
        (sqlite(holders=("process 7 (sqlite3)",)), "", [("locked", "error")]),
        (sqlite(unfinished=True, wal=4096), "", [("unfinished", "info")]),
        (sqlite(wal=1024**3), "", [("wal_large", "warning")]),
        (One(memory=True, where=":memory:"), "", [("in_memory", "critical")]),
        (One(), "", [("arguments", "critical")]),
        (replace(SQLITE, unknown_args=("user",)), "", [("arguments", "critical")]),
        (
            replace(SQLITE, error=Fault("query", "DatabaseError", "database disk image is malformed")),
            "",
            [("malformed", "critical")],
        ),
        (replace(SQLITE, error=Fault("query", "OperationalError", "database is locked")), "", [("locked", "error")]),
        (
            replace(SQLITE, error=Fault("connect", "OperationalError", "something new")),
            "",
            [("file_unusable", "critical")],
        ),
        (
            replace(SQLITE, error=Fault("query", "OperationalError", "database or disk is full")),
            "",
            [("full", "critical")],
        ),
    ],
)
def test_a_fault_of_an_sqlite_file_is_named(one: One, past: str, expected: list[tuple[str, str]]) -> None:
    assert found(seen(one, past=past)) == expected


def test_what_another_user_may_not_write_is_no_fault_of_the_service() -> None:
    assert found(seen(sqlite(refused=("/data",)), as_service=False)) == []


def test_the_list_of_clusters_is_read() -> None:
    text = (
        "15  main    5432 online postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log\n"
        "17  main    5433 down   postgres /var/lib/postgresql/17/main log\nnonsense\n"
    )
    assert parse_clusters(text) == (Cluster("15", "main", "5432", "online"), Cluster("17", "main", "5433", "down"))
    assert Cluster("15", "main", "5432", "down").unit == "postgresql@15-main.service"


def test_who_holds_a_write_lock_is_read_from_the_kernels_list() -> None:
    # Recorded on Linux 6.1 while sqlite3 had a transaction open.
    text = (
        "1: POSIX  ADVISORY  WRITE 711 fe:00:77 120 120\n"
        "2: POSIX  ADVISORY  READ 712 fe:00:77 123 123\n"
        "3: POSIX  ADVISORY  WRITE 713 fe:00:42 1073741825 1073741825\n"
        "4: POSIX  ADVISORY  READ 714 fe:00:42 1073741826 1073742335\n"
        "5: FLOCK  ADVISORY  WRITE 715 fe:00:42 0 EOF\n"
        "6: POSIX  ADVISORY  WRITE 716 fe:00:99 0 EOF\n"
        "6: -> POSIX  ADVISORY  WRITE 717 fe:00:42 0 EOF\n"
        "7: POSIX  ADVISORY  WRITE 718 fe:00:42 0 EOF\nbroken\n"
    )
    assert parse_locks(text, {77: True, 42: False}) == (711, 713, 718)


def test_words_of_unknown_kind_are_other() -> None:
    assert kind_of("gibberish") == "other"


def test_what_is_shown_holds_no_secret_and_is_plain_data() -> None:
    shown = seen(POSTGRESQL).database.shown()
    assert shown == {
        "engine": "psycopg2",
        "where": "synapse (127.0.0.1:5432)",
        "reachable": True,
        "server_version": "15.18",
        "schema_version": 94,
        "compat_version": 84,
        "size": None,
        "pending_background_updates": 0,
    }
    assert Database().shown()["reachable"] is False


# ------------------------------------------------------------------------------------------------------------- the look


def make_database(path: Path) -> None:
    """Make an SQLite file with what Synapse writes about its schema."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (94);"
            "CREATE TABLE schema_compat_version (compat_version INTEGER); INSERT INTO schema_compat_version VALUES "
            "(84);"
            "CREATE TABLE applied_schema_deltas (version INTEGER, file TEXT); CREATE TABLE users (name TEXT);"
            "CREATE TABLE background_updates (update_name TEXT); INSERT INTO users VALUES ('@a:hs');"
        )
    connection.close()


def context_of(text: str, run: t.Any = None) -> Context:
    """Return a context in which the probe runs within this process."""

    def run_here(argv: t.Sequence[str], *, stdin: str | None = None, **_options: t.Any) -> CommandResult:
        if stdin is None:  # pg_lsclusters, where this machine has it
            return CommandResult(0, "", "")
        return CommandResult(0, json.dumps(probe.answer(json.loads(stdin)), default=str), "")

    return Context(
        Request(config_paths=("/x/homeserver.yaml",), python=sys.executable),
        run or run_here,
        deadline=1e12,
        settings=Settings((ConfigFile("/x/homeserver.yaml"),), yaml.safe_load(text)),
        texts={"/x/homeserver.yaml": text},
    )


def test_a_look_at_an_sqlite_file_changes_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.db"
    make_database(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    before = (path.read_bytes(), sorted(tmp_path.iterdir()))
    database = database_look.look(context_of(f"database: {{name: sqlite3, args: {{database: {path}}}}}"))
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before
    (one,) = database.parts
    assert (one.schema_version, one.compat_version, one.users, one.error) == (94, 84, True, None)


def test_a_look_reads_what_a_process_has_not_written_back_yet(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.db"
    make_database(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE schema_version SET version = 95")
        connection.commit()
        (one,) = database_look.look(context_of(f"database: {{name: sqlite3, args: {{database: {path}}}}}")).parts
    connection.close()
    assert one.schema_version == 95


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"<html>", ["not_sqlite"]),
        (b"SQLite format 3\0" + bytes(200), ["malformed"]),
    ],
)
def test_a_look_at_something_else_is_no_exception(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    path = tmp_path / "homeserver.db"
    path.write_bytes(content)
    context = context_of(f"database: {{name: sqlite3, args: {{database: {path}}}}}")
    what = Seen(request=context.request, settings=context.settings, database=database_look.look(context))
    assert [name for name, _severity in found(what)] == expected


def test_a_file_that_was_cut_off_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.db"
    make_database(path)
    path.write_bytes(path.read_bytes()[:8192])
    (one,) = database_look.look(context_of(f"database: {{name: sqlite3, args: {{database: {path}}}}}")).parts
    assert one.file is not None
    assert one.file.truncated


@pytest.mark.parametrize(
    "text", ["[]", "database: 5", "database: {name: sqlite3, args: 7}", "databases: {a: 1}", "database: {name: mysql}"]
)
def test_settings_that_are_garbage_are_no_exception(text: str) -> None:
    database_look.look(context_of(text))


def test_no_secret_of_the_settings_is_in_the_answer() -> None:
    args = "host: 127.0.0.1, port: 1, password: hunter2hunter2, dbname: hunter2hunter2"
    text = f"database: {{name: psycopg2, args: {{{args}}}}}"
    database = database_look.look(context_of(text))
    assert "hunter2hunter2" not in repr(database.parts[0].error)


# ------------------------------------------------------------------------------------------------------------ the probe


def test_what_a_release_compares_is_read_from_its_source(tmp_path: Path) -> None:
    folder = tmp_path / "storage" / "databases" / "main"
    folder.mkdir(parents=True)
    # As synapse/storage/databases/main/events_worker.py has them (1.163.2), shortened.
    (folder / "events_worker.py").write_text(
        "        self._gen = MultiWriterIdGenerator(\n            db_conn=db_conn,\n            "
        'stream_name="events",\n'
        '            tables=[\n                ("events", "instance_name", "stream_ordering"),  # (a remark)\n'
        '                ("ex_outlier_stream", "event_instance_name", "event_stream_ordering"),\n            ],\n'
        '            sequence_name="events_stream_seq",\n            writers=hs.config.worker.writers.events,\n'
        "        )\n        self.chain = build_sequence_generator(\n            db_conn,\n            "
        "database.engine,\n"
        '            get_chain_id_txn,\n            "event_auth_chain_id",\n            table="event_auth_chains",\n'
        '            id_column="chain_id",\n        )\n'
    )
    found_streams = probe.streams(str(tmp_path))
    assert [(one["sequence"], one["table"], one["stream"]) for one in found_streams] == [
        ("events_stream_seq", "events", "events"),
        ("events_stream_seq", "ex_outlier_stream", "events"),
        ("event_auth_chain_id", "event_auth_chains", None),
    ]


def test_names_that_could_be_anything_are_not_asked_for() -> None:
    assert list(probe.stream_of({"sequence_name": "a; DROP TABLE x", "tables": [("t", "i", "c")]})) == []
    assert list(probe.stream_of({"sequence_name": "s", "tables": "t"})) == []


def test_the_least_versions_are_read_from_the_engines_own_checks(tmp_path: Path) -> None:
    folder = tmp_path / "storage" / "engines"
    folder.mkdir(parents=True)
    (folder / "postgres.py").write_text("if not allow_outdated_version and self._version < 140000:\n")
    (folder / "sqlite.py").write_text("if sqlite3.sqlite_version_info < (3, 37, 2):\n")
    assert probe.least(str(tmp_path), "psycopg2") == "14"
    assert probe.least(str(tmp_path), "sqlite3") == "3.37.2"
    assert probe.least(str(tmp_path / "nowhere"), "psycopg2") is None


def test_databases_are_found_as_synapse_finds_them() -> None:
    several = {"databases": {"a": {"name": "psycopg2"}, "b": {"name": "psycopg2", "data_stores": ["state"]}}}
    assert sorted(probe.databases_of(several)) == ["a", "b"]
    assert probe.databases_of({"database_path": "/x.db"})["master"]["args"]["database"] == "/x.db"
    assert probe.databases_of({"database": {"name": "psycopg2"}, "database_path": "/x"})["master"]["name"] == "psycopg2"
