# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment, as the service's user: what is the database, and what does this release say of it?

Request: ``{"synapse": whether the code of this environment is asked too, "database": {"path": SQLite file} or
{"postgresql": libpq's parameters} or null, "allow_unsafe_locale", "scratch": an empty folder, "secrets": [texts]}``.
Answer: ``{"python", "synapse": {...} or null, "problem": why Synapse cannot be asked or null, "database": {...}
or null}``. It only reads, also from a database that is being served; no text of ``secrets`` is in its reasons.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import platform
import shutil
import sys
import urllib.parse
from typing import Any, Iterable, Iterator

# The environment is only read: no bytecode is to be left in it.
sys.dont_write_bytecode = True

WAIT = 10  # seconds for a connection or a lock
COPIED = 512 * 1024 * 1024  # bytes; a larger database is not copied to be read
MAGIC = b"SQLite format 3\0"


class StateError(Exception):
    """The database cannot be read; ``state`` says in which way."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def constants(path: str) -> dict[str, Any]:
    """Return the numbers that a module defines, without running it."""
    with open(path, encoding="utf-8") as stream:
        tree = ast.parse(stream.read())
    found = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, int):
            found[target.id] = value.value
    return found


def package() -> str | None:
    """Return the folder of the package ``synapse``; nothing of it is imported."""
    import importlib.util

    spec = importlib.util.find_spec("synapse")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return places[0] if places else None


def synapse_facts(folder: str) -> dict[str, Any]:
    """Return what the installed release says of itself."""
    import importlib.metadata

    schema = os.path.join(folder, "storage", "schema")
    known = constants(os.path.join(schema, "__init__.py"))
    facts: dict[str, Any] = {
        "version": None,
        "requires_python": None,
        "schema_version": known.get("SCHEMA_VERSION"),
        "compat_version": known.get("SCHEMA_COMPAT_VERSION"),
        "oldest_delta": None,
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        metadata = importlib.metadata.metadata("matrix-synapse")
        facts["version"], facts["requires_python"] = metadata["Version"], metadata["Requires-Python"]
    with contextlib.suppress(OSError):
        deltas = [int(name) for name in os.listdir(os.path.join(schema, "main", "delta")) if name.isdigit()]
        facts["oldest_delta"] = min(deltas, default=None)
    return facts


def unknown_updates(names: Iterable[str], folder: str) -> list[str]:
    """Return the background updates that this release's code does not name anywhere: it cannot run them."""
    missing = set(names)
    schema = os.path.join(folder, "storage", "schema")
    for root, _folders, files in os.walk(folder):
        if root.startswith(schema):  # which only puts them into the database
            continue
        for name in files:
            if missing and name.endswith(".py"):
                with contextlib.suppress(OSError), open(os.path.join(root, name), encoding="utf-8") as stream:
                    text = stream.read()
                    missing -= {one for one in missing if f'"{one}"' in text or f"'{one}'" in text}
    return sorted(missing)


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())[:600] or type(error).__name__


def uri(path: str, scratch: str) -> str:
    """Return how to open an SQLite file so that nothing is written beside it.

    Synapse keeps its file in WAL mode, where a mere reader makes ``-shm`` and ``-wal`` files if there are none.
    """
    with open(path, "rb") as stream:
        header = stream.read(100)
    if not header.startswith(MAGIC):
        raise StateError("empty", "") if not header else StateError("damaged", "it is not an SQLite file")
    log = path + "-wal"
    if header[18:20] != b"\x02\x02" or os.path.exists(path + "-shm"):  # the format's "write version", "read version"
        return f"file:{urllib.parse.quote(path)}?mode=ro"
    left = os.path.getsize(log) if os.path.exists(log) else 0
    if not left:
        return f"file:{urllib.parse.quote(path)}?mode=ro&immutable=1"
    if os.path.getsize(path) + left > COPIED:
        raise StateError("unfinished", f"{log} holds changes that no process has written back")
    for name in (path, log):
        shutil.copyfile(name, os.path.join(scratch, "db" + name[len(path) :]))
    return f"file:{urllib.parse.quote(os.path.join(scratch, 'db'))}"


class Sqlite:
    """An SQLite file."""

    def __init__(self, path: str, scratch: str) -> None:
        import sqlite3

        # Of a link, SQLite keeps the other files beside what it leads to.
        self.path = os.path.realpath(path)
        self.connection = sqlite3.connect(uri(self.path, scratch), uri=True, timeout=WAIT)
        self.settings: dict[str, Any] = {"name": "sqlite3", "args": {"database": path}}

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return list(self.connection.execute(statement).fetchall())

    def has(self, table: str) -> bool:
        """Whether Synapse has made the table; the name is one of this file's own."""
        statement = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self.connection.execute(statement, [table]).fetchone() is not None

    def facts(self) -> dict[str, Any]:
        """Return what is known of the engine."""
        import sqlite3

        sizes = [os.path.getsize(name) for name in (self.path, self.path + "-wal") if os.path.exists(name)]
        return {"server_version": sqlite3.sqlite_version, "size": sum(sizes)}

    @staticmethod
    def state_of(error: Exception) -> str:
        """Return the state that an error of the driver stands for."""
        text = str(error)
        if "locked" in text or "busy" in text:
            return "locked"
        if "readonly" in text:  # a journal has to be rolled back first, and a reader cannot
            return "unfinished"
        if "malformed" in text or "not a database" in text or "disk I/O" in text:
            return "damaged"
        return "unreachable"


class Postgresql:
    """A PostgreSQL database."""

    def __init__(self, parameters: dict[str, Any], allow_unsafe_locale: bool) -> None:
        import psycopg2

        self.connection: Any = psycopg2.connect(**{"connect_timeout": WAIT, **parameters})
        self.connection.set_session(readonly=True, autocommit=True)
        with self.connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout TO {WAIT * 1000}; SET statement_timeout TO {3 * WAIT * 1000}")
        self.settings: dict[str, Any] = {"name": "psycopg2", "args": {}, "allow_unsafe_locale": allow_unsafe_locale}

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def has(self, table: str) -> bool:
        """Whether Synapse has made the table; the name is one of this file's own."""
        return self.rows(f"SELECT to_regclass('{table}')")[0][0] is not None

    def facts(self) -> dict[str, Any]:
        """Return what is known of the server and of the database."""
        statement = (
            "SELECT current_setting('server_version'), current_setting('server_encoding'), datcollate, datctype, "
            "pg_database_size(oid) FROM pg_database WHERE datname = current_database()"
        )
        version, encoding, collation, ctype, size = self.rows(statement)[0]
        return {
            "server_version": version.split()[0],
            "encoding": encoding,
            "collation": collation,
            "ctype": ctype,
            "size": size,
        }

    @staticmethod
    def state_of(error: Exception) -> str:
        """Return the state that an error of the driver stands for."""
        return "locked" if "timeout" in str(error) and "statement" in str(error) else "unreachable"


def engines(folder: str) -> Any:
    """Import Synapse's database engines without what the packages around them import, which takes seconds."""
    import importlib
    import types

    for name in ("synapse", "synapse.storage", "synapse.util"):
        around = types.ModuleType(name)
        around.__path__ = [os.path.join(folder, *name.split(".")[1:])]
        sys.modules[name] = around
    try:
        return importlib.import_module("synapse.storage.engines")
    except Exception:  # written in another way: as Synapse itself does it, then
        for name in [name for name in sys.modules if name.split(".")[0] == "synapse"]:
            del sys.modules[name]
        return importlib.import_module("synapse.storage.engines")


def refusal(settings: dict[str, Any], connection: Any, folder: str, *, new: bool) -> dict[str, str] | None:
    """Ask the engine of this release what Synapse asks it at each start; return why it refuses the database.

    synapse/storage/databases/__init__.py calls check_database before all else, and prepare_database.py
    check_new_database for one without a schema (1.37 to 1.163).
    """
    code = engines(folder)
    engine = code.create_engine(settings)
    try:
        engine.check_database(connection)
        if new:
            engine.check_new_database(connection.cursor())
    except code.IncorrectDatabaseSetup as error:
        first = str(error.args[0]) if error.args else ""
        if len(error.args) > 1 and "%" in first:  # Synapse leaves the values beside the text
            first %= error.args[1:]
        return {"kind": "setup", "text": " ".join(first.split())}
    except RuntimeError as error:
        return {"kind": "version", "text": one_line(error)}
    return None


def judge(found: dict[str, Any], settings: dict[str, Any], connection: Any, folder: str | None) -> str | None:
    """Add this release's own verdict to what was found; return why it could not be asked for one."""
    if folder is None:
        return None
    try:
        found["refusal"] = refusal(settings, connection, folder, new=found["state"] != "ready")
        found["unknown_updates"] = unknown_updates(found.get("pending", ()), folder)
    except (Exception, SystemExit) as error:  # a damaged environment raises anything
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def content(database: Any) -> dict[str, Any]:
    """Read what Synapse wrote about the schema (synapse/storage/schema/common/schema_version.sql, 1.163.2)."""
    found: dict[str, Any] = {"state": "ready", "schema_version": None, "compat_version": None, "pending": []}
    rows = database.rows("SELECT version FROM schema_version") if database.has("schema_version") else []
    if not rows:
        found["state"] = "empty"
        return found
    found["schema_version"] = int(rows[0][0])
    if database.has("schema_compat_version"):
        rows = database.rows("SELECT compat_version FROM schema_compat_version")
        found["compat_version"] = int(rows[0][0]) if rows else None
    if database.has("background_updates"):
        rows = database.rows("SELECT update_name FROM background_updates ORDER BY update_name")
        found["pending"] = [str(row[0]) for row in rows]
    return found


@contextlib.contextmanager
def opened(request: dict[str, Any]) -> Iterator[Any]:
    """Open the database; whatever goes wrong with it is a ``StateError``."""
    path = request["database"].get("path")
    kind: Any = Sqlite if path else Postgresql
    try:
        if path:
            database = kind(path, request["scratch"])
        else:
            database = kind(request["database"]["postgresql"], request["allow_unsafe_locale"])
        with contextlib.closing(database.connection):
            yield database
    except StateError:
        raise
    except ImportError as error:
        raise StateError("driverless", one_line(error)) from error
    except FileNotFoundError as error:
        raise StateError("missing", "") from error
    except OSError as error:
        raise StateError("unreachable", error.strerror or type(error).__name__) from error
    except (TypeError, ValueError) as error:  # no number where Synapse writes one
        raise StateError("damaged", one_line(error)) from error
    except Exception as error:  # each driver has its own
        raise StateError(kind.state_of(error), one_line(error)) from error


def look(request: dict[str, Any], folder: str | None) -> tuple[dict[str, Any], str | None]:
    """Return what the database is, and why this release could not be asked about it."""
    found: dict[str, Any] = {"reason": "", "refusal": None, "unknown_updates": []}
    try:
        with opened(request) as database:
            found.update(database.facts())
            found.update(content(database))
            return found, judge(found, database.settings, database.connection, folder)
    except StateError as error:
        found.update(state=error.state, reason=str(error))
    if not request["database"].get("path") or found["state"] == "driverless":
        return found, None
    import sqlite3

    # The version of SQLite is the interpreter's, whatever the file is.
    found["server_version"] = sqlite3.sqlite_version
    with contextlib.closing(sqlite3.connect(":memory:")) as memory:
        return found, judge(found, {"name": "sqlite3", "args": {}}, memory, folder)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks."""
    found: dict[str, Any] = {"python": platform.python_version(), "synapse": None, "problem": None, "database": None}
    folder = None
    if request["synapse"]:
        try:
            folder = package()
            if folder is None:
                found["problem"] = "matrix-synapse is not installed there"
            else:
                found["synapse"] = synapse_facts(folder)
        except Exception as error:
            found["problem"] = f"{type(error).__name__}: {one_line(error)}"
    if request["database"] is not None:
        found["database"], problem = look(request, folder)
        found["problem"] = found["problem"] or problem
    return found


def mask(secrets: Iterable[str], found: dict[str, Any] | None, names: Iterable[str]) -> None:
    """Take secrets out of the texts that libpq or Python wrote."""
    for name in names:
        for secret in secrets:
            if found and found.get(name):
                found[name] = found[name].replace(secret, "********")


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    secrets = [one for one in request["secrets"] if one]
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(request)
    mask(secrets, found, ["problem"])
    mask(secrets, found["database"], ["reason"])
    mask(secrets, (found["database"] or {}).get("refusal"), ["text"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
