# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL in a folder of its own, for a test and gone after it; ``integration.sh`` provides the programs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import free_port

if t.TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = f"a-database-password-{os.getpid()}"
"""The password of the role ``synapse``, asked for over TCP alone. Each worker has another: a test looks for it in every
process."""

_START = 60.0
# The socket trusts whoever reaches it, TCP asks for a password: both kinds of deployments can be tested.
_ACCESS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def programs() -> pathlib.Path:
    """Return the folder of the newest PostgreSQL's programs. Without one the tests fail: they are never skipped."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.fail("there is no PostgreSQL server on this machine. As root on Debian: apt-get install postgresql")
    return pathlib.Path(initdb).resolve().parent


def _account() -> dict[str, t.Any]:
    """Return as whom the server runs: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.fail("there is neither a user postgres nor a user nobody to run a PostgreSQL server as")


@dataclasses.dataclass
class Cluster:
    """A PostgreSQL server with the role ``synapse`` and its database ``synapse``: UTF8, collation C.

    ``folder`` has the Unix socket and can be entered by everybody.
    """

    folder: pathlib.Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, t.Any]:
        """How to reach the database through the socket, as libpq and the modules' option ``postgresql`` take it."""
        return {"host": str(self.folder), "port": self.port, "user": "synapse", "dbname": "synapse"}

    @property
    def settings_with_password(self) -> dict[str, t.Any]:
        """How to reach the database over TCP."""
        return {**self.settings, "host": "127.0.0.1", "password": PASSWORD}

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def psql(self, statement: str, *, dbname: str = "synapse", user: str = "postgres") -> str:
        """Run SQL as the superuser, unless told otherwise; return its output without decoration."""
        command = [programs() / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.folder]
        command += ["-p", str(self.port), "-U", user, "-d", dbname, "-c", statement]
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", cwd="/", check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def create_database(self, name: str, *, locale: str = "C", encoding: str = "UTF8") -> dict[str, t.Any]:
        """Make another database that belongs to ``synapse``; return how to reach it through the socket."""
        self.psql(
            f"CREATE DATABASE {name} OWNER synapse TEMPLATE template0 ENCODING '{encoding}' LOCALE '{locale}'",
            dbname="postgres",
        )
        return {**self.settings, "dbname": name}

    def make(self) -> None:
        """Make the files of the cluster."""
        command = [programs() / "initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "-N"]
        command += ["-E", "UTF8", "--locale=C"]
        ended = subprocess.run(command, capture_output=True, cwd=self.folder, check=False, **_account())
        assert ended.returncode == 0, ended.stderr.decode()
        (self.folder / "data" / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [programs() / "postgres", "-D", self.folder / "data", "-k", self.folder, "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_permissions=0777", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_account()
            )
        ready = [programs() / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port), "-U", "postgres"]
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline and self.process.poll() is None:
            if subprocess.run(ready, cwd="/", check=False).returncode == 0:
                return
            time.sleep(0.05)
        self.stop()
        pytest.fail(f"PostgreSQL did not start: {self.log[-3000:]}")

    def stop(self) -> None:
        """Stop the server; its files stay."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)  # ends sessions that are open
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
        self.process = None


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Give a server that runs; it is stopped and removed at the end."""
    # Not below pytest's folder: nobody else can enter that, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        account = _account()
        if account:
            os.chown(folder, account["user"], account["group"])
        made = Cluster(folder, free_port())
        made.make()
        try:
            made.start()
            made.psql(f"CREATE ROLE synapse LOGIN PASSWORD '{PASSWORD}'", dbname="postgres")
            made.create_database("synapse")
            yield made
        finally:
            made.stop()
