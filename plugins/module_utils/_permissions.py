# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who shall own what, and who may read it: the decision on one object of a file system. No I/O, no Ansible."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "SHOWN",
    "Change",
    "Rule",
    "Skip",
    "check_rules",
    "decide",
    "describe",
    "excluder",
    "nested",
    "shown",
    "words",
]

SHOWN = 100  # so many paths are returned, and shown in a diff

_SET_ID = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True)
class Rule:
    """What is wanted of a path, and of what is below it. ``None`` leaves that part as it is."""

    path: str
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    recurse: bool = False
    directory_mode: int | None = None
    file_mode: int | None = None
    exclude: tuple[str, ...] = ()
    missing_ok: bool = False
    hard_links: bool = False

    def mode_for(self, file_type: int, *, top: bool) -> int | None:
        """Return the mode wanted of an object of this type (``stat.S_IFMT``); the path itself may have its own."""
        if file_type == stat.S_IFLNK:
            return None
        if top and self.mode is not None:
            return self.mode
        return self.directory_mode if file_type == stat.S_IFDIR else self.file_mode


@dataclass(frozen=True)
class Change:
    """What an object gets: ``uid``, ``gid`` and ``mode`` are ``None`` where they are right."""

    path: str
    uid: int | None
    gid: int | None
    mode: int | None
    before: tuple[int, int, int]

    @property
    def after(self) -> tuple[int, int, int]:
        """Owner, group and mode afterwards."""
        uid, gid, mode = self.before
        return (
            uid if self.uid is None else self.uid,
            gid if self.gid is None else self.gid,
            mode if self.mode is None else self.mode,
        )


@dataclass(frozen=True)
class Skip:
    """An object that was left alone although it is not as wanted."""

    path: str
    reason: str


def check_rules(rules: Sequence[Rule]) -> None:
    """Refuse rules that contradict each other or are dangerous; raises ``SynapseError``."""
    seen = set()
    for rule in rules:
        if not os.path.isabs(rule.path):
            raise SynapseError(f"{rule.path!r} in paths is not absolute: write the whole path.")
        if rule.path in seen:
            raise SynapseError(f"{rule.path} stands in paths twice: say once what is wanted of it.")
        seen.add(rule.path)
        if rule.recurse and rule.path == "/":
            raise SynapseError(
                "The whole file system cannot be given to one owner: name the folders of the installation."
            )
        if rule.file_mode is not None and rule.file_mode & _SET_ID:
            raise SynapseError(
                f"file_mode {rule.file_mode:04o} of {rule.path} would let every file there run as its owner or group: "
                "leave out the first digit."
            )
        if not rule.recurse and (rule.exclude or rule.directory_mode is not None or rule.file_mode is not None):
            raise SynapseError(
                f"exclude, directory_mode and file_mode of {rule.path} are for what is below it: "
                "add recurse, or use mode."
            )


def nested(rule: Rule, rules: Iterable[Rule]) -> dict[str, bool]:
    """Return the paths below ``rule`` that have a rule of their own, and whether that one is recursive.

    The nearer rule alone decides: a key that is to be 0600 in a folder whose files are to be 0640 is never 0640 in
    between. What lies below a path whose own rule is not recursive stays with the outer rule.
    """
    prefix = rule.path.rstrip("/") + "/"
    return {other.path: other.recurse for other in rules if other.path.startswith(prefix)}


def shown(path: str) -> str:
    """Return a path as it can be printed: names are bytes, and whoever chose them may have chosen escape sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)


def excluder(patterns: Sequence[str]) -> t.Callable[[str, str], bool] | None:
    """Return a function over (path below the top, name) that says whether a pattern excludes it.

    A pattern with a slash is held against the path, one without against the name. ``None`` where there is no pattern.
    """
    if not patterns:
        return None
    paths = [fnmatch.translate(item.strip("/")) for item in patterns if "/" in item.strip("/")]
    names = [fnmatch.translate(item.strip("/")) for item in patterns if "/" not in item.strip("/")]
    by_path = re.compile("|".join(paths)) if paths else None
    by_name = re.compile("|".join(names)) if names else None

    def excluded(path: str, name: str) -> bool:
        return bool((by_name is not None and by_name.match(name)) or (by_path is not None and by_path.match(path)))

    return excluded


def decide(rule: Rule, path: str, found: os.stat_result, *, top: bool, tree_uid: int) -> Change | Skip | None:
    """Decide what an object needs: a change, to be left alone with a reason, or nothing.

    ``tree_uid`` is the owner of the rule's own path. A file with several names is left alone where its owner is not the
    one that is wanted: whoever may write to the folder can put a second name for a file of somebody else into it, and
    have it given to himself.
    """
    file_type = stat.S_IFMT(found.st_mode)
    if file_type not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return None
    mode = stat.S_IMODE(found.st_mode)
    wanted = rule.mode_for(file_type, top=top)
    uid = None if rule.uid in (None, found.st_uid) else rule.uid
    gid = None if rule.gid in (None, found.st_gid) else rule.gid
    change_mode = None if wanted in (None, mode) else wanted
    if uid is None and gid is None and change_mode is None:
        return None
    if file_type == stat.S_IFREG and found.st_nlink > 1 and not rule.hard_links:
        stranger = found.st_uid != (tree_uid if rule.uid is None else rule.uid)
        if stranger or gid is not None:
            return Skip(path, f"it has {found.st_nlink} names (hard links), and may be somebody else's file")
    if change_mode is None and (uid is not None or gid is not None) and file_type == stat.S_IFREG and mode & _SET_ID:
        # Linux takes these bits away with a change of owner, and nobody asked for them.
        change_mode = mode & ~_SET_ID
    return Change(path, uid, gid, change_mode, (found.st_uid, found.st_gid, mode))


def words(state: tuple[int, int, int], users: Mapping[int, str], groups: Mapping[int, str]) -> str:
    """Return owner, group and mode as ``synapse:synapse 0640``."""
    uid, gid, mode = state
    return f"{users.get(uid, uid)}:{groups.get(gid, gid)} {mode:04o}"


def describe(
    changes: Sequence[Change], count: int, users: Mapping[int, str], groups: Mapping[int, str]
) -> dict[str, str]:
    """Return the diff over the first changes of ``count``."""
    rest = f"and {count - len(changes)} more\n" if count > len(changes) else ""
    return {
        "before": "".join(f"{shown(item.path)} {words(item.before, users, groups)}\n" for item in changes) + rest,
        "after": "".join(f"{shown(item.path)} {words(item.after, users, groups)}\n" for item in changes) + rest,
    }
