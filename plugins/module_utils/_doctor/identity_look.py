# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: the server's identity: the signing key, whom its events say it is, and what it published before."""

from __future__ import annotations

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import Identity

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]


def look(context: Context) -> Identity:
    """Look."""
    return Identity()
