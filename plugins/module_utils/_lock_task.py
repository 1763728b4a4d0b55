# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of ``synapse_lock``: look at the lock that is there, resolve what it is not yet, and put it in place."""

from __future__ import annotations

import errno
import os
import platform
import re
import stat
import sys
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import (
    _default_lock,
    _files,
    _installer,
    _origins,
    _resolution,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._index import check_address
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, digest_of, parse, version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._resolution import Header, Lack
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner, SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import check_wanted, python_floor

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources

__all__ = ["Options", "Task", "glibc"]

_PYTHON = re.compile(r"3\.(9|[1-9][0-9])")
_ARCHITECTURE = re.compile(r"[a-z0-9_]+")
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Options:
    """The module's options, checked for what can be checked without looking at the machine."""

    path: str
    version: str
    extras: tuple[str, ...]
    extra_packages: tuple[str, ...]
    pythons: tuple[str, ...]
    architectures: tuple[str, ...]
    base: str | None
    exclude_newer: str
    renew: bool
    index_url: str
    extra_index_urls: tuple[str, ...]
    find_links: tuple[str, ...]
    offline: bool
    ca_bundle: str
    cache_path: str

    @classmethod
    def from_params(cls, params: Mapping[str, t.Any]) -> Options:
        """Read the parameters; raises ``SynapseError`` with the option's name, what was given, and what is allowed."""
        values = {name: params[name] for name in cls.__dataclass_fields__}
        for name in ("extras", "extra_packages", "pythons", "architectures", "extra_index_urls", "find_links"):
            values[name] = tuple(dict.fromkeys(value.strip() for value in values[name] or () if value.strip()))
        for name in ("index_url", "ca_bundle"):
            values[name] = values[name] or ""
        values["version"] = values["version"] or _default_lock.VERSION
        values["extras"] = tuple(sorted(values["extras"])) or _default_lock.EXTRAS
        values["extra_packages"] = tuple(sorted(values["extra_packages"]))
        values["pythons"] = tuple(sorted(values["pythons"] or _resolution.PYTHONS, key=version_key))
        architectures = values["architectures"] or _resolution.ARCHITECTURES
        values["architectures"] = tuple(dict.fromkeys(_ALIASES.get(one, one) for one in architectures))
        values["find_links"] = tuple(one if "://" in one else os.path.abspath(one) for one in values["find_links"])
        options = cls(**values)
        options._check()
        return options

    def _check(self) -> None:
        check_wanted(self.version, self.extras, self.extra_packages)
        for name in ("path", "cache_path"):
            if not str(getattr(self, name)).startswith("/"):
                raise SynapseError(f"{name!r} is {getattr(self, name)!r}: give an absolute path.")
        _check_hosts(self.pythons, self.architectures, self.version)
        _check_day(self.exclude_newer)
        for name, urls in (
            ("index_url", (self.index_url,)),
            ("extra_index_urls", self.extra_index_urls),
            ("find_links", tuple(link for link in self.find_links if "://" in link)),
        ):
            for url in urls:
                check_address(repr(name), url)

    def request(self) -> dict[str, t.Any]:
        """Return what a lock must have been made for to be the one that is asked for."""
        return {
            "version": self.version,
            "extras": list(self.extras),
            "extra_packages": list(self.extra_packages),
            "pythons": list(self.pythons),
            "architectures": list(self.architectures),
            "exclude_newer": self.exclude_newer,
        }


def _check_hosts(pythons: Sequence[str], architectures: Sequence[str], version: str) -> None:
    floor = ".".join(str(number) for number in python_floor(version))
    for python in pythons:
        if not _PYTHON.fullmatch(python):
            hint = " YAML reads 3.10 without quotes as the number 3.1." if python == "3.1" else ""
            raise SynapseError(f"'pythons' has {python!r}: give versions such as \"3.12\", in quotes.{hint}")
        if version_key(python) < version_key(floor):
            raise SynapseError(
                f"'pythons' has {python!r}, and Synapse {version} needs Python {floor} or newer: leave it out."
            )
    for one in architectures:
        if not _ARCHITECTURE.fullmatch(one):
            raise SynapseError(f"'architectures' has {one!r}: give names such as x86_64, as 'uname -m' prints them.")


def _check_day(day: str) -> None:
    try:
        if day != "auto":
            _origins.end_of(day if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", day) else "none")
    except (ValueError, OverflowError):
        raise SynapseError(f"'exclude_newer' is {day!r}: give a day such as '2026-04-14', or 'auto'.") from None


@dataclass(frozen=True)
class _Made:
    """A lock: its text, and what it says."""

    text: str
    header: Header
    pins: tuple[Pin, ...]


class Task:
    """One run; ``warnings`` collects what the operator should know although it worked."""

    def __init__(
        self, options: Options, *, run: Runner, fetcher: Callable[[Sources], Callable[[str], bytes]], scratch: str
    ) -> None:
        self.options = options
        self.warnings: list[str] = []
        self._run = run
        self._fetcher = fetcher
        self._scratch = scratch

    def run(self, *, apply: bool) -> dict[str, t.Any]:
        """Return the module's result; with ``apply`` false nothing outside the scratch folder is written."""
        # A link that somebody put there is to stay one.
        path = os.path.realpath(self.options.path)
        before, found = self._look(path)
        if found is not None and found.header.request == self.options.request() and not self.options.renew:
            return self._result(before, found)
        _check_writable(path)
        made = self._make(apply)
        if apply and made.text != before:
            mode = stat.S_IMODE(os.stat(path).st_mode) if before is not None else 0o644
            _files.write(path, made.text.encode(), mode=mode)
        return self._result(before, made)

    # -------------------------------------------------------------------------------------------------------- observe

    def _look(self, path: str) -> tuple[str | None, _Made | None]:
        """Return the text of the file at ``path``, and the lock that it is if it is one of ours and unchanged."""
        data = _files.read(path)
        if data is None:
            return None, None
        text = data.decode("utf-8", "replace")
        if not text.strip():
            return text, None
        try:
            header, pins = _resolution.read(text)
        except SynapseError:
            raise SynapseError(
                f"{path} is no lock file, so it is not replaced: move it away, or name another 'path'. Nothing was "
                "written."
            ) from None
        return text, None if header is None else _Made(text, header, pins)

    def _base(self) -> tuple[Pin, ...]:
        """Return the pins to keep where they fit; those of the collection's own lock for its version."""
        base = self.options.base
        if base is None:
            return parse(_default_lock.LOCK) if self.options.version == _default_lock.VERSION else ()
        if not base:
            return ()
        data = _files.read(base)
        if data is None:
            raise SynapseError(f"'base' is {base}, which does not exist: name a lock file. Nothing was written.")
        return parse(data.decode("utf-8", "replace"), base)

    # -------------------------------------------------------------------------------------------------------- resolve

    def _make(self, apply: bool) -> _Made:
        options = self.options
        toml = _toml_reader()
        base = self._base()
        sources = self._sources()
        day = self._day(sources)
        wanted = _installer.requirements_for(options.version, options.extras, options.extra_packages, ())
        uv = self._uv(sources, keep=apply)
        preferred = _resolution.without_hashes(base).splitlines()
        text, files = uv.resolve_for_all(
            wanted, floor=options.pythons[0], preferred=preferred, before=_origins.end_of(day)
        )
        hosts = _resolution.hosts_of(options.pythons, options.architectures)
        pins, lacks = _resolution.prune(parse(text, "The resolution"), _resolution.file_names(toml(files)), hosts)
        self._judge(lacks)
        header = Header(options.request(), day, lacks)
        return _Made(_resolution.render(header, pins), header, pins)

    def _day(self, sources: Sources) -> str:
        """Return the last day whose packages count, empty for no limit; refuse a version that is not there by then."""
        day = self.options.exclude_newer
        own = _origins.as_of(self.options.version, sources, self._fetcher(sources))
        if day == "auto" and own is None:
            self.warnings.append(
                f"The index does not say when Synapse {self.options.version} was released, so its dependencies are "
                "today's, which may be too new for it: give the day in 'exclude_newer' where it is an old version."
            )
        if day == "auto":
            return own or ""
        if own and _origins.end_of(day)[:10] < own:
            raise SynapseError(
                f"'exclude_newer' is {day}, and Synapse {self.options.version} was not released by then: give a later "
                "day, or 'auto'. Nothing was written."
            )
        return day

    def _judge(self, lacks: Sequence[Lack]) -> None:
        """Refuse a lock that a host could not install; warn of packages that a host would have to build."""
        common = [lack for lack in lacks if "glibc" in lack.libraries]
        hopeless = "; ".join(lack.text() for lack in common if not lack.source)
        if hopeless:
            raise SynapseError(
                f"No file exists of {hopeless}. Leave these out of 'pythons' or 'architectures', or choose another "
                "version of the package. Nothing was written."
            )
        if common:
            self.warnings.append(
                f"No wheel exists of {'; '.join(lack.text() for lack in common)}: such a host builds it from source, "
                "which may need a compiler and headers there."
            )

    def _sources(self) -> Sources:
        options = self.options
        return _origins.sources_of(
            index_url=options.index_url,
            default_index_url="",
            extra_index_urls=options.extra_index_urls,
            find_links=options.find_links,
            offline=options.offline,
            ca_bundle=options.ca_bundle,
        )

    def _uv(self, sources: Sources, *, keep: bool) -> _installer.Uv:
        """Return uv, fetched where it is missing; with ``keep`` it and what it fetches stay in the cache."""
        cache = self.options.cache_path
        _check_trusted(cache)
        kept = os.path.join(cache, f"uv-{_installer.UV_VERSION}", "uv")
        tools = cache if keep or os.access(kept, os.X_OK) else self._scratch
        if keep:
            _files.make_directory(cache, mode=0o700)
        try:
            program = _installer.bootstrap_uv(
                tools, machine=platform.machine(), glibc=glibc(), sources=sources, fetch=self._fetcher(sources)
            )
        except _installer.UnavailableError as error:
            raise SynapseError(
                f"{error.msg}, and only uv can resolve for other Pythons and processors than this one; pip cannot. "
                "Provide uv's wheel on the index or in a folder of 'find_links'. Nothing was written."
            ) from None
        store = os.environ.get("UV_CACHE_DIR") or os.path.join(cache, "cache")
        return _installer.Uv(
            self._run,
            program=program,
            python=sys.executable,
            sources=sources,
            cache=store if keep else os.path.join(self._scratch, "cache"),
            scratch=self._scratch,
        )

    # --------------------------------------------------------------------------------------------------------- result

    def _result(self, before: str | None, made: _Made) -> dict[str, t.Any]:
        path = self.options.path
        return {
            "changed": made.text != before,
            "path": path,
            "version": self.options.version,
            "digest": digest_of(made.pins),
            "as_of": made.header.as_of or None,
            "packages": [{"name": pin.name, "version": pin.version, "marker": pin.marker} for pin in made.pins],
            "without_wheels": [
                {name: list(value) if isinstance(value, tuple) else value for name, value in lack.__dict__.items()}
                for lack in made.header.lacks
            ],
            "diff": {
                "before_header": path,
                "after_header": path,
                "before": _resolution.outline(before),
                "after": _resolution.outline(made.text),
            },
        }


def _check_writable(path: str) -> None:
    """Refuse early what could not be written in the end. Raises ``SynapseError``."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SynapseError(
            f"'path' is {path}, and there is no folder {folder}: make it first, or name another path. Nothing was "
            "written."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EROFS if os.geteuid() == 0 else errno.EACCES
        raise SynapseError(
            f"'path' is {path}, and nothing can be written in {folder} ({os.strerror(number)}): name another path, or "
            "run as a user who may. Nothing was written."
        )


def _check_trusted(cache: str) -> None:
    """Refuse a cache that somebody else can write in: uv is started from there. Raises ``SynapseError``."""
    try:
        facts = os.stat(cache)
    except OSError:
        return
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in {0, os.geteuid()} or facts.st_mode & 0o022:
        raise SynapseError(
            f"'cache_path' is {cache}, which another user can write in, or which is no folder: programs are started "
            "from there, so name one of your own. Nothing was written."
        )


def _toml_reader() -> Callable[[str], Mapping[str, t.Any]]:
    try:
        import tomllib
    except ImportError:
        raise SynapseError(
            f"Locks are made with Python 3.11 or newer, and this is {platform.python_version()} ({sys.executable}): "
            "run the task on the controller, with its own Python (ansible_python_interpreter: '{{ "
            "ansible_playbook_python }}'). Nothing was written."
        ) from None
    return tomllib.loads


def glibc() -> bool:
    """Whether this machine's C library is glibc."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False
