# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wheelhouse on a managed host: what is there, what is needed, and how a carried archive is unpacked.

It lies under ``releases_path`` in ``.wheelhouse/<digest>-<target>``, which appears by one rename when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _venv_build
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner, SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import (
    LOCK_NAME,
    MANIFEST_NAME,
    Manifest,
    Target,
    refusal,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse_archive import head_of, members

__all__ = ["FOLDER", "Survey", "libc_of", "survey", "unpack"]

FOLDER = ".wheelhouse"
_NEW = "new-"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Survey:
    """What one look at the host came to: which wheels it takes, and why it needs none if it does not."""

    target: Target
    glibc: str
    path: str
    complete: bool
    built: str

    @property
    def needed(self) -> bool:
        """Whether the archive has to be carried here."""
        return not self.complete and not self.built

    @property
    def lock(self) -> str | None:
        """Where the lock is on the host, if it is there."""
        if self.complete:
            return os.path.join(self.path, LOCK_NAME)
        return os.path.join(self.built, _venv_build.LOCK_NAME) if self.built else None


def libc_of(confstr: t.Callable[[str], str | None] = os.confstr) -> tuple[str, str]:
    """Return the kind of C library and, of glibc, its version."""
    try:
        said = (confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (ValueError, OSError):
        said = []
    return ("glibc", said[-1]) if said else ("musl", "")


def _complete(path: str, digest: str, target: str) -> bool:
    """Whether a folder holds every file for this host, by name and size; their hashes were checked on their way in."""
    data = _files.read(os.path.join(path, MANIFEST_NAME))
    if data is None or hashlib.sha256(data).hexdigest() != digest:
        return False
    manifest = Manifest.from_json(data)
    if manifest is None or target not in manifest.targets:
        return False
    for name in manifest.names_for(target):
        try:
            if os.lstat(os.path.join(path, name)).st_size != manifest.files[name].size:
                return False
        except OSError:
            return False
    return True


def survey(
    run: Runner,
    *,
    releases_path: str,
    named: str | None,
    version: str,
    floor: tuple[int, int],
    digest: str,
    lock_digest: str,
) -> Survey:
    """Look at the host; which Python counts is decided as the environment's builder decides it."""
    releases, _names = _venv_build.releases_in(releases_path)
    interpreter = _venv_build.choose_python(run, named, floor, version)
    if interpreter.markers["implementation_name"] != "cpython":
        raise SynapseError(
            f"{interpreter.path} is no CPython, and a wheelhouse is for nothing else: name another one with 'python'. "
            "Nothing was changed."
        )
    machine = interpreter.markers["platform_machine"]
    libc, glibc = libc_of()
    minor = ".".join(interpreter.version.split(".")[:2])
    target = Target(minor, _MACHINES.get(machine, machine), libc)
    path = os.path.join(releases_path, FOLDER, f"{digest[:12]}-{target.name}")
    complete = _complete(path, digest, target.name)
    built = ""
    for release in () if complete else releases:
        manifest = release.manifest
        if manifest is None or not release.proven or manifest.lock_digest != lock_digest:
            continue
        same = named is None or manifest.python == interpreter.path
        if same and not _venv_build.look(run, release).findings:
            built = release.path
    return Survey(target, glibc, path, complete, built)


def _room_for(manifest: Manifest, target: str) -> int:
    return sum(manifest.files[name].size for name in manifest.names_for(target)) + 8 * 2**20


def unpack(archive: str, *, releases_path: str, digest: str, seen: Survey) -> None:
    """Unpack what the host takes from a carried archive, and remove the wheelhouses that were there before.

    Raises ``SynapseError`` where anything is not what the manifest says; what was there is then still in place.
    """
    manifest = head_of(archive).manifest
    if manifest.digest != digest:
        raise SynapseError(
            f"The wheelhouse changed on its way to this host: its manifest has the digest {manifest.digest[:12]}... "
            f"instead of {digest[:12]}.... Run again. Nothing was changed."
        )
    reason = refusal(manifest, seen.target, seen.glibc)
    if reason:
        raise SynapseError(reason)
    _venv_build.check_room(releases_path, need=_room_for(manifest, seen.target.name))
    with _venv_build.held(releases_path):
        houses = os.path.join(releases_path, FOLDER)
        _files.make_directory(houses, mode=0o755)
        new = os.path.join(houses, f"{_NEW}{os.path.basename(seen.path)}")
        _venv_build.discard(releases_path, new)
        _files.make_directory(new, mode=0o755)
        try:
            for name, _size, content in members(archive, manifest, manifest.names_for(seen.target.name)):
                _files.write(os.path.join(new, name), content, mode=0o644)
            _files.write(os.path.join(new, MANIFEST_NAME), manifest.to_json(), mode=0o644)
        except SynapseError:
            _venv_build.discard(releases_path, new)
            raise
        _venv_build.discard(releases_path, seen.path)
        try:
            os.rename(new, seen.path)
            _files.sync_directory(houses)
        except OSError as error:
            raise SynapseError(
                f"Cannot create {_files.describe(seen.path, error)}. Nothing else was changed."
            ) from error
        for name in os.listdir(houses):
            if name != os.path.basename(seen.path):
                _venv_build.discard(releases_path, os.path.join(houses, name))
