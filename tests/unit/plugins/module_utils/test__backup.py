# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, manifests, what is cleared and pruned, and the commands, as tables."""

from __future__ import annotations

import dataclasses
import json
import shlex
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _backup
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._backup import (
    Connection,
    Listing,
    Manifest,
    Reader,
    Tools,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import secret_arguments

DIGEST = "0f343b0931126a20f133d67c2b018a3b5d4f2f3f7d1b2a0e6f0d1a2b3c4d5e6f"
HEX = "0123456789abcdef"
FIRST, SECOND, THIRD = (f"2026010{day}T000000Z-nightly.sqlite3" for day in (1, 2, 3))


def manifest(file: str = FIRST, **more: t.Any) -> Manifest:
    known: dict[str, t.Any] = {
        "file": file,
        "engine": "sqlite",
        "label": "nightly",
        "version": "1.150.0",
        "schema_version": 93,
        "compat_version": 89,
        "size": 4096,
        "sha256": DIGEST,
        "made_at": "2026-01-01T00:00:00Z",
    }
    return Manifest(**{**known, **more})


def listing(*complete: str, other: t.Iterable[str] = ()) -> Listing:
    """A folder with these backups, each with its manifest, and other files."""
    manifests = tuple((f"{name}.json", manifest(name)) for name in complete)
    return Listing((*complete, *(name for name, _manifest in manifests), *other), manifests)


# ------------------------------------------------------------------------------------------------------------ manifests


@pytest.mark.parametrize("more", [{}, {"version": None, "compat_version": None}, {"schema_version": 0}])
def test_a_manifest_is_read_as_it_was_written(more: dict[str, t.Any]) -> None:
    written = manifest(**more)
    assert _backup.parse_manifest(_backup.render_manifest(written), f"{FIRST}.json") == written
    assert json.loads(_backup.render_manifest(written))["format"] == 1


WRONG: dict[str, dict[str, t.Any]] = {
    "another format": {"format": 2},
    "another file's": {"file": SECOND},
    "a file elsewhere": {"file": f"../{FIRST}"},
    "an unknown engine": {"engine": "mysql"},
    "a size that is no number": {"size": "4096"},
    "a size below nothing": {"size": -1},
    "a truth for a number": {"schema_version": True},
    "no schema version": {"schema_version": None},
    "a digest that is none": {"sha256": "00"},
    "a version that is no text": {"version": 1},
    "more than there should be": {"more": 1},
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_manifest_is_none(case: str) -> None:
    text = json.dumps({**json.loads(_backup.render_manifest(manifest())), **WRONG[case]})
    assert _backup.parse_manifest(text.encode(), f"{FIRST}.json") is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000], ids=range(6))
def test_no_bytes_break_the_reading_of_a_manifest(data: bytes) -> None:
    assert _backup.parse_manifest(data, f"{FIRST}.json") is None


def test_a_manifest_under_another_name_is_none() -> None:
    assert _backup.parse_manifest(_backup.render_manifest(manifest()), "notes.json") is None


@pytest.mark.parametrize("label", ["x", "1.150.0-to-1.163.2", "a_b+c", "x" * 100])
def test_a_label_is_accepted(label: str) -> None:
    _backup.check_label(label)
    name = _backup.file_name("20260101T000000Z", label, "sqlite")
    assert _backup.parse_manifest(_backup.render_manifest(manifest(name, label=label)), f"{name}.json") is not None


@given(st.text(max_size=120))
def test_whatever_label_is_accepted_is_one_name_without_surprises(label: str) -> None:
    try:
        _backup.check_label(label)
    except SynapseError:
        return
    name = _backup.file_name("20260101T000000Z", label, "postgresql")
    assert "/" not in name
    assert not name.startswith(".")
    assert shlex.quote(name) == name
    assert len(_backup.partial_name(f"{name}.json", HEX)) < 255


@pytest.mark.parametrize("version", ["", "1.0 rc", "$(x)", "x" * 65, "1\n2"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(SynapseError, match="version"):
        _backup.check_version(version)


# ----------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize(
    ("keep", "pruned"),
    [(1, (FIRST, SECOND)), (2, (FIRST,)), (3, ()), (4, ()), (0, (FIRST, SECOND)), (-5, (FIRST, SECOND))],
)
def test_the_oldest_go_and_the_new_one_counts(keep: int, pruned: tuple[str, ...]) -> None:
    todo = _backup.plan(listing(FIRST, SECOND, other=["notes.txt"]), file=THIRD, keep=keep)
    assert todo.changed
    assert todo.prune == pruned
    kept = [name for name in (FIRST, SECOND) if name not in pruned]
    assert todo.diff == {
        "before": f"{FIRST}\n{SECOND}\n",
        "after": "".join(f"{name}\n" for name in (*kept, THIRD)),
    }


def test_without_a_new_one_none_goes() -> None:
    todo = _backup.plan(listing(FIRST, SECOND), file=None, keep=1)
    assert not todo.changed
    assert todo.prune == ()
    assert todo.diff["before"] == todo.diff["after"]


NAMES = tuple(f"2026010{day}T000000Z-x.sqlite3" for day in range(1, 7))


@pytest.mark.parametrize(
    ("keep", "readers", "pruned"),
    [
        # The first two were made by a release that knows schema 93; those after it need 94.
        (2, [], NAMES[:4]),
        (2, [Reader("1.163.2", 94)], NAMES[:4]),
        (2, [Reader("1.150.0", 93), Reader("1.163.2", 94)], (NAMES[0], *NAMES[2:4])),
        (5, [Reader("1.150.0", 93)], NAMES[:1]),
        (6, [Reader("1.150.0", 93)], ()),
        (1, [Reader("1.37.0", 60)], NAMES[:5]),  # it can read none of them
        (1, [Reader("1.150.0", None)], (NAMES[0], *NAMES[2:5])),
        (1, [Reader(None, None)], NAMES[:5]),
    ],
)
def test_the_newest_that_a_release_can_read_stays(keep: int, readers: list[Reader], pruned: tuple[str, ...]) -> None:
    made = [
        manifest(name, version="1.150.0" if old else "1.163.2", compat_version=84 if old else 94)
        for name, old in zip(NAMES, (True, True, False, False, False, False), strict=True)
    ]
    found = Listing(NAMES[:5], tuple((f"{one.file}.json", one) for one in made[:5]))
    todo = _backup.plan(found, file=NAMES[5], keep=keep, made=made[5], readers=readers)
    assert todo.prune == pruned
    assert _backup.plan(found, file=None, keep=keep, readers=readers).prune == ()


def test_a_backup_of_the_other_kind_of_database_is_no_way_back() -> None:
    dump = manifest(THIRD, engine="postgresql", compat_version=94)
    todo = _backup.plan(listing(FIRST, SECOND), file=THIRD, keep=1, made=dump, readers=[Reader("1.163.2", 94)])
    assert todo.prune == (FIRST, SECOND)


def test_a_dry_run_expects_what_the_newest_backup_has() -> None:
    found = _backup.expected(listing(FIRST, SECOND), file=THIRD, engine="sqlite")
    assert found == manifest(THIRD)
    assert _backup.expected(listing(FIRST), file=THIRD, engine="neither") is None


def test_what_has_no_manifest_neither_counts_nor_goes() -> None:
    assert _backup.plan(listing(SECOND, other=[FIRST]), file=THIRD, keep=2).prune == ()


@given(st.integers(1, 6), st.sets(st.integers(0, 50), max_size=10))
def test_after_a_backup_as_many_are_left_as_were_asked_for(keep: int, seconds: set[int]) -> None:
    names = [f"20260101T0000{second:02}Z-x.sqlite3" for second in sorted(seconds)]
    new = "20260101T000100Z-x.sqlite3"
    todo = _backup.plan(listing(*names), file=new, keep=keep)
    left = [name for name in (*names, new) if name not in todo.prune]
    assert left == [*names, new][-keep:]


PARTIAL, STAGED = f".{FIRST}.{HEX}.partial", f".{FIRST}.json.{HEX}.partial"
LEFT: dict[str, tuple[Listing, tuple[str, ...]]] = {
    "nothing": (listing(FIRST), ()),
    "a folder of a copy": (listing(other=[f".copy-{HEX}"]), (f".copy-{HEX}",)),
    "a half dump": (listing(other=[PARTIAL]), (PARTIAL,)),
    "a dump without its name": (listing(other=[PARTIAL, STAGED]), (STAGED, PARTIAL)),
    "a backup without its manifest": (listing(other=[FIRST, STAGED]), (FIRST, STAGED)),
    "a manifest staged beside a complete one": (listing(FIRST, other=[STAGED]), (STAGED,)),
    "a file that nothing says is ours": (listing(other=[FIRST]), ()),
    "a manifest without a file": (Listing((f"{FIRST}.json",), ((f"{FIRST}.json", manifest()),)), (f"{FIRST}.json",)),
    "names of others": (listing(other=[".copy-x", ".x.partial", ".notes", f".copy-{HEX}.txt", f"{PARTIAL}.old"]), ()),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_an_interruption_left_goes_and_nothing_else(case: str) -> None:
    found, expected = LEFT[case]
    assert sorted(_backup.leftovers(found)) == sorted(expected)


def test_a_staged_manifest_goes_after_its_backup() -> None:
    assert _backup.leftovers(listing(other=[STAGED, FIRST])) == (FIRST, STAGED)


# ----------------------------------------------------------------------------------------------------------------- room


@pytest.mark.parametrize(
    ("engine", "size", "free", "fits"),
    [
        ("sqlite", 100 << 20, 116 << 20, True),
        ("sqlite", 100 << 20, (116 << 20) - 1, False),
        ("postgresql", 300 << 20, 116 << 20, True),
        ("postgresql", 300 << 20, 115 << 20, False),
        ("sqlite", 0, 0, False),
    ],
)
def test_room_is_asked_for(engine: str, size: int, free: int, fits: bool) -> None:
    refusal = _backup.room_refusal(engine, size, free, "/srv/backups")
    assert (refusal is None) is fits
    assert refusal is None or "/srv/backups" in refusal


def test_the_refusal_says_how_much() -> None:
    assert "12 GiB" in str(_backup.room_refusal("sqlite", 12 << 30, 0, "/srv"))
    said = str(_backup.room_refusal("sqlite", 100 << 20, 0, "/srv"))
    assert "100 MiB" in said
    # A smaller number makes no room: nothing goes before the new one is there.
    assert "keep" not in said


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


def test_a_connection_is_shown_without_its_secrets() -> None:
    connection = _backup.connection_of(
        {
            "dbname": None,
            "user": "it's",
            "password": "secret-one",
            "sslpassword": "secret-two",
            "passfile": None,
            "host": "/var/run/postgresql",
            "port": 5433,
            "args": {"database": "synapse", "cp_min": 5, "sslmode": "require", "application_name": "a b"},
        }
    )
    assert shlex.split(connection.shown.replace("\\'", "")) != []
    assert "secret" not in connection.shown + repr(connection)
    assert set(connection.shown.split(" ")) >= {"port=5433", "sslmode=require", "dbname=synapse", "user='it\\'s'"}
    assert "application_name='a b'" in connection.shown
    assert "cp_min" not in connection.shown
    assert connection.request["password"] == "secret-one"
    assert (connection.password, connection.sslpassword) == ("secret-one", "secret-two")
    assert connection.name == "synapse"
    command = _backup.dump_command(Tools("/bin", "15.1"), connection, passfile="/tmp/x y", service="synapse")
    assert "secret" not in " ".join(command)
    assert command[-1].endswith("passfile='/tmp/x y' service=synapse")


@pytest.mark.parametrize(
    "name", ["password", "sslpassword", "PGPassword", "oauth_client_secret", "token", "scram_client_key", "dsn"]
)
def test_a_secret_among_the_arguments_is_refused(name: str) -> None:
    with pytest.raises(SynapseError) as caught:
        _backup.connection_of({"args": {name: "the-value"}})
    assert "the-value" not in caught.value.msg
    assert secret_arguments({name: "the-value", "sslmode": "x"}) == {name: "the-value"}


def test_of_a_connection_string_its_parts_are_asked_for() -> None:
    with pytest.raises(SynapseError, match=r"holds dsn.* give its parts, .*postgresql\.passfile, instead\.$"):
        _backup.connection_of({"args": {"dsn": "host=db password=the-value"}})


def test_a_password_is_escaped_for_its_file() -> None:
    assert _backup.passfile_line("a:b\\c") == "*:*:*:*:a\\:b\\\\c\n"
    with pytest.raises(SynapseError):
        _backup.passfile_line("a\nb")


def test_a_service_file_holds_what_it_can() -> None:
    assert _backup.service_text("synapse", {"sslpassword": "a=b #c"}) == "[synapse]\nsslpassword=a=b #c\n"
    for value in (" secretly", "secretly\n", "secret\tly"):
        with pytest.raises(SynapseError) as caught:
            _backup.service_text("synapse", {"sslpassword": value})
        assert value not in caught.value.msg


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", "15.14"),
        ("pg_dump (PostgreSQL) 9.6.24\n", "9.6.24"),
        ("pg_dump (PostgreSQL) 18beta1\n", "18"),
        ("Error: You must install at least one postgresql-client-<version> package\n", None),
        ("", None),
    ],
)
def test_the_version_of_a_program_is_read(text: str, version: str | None) -> None:
    assert _backup.major_of(text) == version


@pytest.mark.parametrize(
    ("have", "server", "chosen"),
    [
        (["15.1"], 150014, "15.1"),
        (["17.2", "15.1", "13.9"], 150014, "15.1"),
        (["17.2", "16.0", "13.9"], 150014, "16.0"),
        (["13.9", "14.0"], 150014, None),
        ([], 150014, None),
    ],
)
def test_programs_of_the_servers_release_are_chosen_or_newer_ones(
    have: list[str], server: int, chosen: str | None
) -> None:
    tools = [Tools(f"/usr/lib/postgresql/{version}/bin", version) for version in have]
    if chosen is not None:
        assert _backup.choose_tools(tools, server).version == chosen
        return
    with pytest.raises(SynapseError) as caught:
        _backup.choose_tools(tools, server)
    assert "postgresql-client-15" in caught.value.msg
    assert all(version in caught.value.msg for version in have[-1:])


# What pg_restore 15.14 wrote for these tables of a database of Synapse 1.163.2.
SCRIPT = """--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Data for Name: schema_compat_version; Type: TABLE DATA; Schema: public; Owner: synapse
--

COPY public.schema_compat_version (lock, compat_version) FROM stdin;
X\t89
\\.


--
-- Data for Name: schema_version; Type: TABLE DATA; Schema: public; Owner: synapse
--

COPY public.schema_version (lock, version, upgraded) FROM stdin;
X\t93\t\\N
\\.


--
-- PostgreSQL database dump complete
--
"""


def test_the_state_of_the_schema_is_read_out_of_a_dump() -> None:
    rows = {table: _backup.rows_of_dump(SCRIPT, table) for table in ("schema_version", "schema_compat_version")}
    assert rows["schema_version"] == [{"lock": "X", "version": "93", "upgraded": None}]
    assert _backup.schema_of(rows) == (93, 89)
    assert _backup.rows_of_dump(SCRIPT, "version") == []


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ({}, (None, None)),
        ({"schema_version": [{"version": 59}]}, (59, None)),
        ({"schema_version": [{"version": "x"}], "schema_compat_version": [{"compat_version": None}]}, (None, None)),
        ({"schema_version": [{"version": True}]}, (None, None)),
        ({"schema_version": [{"version": -1}]}, (None, None)),
        ({"schema_version": [{"other": 1}]}, (None, None)),
    ],
)
def test_what_says_nothing_of_the_schema_is_none(rows: dict[str, t.Any], found: tuple[int | None, int | None]) -> None:
    assert _backup.schema_of(rows) == found


# What pg_dump 15.14 says, and what is to be done.
SAID = {
    "pg_dump: error: could not write to output file: No space left on device\n": "Make room in /srv",
    'pg_dump: error: connection to server at "127.0.0.1", port 5432 failed: FATAL:  password authentication failed for '
    'user "synapse"\n': "postgresql.passfile",
    "pg_dump: error: query failed: ERROR:  permission denied for table users\n": "owns Synapse's tables",
    "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout\n": "keeps a table locked",
    "pg_dump: error: aborting because of server version mismatch\n": "of the server's release",
    "": "it said nothing",
}


@pytest.mark.parametrize("said", SAID)
def test_a_failed_dump_is_explained_in_one_paragraph(said: str) -> None:
    message = _backup.explain_dump(said, Connection("dbname=synapse", {}, "synapse"), "/srv")
    assert SAID[said] in message
    assert "\n" not in message
    assert message.endswith("No backup was made.")


# -------------------------------------------------------------------------------------------------------------- restore


def test_every_name_in_a_command_is_quoted() -> None:
    commands = _backup.sqlite_restore(
        "/srv/it's/b.sqlite3", DIGEST, database="/var/my data/hs.db", user="syn", unit="synapse@a b"
    )
    assert shlex.split(commands[0])[1] == f"{DIGEST}  /srv/it's/b.sqlite3"
    assert shlex.split(commands[1]) == ["systemctl", "stop", "synapse@a b"]
    words = shlex.split(commands[2])
    assert words[:6] == ["runuser", "-u", "syn", "--", "sh", "-c"]
    assert words[-2:] == ["<", "/srv/it's/b.sqlite3"]
    assert "/var/my data/hs.db-wal" in shlex.split(words[6])


def test_without_a_unit_and_a_user_there_is_nothing_to_stop_and_nobody_to_become() -> None:
    commands = _backup.sqlite_restore("/b", DIGEST, database="/d", user=None, unit=None)
    assert len(commands) == 2
    assert commands[1].startswith("sh -c ")


@pytest.mark.parametrize(
    ("tools", "server", "filtered"), [("17.2", 160004, True), ("17.2", 170002, False), ("16.1", 150014, False)]
)
def test_a_newer_programs_setting_is_kept_from_an_older_server(tools: str, server: int, filtered: bool) -> None:
    commands = _backup.postgresql_restore(
        "/b.pgdump",
        DIGEST,
        tools=Tools("/usr/bin", tools),
        server_version=server,
        connection=Connection("dbname=synapse", {"password": "x-secret"}, "synapse", "x-secret"),
        user="synapse",
        unit=None,
    )
    assert ("transaction_timeout" in commands[-1]) is filtered
    assert "x-secret" not in "".join(commands)


def test_what_is_documented_of_a_manifest_is_all_of_it() -> None:
    assert {field.name for field in dataclasses.fields(Manifest)} == {
        *("file", "engine", "label", "version", "schema_version"),
        *("compat_version", "size", "sha256", "made_at"),
    }
