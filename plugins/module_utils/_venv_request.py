# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for: the module's options, and the lock they amount to, if they amount to one. Pure."""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock, _index
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import (
    Pin,
    canonical,
    digest_of,
    parse,
    version_key,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import request_digest
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import Plugin, attempted, judged

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Asked", "Options", "ask", "check_wanted", "python_floor"]

_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?")
_PACKAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,\s-]+\])?\s*((==|>=|<=|~=|!=|<|>)\s*[A-Za-z0-9.*+!]+,?\s*)*"
)
_EXTRA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Options:
    """The module's options, checked for what can be checked without looking at the host."""

    path: str
    releases_path: str
    version: str
    extras: tuple[str, ...]
    extra_packages: tuple[str, ...]
    carry_plugins: bool
    config_path: str
    requirements: str
    requirements_content: str
    constraints: str
    python: str
    installer: str
    index_url: str
    default_index_url: str
    extra_index_urls: tuple[str, ...]
    find_links: tuple[str, ...]
    offline: bool
    ca_bundle: str
    keep_releases: int
    activate: bool
    state: str

    @classmethod
    def from_params(cls, params: Mapping[str, t.Any]) -> Options:
        """Read the parameters; raises ``SynapseError`` with the option's name, what was given, and what is allowed."""
        values = {name: params[name] for name in cls.__dataclass_fields__}
        for name in ("extras", "extra_packages", "extra_index_urls", "find_links"):
            values[name] = tuple(value.strip() for value in values[name] or () if value.strip())
        for name in (
            "version",
            "config_path",
            "requirements",
            "requirements_content",
            "constraints",
            "python",
            "index_url",
            "default_index_url",
            "ca_bundle",
        ):
            values[name] = values[name] or ""
        values["path"] = _absolute("path", params["path"])
        beside = posixpath.join(posixpath.dirname(values["path"]), "releases")
        values["releases_path"] = _absolute("releases_path", params["releases_path"] or beside)
        options = cls(**values)
        options._check()
        return options

    def _check(self) -> None:
        check_wanted(self.version, self.extras, self.extra_packages)
        for name, urls in (
            ("index_url", (self.index_url,)),
            ("default_index_url", (self.default_index_url,)),
            ("extra_index_urls", self.extra_index_urls),
            ("find_links", tuple(link for link in self.find_links if "://" in link)),
        ):
            for url in urls:
                _index.check_address(repr(name), url)
        if self.keep_releases < 1:
            raise SynapseError(f"'keep_releases' is {self.keep_releases}: give 1 or more.")
        if self.path == self.releases_path or self.path.startswith(f"{self.releases_path}/"):
            raise SynapseError(
                f"'path' is {self.path}, inside 'releases_path' ({self.releases_path}): it must be outside."
            )


def check_wanted(version: str, extras: tuple[str, ...], extra_packages: tuple[str, ...]) -> None:
    """Raise ``SynapseError`` where one of the options of these names is not what can be installed."""
    if version and not _VERSION.fullmatch(version):
        raise SynapseError(f"'version' is {version!r}: give an exact version such as '1.163.2'.")
    for extra in extras:
        if not _EXTRA.fullmatch(extra):
            raise SynapseError(f"'extras' has {extra!r}: give names of Synapse's extras such as 'redis'.")
    for package in extra_packages:
        if not _PACKAGE.fullmatch(package):
            raise SynapseError(
                f"'extra_packages' has {package!r}: give a name, with a version if need be, such as "
                "'synapse-s3-storage-provider==1.5.0'. Addresses and folders have no hash that could be checked."
            )


def _absolute(name: str, path: str) -> str:
    if not path.startswith("/"):
        raise SynapseError(f"{name!r} is {path!r}: give an absolute path.")
    return posixpath.normpath(path)


@dataclass(frozen=True)
class Asked:
    """What the options amount to.

    ``pins`` is the lock where nothing has to be resolved, else ``None``; ``base`` are the pins that resolving must
    keep; ``shipped`` says that the lock is the collection's own, whose every package has a wheel. ``plugins`` are those
    of the environment that gives way, judged, and ``otherwise`` is what is asked for where none of them can be had.
    """

    version: str
    request: str
    digest: str | None
    pins: tuple[Pin, ...] | None
    base: tuple[Pin, ...]
    extras: tuple[str, ...]
    shipped: bool
    plugins: tuple[Plugin, ...] = ()
    otherwise: Asked | None = None


def python_floor(version: str) -> tuple[int, int]:
    """Return the oldest Python that a version of Synapse runs on (Requires-Python: 3.10 since 1.142, 3.9 before)."""
    return (3, 10) if version_key(version) >= version_key("1.142.0") else (3, 9)


def _names(packages: tuple[str, ...]) -> set[str]:
    return {canonical(re.split(r"[^A-Za-z0-9._-]", package, maxsplit=1)[0]) for package in packages}


def _version_in(pins: tuple[Pin, ...]) -> str:
    versions = sorted({pin.version for pin in pins if pin.name == "matrix-synapse"})
    if len(versions) != 1:
        found = f"has {' and '.join(versions)}" if versions else "has none"
        raise SynapseError(f"The lock must hold one version of matrix-synapse and {found}: make it again.")
    return versions[0]


def ask(options: Options, lock: str | None, constraints: str | None, plugins: tuple[Plugin, ...] = ()) -> Asked:
    """Decide what is asked for. ``lock`` and ``constraints`` are the texts of the files that the options name.

    ``plugins`` are those of the environment that gives way; what the lock has, or the operator names, is not added.
    """
    asked = _ask(options, lock, constraints, ())
    if not plugins:
        return asked
    base = asked.base or asked.pins or (parse(_default_lock.LOCK) if asked.shipped else ())
    provided = {pin.name: pin.version for pin in base}
    judgement = judged(plugins, carry=options.carry_plugins, provided=provided, asked=_names(options.extra_packages))
    carried = attempted(judgement)
    if not carried:
        return replace(asked, plugins=judgement)
    request = _ask(options, lock, constraints, tuple(one.pin for one in carried)).request
    return Asked(asked.version, request, None, None, base, asked.extras, False, judgement, asked)


def _ask(options: Options, lock: str | None, constraints: str | None, carried: tuple[str, ...]) -> Asked:
    pins: tuple[Pin, ...] | None = None
    digest: str | None = None
    shipped = lock is None and options.version in {"", _default_lock.VERSION}
    extras = options.extras or (_default_lock.EXTRAS if lock is None else ())
    if lock is not None:
        pins = parse(lock, options.requirements or "The lock in 'requirements_content'")
        digest = digest_of(pins)
        version = _version_in(pins)
        if options.version not in {"", version}:
            raise SynapseError(
                f"'version' is {options.version}, the lock is for {version}: leave 'version' out, or give its lock."
            )
    elif shipped:
        version, digest = _default_lock.VERSION, _default_lock.DIGEST
        if set(extras) <= {*_default_lock.EXTRAS, "postgres"}:
            extras = _default_lock.EXTRAS
    else:
        version = options.version
    request = request_digest(
        version=version,
        extras=extras,
        extra_packages=options.extra_packages,
        lock=digest,
        constraints=constraints,
        plugins=carried,
    )
    if shipped and (extras != _default_lock.EXTRAS or options.extra_packages):
        pins = parse(_default_lock.LOCK)
    base = pins or ()
    enough = lock is not None or (shipped and extras == _default_lock.EXTRAS)
    if base and not _names(options.extra_packages) <= {pin.name for pin in base}:
        enough = False
    if not enough:
        return Asked(version, request, None, None, base, extras, False)
    return Asked(version, request, digest, pins, base, extras, shipped)
