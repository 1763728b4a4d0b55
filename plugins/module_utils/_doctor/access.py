# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners and modes, as the service's own user meets them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Access"]

RULES = Rulebook("access")


@dataclass(frozen=True)
class Access:
    """What was seen."""

    pass
