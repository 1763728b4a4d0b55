# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins of Synapse: which ones an environment made by hand has, and which ones the next release carries. Pure.

A plugin is no dependency of Synapse, so no lock has it unless somebody thought of it: a release that takes the place of
a hand-made environment would come up without its password provider or its media storage.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import canonical

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_tree import Distribution, Tree

__all__ = [
    "IMPORT_FAILED",
    "KNOWN",
    "Plugin",
    "attempted",
    "found_in",
    "from_manifest",
    "judged",
    "modules_named_in",
    "remembered",
    "without",
]

# What the proof calls a plugin's module that does not import; its evidence begins with the plugin's name.
IMPORT_FAILED = "plugin_import_failed"
# Plugins that neither their metadata nor, always, the configuration gives away. synapse-s3-storage-provider 1.7.0 and
# the two authenticators do not name matrix-synapse at all; the others do, for their own tests.
KNOWN = frozenset(
    {
        "matrix-synapse-ldap3",
        "matrix-synapse-rest-password-provider",
        "matrix-synapse-saml-mapper",
        "matrix-synapse-shared-secret-auth",
        "synapse-auto-accept-invite",
        "synapse-http-antispam",
        "synapse-s3-storage-provider",
        "synapse-simple-antispam",
    }
)
_SYNAPSE = "matrix-synapse"
# "module: ldap_auth_provider.LdapAuthProviderModule", in a list or not, in quotes or not, on one line or in braces.
_MODULE = re.compile(
    r"(?:^|[{,\s])[\"']?module[\"']?\s*:\s*[\"']?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)[\"']?\s*(?=$|[,}#])"
)
# Folders that packages leave at the top by mistake.
_NO_MODULES = {"test", "tests", "docs", "scripts", "examples"}


@dataclass(frozen=True)
class Plugin:
    """One plugin. ``obstacle`` says why it cannot even be tried, ``reason`` how it went; both may be empty."""

    name: str
    version: str
    modules: tuple[str, ...] = ()
    obstacle: str = ""
    carried: bool = False
    reason: str = ""

    @property
    def pin(self) -> str:
        """The plugin as a requirement."""
        return f"{self.name}=={self.version}"

    def told(self) -> dict[str, t.Any]:
        """Return what the operator is told."""
        told = {**asdict(self), "modules": list(self.modules)}
        del told["obstacle"]
        return told


def modules_named_in(text: str) -> tuple[str, ...]:
    """Return the classes that a configuration names as ``module:``, sorted; read line by line, whatever it is.

    Everything that Synapse loads goes through that key (synapse/util/module_loader.py, 1.163.2).
    """
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return tuple(sorted({found for line in lines for found in _MODULE.findall(line)}))


def _importable(files: Iterable[str]) -> list[str]:
    """Return the top-level modules among the files of a package."""
    found = set()
    for file in files:
        first, _slash, rest = file.partition("/")
        if not rest and first.endswith(".py"):
            found.add(first[: -len(".py")])
        elif rest == "__init__.py":
            found.add(first)
    return sorted(name for name in found if name.isidentifier() and name not in _NO_MODULES)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _plugin(one: Distribution, named: tuple[str, ...]) -> Plugin | None:
    """Return the plugin that a package is; ``None`` where it is none."""
    importable = _importable(one.files)
    configured = tuple(module for module in named if _top(module) in importable)
    if one.name == _SYNAPSE or "synapse" in importable:
        return None
    if not configured and one.name not in KNOWN and _SYNAPSE not in one.requires:
        return None
    obstacle = ""
    if one.origin:
        obstacle = (
            f"it was installed from {one.origin}, and not from a package index, which may have another by that name"
        )
    elif not one.version or not re.fullmatch(r"[A-Za-z0-9.!_-]+", one.version):
        obstacle = "its version is not known, or is not one that an index has"
    return Plugin(one.name, one.version, configured or tuple(importable), obstacle)


def found_in(tree: Tree, named: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Return the plugins in an environment, by name: ``named`` are the classes that the configuration loads.

    A package is one where it says that it wants matrix-synapse (if only for its tests), where the configuration loads
    a class from it, or where it is known by name. A module that lies there without a package is told, too.
    """
    found = {
        plugin.name: plugin for one in tree.distributions for plugin in [_plugin(one, named)] if plugin is not None
    }
    owned = {name for one in tree.distributions for name in _importable(one.files)}
    for module in named:
        top = _top(module)
        if top in tree.modules and top not in owned:
            obstacle = "it is a file without a package, put there by hand"
            before = found.get(top, Plugin(top, "", (), obstacle)).modules
            found[top] = Plugin(top, "", (*before, module), obstacle)
    return tuple(found[name] for name in sorted(found))


def judged(
    plugins: Iterable[Plugin], *, carry: bool, provided: Mapping[str, str], asked: Iterable[str]
) -> tuple[Plugin, ...]:
    """Say of each plugin whether the next release has it.

    ``provided`` are the packages of the lock, ``asked`` the names that the operator gave. What neither has is to be
    added, where nothing stands against it.
    """
    names = set(asked)

    def judge(one: Plugin) -> Plugin:
        if one.name in names:
            return replace(one, carried=True, reason="'extra_packages' names it")
        if one.name in provided:
            return replace(one, carried=True, reason=f"the lock has {one.name} {provided[one.name]}")
        if not carry:
            return replace(one, carried=False, reason="'carry_plugins' is false")
        if one.obstacle:
            return replace(one, carried=False, reason=one.obstacle)
        return replace(one, carried=True, reason="")

    return tuple(judge(one) for one in plugins)


def attempted(plugins: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Return those of the judged plugins that have to be added to what is asked for."""
    return tuple(one for one in plugins if one.carried and not one.reason)


def without(plugins: tuple[Plugin, ...], failures: Mapping[str, str]) -> tuple[Plugin, ...]:
    """Return the plugins after some of them could not be had; ``failures`` are reasons by name."""
    return tuple(
        replace(one, carried=False, reason=failures[one.name]) if one.name in failures else one for one in plugins
    )


def remembered(plugins: Iterable[Plugin]) -> list[dict[str, t.Any]]:
    """Return what a release's manifest keeps."""
    return [{**asdict(one), "modules": list(one.modules)} for one in plugins]


def from_manifest(entries: Iterable[Mapping[str, t.Any]]) -> tuple[Plugin, ...]:
    """Read what ``remembered`` wrote; what cannot be read is left out."""
    found = []
    for entry in entries:
        try:
            plugin = Plugin(**{**entry, "modules": tuple(str(name) for name in entry["modules"])})
        except (TypeError, KeyError):
            continue
        if plugin.name == canonical(plugin.name) or plugin.obstacle:
            found.append(plugin)
    return tuple(found)
