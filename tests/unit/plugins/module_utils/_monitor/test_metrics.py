# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor.metrics import METRICS, exposition

FINDING = {"id": "service.stopped", "severity": "error"}
REPORT: dict[str, t.Any] = {
    "healthy": False,
    "counts": {"critical": 0, "error": 1, "warning": 0, "info": 0},
    "findings": [FINDING],
    "checks": [{"name": "health", "target": "http://127.0.0.1:8008", "ok": False}],
    "certificate_days": 61.5,
    "server_name": "example.org",
    "version": "1.163.2",
    "release": None,
    "unseen": {},
}
RECORD: dict[str, t.Any] = {
    "ended": 1795473852.25,
    "changed": 1795473000,
    "seconds": 2.5,
    "hook_failed": False,
    "report": REPORT,
}


def values(**changes: t.Any) -> dict[str, str]:
    """Return the samples of a record whose report differs from the usual one."""
    lines = exposition({**RECORD, "report": {**REPORT, **changes}}).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_every_metric_has_help_and_type_before_its_samples() -> None:
    lines = exposition(RECORD).splitlines()
    for name, _told in METRICS:
        (help_at,) = [at for at, line in enumerate(lines) if line.startswith(f"# HELP {name} ")]
        assert lines[help_at + 1] == f"# TYPE {name} gauge"
        assert all(at > help_at for at, line in enumerate(lines) if re.match(rf"{name}[ {{]", line))
    assert exposition(RECORD).endswith("\n")


def test_numbers_are_written_as_prometheus_reads_them() -> None:
    found = values()
    assert found["synapse_doctor_healthy"] == "0"
    assert found["synapse_doctor_last_run_timestamp_seconds"] == "1795473852.250"
    assert found["synapse_doctor_certificate_remaining_seconds"] == str(int(61.5 * 86400))
    assert found['synapse_doctor_findings{severity="error"}'] == "1"
    assert found['synapse_doctor_finding{id="service.stopped",severity="error"}'] == "1"
    assert found['synapse_doctor_check{check="health",target="http://127.0.0.1:8008"}'] == "0"
    assert found['synapse_doctor_info{server_name="example.org",version="1.163.2",release=""}'] == "1"


def test_what_is_not_known_has_no_sample() -> None:
    assert "synapse_doctor_certificate_remaining_seconds" not in values(certificate_days=None)


def test_a_finding_that_is_there_twice_is_one_sample_with_the_gravest_severity() -> None:
    twice = [{"id": "a.b", "severity": "critical"}, {"id": "a.b", "severity": "warning"}]
    found = [name for name in values(findings=twice) if name.startswith("synapse_doctor_finding{")]
    assert found == ['synapse_doctor_finding{id="a.b",severity="critical"}']


def test_what_a_label_may_not_hold_is_escaped() -> None:
    (line,) = [name for name in values(server_name='a"b\\c\nd') if name.startswith("synapse_doctor_info")]
    assert 'server_name="a\\"b\\\\c\\nd"' in line
