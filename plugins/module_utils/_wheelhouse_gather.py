# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers a lock's wheels on the controller. pip does the work: it knows wheels' tags, indexes, proxies and caches.

A wheel counts by its hash alone. So what an interrupted run has already fetched is kept, and what it was just writing
is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _installer, _venv_build
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import (
    Entry,
    Target,
    is_pure,
    lacking_wheel,
    pins_of,
    platforms,
    requirements,
    rounds,
    uv_pin,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult, Runner

__all__ = ["Gathered", "Gatherer", "find_pip"]

_CHUNK = 1024 * 1024
# pip hands over what it fetched when it has everything, so this much is fetched again after an interruption.
_AT_ONCE = 16
# The oldest instant that a wheel, which is a zip archive, can hold: so that a build does not depend on its day.
_EPOCH = "315532800"


@dataclass
class Gathered:
    """What came of it: paths by file name for each target, every file's entry, and what had to be built."""

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    built: dict[tuple[str, str], str] = field(default_factory=dict)

    def with_hashes(self, pins: Iterable[Pin]) -> tuple[Pin, ...]:
        """Return the pins with the hashes of the wheels that were built beside their own."""
        return tuple(
            replace(pin, hashes=tuple(sorted({*pin.hashes, self.built[pin.name, pin.version]})))
            if (pin.name, pin.version) in self.built
            else pin
            for pin in pins
        )


def find_pip(run: Runner, named: str | None, scratch: str) -> list[str]:
    """Return the command of a pip: that of an interpreter here, or one that such an interpreter brings along."""
    pythons = [named] if named else list(dict.fromkeys([sys.executable, "python3", "/usr/bin/python3"]))
    for python in pythons:
        if run([python, "-I", "-m", "pip", "--version"], timeout=60).rc == 0:
            return [python, "-I", "-m", "pip"]
    for python in pythons:
        if run([python, "-I", "-m", "venv", scratch], timeout=300).rc == 0:
            return [os.path.join(scratch, "bin", "python"), "-I", "-m", "pip"]
    raise SynapseError(
        f"Wheels are gathered by pip, and none of these has pip or ensurepip: {', '.join(pythons)}. Install pip on the "
        "controller (Debian: python3-pip or python3-venv), or name an interpreter that has it with 'python'. Nothing "
        "was changed."
    )


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for data in iter(lambda: stream.read(_CHUNK), b""):
                found.update(data)
    except OSError as error:
        raise SynapseError(f"Cannot read {_files.describe(path, error)}.") from error
    return found.hexdigest()


def _names_in(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


class Gatherer:
    """Gathers into ``work``; what pip fetches, it also keeps in ``cache`` for the next lock."""

    def __init__(
        self,
        run: Runner,
        pip: Sequence[str],
        *,
        sources: Sources,
        cache: str,
        work: str,
        log: Callable[[str], object],
    ) -> None:
        self._run = run
        self._pip = list(pip)
        self._sources = sources
        self._work = work
        self._built = os.path.join(cache, "built")
        self._log = log
        self._env = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_CACHE_DIR": os.path.join(cache, "pip"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_DEFAULT_TIMEOUT": "60",
            "PIP_INDEX_URL": sources.index_url,
            "PIP_EXTRA_INDEX_URL": " ".join(sources.extra_index_urls),
            "PIP_CERT": sources.ca_bundle,
            "SOURCE_DATE_EPOCH": _EPOCH,
        }
        self._hashes: dict[str, str] = {}
        self._pure: dict[Pin, str] = {}
        self._from_source: dict[Pin, str] = {}

    def gather(self, pins: Sequence[Pin], targets: Iterable[Target]) -> Gathered:
        """Gather what each target may need of a lock, and uv; raises ``SynapseError``."""
        result = Gathered()
        for target in targets:
            wanted = [*pins_of(pins, target), uv_pin(target)]
            self._log(f"gathering {len(wanted)} wheels for {target}")
            found = self._for_target(target, wanted)
            result.files[target.name] = {os.path.basename(path): path for path in found.values()}
            for pin, path in found.items():
                digest = self._hash(path)
                if pin in self._from_source:
                    result.built[pin.name, pin.version] = digest
                result.entries[os.path.basename(path)] = Entry(digest, os.path.getsize(path))
        return result

    # -------------------------------------------------------------------------------------------------------- wheels

    def _hash(self, path: str) -> str:
        if path not in self._hashes:
            self._hashes[path] = _sha256(path)
        return self._hashes[path]

    def _for_target(self, target: Target, wanted: Sequence[Pin]) -> dict[Pin, str]:
        folder = os.path.join(self._work, target.name)
        found = self._at_hand(folder, wanted)
        for group in rounds(pin for pin in wanted if pin not in found):
            for first in range(0, len(group), _AT_ONCE):
                self._download(target, group[first : first + _AT_ONCE], folder)
        found = self._at_hand(folder, wanted)
        missing = [f"{pin.name} {pin.version}" for pin in wanted if pin not in found]
        if missing:
            raise SynapseError(
                f"pip ended well and yet there is no wheel of {', '.join(missing)} for {target}. Nothing was changed."
            )
        for pin, path in found.items():
            # With no more hashes than those of one wheel and the source, there is no other wheel to prefer elsewhere.
            if is_pure(os.path.basename(path)) and len(pin.hashes) <= 2:
                self._pure[pin] = path
        return found

    def _at_hand(self, folder: str, wanted: Sequence[Pin]) -> dict[Pin, str]:
        """Return the wheels that are here already; what is in the folder and none of them is removed."""
        by_hash = {value: pin for pin in wanted for value in pin.hashes}
        found = {pin: path for known in (self._pure, self._from_source) for pin, path in known.items() if pin in wanted}
        for name in _names_in(folder):
            path = os.path.join(folder, name)
            pin = by_hash.get(self._hash(path))
            if pin is None:
                _files.remove(path)
                del self._hashes[path]
            else:
                found.setdefault(pin, path)
        return found

    def _download(self, target: Target, group: Sequence[Pin], folder: str) -> None:
        left = list(group)
        while left:
            arguments = ["download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
            # The lock's markers say which Python a package is for, down to the bug-fix release.
            arguments += ["--ignore-requires-python", "--implementation", "cp", "--python-version", target.python]
            arguments += ["--abi", f"cp{target.python.replace('.', '')}", "--dest", folder]
            arguments += [part for tag in platforms(target) for part in ("--platform", tag)]
            result = self._ask(arguments, left)
            if result.rc == 0:
                return
            lacking = lacking_wheel(result.stderr)
            source = [pin for pin in left if pin.name == lacking]
            if not source:
                raise _installer.explain(result, doing=f"gather the wheels for {target}", sources=self._sources)
            self._build(source[0], target, result)
            left.remove(source[0])

    def _ask(self, arguments: Sequence[str], pins: Sequence[Pin]) -> CommandResult:
        path = os.path.join(self._work, "requirements.txt")
        _files.write(path, requirements(pins).encode(), mode=0o600)
        env = {name: value for name, value in self._env.items() if value}
        return self._run([*self._pip, *arguments, "--requirement", path], env=env, cwd=self._work)

    # ------------------------------------------------------------------------------------------------------- sources

    def _build(self, pin: Pin, target: Target, before: CommandResult) -> None:
        """Build a wheel from the source that the lock names, where that gives one for every host."""
        if pin in self._from_source:
            return
        whose = hashlib.sha256(requirements([pin]).encode()).hexdigest()[:16]
        folder = os.path.join(self._built, whose)
        # Kept: another build of the same source need not have the same bytes.
        if not _names_in(folder):
            self._log(f"building {pin.name} {pin.version} from source")
            scratch = os.path.join(self._work, f"build-{whose}")
            _venv_build.run_down(scratch)
            arguments = ["wheel", "--quiet", "--no-deps", "--require-hashes", "--ignore-requires-python"]
            result = self._ask([*arguments, "--no-binary", pin.name, "--wheel-dir", scratch], [pin])
            names = [name for name in _names_in(scratch) if name.endswith(".whl")]
            if result.rc != 0 or len(names) != 1:
                raise self._no_wheel(pin, target, "its source cannot be built here", result if result.rc else before)
            if not is_pure(names[0]):
                raise self._no_wheel(pin, target, f"what its source gives ({names[0]}) is for this machine alone", None)
            _files.make_directory(self._built, mode=0o755)
            try:
                os.rename(scratch, folder)
            except OSError as error:
                raise SynapseError(f"Cannot create {_files.describe(folder, error)}. Nothing was changed.") from error
        self._from_source[pin] = os.path.join(folder, _names_in(folder)[0])

    def _no_wheel(self, pin: Pin, target: Target, why: str, result: CommandResult | None) -> SynapseError:
        said = ""
        if result is not None:
            problem = _installer.explain(result, doing=f"provide {pin.name}", sources=self._sources)
            said = f" {problem.msg}"
        return SynapseError(
            f"{pin.name} {pin.version} has no wheel for {target}, and {why}: use a lock with a version that has one, "
            f"or build the wheel on such a machine and offer it in an index of your own ('extra_index_urls').{said} "
            "Nothing was changed."
        )
