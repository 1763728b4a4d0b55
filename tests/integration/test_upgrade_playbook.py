# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook upgrade around the role: what is told and handed on when servers fail, and what is refused before."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
REFUSED = "Not A Name"
REMOTE = {"ansible.builtin.file", "ansible.builtin.find", "ansible.builtin.tempfile"}

# A connection that breaks, and comes back, whenever it is to carry one module.
BREAKING = """
import os

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import DOCUMENTATION as documented
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = documented.replace("name: local", "name: breaking")


class Connection(Local):
    transport = "breaking"

    def put_file(self, in_path, out_path):
        if out_path.endswith("AnsiballZ_" + os.environ["BREAKS_FOR"] + ".py"):
            raise AnsibleConnectionFailure("the network is down")
        return super().put_file(in_path, out_path)
"""


def tasks_in(tasks: list[dict[str, t.Any]]) -> t.Iterator[dict[str, t.Any]]:
    """Every task, in blocks as well."""
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_in(task.get(part, []))


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


@pytest.mark.parametrize("module", ["synapse_host", "synapse_files"])
def test_a_server_that_goes_out_of_reach_in_the_middle_is_unknown_and_holds_back_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    plugins = tmp_path / "connections"
    plugins.mkdir()
    (plugins / "breaking.py").write_text(BREAKING, encoding="utf-8")
    monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", str(plugins))
    monkeypatch.setenv("ANSIBLE_PIPELINING", "0")
    monkeypatch.setenv("BREAKS_FOR", module)
    run = upgrade(tmp_path, server_name="one.test", ansible_connection="breaking")
    assert run.returncode != 0
    assert '"one: UNKNOWN: it went out of reach in the middle of it' in run.stdout, run.stdout
    assert '"two: untouched, because a server before it was not proven"' in run.stdout
    stats = run.stdout.partition("CUSTOM STATS")[2]
    assert re.search(r'synapse_upgrade_unknown": \[\s*"one"\s*\]', stats), stats
    # The connection comes back at once, and still nothing more is done.
    assert not list((tmp_path / "two").iterdir())
    assert not list((tmp_path / "one").iterdir())


def test_the_playbook_looks_at_whatever_the_role_asks_of_a_host() -> None:
    asked, seen, files = set(), set(), ["main.yml", "revert.yml"]
    while files:
        file = files.pop()
        seen.add(file)
        for task in tasks_in(yaml.safe_load((ROOT / "roles/synapse/tasks" / file).read_text(encoding="utf-8"))):
            further = task.get("ansible.builtin.import_tasks") or task.get("ansible.builtin.include_tasks")
            files += [further] if further is not None and further not in seen else []
            remote = [name for name in task if name.startswith("matrix_fleet.synapse.") or name in REMOTE]
            assert not remote or "register" in task, task
            asked |= {task["register"] for _name in remote}
    play = (ROOT / "playbooks/upgrade.yml").read_text(encoding="utf-8")
    looked_at = play.partition("_upgrade_answers: >-")[2].partition("default={}")[0]
    assert set(re.findall(r"'(_?synapse_\w+)'", looked_at)) == asked


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
