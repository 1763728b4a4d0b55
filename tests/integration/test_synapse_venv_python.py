# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The system's Python is replaced by another: a new release is built for that one, and the result says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _venv_build
from ansible_collections.matrix_fleet.synapse.tests.integration.light_synapse import place_uv
from ansible_collections.matrix_fleet.synapse.tests.integration.test_synapse_venv import (
    Site,
    ids,
    version_that_answers,
)

ROOT = Path(__file__).resolve().parents[2]
_FACTS = "import sys; print('%d.%d' % sys.version_info[:2], sys.base_prefix, sys.platlibdir)"
_NEEDLESS = shutil.ignore_patterns(
    "test", "tests", "site-packages", "dist-packages", "config-*", "*.a", "idlelib", "__pycache__"
)


def facts_of(python: Path) -> list[str]:
    said = subprocess.run([python, "-I", "-c", _FACTS], capture_output=True, text=True, check=True).stdout
    return said.split()


def interpreters() -> list[Path]:
    """Return two real interpreters, of different minor versions where this machine has them; ours is the second."""
    ours = Path(sys.executable).resolve()
    command = ["bash", ROOT / "tests/bin/find_python.sh", "all", "10", "14"]
    folders = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    found = [path for folder in folders.split(":") if folder for path in Path(folder).glob("python3.1?")]
    others = [path for path in sorted(found) if facts_of(path)[0] != facts_of(ours)[0]]
    return [others[0] if others else ours, ours]


def copy_of(python: Path, prefix: Path) -> Path:
    """Copy an interpreter with its standard library: one that can go away."""
    minor, base, library = facts_of(python)
    (prefix / "bin").mkdir(parents=True)
    program = prefix / "bin" / f"python{minor}"
    shutil.copy2(Path(base) / "bin" / program.name, program)
    shutil.copytree(Path(base) / library / program.name, prefix / library / program.name, ignore=_NEEDLESS)
    assert facts_of(program) == [minor, str(prefix), library]
    return program


class System:
    """A host's own programs: ``python3`` is a link, which an upgrade of the distribution points elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "system"
        self.folder.mkdir()
        self.old, self.new = interpreters()
        self.prefix = folder / "old-python"
        self.installed = copy_of(self.old, self.prefix)
        self.python = self.folder / "python3"
        self.python.symlink_to(self.installed)

    def upgrade(self) -> None:
        """Replace the old Python by the new one."""
        shutil.rmtree(self.prefix)
        self.python.unlink()
        self.python.symlink_to(self.new)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "site")
    place_uv(site.releases)
    return site


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    system = System(tmp_path)
    monkeypatch.setattr(_venv_build, "_DIRECTORIES", (str(system.folder),))
    return system


def minor_in(site: Site) -> str:
    return facts_of(site.path / "bin/python")[0]


def test_a_release_whose_python_is_gone_is_replaced_by_one_for_the_new_python(site: Site, system: System) -> None:
    built = site.run()
    assert minor_in(site) == facts_of(system.installed)[0]
    assert not site.run()["changed"]
    system.upgrade()
    with pytest.raises((FileNotFoundError, subprocess.CalledProcessError)):
        version_that_answers(site.path / "bin/python")
    predicted = site.run(check=True)
    replaced = site.run()
    assert replaced["changed"]
    assert ids(predicted) == ids(replaced) == {"interpreter_missing"}
    (problem,) = replaced["problems"]
    assert f"leads to {system.installed}, which does not exist" in problem["evidence"]
    assert problem["action"] == f"The release {replaced['release']} is built beside it and takes its place."
    assert replaced["previous_release"] == built["release"]
    assert minor_in(site) == facts_of(system.new)[0]
    assert version_that_answers(site.path / "bin/python") == "2.0.0"
    assert replaced["packages_changed"] == {"added": {}, "removed": {}, "changed": {}}
    again = site.run()
    assert not again["changed"]
    assert again["problems"] == []


def test_a_hand_made_environment_that_the_new_python_cannot_use_is_adopted(site: Site, system: System) -> None:
    subprocess.run([system.python, "-m", "venv", "--without-pip", site.path], check=True)
    old = facts_of(system.installed)[0]
    assert minor_in(site) == old
    system.upgrade()
    new = facts_of(system.new)[0]
    adopted = site.run()
    expected = {"synapse_missing"} if old == new else {"synapse_missing", "interpreter_changed"}
    assert ids(adopted) == expected
    assert minor_in(site) == new
    assert (site.releases / adopted["previous_release"] / "pyvenv.cfg").exists()
    assert not site.run()["changed"]


def test_a_newer_python_beside_the_old_one_changes_nothing(site: Site, system: System) -> None:
    built = site.run()
    system.python.unlink()
    system.python.symlink_to(system.new)
    again = site.run()
    assert not again["changed"]
    assert again["release"] == built["release"]
    asked: dict[str, t.Any] = {"python": str(system.python)}
    if facts_of(system.new)[0] != facts_of(system.installed)[0]:
        assert site.run(**asked)["changed"], "one that is named is used"
        assert minor_in(site) == facts_of(system.new)[0]
