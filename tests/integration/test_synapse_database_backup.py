# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_database_backup`` on real databases: made while others write, restored by its own commands, never half."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
import urllib.error

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _backup
from ansible_collections.matrix_fleet.synapse.tests.integration import postgresql
from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import Homeserver, ask, synapse_python
from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import (
    Result,
    killed_before_write,
    run_apart,
    start,
    telling,
    wait,
    writes_of,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "synapse_database_backup"
MODULE = f"ansible_collections.matrix_fleet.synapse.plugins.modules.{NAME}"
RANDOM_KILLS = int(os.environ.get("MATRIX_FLEET_KILLS", "15"))
ROOT = os.geteuid() == 0
# Any account that is not root's will do for the service's.
USER = "nobody" if ROOT else pwd.getpwuid(os.geteuid()).pw_name
MIB = 1024 * 1024
as_root = pytest.mark.skipif(not ROOT, reason="needs root to act as the service's user")

SCHEMA = """
CREATE TABLE schema_version (lock CHAR(1) NOT NULL DEFAULT 'X', version INTEGER NOT NULL, upgraded BOOL NOT NULL);
CREATE TABLE schema_compat_version (lock CHAR(1) NOT NULL DEFAULT 'X', compat_version INTEGER NOT NULL);
INSERT INTO schema_version (version, upgraded) VALUES (93, true);
INSERT INTO schema_compat_version (compat_version) VALUES (89);
CREATE TABLE first (number BIGINT PRIMARY KEY, text TEXT);
CREATE TABLE second (number BIGINT PRIMARY KEY, text TEXT);
"""


def as_user(*argv: str | pathlib.Path, given: str | None = None) -> str:
    """Run a command as the service's user; return what it printed."""
    prefix = ["runuser", "-u", USER, "--"] if ROOT else []
    ended = subprocess.run(
        [*prefix, *argv], input=given, capture_output=True, encoding="utf-8", cwd="/", check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


class Host:
    """A folder that plays ``/var/lib``: the service's data in it, and the folder for backups."""

    def __init__(self, folder: pathlib.Path, scratch: pathlib.Path) -> None:
        self.folder = folder
        self.data = folder / "synapse"
        self.database = self.data / "homeserver.db"
        self.backups = folder / "backups"
        self.output = scratch / "answer.json"
        self.data.mkdir()
        shutil.chown(self.data, USER)

    def options(self, **more: t.Any) -> dict[str, t.Any]:
        given = {
            "user": USER,
            "path": str(self.backups),
            "python": str(synapse_python()),
            "label": "test",
            "version": "1.163.2",
            "_ansible_diff": True,
            **more,
        }
        if "postgresql" not in given and "config_path" not in more:
            given.setdefault("database", str(self.database))
        return {name: value for name, value in given.items() if value is not None}

    def run(self, **more: t.Any) -> dict[str, t.Any]:
        ended = run_apart(NAME, self.options(**more))
        assert "Traceback" not in ended.stderr, ended.stderr
        result: dict[str, t.Any] = json.loads(ended.stdout.splitlines()[-1])
        result["_output"] = ended.stdout + ended.stderr
        return result

    def ok(self, **more: t.Any) -> dict[str, t.Any]:
        result = self.run(**more)
        assert not result.get("failed"), result["msg"]
        self.is_sound()
        return result

    def refused(self, **more: t.Any) -> str:
        """Run the module; it must fail and leave the backups as they were."""
        before = self.files()
        result = self.run(**more)
        assert result.get("failed"), result
        assert self.files() == before
        return str(result["msg"])

    def patched(self, patch: Callable[[t.Any], None], **more: t.Any) -> Result:
        """Run the module in a process in which ``patch`` was called with it."""
        pid = start(NAME, self.options(**more), self.output, lambda: patch(sys.modules[MODULE]))
        return wait(pid, self.output)

    def files(self) -> set[str]:
        return set(os.listdir(self.backups)) if self.backups.exists() else set()

    def complete(self) -> list[_backup.Manifest]:
        """The manifests, oldest first."""
        found = []
        for name in sorted(self.files()):
            if name.endswith(".json") and not name.startswith("."):
                manifest = _backup.parse_manifest((self.backups / name).read_bytes(), name)
                assert manifest is not None, name
                found.append(manifest)
        return found

    def is_whole(self) -> None:
        """Whatever has a manifest is what the manifest says."""
        for manifest in self.complete():
            data = (self.backups / manifest.file).read_bytes()
            assert len(data) == manifest.size
            assert hashlib.sha256(data).hexdigest() == manifest.sha256

    def is_sound(self) -> None:
        """Nothing but whole backups is there."""
        self.is_whole()
        names = {name for one in self.complete() for name in (one.file, f"{one.file}.json")}
        assert self.files() == names

    def make_database(self, rows: int = 100, *, wal: bool = True, text: int = 10) -> None:
        """Make an SQLite database as Synapse has one, with some rows, as the service's user."""
        script = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.stdin.read()); "
            "c.executemany('INSERT INTO first VALUES (?, ?)', [(n, 'x' * int(sys.argv[3])) for n in "
            "range(int(sys.argv[2]))]); c.commit()"
        )
        schema = f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'};\n{SCHEMA}"
        as_user(synapse_python(), "-c", script, self.database, str(rows), str(text), given=schema)

    def rows(self, path: pathlib.Path | None = None, table: str = "first") -> list[tuple[t.Any, ...]]:
        uri = f"file:{path or self.database}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(f"SELECT * FROM {table} ORDER BY number").fetchall()  # noqa: S608 # of this file


def restore(result: dict[str, t.Any]) -> None:
    """Type the commands that the module returned."""
    for command in result["restore"]:
        ended = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", cwd="/", check=False)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[Host]:
    # Not below pytest's folder, which nobody else can enter.
    with tempfile.TemporaryDirectory(prefix="backup-") as name:
        pathlib.Path(name).chmod(0o755)
        yield Host(pathlib.Path(name), tmp_path)


@pytest.fixture
def small_disk(host: Host) -> Iterator[Host]:
    """The folder for backups is a file system of its own, of 32 MiB."""
    if not ROOT:
        pytest.skip("needs root to mount a file system")
    host.backups.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=0711", "tmpfs", host.backups], check=True)
    yield host
    subprocess.run(["umount", host.backups], check=True)


# -------------------------------------------------------------------------------------------------------------- SQLite


def test_a_backup_is_roots_alone_and_says_what_it_is(host: Host) -> None:
    host.make_database()
    result = host.ok(unit="matrix-synapse.service")
    assert result["changed"] is True
    assert result["engine"] == "sqlite"
    assert result["pruned"] == []
    path = pathlib.Path(result["path"])
    assert host.rows(path) == host.rows()
    assert (result["schema_version"], result["compat_version"]) == (93, 89)
    assert stat.S_IMODE(host.backups.stat().st_mode) == 0o711
    for made in (path, path.with_name(f"{path.name}.json")):
        status = made.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), os.getegid(), 0o600)
    manifest = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert manifest == {
        "format": 1,
        "file": path.name,
        "engine": "sqlite",
        "label": "test",
        "version": "1.163.2",
        "schema_version": 93,
        "compat_version": 89,
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "made_at": manifest["made_at"],
    }
    assert time.time() - time.mktime(time.strptime(manifest["made_at"], "%Y-%m-%dT%H:%M:%SZ")) < 100_000
    assert result["diff"] == {"before": "", "after": f"{path.name}\n"}
    assert result["restore"][1] == "systemctl stop matrix-synapse.service"
    assert result["restore"][-1] == "systemctl start matrix-synapse.service"


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
number = 1000000
print("ready", flush=True)
while True:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO first VALUES (?, 'written meanwhile')", [number])
    connection.execute("INSERT INTO second VALUES (?, 'written meanwhile')", [number])
    connection.execute("COMMIT")
    number += 1
"""


def test_a_server_that_writes_all_the_time_is_backed_up_and_not_disturbed(host: Host) -> None:
    host.make_database(20_000, text=1000)
    prefix = ["runuser", "-u", USER, "--"] if ROOT else []
    writer = subprocess.Popen(
        [*prefix, synapse_python(), "-c", WRITER, host.database],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        before = len(host.rows(table="second"))
        result = host.ok()
        after = len(host.rows(table="second"))
        assert writer.poll() is None, writer.stderr and writer.stderr.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(writer.pid, signal.SIGKILL)
        writer.communicate()
    path = pathlib.Path(result["path"])
    copied = [row[0] for row in host.rows(path, "second")]
    # One instant: all that was committed before, nothing by half, and not the last of it.
    assert before <= len(copied) < after
    assert [row[0] for row in host.rows(path) if row[0] >= 1_000_000] == copied
    assert len(host.rows(path)) == 20_000 + len(copied)


@pytest.mark.parametrize("wal", [True, False], ids=["WAL", "rollback journal"])
def test_an_sqlite_backup_is_restored_by_the_commands_that_are_returned(host: Host, wal: bool) -> None:
    host.make_database(wal=wal)
    rows = host.rows()
    result = host.ok()
    # Later rows, half of them in a log that the database must not find again.
    with contextlib.closing(sqlite3.connect(host.database)) as connection:
        connection.execute("UPDATE first SET text = 'later'")
        connection.execute("CREATE TABLE newer (number INTEGER)")
        connection.commit()
        for name in ("-wal", "-shm"):
            if wal:
                shutil.copyfile(f"{host.database}{name}", host.folder / f"kept{name}")
    for name in ("-wal", "-shm"):
        if wal:
            shutil.copyfile(host.folder / f"kept{name}", f"{host.database}{name}")
            shutil.chown(f"{host.database}{name}", USER)
    assert host.rows() != rows
    restore(result)
    assert host.rows() == rows
    assert host.database.owner() == USER
    with contextlib.closing(sqlite3.connect(host.database)) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'newer'").fetchone()


def test_the_database_is_the_one_that_a_configuration_asks_for(host: Host) -> None:
    host.make_database(7)
    config = host.folder / "saved"
    config.write_text(f"database: {{name: sqlite3, args: {{database: {host.database}}}}}\n", encoding="utf-8")
    config.chmod(0o600)
    result = host.ok(database=None, config_path=str(config))
    assert len(host.rows(pathlib.Path(result["path"]))) == 7
    config.write_text("database: {name: sqlite3, args: {database: here.db}}\n", encoding="utf-8")
    assert "no path from the root" in host.refused(database=None, config_path=str(config))
    assert "not more" in host.refused(database=str(host.database), config_path=str(config))


def test_a_backup_that_was_changed_is_not_restored(host: Host) -> None:
    host.make_database()
    result = host.ok()
    with pathlib.Path(result["path"]).open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"!")
    check = result["restore"][0]
    assert subprocess.run(["bash", "-c", check], capture_output=True, check=False).returncode != 0


def test_what_a_crashed_server_left_in_its_log_is_in_the_backup(host: Host) -> None:
    host.make_database()
    with contextlib.closing(sqlite3.connect(host.database)) as connection:
        connection.execute("INSERT INTO first VALUES (7777, 'in the log')")
        connection.commit()
        for name in ("", "-wal"):
            shutil.copyfile(f"{host.database}{name}", host.folder / f"kept{name}")
    for name in ("", "-wal"):
        shutil.copyfile(host.folder / f"kept{name}", f"{host.database}{name}")
        shutil.chown(f"{host.database}{name}", USER)
    result = host.ok()
    assert (7777, "in the log") in host.rows(pathlib.Path(result["path"]))


@pytest.mark.parametrize("kind", ["missing", "empty", "without tables"])
def test_without_a_database_there_is_nothing_to_back_up(host: Host, kind: str) -> None:
    if kind != "missing":
        as_user("touch", host.database)
    if kind == "without tables":
        as_user(
            *(synapse_python(), "-c"),
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode = WAL')",
            host.database,
        )
        assert host.database.stat().st_size > 0
    result = host.ok()
    assert (result["changed"], result["path"], result["restore"]) == (False, None, [])
    assert host.files() == set()
    if kind != "without tables":
        assert not host.backups.exists()


def test_a_dry_run_predicts_and_writes_nothing(host: Host) -> None:
    host.make_database()
    result = host.ok(_ansible_check_mode=True)
    assert result["changed"] is True
    assert result["diff"]["after"].endswith("-test.sqlite3\n")
    assert not host.backups.exists()
    host.ok(keep=2)
    host.ok(keep=2)
    before = host.files()
    result = host.ok(_ansible_check_mode=True, keep=2)
    assert [os.path.basename(path) for path in result["pruned"]] == [host.complete()[0].file]
    assert host.files() == before


def test_a_dry_run_on_a_bare_host_predicts(host: Host) -> None:
    missing = str(host.folder / "no" / "python")
    assert host.ok(_ansible_check_mode=True, user="no-such-user", python=missing)["changed"] is False
    settings = {"dbname": "synapse"}
    predicted = host.ok(_ansible_check_mode=True, user="no-such-user", python=missing, postgresql=settings)
    assert predicted["changed"] is True


def test_only_the_newest_stay_and_nothing_else_is_touched(host: Host) -> None:
    host.make_database(10)
    host.backups.mkdir(mode=0o711)
    foreign = {"notes.txt", "20200101T000000Z-mine.sqlite3", "20200101T000000Z-old.sqlite3.json", ".hidden.partial"}
    for name in foreign:
        (host.backups / name).write_text('{"format": 2}')
    made = [host.run(keep=2, label=f"n{number}") for number in range(3)]
    assert [os.path.basename(path) for path in made[2]["pruned"]] == [os.path.basename(made[0]["path"])]
    assert made[0]["pruned"] == made[1]["pruned"] == []
    kept = {os.path.basename(result["path"]) for result in made[1:]}
    assert host.files() == {*foreign, *kept, *(f"{name}.json" for name in kept)}
    assert "keep" in host.run(keep=0)["msg"]


def test_the_last_one_that_the_release_before_can_read_stays(host: Host) -> None:
    host.make_database(10)
    releases = host.folder / "releases"
    packages = releases / "1.150.0-0123456789ab" / "lib" / "python3.11" / "site-packages"
    (packages / "matrix_synapse-1.150.0.dist-info").mkdir(parents=True)
    (packages / "synapse" / "storage" / "schema").mkdir(parents=True)
    (packages / "synapse" / "storage" / "schema" / "__init__.py").write_text("SCHEMA_VERSION = 93\n")
    options = {"keep": 1, "releases_path": str(releases)}
    before = host.ok(label="before", **options)["path"]
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    as_user(synapse_python(), "-c", script, host.database, "UPDATE schema_compat_version SET compat_version = 94")
    assert host.ok(label="one", **options)["pruned"] == []
    predicted = host.run(label="two", _ansible_check_mode=True, **options)["pruned"]
    pruned = host.ok(label="two", **options)["pruned"]
    assert [path.rpartition("-")[2] for path in pruned] == ["one.sqlite3"]
    assert pruned == predicted
    assert before in [str(host.backups / one.file) for one in host.complete()]
    shutil.rmtree(releases)
    assert before in host.ok(label="three", **options)["pruned"]


def test_a_backup_that_somebody_protects_stays_whole_and_keeps_nothing_from_being_made(host: Host) -> None:
    host.make_database(1)
    protected = host.ok(keep=1)["path"]

    def patch(module: t.Any) -> None:
        real = module.os.unlink

        def unlink(path: str, **more: t.Any) -> None:
            if path == protected:  # as the kernel, of a file with chattr +i
                raise PermissionError(1, "Operation not permitted", path)
            real(path, **more)

        module.os.unlink = unlink

    for count in (2, 3):
        answer = host.patched(patch, keep=count - 1).answer
        assert answer["changed"], answer
        assert protected in str(answer["warnings"])
        assert answer["pruned"] == []
        assert host.complete()[0].file == os.path.basename(protected)
        assert len(host.complete()) == count
        host.is_sound()


@pytest.mark.parametrize("label", ["../x", "a/b", "", "-x", ".x", "a b", "x" * 101, "a\nb"])
def test_a_label_that_is_no_part_of_a_file_name_is_refused(host: Host, label: str) -> None:
    host.make_database(1)
    assert "label" in host.refused(label=label)


def test_what_is_no_database_of_synapse_is_refused(host: Host) -> None:
    as_user(
        *(synapse_python(), "-c"),
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE other (number INTEGER)')",
        host.database,
    )
    assert "no database of Synapse" in host.refused()
    host.database.write_bytes(b"not a database" * 1000)
    assert "not a database" in host.refused()


def test_a_damaged_database_gives_no_backup(host: Host) -> None:
    host.make_database(5000, wal=False)
    with host.database.open("r+b") as stream:
        stream.seek(host.database.stat().st_size // 2)
        stream.write(b"\xff" * 20_000)
    assert "damaged" in host.refused() or "malformed" in host.refused()


def test_a_database_too_large_for_the_disk_is_refused_before_anything_is_copied(small_disk: Host) -> None:
    small_disk.make_database(20_000, text=1000)
    message = small_disk.refused()
    assert "There is no room" in message
    assert "32 MiB" in message


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(small_disk: Host) -> None:
    small_disk.make_database(40_000, text=1000)

    def patch(module: t.Any) -> None:
        module.free_in = lambda folder: 2**50

    result = small_disk.patched(patch)
    assert result.answer["failed"]
    assert "Make room" in result.answer["msg"]
    assert small_disk.files() == set()


# -------------------------------------------------------------------------------------------------- the service's user


def imposter(host: Host, script: str) -> str:
    """Make an interpreter that does something else with the request, as the service's user."""
    path = host.folder / "imposter"
    python = synapse_python()
    path.write_text(f"#!{python}\nimport json, os, sys, time\nrequest = json.load(sys.stdin)['sqlite']\n{script}")
    path.chmod(0o755)
    return str(path)


ANSWER = """
rows = {"schema_version": [{"version": 93}], "schema_compat_version": [{"compat_version": 89}]}
print(json.dumps({"state": "copied", "rows": rows}), flush=True)
"""
TRICKS = {
    "a link": "os.symlink(SECRET, request['target'])",
    "a link to a file of its own": "open(HERE + '/x', 'w').close(); os.symlink(HERE + '/x', request['target'])",
    "a file of somebody else": "os.rename(HERE + '/of-root', request['target'])",
    "a hard link": "open(HERE + '/x', 'w').close(); os.link(HERE + '/x', request['target'])",
    "a pipe": "os.mkfifo(request['target'])",
    "a folder": "os.mkdir(request['target'])",
    "nothing": "pass",
    "no numbers": "open(request['target'], 'w').close(); print('{\"state\": \"copied\", \"rows\": [1]}'); os._exit(0)",
}


@as_root
@pytest.mark.parametrize("trick", TRICKS)
def test_what_is_put_in_the_place_of_the_copy_is_not_taken(host: Host, trick: str) -> None:
    host.make_database(1)
    secret = host.folder / "secret"
    secret.write_text("of root alone")
    secret.chmod(0o600)
    head = f"SECRET, HERE = {str(secret)!r}, {str(host.data)!r}\n"
    (host.data / "of-root").touch()
    host.ok()
    message = host.refused(python=imposter(host, f"{head}{TRICKS[trick]}\n{ANSWER}"))
    assert "No backup was made" in message
    assert secret.read_text() == "of root alone"
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (0, 0o600)


@as_root
def test_a_copy_that_somebody_still_holds_open_cannot_be_changed_later(host: Host) -> None:
    host.make_database(1)
    held = f"""
stream = open(request['target'], 'w+')
stream.write('as it was')
stream.flush()
if os.fork() == 0:
    os.close(0), os.close(1), os.close(2)
    for _turn in range(200):
        time.sleep(0.05)
        if os.path.exists({str(host.folder)!r} + '/go'):
            stream.write(' and no more')
            stream.close()
            os.close(os.open({str(host.data)!r} + '/done', os.O_CREAT))
            break
    os._exit(0)
"""
    result = host.ok(python=imposter(host, held + ANSWER))
    (host.folder / "go").touch()
    deadline = time.monotonic() + 20
    while not (host.data / "done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert pathlib.Path(result["path"]).read_text() == "as it was"
    host.is_sound()


@as_root
@pytest.mark.parametrize("trap", ["its folder", "its link", "a folder on the way", "a folder for everybody"])
def test_a_folder_that_others_could_exchange_is_refused(host: Host, trap: str) -> None:
    host.make_database(1)
    path = host.data / "backups"
    if trap == "its folder":
        as_user("mkdir", path)
    elif trap == "its link":
        as_user("ln", "-s", "/etc", path)
    elif trap == "a folder for everybody":
        path = host.folder / "open"
        path.mkdir()
        path.chmod(0o1777)
    before = sorted(os.listdir("/etc"))
    message = host.run(path=str(path))["msg"]
    assert "could be exchanged" in message
    assert str(host.data if trap != "a folder for everybody" else path) in message
    assert sorted(os.listdir("/etc")) == before


@as_root
def test_a_folder_that_root_links_to_is_used(host: Host) -> None:
    host.make_database(1)
    (host.folder / "disk").mkdir()
    (host.folder / "disk").chmod(0o755)
    (host.folder / "link").symlink_to("disk")
    result = host.run(path=str(host.folder / "link" / "backups"))
    assert result["path"].startswith(str(host.folder / "disk" / "backups"))
    # As the service's own folder is: it makes files there, and cannot touch root's.
    host.data.chmod(0o1770)
    shutil.chown(host.data, 0, pwd.getpwnam(USER).pw_gid)
    assert host.run(path=str(host.data / "backups"))["changed"] is True


@as_root
def test_a_folder_that_the_service_cannot_reach_is_named(host: Host) -> None:
    host.make_database(1)
    (host.folder / "closed").mkdir(mode=0o700)
    message = host.run(path=str(host.folder / "closed" / "backups"))["msg"]
    assert "cannot get to" in message


@as_root
def test_what_the_service_left_in_a_copy_is_removed_without_following_it(host: Host) -> None:
    host.make_database(1)
    host.ok()
    left = host.backups / f".copy-{'0' * 16}"
    left.mkdir()
    shutil.chown(left, USER)
    as_user("ln", "-s", "/etc", left / "link")
    as_user("mkdir", left / "deeper")
    host.ok()
    assert not left.exists()
    assert os.path.exists("/etc/passwd")


@as_root
def test_without_a_user_the_owner_of_the_database_opens_it(host: Host) -> None:
    host.make_database(1)
    result = host.ok(user=None)
    assert f"runuser -u {USER} --" in result["restore"][-1]
    shutil.chown(host.database, 0)
    assert "Name the user" in host.refused(user=None)


@as_root
def test_of_roots_own_link_whoever_it_leads_to_opens_the_database(host: Host) -> None:
    host.make_database(1)
    link = host.folder / "homeserver.db"
    link.symlink_to(host.database)
    result = host.ok(user=None, database=str(link))
    assert f"runuser -u {USER} --" in result["restore"][-1]
    restore(result)
    assert link.is_symlink()
    assert len(host.rows(link)) == 1
    shutil.chown(host.database, 0)
    assert "Name the user" in host.refused(user=None, database=str(link))


# ------------------------------------------------------------------------------------------------------- interruptions


def test_killed_before_any_of_its_writes_it_leaves_nothing_half_and_the_next_run_goes_on(
    host: Host, tmp_path: pathlib.Path
) -> None:
    host.make_database(10)
    host.ok(keep=2)
    host.ok(keep=2)
    options = host.options(keep=2)
    writes = writes_of(host.backups, NAME, options, host.output)
    assert len(writes) > 5
    for number in telling(writes):
        killed = killed_before_write(number, host.backups, NAME, options, host.output)
        assert killed.rc == -signal.SIGKILL, number
        host.is_whole()
        assert len(host.complete()) >= 2, number
        result = wait(start(NAME, options, host.output), host.output)
        assert result.rc == 0, result.answer
        host.is_sound()
        assert len(host.complete()) == 2, number


def test_killed_at_any_instant_it_leaves_nothing_half_and_nobody_at_work(host: Host) -> None:
    host.make_database(5000, text=1000)
    options = host.options(keep=2)
    begun = time.monotonic()
    host.ok(keep=2)
    whole = time.monotonic() - begun
    chance = random.Random(7)
    for _turn in range(RANDOM_KILLS):
        pid = start(NAME, options, host.output)
        time.sleep(chance.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        wait(pid, host.output)
        host.is_whole()
        assert nobody_writes(host.backups)
    host.ok(keep=2)


def nobody_writes(folder: pathlib.Path, seconds: float = 5) -> bool:
    """Wait until no process has a file below a folder open; what a kill reaches ends a moment later."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(str(folder) in path for path in open_files()):
            return True
        time.sleep(0.05)
    return False


def open_files() -> Iterator[str]:
    """Yield where the descriptors of all processes lead."""
    for process in pathlib.Path("/proc").glob("[0-9]*/fd"):
        try:
            for descriptor in process.iterdir():
                with contextlib.suppress(OSError):
                    yield os.readlink(descriptor)
        except OSError:  # it ended
            continue


def test_two_runs_at_once_do_not_meet(host: Host, tmp_path: pathlib.Path) -> None:
    host.make_database(2000, text=1000)
    outputs = [tmp_path / f"answer{number}.json" for number in range(3)]
    pids = [start(NAME, host.options(keep=5), output) for output in outputs]
    results = [wait(pid, output) for pid, output in zip(pids, outputs, strict=True)]
    assert [result.answer.get("msg") for result in results if result.rc] == []
    assert len(host.complete()) == 3
    host.is_sound()


# ---------------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgresql.Cluster]:
    with postgresql.cluster() as made:
        yield made


@pytest.fixture
def database(cluster: postgresql.Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, t.Any]]:
    """A database as Synapse has one; how to reach it."""
    name = "d" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    settings = cluster.create_database(name)
    cluster.psql(SCHEMA, dbname=name, user="synapse")
    cluster.psql(
        "INSERT INTO first SELECT n, 'row ' || n FROM generate_series(1, 1000) AS n", dbname=name, user="synapse"
    )
    yield settings
    cluster.psql(f"DROP DATABASE {name} WITH (FORCE)", dbname="postgres")


def content(cluster: postgresql.Cluster, settings: dict[str, t.Any], table: str = "first") -> str:
    return cluster.psql(f"TABLE {table} ORDER BY number", dbname=settings["dbname"])


def test_a_dump_is_roots_alone_and_says_what_it_is(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    result = host.ok(postgresql=database)
    assert result["engine"] == "postgresql"
    path = pathlib.Path(result["path"])
    assert path.name.endswith("-test.pgdump")
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (os.geteuid(), 0o600)
    (manifest,) = host.complete()
    assert (manifest.engine, manifest.schema_version, manifest.compat_version) == ("postgresql", 93, 89)
    assert (result["schema_version"], result["compat_version"]) == (93, 89)


def test_a_dump_is_restored_by_the_commands_that_are_returned(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    name = database["dbname"]
    cluster.psql(
        "CREATE SEQUENCE counter; SELECT nextval('counter'); CREATE INDEX by_text ON first (text); "
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        dbname=name,
        user="synapse",
    )
    before = content(cluster, database)
    result = host.ok(postgresql=database)
    cluster.psql(
        "UPDATE first SET text = 'later'; DROP TABLE second; CREATE TABLE newer (n int); DROP FUNCTION one; "
        "SELECT nextval('counter'); UPDATE schema_version SET version = 99",
        dbname=name,
        user="synapse",
    )
    restore(result)
    assert content(cluster, database) == before
    assert content(cluster, database, "second") == ""
    assert cluster.psql("SELECT version FROM schema_version", dbname=name) == "93"
    assert cluster.psql("SELECT one(), nextval('counter')", dbname=name) == "1|2"
    assert cluster.psql("SELECT count(*) FROM pg_tables WHERE tablename = 'newer'", dbname=name) == "0"
    assert cluster.psql("SELECT tableowner FROM pg_tables WHERE tablename = 'first'", dbname=name) == "synapse"


def test_a_dump_is_restored_where_the_schema_around_the_tables_is_the_roles_too(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    cluster.psql("ALTER SCHEMA public OWNER TO synapse", dbname=database["dbname"])
    before = content(cluster, database)
    result = host.ok(postgresql=database)
    cluster.psql("DELETE FROM first", dbname=database["dbname"])
    restore(result)
    assert content(cluster, database) == before


def test_a_dump_that_cannot_be_read_to_its_end_changes_nothing(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    cluster.psql(
        "INSERT INTO second SELECT n, md5(n::text) FROM generate_series(1, 50000) AS n",
        dbname=database["dbname"],
        user="synapse",
    )
    result = host.ok(postgresql=database)
    path = pathlib.Path(result["path"])
    os.truncate(path, path.stat().st_size // 2)
    cluster.psql("UPDATE first SET text = 'later'", dbname=database["dbname"])
    before = content(cluster, database), content(cluster, database, "second")
    command = result["restore"][-1]
    assert subprocess.run(["bash", "-c", command], capture_output=True, cwd="/", check=False).returncode != 0
    assert (content(cluster, database), content(cluster, database, "second")) == before


def test_a_postgresql_server_that_writes_all_the_time_is_backed_up(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    done = threading.Event()
    written = []
    rows = "SELECT n, 'x' FROM generate_series(START, START + 99) AS n"
    write_both = "BEGIN; INSERT INTO first ROWS; INSERT INTO second ROWS; COMMIT".replace("ROWS", rows)

    def write() -> None:
        number = 1_000_000
        while not done.is_set():
            cluster.psql(write_both.replace("START", str(number)), dbname=database["dbname"])
            number += 100
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not written:
            time.sleep(0.01)
        result = host.ok(postgresql=database)
    finally:
        done.set()
        writer.join()
    restore(result)
    copied = content(cluster, database, "second")
    assert copied
    assert cluster.psql("SELECT * FROM first WHERE number >= 1000000 ORDER BY 1", dbname=database["dbname"]) == copied
    assert len(copied.splitlines()) % 100 == 0


@contextlib.contextmanager
def locked(cluster: postgresql.Cluster, settings: dict[str, t.Any]) -> Iterator[None]:
    """Somebody holds a table that the dump needs."""
    command = [postgresql.programs() / "psql", "-X", "-q", "-A", "-t", "-h", cluster.folder, "-p", str(cluster.port)]
    command += ["-U", "postgres", "-d", settings["dbname"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd="/") as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        # The session waits for more, and its end gives the table back.
        holder.stdin.write("BEGIN; LOCK TABLE first; SELECT 'held';\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()


class Watch:
    """Looks at the arguments and the environment of every process as often as possible."""

    def __init__(self, secret: str) -> None:
        self.secret = secret.encode()
        self.seen: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.is_set():
            for kind in ("cmdline", "environ"):
                for path in pathlib.Path("/proc").glob(f"[0-9]*/{kind}"):
                    with contextlib.suppress(OSError):
                        if self.secret in path.read_bytes():
                            self.seen.add(str(path))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_ignored: object) -> None:
        self._done.set()
        self._thread.join()


def test_a_password_is_in_no_argument_no_environment_and_no_result(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    cluster.psql(
        "INSERT INTO second SELECT n, md5(n::text) FROM generate_series(1, 50000) AS n", dbname=database["dbname"]
    )
    cluster.psql("ALTER TABLE second OWNER TO synapse", dbname=database["dbname"])
    settings = {**cluster.settings_with_password, "dbname": database["dbname"]}
    before = set(os.listdir(tempfile.gettempdir()))
    with Watch(postgresql.PASSWORD) as watch:
        result = host.ok(postgresql=settings)
    assert watch.seen == set()
    assert postgresql.PASSWORD not in result["_output"]
    assert {
        name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("synapse-probe-")
    } == set()


def test_a_password_in_a_configuration_is_used_and_not_shown(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    args = {**cluster.settings_with_password, "dbname": database["dbname"], "cp_min": 5}
    config = host.folder / "saved"
    config.write_text(json.dumps({"database": {"name": "psycopg2", "args": args}}), encoding="utf-8")
    result = host.ok(database=None, config_path=str(config))
    assert result["engine"] == "postgresql"
    assert postgresql.PASSWORD not in result["_output"]


def test_a_password_file_is_used(host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]) -> None:
    passfile = host.data / "pgpass"
    passfile.write_text(_backup.passfile_line(postgresql.PASSWORD))
    passfile.chmod(0o600)
    shutil.chown(passfile, USER)
    settings = {**cluster.settings_with_password, "dbname": database["dbname"], "passfile": str(passfile)}
    del settings["password"]
    result = host.ok(postgresql=settings)
    before = content(cluster, database)
    cluster.psql("DELETE FROM first", dbname=database["dbname"])
    restore(result)
    assert content(cluster, database) == before


def test_a_wrong_password_is_said_and_not_shown(host: Host, cluster: postgresql.Cluster) -> None:
    settings = {**cluster.settings_with_password, "password": "wrong-password-of-mine"}
    result = host.run(postgresql=settings)
    assert "password authentication failed" in result["msg"]
    assert "wrong-password-of-mine" not in result["_output"]
    assert host.files() == set()


def test_a_password_among_the_arguments_is_refused_and_not_shown(host: Host) -> None:
    result = host.run(postgresql={"dbname": "synapse", "args": {"password": "misplaced-secret"}})
    assert "postgresql.password" in result["msg"]
    assert "misplaced-secret" not in result["_output"]


def test_a_password_that_only_a_service_file_can_carry_is_not_shown(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    with Watch("a-key-password") as watch:
        result = host.ok(postgresql={**database, "sslpassword": "a-key-password"})
    assert watch.seen == set()
    assert "a-key-password" not in result["_output"]


def test_a_server_that_is_down_is_said(host: Host, tmp_path: pathlib.Path) -> None:
    message = host.refused(postgresql={"host": str(tmp_path), "dbname": "synapse", "user": "synapse"})
    assert "Start the server" in message


@pytest.mark.parametrize("kind", ["missing", "without tables"])
def test_without_tables_there_is_nothing_to_dump(host: Host, cluster: postgresql.Cluster, kind: str) -> None:
    settings = {**cluster.settings, "dbname": "nowhere"} if kind == "missing" else cluster.settings
    result = host.ok(postgresql=settings)
    assert (result["changed"], result["path"]) == (False, None)


def test_a_database_of_something_else_is_refused(host: Host, cluster: postgresql.Cluster) -> None:
    settings = cluster.create_database("other")
    cluster.psql("CREATE TABLE other (n int)", dbname="other")
    assert "postgresql.dbname" in host.refused(postgresql=settings)


@pytest.mark.parametrize("have", [None, "9.6.24"], ids=["none", "an old one"])
def test_programs_that_are_missing_or_too_old_are_named_with_their_package(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any], have: str | None
) -> None:
    folder = host.folder / "bin"
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("pg_dump", "pg_restore") if have else ():
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {have}'\n")
        (folder / name).chmod(0o755)

    def patch(module: t.Any) -> None:
        module._PROGRAMS = (str(folder),)
        os.environ["PATH"] = str(folder)

    message = host.patched(patch, postgresql=database).answer["msg"]
    major = cluster.psql("SHOW server_version_num")[:-4]
    assert f"postgresql-client-{major}" in message
    assert (have or "none here") in message or have is None


def test_a_lock_that_never_goes_is_said(host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]) -> None:
    def patch(module: t.Any) -> None:
        module._backup._LOCK_WAIT = "500ms"

    with locked(cluster, database):
        result = host.patched(patch, postgresql=database)
    assert "locked" in result.answer["msg"]
    assert host.files() == set()


def test_a_time_limit_is_kept(host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]) -> None:
    with locked(cluster, database):
        message = host.refused(postgresql=database, timeout=4)
    assert "within 4 s" in message


def test_a_disk_that_fills_up_during_a_dump_leaves_nothing(
    small_disk: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    cluster.psql(
        "INSERT INTO second SELECT n, string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(1, 1000) AS n, "
        "generate_series(1, 400) AS m GROUP BY n; ALTER TABLE second ALTER text SET STORAGE EXTERNAL",
        dbname=database["dbname"],
        user="synapse",
    )
    filler = small_disk.backups / "something-else"
    filler.write_bytes(b"x" * 28 * MIB)

    def patch(module: t.Any) -> None:
        module.free_in = lambda folder: 2**50

    result = small_disk.patched(patch, postgresql=database)
    assert "Make room" in result.answer["msg"], result.answer
    assert small_disk.files() == {"something-else"}


def test_a_dump_that_is_killed_leaves_nothing_half_and_nobody_at_work(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    cluster.psql(
        "INSERT INTO second SELECT n, md5(n::text) FROM generate_series(1, 100000) AS n",
        dbname=database["dbname"],
        user="synapse",
    )
    begun = time.monotonic()
    host.ok(postgresql=database, keep=2)
    whole = time.monotonic() - begun
    chance = random.Random(11)
    for _turn in range(max(3, RANDOM_KILLS // 3)):
        pid = start(NAME, host.options(postgresql=database, keep=2), host.output)
        time.sleep(chance.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        wait(pid, host.output)
        host.is_whole()
        assert nobody_writes(host.backups)
    host.ok(postgresql=database, keep=2)


def test_a_dump_that_waits_ends_with_the_run_that_was_killed(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    with locked(cluster, database):
        pid = start(NAME, host.options(postgresql=database), host.output)
        deadline = time.monotonic() + 30
        while "pg_dump" not in cluster.psql("SELECT application_name FROM pg_stat_activity", dbname="postgres"):
            assert time.monotonic() < deadline
        os.kill(pid, signal.SIGKILL)
        wait(pid, host.output)
        assert nobody_writes(host.backups)


def test_a_dump_that_is_killed_leaves_no_password(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = host.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    settings = {**cluster.settings_with_password, "dbname": database["dbname"], "sslpassword": "of-a-key"}
    with locked(cluster, database):
        pid = start(NAME, host.options(postgresql=settings), host.output)
        deadline = time.monotonic() + 30
        while "pg_dump" not in cluster.psql("SELECT application_name FROM pg_stat_activity", dbname="postgres"):
            assert time.monotonic() < deadline
        os.kill(pid, signal.SIGKILL)
        wait(pid, host.output)
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------------------------------ a real Synapse


def register(server: Homeserver, name: str) -> None:
    """Make an account whose password is its name."""
    url = f"{server.url}/_synapse/admin/v1/register"
    nonce = ask(url)["nonce"]
    said = "\0".join([nonce, name, name, "notadmin"]).encode()
    mac = hmac.new(server.shared_secret.encode(), said, hashlib.sha1).hexdigest()
    ask(url, {"nonce": nonce, "username": name, "password": name, "mac": mac})


def knows(server: Homeserver, name: str) -> bool:
    """Whether somebody can log in."""
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": name}
    try:
        return bool(ask(f"{server.url}/_matrix/client/v3/login", body))
    except urllib.error.HTTPError as error:
        if error.code != 403:
            raise
        return False


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_homeserver_goes_on_with_what_it_had_when_it_was_backed_up(
    host: Host, cluster: postgresql.Cluster, make_homeserver: Callable[..., Homeserver], engine: str
) -> None:
    config, settings = {}, None
    if engine == "postgresql":
        settings = cluster.create_database("homeserver")
        config = {"database": {"name": "psycopg2", "args": {**settings, "cp_min": 1, "cp_max": 3}}}
    server = make_homeserver(**config)
    given: dict[str, t.Any] = {"user": None, "database": str(server.database_path)}
    if settings is not None:
        given = {"postgresql": settings}
    with server.running():
        register(server, "before")
        result = host.ok(**given)
        register(server, "after")
        assert knows(server, "after")
    assert result["schema_version"] >= result["compat_version"] > 0
    restore(result)
    with server.running():
        assert knows(server, "before")
        assert not knows(server, "after")
        register(server, "after")


@as_root
def test_the_commands_of_the_guide_are_those_that_are_returned(
    host: Host, cluster: postgresql.Cluster, database: dict[str, t.Any]
) -> None:
    """Word for word, but for what differs from host to host."""
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "database-backups.md"
    lines = [line[2:] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("$ ")]
    host.make_database(1)
    returned = set()
    for given, ending in (({}, ".sqlite3"), ({"postgresql": database}, ".pgdump")):
        result = host.ok(unit="matrix-synapse", **given)
        for command in result["restore"]:
            for here, there in (
                (result["sha256"], "0f343b0931126a20f133d67c2b018a3b5d4f2f3f7d1b2a0e6f0d1a2b3c4d5e6f"),
                (result["path"], f"/var/lib/synapse/backups/20260101T000000Z-nightly{ending}"),
                (str(host.database), "/var/lib/synapse/homeserver.db"),
                (f"runuser -u {USER} ", "runuser -u synapse "),
                (str(postgresql.programs()), "/usr/lib/postgresql/15/bin"),
                (_backup.connection_of(database).shown, "host=/var/run/postgresql dbname=synapse user=synapse"),
            ):
                command = command.replace(here, there)  # noqa: PLW2901 # word by word
            returned.add(command)
    assert {line for line in lines if not line.startswith("ansible-doc ")} <= returned
    assert len(returned) == len(lines)
