# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reaches what lies below folders that other users can change: through the open folder, not by its name. No Ansible.

Root writes below folders of the service's user. Who owns a folder can put a link in the place of anything in it at any
moment, and have root write where that leads. So the way there is gone once, step by step from the root: a link that
others made is refused, and where others could change a step, the folder at its end is kept open and used from then on.
"""

from __future__ import annotations

import errno
import os
import stat

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = ["Pins"]

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # as the kernel (path_resolution(7))
_OTHERS = 0o022


class _Way:
    """A walk to a folder: what is open, what is left to go, and whether others could change a step so far."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.trusted = {0, os.geteuid()}
        self.handle = os.open("/", _FOLDER)
        self.rest = [part for part in reversed(folder.split("/")) if part not in {"", "."}]
        self.shaky = False
        self.links = 0

    def close(self) -> None:
        """Let go of the open folder."""
        os.close(self.handle)

    def go(self) -> None:
        """Go as far as there are folders. Raises ``SynapseError`` for a link of others, ``OSError`` for the rest."""
        while self.rest:
            name = self.rest.pop()
            here = os.fstat(self.handle)
            try:
                found = os.stat(name, dir_fd=self.handle, follow_symlinks=False)
            except FileNotFoundError:
                self.shaky = self.shaky or here.st_uid not in self.trusted or bool(here.st_mode & _OTHERS)
                self.rest.append(name)
                return
            self.shaky = self.shaky or self._changeable(here, found)
            if stat.S_ISLNK(found.st_mode):
                self._follow(name, found)
            else:
                self._enter(name)

    def _changeable(self, here: os.stat_result, found: os.stat_result) -> bool:
        """Return whether others could put something else in the place of ``found``. A sticky folder keeps ours."""
        if here.st_uid not in self.trusted:
            return True
        return bool(here.st_mode & _OTHERS) and not (here.st_mode & stat.S_ISVTX and found.st_uid in self.trusted)

    def _follow(self, name: str, found: os.stat_result) -> None:
        self.links += 1
        if found.st_uid not in self.trusted:
            raise SynapseError(
                f"The way to {self.folder} leads through {name}, a link of the user with the number {found.st_uid}, "
                "who could have it lead anywhere: name the folder that is meant, without that link. Nothing was "
                "changed there."
            )
        if self.links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(name, dir_fd=self.handle)
        if target.startswith("/"):
            self._step(os.open("/", _FOLDER))
        self.rest.extend(part for part in reversed(target.split("/")) if part not in {"", "."})

    def _enter(self, name: str) -> None:
        self._step(os.open(name, _FOLDER, dir_fd=self.handle))

    def _step(self, handle: int) -> None:
        os.close(self.handle)
        self.handle = handle


class Pins:
    """The folders that are kept open. They are closed with the process: a module lives for one task."""

    def __init__(self) -> None:
        self._pinned: dict[str, str] = {}
        # Ways that are not all there yet: the folder that is, what is missing below it, and the path through it.
        self._begun: dict[str, tuple[int, tuple[str, ...], str]] = {}
        self._names: dict[str, str] = {}

    def reach(self, path: str) -> str:
        """Return by which path to use what lies at ``path``; of a link at its end, that is the link.

        It is ``path`` itself where nobody but root and this user can change a folder on the way, and one through
        /proc where somebody can. Raises ``SynapseError`` where the way leads through a link that somebody else made.
        """
        parent, name = os.path.split(path)
        if parent not in self._pinned:
            pinned = self._pin(parent)
            if pinned is None:
                return path
            if "/" in pinned[len("/proc/self/fd/") :]:
                return f"{pinned}/{name}"  # Not all of it is there yet: the way is gone again next time.
            self._pinned[parent] = pinned
        return f"{self._pinned[parent]}/{name}"

    def make_parents(self, path: str) -> None:
        """Make the missing folders above ``path``, with mode 0755, one by one. Raises ``SynapseError``."""
        missing = []
        folder = os.path.dirname(path)
        while not os.path.isdir(self.reach(folder)):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            _files.make_directory(self.reach(folder), mode=0o755)

    def named(self, text: str) -> str:
        """Return a message with the folders under their names."""
        for pinned, parent in self._names.items():
            text = text.replace(f"{pinned}/", f"{parent}/")
        return text

    def _pin(self, parent: str) -> str | None:
        """Return the open folder's path, and what is missing below it; ``None`` where names will do."""
        way = _Way(parent)
        try:
            way.go()
        except SynapseError:
            way.close()
            raise
        except OSError as error:
            way.close()
            if not way.shaky:
                return None  # What is done there will say the same.
            raise SynapseError(
                f"Cannot go to {_files.describe(parent, error)}. Another user can change a folder on the way: see what "
                "lies there, and run again. Nothing was changed there."
            ) from error
        if not way.shaky:
            way.close()
            return None
        missing = tuple(reversed(way.rest))
        begun = self._begun.get(parent)
        if begun is not None and begun[1] == missing and os.path.samestat(os.fstat(begun[0]), os.fstat(way.handle)):
            way.close()
            return begun[2]
        # One that led less far stays open: who holds a path through it must not be led to what has its number next.
        pinned = "/".join([f"/proc/self/fd/{way.handle}", *missing])
        self._begun[parent] = way.handle, missing, pinned
        self._names[pinned] = parent
        return pinned
