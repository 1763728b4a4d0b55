# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the running server answers on its own listeners. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Answers"]

RULES = Rulebook("answers")


@dataclass(frozen=True)
class Answers:
    """What was seen. ``checks`` are those of the module synapse_health, ``healthy`` whether all of them passed."""

    healthy: bool = False
    checks: tuple[t.Mapping[str, t.Any], ...] = ()
