# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Synapse for the tests of whole modules, and a way to run a module as Ansible does.

``SYNAPSE_VENV`` names the environment that Synapse is installed in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import typing as t
import urllib.request

import pytest

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SERVER_NAME = "hs.test"
_SHARED_SECRET = "a-registration-shared-secret"
_START = 90.0

_RUN_MODULE = """
import json, runpy, sys
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.load(sys.stdin)):
    runpy.run_module("ansible_collections.matrix_fleet.synapse.plugins.modules." + sys.argv[1], run_name="__main__")
"""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclasses.dataclass
class Homeserver:
    """A Synapse in a folder of its own: SQLite, loopback, one listener for everything."""

    folder: pathlib.Path
    python: pathlib.Path
    port: int
    config: dict[str, t.Any]
    process: subprocess.Popen[bytes] | None = None

    server_name: t.ClassVar[str] = _SERVER_NAME
    shared_secret: t.ClassVar[str] = _SHARED_SECRET

    @property
    def url(self) -> str:
        """The base URL of the listener."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config_path(self) -> pathlib.Path:
        """The configuration file."""
        return self.folder / "homeserver.yaml"

    @property
    def key_path(self) -> pathlib.Path:
        """The signing key."""
        return self.folder / "homeserver.signing.key"

    @property
    def database_path(self) -> pathlib.Path:
        """The SQLite file."""
        return self.folder / "homeserver.db"

    @property
    def log_path(self) -> pathlib.Path:
        """The log file."""
        return self.folder / "homeserver.log"

    @property
    def pid_path(self) -> pathlib.Path:
        """The pid file; the fixture writes it, as the server is not started as a daemon."""
        return self.folder / "homeserver.pid"

    def write(self) -> None:
        """Write the configuration, which is JSON and so YAML."""
        self.config_path.write_text(json.dumps(self.config, indent=2), encoding="utf-8")
        log = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "precise": {"format": "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s"}
            },
            "handlers": {
                "file": {"class": "logging.FileHandler", "formatter": "precise", "filename": str(self.log_path)}
            },
            "root": {"level": "INFO", "handlers": ["file"]},
        }
        (self.folder / "log.yaml").write_text(json.dumps(log), encoding="utf-8")

    def launch(self) -> None:
        """Start the process and do not wait."""
        self.write()
        output = (self.folder / "output.txt").open("ab")
        self.process = subprocess.Popen(
            [str(self.python), "-m", "synapse.app.homeserver", "-c", str(self.config_path)],
            cwd=self.folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        output.close()
        self.pid_path.write_text(f"{self.process.pid}\n", encoding="ascii")

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        self.stop()
        pytest.fail(f"Synapse did not start: {(self.folder / 'output.txt').read_text(encoding='utf-8')[-3000:]}")

    def stop(self) -> None:
        """End the process."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        self.process = None


@pytest.fixture(scope="session")
def synapse_venv() -> pathlib.Path:
    """The environment that Synapse is installed in."""
    path = pathlib.Path(os.environ.get("SYNAPSE_VENV", ""))
    if not (path / "bin" / "python").exists() or not path.is_absolute():
        pytest.fail("SYNAPSE_VENV has to name an environment in which Synapse is installed")
    return path


@pytest.fixture(scope="session")
def make_homeserver(
    synapse_venv: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Homeserver]]:
    """Make homeservers that are configured but not started; each is stopped at the end of the session at the latest."""
    made: list[Homeserver] = []

    def make(**config: t.Any) -> Homeserver:
        folder = tmp_path_factory.mktemp("homeserver")
        (folder / "media").mkdir()
        port = free_port()
        server = Homeserver(folder, synapse_venv / "bin" / "python", port, {})
        server.config = {
            "server_name": _SERVER_NAME,
            "report_stats": False,
            "signing_key_path": str(server.key_path),
            "media_store_path": str(folder / "media"),
            "log_config": str(folder / "log.yaml"),
            "macaroon_secret_key": "a-macaroon-secret",
            "form_secret": "a-form-secret",
            "registration_shared_secret": _SHARED_SECRET,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "bcrypt_rounds": 4,
            "database": {"name": "sqlite3", "args": {"database": str(server.database_path)}},
            "listeners": [
                {
                    "port": port,
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "resources": [{"names": ["client", "federation"]}],
                }
            ],
            **config,
        }
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def _prepared_database(make_homeserver: Callable[..., Homeserver]) -> pathlib.Path:
    """An SQLite file that has its schema, which takes a new server most of its start."""
    server = make_homeserver()
    server.start()
    server.stop()
    return server.database_path


@pytest.fixture
def homeserver(
    make_homeserver: Callable[..., Homeserver], _prepared_database: pathlib.Path
) -> Iterator[Callable[..., Homeserver]]:
    """Make and start homeservers; keyword arguments are options of Synapse. They are stopped when the test ends."""
    started: list[Homeserver] = []

    def make(*, start: bool = True, **config: t.Any) -> Homeserver:
        server = make_homeserver(**config)
        shutil.copyfile(_prepared_database, server.database_path)
        started.append(server)
        if start:
            server.start()
        else:
            server.write()
        return server

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def shared_homeserver(make_homeserver: Callable[..., Homeserver], _prepared_database: pathlib.Path) -> Homeserver:
    """A running homeserver that tests share: whoever uses it leaves it as it is, accounts of their own apart."""
    server = make_homeserver()
    shutil.copyfile(_prepared_database, server.database_path)
    server.start()
    return server


@pytest.fixture
def run_module() -> Callable[..., dict[str, t.Any]]:
    """Run a module of the collection in a process of its own; return its result, with what it wrote in ``_output``."""

    def run(module: str, /, *, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        arguments = {
            **{key: str(value) if isinstance(value, pathlib.Path) else value for key, value in options.items()},
            "_ansible_check_mode": check,
            "_ansible_diff": diff,
        }
        ended = subprocess.run(
            [sys.executable, "-c", _RUN_MODULE, module],
            input=json.dumps(arguments),
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        if not lines:
            pytest.fail(f"{module} returned nothing: {ended.stdout[-2000:]}{ended.stderr[-4000:]}")
        result: dict[str, t.Any] = json.loads(lines[-1])
        result["_output"] = ended.stdout + ended.stderr
        return result

    return run
