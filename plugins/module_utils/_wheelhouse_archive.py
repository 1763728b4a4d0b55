# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and composes a wheelhouse's archive, in parts: no file is ever in memory as a whole, the manifest apart."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import (
    LOCK_NAME,
    MANIFEST_NAME,
    Entry,
    Manifest,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Head", "compose", "head_of", "members", "of_file", "part_of", "sha256_of", "verify"]

_CHUNK = 1024 * 1024
_HEAD_LIMIT = 16 * _CHUNK
_BLOCK = 512
_RECORD = 20 * _BLOCK

File = t.Tuple[str, int, "Iterable[bytes]"]


@dataclass(frozen=True)
class Head:
    """The beginning of an archive: its manifest, its lock's text."""

    manifest: Manifest
    lock: str


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tarfile.TarFile]:
    """Open an archive; every way in which it cannot be read is a ``SynapseError``."""
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except FileNotFoundError:
        raise SynapseError(
            f"There is no wheelhouse at {path}: make it with the playbook 'wheelhouse', or correct its path."
        ) from None
    except tarfile.TarError as error:
        raise SynapseError(_broken(path, str(error))) from error
    except OSError as error:
        raise SynapseError(f"Cannot read {_files.describe(path, error)}.") from error


def _broken(path: str, why: str) -> str:
    return (
        f"The wheelhouse {path} is damaged ({why}), so nothing was taken from it and nothing was changed. Gather it "
        "again, or copy it again from where it is whole."
    )


def _small(archive: tarfile.TarFile, path: str, name: str) -> bytes:
    info = archive.next()
    if info is None or info.name != name or not info.isreg() or info.size > _HEAD_LIMIT:
        raise SynapseError(_broken(path, f"{name} is not where it should be"))
    stream = archive.extractfile(info)
    data = stream.read() if stream is not None else b""
    if len(data) != info.size:
        raise SynapseError(_broken(path, f"{name} is cut short"))
    return data


def sha256_of(data: bytes) -> str:
    """Return the hash of something small."""
    return hashlib.sha256(data).hexdigest()


def head_of(path: str) -> Head:
    """Read manifest and lock of an archive. Raises ``SynapseError`` where there is none, or it is damaged."""
    with _opened(path) as archive:
        data = _small(archive, path, MANIFEST_NAME)
        manifest = Manifest.from_json(data)
        if manifest is None:
            raise SynapseError(_broken(path, f"its {MANIFEST_NAME} is none of this collection's"))
        lock = _small(archive, path, LOCK_NAME)
    if sha256_of(lock) != manifest.files[LOCK_NAME].sha256:
        raise SynapseError(_broken(path, f"{LOCK_NAME} has another hash than the manifest says"))
    return Head(manifest, lock.decode("utf-8", "replace"))


def _checked(stream: t.IO[bytes], path: str, name: str, entry: Entry) -> Iterator[bytes]:
    """Yield a file's bytes, and raise ``SynapseError`` at their end where they are not what the manifest says."""
    found = hashlib.sha256()
    size = 0
    try:
        while True:
            data = stream.read(_CHUNK)
            if not data:
                break
            found.update(data)
            size += len(data)
            yield data
    except (tarfile.TarError, OSError) as error:
        raise SynapseError(_broken(path, f"{name}: {error}")) from error
    if size != entry.size:
        raise SynapseError(_broken(path, f"{name} has {size} bytes instead of {entry.size}"))
    if found.hexdigest() != entry.sha256:
        raise SynapseError(_broken(path, f"{name} has another hash than the manifest says"))


def members(path: str, manifest: Manifest, names: Iterable[str]) -> Iterator[File]:
    """Yield name, size and content of files in an archive, each to be read before the next is asked for.

    Raises ``SynapseError`` where one is missing, or is not what the manifest says.
    """
    wanted = set(names)
    with _opened(path) as archive:
        while wanted:
            info = archive.next()
            if info is None:
                raise SynapseError(_broken(path, f"{sorted(wanted)[0]} is missing"))
            if info.name not in wanted:
                continue
            wanted.discard(info.name)
            stream = archive.extractfile(info) if info.isreg() else None
            if stream is None:
                raise SynapseError(_broken(path, f"{info.name} is no file"))
            yield (
                info.name,
                manifest.files[info.name].size,
                _checked(stream, path, info.name, manifest.files[info.name]),
            )


def verify(path: str, manifest: Manifest) -> None:
    """Read every file of an archive; raises ``SynapseError`` where one is not what the manifest says."""
    for _name, _size, content in members(path, manifest, manifest.files):
        for _data in content:
            pass


def of_file(path: str, name: str, entry: Entry) -> File:
    """Return a file on disk as part of an archive to be composed; what it must be is checked on the way."""

    def content() -> Iterator[bytes]:
        try:
            with open(path, "rb") as stream:
                yield from _checked(stream, path, name, entry)
        except OSError as error:
            raise SynapseError(f"Cannot read {_files.describe(path, error)}.") from error

    return name, entry.size, content()


def compose(manifest: Manifest, files: Iterable[File]) -> Iterator[bytes]:
    """Yield the bytes of an archive: always the same for the same files."""
    data = manifest.to_json()
    written = 0
    first: File = (MANIFEST_NAME, len(data), (data,))
    for group in ((first,), files):
        for name, size, content in group:
            info = tarfile.TarInfo(name)
            info.size, info.mode = size, 0o644
            header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
            yield header
            yield from content
            padding = -size % _BLOCK
            yield bytes(padding)
            written += len(header) + size + padding
    written += 2 * _BLOCK
    yield bytes(2 * _BLOCK + -written % _RECORD)


def part_of(path: str, manifest: Manifest, target: str) -> Iterator[bytes]:
    """Yield the bytes of an archive that holds what one kind of host takes from the one at ``path``."""
    return compose(manifest, members(path, manifest, manifest.names_for(target)))
