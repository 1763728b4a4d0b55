# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners and modes, as the service's own user meets them. Pure.

What the service needs of a path is decided from owner, group and mode of every folder on the way, as the kernel does
it; what the kernel itself said, where it was asked, has the last word. What is to be changed is computed beside that:
a person reads it in the remedies, the playbook repair takes it from ``wanted``.
"""

from __future__ import annotations

import os.path
import shlex
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = [
    "ENTER",
    "READ",
    "RULES",
    "SYSTEM",
    "WRITE",
    "Access",
    "Fix",
    "Item",
    "Node",
    "Who",
    "blocker",
    "may",
    "shown",
    "wanted",
]

RULES = Rulebook("access")

READ, WRITE, ENTER = 4, 2, 1  # as in a digit of a mode

_OTHERS = 0o007
# Folders of the host, which belong to no installation: neither given away nor opened here.
SYSTEM = frozenset(
    [f"/{name}" for name in ("", "bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "proc")]
    + [f"/{name}" for name in ("root", "run", "sbin", "srv", "sys", "tmp", "usr", "var")]
    + [f"/usr/{name}" for name in ("bin", "lib", "local", "local/bin", "local/lib", "local/etc", "share")]
    + [f"/var/{name}" for name in ("cache", "lib", "log", "mail", "opt", "run", "spool", "tmp")]
    + [f"/etc/{name}" for name in ("ssl", "ssl/private", "letsencrypt", "letsencrypt/live", "letsencrypt/archive")]
)


@dataclass(frozen=True)
class Node:
    """One object on a path. ``kind`` is ``folder``, ``file`` or ``other``; ``owner`` and ``group`` are names."""

    path: str
    kind: str
    uid: int
    gid: int
    mode: int
    owner: str = ""
    group: str = ""
    acl: bool = False

    @property
    def words(self) -> str:
        """Owner, group and mode, as ``root:synapse 0640``."""
        extended = " and an access control list" if self.acl else ""
        return f"{self.owner or self.uid}:{self.group or self.gid} {self.mode:04o}{extended}"


@dataclass(frozen=True)
class Who:
    """The account that the service runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Item:
    """One path that the service needs. ``nodes`` are the folders from ``/`` on and the object itself, links resolved.

    ``purpose`` says what it is, ``option`` which option names it. ``missing``: the last of ``nodes`` is the folder in
    which it would lie. ``granted`` is what the kernel said, where it was asked.
    """

    purpose: str
    path: str
    needs: int
    nodes: tuple[Node, ...] = ()
    option: str = ""
    missing: bool = False
    granted: bool | None = None

    @property
    def node(self) -> Node | None:
        """The object itself, ``None`` where it is missing or was not reached."""
        return self.nodes[-1] if self.nodes and not self.missing else None


@dataclass(frozen=True)
class Access:
    """What was seen. ``inline`` are the configuration files that hold secrets, ``managed``: the collection wrote them.

    ``config_folders`` are those of the configuration files and of the key. ``foreign`` are things in the media store
    that the service cannot use, the first ones; ``environment`` the folder that the interpreter's path leads to.
    """

    who: Who | None = None
    items: tuple[Item, ...] = ()
    inline: tuple[str, ...] = ()
    managed: bool = False
    config_folders: tuple[str, ...] = ()
    environment: str = ""
    foreign: tuple[Node, ...] = ()
    unreadable: tuple[Node, ...] = ()

    def of(self, *purposes: str) -> Iterator[Item]:
        """Return the items of some purposes."""
        return (item for item in self.items if item.purpose in purposes)

    def blocked(self, item: Item) -> Node | None:
        """Return what keeps the service from what it needs of an item."""
        return None if self.who is None else blocker(item, self.who)

    def stopped(self, *purposes: str) -> list[tuple[Item, Node]]:
        """Return the items whose own owner and mode keep the service out, not a folder on the way."""
        found = []
        for item in self.of(*purposes):
            node = self.blocked(item)
            if node is not None and node is item.nodes[-1]:
                found.append((item, node))
        return found


@dataclass(frozen=True)
class Fix:
    """What an object is to get; ``None`` leaves that part as it is. ``safe``: it may be done without asking.

    ``mode`` is octal digits, or ``a+rX`` for all that is below ``path``.
    """

    path: str
    owner: str | None = None
    group: str | None = None
    mode: str | None = None
    recurse: bool = False
    safe: bool = True

    def command(self) -> str:
        """Return what a person types."""
        path, deep = shlex.quote(self.path), " -R" if self.recurse else ""
        names = f"{self.owner or ''}{':' + self.group if self.group else ''}"
        chown = f"chown{deep} {names} {path}" if names else ""
        chmod = f"chmod{deep} {self.mode} {path}" if self.mode else ""
        return " && ".join(part for part in (chown, chmod) if part)


def _digit(node: Node, who: Who) -> int:
    """Return the one digit of a mode that counts for an account: the first class that fits, as in the kernel."""
    if node.uid == who.uid:
        return node.mode >> 6 & 7
    if node.gid == who.gid or node.gid in who.groups:
        return node.mode >> 3 & 7
    return node.mode & 7


def may(node: Node, who: Who, needs: int) -> bool:
    """Whether owner, group and mode of an object give an account what it needs. Root may anything."""
    return who.uid == 0 or _digit(node, who) & needs == needs


def _refusing(item: Item, who: Who) -> list[Node]:
    """Return all objects on the way whose owner and mode refuse.

    Of something that is missing, its folder has to let the service make it where the service needs to write it.
    """
    if item.granted is True or not item.nodes or (item.missing and not item.needs & WRITE):
        return []
    last = item.nodes[-1]
    needs = (ENTER | WRITE) if item.missing else item.needs
    found = [node for node in item.nodes[:-1] if not may(node, who, ENTER)]
    return found if may(last, who, needs) else [*found, last]


def blocker(item: Item, who: Who) -> Node | None:
    """Return the first object on the way that refuses, ``None`` where nothing does."""
    refusing = _refusing(item, who)
    if refusing:
        return refusing[0]
    return item.nodes[-1] if item.granted is False and not item.missing else None


def shown(paths: Iterable[str], most: int = 4) -> str:
    """Return paths as part of a sentence, the first of them."""
    listed = list(dict.fromkeys(paths))
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def _traversable(item: Item) -> bool:
    """Whether any account comes as far as the object."""
    return all(node.mode & ENTER for node in item.nodes[:-1])


def _evidence(pairs: Iterable[tuple[Item, Node]]) -> str:
    return "; ".join(f"{node.path} is {node.words}" for _item, node in list(pairs)[:4])


def _odd(node: Node, who: Who) -> str:
    """Say why access is refused although owner and mode allow it."""
    del who
    return (
        f"Owner and mode of {node.path} would let it in, and the kernel refuses all the same: an access control list "
        "(getfacl), a read-only mount (findmnt -T), or a security module (SELinux, AppArmor)."
    )


def _same_folder(paths: Iterable[str], folder: str) -> bool:
    """Whether one of the paths lies in a folder, or below it."""
    prefix = folder.rstrip("/") + "/"
    return any(path.startswith(prefix) for path in paths)


# ---------------------------------------------------------------------------------------------------------------
# What has to be changed


def _readable(node: Node, who: Who, *, secret: bool, safe: bool = True) -> Fix:
    """Let the service read a file that others own: through its group. What others may is taken from a secret."""
    if node.uid == who.uid:
        mode = node.mode & ~(_OTHERS if secret else 0) | 0o400
        return Fix(node.path, mode=f"{mode:04o}", safe=safe)
    mode = (node.mode & 0o6700 | 0o640) if secret else (node.mode | 0o640)
    group = None if node.gid == who.gid or node.gid in who.groups else who.group
    owner = node.owner if group is not None and node.owner else None
    return Fix(node.path, owner=owner, group=group, mode=f"{mode & 0o7777 & ~0o111:04o}", safe=safe)


def _hidden(node: Node, who: Who) -> Fix:
    """Take from others what only the service and root are to have; the service keeps what it has."""
    mode = node.mode & ~0o027
    if node.uid == who.uid or node.gid == who.gid or node.gid in who.groups:
        return Fix(node.path, mode=f"{mode:04o}")
    return Fix(node.path, owner=node.owner or None, group=who.group, mode=f"{mode | 0o040:04o}")


def _closed(seen: Access, node: Node) -> Fix | None:
    """Let the service's group enter a folder; nothing where the folder is the host's, or another person's."""
    who = seen.who
    if who is None or node.path in SYSTEM or (node.uid not in (0, who.uid) and node.owner):
        return None
    if node.path == seen.environment or _same_folder([node.path], seen.environment):
        return None
    if node.uid == who.uid:
        return Fix(node.path, mode=f"{node.mode | 0o500:04o}")
    if node.gid == who.gid or node.gid in who.groups:
        return Fix(node.path, mode=f"{node.mode | 0o050:04o}")
    return Fix(node.path, owner=node.owner or None, group=who.group, mode=f"{node.mode | 0o050:04o}")


def _own(node: Node, who: Who, bits: int) -> Fix:
    """Make something the service's own, with at least ``bits``. What a named other person owns needs to be asked."""
    mode = node.mode | bits
    if node.uid == who.uid:
        return Fix(node.path, mode=f"{mode:04o}")
    return Fix(
        node.path,
        owner=who.name,
        group=who.group,
        mode=None if mode == node.mode else f"{mode:04o}",
        safe=node.uid == 0 or not node.owner,
    )


def _writable_folder(seen: Access, node: Node) -> Fix | None:
    """Let the service write to a folder; ``None`` where that would give away what is beside its data."""
    who = seen.who
    if who is None or node.path in SYSTEM or node.path in seen.config_folders:
        return None
    if _same_folder([seen.environment], node.path):
        # The sticky bit keeps the service from putting something else in the place of its environment.
        return Fix(node.path, owner="root", group=who.group, mode="1770")
    return _own(node, who, 0o700)


def _key_fix(seen: Access, node: Node) -> Fix | None:
    who = seen.who
    if who is None or node.kind != "file" or (may(node, who, READ) and not node.mode & 0o027):
        return None
    if seen.managed:
        return Fix(node.path, owner=who.name, group=who.group, mode="0600")
    return _hidden(node, who) if may(node, who, READ) else _readable(node, who, secret=True)


def _fix(seen: Access, who: Who, item: Item, node: Node) -> Fix | None:
    """Return what lets the service have what it needs of one item."""
    if node is not item.nodes[-1]:
        return _closed(seen, node)
    if item.purpose in _READ_FILES:
        return _readable(node, who, secret=item.purpose != "log_config" or seen.managed)
    if item.purpose == "key":
        return _key_fix(seen, node)
    if item.missing or item.purpose in _FOLDERS:
        return _writable_folder(seen, node)
    return _own(node, who, 0o600) if item.purpose in ("database", "log") else None


def _fixes(seen: Access) -> Iterator[Fix]:
    who = seen.who
    if who is None:
        return
    for item in seen.items:
        # What owner and mode allow already, no change of them opens.
        fixes = (_fix(seen, who, item, node) for node in _refusing(item, who))
        yield from (fix for fix in fixes if fix is not None)
    yield from _tightened(seen)
    if seen.foreign:
        for item in seen.of("media"):
            if item.node is not None:
                yield Fix(item.node.path, owner=who.name, group=who.group, recurse=True)
    if _environment_fix(seen) is not None:
        yield Fix(seen.environment, mode="a+rX", recurse=True)


def _tightened(seen: Access) -> Iterator[Fix]:
    """What others may read, or the service may write, and should not."""
    who = seen.who
    if who is None:
        return
    for item in seen.of("key"):
        if item.node is not None and item.node.mode & 0o027 and seen.blocked(item) is None:
            fix = _key_fix(seen, item.node)
            if fix is not None:
                yield fix
    for item in _exposed(seen):
        if item.node is not None and seen.blocked(item) is None:
            yield _hidden(item.node, who)
    yield from _taken_back(seen, who)


def _taken_back(seen: Access, who: Who) -> Iterator[Fix]:
    """Give the folder of the configuration to root again, and what the collection keeps there for root."""
    given = [node for node in _given_away(seen) if not _holds_data(seen, node.path)]
    for node in given:
        yield Fix(node.path, owner="root", group=who.group, mode="0750", safe=seen.managed)
    for item in seen.of("config", "log_config", "secret") if given and seen.managed else ():
        if item.node is not None and item.node.uid == who.uid:
            yield Fix(item.node.path, owner="root", group=who.group, mode="0640")


def _strength(fix: Fix) -> tuple[bool, int]:
    return fix.recurse, int(fix.owner is not None) + int(fix.group is not None) + int(fix.mode is not None)


def wanted(seen: Access | None) -> list[Fix]:
    """Return what has to be changed, one entry for each path."""
    found: dict[str, Fix] = {}
    for fix in _fixes(seen) if seen is not None else ():
        earlier = found.get(fix.path)
        if earlier is None or _strength(fix) > _strength(earlier):
            found[fix.path] = fix
    return list(found.values())


def _commands(seen: Access, nodes: Iterable[Node], otherwise: str) -> str:
    """Return what a person types for some objects, or what else there is to do."""
    fixes = {fix.path: fix for fix in wanted(seen)}
    commands = [fixes[node.path].command() for node in nodes if node.path in fixes]
    return " && ".join(dict.fromkeys(commands)) or otherwise


def _clue(
    seen: Access, summary: str, pairs: Sequence[tuple[Item, Node]], otherwise: str, cause: str | None = None
) -> Clue:
    """Return what is said about paths that the service cannot use as it has to."""
    who = seen.who
    nodes = [node for _item, node in pairs]
    fixes = {fix.path: fix for fix in wanted(seen)}
    known = [fixes[node.path] for node in nodes if node.path in fixes]
    odd = [node for item, node in pairs if who is not None and item.granted is False and may(node, who, item.needs)]
    return Clue(
        summary,
        _evidence(pairs),
        cause=_odd(odd[0], who) if odd and who is not None else cause,
        remedy=_commands(seen, nodes, otherwise),
        repair="permissions" if known else "",
        safe=bool(known) and all(fix.safe for fix in known),
    )


# ---------------------------------------------------------------------------------------------------------------
# Rules

_FOLDERS = ("database_folder", "log_folder", "media")
_READ_FILES = ("config", "log_config", "secret", "appservice", "worker_config")
_NAMES: Mapping[str, str] = {
    "config": "its configuration",
    "worker_config": "the configuration of a worker",
    "log_config": "the configuration of its log",
    "secret": "a secret",
    "appservice": "an application service's registration",
    "key": "its signing key",
    "database": "its database",
    "database_folder": "the folder of its database",
    "media": "its media",
    "log": "its log",
    "log_folder": "the folder of its log",
    "environment": "its environment",
    "tls": "its TLS certificate or key",
}
_BY_ROOT = (
    "It was made, restored or edited as root, and kept root's owner or mode: a copy with cp or rsync, an editor that "
    "writes a new file, a umask of 077, or a command of Synapse that was run as root."
)
_NOT_OPEN = "Give it to the service's group alone; never chmod 644 or 777, and no chown -R of the folder."


def _name(seen: Access) -> str:
    return seen.who.name if seen.who is not None else "?"


@RULES.rule(
    "folder_closed",
    severity="critical",
    cause=f"A folder on the way was made, or closed, for root alone. {_BY_ROOT}",
    remedy="Let the service's group enter the folder.",
    repair="permissions",
    safe=True,
    explains=(
        "access.*",
        "identity.key_unreadable",
        "environment.*",
        "configuration.*",
        "database.*",
        "service.program_unreachable",
        "service.directory_missing",
        "service.namespace",
        "service.output",
    ),
    stops=True,
)
def _folder_closed(seen: Seen) -> Iterable[Clue]:
    """The service may not enter a folder on the way to something that it needs."""
    access = seen.access
    if access is None or access.who is None:
        return
    shut: dict[str, list[tuple[Item, Node]]] = {}
    for item in access.items:
        node = access.blocked(item)
        if node is None or node is item.nodes[-1] or _in_environment(access, node):
            continue
        shut.setdefault(node.path, []).append((item, node))
    for path, pairs in shut.items():
        what = dict.fromkeys(_NAMES[item.purpose] for item, _node in pairs if item.purpose in _NAMES)
        otherwise = (
            f"ls -ld {path}: this folder belongs to the host or to a person. Move what the service needs elsewhere, "
            "or put back the folder's usual mode (chmod 0755 for folders such as /etc, /opt and /var/lib)."
        )
        clue = _clue(
            access,
            f"Permission denied: the service's user {_name(access)} may not enter the folder {path}, and so cannot "
            f"reach {shown(what)}.",
            pairs[:1],
            otherwise,
        )
        yield clue


def _in_environment(seen: Access, node: Node) -> bool:
    return bool(seen.environment) and (node.path == seen.environment or _same_folder([node.path], seen.environment))


def _environment_fix(seen: Access) -> Node | None:
    """Return what the service cannot read of an environment that root owns: what is to be readable by anybody."""
    blocked = [(item, seen.blocked(item)) for item in seen.of("environment")]
    nodes = [node for _item, node in blocked if node is not None and _in_environment(seen, node)]
    nodes.extend(seen.unreadable)
    return nodes[0] if nodes and all(node.uid == 0 for node in nodes) else None


@RULES.rule(
    "environment_unreadable",
    severity="critical",
    cause=(
        "The environment (venv) was installed by root with a umask of 077, or from a restrictive shell of sudo: root "
        "can import Synapse from it, the service cannot, and says 'No module named synapse'."
    ),
    remedy="Make the environment readable for all, and writable for root alone.",
    repair="permissions",
    safe=True,
    explains=("environment.*", "configuration.*"),
    stops=True,
)
def _environment_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read its own environment."""
    access = seen.access
    if access is None or access.who is None:
        return
    pairs = [(item, access.blocked(item)) for item in access.of("environment")]
    nodes = [node for _item, node in pairs if node is not None and _in_environment(access, node)]
    nodes.extend(access.unreadable)
    if not nodes:
        return
    first = nodes[0]
    mendable = _environment_fix(access) is not None
    remedy = (
        f"chmod -R a+rX {shlex.quote(access.environment)} (never chown it to the service: a compromised server could "
        "then rewrite its own code)"
        if mendable
        else f"Build the environment anew (ansible-playbook matrix_fleet.synapse.repair --tags reinstall): "
        f"{first.path} belongs to {first.owner or first.uid}, and neither to root nor to the service."
    )
    yield Clue(
        f"Permission denied: the service's user {_name(access)} may not read the environment (venv) "
        f"{access.environment}: it was installed with a umask such as 077.",
        f"{first.path} is {first.words}" + (f"; {len(nodes)} such paths were seen" if len(nodes) > 1 else ""),
        remedy=remedy,
        repair="permissions" if mendable else "reinstall",
        safe=mendable,
    )


@RULES.rule(
    "config_unreadable",
    severity="critical",
    cause=_BY_ROOT,
    remedy=_NOT_OPEN,
    repair="permissions",
    safe=True,
    explains=(
        "configuration.*",
        "access.log_config_unreadable",
        "access.secret_unreadable",
        "access.worker_config_unreadable",
        "identity.key_unreadable",
        "database.*",
    ),
    stops=True,
)
def _config_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read its configuration."""
    access = seen.access
    pairs = access.stopped("config") if access is not None else []
    if access is not None and pairs:
        yield _clue(
            access,
            f"Permission denied: the service's user {_name(access)} may not read its configuration "
            f"{shown(item.path for item, _node in pairs)}, because of the owner or mode of that file.",
            pairs,
            _NOT_OPEN,
        )


def _unreadable(seen: Seen, purpose: str, what: str, otherwise: str = _NOT_OPEN) -> Iterator[Clue]:
    access = seen.access
    pairs = access.stopped(purpose) if access is not None else []
    if access is not None and pairs:
        options = shown(dict.fromkeys(item.option for item, _node in pairs if item.option))
        named = f" ({options})" if options else ""
        yield _clue(
            access,
            f"Permission denied: the service's user {_name(access)} may not read {what} "
            f"{shown(item.path for item, _node in pairs)}{named}.",
            pairs,
            otherwise,
        )


@RULES.rule(
    "worker_config_unreadable",
    severity="error",
    cause=_BY_ROOT,
    remedy=_NOT_OPEN,
    repair="permissions",
    safe=True,
)
def _worker_config_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read the configuration of a worker."""
    return _unreadable(seen, "worker_config", "the configuration of a worker,")


@RULES.rule(
    "log_config_unreadable",
    severity="critical",
    cause=_BY_ROOT,
    remedy=_NOT_OPEN,
    repair="permissions",
    safe=True,
    explains=("configuration.log_config_missing", "configuration.log_config_invalid", "configuration.file_unwritable"),
    stops=True,
)
def _log_config_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read the configuration of its log."""
    return _unreadable(seen, "log_config", "the configuration of its log")


@RULES.rule(
    "secret_unreadable",
    severity="critical",
    cause=_BY_ROOT,
    remedy=_NOT_OPEN,
    repair="permissions",
    safe=True,
    explains=("configuration.refused", "configuration.file_unreadable"),
    stops=True,
)
def _secret_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read the file of a secret that its configuration names."""
    return _unreadable(seen, "secret", "the secret in")


@RULES.rule(
    "appservice_unreadable",
    severity="critical",
    cause="The registration was written by the bridge, or by root, for itself alone.",
    remedy=_NOT_OPEN,
    repair="permissions",
    safe=True,
    explains=("configuration.appservice_file", "configuration.file_unreadable"),
    stops=True,
)
def _appservice_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read the registration of an application service."""
    return _unreadable(seen, "appservice", "the registration of an application service")


@RULES.rule(
    "tls_unreadable",
    severity="critical",
    cause="The files belong to what renews the certificate, which keeps them for root or for a group of its own.",
    remedy="Copy certificate and private key for the service's group when they are renewed (a deploy hook).",
    explains=("configuration.tls_files", "configuration.file_unreadable", "public.*"),
    stops=True,
)
def _tls_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read the TLS certificate or private key of its listener."""
    access = seen.access
    pairs = access.stopped("tls") if access is not None else []
    if access is None or not pairs or access.who is None:
        return
    who, node = access.who, pairs[0][1]
    group = node.group if node.gid != 0 and node.mode & 0o040 else ""
    own = f"{access.config_folders[0] if access.config_folders else '/etc/synapse'}/tls"
    remedy = (
        f"usermod --append --groups {group} {who.name}, then restart the service"
        if group
        else f"install -d -o root -g {who.group} -m 0750 {own} && install -o root -g {who.group} -m 0640 "
        f"{shlex.quote(node.path)} {own}/ (let certbot do so in a deploy hook), and name that file in "
        f"{pairs[0][0].option}; never chmod 644 the private key"
    )
    yield Clue(
        f"Permission denied: the service's user {who.name} may not read the TLS file "
        f"{shown(item.path for item, _node in pairs)} ({shown(item.option for item, _node in pairs)}).",
        _evidence(pairs),
        remedy=remedy,
    )


@RULES.rule(
    "database_unwritable",
    severity="critical",
    cause=(
        "Something that opens the database was run as root: Synapse itself, one of its scripts, a shell of sqlite3, or "
        "a restored copy. SQLite says 'attempt to write a readonly database', or 'unable to open database file'."
    ),
    remedy="Give the SQLite file to the service's user; never chmod 666.",
    repair="permissions",
    safe=True,
    explains=("database.readonly", "database.file_unusable", "database.unfinished", "configuration.file_unwritable"),
    stops=True,
)
def _database_unwritable(seen: Seen) -> Iterable[Clue]:
    """The service may not write to its SQLite database, or to the folder of it."""
    access = seen.access
    pairs = access.stopped("database", "database_folder") if access is not None else []
    if access is not None and pairs:
        files = [pair for pair in pairs if pair[0].purpose == "database"]
        what = "the SQLite database" if files else "the folder of the SQLite database"
        yield _clue(
            access,
            f"Permission denied: {what} {shown(node.path for _item, node in pairs)} is readonly for the service's user "
            f"{_name(access)}, because of its owner or mode.",
            pairs,
            "Give the database a folder of its own that belongs to the service: not that of the configuration, and "
            "none of the host's.",
        )


@RULES.rule(
    "media_unwritable",
    severity="error",
    cause=(
        "It was restored, copied (rsync) or made as root - a check of the configuration by root makes the folder -, or "
        "lies on a file system that gives root's files to nobody (NFS with root_squash)."
    ),
    remedy="Give the media store, and it alone, to the service's user.",
    repair="permissions",
    safe=True,
    explains=("configuration.file_unwritable",),
)
def _media_unwritable(seen: Seen) -> Iterable[Clue]:
    """The service may not write to its media store: uploads and pictures of other servers fail."""
    access = seen.access
    if access is None or access.who is None:
        return
    taken = [node for _item, node in access.stopped("database", "database_folder")]
    pairs = [pair for pair in access.stopped("media") if pair[1] not in taken]
    if pairs:
        yield _clue(
            access,
            f"Permission denied: the service's user {_name(access)} may not write to the media store "
            f"(media_store_path) {shown(item.path for item, _node in pairs)}: each upload fails with status 500.",
            pairs,
            "Give it a folder of its own that belongs to the service, and name it in media_store_path.",
        )
        return
    if access.foreign:
        nodes = access.foreign
        tops = [item.node for item in access.of("media") if item.node is not None]
        yield Clue(
            f"Permission denied: in the media store, {shown(node.path for node in nodes)} cannot be used by the "
            f"service's user {_name(access)}, because of the owner: some uploads and downloads fail.",
            "; ".join(f"{node.path} is {node.words}" for node in nodes[:4]),
            remedy=_commands(access, tops, "Give these files to the service's user."),
        )


@RULES.rule(
    "log_unwritable",
    severity="critical",
    cause="The log was first written by root - Synapse started by hand -, or rotated by a job that keeps it for root.",
    remedy="Give the log and its folder to the service's user.",
    repair="permissions",
    safe=True,
    explains=("configuration.log_config_missing", "configuration.log_config_invalid", "configuration.file_unwritable"),
    stops=True,
)
def _log_unwritable(seen: Seen) -> Iterable[Clue]:
    """The service may not write to its log: it does not start, or its log cannot be rotated."""
    access = seen.access
    if access is None:
        return
    pairs = access.stopped("log", "log_folder")
    if pairs:
        # A folder alone matters only when the file is rotated.
        only_folder = all(item.purpose == "log_folder" and not item.missing for item, _node in pairs)
        clue = _clue(
            access,
            f"Permission denied: the service's user {_name(access)} may not write to its log "
            f"{shown(item.path for item, _node in pairs)}.",
            pairs,
            "Give the service a folder of its own for its log, such as /var/log/synapse, and name the file there in "
            "the log configuration; never chmod 666.",
        )
        present = any(item.node is not None for item in access.of("log"))
        yield Clue(**{**clue.__dict__, "severity": "warning"}) if only_folder and present else clue


def _exposed(seen: Access) -> Iterator[Item]:
    """Return files with secrets that accounts which are none of the service's may read."""
    for item in seen.of("config", "secret", "worker_config"):
        node = item.node
        if node is None or not node.mode & 0o004:
            continue
        if item.purpose == "secret" or item.path in seen.inline or (seen.managed and item.purpose == "config"):
            yield item


@RULES.rule(
    "secrets_exposed",
    severity="warning",
    cause=(
        "Files are made readable for all under the usual umask of 022 (synapse --generate-config writes "
        "homeserver.yaml with mode 0644), by chmod -R, or by a copy that does not keep modes."
    ),
    remedy="Take the right to read from others. Secrets that were read by somebody have to be changed.",
    repair="permissions",
    safe=True,
    explains=("configuration.exposed",),
)
def _secrets_exposed(seen: Seen) -> Iterable[Clue]:
    """Files that hold secrets are readable for every account on the host."""
    access = seen.access
    if access is None:
        return
    items = list(_exposed(access))
    if not items:
        return
    pairs = [(item, item.node) for item in items if item.node is not None]
    held = [item for item in items if item.purpose == "secret" or item.path in access.inline]
    what = "with secrets in them" if held else "of the configuration, where secrets may come to stand"
    kept = "" if any(_traversable(item) for item in items) else " (only the mode of the folder still keeps others out)"
    yield Clue(
        f"Files {what} are world-readable because of their mode: {shown(item.path for item in items)}{kept}.",
        _evidence(pairs),
        severity="warning" if access.managed or not kept else "info",
        remedy=_commands(
            access, [node for _item, node in pairs], f"chmod o= {' '.join(item.path for item in items[:4])}"
        ),
    )


def _given_away(seen: Access) -> list[Node]:
    """Return folders of configuration or key in which the service may put and remove files."""
    who = seen.who
    if who is None or who.uid == 0:
        return []
    nodes = [node for item in seen.of("config_folder") if (node := item.node) is not None]
    return [node for node in nodes if may(node, who, WRITE | ENTER) and node.path != "/"]


def _holds_data(seen: Access, folder: str) -> bool:
    """Whether the service has to write to a folder, because its data lie there too."""
    paths = [item.path for item in seen.of("database", "media", "log")]
    return any(os.path.dirname(path) == folder for path in paths)


@RULES.rule(
    "config_folder_writable",
    severity="warning",
    cause=(
        "A chown -R of the folder to the service's user, as many guides have it, takes away its protection: where the "
        "signing key is missing, Synapse then makes a new one without a word, and with it a new identity; a "
        "compromised server can write its own configuration."
    ),
    remedy="Give the folder to root, and let the service's group read it.",
    repair="permissions",
    safe=False,
)
def _config_folder_writable(seen: Seen) -> Iterable[Clue]:
    """The service may write to the folder of its configuration and signing key."""
    access = seen.access
    if access is None or access.who is None:
        return
    for shared in (False, True):
        nodes = [node for node in _given_away(access) if _holds_data(access, node.path) == shared]
        if not nodes:
            continue
        told = ", because its data lie there too" if shared else ""
        yield Clue(
            f"The service's user {_name(access)} may write to the folder {shown(node.path for node in nodes)} with its "
            f"configuration or signing key{told}.",
            "; ".join(f"{node.path} is {node.words}" for node in nodes[:4]),
            severity="info" if shared else None,
            remedy=(
                f"Keep configuration and signing key in a folder of their own: root:{access.who.group} 0750."
                if shared
                else _commands(access, nodes, "")
            ),
            repair="" if shared else None,
            safe=not shared and access.managed,
        )
