# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What starts and watches the server: unit, process, limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Service"]

RULES = Rulebook("service")


@dataclass(frozen=True)
class Service:
    """What was seen. ``user`` is whom the unit, or else the running process, runs the server as."""

    user: str | None = None
