# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: the server's identity: the signing key, whom its events say it is, and what it published before.

Private halves stay in here: what is returned, and what a probe is asked, has public halves only.
"""

from __future__ import annotations

import contextlib
import glob
import inspect
import os
import re
import stat
import sys
import typing as t
from dataclasses import replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _key_files, _probing
from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import access_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import (
    Identity,
    Line,
    Near,
    Way,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._ed25519 import public_half
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import signing_key as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, SynapseError, ask_python

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]

_WAIT = 4  # seconds for a connection
_ASKED = 12.0
_LARGEST_RECORD = 1024 * 1024
_LARGEST_COPY = 256 * 1024 * 1024  # bytes of a database that a crash left unfinished
_BACKUPS = ("*.sqlite3", "*.pgdump")
# Options with the key, in a file that is no YAML any more, or whose value is needed itself.
_PATH_LINE = re.compile(
    r"^signing_key_path[ \t]*:[ \t]*(?:\"([^\"\n]+)\"|'([^'\n]+)'|([^\s#'\"][^#\n]*))", re.MULTILINE
)
_INLINE_LINE = re.compile(
    r"^signing_key[ \t]*:[ \t]*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s#'\"|>&*!][^#\n]*))", re.MULTILINE
)


def _given(pattern: re.Pattern[str], texts: Iterable[str]) -> str | None:
    """Return the value that a line gives to an option; the last one counts."""
    found = None
    for text in texts:
        for match in pattern.finditer(text):
            found = next(part for part in match.groups() if part is not None).strip()
    return found


def _path(context: Context) -> str | None:
    """Return where the key has to be, also where the configuration cannot be read as a whole."""
    path = access_look.key_path(context)
    settings = context.settings
    if settings is None or settings.config.get("signing_key_path"):
        return path
    if all(file.problem is None for file in settings.files):
        return path
    line = _given(_PATH_LINE, context.texts.values())
    return access_look.whole(context, line) if line else path


def _kind(path: str) -> tuple[str, str | None]:
    """Return what lies at a path, and where a link there leads."""
    link = None
    with contextlib.suppress(OSError):
        link = os.readlink(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return ("missing" if link is None else "dangling"), link
    except NotADirectoryError:
        return "missing", link
    except OSError:
        return "unreadable", link
    return ("file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"), link


def _read(path: str) -> keys.KeyFile | None:
    try:
        data = _files.read(path, limit=_key_files.LARGEST)
    except SynapseError:
        return None
    return None if data is None else keys.parse(data)


def _record(path: str) -> tuple[keys.Record | None, str]:
    try:
        data = _files.read(path, limit=_LARGEST_RECORD)
        return (None if data is None else keys.parse_record(data, path)), ""
    except SynapseError as error:
        return None, error.msg


def _halves(several: Iterable[keys.Key]) -> dict[str, str]:
    return {key.fingerprint: public_half(key.seed) for key in several}


def _lines(several: Iterable[keys.Key], halves: t.Mapping[str, str]) -> tuple[Line, ...]:
    return tuple(Line(key.number, key.key_id, halves[key.fingerprint]) for key in several)


def _sqlite(context: Context) -> str | None:
    """Return the SQLite file, where that is the database."""
    settings = context.settings
    if settings is None or settings.engine != "sqlite3":
        return None
    path = settings.text("database", "args", "database") or settings.text("database_path")
    return access_look.whole(context, path) if path is not None else None


def _reader(context: Context, path: str | None) -> Account | None:
    """Return who reads the database: the service, or whoever owns the file where the service may not."""
    account = context.account()
    if path is None or os.geteuid() != 0:
        return account
    with contextlib.suppress(OSError):
        status = os.stat(path)
        who = access_look.who_of(context)
        if status.st_uid != 0 and (who is None or who.uid not in (0, status.st_uid)):
            return Account(status.st_uid, status.st_gid)
    return account


def _unfinished(path: str | None) -> bool:
    """Whether a crash left an SQLite file whose log has to be merged before it can be read, and is not too large."""
    if path is None or os.path.exists(path + "-shm"):
        return False
    try:
        log = os.path.getsize(path + "-wal")
        return log > 0 and log + os.path.getsize(path) <= _LARGEST_COPY
    except OSError:
        return False


def _ask(context: Context, known: Iterable[tuple[str, str]]) -> keys.Events:
    """Ask the database who signed this server's events; what it could not tell is part of the answer."""
    settings = context.settings
    if settings is None or settings.server_name is None or not context.texts:
        return keys.Events("unasked", "the database")
    path = _sqlite(context)
    where = path or "the PostgreSQL database"
    request: dict[str, t.Any] = {
        "events": {
            "server_name": settings.server_name,
            "verify_keys": [{"key_id": key_id, "verify_key": half} for key_id, half in dict.fromkeys(known)],
            "database": {
                "texts": [[name, text] for name, text in context.texts.items()],
                "libraries": glob.glob(os.path.join(glob.escape(context.environment), "lib/python3.*/site-packages")),
                "folder": access_look.working_folder(context),
                "wait": _WAIT,
            },
        },
        "scratch": "",
    }
    account, answer = _reader(context, path), None
    with contextlib.ExitStack() as stack:
        if _unfinished(path):
            with contextlib.suppress(SynapseError):
                request["scratch"] = stack.enter_context(_probing.scratch(None, account))
        # Any Python reads SQLite; where the environment is broken, the ids of keys have to do.
        for python in (context.request.python, *([sys.executable] if path is not None else [])):
            with contextlib.suppress(SynapseError):
                answer = ask_python(
                    context.run,
                    python,
                    inspect.getsource(probe),
                    request,
                    account=account,
                    timeout=context.left(_ASKED),
                )
                break
    told = (answer or {}).get("events")
    if not isinstance(told, dict):
        return keys.Events("unasked", where)
    return keys.Events(
        told["state"], where, told["reason"], tuple(keys.Signature(**item) for item in told["signatures"])
    )


def _traces(context: Context) -> Iterator[str]:
    """Return what shows that users of this server have been here, beside its database."""
    settings = context.settings
    media = settings.text("media_store_path") if settings is not None else None
    if media is not None:
        place = os.path.join(access_look.whole(context, media), "local_content")
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            if next(entries, None) is not None:
                yield f"{place} holds media of its users"
        backups = os.path.join(os.path.dirname(access_look.whole(context, media)), "backups")
        for pattern in _BACKUPS:
            found = sorted(glob.glob(os.path.join(glob.escape(backups), pattern)))
            if found:
                yield f"{found[-1]} is a backup of its database"


def _way(path: str, found: keys.Found, server_name: str | None) -> Way:
    """Return how the key comes back, by the same decision as the module synapse_signing_key."""
    try:
        plan = keys.plan(keys.Wanted(path=path, server_name=server_name, mend=True), found)
    except SynapseError as error:
        named = tuple(str(item.get("id")) for item in error.details.get("problems", ()))
        return Way("refuse", reason=error.msg, problems=named)
    return Way(plan.action, plan.source, tuple(key.key_id for key in plan.keys))


def _against(file: keys.KeyFile | None, found: keys.Found) -> str | None:
    """Return what tells that a usable key is not this server's own."""
    if file is None or file.errors or (found.record is not None and found.record.fingerprints == file.fingerprints):
        return None
    return keys.objection(keys.known(file.keys, found.verify_keys, ""), found)


def _old_private(context: Context, public: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of old_signing_keys whose value is the private half of a key that is known here."""
    settings, known = context.settings, set(public)
    entries = settings.get("old_signing_keys") if settings is not None else None
    found = []
    for key_id, entry in entries.items() if isinstance(entries, dict) else ():
        value = entry.get("key") if isinstance(entry, dict) else None
        if isinstance(value, str):
            parsed = keys.parse(f"ed25519 x {value}".encode("utf-8", "replace"))
            if any(public_half(key.seed) in known for key in parsed.keys):
                found.append(str(key_id))
    return tuple(found)


def _inline(context: Context) -> Identity:
    """Look at a key that stands in the configuration itself."""
    settings = context.settings
    text = _given(_INLINE_LINE, context.texts.values())
    value = settings.config.get("signing_key") if settings is not None else None
    if text is None:
        # Over several lines, or no text at all: what it says is not read here, only that it is nothing or no text.
        wrong = value is None or not isinstance(value, str)
        file = keys.KeyFile((), (keys.Problem("empty", None, "it is no text"),) if wrong else ())
    else:
        file = keys.parse(text.encode("utf-8", "surrogateescape"))
    halves = _halves(file.keys)
    lines = _lines(file.keys, halves)
    known = [(line.key_id, line.verify_key) for line in lines]
    events = _ask(context, known) if lines else keys.Events("unasked")
    return Identity(
        key_ids=tuple(line.key_id for line in lines),
        verify_keys={line.key_id: line.verify_key for line in lines},
        kind="inline",
        lines=lines,
        problems=file.problems,
        events=events,
        objection=_against(file, keys.Found(file, verify_keys=halves, events=events)),
        old_private=_old_private(context, halves.values()),
    )


def look(context: Context) -> Identity:
    """Read the key before anything of Synapse runs, then whatever tells whether it is the server's own."""
    settings = context.settings
    if settings is not None and "signing_key" in settings.config:
        return _inline(context)
    path = _path(context)
    if path is None:
        return Identity()
    server_name = settings.server_name if settings is not None else None
    kind, link = _kind(path)
    file = _read(path) if kind == "file" else None
    if kind == "file" and file is None:
        kind = "unreadable"
    record_path = f"{path}.verify_keys.json"
    record, damaged = _record(record_path)
    folders = [os.path.dirname(path)]
    folders += [folder for folder in (access_look.config_folder(context),) if folder is not None]
    near = _key_files.candidates(path, server_name, folders)
    own = (*file.keys, *file.intact) if file is not None else ()
    halves = _halves([*own, *(key for candidate in near for key in candidate.keys)])
    recorded = record is not None and file is not None and record.fingerprints == file.fingerprints
    past: list[keys.Known | keys.Retired] = [*(record.current if record else ()), *(record.retired if record else ())]
    events = keys.Events("unasked")
    if kind != "unreadable" and (not recorded or file is None or file.errors):
        known = [(key.key_id, halves[key.fingerprint]) for key in (*own, *(key for one in near for key in one.keys))]
        events = _ask(context, [*known, *((key.key_id, key.verify_key) for key in past)])
    found = keys.Found(file, link, record, record_path, halves, events, candidates=near)
    way = _way(path, found, server_name) if kind in ("file", "missing", "dangling") else Way("refuse")
    # What was published, pasted in the place of the private half.
    public = {key.verify_key for key in past} | {item.verify_key for item in events.signatures if item.verify_key}
    if file is not None and any(key.encoded in public for key in file.keys):
        way = replace(way, problems=(*way.problems, "public-key"))
    lines = _lines(file.keys, halves) if file is not None else ()
    return Identity(
        key_ids=tuple(dict.fromkeys(line.key_id for line in lines)),
        verify_keys={line.key_id: line.verify_key for line in lines},
        path=path,
        kind=kind,
        link=link,
        lines=lines,
        problems=file.problems if file is not None else (),
        record=record,
        record_path=record_path,
        record_damaged=damaged,
        events=events,
        near=tuple(Near(one.path, _lines(one.keys, halves), one.own) for one in near),
        objection=_against(file, found),
        old_private=_old_private(context, [*halves.values(), *(key.verify_key for key in past)]),
        way=replace(way, traces=tuple(_traces(context)) if kind in ("missing", "dangling") else ()),
    )
