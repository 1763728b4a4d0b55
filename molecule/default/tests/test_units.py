"""Units and accounts of a real host, apart from those of the server that is deployed there."""

from __future__ import annotations

import json
import typing as t

import pytest

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from testinfra.host import Host

TRIAL = "synapse-trial"
PLACE = f"/etc/systemd/system/{TRIAL}.service"


def module(host: Host, called: str, /, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
    """Run a module of the collection on the host; return its result, a failure too."""
    try:
        answer = host.ansible(f"matrix_fleet.synapse.{called}", json.dumps(arguments), check=check)
    except host.ansible.AnsibleException as failure:
        answer = failure.result
    return dict(answer)


@pytest.fixture
def unit(host: Host) -> Iterator[t.Callable[..., dict[str, t.Any]]]:
    """Write a unit that is given as its lines, and run the module with it."""

    def run(*lines: str, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        if lines:
            text = "\n".join(lines)
            host.check_output(f"cat > {PLACE} <<'END'\n{text}\nEND")
            host.check_output("systemctl daemon-reload")
        return module(host, "synapse_service", check, name=TRIAL, **arguments)

    yield run
    host.run(f"systemctl unmask {TRIAL}; systemctl disable --now {TRIAL}; rm -f {PLACE}")
    host.run(f"systemctl daemon-reload; systemctl reset-failed {TRIAL}")


LASTING = ("[Service]", "ExecStart=/bin/sleep 1000", "[Install]", "WantedBy=multi-user.target")


def test_a_unit_is_started_enabled_left_alone_and_stopped(host: Host, unit: t.Callable[..., dict[str, t.Any]]) -> None:
    assert unit(*LASTING, check=True, state="started", enabled=True)["changed"] is True
    assert not host.service(TRIAL).is_running
    assert unit(state="started", enabled=True)["changed"] is True
    assert host.service(TRIAL).is_running
    assert host.service(TRIAL).is_enabled
    assert unit(state="started", enabled=True)["changed"] is False
    pid = host.check_output(f"systemctl show {TRIAL} -p MainPID --value")
    assert unit(state="restarted")["changed"] is True
    assert host.check_output(f"systemctl show {TRIAL} -p MainPID --value") != pid
    assert unit(state="stopped", enabled=False)["changed"] is True
    assert not host.service(TRIAL).is_running
    assert not host.service(TRIAL).is_enabled
    assert unit(state="stopped", enabled=False)["changed"] is False


def test_a_file_that_changed_is_read_before_the_start(host: Host, unit: t.Callable[..., dict[str, t.Any]]) -> None:
    unit(*LASTING, state="stopped")
    host.check_output(f"sed -i 's/sleep 1000/sleep 2000/' {PLACE}")
    assert unit(state="restarted")["changed"] is True
    assert "sleep 2000" in host.check_output(f"systemctl show {TRIAL} -p ExecStart --value")


def test_a_unit_that_failed_too_often_is_started_again(host: Host, unit: t.Callable[..., dict[str, t.Any]]) -> None:
    failing = ("[Unit]", "StartLimitIntervalSec=600", "StartLimitBurst=1", "[Service]", "Type=notify")
    answer = unit(*failing, "ExecStart=/bin/sh -c 'echo ValueError: its own reason; exit 3'", state="started")
    assert "Its own reason: ValueError: its own reason" in answer["msg"]
    assert host.run(f"systemctl start {TRIAL}").rc != 0
    host.check_output(f"sed -i 's/^Type=.*/Type=simple/; s/^ExecStart=.*/ExecStart=\\/bin\\/sleep 1000/' {PLACE}")
    assert unit(state="started")["changed"] is True
    assert host.service(TRIAL).is_running


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("[Unit]", "AssertPathExists=/nowhere", *LASTING), "its file asserts does not hold"),
        (("[Unit]", "ConditionPathExists=/nowhere", *LASTING), "ConditionPathExists=/nowhere"),
        (("[Service]", "Type=exec", "ExecStart=/nowhere/at-all"), "/nowhere/at-all"),
        (("[Service]", "Type=notify", "ExecStart=/bin/true"), "did not start"),
        (("[Service]", "Type=notify", "ExecStart=/bin/sleep 1000"), "had not started after 3 s"),
    ],
    ids=["assertion", "condition", "no program", "silent", "slow"],
)
def test_why_a_unit_does_not_start_is_told(
    unit: t.Callable[..., dict[str, t.Any]], lines: tuple[str, ...], told: str
) -> None:
    answer = unit(*lines, state="started", timeout=3)
    assert told in answer["msg"]


def test_masked_units_and_those_that_are_not_there_are_named(
    host: Host, unit: t.Callable[..., dict[str, t.Any]]
) -> None:
    assert "has no unit" in unit(state="started")["msg"]
    host.check_output(f"systemctl mask {TRIAL}")
    assert f"systemctl unmask {TRIAL}.service" in unit(state="started")["msg"]


def test_an_account_is_predicted_made_and_changed_where_it_differs(host: Host) -> None:
    wanted = {"user": TRIAL, "group": f"{TRIAL}-group", "home": "/srv/trial"}
    try:
        assert module(host, "synapse_host", check=True, **wanted)["changed"] is True
        assert not host.user(TRIAL).exists
        assert module(host, "synapse_host", **wanted)["changed"] is True
        account = host.user(TRIAL)
        assert (account.group, account.home, account.shell) == (f"{TRIAL}-group", "/srv/trial", "/usr/sbin/nologin")
        assert account.uid < 1000
        assert account.password in ("!", "*", "!*")
        assert not host.file("/srv/trial").exists
        assert module(host, "synapse_host", **wanted)["changed"] is False
        host.check_output(f"usermod --shell /bin/sh --gid users {TRIAL}")
        assert module(host, "synapse_host", **wanted)["changed"] is True
        account = host.user(TRIAL)
        assert (account.group, account.shell) == (f"{TRIAL}-group", "/usr/sbin/nologin")
    finally:
        host.run(f"userdel {TRIAL}; groupdel {TRIAL}-group")


def test_what_depends_on_the_host_is_refused_before_the_account_is_made(host: Host) -> None:
    answer = module(host, "synapse_host", user=TRIAL, refusals={"always": ["A."], "systemd": ["B."]})
    assert answer["msg"] == "A.\nB."
    assert not host.user(TRIAL).exists
