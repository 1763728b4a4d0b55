# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's identity: the signing key, whom its events say it is, and what it published before. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Identity"]

RULES = Rulebook("identity")


@dataclass(frozen=True)
class Identity:
    """What was seen. ``key_ids`` are those of the key file."""

    key_ids: tuple[str, ...] = ()
