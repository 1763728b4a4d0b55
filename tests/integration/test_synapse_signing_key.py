# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as a process, on real files, beside a real Synapse with real signed events (SYNAPSE_VENV)."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.request

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import Homeserver, ask, synapse_python
from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import run_apart

SYNAPSE = synapse_python()
SERVER = "keys.test"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


def seeds(folder: pathlib.Path) -> set[str]:
    """Every private key in any file below a folder, in the two spellings that it may leak in."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 4096:
            for line in path.read_bytes().decode("latin-1").splitlines():
                parts = line.split()
                if len(parts) == 3 and parts[0] == "ed25519":
                    found.add(parts[2])
                    with contextlib.suppress(ValueError):
                        found.add(base64.b64decode(parts[2] + "=").hex())
    return found


class Host:
    """A folder that plays the host."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.key = folder / "hs.signing.key"
        self.record = folder / "hs.signing.key.verify_keys.json"

    def run(self, **options: t.Any) -> dict[str, t.Any]:
        """Run the module; whatever it prints must hold no private key that was or is on the host."""
        arguments = {"path": str(self.key), "python": str(SYNAPSE), **options}
        before = seeds(self.folder)
        done = run_apart("synapse_signing_key", arguments)
        for secret in before | seeds(self.folder):
            assert secret not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        # Warnings are objects from ansible-core 2.19 on.
        result["warnings"] = [str(item) for item in result.get("warnings", [])]
        return t.cast("dict[str, t.Any]", result)

    def ok(self, **options: t.Any) -> dict[str, t.Any]:
        """Run the module; it must succeed."""
        result = self.run(**options)
        assert not result.get("failed"), result["msg"]
        return result

    def refused(self, **options: t.Any) -> str:
        """Run the module; it must fail and leave everything as it was."""
        before = self.snapshot()
        result = self.run(**options)
        assert result.get("failed"), result
        assert self.snapshot() == before
        return str(result["msg"])

    def snapshot(self) -> dict[str, object]:
        """All files with bytes, mode, owner, inode."""
        return {
            path.name: (path.read_bytes() if path.is_file() else None, os.lstat(path)[:6])
            for path in sorted(self.folder.iterdir())
        }

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    folder = tmp_path / "host"
    folder.mkdir(mode=0o755)
    return Host(folder)


def server_in(folder: pathlib.Path, **config: t.Any) -> Homeserver:
    """A server whose key and database lie where ``Host`` looks for them."""
    return Homeserver.configured(folder, server_name=SERVER, signing_key_path=str(folder / "hs.signing.key"), **config)


def populate(server: Homeserver) -> None:
    """Give it one user, one room and a few events."""
    register = f"{server.url}/_synapse/admin/v1/register"
    nonce = ask(register)["nonce"]
    said = "\0".join([nonce, "ann", "pw", "admin"]).encode()
    mac = hmac.new(server.shared_secret.encode(), said, hashlib.sha1).hexdigest()
    user = ask(register, {"nonce": nonce, "username": "ann", "password": "pw", "admin": True, "mac": mac})
    client = f"{server.url}/_matrix/client/v3"
    room = ask(f"{client}/createRoom", {"name": "keys"}, user["access_token"])["room_id"]
    body = {"msgtype": "m.text", "body": "signed"}
    ask(f"{client}/rooms/{urllib.parse.quote(room)}/send/m.room.message", body, user["access_token"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Homeserver:
    """A stopped server with a life, whose key the module minted."""
    folder = tmp_path_factory.mktemp("server")
    folder.chmod(0o755)
    server = server_in(folder)
    Host(folder).ok(server_name=SERVER, database=str(server.database_path))
    with server.running():
        populate(server)
        Host(folder).ok(server_name=SERVER, published_url=server.url)
    return server


@pytest.fixture
def grown(host: Host, server: Homeserver) -> Host:
    """A host with the server's key and database, and nothing else: no record."""
    shutil.copy(server.key_path, host.key)
    for name in server.folder.glob("homeserver.db*"):
        shutil.copy(name, host.folder)
    return host


def test_the_log_of_a_crashed_server_counts_and_is_left_as_it_is(host: Host) -> None:
    path = host.folder / "homeserver.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE events (event_id, sender, stream_ordering, room_id)")
    connection.execute("CREATE TABLE event_json (event_id, json)")
    connection.execute("CREATE TABLE rooms (room_id, room_version)")
    connection.execute("CREATE TABLE users (name)")
    connection.execute("INSERT INTO users VALUES ('ann')")
    connection.commit()
    copy = Host(host.folder.parent / "crashed")
    copy.folder.mkdir()
    for name in ("homeserver.db", "homeserver.db-wal"):
        shutil.copy(host.folder / name, copy.folder)
    connection.close()
    assert "accounts or events" in copy.refused(**life(copy))


def test_a_copy_of_the_database_does_not_stay(
    host: Host, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A log that cannot be copied, after the database was.
    (host.folder / "homeserver.db").write_bytes(b"SQLite format 3\0" + b"\x10\0\x02\x02" + bytes(4096))
    (host.folder / "homeserver.db-wal").mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    assert "cannot be read" in host.refused(**life(host))
    assert list(scratch.rglob("db*")) == []


@as_root
def test_root_gives_no_key_to_an_environment_of_another_user(host: Host, tmp_path: pathlib.Path) -> None:
    python = tmp_path / "foreign" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    python.chmod(0o755)
    os.chown(python.parents[1], 23456, 23456)
    assert "belongs to the user with the number 23456" in host.refused(python=str(python))
    assert not (tmp_path / "ran").exists()


def life(host: Host) -> dict[str, str]:
    return {"server_name": SERVER, "database": str(host.folder / "homeserver.db")}


def key_line(version: str = "a_new1") -> str:
    return f"ed25519 {version} {base64.b64encode(os.urandom(32)).decode().rstrip('=')}\n"


def synapse_reads(path: pathlib.Path) -> list[str]:
    """The key ids that Synapse itself loads from a file."""
    code = (
        "import sys, json; from synapse.config.key import KeyConfig; "
        "print(json.dumps([f'{k.alg}:{k.version}' for k in KeyConfig(None).read_signing_keys(sys.argv[1], 'k')]))"
    )
    done = subprocess.run([SYNAPSE, "-c", code, path], capture_output=True, text=True, check=True)
    return t.cast("list[str]", json.loads(done.stdout))


@pytest.fixture
def _loose_umask() -> t.Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# A new server


def test_check_mode_on_a_bare_host_predicts_and_writes_nothing(host: Host) -> None:
    result = host.ok(
        python="/nowhere/bin/python",
        owner="nobody-yet",
        group="nobody-yet",
        user="nobody-yet",
        published_url="http://127.0.0.1:9",
        _ansible_check_mode=True,
        **life(host),
    )
    assert (result["changed"], result["action"], result["key_ids"]) == (True, "create", [])
    assert host.files() == set()


@pytest.mark.usefixtures("_loose_umask")
def test_a_new_key_is_private_loads_in_synapse_and_is_remembered_by_its_public_half(host: Host) -> None:
    result = host.ok(**life(host))
    assert result["changed"]
    assert stat.S_IMODE(host.key.stat().st_mode) == 0o600
    assert synapse_reads(host.key) == result["key_ids"] == list(result["verify_keys"])
    public = base64.b64decode(result["verify_keys"][result["key_ids"][0]] + "=")
    assert result["key_ids"] == ["ed25519:a_" + hashlib.sha256(public).hexdigest()[:8]]
    assert host.key.read_text().split()[2] not in host.record.read_text()
    assert host.files() == {host.key.name, host.record.name}


def test_two_hosts_never_get_the_same_id(host: Host, tmp_path: pathlib.Path) -> None:
    other = Host(tmp_path)
    assert host.ok()["key_ids"] != other.ok()["key_ids"]


def test_the_second_run_changes_nothing_and_needs_no_interpreter_and_no_database(host: Host) -> None:
    first = host.ok(**life(host))
    before = host.snapshot()
    again = host.ok(
        python="/nowhere", server_name=SERVER, postgresql={"host": "/nowhere"}, published_url="http://[::1]:1"
    )
    assert (again["changed"], again["action"]) == (False, "keep")
    assert again["verify_keys"] == first["verify_keys"]
    assert host.snapshot() == before


def test_a_missing_folder_is_named(host: Host) -> None:
    assert "Make it first" in host.refused(path=str(host.folder / "etc" / "hs.signing.key"))


def test_runs_at_the_same_time_make_one_identity(host: Host) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(host.run) for _number in range(4)]]
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["action"] for result in results) == ["create", "keep", "keep", "keep"]
    final = host.ok()
    assert (final["changed"], len(final["key_ids"])) == (False, 1)
    assert {tuple(result["key_ids"]) for result in results} == {tuple(final["key_ids"])}
    assert {path.name for path in host.key.parent.iterdir() if path.name.startswith(f".{host.key.name}")} == set()


def test_a_run_waits_for_another_one_that_works_on_the_key(host: Host) -> None:
    handle = os.open(host.key.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(host.run)
            time.sleep(2)
            assert not waiting.done()
            assert not host.key.exists()
            fcntl.flock(handle, fcntl.LOCK_UN)
            assert waiting.result()["action"] == "create"
            # What is in place needs nobody's leave.
            fcntl.flock(handle, fcntl.LOCK_EX)
            assert pool.submit(host.run).result(timeout=20)["action"] == "keep"
    finally:
        os.close(handle)


def test_what_a_living_run_has_staged_is_not_cleared_away(host: Host) -> None:
    host.ok()
    staged = host.key.parent / f".{host.key.name}.0123456789abcdef.partial"
    staged.touch(mode=0o600)
    handle = os.open(host.key.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        host.ok()
        assert staged.exists()
    finally:
        os.close(handle)
    host.ok()
    assert not staged.exists()


def test_without_an_environment_nothing_is_minted(host: Host) -> None:
    assert "synapse_venv" in host.refused(python="/nowhere/bin/python")


def test_an_environment_that_lacks_signedjson_is_named(host: Host) -> None:
    assert "needs signedjson" in host.refused(python=sys.executable)


# A server with a life and no key


def test_events_keep_a_missing_key_from_being_minted(grown: Host, server: Homeserver) -> None:
    ids = Host(server.folder).ok()["key_ids"]
    grown.key.unlink()
    for check_mode in (False, True):
        message = grown.refused(**life(grown), _ansible_check_mode=check_mode)
        assert "is missing" in message
        assert ids[0] in message
        assert "new_identity" in message


def test_the_events_are_seen_without_an_environment_too(grown: Host) -> None:
    grown.key.unlink()
    assert "is missing" in grown.refused(**life(grown), python="/nowhere", _ansible_check_mode=True)


def test_the_record_keeps_a_missing_key_from_being_minted_and_the_backup_is_found(host: Host) -> None:
    host.ok()
    host.key.rename(host.folder / "hs.signing.key.bak")
    message = host.refused()
    assert f"The key is in {host.folder}/hs.signing.key.bak" in message
    (host.folder / "hs.signing.key.bak").rename(host.key)
    assert not host.ok()["changed"]


def test_the_backup_that_signed_the_events_is_told_from_others(grown: Host) -> None:
    grown.key.rename(grown.folder / "hs.signing.key.2")
    (grown.folder / "hs.signing.key.1").write_text(key_line())
    assert f"The key is in {grown.folder}/hs.signing.key.2:" in grown.refused(**life(grown))


def test_a_key_under_synapses_default_name_is_not_passed_over(host: Host) -> None:
    (host.folder / f"{SERVER}.signing.key").write_text(key_line())
    assert f"{SERVER}.signing.key holds ed25519:a_new1" in host.refused(server_name=SERVER)


def test_an_unreadable_database_is_no_proof_of_a_new_server(host: Host) -> None:
    (host.folder / "homeserver.db").write_bytes(b"not a database" * 100)
    assert "cannot be read" in host.refused(**life(host))


def test_a_database_without_tables_is_a_new_servers(host: Host) -> None:
    sqlite3.connect(host.folder / "homeserver.db").execute("CREATE TABLE t (x)").connection.close()
    assert host.ok(**life(host))["action"] == "create"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sslpassword", "postgresql.sslpassword"),
        ("password", "postgresql.password"),
        ("oauth_client_secret", "postgresql.passfile"),
        ("scram_client_key", "postgresql.passfile"),
        ("dsn", "postgresql.passfile"),
    ],
)
def test_a_secret_among_the_shown_parameters_is_refused(host: Host, name: str, option: str) -> None:
    result = host.run(server_name=SERVER, postgresql={"host": "/nowhere", "args": {name: "pg-hidden"}})
    assert option in result["msg"]
    assert "pg-hidden" not in json.dumps(result)


def test_the_password_of_the_client_key_is_not_shown(host: Host) -> None:
    result = host.run(server_name=SERVER, postgresql={"host": str(host.folder), "sslpassword": "pg-hidden"})
    assert "cannot be read" in result["msg"]
    assert "pg-hidden" not in json.dumps(result)


def test_a_postgresql_that_does_not_answer_is_no_proof_of_a_new_server(host: Host) -> None:
    message = host.refused(server_name=SERVER, postgresql={"host": str(host.folder), "password": "pg-secret"})
    assert "cannot be read" in message
    assert "pg-secret" not in message


@pytest.fixture
def postgresql(server: Homeserver) -> t.Iterator[dict[str, t.Any]]:
    """A PostgreSQL with the tables that tell of the server's events, and the arguments to reach it."""
    programs = [*pathlib.Path("/usr/lib/postgresql").glob("*/bin")]
    if not programs:
        pytest.fail("there is no PostgreSQL server on this machine: apt-get install postgresql")
    account: dict[str, t.Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if account:
            os.chown(folder, 65534, 65534)
        initdb = [programs[0] / "initdb", "-D", folder / "data", "-U", "synapse", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run([*initdb, "--locale=C"], check=True, cwd=folder, stdout=subprocess.DEVNULL, **account)
        command = [programs[0] / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, **account)
        arguments = {"host": name, "user": "synapse", "dbname": "postgres"}
        try:
            fill_postgresql(server, arguments)
            yield arguments
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def fill_postgresql(server: Homeserver, arguments: dict[str, t.Any]) -> None:
    """Copy what matters from the server's SQLite file."""
    code = """
import json, sqlite3, sys, time, psycopg2
path, arguments = sys.argv[1], json.loads(sys.argv[2])
for attempt in range(100):
    try:
        there = psycopg2.connect(**arguments)
        break
    except psycopg2.OperationalError:
        time.sleep(0.1)
here = sqlite3.connect(path)
cursor = there.cursor()
for table, columns in {
    "events": {"event_id": "text", "sender": "text", "stream_ordering": "bigint", "room_id": "text"},
    "event_json": {"event_id": "text", "json": "text"},
    "rooms": {"room_id": "text", "room_version": "text"},
    "users": {"name": "text"},
}.items():
    cursor.execute(f"CREATE TABLE {table} ({', '.join(' '.join(column) for column in columns.items())})")
    marks = ", ".join(["%s"] * len(columns))
    for row in here.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall():
        cursor.execute(f"INSERT INTO {table} VALUES ({marks})", row)
there.commit()
cursor.execute("COMMIT"); cursor.execute("CREATE DATABASE empty")
"""
    subprocess.run([SYNAPSE, "-c", code, server.database_path, json.dumps(arguments)], check=True)


def test_events_in_postgresql_count_like_those_in_sqlite(
    host: Host, server: Homeserver, postgresql: dict[str, t.Any]
) -> None:
    options = {"server_name": SERVER, "postgresql": {**postgresql, "args": {"cp_min": 5, "connect_timeout": 9}}}
    message = host.refused(**options)
    assert f"ed25519:{server.key_path.read_text().split()[1]}" in message
    host.key.write_text(key_line())
    assert "was replaced" in host.refused(**options)
    shutil.copy(server.key_path, host.key)
    assert host.ok(**options)["action"] == "record"
    for name in ("empty", "not_made_yet"):
        other = Host(host.folder / name)
        other.folder.mkdir()
        assert other.ok(server_name=SERVER, postgresql={**postgresql, "dbname": name})["action"] == "create"


def test_a_published_key_keeps_a_missing_key_from_being_minted(host: Host, server: Homeserver) -> None:
    with server.running():
        assert f"{server.url} publishes ed25519:" in host.refused(server_name=SERVER, published_url=server.url)
        assert host.ok(server_name="other.test", published_url=server.url)["action"] == "create"


def test_a_new_identity_is_minted_when_asked_for_and_only_then(grown: Host) -> None:
    old = grown.ok(**life(grown))
    grown.key.unlink()
    new = grown.ok(**life(grown), new_identity=True)
    assert new["action"] == "create"
    assert new["key_ids"] != old["key_ids"]
    assert list(new["old_signing_keys"]) == old["key_ids"]
    for new_identity in (True, False):
        assert not grown.ok(**life(grown), new_identity=new_identity)["changed"]


# A key that is there


def test_a_host_made_by_hand_is_adopted_after_its_events_were_checked(grown: Host) -> None:
    before = grown.key.read_bytes(), grown.key.stat().st_ino
    predicted = grown.ok(**life(grown), _ansible_check_mode=True)
    result = grown.ok(**life(grown))
    assert (result["changed"], result["action"]) == (predicted["changed"], predicted["action"]) == (True, "record")
    assert result["diff"] == predicted["diff"]
    assert (grown.key.read_bytes(), grown.key.stat().st_ino) == before
    assert not grown.ok(**life(grown))["changed"]


@pytest.mark.parametrize("with_record", [False, True])
@pytest.mark.parametrize("same_id", [False, True])
def test_a_replaced_key_is_recognised(grown: Host, server: Homeserver, with_record: bool, same_id: bool) -> None:
    line = server.key_path.read_text()
    if with_record:
        grown.ok(**life(grown))
    version = line.split()[1] if same_id else "a_new1"
    grown.key.write_text(key_line(version))
    message = grown.refused(**life(grown))
    assert "was replaced" in message
    assert f"ed25519:{line.split()[1]}" in message
    accepted = grown.ok(**life(grown), new_identity=True)
    assert accepted["action"] == "record"
    assert accepted["key_ids"] == [f"ed25519:{version}"]
    assert not grown.ok(**life(grown))["changed"]


def test_a_published_key_gives_a_replaced_one_away(host: Host, server: Homeserver) -> None:
    host.key.write_text(key_line())
    host.key.chmod(0o600)
    with server.running():
        assert "was replaced" in host.refused(server_name=SERVER, published_url=server.url)


def test_an_added_second_key_is_kept_and_remembered(host: Host) -> None:
    host.ok()
    host.key.write_text(host.key.read_text() + key_line("a_second"))
    result = host.ok()
    assert (result["action"], result["key_ids"][1:]) == ("record", ["ed25519:a_second"])
    assert not host.ok()["changed"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"garbage\n", "line 1: expected"),
        (b"# managed\n" + key_line().encode(), "line 1: expected"),
        (key_line().split()[2].encode(), "line 1: a key without algorithm"),
        (b"ed25519 a_1 0aFGvND1tR/kIKoe!!!!!\n", "line 1: the key has characters"),
        (b"\ned25519 a_1 AAAA\n", "line 2: the key has 3 bytes"),
        (b"ed25519 a_1\n", "line 1: expected the three words"),
        (key_line().encode().rstrip() + b" x\n", "line 1: expected the three words"),
        (b"\xef\xbb\xbf" + key_line().encode(), "line 1: the file begins with a byte order mark"),
        (key_line().encode() + b"\xff\n", "line 2: it has a byte that is not ASCII"),
        (key_line("a_1").encode() + key_line("a_1").encode(), "line 2: another key under the id ed25519:a_1"),
        (b"-----BEGIN PRIVATE KEY-----\n", "line 1: this is a PEM file"),
        (b"ed25519 a_1 " + b"A" * 43 + b"\n", "line 1: the key is one byte repeated"),
    ],
)
def test_a_broken_file_is_named_by_its_line_and_left_alone(host: Host, text: bytes, reason: str) -> None:
    host.key.write_bytes(text)
    host.key.chmod(0o600)
    message = host.refused(new_identity=True)
    assert reason in message
    for word in text.decode("latin-1").split():
        assert len(word) < 20 or word not in message


@pytest.mark.parametrize("change", ["\r\n", "\n\n", "=\n", "  \n"])
def test_what_synapse_reads_is_fine(host: Host, change: str) -> None:
    host.key.write_bytes(key_line().replace("\n", change).encode())
    host.key.chmod(0o600)
    assert host.ok()["key_ids"] == synapse_reads(host.key)


def test_a_public_key_in_the_place_of_the_private_one_is_recognised(host: Host) -> None:
    result = host.ok()
    (key_id, public) = next(iter(result["verify_keys"].items()))
    host.key.write_text(f"ed25519 {key_id.split(':')[1]} {public}\n")
    assert "is the public key" in host.refused(new_identity=True)


# Owner and mode


def test_a_loose_mode_is_put_right_and_the_key_is_not_touched(host: Host) -> None:
    host.ok()
    before = host.key.read_bytes(), host.key.stat().st_ino
    host.key.chmod(0o644)
    predicted = host.ok(_ansible_check_mode=True)
    assert predicted["changed"]
    assert stat.S_IMODE(host.key.stat().st_mode) == 0o644
    result = host.ok()
    assert (result["changed"], result["action"], result["diff"]) == (True, "keep", predicted["diff"])
    assert stat.S_IMODE(host.key.stat().st_mode) == 0o600
    assert (host.key.read_bytes(), host.key.stat().st_ino) == before
    assert not host.ok()["changed"]


@pytest.mark.parametrize("mode", ["0644", "0660", "0604", "0700", "u=rw", "4600"])
def test_a_mode_that_lets_others_in_is_refused(host: Host, mode: str) -> None:
    assert "mode" in host.refused(mode=mode)


@as_root
def test_owner_and_group_are_set_from_the_start_and_repaired(host: Host) -> None:
    host.ok(owner="nobody", group="0", mode="0640")
    status = host.key.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 0, 0o640)
    os.chown(host.key, 0, 0)
    assert host.ok(owner="nobody", group="0", mode="0640", user="nobody")["changed"]
    assert host.key.stat().st_uid == 65534
    assert "could not read" in host.refused(owner="root", user="nobody")
    assert "no user" in host.refused(owner="nobody-yet")


def python_for_anybody(folder: pathlib.Path) -> str:
    """An interpreter with Synapse that any user may start: the given one can lie in a private home."""
    folder.chmod(0o755)
    with contextlib.suppress(OSError):
        subprocess.run([SYNAPSE, "-c", "import synapse"], user=65534, check=True)
        return str(SYNAPSE)
    site = subprocess.check_output([SYNAPSE, "-c", "import synapse; print(synapse.__path__[0] + '/..')"], text=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", folder / "venv"], check=True)
    next((folder / "venv").glob("lib/python3*/site-packages")).joinpath("synapse.pth").write_text(site)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-c", "import synapse, nacl.signing"], check=True)
    return str(python)


@as_root
def test_the_database_is_read_as_its_owner(server: Homeserver) -> None:
    with tempfile.TemporaryDirectory() as name:
        python = python_for_anybody(pathlib.Path(name))
        grown = Host(pathlib.Path(name) / "host")
        grown.folder.mkdir()
        reads_as_owner(grown, server, python)


def reads_as_owner(grown: Host, server: Homeserver, python: str) -> None:
    shutil.copy(server.key_path, grown.key)
    database = grown.folder / "homeserver.db"
    shutil.copy(server.database_path, database)
    os.chown(database, 65534, 65534)
    database.chmod(0o600)
    assert grown.ok(**life(grown), python=python)["action"] == "record"
    grown.record.unlink()
    database.chmod(0o000)
    result = grown.ok(**life(grown), python=python)
    assert not result["changed"]
    assert "cannot be read" in result["warnings"][0]


def test_a_link_is_read_through_and_never_replaced(host: Host, tmp_path: pathlib.Path) -> None:
    real = tmp_path / "mounted.key"
    real.write_text(key_line())
    real.chmod(0o644)
    host.key.symlink_to(real)
    result = host.ok()
    assert result["key_ids"] == ["ed25519:a_new1"]
    assert "is a link" in result["warnings"][0]
    assert stat.S_IMODE(real.stat().st_mode) == 0o644
    assert "is a link" in host.refused(state="rotated")
    real.rename(tmp_path / "gone")
    host.record.unlink()
    assert "whose target is missing" in host.refused()


# Restoring


def test_content_restores_the_right_key_and_only_that(grown: Host) -> None:
    text = grown.key.read_text()
    grown.key.unlink()
    assert "not the key that this server had" in grown.refused(**life(grown), content=key_line())
    result = grown.ok(**life(grown), content=text)
    assert (result["action"], grown.key.read_text()) == ("restore", text)
    assert not grown.ok(**life(grown), content=text.rstrip() + "\r\n\r\n")["changed"]
    assert "nothing shows" in grown.refused(**life(grown), content=key_line())
    grown.key.write_text("damaged")
    result = grown.ok(**life(grown), content=text)
    assert pathlib.Path(result["backup"]).read_text() == "damaged"
    grown.key.write_text(key_line())
    assert grown.ok(**life(grown), content=text)["action"] == "restore"
    assert grown.key.read_text() == text


def test_bad_content_is_refused_with_its_line(host: Host) -> None:
    assert "is not usable as a signing key: line 2" in host.refused(content=key_line() + "ed25519 x AAAA\n")


# Rotating


def test_a_rotation_loads_in_a_real_synapse_with_the_old_key_published(
    tmp_path_factory: pytest.TempPathFactory, server: Homeserver
) -> None:
    folder = tmp_path_factory.mktemp("rotated") / "server"
    shutil.copytree(server.folder, folder)
    host = Host(folder)
    old = host.ok(**life(host))
    second = key_line("a_second")
    host.key.write_text(host.key.read_text() + second)
    host.ok(**life(host))
    before = host.key.read_bytes()
    options = {**life(host), "state": "rotated", "replaces": old["key_ids"][0]}
    predicted = host.ok(**options, _ansible_check_mode=True)
    assert host.key.read_bytes() == before
    result = host.ok(**options)
    assert (result["action"], result["diff"]) == (predicted["action"], predicted["diff"])
    assert pathlib.Path(result["backup"]).read_bytes() == before
    assert stat.S_IMODE(os.stat(result["backup"]).st_mode) == 0o600
    assert result["key_ids"][1:] == ["ed25519:a_second"]
    assert host.key.read_text().endswith(second)
    assert list(result["old_signing_keys"]) == old["key_ids"]
    assert not host.ok(**options)["changed"]
    assert "is no key of this server" in host.refused(state="rotated", replaces="ed25519:typo")
    rotated = server_in(folder, old_signing_keys=result["old_signing_keys"])
    with rotated.running():
        published = ask(f"{rotated.url}/_matrix/key/v2/server")
    assert {key_id: entry["key"] for key_id, entry in published["verify_keys"].items()} == result["verify_keys"]
    assert published["old_verify_keys"] == result["old_signing_keys"]
    assert result["old_signing_keys"][old["key_ids"][0]]["key"] == old["verify_keys"][old["key_ids"][0]]
    kept = host.ok(**life(host))
    assert not kept["changed"]
    assert kept["old_signing_keys"] == result["old_signing_keys"]


def test_a_vault_that_still_has_the_old_key_does_not_undo_a_rotation(host: Host) -> None:
    host.ok()
    text = host.key.read_text()
    new = host.ok(state="rotated")
    again = host.ok(content=text)
    assert not again["changed"]
    assert again["key_ids"] == new["key_ids"]
    assert "rotated away" in again["warnings"][0]


def test_there_is_nothing_to_rotate_without_a_key(host: Host) -> None:
    assert "no signing key" in host.refused(state="rotated")


@pytest.mark.parametrize("option", ['"content": "{{ content }}"', '"state": "rotated"'])
def test_no_key_is_shown_at_the_highest_verbosity(host: Host, tmp_path: pathlib.Path, option: str) -> None:
    """Through Ansible itself: console, callback, module arguments and diff."""
    (tmp_path / "vars.json").write_text(json.dumps({"content": key_line()}))
    if "rotated" in option:
        host.ok()
    command = [str(pathlib.Path(sys.executable).with_name("ansible")), "localhost", "-c", "local", "-vvvv", "--diff"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", "-e", f"@{tmp_path}/vars.json"]
    command += ["-m", "matrix_fleet.synapse.synapse_signing_key"]
    command += ["-a", f'{{"path": "{host.key}", "python": "{SYNAPSE}", {option}}}']
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert '"changed": true' in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert "+++ after" in done.stdout
    assert len(seeds(host.folder)) >= 2
    for secret in seeds(host.folder):
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("near", ["hs.signing.key.bak", "old/keys.test.signing.key"])
@pytest.mark.parametrize("damage", ["missing", "cut off", "replaced"])
def test_a_key_comes_back_from_a_copy_that_signed_the_events_and_from_no_other(
    grown: Host, near: str, damage: str
) -> None:
    right = grown.key.read_bytes()
    copy = grown.folder / near
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(right)
    (grown.folder / "another.signing.key").write_text(key_line("a_other"))
    spoilt = {"missing": None, "cut off": right[:30], "replaced": key_line("a_wrong").encode()}[damage]
    if spoilt is None:
        grown.key.unlink()
    else:
        grown.key.write_bytes(spoilt)
    grown.refused(**life(grown))
    predicted = grown.ok(**life(grown), mend=True, _ansible_check_mode=True)
    assert (predicted["action"], predicted["changed"]) == ("restore", True)
    result = grown.ok(**life(grown), mend=True)
    assert result["source"] == str(copy)
    assert grown.key.read_bytes() == right
    if spoilt is not None:
        assert pathlib.Path(result["backup"]).read_bytes() == spoilt
    assert not grown.ok(**life(grown), mend=True)["changed"]
    copy.unlink()
    grown.key.unlink()
    grown.record.unlink()
    grown.refused(**life(grown), mend=True)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda key: b"# kept by hand\n" + key, id="comment"),
        pytest.param(lambda key: b"\xef\xbb\xbf" + key, id="byte order mark"),
        pytest.param(lambda key: key.rstrip() + b" # mine\n", id="words behind"),
        pytest.param(lambda key: key + "# clé\n".encode(), id="not ASCII"),
        pytest.param(
            lambda key: key + key.split()[0] + b" " + key.split()[1] + b" " + b"A" * 42 + b"B\n", id="same id"
        ),
    ],
)
def test_a_key_is_kept_and_what_was_added_to_it_goes(grown: Host, spoil: t.Callable[[bytes], bytes]) -> None:
    right = grown.key.read_bytes()
    grown.key.write_bytes(spoil(right))
    result = grown.ok(**life(grown), mend=True)
    assert (result["action"], result["source"]) == ("restore", str(grown.key))
    assert grown.key.read_bytes() == right
    assert pathlib.Path(result["backup"]).read_bytes() == spoil(right)


def test_a_new_server_still_gets_its_key_where_one_is_to_be_mended(host: Host) -> None:
    assert host.ok(mend=True)["action"] == "create"
