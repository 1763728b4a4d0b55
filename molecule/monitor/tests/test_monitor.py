"""The host examines its server by itself, and tells what changes, in every way that it has."""

from __future__ import annotations

import json
import re
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployed import Controller
    from testinfra.host import Host

STATE = "/var/lib/synapse-monitor"
METRICS = "/var/lib/prometheus/node-exporter/synapse-monitor.prom"
ROLE = Path(__file__).resolve().parents[3] / "roles" / "synapse_monitor"


def record(host: Host) -> dict[str, t.Any]:
    """Return what the last run wrote."""
    found = json.loads(host.file(f"{STATE}/last.json").content_string)
    assert isinstance(found, dict)
    return found


def metrics(host: Host) -> dict[str, float]:
    """Return the metrics by name and labels."""
    lines = host.file(METRICS).content_string.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def told(host: Host) -> list[str]:
    """Return what the journal was told."""
    return host.check_output("journalctl --no-pager -o cat -t synapse-monitor").splitlines()


def calls(host: Host) -> list[str]:
    """Return how the hook was called, in order."""
    file = host.file("/srv/told/calls")
    return file.content_string.splitlines() if file.exists else []


def until(seen: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something is seen."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, seen
        time.sleep(1)


@pytest.fixture
def healthy(host: Host) -> Iterator[None]:
    """See that the server is healthy, and known to be, before a test and after it."""
    until(lambda: host.file(METRICS).exists and metrics(host).get("synapse_doctor_healthy") == 1)
    yield
    host.run("systemctl start matrix-synapse")
    until(lambda: metrics(host)["synapse_doctor_healthy"] == 1)


def test_runs_as_the_service_s_own_user_and_sees_all_there_is(host: Host, healthy: None) -> None:
    found = record(host)
    assert found["report"]["unseen"] == {}
    assert [one for one in found["report"]["findings"] if one["severity"] != "info"] == []
    assert host.file(f"{STATE}/last.json").user == "synapse"
    assert host.file(f"{STATE}/last.json").mode == 0o640
    assert host.file(METRICS).mode == 0o644
    assert found["report"]["server_name"] == "monitor.test"


def test_the_same_report_as_the_playbook_status(
    host: Host, controller: Controller, healthy: None, tmp_path: Path
) -> None:
    # A new database is still being put in order by its server for a while, which only one of the two might see.
    until(lambda: "database.updates_pending" not in {one["id"] for one in record(host)["report"]["findings"]})
    run = controller.play("status", synapse_report_dir=str(tmp_path))
    assert run.returncode == 0, run.stdout
    (told_host,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["hosts"]
    report = record(host)["report"]
    assert [one["id"] for one in told_host["findings"]] == [one["id"] for one in report["findings"]]
    assert told_host["key_ids"] == report["key_ids"]


def test_a_fault_is_told_everywhere_once_and_clears_when_it_is_over(host: Host, healthy: None) -> None:
    before, called = told(host), calls(host)
    host.check_output("systemctl stop matrix-synapse")
    until(lambda: metrics(host)["synapse_doctor_healthy"] == 0)
    ended = record(host)["ended"]
    until(lambda: record(host)["ended"] > ended + 8)  # further runs that find the same
    found = record(host)["report"]
    assert found["findings"][0]["id"] == "service.stopped"
    severity = found["findings"][0]["severity"]
    assert metrics(host)[f'synapse_doctor_finding{{id="service.stopped",severity="{severity}"}}'] == 1
    new = told(host)[len(before) :]
    assert sum("service.stopped: " in line for line in new) == 1, new
    assert calls(host)[len(called) :] == ["unhealthy monitor.test"]
    assert json.loads(host.file("/srv/told/last.json").content_string)["report"]["healthy"] is False
    host.check_output("systemctl start matrix-synapse")
    until(lambda: metrics(host)["synapse_doctor_healthy"] == 1)
    until(lambda: calls(host)[len(called) :] == ["unhealthy monitor.test", "healthy monitor.test"])
    new = told(host)[len(before) :]
    assert sum("service.stopped is over" in line for line in new) == 1, new
    assert not [name for name in metrics(host) if "service.stopped" in name]


def test_metrics_are_what_prometheus_reads(host: Host, healthy: None) -> None:
    text = host.file(METRICS).content_string
    for name in {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}:
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} gauge" in text
    host.check_output(
        "command -v promtool || (apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus)"
    )
    host.check_output(f"promtool check metrics < {METRICS}")


def test_alerts_fire_and_end_as_they_should(host: Host) -> None:
    host.check_output(
        "command -v promtool || (apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus)"
    )
    name = host.backend.get_pytest_id().rsplit("://", 1)[-1]
    for path in (ROLE / "files" / "synapse.rules.yml", Path(__file__).with_name("alerts.yml")):
        subprocess.run(["docker", "cp", str(path), f"{name}:/root/{path.name}"], check=True, capture_output=True)
    host.check_output("cd /root && promtool check rules synapse.rules.yml && promtool test rules alerts.yml")


def test_a_broken_host_is_still_reported(host: Host, healthy: None) -> None:
    host.check_output("mv /var/lib/synapse/venv /var/lib/synapse/venv.away")
    try:
        until(
            lambda: (
                record(host)["report"]["findings"][:1]
                and record(host)["report"]["findings"][0]["id"].startswith("environment.")
            )
        )
        assert metrics(host)["synapse_doctor_healthy"] == 0
    finally:
        host.check_output("mv /var/lib/synapse/venv.away /var/lib/synapse/venv")


def test_absent_leaves_nothing(host: Host, controller: Controller) -> None:
    run = controller.play("monitor", synapse_monitor_state="absent")
    assert run.returncode == 0, run.stdout
    for path in (STATE, METRICS, "/etc/synapse-monitor.json", "/etc/systemd/system/synapse-monitor.timer"):
        assert not host.file(path).exists
    again = controller.play("monitor", synapse_monitor_state="absent")
    assert re.search(r"changed=0 .*failed=0", again.stdout), again.stdout
    run = controller.play("monitor")
    assert run.returncode == 0, run.stdout
