# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment that Synapse runs in: interpreter, packages, files. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rulebook

__all__ = ["RULES", "Environment"]

RULES = Rulebook("environment")


@dataclass(frozen=True)
class Environment:
    """What was seen. ``version`` is Synapse's, ``release`` the name of the folder behind the link."""

    version: str | None = None
    release: str | None = None
