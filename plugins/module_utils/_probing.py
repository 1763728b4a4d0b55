# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom, and in which folder, the interpreter of an environment is asked. Imports nothing from Ansible."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, SynapseError

__all__ = ["account_for", "as_named", "require_trusted", "scratch"]

_WRITABLE = 0o022
_SCRATCH = "synapse-probe-"
# Seconds in which a folder may be without its lock because it has just been made.
_JUST_MADE = 60.0
_LINKS = 40  # as the kernel (path_resolution(7))


def _folders(python: str) -> tuple[str, str]:
    """Return the folder of an environment and the one of its interpreter."""
    programs = os.path.dirname(os.path.abspath(python))
    return os.path.dirname(programs), programs


def account_for(user: str | None, python: str | None) -> Account | None:
    """Return whom an environment's interpreter runs as: ``user``, or else the environment's owner where this is root.

    ``None`` stands for this process's own identity. Raises ``SynapseError`` where the host does not know ``user``.
    """
    if user is not None:
        return _files.account_of(user)
    if python is None or os.geteuid() != 0:
        return None
    for folder in _folders(python):
        try:
            status = os.stat(folder)
        except OSError:
            continue
        if status.st_uid != 0:
            try:
                return _files.account_of(str(status.st_uid))
            except SynapseError:  # a number that the host has no name for
                return Account(status.st_uid, status.st_gid)
    return None


def as_named(path: str) -> tuple[str, os.stat_result]:
    """Return what root's own links at the end of a path lead to, and who owns that.

    Another's link is not followed: whoever could make it must not choose as whom root has the rest opened. Raises
    ``OSError``.
    """
    for _link in range(_LINKS):
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode) or status.st_uid != 0:
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path, status


def require_trusted(python: str) -> None:
    """Refuse, as root, an environment that others than root can change: it is about to be given private keys.

    Raises ``SynapseError``.
    """
    if os.geteuid() != 0:
        return
    for folder in _folders(python):
        try:
            # Of a link, both count: who owns it can point it elsewhere.
            owner, status = os.lstat(folder).st_uid, os.stat(folder)
        except OSError as error:
            raise SynapseError(f"Cannot look at {_files.describe(folder, error)}.") from error
        owner = owner or status.st_uid
        if owner != 0:
            why = f"belongs to the user with the number {owner}"
        elif status.st_mode & _WRITABLE:
            why = f"can be changed by others than root (mode {status.st_mode & 0o7777:04o})"
        else:
            continue
        raise SynapseError(
            f"{folder} {why}: root does not run what that user can change. Name the "
            "interpreter of a release that synapse_venv made."
        )


def _locked(folder: str) -> int | None:
    """Lock a folder of one's own making; ``None`` where somebody holds it, or the file system knows no locks.

    The kernel lets go of it with the process, however that ends.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(place: str, owners: t.Collection[int]) -> None:
    """Remove the folders of ``scratch`` whose processes were killed: a copy of a database may be in one."""
    try:
        names = [name for name in os.listdir(place) if name.startswith(_SCRATCH)]
    except OSError:
        return
    for name in names:
        path = os.path.join(place, name)
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if status.st_uid not in owners or time.time() - status.st_mtime < _JUST_MADE:
                continue
            handle = _locked(path)
            if handle is not None:
                try:
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(handle)


@contextlib.contextmanager
def scratch(parent: str | None, account: Account | None) -> t.Iterator[str]:
    """Give an empty folder which belongs to ``account``, and take it away again with all that is in it.

    ``parent`` is where it lies, ``None`` for the host's folder for temporary files. What a process that was killed
    left there goes as well. Raises ``SynapseError``.
    """
    place = parent or tempfile.gettempdir()
    _sweep(place, {os.geteuid()} if account is None else {os.geteuid(), account.uid})
    folder = handle = None
    try:
        try:
            folder = tempfile.mkdtemp(prefix=_SCRATCH, dir=place)
            handle = _locked(folder)
            if account is not None:
                _files.own(folder, _files.Ownership(account.uid, account.gid))
        except OSError as error:
            raise SynapseError(
                f"Cannot make a folder to work in: {_files.describe(place, error)}. Make room there, or let this user "
                "write to it, and run the task again."
            ) from error
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)
