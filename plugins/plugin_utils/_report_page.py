# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report on a fleet as one page for people. Runs on the controller; no I/O, no Ansible.

Everything that came from an inventory or a host goes through ``_text``. The policy in the page's head lets the one
style and the one script run that are written here, known by their digests, and lets nothing be loaded from anywhere; so
even what escaped that would stay inert. It forbids styles of single elements too: that is why bars are drawn as SVG.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shlex
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import SEVERITIES
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report import (
    counted,
    database_words,
    days_words,
    fleet_report,
)
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report_script import SCRIPT
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report_style import STYLE

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Plain = Mapping[str, t.Any]

__all__ = ["page"]

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_STATES = {
    "not_healthy": ("Not healthy", "critical"),
    "unreachable": ("Out of reach", "error"),
    "unknown": ("Unknown", "error"),
    "healthy": ("Healthy", "fine"),
}
_SEVERITY_WORDS = {"critical": "Critical", "error": "Error", "warning": "Warning", "info": "Info"}
_PLURALS = {"critical": "critical", "error": "errors", "warning": "warnings", "info": "for information"}
# Each has a form of its own, so that nobody needs to tell colours apart. The even-odd rule cuts out what lies within.
_SIGNS = {
    "critical": "M5 0h6l5 5v6l-5 5H5l-5-5V5zM7 3.5v6h2v-6zM7 11v2h2v-2z",
    "error": "M8 0l8 8-8 8-8-8zM7 4v5h2V4zM7 10.2v2h2v-2z",
    "warning": "M8 1l8 14H0zM7.1 6v5h1.8V6zM7.1 12v1.8h1.8V12z",
    "info": (
        "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0zM8 1.6a6.4 6.4 0 1 1 0 12.8A6.4 6.4 0 0 1 8 1.6z"
        "M7.1 7v5h1.8V7zM7.1 4v1.8h1.8V4z"
    ),
    "healthy": "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0zM3.6 8.3l1.3-1.3 2.2 2.2 4-4.4 1.4 1.3-5.3 5.8z",
    "not_healthy": "M1.4 0L8 6.6 14.6 0 16 1.4 9.4 8 16 14.6 14.6 16 8 9.4 1.4 16 0 14.6 6.6 8 0 1.4z",
    "unreachable": "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0zM4 7h8v2H4z",
    "unknown": "M0 7h3v2H0zM6.5 7h3v2h-3zM13 7h3v2h-3z",
}
# A bar has room for so many findings at least: a single warning must not look like the end of the world.
_BAR = 12


def _text(value: t.Any) -> str:
    return html.escape(str(value), quote=True)


def _sign(name: str) -> str:
    return (
        f'<svg class="sign" viewBox="0 0 16 16" aria-hidden="true"><path fill-rule="evenodd" d="{_SIGNS[name]}"/></svg>'
    )


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _moment(moment: str) -> str:
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d:\d\d).*", moment)
    if match is None or not 1 <= int(match[2]) <= 12:
        return moment
    return f"{int(match[3])} {_MONTHS[int(match[2]) - 1]} {match[1]}, {match[4]} UTC"


def _gravest_first(host: Plain) -> tuple[t.Any, ...]:
    rank = list(_STATES).index(host["state"])
    return (rank, *(-host["counts"].get(severity, 0) for severity in SEVERITIES), host["host"])


def _worrying(host: Plain) -> bool:
    return host["state"] != "healthy" or any(finding["severity"] != "info" for finding in host["findings"])


# ------------------------------------------------------------------------------------------------------------- the head


def _statement(totals: Plain) -> str:
    hosts, healthy = totals["hosts"], totals["healthy"]
    if hosts == 1:
        return "The server is healthy" if healthy else "The server is not healthy"
    return f"All {hosts} servers are healthy" if healthy == hosts else f"{healthy} of {hosts} servers are healthy"


def _totals(totals: Plain) -> str:
    states = [
        f'<li><span class="{_STATES[state][1]}">{_sign(state)}</span>{totals[state]} {_STATES[state][0].lower()}</li>'
        for state in ("not_healthy", "unreachable", "unknown")
        if totals[state]
    ]
    findings = []
    for severity in SEVERITIES:
        number = totals["findings"][severity]
        word = severity if number == 1 and severity != "info" else _PLURALS[severity]
        name, colour = ("", severity) if number else (' class="none"', "none")
        findings.append(f'<li{name}><span class="{colour}">{_sign(severity)}</span>{number} {word}</li>')
    lists = "".join(f"<ul>{''.join(items)}</ul>" for items in (states, findings) if items)
    return f'<div class="totals">{lists}</div>'


def _drift(releases: Mapping[str, Sequence[str]]) -> str:
    if len(releases) < 2:
        return ""
    rows = "".join(
        f'<dt class="code">{_text(release)}</dt><dd>{_text(", ".join(hosts))}</dd>'
        for release, hosts in releases.items()
    )
    told = f"Not all servers have the same packages: {len(releases)} releases"
    return f'<details class="drift"><summary><span class="what">{told}</span></summary><dl>{rows}</dl></details>'


# ------------------------------------------------------------------------------------------------------------ the table


def _state(state: str) -> str:
    word, colour = _STATES[state]
    return f'<span class="state {colour}">{_sign(state)}{word}</span>'


def _bar(counts: Mapping[str, int], longest: int) -> str:
    """Draw one upright unit for each finding: the graver, the higher."""
    units = []
    place = 0
    for height, severity in zip((16, 12, 8, 5), SEVERITIES):
        for _number in range(counts.get(severity, 0)):
            units.append(f'<rect class="{severity}" x="{place * 10}" y="{16 - height}" width="8" height="{height}"/>')
            place += 1
    ground = f'<rect class="base" x="0" y="15" width="{longest * 10}" height="1"/>'
    return (
        f'<svg class="units" viewBox="0 0 {longest * 10} 16" preserveAspectRatio="none" aria-hidden="true">'
        f"{ground}{''.join(units)}</svg>"
    )


def _cell(content: str, key: t.Any, label: str = "", name: str = "") -> str:
    name = " ".join(part for part in (name, "" if content else "empty") if part)
    attributes = f' class="{name}"' if name else ""
    attributes += f' data-label="{label}"' if label else ""
    attributes += f' data-key="{_text(key)}"' if key not in ("", None) else ""
    return f'<td role="cell"{attributes}>{content or "<span class=soft>&ndash;</span>"}</td>'


def _row(host: Plain, anchor: str, longest: int) -> str:
    asked = host["state"] in {"healthy", "not_healthy"}
    name, counts = _text(host["host"]), host["counts"]
    title = f'<a href="#{anchor}">{name}</a>' if _worrying(host) else f'<span class="plain">{name}</span>'
    if host["server_name"] and host["server_name"] != host["host"]:
        title += f"<small>{_text(host['server_name'])}</small>"
    drawn = f"{_bar(counts, longest)}<small>{counted(counts) or 'nothing found'}</small>" if asked else ""
    gravity = "".join(f"{min(counts.get(severity, 0), 999):03}" for severity in SEVERITIES) if asked else ""
    version, release = str(host["version"] or ""), str(host["release"] or "")
    short = release[len(version) + 1 :] if release.startswith(f"{version}-") else release
    told = (
        f'{_text(version)}<small class="code"><span class="wide">{_text(short)}</span></small>'
        if version or short
        else ""
    )
    keys = " ".join(f'<span class="code wide">{_text(key)}</span>' for key in host["key_ids"])
    days = days_words(host["certificate_days"])
    database = database_words(host["database"])
    cells = [
        f'<th role="rowheader" scope="row" data-key="{name}">{title}</th>',
        _cell(_state(host["state"]), len(_STATES) - list(_STATES).index(host["state"]), name="state-of"),
        _cell(drawn, gravity, name="bar" if any(counts.values()) else "bar quiet"),
        _cell(told, version and f"{version}-{short}", "Version"),
        _cell(database and f'<span class="wide">{_text(database)}</span>', database, "Database"),
        _cell(keys, " ".join(host["key_ids"]), "Key"),
        _cell(days and f'<span class="number">{days} day{"" if days == "1" else "s"}</span>', days, "Certificate"),
    ]
    return f'<tr role="row" data-host="{anchor}">{"".join(cells)}</tr>'


def _table(hosts: Sequence[Plain]) -> str:
    longest = max([_BAR, *(sum(host["counts"].values()) for host in hosts)])
    falling = ' data-first="descending"'
    heads = (("Server", ""), ("State", ""), ("Findings", falling), ("Version", ""), ("Database", ""), ("Key", ""))
    head = "".join(
        f'<th role="columnheader" scope="col"{extra}>{name}</th>' for name, extra in (*heads, ("Certificate", ""))
    )
    rows = "\n".join(_row(host, f"host-{place}", longest) for place, host in enumerate(hosts))
    return (
        '<table role="table"><caption class="aside">Servers, those that need attention first</caption>\n'
        f'<thead class="idle" role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}\n</tbody></table>'
    )


# ------------------------------------------------------------------------------------------------------- what was found


def _typed(text: str) -> str:
    """Show what is to be typed or done. What ends as a sentence does is no command."""
    name = ' class="prose"' if text.rstrip().endswith(".") else ""
    copy = '<button class="copy" type="button" data-script hidden>Copy</button>'
    return f'<div class="typed"><pre{name}>{_text(text)}</pre>{copy}</div>'


def _finding(finding: Plain, host: str) -> str:
    rows = []
    if finding["evidence"]:
        rows.append(("Seen", f"<pre>{_text(finding['evidence'])}</pre>"))
    if finding["cause"]:
        rows.append(("Cause", _text(finding["cause"])))
    general = f"ansible-playbook matrix_fleet.synapse.repair --tags {finding['repair']}"
    if finding["remedy"] and finding["remedy"] != general:
        rows.append(("Remedy", _typed(finding["remedy"])))
    if finding["repair"]:
        where = f"-i inventory.yml matrix_fleet.synapse.repair --limit {shlex.quote(host)}"
        consent = "It may run without asking anybody." if finding["safe"] else "A person has to decide that."
        command = _typed(f"ansible-playbook {where} --tags {finding['repair']}")
        rows.append(("Repair", f'{command}<p class="soft">{consent}</p>'))
    if finding["follows"]:
        rows.append(("Explains", ", ".join(f"<code>{_text(rule)}</code>" for rule in finding["follows"])))
    rows.append(("Rule", f"<code>{_text(finding['id'])}</code>"))
    told = "".join(f"<dt>{label}</dt><dd>{content}</dd>" for label, content in rows)
    return (
        f'<details class="finding"><summary>{_severity(finding["severity"])}'
        f'<span class="what">{_text(finding["summary"])}</span></summary>'
        f'<div class="body"><dl>{told}</dl></div></details>'
    )


def _severity(severity: str) -> str:
    return f'<span class="severity {severity}">{_sign(severity)}{_SEVERITY_WORDS[severity]}</span>'


def _more(title: str, items: Iterable[str]) -> str:
    listed = "".join(f"<li>{item}</li>" for item in items)
    return (
        f'<details class="more"><summary><span class="what">{title}</span></summary>'
        f'<div class="body"><ul>{listed}</ul></div></details>'
    )


def _host(host: Plain, anchor: str) -> str:
    named = host["server_name"] and host["server_name"] != host["host"]
    name = f' <span class="soft">{_text(host["server_name"])}</span>' if named else ""
    parts = [
        f'<section class="host" id="{anchor}" data-host="{anchor}"><header><h2>{_text(host["host"])}</h2>{name}'
        f"{_state(host['state'])}</header>"
    ]
    if host["message"] and not host["findings"]:
        parts.append(f'<p class="message">{_text(host["message"])}</p>')
    parts += [_finding(finding, host["host"]) for finding in host["findings"]]
    if host["consequences"]:
        number = len(host["consequences"])
        title = f"{number} more finding{' follows' if number == 1 else 's follow'} from the above"
        parts.append(
            _more(
                title,
                (
                    f"<span>{_text(one['summary'])} <span class=soft>{_text(one['evidence'])}</span> "
                    f"<code>{_text(one['id'])}</code></span>"
                    for one in host["consequences"]
                ),
            )
        )
    if host["checks"]:
        failed = [check for check in host["checks"] if not check.get("ok")]
        title = (
            f"{len(failed)} of {len(host['checks'])} checks failed"
            if failed
            else f"{len(host['checks'])} checks passed"
        )
        parts.append(_more(title, map(_check, host["checks"])))
    return "\n".join([*parts, "</section>"])


def _check(check: Plain) -> str:
    ok = bool(check.get("ok"))
    sign = f'<span class="{"fine" if ok else "critical"}">{_sign("healthy" if ok else "not_healthy")}</span>'
    word = "passed" if ok else "failed"
    return (
        f'{sign}<span><span class="aside">{word}: </span>{_text(check["name"])} '
        f"<span class=soft>{_text(check['target'])}: {_text(check['detail'])}</span></span>"
    )


def _known(hosts: Iterable[Plain]) -> str:
    """Return what is good to know, each thing once, of servers that nothing else is said of."""
    told: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        for finding in () if _worrying(host) else host["findings"]:
            told.setdefault((finding["summary"], finding["remedy"]), []).append(host["host"])
    if not told:
        return ""
    items = "".join(
        f"<li>{_severity('info')}<div><p>{_text(summary)}</p><p class=soft>{_text(remedy)}</p>"
        f"<p class=soft>{_text(', '.join(dict.fromkeys(names)))}</p></div></li>"
        for (summary, remedy), names in told.items()
    )
    return f'<section class="host"><header><h2>Good to know</h2></header><ul class="known">{items}</ul></section>'


# ------------------------------------------------------------------------------------------------------------- the page


def page(answers: Mapping[str, Plain], moment: str) -> str:
    """Return the page.

    ``answers`` maps host names to results of M(matrix_fleet.synapse.synapse_doctor), or to ``{"unreachable": True}``;
    ``moment`` says when they were given, in ISO 8601.
    """
    report = fleet_report(answers, moment)
    hosts = sorted(report["hosts"], key=_gravest_first)
    totals = report["totals"]
    policy = (
        f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    found = "\n".join(_host(host, f"host-{place}") for place, host in enumerate(hosts) if _worrying(host))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>Synapse: {_statement(totals).lower()}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<a class="aside skip" href="#found">To what was found</a>
<header>
<div class="top"><p class="soft">Matrix Synapse, asked
<time datetime="{_text(moment)}">{_text(_moment(moment))}</time></p>
<button type="button" id="theme" data-script hidden>Dark</button></div>
<h1>{_statement(totals)}</h1>
{_totals(totals)}
{_drift(report["releases"])}
</header>
<main>
<div class="tools" data-script hidden><label><span class="aside">Filter servers</span>
<input type="search" id="filter" placeholder="Filter servers" autocomplete="off" spellcheck="false"></label>
<button type="button" id="unfold">Unfold all</button></div>
{_table(hosts)}
<div id="found">
{found}
{_known(hosts)}
</div>
</main>
<footer><p>Written by the playbook <code>matrix_fleet.synapse.status</code>. The same for programs is in
<code>report.json</code>.</p></footer>
<p class="aside" id="said" role="status"></p>
<script>{SCRIPT}</script>
</body>
</html>
"""
