# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before real databases, with two real releases of Synapse to choose from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import old_synapse_python, synapse_python
from ansible_collections.matrix_fleet.synapse.tests.integration.postgresql import PASSWORD, Cluster, cluster

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import Homeserver

NEW, OLD = str(synapse_python()), str(old_synapse_python())
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")

Gate = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def gate(run_module: Callable[..., dict[str, t.Any]]) -> Gate:
    """Ask about an upgrade from the old release to the new one, unless told otherwise; what is returned is whole."""

    def ask(**options: t.Any) -> dict[str, t.Any]:
        result = run_module("synapse_upgrade_gate", **{"python": NEW, "current_python": OLD, "fail": False, **options})
        assert "allowed" in result, result
        assert not result["changed"]
        assert result["allowed"] == all(one["severity"] != "error" for one in result["findings"])
        return result

    return ask


def found(result: dict[str, t.Any]) -> dict[str, str]:
    """Severity by finding."""
    return {one["id"]: one["severity"] for one in result["findings"]}


def message(result: dict[str, t.Any], id_: str) -> str:
    """What one finding says, and what to do about it."""
    return next(f"{one['message']}. {one['remedy']}" for one in result["findings"] if one["id"] == id_)


def listing(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Inode and size of everything in a folder."""
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in folder.iterdir()}


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="gate-") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def database(_prepared_database: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The file of a server that was stopped, as the new release made it."""
    (folder / "data").mkdir()
    target = folder / "data" / "homeserver.db"
    shutil.copyfile(_prepared_database, target)
    change(target, "DELETE FROM background_updates")
    return target


def change(path: pathlib.Path, *statements: str) -> None:
    """Change a database and leave nothing beside it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# A configuration that says which database it is


def test_the_database_is_the_one_that_a_configuration_asks_for(gate: Gate, database: pathlib.Path) -> None:
    change(database, "UPDATE schema_compat_version SET compat_version = 94")
    config = database.parent / "saved"
    config.write_text(f"database: {{name: sqlite3, args: {{database: {database}}}}}\n", encoding="utf-8")
    result = gate(config_path=config, python=OLD, current_python=NEW)
    assert found(result)["downgrade_forbidden"] == "error"
    assert str(database) in result["msg"]


def test_a_configuration_is_read_by_the_release_at_hand_where_the_other_one_is_lost(
    gate: Gate, database: pathlib.Path
) -> None:
    config = database.parent / "saved"
    config.write_text(f"database: {{name: sqlite3, args: {{database: {database}}}}}\n", encoding="utf-8")
    result = gate(config_path=config, python=str(database.parent / "lost" / "python"), current_python=NEW)
    assert found(result)["environment_missing"] == "error"
    assert result["database"]["state"] == "ready"


@pytest.mark.parametrize(
    ("text", "words"),
    [("databases: {}\n", "several databases"), ("a: [\n", "not YAML"), ("[]", "not a mapping"), (None, "no such file")],
)
def test_a_configuration_that_does_not_tell_is_refused(
    run_module: Callable[..., dict[str, t.Any]], folder: pathlib.Path, text: str | None, words: str
) -> None:
    config = folder / "saved"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    result = run_module("synapse_upgrade_gate", python=NEW, config_path=config)
    assert result["failed"]
    assert words in result["msg"]


@pytest.mark.parametrize("said", ["{}", '{"python": 3}', '{"python": "3", "synapse": {}, "problem": null}'])
def test_an_environment_that_answers_nonsense_is_named(
    run_module: Callable[..., dict[str, t.Any]], folder: pathlib.Path, said: str
) -> None:
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{said}'\n", encoding="utf-8")
    python.chmod(0o755)
    result = run_module("synapse_upgrade_gate", python=python, database=folder / "homeserver.db", fail=False)
    assert result["failed"]
    assert f"{python} was asked" in result["msg"]
    assert "Traceback" not in result["_output"]


# SQLite


def test_a_server_that_serves_is_asked_without_a_trace(homeserver: Callable[..., Homeserver], gate: Gate) -> None:
    server = homeserver(start=False)
    change(server.database_path, "DELETE FROM background_updates")
    server.start()
    before = listing(server.folder)
    assert {"homeserver.db-wal", "homeserver.db-shm"} <= set(before)
    result = gate(database=server.database_path)
    assert set(listing(server.folder)) == set(before)
    assert (result["findings"], result["allowed"]) == ([], True)
    assert (result["direction"], result["way_back"]) == ("upgrade", True)
    assert result["target"] == {"version": "1.163.2", "schema_version": 94, "compat_version": 84}
    assert result["current"] == {"version": "1.150.0", "schema_version": 93, "compat_version": 84}
    assert result["lowest_version"] == "1.100.0"
    assert result["database"]["exists"]
    assert result["database"]["engine"] == "sqlite"
    assert result["database"]["schema_version"] == 94
    assert result["database"]["size"] >= server.database_path.stat().st_size
    # And it still serves and writes.
    change(server.database_path, "UPDATE schema_version SET version = version")


def test_a_server_that_is_stopped_is_asked_without_a_trace(database: pathlib.Path, gate: Gate) -> None:
    before = listing(database.parent)
    assert set(before) == {database.name}
    assert gate(database=database)["allowed"]
    assert listing(database.parent) == before


def test_what_a_crash_left_in_the_log_counts(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    (folder / "crashed").mkdir()
    copy = folder / "crashed" / "homeserver.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE schema_compat_version SET compat_version = 200")
        connection.commit()
        for ending in ("", "-wal"):
            shutil.copyfile(f"{database}{ending}", f"{copy}{ending}")
    before = listing(copy.parent)
    assert set(before) == {"homeserver.db", "homeserver.db-wal"}
    assert gate(database=copy)["database"]["compat_version"] == 200
    assert listing(copy.parent) == before


def test_of_a_link_what_lies_beside_the_file_counts(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    link = folder / "elsewhere.db"
    link.symlink_to(database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE schema_compat_version SET compat_version = 200")
        connection.commit()
        before = listing(database.parent)
        assert set(before) == {"homeserver.db", "homeserver.db-wal", "homeserver.db-shm"}
        seen = gate(database=link)["database"]
        assert seen["compat_version"] == 200
        assert seen["size"] == sum(before[name][1] for name in ("homeserver.db", "homeserver.db-wal"))
        assert listing(database.parent) == before


@as_root
def test_whoever_makes_a_link_does_not_choose_as_whom_the_database_is_read(
    database: pathlib.Path, folder: pathlib.Path, gate: Gate
) -> None:
    for path in (database, database.parent):
        os.chown(path, NOBODY, NOBODY)
    database.chmod(0o600)
    link = folder / "elsewhere.db"
    link.symlink_to(database)
    assert gate(database=link)["allowed"]
    os.chown(link, NOBODY - 1, NOBODY - 1, follow_symlinks=False)
    assert found(gate(database=link)) == {"database_unreachable": "error"}


def test_a_database_that_does_not_exist_is_not_made(folder: pathlib.Path, gate: Gate) -> None:
    result = gate(database=folder / "homeserver.db")
    assert found(result) == {"database_missing": "info"}
    assert not result["database"]["exists"]
    assert result["database"]["server_version"]
    (folder / "empty.db").touch()
    assert found(gate(database=folder / "empty.db")) == {"database_missing": "info"}
    assert listing(folder).keys() == {"empty.db"}


def test_a_locked_database_is_named(database: pathlib.Path, gate: Gate) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        result = gate(database=database)
        connection.execute("ROLLBACK")
    assert found(result) == {"database_locked": "error"}
    assert "database is locked" in result["msg"]
    assert gate(database=database)["allowed"]


@pytest.mark.parametrize("damage", ["text", "header", "schema"])
def test_a_damaged_database_is_named(database: pathlib.Path, gate: Gate, damage: str) -> None:
    if damage == "text":
        database.write_text("this is not a database\n" * 100)
    elif damage == "header":
        with database.open("r+b") as stream:
            stream.seek(100)
            stream.write(b"\xff" * 8192)
    else:
        change(database, "UPDATE schema_version SET version = 'many'")
    result = gate(database=database)
    assert found(result) == {"database_damaged": "error"}
    assert str(database) in result["msg"]


def test_a_change_that_was_interrupted_is_named(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    """A journal that has to be rolled back, from a file that is not in WAL mode."""
    (folder / "crashed").mkdir()
    copy = folder / "crashed" / "homeserver.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("CREATE TABLE filler (x BLOB)")
        connection.execute("PRAGMA cache_size = 1")
        for _number in range(200):
            connection.execute("INSERT INTO filler VALUES (randomblob(4000))")
        for ending in ("", "-journal"):
            shutil.copyfile(f"{database}{ending}", f"{copy}{ending}")
        connection.execute("ROLLBACK")
    before = listing(copy.parent)
    result = gate(database=copy)
    assert found(result) == {"database_unreachable": "error"}
    assert "Start the present release once" in result["msg"]
    assert listing(copy.parent) == before


@as_root
def test_the_database_is_read_as_the_service_user(database: pathlib.Path, gate: Gate) -> None:
    database.chmod(0o600)
    result = gate(database=database, user="nobody")
    assert found(result) == {"database_unreachable": "error"}
    assert f"{database} cannot be opened as nobody: Permission denied" in result["msg"]
    for path in (database, database.parent):
        os.chown(path, NOBODY, NOBODY)
    assert gate(database=database, user="nobody")["allowed"]
    assert gate(database=database)["allowed"]
    with contextlib.closing(sqlite3.connect(database)) as connection:  # -shm and -wal of another user: root's
        connection.execute("SELECT * FROM schema_version").fetchall()
        assert gate(database=database)["database"]["state"] in {"ready", "unreachable"}
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def start(server: Homeserver, python: str) -> str:
    """Start a release on a server's database; return what it said if it refused."""
    other = dataclasses.replace(server, python=pathlib.Path(python), process=None)
    with contextlib.suppress(BaseException), other.running():
        return ""
    return (server.folder / "output.txt").read_text(encoding="utf-8")


@pytest.fixture
def releases(folder: pathlib.Path) -> pathlib.Path:
    """A folder with both releases, one that was never finished and a stranger's."""
    path = folder / "releases"
    path.mkdir()
    for name, python in {"1.163.2-aaaaaaaaaaaa": NEW, "1.150.0-bbbbbbbbbbbb": OLD, ".tools": NEW}.items():
        (path / name).symlink_to(pathlib.Path(python).parents[1])
    (path / "1.163.2-cccccccccccc").mkdir()
    (path / "1.163.2-cccccccccccc" / ".incomplete").touch()
    (path / "notes").mkdir()
    return path


def test_a_downgrade_is_forbidden_where_the_old_release_refuses_and_only_there(
    homeserver: Callable[..., Homeserver], gate: Gate, releases: pathlib.Path
) -> None:
    server = homeserver(start=False)
    back = {"python": OLD, "current_python": NEW, "database": server.database_path, "releases_path": releases}
    change(
        server.database_path, "UPDATE schema_compat_version SET compat_version = 94", "DELETE FROM background_updates"
    )
    result = gate(**back)
    assert found(result) == {"downgrade_forbidden": "error"}
    assert (result["direction"], result["lowest_version"], result["way_back"]) == ("downgrade", "1.151.0", True)
    assert "At hand on this host: 1.163.2 (1.163.2-aaaaaaaaaaaa)." in result["msg"]
    assert "too new for the server to understand" in start(server, OLD)
    change(server.database_path, "UPDATE schema_compat_version SET compat_version = 93")
    result = gate(**back)
    assert (result["allowed"], found(result)) == (True, {"downgrade": "info"})
    assert start(server, OLD) == ""


def test_the_task_fails_unless_told_otherwise(database: pathlib.Path, run_module: Callable[..., t.Any]) -> None:
    change(database, "UPDATE schema_compat_version SET compat_version = 200")
    options = {"python": NEW, "current_python": OLD, "database": database}
    for check in (False, True):
        result = run_module("synapse_upgrade_gate", check=check, **options)
        assert result["failed"]
        assert not result["allowed"]
        assert result["lowest_version"] is None
        assert "may not serve here; nothing was changed." in result["msg"]
    assert not run_module("synapse_upgrade_gate", fail=False, **options).get("failed")


def test_a_backup_that_would_help_is_named(
    database: pathlib.Path, folder: pathlib.Path, gate: Gate, run_module: Callable[..., t.Any]
) -> None:
    backups = folder / "backups"
    options = {"database": database, "python": NEW, "path": backups, "label": "1.150.0-to-1.163.2"}
    made = run_module("synapse_database_backup", **options)
    assert made["changed"], made
    change(database, "UPDATE schema_compat_version SET compat_version = 94")
    run_module("synapse_database_backup", **options)
    assert len([*backups.glob("*.json")]) == 2
    back = {"python": OLD, "current_python": NEW, "database": database, "backup_path": backups}
    assert gate(**back)["newest_backup"] == made["path"]
    assert f"the newest is {made['path']}" in gate(**back)["msg"]
    assert gate(database=database, backup_path=backups)["newest_backup"] > made["path"]


def test_no_way_back_and_the_steps_between(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    change(database, "UPDATE schema_version SET version = 73", "UPDATE schema_compat_version SET compat_version = 72")
    # An environment whose interpreter is gone still says what it had.
    (folder / "old" / "lib" / "python3.9" / "site-packages" / "matrix_synapse-1.68.0.dist-info").mkdir(parents=True)
    options = {"database": database, "current_python": folder / "old" / "bin" / "python"}
    result = gate(**options, backup=True, backup_path=folder / "backups")
    assert found(result) == {"no_way_back": "warning", "version_skipped": "info"}
    assert (result["allowed"], result["way_back"], result["lowest_version"]) == (True, False, "1.62.0")
    assert result["current"] == {"version": "1.68.0", "schema_version": 73, "compat_version": 72}
    assert "1.77.0" in message(result, "version_skipped")
    assert "the only way back" in message(result, "no_way_back")
    assert "NO way back" in message(gate(**options), "no_way_back")
    assert not (folder / "backups").exists()


def test_a_release_knows_the_background_updates_of_a_new_server(
    homeserver: Callable[..., Homeserver], gate: Gate
) -> None:
    result = gate(database=homeserver(start=False).database_path)
    assert len(result["database"]["pending_background_updates"]) > 20
    assert "does not know" not in message(result, "background_updates_pending")


def test_background_updates_that_are_not_finished(database: pathlib.Path, gate: Gate) -> None:
    insert = "INSERT INTO background_updates (update_name, progress_json) VALUES ('{}', '{{}}')"
    change(database, insert.format("event_search"))
    result = gate(database=database)
    assert found(result) == {"background_updates_pending": "warning"}
    assert result["database"]["pending_background_updates"] == ["event_search"]
    assert "does not know" not in message(result, "background_updates_pending")
    change(database, insert.format("from_the_future"))
    said = message(gate(database=database), "background_updates_pending")
    assert "Synapse 1.163.2 does not know from_the_future." in said


def test_a_database_from_before_compat_versions(database: pathlib.Path, gate: Gate) -> None:
    change(database, "DROP TABLE schema_compat_version", "UPDATE schema_version SET version = 58")
    result = gate(database=database)
    assert (result["database"]["compat_version"], result["lowest_version"]) == (None, "1.37.0")
    assert result["allowed"]
    change(database, "UPDATE schema_version SET version = 9")
    assert found(gate(database=database)) == {"schema_too_old": "error"}


def test_room_for_the_backup(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    free = shutil.disk_usage(folder).free
    os.truncate(database, free + 2**30)  # a hole takes no room
    result = gate(database=database, backup=True, backup_path=folder / "not" / "there")
    assert found(result)["disk"] == "error"
    assert f"{folder} has" in message(result, "disk")
    assert "disk" not in found(gate(database=database))


# The release that is to serve


def altered(folder: pathlib.Path, code: str) -> pathlib.Path:
    """Return the interpreter of an environment that has the new Synapse, and runs some code at its start."""
    subprocess.run([NEW, "-m", "venv", "--without-pip", folder / "altered"], check=True)
    packages = next((folder / "altered" / "lib").glob("python3*/site-packages"))
    theirs = next(pathlib.Path(NEW).parents[1].glob("lib/python3*/site-packages"))
    (packages / "altered.py").write_text(code, encoding="utf-8")
    (packages / "altered.pth").write_text(f"{theirs}\nimport altered\n", encoding="utf-8")
    return folder / "altered" / "bin" / "python"


def test_the_release_itself_says_that_sqlite_is_too_old(
    database: pathlib.Path, folder: pathlib.Path, gate: Gate
) -> None:
    python = altered(folder, "import sqlite3\nsqlite3.sqlite_version_info = (3, 30, 0)\n")
    for path in (database, folder / "missing.db"):
        result = gate(database=path, python=python)
        assert found(result).get("sqlite_too_old") == "error"
        assert "Synapse requires sqlite 3.37.2 or above, and this is" in result["msg"]


def test_an_old_python_is_named(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    code = "import platform, sys\nplatform.python_version = lambda: '3.9.2'\nsys.version_info = (3, 9, 2, 'final', 0)\n"
    result = gate(database=database, python=altered(folder, code))
    assert found(result)["python_too_old"] == "error"
    assert "needs Python 3.10.0 or newer, its environment has 3.9.2" in result["msg"]


def test_a_release_that_cannot_be_imported_is_named(database: pathlib.Path, folder: pathlib.Path, gate: Gate) -> None:
    code = "import sys\nsys.modules['twisted'] = sys.modules['synapse.storage.types'] = None\n"
    result = gate(database=database, python=altered(folder, code))
    assert found(result) == {"environment_broken": "error"}
    assert "twisted" in result["msg"]
    result = gate(database=database, python=sys.executable)
    assert found(result)["environment_broken"] == "error"
    assert "matrix-synapse is not installed there" in result["msg"]
    (folder / "bin").mkdir()
    broken = folder / "bin" / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert found(gate(database=database, python=broken))["environment_broken"] == "error"


def test_a_release_that_is_not_there_yet(
    database: pathlib.Path, folder: pathlib.Path, gate: Gate, run_module: Callable[..., t.Any]
) -> None:
    options = {"database": database, "python": folder / "bin" / "python", "current_python": None}
    assert found(gate(**options, version="1.163.2"))["environment_missing"] == "error"
    for version, allowed in {"1.163.2": True, "1.99.0": False}.items():
        result = run_module("synapse_upgrade_gate", check=True, fail=False, version=version, **options)
        assert found(result)["environment_missing"] == "info"
        assert (result["allowed"], result["target"]["version"]) == (allowed, version)
        assert ("downgrade_forbidden" in found(result)) is not allowed


# systemd


def test_workers_are_ordered_after_main(
    database: pathlib.Path, folder: pathlib.Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(database, "UPDATE schema_version SET version = 93")
    units = {"synapse": "network.target", "good": "synapse.service", "bad": "network.target"}
    blocks = [f"Id={name}.service\nNames={name}.service\nLoadState=loaded\nAfter={x}\n" for name, x in units.items()]
    (folder / "units").write_text("\n".join(blocks), encoding="utf-8")
    (folder / "systemctl").write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\ncat {folder}/units\n', encoding="utf-8")
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert not gate(database=database, unit="synapse", worker_units=["good"])["findings"]
    assert (folder / "asked").read_text().endswith("-- synapse.service good.service\n")
    result = gate(database=database, unit="synapse", worker_units=["good", "bad.service"])
    assert found(result) == {"workers_before_main": "error"}
    assert "Write After=synapse.service" in result["msg"]
    change(database, "UPDATE schema_version SET version = 94")
    assert found(gate(database=database, unit="synapse", worker_units=["bad"])) == {"workers_before_main": "warning"}


def test_a_systemctl_that_knows_nothing_is_quoted(
    database: pathlib.Path, folder: pathlib.Path, run_module: Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "systemctl").write_text("#!/bin/sh\necho 'not booted with systemd' >&2\nexit 1\n", encoding="utf-8")
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    result = run_module("synapse_upgrade_gate", python=NEW, database=database, unit="synapse", worker_units=["w"])
    assert result["failed"]
    assert "not booted with systemd" in result["msg"]


# PostgreSQL


@pytest.fixture(scope="module")
def postgresql(make_homeserver: Callable[..., Homeserver]) -> Iterator[Cluster]:
    """A PostgreSQL whose database ``synapse`` was made by the new release."""
    with cluster() as server:
        arguments = {**server.settings, "cp_min": 1, "cp_max": 2}
        with make_homeserver(database={"name": "psycopg2", "args": arguments}).running():
            pass
        yield server


@pytest.fixture
def changed(postgresql: Cluster) -> Iterator[Callable[[str], None]]:
    """Change the database for one test."""
    yield postgresql.psql
    postgresql.psql("UPDATE schema_compat_version SET compat_version = 84; DELETE FROM background_updates")


@pytest.mark.parametrize("way", ["settings", "settings_with_password"])
def test_postgresql_is_asked(postgresql: Cluster, gate: Gate, way: str, changed: Callable[[str], None]) -> None:
    changed("DELETE FROM background_updates")
    result = gate(postgresql={**getattr(postgresql, way), "args": {"cp_min": 5, "sslmode": "prefer"}})
    assert (result["findings"], result["allowed"], result["way_back"]) == ([], True, True)
    assert {name: result["database"][name] for name in ("engine", "exists", "schema_version", "compat_version")} == {
        "engine": "postgresql",
        "exists": True,
        "schema_version": 94,
        "compat_version": 84,
    }
    assert int(result["database"]["server_version"].split(".")[0]) >= 13
    assert result["database"]["size"] > 1024 * 1024
    assert PASSWORD not in result["_output"]


def test_a_forbidden_downgrade_with_postgresql(
    postgresql: Cluster, gate: Gate, changed: Callable[[str], None], make_homeserver: Callable[..., Homeserver]
) -> None:
    changed("UPDATE schema_compat_version SET compat_version = 94")
    changed("INSERT INTO background_updates (update_name, progress_json) VALUES ('a_new_one', '{}')")
    result = gate(python=OLD, current_python=NEW, postgresql=postgresql.settings)
    assert found(result) == {"downgrade_forbidden": "error", "background_updates_pending": "warning"}
    assert "a_new_one" in message(result, "background_updates_pending")
    server = make_homeserver(database={"name": "psycopg2", "args": postgresql.settings})
    assert "too new for the server to understand" in start(server, OLD)


def test_a_wrong_collation_is_refused_as_synapse_does(postgresql: Cluster, gate: Gate) -> None:
    settings = postgresql.create_database("collated", locale="C.UTF-8")
    result = gate(postgresql=settings)
    assert found(result) == {"postgresql_collation": "error", "database_missing": "info"}
    assert "has the encoding UTF8, the collation C.UTF-8" in result["msg"]
    assert gate(postgresql=settings, allow_unsafe_locale=True)["allowed"]
    settings = postgresql.create_database("encoded", encoding="SQL_ASCII")
    result = gate(postgresql=settings, allow_unsafe_locale=True)
    assert found(result)["postgresql_collation"] == "error"
    assert "incorrect encoding: 'SQL_ASCII'" in result["msg"]


def test_an_empty_postgresql_database_is_a_new_server(postgresql: Cluster, gate: Gate) -> None:
    result = gate(postgresql=postgresql.create_database("fresh"))
    assert (found(result), result["allowed"]) == ({"database_missing": "info"}, True)
    assert postgresql.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", dbname="fresh") == "0"


def test_the_release_itself_says_that_postgresql_is_too_old(
    postgresql: Cluster, folder: pathlib.Path, gate: Gate
) -> None:
    code = (
        "import psycopg2, psycopg2.extensions\n"
        "class Old(psycopg2.extensions.connection):\n    server_version = 130011\n"
        "connect = psycopg2.connect\n"
        "psycopg2.connect = lambda **given: connect(connection_factory=Old, **given)\n"
    )
    result = gate(python=altered(folder, code), postgresql=postgresql.settings)
    assert found(result)["postgresql_too_old"] == "error"
    assert "Synapse requires PostgreSQL 14 or above, and this is" in result["msg"]


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"password": "pg-hidden-word"}, 'password authentication failed for user "synapse"'),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ({"port": 1}, "Connection refused"),
        ({"args": {"sslmode": "pg-hidden-word"}, "password": "pg-hidden-word"}, "invalid sslmode value"),
    ],
)
def test_a_database_that_does_not_answer_is_named_with_its_reason(
    postgresql: Cluster, gate: Gate, difference: dict[str, t.Any], reason: str
) -> None:
    result = gate(postgresql={**postgresql.settings_with_password, **difference})
    assert found(result) == {"database_unreachable": "error"}
    assert reason in result["msg"]
    hidden = json.dumps({name: value for name, value in result.items() if name not in {"invocation", "_output"}})
    assert "pg-hidden-word" not in hidden
    assert PASSWORD not in result["_output"]


def test_a_password_that_is_a_word_of_the_answer_changes_no_decision(postgresql: Cluster, gate: Gate) -> None:
    result = gate(postgresql={**postgresql.settings, "password": "ready"})
    assert "database_missing" not in found(result)
    assert (result["allowed"], result["lowest_version"]) == (True, "1.100.0")


def test_a_secret_among_the_shown_parameters_is_refused(postgresql: Cluster, run_module: Callable[..., t.Any]) -> None:
    given = {**postgresql.settings, "args": {"password": "pg-hidden-word"}}
    result = run_module("synapse_upgrade_gate", python=NEW, postgresql=given)
    assert "postgresql.password" in result["msg"]
    assert "pg-hidden-word" not in result["_output"]


def test_a_locked_table_is_named(postgresql: Cluster, gate: Gate) -> None:
    command = ["psql", "-X", "-q", "-h", postgresql.settings["host"], "-p", str(postgresql.port), "-U", "postgres"]
    holder = subprocess.Popen(
        [*command, "synapse"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd="/"
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("BEGIN; LOCK TABLE schema_version;\n\\echo locked\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "locked\n"
        result = gate(postgresql=postgresql.settings)
    finally:
        holder.communicate("ROLLBACK;\n", timeout=30)
    assert found(result) == {"database_locked": "error"}
    assert "lock timeout" in result["msg"]
