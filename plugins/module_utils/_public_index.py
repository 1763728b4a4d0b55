# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where packages come from when nobody says so: the public index, as the pip of this interpreter knows it.

The collection names no index of its own. pip is read, never imported: its installed package first, then the wheel
that ``ensurepip`` carries. Used on the controller and on the host alike.
"""

from __future__ import annotations

import ast
import glob
import importlib.util
import os
import sysconfig
import typing as t
import zipfile
from urllib.parse import urljoin

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["constant_in", "public_index", "sources"]

# Where pip (19.3 to 26) says "PyPI = PackageIndex(url, ...)"; the simple API lies at "simple" below that address.
_PLACE = "pip/_internal/models/index.py"
_DEBIAN = "/usr/share/python-wheels"


def constant_in(source: str) -> str:
    """Return the address of the simple API that pip's source names, empty where it names none."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return ""
    for one in statements:
        if not isinstance(one, ast.Assign) or not isinstance(one.value, ast.Call) or not one.value.args:
            continue
        names = [target.id for target in one.targets if isinstance(target, ast.Name)]
        url = one.value.args[0]
        if names == ["PyPI"] and isinstance(url, ast.Constant) and isinstance(url.value, str):
            return urljoin(url.value, "simple")
    return ""


def sources(packages: Iterable[str], wheels: Iterable[str]) -> Iterator[str]:
    """Yield what pip's module says in folders that packages lie in, then in folders that wheels lie in."""
    for folder in packages:
        try:
            with open(os.path.join(folder, _PLACE), encoding="utf-8") as stream:
                yield stream.read()
        except (OSError, UnicodeDecodeError):
            continue
    for folder in wheels:
        for wheel in sorted(glob.glob(os.path.join(glob.escape(folder), "pip-*.whl")), reverse=True):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    yield archive.read(_PLACE).decode("utf-8")
            except (OSError, KeyError, ValueError, zipfile.BadZipFile):
                continue


def _folders_of(package: str) -> list[str]:
    """Return the folders of a package of this interpreter, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return list((spec.submodule_search_locations if spec is not None else None) or ())


def public_index() -> str:
    """Return the address of the public index's simple API, empty where this interpreter has no pip that knows it."""
    wheels = [os.path.join(folder, "_bundled") for folder in _folders_of("ensurepip")]
    wheels += [folder for folder in (sysconfig.get_config_var("WHEEL_PKG_DIR"), _DEBIAN) if folder]
    packages = [os.path.dirname(folder) for folder in _folders_of("pip")]
    return next((url for url in map(constant_in, sources(packages, wheels)) if url), "")
