"""Going back by hand."""

from __future__ import annotations

import typing as t

import pytest
from upgrading import OLD

if t.TYPE_CHECKING:
    from testinfra.host import Host
    from upgrading import Server


def test_back_to_what_served_before(new: Server) -> None:
    new.say("said to the new version")
    run = new.controller.play("upgrade", synapse_rollback=True)
    assert run.returncode == 0, run.stdout
    new.check(OLD)
    new.say("said to the old version")


@pytest.mark.only("upgrade-bookworm")
def test_what_was_made_by_hand_serves_again(host: Host, old: Server) -> None:
    assert old.release().startswith("/var/lib/synapse/releases/adopted-")
    pid = host.check_output("systemctl show matrix-synapse -p MainPID --value")
    assert "adopted-" in host.check_output(f"cat /proc/{pid}/maps")


@pytest.mark.only("upgrade-trixie")
def test_the_system_s_python_goes_and_the_next_deployment_builds_for_the_one_there_is(host: Host, old: Server) -> None:
    assert "python3.11" in host.check_output(f"ls {old.release()}/lib")
    host.check_output("rm -r /usr/bin/python3.11 /usr/lib/python3.11")
    run = old.controller.play("deploy", **old.settings(OLD))
    assert run.returncode == 0, run.stdout
    assert "/usr/bin/python3.11" in run.stdout, run.stdout
    assert "python3.13" in host.check_output(f"ls {old.release()}/lib")
    old.check(OLD)
