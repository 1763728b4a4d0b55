# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor's report as metrics, in the text format of Prometheus. Pure.

The format: prometheus.io, "Exposition formats", text format 0.0.4, and the conventions for the textfile collector of
node_exporter. Every name is documented in docs/monitoring.md.
"""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["METRICS", "exposition"]

_SECONDS_A_DAY = 86400.0

# Name, type and help of every metric. All are gauges: each run says what is, not how much there has been.
METRICS = (
    ("synapse_doctor_healthy", "Whether the homeserver was proven healthy by the last examination (1) or not (0)."),
    ("synapse_doctor_findings", "How many findings the last examination had, by severity."),
    ("synapse_doctor_finding", "One for each kind of finding of the last examination, by its id."),
    ("synapse_doctor_check", "Whether a check on one of the homeserver's listeners passed (1) or not (0)."),
    ("synapse_doctor_certificate_remaining_seconds", "How long the certificate that ends first is still valid."),
    ("synapse_doctor_info", "What was examined: server name, version, release; always 1."),
    ("synapse_doctor_unseen", "How many parts of the installation could not be looked at."),
    ("synapse_doctor_last_run_timestamp_seconds", "When the last examination ended."),
    ("synapse_doctor_last_change_timestamp_seconds", "When an examination last differed from the one before it."),
    ("synapse_doctor_duration_seconds", "How long the last examination took."),
    ("synapse_doctor_hook_failed", "Whether the hook failed when it was run last (1) or not (0)."),
)


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _labels(labels: Mapping[str, object]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _samples(record: Mapping[str, t.Any]) -> Mapping[str, Iterable[tuple[Mapping[str, object], float]]]:
    """Return labels and values by the name of the metric."""
    report = record["report"]
    kinds = {finding["id"]: finding["severity"] for finding in reversed(report["findings"])}
    checks = {(check["name"], check["target"]): bool(check["ok"]) for check in report["checks"]}
    days = report["certificate_days"]
    info = {name: report[name] or "" for name in ("server_name", "version", "release")}
    return {
        "synapse_doctor_healthy": [({}, report["healthy"])],
        "synapse_doctor_findings": [({"severity": name}, count) for name, count in report["counts"].items()],
        "synapse_doctor_finding": [({"id": name, "severity": kinds[name]}, 1) for name in sorted(kinds)],
        "synapse_doctor_check": [({"check": name, "target": on}, ok) for (name, on), ok in sorted(checks.items())],
        "synapse_doctor_certificate_remaining_seconds": [] if days is None else [({}, days * _SECONDS_A_DAY)],
        "synapse_doctor_info": [(info, 1)],
        "synapse_doctor_unseen": [({}, len(report["unseen"]))],
        "synapse_doctor_last_run_timestamp_seconds": [({}, record["ended"])],
        "synapse_doctor_last_change_timestamp_seconds": [({}, record["changed"])],
        "synapse_doctor_duration_seconds": [({}, record["seconds"])],
        "synapse_doctor_hook_failed": [({}, record["hook_failed"])],
    }


def _number(value: float) -> str:
    number = float(value)
    return str(int(number)) if number == int(number) else f"{number:.3f}"


def exposition(record: Mapping[str, t.Any]) -> str:
    """Return the metrics of one run, as the textfile collector reads them."""
    samples = _samples(record)
    lines = []
    for name, told in METRICS:
        lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples[name]]
    return "".join(f"{line}\n" for line in lines)
