# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: base_urls
short_description: Where the HTTP listeners of a homeserver are reached from its own host
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Turns the listeners of a Synapse configuration into URLs.
options:
  _input:
    description: Listeners as Synapse's own configuration has them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show where the server is asked
  ansible.builtin.debug:
    msg: "{{ synapse_listeners | matrix_fleet.synapse.base_urls }}"
"""

RETURN = r"""
_value:
  description: A URL and the resources served there for each HTTP listener.
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._listeners import base_urls


class FilterModule:
    """The filter base_urls."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"base_urls": base_urls}
