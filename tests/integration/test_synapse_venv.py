# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_venv`` on real files: releases are built, proven, switched, found broken, replaced, adopted and removed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _venv_build
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.tests.integration import module_process
from ansible_collections.matrix_fleet.synapse.tests.integration.light_synapse import (
    lock_of,
    place_uv,
    put_back,
    synapse_wheel,
    wheel,
)

Answer = dict[str, t.Any]


class Site:
    """One installation of light environments, and a way to run the module on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.releases = root, root / "host/venv", root / "host/releases"
        self.wheels = root / "wheels"
        self.wheels.mkdir(parents=True)
        self.first: Answer = {}
        self.extra = wheel(self.wheels, "light-a", "1.0", {"light_a/__init__.py": "", "light_a/more.py": "x = 1\n"})
        self.locks = {
            version: lock_of(synapse_wheel(self.wheels, version), self.extra) for version in ("2.0.0", "2.0.1", "2.0.2")
        }

    def built(self) -> Answer:
        """Run the module on a bare host, as ``run`` does; after the first time, put a copy of what came of it there."""
        kept = self.root / "kept"
        if not self.first:
            self.first = self.run()
            shutil.copytree(self.root / "host", kept, symlinks=True)
        else:
            put_back(kept, self.root / "host")
        return json.loads(json.dumps(self.first))

    def options(self, lock: str = "2.0.0", **options: t.Any) -> Answer:
        asked = {"path": str(self.path), "offline": True, "find_links": [str(self.wheels)]}
        whole = {**asked, "requirements_content": self.locks.get(lock), **options}
        return {name: value for name, value in whole.items() if value is not None}

    def run(self, lock: str = "2.0.0", *, check: bool = False, **options: t.Any) -> Answer:
        arguments = self.options(lock, **options)
        arguments = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        return module_process.run("synapse_venv", arguments, self.root / "answer.json")

    def packages(self) -> Path:
        return next((self.path / "lib").glob("python3.*")) / "site-packages"

    def snapshot(self, folder: Path) -> dict[str, t.Any]:
        """Everything below a folder, for a comparison; what interpreters leave behind apart."""
        found = {}
        for path in [folder, *folder.rglob("*")]:
            if "__pycache__" not in path.parts:
                facts = path.lstat()
                size = 0 if path.is_dir() else facts.st_size
                found[str(path)] = (facts.st_mode, size, facts.st_ino, os.readlink(path) if path.is_symlink() else "")
        return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The one site of these tests: an environment's scripts name their place, so what is built once stays there."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(ground: Site) -> Site:
    shutil.rmtree(ground.root / "host", ignore_errors=True)
    place_uv(ground.releases)
    return ground


def version_that_answers(python: Path) -> str:
    code = "import synapse.app.homeserver, synapse; print(synapse.__version__)"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def ids(answer: Answer) -> set[str]:
    assert not answer.get("failed"), answer.get("msg")
    return {problem["id"] for problem in answer["problems"]}


def test_a_release_is_built_predicted_and_then_left_alone(site: Site) -> None:
    predicted = site.run(check=True)
    assert not site.path.exists()
    assert not site.releases.joinpath(".lock").exists()
    built = site.run()
    for name in ("changed", "version", "release", "python", "live", "packages_changed", "lock_digest", "diff"):
        assert built[name] == predicted[name], name
    assert built["changed"]
    assert built["release"] == f"2.0.0-{built['lock_digest'][:12]}"
    assert site.path.resolve() == Path(built["release_path"])
    assert version_that_answers(site.path / "bin/python") == "2.0.0"
    before = site.snapshot(site.root / "host")
    again = site.run()
    assert not again["changed"]
    assert again["problems"] == []
    assert site.snapshot(site.root / "host") == before


def test_a_release_is_readable_by_everybody_whatever_the_umask(site: Site) -> None:
    old = os.umask(0o077)
    try:
        site.run()
    finally:
        os.umask(old)
    for path in site.releases.resolve().glob("2.0.0-*/**/*"):
        if not path.is_symlink():
            needed = 0o005 if path.is_dir() else 0o004
            assert stat.S_IMODE(path.stat().st_mode) & needed == needed, path


def test_what_the_service_imports_is_compiled(site: Site) -> None:
    built = site.built()
    code = (
        "import sys, os, synapse.app.homeserver, synapse.app.generic_worker\n"
        "print([m.__cached__ for m in sys.modules.values() if getattr(m, '__cached__', None)"
        " and m.__file__.startswith(sys.prefix) and not os.path.exists(m.__cached__)])"
    )
    said = subprocess.run([built["python"], "-I", "-B", "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_without_activation_the_live_release_stays(site: Site) -> None:
    first = site.built()
    second = site.run("2.0.1", activate=False)
    assert second["changed"]
    assert not second["live"]
    assert second["previous_release"] == first["release"]
    assert version_that_answers(site.path / "bin/python") == "2.0.0"
    assert version_that_answers(Path(second["python"])) == "2.0.1"
    assert not site.run("2.0.1", activate=False)["changed"]
    switched = site.run("2.0.1")
    assert switched["changed"]
    assert switched["release"] == second["release"]
    assert switched["previous_release"] == first["release"]
    assert switched["packages_changed"]["changed"] == {"matrix-synapse": {"before": "2.0.0", "after": "2.0.1"}}
    back = site.run("2.0.0")
    assert back["release"] == first["release"], "a proven release is used again, not built again"
    assert version_that_answers(site.path / "bin/python") == "2.0.0"


def test_old_releases_go_only_when_another_one_has_become_live(site: Site) -> None:
    names = [site.run(version, keep_releases=2)["release"] for version in ("2.0.0", "2.0.1", "2.0.2")]
    assert sorted(path.name for path in site.releases.glob("2.*")) == sorted(names[1:])


def test_old_releases_go_where_something_else_switched_the_link(site: Site) -> None:
    names = [site.built()["release"]]
    for version in ("2.0.1", "2.0.2"):
        names.append(site.run(version, activate=False, keep_releases=1)["release"])
    kept = site.releases / "adopted-0.9-20200101T000000Z"
    shutil.copytree(site.releases / names[0], kept, symlinks=True)
    assert sorted(path.name for path in site.releases.glob("2.*")) == sorted(names), "nothing goes before the switch"
    site.path.unlink()
    site.path.symlink_to(site.releases / names[2])
    predicted = site.run("2.0.2", check=True, keep_releases=1)
    cleared = site.run("2.0.2", keep_releases=1)
    assert cleared["changed"]
    assert cleared["pruned"] == predicted["pruned"] == [names[0]]
    assert cleared["diff"] == predicted["diff"]
    assert f"release {names[0]} (old)" in cleared["diff"]["before"]
    assert sorted(path.name for path in site.releases.glob("2.*")) == sorted(names[1:])
    assert kept.exists(), "what was made by hand is never removed"
    again = site.run("2.0.2", keep_releases=1)
    assert not again["changed"]
    assert again["pruned"] == []


BREAKAGES: dict[str, tuple[t.Callable[[Site], object], str]] = {
    "the interpreter is gone": (
        lambda site: relink(site, "/opt/python3.10-gone/bin/python3.10"),
        "interpreter_missing",
    ),
    "the packages are for another Python": (
        lambda site: site.packages().parent.rename(site.packages().parent.with_name("python3.4")),
        "interpreter_changed",
    ),
    "a package is gone": (lambda site: remove(site, "light_a", "light_a-1.0.dist-info"), "distribution_missing"),
    "a package's files are gone": (lambda site: remove(site, "light_a"), "files_missing"),
    "a package lost its metadata": (
        lambda site: remove(site, "light_a-1.0.dist-info/RECORD"),
        "distribution_incomplete",
    ),
    "an uninstall was interrupted": (lambda site: (site.packages() / "~ight_a").mkdir(), "distribution_leftover"),
    "a file was cut short": (
        lambda site: (site.packages() / "synapse/app/homeserver.py").write_text(""),
        "files_altered",
    ),
    "a file was changed": (
        lambda site: (site.packages() / "light_a/more.py").write_text("x = 2\n"),
        "files_altered",
    ),
    "a foreign package was installed": (
        lambda site: shutil.copytree(
            site.packages() / "light_a-1.0.dist-info", site.packages() / "light_b-1.dist-info"
        ),
        "distribution_duplicate",
    ),
    "a folder cannot be read by the service": (lambda site: (site.packages() / "synapse").chmod(0o700), "unreadable"),
    "the version is wrong": (
        lambda site: edit(site.packages() / "light_a-1.0.dist-info/METADATA", "Version: 1.0", "Version: 0.9"),
        "distribution_version",
    ),
}


def relink(site: Site, target: str) -> None:
    (site.path / "bin/python").unlink()
    (site.path / "bin/python").symlink_to(target)


def remove(site: Site, *names: str) -> None:
    for name in names:
        path = site.packages() / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_live_release_is_named_and_replaced_by_a_new_one(site: Site, breakage: str) -> None:
    action, expected = BREAKAGES[breakage]
    first = site.built()
    action(site)
    broken = site.snapshot(Path(first["release_path"]))
    predicted = site.run(check=True)
    repaired = site.run()
    assert expected in ids(repaired)
    assert predicted["problems"] == repaired["problems"]
    assert predicted["release"] == repaired["release"] == f"{first['release']}.2"
    assert repaired["previous_release"] == first["release"]
    assert site.snapshot(Path(first["release_path"])) == broken, "the broken one is evidence, and left as it is"
    assert version_that_answers(site.path / "bin/python") == "2.0.0"
    assert not site.run()["changed"]


def test_a_touched_file_is_no_problem(site: Site) -> None:
    site.built()
    os.utime(site.packages() / "light_a/more.py")
    again = site.run()
    assert not again["changed"]
    assert again["problems"] == []


def test_rebuilding_makes_a_new_release_of_the_same_lock(site: Site) -> None:
    first = site.built()
    second = site.run(state="rebuilt")
    assert second["release"] == f"{first['release']}.2"
    assert second["lock_digest"] == first["lock_digest"]
    assert not site.run()["changed"]


def test_a_hand_made_environment_is_adopted_whole(site: Site) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site.path], check=True)
    (site.path / "keep.txt").write_text("mine")
    before = site.snapshot(site.path)
    predicted = site.run(check=True)
    adopted = site.run()
    assert ids(adopted) == {"synapse_missing"}
    assert predicted["previous_release"].startswith("adopted-unknown-")
    kept = site.releases / adopted["previous_release"]
    assert site.path.is_symlink()
    after = site.snapshot(kept)
    assert {path.replace(str(kept), str(site.path)): facts for path, facts in after.items()} == before
    assert json.loads((site.releases / f"{kept.name}.json").read_text())["packages"] == {}
    assert not site.run()["changed"]


def test_without_activation_a_hand_made_environment_stays_and_is_written_down(site: Site) -> None:
    site.built()
    site.path.unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site.path], check=True)
    predicted = site.run(activate=False, check=True)
    found = site.run(activate=False)
    assert found["changed"], "the record is written, although the release is there"
    assert not found["live"]
    assert not site.path.is_symlink()
    place = Path(found["adopt_as"])
    assert place.parent == site.releases
    assert found["adopt_as"] == predicted["adopt_as"]
    record = site.releases / f"{place.name}.json"
    assert json.loads(record.read_text())["packages"] == {}
    again = site.run(activate=False)
    assert not again["changed"]
    assert again["adopt_as"] == found["adopt_as"], "the same in every run, for whoever puts the link in its place"
    copy = site.packages() / "light_a-1.0.dist-info"
    copy.mkdir()
    (copy / "METADATA").write_text("Name: light-a\nVersion: 1.0\n")
    assert site.run(activate=False)["changed"], "the record follows what the folder holds"
    assert json.loads(record.read_text())["packages"] == {"light-a": "1.0"}
    adopted = site.run()
    assert adopted["adopt_as"] == found["adopt_as"]
    assert place.is_dir()
    assert site.run()["adopt_as"] is None


def test_an_environment_that_fails_its_proof_never_becomes_live(site: Site) -> None:
    first = site.built()
    bad = synapse_wheel(site.wheels, "2.0.3", homeserver="raise ImportError('no such thing')\n")
    failed = site.run("none", requirements_content=lock_of(bad))
    assert failed["failed"]
    assert "no such thing" in failed["msg"]
    assert {problem["id"] for problem in failed["problems"]} == {"import_failed"}
    assert [path.name for path in site.releases.glob("2.*")] == [first["release"]]
    assert site.path.resolve() == Path(first["release_path"])


def test_a_file_that_the_installer_left_out_fails_the_proof(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = site.root / "cache"
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    first = site.run()
    (copied,) = cache.glob("archive-*/*/light_a/more.py")
    copied.unlink()
    failed = site.run(state="rebuilt")
    assert failed["failed"]
    assert {problem["id"] for problem in failed["problems"]} == {"files_missing"}
    assert site.path.resolve() == Path(first["release_path"])


def test_a_requirement_that_the_lock_forgot_fails_the_proof(site: Site) -> None:
    lonely = wheel(site.wheels, "light-c", "1.0", {"light_c.py": ""}, requires=["light-d>=2"])
    failed = site.run("none", requirements_content=site.locks["2.0.0"] + lock_of(lonely))
    assert failed["failed"]
    assert "packaging" in failed["msg"] or "light-d" in failed["msg"]


def test_a_wrong_hash_is_refused_with_the_package(site: Site) -> None:
    first = site.built()
    digest = lock_of(site.extra).split("sha256:")[1].strip()
    for installer in ("uv", "pip"):
        lock = site.locks["2.0.1"].replace(digest, "0" * 64)
        failed = site.run("none", requirements_content=lock, installer=installer)
        assert failed["failed"]
        assert "Wrong hash" in failed["msg"]
        assert "light-a==1.0" in failed["msg"], installer
    assert site.path.resolve() == Path(first["release_path"])
    assert [path.name for path in site.releases.glob("2.*")] == [first["release"]]


STRAY = ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "PIP_CONSTRAINT", "UV_CONSTRAINT", "PIP_TARGET", "PIP_USER", "PYTHONPATH")


def test_pip_builds_the_same_packages_leaves_itself_out_and_sees_no_settings_of_the_host(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.built()
    for name in STRAY:
        monkeypatch.setenv(name, "/nowhere")
    by_pip = site.run(installer="pip", state="rebuilt")
    assert by_pip["installer"] == "pip"
    assert not list(site.packages().glob("pip*"))
    assert by_pip["packages_changed"] == {"added": {}, "removed": {}, "changed": {}}


def test_uv_sees_no_settings_of_the_host(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STRAY:
        monkeypatch.setenv(name, "/nowhere")
    built = site.run(installer="uv")
    assert not built.get("failed")
    assert built["installer"].startswith("uv ")


REFUSALS: dict[str, tuple[dict[str, t.Any], str]] = {
    "a missing CA bundle": ({"ca_bundle": "/nowhere/ca.pem"}, "/nowhere/ca.pem, which does not exist"),
    "a missing folder of wheels": ({"find_links": ["/nowhere"]}, "'find_links' has /nowhere"),
    "a missing interpreter": ({"python": "/nowhere/python3.12"}, "/nowhere/python3.12 is missing"),
    "a version that is not the lock's": ({"version": "2.9.9"}, "'version' is 2.9.9, the lock is for 2.0.0"),
    "a lock that is missing": (
        {"requirements_content": None, "requirements": "/nowhere/lock.txt"},
        "'requirements' is /nowhere/lock.txt, which does not exist",
    ),
    "a lock without hashes": (
        {"requirements_content": "matrix-synapse==2.0.0\n"},
        "line 1: matrix-synapse has no SHA-256",
    ),
    "an address as a package": ({"extra_packages": ["git+https://h/x"]}, "'extra_packages' has 'git+https://h/x'"),
    "no version": ({"version": "latest"}, "'version' is 'latest'"),
    "a wheel that is missing offline": (
        {"requirements_content": "matrix-synapse==2.5.0 --hash=sha256:" + "0" * 64 + "\n"},
        "find_links",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_says_what_is_wrong_and_changes_nothing(site: Site, refusal: str) -> None:
    options, expected = REFUSALS[refusal]
    failed = site.run(**options)
    assert failed["failed"]
    assert expected in failed["msg"]
    assert "\n" not in failed["msg"]
    assert not site.path.exists()
    assert not list(site.releases.glob("2.*"))


def test_an_unreachable_index_is_named_by_host_and_the_password_is_not(site: Site) -> None:
    shutil.rmtree(site.releases / ".tools")
    url = "http://user:pa55word@localhost:1/simple"
    for installer in ("uv", "pip"):
        failed = site.run(installer=installer, offline=False, find_links=[], index_url=url)
        assert failed["failed"]
        assert "package index at localhost cannot be reached" in failed["msg"], failed["msg"]
        assert "pa55word" not in json.dumps(failed)
    assert not site.path.exists()


def test_two_runs_do_not_build_at_once(site: Site) -> None:
    site.built()
    with open(site.releases / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not site.run()["changed"], "looking needs no lock"
        with (
            pytest.raises(SynapseError, match="Another run is building"),
            _venv_build.held(str(site.releases), wait=0.2),
        ):
            pass


def test_absent_removes_what_is_ours_and_nothing_else(site: Site) -> None:
    site.built()
    site.run("2.0.1")
    (site.releases / "notes").mkdir()
    predicted = site.run(state="absent", check=True)
    assert site.path.exists()
    removed = site.run(state="absent")
    assert predicted["changed"]
    assert removed["changed"]
    assert removed["diff"] == predicted["diff"]
    assert not site.path.exists()
    assert [path.name for path in site.releases.iterdir()] == ["notes"]
    assert not site.run(state="absent")["changed"]


def test_absent_refuses_a_hand_made_environment(site: Site) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site.path], check=True)
    failed = site.run(state="absent")
    assert failed["failed"]
    assert "was not made here" in failed["msg"]
    assert (site.path / "bin/python").exists()


def test_a_link_to_an_environment_elsewhere_gives_way_and_its_target_stays(site: Site) -> None:
    elsewhere = site.root / "elsewhere"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", elsewhere], check=True)
    site.path.symlink_to(elsewhere)
    assert site.run()["changed"]
    assert site.path.resolve().parent == site.releases.resolve()
    assert (elsewhere / "bin/python").exists()
