# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files Synapse reads where several are named."""

from __future__ import annotations

import glob
import os
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["expand"]


def expand(paths: Iterable[str]) -> Iterator[str]:
    """Return the files; a folder stands for its ``*.yaml``, sorted (synapse/config/_base.py, find_config_files)."""
    for path in paths:
        if os.path.isdir(path):
            yield from sorted(
                name for name in glob.glob(os.path.join(glob.escape(path), "*.yaml")) if os.path.isfile(name)
            )
        else:
            yield path
