# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheelhouses on real files: gathered by a real pip, carried by a real playbook, installed from with uv and pip."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _wheelhouse_archive as archive
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION, uv_wheel
from ansible_collections.matrix_fleet.synapse.tests.integration import module_process
from ansible_collections.matrix_fleet.synapse.tests.integration.light_synapse import lock_of, synapse_wheel, wheel

Answer = dict[str, t.Any]

# An interpreter that has ensurepip, so that pip can install too.
PYTHON = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
ARCHITECTURE = platform.machine()
HERE = {"pythons": [MINOR], "architectures": [ARCHITECTURE]}

_PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    at:
      path: "{{ root }}/venv"
      python: "{{ python }}"
  tasks:
    - matrix_fleet.synapse.synapse_wheelhouse:
        src: "{{ src }}"
        path: "{{ at.path }}"
        python: "{{ at.python }}"
        made_from: "{{ made_from | default(omit) }}"
      register: wheels
    - matrix_fleet.synapse.synapse_venv:
        path: "{{ at.path }}"
        python: "{{ at.python }}"
        requirements_content: "{{ lookup('matrix_fleet.synapse.wheelhouse_lock', src) }}"
        find_links: ["{{ wheels.path }}"]
        offline: true
        # Nobody answers there.
        index_url: http://127.0.0.1:9/simple/
        installer: "{{ installer | default('uv') }}"
      register: built
      when: installer is defined
    - copy:
        content: "{{ {'wheels': wheels, 'built': built} | to_json }}"
        dest: "{{ root }}.json"
"""


def play(root: Path, src: Path, *arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], Answer]:
    """Carry a wheelhouse to a folder of this machine and, with ``installer``, build from it."""
    playbook = root.parent / f"{root.name}.yml"
    playbook.write_text(_PLAY)
    answer = root.parent / f"{root.name}.json"
    answer.unlink(missing_ok=True)
    extra = json.dumps({"root": str(root), "src": str(src), "python": PYTHON, **variables})
    ended = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", playbook, "-e", extra, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "10000"},
    )
    return ended, json.loads(answer.read_text()) if answer.exists() else {}


def snapshot(folder: Path) -> dict[str, t.Any]:
    """Every file below a folder, for a comparison."""
    found = {path: path.lstat() for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {str(path): (one.st_mode, one.st_size, one.st_mtime_ns) for path, one in found.items() if not path.is_dir()}


# ---------------------------------------------------------------------------------------------------- the real packages


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped lock's wheels for this machine."""
    folder = tmp_path_factory.mktemp("real")
    options = {"path": str(folder / "synapse.wheelhouse"), "cache_path": str(folder / "cache"), **HERE}
    answer = module_process.run("synapse_wheels", options, folder / "answer.json")
    assert answer.get("changed"), answer
    assert answer["lock_digest"] == _default_lock.DIGEST
    assert answer["built"] == []
    again = module_process.run("synapse_wheels", {**options, "index_url": "http://127.0.0.1:9/"}, folder / "again.json")
    assert (again["changed"], again["digest"]) == (False, answer["digest"])
    return folder / "synapse.wheelhouse"


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_release_is_built_from_the_wheelhouse_alone(real: Path, tmp_path: Path, installer: str) -> None:
    root = tmp_path / "host"
    ended, answer = play(root, real, installer=installer)
    assert ended.returncode == 0, ended.stdout
    assert answer["built"]["installer"] == {"uv": f"uv {UV_VERSION}", "pip": "pip"}[installer]
    assert answer["built"]["lock_digest"] == _default_lock.DIGEST
    assert answer["wheels"]["changed"] is True
    before = snapshot(root)
    ended, answer = play(root, real, "-vvv", installer=installer)
    assert (answer["wheels"]["changed"], answer["built"]["changed"]) == (False, False)
    assert "wheelhouse.tar" not in ended.stdout
    assert snapshot(root) == before


def test_wheels_are_carried_again_only_for_a_release_that_is_damaged(real: Path, tmp_path: Path) -> None:
    root, installer = tmp_path / "host", "uv"
    play(root, real, installer=installer)
    # With a release that was built, nothing is carried for wheels that are gone.
    shutil.rmtree(root / "releases" / ".wheelhouse")
    _ended, answer = play(root, real, installer=installer)
    assert (answer["wheels"]["needed"], answer["built"]["changed"]) == (False, False)
    # With a release that is damaged, they are.
    next((root / "venv" / "lib").glob("*/site-packages/attrs/__init__.py")).unlink()
    ended, answer = play(root, real, installer=installer)
    assert (answer["wheels"]["changed"], answer["built"]["changed"]) == (True, True), ended.stdout


# --------------------------------------------------------------------------------------------------- the light packages


class Light:
    """An index in a folder, with a light Synapse, a package that has only a source, and the real uv."""

    def __init__(self, root: Path, real: Path) -> None:
        self.root, self.index = root, root / "simple"
        manifest = archive.head_of(str(real)).manifest
        name, digest = uv_wheel(ARCHITECTURE, "glibc") or ("", "")
        self.wheels = root / "wheels"
        self.wheels.mkdir(parents=True)
        with (self.wheels / name).open("wb") as stream:
            for _name, _size, content in archive.members(str(real), manifest, [name]):
                stream.writelines(content)
        assert hashlib.sha256((self.wheels / name).read_bytes()).hexdigest() == digest
        light = [synapse_wheel(self.wheels, "2.0.0")]
        light += [wheel(self.wheels, f"light-{letter}", "1.0", {f"light_{letter}.py": ""}) for letter in "abc"]
        self.source = self._source("light-source")
        self.lock = lock_of(*light)
        self.with_source = self.lock + (
            f"light-source==1.0 --hash=sha256:{hashlib.sha256(self.source.read_bytes()).hexdigest()}\n"
        )
        for file in self.wheels.iterdir():
            project = self.index / file.name.split("-1.0")[0].split("-")[0].replace("_", "-")
            self._offer(project, file)
        self._offer(self.index / "light-source", self.source)

    @staticmethod
    def _offer(project: Path, file: Path) -> None:
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, project / file.name)
        links = "".join(
            f'<a href="{path.name}">{path.name}</a>' for path in project.iterdir() if path.suffix != ".html"
        )
        (project / "index.html").write_text(links)

    def _source(self, name: str) -> Path:
        """Write a source distribution that brings its own build backend, which copies a wheel that lies in it."""
        top = self.root / f"{name}-1.0"
        top.mkdir()
        built = wheel(top, name, "1.0", {"light_source.py": "x = 1\n"})
        (top / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (top / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        (top / "backend.py").write_text(
            "import os, shutil\n"
            "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
            f"    shutil.copy({built.name!r}, folder)\n"
            f"    return {built.name!r}\n"
        )
        path = self.root / f"{name}-1.0.tar.gz"
        with tarfile.open(path, "w:gz") as stream:
            stream.add(top, top.name)
        return path

    def options(self, path: Path, lock: str | None = None) -> Answer:
        return {
            "path": str(path),
            "requirements_content": lock or self.lock,
            "index_url": f"file://{self.index}",
            "cache_path": str(path.parent / "cache"),
            **HERE,
        }

    def gather(self, path: Path, lock: str | None = None, **changes: t.Any) -> Answer:
        path.parent.mkdir(exist_ok=True)
        return module_process.run("synapse_wheels", {**self.options(path, lock), **changes}, path.with_suffix(".json"))


@pytest.fixture(scope="module")
def light(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Light:
    return Light(tmp_path_factory.mktemp("light"), real)


def test_the_same_request_gives_the_same_bytes(light: Light, tmp_path: Path) -> None:
    answers = [light.gather(tmp_path / name / "w.tar") for name in ("one", "two")]
    assert [answer["changed"] for answer in answers] == [True, True], answers
    assert (tmp_path / "one/w.tar").read_bytes() == (tmp_path / "two/w.tar").read_bytes()
    assert sorted(os.listdir(tmp_path / "one")) == ["cache", "w.json", "w.tar"]


def test_check_mode_fetches_nothing(light: Light, tmp_path: Path) -> None:
    answer = light.gather(tmp_path / "w.tar", _ansible_check_mode=True)
    assert (answer["changed"], answer["digest"]) == (True, None)
    assert sorted(os.listdir(tmp_path)) == ["w.json"]


def test_an_archive_that_is_not_what_is_asked_for_is_gathered_anew(light: Light, tmp_path: Path) -> None:
    path = tmp_path / "w.tar"
    first = light.gather(path)
    data = path.read_bytes()
    path.write_bytes(data[:-20000] + b"x" + data[-19999:])
    assert light.gather(path)["changed"] is True
    assert path.read_bytes() == data
    path.write_bytes(data[:5000])
    assert light.gather(path)["digest"] == first["digest"]
    assert light.gather(path, light.with_source)["digest"] != first["digest"]


def test_a_source_is_built_and_its_wheel_is_in_the_lock(light: Light, tmp_path: Path) -> None:
    src, lock = tmp_path / "w.tar", tmp_path / "synapse.lock"
    answer = light.gather(src, light.with_source)
    assert answer.get("built") == ["light-source 1.0"], answer
    head = archive.head_of(str(src))
    assert head.manifest.files["light_source-1.0-py3-none-any.whl"].sha256 in head.lock
    assert head.manifest.made_from != head.manifest.lock_digest
    lock.write_text(light.with_source)
    ended, answer = play(tmp_path / "host", src, installer="uv", made_from=str(lock))
    assert ended.returncode == 0, ended.stdout
    assert "light-source" in answer["built"]["packages_changed"]["added"]
    lock.write_text(light.lock)
    ended, _answer = play(tmp_path / "host", src, installer="uv", made_from=str(lock))
    assert ended.returncode == 2
    assert "was gathered from another lock than" in ended.stdout


def test_gathering_that_is_killed_anywhere_leaves_no_half_archive_and_goes_on(light: Light, tmp_path: Path) -> None:
    output = tmp_path / "answer.json"
    whole, path = tmp_path / "whole" / "w.tar", tmp_path / "killed" / "w.tar"
    for folder in (whole.parent, path.parent):
        folder.mkdir()
    asked = light.options(whole, light.with_source)
    writes = module_process.writes_of(whole.parent, "synapse_wheels", asked, output)
    asked = light.options(path, light.with_source)
    for number in module_process.telling(writes)[::3]:
        module_process.killed_before_write(number, path.parent, "synapse_wheels", asked, output)
        assert not path.exists() or path.read_bytes() == whole.read_bytes()
    path.unlink(missing_ok=True)
    # While pip is at work: it ends by itself, and the next run waits for that.
    for seconds in (0.6, 1.5):
        module_process.killed_after(seconds, "synapse_wheels", asked, output)
    assert module_process.run("synapse_wheels", asked, output).get("digest")
    assert path.read_bytes() == whole.read_bytes()
    assert not [name for name in os.listdir(path.parent / "cache") if name.startswith("gathering")]


def test_an_index_without_the_package_and_a_wrong_hash_are_told(light: Light, tmp_path: Path) -> None:
    answer = light.gather(tmp_path / "w.tar", f"{light.lock}no-such==1.0 --hash=sha256:{'0' * 64}\n")
    assert "no-such 1.0 has no wheel for Python" in answer["msg"]
    first = light.lock.splitlines()[1].split("sha256:")[1]
    answer = light.gather(tmp_path / "w.tar", light.lock.replace(first, "0" * 64))
    assert "Wrong hash" in answer["msg"]
    assert not (tmp_path / "w.tar").exists()


def damaged(path: Path, target: Path) -> Path:
    """Copy an archive with one byte of a wheel changed."""
    data = bytearray(path.read_bytes())
    data[data.index(b"light_b.py") + 2] ^= 1
    target.write_bytes(data)
    return target


def test_a_wrong_hash_is_refused_by_the_controller_and_by_the_host(light: Light, tmp_path: Path) -> None:
    light.gather(tmp_path / "w.tar")
    bad, root = damaged(tmp_path / "w.tar", tmp_path / "bad.tar"), tmp_path / "host"
    ended, _answer = play(root, bad)
    assert ended.returncode == 2
    assert "light_b-1.0-py3-none-any.whl has another hash than the manifest says" in ended.stdout
    assert not root.exists()
    answer = module_process.run("synapse_wheelhouse", carried(bad, root), tmp_path / "answer.json")
    assert "light_b-1.0-py3-none-any.whl has another hash than the manifest says" in answer["msg"]
    assert not list((root / "releases" / ".wheelhouse").iterdir())


def test_a_host_that_the_archive_is_not_for_is_refused_before_anything_is_carried(light: Light, tmp_path: Path) -> None:
    light.gather(tmp_path / "w.tar", pythons=["3.99"])
    for arguments in ((), ("--check",)):
        ended, _answer = play(tmp_path / "host", tmp_path / "w.tar", *arguments)
        assert ended.returncode == 2
        assert f"holds nothing for this host, which has Python {MINOR}" in ended.stdout
    assert not (tmp_path / "host").exists()


def carried(src: Path, root: Path) -> Answer:
    """What the action tells the module after carrying."""
    manifest = archive.head_of(str(src)).manifest
    return {
        "src": str(src),
        "path": str(root / "venv"),
        "python": PYTHON,
        "digest": manifest.digest,
        "lock_digest": manifest.lock_digest,
        "version": manifest.synapse,
        "carried": str(src),
    }


def test_unpacking_that_is_killed_anywhere_leaves_one_whole_wheelhouse(light: Light, tmp_path: Path) -> None:
    old, new, root = tmp_path / "old.tar", tmp_path / "new.tar", tmp_path / "host"
    light.gather(old)
    light.gather(new, light.with_source)
    output = tmp_path / "answer.json"
    first = module_process.run("synapse_wheelhouse", carried(old, root), output)
    kept = tmp_path / "kept"
    shutil.copytree(root, kept)
    writes = module_process.writes_of(root, "synapse_wheelhouse", carried(new, root), output)
    after = module_process.run("synapse_wheelhouse", carried(new, root), output)
    assert after["changed"] is False
    for number in module_process.telling(writes)[::2]:
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        killed = module_process.killed_before_write(number, root, "synapse_wheelhouse", carried(new, root), output)
        assert killed.rc == -9, f"before write {number}"
        asked = {**carried(old, root), "carried": None}
        before_is_whole = not module_process.run("synapse_wheelhouse", asked, output)["needed"]
        asked = {**carried(new, root), "carried": None}
        new_is_whole = not module_process.run("synapse_wheelhouse", asked, output)["needed"]
        assert before_is_whole or new_is_whole, f"before write {number}"
        answer = module_process.run("synapse_wheelhouse", carried(new, root), output)
        assert answer["path"] == after["path"] != first["path"]
    assert sorted(os.listdir(root / "releases" / ".wheelhouse")) == [Path(after["path"]).name]
