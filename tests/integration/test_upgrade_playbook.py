# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook upgrade around the role: what is told and handed on when servers fail, and what is refused before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REFUSED = "Not A Name"


def upgrade(
    folder: Path, *arguments: str, server_name: str = REFUSED, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run the playbook against two servers on this machine, which have nothing yet."""
    hosts = {name: {"synapse_server_name": server_name, "site": str(folder / name)} for name in ("one", "two")}
    places = {
        f"synapse_{place}_path": f"{{{{ site }}}}/{place}" for place in ("venv", "releases", "data", "config", "log")
    }
    shared = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "synapse_manage_user": False,
        "synapse_service_manager": "daemon",
        **places,
        **variables,
    }
    for name in hosts:
        (folder / name).mkdir(exist_ok=True)
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"synapse": {"hosts": hosts, "vars": shared}}), encoding="utf-8")
    return subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={inventory}"),
            *(*arguments, "matrix_fleet.synapse.upgrade"),
        ],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SHOW_CUSTOM_STATS": "1"},
    )


def test_a_canary_that_fails_is_reported_and_handed_on(tmp_path: Path) -> None:
    run = upgrade(tmp_path)
    assert run.returncode != 0
    assert f"\"one: FAILED: synapse_server_name is '{REFUSED}'" in run.stdout, run.stdout
    assert '"two: untouched, because a server before it was not proven"' in run.stdout
    assert "synapse_upgrade_failed" in run.stdout.partition("CUSTOM STATS")[2]
    assert not list((tmp_path / "two").iterdir())


def test_a_run_that_is_limited_may_leave_out_the_canary(tmp_path: Path) -> None:
    run = upgrade(tmp_path, "--limit=two", synapse_canary=["one"])
    assert f"\"two: FAILED: synapse_server_name is '{REFUSED}'" in run.stdout, run.stdout


def test_a_part_of_an_upgrade_is_refused_and_not_green(tmp_path: Path) -> None:
    for arguments in ("--tags=synapse_configure", "--skip-tags=synapse_install"):
        run = upgrade(tmp_path, arguments)
        assert run.returncode != 0, run.stdout
        assert "An upgrade is one thing" in run.stdout


def test_check_mode_predicts_a_host_that_has_no_folder_yet(tmp_path: Path) -> None:
    run = upgrade(tmp_path, "--check", "--limit=one", server_name="one.test")
    assert run.returncode == 0, run.stdout
    assert "would be in place" in run.stdout
    assert not list((tmp_path / "one").iterdir())
