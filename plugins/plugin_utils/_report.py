# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a fleet, as plain data: the ground of the terminal's lines, of report.json and of report.html.

Runs on the controller; no I/O, no Ansible. docs/report.schema.json describes what ``fleet_report`` returns.
"""

from __future__ import annotations

import json
import math
import typing as t
import unicodedata

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import SEVERITIES

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FAIL_ON",
    "FORMAT",
    "counted",
    "database_words",
    "days_words",
    "failure_of",
    "fleet_report",
    "harmless",
    "report_text",
]

# The number of the form of report.json. It grows where a reader of the form before would no longer understand.
FORMAT = 1

FAIL_ON = ("critical", "error", "warning", "never")

# Of the module's result, what is told of a host, and what it is where the host gave no answer.
_TOLD: Mapping[str, t.Any] = {
    "server_name": None,
    "version": None,
    "release": None,
    "database": None,
    "key_ids": [],
    "certificate_days": None,
    "counts": dict.fromkeys(SEVERITIES, 0),
    "findings": [],
    "consequences": [],
    "checks": [],
    "unseen": {},
}

# What turns the direction of a text around, and so can make a line say something else than it holds.
_TURNING = {*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x061C}


def harmless(value: t.Any) -> t.Any:
    """Return plain data in which no text can move a cursor, turn a line around, or be impossible to write down."""
    if isinstance(value, str):
        return "".join(_visible(character) for character in value.replace("\r\n", "\n"))
    if isinstance(value, dict):
        return {harmless(str(key)): harmless(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [harmless(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    if ord(character) in _TURNING or unicodedata.category(character) in {"Cc", "Cs"}:
        return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"
    return character


def _state(answer: Mapping[str, t.Any]) -> str:
    if "healthy" in answer:
        return "healthy" if answer["healthy"] else "not_healthy"
    return "unreachable" if answer.get("unreachable") else "unknown"


def _reason(answer: Mapping[str, t.Any]) -> str:
    """Return why there is no diagnosis; of a module that never ran, the last line that was printed instead, too."""
    printed = str(answer.get("module_stderr") or "").strip().splitlines()
    told = [str(answer.get("msg") or "").strip(), printed[-1].strip()[:300] if printed else ""]
    return " ".join(dict.fromkeys(part for part in told if part))


def _host(name: str, answer: Mapping[str, t.Any]) -> dict[str, t.Any]:
    message = answer.get("summary") if "healthy" in answer else _reason(answer)
    told = {key: answer[key] if answer.get(key) is not None else default for key, default in _TOLD.items()}
    return {"host": name, "state": _state(answer), "message": str(message or "").strip(), **told}


def fleet_report(answers: Mapping[str, Mapping[str, t.Any]], moment: str) -> dict[str, t.Any]:
    """Return the report on a fleet.

    ``answers`` maps host names to results of M(matrix_fleet.synapse.synapse_doctor), or to ``{"unreachable": True}``;
    ``moment`` says when they were given, in ISO 8601.
    """
    hosts = [_host(str(name), answer) for name, answer in answers.items()]
    states = [host["state"] for host in hosts]
    releases: dict[str, list[str]] = {}
    for host in hosts:
        if host["release"]:
            releases.setdefault(str(host["release"]), []).append(host["host"])
    report = {
        "format": FORMAT,
        "generated": moment,
        "totals": {
            "hosts": len(hosts),
            **{state: states.count(state) for state in ("healthy", "not_healthy", "unreachable", "unknown")},
            "findings": {severity: sum(host["counts"].get(severity, 0) for host in hosts) for severity in SEVERITIES},
        },
        "releases": dict(sorted(releases.items())),
        "hosts": hosts,
    }
    cleaned: dict[str, t.Any] = harmless(report)
    return cleaned


def report_text(answers: Mapping[str, Mapping[str, t.Any]], moment: str) -> str:
    """Return the report as the text of report.json."""
    return json.dumps(fleet_report(answers, moment), ensure_ascii=False, indent=1) + "\n"


def counted(counts: Mapping[str, int]) -> str:
    """Return how many findings there are, in words: ``1 critical, 2 warnings``; empty where there are none."""
    plural = {"error": "errors", "warning": "warnings"}
    told = [(counts.get(severity, 0), severity) for severity in SEVERITIES]
    return ", ".join(
        f"{number} {severity if number == 1 else plural.get(severity, severity)}" for number, severity in told if number
    )


def database_words(database: Mapping[str, t.Any] | None) -> str:
    """Return the database's kind and version as people say them; empty where nothing is known."""
    if not database:
        return ""
    engine = str(database.get("engine") or "")
    name = {"sqlite3": "SQLite", "psycopg2": "PostgreSQL"}.get(engine, engine)
    return f"{name} {database.get('server_version') or ''}".strip()


def days_words(days: float | None) -> str:
    """Return for how many whole days certificates are valid; empty where none was looked at."""
    return "" if days is None else str(math.floor(days))


def failure_of(answer: Mapping[str, t.Any], fail_on: str = "error") -> str:
    """Return why a host fails the playbook C(status), in one sentence; empty where it does not.

    What could not be asked fails with everything but ``never``. A server that does not answer as it should fails like a
    critical finding, whatever the reason is called.
    """
    if fail_on not in FAIL_ON:
        return f"synapse_status_fail_on is {fail_on!r}: allowed are {', '.join(FAIL_ON)}."
    if fail_on == "never":
        return ""
    state = _state(answer)
    if state in {"unreachable", "unknown"}:
        told = "Out of reach" if state == "unreachable" else "Could not be asked"
        return str(harmless(f"{told}: {_reason(answer) or 'no reason was given'}"))
    counts = answer.get("counts") or {}
    checks = answer.get("checks") or []
    serves = state == "healthy" or (bool(checks) and all(check.get("ok") for check in checks))
    fails = {
        "critical": bool(counts.get("critical")) or not serves,
        "error": state == "not_healthy",
        "warning": state == "not_healthy" or bool(counts.get("warning")),
    }
    return str(harmless(answer.get("summary") or "not healthy")) if fails[fail_on] else ""
