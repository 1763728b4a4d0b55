# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of an environment's folder from the outside."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_tree import fingerprint, inspect


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    packages = tmp_path / "lib/python3.11/site-packages"
    info = packages / "light_a-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / "light_a.py").write_text("x = 1\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Light.A\nVersion: 1.0\n\nName: not this\n")
    (info / "RECORD").write_text("light_a.py,,6\n../../../bin/run,,\nlight_a.pyc,,\nlight_a-1.0.dist-info/RECORD,,\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/run").write_text(f"#!{tmp_path}/bin/python\n")
    (tmp_path / "bin/python").symlink_to("/nowhere/python3.11")
    (tmp_path / "pyvenv.cfg").write_text("home = /nowhere\nversion_info = 3.11.2\n")
    return tmp_path


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/elsewhere")


CHANGES: dict[str, t.Callable[[Path], object]] = {
    "content of another size": lambda root: (root / "bin/run").write_text("longer than before, and by far\n" * 9),
    "a time": lambda root: os.utime(root / "bin/run", (1, 1)),
    "a file's mode": lambda root: (root / "bin/run").chmod(0o600),
    "a folder's mode": lambda root: (root / "lib").chmod(0o700),
    "a new file": lambda root: (root / "lib/new").write_text(""),
    "a file that is gone": lambda root: (root / "bin/run").unlink(),
    "a link that leads elsewhere": lambda root: relink(root / "bin/python"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_changes_with(tree: Path, change: str) -> None:
    before = fingerprint(str(tree))
    assert fingerprint(str(tree)) == before
    CHANGES[change](tree)
    assert fingerprint(str(tree)) != before


def test_a_fingerprint_does_not_change_with_what_an_interpreter_leaves_behind(tree: Path) -> None:
    before = fingerprint(str(tree), skip=("release.json",))
    (tree / "lib/python3.11/site-packages/__pycache__").mkdir(mode=0o700)
    (tree / "lib/python3.11/site-packages/__pycache__/x.pyc").write_text("")
    (tree / "release.json").write_text("{}")
    assert fingerprint(str(tree), skip=("release.json",)) == before


def test_a_folder_that_cannot_be_read_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(str(tmp_path / "missing")) == ""


def test_a_dangling_interpreter_is_seen_with_where_it_leads(tree: Path) -> None:
    found = inspect(str(tree))
    assert found.interpreter is None
    assert found.base == "/nowhere/python3.11"
    assert found.config_version == "3.11.2"
    assert found.libraries == ("3.11",)


def test_a_whole_distribution_is_read_without_its_compiled_files(tree: Path) -> None:
    (one,) = inspect(str(tree)).distributions
    assert (one.name, one.version, one.complete, one.missing, one.altered) == ("light-a", "1.0", True, (), ())


def test_files_that_differ_from_the_record_are_named(tree: Path) -> None:
    (tree / "bin/run").unlink()
    (tree / "lib/python3.11/site-packages/light_a.py").write_text("x = 100\n")
    (one,) = inspect(str(tree)).distributions
    assert one.missing == ("../../../bin/run",)
    assert one.altered == ("light_a.py",)


def test_a_moved_folder_shows_in_its_scripts(tree: Path) -> None:
    assert inspect(str(tree)).scripts_elsewhere == ()
    (tree / "bin/run").write_text("#!/old/venv/bin/python\n")
    assert inspect(str(tree)).scripts_elsewhere == ("bin/run",)


def test_compiled_extensions_are_counted_by_version(tree: Path) -> None:
    packages = tree / "lib/python3.11/site-packages"
    for name in ("a.cpython-311-x86_64-linux-gnu.so", "b.cpython-310-x86_64-linux-gnu.so", "c.abi3.so", "d.so"):
        (packages / name).write_text("")
    assert inspect(str(tree)).extensions == {"311": 1, "310": 1}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("RECORD", b"\0" * 300),
        ("RECORD", b"light_a.py,,6\n" + b"\0" * 300),
        ("RECORD", b"a" * 200_000 + b",,\n"),
        ("METADATA", b"\0" * 300),
    ],
)
def test_what_a_power_loss_left_is_incomplete(tree: Path, file: str, content: bytes) -> None:
    (tree / "lib/python3.11/site-packages/light_a-1.0.dist-info" / file).write_bytes(content)
    (one,) = inspect(str(tree)).distributions
    assert (one.name, one.version, one.complete) == ("light-a", "1.0", False)


def test_what_is_no_file_is_not_read(tree: Path) -> None:
    packages = tree / "lib/python3.11/site-packages"
    (packages / "light_a.py").unlink()
    os.mkfifo(packages / "light_a.py")
    (packages / "light_a-1.0.dist-info/RECORD").write_text("light_a.py,sha256=x,\n/dev/zero,sha256=x,\n")
    (tree / "pyvenv.cfg").unlink()
    os.mkfifo(tree / "pyvenv.cfg")
    (one,) = inspect(str(tree)).distributions
    assert one.altered == ("light_a.py", "/dev/zero")
    (packages / "light_a-1.0.dist-info/RECORD").unlink()
    os.mkfifo(packages / "light_a-1.0.dist-info/RECORD")
    (one,) = inspect(str(tree)).distributions
    assert not one.complete


def test_an_empty_folder_is_no_failure(tmp_path: Path) -> None:
    found = inspect(str(tmp_path))
    assert found.packages == {}
    assert found.libraries == ()
