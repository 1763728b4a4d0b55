# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server said of itself: journal and log files. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Words"]

RULES = Rulebook("words")


@dataclass(frozen=True)
class Words:
    """What was seen."""

    pass
