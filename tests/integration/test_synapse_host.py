# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_host`` beside a unit that serves the configuration already; systemd itself is played."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import start, wait

CONFIG = "/etc/synapse/homeserver.yaml"


@pytest.fixture
def refused(tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    """Run the module where ``old.service`` serves; systemd is there unless told otherwise."""
    units = tmp_path / "units"
    units.mkdir()
    (units / "old.service").write_text(f"[Service]\nExecStart=/v/python -m synapse.app.homeserver -c {CONFIG}\n")
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text("#!/bin/sh\nprintf 'ActiveState=active\\nUnitFileState=enabled\\n'\n")
    systemctl.chmod(0o755)

    def run(*, booted: bool = True, **arguments: t.Any) -> dict[str, t.Any]:
        def pretend() -> None:
            from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _units
            from ansible_collections.matrix_fleet.synapse.plugins.modules import synapse_host

            _units.observe.__defaults__ = ([str(units)],)
            synapse_host.observe_manager = lambda: "systemd" if booted else "runit"
            os.environ["PATH"] = f"{systemctl.parent}:{os.environ['PATH']}"

        return wait(start("synapse_host", arguments, tmp_path / "answer", pretend), tmp_path / "answer").answer

    return run


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("unit", [{"unit": "new.service"}, {}], ids=["another unit", "no unit"])
def test_another_unit_that_serves_is_named_before_anything_is_changed(
    refused: t.Callable[..., dict[str, t.Any]], unit: dict[str, str], check: bool
) -> None:
    answer = refused(serves=CONFIG, user="a-user-to-be-made", _ansible_check_mode=check, **unit)
    assert answer["failed"]
    assert f"runs and serves {CONFIG}" in answer["msg"]
    assert "systemctl disable --now old.service" in answer["msg"]
    assert answer["refusals"] == [answer["msg"]]


def test_the_unit_itself_and_other_configurations_are_fine(refused: t.Callable[..., dict[str, t.Any]]) -> None:
    assert "failed" not in refused(serves=CONFIG, unit="old.service")
    assert "failed" not in refused(serves="/srv/other/homeserver.yaml", unit="new.service")
    assert "failed" not in refused()


def test_each_run_goes_by_a_name_of_its_own(refused: t.Callable[..., dict[str, t.Any]]) -> None:
    names = [refused()["run"] for _run in range(2)]
    assert [len(name) for name in names] == [32, 32]
    assert names[0] != names[1]


def test_where_there_is_no_systemd_no_unit_serves(refused: t.Callable[..., dict[str, t.Any]]) -> None:
    assert "failed" not in refused(serves=CONFIG, booted=False)
