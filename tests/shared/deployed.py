"""A deployed homeserver as its tests see it: from the host, from the controller, and as a Matrix client would."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from testinfra.host import Host

__all__ = ["UNIT", "VERSION", "Controller", "ask", "relayed", "started"]

UNIT = "matrix-synapse"
VERSION = "1.163.2"


def ask(host: Host, path: str, port: int = 8008) -> dict[str, t.Any]:
    """GET a path of the homeserver on the host itself."""
    source = (
        f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=10).read().decode())"
    )
    answer = json.loads(host.check_output(f'python3 -c "{source}"'))
    if not isinstance(answer, dict):
        raise TypeError(f"{path} answered {answer!r}")
    return answer


def started(host: Host) -> str:
    """Return the service's main process and when it was started."""
    return str(host.check_output(f"systemctl show {UNIT} -p MainPID,ExecMainStartTimestampMonotonic"))


class Controller:
    """Runs the collection's playbooks against one host of the scenario, as an operator would."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.name: str = host.backend.get_pytest_id().rsplit("://", 1)[-1]
        self._folder = folder

    def command(self, playbook: str, *arguments: str, **variables: t.Any) -> list[str]:
        """Return the command that runs a playbook of the collection with extra variables."""
        extra = self._folder / "extra-vars.json"
        extra.write_text(json.dumps(variables), encoding="utf-8")
        return [
            "ansible-playbook",
            "--inventory",
            os.environ["MOLECULE_INVENTORY_FILE"],
            "--limit",
            f"{self.name},localhost",
            "--extra-vars",
            f"@{extra}",
            *arguments,
            f"matrix_fleet.synapse.{playbook}",
        ]

    def play(self, playbook: str, *arguments: str, **variables: t.Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection with extra variables; return what it printed and how it ended."""
        return subprocess.run(
            self.command(playbook, *arguments, **variables),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # Ansible's own errors go there
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def ailments(self) -> list[str]:
        """Return what the playbook status finds that is more than worth knowing; nothing where all is well."""
        folder = self._folder / "ailments"
        run = self.play("status", synapse_report_dir=str(folder))
        try:
            hosts = json.loads((folder / "report.json").read_text(encoding="utf-8"))["hosts"]
        except (OSError, ValueError, KeyError):
            raise AssertionError(run.stdout) from None
        (host,) = (one for one in hosts if one["host"] == self.name)
        found = [
            f"{one['severity']} {one['id']}: {one['summary']}" for one in host["findings"] if one["severity"] != "info"
        ]
        return found if host["state"] == "healthy" else [f"it is {host['state']}", *found]


# Carries one TCP connection between a pipe and a port inside a container.
_RELAY = """
import os, socket, sys, threading
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def outward():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=outward, daemon=True).start()
while data := peer.recv(65536):
    while data:
        data = data[os.write(1, data):]
"""


def _pump(read: t.Callable[[int], bytes], write: t.Callable[[bytes], object], over: t.Callable[[], object]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := read(65536):
            write(data)
    with contextlib.suppress(OSError, ValueError):
        over()


def _carry(connection: socket.socket, container: str, port: int) -> None:
    """Carry one connection into the container, both ways, until both ends are done."""
    command = ["docker", "exec", "-i", container, "python3", "-c", _RELAY, str(port)]
    with connection, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("docker exec was started without pipes")
        inward = (connection.recv, process.stdin.write, process.stdin.close)
        thread = threading.Thread(target=_pump, args=inward, daemon=True)
        thread.start()
        _pump(process.stdout.read, connection.sendall, lambda: connection.shutdown(socket.SHUT_RDWR))
        thread.join()


@contextlib.contextmanager
def relayed(container: str, port: int) -> Iterator[int]:
    """Open a port on loopback that leads to ``127.0.0.1:port`` inside the container."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _peer = server.accept()
                    threading.Thread(target=_carry, args=(connection, container, port), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
