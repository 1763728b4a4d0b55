# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a transaction: its journal, the copies it saved, and the backups it leaves. Nothing from Ansible.

Layout, all of it 0700 and 0600 of the user that runs the task::

    <folder>/current/journal.json     there is an open transaction; written last, after every copy that it names
    <folder>/current/<number>         saved copies
    <folder>/backups/<time>/...       the same, of committed transactions: one rename of ``current``
    <folder>/failed/<time>/...        the same, of what did not work and was rolled back: for study, never used
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._transaction import Entry, Journal, journal_from

if t.TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Store", "timestamp"]

_STAMP = re.compile(r"\d{8}T\d{6}Z(-\d+)?")


def timestamp() -> str:
    """Return the time now, in UTC, as a name that sorts."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def _name(stamp: str, number: int) -> str:
    return stamp if number == 1 else f"{stamp}-{number}"


class Store:
    """The folder of a transaction. It may be missing: then there is no journal and there are no backups."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.current = os.path.join(folder, "current")
        self.file = os.path.join(self.current, "journal.json")
        self.backups = os.path.join(folder, "backups")
        self.failed = os.path.join(folder, "failed")

    def trusted(self) -> bool:
        """Return whether the folder is there; raise ``SynapseError`` where somebody else could have written into it.

        What the journal says is done with the rights of this process: a folder made by the service's user would let it
        write anywhere.
        """
        try:
            status = os.lstat(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SynapseError(
                f"Cannot look at the transaction's folder {_files.describe(self.folder, error)}."
            ) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SynapseError(
                f"The transaction's folder {self.folder} is not a folder that belongs to this user alone, so what it "
                "says cannot be trusted. Look at what made it, and move it away."
            )
        return True

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Keep other runs out, where the folder is there. The kernel lets go however this process ends."""
        if not self.trusted():
            yield
            return
        try:
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unlockable(error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise self._unlockable(error) from error
                raise SynapseError(
                    f"Another run is changing the files of this installation (it holds {self.folder}): let it end, "
                    "then run again. Nothing was changed."
                ) from error
            yield
        finally:
            os.close(handle)

    def _unlockable(self, error: OSError) -> SynapseError:
        return SynapseError(
            f"Cannot lock the transaction's folder {_files.describe(self.folder, error)}. Let this user open it, on a "
            "file system that knows locks, or name another folder, and run again. Nothing was changed."
        )

    def load(self) -> Journal | None:
        """Return the open journal. Raises ``SynapseError`` where it cannot be read or is damaged."""
        return self._read(self.current)

    def history(self) -> Iterator[Journal]:
        """Yield the open journal, if there is one, and those of the backups, newest first.

        Raises ``SynapseError`` where the one that is asked for next is damaged.
        """
        journal = self.load()
        if journal is not None:
            yield journal
        if not os.path.isdir(self.backups):
            return
        for stamp, number in reversed(self._kept(self.backups)):
            journal = self._read(os.path.join(self.backups, _name(stamp, number)))
            if journal is not None:
                yield journal

    @staticmethod
    def _read(folder: str) -> Journal | None:
        file = os.path.join(folder, "journal.json")
        data = _files.read(file, follow=False)
        if data is None:
            return None

        def copy(name: str) -> bytes:
            if not name.isdecimal():
                raise ValueError(f"it names the copy {name!r}")
            content = _files.read(os.path.join(folder, name), follow=False)
            if content is None:
                raise ValueError(f"the copy {name} is missing")
            return content

        try:
            journal = journal_from(json.loads(data), copy)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SynapseError(
                f"The journal {file} is damaged ({error}). It and the copies beside it are what the files were "
                f"before the last change: put back by hand what you need, move {folder} away, and run again."
            ) from error
        placed = [
            entry if entry.saved is None else dataclasses.replace(entry, saved=os.path.join(folder, entry.saved))
            for entry in journal.entries
        ]
        return dataclasses.replace(journal, entries=tuple(placed))

    def save(self, journal: Journal, known: int) -> None:
        """Put the journal on disk; its first ``known`` entries' copies are there already. Raises ``SynapseError``."""
        _files.make_directory(self.folder, mode=0o700)
        self.trusted()
        if known == 0:
            shutil.rmtree(
                self.current, ignore_errors=True
            )  # copies of a journal that was never finished, or is dropped
        self._write(self.current, journal, known)

    def _write(self, folder: str, journal: Journal, known: int = 0) -> None:
        _files.make_directory(folder, mode=0o700)
        for number, entry in enumerate(journal.entries[known:], start=known):
            if entry.content is not None:
                _files.write(os.path.join(folder, str(number)), entry.content, mode=0o600)
        data = json.dumps(journal.data(), indent=1, sort_keys=True).encode("ascii") + b"\n"
        _files.write(os.path.join(folder, "journal.json"), data, mode=0o600)

    def drop(self) -> None:
        """Forget the open journal: removed first, so that no journal ever names a missing copy."""
        _files.remove(self.file)
        shutil.rmtree(self.current, ignore_errors=True)

    def commit(self, keep: int) -> str | None:
        """Close the journal by one rename into the backups; keep the newest ``keep``. Return where it is kept."""
        _files.make_directory(self.backups, mode=0o700)
        place = self._place(self.backups)
        try:
            os.rename(self.current, place)
            _files.sync_directory(self.folder)
            _files.sync_directory(self.backups)
        except OSError as error:
            raise SynapseError(f"Cannot close the transaction: {_files.describe(self.current, error)}.") from error
        self._prune(self.backups, keep)
        return place if keep else None

    def back_up(self, entries: t.Sequence[Entry], keep: int) -> str | None:
        """Keep copies of files that change outside of a transaction. Raises ``SynapseError``."""
        return self._keep(self.backups, entries, keep)

    def set_aside(self, entries: t.Sequence[Entry], keep: int) -> str | None:
        """Keep copies of what did not work and gives way, for study. Raises ``SynapseError``."""
        return self._keep(self.failed, entries, keep)

    def _keep(self, folder: str, entries: t.Sequence[Entry], keep: int) -> str | None:
        entries = [entry for entry in entries if entry.kind != "absent"]
        if not entries or not keep:
            return None
        _files.make_directory(self.folder, mode=0o700)
        self.trusted()
        _files.make_directory(folder, mode=0o700)
        place = self._place(folder)
        self._write(place, Journal(timestamp(), False, tuple(entries)))
        self._prune(folder, keep)
        return place

    @staticmethod
    def _kept(folder: str) -> list[tuple[str, int]]:
        """Return the backups, oldest first, as time and number within it. Raises ``SynapseError``."""
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if _STAMP.fullmatch(entry.name)]
        except OSError as error:
            raise SynapseError(
                f"Cannot look at the backups in {_files.describe(folder, error)}. Let this user read that "
                "folder, and run again."
            ) from error
        return sorted((name[:16], int(name[17:] or 1)) for name in names)

    def _place(self, folder: str) -> str:
        """Return a free name that sorts after all others, even where the clock went back."""
        stamp, number = max([(timestamp(), 0), *self._kept(folder)])
        return os.path.join(folder, _name(stamp, number + 1))

    def _prune(self, folder: str, keep: int) -> None:
        kept = self._kept(folder)
        for stamp, number in kept[: max(0, len(kept) - keep)]:
            shutil.rmtree(os.path.join(folder, _name(stamp, number)), ignore_errors=True)
