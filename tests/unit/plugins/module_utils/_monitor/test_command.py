# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor import command
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import process_runner

SICK = {
    "id": "service.stopped",
    "severity": "error",
    "summary": "It stands still.",
    "evidence": "",
    "remedy": "start it",
}


def report(*findings: dict[str, str]) -> dict[str, t.Any]:
    """Return a report with these findings."""
    return {
        "healthy": not findings,
        "counts": {"critical": 0, "error": len(findings), "warning": 0, "info": 0},
        "findings": list(findings),
        "checks": [],
        "certificate_days": None,
        "server_name": "example.org",
        "version": "1.163.2",
        "release": "r",
        "unseen": {},
        "summary": "Not healthy." if findings else "Healthy.",
    }


class Monitor:
    """A monitor whose examinations are given; its files and its hook are real."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.settings: dict[str, t.Any] = {
            "request": {},
            "state": str(folder),
            "metrics": str(folder / "x.prom"),
            "hook": ["/bin/sh", "-c", f'echo "$SYNAPSE_STATE $SYNAPSE_SUMMARY" >> {self.calls}; cat > {folder}/handed'],
            "hook_timeout": 20,
        }
        self.monkeypatch = monkeypatch

    def run(self, given: dict[str, t.Any]) -> dict[str, t.Any]:
        self.monkeypatch.setattr(command, "ask", lambda _run, _request: given)
        return command.run_once(process_runner(), self.settings)

    def called(self) -> list[str]:
        return self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    return Monitor(tmp_path, monkeypatch)


def test_a_change_is_told_once_and_its_end_too(monitor: Monitor, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (report(), report(SICK), report(SICK), report()):
        monitor.run(given)
    assert monitor.called() == ["unhealthy Not healthy.", "healthy Healthy."]
    told = capsys.readouterr().out
    assert told.count("service.stopped: ") == 1
    assert told.count("service.stopped is over") == 1


def test_the_time_of_the_last_change_stays_until_the_next(monitor: Monitor) -> None:
    first = monitor.run(report(SICK))
    second = monitor.run(report(SICK))
    assert second["ended"] > first["ended"]
    assert second["changed"] == first["changed"]
    assert monitor.run(report())["changed"] > first["changed"]


def test_the_hook_is_handed_the_record(monitor: Monitor) -> None:
    monitor.run(report(SICK))
    handed = json.loads((monitor.folder / "handed").read_text(encoding="utf-8"))
    assert handed["report"]["findings"] == [SICK]


def test_a_hook_that_fails_is_told_and_seen_in_the_metrics(
    monitor: Monitor, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor.settings["hook"] = ["/bin/sh", "-c", "echo nobody is there >&2; exit 3"]
    monitor.run(report(SICK))
    assert "The hook /bin/sh failed (rc=3): nobody is there" in capsys.readouterr().out
    assert "\nsynapse_doctor_hook_failed 1\n" in (monitor.folder / "x.prom").read_text(encoding="utf-8")
    monitor.run(report(SICK))
    assert "\nsynapse_doctor_hook_failed 1\n" in (monitor.folder / "x.prom").read_text(encoding="utf-8")
    monitor.settings["hook"] = ["/bin/true"]
    monitor.run(report())
    assert "\nsynapse_doctor_hook_failed 0\n" in (monitor.folder / "x.prom").read_text(encoding="utf-8")


def test_a_hook_that_hangs_is_ended(monitor: Monitor, capsys: pytest.CaptureFixture[str]) -> None:
    monitor.settings.update(hook=["/bin/sleep", "60"], hook_timeout=0.3)
    monitor.run(report(SICK))
    assert "The hook /bin/sleep failed" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[]", '{"report": 1}', '{"report": {}, "changed": "x"}', "\0" * 20])
def test_a_damaged_record_is_no_record(monitor: Monitor, text: str) -> None:
    (monitor.folder / "last.json").write_text(text, encoding="utf-8")
    monitor.run(report())
    assert monitor.called() == []
    assert json.loads((monitor.folder / "last.json").read_text(encoding="utf-8"))["report"]["healthy"] is True


@pytest.mark.parametrize("text", [None, "", "[]", '{"state": 1}', '{"request": {"nonsense": 1}, "state": "/x"}'])
def test_settings_that_cannot_be_used_end_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "settings.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert command.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith("<3>The homeserver could not be examined")
    assert command.main([]) == 2
