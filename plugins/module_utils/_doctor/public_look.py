# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: the server as others meet it: its public name, delegation, certificates, reverse proxy."""

from __future__ import annotations

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.public import Public

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]


def look(context: Context) -> Public:
    """Look."""
    return Public()
