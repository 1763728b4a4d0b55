# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which releases of Synapse a host has, read from their files: nothing of them is run. Nothing from Ansible."""

from __future__ import annotations

import contextlib
import os

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _gate
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health_observe import installed_version
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import MARKER
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = ["code_of", "find_releases", "names_in"]

_LARGEST_SOURCE = 1024 * 1024


def names_in(folder: str) -> list[str]:
    """Return the names in a folder, none where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def code_of(python: str) -> _gate.Code | None:
    """Read which release an environment has, without running anything of it; ``None`` where there is none."""
    version = installed_version(python)
    if version is None:
        return None
    schema = compat = None
    root = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    for series in names_in(os.path.join(root, "lib")):
        source = os.path.join(root, "lib", series, "site-packages/synapse/storage/schema/__init__.py")
        with contextlib.suppress(SynapseError):
            data = _files.read(source, limit=_LARGEST_SOURCE)
            if data is not None:
                schema, compat = _gate.constants(data.decode("utf-8", "replace"))
    row = _gate.known(version)
    if schema is None and row is not None:
        schema, compat = row.schema, row.compat
    return _gate.Code(version, schema, compat)


def find_releases(folder: str | None) -> tuple[_gate.AtHand, ...]:
    """Return the releases that are at hand and complete."""
    found = []
    for name in names_in(folder) if folder else ():
        path = os.path.join(folder or "", name)
        if name.startswith(".") or os.path.lexists(os.path.join(path, MARKER)):
            continue
        code = code_of(os.path.join(path, "bin", "python"))
        if code is not None and code.version is not None:
            found.append(_gate.AtHand(name, code.version, code.schema))
    return tuple(found)
