"""What cannot work is refused with its reason, and nothing of what serves is touched."""

from __future__ import annotations

import re
import typing as t

import pytest
from upgrading import CLOSE, NEW, OLD

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from testinfra.host import Host
    from upgrading import Server


def check_refused(server: Server, before: dict[str, str], run: subprocess.CompletedProcess[str], reason: str) -> None:
    assert run.returncode != 0, run.stdout
    assert re.search(reason, run.stdout), run.stdout
    assert server.snapshot() == before
    server.check(NEW)


@pytest.fixture
def sql(host: Host) -> t.Callable[[str], None]:
    """Return what changes the server's database behind its back."""

    def on_sqlite(statement: str) -> None:
        open_database = "import sqlite3; c = sqlite3.connect('/var/lib/synapse/homeserver.db')"
        source = f"{open_database}; c.execute('{statement}'); c.commit()"
        host.check_output(f'setpriv --reuid=synapse --regid=synapse --clear-groups python3 -c "{source}"')

    def on_postgresql(statement: str) -> None:
        host.check_output(f'runuser -u postgres -- psql --dbname=synapse --command="{statement}"')

    return on_sqlite if host.file("/var/lib/synapse/homeserver.db").exists else on_postgresql


@pytest.fixture
def moved_on(sql: t.Callable[[str], None]) -> Iterator[None]:
    """Let the database be one that only versions from 1.153.0 on can read, as a later Synapse would make it."""
    sql("UPDATE schema_compat_version SET compat_version = 94")
    yield
    sql("UPDATE schema_compat_version SET compat_version = 84")


@pytest.mark.usefixtures("moved_on")
def test_a_downgrade_that_the_database_forbids(new: Server) -> None:
    """The message names the lowest version that can still read it, and the backup."""
    before = new.snapshot()
    run = new.upgrade(OLD)
    check_refused(new, before, run, r"1\.15[0-9]\.[0-9]")
    assert "backups/" in run.stdout


@pytest.fixture
def without_link(host: Host, new: Server) -> Iterator[None]:
    """Let the link to the live release be lost, while the server runs on."""
    target = new.release()
    host.check_output("rm /var/lib/synapse/venv")
    yield
    host.check_output(f"test -L /var/lib/synapse/venv || ln -s {target} /var/lib/synapse/venv")


@pytest.mark.usefixtures("moved_on", "without_link")
def test_a_downgrade_that_the_database_forbids_where_nothing_says_what_served_before(host: Host, new: Server) -> None:
    before = new.process()
    run = new.upgrade(OLD)
    assert run.returncode != 0, run.stdout
    assert re.search(r"needs a release that knows schema 94", run.stdout), run.stdout
    assert not host.file("/var/lib/synapse/venv").exists
    assert new.process() == before


@pytest.mark.usefixtures("without_link")
def test_the_database_is_backed_up_where_nothing_says_what_served_before(host: Host, new: Server) -> None:
    run = new.upgrade(NEW)
    assert run.returncode == 0, run.stdout
    assert host.run(f"ls /var/lib/synapse/backups/*-unknown-to-{NEW}.*.json").rc == 0, run.stdout
    new.check(NEW)


@pytest.mark.only("upgrade-bookworm")
def test_releases_on_a_full_disk(host: Host, new: Server) -> None:
    host.check_output("mkdir -p /srv/small && mount -t tmpfs -o size=20m tmpfs /srv/small")
    before = new.snapshot()
    try:
        run = new.upgrade(CLOSE, synapse_releases_path="/srv/small/releases")
        check_refused(new, before, run, r"/srv/small.*(room|space|MB|MiB)")
    finally:
        host.check_output("umount /srv/small")


@pytest.mark.only("upgrade-bookworm")
def test_an_index_out_of_reach(new: Server) -> None:
    before = new.snapshot()
    run = new.upgrade(CLOSE, synapse_index_url="https://127.0.0.1:9/simple", synapse_extra_packages=["six==1.17.0"])
    check_refused(new, before, run, r"index at 127\.0\.0\.1 cannot be reached")


@pytest.mark.only("upgrade-bookworm")
def test_a_hash_that_is_wrong(new: Server) -> None:
    before = new.snapshot()
    lock = (new.folder / f"{CLOSE}.lock").read_text(encoding="utf-8")
    damaged = new.folder / "damaged.lock"

    def turned_around(block: re.Match[str]) -> str:
        return re.sub(r"[0-9a-f]{64}", lambda digest: digest[0][::-1], block[0])

    damaged.write_text(re.sub(r"(?ms)^attrs==.*?^(?=[a-z])", turned_around, lock), encoding="utf-8")
    run = new.upgrade(CLOSE, synapse_lock_file=str(damaged))
    check_refused(new, before, run, r"attrs")


@pytest.mark.only("upgrade-trixie")
def test_configuration_on_a_file_system_that_is_read_only(host: Host, new: Server) -> None:
    host.check_output("mount --rbind /etc /etc && mount -o remount,ro,bind /etc")
    before = new.snapshot()
    try:
        check_refused(new, before, new.upgrade(CLOSE), r"Read-only file system")
    finally:
        host.check_output("umount --lazy /etc")


@pytest.mark.only("upgrade-trixie")
def test_a_downgrade_that_the_database_allows(new: Server) -> None:
    run = new.upgrade(CLOSE)
    assert run.returncode == 0, run.stdout
    new.check(CLOSE)
    new.say("said to the version before")
