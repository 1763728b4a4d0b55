# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which database a configuration of Synapse asks for, of a file that need not be in place. Nothing from Ansible."""

from __future__ import annotations

import inspect
import os
import sys
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import database_settings as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probing import account_for, require_trusted
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner, SynapseError, ask_python

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Configured", "configured", "parse_section"]

_TIMEOUT = 60.0
_LARGEST = 8 * 1024 * 1024
# What the modules' option postgresql has beside "args".
_NAMED = ("dbname", "user", "password", "sslpassword", "passfile", "host", "port")


@dataclass(frozen=True)
class Configured:
    """A database: an SQLite file, or what libpq needs, in the form of the modules' option ``postgresql``."""

    path: str | None = None
    postgresql: Mapping[str, t.Any] | None = field(default=None, repr=False)
    allow_unsafe_locale: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        given = self.postgresql or {}
        return tuple(str(given[name]) for name in ("password", "sslpassword") if given.get(name))


def parse_section(section: object, place: str) -> Configured:
    """Read Synapse's option ``database`` (synapse/config/database.py, 1.163.2). Raises ``SynapseError``."""
    if section is None:
        raise _unknown(place, "it has no database")
    args = section.get("args") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(args, dict):
        raise _unknown(place, "its database has no args")
    name = section.get("name")
    if name == "sqlite3":
        path = args.get("database")
        if not isinstance(path, str) or not os.path.isabs(path):
            raise _unknown(place, f"its SQLite file is {path!r}, which is no path from the root")
        return Configured(path)
    if name != "psycopg2":
        raise _unknown(place, f"its database is of the kind {name!r}")
    named = {key: args[key] for key in _NAMED if args.get(key) is not None}
    rest = {str(key): value for key, value in args.items() if key not in _NAMED and value is not None}
    return Configured(None, {**named, "args": rest}, section.get("allow_unsafe_locale") is True)


def _unknown(place: str, why: str) -> SynapseError:
    return SynapseError(
        f"Which database {place} asks for cannot be told: {why}. Say it in 'database' or 'postgresql' instead of "
        "'config_path'. Nothing was changed."
    )


def configured(run: Runner, place: str, user: str | None, pythons: Sequence[str | None]) -> Configured:
    """Return the database of the configuration at ``place``; the first interpreter that can reads it.

    Raises ``SynapseError``. The interpreter is told no more than the text, as the service's user, who may read it.
    """
    data = _files.read(place, limit=_LARGEST)
    if data is None:
        raise _unknown(place, "there is no such file")
    why = ""
    for python in (*pythons, sys.executable):
        if python is None or not os.access(python, os.X_OK):
            continue
        try:
            account = account_for(user, python)
        except SynapseError:
            account = account_for(None, python)  # A dry run on a bare host: the user is made before.
        try:
            if account is None and python != sys.executable:
                require_trusted(python)
            answer = ask_python(
                run,
                python,
                inspect.getsource(probe),
                {"text": data.decode("utf-8", "replace")},
                account=account,
                timeout=_TIMEOUT,
            )
        except SynapseError as error:
            why = why or error.msg
            continue
        if answer.get("error"):
            raise _unknown(place, str(answer["error"])[:300])
        return parse_section(answer.get("database"), place)
    raise _unknown(place, why or "there is no interpreter to read it with")
