# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line of a log that says why, out of everything that a dying server writes. Pure text, no I/O."""

from __future__ import annotations

import re

__all__ = ["decisive_line", "latest_start", "redact"]

_LENGTH = 500

# What Synapse writes when its logging is set up, so at each start (synapse/config/logger.py, setup_logging).
_START = "***** STARTING SERVER *****"

# "2026-11-23 14:45:01,123 - synapse.app - 251 - ERROR - main - ": the layout of Synapse's own log configurations.
_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ - \S+ - \d+ - [A-Z]+ - [^ ]* ?- ")
_LEVEL = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ - \S+ - \d+ - (ERROR|CRITICAL) - [^ ]* ?- (.+)$")
_TRACEBACK = re.compile(r"^(\s*)Traceback \(most recent call last\):\s*$")
_DIRECT_CAUSE = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?::|$)")
# The option that Synapse was reading when a value made it stumble is visible in the source line alone.
_CONFIG_FRAME = re.compile(r'^\s*File ".*/synapse/config/\w+\.py", line \d+')
_OPTION = re.compile(r"""(?:\.get\(|\[)["'](\w+)["']""")
_CONFIG_ERROR = re.compile(r"^\s*Error in configuration(?: at '([^']*)')?:\s*$")

# One line that says it all, the most telling kind first: (expression, whether the last match counts rather than the first).
_LINES = tuple(
    re.compile(pattern)
    for pattern in (
        r"No module named '?[\w.]+'?",
        r"^error while loading shared libraries: |: error while loading shared libraries: ",
        r"Failed to (?:locate executable|execute) .+",
        r"Failed at step \w+ spawning .+",
        r"Changing to the requested working directory failed.*",
        r"Failed to load environment files.*|Failed to run 'start' task.*",
        r"Out of memory|oom-kill|A process of this unit has been killed by the OOM killer.*",
        r"Address already in use",
        r"Unable to create the pidfile",
        r"(?:^|\W)(?:start operation timed out|Start operation timed out)",
        r"Main process exited, code=(?:killed|dumped).*",
        r"FATAL: .+",
    )
)

_SECRET = re.compile(
    r"""(?ix)
    (["']?\b[\w.-]*(?:password|passwd|secret|passphrase|api_?key|private_?key|access_token|as_token|hs_token|token)[\w-]*["']?
     \s*[=:]\s*)
    (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | [^\s,;&)}\]"']+ )
    """
)
_URL_PASSWORD = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@")
_KEY_LINE = re.compile(r"\b(ed25519\s+\S+\s+)[A-Za-z0-9+/_-]{43}=?")
_BEARER = re.compile(r"(?i)\b(bearer\s+)\S+")
_SYNAPSE_TOKEN = re.compile(r"\b(?:syt|syl|syr|mct|mcr)_[A-Za-z0-9_]{8,}")
# A path after a word such as password_path is not a secret, and is what the operator needs to see.
_PATH_OPTION = re.compile(r"(?i)(?:_path|_file|file|path)[\"']?\s*[=:]\s*$")


def _hide(match: re.Match[str]) -> str:
    if _PATH_OPTION.search(match.group(1)):
        return match.group(0)
    return match.group(1) + "***"


def redact(text: str) -> str:
    """Return ``text`` without the values that look like secrets: what follows ``password=``, tokens, key lines."""
    text = _SECRET.sub(_hide, text)
    text = _URL_PASSWORD.sub(r"\1:***@", text)
    text = _KEY_LINE.sub(r"\1***", text)
    text = _BEARER.sub(r"\1***", text)
    return _SYNAPSE_TOKEN.sub("***", text)


def latest_start(text: str) -> str:
    """Return what a Synapse log says since the server's latest start; the whole text where no start is in it."""
    position = text.rfind(_START)
    if position < 0:
        return text
    return text[text.rfind("\n", 0, position) + 1 :]


def _one_line(parts: list[str]) -> str:
    line = redact(" ".join(" ".join(part.split()) for part in parts if part.strip()))
    return line if len(line) <= _LENGTH else line[: _LENGTH - 3].rstrip() + "..."


def _configuration_error(lines: list[str]) -> str | None:
    """The last paragraph "Error in configuration" that Synapse prints (synapse/config/_base.py, format_config_error)."""
    for index in range(len(lines) - 1, -1, -1):
        match = _CONFIG_ERROR.match(lines[index])
        if match is None:
            continue
        paragraph = [lines[index].strip()]
        for line in lines[index + 1 :]:
            if not line.strip():
                break
            if line.startswith(("***", "Traceback")) or _PREFIX.match(line):
                break
            paragraph.append(line)
        return _one_line(paragraph)
    return None


def _exceptions(lines: list[str], start: int, indent: str) -> tuple[list[tuple[str, str | None, bool]], int]:
    """Read a chain of tracebacks from line ``start``: (exception, option being read, is direct cause of the next)."""
    chain: list[tuple[str, str | None, bool]] = []
    index = start
    while index < len(lines):
        text = lines[index][len(indent) :] if lines[index].startswith(indent) else lines[index]
        if not text.startswith("Traceback ("):
            break
        index += 1
        option: str | None = None
        message: list[str] = []
        while index < len(lines):
            text = lines[index][len(indent) :] if lines[index].startswith(indent) else lines[index].strip()
            if message:
                # The text of an exception may have several lines; a blank one, or a line of the log, ends it.
                if not text.strip() or _PREFIX.match(text) or text.startswith("***"):
                    break
                message.append(text)
            elif _CONFIG_FRAME.match(text) and index + 1 < len(lines):
                found = _OPTION.search(lines[index + 1])
                option = found.group(1) if found else option
            elif text and not text[0].isspace() and _EXCEPTION.match(text):
                message.append(text)
            elif not text.strip() or _PREFIX.match(text):
                break
            index += 1
        if not message:
            break
        while index < len(lines) and not lines[index].strip():
            index += 1
        link = lines[index].strip() if index < len(lines) else ""
        chain.append((" ".join(message), option, link == _DIRECT_CAUSE))
        if link not in (_DIRECT_CAUSE, _DURING):
            break
        index += 1
        while index < len(lines) and not lines[index].strip():
            index += 1
    return chain, index


def _traceback(lines: list[str]) -> str | None:
    """The exception of the last traceback, with the one that caused it."""
    found: list[tuple[str, str | None, bool]] = []
    index = 0
    while index < len(lines):
        match = _TRACEBACK.match(lines[index])
        if match is None:
            index += 1
            continue
        chain, end = _exceptions(lines, index, match.group(1))
        found = chain or found
        index = max(end, index + 1)
    if not found:
        return None
    last, option, _direct = found[-1]
    root = last
    for exception, read, direct in reversed(found[:-1]):
        if not direct:
            break
        root, option = exception, read or option
    parts = [root] if root is last or len(last) > 120 else [f"{last}:", root]
    if option is not None:
        parts.append(f"(while reading the option {option})")
    return _one_line(parts)


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
            return _one_line([match.group(2)])
    return None


def decisive_line(text: str) -> str | None:
    """Return the line of a log or of a journal that says why the server failed, or ``None`` where nothing does.

    A configuration error comes before an exception, the exception's cause before what it led to, a telling line
    of systemd, the loader or the database before any other error. Values that look like secrets are masked.
    Recorded from Synapse 1.163.2: what it prints and logs when it cannot start.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    return _configuration_error(lines) or _traceback(lines) or _telling(lines) or _last_error(lines)
