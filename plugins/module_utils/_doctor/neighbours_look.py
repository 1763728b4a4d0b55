# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at the services beside the homeserver. Secrets are compared by keyed digests, in memory."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import hmac
import inspect
import os
import re
import secrets
import socket
import sys
import typing as t
from urllib.parse import urlsplit

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _logs
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import nginx as config
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.neighbours import (
    Listener,
    Neighbour,
    Neighbours,
    Nginx,
    Redis,
    Turn,
    TurnServer,
    parse_turnserver,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import neighbours as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, ask_python

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]

_WAIT = 3  # seconds for Redis, and for each port
_LARGEST = 1024 * 1024  # bytes of one file of a neighbour
_FILES = 200
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TURNSERVER = ("/etc/turnserver.conf", "/etc/coturn/turnserver.conf", "/etc/turnserver/turnserver.conf")
_REDIS_UNITS = ("redis-server.service", "redis.service", "valkey-server.service", "valkey.service")
_TURN_UNITS = ("coturn.service", "turnserver.service")
# Other proxies, and where they say what they pass on.
_PROXIES = {
    "apache2.service": "/etc/apache2/sites-enabled/*",
    "httpd.service": "/etc/httpd/conf.d/*.conf",
    "caddy.service": "/etc/caddy/Caddyfile",
    "haproxy.service": "/etc/haproxy/haproxy.cfg",
}
_SIZES = {"K": 1024, "M": 1024**2, "G": 1024**3}
_PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,Result"
_REASON = re.compile(r"(?i)\b(emerg|alert|crit|error|fatal|failed|cannot|could not|denied|invalid|refused)")


def _text(path: str) -> str | None:
    try:
        data = _files.read(path, limit=_LARGEST)
    except SynapseError:
        return None
    return None if data is None else data.decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------------- settings


def _upload(value: t.Any) -> int:
    """Return max_upload_size in bytes (synapse/config/_base.py, parse_size: 50M is the default of repository.py)."""
    match = re.fullmatch(r"(\d+)([KMG]?)", str(value)) if value is not None else None
    return int(match[1]) * _SIZES.get(match[2], 1) if match else 50 * 1024**2


def _listeners(settings: Settings) -> Iterator[Listener]:
    for one in settings.mappings("listeners"):
        if one.get("type") != "http":
            continue
        resources = one.get("resources")
        names: list[str] = []
        for resource in resources if isinstance(resources, list) else ():
            given = resource.get("names") if isinstance(resource, dict) else None
            names += [str(name) for name in given] if isinstance(given, list) else [str(given)] * bool(given)
        port, path = one.get("port"), one.get("path")
        addresses = one.get("bind_addresses") or [one.get("bind_address") or "::"]
        addresses = addresses if isinstance(addresses, list) else [addresses]
        yield Listener(
            port if isinstance(port, int) and not isinstance(port, bool) else None,
            path if isinstance(path, str) else None,
            tuple(names),
            one.get("x_forwarded") is True,
            one.get("tls") is True,
            all(address in _LOOPBACK for address in addresses),
        )


def _names(settings: Settings) -> tuple[str, ...]:
    public = settings.text("public_baseurl")
    with contextlib.suppress(ValueError):
        host = urlsplit(public).hostname if public is not None else None
        return tuple(dict.fromkeys(name for name in (settings.server_name, host) if name))
    return ()


# ---------------------------------------------------------------------------------------------------------------- units


def _clusters(settings: Settings) -> list[str]:
    """Return the units of the PostgreSQL that the settings name, where it is on this host."""
    args = settings.get("database", "args")
    args = args if isinstance(args, dict) else {}
    host = str(args.get("host") or "")
    if settings.engine != "psycopg2" or not (not host or host.startswith("/") or host in _LOOPBACK):
        return []
    port = str(args.get("port") or "5432")
    found = []
    # Debian's clusters are units of their own; postgresql.service only stands for all of them.
    for path in sorted(glob.glob("/etc/postgresql/*/*/postgresql.conf")):
        match = re.search(r"^\s*port\s*=\s*'?(\d+)", _text(path) or "", re.MULTILINE)
        if (match[1] if match else "5432") == port:
            version, name = path.split("/")[3:5]
            found.append(f"postgresql@{version}-{name}.service")
    if found or glob.glob("/etc/postgresql/*/*/postgresql.conf"):
        return found
    return ["postgresql.service", *(f"postgresql-{version}.service" for version in range(13, 20))]


def _candidates(settings: Settings, nginx: Nginx | None, listeners: Iterable[Listener]) -> Iterator[tuple[str, str]]:
    """Return the units that may belong to this installation, by their kind."""
    for unit in _clusters(settings):
        yield "postgresql", unit
    redis = settings.get("redis")
    redis = redis if isinstance(redis, dict) and redis.get("enabled") else {}
    if redis and (redis.get("path") or str(redis.get("host") or "localhost") in _LOOPBACK):
        for unit in _REDIS_UNITS:
            yield "redis", unit
    if settings.get("turn_uris"):
        for unit in _TURN_UNITS:
            yield "turn", unit
    if nginx is not None and _concerns(nginx, listeners, _names(settings)):
        yield "proxy", "nginx.service"
    ports = [re.compile(rf":{one.port}\b") for one in listeners if one.port is not None]
    for unit, pattern in _PROXIES.items():
        texts = [_text(path) or "" for path in sorted(glob.glob(pattern))[:_FILES]]
        if any(port.search(text) for port in ports for text in texts):
            yield "proxy", unit


def _concerns(nginx: Nginx, listeners: Iterable[Listener], names: Iterable[str]) -> bool:
    """Whether nginx passes anything on to this server, or answers to its name."""
    ports = {f":{one.port}" for one in listeners if one.port is not None}
    paths = {one.path for one in listeners if one.path is not None}
    if nginx.problem is not None:
        return True
    for site in nginx.sites:
        if set(site.names) & set(names):
            return True
        route = site.route("/_matrix/client/versions")
        addresses = site.addresses(route.target) if route.target is not None else ()
        if any(address.endswith(port) for address in addresses for port in ports) or set(addresses) & {
            f"unix:{path}" for path in paths
        }:
            return True
    return False


def _said(context: Context, unit: str) -> str:
    """Return the last line of a unit's log that sounds like a reason."""
    words = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "40", *_logs.of_unit(unit)]
    lines = context.run(words, timeout=context.left(4.0)).stdout.splitlines()
    told = [line.strip() for line in lines if _REASON.search(line) and not line.startswith((unit, "Failed to start"))]
    return _logs.redact(told[-1])[:300] if told else ""


def _units(context: Context, candidates: list[tuple[str, str]]) -> tuple[Neighbour, ...]:
    """Ask systemd about units; those that it does not know are none."""
    if not candidates:
        return ()
    kinds = {unit: kind for kind, unit in candidates}
    shown = context.run(
        ["systemctl", "show", "--no-pager", "-p", _PROPERTIES, "--", *kinds], timeout=context.left(15.0)
    ).stdout
    found, seen = [], set()
    for (asked, kind), block in zip(kinds.items(), re.split(r"\n\s*\n", shown.strip())):
        told = dict(line.partition("=")[::2] for line in block.splitlines())
        name = told.get("Id") or asked
        if told.get("LoadState") in (None, "", "not-found") or name in seen:
            continue
        seen.add(name)
        unit = Neighbour(
            kind,
            name,
            told.get("ActiveState", ""),
            told.get("SubState", ""),
            told.get("Result", ""),
            told.get("UnitFileState", ""),
            told.get("LoadState", ""),
        )
        if unit.active == "failed":
            unit = Neighbour(**{**unit.__dict__, "said": _said(context, name)})
        if kind in ("turn", "proxy") and unit.stopped and unit.file == "disabled" and unit.active != "failed":
            continue  # installed, and not meant to run
        found.append(unit)
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------------- nginx


def _include(pattern: str) -> list[tuple[str, str]]:
    path = pattern if pattern.startswith("/") else os.path.join("/etc/nginx", pattern)
    found = []
    for name in sorted(glob.glob(path))[:_FILES] if glob.has_magic(path) else [path]:
        text = _text(name)
        if text is not None:
            found.append((name, text))
    return found


def _nginx(listeners: list[Listener]) -> Nginx | None:
    path = "/etc/nginx/nginx.conf"
    text = _text(path)
    if text is None:
        return None
    try:
        sites = config.sites_of(config.parse(text, path, _include))
    except (config.NginxError, RecursionError) as error:
        told = f"{error.path} line {error.line}: {error.reason}" if isinstance(error, config.NginxError) else path
        return Nginx(path, problem=told)
    missing = [
        f"{one.path} line {one.line}: {one.args[0]}"
        for site in sites
        for one in site.certificates
        if one.args[0].startswith("/") and "$" not in one.args[0] and not _exists(one.args[0])
    ]
    known = {str(one.port) for one in listeners}
    targets = {
        address
        for site in sites
        for path in ("/_matrix/client/versions", "/_matrix/federation/v1/version")
        for address in site.addresses(site.route(path).target or "")
    }
    refused = [one for one in sorted(targets) if one.rpartition(":")[2] not in known and _refused(one)]
    return Nginx(path, sites, None, tuple(dict.fromkeys(missing)), tuple(refused))


def _exists(path: str) -> bool:
    """Whether a file is there, or may be where only others may look."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _refused(address: str) -> bool:
    """Whether nothing listens at an address of this host."""
    if address.startswith("unix:"):
        return not os.path.exists(address[5:])
    host, _colon, port = address.rpartition(":")
    if host.strip("[]") not in _LOOPBACK or not port.isdigit():
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), _WAIT).close()
    except ConnectionRefusedError:
        return True
    except (OSError, OverflowError):
        return False
    return False


# --------------------------------------------------------------------------------------------------------- Redis, TURN


def _asked(context: Context, settings: Settings, nonce: str) -> dict[str, t.Any]:
    """Ask as the service's user, where there is anything to ask. What keeps it from that is told elsewhere."""
    redis = settings.get("redis")
    if not (isinstance(redis, dict) and redis.get("enabled")) and not settings.get("turn_uris"):
        return {}
    libraries = sorted(glob.glob(os.path.join(glob.escape(context.environment), "lib/python3.*/site-packages")))
    request = {
        "texts": [[path, text] for path, text in context.texts.items()],
        "libraries": libraries,
        "nonce": nonce,
        "wait": _WAIT,
    }
    source, account = inspect.getsource(probe), context.account()
    for python in (context.request.python, sys.executable):
        with contextlib.suppress(SynapseError):
            answer = ask_python(context.run, python, source, request, account=account, timeout=context.left(15.0))
            if answer["problem"] is None:
                return answer
    return {}


def _redis(answer: dict[str, t.Any]) -> Redis | None:
    facts = answer.get("redis")
    if not facts:
        return None
    loading = facts.get("loading") == "1" or "LOADING" in (facts["problem"] or "")
    numbers = [
        int(value) if str(value).isdigit() else 0 for value in (facts.get("used_memory"), facts.get("maxmemory"))
    ]
    return Redis(
        facts["where"],
        facts["stage"],
        facts["problem"],
        facts.get("redis_version"),
        facts.get("role"),
        loading,
        numbers[0],
        numbers[1],
    )


def _is_here(uri: str) -> bool:
    """Whether the host of a TURN address is this one."""
    match = re.match(r"(?i)turns?:(\[[^\]]+\]|[^:?]+)", uri)
    if match is None:
        return False
    host = match[1].strip("[]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        for family, kind, protocol, _name, address in found[:4]:
            with socket.socket(family, kind, protocol) as plain:
                plain.bind((address[0], 0))  # only an address of this host can be bound
                return True
    except OSError:
        return False
    return False


def _turn(answer: dict[str, t.Any], settings: Settings) -> Turn | None:
    facts = answer.get("turn")
    uris = settings.get("turn_uris")
    if not facts or not isinstance(uris, list):  # a text is the configuration's fault
        return None
    told = [str(uri) for uri in uris]
    return Turn(
        tuple(told),
        facts["kind"],
        facts["digest"],
        facts["padded"],
        facts["problem"],
        bool(settings.get("turn_username") and settings.get("turn_password")),
        bool(told) and _is_here(told[0]),
    )


def _digest(nonce: str, value: str) -> str:
    return hmac.new(bytes.fromhex(nonce), value.encode(), hashlib.sha256).hexdigest()


def _turnserver(nonce: str) -> TurnServer | None:
    for path in _TURNSERVER:
        text = _text(path)
        if text is None:
            continue
        options = parse_turnserver(text)
        values = options.get("static-auth-secret", ())
        # coturn takes the value as it stands, with quotes and the white space around it.
        bare = [value.strip().strip("\"'").strip() for value in values]
        kept = {name: given for name, given in options.items() if name in _TOLD}
        kept.update({name: ("***",) for name in options if name in _DATABASES})  # with their passwords
        return TurnServer(
            path,
            tuple(_digest(nonce, value) for value in values),
            tuple(_digest(nonce, value) for value in bare),
            kept,
        )
    return None


# Of coturn's options, those that hold no secret.
_TOLD = frozenset(
    [
        *("listening-port", "tls-listening-port", "alt-listening-port", "alt-tls-listening-port", "realm", "no-tls"),
        *("no-udp", "no-tcp", "no-dtls", "use-auth-secret", "lt-cred-mech", "cert", "pkey", "userdb"),
    ]
)
_DATABASES = ("psql-userdb", "mysql-userdb", "mongo-userdb", "redis-userdb")


def look(context: Context) -> Neighbours:
    """Look at the services that these settings refer to, and ask those that can be asked."""
    settings = context.settings or Settings()
    listeners = list(_listeners(settings))
    nginx = _nginx(listeners)
    nonce = secrets.token_hex(32)
    answer = _asked(context, settings, nonce)
    turn = _turn(answer, settings)
    units = _units(context, list(_candidates(settings, nginx, listeners)))
    return Neighbours(
        units,
        _redis(answer),
        turn,
        _turnserver(nonce) if turn is not None and (turn.local or any(one.kind == "turn" for one in units)) else None,
        nginx,
        tuple(listeners),
        _names(settings),
        _upload(settings.get("max_upload_size")),
        bool(context.request.worker_configs or context.request.worker_units),
        settings.managed,
        bool(settings.text("public_baseurl")) or any(one.kind == "proxy" for one in units),
    )
