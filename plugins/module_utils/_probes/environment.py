# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says of an environment what only its own interpreter, as the service's user, can say.

Request, all of it optional: ``{"find": [module], "load": [module], "versions": [package], "compile": [path],
"importers": folder or null, "apps": bool}``; with ``apps`` Synapse's programs are imported, and little else is done.
Answer: ``{"version", "implementation", "prefix", "absent": {module: what of it cannot be found}, "failed": {module or
file: error}, "versions": {package: version}, "unreadable": [path], "uncompilable": {path: error}, "importers": {file:
whether it is guarded}}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import re
import signal
import sys
import typing as t

APPS = ("synapse.app.homeserver", "synapse.app.generic_worker")
# So many of a kind are told; one cause rarely needs more.
MOST = 50
PKG_RESOURCES = re.compile(rb"^([ \t]*)(?:import pkg_resources|from pkg_resources)\b", re.MULTILINE)


def absent(name: str) -> str:
    """Return the part of a module's name that cannot be found, empty where all can. Nothing is imported."""
    parts = name.split(".")
    path: t.Any = None
    for number in range(1, len(parts) + 1):
        part = ".".join(parts[:number])
        spec = None
        for finder in sys.meta_path:
            with contextlib.suppress(Exception):  # a finder of somebody else's
                spec = finder.find_spec(part, path)
            if spec is not None:
                break
        # A folder that cannot be read, or that has nothing to import, is found as a package without a file.
        if spec is None or (spec.origin is None and number == len(parts)):
            return part
        path = spec.submodule_search_locations
        if path is None and number < len(parts):
            return ".".join(parts[: number + 1])
    return ""


def extensions() -> t.Iterator[str]:
    """Return every compiled extension that this interpreter would load from the environment."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    for folder in [entry for entry in sys.path if entry.startswith(sys.prefix) and os.path.isdir(entry)]:
        for root, _folders, files in os.walk(folder):
            for name in sorted(files):
                if name.endswith(suffixes) and (".abi3." in name or ".cpython-" in name):
                    yield os.path.join(root, name)


def attempts(request: dict[str, t.Any]) -> t.Iterator[tuple[str, t.Callable[[], object]]]:
    """Return what is to be loaded, each with a name."""
    apps = bool(request.get("apps"))
    for path in () if apps else extensions():
        yield path, functools.partial(ctypes.CDLL, path)
    for name in APPS if apps else request.get("load", ()):
        yield name, functools.partial(importlib.import_module, name)


def reason(error: BaseException) -> str:
    """Return how an import failed, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def loaded(request: dict[str, t.Any]) -> dict[str, str]:
    """Load everything in a process of its own, which a damaged library may kill; return what failed, and how."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with open(writer, "w", encoding="utf-8") as stream:
            for name, attempt in attempts(request):
                stream.write(json.dumps(["begun", name]) + "\n")
                stream.flush()
                try:
                    attempt()
                except BaseException as error:  # whatever foreign code does, SystemExit too, is the finding
                    stream.write(json.dumps(["failed", name, reason(error)]) + "\n")
            stream.write(json.dumps(["ended"]) + "\n")
            stream.flush()
            os._exit(0)
    os.close(writer)
    failed: dict[str, str] = {}
    last: list[str] = []
    with open(reader, encoding="utf-8") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                last = json.loads(line)
                if last[0] == "failed":
                    failed[last[1]] = last[2]
    _pid, status = os.waitpid(child, 0)
    if last[:1] == ["begun"]:
        number = status & 0x7F
        how = f"code {status >> 8}"
        if number:
            with contextlib.suppress(ValueError):
                how = signal.Signals(number).name
        failed[last[1]] = f"it ended the interpreter ({how})"
    return failed


def unreadable() -> list[str]:
    """Return what of the environment this user cannot read, the uppermost of it."""
    found: list[str] = []
    waiting = [sys.prefix]
    while waiting and len(found) < MOST:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == "__pycache__":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if os.access(entry.path, os.R_OK | os.X_OK):
                            waiting.append(entry.path)
                        else:
                            found.append(entry.path)
                    elif not entry.is_symlink() and not os.access(entry.path, os.R_OK):
                        found.append(entry.path)
        except OSError:
            found.append(folder)
    return sorted(found)


def versions(names: t.Iterable[str]) -> dict[str, str]:
    """Return the version of each package that can be found, wherever it is installed."""
    if not names:
        return {}
    import importlib.metadata

    found = {}
    for name in names:
        with contextlib.suppress(Exception):  # metadata that is none
            version = importlib.metadata.version(name)
            if isinstance(version, str):
                found[name] = version
    return found


def uncompilable(paths: t.Iterable[str]) -> dict[str, str]:
    """Return the Python files that cannot be compiled, or are empty, and why."""
    found = {}
    for path in list(paths)[:MOST]:
        try:
            with open(path, "rb") as stream:
                source = stream.read(16 * 1024 * 1024)
            compile(source, path, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError) as error:
            found[path] = reason(error)
    return found


def importers(folder: str | None) -> dict[str, bool]:
    """Return the files that import ``pkg_resources``, and whether each can do without, as within a ``try``."""
    found: dict[str, bool] = {}
    if not folder:
        return found
    for root, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in {"__pycache__", "tests", "test"}
            and (root != folder or name not in {"pkg_resources", "setuptools", "pip", "_distutils_hack"})
        ]
        for name in names:
            if name.endswith(".py") and len(found) < MOST:
                path = os.path.join(root, name)
                with contextlib.suppress(OSError), open(path, "rb") as stream:
                    indents = PKG_RESOURCES.findall(stream.read(4 * 1024 * 1024))
                    if indents:
                        found[path] = all(indents)
    return found


def seen(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return the answer to one request."""
    missing = {name: absent(name) for name in request.get("find", ())}
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "prefix": sys.prefix,
        "absent": {name: part for name, part in missing.items() if part},
        "failed": loaded(request),
        "versions": versions(request.get("versions", ())),
        "unreadable": unreadable() if sys.prefix != sys.base_prefix and not request.get("apps") else [],
        "uncompilable": uncompilable(request.get("compile", ())),
        "importers": importers(request.get("importers")),
    }


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    sys.dont_write_bytecode = True
    with contextlib.redirect_stdout(sys.stderr):
        answer = seen(asked)
    sys.stdout.write(json.dumps(answer) + "\n")
