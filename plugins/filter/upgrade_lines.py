# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: upgrade_lines
short_description: One line a host of what an upgrade came to
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Turns the variables that the role leaves with each host into lines for a terminal.
positional: hosts
options:
  _input:
    description: The variables of all hosts, as C(hostvars) holds them.
    type: dict
    required: true
  hosts:
    description: The hosts to speak of, in order.
    type: list
    elements: str
    required: true
  proven:
    description: The hosts that were proven healthy.
    type: list
    elements: str
    required: true
  failed:
    description: The hosts that failed.
    type: list
    elements: str
    required: true
  away:
    description: The hosts that were out of reach.
    type: list
    elements: str
    required: true
  unknown:
    description: The hosts that went out of reach in the middle of it.
    type: list
    elements: str
    default: []
  predicted:
    description: Whether this was check mode.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Report
  ansible.builtin.debug:
    msg: >-
      {{ hostvars | matrix_fleet.synapse.upgrade_lines(ansible_play_hosts_all, proven=ansible_play_hosts,
         failed=ansible_play_hosts_all | difference(ansible_play_hosts), away=[]) }}
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._upgrade import upgrade_lines


class FilterModule:
    """The filter upgrade_lines."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"upgrade_lines": upgrade_lines}
