# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in an environment's folder, read from the outside: no pip, no import, nothing written.

Two depths. ``fingerprint`` looks at every file's name, size, time and mode once; where it equals the one that was
taken when the release was proven, nothing has changed since. ``inspect`` reads what installers leave behind
(``METADATA``, ``RECORD``) and compares it with the files; it costs about a second and is for everything else.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import stat
import time
import typing as t
from base64 import urlsafe_b64encode
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _index
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import canonical
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = ["Distribution", "Tree", "fingerprint", "inspect", "interpreter_stamp", "wants_of"]

# Larger than any file of a package.
_LIMIT = 1024 * 1024 * 1024
_SHEBANG = re.compile(rb"#!\s*(/\S*python[0-9.]*)\s")
_EXTENSION = re.compile(r"\.cpython-(\d+)\w*(?:-[\w-]+)?\.so$")


@dataclass(frozen=True)
class Distribution:
    """One installed package. ``complete`` is false where its METADATA or RECORD is missing.

    ``missing`` and ``altered`` are files of its RECORD that are absent, or differ in size or hash. ``requires`` are the
    names of what it wants, with whatever extra, ``wants`` the lines that say so, ``pythons`` the versions of Python
    that it is for; ``origin`` is empty unless an address or a folder was installed from.
    """

    name: str
    version: str
    complete: bool = True
    missing: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    origin: str = ""
    wants: tuple[str, ...] = ()
    pythons: str = ""


@dataclass(frozen=True)
class Tree:
    """What was seen of an environment. Paths are relative to it, except ``interpreter`` and ``base``.

    ``interpreter`` is ``bin/python`` with all links followed, ``None`` where that leads nowhere; ``base`` is where the
    first dangling link points. ``libraries`` are the minor versions of the ``lib/python3.X`` folders, ``modules`` the
    names that can be imported from there, whomever they belong to.
    """

    path: str
    interpreter: str | None
    base: str
    config_version: str
    libraries: tuple[str, ...]
    distributions: tuple[Distribution, ...]
    leftovers: tuple[str, ...]
    extensions: dict[str, int]
    unreadable: tuple[str, ...]
    scripts_elsewhere: tuple[str, ...]
    noexec: bool
    modules: frozenset[str] = frozenset()

    @property
    def packages(self) -> dict[str, str]:
        """Version by name."""
        return {found.name: found.version for found in self.distributions}


def interpreter_stamp(path: str) -> str:
    """Return size and time of an interpreter, which change when the system replaces it; empty where it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def fingerprint(path: str, skip: t.Container[str] = ()) -> str:
    """Return a digest of every file's name, kind, mode, size and time; ``__pycache__`` and ``skip`` do not count.

    Empty where a folder cannot be read. One ``lstat`` for each file, none is opened. Thousands of times: so each folder
    is opened once, that the kernel need not look for it again with every name in it, and nothing is computed twice.
    """
    rows: list[str] = []
    waiting = [""]
    try:
        while waiting:
            folder = waiting.pop()
            handle = os.open(f"{path}/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(handle) as entries:
                    for entry in entries:
                        name = entry.name
                        # What an interpreter leaves behind; and a folder's own time changes with it.
                        if name == "__pycache__" or (not folder and name in skip):
                            continue
                        found = entry.stat(follow_symlinks=False)
                        mode = found.st_mode
                        if stat.S_ISDIR(mode):
                            waiting.append(f"{folder}{name}/")
                            rows.append("%s%s %d" % (folder, name, mode))  # noqa: UP031  (the fastest form)
                        else:
                            facts = (folder, name, mode, found.st_size, found.st_mtime_ns)
                            rows.append("%s%s %d %d %d" % facts)  # noqa: UP031  (the fastest form)
            finally:
                os.close(handle)
    except OSError:
        return ""
    rows.sort()
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()


def _config(path: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in _text(os.path.join(path, "pyvenv.cfg")).splitlines():
        name, found, value = line.partition("=")
        if found:
            values[name.strip().lower()] = value.strip()
    return values


def _text(path: str) -> str:
    """Return the text of a regular file; empty where there is none, or NUL bytes, as a power loss leaves them."""
    try:
        data = _files.read(path) or b""
    except SynapseError:
        return ""
    return "" if b"\0" in data else data.replace(b"\r\n", b"\n").decode("utf-8", "surrogateescape")


def _header(metadata: str, name: str) -> str:
    found = re.search(rf"^{name}:[ \t]*(.*)$", metadata.split("\n\n", 1)[0], re.MULTILINE)
    return found[1].strip() if found else ""


def wants_of(metadata: str) -> tuple[str, ...]:
    """Return the lines that say what a package wants, as a METADATA has them."""
    head = metadata.split("\n\n", 1)[0]
    return tuple(line.strip() for line in re.findall(r"^Requires-Dist:(.*)$", head, re.MULTILINE))


def _requires(wants: tuple[str, ...]) -> frozenset[str]:
    """Return the names of what a package wants, with whatever extra."""
    found = (re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line) for line in wants)
    return frozenset(canonical(name[0]) for name in found if name)


def _origin(folder: str) -> str:
    """Return what a package was installed from where that was no index (PEP 610), without passwords."""
    text = _text(os.path.join(folder, "direct_url.json"))
    try:
        return _index.without_secrets(str(json.loads(text)["url"])) if text else ""
    except (ValueError, KeyError, TypeError):
        return "an address that cannot be read"


def _altered(path: str, size: str, digest: str, until: float) -> bool:
    status = os.stat(path)  # raises where the file is missing, whatever the record says of it
    # The environment's owner decides what the record names: a device or a pipe is not even opened.
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
        return True
    if size.isdigit() and status.st_size != int(size):
        return True
    if not digest.startswith("sha256=") or time.monotonic() > until:
        return False
    found = urlsafe_b64encode(_digest(path)).rstrip(b"=").decode()
    return found != digest[len("sha256=") :]


def _digest(path: str) -> bytes:
    whole = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(handle, "rb") as stream:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            left = _LIMIT
            while left > 0:
                piece = stream.read(1024 * 1024)
                if not piece:
                    break
                whole.update(piece)
                left -= len(piece)
    return whole.digest()


def _rows(record: str) -> list[list[str]]:
    """Read a RECORD; what is none has no rows."""
    try:
        return [row for row in csv.reader(record.splitlines()) if row and not row[0].endswith(".pyc")]
    except csv.Error:
        return []


def _distribution(packages: str, folder: str, until: float) -> Distribution:
    """Read one ``.dist-info`` folder and compare its RECORD with the files."""
    stem = folder[: -len(".dist-info")].rpartition("-")
    metadata = _text(os.path.join(packages, folder, "METADATA"))
    record = _text(os.path.join(packages, folder, "RECORD"))
    name = canonical(_header(metadata, "Name") or stem[0])
    version = _header(metadata, "Version") or stem[2]
    missing: list[str] = []
    altered: list[str] = []
    rows = _rows(record)
    for file, digest, size in (([*row, "", ""])[:3] for row in rows):
        path = os.path.join(packages, file)
        try:
            if _altered(path, size, digest, until):
                altered.append(file)
        except OSError:
            missing.append(file)
    complete = bool(metadata) and bool(rows)
    files = frozenset(row[0] for row in rows if not row[0].startswith(folder))
    origin = _origin(os.path.join(packages, folder))
    wants = wants_of(metadata)
    pythons = _header(metadata, "Requires-Python")
    return Distribution(
        name, version, complete, tuple(missing), tuple(altered), files, _requires(wants), origin, wants, pythons
    )


def _scripts_elsewhere(path: str) -> list[str]:
    """Return scripts whose first line names an interpreter outside this environment."""
    found = []
    folder = os.path.join(path, "bin")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        script = os.path.join(folder, name)
        if os.path.islink(script) or not os.path.isfile(script):
            continue
        try:
            with open(script, "rb") as stream:
                shebang = _SHEBANG.match(stream.read(512))
        except OSError:
            continue
        if shebang and os.path.realpath(os.path.dirname(os.fsdecode(shebang[1]))) != os.path.realpath(folder):
            found.append(os.path.join("bin", name))
    return found


def _unreadable(path: str) -> tuple[list[str], dict[str, int]]:
    """Return what belongs to root and other users cannot read, and the compiled extensions by Python version."""
    hidden: list[str] = []
    extensions: dict[str, int] = {}
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == "__pycache__":
                        continue
                    mode = entry.stat(follow_symlinks=False)
                    is_folder = stat.S_ISDIR(mode.st_mode)
                    if is_folder:
                        waiting.append(entry.path)
                    needed = 0o005 if is_folder else 0o004
                    if mode.st_uid == 0 and not stat.S_ISLNK(mode.st_mode) and mode.st_mode & needed != needed:
                        hidden.append(os.path.relpath(entry.path, path))
                    tag = _EXTENSION.search(entry.name)
                    if tag:
                        extensions[tag[1]] = extensions.get(tag[1], 0) + 1
        except OSError:
            hidden.append(os.path.relpath(folder, path))
    return sorted(hidden), extensions


def _dangling(path: str) -> str:
    """Follow the links of a path and return the first target that does not exist, or the end."""
    for _step in range(40):
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path


def _minor(folder: str) -> str:
    return folder[len("python") :]


def inspect(path: str, until: float = math.inf) -> Tree:
    """Look closely at the environment in a folder; whatever cannot be read shows in the result.

    Past the instant ``until``, on the monotonic clock, files are compared by their size alone.
    """
    python = os.path.join(path, "bin", "python")
    interpreter = os.path.realpath(python)
    try:
        names = sorted(os.listdir(os.path.join(path, "lib")))
    except OSError:
        names = []
    libraries = [name for name in names if re.fullmatch(r"python\d+\.\d+", name)]
    distributions: list[Distribution] = []
    leftovers: list[str] = []
    modules: set[str] = set()
    for library in libraries:
        packages = os.path.join(path, "lib", library, "site-packages")
        try:
            entries = sorted(os.listdir(packages))
        except OSError:
            continue
        distributions += [_distribution(packages, name, until) for name in entries if name.endswith(".dist-info")]
        leftovers += [name for name in entries if name.startswith("~")]
        modules |= {name[:-3] if name.endswith(".py") else name for name in entries}
    hidden, extensions = _unreadable(path)
    config = _config(path)
    try:
        noexec = bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        noexec = False
    return Tree(
        path=path,
        interpreter=interpreter if os.path.isfile(interpreter) else None,
        base=_dangling(python),
        config_version=config.get("version") or config.get("version_info", ""),
        libraries=tuple(_minor(name) for name in libraries),
        distributions=tuple(distributions),
        leftovers=tuple(leftovers),
        extensions=extensions,
        unreadable=tuple(hidden),
        scripts_elsewhere=tuple(_scripts_elsewhere(path)),
        noexec=noexec,
        modules=frozenset(name for name in modules if name.isidentifier()),
    )
