# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: report_json
short_description: The report on a fleet for programs
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Turns the results of M(matrix_fleet.synapse.synapse_doctor) into a JSON document.
  - The file C(docs/report.schema.json) of the collection describes it.
  - What comes from hosts stays text. Nothing in it is ever taken for a template.
positional: moment
options:
  _input:
    description: The hosts with the module's results; for one without, a mapping whose C(unreachable) is V(true).
    type: dict
    required: true
  moment:
    description: When the hosts were asked, in ISO 8601 and UTC, such as V(2026-11-23T22:30:00Z).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write the report
  ansible.builtin.copy:
    content: "{{ {inventory_hostname: diagnosis} | matrix_fleet.synapse.report_json('2026-11-23T22:30:00Z') }}"
    dest: /srv/reports/report.json
    mode: "0640"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The document.
  type: str
"""

import typing as t

from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report import report_text

if t.TYPE_CHECKING:
    from collections.abc import Mapping


def report_json(answers: Mapping[str, Mapping[str, t.Any]], moment: str) -> t.Any:
    """Return the document, as text that is no template."""
    return wrap_var(report_text(answers, moment))


class FilterModule:
    """The filter report_json."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filter under its name."""
        return {"report_json": report_json}
