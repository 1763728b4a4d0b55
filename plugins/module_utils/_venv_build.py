# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boundary of the environment's decisions: looks at the host, builds a release, proves it, shows it, prunes.

Nothing here writes to what is live. A release is built in its own folder, which carries a marker from its first
instant; the manifest is written, and the marker removed, only after the proof and after everything is on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pwd
import shlex
import shutil
import stat
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _venv_tree
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import (
    ADOPTED,
    LOCK_FILE,
    MANIFEST,
    MARKER,
    TOOLS,
    Manifest,
    Release,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Account,
    Runner,
    SynapseError,
    ask_python,
    probe_source,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import Finding, Live, Seen, findings_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import (
    Plugin,
    found_in,
    remembered,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Installer

    # Named here so that Ansible sends them along; they are read, not imported.
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import (  # noqa: F401
        venv_interpreter,
        venv_proof,
    )

__all__ = [
    "LOCK_NAME",
    "Interpreter",
    "Proof",
    "UnprovenError",
    "activate",
    "adopted_path",
    "build",
    "check_room",
    "choose_python",
    "discard",
    "held",
    "live_at",
    "look",
    "releases_in",
    "run_down",
    "tidy",
]

LOCK_NAME = "lock.txt"
# An environment takes about 250 MB, its wheels as much again while they are unpacked.
_ROOM = 600 * 1024 * 1024
_WAIT = 90.0
_DIRECTORIES = ("/usr/bin", "/usr/local/bin")


class UnprovenError(SynapseError):
    """A finished build that failed its proof; ``findings`` say how."""

    def __init__(self, msg: str, findings: tuple[Finding, ...]) -> None:
        super().__init__(msg, problems=[{"id": one.id, "evidence": one.evidence} for one in findings])
        self.findings = findings


@dataclass(frozen=True)
class Interpreter:
    """An interpreter to build from, with the values of its environment markers."""

    path: str
    version: str
    ensurepip: bool
    markers: Mapping[str, str]


@dataclass(frozen=True)
class Proof:
    """What a release has to pass, and what its manifest says of it."""

    version: str
    lock_digest: str
    request: str
    expected: Mapping[str, str]
    extras: tuple[str, ...]
    plugins: tuple[Plugin, ...] = ()


# ------------------------------------------------------------------------------------------------------------ observe


def _ours(path: str) -> bool:
    """Whether ``path`` is a folder that nobody but root and this user can write in."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    me = os.geteuid()
    # A user's own group is the user again, and its umask often 002.
    writable = 0o002 if me != 0 and found.st_uid == me else 0o022
    return stat.S_ISDIR(found.st_mode) and found.st_uid in {0, me} and not found.st_mode & writable


def _untrusted(path: str, link: str) -> str:
    """Say what to type where what lies in a folder could be another user's; nothing in it is believed again.

    ``link`` is where the environment that serves is found: it has to lead there still, until there is another.
    """
    aside, number = f"{path}.untrusted", 1
    while os.path.lexists(aside):
        number += 1
        aside = f"{path}.untrusted-{number}"
    commands = [f"mv {shlex.quote(path)} {shlex.quote(aside)}"]
    target = os.path.realpath(link) if os.path.islink(link) else ""
    if target.startswith(f"{os.path.realpath(path)}/"):
        moved = os.path.join(aside, os.path.relpath(target, os.path.realpath(path)))
        commands.append(f"ln -sfn {shlex.quote(moved)} {shlex.quote(link)}")
    return (
        f"{path} can be written by another user than root and this one ({_owner_and_mode(path)}), so what lies in it "
        "cannot be trusted, and root would start it. Giving it back to root does not help: what was put there stays. "
        f"Type as root: {' && '.join(commands)}; then run this again, which builds anew in a folder of root's own, "
        f"beside what serves. Remove {aside} once the new release serves. Nothing was changed."
    )


def _owner_and_mode(path: str) -> str:
    try:
        found = os.lstat(path)
    except OSError:
        return "it is gone"
    owner = str(found.st_uid)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(found.st_uid).pw_name
    return f"owner {owner}, mode {found.st_mode & 0o7777:04o}"


def releases_in(folder: str, link: str = "") -> tuple[tuple[Release, ...], tuple[str, ...]]:
    """Return our releases under ``folder``, sorted by name, and every name there.

    A release says of itself that it is one, and its interpreter is started: so what another user could have put there
    does not count, and where that is the folder itself or its tools, ``SynapseError`` is raised, with what to type.
    ``link`` is where the environment that serves is found.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return (), ()
    except OSError as error:
        raise SynapseError(f"Cannot read {_files.describe(folder, error)}: run the task as root.") from error
    for path in (os.path.realpath(folder), *(os.path.join(folder, name) for name in names if name == TOOLS)):
        if not _ours(path):
            raise SynapseError(_untrusted(path, link))
    found = []
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith((".", ADOPTED)) or not _ours(path):
            continue
        incomplete = os.path.lexists(os.path.join(path, MARKER))
        manifest = Manifest.from_json(_files.read(os.path.join(path, MANIFEST)))
        if incomplete or manifest is not None:
            found.append(Release(name, path, manifest, incomplete))
    # Such a link is what an interrupted exchange left: its name is not taken.
    left = [name for name in names if name.startswith(ADOPTED) and os.path.islink(os.path.join(folder, name))]
    return tuple(found), tuple(name for name in names if name not in left)


def _version_of(run: Runner, python: str, account: Account | None = None) -> str:
    """Return the version that an interpreter states, empty where it does not start."""
    try:
        answer = ask_python(run, python, probe_source("venv_interpreter"), {}, account=account, timeout=60)
    except SynapseError:
        return ""
    return str(answer.get("version", ""))


def look(run: Runner, release: Release) -> Seen:
    """Look at a proven release: at every file's name, size, time and mode; closely only where these have changed."""
    manifest = release.manifest
    if manifest is None:
        return Seen(findings=(Finding("release_unproven", f"{release.path} carries no manifest"),))
    python = os.path.join(release.path, "bin", "python")
    same = fingerprint_of(release.path) == manifest.tree
    if same and _venv_tree.interpreter_stamp(python) == manifest.python_stamp:
        return Seen(manifest.packages)
    running = _version_of(run, python)
    if same and running.split(".")[:2] == manifest.python_version.split(".")[:2]:
        return Seen(manifest.packages)
    tree = _venv_tree.inspect(release.path)
    findings = findings_of(tree, running=running, expected=manifest.packages, version=manifest.version)
    return Seen(tree.packages, findings)


def _look_at_foreign(run: Runner, path: str, version: str, named: tuple[str, ...]) -> Seen:
    """Look at an environment that is not ours; its code runs as the folder's owner, never as root for a user's file."""
    tree = _venv_tree.inspect(path)
    owner = os.stat(path)
    account = None
    if os.geteuid() == 0 and owner.st_uid != 0:
        account = Account(owner.st_uid, owner.st_gid)
    python = os.path.join(path, "bin", "python")
    running = _version_of(run, python, account) if tree.interpreter else ""
    findings = list(findings_of(tree, running=running, expected=None, version=version))
    known = {one.id for one in findings}
    if running and not known & {"interpreter_changed", "synapse_missing"}:
        request: dict[str, object] = {"expected": None, "extras": [], "imports": False}
        with contextlib.suppress(SynapseError):
            answer = ask_python(run, python, probe_source("venv_proof"), request, account=account, timeout=120)
            findings += [Finding(**one) for one in answer["problems"] if one["id"] not in known]
    return Seen(tree.packages, tuple(findings), found_in(tree, named))


def live_at(
    run: Runner, path: str, releases: Sequence[Release], version: str, named: Callable[[], tuple[str, ...]] = tuple
) -> Live:
    """Say what ``path`` is, and what is wrong with it; ``named`` gives the classes that the configuration loads."""
    if not os.path.lexists(path):
        return Live("nothing")
    target = os.path.realpath(path)
    for release in releases:
        if os.path.islink(path) and os.path.realpath(release.path) == target:
            return Live("release", release.path, release.name, look(run, release))
    if os.path.islink(path) and not os.path.isdir(target):
        finding = Finding("link_dangling", f"{path} leads to {target}, which does not exist")
        return Live("link", target, "", Seen(findings=(finding,)))
    if not os.path.isdir(target):
        raise SynapseError(f"{path} is a file: an environment, or nothing, is expected there. Move it away.")
    kind = "link" if os.path.islink(path) else "folder"
    since = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(os.stat(target).st_mtime))
    return Live(kind, target, "", _look_at_foreign(run, target, version, named()), since)


def _facts(run: Runner, python: str) -> Interpreter | None:
    try:
        answer = ask_python(run, python, probe_source("venv_interpreter"), {}, timeout=60)
    except SynapseError:
        return None
    return Interpreter(answer["executable"], answer["version"], answer["ensurepip"], answer["markers"])


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def choose_python(run: Runner, named: str | None, floor: tuple[int, int], version: str) -> Interpreter:
    """Return the interpreter to build from: the one that is named, or the host's own, or its newest that is new enough.

    Raises ``SynapseError`` where there is none.
    """
    needed = f"Synapse {version} needs Python {floor[0]}.{floor[1]} or newer"
    if named is not None:
        found = _facts(run, named)
        if found is None:
            raise SynapseError(f"{needed}; {named} is missing or does not start. Install it, or correct 'python'.")
        if _minor(found.version) < floor:
            raise SynapseError(f"{needed}; {named} is Python {found.version}. Name a newer one with 'python'.")
        return found
    seen: list[str] = []
    tried: set[str] = set()
    names = ["python3", *(f"python3.{minor}" for minor in range(20, floor[1] - 1, -1))]
    paths = [os.path.join(folder, name) for name in names for folder in _DIRECTORIES]
    paths += [path for path in (shutil.which(name) for name in names) if path is not None]
    for path in paths:
        real = os.path.realpath(path)
        if real in tried or not os.access(real, os.X_OK):
            continue
        tried.add(real)
        found = _facts(run, path)
        if found is not None and _minor(found.version) >= floor:
            return found
        if found is not None:
            seen.append(f"{path} ({found.version})")
    listed = ", ".join(seen) or "no Python 3 at all"
    raise SynapseError(f"{needed}; this host has {listed}. Install a newer Python and name it with 'python'.")


# -------------------------------------------------------------------------------------------------------------- apply


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def check_room(folder: str, *, need: int = _ROOM) -> None:
    """Refuse early where a release cannot be built: no right to write, no space, or a file system mounted noexec."""
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SynapseError(
            f"Cannot write to {existing}, where releases are built: run the task as root, or name a folder of your own "
            "with 'releases_path' and 'path'. Nothing was changed."
        )
    found = os.statvfs(existing)
    if found.f_flag & os.ST_NOEXEC:
        raise SynapseError(
            f"{existing} is on a file system mounted noexec, where no compiled extension loads: name a folder on "
            "another one with 'releases_path'. Nothing was changed."
        )
    free = found.f_bavail * found.f_frsize
    if free < need:
        raise SynapseError(
            f"The disk is too full for a new environment: {existing} has {free // 2**20} MB free and needs "
            f"{need // 2**20} MB. Free some space, or name another folder with 'releases_path'. Nothing was changed."
        )


@contextlib.contextmanager
def held(folder: str, *, wait: float = _WAIT) -> Iterator[int]:
    """Hold the folder's lock, and yield its descriptor; every child has to inherit it.

    The lock ends with the last process that has it. So where a run was killed, its installer, which may still write, is
    waited for. Raises ``SynapseError`` after ``wait`` seconds.
    """
    _files.make_directory(folder, mode=0o755)
    path = os.path.join(folder, LOCK_FILE)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SynapseError(f"Cannot write {_files.describe(path, error)}. Nothing was changed.") from error
    try:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES} or time.monotonic() > until:
                    raise SynapseError(
                        f"Another run is building in {folder} (it holds {path}): wait for it to end and run again. "
                        "Nothing was changed."
                    ) from error
            time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)


def run_down(path: str) -> None:
    """Remove a folder with everything in it, links not followed; nothing happens where there is none."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SynapseError(f"Cannot remove {_files.describe(path, error)}.") from error


def discard(folder: str, path: str) -> None:
    """Remove a folder by one rename that takes it out of sight, so that nobody ever finds half of it.

    Half of a cache is as bad as half of a release: it would be installed from.
    """
    tools = os.path.join(folder, TOOLS)
    _files.make_directory(tools, mode=0o755)
    trash = os.path.join(tools, f"trash-{os.path.basename(path)}")
    run_down(trash)
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SynapseError(f"Cannot remove {_files.describe(path, error)}.") from error
    run_down(trash)


def tidy(folder: str) -> None:
    """Clear away what interrupted runs left that is neither a release nor a cache."""
    tools = os.path.join(folder, TOOLS)
    names = os.listdir(tools) if os.path.isdir(tools) else []
    for name in names:
        if name.startswith(("trash-", "new-")) or name == "scratch":
            run_down(os.path.join(tools, name))
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(ADOPTED) and os.path.islink(path):
            _files.remove(path)


def _begin(folder: str, name: str) -> str:
    """Create the release's folder, marked as unproven from its first instant."""
    tools = os.path.join(folder, TOOLS)
    new = os.path.join(tools, f"new-{name}")
    path = os.path.join(folder, name)
    _files.make_directory(new, mode=0o755)
    _files.write(os.path.join(new, MARKER), b"", mode=0o644)
    try:
        os.rename(new, path)
        _files.sync_directory(folder)
    except OSError as error:
        raise SynapseError(f"Cannot create {_files.describe(path, error)}. Nothing live was changed.") from error
    return path


class _Outside:
    """Looks at a release from the outside, in a thread, while its own interpreter proves it from the inside.

    ``spent`` are folders that the proof does not need, which are removed in that time, too.
    """

    def __init__(self, path: str, spent: Callable[[], object] | None) -> None:
        self._path, self._spent = path, spent
        self._thread: threading.Thread | None = None
        self._tree: _venv_tree.Tree | None = None
        self._seen = ""
        self._error: SynapseError | None = None

    def start(self) -> None:
        """Begin; nothing else may be forked from this process until the result has been fetched."""
        self._seen = fingerprint_of(self._path)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            self._tree = _venv_tree.inspect(self._path)
            if self._spent is not None:
                self._spent()
        except SynapseError as error:
            self._error = error

    def tree(self) -> _venv_tree.Tree:
        """Return what was seen, after another look where the imports left other files than they found."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._tree is None or fingerprint_of(self._path) != self._seen:
            self._tree = _venv_tree.inspect(self._path)
        return self._tree


def fingerprint_of(path: str) -> str:
    """Return the fingerprint of a release, as its manifest has it."""
    return _venv_tree.fingerprint(path, skip=(MANIFEST, MARKER))


def _prove(
    run: Runner, path: str, proof: Proof, interpreter: Interpreter, spent: Callable[[], object] | None = None
) -> None:
    """Prove a release from the inside, and every file of it from the outside. Raises ``UnprovenError``."""
    request = {
        "expected": dict(proof.expected),
        "extras": list(proof.extras),
        "imports": True,
        "plugins": {one.name: list(one.modules) for one in proof.plugins if one.carried},
    }
    python = os.path.join(path, "bin", "python")
    outside = _Outside(path, spent)
    try:
        answer = ask_python(run, python, probe_source("venv_proof"), request, cwd=path, meanwhile=outside.start)
        findings = tuple(Finding(**one) for one in answer["problems"])
    except SynapseError as error:
        code = error.details.get("rc", 0)
        how = f"signal {-code} ended it" if code < 0 else str(error.details.get("stderr", ""))[-600:].strip()
        findings = (Finding("probe_died", f"{error.msg}: {how}"),)
    tree = outside.tree()
    if not findings:
        running = interpreter.version
        findings = findings_of(tree, running=running, expected=proof.expected, version=proof.version)
    if findings:
        listed = "; ".join(one.evidence for one in findings[:4])
        more = f" ({len(findings) - 4} more in 'problems')" if len(findings) > 4 else ""
        raise UnprovenError(
            f"The new environment failed its proof and was removed; what is live was not touched: {listed}{more}. "
            "Correct the lock, the version or the extra packages, and run again.",
            findings,
        )


def _flush(path: str) -> None:
    """Put everything on the file system of ``path`` on disk, so that a manifest never outlives what it describes."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None or syncfs(handle) != 0:
            os.sync()
    finally:
        os.close(handle)


def build(
    run: Runner,
    installer: Installer,
    *,
    folder: str,
    name: str,
    lock: str,
    proof: Proof,
    interpreter: Interpreter,
    binary_only: bool,
    last: bool = True,
) -> Manifest:
    """Build the release ``name`` under ``folder`` from a lock's text, prove it, and make it ours to use.

    Where this is the ``last`` thing that is built, the cache goes while the release is being proven. Raises
    ``SynapseError``; the folder is gone then. Killed at any instant, it still carries the marker.
    """
    path = _begin(folder, name)
    cache = os.path.join(folder, TOOLS, "cache")
    try:
        locked = os.path.join(path, LOCK_NAME)
        _files.write(locked, lock.encode(), mode=0o644)
        installer.create(path)
        installer.install(path, locked, binary_only=binary_only)
        _prove(run, path, proof, interpreter, (lambda: discard(folder, cache)) if last else None)
        python = os.path.join(path, "bin", "python")
        manifest = Manifest(
            version=proof.version,
            lock_digest=proof.lock_digest,
            request=proof.request,
            python=interpreter.path,
            python_version=interpreter.version,
            python_stamp=_venv_tree.interpreter_stamp(python),
            packages=dict(proof.expected),
            installer=installer.name,
            proven_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            tree=fingerprint_of(path),
            plugins=remembered(proof.plugins),
        )
        _flush(path)
        _files.write(os.path.join(path, MANIFEST), manifest.to_json(), mode=0o644)
        _files.remove(os.path.join(path, MARKER))
    except (SynapseError, OSError) as error:
        with contextlib.suppress(SynapseError):
            discard(folder, path)
            # What was built from may be the fault, too.
            discard(folder, cache)
        if isinstance(error, OSError):
            raise SynapseError(
                f"Cannot build in {_files.describe(path, error)}. What is live was not touched."
            ) from error
        raise
    return manifest


def adopted_path(path: str, folder: str, name: str) -> str:
    """Return where the hand-made folder ``path`` is kept when it gives way: on its own file system, in any case."""
    beside = os.stat(path).st_dev == os.stat(_existing(folder)).st_dev
    return os.path.join(folder, name) if beside else f"{path}.{name}"


def _step_aside(path: str, kept: str, release: str) -> None:
    """Rename ``path`` to ``kept`` and put a link to ``release`` in its place, or leave everything as it was."""
    link = _files.stage_link(path, release)
    try:
        os.rename(path, kept)
        try:
            os.rename(link, path)
        except OSError:
            os.rename(kept, path)
            raise
        _files.sync_directory(os.path.dirname(path))
        _files.sync_directory(os.path.dirname(kept))
    except OSError as error:
        with contextlib.suppress(SynapseError):
            _files.remove(link)
        where = path if os.path.lexists(path) else kept
        raise SynapseError(f"Cannot move {_files.describe(path, error)}. What was there is at {where}.") from error


def activate(path: str, release: str, *, folder: str, adopt: str) -> str:
    """Point ``path`` at ``release`` by one rename; return where a hand-made folder that was there is kept now.

    Such a folder and the new link change places in one step. Where the file system cannot do that, two renames do it,
    and ``path`` is missing for an instant. Raises ``SynapseError``; ``path`` is then what it was.
    """
    _files.make_directory(os.path.dirname(path), mode=0o755)
    if not adopt:
        _files.replace_link(path, release)
        return ""
    for kept in (os.path.join(folder, adopt), f"{path}.{adopt}"):
        _files.replace_link(kept, release)
        try:
            _files.exchange(path, kept)
        except OSError as error:
            _files.remove(kept)
            if error.errno == errno.EXDEV:
                continue
            if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
                raise SynapseError(f"Cannot exchange {_files.describe(path, error)}. It is still in place.") from error
            _step_aside(path, kept, release)
        return kept
    raise SynapseError(f"Cannot move {path} aside: it is a mount point. Name another 'path'. It is still in place.")
