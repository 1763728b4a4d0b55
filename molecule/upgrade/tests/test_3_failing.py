"""An upgrade to a release that does not start comes back by itself on the one that served."""

from __future__ import annotations

import typing as t

import pytest
from upgrading import NEW, OLD

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from testinfra.host import Host
    from upgrading import Server

DROP_IN = "/etc/systemd/system/matrix-synapse.service.d"


def check_came_back(server: Server, before: dict[str, str], run: subprocess.CompletedProcess[str], reason: str) -> None:
    assert run.returncode != 0, run.stdout
    assert reason in run.stdout, run.stdout
    assert "answers again, proven healthy" in run.stdout, run.stdout
    assert server.snapshot()["files"] == before["files"]
    server.check(OLD)
    server.say(f"said after {reason}")


@pytest.mark.only("upgrade-bookworm")
def test_an_option_of_the_new_version_that_breaks_its_start(old: Server) -> None:
    """The old version does not read it; the new one finds it well-formed, and trips over it. Check mode names it."""
    before, poison = old.snapshot(), {"exclude_rooms_from_presence": 5}
    look = old.upgrade(NEW, "--check", site_extra=poison)
    assert look.returncode == 0, look.stdout
    assert "exclude_rooms_from_presence" in look.stdout
    assert old.snapshot() == before
    run = old.upgrade(NEW, site_extra=poison)
    check_came_back(old, before, run, "'int' object is not iterable")


@pytest.fixture
def broken(host: Host) -> Iterator[None]:
    """Let the service see one file of the new release as an empty one: damaged after all proof, before the start."""
    release = host.check_output(f"ls -d /var/lib/synapse/releases/{NEW}-*/ | tail -n 1").rstrip("/")
    module = host.check_output(f"ls {release}/lib/python3*/site-packages/synapse/app/phone_stats_home.py")
    host.check_output(f"mkdir -p {DROP_IN}")
    host.check_output("printf 'raise SystemError(\"bytes went bad\")\\n' > /etc/bad-bytes.py")
    host.check_output(
        f"printf '[Service]\\nBindReadOnlyPaths=/etc/bad-bytes.py:{module}\\n' > {DROP_IN}/bad-bytes.conf"
    )
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"rm -r {DROP_IN} /etc/bad-bytes.py")
    host.check_output("systemctl daemon-reload")


@pytest.mark.only("upgrade-bookworm")
@pytest.mark.usefixtures("broken")
def test_a_package_that_went_bad_after_its_proof(old: Server) -> None:
    before = old.snapshot()
    check_came_back(old, before, old.upgrade(NEW), "bytes went bad")


@pytest.mark.only("upgrade-trixie")
def test_a_port_that_somebody_else_has_taken(host: Host, old: Server) -> None:
    host.check_output("systemd-run --unit=thief python3 -m http.server --bind 127.0.0.1 8099")
    listeners = [
        {
            "port": port,
            "type": "http",
            "tls": False,
            "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client", "federation"]}],
        }
        for port in (8008, 8099)
    ]
    before = old.snapshot()
    try:
        run = old.upgrade(NEW, synapse_listeners=listeners)
    finally:
        host.run("systemctl stop thief")
    check_came_back(old, before, run, "Address already in use")


@pytest.mark.only("upgrade-bookworm")
def test_forth_again(old: Server) -> None:
    run = old.controller.play("upgrade", synapse_rollback=True)
    assert run.returncode == 0, run.stdout
    old.check(NEW)
