# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: refusals
short_description: What is wrong with the settings of the role
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Judges the variables of the role P(matrix_fleet.synapse.synapse#role) before anything is touched.
  - What manages the host's services need not be known yet. The module M(matrix_fleet.synapse.synapse_host) knows, and
    takes the sentences as its option O(matrix_fleet.synapse.synapse_host#module:refusals).
options:
  _input:
    description: The names of the variables with their values.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what would be refused
  ansible.builtin.debug:
    msg: "{{ settings | matrix_fleet.synapse.refusals }}"
"""

RETURN = r"""
_value:
  description: One sentence for each variable that cannot work.
  type: dict
  contains:
    always:
      description: Sentences that hold on any host; empty where all can work.
      type: list
      elements: str
    systemd:
      description: More sentences, which hold where systemd manages the host's services.
      type: list
      elements: str
"""

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._settings import refusals_by_manager


class FilterModule:
    """The filter refusals."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"refusals": refusals_by_manager}
