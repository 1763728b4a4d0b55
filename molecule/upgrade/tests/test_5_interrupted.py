"""Killed at any instant, an upgrade leaves a server that serves, and the next one comes to its end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
import typing as t

import pytest
from upgrading import CLOSE, HOSTS, NEW

if t.TYPE_CHECKING:
    from testinfra.host import Host
    from upgrading import Server

# The hosts share them.
KILLS = int(os.environ.get("MATRIX_FLEET_UPGRADE_KILLS", "8"))

# Ends the module that is running on the host and all that it started, as soon as there is one. What Ansible starts has
# no parent in the container, and is waited for by a shell.
KILL_MODULE = r"""
import os, signal, time
def processes():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline", "rb") as line:
                yield int(name), int(stat.read().rsplit(")", 1)[1].split()[1]), line.read()
        except OSError:
            pass
until = time.monotonic() + 5
while time.monotonic() < until:
    found = list(processes())
    doomed = {pid for pid, parent, line in found if parent == 0 and pid != 1 and b"&& sleep 0" in line}
    while more := {pid for pid, parent, _ in found if parent in doomed} - doomed:
        doomed |= more
    if doomed:
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        print(len(doomed))
        break
    time.sleep(0.01)
"""


class Upgrade:
    """A run of the playbook that can be killed."""

    def __init__(self, server: Server, version: str) -> None:
        self.server, self.version = server, version
        self.output = server.folder / f"{server.controller.name}.killed.log"
        command = server.controller.command("upgrade", **server.settings(version))
        with self.output.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def finish(self) -> int:
        return self.process.wait(300)

    def kill_on_the_controller(self) -> bool:
        """Kill Ansible with all that it has started here; what it has started on the host goes on."""
        going = self.process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)
        return going

    def kill_on_the_host(self) -> bool:
        """Kill the module that is at work on the host; Ansible learns that it has failed."""
        command = ["docker", "exec", "-i", self.server.controller.name, "python3", "-"]
        killed = subprocess.run(command, input=KILL_MODULE, check=True, capture_output=True, text=True).stdout
        self.finish()
        return killed != ""


@pytest.fixture(scope="module")
def pace() -> dict[str, float]:
    """How long a run takes, by host."""
    return {}


@pytest.fixture
def ready(server: Server, pace: dict[str, float]) -> Server:
    """Return the server with both releases built; the time of a run between them is known then."""
    name = server.controller.name
    if name not in pace:
        server.bring(CLOSE)
        began = time.monotonic()
        server.bring(NEW)
        pace[name] = time.monotonic() - began
    return server


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.only(HOSTS[n % 2])) for n in range(KILLS)])
def test_killed_at_a_random_instant(host: Host, ready: Server, pace: dict[str, float], number: int) -> None:
    here = ready.wait()
    there = NEW if here == CLOSE else CLOSE
    chance = random.Random(number)
    ready.say(f"said before the kill {number}")
    run = Upgrade(ready, there)
    time.sleep(chance.uniform(0, pace[ready.controller.name]))
    killed = run.kill_on_the_controller() if chance.random() < 0.5 else run.kill_on_the_host()
    found = ready.wait()
    assert found in (here, there), found
    ready.say(f"said after the kill {number}")
    again = ready.upgrade(there)
    assert again.returncode == 0, again.stdout
    ready.check(there)
    assert not host.file("/etc/synapse/.transaction/current/journal.json").exists
    print(f"kill {number}: {killed}, {found} served, {there} serves")
