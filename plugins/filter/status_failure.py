# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: status_failure
short_description: Why a host fails the playbook status
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Judges one result of M(matrix_fleet.synapse.synapse_doctor).
  - What comes from hosts stays text. Nothing in it is ever taken for a template.
positional: fail_on
options:
  _input:
    description: The module's result; where there is none, a mapping whose C(unreachable) is V(true).
    type: dict
    required: true
  fail_on:
    description: The least grave finding with which a host fails.
    type: str
    choices: [critical, error, warning, never]
    default: error
"""

EXAMPLES = r"""
- name: Fail where a server is not healthy
  ansible.builtin.assert:
    that: diagnosis | matrix_fleet.synapse.status_failure('error') | length == 0
"""

RETURN = r"""
_value:
  description: The reason in one sentence; empty where the host does not fail.
  type: str
"""

import typing as t

from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report import failure_of

if t.TYPE_CHECKING:
    from collections.abc import Mapping


def status_failure(answer: Mapping[str, t.Any], fail_on: str = "error") -> t.Any:
    """Return the reason, as text that is no template."""
    return wrap_var(failure_of(answer, fail_on))


class FilterModule:
    """The filter status_failure."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"status_failure": status_failure}
