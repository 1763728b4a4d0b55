# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The databases: can they be reached and written, and is what they hold well? Pure."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, fields

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _gate
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = [
    "RULES",
    "Cluster",
    "Database",
    "Fault",
    "Old",
    "One",
    "Sequence",
    "SqliteFile",
    "kind_of",
    "parse_clusters",
    "parse_locks",
]

RULES = Rulebook("database")

_MEBI = 1024 * 1024
_WAL_LARGE = 512 * _MEBI
_AGE_WARNING = 1_000_000_000  # transactions; autovacuum steps in at 200 million (autovacuum_freeze_max_age)
_AGE_CRITICAL = 2_000_000_000
_SYNAPSE_OPTIONS = (  # of the level above ``args`` (synapse/storage/engines/postgres.py, synapse/config/database.py)
    "allow_unsafe_locale",
    "data_stores",
    "idle_in_transaction_session_timeout",
    "name",
    "statement_timeout",
    "synchronous_commit",
    "txn_limit",
)

# What libpq, psycopg2 and the server say, and what kind of fault it is. The first that is found counts. Recorded with
# libpq 15 and 17; in other languages the server's own words stay unknown, and are told as they are.
_KINDS: t.Final[tuple[tuple[str, str], ...]] = (
    ("arguments", r"invalid (dsn|connection option|integer value|URI)|invalid port number|missing \"=\" after"),
    ("resolve", r"could not translate host name|Name or service not known|name resolution"),
    ("starting", r"the database system is (starting up|shutting down|in recovery|not (yet )?accepting)|57P03"),
    ("connections", r"too many clients|too many connections|remaining connection slots|EMAXCONN|no more connections"),
    ("missing", r"database \"[^\"]*\" does not exist"),
    ("password", r"password authentication failed|no password supplied|SCRAM authentication|password is empty"),
    ("tls", r"SSL (was required|connection is required|error|off$)|server does not support SSL|certificate"),
    ("rules", r"pg_hba\.conf|(Peer|Ident|GSSAPI|LDAP|PAM|RADIUS) authentication failed|is not permitted to log in"),
    ("rules", r"role \"[^\"]*\" does not exist|permission denied for database|CONNECT privilege"),
    ("foreign", r"invalid response to SSL negotiation|expected authentication request|unsupported frontend protocol"),
    ("socket_denied", r"\.s\.PGSQL\.\d+\" failed: Permission denied"),
    ("socket", r"\.s\.PGSQL\.\d+\" failed|Is the server running locally"),
    ("full", r"No space left on device|could not extend file|database or disk is full"),
    ("refused", r"Connection refused"),
    ("silent", r"timeout expired|timed out|No route to host|Network is unreachable|did not answer within"),
    ("closed", r"server closed the connection|Connection reset|connection to server was lost|terminating connection"),
    ("locked", r"database (table )?is locked|lock timeout|canceling statement due to|database is busy"),
    ("malformed", r"malformed|not a database|disk I/O error"),
    ("denied", r"permission denied|must be owner"),
    ("readonly", r"readonly database|unable to open database file|Permission denied"),
)


def kind_of(text: str) -> str:
    """Return what kind of fault a driver's words speak of; ``other`` for what is not known."""
    return next((kind for kind, pattern in _KINDS if re.search(pattern, text)), "other")


@dataclass(frozen=True)
class Fault:
    """Why a database could not be asked, in the driver's words. ``stage``: driver, connect, query or socket."""

    stage: str
    type: str
    text: str
    code: str | None = None

    @property
    def kind(self) -> str:
        """What kind of fault it is."""
        return "driver" if self.stage == "driver" else kind_of(self.text)


@dataclass(frozen=True)
class SqliteFile:
    """An SQLite file. ``refused``: what the service's user may not write. ``holders``: who holds its write lock.

    ``deleted``: a file of a running process that is this file, and has no name any more.
    """

    path: str = ""
    real: str = ""
    kind: str = "file"
    size: int | None = None
    wal: int | None = None
    refused: tuple[str, ...] = ()
    folder: bool = True
    readonly: bool = False
    unsearchable: bool = False
    magic: bool = True
    truncated: bool = False
    unfinished: bool = False
    damage: str | None = None
    holders: tuple[str, ...] = ()
    deleted: str | None = None


@dataclass(frozen=True)
class Sequence:
    """A sequence, and what Synapse compares it with when it starts."""

    sequence: str
    table: str
    column: str
    stream: str | None
    highest: int
    position: int | None
    last: int

    @property
    def behind(self) -> bool:
        """Whether the table has higher numbers than the sequence: Synapse sets the sequence when it starts."""
        return self.highest > self.last

    @property
    def crossed(self) -> bool:
        """Whether Synapse refuses to start (synapse/storage/util/sequence.py, check_consistency, 1.163.2)."""
        return bool(self.position) and (self.position or 0) > self.last


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster of this host, as Debian's pg_lsclusters tells it."""

    version: str
    name: str
    port: str
    status: str

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"postgresql@{self.version}-{self.name}.service"


def parse_clusters(text: str) -> tuple[Cluster, ...]:
    """Read ``pg_lsclusters --no-header``."""
    rows = (line.split() for line in text.splitlines())
    return tuple(Cluster(*row[:4]) for row in rows if len(row) >= 6 and row[2].isdigit())


# The bytes that SQLite locks to write (sqlite.org: os_unix.c, wal.c): in the file PENDING and RESERVED, and as many
# SHARED ones behind them; in the -shm file the first of its eight locks.
_PENDING_BYTE = 0x40000000
_SHARED_END = _PENDING_BYTE + 2 + 510
_WAL_WRITE = 120


def parse_locks(text: str, nodes: Mapping[int, bool]) -> tuple[int, ...]:
    """Read /proc/locks; return the processes that hold the write lock of an SQLite file.

    ``nodes`` are the numbers of its files, and whether each is the -shm file.
    """
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 8 or words[1] not in ("POSIX", "OFDLCK") or words[3] != "WRITE" or "->" in words:
            continue
        node = words[5].rpartition(":")[2]
        shared = nodes.get(int(node)) if node.isdigit() else None
        if shared is None or not words[6].isdigit() or not words[4].lstrip("-").isdigit():
            continue
        begin, end = int(words[6]), int(words[7]) if words[7].isdigit() else _SHARED_END
        wanted = (_WAL_WRITE, _WAL_WRITE) if shared else (_PENDING_BYTE, _SHARED_END)
        if begin <= wanted[1] and end >= wanted[0]:
            found.append(int(words[4]))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Old:
    """An SQLite database of Synapse that the configuration does not name."""

    path: str
    modified: float
    schema_version: int | None
    pending: tuple[str, ...]
    users: bool | None


@dataclass(frozen=True)
class One:
    """One database. What is ``None`` was not seen."""

    label: str = "master"
    engine: str = "sqlite3"
    where: str = ""
    host: str = ""
    port: str = ""
    user: str = ""
    given: str = "str"
    stores: tuple[str, ...] = ("main", "state")
    error: Fault | None = None
    connected: bool = False
    file: SqliteFile | None = None
    memory: bool = False
    relative: bool = False
    unknown_args: tuple[str, ...] = ()
    unsafe_locale: bool = False
    pool: int | None = None
    least: str | None = None
    server_version: str | None = None
    size: int | None = None
    encoding: str | None = None
    collation: str | None = None
    ctype: str | None = None
    collation_versions: tuple[str | None, ...] = ()
    standby: bool = False
    read_only: str | None = None
    max_connections: int | None = None
    reserved_connections: int = 0
    connections: int = 0
    database_limit: int = -1
    role_limit: int = -1
    role_connections: int = 0
    role: str = ""
    owner: str = ""
    schema: str | None = None
    may_create: bool = True
    foreign: int = 0
    foreign_shown: tuple[tuple[str, str], ...] = ()
    refused: int = 0
    blocked: int = 0
    blocked_seconds: int | None = None
    frozen_age: int = 0
    tables: int | None = None
    version_rows: int | None = None
    schema_version: int | None = None
    compat_version: int | None = None
    applied: int | None = None
    pending: tuple[str, ...] | None = None
    unknown_updates: tuple[str, ...] = ()
    users: bool | None = None
    sequences: tuple[Sequence, ...] = ()

    @classmethod
    def of(cls, answer: Mapping[str, t.Any]) -> One:
        """Return what the probe answered."""
        known = {one.name for one in fields(cls)}
        values = {name: _frozen(value) for name, value in answer.items() if name in known and value is not None}
        if answer.get("error"):
            values["error"] = Fault(**answer["error"])
        if answer.get("file"):
            names = {one.name for one in fields(SqliteFile)}
            given = answer["file"].items()
            values["file"] = SqliteFile(**{name: _frozen(value) for name, value in given if name in names})
        names = {one.name for one in fields(Sequence)}
        values["sequences"] = tuple(
            Sequence(**{name: value for name, value in one.items() if name in names})
            for one in answer.get("sequences") or ()
        )
        return cls(**values)

    @property
    def postgresql(self) -> bool:
        """Whether it is a PostgreSQL database."""
        return self.engine == "psycopg2"

    @property
    def local(self) -> bool:
        """Whether its server is on this host."""
        return not self.host or self.host.startswith("/") or self.host in ("localhost", "127.0.0.1", "::1")

    @property
    def name(self) -> str:
        """The database in a sentence."""
        if not self.postgresql:
            return self.where
        at = f"port {self.port}" if not self.host or self.host.startswith("/") else f"{self.host}:{self.port}"
        return f"{self.where or 'the database'} ({at})"

    @property
    def empty(self) -> bool:
        """Whether it was seen to hold no schema."""
        return self.tables == 0 or (
            not self.postgresql and self.file is not None and (self.file.kind == "missing" or self.file.size == 0)
        )


def _frozen(value: t.Any) -> t.Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Database:
    """What was seen. ``past`` says what shows that this server has served before; ``processes``: how many there are.

    ``as_service``: it was asked as the service's own user. ``schema`` is that of the installed release.
    """

    parts: tuple[One, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    old: Old | None = None
    past: str = ""
    as_service: bool = True
    processes: int = 1
    version: str | None = None
    schema: int | None = None
    oldest_delta: int | None = None

    @property
    def main(self) -> One | None:
        """The database with the main store."""
        return next((one for one in self.parts if "main" in one.stores), self.parts[0] if self.parts else None)

    def shown(self) -> dict[str, t.Any]:
        """Return what is told of it in the report."""
        one = self.main or One(engine="")
        return {
            "engine": one.engine,
            "where": one.name if one.postgresql else one.where,
            "reachable": one.schema_version is not None or one.connected,
            "server_version": one.server_version,
            "schema_version": one.schema_version,
            "compat_version": one.compat_version,
            "size": one.size,
            "pending_background_updates": None if one.pending is None else len(one.pending),
        }


# ---------------------------------------------------------------------------------------------------------------- rules


def _parts(seen: Seen, *, postgresql: bool | None = None) -> Iterator[One]:
    for one in seen.database.parts if seen.database is not None else ():
        if postgresql is None or one.postgresql is postgresql:
            yield one


def _faults(seen: Seen, *kinds: str, postgresql: bool = True) -> Iterator[tuple[One, Fault]]:
    for one in _parts(seen, postgresql=postgresql):
        if one.error is not None and one.error.kind in kinds:
            yield one, one.error


def _written(seen: Seen) -> dict[str, t.Any]:
    """Return what is to be done about a wrong setting: the collection writes anew what it has written before."""
    managed = seen.settings is not None and seen.settings.managed
    return {"repair": "config", "safe": True} if managed else {"repair": "", "safe": False}


def _elsewhere(seen: Seen, one: One) -> str:
    """Return where else on this host a PostgreSQL serves, as a sentence after a space."""
    clusters = seen.database.clusters if seen.database is not None else ()
    told = [f"{it.version}/{it.name} is {it.status} at port {it.port}" for it in clusters]
    return f" Clusters of this host: {', '.join(told)}." if told and one.local else ""


@RULES.rule(
    "arguments",
    severity="critical",
    cause="Everything below database.args goes to the driver as it stands, and the driver refuses names that it does "
    "not know. Synapse's own options, such as allow_unsafe_locale, belong one level higher, beside name and args.",
    remedy="Correct the names below database.args in homeserver.yaml; then systemctl restart matrix-synapse.",
    stops=True,
)
def _arguments(seen: Seen) -> Iterable[Clue]:
    """The driver of the database refuses an option below database.args."""
    settings = seen.settings
    for one in _parts(seen):
        args = settings.get("database", "args") if settings is not None else None
        wrong = [name for name in _SYNAPSE_OPTIONS if isinstance(args, dict) and name in args]
        if wrong:
            yield Clue(
                f"The option {wrong[0]} stands below database.args, where the driver takes it for its own and refuses "
                f"it.",
                f"database.args.{wrong[0]}",
                remedy=f"Move {wrong[0]} one level up, so that it stands beside args in database: of homeserver.yaml.",
                **_written(seen),
            )
        elif one.unknown_args:
            yield Clue(
                f"SQLite's driver does not know the option {one.unknown_args[0]} below database.args.",
                f"database.args.{one.unknown_args[0]}",
                **_written(seen),
            )
        elif one.engine == "sqlite3" and not one.where and not one.memory:
            yield Clue(
                "database.args has no database, which is the path of SQLite's file.", "database.args", **_written(seen)
            )
        elif one.error is not None and (one.error.kind == "arguments" or one.error.type == "TypeError"):
            yield Clue(
                "The driver of the database refuses the options below database.args.", one.error.text, **_written(seen)
            )


@RULES.rule(
    "driver_missing",
    severity="critical",
    cause="The environment lacks the package psycopg2, or the library libpq that it is linked with.",
    remedy="ansible-playbook matrix_fleet.synapse.repair --tags reinstall",
    repair="reinstall",
    safe=True,
    symptom=True,
)
def _driver(seen: Seen) -> Iterable[Clue]:
    """The driver of the database cannot be loaded."""
    for _one, fault in _faults(seen, "driver"):
        yield Clue("PostgreSQL cannot be asked: its driver psycopg2 cannot be loaded.", fault.text)


@RULES.rule(
    "unknown_host",
    severity="critical",
    cause="The name in database.args.host is written wrongly, or this host's resolver does not know it.",
    remedy="Correct database.args.host, or the resolver: getent hosts NAME has to answer.",
    stops=True,
)
def _unknown_host(seen: Seen) -> Iterable[Clue]:
    """The name of the PostgreSQL server cannot be resolved."""
    for one, fault in _faults(seen, "resolve"):
        yield Clue(f"The PostgreSQL server's name {one.host!r} cannot be resolved.", fault.text, **_written(seen))


@RULES.rule(
    "refused",
    severity="critical",
    cause="PostgreSQL does not run, or listens elsewhere: another port (pg_upgradecluster moves clusters to 5433), "
    "another address (listen_addresses), another socket folder.",
    remedy="systemctl start postgresql, or correct host and port in database.args: pg_lsclusters names the ports. "
    "Where "
    "there are several clusters, look which one holds this server's users before changing anything: "
    "sudo -u postgres psql -p PORT -d synapse -c 'SELECT count(*) FROM users'. Never make a new, empty database for "
    "it.",
    stops=True,
)
def _refused(seen: Seen) -> Iterable[Clue]:
    """Nothing accepts connections where PostgreSQL should be."""
    for one, fault in _faults(seen, "refused"):
        yield Clue(
            f"PostgreSQL does not accept connections at {one.host or 'its socket'}, port {one.port}: connection "
            f"refused.",
            fault.text + _elsewhere(seen, one),
            **_written(seen),
        )


@RULES.rule(
    "socket_missing",
    severity="critical",
    cause="PostgreSQL does not run, or its socket is in another folder or has another port's number. Without host in "
    "database.args, libpq takes the Unix socket.",
    remedy="systemctl start postgresql, or give host: localhost and the port in database.args: pg_lsclusters names "
    "them.",
    stops=True,
)
def _socket(seen: Seen) -> Iterable[Clue]:
    """The Unix socket of PostgreSQL is not there, or not for the service."""
    for one, fault in _faults(seen, "socket", "socket_denied"):
        what = "may not be used by the service" if fault.kind == "socket_denied" else "does not exist"
        yield Clue(
            f"The socket of PostgreSQL for port {one.port} {what}.",
            fault.text + _elsewhere(seen, one),
            **_written(seen),
        )


@RULES.rule(
    "no_answer",
    severity="critical",
    cause="A firewall drops the packets, the host is down, or PostgreSQL hangs: stopped, out of memory, or on a file "
    "system that does not answer.",
    remedy="Look whether anything answers: pg_isready -h HOST -p PORT. Then at the firewall between the two hosts, and "
    "at PostgreSQL's own log.",
    stops=True,
)
def _no_answer(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL does not answer in time."""
    for one, fault in _faults(seen, "silent", "closed"):
        yield Clue(
            f"PostgreSQL at {one.host or 'its socket'}, port {one.port}, does not answer.",
            fault.text + _elsewhere(seen, one),
            **_written(seen),
        )


@RULES.rule(
    "starting",
    severity="error",
    cause="PostgreSQL has just been started or is being stopped; after a crash it replays its log first, which takes "
    "minutes on a large database.",
    remedy="Wait, and look again; PostgreSQL's own log tells how far it is.",
    stops=True,
)
def _starting(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL is starting or stopping."""
    for one, fault in _faults(seen, "starting"):
        yield Clue(f"PostgreSQL at port {one.port} does not accept connections yet, or any more.", fault.text)


@RULES.rule(
    "foreign_server",
    severity="critical",
    cause="Another program listens on the port that database.args names.",
    remedy="Correct port in database.args; ss -ltnp shows who listens where.",
    stops=True,
)
def _foreign_server(seen: Seen) -> Iterable[Clue]:
    """What answers at the database's port is not PostgreSQL."""
    for one, fault in _faults(seen, "foreign"):
        yield Clue(f"What answers at {one.host}:{one.port} is not PostgreSQL.", fault.text, **_written(seen))


_QUOTES = (
    "database.args.password is no text but a number or a truth value: YAML reads 0123 as 83, and yes as true. Write "
    "it in "
    "quotes."
)


@RULES.rule(
    "password",
    severity="critical",
    cause="The password in database.args is not the one that PostgreSQL knows for this role, or there is no such role: "
    "PostgreSQL says the same of both.",
    remedy="Correct database.args.password (in quotes). Only where the configuration is right: sudo -u postgres psql "
    "-c "
    "'\\password synapse'. Never switch pg_hba.conf to trust.",
    stops=True,
)
def _password(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL refuses the password."""
    for one, fault in _faults(seen, "password"):
        passfile = seen.settings.text("database", "args", "passfile") if seen.settings is not None else None
        hint = {
            "none": f" It is looked for in {passfile}." if passfile else " database.args has no password.",
            "str": "",
            "padded": " The password begins or ends with white space.",
        }.get(one.given, f" {_QUOTES}")
        yield Clue(
            f"PostgreSQL refuses the password of {one.user or 'the service'}: password authentication failed.",
            fault.text + hint,
            **_written(seen),
        )


@RULES.rule(
    "access_rules",
    severity="critical",
    cause="pg_hba.conf does not let this role in this way: no line for this host, user and database, or one that asks "
    "for another method. peer compares the system's account with the role's name, and works on the socket alone. "
    "Where it says 'no encryption', the only line that fits may be one of hostssl: sslmode decides.",
    remedy="In pg_hba.conf (sudo -u postgres psql -tc 'SHOW hba_file'): host synapse synapse 127.0.0.1/32 "
    "scram-sha-256; "
    "then systemctl reload postgresql. Or name host and user in database.args as pg_hba.conf expects them.",
    stops=True,
)
def _access_rules(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL does not let the service's role in."""
    for one, fault in _faults(seen, "rules"):
        yield Clue(
            f"PostgreSQL does not let {one.user or 'the service'} in: pg_hba.conf, or the role itself, forbids it.",
            fault.text,
            **_written(seen),
        )


@RULES.rule(
    "database_missing",
    severity="critical",
    cause="The name is wrong, it is the wrong cluster, or the database was dropped or never made.",
    remedy="For a server that has served: find it (sudo -u postgres psql -p PORT -l) or restore it; do not make an "
    "empty "
    "one. For a new one: sudo -u postgres createdb -O synapse -E UTF8 --locale=C -T template0 synapse",
    stops=True,
)
def _database_missing(seen: Seen) -> Iterable[Clue]:
    """The PostgreSQL server has no database of this name."""
    for one, fault in _faults(seen, "missing"):
        past = seen.database.past if seen.database is not None else ""
        yield Clue(
            f"The PostgreSQL database {one.where!r} does not exist."
            + (f" This server has served before: {past}." if past else ""),
            fault.text + _elsewhere(seen, one),
            **_written(seen),
        )


@RULES.rule(
    "connections",
    severity="critical",
    cause="All connections that PostgreSQL allows are taken: max_connections is lower than the pools (cp_max) of all "
    "processes together, or another program holds many.",
    remedy="SELECT usename, count(*) FROM pg_stat_activity GROUP BY 1; then raise max_connections in postgresql.conf "
    "and "
    "systemctl restart postgresql, or lower cp_max in database.args.",
    stops=True,
)
def _connections(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL has no connection left for the service."""
    for _one, fault in _faults(seen, "connections"):
        yield Clue("PostgreSQL has too many connections: there is none left for the service.", fault.text)


@RULES.rule(
    "tls",
    severity="critical",
    cause="One side insists on TLS and the other does not offer it, or the certificate is not trusted, for another "
    "name, "
    "or out of date.",
    remedy="Make sslmode and sslrootcert in database.args fit the server (SHOW ssl), or give the server a certificate "
    "that they trust. Do not lower sslmode on a network that others share.",
    stops=True,
)
def _tls(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL and the service do not agree on TLS."""
    for one, fault in _faults(seen, "tls"):
        yield Clue(f"The TLS connection to PostgreSQL at {one.host}:{one.port} fails.", fault.text, **_written(seen))


@RULES.rule(
    "full",
    severity="critical",
    cause="The file system of the database has no space left.",
    remedy="Free space outside of the database's own files, or make the volume larger. Never remove files from a data "
    "folder (pg_wal, -wal): they are the database.",
    stops=True,
)
def _full(seen: Seen) -> Iterable[Clue]:
    """The database says that its disk is full."""
    for postgresql in (True, False):
        for one, fault in _faults(seen, "full", postgresql=postgresql):
            yield Clue(f"The disk of the database {one.name} is full.", fault.text)


@RULES.rule(
    "unreachable",
    severity="critical",
    cause="What the driver says stands above.",
    remedy="Try it as the service does: sudo -u synapse psql with the parameters of database.args.",
    stops=True,
)
def _unreachable(seen: Seen) -> Iterable[Clue]:
    """The database cannot be used, for another reason."""
    for one, fault in _faults(seen, "other", "readonly", "malformed"):
        if fault.type != "TypeError":
            yield Clue(f"PostgreSQL cannot be used: {one.name}.", fault.text)


@RULES.rule(
    "standby",
    severity="critical",
    cause="The server is a replica, or was made read-only: after a failover the old primary comes back as one, and "
    "some "
    "hosters set default_transaction_read_only when the disk is nearly full.",
    remedy="Point database.args at the primary (SELECT pg_is_in_recovery() is f there), or promote this one where it "
    "is to "
    "be the primary: pg_ctl promote. Or: ALTER DATABASE synapse RESET default_transaction_read_only",
    stops=True,
)
def _standby(seen: Seen) -> Iterable[Clue]:
    """The database takes no writes."""
    for one in _parts(seen, postgresql=True):
        if one.standby:
            yield Clue(f"PostgreSQL at {one.name} is a standby: it takes no writes.", "pg_is_in_recovery() is true")
        elif one.read_only == "on":
            yield Clue(f"The database {one.name} is read-only.", "default_transaction_read_only is on")


@RULES.rule(
    "privileges",
    severity="critical",
    cause="The database was made or restored as another role (postgres). Since version 15 only the owner of a database "
    "may create in its schema public.",
    remedy="As postgres: ALTER DATABASE synapse OWNER TO synapse; and in the database, for what was restored: "
    "REASSIGN OWNED does not work for postgres, so ALTER TABLE and ALTER SEQUENCE ... OWNER TO synapse each. Do not "
    "make "
    "the role a superuser.",
    stops=True,
)
def _privileges(seen: Seen) -> Iterable[Clue]:
    """The service's role lacks privileges in its database."""
    for one in _parts(seen, postgresql=True):
        shown = ", ".join(f"{name} (of {owner})" for name, owner in one.foreign_shown)
        if one.connected and not one.may_create:
            yield Clue(
                f"The role {one.role} lacks the privilege to create tables in schema {one.schema or 'public'} of "
                f"{one.where}.",
                f"the owner of the database is {one.owner}"
                + (f"; {one.foreign} tables are another's: {shown}" * bool(shown)),
            )
        elif one.refused:
            yield Clue(
                f"The role {one.role} lacks the privilege to use {one.refused} tables or sequences in {one.where}: "
                "another role is their owner.",
                shown,
            )
        elif one.foreign:
            yield Clue(
                f"{one.foreign} tables or sequences in {one.where} have another owner than {one.role}: the next "
                f"upgrade "
                "cannot change them.",
                shown,
                severity="warning",
            )
        elif one.error is not None and one.error.kind == "denied":
            yield Clue(f"The role {one.role or one.user} lacks a privilege in {one.where}.", one.error.text)


@RULES.rule(
    "locale",
    severity="critical",
    cause="The database was made with the server's own locale. Synapse wants encoding UTF8, collation and ctype C: "
    "other "
    "collations change with the system's C library, and break indexes then.",
    remedy="Stop Synapse; pg_dump -Fc synapse > synapse.pgdump; make a new one: createdb -O synapse -E UTF8 "
    "--locale=C -T "
    "template0 synapse_c; pg_restore -d synapse_c synapse.pgdump; name it in database.args. allow_unsafe_locale: true "
    "beside args only lets Synapse start, and leaves the danger.",
    stops=True,
)
def _locale(seen: Seen) -> Iterable[Clue]:
    """The database has an encoding or a collation that Synapse refuses."""
    for one in _parts(seen, postgresql=True):
        if one.encoding is not None and one.encoding != "UTF8":
            yield Clue(f"The database {one.where} has the encoding {one.encoding} instead of UTF8.", one.encoding)
            continue
        wrong = [
            f"{name} {value!r}"
            for name, value in (("collation", one.collation), ("ctype", one.ctype))
            if value not in (None, "C")
        ]
        if wrong and not one.unsafe_locale:
            yield Clue(
                f"The database {one.where} has the {' and '.join(wrong)} instead of 'C': Synapse refuses to start "
                f"with it.",
                "allow_unsafe_locale is not set",
            )


@RULES.rule(
    "locale_unsafe",
    severity="warning",
    cause="With allow_unsafe_locale Synapse accepts a collation other than C. When an upgrade of the system's C "
    "library "
    "changes the order of texts, its indexes are wrong: rows are not found, or are there twice.",
    remedy="Move to a database with collation C while nothing is broken (dump, createdb --locale=C -T template0, "
    "restore). "
    "Where the versions differ: REINDEX DATABASE, then ALTER DATABASE ... REFRESH COLLATION VERSION.",
)
def _locale_unsafe(seen: Seen) -> Iterable[Clue]:
    """The database has an unsafe locale, and Synapse was told to accept it."""
    for one in _parts(seen, postgresql=True):
        if one.unsafe_locale and one.collation not in (None, "C"):
            made, now = (*one.collation_versions, None, None)[:2]
            differs = made is not None and now is not None and made != now
            yield Clue(
                f"The database {one.where} has the collation {one.collation!r}, by allow_unsafe_locale"
                + (": the system's order of texts has changed since." if differs else "."),
                f"made with version {made}, now {now}" if differs else "allow_unsafe_locale: true",
                severity="error" if differs else None,
            )


def _older(version: str | None, least: str | None) -> bool:
    if not version or not least:
        return False
    have, want = ([int(part) for part in re.findall(r"\d+", text)[:3]] for text in (version, least))
    return have[: len(want)] < want


@RULES.rule(
    "too_old",
    severity="critical",
    cause="Each release of Synapse drops old versions of PostgreSQL and SQLite; the environment was upgraded further "
    "than "
    "the host.",
    remedy="PostgreSQL: upgrade it first (pg_upgradecluster VERSION main), then start Synapse. SQLite: a newer "
    "Python, or "
    "a newer system; SQLite is part of the interpreter.",
    stops=True,
)
def _too_old(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL or SQLite is older than this release of Synapse accepts."""
    for one in _parts(seen):
        row = _gate.known(seen.database.version if seen.database is not None else None)
        least = one.least or (None if row is None else (row.postgresql if one.postgresql else row.sqlite))
        if _older(one.server_version, least):
            name = "PostgreSQL" if one.postgresql else "SQLite"
            yield Clue(
                f"{name} {one.server_version} is too old: this release of Synapse needs version {least} or newer.",
                f"{name} {one.server_version}",
            )


@RULES.rule(
    "schema_too_new",
    severity="critical",
    cause="A newer release of Synapse has served with this database and changed it; this one was put back, restored, "
    "or "
    "installed by a Python that is too old for newer ones. A downgrade below the compat version is impossible.",
    remedy="Install a release that knows this schema; never change schema_version or schema_compat_version by hand. Or "
    "restore the backup that was made before the upgrade.",
    stops=True,
)
def _schema_too_new(seen: Seen) -> Iterable[Clue]:
    """The database's schema is too new for this release of Synapse."""
    database = seen.database
    for one in _parts(seen):
        if database is None or database.schema is None or one.compat_version is None:
            continue
        if one.compat_version > database.schema:
            lowest = _gate.lowest_version(one.compat_version)
            yield Clue(
                f"The schema of the database is too new for Synapse {database.version or 'as installed'}: this is a "
                "downgrade that the database forbids.",
                f"schema_compat_version {one.compat_version} is above the release's SCHEMA_VERSION {database.schema}",
                remedy=(
                    f"Install Synapse {lowest} or newer (synapse_version: {lowest}), the oldest release that can read "
                    f"it."
                    if lowest is not None
                    else None
                ),
            )


@RULES.rule(
    "schema_too_old",
    severity="critical",
    cause="The release no longer has the steps from this old schema to its own, and would skip some.",
    remedy="Upgrade in steps, by releases that still have them.",
)
def _schema_too_old(seen: Seen) -> Iterable[Clue]:
    """The database is so old that this release lacks steps to upgrade it."""
    database = seen.database
    for one in _parts(seen):
        oldest = database.oldest_delta if database is not None else None
        if oldest is not None and one.schema_version is not None and one.schema_version < oldest - 1:
            yield Clue(
                f"The schema of the database is older than this release of Synapse can upgrade: {one.schema_version}.",
                f"the oldest step of the release is {oldest}",
            )


@RULES.rule(
    "schema_damaged",
    severity="critical",
    cause="A restore was not complete, or somebody changed schema_version by hand to force an upgrade or a downgrade. "
    "Without the row, Synapse takes the database for a new one and fails with 'relation ... already exists'.",
    remedy="Restore a complete backup into a fresh database. No repairs by SQL: which changes the tables already have "
    "is "
    "not known any more.",
    stops=True,
)
def _schema_damaged(seen: Seen) -> Iterable[Clue]:
    """What the database says of its own schema is lost or false."""
    for one in _parts(seen):
        if one.tables and one.version_rows in (None, 0):
            if one.users is None and not one.version_rows and one.tables < 10:
                continue  # tables of somebody else
            yield Clue(
                f"The row of schema_version is lost in {one.name}, while the tables are there: this is a partial "
                f"restore.",
                f"{one.tables} tables, and no schema version; Synapse would say: relation already exists",
            )
        elif one.version_rows is not None and one.version_rows > 1:
            yield Clue(f"schema_version in {one.name} has {one.version_rows} rows instead of one.", "schema_version")
        elif one.schema_version is not None and one.applied is not None and one.applied > one.schema_version:
            yield Clue(
                f"schema_version in {one.name} was lowered: steps of a later version are applied already.",
                f"schema_version is {one.schema_version}, applied_schema_deltas goes up to {one.applied}",
            )


@RULES.rule(
    "tables_foreign",
    severity="warning",
    cause="The database belongs to another program, or a restore stopped at its beginning.",
    remedy="Look what they are (psql: \\dt) before Synapse makes its own beside them.",
)
def _tables_foreign(seen: Seen) -> Iterable[Clue]:
    """The database has tables, but none of Synapse's."""
    for one in _parts(seen):
        if one.tables and one.tables < 10 and one.version_rows is None and one.users is None:
            yield Clue(f"The database {one.name} has {one.tables} tables, none of them Synapse's.", one.name)


@RULES.rule(
    "not_ported",
    severity="critical",
    cause="The configuration was switched to PostgreSQL, and the data are still in the SQLite file. synapse_port_db "
    "moves "
    "them, and refuses while background updates are pending.",
    remedy="Switch database: back to the SQLite file, start Synapse, and wait until SELECT count(*) FROM "
    "background_updates "
    "is 0; then stop it and run synapse_port_db --sqlite-database FILE --postgres-config homeserver.yaml into an empty "
    "database. Do not empty the table background_updates.",
    explains=("database.empty",),
)
def _not_ported(seen: Seen) -> Iterable[Clue]:
    """The users are in an SQLite file, and the PostgreSQL database has none."""
    database, old = seen.database, seen.database.old if seen.database is not None else None
    one = database.main if database is not None else None
    if old is None or one is None or not one.postgresql or not old.users:
        return
    if one.empty or one.users is False:
        waits = len(old.pending)
        yield Clue(
            f"The data of this server are in {old.path}, not in PostgreSQL: synapse_port_db has not moved them"
            + (f", and would refuse, because {waits} background updates are pending there." if waits else "."),
            f"{one.where} has no users, {old.path} has" + (f"; pending: {', '.join(old.pending[:5])}" if waits else ""),
        )


@RULES.rule(
    "port_waits",
    severity="info",
    cause="A new schema or an upgrade leaves work to be done while Synapse serves.",
    remedy="Before synapse_port_db: start Synapse with the SQLite file and wait until SELECT count(*) FROM "
    "background_updates is 0. Do not empty the table.",
    explains=(),
)
def _port_waits(seen: Seen) -> Iterable[Clue]:
    """An SQLite database from which synapse_port_db is to move the data has pending background updates."""
    database, old = seen.database, seen.database.old if seen.database is not None else None
    one = database.main if database is not None else None
    if old is None or one is None or not one.postgresql or old.users or not old.pending:
        return
    if one.empty:
        yield Clue(
            f"synapse_port_db would refuse to move {old.path}: {len(old.pending)} background updates are pending "
            f"there.",
            ", ".join(old.pending[:5]),
            severity="warning",
        )


@RULES.rule(
    "empty",
    severity="critical",
    cause="It is the wrong database, it was made anew to satisfy the connection, or its content was not restored.",
    remedy="Do not start Synapse: it would begin with no users. Find the database that holds them, or restore a "
    "backup.",
    stops=True,
)
def _empty(seen: Seen) -> Iterable[Clue]:
    """The database is empty, and this server has served before."""
    past = seen.database.past if seen.database is not None else ""
    for one in _parts(seen, postgresql=True):
        if past and one.empty:
            yield Clue(f"The database {one.name} is empty, and this server has served before.", past)


_FORGET = (
    "Stop Synapse and all workers, make a backup of the database, and run: DELETE FROM stream_positions WHERE "
    "stream_name = 'NAME'; then start it. Never while a worker runs."
)


@RULES.rule(
    "sequences",
    severity="error",
    cause="The database was restored without its sequences, moved by synapse_port_db, or a failover lost their last "
    "values. Synapse compares both at each start, and refuses where stream_positions is ahead.",
    remedy="See the evidence for which of the values is ahead.",
    stops=True,
)
def _sequences(seen: Seen) -> Iterable[Clue]:
    """A sequence is inconsistent with its table or with stream_positions."""
    for one in _parts(seen, postgresql=True):
        crossed = {it.sequence: it for it in one.sequences if it.crossed}
        for it in crossed.values():
            highest = max(other.highest for other in one.sequences if other.sequence == it.sequence)
            evidence = (
                f"{it.sequence} is at {it.last}, its tables at {highest}, stream_positions of {it.stream!r} at "
                f"{it.position}"
            )
            if highest >= (it.position or 0):
                yield Clue(
                    f"The sequence {it.sequence} is inconsistent with its tables and with stream_positions: Synapse "
                    f"fails "
                    "at its next start, and mends it in doing so.",
                    evidence,
                    remedy="Stop all workers, start the main process, and once more when it has failed: systemctl "
                    "restart matrix-synapse (twice). The first start sets the sequence.",
                    repair="service",
                    safe=True,
                )
            else:
                yield Clue(
                    f"stream_positions is ahead of the sequence {it.sequence}: Synapse refuses each start as "
                    f"inconsistent.",
                    evidence,
                    severity="critical",
                    remedy=_FORGET.replace("NAME", str(it.stream)),
                )


@RULES.rule(
    "sequences_behind",
    severity="info",
    cause="The database was restored without its sequences, or was used by an older release in between.",
    remedy="Restart Synapse: it sets the sequences when it starts. Until then new rows may collide.",
)
def _sequences_behind(seen: Seen) -> Iterable[Clue]:
    """A sequence is behind its table, and Synapse sets it when it starts."""
    for one in _parts(seen, postgresql=True):
        crossed = {it.sequence for it in one.sequences if it.crossed}
        behind = {it.sequence: it for it in one.sequences if it.behind and it.sequence not in crossed}
        for it in behind.values():
            yield Clue(
                f"The sequence {it.sequence} is behind its table {it.table}.",
                f"the sequence is at {it.last}, {it.table}.{it.column} at {it.highest}",
                severity="warning",
            )


@RULES.rule(
    "pool",
    severity="warning",
    cause="Each process of Synapse opens up to cp_max connections (5 where it is not set), and PostgreSQL allows "
    "max_connections to all programs together.",
    remedy="Raise max_connections in postgresql.conf and systemctl restart postgresql, or lower cp_max in "
    "database.args.",
)
def _pool(seen: Seen) -> Iterable[Clue]:
    """The connection pools of all processes are larger than what PostgreSQL allows."""
    processes = seen.database.processes if seen.database is not None else 1
    for one in _parts(seen, postgresql=True):
        if one.max_connections is None:
            continue
        limits = [one.max_connections - one.reserved_connections]
        limits += [limit for limit in (one.role_limit, one.database_limit) if limit >= 0]
        wanted = (one.pool if one.pool is not None else 5) * processes
        if wanted > min(limits):
            yield Clue(
                f"The connection pool is larger than PostgreSQL allows: {wanted} connections are wanted, {min(limits)} "
                "allowed (max_connections).",
                f"cp_max {one.pool or 5}, {processes} processes, max_connections {one.max_connections}",
            )


@RULES.rule(
    "blocked",
    severity="warning",
    cause="Another session holds a lock: a transaction that somebody left open, a schema change, or a dump of a table.",
    remedy="SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE wait_event_type = 'Lock'; then end "
    "the "
    "session that blocks: SELECT pg_terminate_backend(PID)",
)
def _blocked(seen: Seen) -> Iterable[Clue]:
    """Queries wait for a lock that another session holds."""
    for one in _parts(seen, postgresql=True):
        if one.error is not None and one.error.kind == "locked":
            yield Clue(f"The tables of {one.where} are locked by another session.", one.error.text, severity="error")
        elif one.blocked:
            yield Clue(
                f"{one.blocked} queries in {one.where} wait for a lock.", f"the longest for {one.blocked_seconds} s"
            )


@RULES.rule(
    "wraparound",
    severity="warning",
    cause="Autovacuum is off, blocked by a transaction or a replication slot that was left open, or too slow.",
    remedy="As postgres: VACUUM (FREEZE, VERBOSE) in this database, after looking for what holds it up: "
    "pg_stat_activity, "
    "pg_replication_slots, pg_prepared_xacts.",
)
def _wraparound(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL runs out of transaction ids."""
    for one in _parts(seen, postgresql=True):
        if one.frozen_age > _AGE_WARNING:
            yield Clue(
                f"The database {one.where} has not been vacuumed for {one.frozen_age} transactions; at about 2,147 "
                f"million "
                "PostgreSQL takes no more writes.",
                f"age(datfrozenxid) = {one.frozen_age}",
                severity="critical" if one.frozen_age > _AGE_CRITICAL else None,
            )


@RULES.rule(
    "updates_pending",
    severity="info",
    cause="A new schema or an upgrade leaves work to be done while Synapse serves; it may take days on a large "
    "database.",
    remedy="Wait. synapse_port_db and some upgrades want them done: SELECT * FROM background_updates",
)
def _updates_pending(seen: Seen) -> Iterable[Clue]:
    """Background updates of the database are not finished."""
    for one in _parts(seen):
        if one.unknown_updates and one.schema_version is not None:
            yield Clue(
                f"{len(one.unknown_updates)} background updates in {one.name} are not known to this release, so that "
                f"it "
                "cannot run them, nor any after them.",
                ", ".join(one.unknown_updates[:5]),
                severity="warning",
                cause="They are of an older or newer release, or of a module, and were not finished before the "
                "upgrade.",
                remedy="Go back to the release that knows them and let it finish, then upgrade again. Until then "
                "synapse_port_db refuses. Do not empty the table background_updates.",
            )
        elif one.pending:
            yield Clue(f"{len(one.pending)} background updates in {one.name} are pending.", ", ".join(one.pending[:5]))


# --------------------------------------------------------------------------------------------------------------- SQLite


def _files(seen: Seen) -> Iterator[tuple[One, SqliteFile]]:
    for one in _parts(seen, postgresql=False):
        if one.file is not None:
            yield one, one.file


@RULES.rule(
    "file_missing",
    severity="critical",
    cause="The file was removed or moved, its file system is not mounted, or the path is another than before.",
    remedy="Do not start Synapse: it would begin with an empty database. Mount the file system, correct "
    "database.args.database, or restore the file from a backup.",
    stops=True,
)
def _file_missing(seen: Seen) -> Iterable[Clue]:
    """The SQLite file of a server that has served is gone or empty."""
    past = seen.database.past if seen.database is not None else ""
    for one, file in _files(seen):
        gone = file.kind == "missing" and not file.unsearchable
        if file.deleted is not None:
            yield Clue(
                f"The SQLite database {file.path} was deleted under the running server, which still holds it open.",
                f"{file.deleted} is the file without a name; what is written now is lost when the process ends",
                remedy=f"Do not stop or restart Synapse. Save it first: cp {file.deleted} {file.path}.saved (and the "
                "files -wal and -shm beside it in the same folder), then stop Synapse, and put the copy in its place.",
            )
        elif gone and file.folder and (past or file.wal):
            yield Clue(
                f"The SQLite database {one.where} does not exist, and this server has served before.",
                past or f"{file.real}-wal is still there",
                **_written(seen),
            )
        elif file.size == 0 and (past or file.wal):
            yield Clue(
                f"The SQLite database {one.where} is empty (0 bytes), and this server has served before.",
                past or f"{file.real}-wal holds {file.wal} bytes",
            )


@RULES.rule(
    "folder_missing",
    severity="critical",
    cause="The path is wrong, the folder was removed, or its file system is not mounted.",
    remedy="Correct database.args.database in homeserver.yaml, or mount the file system. Only for a new server: "
    "install -d "
    "-o synapse FOLDER",
    stops=True,
)
def _folder_missing(seen: Seen) -> Iterable[Clue]:
    """The folder of the SQLite database does not exist."""
    for one, file in _files(seen):
        if file.kind == "missing" and not file.unsearchable and not file.folder:
            yield Clue(
                f"The folder of the SQLite database {one.where} does not exist.",
                file.real.rpartition("/")[0],
                **_written(seen),
            )


@RULES.rule(
    "not_sqlite",
    severity="critical",
    cause="Something else was written over the file or restored in its place: a dump as SQL, a compressed backup, an "
    "HTML page, zero bytes after a crash.",
    remedy="Keep the file as it is, and restore a backup: cp BACKUP /var/lib/synapse/homeserver.db && chown "
    "synapse:synapse /var/lib/synapse/homeserver.db, with Synapse stopped and without old -wal and -shm files beside "
    "it.",
    stops=True,
)
def _not_sqlite(seen: Seen) -> Iterable[Clue]:
    """The file is no SQLite database."""
    for one, file in _files(seen):
        if file.kind == "other":
            yield Clue(f"{one.where} is no regular file, so that it cannot be an SQLite database.", one.where)
        elif file.kind == "file" and file.size and not file.magic:
            yield Clue(f"{one.where} is not an SQLite database.", "its first bytes are not 'SQLite format 3'")


@RULES.rule(
    "malformed",
    severity="critical",
    cause="The file was copied or restored while Synapse wrote to it, was cut off by a full disk, combined with the "
    "-wal "
    "file of another state, or the disk failed.",
    remedy="Stop Synapse and keep a copy of the file with its -wal and -shm. Restore a backup; failing that, sqlite3 "
    "homeserver.db .recover | sqlite3 recovered.db, and PRAGMA integrity_check on the result.",
    stops=True,
)
def _malformed(seen: Seen) -> Iterable[Clue]:
    """The SQLite database is damaged."""
    for one, file in _files(seen):
        if not file.magic or file.kind != "file":
            continue
        if file.truncated:
            yield Clue(
                f"The SQLite database {one.where} is cut off: it is malformed.",
                "it ends before the pages that it counts",
            )
        elif file.damage:
            yield Clue(f"The SQLite database {one.where} is malformed.", file.damage)
        elif one.error is not None and one.error.kind == "malformed":
            yield Clue(f"The SQLite database {one.where} is malformed.", one.error.text)


@RULES.rule(
    "readonly",
    severity="critical",
    cause="Synapse, update_synapse_database or sqlite3 was run once as root, so that the file, its folder or the files "
    "-wal and -shm belong to root.",
    remedy="chown synapse:synapse /var/lib/synapse/homeserver.db*; the folder has to let the service create files "
    "too. Do "
    "not chmod 666.",
    repair="permissions",
    safe=True,
    stops=True,
)
def _readonly(seen: Seen) -> Iterable[Clue]:
    """The service cannot write its SQLite database."""
    if seen.database is None:
        return
    for one, file in _files(seen):
        if file.readonly:
            yield Clue(
                f"The file system of the SQLite database {one.where} is mounted read-only.",
                one.where,
                cause="The kernel mounts a file system read-only when its disk has failed; or it was mounted so.",
                remedy="Look at dmesg for errors of the disk first; then mount -o remount,rw MOUNTPOINT",
                repair="",
                safe=False,
            )
        elif file.refused and seen.database.as_service and file.kind != "other":
            relative = "; the path in database.args is relative to the folder that the service works in"
            yield Clue(
                f"The SQLite database {one.where} is readonly for the service: it may not write {file.refused[0]}, "
                f"whose "
                "owner is another.",
                ", ".join(file.refused) + relative * one.relative,
            )


@RULES.rule(
    "locked",
    severity="error",
    cause="Another program has the file open for writing: a second Synapse, an sqlite3 that was left in a "
    "transaction, a "
    "backup that hangs.",
    remedy="End that program; lsof names it too. Make copies with sqlite3 homeserver.db '.backup FILE'.",
)
def _locked(seen: Seen) -> Iterable[Clue]:
    """Another process holds the lock of the SQLite database."""
    for one, file in _files(seen):
        if file.holders:
            yield Clue(
                f"The SQLite database {one.where} is locked by another process: {file.holders[0]}.",
                ", ".join(file.holders),
            )
        elif one.error is not None and one.error.kind == "locked":
            yield Clue(f"The SQLite database {one.where} is locked.", one.error.text)


@RULES.rule(
    "unfinished",
    severity="info",
    cause="The process that wrote last was killed, or the file was copied with its log.",
    remedy="Start Synapse: SQLite takes the log in. Do not remove the -wal file, it holds the newest data.",
)
def _unfinished(seen: Seen) -> Iterable[Clue]:
    """The SQLite database has a log that no process has taken in."""
    for one, file in _files(seen):
        if file.unfinished:
            yield Clue(f"{one.where}-wal holds {file.wal} bytes that are not in the database yet.", f"{one.where}-wal")


@RULES.rule(
    "wal_large",
    severity="warning",
    cause="Some program reads without an end, so that SQLite never gets to take the log in.",
    remedy="Restart Synapse: systemctl restart matrix-synapse; close other programs that have the file open.",
)
def _wal_large(seen: Seen) -> Iterable[Clue]:
    """The log of the SQLite database grows and grows."""
    for one, file in _files(seen):
        if file.wal is not None and file.wal > _WAL_LARGE and file.wal > (file.size or 0):
            yield Clue(f"{one.where}-wal is larger than the database.", f"{file.wal // _MEBI} MiB")


@RULES.rule(
    "in_memory",
    severity="critical",
    cause="database.args.database is ':memory:', as tests have it.",
    remedy="Name a file: database: {name: sqlite3, args: {database: /var/lib/synapse/homeserver.db}}",
)
def _in_memory(seen: Seen) -> Iterable[Clue]:
    """The database is in memory alone."""
    for one in _parts(seen, postgresql=False):
        if one.memory:
            yield Clue(
                "The SQLite database is in memory alone: everything is lost at each restart.",
                ":memory:",
                **_written(seen),
            )


@RULES.rule(
    "file_unusable",
    severity="critical",
    cause="What the driver says stands above.",
    remedy="Try it as the service does: sudo -u synapse sqlite3 FILE 'SELECT version FROM schema_version'",
    stops=True,
)
def _file_unusable(seen: Seen) -> Iterable[Clue]:
    """The SQLite database cannot be used, for another reason."""
    for one, fault in _faults(seen, "other", "readonly", "denied", postgresql=False):
        file = one.file
        told = file is not None and (file.refused or file.readonly or file.kind != "file" or not file.magic)
        if not told and fault.type != "TypeError":
            yield Clue(f"The SQLite database {one.where} cannot be used.", fault.text)
