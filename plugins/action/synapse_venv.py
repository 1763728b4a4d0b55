# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of the same name, tells it where the public index is, and tells that it is still at work."""

from __future__ import annotations

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._public_index import public_index
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._long_action import LongAction


class ActionModule(LongAction):
    """Knows where packages come from when nobody says so, which a host without pip does not."""

    def module_arguments(self) -> dict[str, t.Any]:
        """Return the task's arguments, with ``default_index_url`` wherever the controller's own pip names an index."""
        arguments = super().module_arguments()
        if not arguments.get("default_index_url"):
            arguments["default_index_url"] = public_index() or None
        return arguments
