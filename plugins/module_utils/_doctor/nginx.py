# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the configuration of nginx: which request goes where, with which headers. Pure.

After nginx's own documentation of ngx_http_core_module and ngx_http_proxy_module; nothing of nginx is run, because even
a test of its configuration makes log and pid files.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Include = Callable[[str], Sequence[t.Tuple[str, str]]]

__all__ = ["Directive", "NginxError", "Route", "Site", "parse", "sites_of"]

_DEEPEST = 12
_WORD = re.compile(
    r"""\s+|#[^\n]*|(?P<mark>[;{}])|"(?P<double>(?:\\.|[^"\\])*)"|'(?P<single>(?:\\.|[^'\\])*)'|"""
    r"""(?P<plain>(?:\\.|\$\{[^}]*\}|[^\s;{}"'\\])(?:\\.|\$\{[^}]*\}|[^\s;{}\\])*)""",
    re.DOTALL,
)
_SIZE = re.compile(r"(\d+)([kKmMgG]?)")
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


class NginxError(Exception):
    """The configuration cannot be read; ``line`` counts from 1."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(reason)
        self.path, self.line, self.reason = path, line, reason


@dataclass(frozen=True)
class Directive:
    """One directive with what is in its braces."""

    name: str
    args: tuple[str, ...]
    path: str
    line: int
    block: tuple[Directive, ...] | None = None

    def all(self, name: str) -> Iterator[Directive]:
        """Return the directives of a name directly in the braces."""
        return (one for one in self.block or () if one.name == name)


def _words(text: str, path: str) -> Iterator[tuple[str, str, int]]:
    """Return each word and mark with its line."""
    position, line = 0, 1
    while position < len(text):
        match = _WORD.match(text, position)
        if match is None:
            raise NginxError(path, line, "a quote that does not end")
        position = match.end()
        for kind in ("mark", "double", "single", "plain"):
            if match[kind] is not None:
                yield kind, match[kind], line
        line += match[0].count("\n")


class _Reader:
    """Reads one file."""

    def __init__(self, text: str, path: str, include: Include, depth: int) -> None:
        self.words = list(_words(text, path))
        self.at, self.path, self.include, self.depth = 0, path, include, depth

    def block(self) -> tuple[Directive, ...]:
        """Read directives up to a closing brace, or the end."""
        found: list[Directive] = []
        pending: list[tuple[str, int]] = []
        while self.at < len(self.words):
            kind, word, line = self.words[self.at]
            if kind != "mark":
                pending.append((word, line))
            elif word == "}":
                break
            elif pending:
                found += self.directive(pending, opens=word == "{")
                pending = []
            elif word == "{":
                raise NginxError(self.path, line, 'an unexpected "{"')
            self.at += 1
        if pending:
            raise NginxError(self.path, pending[0][1], f'the directive "{pending[0][0]}" does not end with ";"')
        return tuple(found)

    def directive(self, pending: list[tuple[str, int]], *, opens: bool) -> list[Directive]:
        """Return what a directive stands for: itself, or those of the files that it includes."""
        (name, line), args, inner = pending[0], tuple(word for word, _line in pending[1:]), None
        if opens:
            self.at += 1
            inner = self.block()
            if self.at >= len(self.words):
                raise NginxError(self.path, line, f'the block of "{name}" does not end with a brace')
        if name != "include" or not args:
            return [Directive(name, args, self.path, line, inner)]
        included = self.include(args[0]) if self.depth < _DEEPEST else ()
        return [one for path, text in included for one in parse(text, path, self.include, self.depth + 1)]


def parse(text: str, path: str, include: Include, depth: int = 0) -> tuple[Directive, ...]:
    """Read a file; ``include`` returns the files that a pattern names, with their texts. Raises ``NginxError``."""
    reader = _Reader(text, path, include, depth)
    found = reader.block()
    if reader.at < len(reader.words):
        raise NginxError(path, reader.words[reader.at][2], 'an unexpected "}"')
    return found


@dataclass(frozen=True)
class Route:
    """What nginx does with a request. ``target`` is where it passes it on, ``None`` where it does not.

    ``uri``: whether the target has a path of its own, so that nginx rewrites that of the request. ``body`` is the
    largest request in bytes, 0 for any.
    """

    path: str
    line: int
    target: str | None = None
    uri: bool = False
    headers: t.Mapping[str, str] = field(default_factory=dict)
    body: int = 1024**2


@dataclass(frozen=True)
class Site:
    """A server block."""

    directive: Directive
    names: tuple[str, ...]
    listens: tuple[str, ...]
    certificates: tuple[Directive, ...]
    around: tuple[Directive, ...] = ()
    upstreams: t.Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def route(self, request: str) -> Route:
        """Return what becomes of a request for a path."""
        levels = [*self.around, self.directive]
        while True:
            chosen = _location(levels[-1], request)
            if chosen is None:
                break
            levels.append(chosen)
        return self._route(levels)

    def _route(self, levels: Sequence[Directive]) -> Route:
        last = levels[-1]
        passed = next(last.all("proxy_pass"), None)
        target = passed.args[0] if passed is not None and passed.args else None
        uri = False
        if target is not None:
            match = re.match(r"(https?)://(unix:[^:]+:?|[^/]+)(/.*)?$", target)
            uri = match is not None and match[3] is not None
        headers: dict[str, str] = {}
        for level in levels:  # those of the innermost level that has any count
            own = {one.args[0].lower(): one.args[1] for one in level.all("proxy_set_header") if len(one.args) == 2}
            headers = own or headers
        sizes = [one.args[0] for level in levels for one in level.all("client_max_body_size") if one.args]
        return Route(last.path, last.line, target, uri, headers, size_of(sizes[-1]) if sizes else 1024**2)

    def addresses(self, target: str) -> tuple[str, ...]:
        """Return the addresses that a target stands for: ``host:port`` or ``unix:path``."""
        match = re.match(r"(https?)://(unix:[^:]+|[^/]+)", target)
        if match is None:
            return ()
        name = match[2]
        if name in self.upstreams:
            return self.upstreams[name]
        if name.startswith("unix:") or re.search(r":\d+$", name):
            return (name,)
        return (f"{name}:{443 if match[1] == 'https' else 80}",)


def size_of(text: str) -> int:
    """Return a size in bytes."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2].lower()] if match is not None else 0


def _pattern(location: Directive) -> tuple[str, str]:
    """Return the modifier of a location, and what it is compared with."""
    if len(location.args) == 2:
        return location.args[0], location.args[1]
    pattern = location.args[0] if location.args else ""
    # Only "=" may stand without a space behind it.
    return ("=", pattern[1:]) if pattern.startswith("=") else ("", pattern)


def _matches(kind: str, pattern: str, request: str) -> bool:
    try:
        return re.search(pattern, request, re.IGNORECASE if kind == "~*" else 0) is not None
    except re.error:  # PCRE knows more than this
        return False


def _location(level: Directive, request: str) -> Directive | None:
    """Return the location that nginx chooses: the same path, else the first expression, else the longest prefix."""
    locations = [(one, *_pattern(one)) for one in level.all("location")]
    for one, kind, pattern in locations:
        if kind == "=" and pattern == request:
            return one
    prefixes = [
        (len(pattern), kind, one)
        for one, kind, pattern in locations
        if kind in ("", "^~") and not pattern.startswith("@") and request.startswith(pattern)
    ]
    longest = max(prefixes, key=lambda found: found[0], default=None)
    if longest is None or longest[1] != "^~":
        for one, kind, pattern in locations:
            if kind in ("~", "~*") and _matches(kind, pattern, request):
                return one
    return longest[2] if longest is not None else None


def sites_of(directives: Iterable[Directive]) -> tuple[Site, ...]:
    """Return the server blocks of a configuration."""
    found = []
    for http in directives:
        if http.name != "http":
            continue
        upstreams = {
            one.args[0]: tuple(_with_port(it.args[0]) for it in one.all("server") if it.args)
            for one in http.all("upstream")
            if one.args
        }
        for server in http.all("server"):
            found.append(
                Site(
                    server,
                    tuple(name for one in server.all("server_name") for name in one.args),
                    tuple(one.args[0] for one in server.all("listen") if one.args),
                    tuple(
                        one
                        for name in ("ssl_certificate", "ssl_certificate_key")
                        for one in (*http.all(name), *server.all(name))
                        if one.args
                    ),
                    (http,),
                    upstreams,
                )
            )
    return tuple(found)


def _with_port(address: str) -> str:
    return address if address.startswith("unix:") or re.search(r":\d+$", address) else f"{address}:80"
