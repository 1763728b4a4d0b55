# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the environment that Synapse runs in: first at its files, then from the inside, as the service's user."""

from __future__ import annotations

import contextlib
import errno
import glob
import inspect
import os
import platform
import pwd
import re
import signal
import stat
import time
import typing as t
from dataclasses import replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _venv_build, _venv_tree
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import requirements
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.environment import (
    Environment,
    features_of,
    modules_of,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import environment as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import (
    MARKER,
    Release,
    is_release_name,
    latest,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    TIMED_OUT,
    Account,
    SynapseError,
    ask_python,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import findings_of

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]

_SYSTEM = {"/", "/usr", "/usr/local"}
_SYNAPSE = requirements.SYNAPSE
# Debian's packages of Synapse, by the folder of the environment: the project's own, and the distribution's.
_DEBIAN = {"/opt/venvs/matrix-synapse": "matrix-synapse-py3", "/usr": "matrix-synapse"}
_TEXT = (".py", ".pyi", ".txt", ".md", ".rst", ".html", ".j2", ".json", ".sql", "METADATA", "WHEEL", "INSTALLER")
_ANSWER: Mapping[str, type] = {
    "version": str,
    "prefix": str,
    "absent": dict,
    "failed": dict,
    "versions": dict,
    "unreadable": list,
    "uncompilable": dict,
    "importers": dict,
}
_SPARE = 2.0  # seconds that are left at the end
_IMPORT = 5.0  # seconds; to import all of Synapse takes two
_HASHING = 4.0  # seconds; usually less than half of one is enough
_ENTRIES = 500  # so many names of a folder are looked at


def _kind(path: str) -> tuple[str, str]:
    """Say what lies at a path, and where it leads."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "nothing", ""
    except OSError as error:
        return "hidden", str(error.strerror)
    target = os.path.realpath(path)
    if target in _SYSTEM:
        return "system", target
    if os.path.isdir(target):
        return ("link" if os.path.islink(path) else "folder"), target
    return ("dangling" if os.path.islink(path) and not os.path.lexists(target) else "file"), target


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_ENTRIES]
    except OSError:
        return []


def _site_packages(path: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(path), "lib", "python3.*", "site-packages")))


def _beside(path: str) -> tuple[str, ...]:
    """Return environments with Synapse in them that lie beside a path where none is, or links to such."""
    folder = os.path.dirname(path)
    found = []
    for name in _names(folder):
        other = os.path.join(folder, name)
        is_one = os.path.isfile(os.path.join(other, "pyvenv.cfg"))
        if is_one and any(os.path.isdir(os.path.join(packages, "synapse")) for packages in _site_packages(other)):
            found.append(other)
    # The likeliest first: "venv.old" for "venv".
    return tuple(
        sorted(found, key=lambda other: (not os.path.basename(other).startswith(os.path.basename(path)), other))
    )


def _releases(context: Context, path: str) -> tuple[tuple[Release, ...], str, str]:
    """Return our releases, the folder, and why it is not to be trusted, where that is so."""
    folder = context.request.releases_path or os.path.join(os.path.dirname(path), "releases")
    try:
        return _venv_build.releases_in(folder, path)[0], folder, ""
    except SynapseError as error:
        # A task that runs as that very user may well use what is its own.
        mine = os.geteuid() == 0 and context.user is not None
        return (), folder, error.msg.partition(", so what lies in it")[0] if mine else ""


def _owner(status: os.stat_result) -> str:
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return str(status.st_uid)


def _may(status: os.stat_result, account: Account, bits: int) -> bool:
    """Whether the mode lets an account do what the bits (4, 2, 1) say."""
    mode = status.st_mode
    if account.uid == status.st_uid:
        return mode >> 6 & bits == bits
    if status.st_gid in {account.gid, *account.groups}:
        return mode >> 3 & bits == bits
    return mode & bits == bits


def _barrier(path: str, account: Account | None) -> str:
    """Return the uppermost folder on the way to a path that an account cannot pass, empty where there is none."""
    if account is None or account.uid == 0:
        return ""
    here = "/"
    for part in ["", *path.strip("/").split("/")]:
        here = os.path.join(here, part)
        try:
            status = os.stat(here)
        except OSError:
            return ""
        if stat.S_ISDIR(status.st_mode) and not _may(status, account, 1):
            return here
    return ""


def _writable(path: str, account: Account | None) -> str:
    """Return what of an environment the service's account can change, with owner and mode; empty for nothing."""
    if os.geteuid() != 0 or account is None or account.uid == 0:
        return ""
    for one in (path, os.path.join(path, "bin"), *_site_packages(path)):
        with contextlib.suppress(OSError):
            status = os.stat(one)
            if status.st_uid == account.uid or _may(status, account, 2):
                return f"{one} (owner {_owner(status)}, mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _split(tree: _venv_tree.Tree) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    """Return, by package, the files that are missing, empty or cut off; and those that may have been edited by hand."""
    damaged: dict[str, tuple[str, ...]] = {}
    edited: dict[str, list[str]] = {}
    for one in tree.distributions:
        gone = list(one.missing)
        for file in one.altered:
            path = next((os.path.join(folder, file) for folder in _site_packages(tree.path)), file)
            text = file.endswith(_TEXT)
            try:
                empty = os.stat(path).st_size == 0
            except OSError:
                empty = True
            if empty or not text:
                gone.append(file)
            else:
                edited.setdefault(one.name, []).append(file)
        # What installers write after the fact differs on purpose; a script is the installer's own.
        gone = [file for file in gone if not file.startswith("../") or file in one.missing]
        if gone:
            damaged[one.name] = tuple(gone)
    return damaged, edited


def _inspect(context: Context, target: str) -> _venv_tree.Tree:
    """Look closely at a folder. What a busy host leaves no time for is compared by size alone."""
    return _venv_tree.inspect(target, time.monotonic() + min(context.left() / 4, _HASHING))


def _metadata_of(path: str) -> str:
    """Return the METADATA of Synapse in an environment, empty where there is none."""
    for packages in _site_packages(path):
        for folder in sorted(glob.glob(os.path.join(glob.escape(packages), "matrix_synapse-*.dist-info"))):
            with contextlib.suppress(SynapseError):
                text = (_files.read(os.path.join(folder, "METADATA"), limit=4 * 1024 * 1024) or b"").decode(
                    "utf-8", "replace"
                )
                if text:
                    return text
    return ""


def _ask(context: Context, request: Mapping[str, object]) -> dict[str, t.Any]:
    """Ask the environment's interpreter. Raises ``SynapseError``, also where what comes back is no answer."""
    answer = ask_python(
        context.run,
        context.request.python,
        inspect.getsource(probe),
        request,
        cwd="/",
        account=context.account(),
        # What was seen from the outside counts, whatever becomes of this.
        timeout=max(context.left(17.0) - _SPARE, 0.1),
    )
    for name, kind in _ANSWER.items():
        if not isinstance(answer.get(name), kind):
            raise SynapseError(f"{context.request.python} answered the probe with something else")
    return answer


def _why(error: SynapseError) -> str:
    """Return how an interpreter did not answer, in one line."""
    lines = [line.strip() for line in str(error.details.get("stderr", "")).splitlines() if line.strip()]
    return f"{error.msg}: {lines[-1][:300]}" if lines else error.msg


def _stands_still(context: Context) -> bool:
    """Whether the service is known not to run: then there is a reason, and time, to import all of Synapse."""
    service = context.service
    if service is None:
        return False
    # One that is started again and again runs at times.
    return not service.running or (service.main is not None and not service.main.up)


def _importers(found: Mapping[str, bool], tree: _venv_tree.Tree) -> dict[str, bool]:
    """Return which packages import ``pkg_resources``, and whether each can do without, from the files that do."""
    owners = {file: one.name for one in tree.distributions for file in one.files}
    named: dict[str, bool] = {}
    for path, guarded in found.items():
        file = path.partition("/site-packages/")[2]
        name = owners.get(file, file.partition("/")[0])
        named[name] = named.get(name, True) and guarded
    return named


def _elsewhere(modules: Iterable[str], folder: str, here: str) -> dict[str, str]:
    """Return the folder of another environment that has a module, by the module's first name."""
    found: dict[str, str] = {}
    for name in sorted({module.partition(".")[0] for module in modules}):
        for other in _names(folder):
            for packages in _site_packages(os.path.join(folder, other)):
                path = os.path.join(packages, name)
                if os.path.realpath(os.path.join(folder, other)) != here and (
                    os.path.isdir(path) or os.path.isfile(f"{path}.py")
                ):
                    found[name] = os.path.join(folder, other)
    return found


def _from_outside(
    context: Context, seen: Environment, release: Release | None
) -> tuple[Environment, _venv_tree.Tree | None]:
    """Read the files: closely only where they are not as they were when the release was proven."""
    target = seen.target
    manifest = release.manifest if release is not None else None
    wants: dict[str, tuple[str, ...]] = {}
    tree = None
    if manifest is not None and release is not None and _venv_build.fingerprint_of(target) == manifest.tree:
        packages = dict(manifest.packages)
        metadata = _metadata_of(target)
        wants[_SYNAPSE] = _venv_tree.wants_of(metadata)
        pythons = re.search(r"^Requires-Python:[ \t]*(.*)$", metadata.partition("\n\n")[0], re.MULTILINE)
        seen = replace(
            seen,
            proven=True,
            version=manifest.version,
            libraries=(".".join(manifest.python_version.split(".")[:2]),),
            pythons=pythons[1].strip() if pythons else "",
        )
        python = manifest.python_version
        with contextlib.suppress(OSError):
            if os.statvfs(target).f_flag & os.ST_NOEXEC:
                tree = _inspect(context, target)
    else:
        tree = _inspect(context, target)
        packages = tree.packages
        wants = {one.name: one.wants for one in tree.distributions}
        damaged, edited = _split(tree)
        seen = replace(
            seen,
            version=packages.get(_SYNAPSE) or (manifest.version if manifest else None),
            libraries=tree.libraries,
            damaged=damaged,
            modified={name: tuple(files) for name, files in edited.items()},
            pythons=next((one.pythons for one in tree.distributions if one.name == _SYNAPSE), ""),
        )
        python = tree.config_version or (f"{tree.libraries[0]}.0" if tree.libraries else "3")
    extras = tuple(extra for extra, _option in features_of(context.settings))
    markers = requirements.markers_of(python, machine=platform.machine())
    lacks, needed = requirements.lacks(wants, packages, markers, extras)
    found = requirements.extras_of(wants.get(_SYNAPSE, ()), packages, markers)
    return replace(seen, packages=packages, lacks=tuple(lacks), needed=needed, extras=found), tree


def _request(context: Context, seen: Environment) -> dict[str, object]:
    """Return what the environment's interpreter is asked."""
    modules = [name.rpartition(".")[0] for name in modules_of(context.settings)]
    postgresql = context.settings is not None and context.settings.engine == "psycopg2"
    setuptools = seen.packages.get("setuptools")
    # Where setuptools is new and the release was proven, nothing in it imports pkg_resources.
    old = setuptools is not None and version_key("67.5") <= version_key(setuptools) < version_key("82")
    folders = _site_packages(seen.target)
    return {
        "find": [*(["synapse"] if seen.kind != "nothing" else []), *modules, *(["psycopg2"] if postgresql else [])],
        "load": ["psycopg2"] if postgresql else ["sqlite3"],
        "versions": sorted({lack.name for lack in seen.lacks if lack.found is None}) or [],
        "compile": [
            os.path.join(folder, file)
            for folder in folders
            for files in seen.modified.values()
            for file in files
            if file.endswith(".py")
        ],
        "importers": folders[0] if folders and (old or not seen.proven) else None,
    }


def _busy(error: SynapseError) -> bool:
    """Whether it was the host that kept an interpreter from answering: too slow, or without memory or processes."""
    said = str(error.details.get("stderr", ""))
    scarce = any(os.strerror(number) in said for number in (errno.EAGAIN, errno.ENOMEM))
    return scarce or error.details.get("rc") in {TIMED_OUT, -signal.SIGKILL}


def _starts(context: Context) -> bool:
    """Whether the interpreter works, and only cannot answer what it is asked."""
    words = [context.request.python, "-I", "-c", "pass"]
    return context.run(words, cwd="/", account=context.account(), timeout=context.left(5.0)).rc in {0, TIMED_OUT}


def _silent(context: Context, seen: Environment, error: SynapseError) -> Environment:
    """Say why an interpreter does not answer, and whether the service's user is kept from it."""
    if _busy(error) or _starts(context):
        return replace(seen, unanswered=_why(error))
    python, account = context.request.python, context.account()
    barrier = _barrier(os.path.realpath(python), account) or _barrier(python, account)
    closed: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        status = os.stat(python)
        if account is not None and not barrier and account.uid and not _may(status, account, 5):
            closed = (python,)
    return replace(seen, silence=_why(error), barrier=barrier, unreadable=closed)


def _judged(seen: Environment, uncompilable: Iterable[str]) -> Environment:
    """Tell files that were cut off from those that were edited: the latter still compile."""
    broken = list(uncompilable)
    damaged, modified = dict(seen.damaged), {}
    for name, files in seen.modified.items():
        cut = tuple(file for file in files if any(path.endswith(f"/{file}") for path in broken))
        rest = tuple(file for file in files if file not in cut)
        if cut:
            damaged[name] = (*damaged.get(name, ()), *cut)
        if rest:
            modified[name] = rest
    return replace(seen, damaged=damaged, modified=modified)


def _from_inside(context: Context, seen: Environment, tree: _venv_tree.Tree | None) -> Environment:
    """Ask the environment's own interpreter, as the service's user."""
    try:
        answer = _ask(context, _request(context, seen))
    except SynapseError as error:
        return _silent(context, seen, error)
    seen = replace(
        seen,
        running=answer["version"],
        prefix=os.path.realpath(answer["prefix"]),
        absent=answer["absent"],
        failed=answer["failed"],
        unreadable=tuple(answer["unreadable"]),
        packages={**seen.packages, **answer["versions"]},
        lacks=tuple(lack for lack in seen.lacks if lack.found is not None or lack.name not in answer["versions"]),
    )
    if tree is not None:
        seen = replace(seen, importers=_importers(answer["importers"], tree))
    seen = _judged(seen, answer["uncompilable"])
    sound = not (seen.absent or seen.failed or seen.lacks or seen.damaged or seen.unreadable)
    if sound and context.left() > _SPARE + _IMPORT and _stands_still(context):
        with contextlib.suppress(SynapseError):
            seen = replace(seen, failed=_ask(context, {"apps": True})["failed"])
    missing = [module for module in seen.absent if module not in {"synapse", "psycopg2"}]
    if missing:
        folder = context.request.releases_path or os.path.join(os.path.dirname(seen.path), "releases")
        seen = replace(seen, elsewhere=_elsewhere(missing, folder, seen.target))
    return seen


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _packaged(path: str) -> str:
    """Return Debian's package that an environment belongs to, empty where it is none's."""
    name = _DEBIAN.get(path, "")
    return name if name and glob.glob(f"/var/lib/dpkg/info/{name}.list") else ""


def _gone(seen: Environment, releases: tuple[Release, ...]) -> Environment:
    """Say what served last, where nothing does any more."""
    name = os.path.basename(seen.target)
    if seen.kind == "dangling" and is_release_name(name):
        return replace(seen, version=name.rpartition("-")[0], release=name)
    name = latest(releases, apart_from="")
    versions = [release.manifest.version for release in releases if release.name == name and release.manifest]
    return replace(seen, version=versions[0] if versions else None)


def look(context: Context) -> Environment:
    """Look. Nothing is written, and what another user could have put there runs as the service's user alone."""
    path = context.environment
    kind, target = _kind(path)
    releases, folder, untrusted = _releases(context, path)
    seen = Environment(
        path=path,
        kind=kind,
        target=target,
        user=context.user,
        untrusted=untrusted,
        packaged=_packaged(path),
        machine=platform.machine(),
        libc=_libc(),
    )
    if kind == "hidden":
        return replace(seen, target="", unanswered=f"{path}: {target}")
    if kind == "nothing":
        seen = replace(seen, beside=_beside(path))
    if not seen.stands:
        return _gone(seen, releases)
    if kind == "system":
        return _of_system(context, seen)
    release = next((one for one in releases if os.path.realpath(one.path) == target), None)
    seen = replace(
        seen,
        release=os.path.basename(target),
        kind="release" if release is not None else kind,
        unproven=_unproven(target, folder, release, untrusted),
        writable=_writable(target, context.account() if context.user is not None else None),
    )
    bare = seen
    seen, tree = _from_outside(context, seen, release)
    if tree is None or tree.interpreter is not None or os.path.exists(context.request.python):
        seen = _from_inside(context, seen, tree)
    if _another(context) and (seen.unreadable or seen.barrier or seen.silence):
        # What this user cannot read says nothing about the service's.
        return replace(bare, version=seen.version, unanswered=f"{os.geteuid()} is not the service's user")
    if tree is None and release is not None and not os.path.exists(context.request.python):
        tree = _inspect(context, target)
    if tree is None:
        return seen
    expected = release.manifest.packages if release is not None and release.manifest is not None else None
    observed = findings_of(tree, running=seen.running, expected=expected, version=seen.version or "")
    return replace(seen, observed=observed)


def _another(context: Context) -> bool:
    """Whether this process is neither root nor the service's user."""
    if os.geteuid() == 0 or context.user is None:
        return False
    try:
        return _files.account_of(context.user) is not None
    except SynapseError:
        return True


def _unproven(target: str, folder: str, release: Release | None, untrusted: str) -> str:
    """Say why a release under our folder does not count as proven, empty where it does or is none of ours."""
    if untrusted or os.path.dirname(target) != os.path.realpath(folder):
        return ""
    if release is not None and release.incomplete:
        return f"{os.path.join(target, MARKER)} says that it was never finished"
    if release is None and is_release_name(os.path.basename(target)):
        return f"{target} has no manifest (release.json) that can be trusted"
    return ""


def _of_system(context: Context, seen: Environment) -> Environment:
    """Look at a Synapse in the system's own Python: from the inside only, for its folders are everybody's."""
    request = {**_request(context, replace(seen, target="/nonexistent")), "versions": [_SYNAPSE]}
    try:
        answer = _ask(context, request)
    except SynapseError as error:
        if _busy(error) or _starts(context):
            return replace(seen, unanswered=_why(error))
        return replace(seen, silence=_why(error))
    return replace(
        seen,
        running=answer["version"],
        packages=answer["versions"],
        version=answer["versions"].get(_SYNAPSE),
        absent=answer["absent"],
        failed={name: error for name, error in answer["failed"].items() if not name.startswith("/")},
    )
