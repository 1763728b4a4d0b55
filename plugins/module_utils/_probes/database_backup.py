# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as the service's user: copies an SQLite database while it is used, or asks PostgreSQL about a database.

Request ``{"sqlite": {"database", "target"}}``: any Python with sqlite3.
Request ``{"postgresql": {libpq's parameters}}``: needs psycopg2.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import urllib.parse
from typing import Any

# The environment is only read: no bytecode is to be left in it.
sys.dont_write_bytecode = True

TABLES = {"schema_version": "version", "schema_compat_version": "compat_version"}
MOST_PROBLEMS = 5


def opened(path: str, mode: str) -> sqlite3.Connection:
    """Open an SQLite file. Without a transaction of Python's own."""
    uri = f"file:{urllib.parse.quote(path)}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)


def rows_of(connection: sqlite3.Connection) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the tables in which Synapse notes the state of the schema."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table, column in TABLES.items():
        if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [table]).fetchone():
            values = connection.execute(f"SELECT {column} FROM {table}").fetchall()  # noqa: S608 # both are constants
            found[table] = [{column: value} for (value,) in values]
    return found


def examined(target: sqlite3.Connection) -> dict[str, Any]:
    """See that the copy is whole, and read the state of its schema."""
    problems = [str(row[0]) for row in target.execute("PRAGMA quick_check")]
    if problems != ["ok"]:
        return {"state": "damaged", "reason": "; ".join(problems[:MOST_PROBLEMS])}
    return {"state": "copied", "rows": rows_of(target)}


def copy(database: str, place: str) -> dict[str, Any]:
    """Copy a database as it is at one instant.

    In one step, which is one reading transaction: in WAL mode, which Synapse uses, it keeps nobody from writing. In
    several, each change by another process would start the copy anew.
    """
    if not os.access(os.path.dirname(place), os.W_OK | os.X_OK):
        return {"state": "unreachable", "reason": os.path.dirname(place)}
    with contextlib.closing(opened(database, "rw")) as source:
        if not source.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            return {"state": "absent", "reason": ""}
        with contextlib.closing(opened(place, "rwc")) as target:
            # Whoever asked syncs the file; a copy that a power loss spoils was never finished.
            target.execute("PRAGMA synchronous = OFF")
            source.backup(target, pages=-1)
            # The copy is one file, with no log beside it.
            target.execute("PRAGMA journal_mode = DELETE")
            return examined(target)


def ask_sqlite(request: dict[str, Any]) -> dict[str, Any]:
    """Copy the database, or say why not."""
    path = request["database"]
    os.umask(0o077)
    try:
        if os.stat(path).st_size == 0:
            return {"state": "absent", "reason": ""}
        return copy(path, request["target"])
    except FileNotFoundError:
        return {"state": "absent", "reason": ""}
    except (OSError, sqlite3.Error) as error:
        return {"state": "failed", "reason": " ".join(str(error).split())[:300]}


def ask_postgresql(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the server's version and the database's size, or say why not."""
    try:
        import psycopg2
    except Exception as error:  # a damaged environment raises anything while it is imported
        return {"state": "no-driver", "reason": f"{type(error).__name__}: {error}"[:300]}
    try:
        with contextlib.closing(psycopg2.connect(**{"connect_timeout": 10, **parameters})) as connection:
            connection.set_session(readonly=True, autocommit=True)
            cursor = connection.cursor()
            cursor.execute(
                "SELECT pg_database_size(current_database()), to_regclass('schema_version') IS NOT NULL, "
                "EXISTS (SELECT FROM pg_tables WHERE schemaname = ANY (current_schemas(false)))"
            )
            size, ours, tables = cursor.fetchone()
            state = "present" if ours else "foreign" if tables else "absent"
            return {"state": state, "reason": "", "size": int(size), "server_version": connection.server_version}
    except psycopg2.Error as error:
        text = " ".join(str(error).split())
        state = "absent" if 'database "' in text and text.endswith("does not exist") else "failed"
        return {"state": state, "reason": text[:300] or type(error).__name__}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        sqlite = request.get("sqlite")
        found = ask_sqlite(sqlite) if sqlite else ask_postgresql(request["postgresql"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
