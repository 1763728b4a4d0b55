# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line of a log that says why, out of everything that a dying server writes. Pure text, no I/O."""

from __future__ import annotations

import re
import typing as t

__all__ = ["decisive_line", "latest_start", "latest_words", "of_unit", "redact"]

_LENGTH = 500

# What Synapse writes when its logging is set up, so at each start (synapse/config/logger.py, setup_logging).
_START = "***** STARTING SERVER *****"

# "2026-11-23 14:45:01,123 - synapse.app - 251 - ERROR - main - ": the layout of Synapse's own log configurations.
_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ - \S+ - \d+ - [A-Z]+ - [^ ]* ?- ")
_LEVEL = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ - \S+ - \d+ - (ERROR|CRITICAL) - [^ ]* ?- (.+)$")
_TRACEBACK = re.compile(r"^(\s*)Traceback \(most recent call last\):\s*$")
_DIRECT_CAUSE = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"
# What systemd says of a unit. In a journal it follows at once: journald keeps no blank lines.
_SYSTEMD = re.compile(
    r"^(?:[\w@:.\\-]+\.(?:service|scope|target|socket): "
    r"|(?:Starting|Started|Stopping|Stopped|Failed to start|Reloading|Reloaded) .*\.(?:\.\.)?$)"
)
_UNIT_START = re.compile(r"^(?:Starting|Started) .*\.$")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?::|$)")
# The option that Synapse was reading when a value made it stumble is visible in the source line alone.
_CONFIG_FRAME = re.compile(r'^\s*File ".*/synapse/config/(\w+)\.py", line \d+')
_OPTION = re.compile(r"""(?:\.get\(|\[)["'](\w+)["']""")
_CONFIG_ERROR = re.compile(r"^\s*Error in configuration(?: at '([^']*)')?:\s*$")

# One line that says it all, the most telling kind first.
_LINES = tuple(
    re.compile(pattern)
    for pattern in (
        r"No module named '?[\w.]+'?",
        r"^error while loading shared libraries: |: error while loading shared libraries: ",
        r"Failed to (?:locate executable|execute) .+",
        # Both come before "Failed at step NAMESPACE spawning" or "USER spawning", which says where and not why.
        r"Failed to set up (?:\w+ )?namespac.+",
        r"Failed at step \w+ spawning .+",
        r"Changing to the requested working directory failed.*",
        r"Failed to load environment files.*|Failed to run 'start' task.*",
        r"Out of memory|oom-kill|A process of this unit has been killed by the OOM killer.*",
        r"Address already in use",
        r"Unable to create the pidfile",
        r"(?:^|\W)(?:start operation timed out|Start operation timed out)",
        r"Main process exited, code=(?:killed|dumped).*",
        r"FATAL: .+",
        r"^\s*(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+",
    )
)

_SECRET = re.compile(
    r"""(?ix)
    (["']?\b[\w.-]*(?:password|passwd|secret|passphrase|api_?key|private_?key|token)[\w-]*["']?
     \s*[=:]\s*)
    (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | [^\s,;&)}\]"']+ )
    """
)
_URL_PASSWORD = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@")
_KEY_LINE = re.compile(r"\b(ed25519\s+\S+\s+)[A-Za-z0-9+/_-]{43}=?")
_BEARER = re.compile(r"(?i)\b(bearer\s+)\S+")
_SYNAPSE_TOKEN = re.compile(r"\b(?:syt|syl|syr|mct|mcr)_[A-Za-z0-9_]{8,}")
# What nothing names and what looks like a secret all the same: of a line that was damaged, the word before it
# may be missing. Parts of paths, ids of events and rooms, and addresses in memory (0x...) are none.
_BARE = re.compile(
    r"""(?x)
    (?<! [\w/.$!@#-] )
    (?: (?= [0-9a-f]* [0-9] ) (?= [0-9a-f]* [a-f] ) [0-9a-f]{12,} (?! [\w-] )
      | (?= [\w+-]* [0-9] ) (?= [\w+-]* [A-Z] ) (?= [\w+-]* [a-z] ) [\w+-]{20,} )
    """
)
# A path after a word such as password_path is not a secret, and is what the operator needs to see.
_PATH_OPTION = re.compile(r"(?i)(?:_path|_file|file|path)[\"']?\s*[=:]\s*$")
_SUFFIX = re.compile(r"\.(?:service|socket|target|timer|mount|automount|path|scope|slice)$")


class _Raised(t.NamedTuple):
    """An exception in a traceback: its text, where in the configuration, whether the next one follows from it."""

    text: str
    place: str | None
    is_cause: bool = False


def _hide(match: re.Match[str]) -> str:
    if _PATH_OPTION.search(match.group(1)):
        return match.group(0)
    return match.group(1) + "***"


def redact(text: str) -> str:
    """Return ``text`` without what looks like a secret: what follows ``password=``, tokens, key lines, random words."""
    text = _SECRET.sub(_hide, text)
    text = _URL_PASSWORD.sub(r"\1:***@", text)
    text = _KEY_LINE.sub(r"\1***", text)
    text = _BEARER.sub(r"\1***", text)
    return _BARE.sub("***", _SYNAPSE_TOKEN.sub("***", text))


def of_unit(unit: str) -> list[str]:
    """Return the words that have journalctl show what a unit said, and what systemd said of it.

    ``--unit`` asks for less: of what systemd's own child says before it becomes the program ("Failed to locate
    executable"), the journal may be too late to see to which unit it belonged. The child is root, and names the unit.
    """
    if not _SUFFIX.search(unit):
        unit = f"{unit}.service"
    said = [f"_SYSTEMD_UNIT={unit}"]
    for name in ("UNIT", "OBJECT_SYSTEMD_UNIT", "COREDUMP_UNIT"):
        said += ["+", "_UID=0", f"{name}={unit}"]
    return said


def latest_words(journal: str) -> str | None:
    """Return the decisive line of a unit's journal, of the latest of its starts that has one.

    A server that fails in one way today and failed in another yesterday is to be quoted with today's.
    """
    starts: list[list[str]] = [[]]
    for line in journal.splitlines():
        if _UNIT_START.match(line):
            starts.append([])
        starts[-1].append(line)
    return next(filter(None, (decisive_line("\n".join(lines)) for lines in reversed(starts))), None)


def latest_start(text: str) -> str:
    """Return what a Synapse log says since the server's latest start; the whole text where no start is in it."""
    position = text.rfind(_START)
    if position < 0:
        return text
    return text[text.rfind("\n", 0, position) + 1 :]


def _one_line(parts: list[str]) -> str:
    line = redact(" ".join(" ".join(part.split()) for part in parts if part.strip()))
    return line if len(line) <= _LENGTH else line[: _LENGTH - 3].rstrip() + "..."


def _ends(line: str) -> bool:
    """Whether a message of several lines does not go on here: a blank line, another entry or message begins."""
    return (
        not line.strip()
        or line.startswith(("***", "Traceback (", _DIRECT_CAUSE, _DURING, "Error in configuration"))
        or _PREFIX.match(line) is not None
        or _SYSTEMD.match(line) is not None
    )


def _configuration_error(lines: list[str]) -> str | None:
    """The last paragraph "Error in configuration" (synapse/config/_base.py, format_config_error)."""
    for index in range(len(lines) - 1, -1, -1):
        match = _CONFIG_ERROR.match(lines[index])
        if match is None:
            continue
        paragraph = []
        for line in lines[index + 1 :]:
            if _ends(line):
                break
            paragraph.append(line)
        # The name of an option such as macaroon_secret_key is not followed by its value here, but by what is wrong.
        return f"{lines[index].strip()} {_one_line(paragraph)}".rstrip()
    return None


def _strip(line: str, indent: str) -> str:
    return line[len(indent) :] if line.startswith(indent) else line.strip()


def _skip_blank(lines: list[str], index: int) -> int:
    while index < len(lines) and not lines[index].strip():
        index += 1
    return index


def _place(frame: str, source: str) -> str | None:
    """What a stack frame within Synapse's configuration tells: the option, or at least the file and its line."""
    match = _CONFIG_FRAME.match(frame)
    if match is None:
        return None
    option = _OPTION.search(source)
    if option is not None:
        return f"(while reading the option {option.group(1)})"
    return None if match.group(1) == "_base" else f"(in synapse/config/{match.group(1)}.py: {source.strip()})"


def _exception(lines: list[str], start: int, indent: str) -> tuple[_Raised | None, int]:
    """Read the traceback whose first line is before ``start``; return the exception and the line after it."""
    place: str | None = None
    index = start
    while index < len(lines):
        text = _strip(lines[index], indent)
        if not text.strip() or _PREFIX.match(text):
            return None, index
        if not text[0].isspace() and _EXCEPTION.match(text):
            break
        if index + 1 < len(lines):
            place = _place(text, lines[index + 1]) or place
        index += 1
    message: list[str] = []
    while index < len(lines):
        text = _strip(lines[index], indent)
        if _ends(text):
            break
        message.append(text)
        index += 1
    return (_Raised(" ".join(message), place) if message else None), index


def _chain(lines: list[str], start: int, indent: str) -> tuple[list[_Raised], int]:
    """Read the tracebacks that begin at line ``start`` and belong together, the first one first."""
    chain: list[_Raised] = []
    index = start
    while index < len(lines) and _strip(lines[index], indent).startswith("Traceback ("):
        raised, index = _exception(lines, index + 1, indent)
        if raised is None:
            break
        index = _skip_blank(lines, index)
        link = lines[index].strip() if index < len(lines) else ""
        chain.append(raised._replace(is_cause=link == _DIRECT_CAUSE))
        if link not in (_DIRECT_CAUSE, _DURING):
            break
        index = _skip_blank(lines, index + 1)
    return chain, index


def _traceback(lines: list[str]) -> str | None:
    """The exception of the last traceback, with the one that caused it."""
    chain: list[_Raised] = []
    index = 0
    while index < len(lines):
        match = _TRACEBACK.match(lines[index])
        if match is None:
            index += 1
            continue
        found, end = _chain(lines, index, match.group(1))
        chain = found or chain
        index = max(end, index + 1)
    if not chain:
        return None
    last = root = chain[-1]
    place = last.place
    for raised in reversed(chain[:-1]):
        if not raised.is_cause:
            break
        root, place = raised, raised.place or place
    parts = [root.text] if root is last or len(last.text) > 120 else [f"{last.text}:", root.text]
    line = _one_line(parts)
    # A path in the message says more than the line of code; an option always helps. Code holds no values to mask.
    return line if place is None or ("/" in line and "option" not in place) else f"{line} {place}"


def _telling(lines: list[str]) -> str | None:
    for expression in _LINES:
        for line in reversed(lines):
            if expression.search(line):
                return _one_line([_PREFIX.sub("", line)])
    return None


def _last_error(lines: list[str]) -> str | None:
    for line in reversed(lines):
        match = _LEVEL.match(line)
        if match is not None:
            # What a daemon ends with that was asked to stop (synapse/util/daemonize.py of 1.163.2, exit).
            return None if match.group(2) == "SystemExit: 0" else _one_line([match.group(2)])
    return None


def decisive_line(text: str) -> str | None:
    """Return the line of a log or of a journal that says why the server failed, or ``None`` where nothing does.

    A configuration error comes before an exception, the exception's cause before what it led to, a telling line
    of systemd, the loader or the database before any other error. Values that look like secrets are masked.
    Recorded from Synapse 1.163.2: what it prints and logs when it cannot start.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    return _configuration_error(lines) or _traceback(lines) or _telling(lines) or _last_error(lines)
