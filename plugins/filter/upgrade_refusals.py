# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: upgrade_refusals
short_description: Why a fleet cannot be upgraded in an order
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Judges the settings that say in which order the servers of a fleet are upgraded.
positional: hosts
options:
  _input:
    description: The settings C(synapse_canary), C(synapse_batch) and C(synapse_rollback).
    type: dict
    required: true
  hosts:
    description: All hosts of the inventory.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse an order that cannot be
  ansible.builtin.assert:
    that: order | matrix_fleet.synapse.upgrade_refusals(groups.all) | length == 0
  vars:
    order:
      synapse_canary: 1
      synapse_batch: [2, 100%]
      synapse_rollback: false
"""

RETURN = r"""
_value:
  description: The reasons; empty where there is none.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._upgrade import upgrade_refusals


class FilterModule:
    """The filter upgrade_refusals."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"upgrade_refusals": upgrade_refusals}
