# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of two servers under ``ansible-runner`` as AWX starts it, judged by the artifacts that AWX would read.

The project is the one of ``docs/awx``; the hosts are this machine, without root and without systemd.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing as t
import urllib.request
from pathlib import Path

import jsonschema
import pytest
import yaml

if t.TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOSTS = ("one", "two")
# What of the caller's environment AWX would have set as well: where packages come from, and whom to trust.
HANDED_ON = re.compile(r"PATH|LANG|TZ|(PIP|SSL|UV|REQUESTS)_\w+|\w*_(proxy|PROXY)")


@dataclasses.dataclass(frozen=True)
class Job:
    """What a job left behind."""

    rc: int
    status: str
    events: list[dict[str, t.Any]]
    output: str

    @property
    def stats(self) -> dict[str, t.Any]:
        """The closing event: per host how many tasks were ok, changed, failed; and what was handed on."""
        found: dict[str, t.Any] = next(one for one in self.events if one["event"] == "playbook_on_stats")["event_data"]
        return found

    @property
    def artifacts(self) -> dict[str, t.Any]:
        """What a workflow's next job gets as variables."""
        return dict(self.stats.get("artifact_data") or {})

    def failed(self) -> list[str]:
        """Return the hosts that failed."""
        return sorted({*self.stats["failures"], *self.stats["dark"]})

    def messages(self, host: str) -> str:
        """Return what the failed tasks of a host said."""
        failures = [one["event_data"] for one in self.events if one["event"] == "runner_on_failed"]
        return "\n".join(str(one["res"].get("msg")) for one in failures if one["host"] == host)


class Fleet:
    """A private data folder of ``ansible-runner``: two servers on this machine, and a host that is out of reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        *ports, closed = free_ports(len(HOSTS) + 1)
        self.ports = dict(zip(HOSTS, ports, strict=True))
        self._jobs = 0
        shutil.copytree(ROOT / "docs" / "awx" / "project", self.data / "project")
        (self.data / "inventory").mkdir()
        (self.data / "env").mkdir()
        (folder / "home").mkdir()
        hosts = {host: self._variables(host) for host in HOSTS}
        gone = {"gone": {"ansible_host": "127.0.0.1", "ansible_port": closed, "synapse_server_name": "gone.example"}}
        inventory = {"synapse": {"hosts": hosts}, "lost": {"hosts": gone}}
        (self.data / "inventory" / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (self.data / "env" / "settings").write_text(yaml.safe_dump({"process_isolation": False, "idle_timeout": 600}))

    def place(self, host: str) -> Path:
        """Return the folder that everything of a host lies in."""
        return self.folder / host

    def _variables(self, host: str) -> dict[str, t.Any]:
        place = str(self.place(host))
        return {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "synapse_server_name": f"{host}.example",
            "synapse_manage_user": False,
            "synapse_service_manager": "daemon",
            "synapse_venv_path": f"{place}/venv",
            "synapse_releases_path": f"{place}/releases",
            "synapse_data_path": f"{place}/data",
            "synapse_config_path": f"{place}/config",
            "synapse_log_path": f"{place}/log",
            "synapse_config": {"federation_domain_whitelist": [], "trusted_key_servers": []},
            "synapse_listeners": [
                {
                    "port": self.ports[host],
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "tls": False,
                    "resources": [{"names": ["client", "federation"]}],
                }
            ],
        }

    def run(self, playbook: str, *arguments: str, **survey: t.Any) -> Job:
        """Run a playbook of the project with the answers of a survey, and read what it left."""
        self._jobs += 1
        ident = f"job{self._jobs}"
        # AWX makes a new private data folder for each job.
        (self.data / "env" / "cmdline").write_text(" ".join(arguments))
        (self.data / "env" / "extravars").write_text(yaml.safe_dump({"synapse_hosts": "synapse", **survey}))
        environment = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
        environment["PATH"] = f"{BIN}:{environment['PATH']}"
        environment["HOME"] = str(self.folder / "home")
        environment.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
        ended = subprocess.run(
            ["ansible-runner", "run", str(self.data), "-p", playbook, "--ident", ident],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=900,
            check=False,
        )
        left = self.data / "artifacts" / ident
        files = sorted((left / "job_events").glob("*.json"), key=lambda path: int(path.name.partition("-")[0]))
        events = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        assert events, ended.stdout[-3000:]
        return Job(int((left / "rc").read_text()), (left / "status").read_text(), events, ended.stdout)

    def pid(self, host: str) -> int:
        """Return the server's process."""
        return int((self.place(host) / "data" / "homeserver.pid").read_text())

    def answers(self, host: str) -> bool:
        """Whether the server of a host answers clients."""
        url = f"http://127.0.0.1:{self.ports[host]}/_matrix/client/versions"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return bool(json.load(answer)["versions"])
        except OSError:
            return False

    def stop(self, host: str) -> None:
        """End the server of a host, and wait until it has ended."""
        with contextlib.suppress(OSError, ValueError):
            pid = self.pid(host)
            os.kill(pid, signal.SIGTERM)
            for _attempt in range(200):
                os.kill(pid, 0)
                time.sleep(0.1)
            os.kill(pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody holds."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _number in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet on which nothing is installed yet."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    for host in HOSTS:
        fleet.stop(host)


@pytest.fixture(scope="module")
def preview(fleet: Fleet) -> Job:
    """The job type Check on hosts where nothing is installed."""
    job = fleet.run("deploy.yml", "--check", "--diff")
    # Before the next job can make anything.
    assert [host for host in HOSTS if fleet.place(host).exists()] == []
    return job


@pytest.fixture(scope="module")
def deployed(fleet: Fleet, preview: Job) -> Job:
    """The first deployment."""
    job = fleet.run("deploy.yml")
    assert job.rc == 0, job.output[-6000:]
    return job


def documented() -> dict[str, t.Any]:
    """Return the example of what is handed on to a workflow."""
    text = (ROOT / "docs" / "awx.md").read_text(encoding="utf-8")
    example: dict[str, t.Any] = json.loads(text.partition("```json\n")[2].partition("```")[0])
    return example


def test_a_preview_of_a_new_fleet_ends_well_and_makes_nothing(preview: Job) -> None:
    assert (preview.rc, preview.status) == (0, "successful"), preview.output[-6000:]
    assert set(preview.stats["changed"]) == set(HOSTS)
    assert {host: one["healthy"] for host, one in preview.artifacts["synapse_deployed"].items()} == dict.fromkeys(HOSTS)


def test_a_deployment_hands_on_what_a_workflow_branches_on(fleet: Fleet, deployed: Job) -> None:
    assert deployed.status == "successful"
    handed_on = deployed.artifacts["synapse_deployed"]
    assert set(handed_on) == set(HOSTS)
    example = next(iter(documented().values()))
    for host in HOSTS:
        assert {name: type(value) for name, value in handed_on[host].items()} == {
            name: type(value) for name, value in example.items()
        }
        assert handed_on[host]["server_name"] == f"{host}.example"
        assert handed_on[host]["version"] == example["version"]
        assert handed_on[host]["release"] == example["release"]
        assert handed_on[host]["healthy"] is True
        assert fleet.answers(host)
    assert handed_on["one"]["key_ids"] != handed_on["two"]["key_ids"]


def test_a_second_deployment_changes_nothing(fleet: Fleet, deployed: Job) -> None:
    before = {host: fleet.pid(host) for host in HOSTS}
    job = fleet.run("deploy.yml")
    assert job.rc == 0, job.output[-6000:]
    assert job.stats["changed"] == {}
    assert {host: fleet.pid(host) for host in HOSTS} == before
    assert job.artifacts == deployed.artifacts


def test_no_secret_is_in_what_the_jobs_left(fleet: Fleet, deployed: Job) -> None:
    secrets = []
    for host in HOSTS:
        config = fleet.place(host) / "config"
        files = [config / "homeserver.signing.key", *(config / "secrets").iterdir()]
        secrets += [word for file in files for word in file.read_text().split() if len(word) > 20]
    assert len(secrets) == 4 * len(HOSTS)
    for path in (fleet.data / "artifacts").rglob("*"):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        assert [path for secret in secrets if secret in text] == []


def test_jobs_leave_the_project_alone(fleet: Fleet, deployed: Job) -> None:
    shipped = ROOT / "docs" / "awx" / "project"
    left = {path.relative_to(fleet.data / "project") for path in (fleet.data / "project").rglob("*")}
    assert left == {path.relative_to(shipped) for path in shipped.rglob("*")}


def test_a_limit_leaves_the_others_alone(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("deploy.yml", "--limit", "two")
    assert job.rc == 0
    assert set(job.stats["ok"]) == {"two"}
    assert set(job.artifacts["synapse_deployed"]) == {"two"}


def test_status_hands_on_that_all_is_well(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("status.yml")
    assert job.rc == 0, job.output[-6000:]
    assert job.artifacts == {"synapse_unhealthy": []}
    for host in HOSTS:
        assert re.search(rf"{host} +1\.\d+\.\d+ +healthy", job.output)


def test_status_writes_reports_of_what_is_there(fleet: Fleet, deployed: Job) -> None:
    place = fleet.folder / "reports" / "of today"
    job = fleet.run("status.yml", synapse_hosts="synapse:lost", synapse_report_dir=str(place))
    assert job.rc == 2
    # What is written here changes no server.
    assert job.stats["changed"] == {}
    assert sorted(path.name for path in place.iterdir()) == ["report.html", "report.json"]
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o640}
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)
    states = {host["host"]: host["state"] for host in report["hosts"]}
    assert states == {"one": "healthy", "two": "healthy", "gone": "unreachable"}
    handed_on = deployed.artifacts["synapse_deployed"]
    for host in report["hosts"]:
        if host["host"] in HOSTS:
            known = {name: host[name] for name in ("server_name", "version", "release", "key_ids")}
            assert known == {name: handed_on[host["host"]][name] for name in known}
            assert host["database"]["engine"] == "sqlite3"
            assert [one for one in host["findings"] if one["severity"] in {"critical", "error"}] == []
    text = (place / "report.html").read_text(encoding="utf-8")
    assert "2 of 3 servers are healthy" in text
    assert "one.example" in text


def test_status_is_one_task_on_each_host(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("status.yml")
    actions = {one["event_data"]["task_action"] for one in job.events if one["event"] == "runner_on_ok"}
    remote = {name for name in actions if name.startswith("matrix_fleet.") or "setup" in name or "gather" in name}
    assert remote == {"matrix_fleet.synapse.synapse_doctor"}


def test_status_fails_from_the_severity_that_is_asked_for(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("status.yml", synapse_hosts="synapse:lost", synapse_status_fail_on="never")
    assert (job.rc, job.artifacts) == (0, {"synapse_unhealthy": ["gone"]}), job.output[-3000:]


def test_status_hands_on_who_cannot_be_reached(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("status.yml", synapse_hosts="synapse:lost")
    assert (job.rc, job.status) == (2, "failed")
    assert job.artifacts == {"synapse_unhealthy": ["gone"]}


def test_status_calls_a_host_unreachable(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("status.yml", synapse_hosts="lost")
    assert re.search(r"gone +- +UNREACHABLE", job.output)


def test_status_reports_under_a_limit_too(fleet: Fleet, deployed: Job) -> None:
    job = fleet.run("status.yml", "--limit", "gone", synapse_hosts="synapse:lost")
    assert (job.rc, job.artifacts) == (2, {"synapse_unhealthy": ["gone"]})


def test_one_host_with_a_wrong_option_does_not_stop_the_other(fleet: Fleet, deployed: Job) -> None:
    before = {host: fleet.pid(host) for host in HOSTS}
    wrong = "{{ {'enable_registraton': true} if inventory_hostname == 'two' else {'max_upload_size': '7M'} }}"
    job = fleet.run("deploy.yml", synapse_config=wrong)
    assert (job.rc, job.status, job.failed()) == (2, "failed", ["two"])
    assert set(job.artifacts["synapse_deployed"]) == {"one"}
    assert "enable_registration" in job.messages("two")
    assert fleet.pid("two") == before["two"]
    assert fleet.pid("one") != before["one"]
    assert fleet.answers("one")
    assert fleet.answers("two")


def test_status_hands_on_who_is_down(fleet: Fleet, deployed: Job) -> None:
    fleet.stop("two")
    job = fleet.run("status.yml")
    assert (job.rc, job.status) == (2, "failed")
    assert job.artifacts == {"synapse_unhealthy": ["two"]}
    assert re.search(r"two +\S+ +NOT HEALTHY", job.output)
    # The cause alone, and not what only follows from it.
    assert re.search(r"two: NOT HEALTHY, 1 (error|critical)\b", job.output)
    assert "(service.stopped)" in job.output
