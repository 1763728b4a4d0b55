# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database: whether it can be reached, read and written, and whether this release can use it. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Database"]

RULES = Rulebook("database")


@dataclass(frozen=True)
class Database:
    """What was seen."""

    engine: str = "sqlite3"

    def shown(self) -> dict[str, t.Any]:
        """Return what is told of it in the report."""
        return {"engine": self.engine}
