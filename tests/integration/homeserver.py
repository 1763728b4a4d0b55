# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Synapse on this machine.

``SYNAPSE_VENV`` names the environment that it is installed in, ``SYNAPSE_OLD_VENV`` one with an old release.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import socket
import subprocess
import time
import typing as t
import urllib.request

import pytest

if t.TYPE_CHECKING:
    from collections.abc import Iterator

_SHARED_SECRET = "a-registration-shared-secret"
_START = 90.0
# Other runs on this machine begin elsewhere.
_NUMBERS = itertools.count(os.getpid() * 2, 2)


def synapse_python(variable: str = "SYNAPSE_VENV") -> pathlib.Path:
    """Return the interpreter of Synapse's environment. Without one the tests fail: they are never skipped."""
    python = pathlib.Path(os.environ.get(variable, "")) / "bin" / "python"
    if not python.is_absolute() or not python.exists():
        pytest.fail(f"{variable} has to name an environment in which Synapse is installed")
    return python


def old_synapse_python() -> pathlib.Path:
    """Return the interpreter of an environment with an old release of Synapse, 1.150.0."""
    return synapse_python("SYNAPSE_OLD_VENV")


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody holds.

    It is bound a moment later, so each worker has ports of its own, below those that the system gives away, and takes
    one after the other. The port after each is free for the test too.
    """
    first = 20000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12 * 1000
    for _attempt in range(500):
        port = first + next(_NUMBERS) % 1000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail(f"no port from {first} to {first + 999} is free")


def ask(url: str, body: object = None, token: str | None = None) -> dict[str, t.Any]:
    """Return the JSON object that a server answers; with a ``body``, it is sent."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return t.cast("dict[str, t.Any]", json.load(answer))


@dataclasses.dataclass
class Homeserver:
    """A Synapse in a folder of its own: SQLite, loopback, one listener for everything."""

    folder: pathlib.Path
    python: pathlib.Path
    port: int
    config: dict[str, t.Any]
    process: subprocess.Popen[bytes] | None = None

    shared_secret: t.ClassVar[str] = _SHARED_SECRET

    @classmethod
    def configured(cls, folder: pathlib.Path, **config: t.Any) -> Homeserver:
        """A server whose configuration is not written yet; keyword arguments are options of Synapse."""
        server = cls(folder, synapse_python(), free_port(), {})
        (folder / "media").mkdir(exist_ok=True)
        server.config = {
            "server_name": "hs.test",
            "report_stats": False,
            "signing_key_path": str(folder / "homeserver.signing.key"),
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
                    "port": server.port,
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "resources": [{"names": ["client", "federation"]}],
                }
            ],
            **config,
        }
        return server

    @property
    def server_name(self) -> str:
        """The name that its users carry."""
        return str(self.config["server_name"])

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
        return pathlib.Path(self.config["signing_key_path"])

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

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and stop it at the end."""
        self.start()
        try:
            yield
        finally:
            self.stop()
