# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where the collection writes to a file system.

Every write is whole or absent: a temporary file beside the target, with its final owner and mode before
the first byte, synced, then renamed over the target, and the folder synced. Imports nothing from Ansible.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import secrets
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, SynapseError

__all__ = [
    "KEEP",
    "Ownership",
    "account_of",
    "describe",
    "exchange",
    "make_directory",
    "own",
    "parse_mode",
    "read",
    "remove",
    "replace_link",
    "resolve",
    "sync_directory",
    "write",
]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


@dataclass(frozen=True)
class Ownership:
    """Numeric owner and group; ``None`` leaves that half as it is."""

    uid: int | None = None
    gid: int | None = None


KEEP = Ownership()


def resolve(owner: str | None, group: str | None) -> Ownership:
    """Turn names or decimal numbers into an ``Ownership``.

    Raises ``SynapseError`` where the host does not know a name.
    """
    uid = gid = None
    if owner is not None:
        try:
            uid = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise SynapseError(f"The host has no user {owner!r}: create it first, or name another owner.") from None
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise SynapseError(f"The host has no group {group!r}: create it first, or name another group.") from None
    return Ownership(uid, gid)


def account_of(user: str) -> Account | None:
    """Return the identity of ``user`` with all its groups, or ``None`` where this process already is that user.

    Raises ``SynapseError`` where the host does not know the user.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise SynapseError(f"The host has no user {user!r}: create it first, or name another user.") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise SynapseError(f"Only root can act as user {user!r}: run the task with 'become: true'.")
    return Account(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def parse_mode(mode: str) -> int:
    """Turn an octal mode such as ``"0640"`` into its number; raises ``SynapseError`` for anything else."""
    try:
        number = int(mode, 8)
    except ValueError:
        number = -1
    if not 0 <= number <= 0o7777:
        raise SynapseError(f"{mode!r} is not a mode: write it in octal digits and quotes, such as \"0640\".")
    return number


def describe(path: str, error: OSError) -> str:
    """Return ``error`` as a sentence about ``path``, for messages."""
    return f"{path}: {error.strerror or error}"


def read(path: str, *, limit: int = 64 * 1024 * 1024) -> bytes | None:
    """Return the bytes of a regular file, or ``None`` where there is none.

    Raises ``SynapseError`` where the file cannot be read, is not a regular file, or is larger than ``limit`` bytes.
    """
    try:
        # O_NONBLOCK: opening a named pipe that lies at the path must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SynapseError(f"Cannot read {describe(path, error)}.") from error
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise SynapseError(f"{path} is not a regular file: move it away, or name another path.")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise SynapseError(f"{path} is larger than {limit} bytes, which no file of this kind is.")
    return data


def sync_directory(path: str) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def own(handle: int | str, ownership: Ownership) -> None:
    """Set owner and group of an open file or a path, following no link; ``None`` halves stay as they are."""
    uid = -1 if ownership.uid is None else ownership.uid
    gid = -1 if ownership.gid is None else ownership.gid
    if uid == gid == -1:
        return
    if isinstance(handle, int):
        os.chown(handle, uid, gid)
    else:
        os.chown(handle, uid, gid, follow_symlinks=False)


def _leftovers(folder: str, name: str) -> t.Iterator[str]:
    """Temporary files that an interrupted write of ``name`` left behind."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(f".{name}.") and entry.name.endswith(".partial"):
                yield entry.path


def _partial(path: str) -> str:
    """Return the name for a temporary file beside ``path``, after clearing away what an interrupted write left."""
    folder, name = os.path.split(path)
    for leftover in list(_leftovers(folder or ".", name)):
        os.unlink(leftover)
    return os.path.join(folder, f".{name}.{secrets.token_hex(8)}.partial")


def write(path: str, data: bytes, *, ownership: Ownership = KEEP, mode: int) -> None:
    """Put ``data`` at ``path``, whole and durable, with its owner and mode from the first instant.

    A link at ``path`` is replaced, not followed. Raises ``SynapseError``; the old file is then still in place.
    """
    try:
        partial = _partial(path)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                own(stream.fileno(), ownership)
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        raise SynapseError(f"Cannot write {describe(path, error)}. Nothing at that path was changed.") from error


def make_directory(path: str, *, ownership: Ownership = KEEP, mode: int) -> bool:
    """Create a folder and its missing parents (0755) with owner and mode; return whether it was missing.

    An existing folder is left exactly as it is. Raises ``SynapseError``.
    """
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        make_directory(parent, mode=0o755)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.isdir(path):
            return False
        raise SynapseError(f"{path} is in the way: a folder is needed there. Move it away.") from None
    except OSError as error:
        raise SynapseError(f"Cannot create the folder {describe(path, error)}.") from error
    own(path, ownership)
    os.chmod(path, mode)
    sync_directory(parent)
    return True


def replace_link(path: str, target: str) -> None:
    """Make ``path`` a symbolic link to ``target`` by one rename: at every instant it is the old link or the new.

    Raises ``SynapseError``; the old link is then still in place.
    """
    try:
        partial = _partial(path)
        os.symlink(target, partial)
        try:
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        raise SynapseError(f"Cannot point {describe(path, error)}. What was there is still in place.") from error


def exchange(first: str, second: str) -> None:
    """Swap two names of one file system in one step, whatever kind each is (renameat2(2), ``RENAME_EXCHANGE``).

    Raises ``OSError``: ``EINVAL`` or ``ENOSYS`` where the file system or kernel cannot do it.
    """
    library = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = library.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "this C library has no renameat2") from None
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    for folder in {os.path.dirname(first) or ".", os.path.dirname(second) or "."}:
        sync_directory(folder)


def remove(path: str) -> bool:
    """Remove a file or link; return whether there was one. Raises ``SynapseError``."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SynapseError(f"Cannot remove {describe(path, error)}.") from error
    sync_directory(os.path.dirname(path) or ".")
    return True
