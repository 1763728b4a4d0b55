# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at the databases, as the service does: from within its environment, as its user."""

from __future__ import annotations

import contextlib
import glob
import inspect
import os
import shutil
import socket
import sys
import threading
import time
import typing as t
from dataclasses import replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.database import (
    Database,
    Fault,
    Old,
    One,
    parse_clusters,
    parse_locks,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import database_health as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import database_state as shared
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, ask_python

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.database import Cluster, SqliteFile

__all__ = ["look"]

_WAIT = 4  # seconds for a connection; libpq takes them once for each address of a name
_ASKED = 14.0
_LOCKS = 512 * 1024  # bytes of /proc/locks
_AGAIN = 0.4  # seconds; what holds a lock for longer than that is worth a look
# Where a server begins that is installed by hand, by Debian's package, or by this collection.
_USUAL = ("/var/lib/synapse", "/var/lib/matrix-synapse")
_BACKUPS = ("*.sqlite3", "*.pgdump")


def _folder(context: Context) -> str:
    """Return the folder against which the service takes relative paths."""
    for one in context.service.running if context.service is not None else ():
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{one.pid}/cwd")
    unit = context.service.seen if context.service is not None else None
    return unit.directory if unit is not None and unit.directory.startswith("/") else "/"


def _data_folders(context: Context) -> list[str]:
    """Return the folders in which the data of this server are, or were."""
    settings = context.settings
    named = [settings.text(name) for name in ("media_store_path", "pid_file")] if settings is not None else []
    found = [os.path.dirname(path.rstrip("/")) for path in named if path is not None and path.startswith("/")]
    found += [os.path.dirname(path) for path in context.request.config_paths]
    return list(dict.fromkeys(name for name in (*found, *_USUAL) if len(name) > 1))


def _past(context: Context) -> str:
    """Return what shows that users of this server have been here, as far as that is quick to see."""
    media = context.settings.text("media_store_path") if context.settings is not None else None
    for name in ("local_content", "remote_content"):
        with contextlib.suppress(OSError), os.scandir(os.path.join(media or "/nonexistent", name)) as entries:
            if next(entries, None) is not None:
                return f"there is media of its users in {os.path.join(media or '', name)}"
    for folder in _data_folders(context):
        for pattern in _BACKUPS:
            found = sorted(glob.glob(os.path.join(glob.escape(folder), "backups", pattern)))
            if found:
                return f"there is a backup of its database, {found[-1]}"
    return ""


def _as_service(context: Context) -> bool:
    """Whether the probe runs as the very account that the service runs as."""
    user = context.user
    if user is None:
        return context.account() is not None
    try:
        _files.account_of(user)
    except SynapseError:
        return False
    return True


def _ask(context: Context) -> dict[str, t.Any]:
    """Ask the environment's interpreter; for SQLite this one does as well. Raises ``SynapseError``."""
    libraries = sorted(glob.glob(os.path.join(glob.escape(context.environment), "lib/python3.*/site-packages")))
    request = {
        "texts": [[path, text] for path, text in context.texts.items()],
        "libraries": libraries,
        "state": inspect.getsource(shared),
        "folder": _folder(context),
        "old": [os.path.join(folder, "homeserver.db") for folder in _data_folders(context)],
        "wait": _WAIT,
    }
    source, account = inspect.getsource(probe), context.account()
    begun = time.monotonic()
    try:
        answer = ask_python(
            context.run, context.request.python, source, request, account=account, timeout=context.left(_ASKED)
        )
        if answer["problem"] is None:
            return answer
    except SynapseError:
        if time.monotonic() - begun > _WAIT:  # the database hangs rather than the environment is broken
            raise
    answer = ask_python(context.run, sys.executable, source, request, account=account, timeout=context.left(_ASKED))
    if answer["problem"] is not None:
        raise SynapseError(f"The databases could not be asked: {answer['problem']}.")
    return answer


def _clusters(context: Context, parts: tuple[One, ...]) -> tuple[Cluster, ...]:
    """Return this host's PostgreSQL clusters, where one that is on it does not answer."""
    wanted = any(one.postgresql and one.local and not one.connected for one in parts)
    program = shutil.which("pg_lsclusters") if wanted else None
    if program is None:
        return ()
    return parse_clusters(context.run([program, "--no-header"], timeout=context.left(5.0)).stdout)


def _holders(file: SqliteFile, own: set[int]) -> set[tuple[int, str]]:
    """Return the processes, other than Synapse's own, that hold the write lock of an SQLite file."""
    held = set()
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as stream:
            text = stream.read(_LOCKS)
        nodes = {os.stat(file.real).st_ino: False}
    except OSError:
        return set()
    with contextlib.suppress(OSError):
        nodes[os.stat(file.real + "-shm").st_ino] = True
    for pid in parse_locks(text, nodes):
        if pid in own:
            continue
        name = ""
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            name = stream.read(64).strip()
        held.add((pid, name))
    return held


def _deleted(context: Context, file: SqliteFile, running: set[int]) -> str | None:
    """Return what leads to a file that has lost its name, and that a process of the server still has open."""
    if file.kind != "missing":
        return None
    names = (f"{file.real} (deleted)", f"{file.path} (deleted)")
    for pid in sorted(running):
        # As its own user: root may not look into another's process where it is not allowed to trace any.
        folder = f"/proc/{pid}/fd"
        listed = context.run(["ls", "-l", folder], account=context.account(), timeout=context.left(4.0)).stdout
        for line in listed.splitlines():
            left, arrow, target = line.partition(" -> ")
            if arrow and target in names:
                return f"{folder}/{left.split()[-1]}"
    return None


def _watched(context: Context, one: One) -> One:
    """Add what other processes do with an SQLite file."""
    file = one.file
    if file is None:
        return one
    running = {it.pid for it in context.service.running} if context.service is not None else set()
    workers = {it.state.pid for it in context.service.workers} if context.service is not None else set()
    deleted = _deleted(context, file, running)
    held = _holders(file, running | workers)
    if held:
        time.sleep(_AGAIN)
        held &= _holders(file, running | workers)
    holders = tuple(f"process {pid} ({name or 'unknown'})" for pid, name in sorted(held))
    return replace(one, file=replace(file, deleted=deleted, holders=holders))


def _knock(host: str, port: str) -> str:
    """Return what is wrong with the way to a server, in libpq's words; nothing where it can be reached."""
    try:
        if not host or host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as plain:
                plain.settimeout(_WAIT)
                plain.connect(f"{host or '/var/run/postgresql'}/.s.PGSQL.{port}")
        else:
            socket.create_connection((host, int(port)), _WAIT).close()
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def _unanswered(context: Context, why: str) -> Database | None:
    """Return what is known of a PostgreSQL that cannot be reached; ``None`` where it is only slow."""
    settings = context.settings
    if settings is None or settings.engine != "psycopg2":
        return None
    host = settings.text("database", "args", "host") or ""
    port = str(settings.get("database", "args", "port") or "5432")
    told: list[str] = []
    knock = threading.Thread(target=lambda: told.append(_knock(host, port)), daemon=True)  # a resolver may hang as well
    knock.start()
    knock.join(_WAIT)
    if told == [""]:
        return None
    fault = Fault("connect", "TimeoutError", told[0] if told else why)
    return Database((One(engine="psycopg2", host=host, port=port, error=fault),), past=_past(context))


def look(context: Context) -> Database:
    """Ask the databases that the configuration names. Raises ``SynapseError``."""
    begun = time.monotonic()
    try:
        answer = _ask(context)
    except SynapseError as error:
        found = _unanswered(context, error.msg) if time.monotonic() - begun > _WAIT else None
        if found is None:
            raise
        return found
    parts = tuple(_watched(context, One.of(one)) for one in answer["databases"])
    release, old = answer["release"] or {}, answer["old"]
    return Database(
        parts,
        _clusters(context, parts),
        None
        if old is None
        else Old(old["path"], old["modified"], old["schema_version"], tuple(old["pending"] or ()), old["users"]),
        _past(context),
        _as_service(context),
        1 + len(context.request.worker_configs or context.request.worker_units),
        release.get("version"),
        release.get("schema_version"),
        release.get("oldest_delta"),
    )
