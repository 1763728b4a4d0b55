#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_database_backup
short_description: Back up the database of a Synapse homeserver while it serves
version_added: 0.1.0
author:
  - Matrix Fleet maintainers (@matrix-fleet)
description:
  - Makes one backup of the server's database, SQLite or PostgreSQL, as it is at one instant, and checks that it can be
    read. The server need not be stopped.
  - An SQLite database is copied by SQLite's own online backup, a PostgreSQL database is dumped by C(pg_dump) in its
    custom format. Both happen as the service's user; the result belongs to root alone.
  - A backup is complete if it has a manifest, a file of its name with C(.json) added, which is written last. What an
    interrupted run left behind is cleared away by the next.
  - Only the database is backed up, neither media nor the signing key nor the configuration.
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - Nothing is written or copied. RV(path) has the time of the dry run.
  diff_mode:
    details:
      - The diff lists the complete backups of the folder.
  idempotent:
    support: none
    details:
      - Each run makes a backup, unless there is no database yet.
options:
  database:
    description:
      - The server's SQLite file. Where there is none, or an empty one, there is nothing to back up.
      - One of O(database), O(postgresql) and O(config_path) is needed.
    type: path
  postgresql:
    description:
      - How to reach the server's PostgreSQL database, as libpq takes it, which is what Synapse's C(database.args) has.
      - Needed are C(psycopg2) in the environment of O(python), and C(pg_dump) and C(pg_restore) of the server's
        release or a newer one, on the C(PATH) or where distributions keep several releases beside each other.
      - A database that does not exist or has no tables leaves nothing to back up.
    type: dict
    suboptions:
      dbname:
        description: Name of the database.
        type: str
      user:
        description: The role to connect as. It has to be the owner of Synapse's tables.
        type: str
      password:
        description:
          - Its password. O(postgresql.passfile) keeps it out of the task.
          - On the host it is only ever in a file without a name that O(user) alone can read, for as long as the dump
            takes.
        type: str
      sslpassword:
        description: The password of the client's private key, the file of libpq's C(sslkey).
        type: str
      passfile:
        description: A password file on the host, readable for O(user).
        type: path
      host:
        description: Host name, address, or the folder of a Unix socket.
        type: str
      port:
        description: The port.
        type: int
      args:
        description: Further parameters of libpq, such as C(sslmode). A password among them is refused.
        type: dict
        default: {}
  config_path:
    description:
      - A configuration file of Synapse that says which database it is, instead of O(database) and O(postgresql). It
        need not be in place, and is read with the rights of the task.
      - Of several databases (C(databases)), and of an SQLite file without a path from the root, none can be told.
    type: path
  user:
    description:
      - The user that Synapse runs as. Only this user opens the database.
      - Unless given, the owner of O(database), or of the environment of O(python).
    type: str
  python:
    description:
      - An interpreter with C(sqlite3), or with C(psycopg2) for PostgreSQL, that of Synapse's environment.
      - For SQLite the one that runs the module will do where this one does not exist.
    type: path
    default: /var/lib/synapse/venv/bin/python
  path:
    description:
      - The folder for backups. It is made with mode 0711 where it is missing, so that O(user) can get through, but not
        look into it.
      - Nobody else than root may be able to change it or what leads to it, or the task is refused.
    type: path
    default: /var/lib/synapse/backups
  label:
    description:
      - What the backup is for. It becomes a part of the file's name, so letters, digits and C(. _ + -) are allowed.
    type: str
    default: backup
  version:
    description:
      - The version of the Synapse that serves, to be noted in the manifest.
    type: str
  unit:
    description:
      - The systemd unit of the server, to be stopped and started in RV(restore).
    type: str
  keep:
    description:
      - How many backups stay, this one included. The oldest ones beyond it are removed once this one is complete.
      - Besides, for each release in O(releases_path) the newest backup stays that this release can read. A release that
        can be gone back to so keeps its way back, however many backups were made since.
      - Only files with a manifest of this module are ever removed.
    type: int
    default: 3
  releases_path:
    description:
      - The folder of the releases that could be gone back to. It may be missing.
    type: path
    default: /var/lib/synapse/releases
  timeout:
    description:
      - Seconds after which the backup is given up.
    type: int
    default: 14400
seealso:
  - name: Backing up a Synapse homeserver
    description: What else has to be backed up.
    link: https://element-hq.github.io/synapse/latest/usage/administration/backups.html
"""

EXAMPLES = r"""
---
- name: Back up an SQLite database before an upgrade
  matrix_fleet.synapse.synapse_database_backup:
    database: /var/lib/synapse/homeserver.db
    user: synapse
    label: 1.150.0-to-1.163.2
    version: 1.150.0
    unit: matrix-synapse.service
  register: backup

- name: Dump a PostgreSQL database to a disk of its own, and keep a week of dumps
  matrix_fleet.synapse.synapse_database_backup:
    postgresql:
      dbname: synapse
      user: synapse
      host: db.example.org
      passfile: /etc/synapse/secrets/pgpass
      args:
        sslmode: verify-full
    user: synapse
    path: /srv/backups/synapse
    label: nightly
    keep: 7
"""

RETURN = r"""
path:
  description: The backup; V(null) where there is no database yet.
  returned: success
  type: str
  sample: /var/lib/synapse/backups/20260101T000000Z-1.150.0-to-1.163.2.sqlite3
engine:
  description: One of V(sqlite) and V(postgresql).
  returned: success
  type: str
  sample: sqlite
size:
  description: Size of the backup in bytes. V(null) in check mode, and where there is no database yet.
  returned: success
  type: int
  sample: 104857600
sha256:
  description: The backup's digest. V(null) as RV(size) is.
  returned: success
  type: str
  sample: 0f343b0931126a20f133d67c2b018a3b5d4f2f3f7d1b2a0e6f0d1a2b3c4d5e6f
schema_version:
  description: The version of the database's schema in the backup. V(null) as RV(size) is.
  returned: success
  type: int
  sample: 93
compat_version:
  description:
    - A Synapse whose own schema version is lower cannot use this database. V(null) as RV(size) is, and before Synapse
      1.37.
  returned: success
  type: int
  sample: 89
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 4.2
restore:
  description:
    - Commands that a person types, as root, to put the backup in the place of the database. Empty where RV(size) is
      V(null).
    - No password is in them; where one is needed, C(psql) asks.
  returned: success
  type: list
  elements: str
  sample:
    - >-
      echo '0f343b0931126a20f133d67c2b018a3b5d4f2f3f7d1b2a0e6f0d1a2b3c4d5e6f
      /var/lib/synapse/backups/20260101T000000Z-nightly.sqlite3' | sha256sum --check
pruned:
  description: Older backups that were removed, or would be.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/synapse/backups/20251201T000000Z-nightly.sqlite3]
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import glob
import hashlib
import inspect
import os
import pwd
import secrets
import shutil
import stat
import sys
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _backup, _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._at_hand import find_releases
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._configured import configured
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._module import DiscreetModule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import database_backup as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probing import (
    account_for,
    as_named,
    require_trusted,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    TIMED_OUT,
    Account,
    CommandResult,
    SynapseError,
    ask_python,
    module_runner,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import secret_arguments

_FOLDER_MODE = 0o711
_FILE_MODE = 0o600
_WRITABLE = 0o022
_LINKS = 40
_BLOCK = 1024 * 1024
_WAIT = 5.0
# Until a server that does not answer counts as such, and for a version to be printed.
_ASKING = 60.0
_PROGRAMS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*")
_SERVICE = "synapse"
_GIVE_TO_ROOT = (
    "a backup could be exchanged there. Give it to root ('chown root', 'chmod go-w'), or name another folder in "
    "'path', such as /var/backups/synapse"
)
_NAME_THE_USER = "root does not open a database there. Name the user that Synapse runs as in 'user'"


@dataclasses.dataclass(frozen=True)
class Source:
    """What is to be backed up; ``size`` is in bytes, ``known`` is false where a dry run could not ask."""

    exists: bool
    size: int = 0
    known: bool = True
    server_version: int = 0
    tools: _backup.Tools | None = None


@dataclasses.dataclass(frozen=True)
class Made:
    """A file with the data of a backup that is root's alone, still without its name."""

    partial: str
    size: int
    sha256: str
    schema_version: int
    compat_version: int | None


class Host:
    """What the module knows and may do on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check_mode: bool = module.check_mode
        self.params: dict[str, t.Any] = module.params
        # Nothing is to go on writing for a run that was killed.
        self.run = module_runner(module, ends_with_us=True)
        self.begun = time.monotonic()
        if self.params["config_path"] is not None:
            found = configured(self.run, self.params["config_path"], self.params["user"], [self.params["python"]])
            module.no_log_values.update(found.secrets)
            self.params = {**self.params, "database": found.path, "postgresql": found.postgresql}
        self.engine = "sqlite" if self.params["database"] else "postgresql"
        self.database: str = os.path.abspath(self.params["database"] or "/")
        self.python: str = self.params["python"]
        self.folder: str = self.params["path"]
        self.connection: _backup.Connection | None = None
        if self.engine == "postgresql":
            self.connection = _backup.connection_of(self.params["postgresql"])

    def left(self) -> float:
        """Return the seconds that are left of the time limit."""
        return max(1.0, float(self.params["timeout"]) - (time.monotonic() - self.begun))

    def late(self) -> SynapseError:
        """Return what to say where the time limit ended something."""
        return SynapseError(
            f"The backup did not end within {self.params['timeout']} s: give more in 'timeout', or look at what slows "
            "the host down. No backup was made."
        )

    def command(
        self,
        argv: t.Sequence[str],
        account: Account | None,
        *,
        given: t.Mapping[int, int] | None = None,
        env: t.Mapping[str, str] | None = None,
        kept: t.Sequence[int] = (),
        timeout: float | None = None,
    ) -> CommandResult:
        """Run a command with descriptors of this process as its standard streams; ``kept`` keep their numbers."""
        return module_runner(self.module, pass_fds=kept, streams=given, ends_with_us=True)(
            argv,
            env={"LC_ALL": "C", **(env or {})},
            cwd="/",
            account=account,
            timeout=self.left() if timeout is None else timeout,
        )


# ----------------------------------------------------------------------------------------------------------- the folder


def _distrust(status: os.stat_result, *, last: bool) -> str | None:
    """Return why root must not write below a folder; ``None`` where nobody else can change it."""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to the user with the number {status.st_uid}"
    if stat.S_ISLNK(status.st_mode):
        return None
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    # In a folder with the sticky bit others cannot rename or remove what root has there.
    if status.st_mode & _WRITABLE and (last or not status.st_mode & stat.S_ISVTX):
        return f"can be changed by others than root (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def trusted(path: str, advice: str = _GIVE_TO_ROOT) -> str:
    """Return a path without links which nobody else than root can bend; its end may be missing.

    Of another user than root everything is taken as it is: nothing is gained by bending its paths.
    Raises ``SynapseError``.
    """
    if os.geteuid() != 0:
        return os.path.abspath(path)
    rest = _names(os.path.abspath(path))
    done, links = "/", 0
    while rest:
        here = os.path.normpath(os.path.join(done, rest.pop(0)))
        try:
            status = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(status.st_mode) else None
        except FileNotFoundError:
            return os.path.join(here, *rest)
        except OSError as error:
            raise SynapseError(f"Cannot look at {_files.describe(here, error)}.") from error
        why = _distrust(status, last=not rest)
        if why is not None or links > _LINKS:
            where = here if here == path else f"{here}, on the way to {path},"
            raise SynapseError(f"{where} {why or 'is one link too many'}: {advice}. Nothing was changed.")
        if target is None:
            done = here
        else:
            links += 1
            rest = [*_names(target), *rest]
            done = "/" if target.startswith("/") else done
    return done


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def look(folder: str) -> _backup.Listing:
    """List the folder and read its manifests; nothing where there is none."""
    try:
        names = tuple(sorted(os.listdir(folder)))
    except FileNotFoundError:
        return _backup.Listing()
    except OSError as error:
        raise SynapseError(f"Cannot look into {_files.describe(folder, error)}.") from error
    manifests = []
    for name in names:
        if not name.endswith(_backup.MANIFEST_ENDING) or name.startswith("."):
            continue
        with contextlib.suppress(SynapseError):
            path = os.path.join(folder, name)
            data = _files.read(path, limit=_backup.LARGEST_MANIFEST, follow=False) or b""
            manifest = _backup.parse_manifest(data, name)
            if manifest is not None:
                manifests.append((name, manifest))
    return _backup.Listing(names, tuple(manifests))


@contextlib.contextmanager
def held(folder: str) -> t.Iterator[None]:
    """Keep other runs out of the folder; nothing happens where there is none. Raises ``SynapseError``."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    except OSError as error:
        raise SynapseError(f"Cannot open {_files.describe(folder, error)}.") from error
    try:
        until = time.monotonic() + _WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    break  # a file system without locks
                if time.monotonic() > until:
                    raise SynapseError(
                        f"Another run makes a backup in {folder}: let it end, then run again. Nothing was changed."
                    ) from error
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def sweep(folder: str) -> None:
    """Remove what interrupted runs left. What belonged to the service's user is removed without following links."""
    for name in _backup.leftovers(look(folder)):
        path = os.path.join(folder, name)
        if name.startswith(_backup.COPY):
            shutil.rmtree(path, ignore_errors=True)
        else:
            _files.remove(path)


def prune(host: Host, names: t.Iterable[str]) -> tuple[str, ...]:
    """Remove backups; return those that are gone.

    The manifest goes out of sight first, under a name by which an interrupted removal is known. Of a backup that cannot
    be removed it comes back: that one stays whole.
    """
    gone = []
    for name in names:
        path = os.path.join(host.folder, name)
        manifest = path + _backup.MANIFEST_ENDING
        hidden = os.path.join(host.folder, _backup.partial_name(name + _backup.MANIFEST_ENDING, secrets.token_hex(8)))
        try:
            os.rename(manifest, hidden)
            try:
                os.unlink(path)
            except OSError:
                os.rename(hidden, manifest)
                raise
            gone.append(name)
            os.unlink(hidden)
        except OSError as error:
            host.module.warn(
                f"The new backup is complete, but an old one stays: {_files.describe(path, error)}. Look at it."
            )
    return tuple(gone)


# ---------------------------------------------------------------------------------------------------------- taking over


def _shared(handle: int) -> bool:
    """Say whether somebody may still have the file open for writing (fcntl(2), ``F_SETLEASE``)."""
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True  # also a file system that cannot tell
    return False


def take(path: str, owner: int, place: str) -> tuple[str, int, str]:
    """Make a file this process's own, alone; return its name, size and SHA-256.

    Another process that still has it open for writing could change it later: it is then copied to beside ``place``.
    Raises ``SynapseError`` for everything that is not the plain file which ``owner`` made.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SynapseError(f"Cannot take the copy over: {_files.describe(path, error)}. No backup was made.") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != owner:
            raise SynapseError(
                f"What lies at {path} is not the file that was to be copied there, but something that the service's "
                "user put in its place. No backup was made: look for what runs as that user."
            )
        _files.own(handle, _files.Ownership(os.geteuid(), os.getegid()))
        os.fchmod(handle, _FILE_MODE)
        if _shared(handle):
            partial, own = _files.stage_open(place, mode=_FILE_MODE)
            try:
                size, digest = _read(handle, own)
                os.fsync(own)
            except BaseException:
                _files.discard(partial)
                raise
            finally:
                os.close(own)
            _files.discard(path)
            return partial, size, digest
        size, digest = _read(handle, None)
        os.fsync(handle)
        return path, size, digest
    except OSError as error:
        raise SynapseError(
            f"Cannot take the copy over: {_files.describe(path, error)}. Look at the room and the health of that file "
            "system. No backup was made."
        ) from error
    finally:
        os.close(handle)


def _read(handle: int, copy: int | None) -> tuple[int, str]:
    """Return size and SHA-256 of an open file, and write what is read to ``copy``."""
    digest, size = hashlib.sha256(), 0
    while True:
        block = os.read(handle, _BLOCK)
        if not block:
            return size, digest.hexdigest()
        digest.update(block)
        size += len(block)
        rest = memoryview(block)
        while copy is not None and rest:
            rest = rest[os.write(copy, rest) :]


# --------------------------------------------------------------------------------------------------------------- SQLite


def account_of(host: Host) -> Account | None:
    """Return as whom the database is opened. Raises ``SynapseError``."""
    if host.params["user"] is not None:
        return _files.account_of(host.params["user"])
    if os.geteuid() != 0:
        return None
    if host.engine == "postgresql":
        account = account_for(None, host.python)
        if account is None and os.path.exists(host.python):
            require_trusted(host.python)
        return account
    try:
        path, status = as_named(host.database)
    except OSError:
        return None
    if status.st_uid != 0:
        return Account(status.st_uid, status.st_gid)
    trusted(os.path.dirname(path), _NAME_THE_USER)
    return None


def find_sqlite(host: Host) -> Source:
    """Look at the database without opening it."""
    try:
        status = os.stat(host.database)
    except (FileNotFoundError, NotADirectoryError):
        return Source(False)
    except OSError as error:
        raise SynapseError(f"Cannot look at the database {_files.describe(host.database, error)}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise SynapseError(f"{host.database} is not a file: name the server's SQLite database in 'database'.")
    log = 0
    with contextlib.suppress(OSError):
        log = os.stat(f"{os.path.realpath(host.database)}-wal").st_size
    return Source(status.st_size > 0, status.st_size + log)


def copy_sqlite(host: Host, account: Account | None, name: str) -> Made | None:
    """Have the service's user copy the database, and take the copy over; ``None`` where there are no tables yet."""
    place = os.path.join(host.folder, f"{_backup.COPY}{secrets.token_hex(8)}")
    user = os.geteuid() if account is None else account.uid
    group = os.getegid() if account is None else account.gid
    _files.make_directory(place, ownership=_files.Ownership(user, group), mode=0o700)
    copy = os.path.join(place, "database")
    try:
        # Root runs no environment that somebody else may be able to change.
        ours = os.access(host.python, os.X_OK) and (account is not None or os.geteuid() != 0)
        python = host.python if ours else sys.executable
        request = {"sqlite": {"database": host.database, "target": copy}}
        answer = ask(host, python, request, account, timeout=host.left())
        state, reason = answer.get("state"), str(answer.get("reason", ""))[:1000]
        if state == "absent":
            return None
        if state != "copied":
            raise SynapseError(explain_copy(host, state, reason))
        schema_version, compat_version = schema_in(answer.get("rows"), host.database)
        # From here on the service's user can do nothing in the folder any more.
        _files.own(place, _files.Ownership(os.geteuid(), os.getegid()))
        os.chmod(place, 0o700)
        taken, size, digest = take(copy, user, os.path.join(host.folder, name))
        if taken == copy:
            # Out of the folder, which goes.
            partial = os.path.join(host.folder, _backup.partial_name(name, secrets.token_hex(8)))
            os.rename(copy, partial)
            taken = partial
        return Made(taken, size, digest, schema_version, compat_version)
    except OSError as error:
        raise SynapseError(
            f"Cannot take the copy over: {_files.describe(place, error)}. No backup was made."
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def ask(
    host: Host, python: str, request: t.Mapping[str, object], account: Account | None, *, timeout: float
) -> dict[str, t.Any]:
    """Ask the probe. Raises ``SynapseError``."""
    try:
        return ask_python(host.run, python, inspect.getsource(probe), request, account=account, timeout=timeout)
    except SynapseError as error:
        if error.details.get("rc") == TIMED_OUT and timeout > _ASKING:
            raise host.late() from error
        said = " ".join(str(error.details.get("stderr", "")).split())[-300:]
        raise SynapseError(
            f"{error.msg}: it has to read the database. {said or 'It said nothing'}. Look at 'python' and 'user'. No "
            "backup was made.",
            **error.details,
        ) from error


def explain_copy(host: Host, state: object, reason: str) -> str:
    """Return why there is no copy, and what to do."""
    if state == "unreachable":
        return (
            f"The user that the database belongs to cannot get to {host.folder}: let others pass through each folder "
            "on the way ('chmod o+x'), or name another folder in 'path'. No backup was made."
        )
    if state == "damaged":
        return (
            f"The database {host.database} is damaged, SQLite says of its copy: {reason.rstrip('.')}. The copy was not "
            "kept. Restore an earlier backup, or save what is left with 'sqlite3 homeserver.db .recover'."
        )
    advice = "Look at the file and at who owns it."
    if "full" in reason or "No space" in reason:
        advice = f"Make room in {host.folder}, or name another folder in 'path'."
    elif "locked" in reason:
        advice = "Something keeps it locked for long: let it end, and run again."
    elif "not a database" in reason:
        advice = "Name the server's SQLite file in 'database'."
    return f"Cannot copy the database {host.database}: {reason.rstrip('.')}. {advice} No backup was made."


def schema_in(rows: object, where: str) -> tuple[int, int | None]:
    """Read the state of the schema. Raises ``SynapseError`` where the database is not one of Synapse."""
    found: tuple[int | None, int | None] = (None, None)
    with contextlib.suppress(TypeError, AttributeError, ValueError):
        found = _backup.schema_of(t.cast("t.Any", rows))
    if found[0] is None:
        raise SynapseError(
            f"{where} has no schema_version, so it is no database of Synapse: name Synapse's. No backup was made."
        )
    return found[0], found[1]


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


def find_postgresql(host: Host, account: Account | None) -> Source:
    """Ask the server about the database, and find the programs to dump it. Raises ``SynapseError``."""
    connection = t.cast("_backup.Connection", host.connection)
    if not os.access(host.python, os.X_OK):
        if host.check_mode:
            host.module.warn(f"There is no interpreter at {host.python} yet, so the database was not asked.")
            return Source(True, known=False)
        raise SynapseError(
            f"There is no interpreter at {host.python}: install Synapse's environment first (module synapse_venv), or "
            "name another one with psycopg2 in 'python'. No backup was made."
        )
    request = {"postgresql": dict(connection.request)}
    answer = ask(host, host.python, request, account, timeout=min(_ASKING, host.left()))
    state, reason = answer.get("state"), str(answer.get("reason", "")).rstrip(".")
    if state == "absent":
        return Source(False)
    if state == "present":
        try:
            version, size = int(answer["server_version"]), int(answer["size"])
        except (KeyError, TypeError, ValueError):
            raise SynapseError(
                f"{host.python} was asked about the PostgreSQL database {connection.name}, and what it answered cannot "
                "be understood (server_version and size). Something else than Synapse's own environment answers there: "
                "look at it. Nothing was changed."
            ) from None
        tools = _backup.choose_tools(find_tools(host, account), version)
        return Source(True, size, server_version=version, tools=tools)
    if state == "foreign":
        why, advice = "it has tables, but no schema_version", "Name Synapse's database in postgresql.dbname."
    elif state == "no-driver":
        why, advice = f"{host.python} cannot load psycopg2: {reason}", "Install Synapse with the extra postgres."
    else:
        why, advice = reason, "Start the server, or correct 'postgresql'."
    raise SynapseError(
        f"Cannot back up the PostgreSQL database {connection.name}: {why}. {advice} Nothing was changed."
    )


def find_tools(host: Host, account: Account | None) -> t.Iterator[_backup.Tools]:
    """Yield the client programs of PostgreSQL on this host, releases that lie beside each other first."""
    folders = [folder for pattern in _PROGRAMS for folder in sorted(glob.glob(pattern))]
    folders += [folder for folder in os.environ.get("PATH", "").split(":") if folder.startswith("/")]
    for folder in dict.fromkeys(folders):
        programs = [os.path.join(folder, name) for name in ("pg_dump", "pg_restore")]
        if not all(os.access(program, os.X_OK) for program in programs):
            continue
        said = host.command([programs[0], "--version"], account, timeout=_ASKING)
        version = _backup.major_of(said.stdout)
        if version is not None:
            yield _backup.Tools(folder, version)


@contextlib.contextmanager
def secret_files(host: Host, account: Account | None) -> t.Iterator[tuple[list[int], str | None, dict[str, str]]]:
    """Give what ``account`` has to inherit: the password file, and the environment that names the rest.

    They have no name: nobody else can open them, and they go with this process and the one that inherits them.
    """
    connection = t.cast("_backup.Connection", host.connection)
    ownership = _files.KEEP if account is None else _files.Ownership(account.uid, account.gid)
    kept: list[int] = []
    passfile, env = None, {}

    def file_of(text: str) -> str:
        data = text.encode("utf-8", "surrogateescape")
        kept.append(files.enter_context(_files.nameless(data, ownership=ownership)))
        return f"/proc/self/fd/{kept[-1]}"

    with contextlib.ExitStack() as files:
        if connection.password is not None:
            passfile = file_of(_backup.passfile_line(connection.password))
        if connection.sslpassword is not None:
            env["PGSERVICEFILE"] = file_of(_backup.service_text(_SERVICE, {"sslpassword": connection.sslpassword}))
        yield kept, passfile, env


def dump_postgresql(host: Host, account: Account | None, name: str, source: Source) -> Made:
    """Have the service's user dump the database into a file of root's. Raises ``SynapseError``."""
    connection, tools = t.cast("_backup.Connection", host.connection), t.cast("_backup.Tools", source.tools)
    partial, handle = _files.stage_open(os.path.join(host.folder, name), mode=_FILE_MODE)
    done = False
    try:
        try:
            with secret_files(host, account) as (kept, passfile, env):
                service = _SERVICE if env else None
                command = _backup.dump_command(tools, connection, passfile=passfile, service=service)
                ended = host.command(command, account, given={1: handle}, env=env, kept=kept)
        finally:
            os.close(handle)
        if ended.rc == TIMED_OUT:
            raise host.late()
        if ended.rc != 0:
            raise SynapseError(_backup.explain_dump(ended.stderr, connection, host.folder), rc=ended.rc)
        taken, size, digest = take(partial, os.geteuid(), os.path.join(host.folder, name))
        partial = taken
        schema_version, compat_version = examine_dump(host, account, taken, tools)
        done = True
        return Made(taken, size, digest, schema_version, compat_version)
    finally:
        if not done:
            _files.discard(partial)


def examine_dump(host: Host, account: Account | None, path: str, tools: _backup.Tools) -> tuple[int, int | None]:
    """See that the dump can be read, and read the state of the schema out of it. Raises ``SynapseError``."""
    connection = t.cast("_backup.Connection", host.connection)
    program = tools.program("pg_restore")
    rows: dict[str, list[dict[str, str | None]]] = {}
    selected = ["--data-only", "--table=schema_version", "--table=schema_compat_version", "--file=-"]
    for arguments in (["--list"], selected):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            ended = host.command([program, *arguments], account, given={0: handle})
        finally:
            os.close(handle)
        if ended.rc == TIMED_OUT:
            raise host.late()
        if ended.rc != 0:
            said = " ".join(ended.stderr.split())[-300:]
            raise SynapseError(
                f"The dump of the PostgreSQL database {connection.name} cannot be read: {said or 'pg_restore failed'}. "
                "It was not kept; look at the disk, and run again.",
                rc=ended.rc,
            )
        for table in ("schema_version", "schema_compat_version"):
            rows[table] = _backup.rows_of_dump(ended.stdout, table)
    return schema_in(rows, f"The PostgreSQL database {connection.name}")


# ------------------------------------------------------------------------------------------------------------ the whole


def free_in(folder: str) -> int:
    """Return the bytes that are free for a folder which may not exist yet."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def new_name(host: Host) -> tuple[str, datetime.datetime]:
    """Return a name that no backup has, and the time in it."""
    while True:
        moment = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        name = _backup.file_name(f"{moment:%Y%m%dT%H%M%SZ}", host.params["label"], host.engine)
        if not os.path.lexists(os.path.join(host.folder, name)):
            return name, moment
        time.sleep(0.1)


def restore_commands(host: Host, account: Account | None, path: str, sha256: str, source: Source) -> list[str]:
    """Return what a person types to restore the backup."""
    user = None
    if account is not None:
        try:
            user = pwd.getpwuid(account.uid).pw_name
        except KeyError:
            user = str(account.uid)
    if host.engine == "sqlite":
        # Where it really lies: a link to it stays one.
        database = os.path.realpath(host.database)
        return _backup.sqlite_restore(path, sha256, database=database, user=user, unit=host.params["unit"])
    return _backup.postgresql_restore(
        path,
        sha256,
        tools=t.cast("_backup.Tools", source.tools),
        server_version=source.server_version,
        connection=t.cast("_backup.Connection", host.connection),
        user=user,
        unit=host.params["unit"],
    )


def publish(host: Host, made: Made, manifest: _backup.Manifest) -> None:
    """Give the backup its name, then its manifest. Raises ``SynapseError``; there is no backup then."""
    path = os.path.join(host.folder, manifest.file)
    try:
        # Staged before, so that what an interruption leaves between the two names is known for what it is.
        staged = _files.stage(path + _backup.MANIFEST_ENDING, _backup.render_manifest(manifest), mode=_FILE_MODE)
    except SynapseError:
        _files.discard(made.partial)
        raise
    try:
        _files.publish_new(made.partial, path)
        _files.publish_new(staged, path + _backup.MANIFEST_ENDING)
    except SynapseError:
        _files.discard(path)
        _files.discard(staged)
        raise


def find(host: Host, account: Account | None) -> Source:
    """Look at what is to be backed up."""
    return find_sqlite(host) if host.engine == "sqlite" else find_postgresql(host, account)


def _account(host: Host) -> tuple[Account | None, bool]:
    """Return as whom the database is opened, and whether that is known: a dry run on a bare host predicts."""
    try:
        return account_of(host), True
    except SynapseError:
        if not host.check_mode or host.params["user"] is None:
            raise
        return None, False


def _check(params: t.Mapping[str, t.Any]) -> None:
    # Not mutually_exclusive, which also refuses a null beside a value.
    if sum((bool(params["database"]), params["postgresql"] is not None, bool(params["config_path"]))) != 1:
        raise SynapseError("Give one of 'database' (SQLite), 'postgresql' and 'config_path', and not more.")
    _backup.check_label(params["label"])
    _backup.check_version(params["version"])
    for name in ("keep", "timeout"):
        if params[name] < 1:
            raise SynapseError(f"{name} is {params[name]}, and has to be at least 1.")


def _result(host: Host, todo: _backup.Plan, restore: list[str], manifest: _backup.Manifest | None) -> dict[str, t.Any]:
    def inside(name: str) -> str:
        return os.path.join(host.folder, name)

    return {
        "changed": todo.changed,
        "path": None if todo.file is None else inside(todo.file),
        "engine": host.engine,
        "size": None if manifest is None else manifest.size,
        "sha256": None if manifest is None else manifest.sha256,
        "schema_version": None if manifest is None else manifest.schema_version,
        "compat_version": None if manifest is None else manifest.compat_version,
        "seconds": round(time.monotonic() - host.begun, 2),
        "restore": restore,
        "pruned": [inside(name) for name in todo.prune],
        "diff": todo.diff,
    }


def _refuse_full(host: Host, source: Source) -> None:
    refusal = _backup.room_refusal(host.engine, source.size, free_in(host.folder), host.folder)
    if refusal is not None:
        raise SynapseError(refusal)


def plan(host: Host, listing: _backup.Listing, file: str | None, made: _backup.Manifest | None) -> _backup.Plan:
    """Decide what goes, in view of the releases that could be gone back to."""
    readers = [_backup.Reader(one.version, one.schema) for one in find_releases(host.params["releases_path"])]
    return _backup.plan(listing, file=file, keep=host.params["keep"], made=made, readers=readers)


def predict(host: Host) -> dict[str, t.Any]:
    """Say what would be done, and do nothing."""
    account, known = _account(host)
    source = find(host, account) if known or host.engine == "sqlite" else Source(True, known=False)
    if source.exists:
        _refuse_full(host, source)
    file = new_name(host)[0] if source.exists else None
    listing = look(host.folder)
    made = None if file is None else _backup.expected(listing, file=file, engine=host.engine)
    return _result(host, plan(host, listing, file, made), [], None)


def make(host: Host) -> dict[str, t.Any]:
    """Make the backup; the folder is held. Raises ``SynapseError``."""
    account, _known = _account(host)
    sweep(host.folder)
    source = find(host, account)
    listing = look(host.folder)
    nothing = plan(host, listing, None, None)
    if not source.exists:
        return _result(host, nothing, [], None)
    _refuse_full(host, source)
    name, moment = new_name(host)
    if host.engine == "sqlite":
        made = copy_sqlite(host, account, name)
        if made is None:
            return _result(host, nothing, [], None)
    else:
        made = dump_postgresql(host, account, name, source)
    manifest = _backup.Manifest(
        file=name,
        engine=host.engine,
        label=host.params["label"],
        version=host.params["version"],
        schema_version=made.schema_version,
        compat_version=made.compat_version,
        size=made.size,
        sha256=made.sha256,
        made_at=f"{moment:%Y-%m-%dT%H:%M:%SZ}",
    )
    publish(host, made, manifest)
    todo = plan(host, listing, name, manifest)
    todo = dataclasses.replace(todo, prune=prune(host, todo.prune))
    restore = restore_commands(host, account, os.path.join(host.folder, name), made.sha256, source)
    return _result(host, todo, restore, manifest)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Look, and unless only a prediction is wanted, back up."""
    _check(module.params)
    host = Host(module)
    host.folder = trusted(host.folder)
    if host.check_mode:
        return predict(host)
    if host.engine == "postgresql" or find_sqlite(host).exists:
        _files.make_directory(host.folder, mode=_FOLDER_MODE)
        # Made by somebody else at this very moment?
        host.folder = trusted(host.folder)
    with held(host.folder):
        return make(host)


def _secrets(params: t.Mapping[str, t.Any]) -> t.Iterable[str]:
    """Return secrets where they do not belong, which Ansible must not show beside the refusal."""
    postgresql = params.get("postgresql") or {}
    return [value for value in secret_arguments(postgresql.get("args") or {}).values() if value]


def main() -> None:
    """Run the module."""
    module = DiscreetModule(
        unlogged=("postgresql",),
        secrets=_secrets,
        argument_spec={
            "database": {"type": "path"},
            "postgresql": {
                "type": "dict",
                "options": {
                    "dbname": {"type": "str"},
                    "user": {"type": "str"},
                    "password": {"type": "str", "no_log": True},
                    "sslpassword": {"type": "str", "no_log": True},
                    "passfile": {"type": "path", "no_log": False},
                    "host": {"type": "str"},
                    "port": {"type": "int"},
                    "args": {"type": "dict", "default": {}},
                },
            },
            "config_path": {"type": "path"},
            "user": {"type": "str"},
            "python": {"type": "path", "default": "/var/lib/synapse/venv/bin/python"},
            "path": {"type": "path", "default": "/var/lib/synapse/backups"},
            "label": {"type": "str", "default": "backup"},
            "version": {"type": "str"},
            "unit": {"type": "str"},
            "keep": {"type": "int", "default": 3},
            "releases_path": {"type": "path", "default": "/var/lib/synapse/releases"},
            "timeout": {"type": "int", "default": 14400},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
