# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: status_lines
short_description: One line a host from what was asked of a fleet
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Turns the verdicts of M(matrix_fleet.synapse.synapse_health) into lines for a terminal.
options:
  _input:
    description: The hosts with the module's results.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: synapse_status} | matrix_fleet.synapse.status_lines }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._status import status_lines


class FilterModule:
    """The filter status_lines."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"status_lines": status_lines}
