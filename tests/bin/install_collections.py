# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give this interpreter the collections that the tests use: this checkout, and a few out of the package ``ansible``.

That package carries them whole, so no collection server is asked. The checkout is linked, not copied: every tool that
looks along ``sys.path`` (ansible-core, molecule, ansible-lint, antsibull-docs, pytest) sees the live files, whatever
the checkout's folder is called, with no setting in the environment and no ansible.cfg.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

# What the molecule driver for Docker needs; and awx.awx, for what is in docs/awx.
WANTED = ("ansible/posix", "awx/awx", "community/docker", "community/library_inventory_filtering_v1")
SELF = "matrix_fleet/synapse"


def unpack_bundle(bundle: str, target: Path) -> None:
    """Take the wanted folders out of the wheel of ``bundle``, a requirement such as ``ansible==12.3.0``."""
    stamp = target / ".bundle"
    content = f"{bundle} {' '.join(WANTED)}\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == content:
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch = ["download", "-qq", "--no-deps", "--only-binary", ":all:", "--dest", folder, bundle]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for name in WANTED:
                shutil.rmtree(target / name, ignore_errors=True)
            prefixes = tuple(f"ansible_collections/{name}/" for name in WANTED)
            wheel.extractall(target.parent, [member for member in wheel.namelist() if member.startswith(prefixes)])
    stamp.write_text(content, encoding="utf-8")


def link_checkout(checkout: Path, target: Path) -> None:
    """Link the checkout as a collection; a link that is already right is not touched, for others may be using it."""
    link = target / SELF
    if link.is_symlink() and link.readlink() == checkout:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(checkout, target_is_directory=True)


def main(bundle: str) -> None:
    """Install ``bundle``'s share, if one is named, and the link."""
    target = Path(sysconfig.get_path("purelib")) / "ansible_collections"
    target.mkdir(exist_ok=True)
    if bundle:
        unpack_bundle(bundle, target)
    link_checkout(Path(__file__).resolve().parents[2], target)


if __name__ == "__main__":
    main(sys.argv[1])
