# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where the collection writes to a file system.

Every write is whole or absent: a temporary file beside the target, with its final owner and mode before
the first byte, synced, then renamed over the target, and the folder synced. Imports nothing from Ansible.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import re
import secrets
import stat
import tempfile
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, SynapseError

__all__ = [
    "KEEP",
    "Ownership",
    "account_of",
    "clear",
    "describe",
    "discard",
    "exchange",
    "make_directory",
    "nameless",
    "own",
    "parse_mode",
    "publish",
    "publish_new",
    "read",
    "remove",
    "replace_link",
    "resolve",
    "stage",
    "stage_link",
    "stage_open",
    "sync_directory",
    "tail",
    "write",
]

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # linux/fs.h
_RENAME_EXCHANGE = 2
_HIGHEST_ID = 2**32 - 2  # The kernel's numbers have 32 bits, and the last of them means "leave it as it is".


@dataclass(frozen=True)
class Ownership:
    """Numeric owner and group; ``None`` leaves that half as it is."""

    uid: int | None = None
    gid: int | None = None


KEEP = Ownership()


def _number(option: str, text: str) -> int:
    number = int(text) if len(text) <= 10 else _HIGHEST_ID + 1
    if number > _HIGHEST_ID:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise SynapseError(
            f"{option}: {shown} is no number of a user or group, the highest is {_HIGHEST_ID}: correct it, or give "
            "the name."
        )
    return number


def resolve(owner: str | None, group: str | None) -> Ownership:
    """Turn names or decimal numbers into an ``Ownership``.

    Raises ``SynapseError`` where the host does not know a name, or a number is higher than there can be.
    """
    uid = gid = None
    if owner is not None:
        try:
            uid = _number("owner", owner) if owner.isdecimal() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise SynapseError(f"The host has no user {owner!r}: create it first, or name another owner.") from None
    if group is not None:
        try:
            gid = _number("group", group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise SynapseError(f"The host has no group {group!r}: create it first, or name another group.") from None
    return Ownership(uid, gid)


def account_of(user: str) -> Account | None:
    """Return the identity of ``user`` with all its groups, or ``None`` where this process already is that user.

    Raises ``SynapseError`` where the host does not know the user.
    """
    try:
        entry = pwd.getpwuid(_number("user", user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise SynapseError(f"The host has no user {user!r}: create it first, or name another user.") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise SynapseError(f"Only root can act as user {user!r}: run the task with 'become: true'.")
    return Account(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def parse_mode(mode: str) -> int:
    """Turn an octal mode such as ``"0640"`` into its number; raises ``SynapseError`` for anything else."""
    if re.fullmatch(r"0o?[0-7]{1,4}|[0-7]{3,4}", mode) is None:
        raise SynapseError(f'{mode!r} is not a mode: write it in octal digits and quotes, such as "0640".')
    return int(mode, 8)


def describe(path: str, error: OSError) -> str:
    """Return ``error`` as a sentence about ``path``, for messages."""
    return f"{path}: {error.strerror or error}"


def _advice(error: OSError) -> str:
    """Return what to do about ``error``, as a sentence after a space; nothing where that is not short to say."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        if os.geteuid() != 0:
            return " Run the task with 'become: true', or as a user that may do this."
        return " Even root may not: look at the mount, at 'lsattr', and at SELinux or AppArmor."
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return " Make room on that file system, and run again."
    if error.errno == errno.EROFS:
        return " Mount that file system writable, or name another path."
    if error.errno == errno.ELOOP:
        return " Put the thing itself there instead of a link, or name another path."
    if error.errno == errno.EIO:
        return " The disk failed: look at the kernel's log."
    return ""


def read(path: str, *, limit: int = 64 * 1024 * 1024, follow: bool = True) -> bytes | None:
    """Return the bytes of a regular file, or ``None`` where there is none.

    Raises ``SynapseError`` where the file cannot be read, is not a regular file, is larger than ``limit`` bytes, or
    is a link and ``follow`` is false.
    """
    try:
        # O_NONBLOCK: opening a named pipe that lies at the path must not wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SynapseError(f"Cannot read {describe(path, error)}.{_advice(error)}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise SynapseError(f"{path} is not a regular file: move it away, or name another path.")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise SynapseError(f"Cannot read {describe(path, error)}.{_advice(error)}") from error
    finally:
        os.close(handle)
    if len(data) > limit:
        raise SynapseError(
            f"{path} is larger than {limit} bytes, which no file of this kind is: move it away, or name another path."
        )
    return data


def tail(path: str, size: int) -> bytes:
    """Return the last ``size`` bytes of a regular file, such as a log; ``b""`` where it cannot be read.

    A link is not followed: who may write beside a log could have it show any file that this process can read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                return b""
            stream.seek(max(0, status.st_size - size))
            return stream.read(size)
    except OSError:
        return b""


def sync_directory(path: str) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems know no fsync of a folder.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
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
            # A folder of such a name is nobody's temporary file, and must not keep anything from being written.
            named = entry.name.startswith(f".{name}.") and entry.name.endswith(".partial")
            if named and not entry.is_dir(follow_symlinks=False):
                yield entry.path


def clear(path: str) -> None:
    """Remove what an interrupted write left beside ``path``. Raises ``OSError``."""
    folder, name = os.path.split(path)
    for leftover in list(_leftovers(folder or ".", name)):
        os.unlink(leftover)


def _partial(path: str) -> str:
    """Return the name for a temporary file beside ``path``, after clearing away what an interrupted write left."""
    clear(path)
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{secrets.token_hex(8)}.partial")


def _sync_name(path: str) -> None:
    """Make the change of a name durable. It has happened: what the disk says now must not deny it."""
    with contextlib.suppress(OSError):
        sync_directory(os.path.dirname(path) or ".")


def stage(path: str, data: bytes | t.Iterable[bytes], *, ownership: Ownership = KEEP, mode: int) -> str:
    """Write what shall lie at ``path`` beside it, whole, synced, with its owner and mode; return the temporary's name.

    ``data`` may come in parts, so that a large file need not fit into memory; what they raise ends the writing.
    ``None`` halves of ``ownership`` are those of this process. ``publish`` makes it visible. Raises ``SynapseError``.
    """
    partial, handle = stage_open(path, ownership=ownership, mode=mode)
    try:
        try:
            with os.fdopen(handle, "wb") as stream:
                for part in (data,) if isinstance(data, bytes) else data:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            discard(partial)
            raise
    except OSError as error:
        raise SynapseError(
            f"Cannot write {describe(path, error)}. Nothing at that path was changed.{_advice(error)}"
        ) from error
    return partial


def stage_open(path: str, *, ownership: Ownership = KEEP, mode: int) -> tuple[str, int]:
    """Make the file of ``stage`` empty; return its name and a descriptor, for what is too large to be held in memory.

    Whoever asks writes, syncs, closes, and then publishes or discards it. Raises ``SynapseError``.
    """
    try:
        partial = _partial(path)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            own(handle, ownership)
            os.fchmod(handle, mode)
        except BaseException:
            os.close(handle)
            discard(partial)
            raise
    except OSError as error:
        raise SynapseError(
            f"Cannot write {describe(path, error)}. Nothing at that path was changed.{_advice(error)}"
        ) from error
    return partial, handle


def stage_link(path: str, target: str, *, ownership: Ownership = KEEP) -> str:
    """Make the symbolic link that shall lie at ``path`` beside it; return its name. Raises ``SynapseError``."""
    try:
        partial = _partial(path)
        os.symlink(target, partial)
        try:
            own(partial, ownership)
        except BaseException:
            discard(partial)
            raise
    except OSError as error:
        raise SynapseError(
            f"Cannot point {describe(path, error)}. What was there is still in place.{_advice(error)}"
        ) from error
    return partial


def publish(partial: str, path: str) -> None:
    """Rename what ``stage`` or ``stage_link`` made over ``path``. Raises ``SynapseError``; the old is then in place."""
    try:
        os.replace(partial, path)
    except OSError as error:
        discard(partial)
        raise SynapseError(
            f"Cannot replace {describe(path, error)}. What was there is still in place.{_advice(error)}"
        ) from error
    _sync_name(path)


def publish_new(partial: str, path: str) -> None:
    """Give what ``stage`` made its name where nothing may be yet, not even since the caller looked.

    Raises ``SynapseError`` where ``path`` exists, a link included; it is then untouched.
    """
    try:
        try:
            _renameat2(partial, path, _RENAME_NOREPLACE)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
                raise
            os.link(partial, path, follow_symlinks=False)
    except OSError as error:
        raise SynapseError(
            f"Cannot create {describe(path, error)}. What is there was left as it is.{_advice(error)}"
        ) from error
    finally:
        discard(partial)
    _sync_name(path)


def discard(partial: str) -> None:
    """Remove what ``stage`` or ``stage_link`` made; it may be gone already."""
    with contextlib.suppress(OSError):
        os.unlink(partial)


def write(path: str, data: bytes | t.Iterable[bytes], *, ownership: Ownership = KEEP, mode: int) -> None:
    """Put ``data`` at ``path``, whole and durable, with its owner and mode from the first instant.

    A link at ``path`` is replaced, not followed; ``None`` halves of ``ownership`` are those of this process.
    Raises ``SynapseError``; the old file is then still in place.
    """
    publish(stage(path, data, ownership=ownership, mode=mode), path)


@contextlib.contextmanager
def nameless(data: bytes, *, ownership: Ownership = KEEP) -> t.Iterator[int]:
    """Give the descriptor of a file with mode 0600 that has no name, so that it goes even with a killed process.

    Whoever inherits it opens it anew as ``/proc/self/fd/NUMBER``. Raises ``SynapseError``.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            own(stream.fileno(), ownership)
            if stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise SynapseError(
                f"Cannot write to the folder for temporary files: {describe(tempfile.gettempdir(), error)}."
                f"{_advice(error)}"
            ) from error
        yield stream.fileno()


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
        raise SynapseError(f"Cannot create the folder {describe(path, error)}.{_advice(error)}") from error
    try:
        # Not by name: whom the folder is given to may put a link in its place before its mode is set.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            own(handle, ownership)
            os.fchmod(handle, mode)
        finally:
            os.close(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise SynapseError(
            f"Cannot give the new folder its owner and mode: {describe(path, error)}.{_advice(error)}"
        ) from error
    _sync_name(os.path.abspath(path))
    return True


def replace_link(path: str, target: str) -> None:
    """Make ``path`` a symbolic link to ``target`` by one rename: at every instant it is the old link or the new.

    Raises ``SynapseError``; the old link is then still in place.
    """
    publish(stage_link(path, target), path)


def _renameat2(first: str, second: str, flags: int) -> None:
    """Call renameat2(2). Raises ``OSError``: ``EINVAL`` or ``ENOSYS`` where the file system or kernel cannot do it."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = library.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "this C library has no renameat2") from None
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def exchange(first: str, second: str) -> None:
    """Swap two names of one file system in one step, whatever kind each is (renameat2(2), ``RENAME_EXCHANGE``).

    Raises ``OSError``: ``EINVAL`` or ``ENOSYS`` where the file system or kernel cannot do it.
    """
    _renameat2(first, second, _RENAME_EXCHANGE)
    _sync_name(first)
    _sync_name(second)


def remove(path: str) -> bool:
    """Remove a file or link; return whether there was one. Raises ``SynapseError``."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SynapseError(f"Cannot remove {describe(path, error)}.{_advice(error)}") from error
    _sync_name(path)
    return True
