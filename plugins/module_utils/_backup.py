# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a homeserver's database: names, manifests, what to clear, how to make and restore one. No I/O."""

from __future__ import annotations

import json
import re
import shlex
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import secret_arguments

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "COPY",
    "ENDINGS",
    "FORMAT",
    "LARGEST_MANIFEST",
    "MANIFEST_ENDING",
    "Connection",
    "Listing",
    "Manifest",
    "Plan",
    "Reader",
    "Tools",
    "check_label",
    "check_version",
    "choose_tools",
    "connection_of",
    "dump_command",
    "expected",
    "explain_dump",
    "file_name",
    "leftovers",
    "major_of",
    "parse_manifest",
    "partial_name",
    "passfile_line",
    "plan",
    "postgresql_restore",
    "render_manifest",
    "room_refusal",
    "room_wanted",
    "rows_of_dump",
    "schema_of",
    "service_text",
    "sqlite_restore",
]

FORMAT = 1
MANIFEST_ENDING = ".json"
LARGEST_MANIFEST = 64 * 1024
# The folder in which the service's user makes a copy; eight random bytes follow.
COPY = ".copy-"
ENDINGS = {"sqlite": ".sqlite3", "postgresql": ".pgdump"}

_TIME = r"[0-9]{8}T[0-9]{6}Z"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
_DATA = rf"{_TIME}-{_LABEL}(?:\.sqlite3|\.pgdump)"
_DATA_NAME = re.compile(_DATA)
_MANIFEST_NAME = re.compile(rf"({_DATA})\.json")
_PARTIAL_NAME = re.compile(rf"\.({_DATA})(\.json)?\.[0-9a-f]{{16}}\.partial")
_COPY_NAME = re.compile(r"\.copy-[0-9a-f]{16}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Of libpq 18 the keys of SCRAM, which are as good as a password; of psycopg2 a whole connection string.
_OPTIONS_FOR = {"dsn": "its parts, with the password as postgresql.password or in postgresql.passfile,"}
_MIB = 1024 * 1024
# What a file system needs for itself, and what the server writes while the copy is made.
_MARGIN = 16 * _MIB
# A table that somebody locks for good is to fail the dump, not to hold it up.
_LOCK_WAIT = "120s"
# The first release of pg_dump that sets transaction_timeout, which older servers do not know.
_SETS_TRANSACTION_TIMEOUT = 17


# ------------------------------------------------------------------------------------------------------------ manifests


@dataclass(frozen=True)
class Manifest:
    """What is known of one backup. ``file`` is a name in the folder, ``size`` bytes, ``made_at`` ISO 8601 in UTC.

    ``version`` is the release of Synapse that served. ``compat_version`` is missing before Synapse 1.37
    (synapse/storage/schema/common/schema_compat_version.sql).
    """

    file: str
    engine: str
    label: str
    version: str | None
    schema_version: int
    compat_version: int | None
    size: int
    sha256: str
    made_at: str


def render_manifest(manifest: Manifest) -> bytes:
    """Return the text of a manifest's file."""
    return (json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2, sort_keys=True) + "\n").encode("ascii")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def parse_manifest(data: bytes, name: str) -> Manifest | None:
    """Read a manifest; ``None`` for everything that is not one of these under the file name that belongs to it."""
    named = _MANIFEST_NAME.fullmatch(name)
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if named is None or not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        return None
    if set(found) != set(Manifest.__dataclass_fields__) or found["file"] != named[1]:
        return None
    texts = (found["engine"], found["label"], found["made_at"], found["sha256"])
    if not all(isinstance(text, str) for text in texts) or found["engine"] not in ENDINGS:
        return None
    numbers = [found["size"], found["schema_version"]]
    numbers += [] if found["compat_version"] is None else [found["compat_version"]]
    if not all(_is_number(number) for number in numbers) or not _DIGEST.fullmatch(found["sha256"]):
        return None
    if found["version"] is not None and not isinstance(found["version"], str):
        return None
    return Manifest(**found)


def check_label(label: str) -> None:
    """Refuse a label that cannot be a part of a file's name; raises ``SynapseError``."""
    if not re.fullmatch(_LABEL, label):
        raise SynapseError(
            f"label {label[:120]!r} cannot be a part of a file's name here: give up to 100 letters, digits and . _ + "
            "-, the first of them a letter or digit, such as 1.150.0-to-1.163.2."
        )


def check_version(version: str | None) -> None:
    """Refuse what is no version; raises ``SynapseError``."""
    if version is not None and not _VERSION.fullmatch(version):
        raise SynapseError(f"version {version[:80]!r} is none: give that of the Synapse that serves, such as 1.163.2.")


def file_name(moment: str, label: str, engine: str) -> str:
    """Return the name of a backup made at ``moment``, such as ``20260101T000000Z``."""
    return f"{moment}-{label}{ENDINGS[engine]}"


def partial_name(name: str, digits: str) -> str:
    """Return the name of a file that is not finished, or no longer; 16 hexadecimal digits tell it from others.

    As ``_files`` names what is staged.
    """
    return f".{name}.{digits}.partial"


# ----------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Listing:
    """The backup folder: all names in it, and the manifests that could be read, by their files' names."""

    names: tuple[str, ...] = ()
    manifests: tuple[tuple[str, Manifest], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What to do: make ``file`` or nothing, then remove ``prune`` (files of backups, their manifests with them)."""

    file: str | None
    prune: tuple[str, ...] = ()
    before: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether a backup is to be made."""
        return self.file is not None

    @property
    def diff(self) -> dict[str, str]:
        """The backups of the folder, before and after."""
        after = [name for name in self.before if name not in self.prune]
        after += [] if self.file is None else [self.file]
        return {"before": "".join(f"{name}\n" for name in self.before), "after": "".join(f"{name}\n" for name in after)}


@dataclass(frozen=True)
class Reader:
    """A release of Synapse that could be gone back to. Without a known ``schema`` it reads what it wrote itself."""

    version: str | None
    schema: int | None

    def reads(self, manifest: Manifest) -> bool:
        """Whether this release can serve what is in a backup."""
        if self.schema is None:
            return manifest.version is not None and manifest.version == self.version
        return (manifest.compat_version or 0) <= self.schema


def plan(
    listing: Listing, *, file: str | None, keep: int, made: Manifest | None = None, readers: Iterable[Reader] = ()
) -> Plan:
    """Decide which backups go when ``file`` is made: those beyond the newest ``keep``, which counts ``file``.

    Of those that each of ``readers`` can read the newest stays, however old it is: without it, that release could not
    be gone back to. ``made`` is what is known of ``file``, and tells which kind of database this is about.
    Only backups with a manifest count and go. Without a new one none goes.
    """
    complete = [manifest for _name, manifest in listing.manifests if manifest.file in listing.names]
    # By the name and not by made_at, which somebody could have edited: both say the same.
    before = tuple(sorted(manifest.file for manifest in complete))
    if file is None:
        return Plan(None, before=before)
    others = max(keep, 1) - 1
    beyond = before[: len(before) - others] if others < len(before) else ()
    spared = set()
    if made is not None:
        ours = sorted((*complete, made), key=lambda manifest: manifest.file)
        for reader in readers:
            spared.update([one.file for one in ours if one.engine == made.engine and reader.reads(one)][-1:])
    return Plan(file, tuple(name for name in beyond if name not in spared), before)


def expected(listing: Listing, *, file: str, engine: str) -> Manifest | None:
    """Return what the manifest of a backup will say that a dry run does not make; ``None`` where nothing tells.

    A database does not change its compat version by itself: the newest backup has it.
    """
    ours = [manifest for _name, manifest in listing.manifests if manifest.engine == engine]
    newest = max(ours, key=lambda manifest: manifest.file, default=None)
    return None if newest is None else replace(newest, file=file)


def leftovers(listing: Listing) -> tuple[str, ...]:
    """Return the names of what interrupted runs left behind, in the order in which it has to go.

    A backup gets its name while its manifest is still staged beside it, and loses it while its manifest is hidden in
    the same way: one with such a manifest and no published one is not finished, or to be removed. The manifest goes
    last, so that an interrupted clearing is finished too. A manifest whose file somebody took away goes as well.
    Nothing else is touched.
    """
    names = set(listing.names)
    first, last = [], []
    for name in sorted(names):
        partial = _PARTIAL_NAME.fullmatch(name)
        if _COPY_NAME.fullmatch(name):
            first.append(name)
        elif partial is not None:
            data, of_manifest = partial[1], partial[2] is not None
            if of_manifest and data in names and f"{data}{MANIFEST_ENDING}" not in names:
                first.append(data)
            last.append(name)
    orphans = [name for name, manifest in listing.manifests if manifest.file not in names]
    return (*dict.fromkeys(first), *last, *orphans)


# ----------------------------------------------------------------------------------------------------------------- room


def room_wanted(engine: str, size: int) -> int:
    """Return how many bytes have to be free for a backup of a database of ``size`` bytes.

    An SQLite copy is as large as its source. A dump is compressed and holds no indexes: a third covers all but the
    oddest databases, and one that needs more ends by itself.
    """
    return (size if engine == "sqlite" else size // 3) + _MARGIN


def _shown(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB" if size < 10240 * _MIB else f"{size / _MIB / 1024:,.0f} GiB"


def room_refusal(engine: str, size: int, free: int, folder: str) -> str | None:
    """Return why a backup does not fit into ``folder``; ``None`` where it does."""
    wanted = room_wanted(engine, size)
    if wanted <= free:
        return None
    return (
        f"There is no room for a backup in {folder}: the database has {_shown(size)}, a backup needs about "
        f"{_shown(wanted)}, and {_shown(free)} are free there, where older backups stay until a new one is complete. "
        "Make room, or name another folder in 'path'. Nothing was changed."
    )


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


@dataclass(frozen=True)
class Connection:
    """How to reach a database: ``shown`` is libpq's connection string without secrets, ``request`` has them all."""

    shown: str
    request: Mapping[str, object]
    name: str
    password: str | None = None
    sslpassword: str | None = None

    def __repr__(self) -> str:
        return f"Connection({self.shown!r})"


def _quoted(value: object) -> str:
    """Quote a value of a connection string (PostgreSQL's documentation, "Keyword/Value Connection Strings")."""
    text = str(value)
    if text and not re.search(r"[\s'\\]", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def connection_of(postgresql: Mapping[str, t.Any]) -> Connection:
    """Read the module's option. Raises ``SynapseError`` for a secret among ``args``.

    Synapse hands the parameters to psycopg2, which takes ``database`` for ``dbname``, and keeps ``cp_*`` for its pool
    (synapse/storage/database.py 1.163.2, ``make_pool``).
    """
    args = {name: value for name, value in (postgresql.get("args") or {}).items() if not name.startswith("cp_")}
    for name in secret_arguments(args):
        option = f"postgresql.{name}" if name in {"password", "sslpassword"} else "postgresql.passfile"
        wanted = _OPTIONS_FOR.get(name, f"it as {option}")
        raise SynapseError(
            f"postgresql.args holds {name}, and would show it wherever Ansible shows a task's arguments: give {wanted} "
            "instead."
        )
    given = {name: value for name, value in postgresql.items() if name != "args" and value is not None}
    request = {**args, **given}
    if "database" in request:
        request.setdefault("dbname", request["database"])
        del request["database"]
    public = {name: value for name, value in request.items() if name not in {"password", "sslpassword"}}
    return Connection(
        " ".join(f"{name}={_quoted(value)}" for name, value in public.items()),
        request,
        str(request.get("dbname") or request.get("user") or ""),
        request.get("password"),
        request.get("sslpassword"),
    )


def passfile_line(password: str) -> str:
    """Return a password file's line for every server; raises ``SynapseError`` where there is no such line."""
    if "\n" in password or "\0" in password or "\r" in password:
        raise SynapseError("postgresql.password holds a line break or a NUL, which no password file can: correct it.")
    return "*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n"


def service_text(name: str, settings: Mapping[str, str]) -> str:
    """Return the text of libpq's service file; raises ``SynapseError`` where a value cannot stand in one.

    libpq cuts white space off the ends of a line (fe-connect.c, ``parseServiceFile``).
    """
    for key, value in settings.items():
        if value != value.strip() or any(ord(character) < 32 for character in value):
            raise SynapseError(
                f"postgresql.{key} begins or ends with white space or holds control characters, which libpq's service "
                "file cannot: choose another."
            )
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())


@dataclass(frozen=True)
class Tools:
    """The folder of one release of PostgreSQL's client programs, and which release it is."""

    folder: str
    version: str

    @property
    def major(self) -> int:
        """The release by which server and programs are compared."""
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> str:
        """Return the path of a program."""
        return f"{self.folder}/{name}"


def major_of(text: str) -> str | None:
    """Read the version that ``pg_dump --version`` prints, such as ``pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+1)``."""
    found = re.search(r"\(PostgreSQL\) ([0-9]+(?:\.[0-9]+)*)", text)
    return None if found is None else found[1]


def choose_tools(candidates: Iterable[Tools], server_version: int) -> Tools:
    """Return the programs to dump with; ``server_version`` is libpq's number, such as 150014.

    Of the server's own release, or else of the next newer one: pg_dump refuses a server that is newer than itself.
    Raises ``SynapseError``, which names the package, where there is none.
    """
    server = server_version // 10000
    found = sorted(candidates, key=lambda tools: tools.major)
    for tools in found:
        if tools.major >= server:
            return tools
    have = ""
    if found:
        have = f", and the newest one here is of release {found[-1].version} ({found[-1].folder})"
    raise SynapseError(
        f"The server is PostgreSQL {server}, and a backup needs pg_dump and pg_restore of release {server} or newer "
        f"on this host{have}: install the package postgresql-client-{server} (Debian, Ubuntu; from the PostgreSQL "
        f"project's own repository where the distribution has an older one), postgresql{server} (RHEL) or "
        f"postgresql{server}-client "
        "(Alpine), and run again. Nothing was changed."
    )


def dump_command(tools: Tools, connection: Connection, *, passfile: str | None, service: str | None) -> list[str]:
    """Return the command whose standard output is the dump. No secret is in it, only where one lies."""
    shown = connection.shown
    shown += f" passfile={_quoted(passfile)}" if passfile else ""
    shown += f" service={_quoted(service)}" if service else ""
    return [
        tools.program("pg_dump"),
        "--format=custom",
        "--no-password",
        f"--lock-wait-timeout={_LOCK_WAIT}",
        f"--dbname={shown.strip()}",
    ]


def rows_of_dump(text: str, table: str) -> list[dict[str, str | None]]:
    """Return a table's rows out of the script that ``pg_restore --data-only`` writes."""
    rows: list[dict[str, str | None]] = []
    columns: list[str] | None = None
    for line in text.splitlines():
        if columns is None:
            head = re.fullmatch(rf"COPY (?:\S+\.)?{re.escape(table)} \((.*)\) FROM stdin;", line)
            columns = None if head is None else [name.strip(' "') for name in head[1].split(",")]
        elif line == "\\.":
            columns = None
        else:
            values = [None if value == "\\N" else value for value in line.split("\t")]
            rows.append(dict(zip(columns, values)))
    return rows


def schema_of(rows: Mapping[str, Sequence[Mapping[str, object]]]) -> tuple[int | None, int | None]:
    """Return schema version and compat version out of the rows of Synapse's two tables, as numbers or texts.

    Tables of synapse/storage/schema/common/schema_version.sql and schema_compat_version.sql.
    """

    def number(table: str, column: str) -> int | None:
        for row in rows.get(table, ()):
            value = row.get(column)
            if _is_number(value) or (isinstance(value, str) and value.isdecimal()):
                return int(t.cast("int", value))
        return None

    return number("schema_version", "version"), number("schema_compat_version", "compat_version")


def explain_dump(stderr: str, connection: Connection, folder: str) -> str:
    """Return why pg_dump failed and what to do, out of what it says."""
    said = " ".join(line.strip() for line in stderr.splitlines() if line.strip())[-600:] or "it said nothing"
    advice = "Look at the database's own log."
    if "No space left on device" in said or "Disk quota exceeded" in said:
        advice = f"Make room in {folder}, or name another folder in 'path'."
    elif "lock" in said.lower() and ("timeout" in said or "could not obtain" in said):
        advice = "Something keeps a table locked: let it end, and run again."
    elif "password" in said or "authentication failed" in said:
        advice = "Give postgresql.passfile (readable for the service's user) or postgresql.password."
    elif "permission denied" in said:
        advice = "Give the role that owns Synapse's tables in postgresql.user."
    elif "server version mismatch" in said:
        advice = "Install the client programs of the server's release."
    return f"Cannot dump the PostgreSQL database {connection.name}: {said.rstrip('.')}. {advice} No backup was made."


# -------------------------------------------------------------------------------------------------------------- restore


def _as_user(user: str | None, shell: Sequence[str], script: str, source: str) -> str:
    """Return a command that runs a script as the service's user, with a file that only root can read on its input."""
    prefix = [] if user is None else ["runuser", "-u", user, "--"]
    words = " ".join(shlex.quote(word) for word in (*prefix, *shell, script))
    return f"{words} < {shlex.quote(source)}"


def _around(path: str, sha256: str, unit: str | None, command: str) -> list[str]:
    """Put what has to come before and after around the command that restores."""
    check = f"echo {shlex.quote(f'{sha256}  {path}')} | sha256sum --check"
    if unit is None:
        return [check, command]
    name = shlex.quote(unit)
    return [check, f"systemctl stop {name}", command, f"systemctl start {name}"]


def sqlite_restore(path: str, sha256: str, *, database: str, user: str | None, unit: str | None) -> list[str]:
    """Return the commands that put an SQLite backup in the place of the database, which the server must not use then.

    ``user`` owns the database; ``None`` where that is whoever types. What root's shell opens is the backup alone.
    """
    place, new = shlex.quote(database), shlex.quote(f"{database}.restored")
    logs = " ".join(shlex.quote(f"{database}{ending}") for ending in ("-wal", "-shm", "-journal"))
    script = f"umask 077 && cat > {new} && rm -f {logs} && mv -f {new} {place}"
    return _around(path, sha256, unit, _as_user(user, ["sh", "-c"], script, path))


def postgresql_restore(
    path: str,
    sha256: str,
    *,
    tools: Tools,
    server_version: int,
    connection: Connection,
    user: str | None,
    unit: str | None,
) -> list[str]:
    """Return the commands that put a dump in the place of what the role owns in the database, all of it or nothing.

    Everything happens in one transaction, which is committed only if the dump was read to its end. Where the schema
    "public" is the role's own it goes with the rest, and no dump makes it: to pg_dump it comes with the database.
    """
    old_server = tools.major >= _SETS_TRANSACTION_TIMEOUT > server_version // 10000
    restore = f"{shlex.quote(tools.program('pg_restore'))} --no-owner --no-privileges --no-comments --file=-"
    restore += " | sed '1,40{/^SET transaction_timeout = 0;$/d}'" if old_server else ""
    psql = shlex.quote(tools.program("psql"))
    psql += " --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1"
    public = (
        r"DO \$\$BEGIN CREATE SCHEMA public; EXCEPTION WHEN duplicate_schema OR insufficient_privilege THEN END\$\$;"
    )
    script = (
        f'{{ echo "BEGIN; DROP OWNED BY CURRENT_USER; {public}" && {restore} && echo "COMMIT;"; }} | '
        f"{psql} --dbname={shlex.quote(connection.shown)}"
    )
    return _around(path, sha256, unit, _as_user(user, ["bash", "-o", "pipefail", "-c"], script, path))
