# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""May a release of Synapse serve a database, and is there a way back from it? Pure: no I/O, nothing of Ansible.

What Synapse itself does is read from its sources, 1.37.0 to 1.163.2; ``CATALOGUE`` names the place for each finding.
"""

from __future__ import annotations

import ast
import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._backup import Manifest, room_wanted
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._schema_versions import NEWEST, TABLE

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "CATALOGUE",
    "AtHand",
    "Code",
    "Database",
    "Finding",
    "Observed",
    "Room",
    "Row",
    "Verdict",
    "check_answer",
    "constants",
    "judge",
    "known",
    "lowest_version",
    "parse_units",
    "stops",
    "unit_name",
]

_PENDING_SHOWN = 8
_MEBI = 1024 * 1024
_GROWTH = 0.1  # of an SQLite file, for what a new schema adds; Synapse documents no figure
_GROWTH_LEAST = 64 * _MEBI
_REQUIRED = re.compile(r">=\s*(\d+(?:\.\d+)*)")
_PLACES = {
    "prepare": "synapse/storage/prepare_database.py",
    "sqlite": "synapse/storage/engines/sqlite.py, check_database",
    "postgres": "synapse/storage/engines/postgres.py",
    "updates": "synapse/storage/background_updates.py",
    "guide": "docs/upgrade.md",
}


class Row(t.NamedTuple):
    """What holds from one version of Synapse on: schema, and the oldest Python, SQLite and PostgreSQL."""

    version: str
    schema: int
    compat: int
    python: str
    sqlite: str
    postgresql: str


class Kind(t.NamedTuple):
    """One kind of finding: how severe it can be, when it is reported, and the fact of Synapse that it rests on."""

    severities: tuple[str, ...]
    when: str
    source: str


CATALOGUE: t.Final[dict[str, Kind]] = {
    "environment_missing": Kind(
        ("error", "info"),
        "The release that is to serve is not built yet (information in check mode)",
        "the collection's own",
    ),
    "environment_broken": Kind(
        ("error",), "Synapse cannot be imported there, so its own checks cannot be asked", "the collection's own"
    ),
    "python_too_old": Kind(
        ("error",), "The environment's Python is older than the release accepts", "synapse/__init__.py; Requires-Python"
    ),
    "sqlite_too_old": Kind(
        ("error",), "The SQLite of the environment's Python is older than the release accepts", _PLACES["sqlite"]
    ),
    "postgresql_too_old": Kind(
        ("error",), "The PostgreSQL server is older than the release accepts", f"{_PLACES['postgres']}, check_database"
    ),
    "postgresql_collation": Kind(
        ("error",),
        "The database has an encoding, collation or character type that the release refuses",
        f"{_PLACES['postgres']}, check_database and check_new_database",
    ),
    "driver_missing": Kind(
        ("error",), "The environment lacks the driver of the database", "synapse/storage/engines/__init__.py"
    ),
    "database_missing": Kind(
        ("info",), "There is no database yet, or an empty one: the release makes its own", f"{_PLACES['prepare']}"
    ),
    "database_unreachable": Kind(
        ("error",),
        "The database does not answer the service's user; the reason is the system's or libpq's own",
        "synapse/storage/databases/__init__.py",
    ),
    "database_locked": Kind(
        ("error",), "Another process holds the database, so that it cannot be read", "the collection's own"
    ),
    "database_damaged": Kind(
        ("error",), "The file is no SQLite database, or its content cannot be read", "the collection's own"
    ),
    "downgrade_forbidden": Kind(
        ("error",),
        "The database has been changed so that the release cannot read it any more",
        f"{_PLACES['prepare']}, _upgrade_existing_database: compat_version > SCHEMA_VERSION",
    ),
    "downgrade": Kind(
        ("info",), "The release is older than the one that serves, and the database allows it", _PLACES["prepare"]
    ),
    "schema_too_old": Kind(
        ("error",),
        "The database is so old that the release no longer has all the steps from its schema on, and would skip some",
        f"{_PLACES['prepare']}, _upgrade_existing_database: folders of deltas that are not there",
    ),
    "version_skipped": Kind(
        ("info",),
        "Synapse recommends to stop at each release from which there is a way back, and these would be skipped",
        f"{_PLACES['guide']}, Upgrading from a very old version",
    ),
    "background_updates_pending": Kind(
        ("warning",),
        "Background updates of the database are not finished, or the release cannot run them. No release of Synapse "
        "refuses to start because of them, so this is never an error",
        f"{_PLACES['updates']}, do_next_background_update; {_PLACES['guide']}",
    ),
    "no_way_back": Kind(
        ("warning",),
        "Once the release has served, the present one cannot read the database: a backup is the only way back",
        f"{_PLACES['prepare']}: SCHEMA_COMPAT_VERSION is written to the database before all else",
    ),
    "disk": Kind(
        ("error", "warning"),
        "There is no room for the backup (error), or little for an SQLite file to grow (warning)",
        "the collection's own",
    ),
    "workers_before_main": Kind(
        ("error", "warning"),
        "systemd would not start a worker after the main process: an error where the schema has to be changed first",
        f"{_PLACES['prepare']}, OUTDATED_SCHEMA_ON_WORKER_ERROR",
    ),
}


@dataclass(frozen=True)
class Code:
    """A release of Synapse, as far as it is known; ``problem`` is why its own code cannot be asked."""

    version: str | None = None
    schema: int | None = None
    compat: int | None = None
    python: str | None = None
    requires_python: str | None = None
    oldest_delta: int | None = None
    present: bool = True
    asked: bool = True
    problem: str | None = None

    @property
    def name(self) -> str:
        """The release in a sentence."""
        return f"Synapse {self.version}" if self.version else "this release of Synapse"


@dataclass(frozen=True)
class Database:
    """A database as the probe saw it. ``size`` is in bytes; ``where`` is its path or its name."""

    engine: str = "sqlite"
    where: str = ""
    state: str = "ready"
    reason: str = ""
    server_version: str | None = None
    schema: int | None = None
    compat: int | None = None
    size: int | None = None
    pending: tuple[str, ...] = ()
    unknown_updates: tuple[str, ...] = ()
    refusal: tuple[str, str] | None = None
    collation: str | None = None
    ctype: str | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, engine: str, where: str, answer: Mapping[str, t.Any]) -> Database:
        """Return what a probe answered."""
        refusal = answer.get("refusal")
        return cls(
            engine,
            where,
            answer["state"],
            answer["reason"],
            answer.get("server_version"),
            answer.get("schema_version"),
            answer.get("compat_version"),
            answer.get("size"),
            tuple(answer.get("pending", ())),
            tuple(answer.get("unknown_updates", ())),
            None if refusal is None else (refusal["kind"], refusal["text"]),
            answer.get("collation"),
            answer.get("ctype"),
            answer.get("encoding"),
        )

    @property
    def exists(self) -> bool:
        """Whether there is a database with a schema; one that cannot be read counts as one."""
        return self.state not in {"missing", "empty"}


_TEXT, _NUMBER = (str, type(None)), (int, type(None))
_ANSWER: t.Final[dict[str, tuple[type, ...]]] = {
    "python": (str,),
    "synapse": (dict, type(None)),
    "problem": _TEXT,
    "database": (dict, type(None)),
}
_ANSWER_OF_SYNAPSE: t.Final[dict[str, tuple[type, ...]]] = {
    "version": _TEXT,
    "requires_python": _TEXT,
    "schema_version": _NUMBER,
    "compat_version": _NUMBER,
    "oldest_delta": _NUMBER,
}
_ANSWER_OF_DATABASE: t.Final[dict[str, tuple[type, ...]]] = {"state": (str,), "reason": (str,)}
# What only a database that could be read says.
_MORE_OF_DATABASE: t.Final[dict[str, tuple[type, ...]]] = {
    "server_version": _TEXT,
    "schema_version": _NUMBER,
    "compat_version": _NUMBER,
    "size": _NUMBER,
    "pending": (list,),
    "unknown_updates": (list,),
    "refusal": (dict, type(None)),
    "collation": _TEXT,
    "ctype": _TEXT,
    "encoding": _TEXT,
}


def _wrong(found: Mapping[str, t.Any], kinds: Mapping[str, tuple[type, ...]], *, needed: bool = True) -> list[str]:
    """Name what is not as it has to be."""
    return [
        name
        for name, allowed in kinds.items()
        if (needed or name in found)
        and (name not in found or isinstance(found[name], bool) or not isinstance(found[name], allowed))
    ]


def check_answer(answer: Mapping[str, t.Any], python: str, *, asked: bool) -> None:
    """Raise ``SynapseError`` where a probe's answer is none; ``asked`` says that a database was asked about."""
    wrong = _wrong(answer, _ANSWER)
    if not wrong and answer["synapse"] is not None:
        wrong += _wrong(answer["synapse"], _ANSWER_OF_SYNAPSE)
    database = None if wrong else answer["database"]
    if not wrong and database is None and asked:
        wrong.append("database")
    if database is not None:
        wrong += _wrong(database, _ANSWER_OF_DATABASE) + _wrong(database, _MORE_OF_DATABASE, needed=False)
        if not wrong and database.get("refusal") is not None:
            wrong += _wrong(database["refusal"], {"kind": (str,), "text": (str,)})
        if not wrong and not all(isinstance(name, str) for name in database.get("pending", ())):
            wrong.append("pending")
        if not wrong and not all(isinstance(name, str) for name in database.get("unknown_updates", ())):
            wrong.append("unknown_updates")
    if wrong:
        raise SynapseError(
            f"{python} was asked about the release and its database, and what it answered cannot be understood (wrong "
            f"or missing: {', '.join(wrong)}). Something else than Synapse's own environment answers there: look at "
            "it, and build it anew (synapse_venv with state=rebuilt). Nothing was changed."
        )


@dataclass(frozen=True)
class AtHand:
    """A release on the host."""

    name: str
    version: str
    schema: int | None


@dataclass(frozen=True)
class Room:
    """Free bytes of the file system that ``path`` lies on."""

    path: str
    free: int
    device: int


@dataclass(frozen=True)
class Observed:
    """Everything that a verdict depends on. ``workers`` is by unit: ``ordered``, ``unordered`` or ``missing``."""

    target: Code
    current: Code | None
    database: Database | None
    # What a rollback would go back to, where that is not what is live: an earlier upgrade was interrupted.
    back: Code | None = None
    releases: tuple[AtHand, ...] = ()
    backups: tuple[Manifest, ...] = ()
    backup_path: str | None = None
    backup: bool = False
    backup_room: Room | None = None
    database_room: Room | None = None
    unit: str | None = None
    workers: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    check_mode: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing."""

    id: str
    severity: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """The answer. ``lowest_version`` is ``None`` where no database says so, or no release is known to be enough."""

    findings: tuple[Finding, ...]
    direction: str
    way_back: bool
    lowest_version: str | None
    newest_backup: str | None
    msg: str

    @property
    def allowed(self) -> bool:
        """Whether the release may serve."""
        return all(finding.severity != "error" for finding in self.findings)


def _rows() -> tuple[Row, ...]:
    return tuple(Row(*row) for row in TABLE)


def known(version: str | None) -> Row | None:
    """Return what the table says of a version; ``None`` where it is older or newer than the table."""
    if version is None or version_key(version) > version_key(NEWEST):
        return None
    older = [row for row in _rows() if version_key(row.version) <= version_key(version)]
    return older[-1] if older else None


def lowest_version(compat: int | None) -> str | None:
    """Return the lowest release that can read a database with this compat version; ``None`` where none is known.

    Without a compat version the database is from before 1.37, which every later release can read.
    """
    return next((row.version for row in _rows() if row.schema >= (compat or 0)), None)


def stops(schema: int, target_compat: int) -> tuple[str, ...]:
    """Return releases to stop at, from each of which there is a way back to the one before. Fewest first.

    ``schema`` is the SCHEMA_VERSION of the present release, ``target_compat`` what the last one writes.
    """
    found: list[str] = []
    while schema < target_compat:
        reachable = [row for row in _rows() if row.compat <= schema < row.schema]
        if not reachable:
            return ()
        best = max(reachable, key=lambda row: row.schema)
        found.append(best.version)
        schema = best.schema
    return tuple(found)


def constants(source: str) -> tuple[int | None, int | None]:
    """Read SCHEMA_VERSION and SCHEMA_COMPAT_VERSION out of synapse/storage/schema/__init__.py."""
    found: dict[str, int] = {}
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of what is nested too deeply
        return None, None
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        number = value.value if isinstance(value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(number, int) and not isinstance(number, bool):
            found[target.id] = number
    return found.get("SCHEMA_VERSION"), found.get("SCHEMA_COMPAT_VERSION")


def unit_name(name: str) -> str:
    """Return a unit's full name."""
    return name if re.search(r"\.(service|target|socket|slice)$", name) else f"{name}.service"


def parse_units(text: str, main: str, workers: Sequence[str]) -> dict[str, str]:
    """Read ``systemctl show -p Id -p Names -p LoadState -p After -p Before`` of the main unit and its workers.

    Returns ``ordered``, ``unordered`` or ``missing`` by worker.
    """
    by_name: dict[str, dict[str, str]] = {}
    for paragraph in text.strip().split("\n\n"):
        block = {name: value for name, _equals, value in (line.partition("=") for line in paragraph.splitlines())}
        by_name.update({name: block for name in {block.get("Id", ""), *block.get("Names", "").split()}})
    first = by_name.get(unit_name(main), {})
    names = {unit_name(main), first.get("Id", unit_name(main)), *first.get("Names", "").split()}
    found = {}
    for worker in workers:
        own = by_name.get(unit_name(worker), {})
        before = set(first.get("Before", "").split())
        after = set(own.get("After", "").split())
        if own.get("LoadState", "not-found") == "not-found":
            found[worker] = "missing"
        elif after & names or before & {unit_name(worker), own.get("Id", "")}:
            found[worker] = "ordered"
        else:
            found[worker] = "unordered"
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _older(version: str | None, least: str | None) -> bool:
    """Whether a dotted version is older than the least one; what is not known is not."""
    if not version or not least:
        return False
    wanted = _numbers(least)
    return _numbers(version)[: len(wanted)] < wanted


def _size(number: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _and(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _environment(seen: Observed) -> Iterable[Finding]:
    target = seen.target
    if not target.present:
        yield Finding(
            "environment_missing",
            "info" if seen.check_mode else "error",
            f"{target.name} is not built yet, or lost the Python it was built with, so that only what is known of this "
            "version could be asked"
            if target.version
            else "The release that is to serve is not built yet, or lost the Python it was built with, so that it "
            "could not be asked",
            "Run without check mode."
            if seen.check_mode
            else "Ask for its version (synapse_venv with activate=false): it is built for the Python that is there.",
        )
    elif target.problem is not None:
        yield Finding(
            "environment_broken",
            "error",
            f"{target.name} cannot be asked about the database: {target.problem}",
            "Repair its environment (synapse_venv with state=rebuilt), or choose another release.",
        )
    required = _REQUIRED.search(target.requires_python or "")
    row = known(target.version)
    least = required.group(1) if required else (row.python if row else None)
    if _older(target.python, least):
        yield Finding(
            "python_too_old",
            "error",
            f"{target.name} needs Python {least} or newer, its environment has {target.python}",
            "Build the release with a newer Python (option 'python' of synapse_venv), or choose an older release.",
        )


def _unreadable(seen: Observed, database: Database) -> Finding | None:
    """Return why nothing is known of the database."""
    who = f" as {seen.user}" if seen.user else ""
    what = "SQLite file" if database.engine == "sqlite" else "PostgreSQL database"
    where = f"The {what} {database.where}".rstrip()
    if database.state == "unreachable":
        remedy = "Let the service's user read it, and see that the path is right."
        if database.engine == "postgresql":
            remedy = "See that the server runs and that host, database, role and password are right."
        return Finding("database_unreachable", "error", f"{where} cannot be opened{who}: {database.reason}", remedy)
    if database.state == "unfinished":
        return Finding(
            "database_unreachable",
            "error",
            f"{where} was left in the middle of a change, which only a process that writes can finish: "
            f"{database.reason}",
            "Start the present release once, or open the file with sqlite3 as the service's user, then try again.",
        )
    if database.state == "locked":
        return Finding(
            "database_locked",
            "error",
            f"{where} is locked by another process: {database.reason}",
            "Wait for what holds it (a backup, a migration, a VACUUM), or end it, then try again.",
        )
    if database.state == "damaged":
        return Finding(
            "database_damaged",
            "error",
            f"{where} cannot be read: {database.reason}",
            "Do not start another release on it. Restore a backup, or look at it with 'PRAGMA integrity_check'.",
        )
    if database.state == "driverless":
        extra = "postgres" if database.engine == "postgresql" else "sqlite3 of Python itself"
        return Finding(
            "driver_missing",
            "error",
            f"{where} cannot be asked, because the environment lacks its driver: {database.reason}",
            f"Install it with the release ({'extra ' if extra == 'postgres' else ''}{extra}).",
        )
    return None


def _requirements(seen: Observed, database: Database) -> Iterable[Finding]:
    """What the release's engine refuses; of a release that is not there yet, what the table says."""
    engine = "SQLite" if database.engine == "sqlite" else "PostgreSQL"
    too_old = f"{database.engine}_too_old"
    upgrade = (
        "Build the release with a Python that brings a newer SQLite, or change to PostgreSQL."
        if engine == "SQLite"
        else "Upgrade the PostgreSQL server first; the present release of Synapse serves on the newer one too."
    )
    if database.refusal is not None and database.refusal[0] == "version":
        text = database.refusal[1].rstrip(".")
        yield Finding(too_old, "error", f"{text}, and this is {database.server_version} ({seen.target.name})", upgrade)
    elif database.refusal is not None:
        yield Finding(
            "postgresql_collation",
            "error",
            f"The PostgreSQL database {database.where} has the encoding {database.encoding}, the collation "
            f"{database.collation} and the character type {database.ctype}, which {seen.target.name} refuses: "
            f"{database.refusal[1]}",
            "Dump it and restore it into a database made with ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0. Who "
            "takes the risk of broken indexes sets allow_unsafe_locale in Synapse's database section and here.",
        )
    row = None if seen.target.asked else known(seen.target.version)
    least = (row.sqlite if engine == "SQLite" else row.postgresql) if row else None
    if _older(database.server_version, least):
        text = f"{seen.target.name} needs {engine} {least} or newer, and this is {database.server_version}"
        yield Finding(too_old, "error", text, upgrade)


def _newest_backup(seen: Observed, database: Database) -> str | None:
    """Return the path of the newest backup that the release can read."""
    schema = seen.target.schema
    fits = [
        one.file
        for one in seen.backups
        if one.engine == database.engine and (schema is None or (one.compat_version or 0) <= schema)
    ]
    # Their names begin with the time.
    return os.path.join(seen.backup_path or "", max(fits)) if fits else None


def _schema(seen: Observed, database: Database, direction: str) -> Iterable[Finding]:
    target, compat = seen.target, database.compat or 0
    if target.schema is None or database.schema is None:
        return
    if compat > target.schema:
        lowest = lowest_version(compat)
        allowed = sorted({f"{one.version} ({one.name})" for one in seen.releases if (one.schema or 0) >= compat})
        backup = _newest_backup(seen, database)
        remedy = (
            f"The lowest release that can is {lowest}."
            if lowest
            else f"It was changed by a release newer than {NEWEST}, the newest one known here."
        )
        remedy += f" At hand on this host: {_and(allowed)}." if allowed else ""
        remedy += f" To go back to {target.version or 'it'}, a backup that the older release made has to be restored"
        remedy += f", losing all that came after it; the newest is {backup}." if backup else "."
        yield Finding(
            "downgrade_forbidden",
            "error",
            f"The database {database.where} needs a release that knows schema {compat} or newer, and {target.name} "
            f"knows schema {target.schema}: it would refuse to start",
            remedy,
        )
    elif direction == "downgrade":
        yield Finding(
            "downgrade",
            "info",
            f"{target.name} is older than the release that serves, and can read its database (schema "
            f"{database.schema}, which needs {compat} or newer; it knows {target.schema})",
            "Nothing has to be done. Background updates that only the newer release knows wait until it is back.",
        )
    if target.oldest_delta is not None and database.schema < target.oldest_delta - 1:
        yield Finding(
            "schema_too_old",
            "error",
            f"The database {database.where} has schema {database.schema}, and {target.name} can only bring those from "
            f"{target.oldest_delta - 1} on up to date: it would leave steps out without saying so",
            "Upgrade to an older release first, which still has them.",
        )


def _updates(seen: Observed, database: Database) -> Iterable[Finding]:
    if not database.pending:
        return
    more = len(database.pending) - _PENDING_SHOWN
    names = ", ".join(database.pending[:_PENDING_SHOWN]) + (f" and {more} more" if more > 0 else "")
    message = f"The database has {len(database.pending)} background updates that are not finished: {names}"
    remedy = "Rather wait until the present release has finished them; the new one goes on with them otherwise."
    if database.unknown_updates:
        message += f". {seen.target.name} does not know {', '.join(database.unknown_updates)}"
        remedy = (
            "The release starts, but gives up all background updates after five failures at an unknown one: let the "
            "present release finish them first."
        )
    yield Finding("background_updates_pending", "warning", message, remedy)


def _way_back(seen: Observed, database: Database) -> bool:
    """Whether the present release can read the database after the other one has served."""
    current = seen.back or seen.current
    if current is None or current.schema is None or seen.target.compat is None:
        return False
    return current.schema >= max(seen.target.compat, database.compat or 0)


def _return(seen: Observed, database: Database) -> Iterable[Finding]:
    current, target = seen.back or seen.current, seen.target
    if database.state != "ready" or _way_back(seen, database):
        return
    if current is None or current.schema is None:
        message = "Which release served this database so far is not known here, and so neither whether it could again"
    elif target.compat is None:
        message = f"Whether {current.name} could read the database again after {target.name} is not known"
    else:
        need = max(target.compat, database.compat or 0)
        message = (
            f"Once {target.name} has started, {current.name} cannot read the database any more: it knows schema "
            f"{current.schema}, and {need} will be needed"
        )
    remedy = "The backup that is made before is then the only way back, and loses what came after it."
    if not seen.backup:
        remedy = (
            "No backup is asked for: there will be NO way back at all. Switch the backup on, or make one yourself "
            "before you go on."
        )
    yield Finding("no_way_back", "warning", message, remedy)
    if current is None or current.schema is None or target.compat is None:
        return
    between = stops(current.schema, target.compat)
    if between:
        yield Finding(
            "version_skipped",
            "info",
            f"From {current.name} to {target.name} the database changes in {len(between) + 1} steps that cannot be "
            f"undone. Synapse recommends to stop between them: {_and(between)}",
            "If each step is to have a way back, upgrade to these one after the other, and let the background updates "
            "finish each time.",
        )


def _disk(seen: Observed, database: Database, *, changes: bool) -> Iterable[Finding]:
    size, room, own = database.size, seen.backup_room, seen.database_room
    if size is None:
        return
    used = 0
    if seen.backup and room is not None:
        used = room_wanted(database.engine, size)
        if room.free < used:
            yield Finding(
                "disk",
                "error",
                f"{room.path} has {_size(room.free)} free, and the backup of a database of {_size(size)} needs about "
                f"{_size(used)}",
                "Make room there, name another folder for backups, or switch the backup off.",
            )
    if changes and own is not None:
        growth = max(int(size * _GROWTH), _GROWTH_LEAST)
        shared = room is not None and seen.backup and room.device == own.device
        free = own.free - (used if shared else 0)
        if free < growth:
            left = f"{_size(max(free, 0))} free{' beside the backup' if shared else ''}"
            yield Finding(
                "disk",
                "warning",
                f"{own.path} has {left}, and the database of {_size(size)} gets a new schema, which may need "
                f"{_size(growth)}",
                "Make room there: on a full disk Synapse can neither finish the change nor serve.",
            )


def _workers(seen: Observed, *, changes: bool) -> Iterable[Finding]:
    unordered = [worker for worker, state in seen.workers.items() if state == "unordered"]
    missing = [worker for worker, state in seen.workers.items() if state == "missing"]
    if unordered:
        yield Finding(
            "workers_before_main",
            "error" if changes else "warning",
            f"{_and(unordered)} {'is' if len(unordered) == 1 else 'are'} not ordered after {seen.unit}"
            + (
                ": a worker refuses to start before the main process has changed the schema of the database"
                if changes
                else ", although a worker refuses to start on a schema that the main process has not changed yet"
            ),
            f"Write After={unit_name(seen.unit or '')} into the [Unit] section of each, and run systemctl "
            "daemon-reload.",
        )
    if missing:
        yield Finding(
            "workers_before_main",
            "warning",
            f"systemd knows no {_and(missing)}, so that the order could not be looked at",
            "See that the names are right.",
        )


def _direction(seen: Observed) -> str:
    current, target = seen.current, seen.target
    if current is None or current.version is None or target.version is None:
        return "none"
    before, after = version_key(current.version), version_key(target.version)
    if before == after:
        return "same"
    return "upgrade" if before < after else "downgrade"


def _message(seen: Observed, findings: Sequence[Finding]) -> str:
    wrong = [finding for finding in findings if finding.severity == "error"]
    if not wrong:
        return f"{seen.target.name} may serve."
    told = " ".join(f"{finding.message}. {finding.remedy}" for finding in wrong)
    return f"{seen.target.name} may not serve here; nothing was changed. {told}"


_ORDER = ("error", "warning", "info")


def judge(seen: Observed) -> Verdict:
    """Decide. The findings come in order of severity."""
    direction = _direction(seen)
    findings = list(_environment(seen))
    lowest, way_back, backup = None, False, None
    database = seen.database
    changes = False
    if database is not None:
        backup = _newest_backup(seen, database)
        unreadable = _unreadable(seen, database)
        findings += [unreadable] if unreadable else []
        changes = seen.target.schema is not None and (database.schema or 0) < seen.target.schema
        if database.state in {"missing", "empty"}:
            empty = "is empty" if database.state == "empty" else "does not exist yet"
            text = f"The database {database.where} {empty}: {seen.target.name} makes its own schema"
            findings.append(Finding("database_missing", "info", text, "Nothing has to be done on a new server."))
        findings += _requirements(seen, database)
        if database.state == "ready":
            lowest, way_back = lowest_version(database.compat), _way_back(seen, database)
        findings += _schema(seen, database, direction)
        findings += _updates(seen, database)
        findings += _return(seen, database)
        findings += _disk(seen, database, changes=changes)
    findings += _workers(seen, changes=changes)
    ordered = tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity)))
    return Verdict(ordered, direction, way_back, lowest, backup, _message(seen, ordered))
