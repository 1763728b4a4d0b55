# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role derives from what its modules found, rendered by Ansible: when the database has a say in an upgrade."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "synapse"

FRESH = {"previous_release": None, "adopt_as": None, "live": False}
READY = {"direction": "none", "database": {"state": "ready"}}


def derived(
    folder: Path, cases: dict[str, dict[str, t.Any]], *names: str, tags: str = "all"
) -> dict[str, dict[str, t.Any]]:
    """Return what variables of the role are, by case; each case gives what the tasks before would have registered."""
    inventory, playbook, answer = folder / "inventory.json", folder / "play.json", folder / "answer.json"
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **defaults}
    inventory.write_text(json.dumps({"all": {"hosts": cases, "vars": shared}}), encoding="utf-8")
    values = ", ".join(f"'{name}': hostvars[host].{name}_is" for name in names)
    loop = "{% for host in ansible_play_hosts %}{{ all.update({host: {" + values + "}}) }}{% endfor %}"
    shown = "{% set all = {} %}" + loop
    tasks = [
        {"name": "Render", "ansible.builtin.set_fact": {f"{name}_is": "{{ " + name + " }}" for name in names}},
        {
            "name": "Tell",
            "ansible.builtin.copy": {"content": shown + "{{ all | to_json }}", "dest": str(answer), "mode": "0600"},
            "run_once": True,
        },
    ]
    files = [str(ROLE / "vars" / "main.yml")]
    play = {
        "name": "Derive",
        "hosts": "all",
        "gather_facts": False,
        "vars_files": files,
        "tasks": tasks,
        "tags": ["always"],
    }
    playbook.write_text(json.dumps([play]), encoding="utf-8")
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={inventory}",
            f"--tags={tags}",
            str(playbook),
        ],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert run.returncode == 0, run.stdout
    text = answer.read_text(encoding="utf-8")
    found: dict[str, dict[str, t.Any]] = json.loads(text[text.index("{") :])
    return found


def test_the_way_back_asks_the_database_of_the_configuration_that_is_put_back(tmp_path: Path) -> None:
    place = "/etc/synapse/homeserver.yaml"
    cases: dict[str, dict[str, t.Any]] = {
        "changed": {"_synapse_would": {"saved": {place: "/copies/0"}}},
        "another": {"_synapse_would": {"saved": {"/etc/synapse/log.yaml": "/copies/1"}}},
        "refused": {"_synapse_would": {"msg": "no"}},
    }
    found = derived(tmp_path, cases, "_synapse_back_config")
    assert {host: one["_synapse_back_config"] for host, one in found.items()} == {
        "changed": "/copies/0",
        "another": "",
        "refused": "",
    }


def test_what_a_rollback_goes_back_to_is_told_to_the_gate(tmp_path: Path) -> None:
    cases: dict[str, dict[str, t.Any]] = {
        "open": {"_synapse_prepared": {"before": {"/var/lib/synapse/venv": "/releases/one"}}},
        "closed": {"_synapse_prepared": {"before": {}}},
        "by_hand": {},
    }
    found = derived(tmp_path, cases, "_synapse_left_open_from")
    assert [found[host]["_synapse_left_open_from"] for host in cases] == ["/releases/one", "", ""]


def test_only_a_run_that_goes_on_to_the_proof_takes_an_open_transaction_over(tmp_path: Path) -> None:
    whole = {
        tags: derived(tmp_path, {"host": {}}, "_synapse_whole", tags=tags)["host"]["_synapse_whole"]
        for tags in ("all", "synapse", "mine", "synapse_install", "synapse_configure,mine", "synapse_install,synapse")
    }
    assert {tags for tags, goes_on in whole.items() if not goes_on} == {"synapse_install", "synapse_configure,mine"}


def test_the_database_has_a_say_wherever_an_environment_goes_live(tmp_path: Path) -> None:
    cases: dict[str, dict[str, t.Any]] = {
        "in_place": {"_synapse_environment": {**FRESH, "live": True}, "_synapse_gate": {"skipped": True}},
        "upgrade": {
            "_synapse_environment": {**FRESH, "previous_release": "1.150.0-a"},
            "_synapse_gate": {**READY, "direction": "upgrade"},
        },
        "by_hand": {"_synapse_environment": {**FRESH, "adopt_as": "/releases/adopted"}, "_synapse_gate": READY},
        # The link is gone, or there never was one: nothing can be named that served, and the database is there.
        "link_lost": {"_synapse_environment": FRESH, "_synapse_gate": READY},
        "unreadable": {
            "_synapse_environment": FRESH,
            "_synapse_gate": {"direction": "none", "database": {"state": "unasked"}},
        },
        "fresh": {
            "_synapse_environment": FRESH,
            "_synapse_gate": {"direction": "none", "database": {"state": "missing"}},
        },
        "rebuilt": {
            "_synapse_environment": {**FRESH, "previous_release": "1.163.2-a"},
            "_synapse_gate": {**READY, "direction": "same"},
        },
        "elsewhere": {"_synapse_environment": FRESH, "_synapse_gate": READY, "synapse_backup_database": False},
    }
    asks, compares, keeps = "_synapse_release_changes", "_synapse_release_replaces", "_synapse_backup_wanted"
    found = derived(tmp_path, cases, asks, compares, keeps)
    assert {host for host, one in found.items() if not one[asks]} == {"in_place"}
    assert {host for host, one in found.items() if one[compares]} == {"upgrade", "by_hand", "rebuilt"}
    assert {host for host, one in found.items() if one[keeps]} == {"upgrade", "by_hand", "link_lost", "unreadable"}
