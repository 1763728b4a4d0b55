# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_lock`` and its playbook: locks from a small index of their own, and a real one that an environment is
built from."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import parse, pins_for
from ansible_collections.matrix_fleet.synapse.tests.integration import module_process
from ansible_collections.matrix_fleet.synapse.tests.integration.light_synapse import place_uv, synapse_wheel, wheel

ROOT = Path(__file__).resolve().parents[2]
Answer = dict[str, t.Any]


class Site:
    """A controller with a small index on its disk, which states no upload times, and uv in its cache."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.cache, self.index = root, root / "synapse.lock", root / "cache", root / "simple"
        files = root / "files"
        files.mkdir()
        for version in ("1.150.0", "2.0.0", "2.0.1"):
            self.offer(synapse_wheel(files, version))
        self.offer(wheel(files, "psycopg2-binary", "2.9", {"psycopg2/__init__.py": ""}))
        self.offer(wheel(files, "light-plugin", "1.0", {"light_plugin.py": ""}, requires=["matrix-synapse>=2"]))
        self.offer(wheel(files, "light-plugin", "2.0", {"light_plugin.py": ""}, requires=["matrix-synapse>=2"]))
        self.offer(wheel(files, "matrix-synapse-ldap3", "0.4.0", {"ldap_auth_provider.py": ""}))
        self.offer(wheel(files, "stubborn", "1.0", {"stubborn.py": ""}, requires=["matrix-synapse<2"]))
        place_uv(root)
        (root / ".tools").rename(self.cache)

    def offer(self, file: Path) -> None:
        page = self.index / file.name.split("-")[0].replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("a") as stream:
            stream.write(f'<a href="{file.as_uri()}">{file.name}</a>\n')

    def options(self, **options: t.Any) -> Answer:
        given = {"path": str(self.path), "version": "2.0.1", "index_url": self.index.as_uri()}
        return {**given, "cache_path": str(self.cache), **options}

    def run(self, *, check: bool = False, **options: t.Any) -> Answer:
        arguments = {**self.options(**options), "_ansible_check_mode": check, "_ansible_diff": True}
        return module_process.run("synapse_lock", arguments, self.root / "answer.json")

    def files(self) -> dict[str, int]:
        """What lies here; what uv keeps for itself, and a module that ends as it should removes, apart."""
        return {
            str(path): path.lstat().st_mtime_ns
            for path in self.root.rglob("*")
            if path.is_file()
            and not path.is_relative_to(self.cache / "cache")
            and path.name != "answer.json"
            and "ansible-moduletmp" not in str(path)
        }


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    return Site(tmp_path)


def test_a_lock_is_predicted_made_and_left_alone(site: Site) -> None:
    before = site.files()
    predicted = site.run(check=True, extra_packages=["light-plugin"])
    assert site.files() == before
    assert not (site.cache / "cache").exists()
    made = site.run(extra_packages=["light-plugin"])
    assert not made.get("failed"), made
    for name in ("changed", "digest", "packages", "without_wheels", "diff"):
        assert made[name] == predicted[name], name
    assert made["changed"]
    assert {one["name"]: one["version"] for one in made["packages"]} == {
        "light-plugin": "2.0",
        "matrix-synapse": "2.0.1",
        "psycopg2-binary": "2.9",
    }
    assert "+" not in made["diff"]["before"]
    assert "light-plugin==2.0  # 1 file" in made["diff"]["after"]
    before = site.files()
    again = site.run(extra_packages=["light-plugin"], index_url="http://127.0.0.1:9/simple")
    assert not again["changed"]
    assert again["digest"] == made["digest"]
    assert site.files() == before


def test_the_versions_of_a_base_stay_where_they_fit(site: Site) -> None:
    site.run(version="2.0.0", extra_packages=["light-plugin==1.0"])
    made = site.run(base=str(site.path), extra_packages=["light-plugin"])
    assert {one["name"]: one["version"] for one in made["packages"]}["light-plugin"] == "1.0"
    renewed = site.run(extra_packages=["light-plugin"], renew=True)
    assert {one["name"]: one["version"] for one in renewed["packages"]}["light-plugin"] == "2.0"
    assert renewed["changed"]


def test_an_index_without_days_is_warned_of_for_an_old_version_alone(site: Site) -> None:
    assert "does not say when Synapse 2.0.0 was released" in json.dumps(site.run(version="2.0.0").get("warnings"))
    assert not site.run().get("warnings")


REFUSED = {
    "a version that is not there": ({"version": "2.0.7"}, "There is no Synapse 2.0.7 on "),
    "a package that does not fit": (
        {"extra_packages": ["stubborn"]},
        "could not resolve the packages. Because all versions of stubborn depend on matrix-synapse<2",
    ),
    "a package that is not there": ({"extra_packages": ["nobody-has-this"]}, "nobody-has-this was not found"),
    "an index that does not answer": (
        {"index_url": "http://someone:pa55word@127.0.0.1:9/simple"},
        "The package index at 127.0.0.1 cannot be reached",
    ),
    "a folder that is missing": ({"path": "/no/such/folder/x.lock"}, "there is no folder /no/such/folder"),
    "a folder that takes no file": ({"path": "/proc/x.lock"}, "/proc/x.lock"),
    "a folder in its place": ({"path": "/proc"}, "/proc is not a regular file"),
    "a file that is no lock": ({"path": str(ROOT / "galaxy.yml")}, "galaxy.yml is no lock file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_is_one_paragraph_and_nothing_is_written(site: Site, name: str) -> None:
    options, message = REFUSED[name]
    before = site.files()
    answer = site.run(**options)
    assert answer["failed"]
    assert message in answer["msg"]
    assert "\n" not in answer["msg"]
    assert "pa55word" not in json.dumps(answer)
    assert site.files() == before


def test_a_killed_run_leaves_the_lock_whole(site: Site) -> None:
    site.run(version="2.0.0")
    old = site.path.read_text()
    options = site.options()
    output = site.root / "answer.json"
    writes = module_process.writes_of(site.path, "synapse_lock", options, output)
    new = site.path.read_text()
    assert writes
    for number in range(1, len(writes) + 1):
        site.path.write_text(old)
        module_process.killed_before_write(number, site.path, "synapse_lock", options, output)
        assert site.path.read_text() in {old, new}
    assert site.run()["digest"] in site.path.read_text()
    assert [path.name for path in site.root.glob(".synapse.lock*")] == []


# ---------------------------------------------------------------------------------------------------------- playbook


INVENTORY = """
synapse:
  hosts:
    one.example.org:
    two.example.org:
  vars:
    ansible_become: true
    ansible_connection: ssh
    synapse_version: {version}
    synapse_lock_file: "{{{{ inventory_dir }}}}/synapse.lock"
    synapse_extra_packages: [{package}]
all:
  vars:
    ansible_become: true
    ansible_connection: ssh
    ansible_python_interpreter: /no/such/python
"""


def play(folder: Path, *arguments: str, rc: int = 0, **environment: str) -> str:
    """Run the playbook as an operator does, with no settings of the caller's Ansible."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    ended = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "matrix_fleet.synapse.lock", *arguments],
        cwd=folder,
        env={**kept, "PWD": str(folder), "NO_COLOR": "1", "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"), **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == rc, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def small(site: Site) -> tuple[str, ...]:
    """Return the arguments that have the playbook use the small index."""
    return ("-e", f"synapse_index_url={site.index.as_uri()}", "-e", f"synapse_lock_cache_path={site.cache}")


def test_the_playbook_takes_what_the_servers_are_set_to_and_connects_to_none(site: Site) -> None:
    inventory = site.root / "inventory.yml"
    inventory.write_text(INVENTORY.format(version="2.0.1", package="light-plugin==1.0"))
    elsewhere = site.root / "elsewhere"
    elsewhere.mkdir()
    said = play(elsewhere, "-i", str(inventory), *small(site))
    assert f"{site.path} was written: Synapse 2.0.1, 3 packages, digest" in " ".join(said.split())
    assert "light-plugin==1.0" in site.path.read_text()
    assert f"{site.path} is as it was" in play(elsewhere, "-i", str(inventory), *small(site))
    newer = ("-e", '{"synapse_extra_packages": ["light-plugin"]}')
    said = play(elsewhere, "-i", str(inventory), *small(site), *newer, "--check", "--diff")
    assert "-light-plugin==1.0" in said
    assert "+light-plugin==2.0" in said
    assert "light-plugin==1.0" in site.path.read_text()


def test_the_playbook_works_without_an_inventory_and_says_what_it_needs(site: Site) -> None:
    said = play(site.root, *small(site), rc=2)
    assert "synapse_lock_file is not set" in said
    play(site.root, *small(site), "-e", "synapse_lock_file=synapse.lock", "-e", "synapse_version=2.0.0")
    assert "matrix-synapse==2.0.0" in site.path.read_text()


GUIDE = (ROOT / "docs" / "locks.md").read_text(encoding="utf-8")


def test_the_commands_of_the_guide_work_with_its_variables(site: Site) -> None:
    variables = re.search(r"```yaml\n---\n(.*?)```", GUIDE, re.DOTALL)
    commands = re.findall(r"^\$ ansible-playbook (.*) matrix_fleet\.synapse\.lock(.*)$", GUIDE, re.MULTILINE)
    assert variables is not None
    assert len(commands) == 3
    given = variables[1].replace("\n", "\n    ")
    inventory = f"synapse:\n  hosts:\n    matrix.example.org:\n  vars:\n    {given}"
    (site.root / "inventory.yml").write_text(inventory, encoding="utf-8")
    for first, rest in commands:
        said = play(site.root, *shlex.split(first), *shlex.split(rest), *small(site))
        assert "Synapse 1.150.0, 3 packages" in " ".join(said.split())
        assert "matrix-synapse-ldap3==0.4.0" in site.path.read_text()


def test_an_environment_is_built_from_the_lock_of_an_old_version_with_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real index and the real Synapse, as the guide says; the cache stays the caller's."""
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(INVENTORY.format(version="1.150.0", package="matrix-synapse-ldap3"))
    cache = tmp_path / "cache"
    place_uv(tmp_path)
    (tmp_path / ".tools").rename(cache)
    kept = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    arguments = ("-i", str(inventory), "-e", f"synapse_lock_cache_path={cache}")
    said = " ".join(play(tmp_path, *arguments, UV_CACHE_DIR=kept).split())
    assert f"{tmp_path}/synapse.lock was written: Synapse 1.150.0" in said
    assert "as of 2026-03-25" in said, "the day after its release"
    lock = tmp_path / "synapse.lock"
    text = lock.read_text()
    assert "# as of: 2026-03-25\n" in text
    pins = parse(text)
    names = {one.name for one in pins}
    assert {"matrix-synapse", "matrix-synapse-ldap3", "ldap3", "psycopg2-binary", "txredisapi"} <= names
    assert "pywin32" not in names
    assert f"uv-{UV_VERSION}" in os.listdir(cache)

    path = tmp_path / "host" / "venv"
    place_uv(path.parent / "releases")
    monkeypatch.setenv("UV_CACHE_DIR", kept)
    options = {"path": str(path), "requirements": str(lock), "extra_packages": ["matrix-synapse-ldap3"]}
    built = module_process.run("synapse_venv", {**options, "version": "1.150.0"}, tmp_path / "answer.json")
    assert not built.get("failed"), built.get("msg")
    assert built["lock_digest"] in text
    assert built["release"] == f"1.150.0-{built['lock_digest'][:12]}"
    assert not built.get("warnings")
    code = (
        "import importlib.metadata as m, json, sys, ldap_auth_provider, synapse\n"
        "print(json.dumps([sys.version.split()[0], {d.metadata['Name']: d.version for d in m.distributions()}]))"
    )
    ran = subprocess.run([path / "bin/python", "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    version, packages = json.loads(ran)
    markers = {
        "implementation_name": "cpython",
        "python_full_version": version,
        "python_version": ".".join(version.split(".")[:2]),
        "sys_platform": "linux",
    }
    assert packages["matrix-synapse"] == "1.150.0"
    assert len(packages) == len(pins_for(pins, markers))
