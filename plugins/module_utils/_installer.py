# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installers: how uv and pip are told to resolve, to make an environment and to fill it, and what their errors mean.

Both work from the same lock with hashes. Neither reads the configuration of the host's own pip or uv, for a stray
extra index or constraint there would break, or silently change, what a lock says; ``host_sources`` says what counts.
Addresses travel in the environment, not in the arguments: they may hold a password.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import re
import typing as t
import zipfile
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _index
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, canonical, text_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult, Runner

__all__ = [
    "UV_VERSION",
    "Installer",
    "Pip",
    "Sources",
    "UnavailableError",
    "UnreachableError",
    "Uv",
    "bootstrap_uv",
    "explain",
    "host_sources",
    "keep_hashes",
    "lock_of_report",
    "pip_configurations",
    "requirements_for",
    "stray_variables",
    "uv_wheel",
]

UV_VERSION = "0.13.9"
_MANYLINUX_ARM = "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64"
# The wheels of uv that are bootstrapped, by processor and C library, with their SHA-256.
_UV_WHEELS = {
    ("x86_64", "glibc"): (
        f"uv-{UV_VERSION}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    ("x86_64", "musl"): (
        f"uv-{UV_VERSION}-py3-none-musllinux_1_1_x86_64.whl",
        "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    ),
    ("aarch64", "glibc"): (
        f"uv-{UV_VERSION}-py3-none-{_MANYLINUX_ARM}.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    ("aarch64", "musl"): (
        f"uv-{UV_VERSION}-py3-none-{_MANYLINUX_ARM}.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
}
# What Synapse's extra "all" stands for, without "postgres": psycopg2-binary takes the place of psycopg2, which would
# have to be compiled (METADATA of 1.163.2).
_ALL = (
    "cache-memory",
    "jwt",
    "matrix-synapse-ldap3",
    "oidc",
    "opentracing",
    "redis",
    "saml2",
    "sentry",
    "url-preview",
)
# A requirement that never applies.
_NO_PSYCOPG2 = b"psycopg2 ; sys_platform == 'none'\n"
_PIP_CONF = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")

Fetch = t.Callable[[str], bytes]


class UnreachableError(SynapseError):
    """What failed has nothing to do with the packages: no way to the index, or no room. Later it may be different."""


class UnavailableError(SynapseError):
    """An installer cannot be had on this host; another may."""


@dataclass(frozen=True)
class Sources:
    """Where packages come from.

    ``index_url`` is empty where none is known: uv and pip then ask the one that they know themselves. ``ca_bundle`` is
    empty where the system's own counts.
    """

    index_url: str
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    offline: bool = False
    ca_bundle: str = ""

    def hosts(self) -> str:
        """Return the names of the hosts that packages come from, for messages."""
        names = [urlsplit(url).hostname or url.split("://")[-1] for url in self.indexes()]
        return ", ".join(dict.fromkeys(names)) or "its default place"

    def indexes(self) -> tuple[str, ...]:
        """Return the addresses of the indexes that are known."""
        return tuple(url for url in (self.index_url, *self.extra_index_urls) if url)

    def local_links(self) -> tuple[str, ...]:
        """Return the folders among the links."""
        return tuple(link for link in self.find_links if "://" not in link)

    def remote_links(self) -> tuple[str, ...]:
        """Return the pages among the links."""
        return tuple(link for link in self.find_links if "://" in link)


def stray_variables(environ: Iterable[str]) -> tuple[str, ...]:
    """Return the environment variables that an installer must not see: settings of pip, uv and Python itself."""
    kept = {"UV_CACHE_DIR"}
    prefixes = ("PIP_", "UV_", "PYTHON")
    names = {"VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__"}
    return tuple(name for name in environ if name not in kept and (name.startswith(prefixes) or name in names))


def host_sources(environ: Mapping[str, str], configurations: Iterable[str]) -> tuple[str, str]:
    """Return the index and the CA bundle that the host is set to, each empty where it is not.

    ``configurations`` are the texts of pip's configuration files, the one that wins last. Environment wins over files.
    """
    index = bundle = ""
    for text in configurations:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(text)
        except configparser.Error:
            continue
        for section in ("global", "install"):
            index = parser.get(section, "index-url", fallback="").strip() or index
            bundle = parser.get(section, "cert", fallback="").strip() or bundle
    index = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or environ.get("PIP_INDEX_URL") or index
    bundle = environ.get("PIP_CERT") or environ.get("REQUESTS_CA_BUNDLE") or environ.get("SSL_CERT_FILE") or bundle
    return index, bundle


def pip_configurations(environ: Mapping[str, str]) -> list[str]:
    """Return the texts of pip's configuration files on this host, the one that wins last."""
    named = environ.get("PIP_CONFIG_FILE")
    paths = [os.path.expanduser(path) for path in (*_PIP_CONF, *([named] if named else []))]
    texts = []
    for path in paths:
        if os.path.isfile(path) and os.access(path, os.R_OK):
            texts.append((_files.read(path) or b"").decode("utf-8", "replace"))
    return texts


def requirements_for(
    version: str, extras: Iterable[str], extra_packages: Iterable[str], base: Iterable[Pin]
) -> list[str]:
    """Return what is to be resolved: Synapse, what is asked for beside it, and the pins that must stay as they are."""
    wanted = set(extras)
    if "all" in wanted:
        wanted |= set(_ALL)
    wanted -= {"all", "postgres"}
    bracket = f"[{','.join(sorted(wanted))}]" if wanted else ""
    packages = sorted(set(extra_packages))
    names = {canonical(re.split(r"[^A-Za-z0-9._-]", package, maxsplit=1)[0]) for package in packages}
    lines = [f"matrix-synapse{bracket}=={version}", *packages]
    if not names & {"psycopg2", "psycopg2-binary"}:
        lines.append("psycopg2-binary")
    kept = [pin for pin in base if pin.name not in names and pin.name != "matrix-synapse"]
    return lines + [f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "") for pin in kept]


class Installer(t.Protocol):
    """Makes environments. ``name`` says which and what version; every failure is a ``SynapseError``."""

    name: str

    def resolve(self, wanted: Sequence[str], *, constraints: str, before: str) -> str:
        """Return a lock with hashes for ``wanted``, as of the instant ``before`` (empty: now)."""
        raise NotImplementedError

    def create(self, path: str) -> None:
        """Make an empty environment in an existing folder."""
        raise NotImplementedError

    def install(self, path: str, lock: str, *, binary_only: bool) -> None:
        """Install the lock in the file ``lock`` into the environment; with ``binary_only`` nothing is compiled."""
        raise NotImplementedError


class Uv:
    """uv, in the version that is pinned here. ``share``: nobody has the cache but this one release."""

    def __init__(
        self,
        run: Runner,
        *,
        program: str,
        python: str,
        sources: Sources,
        cache: str,
        scratch: str,
        share: bool = False,
    ) -> None:
        self.name = f"uv {UV_VERSION}"
        self._run = run
        self._program = program
        self._python = python
        self._sources = sources
        self._scratch = scratch
        self._env = {
            "UV_CACHE_DIR": cache,
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            # A copy, not a hard link: what befalls a file of one release must not befall the cache or another release.
            # Only a cache that goes when the release is there ("share") may have its files in common with it.
            "UV_LINK_MODE": "hardlink" if share else "copy",
            "UV_DEFAULT_INDEX": sources.index_url,
            "UV_INDEX": " ".join(sources.extra_index_urls),
            "UV_FIND_LINKS": ",".join(sources.remote_links()),
        }
        self._env.update({"SSL_CERT_FILE": sources.ca_bundle} if sources.ca_bundle else {"UV_SYSTEM_CERTS": "1"})
        if sources.offline:
            self._env["UV_OFFLINE"] = "1"

    def _sources_arguments(self) -> list[str]:
        arguments = [part for link in self._sources.local_links() for part in ("--find-links", link)]
        if self._sources.offline and self._sources.find_links:
            arguments.append("--no-index")
        return arguments

    def _do(self, arguments: Sequence[str], doing: str, stdin: str | None = None) -> CommandResult:
        env = {name: value for name, value in self._env.items() if value}
        result = self._run([self._program, *arguments], stdin=stdin, env=env, cwd=self._scratch)
        if result.rc != 0:
            raise explain(result, doing=doing, sources=self._sources)
        return result

    def resolve(self, wanted: Sequence[str], *, constraints: str, before: str) -> str:
        arguments = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
        arguments += ["--python", self._python, *self._sources_arguments()]
        if constraints:
            path = os.path.join(self._scratch, "constraints.txt")
            _files.write(path, constraints.encode(), mode=0o600)
            arguments += ["--constraints", path]
        if before:
            arguments += ["--exclude-newer", before]
        arguments += self._overrides(wanted)
        return self._do([*arguments, "-"], "resolve the packages", stdin="\n".join(wanted) + "\n").stdout

    def _overrides(self, wanted: Sequence[str]) -> list[str]:
        """Return the arguments that keep psycopg2 out where psycopg2-binary is wanted.

        Plugins ask for psycopg2, which would have to be compiled, and has the very files of psycopg2-binary.
        """
        names = {canonical(re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0]) for one in wanted}
        if "psycopg2-binary" not in names:
            return []
        path = os.path.join(self._scratch, "overrides.txt")
        _files.write(path, _NO_PSYCOPG2, mode=0o600)
        return ["--overrides", path]

    def resolve_for_all(
        self, wanted: Sequence[str], *, floor: str, preferred: Sequence[str], before: str
    ) -> tuple[str, str]:
        """Return one lock for every system and every Python from ``floor`` on, and its files as a ``pylock.toml``.

        ``preferred`` are pins without hashes, which are taken wherever they fit; ``before`` is as in ``resolve``.
        """
        lock = os.path.join(self._scratch, "lock.txt")
        common = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--universal"]
        common += ["--python-version", floor, "--python", self._python, *self._sources_arguments()]
        common += [*self._overrides(wanted), *(["--exclude-newer", before] if before else [])]
        _files.write(lock, "".join(f"{pin}\n" for pin in preferred).encode(), mode=0o600)
        # What an output file holds already is preferred to anything newer.
        arguments = [*common, "--generate-hashes", "--output-file", lock, "-"]
        self._do(arguments, "resolve the packages", stdin="\n".join(wanted) + "\n")
        text = (_files.read(lock) or b"").decode()
        # All that is asked now is in the cache, and must be what the lock was made from.
        arguments = [*common, "--no-deps", "--format", "pylock.toml", *([] if self._sources.offline else ["--offline"])]
        pins = re.sub(r"\s*\\\n\s+--hash=\S+", "", text)
        return text, self._do([*arguments, "-"], "list the files of the packages", stdin=pins).stdout

    def create(self, path: str) -> None:
        arguments = ["venv", "--quiet", "--no-project", "--allow-existing", "--python", self._python, path]
        self._do(arguments, f"make an environment in {path}")

    def install(self, path: str, lock: str, *, binary_only: bool) -> None:
        arguments = ["pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        # Not compiled here: the proof imports all that Synapse runs, and what is imported is compiled and kept.
        # With every hash known, the first index that has the right file may serve it.
        arguments += ["--index-strategy", "unsafe-best-match", *self._sources_arguments()]
        arguments += ["--no-build"] if binary_only else []
        arguments += ["--python", os.path.join(path, "bin", "python"), "--requirements", lock]
        self._do(arguments, "install the packages")


class Pip:
    """The pip that comes with the host's Python (ensurepip)."""

    def __init__(self, run: Runner, *, python: str, sources: Sources, cache: str, scratch: str) -> None:
        self.name = "pip"
        self._run = run
        self._python = python
        self._sources = sources
        self._scratch = scratch
        self._env = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_CACHE_DIR": cache,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_RETRIES": "2",
            "PIP_INDEX_URL": sources.index_url,
            "PIP_EXTRA_INDEX_URL": " ".join(sources.extra_index_urls),
            "PIP_FIND_LINKS": " ".join(sources.remote_links()),
            "PIP_CERT": sources.ca_bundle,
        }

    def _do(self, argv: Sequence[str], doing: str) -> CommandResult:
        env = {name: value for name, value in self._env.items() if value}
        result = self._run(argv, env=env, cwd=self._scratch)
        if result.rc != 0:
            raise explain(result, doing=doing, sources=self._sources)
        return result

    def _sources_arguments(self) -> list[str]:
        arguments = [part for link in self._sources.local_links() for part in ("--find-links", link)]
        return [*arguments, "--no-index"] if self._sources.offline else arguments

    def create(self, path: str) -> None:
        self._do([self._python, "-I", "-m", "venv", path], f"make an environment in {path}")

    def resolve(self, wanted: Sequence[str], *, constraints: str, before: str) -> str:
        resolver = os.path.join(self._scratch, "resolver")
        self.create(resolver)
        requirements = os.path.join(self._scratch, "wanted.txt")
        report = os.path.join(self._scratch, "report.json")
        _files.write(requirements, ("\n".join(wanted) + "\n").encode(), mode=0o600)
        argv = [os.path.join(resolver, "bin", "python"), "-I", "-m", "pip", "install", "--quiet", "--dry-run"]
        argv += ["--ignore-installed", "--report", report, *self._sources_arguments(), "--requirement", requirements]
        if constraints:
            path = os.path.join(self._scratch, "constraints.txt")
            _files.write(path, constraints.encode(), mode=0o600)
            argv += ["--constraint", path]
        self._do(argv, "resolve the packages")
        return lock_of_report((_files.read(report) or b"").decode())

    def install(self, path: str, lock: str, *, binary_only: bool) -> None:
        pip = [os.path.join(path, "bin", "python"), "-I", "-m", "pip"]
        argv = [*pip, "install", "--quiet", "--no-deps", "--no-compile", "--require-hashes", *self._sources_arguments()]
        argv += ["--only-binary", ":all:"] if binary_only else []
        self._do([*argv, "--requirement", lock], "install the packages")
        locked = (_files.read(lock) or b"").decode()
        # What ensurepip brought along is not in the lock: a release holds what its lock says, and nothing else.
        strays = [name for name in ("setuptools", "pip") if not re.search(rf"^{name}==", locked, re.MULTILINE)]
        self._do([*pip, "uninstall", "--quiet", "--yes", *strays], "remove pip from the finished environment")


def lock_of_report(text: str) -> str:
    """Return the lock that a report of ``pip install --dry-run`` stands for."""
    pins = []
    for entry in json.loads(text)["install"]:
        archive = entry["download_info"].get("archive_info", {})
        digest = archive.get("hashes", {}).get("sha256") or archive.get("hash", "").replace("sha256=", "")
        metadata = entry["metadata"]
        pins.append(Pin(canonical(metadata["name"]), metadata["version"], "", (digest,)))
    return text_of(sorted(pins, key=lambda pin: pin.name))


_UNREACHABLE = (
    r"dns error|failed to lookup|Name or service not known|Temporary failure in name resolution|Connection refused"
    r"|Network is unreachable|No route to host|timed out|error sending request|tcp connect error|Max retries exceeded"
    r"|Failed to establish a new connection|NewConnectionError|Connection reset"
)
_NOT_HERE = (
    r"not found in the (cache|provided package locations)|network (was|is) disabled|No solution found"
    r"|No matching distribution|Could not find a version"
)
_TLS = r"CERTIFICATE_VERIFY_FAILED|UnknownIssuer|invalid peer certificate|certificate verify failed|SSLError"


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _tail(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return _index.without_secrets(" ".join(lines[-8:]))[-1200:]


def _contradiction(text: str) -> str:
    """Return what uv says of why there is no solution, without its hints, on one line."""
    said = re.split(r"\n\s*\n|\n\s*hint:", text.partition("No solution found when resolving")[2])[0]
    reason = re.sub(r"^.*?(?=\bBecause\b)", "", " ".join(said.split()))
    return _index.without_secrets(reason)[:1500]


def _wrong_hash(text: str) -> str:
    found = re.search(r"[Hh]ash mismatch for `?([A-Za-z0-9._-]+==[^\s`]+)`?", text)
    if found is None:
        found = re.search(r"^\s*([A-Za-z0-9._-]+==\S+) from \S+.*:$", text, re.MULTILINE)
    return found[1] if found else "a package"


def explain(result: CommandResult, *, doing: str, sources: Sources) -> SynapseError:
    """Turn an installer's failure into what the operator has to do about it. Nothing live was touched by then."""
    text = f"{result.stdout}\n{result.stderr}"
    hosts = sources.hosts()
    if _matches(r"No space left on device|os error 28|ENOSPC|Disk quota exceeded", text):
        return UnreachableError(
            f"The disk is full: could not {doing}. What is live was not touched. Free some space and run again."
        )
    if _matches(r"hash mismatch|DO NOT MATCH THE HASHES", text):
        return SynapseError(
            f"Wrong hash: what the index served for {_wrong_hash(text)} is not what the lock says, so it was not "
            f"installed. Find out which of the two is right (an index that rebuilds packages, or a changed file), then "
            f"make the lock again. Packages come from {hosts}.",
            stderr=_tail(text),
        )
    if _matches(_TLS, text):
        return UnreachableError(
            f"The certificate of {hosts} is not trusted by this host: could not {doing}. Where a private authority "
            f"signs it, give its certificate with 'ca_bundle'; otherwise install the package ca-certificates.",
            stderr=_tail(text),
        )
    if _matches(_UNREACHABLE, text):
        return UnreachableError(
            f"The package index at {hosts} cannot be reached from this host: could not {doing}. Check name resolution "
            f"and the firewall, set the proxy in the task's environment (https_proxy), name another index with "
            f"'index_url', or install without one ('offline' and 'find_links').",
            stderr=_tail(text),
        )
    if sources.offline and _matches(_NOT_HERE, text):
        return SynapseError(
            f"Offline, and a package is missing: could not {doing}. Put every wheel of the lock, for this Python and "
            f"processor, into a folder named by 'find_links'. The installer said: {_tail(text)}"
        )
    if not sources.offline and _matches(r"No solution found when resolving", text):
        return SynapseError(
            f"The packages do not fit together: could not {doing}. {_contradiction(text)} Correct the version that is "
            f"named there, in 'version' or 'extra_packages', or leave the package out. Packages come from {hosts}. "
            "Nothing was changed."
        )
    if _matches(r"--no-build|only-binary|no wheels|no usable wheels|platform|ABI", text) and doing.startswith(
        "install"
    ):
        return SynapseError(
            f"A package of the lock has no wheel for this Python or processor: could not {doing}. Use another Python "
            f"('python'), or a lock made for this host ('requirements'). The installer said: {_tail(text)}"
        )
    return SynapseError(f"Could not {doing}: the installer ended with {result.rc}. It said: {_tail(text)}")


def _find(wheel: str, sources: Sources, fetch: Fetch) -> bytes | None:
    """Return the bytes of a wheel by its file name, from the links first; ``None`` where nobody has it."""
    for folder in sources.local_links():
        data = _files.read(os.path.join(folder, wheel))
        if data is not None:
            return data
    if sources.offline:
        return None
    pages = [
        *sources.remote_links(),
        *(_index.project_url(url, "uv") for url in sources.indexes()),
    ]
    for page in pages:
        try:
            listing = _index.parse_listing(fetch(page), page)
        except FileNotFoundError:
            continue
        for file in listing:
            if file.name == wheel:
                return fetch(file.url)
    return None


def uv_wheel(machine: str, libc: str) -> tuple[str, str] | None:
    """Return the file name and SHA-256 of the pinned uv's wheel for a processor and ``glibc`` or ``musl``, if known."""
    return _UV_WHEELS.get((machine, libc))


def bootstrap_uv(tools: str, *, machine: str, glibc: bool, sources: Sources, fetch: Fetch) -> str:
    """Return the path of uv in the pinned version, after fetching its wheel and checking its hash where it is missing.

    ``fetch`` raises ``FileNotFoundError`` for what the other side does not have. Raises ``UnavailableError`` where uv
    cannot be had, and ``SynapseError`` where something is wrong that another installer would meet as well.
    """
    program = os.path.join(tools, f"uv-{UV_VERSION}", "uv")
    if os.access(program, os.X_OK):
        return program
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    entry = _UV_WHEELS.get((machine, "glibc" if glibc else "musl"))
    if entry is None:
        raise UnavailableError(f"uv {UV_VERSION} is not known for the processor {machine}")
    wheel, digest = entry
    data = _find(wheel, sources, fetch)
    if data is None and not sources.offline and not sources.index_url:
        raise UnavailableError(f"{wheel} cannot be fetched, because {_index.UNKNOWN}")
    if data is None:
        where = "the folders of 'find_links'" if sources.offline else f"{sources.hosts()} and 'find_links'"
        raise UnavailableError(f"{wheel} is not in {where}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise SynapseError(
            f"Wrong hash: {wheel} is not the file that this collection knows, so it was not used. Find out what "
            f"changed it on the way from {sources.hosts()}; 'installer: pip' does without it."
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        binary = archive.read(f"uv-{UV_VERSION}.data/scripts/uv")
    _files.make_directory(os.path.dirname(program), mode=0o755)
    _files.write(program, binary, mode=0o755)
    return program


def keep_hashes(resolved: Iterable[Pin], base: Iterable[Pin]) -> tuple[Pin, ...]:
    """Return the resolved pins with the hashes of ``base`` wherever it has the same version."""
    known: dict[tuple[str, str], Pin] = {(pin.name, pin.version): pin for pin in base}
    return tuple(
        replace(pin, hashes=known[pin.name, pin.version].hashes) if (pin.name, pin.version) in known else pin
        for pin in resolved
    )
