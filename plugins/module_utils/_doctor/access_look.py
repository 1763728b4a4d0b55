# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: owners and modes, as the service's own user meets them."""

from __future__ import annotations

import contextlib
import glob
import grp
import json
import os
import pwd
import re
import stat
import sys
import time
import typing as t
from dataclasses import replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_files import expand
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.access import (
    ENTER,
    READ,
    WRITE,
    Access,
    Item,
    Node,
    Who,
    blocker,
    may,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import is_secret_name

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings

__all__ = ["config_folder", "key_path", "look", "nodes_of", "who_of", "whole", "working_folder"]

_LINKS = 40  # as the kernel (path_resolution(7))
_MOST_MEDIA = 3000  # of what is in the media store, so much is looked at
_MEDIA_SECONDS = 2.0
_LARGEST_LOG_CONFIG = 256 * 1024
_FILE_NAME = re.compile(
    r"(?:^|[{,])[ \t]*filename[ \t]*:[ \t]*(?:\"([^\"\n]+)\"|'([^'\n]+)'|([^\s#'\",}][^#\n,}]*))", re.MULTILINE
)
_ACL = "system.posix_acl_access"

# Asks the kernel for this process's own user.
_QUESTION = "import json, os, sys; print(json.dumps([os.access(p, m) for p, m in json.load(sys.stdin)]))"


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def _node(path: str, status: os.stat_result) -> Node:
    kind = "folder" if stat.S_ISDIR(status.st_mode) else "file" if stat.S_ISREG(status.st_mode) else "other"
    try:
        acl = hasattr(os, "getxattr") and bool(os.getxattr(path, _ACL))
    except OSError:
        acl = False
    mode = stat.S_IMODE(status.st_mode)
    return Node(path, kind, status.st_uid, status.st_gid, mode, _owner(status.st_uid), _group(status.st_gid), acl)


def nodes_of(path: str) -> tuple[tuple[Node, ...], bool]:
    """Return the folders on the way from ``/`` and the object itself, links resolved; and whether it is missing."""
    try:
        found = {"/": _node("/", os.stat("/"))}
    except OSError:
        return (), True
    parts = [part for part in path.split("/") if part not in ("", ".")]
    current, links = "/", 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            current = os.path.dirname(current)
            continue
        target = os.path.join(current, part)
        try:
            status = os.lstat(target)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                leads = os.readlink(target)
                parts = [piece for piece in leads.split("/") if piece not in ("", ".")] + parts
                current = "/" if leads.startswith("/") else current
                if links > _LINKS:
                    return tuple(found.values()), True
                continue
        except OSError:
            return tuple(found.values()), True
        found.pop(target, None)
        found[target] = _node(target, status)
        if not stat.S_ISDIR(status.st_mode):
            return tuple(found.values()), bool(parts)
        current = target
    # The object itself is the last, also where the way led through it before.
    found[current] = found.pop(current)
    return tuple(found.values()), False


def who_of(context: Context) -> Who | None:
    """Return the account that the service runs as, ``None`` where it is not known."""
    user = context.user
    if user is None:
        return None
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if not user.isdecimal():
            return None
        return Who(user, int(user), int(user), (int(user),), user)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Who(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, _group(entry.pw_gid) or str(entry.pw_gid))


def _known_folder(context: Context) -> str | None:
    """Return the folder that the service works in, ``None`` where nothing tells."""
    service = context.service
    for one in service.running if service is not None else ():
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{one.pid}/cwd")
    unit = service.main if service is not None else None
    if unit is None:
        return None
    return unit.directory if unit.directory.startswith("/") else "/"


def working_folder(context: Context) -> str:
    """Return the folder that relative paths in the configuration start from."""
    return _known_folder(context) or "/"


def whole(context: Context, path: str) -> str:
    """Return a path of the configuration as a whole one."""
    return os.path.normpath(os.path.join(working_folder(context), path))


def config_folder(context: Context) -> str | None:
    """Return the folder in which Synapse looks for what has no path (synapse/config/_base.py 1.163.2: the last's)."""
    files = list(expand(context.request.config_paths))
    return os.path.dirname(os.path.abspath(files[-1])) if files else None


def key_path(context: Context) -> str | None:
    """Return where the signing key has to be (synapse/config/key.py 1.163.2, ``read_config``)."""
    settings, folder = context.settings, config_folder(context)
    if settings is None:
        return None
    given = settings.text("signing_key_path")
    if given is not None:
        return whole(context, given)
    if folder is None or settings.server_name is None or settings.get("signing_key_path") is not None:
        return None
    return os.path.join(folder, f"{settings.server_name}.signing.key")


class _Gathering:
    """The items, with each path looked at once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.items: list[Item] = []

    def add(self, purpose: str, path: object, needs: int, option: str = "") -> Item | None:
        """Add one path; what is no path is left out."""
        if not isinstance(path, str) or not path or "\0" in path:
            return None
        if not path.startswith("/") and _known_folder(self.context) is None:
            return None
        path = whole(self.context, path)
        nodes, missing = nodes_of(path)
        item = Item(purpose, path, needs, nodes, option, missing)
        self.items.append(item)
        return item


def _secret_paths(config: t.Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Return the options that name the file of a secret, with their values."""
    if depth > 20:
        return
    if isinstance(config, dict):
        for name, value in config.items():
            option = f"{path}.{name}" if path else str(name)
            if isinstance(value, str) and str(name).endswith("_path") and is_secret_name(str(name)[:-5]):
                yield option, value
            else:
                yield from _secret_paths(value, option, depth + 1)
    elif isinstance(config, list):
        for position, value in enumerate(config):
            yield from _secret_paths(value, f"{path}[{position}]", depth + 1)


def _holds_secret(value: t.Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_secret(item) for item in value.values())
    if isinstance(value, list):
        return any(_holds_secret(item) for item in value)
    return isinstance(value, str) and (value == "***" or ":***@" in value)


def _inline(settings: Settings) -> tuple[str, ...]:
    return tuple(
        file.path for file in settings.files if any(_holds_secret(settings.config.get(key)) for key in file.keys)
    )


def _database(gathering: _Gathering, settings: Settings) -> None:
    databases = settings.get("databases")
    configs = list(databases.values()) if isinstance(databases, dict) else [settings.get("database")]
    for config in configs:
        if not isinstance(config, dict) or config.get("name", "sqlite3") != "sqlite3":
            continue
        arguments = config.get("args")
        path = arguments.get("database") if isinstance(arguments, dict) else None
        if not isinstance(path, str) or path.startswith((":memory:", "file:")):
            continue
        item = gathering.add("database", path, READ | WRITE, "database.args.database")
        if item is None:
            continue
        folder = os.path.dirname(os.path.realpath(item.path))
        gathering.add("database_folder", folder, READ | WRITE | ENTER, "database.args.database")
        for suffix in ("-wal", "-shm", "-journal"):
            if os.path.exists(item.path + suffix):
                gathering.add("database", item.path + suffix, READ | WRITE, "database.args.database")


def _media(gathering: _Gathering, settings: Settings) -> None:
    if settings.get("enable_media_repo") is not False:
        gathering.add("media", settings.text("media_store_path"), READ | WRITE | ENTER, "media_store_path")
    for position, provider in enumerate(settings.mappings("media_storage_providers")):
        inner = provider.get("config")
        if provider.get("module") == "file_system" and isinstance(inner, dict):
            option = f"media_storage_providers[{position}].config.directory"
            gathering.add("media", inner.get("directory"), READ | WRITE | ENTER, option)


def _logs(gathering: _Gathering, log_config: str | None) -> None:
    """Add the configuration of a log, and the files that it names."""
    item = gathering.add("log_config", log_config, READ, "log_config")
    if item is None or item.missing:
        return
    try:
        data = _files.read(item.path, limit=_LARGEST_LOG_CONFIG) or b""
    except SynapseError:
        return
    for match in _FILE_NAME.finditer(data.decode("utf-8", "replace")):
        name = next(text for text in match.groups() if text is not None).strip()
        if not name.startswith("/dev/"):
            log = gathering.add("log", name, WRITE, "filename")
            if log is not None:
                gathering.add("log_folder", os.path.dirname(log.path), WRITE | ENTER, "filename")


def _network(gathering: _Gathering, settings: Settings) -> None:
    if any(listener.get("tls") is True for listener in settings.mappings("listeners")):
        for option in ("tls_certificate_path", "tls_private_key_path"):
            gathering.add("tls", settings.text(option), READ, option)


def _named(gathering: _Gathering, settings: Settings) -> None:
    """Add what the configuration names."""
    for option, value in _secret_paths(settings.config):
        name = option.rpartition(".")[2]
        if name not in ("tls_private_key_path", "signing_key_path"):
            gathering.add("secret", value, READ, option)
    registrations = settings.get("app_service_config_files")
    for value in registrations if isinstance(registrations, list) else ():
        gathering.add("appservice", value, READ, "app_service_config_files")
    _logs(gathering, settings.text("log_config"))
    _database(gathering, settings)
    _media(gathering, settings)
    _network(gathering, settings)


def _environment(gathering: _Gathering) -> tuple[str, list[str]]:
    """Add the interpreter; return the environment's folder, and what is in it that the service has to read."""
    folder = os.path.realpath(gathering.context.environment)
    gathering.add("environment", gathering.context.request.python, READ | ENTER)
    inside = [os.path.join(folder, "pyvenv.cfg")]
    for packages in glob.glob(os.path.join(glob.escape(folder), "lib", "python3.*", "site-packages")):
        gathering.add("environment", packages, READ | ENTER)
        try:
            inside.extend(os.path.join(packages, name) for name in sorted(os.listdir(packages)))
        except OSError:
            continue
        inside.extend(glob.glob(os.path.join(glob.escape(packages), "synapse", "*")))
    return folder, inside


def _unreadable(paths: Iterable[str], who: Who) -> tuple[Node, ...]:
    """Return what the account cannot read of some paths."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        needs = READ | ENTER if stat.S_ISDIR(status.st_mode) else READ
        if status.st_mode & needs == needs:
            continue  # for others; nearly all are
        node = _node(path, status)
        if not may(node, who, needs):
            found.append(node)
    return tuple(found)


def _foreign(path: str, who: Who) -> tuple[Node, ...]:
    """Return the first things below a folder that the account cannot use: one folder after the other, not for long."""
    found: list[Node] = []
    until, left, folders = time.monotonic() + _MEDIA_SECONDS, _MOST_MEDIA, [path]
    while folders and left > 0 and time.monotonic() < until and len(found) < 5:
        try:
            with os.scandir(folders.pop(0)) as entries:
                for entry in entries:
                    left -= 1
                    if left <= 0:
                        break
                    status = entry.stat(follow_symlinks=False)
                    folder = stat.S_ISDIR(status.st_mode)
                    if folder:
                        folders.append(entry.path)
                    if status.st_uid == who.uid or not (folder or stat.S_ISREG(status.st_mode)):
                        continue
                    node = _node(entry.path, status)
                    if not may(node, who, READ | WRITE | ENTER if folder else READ) and not node.acl:
                        found.append(node)
        except OSError:
            continue
    return tuple(found)


def _in_doubt(item: Item, who: Who) -> bool:
    return blocker(item, who) is not None or any(node.acl for node in item.nodes)


def _ask_kernel(context: Context, items: list[Item], who: Who) -> list[Item]:
    """Let the kernel decide on what owner and mode refuse, or what has an access control list."""
    if os.geteuid() not in (0, who.uid):
        return items
    doubtful = [position for position, item in enumerate(items) if not item.missing and _in_doubt(item, who)]
    if not doubtful:
        return items
    questions = [[items[position].path, items[position].needs] for position in doubtful]
    try:
        account = None if who.uid == os.geteuid() else Account(who.uid, who.gid, who.groups)
        result = context.run(
            [sys.executable, "-I", "-S", "-c", _QUESTION],
            stdin=json.dumps(questions),
            account=account,
            timeout=context.left(5.0),
        )
        answers = json.loads(result.stdout.splitlines()[-1])
    except (SynapseError, IndexError, ValueError):
        return items
    if not isinstance(answers, list) or len(answers) != len(doubtful):
        return items
    for position, granted in zip(doubtful, answers):
        items[position] = replace(items[position], granted=bool(granted))
    return items


def _folders(context: Context, key: str | None) -> list[str]:
    named = [path if os.path.isdir(path) else os.path.dirname(path) for path in context.request.config_paths]
    if key is not None:
        named.append(os.path.dirname(key))
    return list(dict.fromkeys(os.path.realpath(path) for path in named))


def look(context: Context) -> Access:
    """Look at each path that the service needs."""
    who, settings = who_of(context), context.settings
    gathering = _Gathering(context)
    for path in expand(context.request.config_paths):
        gathering.add("config", os.path.abspath(path), READ)
    for path in context.request.worker_configs:
        gathering.add("worker_config", os.path.abspath(path), READ)
    key = key_path(context)
    inline_key = settings is not None and "signing_key" in settings.config
    if key is not None and not inline_key:
        gathering.add("key", key, READ, "signing_key_path")
    folders = _folders(context, key)
    for folder in folders:
        gathering.add("config_folder", folder, ENTER)
    if settings is not None:
        _named(gathering, settings)
    # Folders of secrets that lie within that of the configuration are a part of it.
    inner = {os.path.dirname(item.path) for item in gathering.items if item.purpose == "secret"} - set(folders)
    for folder in sorted(inner):
        if any(folder.startswith(f"{outer}/") for outer in folders):
            gathering.add("config_folder", folder, ENTER)
    environment, inside = _environment(gathering)
    items = gathering.items if who is None else _ask_kernel(context, gathering.items, who)
    media = [item.nodes[-1].path for item in items if item.purpose == "media" and item.node is not None]
    usable = who is not None and not any(blocker(item, who) for item in items if item.purpose == "media")
    return Access(
        who=who,
        items=tuple(items),
        inline=_inline(settings) if settings is not None else (),
        managed=settings is not None and settings.managed,
        config_folders=tuple(folders),
        environment=environment,
        foreign=_foreign(media[0], who) if who is not None and media and usable else (),
        unreadable=_unreadable(inside, who) if who is not None else (),
    )
