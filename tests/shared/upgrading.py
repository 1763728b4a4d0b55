"""A server that goes from release to release, as its operator and its users see it."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from pathlib import Path

from deployed import VERSION, ask, started
from past import Past

if t.TYPE_CHECKING:
    import subprocess

    from deployed import Controller
    from testinfra.host import Host

__all__ = ["CLOSE", "HOSTS", "NEW", "OLD", "Server"]

HOSTS = ("upgrade-bookworm", "upgrade-trixie")

# What the hosts came with, what is one minor version before the default, and the default.
OLD, CLOSE, NEW = "1.150.0", "1.162.0", VERSION


class Server:
    """One of the scenario's hosts with the past of its users, who reach it at ``url``."""

    def __init__(self, host: Host, controller: Controller, url: str) -> None:
        self.host, self.controller, self.url = host, controller, url
        self.folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
        self._past = self.folder / f"{controller.name}.past.json"

    def settings(self, version: str) -> dict[str, t.Any]:
        """Return the variables that ask for a version."""
        if version == NEW:
            return {}
        return {"synapse_version": version, "synapse_lock_file": str(self.folder / f"{version}.lock")}

    def upgrade(self, version: str, *arguments: str, **variables: t.Any) -> subprocess.CompletedProcess[str]:
        """Run the playbook that upgrades, to any of the versions."""
        return self.controller.play("upgrade", *arguments, **{**self.settings(version), **variables})

    def bring(self, version: str) -> None:
        """See to it that a version serves, whatever a test before has left."""
        if self.version() != version:
            run = self.upgrade(version)
            if run.returncode != 0:
                raise AssertionError(run.stdout)
            self.check(version)

    def version(self) -> str:
        """Return the version that answers."""
        answer = ask(self.host, "/_matrix/federation/v1/version")
        return str(answer["server"]["version"])

    def wait(self, seconds: float = 60) -> str:
        """Wait until something answers; return its version."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(AssertionError, ValueError):
                return self.version()
            time.sleep(0.3)
        raise AssertionError(f"nothing answers for {seconds:.0f} s")

    def release(self) -> str:
        """Return the folder that the link to the live release leads to."""
        return str(self.host.check_output("readlink -f /var/lib/synapse/venv"))

    def process(self) -> str:
        """Return what tells one start of the service from another."""
        return started(self.host)

    def say(self, body: str) -> None:
        """Let a user say something, and remember it once the server has acknowledged it."""
        past = Past.read(self._past)
        past.say(self.url, body)
        past.write(self._past)

    def check(self, version: str) -> None:
        """Check that a version serves, and that nothing of what was ever said or sent is lost."""
        found = self.version()
        if found != version:
            raise AssertionError(f"{found} serves, not {version}")
        Past.read(self._past).check(self.url)

    def snapshot(self) -> dict[str, str]:
        """Return what a refused run must leave as it is."""
        files = "/etc/synapse/* /etc/systemd/system/matrix-synapse.service"
        look = f"sha256sum {files} 2>/dev/null; readlink -f /var/lib/synapse/venv"
        return {"files": self.host.run(look).stdout, "process": self.process()}
