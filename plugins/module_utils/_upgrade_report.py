# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change of release means for a configuration: the facts that two versions of Synapse give, side by side.

Everything here is pure. The facts are what ``_probes/config_check.py`` answers; they hold no value of a secret. An
option counts as read where the parser asked for it, and as not read where the parser looked around it and left it:
what neither is said of is left out, because where a version refuses a section it reads no further there.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import Wanted, dotted, is_allowed, judge

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Option", "Report", "compare", "unanswered"]

Facts = t.Mapping[str, t.Any]
Path = t.Tuple[t.Union[str, int], ...]


@dataclass(frozen=True)
class Option:
    """An option that two versions take differently: its dotted name, where it stands, and what there is to say."""

    path: str
    suggestion: str | None = None
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Report:
    """What is different for one configuration. ``before`` is ``None`` where the old release could not be asked."""

    before: str | None
    after: str
    no_longer_read: tuple[Option, ...] = ()
    newly_read: tuple[Option, ...] = ()
    newly_refused: tuple[Option, ...] = ()
    unknown_to_both: tuple[Option, ...] = ()
    problem: str | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """Return the report as plain data."""
        lists = {
            name: [asdict(option) for option in getattr(self, name)]
            for name in ("no_longer_read", "newly_read", "newly_refused", "unknown_to_both")
        }
        return {"from": self.before, "to": self.after, **lists, "problem": self.problem}

    def lines(self) -> list[str]:
        """Return the report as sentences, what needs a hand first."""
        if self.problem is not None:
            return [f"What changes for this configuration with Synapse {self.after} is not known: {self.problem}"]
        before, after = self.before, self.after
        lines = [
            f"Synapse {after} refuses {shown(option)}, which {before} takes. {option.suggestion or ''}".rstrip()
            for option in self.newly_refused
        ]
        lines += [
            f"Synapse {after} does not read {shown(option)}, which {before} does. {option.suggestion or ''}".rstrip()
            for option in self.no_longer_read
        ]
        lines += [
            f"Synapse {after} reads {shown(option)}, which has no effect in {before}." for option in self.newly_read
        ]
        lines += [f"Neither {before} nor {after} knows {shown(option)}." for option in self.unknown_to_both]
        return lines or [f"Synapse {after} reads all of this configuration that {before} reads, and nothing more."]


def shown(option: Option) -> str:
    """Return an option with its place, for a sentence."""
    name = option.path or "the configuration"
    if option.file is None:
        return name
    return f"{name} ({option.file}{'' if option.line is None else f' line {option.line}'})"


def unanswered(after: str, problem: str) -> Report:
    """Return the report for a release that could not be asked; ``problem`` is the sentence that says why."""
    return Report(None, after, problem=problem)


class _Side:
    """What one version makes of one process's configuration."""

    def __init__(self, run: Facts) -> None:
        self.run = run
        self.read = {tuple(path) for path in run["read"]}
        # Where something failed, an option may be unread for that; a name that occurs nowhere is unread for certain.
        failed = any(failure["kind"] != "inline" for failure in run["failures"])
        self.unknown = {tuple(entry["path"]) for entry in run["unread"] if not entry["known"]}
        idle = {tuple(entry["path"]) for entry in run["unread"] if entry["known"]}
        self.unread = self.unknown if failed else self.unknown | idle

    def knows_not(self, path: Path) -> bool:
        """Return whether this version does not know the option, or one around it."""
        return any(path[:length] in self.unknown for length in range(1, len(path) + 1))

    def place(self, path: Path) -> tuple[str | None, int | None]:
        """Return file and line of an option."""
        found = self.run["lines"].get(dotted(path))
        return (None, None) if found is None else (str(self.run["documents"][found[0]]["path"]), found[1])

    def option(self, path: Path, suggestion: str | None = None) -> Option:
        """Return an option with its place."""
        return Option(dotted(path), suggestion, *self.place(path))


def _sides(old: Facts, new: Facts) -> Iterator[tuple[_Side, _Side]]:
    before = {run["process"]: run for run in old["runs"]}
    for run in new["runs"]:
        if run["process"] in before:
            yield _Side(before[run["process"]]), _Side(run)


def _sorted(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return each option once, in the order of the files."""
    return tuple(sorted(set(options), key=lambda option: (option.file or "", option.line or 0, option.path)))


def compare(old: Facts, new: Facts, wanted: Wanted) -> Report:
    """Set the answers of two versions side by side; both were asked about the same configuration.

    ``new`` was judged before. Where ``old`` is no such answer, the release counts as one that could not be asked.
    """
    try:
        return _compared(old, new, wanted)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problem = (
            "The release that serves now answered, and what it answered about this configuration cannot be understood "
            f"({type(error).__name__}): look at its environment."
        )
        return unanswered(str(new["version"]), problem)


def _compared(old: Facts, new: Facts, wanted: Wanted) -> Report:
    hints = _hints(new)
    lost: list[Option] = []
    gained: list[Option] = []
    unknown: list[Option] = []
    for before, after in _sides(old, new):
        for path in before.read & after.unread:
            advice = f"Synapse {new['version']} knows this name, and does not read it here: see its upgrade notes."
            lost.append(after.option(path, hints.get(dotted(path), advice)))
        gained += [after.option(path) for path in before.unread & after.read]
        unknown += [
            after.option(path, hints.get(dotted(path)))
            for path in after.unknown
            if before.knows_not(path) and not is_allowed(path, wanted.allow_unknown)
        ]
    return Report(
        str(old["version"]),
        str(new["version"]),
        _sorted(lost),
        _sorted(gained),
        _refused(old, new, wanted),
        _sorted(unknown),
    )


def _hints(answer: Facts) -> Mapping[str, str | None]:
    """Return what there is to say about options that are not read, whatever the operator wants to hear of them."""
    problems = judge(answer, Wanted(unknown_options="warning"))
    return {problem.path: problem.suggestion for problem in problems if problem.suggestion}


def _refused(old: Facts, new: Facts, wanted: Wanted) -> tuple[Option, ...]:
    """Return what only the new version refuses; options that are not read are told apart from that."""
    silent = Wanted(unknown_options="ignore", allow_unknown=wanted.allow_unknown)
    known = {(problem.path, problem.file) for problem in judge(old, silent) if problem.severity == "error"}
    return _sorted(
        [
            Option(problem.path, f"{problem.message} {problem.suggestion or ''}".strip(), problem.file, problem.line)
            for problem in judge(new, silent)
            if problem.severity == "error" and (problem.path, problem.file) not in known
        ]
    )
