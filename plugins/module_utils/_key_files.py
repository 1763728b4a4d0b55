# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds other signing keys near the place where one belongs: backups, and keys under another name. No Ansible."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["LARGEST", "candidates"]

LARGEST = 64 * 1024  # bytes; a key has less than a hundred
_MOST = 20
_MOST_NAMES = 2000
# A key's file under another name (homeserver.signing.key.bak), and folders that people keep such things in.
_KEY = re.compile(r"(?i)sign(ing)?[._-]?key")
_KEPT = re.compile(r"(?i)^(\.?(backups?|bak|old|save|saved|keys?|restore))$|backup")
_NEVER = (".verify_keys.json", ".partial", ".pub", ".lock")


def _names(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name for entry, _number in zip(entries, range(_MOST_NAMES))), reverse=True)
    except OSError:
        return []


def _folders(folders: Iterable[str]) -> Iterator[str]:
    """Return the folders themselves, and those in them that are for backups."""
    for folder in dict.fromkeys(os.path.abspath(name) for name in folders):
        yield folder
        for name in _names(folder):
            inner = os.path.join(folder, name)
            if _KEPT.search(name) and os.path.isdir(inner) and not os.path.islink(inner):
                yield inner


def _usable(path: str) -> tuple[keys.Key, ...]:
    """Return the keys of a file that Synapse would take."""
    with contextlib.suppress(OSError, SynapseError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            parsed = keys.parse(_files.read(path, limit=LARGEST, follow=False) or b"")
            return () if parsed.errors else parsed.keys
    return ()


def candidates(path: str, server_name: str | None, folders: Iterable[str]) -> tuple[keys.Candidate, ...]:
    """Return the usable keys in some folders, beside the one at ``path``.

    A file counts as this key's own where it bears its name with something added, or Synapse's own name for it.
    """
    base = os.path.basename(path)
    found: list[keys.Candidate] = []
    for folder in dict.fromkeys(_folders(folders)):
        for name in _names(folder):
            own = name.startswith(f"{base}.") or name == f"{server_name}.signing.key"
            place = os.path.join(folder, name)
            if place == path or name.endswith(_NEVER) or not (own or _KEY.search(name)):
                continue
            usable = _usable(place)
            if usable and len(found) < _MOST:
                found.append(keys.Candidate(place, usable, own))
    return tuple(found)
