# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: what the running server answers on its own listeners, and who else listens there."""

from __future__ import annotations

import os
import socket
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import (
    _health,
    _health_observe,
    _listeners,
    _logs,
    _processes,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers import Answers, Holder

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings

__all__ = ["holders_of", "listeners_of", "look"]

_PATIENCE = 8.0  # seconds for an answer


def _port(value: t.Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536 else None


def _names(resource: t.Any) -> list[str]:
    names = resource.get("names") if isinstance(resource, dict) else None
    names = [names] if isinstance(names, str) else names
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _addresses(listener: Mapping[str, t.Any]) -> list[str]:
    given = listener.get("bind_addresses")
    given = [given] if isinstance(given, str) else given
    found = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    single = listener.get("bind_address")
    return found or ([single] if isinstance(single, str) and single else [])


def listeners_of(settings: Settings) -> list[dict[str, t.Any]]:
    """Return the listeners of the configuration as Synapse would read them; what is garbage is left out."""
    found: list[dict[str, t.Any]] = []
    for listener in settings.mappings("listeners"):
        path, port = listener.get("path"), _port(listener.get("port"))
        if (not isinstance(path, str) or not path.startswith("/")) and port is None:
            continue
        resources = listener.get("resources")
        clean: dict[str, t.Any] = {
            "type": listener.get("type"),
            "tls": listener.get("tls") is True,
            "resources": [{"names": _names(one)} for one in resources] if isinstance(resources, list) else [],
            "bind_addresses": _addresses(listener),
        }
        clean.update({"path": path} if isinstance(path, str) and path.startswith("/") else {"port": port})
        found.append(clean)
    return found


def _urls(settings: Settings) -> list[dict[str, t.Any]]:
    """Return what to ask: each HTTP listener, and those that serve metrics alone."""
    listeners = listeners_of(settings)
    metrics = bool(settings.get("enable_metrics"))
    urls = [
        {**item, "resources": [one for one in item["resources"] if metrics or one != "metrics"]}
        for item in _listeners.base_urls(listeners)
    ]
    if metrics:
        alone = [
            {**one, "type": "http", "tls": False} for one in listeners if one["type"] == "metrics" and "port" in one
        ]
        urls += [{"url": item["url"], "resources": ["metrics"]} for item in _listeners.base_urls(alone)]
    return urls


def _address(text: str) -> tuple[str, int]:
    """Read an address of /proc/net/tcp: hexadecimal words of the host's byte order."""
    host, _colon, port = text.partition(":")
    raw = b"".join(bytes.fromhex(host[index : index + 8])[::-1] for index in range(0, len(host), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


def _listening() -> Iterator[tuple[str, int, str]]:
    """Return address, port and inode of each listening TCP socket of the host."""
    for table in ("tcp", "tcp6"):
        for line in _processes.text(f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            try:
                if fields[3] == "0A":
                    address, port = _address(fields[1])
                    yield address, port, fields[9]
            except (IndexError, ValueError, OSError):
                continue


def _overlap(bound: str, wanted: Sequence[str]) -> bool:
    everything = {"0.0.0.0", "::", ""}  # noqa: S104 - compared, not bound
    return bound in everything or not wanted or bool({bound, *everything} & set(wanted))


def _owners(inodes: set[str]) -> dict[str, tuple[int, str]]:
    """Return process and command by the inodes of their sockets, as far as this process may see them."""
    found: dict[str, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal() or len(found) == len(inodes):
            continue
        for inode in _processes.sockets(name) & inodes:
            command = _processes.text(f"/proc/{name}/cmdline").replace("\0", " ").strip()
            found.setdefault(
                inode, (int(name), _logs.redact(command)[:120] or _processes.text(f"/proc/{name}/comm").strip())
            )
    return found


def holders_of(listeners: Sequence[Mapping[str, t.Any]], ours: t.Callable[[int], bool]) -> tuple[Holder, ...]:
    """Return who listens on the ports of these listeners."""
    wanted = {one["port"]: one["bind_addresses"] for one in listeners if one.get("port")}
    sockets = [(a, p, i) for a, p, i in _listening() if p in wanted and _overlap(a, wanted[p])]
    owners = _owners({inode for _address, _port, inode in sockets}) if sockets else {}
    found = []
    for address, port, inode in sockets:
        pid, command = owners.get(inode, (None, ""))
        found.append(Holder(port, address, pid, command, pid is not None and ours(pid)))
    return tuple(found)


def _belongs(context: Context) -> t.Callable[[int], bool]:
    """Return whether a process is this homeserver: the unit's own, or one of those that serve the configuration."""
    service = context.service
    pids = {one.pid for one in service.running} if service is not None else set()
    units = set()
    if service is not None and service.seen is not None and service.seen.state.pid:
        pids.add(service.seen.state.pid)
        units.add(service.seen.name)
    if service is not None:
        units |= {worker.name for worker in service.workers}

    def ours(pid: int) -> bool:
        group = _processes.text(f"/proc/{pid}/cgroup")
        return pid in pids or any(f"/{unit}" in group for unit in units)

    return ours


def _process(context: Context) -> _health.Check | None:
    """Judge unit or pid file as synapse_health does."""
    service = context.service
    if service is None:
        return None
    if service.seen is not None and service.seen.found:
        state = service.seen.state
        return _health.judge_unit(state, restarts_before=state.restarts, now=time.monotonic())
    if service.daemon is not None:
        return _health.judge_process(service.daemon)
    return None


def look(context: Context) -> Answers:
    """Ask every listener of the main process at once."""
    settings = context.settings
    process = _process(context)
    checks = [] if process is None else [process]
    installed = _health_observe.installed_version(context.request.python)
    if settings is None or not settings.config:
        return Answers(False, tuple(check.result() for check in checks), installed=installed)
    wanted = _health_observe.Wanted(
        listeners=_health.listeners(_urls(settings), ()),
        server_name=settings.server_name,
        version=installed,
        verify_tls=False,
        timeout=context.left(_PATIENCE),
    )
    outcome = _health_observe.prove(context.run, wanted)
    checks += outcome.checks
    return Answers(
        healthy=bool(outcome.checks) and all(check.ok for check in checks),
        checks=tuple(check.result() for check in checks),
        published=dict(outcome.verify_keys),
        version=outcome.version,
        installed=installed,
        holders=holders_of(listeners_of(settings), _belongs(context)),
    )
