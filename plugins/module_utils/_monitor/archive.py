# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs the collection's own files into one executable archive (PEP 441). What is packed is what is imported."""

from __future__ import annotations

import io
import os
import sys
import typing as t
import zipfile

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pack", "sources_of"]

# The oldest time that the format knows, so that the same files make the same bytes.
_THEN = (1980, 1, 1, 0, 0, 0)
_MAIN = "import sys\n\nfrom {module} import main\n\nsys.exit(main())\n"


def sources_of(package: str) -> dict[str, str]:
    """Return the source of every loaded module below ``<package>.plugins.module_utils``, by its path in the archive.

    On a managed host they lie in an archive themselves, whose loader can tell the source. Raises ``SynapseError``.
    """
    found = {}
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(f"{package}.plugins.module_utils."):
            continue
        spec = getattr(module, "__spec__", None)
        get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
        source = get_source(name) if get_source is not None else None
        if source is None:
            raise SynapseError(f"The collection's own part {name!r} did not come along to this host: install it anew.")
        path = name.replace(".", "/")
        found[
            f"{path}/__init__.py" if spec is not None and spec.submodule_search_locations is not None else f"{path}.py"
        ] = source
    return found


def _folders(paths: t.Iterable[str]) -> set[str]:
    """Return every folder above the paths: each has to be a package of its own in an archive."""
    found = set()
    for path in paths:
        folder = os.path.dirname(path)
        while folder:
            found.add(folder)
            folder = os.path.dirname(folder)
    return found


def pack(sources: Mapping[str, str], module: str, interpreter: str) -> bytes:
    """Return an archive that runs ``main()`` of ``module``, with its own exit status, by ``interpreter``."""
    files = {f"{folder}/__init__.py": "" for folder in _folders(sources)}
    files.update(sources)
    files["__main__.py"] = _MAIN.format(module=module)
    buffer = io.BytesIO()
    buffer.write(f"#!{interpreter} -I\n".encode())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _THEN)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[path])
    return buffer.getvalue()
