# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as others meet it: its public name, delegation, certificates, reverse proxy. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Public"]

RULES = Rulebook("public")


@dataclass(frozen=True)
class Public:
    """What was seen. ``certificate_days``: how long the shortest certificate is still valid."""

    certificate_days: float | None = None
