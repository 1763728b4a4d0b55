# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a fleet on a terminal. Runs on the controller; no I/O, no Ansible."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["status_lines"]


def status_lines(answers: Mapping[str, Mapping[str, t.Any]]) -> list[str]:
    """Return one aligned line a host from what M(matrix_fleet.synapse.synapse_health) said of it.

    ``answers`` maps host names to the module's result, or to ``{"unreachable": True}``. Where not all hosts have the
    same release, and so not the same packages, one more line says so.
    """
    rows = []
    for host, answer in answers.items():
        version = str(answer.get("version") or "-")
        if "healthy" not in answer:
            told = "UNREACHABLE" if answer.get("unreachable") else "UNKNOWN"
            rows.append((host, "-", told, str(answer.get("msg", ""))))
        elif answer["healthy"]:
            rows.append((host, version, "healthy", str(answer.get("release") or "")))
        else:
            failed = [f"{check['name']}: {check['detail']}" for check in answer["checks"] if not check["ok"]]
            rows.append((host, version, "NOT HEALTHY", "; ".join(failed)))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows]
    return [*lines, *_drift(answers)]


def _drift(answers: Mapping[str, Mapping[str, t.Any]]) -> list[str]:
    hosts: dict[str, list[str]] = {}
    for host, answer in answers.items():
        if answer.get("release"):
            hosts.setdefault(str(answer["release"]), []).append(host)
    if len(hosts) < 2:
        return []
    told = "; ".join(f"{release}: {', '.join(names)}" for release, names in sorted(hosts.items()))
    return [f"Not all hosts have the same packages. {told}"]
