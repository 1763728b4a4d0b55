# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: the verdict of Synapse's own parser on the configuration, of main process and workers."""

from __future__ import annotations

import contextlib
import errno
import glob
import ipaddress
import json
import os
import re
import socket
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import Wanted, judge
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_observe import Asked, observe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.configuration import Configuration
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["copies", "look", "worker_files"]

_MANAGED = b"# Managed by Ansible (matrix_fleet.synapse)."
_LARGEST = 1024 * 1024  # bytes
_MOST = 200  # files of workers that are looked at, and backups
_STAMP = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_WORKER = re.compile(rb"^worker_(app|name)\s*:", re.MULTILINE)
_LOGGING = re.compile(rb"^(handlers|formatters|loggers)\s*:", re.MULTILINE)


def _text(path: str) -> bytes | None:
    """Return what a regular file holds, as far as it can be read."""
    try:
        return _files.read(path, limit=_LARGEST)
    except SynapseError:
        return None


def worker_files(config: str) -> tuple[str, ...]:
    """Return the configuration files of workers beside the one of the main process.

    In a folder named after workers, all are such files, but those about logging; elsewhere those that say so.
    """
    folder = os.path.dirname(config)
    found = []
    for pattern in ("*.yaml", "*.yml", "workers*/*.yaml", "workers*/*.yml"):
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))[:_MOST]:
            text = _text(path) if os.path.isfile(path) and path != config else None
            if text is None or _LOGGING.search(text):
                continue
            if _WORKER.search(text) or pattern.startswith("workers"):
                found.append(path)
    return tuple(found)


def _journals(folder: str) -> Iterator[tuple[str, t.Any]]:
    """Return the journals of a transaction's folder, the newest first, each with the folder of its copies."""
    places = [os.path.join(folder, "current")]
    with contextlib.suppress(OSError):
        stamps = [name for name in os.listdir(os.path.join(folder, "backups")) if _STAMP.fullmatch(name)]
        ordered = sorted(stamps, key=lambda name: (name[:16], int(name[17:] or 1)), reverse=True)
        places += [os.path.join(folder, "backups", name) for name in ordered[:_MOST]]
    for place in places:
        text = _text(os.path.join(place, "journal.json"))
        with contextlib.suppress(ValueError, RecursionError):
            yield place, json.loads(text or b"null")


def copies(folder: str) -> dict[str, str | None]:
    """Return the files that the collection's transactions have replaced, each with its newest copy, if any."""
    found: dict[str, str | None] = {}
    for place, journal in _journals(folder):
        items = journal.get("items") if isinstance(journal, dict) else None
        for item in items if isinstance(items, list) else ():
            path, name = (item.get("path"), item.get("copy")) if isinstance(item, dict) else (None, None)
            if not isinstance(path, str) or found.get(path) is not None:
                continue
            copy = os.path.join(place, name) if isinstance(name, str) and name.isdecimal() else None
            with contextlib.suppress(OSError):
                found[path] = copy if copy is not None and os.path.getsize(copy) else None
            found.setdefault(path, None)
    return found


def _written(context: Context, remembered: dict[str, str | None]) -> tuple[str, ...]:
    """Return the files that the collection wrote: they say so, or its transactions remember it."""
    settings = context.settings
    files = settings.files if settings is not None else ()
    written = [file.path for file in files if file.managed or file.path in remembered]
    log = settings.text("log_config") if settings is not None else None
    if log is not None and (log in remembered or (_text(log) or b"").startswith(_MANAGED)):
        written.append(log)
    return tuple(written)


def _strangers(context: Context) -> tuple[tuple[str, str], ...]:
    """Return the listeners whose address the host does not have. No port is taken to find that out."""
    settings, found = context.settings, []
    for number, listener in enumerate(settings.mappings("listeners") if settings is not None else ()):
        addresses = listener.get("bind_addresses")
        for address in [*(addresses if isinstance(addresses, list) else ()), listener.get("bind_address")]:
            if isinstance(address, str) and _is_strange(address):
                found.append((f"listeners[{number}]", address))
    return tuple(found)


def _is_strange(address: str) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:  # a name, which would have to be asked for
        return False
    if known.is_unspecified or known.is_loopback:
        return False
    family = socket.AF_INET6 if known.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno == errno.EADDRNOTAVAIL
    return False


def _of_unit(context: Context) -> tuple[str, bool]:
    """Return the folder in which the unit starts Synapse, and whether it lets secrets stand in the configuration."""
    unit = getattr(context.service, "seen", None)
    folder = getattr(unit, "directory", None)
    words = [word for command in getattr(unit, "commands", None) or () for word in command.argv]
    usable = isinstance(folder, str) and folder.startswith("/") and os.path.isdir(folder)
    return folder if usable and folder is not None else "/", "--no-secrets-in-config" not in words


def _is_hopeless(file: ConfigFile) -> bool:
    return file.missing or (file.problem is not None and "regular" in file.problem)


def look(context: Context) -> Configuration:
    """Let Synapse judge the configuration, as the service's user, and see what could be put in its place."""
    request, settings = context.request, context.settings
    main = list(request.config_paths)
    first = settings.files[0].path if settings is not None and settings.files else main[0] if main else ""
    named = settings.files if settings is not None else ()
    workers: Sequence[str] = request.worker_configs or [
        path for path in worker_files(first) if path not in {file.path for file in named}
    ]
    remembered = copies(os.path.join(os.path.dirname(first), ".transaction"))
    common: dict[str, t.Any] = {
        "managed": _written(context, remembered),
        "copies": {path: copy for path, copy in remembered.items() if copy is not None},
        "workers": tuple(workers),
        "strangers": _strangers(context),
    }
    # A file that nobody can open, or that whoever opens it waits for, tells Synapse no more than it tells us.
    if settings is None or not settings.files or any(_is_hopeless(file) for file in settings.files):
        return Configuration(unasked="there is no configuration to ask about", **common)
    folder, secrets_allowed = _of_unit(context)
    try:
        answer = observe(
            context.run,
            request.python,
            Asked(main, workers, secrets_allowed=secrets_allowed),
            account=context.account(),
            timeout=context.left(0.8 * request.timeout),
            user=context.user,
            folder=folder,
        )
        problems = judge(answer, Wanted(allow_unknown=request.allow_unknown))
    except SynapseError as error:
        return Configuration(unasked=error.msg, **common)
    return Configuration(answer["version"], answer["account"], tuple(problems), **common)
