# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lock for many hosts: which files of a resolution its hosts can install, and what the lock's header says. Pure.

A resolution names every file of each package. Kept are the hashes of the wheels that a host can install; a source
distribution only where a host has no wheel. What no host needs, such as a package for Windows, is left out.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import typing as t
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, applies, digest_of, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "ARCHITECTURES",
    "LIBRARIES",
    "PYTHONS",
    "Header",
    "Host",
    "Lack",
    "Wheel",
    "file_names",
    "hosts_of",
    "needs",
    "outline",
    "prune",
    "read",
    "render",
    "without_hashes",
]

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "aarch64")
# By C library: how the platform of a wheel that is made for it begins.
LIBRARIES = {"glibc": ("manylinux", "linux_"), "musl": ("musllinux",)}
# A marker may ask for a patch release ("python_full_version < '3.11.5'"), and a host may have any.
_PATCHES = range(40)


@dataclass(frozen=True)
class Host:
    """A kind of host that a lock is for: its Python, its processor as ``uname -m`` names it, and its C library."""

    python: tuple[int, int]
    machine: str
    library: str

    def environments(self) -> tuple[Mapping[str, str], ...]:
        """Return the values of environment markers (PEP 508) that such a host can have."""
        version = f"{self.python[0]}.{self.python[1]}"
        common = {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_version": version,
            "sys_platform": "linux",
        }
        return tuple(
            {**common, "python_full_version": f"{version}.{patch}", "implementation_version": f"{version}.{patch}"}
            for patch in _PATCHES
        )


def hosts_of(pythons: Iterable[str], machines: Iterable[str]) -> tuple[Host, ...]:
    """Return every kind of host with one of these Pythons (``3.10``) and processors, glibc and musl alike."""
    versions = [(int(python.split(".")[0]), int(python.split(".")[1])) for python in pythons]
    return tuple(Host(*one) for one in itertools.product(versions, machines, LIBRARIES))


def needs(host: Host, marker: str) -> bool:
    """Whether a requirement with this marker can be one of such a host."""
    return not marker or any(applies(marker, environment) for environment in host.environments())


@dataclass(frozen=True)
class Wheel:
    """What a wheel's file name says of the hosts that it fits."""

    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]

    @classmethod
    def of(cls, filename: str) -> Wheel:
        """Read the three tags at the end of a wheel's file name."""
        python, abi, platform = filename[: -len(".whl")].split("-")[-3:]
        return cls(tuple(python.split(".")), tuple(abi.split(".")), tuple(platform.split(".")))

    def _fits_python(self, version: tuple[int, int]) -> bool:
        exact = f"cp{version[0]}{version[1]}"
        for python, abi in itertools.product(self.pythons, self.abis):
            if abi == "none" and (python in {"py3", exact} or _up_to("py3", python, version)):
                return True
            if abi == exact and python == exact:
                return True
            if abi == "abi3" and _up_to("cp3", python, version):
                return True
        return False

    def fits(self, host: Host) -> bool:
        """Whether such a host can install the wheel."""
        if not self._fits_python(host.python):
            return False
        return any(
            platform == "any" or (platform.startswith(LIBRARIES[host.library]) and platform.endswith(host.machine))
            for platform in self.platforms
        )


def _up_to(kind: str, tag: str, version: tuple[int, int]) -> bool:
    """Whether a Python tag such as ``cp39`` stands for this version or an older one."""
    return re.fullmatch(rf"{kind}\d+", tag) is not None and int(tag[len(kind) :]) <= version[1]


@dataclass(frozen=True)
class Lack:
    """A package without a wheel for some of the hosts; ``source`` says whether it can be built there instead."""

    package: str
    version: str
    pythons: tuple[str, ...]
    architectures: tuple[str, ...]
    libraries: tuple[str, ...]
    source: bool

    def text(self) -> str:
        """Return it as part of a sentence."""
        where = (
            f"Python {', '.join(self.pythons)} on {', '.join(self.architectures)} with {' and '.join(self.libraries)}"
        )
        return f"{self.package} {self.version} for {where}" + ("" if self.source else ", and nothing to build it from")


def file_names(document: Mapping[str, t.Any]) -> dict[str, str]:
    """Return file name by SHA-256 for the files in a parsed ``pylock.toml`` (PEP 751)."""
    found: dict[str, str] = {}
    for package in document.get("packages", ()):
        for file in (*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())):
            place = str(file.get("name") or file.get("path") or urlsplit(str(file.get("url", ""))).path)
            found[str(file.get("hashes", {}).get("sha256", ""))] = unquote(os.path.basename(place))
    return found


def prune(
    pins: Iterable[Pin], names: Mapping[str, str], hosts: Sequence[Host]
) -> tuple[tuple[Pin, ...], tuple[Lack, ...]]:
    """Return the pins that a host needs, with the hashes of what it can install, and where a wheel is lacking.

    ``names`` are file names by hash; a file without a name there is for none of the hosts.
    """
    kept: list[Pin] = []
    lacks: list[Lack] = []
    for pin in pins:
        needed = [host for host in hosts if needs(host, pin.marker)]
        files = {digest: names[digest] for digest in pin.hashes if digest in names}
        wheels = {digest: Wheel.of(name) for digest, name in files.items() if name.endswith(".whl")}
        sources = tuple(digest for digest, name in files.items() if not name.endswith(".whl"))
        hashes = tuple(digest for digest, wheel in wheels.items() if any(wheel.fits(host) for host in needed))
        bare = [host for host in needed if not any(wheel.fits(host) for wheel in wheels.values())]
        if bare:
            hashes += sources
            lacks += _lacks(pin, bare, bool(sources))
        if hashes:
            kept.append(replace(pin, hashes=tuple(sorted(hashes))))
    return tuple(kept), tuple(lacks)


def _lacks(pin: Pin, bare: Sequence[Host], source: bool) -> list[Lack]:
    """Return the hosts without a wheel as few statements, each of which is true of every host that it names."""
    kinds = dict.fromkeys((host.library, host.machine) for host in bare)
    by_pythons: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for library, machine in kinds:
        pythons = tuple(
            f"{host.python[0]}.{host.python[1]}" for host in bare if (host.library, host.machine) == (library, machine)
        )
        by_pythons.setdefault(pythons, {}).setdefault(library, []).append(machine)
    found = []
    for pythons, by_library in by_pythons.items():
        by_machines: dict[tuple[str, ...], list[str]] = {}
        for library, machines in by_library.items():
            by_machines.setdefault(tuple(machines), []).append(library)
        for needed, libraries in by_machines.items():
            found.append(Lack(pin.name, pin.version, pythons, needed, tuple(libraries), source))
    return found


# ---------------------------------------------------------------------------------------------------------- the file


@dataclass(frozen=True)
class Header:
    """What the comments at the top of a lock say: the request, the last day that counted, and what lacks wheels."""

    request: Mapping[str, t.Any]
    as_of: str = ""
    lacks: tuple[Lack, ...] = ()

    def text(self, digest: str) -> str:
        """Return the comments."""
        lines = [
            f"Synapse {self.request['version']} and all that it needs, with the hashes of every file.",
            "Made by matrix_fleet.synapse.synapse_lock: change the request and make it again, rather than edit this.",
            f"request: {json.dumps(self.request, sort_keys=True)}",
        ]
        lines += [f"as of: {self.as_of}"] if self.as_of else []
        lines += [f"no wheel: {json.dumps(lack.__dict__, sort_keys=True)}" for lack in self.lacks]
        return "".join(f"# {line}\n" for line in [*lines, f"digest: {digest}"])


def render(header: Header, pins: Sequence[Pin]) -> str:
    """Return the text of a lock file: the header, then one hash a line."""
    body = "".join(f"{pin.line()}\n" for pin in pins).replace(" --hash=", " \\\n    --hash=")
    return header.text(digest_of(pins)) + body


def read(text: str) -> tuple[Header | None, tuple[Pin, ...]]:
    """Read a lock file; the header is ``None`` where it has none of ours, or was edited since.

    Raises ``SynapseError`` where the text is no lock.
    """
    pins = parse(text)
    said = dict(re.findall(r"^# (request|as of|digest): (.*)$", text, re.MULTILINE))
    try:
        request = json.loads(said["request"])
        lacks = tuple(_read_lack(line) for line in re.findall(r"^# no wheel: (.*)$", text, re.MULTILINE))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, pins
    if not isinstance(request, dict) or said.get("digest") != digest_of(pins):
        return None, pins
    return Header(request, said.get("as of", ""), lacks), pins


def _read_lack(text: str) -> Lack:
    values: t.Any = {name: tuple(one) if isinstance(one, list) else one for name, one in json.loads(text).items()}
    return Lack(**values)


def without_hashes(pins: Iterable[Pin]) -> str:
    """Return the pins as requirements: what is wanted, and not which files."""
    return "".join(f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "") + "\n" for pin in pins)


def outline(text: str | None) -> str:
    """Return a lock for reading in a diff: its comments, and its packages with the number of their files."""
    if text is None:
        return ""
    try:
        pins = parse(text)
    except SynapseError:
        return text
    comments = [line for line in text.splitlines() if line.startswith("#")]
    packages = [
        f"{line}  # {len(pin.hashes)} {'file' if len(pin.hashes) == 1 else 'files'}"
        for line, pin in zip(without_hashes(pins).splitlines(), pins)
    ]
    return "".join(f"{line}\n" for line in [*comments, *packages])
