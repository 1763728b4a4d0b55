# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Synapse in a folder of wheels: installed in a tenth of a second, proven like the real one.

It has what the proof of an environment asks Synapse for, and nothing else: the two programs, the dependency check
and a script. So tests of the environment's life need no index and little time.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import shutil
import subprocess
import sys
import typing as t
import zipfile
from pathlib import Path

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION

CHECK = """
def check_requirements(extra=None):
    if extra == "never":
        raise RuntimeError("never installed")
"""


def wheel(folder: Path, name: str, version: str, files: dict[str, str], *, requires: t.Sequence[str] = ()) -> Path:
    """Write one pure wheel; ``files`` are texts by path."""
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {x}" for x in requires)]
    whole = {
        **files,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in whole.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    whole[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    target = folder / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in whole.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return target


def synapse_wheel(folder: Path, version: str, **changes: str) -> Path:
    """Write a wheel that passes for Synapse; ``changes`` replace files by the last part of their name."""
    files = {
        "synapse/__init__.py": f'__version__ = "{version}"\n',
        "synapse/app/__init__.py": "",
        "synapse/app/homeserver.py": "def main():\n    pass\n",
        "synapse/app/generic_worker.py": "def main():\n    pass\n",
        "synapse/util/__init__.py": "",
        "synapse/util/check_dependencies.py": CHECK,
        f"matrix_synapse-{version}.dist-info/entry_points.txt": (
            "[console_scripts]\nsynapse_homeserver = synapse.app.homeserver:main\n"
        ),
    }
    for name, text in changes.items():
        files[next(path for path in files if path.endswith(f"/{name}.py"))] = text
    return wheel(folder, "matrix-synapse", version, files)


def lock_of(*wheels: Path) -> str:
    """Return the lock of some wheels."""
    lines = []
    for path in wheels:
        name, version = path.name.split("-")[:2]
        lines.append(
            f"{name.replace('_', '-')}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        )
    return "\n".join(lines) + "\n"


@functools.cache
def _uv() -> str:
    """Return the path of uv, in the pinned version and no other."""
    beside = Path(sys.executable).parent / "uv"
    program = str(beside) if beside.exists() else shutil.which("uv") or ""
    said = subprocess.run([program or "uv", "--version"], capture_output=True, text=True, check=False).stdout
    assert said.split()[1:2] == [UV_VERSION], (
        f"uv {UV_VERSION} is needed beside the interpreter or on PATH, found {said}"
    )
    return program


def place_uv(releases: Path) -> None:
    """Put uv where the module keeps it, so that nothing has to be fetched; a link, for a copy is 60 MB to be synced."""
    folder = releases / ".tools" / f"uv-{UV_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "uv").symlink_to(_uv())


def put_back(kept: Path, folder: Path) -> None:
    """Make a folder what its copy ``kept`` is, with every time and mode: an environment that is built once serves many
    tests. It must have the path that it was built at, because its scripts name it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder, symlinks=True)
