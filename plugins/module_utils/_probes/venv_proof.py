# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves an environment from the inside: packages, requirements, compiled extensions, Synapse's own checks.

Request: ``{"expected": {name: version} or null, "extras": [...], "imports": bool,
"plugins": {name: [module or class]}}``, the last one optional. Answer: ``{"python", "prefix",
"packages": {name: version}, "problems": [{"id", "evidence"}]}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import traceback
import typing as t

# Synapse's two programs; every other app module is the worker under another name (synapse/app/, 1.163.2).
APPS = ("synapse.app.homeserver", "synapse.app.generic_worker")


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def problem(kind: str, evidence: str) -> dict[str, str]:
    """Return one problem."""
    return {"id": kind, "evidence": evidence}


def installed() -> tuple[dict[str, str], list[t.Any], list[dict[str, str]]]:
    """Return version by name, the distributions, and what is wrong with their number."""
    packages: dict[str, str] = {}
    found: list[t.Any] = []
    problems = []
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if not name:
            problems.append(problem("distribution_incomplete", f"a distribution without a name: {distribution}"))
            continue
        if canonical(name) in packages:
            problems.append(problem("distribution_duplicate", f"{name} is installed more than once"))
        packages[canonical(name)] = distribution.version
        found.append(distribution)
    return packages, found, problems


def against(expected: dict[str, str], packages: dict[str, str]) -> list[dict[str, str]]:
    """Compare what is installed with what the lock says."""
    problems = [
        problem("distribution_missing", f"{name} {version} is in the lock and not installed")
        for name, version in sorted(expected.items())
        if name not in packages
    ]
    problems += [
        problem("distribution_version", f"{name} is {packages[name]}, the lock says {version}")
        for name, version in sorted(expected.items())
        if name in packages and packages[name] != version
    ]
    problems += [
        problem("distribution_foreign", f"{name} {version} is installed and not in the lock")
        for name, version in sorted(packages.items())
        if name not in expected
    ]
    return problems


def requirements(packages: dict[str, str], distributions: list[t.Any]) -> list[dict[str, str]]:
    """Check every distribution's requirements, extras apart: what ``pip check`` does."""
    problems = []
    for distribution in distributions:
        name = distribution.metadata["Name"]
        for text in distribution.requires or ():
            from packaging.requirements import Requirement  # a dependency of Synapse

            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            version = packages.get(canonical(wanted.name))
            if version is None and canonical(wanted.name) == "psycopg2":
                # The same module, built: what is compiled from source stands for what is not.
                version = packages.get("psycopg2-binary")
            if version is None:
                problems.append(problem("requirement_missing", f"{name} needs {text}, which is not installed"))
            elif not wanted.specifier.contains(version, prereleases=True):
                problems.append(problem("requirement_version", f"{name} needs {text}, found {version}"))
    return problems


def extensions() -> list[dict[str, str]]:
    """Load every compiled extension that this interpreter would load."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    problems = []
    for folder in [entry for entry in sys.path if entry.startswith(sys.prefix) and os.path.isdir(entry)]:
        for root, _folders, files in os.walk(folder):
            for name in files:
                path = os.path.join(root, name)
                if name.endswith(suffixes) and (".abi3." in name or ".cpython-" in name):
                    try:
                        ctypes.CDLL(path)
                    except OSError as error:
                        problems.append(problem("extension_unloadable", str(error)))
                elif re.search(r"\.cpython-\d+\w*(-[\w-]+)?\.so$", name):
                    problems.append(problem("extension_mismatch", f"{path} is for another Python"))
    return problems


def importers_of_pkg_resources(distributions: list[t.Any]) -> list[str]:
    """Return the packages that import ``pkg_resources`` at the top level of a module, setuptools itself apart."""
    pattern = re.compile(rb"^(?:import pkg_resources|from pkg_resources|__import__\(.pkg_resources)", re.MULTILINE)
    found = set()
    for distribution in distributions:
        name = canonical(distribution.metadata["Name"])
        if name in {"setuptools", "pip"}:
            continue
        for file in distribution.files or ():
            text = str(file)
            if text.endswith(".py") and "/tests/" not in f"/{text}" and "/test/" not in f"/{text}":
                with contextlib.suppress(OSError), open(str(distribution.locate_file(file)), "rb") as stream:
                    if pattern.search(stream.read()):
                        found.add(name)
    return sorted(found)


def pkg_resources(packages: dict[str, str], distributions: list[t.Any]) -> list[dict[str, str]]:
    """Report a missing ``pkg_resources`` where, and only where, something installed imports it."""
    version = packages.get("setuptools")
    # setuptools 82 removed the module.
    if version is not None and int(re.split(r"\D", version)[0]) < 82:
        return []
    names = importers_of_pkg_resources(distributions)
    if not names:
        return []
    state = "setuptools is not installed" if version is None else f"setuptools {version} no longer has it"
    return [problem("pkg_resources_missing", f"{', '.join(names)} import pkg_resources; {state}")]


def load(what: str, action: t.Callable[[], object]) -> list[dict[str, str]]:
    """Run one import or check and report how it failed."""
    try:
        action()
    except Exception as error:  # any failure of foreign code is the finding
        text = str(error) or type(error).__name__
        return [problem("import_failed", f"{what}: {type(error).__name__}: {text}"[:1000])]
    except SystemExit as error:
        return [problem("import_failed", f"{what}: it ended the interpreter ({error.code})"[:1000])]
    return []


def check_requirements(extras: list[str]) -> None:
    """Ask Synapse itself (synapse/util/check_dependencies.py, 1.163.2)."""
    checker = importlib.import_module("synapse.util.check_dependencies").check_requirements
    checker()
    for extra in extras:
        checker(extra)


def synapse(distributions: list[t.Any], extras: list[str]) -> list[dict[str, str]]:
    """Import Synapse's programs and entry points, and run its own dependency check."""
    problems = []
    for name in APPS:
        problems += load(name, functools.partial(importlib.import_module, name))
    problems += load("Synapse's own dependency check", lambda: check_requirements(extras))
    for distribution in distributions:
        if canonical(distribution.metadata["Name"]) == "matrix-synapse":
            for entry in distribution.entry_points:
                if entry.group == "console_scripts":
                    problems += load(f"the script {entry.name}", entry.load)
    if importlib.util.find_spec("psycopg2") is not None:
        problems += load("psycopg2", lambda: importlib.import_module("psycopg2"))
    return problems


def load_class(name: str) -> object:
    """Import a module, or as Synapse does a class in one (synapse/util/module_loader.py, 1.163.2)."""
    module, _dot, member = name.rpartition(".")
    return getattr(importlib.import_module(module), member) if module else importlib.import_module(name)


def plugins(wanted: dict[str, list[str]]) -> list[dict[str, str]]:
    """Import the modules of plugins; what one of them does wrong begins with its name."""
    problems = []
    for name, modules in wanted.items():
        for module in modules:
            found = load(module, functools.partial(load_class, module))
            problems += [problem("plugin_import_failed", f"{name}: {one['evidence']}") for one in found]
    return problems


def byte_compile(package: str) -> None:
    """Compile a package as its import does, the last module first: what another process imports meanwhile is spared."""
    spec = importlib.util.find_spec(package)
    files = []
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for root, folders, names in os.walk(folder):
            folders.sort()
            files += [os.path.join(root, name) for name in sorted(names) if name.endswith(".py")]
    for path in reversed(files):
        target = importlib.util.cache_from_source(path)
        if not os.path.exists(target):
            # Nothing is said about a file that cannot be compiled: whoever imports it says so.
            with contextlib.suppress(SyntaxError, ValueError, OSError):
                importlib.machinery.SourceFileLoader(package, path).get_code(package)


def apart(action: t.Callable[[], list[dict[str, str]]]) -> t.Callable[[], list[dict[str, str]]]:
    """Start a check in a process of its own; return what waits for its problems."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with open(writer, "w", encoding="utf-8") as stream:
                json.dump(action(), stream)
            code = 0
        except BaseException:  # nothing may return into the parent's copy
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)

    def wait() -> list[dict[str, str]]:
        with open(reader, encoding="utf-8") as stream:
            text = stream.read()
        _pid, status = os.waitpid(child, 0)
        if status != 0:
            signal = status & 0x7F
            how = f"signal {signal} ended them" if signal else "see the output"
            return [problem("probe_died", f"the checks beside the imports did not end: {how}")]
        found: list[dict[str, str]] = json.loads(text)
        return found

    return wait


def without_imports(packages: dict[str, str], distributions: list[t.Any]) -> list[dict[str, str]]:
    """Check what can be checked without importing Synapse."""
    problems = load_all("the requirements", lambda: requirements(packages, distributions))
    problems += pkg_resources(packages, distributions)
    problems += extensions()
    return problems


def load_all(what: str, action: t.Callable[[], list[dict[str, str]]]) -> list[dict[str, str]]:
    """Return the problems that a check finds, or how it failed itself."""
    problems: list[dict[str, str]] = []
    failed = load(what, lambda: problems.extend(action()))
    return failed + problems


def beside(packages: dict[str, str], distributions: list[t.Any]) -> list[dict[str, str]]:
    """Do what another processor can do while Synapse is imported."""
    byte_compile("synapse")
    return without_imports(packages, distributions)


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def prove(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return the answer to one request."""
    packages, distributions, problems = installed()
    if "matrix-synapse" not in packages:
        problems.append(problem("synapse_missing", "matrix-synapse is not installed"))
    if "psycopg2" in packages and "psycopg2-binary" in packages:
        problems.append(problem("psycopg2_conflict", "psycopg2 and psycopg2-binary own the same files"))
    if request["expected"] is not None:
        problems += against(request["expected"], packages)
    wait: t.Callable[[], list[dict[str, str]]] = functools.partial(without_imports, packages, distributions)
    if request["imports"]:
        if processors() > 1:
            wait = apart(functools.partial(beside, packages, distributions))
        # Nothing that an import makes is garbage.
        gc.disable()
        problems += synapse(distributions, request["extras"])
        problems += plugins(request.get("plugins") or {})
    problems += wait()
    return {"python": platform.python_version(), "prefix": sys.prefix, "packages": packages, "problems": problems}


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    with contextlib.redirect_stdout(sys.stderr):
        answer = prove(asked)
    sys.stdout.write(json.dumps(answer) + "\n")
