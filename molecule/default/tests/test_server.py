"""The deployed homeserver does what an operator is promised."""

from __future__ import annotations

import typing as t

import pytest
from deployed import UNIT, VERSION, ask

if t.TYPE_CHECKING:
    from testinfra.host import Host


def test_the_service_is_active_and_starts_with_the_host(host: Host) -> None:
    unit = host.service(UNIT)
    assert unit.is_running
    assert unit.is_enabled
    assert host.check_output(f"systemctl show {UNIT} -p Type --value") == "notify"


def test_it_runs_as_its_own_user_without_any_capability(host: Host) -> None:
    pid = host.check_output(f"systemctl show {UNIT} -p MainPID --value")
    status = dict(line.split(":", 1) for line in host.file(f"/proc/{pid}/status").content_string.splitlines())
    assert status["Uid"].split()[0] == str(host.user("synapse").uid)
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"


def test_clients_and_servers_are_answered_by_the_installed_version(host: Host) -> None:
    assert "v1.12" in ask(host, "/_matrix/client/versions")["versions"]
    assert ask(host, "/_matrix/federation/v1/version")["server"] == {"name": "Synapse", "version": VERSION}


def test_the_published_key_is_the_recorded_one(host: Host) -> None:
    published = ask(host, "/_matrix/key/v2/server")
    record = host.file("/etc/synapse/homeserver.signing.key.verify_keys.json").content_string
    assert published["server_name"] == host.check_output("cat /etc/hostname").strip() + ".test"
    for key_id, key in published["verify_keys"].items():
        assert key_id in record
        assert key["key"] in record


@pytest.mark.parametrize(
    ("path", "owner", "group", "mode"),
    [
        ("/etc/synapse", "root", "synapse", 0o750),
        ("/etc/synapse/homeserver.yaml", "root", "synapse", 0o640),
        ("/etc/synapse/log.yaml", "root", "synapse", 0o640),
        ("/etc/synapse/homeserver.signing.key", "synapse", "synapse", 0o600),
        ("/etc/synapse/secrets", "root", "synapse", 0o750),
        ("/etc/synapse/secrets/macaroon_secret_key", "root", "synapse", 0o640),
        ("/etc/synapse/secrets/registration_shared_secret", "root", "synapse", 0o640),
        ("/etc/synapse/secrets/form_secret", "root", "synapse", 0o640),
        ("/var/lib/synapse", "root", "synapse", 0o1770),
        ("/var/lib/synapse/media_store", "synapse", "synapse", 0o750),
        ("/var/lib/synapse/homeserver.db", "synapse", "synapse", 0o640),
        ("/var/lib/synapse/releases", "root", "root", 0o755),
        ("/var/log/synapse", "synapse", "synapse", 0o750),
        ("/etc/systemd/system/matrix-synapse.service", "root", "root", 0o644),
    ],
)
def test_files_belong_to_whom_they_should(host: Host, path: str, owner: str, group: str, mode: int) -> None:
    found = host.file(path)
    assert (found.user, found.group, oct(found.mode)) == (owner, group, oct(mode))


def test_secrets_differ_from_each_other(host: Host) -> None:
    names = ("macaroon_secret_key", "registration_shared_secret", "form_secret")
    secrets = {host.file(f"/etc/synapse/secrets/{name}").content_string for name in names}
    assert len(secrets) == len(names)
    assert min(map(len, secrets)) >= 43


@pytest.mark.parametrize(
    "path",
    [
        "/etc/synapse",
        "/etc/synapse/homeserver.yaml",
        "/etc/synapse/secrets/macaroon_secret_key",
        "/var/lib/synapse/venv/bin",
        "/var/lib/synapse/releases",
    ],
)
def test_the_service_cannot_write_what_it_is_run_by(host: Host, path: str) -> None:
    assert host.run(f"setpriv --reuid=synapse --regid=synapse --init-groups test -r {path}").rc == 0
    assert host.run(f"setpriv --reuid=synapse --regid=synapse --init-groups test -w {path}").rc == 1


def test_the_service_cannot_swap_its_own_environment(host: Host) -> None:
    """The data folder is the service's to write in, and the environment's name in it is root's."""
    moved = host.run(
        "setpriv --reuid=synapse --regid=synapse --init-groups mv /var/lib/synapse/venv /var/lib/synapse/stolen"
    )
    assert moved.rc != 0
    assert host.file("/var/lib/synapse/venv").is_symlink


def test_the_environment_is_a_link_to_a_proven_release(host: Host) -> None:
    release = host.check_output("readlink -f /var/lib/synapse/venv")
    assert release.startswith(f"/var/lib/synapse/releases/{VERSION}-")


def test_no_transaction_is_left_open(host: Host) -> None:
    assert not host.file("/etc/synapse/.transaction/journal.json").exists


def test_the_unit_is_well_confined(host: Host) -> None:
    """``systemd-analyze security`` rates exposure from 0 (none) to 10; what is documented holds."""
    verdict = host.check_output(f"systemd-analyze security --no-pager {UNIT}").splitlines()[-1]
    exposure = float(verdict.split(":")[1].split()[0])
    assert exposure <= 2.0, verdict
