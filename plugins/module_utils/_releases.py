# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases: the environments that lie side by side, what each is called, which one is live, which may go. Pure.

A folder under ``releases_path`` is ours only where it holds one of two files: ``.incomplete`` from its first instant
until it is proven, and ``release.json``, its manifest, from then on. Whatever holds neither is somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import re
import typing as t
from dataclasses import asdict, dataclass, field

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ADOPTED",
    "LOCK_FILE",
    "MANIFEST",
    "MARKER",
    "TOOLS",
    "Manifest",
    "Release",
    "free_name",
    "is_release_name",
    "latest",
    "name_of",
    "request_digest",
    "to_prune",
]

MANIFEST = "release.json"
MARKER = ".incomplete"
LOCK_FILE = ".lock"
TOOLS = ".tools"
ADOPTED = "adopted-"
_FORMAT = 1
_NAME = re.compile(r"[0-9][A-Za-z0-9.+!_]*-[0-9a-f]{12}(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Manifest:
    """What is known of a proven release; kept inside it as JSON.

    ``request`` is the digest of what the operator asked for, ``tree`` the fingerprint of every installed file,
    ``python`` the interpreter that the environment was made from and ``python_stamp`` its size and time. ``plugins``
    are those of a hand-made environment whose place the release took, carried or not. Without any there is no word of
    them, so that such a manifest is what it was before there were plugins.
    """

    version: str
    lock_digest: str
    request: str
    python: str
    python_version: str
    python_stamp: str
    packages: dict[str, str]
    installer: str
    proven_at: str
    tree: str
    format: int = _FORMAT
    plugins: list[dict[str, t.Any]] = field(default_factory=list)

    def to_json(self) -> bytes:
        """Return the manifest as it is kept on disk."""
        values = asdict(self)
        if not self.plugins:
            del values["plugins"]
        return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes | None) -> Manifest | None:
        """Read a manifest; ``None`` where there is none, or it is damaged, or of a format that is not known."""
        try:
            values = json.loads(data or b"")
            manifest = cls(**values)
        except (ValueError, TypeError):
            return None
        texts = (value for name, value in values.items() if name not in {"packages", "format", "plugins"})
        whole = isinstance(values["packages"], dict) and all(isinstance(value, str) for value in texts)
        plugins = values.get("plugins", [])
        whole = whole and isinstance(plugins, list) and all(isinstance(one, dict) for one in plugins)
        return manifest if whole and manifest.format == _FORMAT else None


@dataclass(frozen=True)
class Release:
    """One folder under ``releases_path`` that is ours: proven where it has a manifest and no marker."""

    name: str
    path: str
    manifest: Manifest | None = field(default=None, repr=False)
    incomplete: bool = False

    @property
    def proven(self) -> bool:
        return self.manifest is not None and not self.incomplete


def request_digest(
    *,
    version: str,
    extras: Iterable[str],
    extra_packages: Iterable[str],
    lock: str | None,
    constraints: str | None,
    plugins: Iterable[str] = (),
) -> str:
    """Return the digest of what was asked for. ``lock`` is the digest of the given lock, ``None`` where there is none.

    ``plugins`` are what is to be carried over, as requirements. Where packages come from (index, wheels) does not
    count: it does not change what is installed.
    """
    asked: dict[str, t.Any] = {
        "version": version,
        "extras": sorted(set(extras)),
        "extra_packages": sorted(set(extra_packages)),
        "lock": lock,
        "constraints": None if constraints is None else constraints.split("\n"),
    }
    carried = sorted(set(plugins))
    if carried:
        asked["plugins"] = carried
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def name_of(version: str, lock_digest: str) -> str:
    """Return a release's name: the version and the first 12 digits of its lock's digest."""
    return f"{version}-{lock_digest[:12]}"


def is_release_name(name: str) -> bool:
    """Whether a folder's name has the form of a release's."""
    return _NAME.fullmatch(name) is not None


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, or ``name.2``, ``name.3`` ... where a folder that must stay already has it."""
    used = set(taken)
    if name not in used:
        return name
    number = 2
    while f"{name}.{number}" in used:
        number += 1
    return f"{name}.{number}"


def _proven(releases: Iterable[Release]) -> list[Release]:
    """Return the proven releases, oldest first; what was made by hand is never one of them."""
    proven = [release for release in releases if release.proven and not release.name.startswith(ADOPTED)]
    return sorted(proven, key=lambda release: release.manifest.proven_at if release.manifest else "")


def latest(releases: Iterable[Release], *, apart_from: str) -> str:
    """Return the name of the release that was proven last, another one than ``apart_from``; empty where none is."""
    names = [release.name for release in _proven(releases) if release.name != apart_from]
    return names[-1] if names else ""


def to_prune(releases: Sequence[Release], *, keep: int, spare: Iterable[str]) -> tuple[Release, ...]:
    """Return the proven releases to remove, oldest first, so that ``keep`` remain; those in ``spare`` always do."""
    spared = set(spare)
    proven = _proven(releases)
    surplus = max(0, len(proven) - max(keep, 1))
    return tuple([release for release in proven if release.name not in spared][:surplus])
