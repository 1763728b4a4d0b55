# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: secret_values
short_description: The secrets that stand in a configuration
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Finds the values under names such as C(password) or C(client_secret), at any depth.
  - What is found can be kept out of everything that is printed.
options:
  _input:
    description: A configuration.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Count inline secrets
  ansible.builtin.debug:
    msg: "{{ synapse_config | matrix_fleet.synapse.secret_values | length }}"
"""

RETURN = r"""
_value:
  description: The values.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._settings import secret_values


class FilterModule:
    """The filter secret_values."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"secret_values": secret_values}
