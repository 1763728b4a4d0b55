# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_service`` with a systemd that is played: what it is asked, in which order, and what its answers come to.

With a real one it is tested where hosts have one, in ``molecule/default``.
"""

from __future__ import annotations

import json
import os
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import start, wait

# Keeps each unit's properties in a file; remembers what it was asked.
SYSTEMCTL = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
words = [word for word in sys.argv[1:] if word not in ("--no-pager", "--no-ask-password")]
with open(here / "asked", "a") as stream:
    stream.write(json.dumps(words) + "\\n")
plain = [word for word in words if not word.startswith("--")]
verb, names = plain[0], plain[1:]
units = json.loads((here / "units.json").read_text())
trouble = json.loads((here / "trouble.json").read_text())
if verb in trouble:
    sys.exit(trouble[verb])
if verb == "show":
    print("\\n\\n".join("\\n".join(f"{{k}}={{v}}" for k, v in units[name].items()) for name in names))
for name in names:
    if verb in ("start", "restart"):
        units[name].update(ActiveState=units[name].get("becomes", "active"), SubState="running", Job="")
    elif verb == "stop":
        units[name].update(ActiveState="inactive", SubState="dead")
    elif verb in ("enable", "disable"):
        units[name].update(UnitFileState=verb + "d")
if verb == "list-jobs":
    for name, unit in units.items():
        if unit["Job"]:
            print(unit["Job"], name, unit["kind"], "waiting")
(here / "units.json").write_text(json.dumps(units))
"""


class Systemd:
    """A folder with a ``systemctl`` and a ``journalctl`` in it, and the module that finds these first."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.journal("")
        self._tool("systemctl", SYSTEMCTL.format(python=python))
        self.trouble()
        self.units: dict[str, dict[str, str]] = {}

    def _tool(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def journal(self, text: str) -> None:
        """Set what ``journalctl`` prints."""
        (self.folder / "journal").write_text(text)
        self._tool("journalctl", f"#!/bin/sh\ncat {self.folder}/journal\n")

    def trouble(self, **verbs: str) -> None:
        """Let verbs fail with these words."""
        (self.folder / "trouble.json").write_text(json.dumps(verbs))

    def has(self, name: str, **properties: str) -> None:
        """Give systemd a unit, by default one that runs and is enabled."""
        self.units[name] = {
            "Id": name,
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "NeedDaemonReload": "no",
            "Job": "",
            "Type": "notify",
            **properties,
        }

    def __call__(self, **arguments: t.Any) -> dict[str, t.Any]:
        (self.folder / "units.json").write_text(json.dumps(self.units))
        (self.folder / "asked").write_text("")
        output = self.folder / "answer"

        def before() -> None:
            os.environ["PATH"] = f"{self.folder}:{os.environ['PATH']}"

        answer = wait(start("synapse_service", arguments, output, before), output).answer
        assert answer
        return answer

    def asked(self) -> list[str]:
        """Return what systemctl was asked, options apart."""
        lines = (self.folder / "asked").read_text().splitlines()
        return [" ".join(word for word in json.loads(line) if not word.startswith("--")) for line in lines]


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(tmp_path, sys.executable)


def test_nothing_to_do_is_one_question(systemd: Systemd) -> None:
    systemd.has("a.service")
    answer = systemd(name="a", state="started", enabled=True)
    assert answer["changed"] is False
    assert answer["units"] == [{"name": "a.service", "active": "active", "sub": "running", "file": "enabled"}]
    assert systemd.asked() == ["show a.service"]


def test_check_mode_predicts_what_a_run_does(systemd: Systemd) -> None:
    systemd.has("a.service", ActiveState="inactive", SubState="dead", UnitFileState="disabled")
    options = {"name": "a", "state": "started", "enabled": True, "daemon_reload": True, "_ansible_diff": True}
    predicted = systemd(**options, _ansible_check_mode=True)
    assert systemd.asked() == ["show a.service"]
    done = systemd(**options)
    assert (predicted["changed"], predicted["diff"]) == (done["changed"], done["diff"])
    asked = ["daemon-reload", "show a.service", "enable a.service", "reset-failed a.service", "start a.service"]
    assert systemd.asked()[:5] == asked
    assert done["units"][0]["active"] == "active"


@pytest.mark.parametrize("state", [{"ActiveState": "failed", "SubState": "failed"}, {"ActiveState": "inactive"}])
def test_failures_of_the_past_are_forgotten_before_a_start(systemd: Systemd, state: dict[str, str]) -> None:
    systemd.has("a.service", **state)
    assert systemd(name="a", state="started", no_block=True)["changed"] is True
    assert systemd.asked()[:3] == ["show a.service", "reset-failed a.service", "start a.service"]


def test_a_file_that_changed_is_read_before_the_start(systemd: Systemd) -> None:
    systemd.has("a.service", ActiveState="inactive", NeedDaemonReload="yes")
    systemd(name="a", state="started")
    assert systemd.asked()[:4] == ["show a.service", "daemon-reload", "reset-failed a.service", "start a.service"]


def test_a_stop_that_is_queued_is_seen(systemd: Systemd) -> None:
    systemd.has("a.service", Job="7", kind="stop")
    systemd.has("b.service", Job="8", kind="restart")
    assert systemd(units=["a", "b"], state="started")["changed"] is True
    assert systemd.asked()[:4] == ["show a.service b.service", "list-jobs", "reset-failed a.service", "start a.service"]
    assert "start b.service" not in systemd.asked()


def test_units_go_one_after_the_other(systemd: Systemd) -> None:
    for name in ("main", "worker"):
        systemd.has(f"{name}.service")
    systemd(units=["main", "worker"], state="restarted")
    assert [line for line in systemd.asked() if "show" not in line] == [
        "reset-failed main.service worker.service",
        "restart main.service",
        "restart worker.service",
    ]
    systemd(units=["main", "worker"], state="stopped")
    assert [line for line in systemd.asked() if "show" not in line] == ["stop worker.service", "stop main.service"]
    assert systemd(units=[], state="started")["changed"] is False
    assert systemd.asked() == []


def test_a_unit_that_does_not_start_is_told_with_its_own_reason(systemd: Systemd) -> None:
    systemd.has("a.service", ActiveState="inactive", becomes="failed", Result="exit-code", ExecMainStatus="1")
    systemd.has("b.service", ActiveState="inactive")
    systemd.journal("Starting A.\nValueError: password=hunter2 is not it\n")
    answer = systemd(units=["a", "b"], state="started")
    assert answer["failed"]
    assert answer["unit"] == "a.service"
    assert "did not start: it is failed (running, exit-code, status 1)" in answer["msg"]
    assert answer["reason"] == "ValueError: password=*** is not it"
    assert "start b.service" not in systemd.asked()


@pytest.mark.parametrize(
    ("verb", "words", "told"),
    [
        ("start", "Assertion failed on job for a.service.", "something that its file asserts does not hold"),
        ("start", "Failed to start a.service: Interactive authentication required.", "become: true"),
        ("show", "System has not been booted with systemd as init system (PID 1).", "run Synapse as a daemon"),
        (
            "enable",
            "Failed to enable unit: Unit file a.service is masked.",
            "'systemctl enable --quiet a.service' failed",
        ),
    ],
)
def test_what_systemctl_complains_of_is_told_with_what_to_do(
    systemd: Systemd, verb: str, words: str, told: str
) -> None:
    systemd.has("a.service", ActiveState="inactive", UnitFileState="disabled")
    systemd.trouble(**{verb: words})
    answer = systemd(name="a", state="started", enabled=True)
    assert answer["failed"]
    assert told in answer["msg"]


@pytest.mark.parametrize("name", ["../a.service", "--all", "a b", "*"])
def test_what_is_no_name_never_reaches_systemctl(systemd: Systemd, name: str) -> None:
    assert "is no name of a unit" in systemd(name=name, state="stopped")["msg"]
    assert systemd.asked() == []
