# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: wheelhouse_lock
short_description: The lock inside a wheelhouse
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Returns the text of the lock file in an archive that M(matrix_fleet.synapse.synapse_wheels) gathered.
options:
  _terms:
    description: Paths of archives on the controller.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Show what would be installed
  ansible.builtin.debug:
    msg: "{{ lookup('matrix_fleet.synapse.wheelhouse_lock', synapse_wheelhouse) }}"
"""

RETURN = r"""
_raw:
  description: The text of each archive's lock.
  type: list
  elements: str
"""

import os
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse_archive import head_of


class LookupModule(LookupBase):
    """The lookup wheelhouse_lock."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **options: t.Any) -> list[str]:
        """Return the lock of each archive."""
        try:
            return [head_of(os.path.expanduser(str(term))).lock for term in terms]
        except SynapseError as error:
            raise AnsibleError(error.msg) from error
