# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_daemon`` with a real Synapse; its environment is named by ``SYNAPSE_VENV``."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
import typing as t
import urllib.request
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import free_port, synapse_python
from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import run

CONFIG = """
server_name: daemon.test
pid_file: {root}/synapse.pid
listeners:
  - {{port: {port}, bind_addresses: [127.0.0.1], type: http, resources: [{{names: [client]}}]}}
database: {{name: sqlite3, args: {{database: {root}/homeserver.db}}}}
media_store_path: {root}/media
log_config: {root}/log.yaml
signing_key_path: {root}/signing.key
macaroon_secret_key: for-this-test
report_stats: false
trusted_key_servers: []
"""
LOG = """
version: 1
disable_existing_loggers: false
formatters: {{precise: {{format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s'}}}}
handlers: {{file: {{class: logging.FileHandler, formatter: precise, filename: {root}/homeserver.log}}}}
root: {{level: INFO, handlers: [file]}}
"""


class Server:
    """A small homeserver in a folder of its own."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.port, self.python = root, free_port(), python
        self.pid_file, self.log = root / "synapse.pid", root / "homeserver.log"
        self.config = root / "homeserver.yaml"
        self.configure()
        (root / "log.yaml").write_text(LOG.format(root=root))
        subprocess.run([python, "-m", "synapse._scripts.generate_signing_key", "-o", root / "signing.key"], check=True)

    def configure(self, extra: str = "", **values: t.Any) -> None:
        self.config.write_text(CONFIG.format(**{"root": self.root, "port": self.port, **values}) + extra)

    def __call__(self, state: str, **more: t.Any) -> dict[str, t.Any]:
        arguments = {
            "state": state,
            "python": self.python,
            "config_paths": [str(self.config)],
            "pid_file": str(self.pid_file),
            "log_file": str(self.log),
            "working_directory": str(self.root),
            "requires": [str(self.root / "signing.key")],
            "timeout": 60,
            **more,
        }
        return run("synapse_daemon", arguments, self.root / "answer.json")

    def versions(self) -> dict[str, t.Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_matrix/client/versions", timeout=10) as answer:
            return dict(json.load(answer))


@pytest.fixture
def server(tmp_path: Path) -> t.Iterator[Server]:
    made = Server(tmp_path, str(synapse_python()))
    yield made
    made.configure()
    made("stopped", force=True, timeout=20)


def test_a_daemon_is_started_found_restarted_and_stopped(server: Server) -> None:
    predicted = server("started", _ansible_check_mode=True)
    assert (predicted["changed"], predicted["pid"], predicted["state"]) == (True, None, "started")
    assert not server.pid_file.exists()

    began = time.monotonic()
    first = server("started")
    assert (first["changed"], first["state"], first["listening"]) == (True, "started", True), first
    assert time.monotonic() - began < 60
    assert server.versions()["versions"]
    assert int(server.pid_file.read_text()) == first["pid"]
    assert stat.S_IMODE((server.root / "homeserver.db").stat().st_mode) & 0o007 == 0
    streams = {os.readlink(f"/proc/{first['pid']}/fd/{number}") for number in (0, 1, 2)}
    assert streams == {"/dev/null"}, "the daemon would hold Ansible's connection open"

    again = server("started")
    assert (again["changed"], again["pid"]) == (False, first["pid"])

    # The pid file is lost: the process is found all the same, and not started twice.
    server.pid_file.unlink()
    assert server("started")["pid"] == first["pid"]
    # It names a process that is not Synapse: that one is neither believed nor harmed.
    server.pid_file.write_text(str(os.getpid()))
    assert server("started")["pid"] == first["pid"]

    second = server("restarted")
    assert second["changed"] is True
    assert second["pid"] != first["pid"]
    assert server.versions()["versions"]

    assert server("stopped", _ansible_check_mode=True)["changed"] is True
    done = server("stopped")
    assert (done["changed"], done["state"], done["pid"]) == (True, "stopped", None)
    assert not server.pid_file.exists()
    assert server("stopped")["changed"] is False


def test_a_killed_daemon_is_noticed_and_its_pid_file_removed(server: Server) -> None:
    first = server("started")
    os.kill(first["pid"], signal.SIGKILL)
    while Path(f"/proc/{first['pid']}").exists() and "Z" not in Path(f"/proc/{first['pid']}/stat").read_text():
        time.sleep(0.02)
    assert server.pid_file.exists()
    assert server("stopped", _ansible_check_mode=True)["changed"] is True
    assert server.pid_file.exists()
    assert server("stopped")["changed"] is True
    assert not server.pid_file.exists()


def test_a_stopped_process_that_does_not_obey_is_killed_only_by_force(server: Server) -> None:
    first = server("started")
    os.kill(first["pid"], signal.SIGSTOP)
    answer = server("stopped", timeout=1)
    assert answer["failed"] is True
    assert "did not stop within 1 s of SIGTERM" in answer["msg"]
    assert Path(f"/proc/{first['pid']}").exists()
    assert server("stopped", timeout=1, force=True)["changed"] is True
    assert not server.pid_file.exists()


def test_a_refused_configuration_is_reported_in_synapses_words(server: Server) -> None:
    server.configure("\nmax_upload_size: lots\n")
    answer = server("started")
    assert answer["failed"] is True
    assert "Synapse did not start (rc=1)" in answer["msg"]
    assert "lots" in answer["reason"]
    assert not server.pid_file.exists()


def test_a_taken_port_is_reported_although_synapse_had_become_a_daemon(server: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        answer = server("started")
    assert answer["failed"] is True, answer
    assert "ended right after its start" in answer["msg"]
    assert "Address already in use" in answer["reason"]


def test_another_pid_file_than_the_configured_is_noticed(server: Server) -> None:
    answer = server("started", pid_file=str(server.root / "other.pid"))
    assert answer["failed"] is True
    assert "must name that file as its 'pid_file'" in answer["msg"]
    assert server("stopped")["changed"] is False, "what was started by mistake still runs"


def test_without_what_it_requires_it_is_not_started(server: Server) -> None:
    (server.root / "signing.key").unlink()
    answer = server("started")
    assert "signing.key is missing: Synapse was not started" in answer["msg"]
    assert not (server.root / "signing.key").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as somebody else")
def test_it_runs_as_its_own_user_with_nothing_of_roots(server: Server) -> None:
    interpreter = Path(server.python).resolve()
    if any(not folder.stat().st_mode & 0o001 for folder in interpreter.parents):
        pytest.skip(f"{interpreter} lies where only its owner may go")
    for folder in [server.root, *list(server.root.parents)[:2]]:
        folder.chmod(0o755)
    for path in [server.root, *server.root.iterdir()]:
        os.chown(path, 1, 1)
    os.chown(server.config, 0, 1)
    server.config.chmod(0o640)
    first = server("started", user="daemon")
    assert first.get("listening") is True, first
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{first['pid']}/status").read_text().splitlines())
    assert facts["Uid"].split() == facts["Gid"].split() == ["1"] * 4
    assert "0" not in facts["Groups"].split()
    variables = Path(f"/proc/{first['pid']}/environ").read_bytes().split(b"\0")
    assert b"LOGNAME=daemon" in variables
    assert b"HOME=/root" not in variables
    assert (server.root / "homeserver.db").stat().st_uid == 1


def test_a_server_in_the_foreground_is_left_alone(server: Server) -> None:
    command = [server.python, "-m", "synapse.app.homeserver", "-c", str(server.config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as foreground:
        try:
            for state in ("started", "stopped"):
                answer = server(state)
                assert answer["failed"] is True
                assert f"already, as process {foreground.pid}, and not as a daemon" in answer["msg"]
            assert foreground.poll() is None
        finally:
            foreground.kill()
