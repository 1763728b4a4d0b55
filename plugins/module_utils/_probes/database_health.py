# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment, as the service's user: can these settings' databases be used, and are they well?

Request: ``{"texts": [[path, text]], "libraries": [folders that may hold the package yaml], "state": the source of the
probe database_state, "folder": against which relative paths are taken, "old": [SQLite files that may be left of
before], "wait": seconds for a connection}``. Answer: ``{"release": facts or null, "databases": [facts], "old": facts
or null, "problem": why nothing could be asked or null}``. It only reads, and makes no file beside an SQLite file. No
secret of the settings is in its answer.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import json
import os
import re
import socket
import stat
import sys
import time
import types
import urllib.parse
from typing import Any, Iterable, Iterator

# The environment is only read: no bytecode is to be left in it.
sys.dont_write_bytecode = True

SECRET = ("password", "sslpassword", "passphrase", "dsn")
CHECKED = 32 * 1024 * 1024  # bytes; a larger SQLite file is not read as a whole
CHECK = 2.0  # seconds for that
STATEMENT = 2000  # milliseconds
GENERATORS = ("MultiWriterIdGenerator(", "build_sequence_generator(")
NAME = re.compile(r"[a-z_][a-z0-9_]*")
DEEPEST = 80  # closing brackets within one call


# ------------------------------------------------------------------------------------------------------------- settings


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


def databases_of(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the databases by their labels, as synapse/config/database.py reads them (1.163.2)."""
    several, one, path = config.get("databases"), config.get("database"), config.get("database_path")
    found: dict[str, dict[str, Any]] = {}
    if isinstance(several, dict):
        found = {str(name): one for name, one in several.items() if isinstance(one, dict)}
    if isinstance(one, dict) and one:
        found = {"master": one}
    if isinstance(path, str) and path and all(one.get("name", "sqlite3") == "sqlite3" for one in found.values()):
        found = {"master": {"name": "sqlite3", "args": {"database": path}}}
    return found


# -------------------------------------------------------------------------------------------------------------- release


class Source(importlib.abc.InspectLoader):
    """Another probe, whose source came along."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, fullname: str) -> str:
        """Return the source."""
        return self.text

    def load(self) -> Any:
        """Return the probe as a module."""
        module = types.ModuleType("shared_probe")
        self.exec_module(module)
        return module


def least(folder: str, engine: str) -> str | None:
    """Return the oldest server or library that a release accepts, as its own check says it."""
    name = "postgres.py" if engine == "psycopg2" else "sqlite.py"
    try:
        with open(os.path.join(folder, "storage", "engines", name), encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, ValueError):
        return None
    if engine == "psycopg2":
        found = re.search(r"_version < (\d{6})\b", text)
        if found is None:
            return None
        number = int(found[1])
        return str(number // 10000) + (f".{number // 100 % 100}" if number < 100000 else "")
    found = re.search(r"sqlite_version_info < \(([\d, ]+)\)", text)
    return None if found is None else ".".join(part.strip() for part in found[1].split(",") if part.strip())


def literal(node: Any) -> Any:
    """Return what an expression says by itself, ``None`` where it does not."""
    import ast

    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None


def calls(text: str) -> Iterator[dict[str, Any]]:
    """Return the arguments that calls of the generators of ids are written with, as far as they are literal."""
    import ast

    for generator in GENERATORS:
        for begin in re.finditer(r"(?<!def )\b" + re.escape(generator), text):
            end = begin.end()
            for _attempt in range(DEEPEST):
                end = text.find(")", end) + 1
                if not end:
                    break
                try:
                    call: Any = ast.parse("f(" + text[begin.end() : end], mode="eval").body
                except SyntaxError:
                    continue
                # The fourth argument of build_sequence_generator is the sequence.
                named = {"sequence_name": literal(call.args[3])} if len(call.args) > 3 else {}
                yield {**named, **{word.arg: literal(word.value) for word in call.keywords if word.arg}}
                break


def streams(folder: str) -> list[dict[str, Any]]:
    """Return the sequences that a release compares with tables when it starts.

    synapse/storage/util/sequence.py (check_consistency) is called by synapse/storage/util/id_generators.py and by the
    stores below synapse/storage/databases (1.163.2).
    """
    found = []
    for root, _folders, files in os.walk(os.path.join(folder, "storage", "databases")):
        for name in sorted(files):
            if not name.endswith(".py"):
                continue
            with contextlib.suppress(OSError, ValueError), open(os.path.join(root, name), encoding="utf-8") as stream:
                text = stream.read()
                if any(generator in text for generator in GENERATORS):
                    found += [one for call in calls(text) for one in stream_of(call)]
    return found


def stream_of(call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what one call has compared: a sequence with the column of a table, for each of its tables."""
    sequence, tables = call.get("sequence_name"), call.get("tables")
    if tables is None:
        tables = [(call.get("table"), None, call.get("id_column"))]
    for entry in tables if isinstance(tables, list) else ():
        if not isinstance(entry, tuple) or len(entry) != 3:
            continue
        names = [sequence, entry[0], entry[2]]
        if all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
            yield {
                "sequence": sequence,
                "table": entry[0],
                "column": entry[2],
                "stream": call.get("stream_name"),
                "positive": call.get("positive") is not False,
            }


# --------------------------------------------------------------------------------------------------------------- common


def problem(stage: str, error: BaseException) -> dict[str, Any]:
    """Return an error of a driver as data."""
    text = " ".join(str(error).split())[:800] or type(error).__name__
    return {"stage": stage, "type": type(error).__name__, "code": getattr(error, "pgcode", None), "text": text}


def schema(database: Any) -> dict[str, Any]:
    """Return what is there of Synapse's schema (synapse/storage/schema/common, 1.163.2)."""
    found: dict[str, Any] = {"tables": database.tables(), "version_rows": None, "schema_version": None}
    found.update(compat_version=None, applied=None, pending=None, users=None)
    if database.has("schema_version"):
        rows = [row[0] for row in database.rows("SELECT version FROM schema_version")]
        found["version_rows"] = len(rows)
        found["schema_version"] = rows[0] if rows and isinstance(rows[0], int) else None
    if database.has("schema_compat_version"):
        rows = [row[0] for row in database.rows("SELECT compat_version FROM schema_compat_version")]
        found["compat_version"] = rows[0] if rows and isinstance(rows[0], int) else None
    if database.has("applied_schema_deltas"):
        found["applied"] = database.rows("SELECT MAX(version) FROM applied_schema_deltas")[0][0]
    if database.has("background_updates"):
        rows = database.rows("SELECT update_name FROM background_updates ORDER BY update_name LIMIT 200")
        found["pending"] = [str(row[0]) for row in rows]
    if database.has("users"):
        found["users"] = bool(database.rows("SELECT 1 FROM users LIMIT 1"))
    return found


# --------------------------------------------------------------------------------------------------------------- SQLite


class Sqlite:
    """An SQLite file, opened so that nothing is written: not to it, and not beside it."""

    def __init__(self, path: str, wait: float) -> None:
        import sqlite3

        with open(path, "rb") as stream:
            header = stream.read(100)
        query = "mode=ro"
        if header[18:20] == b"\x02\x02":  # "write version" and "read version" of a file in WAL mode
            # A reader makes a missing -shm file, unless it is told that nothing will change; of one that is there it
            # can be kept from writing (sqlite.org/wal.html, "Read-Only Databases").
            query += "&readonly_shm=1" if os.path.exists(path + "-shm") else "&immutable=1"
        self.connection = sqlite3.connect(f"file:{urllib.parse.quote(path)}?{query}", uri=True, timeout=wait)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return list(self.connection.execute(statement).fetchall())

    def has(self, table: str) -> bool:
        """Whether there is a table of this name, which is one of this file's own."""
        statement = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self.connection.execute(statement, [table]).fetchone() is not None

    def tables(self) -> int:
        """Return how many tables there are."""
        return int(self.rows("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'")[0][0])

    def check(self) -> str | None:
        """Return what SQLite finds damaged in the file, ``None`` where that is nothing or would take too long."""
        until = time.monotonic() + CHECK
        self.connection.set_progress_handler(lambda: int(time.monotonic() > until), 10000)
        import sqlite3

        try:
            told = str(self.rows("PRAGMA quick_check(1)")[0][0])
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                return None
            raise
        finally:
            self.connection.set_progress_handler(None, 0)
        return None if told == "ok" else " ".join(told.split())[:300]


def pages_missing(path: str, size: int) -> bool:
    """Whether a file ends before the pages that its header counts (sqlite.org/fileformat2.html, 1.3)."""
    with open(path, "rb") as stream:
        header = stream.read(100)
    if len(header) < 100 or header[24:28] != header[92:96] or os.path.exists(path + "-wal"):
        return False
    page = int.from_bytes(header[16:18], "big")
    return size < int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)


def place(path: str) -> dict[str, Any]:
    """Return what is known of a file without SQLite, and what this user may do there."""
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    found: dict[str, Any] = {"path": path, "real": real, "kind": "missing", "size": None, "wal": None, "refused": []}
    found["folder"] = os.path.isdir(folder)
    if found["folder"] and not os.access(folder, os.W_OK | os.X_OK):
        found["refused"].append(folder)
    found["unsearchable"] = False
    for ending in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                status = os.stat(real + ending)
            except PermissionError:
                found["unsearchable"] = True
                continue
            if ending == "":
                found["kind"] = "file" if stat.S_ISREG(status.st_mode) else "other"
                found["size"] = status.st_size
            elif ending == "-wal":
                found["wal"] = status.st_size
            if not os.access(real + ending, os.R_OK | os.W_OK):
                found["refused"].append(real + ending)
    with contextlib.suppress(OSError):
        found["readonly"] = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    if found["unsearchable"] and not found["refused"]:
        found["refused"].append(folder)
    return found


def sqlite(found: dict[str, Any], path: str, wait: float) -> None:
    """Add what is known of an SQLite file. Raises whatever its driver raises."""
    import sqlite3 as driver

    found["server_version"] = driver.sqlite_version
    found["file"] = place(path)
    if found["file"]["kind"] != "file" or not found["file"]["size"]:
        return
    real = found["file"]["real"]
    with open(real, "rb") as stream:
        found["file"]["magic"] = stream.read(16) == b"SQLite format 3\0"
    if not found["file"]["magic"]:
        return
    found["size"] = found["file"]["size"] + (found["file"]["wal"] or 0)
    found["file"]["truncated"] = pages_missing(real, found["file"]["size"])
    if found["file"]["wal"] and not os.path.exists(real + "-shm"):
        found["file"]["unfinished"] = True  # only a process that may write can tell what the file and its log make
        return
    database = Sqlite(real, wait)
    with contextlib.closing(database.connection):
        found.update(schema(database))
        if found["size"] <= CHECKED:
            found["file"]["damage"] = database.check()


def sqlite_settings(found: dict[str, Any], args: dict[str, Any], folder: str) -> str | None:
    """Return the path of the file; ``None`` where there is none to look at."""
    known = {"database", "timeout", "detect_types", "isolation_level", "check_same_thread", "factory", "uri"}
    known |= {"cached_statements", "autocommit"}
    found["unknown_args"] = sorted(str(name) for name in args if name not in known and not str(name).startswith("cp_"))
    path = args.get("database")
    found["memory"] = path == ":memory:"
    if not isinstance(path, str) or not path or found["memory"]:
        found["where"] = str(path)[:200] if path is not None else ""
        return None
    if args.get("uri") is True and path.startswith("file:"):
        path = urllib.parse.unquote(path[5:].split("?")[0])
    found["where"] = os.path.join(folder, path)
    found["relative"] = not os.path.isabs(path)
    return str(found["where"])


# ----------------------------------------------------------------------------------------------------------- PostgreSQL

SERVER = (
    "SELECT current_setting('server_version_num')::int, split_part(current_setting('server_version'), ' ', 1), "
    "current_setting('server_encoding'), d.datcollate, d.datctype, pg_database_size(d.oid), "
    "pg_is_in_recovery(), (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'), "
    "current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int, "
    "(SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL), d.datconnlimit, r.rolconnlimit, "
    "(SELECT count(*) FROM pg_stat_activity WHERE usename = current_user), "
    "current_user::text, pg_get_userbyid(d.datdba)::text, current_schema()::text, age(d.datfrozenxid), "
    "CASE WHEN current_schema() IS NULL THEN false ELSE has_schema_privilege(current_schema(), 'CREATE') END, "
    "r.rolsuper FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user"
)
SERVER_NAMES = (
    "version_number",
    "server_version",
    "encoding",
    "collation",
    "ctype",
    "size",
    "standby",
    "read_only",
    "max_connections",
    "reserved_connections",
    "connections",
    "database_limit",
    "role_limit",
    "role_connections",
    "role",
    "owner",
    "schema",
    "frozen_age",
    "may_create",
    "superuser",
)
FOREIGN = (
    "SELECT c.relname::text, pg_get_userbyid(c.relowner)::text, "
    "CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE') ELSE has_table_privilege(c.oid, 'SELECT') "
    "AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') "
    "AND has_table_privilege(c.oid, 'DELETE') END "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'S') AND NOT pg_has_role(c.relowner, 'USAGE') "
    "ORDER BY 3, 1"
)
BLOCKED = (
    "SELECT count(*), max(extract(epoch FROM now() - query_start))::int FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock' AND now() - query_start > interval '30 seconds'"
)
COLLATION = (
    "SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database "
    "WHERE datname = current_database()"
)


class Postgresql:
    """A PostgreSQL database, in a session that cannot write."""

    def __init__(self, parameters: dict[str, Any], wait: int) -> None:
        import psycopg2

        asked = {"connect_timeout": wait, **parameters}
        with contextlib.suppress(TypeError, ValueError):
            asked["connect_timeout"] = min(int(asked["connect_timeout"]) or wait, wait)
        self.connection: Any = psycopg2.connect(**asked)
        self.connection.set_session(readonly=True, autocommit=True)
        self.rows(f"SET lock_timeout TO {STATEMENT // 2}; SET statement_timeout TO {STATEMENT}; SELECT 1")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def one(self, what: str, where: str) -> tuple[Any, ...]:
        """Return the one row of a query; what it is made of are names without anything special in them."""
        return self.rows(" ".join(["SELECT", what, "FROM", where]))[0]

    def has(self, table: str) -> bool:
        """Whether there is a table of this name, which is one of this file's own."""
        return self.rows(f"SELECT to_regclass('{table}')")[0][0] is not None

    def tables(self) -> int:
        """Return how many tables there are."""
        statement = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"
        return int(self.rows(statement)[0][0])


def compared(database: Postgresql, known: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each sequence with what it is compared with. A table is read before its sequence, which only grows."""
    found = []
    for one in known:
        aggregate = "MAX" if one["positive"] else "-MIN"
        try:
            highest = database.one(f"GREATEST({aggregate}({one['column']}), 0)", one["table"])[0]
            position = None
            if isinstance(one["stream"], str) and NAME.fullmatch(one["stream"]):
                where = f"stream_positions WHERE stream_name = '{one['stream']}'"
                position = database.one("MAX(stream_id)", where)[0]
            last, called = database.one("last_value, is_called", one["sequence"])
        except Exception:  # a table that this database does not have, or one that is read too slowly
            if database.connection.closed:
                raise
            continue
        found.append({**one, "highest": highest, "position": position, "last": last if called else last - 1})
    return found


def postgresql(found: dict[str, Any], parameters: dict[str, Any], wait: int, known: list[dict[str, Any]]) -> None:
    """Add what is known of a PostgreSQL database. Raises whatever its driver raises."""
    database = Postgresql(parameters, wait)
    with contextlib.closing(database.connection):
        found["connected"] = True
        found.update(zip(SERVER_NAMES, database.rows(SERVER)[0]))
        foreign = database.rows(FOREIGN)
        found["foreign"] = len(foreign)
        found["foreign_shown"] = [[name, owner] for name, owner, _may in foreign[:3]]
        found["refused"] = sum(not may for _name, _owner, may in foreign)
        found["blocked"], found["blocked_seconds"] = database.rows(BLOCKED)[0]
        if found["version_number"] >= 150000 and found["collation"] not in ("C", "POSIX"):
            found["collation_versions"] = list(database.rows(COLLATION)[0])
        found.update(schema(database))
        if found["schema_version"] is not None:
            found["sequences"] = compared(database, known)


def postgresql_settings(found: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters."""
    parameters = {str(name): value for name, value in args.items() if not str(name).startswith("cp_")}
    name = parameters.get("dbname") or parameters.get("database") or parameters.get("user") or ""
    host = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST") or ""
    found["where"] = str(name)[:200]
    found["host"], found["port"] = str(host)[:200], str(parameters.get("port") or "5432")[:20]
    found["user"] = str(parameters.get("user") or "")[:200]
    given = parameters.get("password")
    # Of the password, only what kind of thing it is.
    found["given"] = "none" if given is None else type(given).__name__
    if isinstance(given, str) and given != given.strip():
        found["given"] = "padded"
    return parameters


def listens(found: dict[str, Any], wait: float) -> None:
    """Add whether anything accepts connections where the server should be, for where there is no driver to ask it."""
    host, port = found["host"].split(",")[0], found["port"].split(",")[0]
    try:
        if not host or host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as plain:
                plain.settimeout(wait)
                plain.connect(f"{host or '/var/run/postgresql'}/.s.PGSQL.{port}")
        else:
            socket.create_connection((host, int(port)), wait).close()
    except (OSError, ValueError) as error:
        found["error"] = problem("socket", error)


# ------------------------------------------------------------------------------------------------------------ the whole


def secrets_of(args: dict[str, Any]) -> list[str]:
    """Return the secrets among a database's arguments, the longest first."""
    found = {str(value) for name, value in args.items() if name in SECRET and value not in (None, "", True, False)}
    return sorted(found, key=len, reverse=True)


def look(label: str, entry: dict[str, Any], request: dict[str, Any], known: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is known of one database."""
    engine, args = entry.get("name", "sqlite3"), entry.get("args")
    args = args if isinstance(args, dict) else {}
    found: dict[str, Any] = {"label": label, "engine": str(engine)[:40], "error": None, "where": ""}
    found["stores"] = [str(one) for one in entry.get("data_stores") or ("main", "state")]
    found["unsafe_locale"] = bool(entry.get("allow_unsafe_locale"))
    found["pool"] = args.get("cp_max") if isinstance(args.get("cp_max"), int) else None
    try:
        if engine == "sqlite3":
            path = sqlite_settings(found, args, request["folder"])
            if path is not None:
                sqlite(found, path, request["wait"])
        elif engine == "psycopg2":
            postgresql(found, postgresql_settings(found, args), request["wait"], known)
    except ImportError as error:
        found["error"] = problem("driver", error)
        if engine == "psycopg2":
            listens(found, request["wait"])
    except Exception as error:  # each driver has its own
        found["error"] = problem("connect" if not found.get("connected") else "query", error)
    for secret in secrets_of(args):
        if found["error"] is not None:
            found["error"]["text"] = found["error"]["text"].replace(secret, "***")
    return found


def before(paths: Iterable[str], used: set[str]) -> dict[str, Any] | None:
    """Return what is known of an SQLite database of Synapse that is not used; ``None`` where there is none."""
    for path in paths:
        found: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # not a database, or not for this user
            if os.path.realpath(path) in used or not os.path.isfile(path) or not os.path.getsize(path):
                continue
            database = Sqlite(os.path.realpath(path), 1.0)
            with contextlib.closing(database.connection):
                found = schema(database)
            if found.get("schema_version") is not None:
                return {"path": path, "modified": os.path.getmtime(path), **found}
    return None


def unknown_updates(shared: Any, pending: set[str], folder: str) -> set[str]:
    """Return the background updates that a release does not know. Nearly all are named where they are run from."""
    unknown = set(pending)
    for place in (os.path.join(folder, "storage", "databases"), folder):
        if unknown:
            unknown = set(shared.unknown_updates(unknown, place))
    return unknown


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks."""
    found: dict[str, Any] = {"release": None, "databases": [], "old": None, "problem": None}
    shared = Source(request["state"]).load()
    folder, known = None, []
    with contextlib.suppress(Exception):  # a damaged environment raises anything
        folder = shared.package()
        found["release"] = None if folder is None else shared.synapse_facts(folder)
    entries = databases_of(settings_of(request["texts"], request["libraries"]))
    engines = {str(entry.get("name", "sqlite3")) for entry in entries.values()}
    if folder is not None and "psycopg2" in engines:
        with contextlib.suppress(Exception):
            known = streams(folder)
    found["databases"] = [look(label, entry, request, known) for label, entry in list(entries.items())[:4]]
    pending = {name for one in found["databases"] for name in one.get("pending") or ()}
    unknown = set() if folder is None else unknown_updates(shared, pending, folder)
    for one in found["databases"]:
        one["least"] = None if folder is None else least(folder, one["engine"])
        one["unknown_updates"] = sorted(unknown & set(one.get("pending") or ()))
    if "psycopg2" in engines:
        found["old"] = before(request["old"], set())
    return found


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found = answer(request)
        except Exception as error:  # whatever a damaged environment raises
            found = {"release": None, "databases": [], "old": None, "problem": type(error).__name__}
    sys.stdout.write(json.dumps(found, default=str) + "\n")


if __name__ == "__main__":
    main()
