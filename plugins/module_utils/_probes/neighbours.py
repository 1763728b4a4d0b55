# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as the service's user: does Redis answer as these settings ask it, and which secret does TURN have?

Request: ``{"texts": [[path, text]], "libraries": [folders that may hold the package yaml], "nonce": hexadecimal digits,
"wait": seconds}``. Answer: ``{"redis": facts or null, "turn": facts or null, "problem": why nothing could be asked}``.
Of the secret only a keyed digest is told, which is worth nothing without the nonce and after this question.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib
import json
import socket
import sys
from typing import Any, Iterable

# The environment is only read: no bytecode is to be left in it.
sys.dont_write_bytecode = True

LARGEST = 64 * 1024  # bytes
INFO = ("redis_version", "role", "loading", "master_link_status", "maxmemory", "used_memory", "maxclients")


def settings_of(texts: Iterable[Any], libraries: list[str]) -> dict[str, Any]:
    """Return what the files make together: the last file to set an option wins."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        sys.path.extend(libraries)
        yaml = importlib.import_module("yaml")
    merged: dict[str, Any] = {}
    for _path, text in texts:
        with contextlib.suppress(Exception):  # what is no YAML is told elsewhere
            data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            merged.update(data if isinstance(data, dict) else {})
    return merged


def secret_in(path: Any) -> str | None:
    """Return what a secret's file holds (synapse/config/redis.py, voip.py: stripped). Raises ``OSError``."""
    if not isinstance(path, str) or not path:
        return None
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(LARGEST).strip()


def connected(host: str, port: int, wait: float) -> socket.socket:
    """Return a connection to the first address that takes one; of several reasons why not, a refusal says most."""
    errors: list[OSError] = []
    for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        stream = socket.socket(family, kind, protocol)
        stream.settimeout(wait)
        try:
            stream.connect(address)
        except OSError as error:
            stream.close()
            errors.append(error)
        else:
            return stream
    raise next((error for error in errors if isinstance(error, ConnectionRefusedError)), errors[0])


class Client:
    """One connection to Redis (redis.io: RESP)."""

    def __init__(self, settings: dict[str, Any], wait: float) -> None:
        path = settings.get("path")
        if path:
            self.stream: Any = socket.socket(socket.AF_UNIX)
            self.stream.settimeout(wait)
            self.stream.connect(str(path))
        else:
            self.stream = connected(str(settings.get("host", "localhost")), int(settings.get("port", 6379)), wait)
        if settings.get("use_tls"):
            import ssl

            context = ssl.create_default_context(cafile=settings.get("ca_file"), capath=settings.get("ca_path"))
            if settings.get("certificate_file"):
                context.load_cert_chain(settings["certificate_file"], settings.get("private_key_file"))
            self.stream = context.wrap_socket(self.stream, server_hostname=str(settings.get("host", "localhost")))
        self.stream.settimeout(wait)
        self.reader = self.stream.makefile("rb")

    def ask(self, *words: str) -> str:
        """Send a command and return the answer; raises ``ValueError`` for one that Redis refuses."""
        parts = [word.encode() for word in words]
        sent = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self.stream.sendall(sent)
        line: str = self.reader.readline(LARGEST).decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("-"):
            raise ValueError(line[1:])
        if line.startswith("$") and line[1:].isdigit():
            text: str = self.reader.read(int(line[1:]) + 2).decode("utf-8", "replace")
            return text
        if not line or line[0] not in "+:$*":
            raise ValueError(f"it is no Redis: it answers {line[:60]!r}" if line else "it closed the connection")
        return line[1:]


def redis_facts(settings: dict[str, Any], wait: float) -> dict[str, Any]:
    """Ask Redis as Synapse does (synapse/replication/tcp/redis.py: AUTH, SELECT)."""
    facts: dict[str, Any] = {"stage": "secret", "problem": None}
    facts["where"] = str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")
    password = settings.get("password")
    try:
        password = secret_in(settings.get("password_path")) or password
        facts["stage"] = "connect"
        client = Client(settings, wait)
        with contextlib.closing(client.stream):
            facts["stage"] = "auth"
            if password:
                user = settings.get("username")
                client.ask("AUTH", *([str(user)] if user else []), str(password))
            client.ask("PING")
            facts["stage"] = "use"
            if settings.get("dbid"):
                client.ask("SELECT", str(settings["dbid"]))
            with contextlib.suppress(ValueError):
                lines = (line.partition(":") for line in client.ask("INFO").splitlines())
                facts.update({name: value for name, _colon, value in lines if name in INFO})
            facts["stage"] = "done"
    except Exception as error:  # the network's, TLS's, those of files, what is no number
        text = " ".join(str(error).split())[:300] or type(error).__name__
        for secret in (password,):
            text = text.replace(str(secret), "***") if secret else text
        facts["problem"] = text
    return facts


def turn_facts(config: dict[str, Any], nonce: str) -> dict[str, Any]:
    """Return what kind of secret TURN has, and its digest."""
    facts: dict[str, Any] = {"problem": None, "kind": "none", "digest": None, "padded": False}
    secret = config.get("turn_shared_secret")
    try:
        secret = secret or secret_in(config.get("turn_shared_secret_path"))
    except OSError as error:
        facts["problem"] = error.strerror
        return facts
    if secret in (None, ""):
        return facts
    facts["kind"] = type(secret).__name__
    facts["padded"] = isinstance(secret, str) and secret != secret.strip()
    facts["digest"] = hmac.new(bytes.fromhex(nonce), str(secret).encode(), hashlib.sha256).hexdigest()
    return facts


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks."""
    config = settings_of(request["texts"], request["libraries"])
    redis = config.get("redis")
    enabled = isinstance(redis, dict) and bool(redis.get("enabled"))
    return {
        "redis": redis_facts(redis, request["wait"]) if enabled and isinstance(redis, dict) else None,
        "turn": turn_facts(config, request["nonce"]) if config.get("turn_uris") else None,
        "problem": None,
    }


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    try:
        found = answer(request)
    except Exception as error:  # no YAML library, or what a damaged environment raises
        found = {"redis": None, "turn": None, "problem": type(error).__name__}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
