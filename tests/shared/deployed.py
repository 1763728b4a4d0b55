"""A deployed homeserver as its tests see it: from the host, from the controller, and as a Matrix client would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
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

    def play(self, playbook: str, *arguments: str, **variables: t.Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection with extra variables; return what it printed and how it ended."""
        extra = self._folder / "extra-vars.json"
        extra.write_text(json.dumps(variables), encoding="utf-8")
        return subprocess.run(
            [
                "ansible-playbook",
                "--inventory",
                os.environ["MOLECULE_INVENTORY_FILE"],
                "--limit",
                f"{self.name},localhost",
                "--extra-vars",
                f"@{extra}",
                *arguments,
                f"matrix_fleet.synapse.{playbook}",
            ],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )


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


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(ConnectionError, OSError):
        sink.close()


@contextlib.contextmanager
def relayed(container: str, port: int) -> Iterator[int]:
    """Open a port on loopback that leads to ``127.0.0.1:port`` inside the container."""
    ready = threading.Event()
    over = asyncio.Event()
    local: list[int] = []
    loop = asyncio.new_event_loop()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = await asyncio.create_subprocess_exec(
            "docker", "exec", "-i", container, "python3", "-c", _RELAY, str(port), stdin=-1, stdout=-1
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("docker exec was started without pipes")
        await asyncio.gather(_carry(reader, process.stdin), _carry(process.stdout, writer))
        await process.wait()

    async def serve() -> None:
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        local.append(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("no port was opened")
    try:
        yield local[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
