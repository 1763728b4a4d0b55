# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has changed between two examinations, and how the journal is told. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Change", "compare", "lines"]

# syslog(3): the number in angle brackets at the beginning of a line is its priority, which journald takes off.
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6}
_NOTICE = 5
# Good to know is not worth waking anybody.
_TOLD = ("critical", "error", "warning")


@dataclass(frozen=True)
class Change:
    """What is different since the run before. ``first``: there was none, or it cannot be read."""

    healthy: bool
    was_healthy: bool | None
    appeared: tuple[Mapping[str, t.Any], ...]
    cleared: tuple[Mapping[str, t.Any], ...]

    @property
    def first(self) -> bool:
        """Whether there is nothing to compare with."""
        return self.was_healthy is None

    def __bool__(self) -> bool:
        """Whether anything is worth telling. A first run that finds nothing is not."""
        turned = self.was_healthy is not None and self.was_healthy != self.healthy
        return turned or bool(self.appeared or self.cleared) or (self.first and not self.healthy)


def _told(report: Mapping[str, t.Any] | None) -> dict[str, Mapping[str, t.Any]]:
    """Return the findings worth telling by their ids. What is not of the expected form is passed over."""
    found: dict[str, Mapping[str, t.Any]] = {}
    for finding in (report or {}).get("findings") or ():
        if isinstance(finding, dict) and finding.get("severity") in _TOLD:
            found.setdefault(str(finding.get("id")), finding)
    return found


def compare(before: Mapping[str, t.Any] | None, after: Mapping[str, t.Any]) -> Change:
    """Return what differs between the report of the run before, if there is one, and that of this run."""
    old, new = _told(before), _told(after)
    return Change(
        bool(after["healthy"]),
        None if before is None else bool(before.get("healthy")),
        tuple(finding for name, finding in new.items() if name not in old),
        tuple(finding for name, finding in old.items() if name not in new),
    )


def _one_line(*parts: object) -> str:
    return " ".join(" ".join(str(part).split()) for part in parts if part)


def lines(change: Change, report: Mapping[str, t.Any]) -> list[str]:
    """Return what the journal is told of a change: one line for what it comes to, and one for each finding."""
    if not change:
        return []
    priority = _NOTICE if change.healthy else _PRIORITIES["error"]
    found = [f"<{priority}>{_one_line(report.get('server_name') or 'The homeserver')}: {_one_line(report['summary'])}"]
    for finding in change.appeared:
        told = _one_line(finding["summary"], finding.get("evidence"), f"To do: {finding.get('remedy')}")
        found.append(f"<{_PRIORITIES[finding['severity']]}>{finding['id']}: {told}")
    found += [
        f"<{_NOTICE}>{_one_line(finding.get('id'), 'is over:', finding.get('summary'))}" for finding in change.cleared
    ]
    return found
