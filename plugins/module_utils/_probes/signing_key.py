# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment: mints keys, computes public halves, asks a server's events who signed them.

Request ``{"mint": [ids that are taken] or null, "derive": {fingerprint: [version, seed]}}``: needs signedjson.
Request ``{"events": {"server_name", "verify_keys", "database"}, "published": {"server_name", "url", "timeout"},
"scratch": an empty folder}``: gets public keys only, so that it can run as the service's user. Any Python reads SQLite
files, signatures need Synapse. The database is ``{"path"}``, ``{"postgresql"}`` or ``{"texts", "libraries", "folder"}``
where the configuration says which; ``wait`` is how many seconds it may take to answer. Without ``scratch``, a database
that would have to be copied is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import json
import os
import shutil
import sys
import urllib.parse
from typing import Any, Iterable, Iterator

# The environment is only read: no bytecode is to be left in it.
sys.dont_write_bytecode = True

NEWEST = 20
OLDEST = 5


def mint(taken: list[str]) -> dict[str, str]:
    """Make a key with an id that its own content gives, and see that it signs."""
    from signedjson.key import (
        encode_signing_key_base64,
        encode_verify_key_base64,
        generate_signing_key,
        get_verify_key,
        read_signing_keys,
    )
    from signedjson.sign import sign_json, verify_signed_json

    while True:
        key = generate_signing_key("new")
        # Hex digits are within the characters that Matrix allows in a key's id.
        key.version = "a_" + hashlib.sha256(key.verify_key.encode()).hexdigest()[:8]
        if "ed25519:" + key.version not in taken:
            break
    seed = encode_signing_key_base64(key)
    (read,) = read_signing_keys([f"ed25519 {key.version} {seed}"])
    verify_signed_json(sign_json({"minted": True}, "test", read), "test", get_verify_key(key))
    return {"version": key.version, "seed": seed, "verify_key": encode_verify_key_base64(get_verify_key(key))}


def derive(keys: dict[str, list[str]]) -> dict[str, str]:
    """Return the public half of each key, by the same name."""
    from signedjson.key import decode_signing_key_base64, encode_verify_key_base64, get_verify_key

    return {
        name: encode_verify_key_base64(get_verify_key(decode_signing_key_base64("ed25519", version, seed)))
        for name, (version, seed) in keys.items()
    }


def without_traces(path: str, scratch: str) -> str:
    """Return how to open an SQLite file with nothing written beside it; a copy of it may be made in ``scratch``.

    Whoever asks removes that folder, even if this process is killed. Synapse keeps its file in WAL mode, in which a
    mere reader makes ``-shm`` and ``-wal`` files where there are none.
    """
    with open(path, "rb") as stream:
        wal_mode = stream.read(20)[18:20] == b"\x02\x02"  # "read version" and "write version" of the file format
    if not wal_mode or os.path.exists(path + "-shm"):
        return f"file:{urllib.parse.quote(path)}?mode=ro"
    log = path + "-wal"
    if not os.path.exists(log) or os.path.getsize(log) == 0:
        return f"file:{urllib.parse.quote(path)}?mode=ro&immutable=1"
    if not scratch:
        raise OSError("what a crash left in its log would have to be merged first")
    # Left by a crash: what the log holds counts, and must be merged somewhere else.
    for name in (path, log):
        shutil.copyfile(name, os.path.join(scratch, "db" + name[len(path) :]))
    return f"file:{urllib.parse.quote(os.path.join(scratch, 'db'))}"


class Database:
    """Reads from SQLite or PostgreSQL; the statements are written for the first."""

    def __init__(self, request: dict[str, Any], scratch: str) -> None:
        if request.get("path"):
            import sqlite3

            uri = without_traces(request["path"], scratch)
            self.connection: Any = sqlite3.connect(uri, uri=True, timeout=request.get("wait", 10))
            self.mark = "?"
        else:
            import psycopg2

            wait = {"connect_timeout": request.get("wait", 10)}
            self.connection = psycopg2.connect(**{**wait, **request["postgresql"]})
            self.connection.set_session(readonly=True, autocommit=True)
            self.mark = "%s"

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def has(self, table: str) -> bool:
        """Whether Synapse has made the table."""
        if self.mark == "?":
            return bool(self.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [table]))
        return self.rows("SELECT to_regclass(?)", [table])[0][0] is not None

    def rows(self, statement: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        cursor = self.connection.cursor()
        cursor.execute(statement.replace("?", self.mark), list(values))
        return list(cursor.fetchall())


def redactor() -> Any:
    """Return the function that reduces an event to what is signed, or ``None`` where Synapse cannot be imported."""
    try:
        from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
    except Exception:  # a damaged environment raises anything while it is imported
        return None
    try:
        from synapse.synapse_rust.events import redact_event_dict as reduce_event
    except ImportError:
        from synapse.events.utils import prune_event_dict as reduce_event

    def reduced(room_version: str, event: dict[str, Any]) -> dict[str, Any]:
        return dict(reduce_event(KNOWN_ROOM_VERSIONS[room_version], event))

    return reduced


def verify(event: dict[str, Any], server: str, key_id: str, keys: list[dict[str, str]]) -> dict[str, Any]:
    """Say which of ``keys`` made the signature ``key_id`` of an event that is reduced already."""
    from signedjson.key import decode_verify_key_bytes
    from signedjson.sign import SignatureVerifyException, verify_signed_json
    from unpaddedbase64 import decode_base64

    same = [key["verify_key"] for key in keys if key["key_id"] == key_id]
    for verify_key in same:
        with contextlib.suppress(SignatureVerifyException):
            verify_signed_json(event, server, decode_verify_key_bytes(key_id, decode_base64(verify_key)))
            return {"key_id": key_id, "verdict": "ok", "verify_key": verify_key}
    return {"key_id": key_id, "verdict": "mismatch" if same else "unknown", "verify_key": None}


def judge(text: str, room_version: str | None, reduce_event: Any, request: dict[str, Any]) -> dict[str, Any] | None:
    """Say who signed one event for this server; ``None`` where nobody did."""
    server = request["server_name"]
    event = json.loads(text)
    if not str(event.get("sender", "")).endswith(":" + server):
        return None
    signatures = event.get("signatures", {}).get(server, {})
    found = []
    for key_id in signatures:
        try:
            found.append(verify(reduce_event(room_version, event), server, key_id, request["verify_keys"]))
        except Exception:  # an unknown room version, or no Synapse: the id alone has to do
            found.append({"key_id": key_id, "verdict": "unchecked", "verify_key": None})
    return next((item for item in found if item["verdict"] == "ok"), found[0]) if found else None


def own_events(database: Database, server: str) -> Iterator[tuple[str, str | None]]:
    """Return the newest events of this server, then its oldest; backfilled ones (of a negative order) are left out."""
    pattern = "%:" + server.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    statement = (
        "SELECT ej.json, r.room_version FROM events e JOIN event_json ej ON ej.event_id = e.event_id "
        "LEFT JOIN rooms r ON r.room_id = e.room_id WHERE e.sender LIKE ? ESCAPE '\\' AND e.stream_ordering > 0 "
    )
    yield from database.rows(statement + "ORDER BY e.stream_ordering DESC LIMIT ?", [pattern, NEWEST])
    yield from database.rows(statement + "ORDER BY e.stream_ordering ASC LIMIT ?", [pattern, OLDEST])


def read_events(database: Database, request: dict[str, Any]) -> dict[str, Any]:
    """Read what a database tells about the life of this server."""
    found: dict[str, Any] = {"state": "empty", "reason": "", "signatures": []}
    if not database.has("events") or not database.has("event_json"):
        return found
    rows = list(own_events(database, request["server_name"]))
    people = database.has("users") and database.rows("SELECT 1 FROM users LIMIT 1")
    if rows or people:
        found["state"] = "alive"
    reduce_event = redactor()
    for text, room_version in rows:
        item = judge(text, room_version, reduce_event, request)
        if item is not None:
            found["signatures"].append(item)
    return found


def configured(request: dict[str, Any]) -> dict[str, Any]:
    """Return the database with the events that a configuration names (synapse/config/database.py, 1.163.2)."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        sys.path.extend(request["libraries"])
        yaml = importlib.import_module("yaml")
    config: dict[str, Any] = {}
    for _path, text in request["texts"]:
        with contextlib.suppress(Exception):  # what is no YAML is told elsewhere
            config.update(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    several = [one for one in (config.get("databases") or {}).values() if "main" in one.get("data_stores", ["main"])]
    database = config.get("database") or next(iter(several), None) or {}
    if config.get("database_path"):
        database = {"args": {"database": config["database_path"]}}
    arguments = dict(database.get("args") or {})
    if database.get("name", "sqlite3") == "sqlite3":
        return {"path": os.path.join(request["folder"], arguments.get("database") or "homeserver.db")}
    # Synapse passes all to libpq but for its pool's own settings.
    return {"postgresql": {name: value for name, value in arguments.items() if not str(name).startswith("cp_")}}


def ask_events(request: dict[str, Any], scratch: str) -> dict[str, Any]:
    """Read the database, and say why where that is not possible."""
    absent = {"state": "absent", "reason": "", "signatures": []}
    try:
        if "texts" in request["database"]:
            named = configured(request["database"])
            request = {**request, "database": {"wait": request["database"].get("wait", 10), **named}}
        path = request["database"].get("path")
        if path and os.stat(path).st_size == 0:
            return absent
        with contextlib.closing(Database(request["database"], scratch)) as database:
            return read_events(database, request)
    except FileNotFoundError:
        return absent
    except Exception as error:  # each driver has its own
        text = " ".join(str(error).split())
        if 'database "' in text and text.endswith("does not exist"):
            return absent
        return {"state": "unreadable", "reason": text[:300] or type(error).__name__, "signatures": []}


def ask_published(request: dict[str, Any]) -> dict[str, str]:
    """Return the keys that a running server publishes; nothing where it cannot be asked or is another server."""
    parts = urllib.parse.urlsplit(request["url"])
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=request["timeout"])
        connection.request("GET", parts.path.rstrip("/") + "/_matrix/key/v2/server")
        document = json.loads(connection.getresponse().read(1024 * 1024))
        if document["server_name"] != request["server_name"]:
            return {}
        return {key_id: str(entry["key"]).rstrip("=") for key_id, entry in document["verify_keys"].items()}
    except Exception:  # unreachable is no evidence, and neither is nonsense
        return {}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks."""
    found: dict[str, Any] = {}
    if request.get("derive"):
        found["derived"] = derive(request["derive"])
    if request.get("mint") is not None:
        found["minted"] = mint(request["mint"])
    if request.get("events"):
        found["events"] = ask_events(request["events"], request["scratch"])
    if request.get("published"):
        found["published"] = ask_published(request["published"])
    return found


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(request)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
