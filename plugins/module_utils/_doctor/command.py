# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor without Ansible: a request as JSON from a file or standard input, the report as JSON."""

from __future__ import annotations

import json
import sys
import typing as t
from dataclasses import fields

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import diagnose
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.examine import examine
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.report import report_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, process_runner

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner

__all__ = ["ask", "main", "request_of"]


def request_of(given: Mapping[str, t.Any]) -> Request:
    """Return the request that a mapping describes. Raises ``SynapseError`` for names that are none."""
    names = {field.name for field in fields(Request)}
    wrong = sorted(set(given) - names)
    if wrong:
        raise SynapseError(f"The request has no {', '.join(wrong)}; it has {', '.join(sorted(names))}.")
    values: dict[str, t.Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in given.items()}
    return Request(**values)


def ask(run: Runner, request: Request) -> dict[str, t.Any]:
    """Look, decide, and return the report."""
    seen = examine(run, request)
    return report_of(seen, diagnose(seen))


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one request; the exit status is 0 for a healthy server, 1 for one that is not, 2 for a wrong request."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments:
            with open(arguments[0], encoding="utf-8") as stream:
                given = json.load(stream)
        else:
            given = json.load(sys.stdin)
        request = request_of(given)
    except (OSError, ValueError, AttributeError, TypeError, SynapseError) as error:
        sys.stderr.write(f"{getattr(error, 'msg', error)}\n")
        return 2
    report = ask(process_runner(), request)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report["healthy"] else 1
