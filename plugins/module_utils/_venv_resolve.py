# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns what no lock holds into pins: with the plugins that can be had, and without those that cannot."""

from __future__ import annotations

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock, _installer, _venv_plugins
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import Plugin, attempted

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Installer
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_build import UnprovenError
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import Asked

__all__ = ["Resolution", "culprits", "locked", "needs_index"]

# setuptools 82 removed pkg_resources.
_HOLD_BACK = "setuptools<82"


def locked(asked: Asked) -> tuple[Pin, ...]:
    """Return the pins of what a lock holds."""
    return asked.pins if asked.pins is not None else parse(_default_lock.LOCK)


def needs_index(asked: Asked) -> bool:
    """Whether more than plugins has to be resolved."""
    return asked.digest is None and (asked.otherwise is None or asked.otherwise.digest is None)


def culprits(error: UnprovenError, chosen: tuple[Plugin, ...]) -> dict[str, str]:
    """Say which plugins a failed proof is to be put down to: those that it names, or all of them."""
    found: dict[str, str] = {}
    for one in error.findings:
        for plugin in chosen:
            if one.id == _venv_plugins.IMPORT_FAILED and one.evidence.startswith(f"{plugin.name}: "):
                found.setdefault(plugin.name, one.evidence[len(plugin.name) + 2 :])
    if found and all(one.id == _venv_plugins.IMPORT_FAILED for one in error.findings):
        return found
    evidence = "; ".join(one.evidence for one in error.findings[:2])
    return {plugin.name: f"an environment with it fails its proof: {evidence}" for plugin in chosen}


class Resolution:
    """Turns what is asked for into pins: with the plugins that can be had, with setuptools held back where need be."""

    def __init__(
        self,
        installer: Installer,
        asked: Asked,
        *,
        extra_packages: Sequence[str],
        constraints: str,
        before: str,
        warn: Callable[[str], object],
    ) -> None:
        self._installer, self._asked, self._extra_packages = installer, asked, extra_packages
        self._constraints, self._before, self._warn = constraints, before, warn
        self._held: tuple[str, ...] = ()

    def hold_back(self, error: UnprovenError) -> bool:
        """Whether the next resolution holds setuptools back, because nothing but ``pkg_resources`` is missing."""
        missing = [one for one in error.findings if one.id == "pkg_resources_missing"]
        others = [one for one in error.findings if one not in missing]
        # A plugin that needs it does not import, either.
        follows = all(one.id == _venv_plugins.IMPORT_FAILED and "pkg_resources" in one.evidence for one in others)
        if self._held or not missing or not follows:
            return False
        self._held = (_HOLD_BACK,)
        self._warn(
            f"{missing[0].evidence}. So setuptools is held below 82; ask the package's authors for a new version."
        )
        return True

    def pins(self, failures: dict[str, str]) -> tuple[Pin, ...]:
        """Resolve with all plugins that have not failed; ``failures`` gets the reason of each that cannot be had."""
        chosen = [one for one in attempted(self._asked.plugins) if one.name not in failures]
        try:
            return self._resolve(chosen)
        except _installer.UnreachableError:
            raise
        except SynapseError as error:
            if not chosen:
                raise
            together = _one_line(error.msg)
        alone: dict[str, str] = {}
        for one in chosen if len(chosen) > 1 else ():
            try:
                self._resolve([one])
            except _installer.UnreachableError:
                raise
            except SynapseError as error:
                alone[one.name] = _one_line(error.msg)
        failures.update(alone or {one.name: together for one in chosen})
        return self.pins(failures)

    def _resolve(self, chosen: Sequence[Plugin]) -> tuple[Pin, ...]:
        asked, plain = self._asked, self._asked.otherwise
        if not chosen and plain is not None and plain.digest is not None:
            return locked(plain)
        packages = [*self._extra_packages, *(one.pin for one in chosen)]
        base = [pin for pin in asked.base if not (self._held and pin.name == "setuptools")]
        wanted = _installer.requirements_for(asked.version, asked.extras, packages, base)
        if plain is not None and plain.digest is not None:
            # The lock has its driver for PostgreSQL, or is to have none.
            wanted = [one for one in wanted if one != "psycopg2-binary"]
        text = self._installer.resolve([*wanted, *self._held], constraints=self._constraints, before=self._before)
        return _installer.keep_hashes(parse(text, "The resolution"), asked.base)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
