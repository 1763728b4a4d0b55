# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: status_lines
short_description: The state of a fleet as lines for a terminal
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Turns the results of M(matrix_fleet.synapse.synapse_doctor) into a table with one line a host, and what was found
    beneath it.
  - What comes from hosts stays text. Nothing in it is ever taken for a template.
positional: width
options:
  _input:
    description: The hosts with the module's results; for one without, a mapping whose C(unreachable) is V(true).
    type: dict
    required: true
  width:
    description: How many columns the terminal has, with those that Ansible itself takes.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: diagnosis} | matrix_fleet.synapse.status_lines }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import typing as t

from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._status import status_lines as lines_of

if t.TYPE_CHECKING:
    from collections.abc import Mapping


def status_lines(answers: Mapping[str, Mapping[str, t.Any]], width: int = 120) -> t.Any:
    """Return the lines, as text that is no template."""
    return wrap_var(lines_of(answers, width))


class FilterModule:
    """The filter status_lines."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"status_lines": status_lines}
