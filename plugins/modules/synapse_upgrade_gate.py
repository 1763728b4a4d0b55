#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_upgrade_gate
short_description: Say whether a release of Synapse may serve a database
version_added: 0.1.0
author:
  - Matrix Fleet maintainers (@matrix-fleet)
description:
  - Looks at the database of a homeserver, at the release of Synapse that is to serve it and at the one that serves now,
    and says what Synapse would refuse at its start, before anything is changed.
  - Also says whether there is a way back afterwards, and whether there is room for a backup.
  - It only reads, while the server serves. The database is asked as the service's user, through the interpreter of the
    release that is to serve, whose own checks count.
  - Asked in a rollback with the old release as O(python) and the new one as O(current_python), it says whether the old
    one can still read the database.
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - Where O(python) does not exist yet, what is known of O(version) is asked instead.
  diff_mode:
    support: none
    details:
      - Nothing is changed.
options:
  python:
    description:
      - The interpreter of the release that is to serve.
    type: path
    required: true
  version:
    description:
      - The version of Synapse that is to serve, for where O(python) does not exist yet.
    type: str
  current_python:
    description:
      - The interpreter of the release that serves now. It is not run where O(python) exists, so it may be broken.
    type: path
  rollback_python:
    description:
      - The interpreter of the release that a rollback would go back to, where that is not the one that serves now,
        because an earlier upgrade was interrupted. It is what RV(way_back) is about then. It is not run.
    type: path
  database:
    description:
      - The server's SQLite file, which may not exist yet.
    type: path
  postgresql:
    description:
      - How to reach the server's PostgreSQL database, as libpq takes it, which is what Synapse's C(database.args) has.
        It is read through the C(psycopg2) of O(python).
    type: dict
    suboptions:
      dbname:
        description: Name of the database.
        type: str
      user:
        description: The role to connect as.
        type: str
      password:
        description: Its password. O(postgresql.passfile) keeps it out of the task.
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
  allow_unsafe_locale:
    description:
      - Whether Synapse's configuration has C(allow_unsafe_locale) in its database section, and so accepts another
        collation than C. With O(config_path) that is read there.
    type: bool
    default: false
  user:
    description:
      - The user that Synapse runs as. The database is read as this user. Unless given, an SQLite file is read as its
        owner.
    type: str
  releases_path:
    description:
      - The folder of the releases that are at hand, to name those that the database allows.
    type: path
  backup:
    description:
      - Whether a backup is going to be made in O(backup_path) before the release is switched.
    type: bool
    default: false
  backup_path:
    description:
      - The folder of the backups. With O(backup), there has to be room in it; backups that are there are named.
    type: path
  unit:
    description:
      - The systemd unit of the main process.
    type: str
  worker_units:
    description:
      - The systemd units of the workers. Each has to be ordered after O(unit).
    type: list
    elements: str
    default: []
  fail:
    description:
      - Whether the task fails where the release may not serve. Otherwise RV(allowed) says so.
    type: bool
    default: true
notes:
  - Where a PostgreSQL server keeps its data is not looked at, so its own room is not judged.
seealso:
  - module: matrix_fleet.synapse.synapse_venv
  - name: Upgrading Synapse
    description: Synapse's notes on upgrades, and which versions can be rolled back to.
    link: https://element-hq.github.io/synapse/latest/upgrade.html
"""

EXAMPLES = r"""
---
- name: Ask whether the new release may serve
  matrix_fleet.synapse.synapse_upgrade_gate:
    python: /var/lib/synapse/releases/1.163.2-0123456789ab/bin/python
    current_python: /var/lib/synapse/venv/bin/python
    database: /var/lib/synapse/homeserver.db
    user: synapse
    releases_path: /var/lib/synapse/releases
    backup: true
    backup_path: /var/lib/synapse/backups
  register: gate

- name: Ask in a rollback whether the old release can still read the database
  matrix_fleet.synapse.synapse_upgrade_gate:
    python: /var/lib/synapse/releases/1.150.0-ba9876543210/bin/python
    current_python: /var/lib/synapse/venv/bin/python
    postgresql:
      dbname: synapse
      user: synapse
      host: /var/run/postgresql
    user: synapse
    fail: false
  register: gate
"""

RETURN = r"""
allowed:
  description: Whether the release may serve, which it may where no finding is an error.
  returned: always
  type: bool
  sample: true
msg:
  description: The same in a sentence, with every error and what to do about it.
  returned: always
  type: str
  sample: Synapse 1.163.2 may serve.
findings:
  description:
    - What is worth knowing, errors first. C(severity) is V(error), V(warning) or V(info).
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: Which finding it is.
      type: str
    severity:
      description: How severe it is.
      type: str
    message:
      description: What was found, and where.
      type: str
    remedy:
      description: What to do about it.
      type: str
  sample:
    - id: background_updates_pending
      severity: warning
      message: "The database has 1 background updates that are not finished: event_search"
      remedy: Rather wait until the present release has finished them; the new one goes on with them otherwise.
database:
  description:
    - What the database is. What could not be read is V(null). C(state) is V(ready), V(empty), V(missing) or why it
      could not be read, C(size) is in bytes.
  returned: always
  type: dict
  sample:
    exists: true
    state: ready
    engine: postgresql
    server_version: "15.18"
    schema_version: 93
    compat_version: 84
    size: 21345678
    pending_background_updates: []
target:
  description: The release that is to serve.
  returned: always
  type: dict
  sample: {version: 1.163.2, schema_version: 94, compat_version: 84}
current:
  description: The release that serves now. What is not known of it is V(null).
  returned: always
  type: dict
  sample: {version: 1.150.0, schema_version: 93, compat_version: 84}
direction:
  description: V(none) where no release serves yet, or one of the two is not known.
  returned: always
  type: str
  sample: upgrade
way_back:
  description: Whether the present release can read the database after the other one has served it.
  returned: always
  type: bool
  sample: true
lowest_version:
  description: The lowest release of Synapse that can read the database, V(null) where that is not known.
  returned: always
  type: str
  sample: 1.100.0
newest_backup:
  description: The newest backup in O(backup_path) that the release could read, V(null) where there is none.
  returned: always
  type: str
  sample: /var/lib/synapse/backups/20260101T000000Z-1.150.0-to-1.163.2.pgdump
"""

import contextlib
import dataclasses
import inspect
import os
import sys
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _backup, _files, _gate
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._at_hand import code_of, find_releases, names_in
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._configured import configured
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._module import DiscreetModule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import database_state as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probing import (
    account_for,
    as_named,
    require_trusted,
    scratch,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Account,
    Runner,
    SynapseError,
    ask_python,
    module_runner,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import secret_arguments

_TIMEOUT = 180.0
_SYSTEMCTL = 15.0


def find_backups(folder: str | None) -> tuple[_backup.Manifest, ...]:
    """Return the backups that are complete, from their manifests."""
    found = []
    names = names_in(folder) if folder else []
    for name in names:
        if name.endswith(_backup.MANIFEST_ENDING):
            with contextlib.suppress(SynapseError):
                path = os.path.join(folder or "", name)
                data = _files.read(path, limit=_backup.LARGEST_MANIFEST, follow=False)
                one = _backup.parse_manifest(data or b"", name)
                found += [one] if one is not None and one.file in names else []
    return tuple(found)


def room_in(path: str) -> _gate.Room | None:
    """Return how much is free where a folder lies, or will lie."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        status = os.statvfs(folder)
        return _gate.Room(folder, status.f_bavail * status.f_frsize, os.stat(folder).st_dev)
    except OSError:
        return None


def find_workers(run: Runner, unit: str | None, workers: list[str]) -> dict[str, str]:
    """Ask systemd how the units are ordered. Raises ``SynapseError``."""
    if not workers:
        return {}
    if unit is None:
        raise SynapseError("worker_units is given without unit: name the unit of the main process too.")
    names = [_gate.unit_name(name) for name in (unit, *workers)]
    result = run(
        [
            "systemctl",
            "show",
            "-p",
            "Id",
            "-p",
            "Names",
            "-p",
            "LoadState",
            "-p",
            "After",
            "-p",
            "Before",
            "--",
            *names,
        ],
        timeout=_SYSTEMCTL,
    )
    if result.rc != 0:
        raise SynapseError(
            f"systemctl cannot say how {', '.join(names)} are ordered: {' '.join(result.stderr.split())[-300:]}. Leave "
            "worker_units empty where there is no systemd."
        )
    return _gate.parse_units(result.stdout, unit, workers)


class Gate:
    """One question, from the options to the verdict."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check_mode: bool = module.check_mode
        self.params: dict[str, t.Any] = module.params
        self.run: Runner = module_runner(module)
        if module.params["config_path"] is not None:
            self._configure()

    def _configure(self) -> None:
        """Take the database from a configuration. Raises ``SynapseError``."""
        params = self.params
        found = configured(
            self.run, params["config_path"], params["user"], [params["python"], params["current_python"]]
        )
        self.module.no_log_values.update(found.secrets)
        self.params = {
            **params,
            "database": found.path,
            "postgresql": found.postgresql,
            "allow_unsafe_locale": found.allow_unsafe_locale,
        }

    def request(self) -> tuple[dict[str, object] | None, str, str]:
        """Return the probe's request for the database, the engine, and how to name the database."""
        path, postgresql = self.params["database"], self.params["postgresql"]
        if path is not None:
            return {"path": os.path.abspath(path)}, "sqlite", path
        if postgresql is None:
            return None, "", ""
        connection = _backup.connection_of(postgresql)
        return {"postgresql": connection.request}, "postgresql", connection.name

    def reader(self, python: str) -> Account | None:
        """Return as whom the database is read. Raises ``SynapseError``."""
        if self.params["user"] is not None:
            try:
                return _files.account_of(self.params["user"])
            except SynapseError:
                if not self.check_mode:  # a dry run on a bare host predicts: the user is made before
                    raise
        if os.geteuid() == 0 and self.params["database"] is not None:
            with contextlib.suppress(OSError):
                status = as_named(self.params["database"])[1]
                if status.st_uid != 0:
                    return Account(status.st_uid, status.st_gid)
        return account_for(None, python)

    def interpreter(self) -> str | None:
        """Return the interpreter that reads the database: the release's own, or another where it is not built yet."""
        for python in (self.params["python"], self.params["current_python"]):
            if python is not None and os.access(python, os.X_OK):
                return str(python)
        return sys.executable if self.params["database"] is not None else None

    def ask(self, python: str, request: dict[str, object] | None, *, synapse: bool) -> dict[str, t.Any]:
        """Ask the probe. Raises ``SynapseError``."""
        account = self.reader(python)
        if account is None and python != sys.executable:
            require_trusted(python)
        postgresql = self.params["postgresql"] or {}
        with scratch(None, account) as folder:
            answer = ask_python(
                self.run,
                python,
                inspect.getsource(probe),
                {
                    "synapse": synapse,
                    "database": request,
                    "allow_unsafe_locale": self.params["allow_unsafe_locale"],
                    "scratch": folder,
                    "secrets": [str(postgresql[name]) for name in ("password", "sslpassword") if postgresql.get(name)],
                },
                account=account,
                timeout=_TIMEOUT,
            )
        _gate.check_answer(answer, python, asked=request is not None)
        return answer

    def target(self, answer: dict[str, t.Any] | None, problem: str | None) -> _gate.Code:
        """Return the release that is to serve, as far as it is known."""
        if answer is not None and answer["synapse"] is not None:
            facts = answer["synapse"]
            return _gate.Code(
                facts["version"],
                facts["schema_version"],
                facts["compat_version"],
                answer["python"],
                facts["requires_python"],
                facts["oldest_delta"],
                problem=answer["problem"],
            )
        present = os.access(self.params["python"], os.X_OK)
        code = code_of(self.params["python"]) if present else None
        if code is None:
            row = _gate.known(self.params["version"])
            schemas = (row.schema, row.compat) if row is not None else (None, None)
            code = _gate.Code(self.params["version"], *schemas)
        problem = answer["problem"] if answer is not None else problem
        return dataclasses.replace(code, present=present, asked=False, problem=problem if present else None)

    def observe(self) -> _gate.Observed:
        """Look at everything."""
        params = self.params
        request, engine, where = self.request()
        own = os.access(params["python"], os.X_OK)
        python = self.interpreter()
        answer, problem = None, None
        if python is not None:
            try:
                answer = self.ask(python, request, synapse=own)
            except SynapseError as error:
                last = " ".join(str(error.details.get("stderr", "")).split())[-300:]
                problem = f"{error.msg} {last}".strip()
                if not own or "rc" not in error.details:  # not the environment's fault
                    raise
        database = None
        if answer is not None and answer["database"] is not None:
            database = _gate.Database.of(engine, where, answer["database"])
        folder = os.path.dirname(os.path.realpath(params["database"])) if params["database"] is not None else None
        return _gate.Observed(
            self.target(answer if own else None, problem),
            code_of(params["current_python"]) if params["current_python"] is not None else None,
            database,
            code_of(params["rollback_python"]) if params["rollback_python"] is not None else None,
            find_releases(params["releases_path"]),
            find_backups(params["backup_path"]),
            params["backup_path"],
            params["backup"],
            room_in(params["backup_path"]) if params["backup"] and params["backup_path"] is not None else None,
            room_in(folder) if folder is not None else None,
            params["unit"],
            find_workers(self.run, params["unit"], params["worker_units"]),
            params["user"],
            self.check_mode,
        )


def shown(code: _gate.Code | None) -> dict[str, t.Any]:
    """Return a release for the result."""
    code = code or _gate.Code()
    return {"version": code.version, "schema_version": code.schema, "compat_version": code.compat}


def result_of(seen: _gate.Observed, verdict: _gate.Verdict) -> dict[str, t.Any]:
    """Return what the module returns."""
    database = seen.database or _gate.Database(engine="", state="unasked")
    return {
        "changed": False,
        "allowed": verdict.allowed,
        "msg": verdict.msg,
        "findings": [dataclasses.asdict(finding) for finding in verdict.findings],
        "database": {
            "exists": seen.database is not None and database.exists,
            "state": database.state,
            "engine": database.engine or None,
            "server_version": database.server_version,
            "schema_version": database.schema,
            "compat_version": database.compat,
            "size": database.size,
            "pending_background_updates": list(database.pending),
        },
        "target": shown(seen.target),
        "current": shown(seen.current),
        "direction": verdict.direction,
        "way_back": verdict.way_back,
        "lowest_version": verdict.lowest_version,
        "newest_backup": verdict.newest_backup,
    }


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
            "python": {"type": "path", "required": True},
            "version": {"type": "str"},
            "current_python": {"type": "path"},
            "rollback_python": {"type": "path"},
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
            "allow_unsafe_locale": {"type": "bool", "default": False},
            "user": {"type": "str"},
            "releases_path": {"type": "path"},
            "backup": {"type": "bool", "default": False},
            "backup_path": {"type": "path"},
            "unit": {"type": "str"},
            "worker_units": {"type": "list", "elements": "str", "default": []},
            "fail": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("database", "postgresql", "config_path")],
        required_one_of=[("database", "postgresql", "config_path")],
        required_if=[("backup", True, ("backup_path",))],
        supports_check_mode=True,
    )
    try:
        seen = Gate(module).observe()
        result = result_of(seen, _gate.judge(seen))
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    if module.params["fail"] and not result["allowed"]:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
