"""After the upgrade: the new version serves, nothing is lost, and there is a way back."""

from __future__ import annotations

import json
import re
import typing as t

import pytest
from upgrading import NEW, OLD

if t.TYPE_CHECKING:
    from deployed import Controller
    from testinfra.host import Host
    from upgrading import Server

BACKUPS = "/var/lib/synapse/backups"


def test_the_new_version_serves_and_nothing_is_lost(server: Server) -> None:
    """Sessions, messages, media, the name of a user and the server's key, as real clients see them."""
    server.check(NEW)


def test_a_second_upgrade_changes_nothing(new: Server) -> None:
    before = new.snapshot()
    run = new.upgrade(NEW)
    assert run.returncode == 0, run.stdout
    assert re.search(rf"{new.controller.name} .*changed=0 ", run.stdout), run.stdout
    assert new.snapshot() == before


def test_nothing_is_wrong_with_it(controller: Controller, new: Server) -> None:
    assert controller.ailments() == []


def newest_backup(host: Host) -> dict[str, t.Any]:
    manifests = host.check_output(f"ls {BACKUPS}/*.json").split()
    manifest: dict[str, t.Any] = json.loads(host.file(manifests[-1]).content_string)
    manifest["path"] = host.check_output(f"ls {BACKUPS}/* | grep -v json | tail -n 1")
    return manifest


def test_there_is_a_backup_of_what_served_before(host: Host) -> None:
    manifest = newest_backup(host)
    assert manifest["label"] == f"{OLD}-to-{NEW}"
    assert host.check_output(f"sha256sum {manifest['path']}").split()[0] == manifest["sha256"]
    for path, mode in ((manifest["path"], 0o600), (BACKUPS, 0o711)):
        found = host.file(path)
        assert (found.user, found.group, oct(found.mode)) == ("root", "root", oct(mode))
    assert host.run(f"setpriv --reuid=synapse --regid=synapse --clear-groups cat {manifest['path']}").rc != 0


@pytest.mark.only("upgrade-bookworm")
def test_the_backup_of_sqlite_holds_every_message(host: Host) -> None:
    path = newest_backup(host)["path"]
    count = "select count(*) from events where type = 'm.room.message'"
    connect = f"sqlite3.connect('file:{path}?immutable=1', uri=True)"
    source = f'import sqlite3; print({connect}.execute(\\"{count}\\").fetchone()[0])'
    assert int(host.check_output(f'python3 -c "{source}"')) == 12


@pytest.mark.only("upgrade-trixie")
def test_the_backup_of_postgresql_can_be_restored(host: Host) -> None:
    path = newest_backup(host)["path"]
    as_postgres = "runuser -u postgres --"
    host.check_output(f"{as_postgres} createdb restored")
    try:
        host.check_output(f"{as_postgres} pg_restore --exit-on-error --no-owner --dbname=restored < {path}")
        count = "select count(*) from events where type = 'm.room.message'"
        found = host.check_output(f'{as_postgres} psql --tuples-only --dbname=restored --command="{count}"')
        assert int(found) == 12
    finally:
        host.check_output(f"{as_postgres} dropdb restored")


@pytest.mark.only("upgrade-bookworm")
def test_what_was_made_by_hand_was_taken_over(host: Host, new: Server) -> None:
    """The folder is kept as it was, and its plugin is in the new release."""
    adopted = host.check_output("ls -d /var/lib/synapse/releases/adopted-*/")
    record = host.file(f"{adopted.rstrip('/')}.json").content_string
    assert '"matrix-synapse-ldap3"' in record
    assert host.file(f"{adopted}bin/python").exists
    assert host.run(f"{new.release()}/bin/python -I -c 'import ldap_auth_provider'").rc == 0
