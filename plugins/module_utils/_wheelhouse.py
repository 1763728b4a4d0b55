# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheelhouses: which hosts one is for, which packages of a lock such a host may need, what is in the archive. Pure.

A wheelhouse is one uncompressed tar archive: ``manifest.json``, ``lock.txt``, then the wheels in the order of their
names. Its digest is the SHA-256 of the manifest, which holds the hash of everything else.
"""

from __future__ import annotations

import hashlib
import json
import re
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION, uv_wheel
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, applies, canonical, version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ARCHITECTURES",
    "LIBCS",
    "LOCK_NAME",
    "MANIFEST_NAME",
    "PYTHONS",
    "Entry",
    "Manifest",
    "Part",
    "Target",
    "glibc_floor",
    "is_pure",
    "lacking_wheel",
    "pins_of",
    "platforms",
    "refusal",
    "requirements",
    "rounds",
    "synapse_in",
    "targets_of",
    "uv_pin",
]

MANIFEST_NAME = "manifest.json"
LOCK_NAME = "lock.txt"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "aarch64")
LIBCS = ("glibc", "musl")
_FORMAT = 1
# What PEP 600 made of the older names.
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
# A lock may tell bug-fix releases of Python apart; no minor version has had more.
_MICROS = range(40)
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!]*(-[A-Za-z0-9._+!]+){4,5}\.whl")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Target:
    """One kind of host: Python's minor version, processor, C library."""

    python: str
    architecture: str
    libc: str

    @property
    def name(self) -> str:
        """The kind's name, such as ``cp311-x86_64-glibc``."""
        return f"cp{self.python.replace('.', '')}-{self.architecture}-{self.libc}"

    def __str__(self) -> str:
        return f"Python {self.python} on {self.architecture}{'' if self.libc == 'glibc' else f' with {self.libc}'}"


def targets_of(pythons: Iterable[str], architectures: Iterable[str], libcs: Iterable[str]) -> tuple[Target, ...]:
    """Return every combination, sorted; raises ``SynapseError`` where a version of Python is none, or there is none."""
    found = {Target(python, one, libc) for python in pythons for one in architectures for libc in libcs}
    for target in found:
        if not re.fullmatch(r"3\.\d{1,2}", target.python):
            raise SynapseError(f"'pythons' has {target.python!r}: give minor versions such as '3.11'.")
    if not found:
        raise SynapseError("A wheelhouse is for at least one Python and one processor: 'pythons' or another is empty.")
    return tuple(sorted(found, key=lambda one: (version_key(one.python), one.architecture, one.libc)))


def platforms(target: Target) -> tuple[str, ...]:
    """Return the platform tags whose wheels run on such a host, the one that runs on most of them first."""
    if target.libc == "musl":
        return tuple(f"musllinux_1_{minor}_{target.architecture}" for minor in range(3))
    oldest = [5, 12] if target.architecture == "x86_64" else []
    tags: list[str] = []
    for minor in [*oldest, *range(17, 37)]:
        tags.append(f"manylinux_2_{minor}_{target.architecture}")
        if minor in _LEGACY:
            tags.append(f"{_LEGACY[minor]}_{target.architecture}")
    return (*tags, f"linux_{target.architecture}")


def _environments(target: Target) -> list[dict[str, str]]:
    common = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": target.architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_version": target.python,
        "sys_platform": "linux",
    }
    full = [f"{target.python}.{micro}" for micro in _MICROS]
    return [{**common, "python_full_version": one, "implementation_version": one} for one in full]


def pins_of(pins: Iterable[Pin], target: Target) -> tuple[Pin, ...]:
    """Return the pins that such a host may need, whichever bug-fix release its Python is."""
    environments = _environments(target)
    return tuple(pin for pin in pins if any(applies(pin.marker, one) for one in environments))


def uv_pin(target: Target) -> Pin:
    """Return uv's own wheel as a pin; raises ``SynapseError`` where none is known for such a host."""
    known = uv_wheel(target.architecture, target.libc)
    if known is None:
        raise SynapseError(f"No uv is known for {target}: name other 'architectures'.")
    return Pin("uv", UV_VERSION, "", (known[1],))


def rounds(pins: Iterable[Pin]) -> list[list[Pin]]:
    """Return the pins in as few groups as can be, each with at most one version of a package."""
    groups: list[list[Pin]] = []
    for pin in pins:
        for group in groups:
            if all(one.name != pin.name for one in group):
                group.append(pin)
                break
        else:
            groups.append([pin])
    return groups


def requirements(pins: Iterable[Pin]) -> str:
    """Return the pins as pip reads them, without their markers, which are judged already."""
    return "".join(f"{Pin(pin.name, pin.version, '', pin.hashes).line()}\n" for pin in pins)


def lacking_wheel(text: str) -> str:
    """Return the name of the package that pip found no wheel of, from what it said; empty where it says nothing."""
    found = re.search(r"No matching distribution found for ([A-Za-z0-9][A-Za-z0-9._-]*)", text)
    return canonical(found[1]) if found else ""


def _tags(name: str) -> tuple[str, str, str]:
    """Return the three tags in a wheel's name."""
    python, abi, platform = name[: -len(".whl")].rsplit("-", 3)[-3:]
    return python, abi, platform


def is_pure(name: str) -> bool:
    """Whether a wheel runs on every Python 3 and every platform, by its name."""
    python, abi, platform = _tags(name)
    return "py3" in python.split(".") and abi == "none" and platform == "any"


def _needed_glibc(name: str) -> int:
    """Return the minor version of the oldest glibc 2 that a wheel runs with; 0 where it says nothing."""
    found = []
    for tag in _tags(name)[2].split("."):
        match = re.match(r"manylinux_2_(\d+)_", tag)
        legacy = [minor for minor, alias in _LEGACY.items() if tag.startswith(f"{alias}_")]
        found += [int(match[1])] if match else legacy
    return min(found, default=0)


def glibc_floor(names: Iterable[str]) -> str:
    """Return the oldest glibc that all these wheels run with, such as ``2.17``."""
    return f"2.{max((_needed_glibc(name) for name in names), default=0)}"


def synapse_in(pins: Iterable[Pin]) -> str:
    """Return the version of Synapse that a lock holds; raises ``SynapseError`` where it holds none, or several."""
    versions = sorted({pin.version for pin in pins if pin.name == "matrix-synapse"})
    if len(versions) != 1:
        found = f"has {' and '.join(versions)}" if versions else "has none"
        raise SynapseError(f"The lock must hold one version of matrix-synapse and {found}: make it again.")
    return versions[0]


@dataclass(frozen=True)
class Entry:
    """One file of the archive."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Part:
    """What one kind of host takes from the archive; ``glibc`` is the oldest that all of it runs with."""

    python: str
    architecture: str
    libc: str
    glibc: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What is in a wheelhouse. ``made_from`` is the digest of the lock that was given.

    ``lock_digest`` is that of the lock inside, which has more hashes where wheels were built.
    """

    synapse: str
    lock_digest: str
    made_from: str
    uv: str
    targets: dict[str, Part]
    files: dict[str, Entry]
    format: int = _FORMAT

    def to_json(self) -> bytes:
        """Return the manifest as it lies in the archive: the same bytes for the same content."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest | None:
        """Read a manifest; ``None`` where it is damaged, of another format, or names what no wheelhouse holds."""
        try:
            values = json.loads(data)
            values["files"] = {name: Entry(**one) for name, one in values["files"].items()}
            targets = values["targets"].items()
            values["targets"] = {name: Part(**{**one, "files": tuple(one["files"])}) for name, one in targets}
            manifest = cls(**values)
            return manifest if manifest._sound() else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _sound(self) -> bool:
        texts = (self.synapse, self.lock_digest, self.made_from, self.uv)
        return (
            self.format == _FORMAT
            and all(isinstance(one, str) for one in texts)
            and LOCK_NAME in self.files
            and all(name == LOCK_NAME or _WHEEL.fullmatch(name) for name in self.files)
            and all(_DIGEST.fullmatch(one.sha256) and _is_size(one.size) for one in self.entries())
            and all(name in self.files for part in self.targets.values() for name in part.files)
            and all(name == Target(one.python, one.architecture, one.libc).name for name, one in self.targets.items())
        )

    def entries(self) -> Iterable[Entry]:
        """Return what is known of each file."""
        return self.files.values()

    @property
    def digest(self) -> str:
        """The wheelhouse's digest."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def names_for(self, target: str) -> tuple[str, ...]:
        """Return the names of the files for one kind of host, in the archive's order."""
        return (LOCK_NAME, *sorted(self.targets[target].files))


def _glibc_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def refusal(manifest: Manifest, target: Target, glibc: str) -> str:
    """Return why a host cannot use the archive, as a sentence; empty where it can. ``glibc`` is the host's version."""
    part = manifest.targets.get(target.name)
    if part is None:
        held: Sequence[str] = sorted(
            str(Target(one.python, one.architecture, one.libc)) for one in manifest.targets.values()
        )
        return (
            f"The wheelhouse holds nothing for this host, which has {target}. It is for {', '.join(held)}. Gather it "
            "again with this Python and processor, or name one of these interpreters. Nothing was changed."
        )
    if target.libc == "glibc" and glibc and _glibc_key(glibc) < _glibc_key(part.glibc):
        return (
            f"The wheels for {target} need glibc {part.glibc} and this host has {glibc}: use a newer distribution, or "
            "gather a wheelhouse from a lock with older packages. Nothing was changed."
        )
    return ""
