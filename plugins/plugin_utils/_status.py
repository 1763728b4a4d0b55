# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a fleet on a terminal. Runs on the controller; no I/O, no Ansible."""

from __future__ import annotations

import textwrap
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import SEVERITIES
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report import (
    counted,
    database_words,
    days_words,
    fleet_report,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Row = Sequence[str]

__all__ = ["finding_lines", "status_lines"]

# What Ansible itself prints before and after each line of a message: indentation, quotes, a comma.
_FRAME = 12
_NARROWEST = 60

_STATES = {"healthy": "healthy", "not_healthy": "NOT HEALTHY", "unreachable": "UNREACHABLE", "unknown": "UNKNOWN"}
_HEAD = ("host", "version", "state", "C E W I", "server name", "release", "database", "key", "days")
# What a narrow terminal is spared, step by step: how much of a column's cells stays, in characters; 0 is none of it.
_SPARED = (
    ("host", 24),
    ("release", 8),
    ("server name", 16),
    ("database", 13),
    ("host", 20),
    ("server name", 14),
    ("release", 0),
    ("database", 0),
    ("server name", 0),
    ("key", 0),
)
# So many names of hosts are told in one line.
_NAMES = 6


def status_lines(answers: Mapping[str, Mapping[str, t.Any]], width: int = 120) -> list[str]:
    """Return the state of a fleet as lines for a terminal of ``width`` columns.

    ``answers`` maps host names to results of M(matrix_fleet.synapse.synapse_doctor), or to ``{"unreachable": True}``.
    First a table with one line a host; then, where not all hosts have the same release, and so not the same packages, a
    line that says so; then what was found, host by host. What is merely good to know comes last, each thing once.
    """
    report = fleet_report(answers, "")
    room = max(int(width) - _FRAME, _NARROWEST)
    hosts = report["hosts"]
    tables = [_table(hosts, room), _legend(report["totals"], room), _drift(report["releases"], room)]
    unwell = [host for host in hosts if host["state"] != "healthy" or _worrying(host)]
    return _spaced([*tables, *_details(unwell, room), _remarks(hosts, room)])


def finding_lines(answers: Mapping[str, Mapping[str, t.Any]], width: int = 120) -> list[str]:
    """Return what was found on hosts, without the table, and of healthy ones too."""
    hosts = fleet_report(answers, "")["hosts"]
    room = max(int(width) - _FRAME, _NARROWEST)
    return _spaced([*_details(hosts, room), _remarks(hosts, room)])


def _spaced(blocks: Iterable[list[str]]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        lines += ["", *block] if lines and block else block
    return lines


# ---------------------------------------------------------------------------------------------------------------- table


def _row(host: Mapping[str, t.Any], digits: int) -> Row:
    version, release = str(host["version"] or "-"), str(host["release"] or "-")
    keys = [str(key).partition(":")[2] or str(key) for key in host["key_ids"]]
    asked = host["state"] in {"healthy", "not_healthy"}
    return (
        host["host"],
        version,
        _STATES[host["state"]],
        _figures(host["counts"], digits) if asked else "-",
        str(host["server_name"] or "-"),
        # Its name begins with the version, which has a column of its own.
        release[len(version) + 1 :] if release.startswith(f"{version}-") else release,
        database_words(host["database"]) or "-",
        keys[0] + (f" +{len(keys) - 1}" if len(keys) > 1 else "") if keys else "-",
        days_words(host["certificate_days"]) or "-",
    )


def _figures(counts: Mapping[str, int], digits: int) -> str:
    return " ".join(str(counts.get(severity) or ".").rjust(digits) for severity in SEVERITIES)


def _cut(name: str, cell: str, most: int) -> str:
    if len(cell) <= most:
        return cell
    if name == "release":  # as with any digest, a few characters tell two of them apart
        return cell[:most]
    if name == "database":
        return cell.partition(".")[0][:most]
    return cell[: most - 2] + ".."


def _table(hosts: Sequence[Mapping[str, t.Any]], room: int) -> list[str]:
    """Return aligned lines, one a host; cells are cut and columns left out as far as it takes to fit."""
    digits = max((len(str(number)) for host in hosts for number in host["counts"].values()), default=1)
    head = [" ".join(word.rjust(digits) for word in name.split()) if name == "C E W I" else name for name in _HEAD]
    rows = [_row(host, digits) for host in hosts]
    columns = {name: [head[place], *(row[place] for row in rows)] for place, name in enumerate(_HEAD)}
    for name, most in _SPARED:
        if sum(max(map(len, cells)) + 2 for cells in columns.values()) - 2 <= room:
            break
        cells = columns.pop(name) if most == 0 else columns[name]
        if most:
            columns[name] = [cells[0], *(_cut(name, cell, most) for cell in cells[1:])]
    widths = [max(map(len, cells)) for cells in columns.values()]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in zip(*columns.values())
    ]


def _legend(totals: Mapping[str, t.Any], room: int) -> list[str]:
    words = {"healthy": "healthy", "not_healthy": "not healthy", "unreachable": "out of reach", "unknown": "unknown"}
    told = ", ".join(f"{totals[state]} {word}" for state, word in words.items() if totals[state])
    hosts = f"{totals['hosts']} host{'' if totals['hosts'] == 1 else 's'}"
    legend = "C E W I: findings that are critical, errors, warnings, for information; days: certificates are valid."
    return [*_wrapped(f"{hosts}: {told or 'none was asked'}.", "", room), *_wrapped(legend, "", room)]


def _names(hosts: Sequence[str]) -> str:
    return ", ".join(hosts) if len(hosts) <= _NAMES else f"{', '.join(hosts[:3])} and {len(hosts) - 3} more"


def _drift(releases: Mapping[str, Sequence[str]], room: int) -> list[str]:
    if len(releases) < 2:
        return []
    told = "; ".join(f"{release}: {_names(hosts)}" for release, hosts in releases.items())
    return _wrapped(f"Not all hosts have the same packages. {told}", "", room)


# -------------------------------------------------------------------------------------------------------------- details


def _wrapped(text: str, label: str, room: int) -> list[str]:
    """Return a text behind a label, its lines aligned. Words are never broken: they may be paths and commands."""
    lines: list[str] = []
    for part in text.splitlines() or [""]:
        lead = " " * len(label) if lines else label
        lines += textwrap.wrap(
            part.rstrip(),
            width=room,
            initial_indent=lead,
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [lead.rstrip()]
    return lines


def _repair(finding: Mapping[str, t.Any]) -> str:
    if not finding["repair"]:
        return ""
    return f"--tags {finding['repair']} mends it{'' if finding['safe'] else ', once a person has agreed'}"


def _told(finding: Mapping[str, t.Any], earlier: dict[tuple[str, ...], str], host: str, room: int) -> Iterable[str]:
    """Yield the lines of one finding. What does not depend on the host is told of the first one alone."""
    yield from _wrapped(f"{finding['summary']} ({finding['id']})", f"  {finding['severity'].upper():<8}  ", room)
    if finding["evidence"]:
        yield from _wrapped(finding["evidence"], "    seen    ", room)
    same = (finding["id"], finding["cause"], finding["remedy"], _repair(finding))
    if earlier.setdefault(same, host) == host:
        for label, text in (("cause", finding["cause"]), ("remedy", finding["remedy"]), ("repair", _repair(finding))):
            if text:
                yield from _wrapped(text, f"    {label:<6}  ", room)
    elif finding["remedy"] or finding["cause"]:
        yield from _wrapped(f"as on {earlier[same]}", "    remedy  " if finding["remedy"] else "    cause   ", room)
    if finding["follows"]:
        yield from _wrapped(", ".join(finding["follows"]), "    hence   ", room)


def _worrying(host: Mapping[str, t.Any]) -> list[Mapping[str, t.Any]]:
    return [finding for finding in host["findings"] if finding["severity"] != "info"]


def _details(hosts: Iterable[Mapping[str, t.Any]], room: int) -> Iterator[list[str]]:
    """Yield a block for each host."""
    earlier: dict[tuple[str, ...], str] = {}
    for host in hosts:
        name, state = host["host"], _STATES[host["state"]]
        if host["state"] in {"unreachable", "unknown"}:
            yield _wrapped(f"{name}: {state}. {host['message']}".rstrip(), "", room)
            continue
        lines = _wrapped(f"{name}: {state}, {counted(host['counts']) or 'nothing was found'}", "", room)
        for finding in _worrying(host):
            lines += _told(finding, earlier, name, room)
        # Where nothing says why, at least what was asked in vain.
        if host["state"] == "not_healthy" and not host["counts"].get("critical") and not host["counts"].get("error"):
            for check in host["checks"]:
                if not check.get("ok"):
                    lines += _wrapped(f"{check['name']} {check['target']}: {check['detail']}", "  in vain   ", room)
        yield lines


def _remarks(hosts: Iterable[Mapping[str, t.Any]], room: int) -> list[str]:
    """Return what is good to know, each thing once, with the hosts of which it holds."""
    told: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        for finding in host["findings"]:
            if finding["severity"] == "info":
                names = told.setdefault((finding["summary"], finding["id"]), [])
                names += [host["host"]] if host["host"] not in names else []
    lines = ["Good to know:"] if told else []
    for (summary, rule), names in told.items():
        lines += _wrapped(f"{summary} ({rule}) {_names(names)}", "  ", room)
    return lines
