# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock files: the requirements format of pip and uv with one exact version and hashes for each package. Pure.

Only what a lock needs of the format is read: ``name==version``, an environment marker and ``--hash=sha256:``.
"""

from __future__ import annotations

import hashlib
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Pin", "applies", "canonical", "digest_of", "parse", "pins_for", "text_of", "version_key"]

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*===?\s*(?P<version>[A-Za-z0-9][^\s;]*)")
_HASH = re.compile(r"\s--hash[= ]sha256:([0-9a-f]{64})(?=\s|$)")
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<operator>[<>=!~]=?=?|not\s+in\b|in\b)"
    r"|(?P<word>[a-z_.]+)|(?P<bracket>[()]))"
)


@dataclass(frozen=True)
class Pin:
    """One package of a lock: its normalised name, exact version, marker (empty: always) and sorted SHA-256 hashes."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def line(self) -> str:
        """Return the pin as one line of a lock."""
        condition = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{condition}" + "".join(f" --hash=sha256:{value}" for value in self.hashes)


def canonical(name: str) -> str:
    """Return a package's name as the package index compares it: lower case, runs of ``-_.`` as one ``-``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str, source: str = "The lock") -> tuple[Pin, ...]:
    """Read a lock and return its pins, sorted.

    Raises ``SynapseError`` with ``source`` and the line's number where a line is not an exact version with hashes.
    """
    pins: list[Pin] = []
    whole = ""
    for number, line in enumerate(text.splitlines(), 1):
        part = "" if line.lstrip().startswith("#") else re.sub(r"\s#.*$", "", line).rstrip()
        if part.endswith("\\"):
            whole += part[:-1] + " "
            continue
        whole, requirement = "", (whole + part).strip()
        if requirement:
            pins.append(_pin(requirement, f"{source}, line {number}"))
    if whole.strip():
        raise SynapseError(f"{source} ends in the middle of a line: it was cut short, so copy it again.")
    if not pins:
        raise SynapseError(f"{source} names no package: give a lock made by 'uv pip compile --generate-hashes'.")
    return tuple(sorted(pins, key=lambda pin: (pin.name, pin.version, pin.marker)))


def _pin(requirement: str, where: str) -> Pin:
    hashes = tuple(sorted(set(_HASH.findall(requirement))))
    pin, _unused, marker = _HASH.sub("", requirement).partition(";")
    found = _PIN.fullmatch(pin.strip())
    if found is None:
        raise SynapseError(
            f"{where}: expected one exact version such as 'twisted==26.10.0', found {pin.strip()[:80]!r}. "
            "A lock holds nothing else: make it with 'uv pip compile --generate-hashes'."
        )
    if not hashes:
        raise SynapseError(
            f"{where}: {found['name']} has no SHA-256 hash, so what would be installed could not be checked. "
            "Make the lock with 'uv pip compile --generate-hashes'."
        )
    condition = " ".join(marker.split())
    applies(condition, {})
    return Pin(canonical(found["name"]), found["version"], condition, hashes)


def text_of(pins: Iterable[Pin]) -> str:
    """Return the pins as the text of a lock, one line each."""
    return "".join(f"{pin.line()}\n" for pin in pins)


def digest_of(pins: Iterable[Pin]) -> str:
    """Return the SHA-256 of what a lock says; comments, order and line breaks do not count."""
    return hashlib.sha256(text_of(pins).encode()).hexdigest()


def pins_for(pins: Iterable[Pin], environment: Mapping[str, str]) -> dict[str, str]:
    """Return version by name for the pins whose marker holds in ``environment`` (PEP 508 names)."""
    return {pin.name: pin.version for pin in pins if applies(pin.marker, environment)}


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Return a key that sorts the versions of one package: a pre-release before its release, a post-release after."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    release = [int(part) for part in found[0].split(".")] if found else []
    while release and release[-1] == 0:
        release.pop()
    rest = re.findall(r"\d+|[a-z]+", version[found.end() if found else 0 :].lower().split("+", 1)[0])
    key: list[tuple[int, int | str]] = [(1, number) for number in release]
    for part in rest:
        key.append((1, int(part)) if part.isdigit() else (0 if part == "post" else -1, part))
    return (*key, (0, ""))


def applies(marker: str, environment: Mapping[str, str]) -> bool:
    """Whether an environment marker holds; a variable that ``environment`` lacks is the empty string.

    Raises ``SynapseError`` where the marker cannot be read.
    """
    if not marker:
        return True
    return _Marker(marker, environment).value()


class _Marker:
    """A recursive-descent reader of the marker grammar: or, and, brackets, comparisons."""

    def __init__(self, marker: str, environment: Mapping[str, str]) -> None:
        self._marker = marker
        self._environment = environment
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(marker.rstrip()):
            found = _TOKEN.match(marker, position)
            if found is None:
                raise self._error()
            self._tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            position = found.end()

    def _error(self) -> SynapseError:
        return SynapseError(f"The environment marker {self._marker!r} cannot be read: correct it in the lock.")

    def _next(self, *kinds: str) -> str:
        if not self._tokens or self._tokens[0][0] not in kinds:
            raise self._error()
        return self._tokens.pop(0)[1]

    def _skip(self, token: tuple[str, str]) -> bool:
        if self._tokens[:1] == [token]:
            self._tokens.pop(0)
            return True
        return False

    def value(self) -> bool:
        result = self._either()
        if self._tokens:
            raise self._error()
        return result

    def _either(self) -> bool:
        result = self._both()
        while self._skip(("word", "or")):
            result = self._both() or result
        return result

    def _both(self) -> bool:
        result = self._one()
        while self._skip(("word", "and")):
            result = self._one() and result
        return result

    def _one(self) -> bool:
        if self._skip(("bracket", "(")):
            result = self._either()
            if not self._skip(("bracket", ")")):
                raise self._error()
            return result
        left_kind, left = self._operand()
        operator = " ".join(self._next("operator").split())
        right_kind, right = self._operand()
        versions = any(kind in {"python_version", "python_full_version"} for kind in (left_kind, right_kind))
        return self._compare(left, operator, right, versions)

    def _operand(self) -> tuple[str, str]:
        word = self._next("text", "word")
        return ("", word[1:-1]) if word[0] in "'\"" else (word, self._environment.get(word, ""))

    def _compare(self, left: str, operator: str, right: str, versions: bool) -> bool:
        if operator in {"in", "not in"}:
            return (left in right) == (operator == "in")
        if versions and right.endswith(".*") and operator in {"==", "!="}:
            return f"{left}.".startswith(right[:-1]) == (operator == "==")
        if versions:
            first, second = version_key(left), version_key(right)
            outcome = (first > second) - (first < second)
        else:
            outcome = (left > right) - (left < right)
        allowed = {"==": (0,), "===": (0,), "!=": (-1, 1), "<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1)}
        if operator not in allowed:
            raise self._error()
        return outcome in allowed[operator]
