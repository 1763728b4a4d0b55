# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks over folders and gives their contents the owners and modes that rules want. No Ansible.

Everything is reached from the open folder that holds it, and opened without following links: what whoever owns the
folder does to names meanwhile cannot lead the walk elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _permissions
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions import SHOWN, Change, Rule, Skip
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Tally", "walk"]

_DEPTH = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# What somebody else did to a name while the walk went on.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


@dataclass
class Tally:
    """What a walk came upon; only the first of the changes and of what was left alone are kept."""

    examined: int = 0
    changed_count: int = 0
    skipped_count: int = 0
    changes: list[Change] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def skip(self, item: Skip) -> None:
        """Count something that was left alone."""
        self.skipped_count += 1
        if len(self.skipped) < SHOWN:
            self.skipped.append(item)

    def change(self, item: Change) -> None:
        """Count a change."""
        self.changed_count += 1
        if len(self.changes) < SHOWN:
            self.changes.append(item)


def _failed(change: Change, tally: Tally, error: OSError) -> SynapseError:
    done = (
        "nothing was changed before that" if not tally.changed_count else f"{tally.changed_count} were changed before"
    )
    return SynapseError(
        f"Cannot change owner or mode of {change.path}: {error.strerror}; {done}. Run the task as root "
        "('become: true'), see that the file system is writable and the file not immutable (lsattr), and run it again."
    )


def _unseen(path: str, error: OSError) -> SynapseError:
    return SynapseError(
        f"Cannot look at {path}: {error.strerror}. Run the task as root ('become: true'), see that the file system is "
        "in order (dmesg), or exclude that path."
    )


def _change_link(change: Change, name: str, folder: int) -> None:
    uid, gid = (-1 if item is None else item for item in (change.uid, change.gid))
    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)


def _change_object(
    rule: Rule, change: Change, name: str, folder: int, *, top: bool, tree_uid: int
) -> Change | Skip | None:
    """Change a file or folder; what is changed is the object that is looked at here, whatever its name becomes."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(handle)
        if stat.S_ISLNK(found.st_mode):
            return None
        decision = _permissions.decide(rule, change.path, found, top=top, tree_uid=tree_uid)
        if not isinstance(decision, Change):
            return decision
        reached = f"/proc/self/fd/{handle}"
        if decision.uid is not None or decision.gid is not None:
            # The owner first: a wider mode would let the old group in, and a change of owner takes setuid bits away.
            uid, gid = (-1 if item is None else item for item in (decision.uid, decision.gid))
            os.chown(reached, uid, gid)
        if decision.mode is not None:
            os.chmod(reached, decision.mode)
        return decision
    finally:
        os.close(handle)


class _Walk:
    """One rule on its way through its tree."""

    def __init__(self, rule: Rule, rules: Sequence[Rule], tally: Tally, *, write: bool, one_file_system: bool) -> None:
        self.rule = rule
        self.tally = tally
        self.write = write
        self.one_file_system = one_file_system
        self.own_rules = _permissions.nested(rule, rules)
        self.excluded: Callable[[str, str], bool] | None = _permissions.excluder(rule.exclude)
        self.tree_uid = 0
        self.device = 0
        self.base = rule.path.rstrip("/")

    def judge(self, path: str, name: str, folder: int, found: os.stat_result, *, top: bool = False) -> None:
        """Decide on one object, and change it."""
        decision = _permissions.decide(self.rule, path, found, top=top, tree_uid=self.tree_uid)
        if isinstance(decision, Change) and self.write:
            decision = self._apply(decision, name, folder, found, top=top)
        if isinstance(decision, Skip):
            self.tally.skip(decision)
        elif decision is not None:
            self.tally.change(decision)

    def _apply(
        self, change: Change, name: str, folder: int, found: os.stat_result, *, top: bool
    ) -> Change | Skip | None:
        """Change one object; return what was done, ``None`` where it is gone."""
        try:
            if not stat.S_ISLNK(found.st_mode):
                return _change_object(self.rule, change, name, folder, top=top, tree_uid=self.tree_uid)
            _change_link(change, name, folder)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise _failed(change, self.tally, error) from error
        return change

    def folder(self, handle: int, below: str) -> list[str]:
        """Go through one open folder; return the names of the folders in it to go into."""
        rule, tally = self.rule, self.tally
        uid, gid, file_mode = rule.uid, rule.gid, rule.file_mode
        picky = self.excluded is not None or bool(self.own_rules)
        folders: list[str] = []
        examined = 0
        with os.scandir(handle) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno in _GONE:
                        continue
                    raise _unseen(f"{self.base}{below}/{entry.name}", error) from error
                mode = found.st_mode
                if picky and self._left_out(below, entry.name, mode, folders):
                    continue
                examined += 1
                if stat.S_ISREG(mode):
                    # In good order, as nearly all are: the same as decide() would say, at a fraction of its time.
                    if (
                        (uid is None or found.st_uid == uid)
                        and (gid is None or found.st_gid == gid)
                        and (file_mode is None or mode & 0o7777 == file_mode)
                    ):
                        continue
                elif stat.S_ISDIR(mode):
                    if self.one_file_system and found.st_dev != self.device:
                        tally.skip(Skip(f"{self.base}{below}/{entry.name}", "it is on another file system"))
                        continue
                    folders.append(entry.name)
                self.judge(f"{self.base}{below}/{entry.name}", entry.name, handle, found)
        tally.examined += examined
        return folders

    def _left_out(self, below: str, name: str, mode: int, folders: list[str]) -> bool:
        """Whether this rule does not decide on an object; a folder whose contents it does decide on is noted."""
        path = f"{below}/{name}"
        if self.excluded is not None and self.excluded(path[1:], name):
            return True
        recursive = self.own_rules.get(self.base + path)
        if recursive is None:
            return False
        if not recursive and stat.S_ISDIR(mode):
            folders.append(name)
        return True

    def tree(self, top: int) -> None:
        """Go through everything below the open folder ``top``; the handles it opens are closed again."""
        stack: list[tuple[int, str, list[str]]] = [(top, "", self.folder(top, ""))]
        try:
            while stack:
                handle, below, names = stack[-1]
                if not names:
                    stack.pop()
                    if handle != top:
                        os.close(handle)
                    continue
                name = names.pop()
                inner = self.open(name, handle, f"{below}/{name}")
                if inner is None:
                    continue
                if len(stack) > _DEPTH:
                    os.close(inner)
                    raise SynapseError(f"{self.base}{below} is nested more than {_DEPTH} folders deep: exclude it.")
                stack.append((inner, f"{below}/{name}", []))
                stack[-1] = (inner, f"{below}/{name}", self.folder(inner, f"{below}/{name}"))
        finally:
            for handle, _below, _names in stack:
                if handle != top:
                    os.close(handle)

    def open(self, name: str, folder: int, below: str) -> int | None:
        """Open a folder to go into; ``None`` where it has gone or is no folder any more."""
        try:
            handle = os.open(name, _DIRECTORY, dir_fd=folder)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise SynapseError(
                f"Cannot look into {self.base}{below}: {error.strerror}. Run the task as root ('become: true')."
            ) from error
        if self.one_file_system and os.fstat(handle).st_dev != self.device:
            os.close(handle)
            return None
        return handle


def _trusted_parent(path: str) -> None:
    """Refuse a path that leads through a link which neither root nor this user made: it may lead anywhere."""
    trusted = {0, os.geteuid()}
    current = "/"
    for part in os.path.dirname(path).split("/"):
        if not part:
            continue
        current = os.path.join(current, part)
        try:
            found = os.lstat(current)
        except OSError:
            return
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in trusted:
            raise SynapseError(
                f"{path} leads through {current}, a symbolic link of the user with the number {found.st_uid}: "
                "name the path that is meant, without the link."
            )


def _out_of_reach(rule: Rule, error: OSError) -> SynapseError:
    return SynapseError(f"Cannot reach {rule.path}: {error.strerror}. Run the task as root ('become: true').")


def _walk_rule(walk_: _Walk, rule: Rule, tally: Tally) -> None:
    _trusted_parent(rule.path)
    parent, name = os.path.split(rule.path.rstrip("/") or "/")
    try:
        folder = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        tally.missing.append(rule.path)
        return
    except OSError as error:
        raise _out_of_reach(rule, error) from error
    try:
        _walk_top(walk_, rule, name or ".", folder, tally)
    finally:
        os.close(folder)


def _walk_top(walk_: _Walk, rule: Rule, name: str, folder: int, tally: Tally) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        tally.missing.append(rule.path)
        return
    except OSError as error:
        raise _out_of_reach(rule, error) from error
    if stat.S_ISLNK(found.st_mode) and (rule.recurse or rule.mode is not None):
        raise SynapseError(
            f"{rule.path} is a symbolic link to {os.readlink(name, dir_fd=folder)}, and links are not followed: "
            "name the path that it leads to."
        )
    walk_.tree_uid = found.st_uid if rule.uid is None else rule.uid
    walk_.device = found.st_dev
    tally.examined += 1
    walk_.judge(rule.path, name, folder, found, top=True)
    if rule.recurse and stat.S_ISDIR(found.st_mode):
        handle = walk_.open(name, folder, "")
        if handle is not None:
            try:
                walk_.tree(handle)
            finally:
                os.close(handle)


def walk(rules: Sequence[Rule], *, write: bool, one_file_system: bool = True) -> Tally:
    """Go over the paths of all rules and, with ``write``, change what is not as wanted.

    Objects that vanish meanwhile are passed over. Raises ``SynapseError`` where something cannot be read or changed.
    """
    tally = Tally()
    if write and not os.path.isdir("/proc/self/fd"):
        raise SynapseError("/proc is not there, through which files are changed without following names: mount it.")
    for rule in rules:
        one = _Walk(rule, rules, tally, write=write, one_file_system=one_file_system)
        _walk_rule(one, rule, tally)
    return tally
