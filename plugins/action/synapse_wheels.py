# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of the same name, and tells that it is still at work."""

from __future__ import annotations

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._long_action import LongAction


class ActionModule(LongAction):
    """Nothing but the name is its own."""
