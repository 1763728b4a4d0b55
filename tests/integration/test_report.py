# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts say is text for the controller: it is shown and written, and never taken for a template."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from sample_fleet import answer, finding

BIN = Path(sys.executable).parent
# A template that would leave a file where it is run, wherever in a message it stands.
NAMES = ("summary", "evidence", "cause", "remedy")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The report on a host that tries, and on one that is healthy."""
    folder = tmp_path_factory.mktemp("report")
    bait = folder / "bait"
    template = f"{{{{ lookup('ansible.builtin.pipe', 'touch {bait}') }}}} {{{{ 7 * 7 }}}} {{% raw %}}"
    bad = finding("words.traceback", "error", template, **{name: template for name in NAMES[1:]}, repair="key")
    hosts = {"one": answer(template, bad, summary=template), "two": answer("two.example")}
    (folder / "answers.json").write_text(json.dumps(hosts), encoding="utf-8")
    play = {
        "name": "Report",
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "name": "Say it as a host would",
                "ansible.builtin.slurp": {"src": str(folder / "answers.json")},
                "register": "_said",
            },
            {
                "name": "Report",
                "ansible.builtin.import_role": {"name": "matrix_fleet.synapse.synapse", "tasks_from": "report.yml"},
                "vars": {
                    "_synapse_answers": "{{ _said.content | b64decode | from_json }}",
                    "synapse_report_dir": "reports",
                    "synapse_status_width": 2000,
                },
            },
        ],
    }
    inventory = {"all": {"hosts": {"one": None, "two": None}, "vars": {"ansible_connection": "local"}}}
    (folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
    (folder / "inventory.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    ended = subprocess.run(
        [
            BIN / "ansible-playbook",
            "-i",
            "inventory.yml",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            "play.yml",
        ],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return folder, ended


def hosts_of(folder: Path) -> list[dict[str, t.Any]]:
    """Return the hosts of the report."""
    hosts: list[dict[str, t.Any]] = json.loads((folder / "reports" / "report.json").read_text(encoding="utf-8"))[
        "hosts"
    ]
    return hosts


def test_the_report_is_written_beside_where_the_run_was_started(
    said: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = said
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert [host["state"] for host in hosts_of(folder)] == ["not_healthy", "healthy"]
    assert (folder / "reports").stat().st_mode & 0o777 == 0o750


def test_nothing_that_a_host_says_is_run(said: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = said
    assert not (folder / "bait").exists()
    text = (folder / "reports" / "report.html").read_text(encoding="utf-8")
    host = hosts_of(folder)[0]
    assert "{{ 7 * 7 }} {% raw %}" in host["message"]
    for name in NAMES:
        assert "{{ 7 * 7 }} {% raw %}" in host["findings"][0][name]
    assert text.count("{{ 7 * 7 }} {% raw %}") >= len(NAMES)
    assert ended.stdout.count("{{ 7 * 7 }} {% raw %}") >= len(NAMES)


def test_only_who_is_not_healthy_fails(said: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _folder, ended = said
    recap = {
        line.split()[0]: "failed=0" not in line
        for line in ended.stdout.partition("PLAY RECAP")[2].splitlines()[1:]
        if line
    }
    assert recap == {"one": True, "two": False}


# What an inventory may say, and what the doctor is told: the unit, the pid file, and the rest that differs.
DAEMON = {"synapse_service_manager": "daemon"}
WAYS: dict[str, tuple[dict[str, t.Any], dict[str, t.Any]]] = {
    "nothing_said": ({}, {"unit": "matrix-synapse.service", "pid_file": "/var/lib/synapse/homeserver.pid"}),
    "systemd": ({"synapse_service_manager": "systemd"}, {"unit": "matrix-synapse.service", "pid_file": None}),
    "daemon": (DAEMON, {"unit": "", "pid_file": "/var/lib/synapse/homeserver.pid"}),
    "seen_systemd": (
        {"_synapse_host": {"service_manager": "systemd"}},
        {"unit": "matrix-synapse.service", "pid_file": None},
    ),
    "seen_none": (
        {"_synapse_host": {"service_manager": "none"}},
        {"unit": "", "pid_file": "/var/lib/synapse/homeserver.pid"},
    ),
    "by_other_means": (
        {
            "synapse_venv_path": "/opt/venvs/matrix-synapse",
            "synapse_config_path": "/etc/matrix-synapse",
            "synapse_config_files": ["/etc/matrix-synapse/conf.d"],
            "synapse_service_name": "homeserver",
            "synapse_user": "matrix-synapse",
        },
        {
            "config_path": ["/etc/matrix-synapse/homeserver.yaml", "/etc/matrix-synapse/conf.d"],
            "python": "/opt/venvs/matrix-synapse/bin/python",
            "unit": "homeserver.service",
            "user": "matrix-synapse",
            "server_name": None,
            "public": None,
        },
    ),
    "named": ({"synapse_server_name": "example.org"}, {"server_name": "example.org", "user": "synapse"}),
    "unmanaged": ({"synapse_manage_user": False}, {"user": None}),
    "public": ({"synapse_doctor_public": "always"}, {"public": True}),
    "private": ({"synapse_doctor_public": "never", "synapse_public_url": "https://x"}, {"public": False}),
}


def test_the_doctor_is_told_what_the_inventory_says(tmp_path: Path) -> None:
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "synapse_doctor_timeout": 1}
    hosts = {name: variables for name, (variables, _told) in WAYS.items()}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": shared}}), encoding="utf-8")
    role = {"name": "matrix_fleet.synapse.synapse", "tasks_from": "doctor.yml"}
    tasks = [{"name": "Examine", "ansible.builtin.import_role": role}]
    play = [{"name": "Examine", "hosts": "all", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play, sort_keys=False), encoding="utf-8")
    # At -vvv Ansible shows what each module was given.
    ended = subprocess.run(
        [BIN / "ansible-playbook", "-vvv", "-i", "inventory.yml", "play.yml"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    given = {}
    for match in re.finditer(r"^ok: \[(\w+)\] => ", ended.stdout, re.MULTILINE):
        result, _end = json.JSONDecoder().raw_decode(ended.stdout, match.end())
        given[match[1]] = result["invocation"]["module_args"]
    assert {name: {key: given[name][key] for key in told} for name, (_variables, told) in WAYS.items()} == {
        name: told for name, (_variables, told) in WAYS.items()
    }
