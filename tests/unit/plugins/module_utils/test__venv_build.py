# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment's boundary: whose releases are believed, which interpreter builds, and a switch that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _venv_build
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import venv_proof
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import MANIFEST, Manifest
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

NAME = "2.0.0-0123456789ab"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    release = tmp_path / "releases" / NAME
    release.mkdir(parents=True)
    for path in (release, release.parent):
        path.chmod(0o755)
    manifest = Manifest("2.0.0", "0" * 64, "r", "/usr/bin/python3", "3.11.2", "1 1", {}, "uv", "2026", "t")
    (release / MANIFEST).write_bytes(manifest.to_json())
    return release.parent


def names(folder: Path) -> list[str]:
    return [release.name for release in _venv_build.releases_in(str(folder))[0]]


def test_a_release_of_our_own_is_believed(folder: Path) -> None:
    assert names(folder) == [NAME]


@as_root
@pytest.mark.parametrize(("mode", "owner"), [(0o755, 12345), (0o775, 0), (0o757, 0)])
def test_a_release_that_another_user_can_write_in_is_not_believed(folder: Path, mode: int, owner: int) -> None:
    os.chown(folder / NAME, owner, -1)
    (folder / NAME).chmod(mode)
    assert names(folder) == []
    assert _venv_build.releases_in(str(folder))[1] == (NAME,), "its name is still taken"


@as_root
@pytest.mark.parametrize(("mode", "owner"), [(0o755, 12345), (0o775, 0), (0o777, 0)])
@pytest.mark.parametrize("inside", ["", ".tools"])
def test_a_folder_that_another_user_can_write_in_is_refused(folder: Path, mode: int, owner: int, inside: str) -> None:
    asked = folder / inside
    asked.mkdir(exist_ok=True)
    os.chown(asked, owner, -1)
    asked.chmod(mode)
    with pytest.raises(SynapseError, match="cannot be trusted"):
        names(folder)
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(SynapseError, match="cannot be trusted"):
        names(link)


@as_root
def test_what_is_typed_after_a_refusal_leads_on_and_keeps_what_serves(folder: Path) -> None:
    link = folder.parent / "venv"
    link.symlink_to(folder / NAME)
    os.chown(folder, 12345, -1)
    with pytest.raises(SynapseError, match="owner 12345, mode 0755") as told:
        _venv_build.releases_in(str(folder), str(link))
    commands = told.value.msg.partition("Type as root: ")[2].partition("; then")[0]
    assert commands == f"mv {folder} {folder}.untrusted && ln -sfn {folder}.untrusted/{NAME} {link}"
    subprocess.run(["sh", "-c", commands], check=True)
    assert link.resolve() == folder.with_name("releases.untrusted") / NAME
    assert _venv_build.releases_in(str(folder), str(link)) == ((), ())
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(SynapseError, match=r"releases\.untrusted-2; then"):
        _venv_build.releases_in(str(folder), str(link))


def test_a_users_own_group_may_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        for path in (folder, folder / NAME):
            os.chown(path, 12345, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for path in (folder, folder / NAME):
        path.chmod(0o775)
    assert names(folder) == [NAME]
    folder.chmod(0o777)
    with pytest.raises(SynapseError, match="cannot be trusted"):
        names(folder)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_the_folder_is_made_so_that_only_we_can_write_in_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with _venv_build.held(str(tmp_path / "a/releases")):
            pass
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/releases")] == [0o755, 0o755]


# ------------------------------------------------------------------------------------------------------ interpreters


def interpreter(version: str) -> _venv_build.Interpreter:
    return _venv_build.Interpreter(f"/usr/bin/python{version}", version, ensurepip=True, markers={})


def nothing(*unused: object, **more: object) -> t.NoReturn:
    raise NotImplementedError


def test_a_named_python_has_to_be_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_venv_build, "_facts", lambda run, path: interpreter("3.9.2"))
    with pytest.raises(SynapseError, match=r"needs Python 3\.10 or newer; /x is Python 3\.9\.2"):
        _venv_build.choose_python(nothing, "/x", (3, 10), "2.0.0")
    assert _venv_build.choose_python(nothing, "/x", (3, 9), "2.0.0").version == "3.9.2"


def test_a_host_without_a_python_that_is_new_enough_is_told_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_venv_build, "_facts", lambda run, path: interpreter("3.9.2"))
    with pytest.raises(SynapseError, match=r"needs Python 3\.90 or newer; this host has .*\(3\.9\.2\)"):
        _venv_build.choose_python(nothing, None, (3, 90), "2.0.0")


def test_an_interpreter_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_venv_build, "_facts", lambda run, path: None)
    with pytest.raises(SynapseError, match="/x is missing or does not start"):
        _venv_build.choose_python(nothing, "/x", (3, 10), "2.0.0")


# --------------------------------------------------------------------------------------------------------------- room


def test_a_full_disk_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    _venv_build.check_room(str(tmp_path / "releases"), need=1)
    with pytest.raises(SynapseError, match=r"too full .* Nothing was changed"):
        _venv_build.check_room(str(tmp_path / "releases"), need=2**62)


# ------------------------------------------------------------------------------------------------------------- switch


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hand-made environment, on a file system that cannot exchange."""

    def exchange(first: str, second: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(_files, "exchange", exchange)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/mine").write_text("x")
    (tmp_path / "releases").mkdir()
    return tmp_path


def activate(root: Path) -> str:
    folder = str(root / "releases")
    return _venv_build.activate(str(root / "venv"), f"{folder}/{NAME}", folder=folder, adopt="adopted-1")


def test_without_an_exchange_two_renames_switch(by_hand: Path) -> None:
    kept = activate(by_hand)
    assert (Path(kept) / "mine").read_text() == "x"
    assert os.readlink(by_hand / "venv") == f"{by_hand}/releases/{NAME}"
    assert sorted(os.listdir(by_hand)) == ["releases", "venv"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_what_was_there(
    by_hand: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = os.rename, 0

    def sometimes(first: str, second: str) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(first, second)

    monkeypatch.setattr(os, "rename", sometimes)
    with pytest.raises(SynapseError, match="No space left on device"):
        activate(by_hand)
    assert (by_hand / "venv/mine").read_text() == "x"
    assert sorted(os.listdir(by_hand)) == ["releases", "venv"]
    assert os.listdir(by_hand / "releases") == []


# ------------------------------------------------------------------------------------------------------------ outside


def test_what_the_imports_alter_is_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    tree = _venv_build._venv_tree.inspect(str(folder / NAME))

    def inspect(path: str) -> object:
        looks.append(path)
        return tree

    monkeypatch.setattr(_venv_build._venv_tree, "inspect", inspect)
    spent: list[str] = []
    outside = _venv_build._Outside(str(folder / NAME), lambda: spent.append("cache"))
    outside.start()
    assert outside.tree() is tree
    assert (len(looks), spent) == (1, ["cache"])
    outside = _venv_build._Outside(str(folder / NAME), None)
    outside.start()
    (folder / NAME / "altered.py").write_text("x")
    assert outside.tree() is tree
    assert len(looks) == 3, "once beside the imports, and once after them"
    assert _venv_build._Outside(str(folder / NAME), None).tree() is tree, (
        "where nothing was started it is looked at now"
    )


def test_what_goes_wrong_outside_is_raised_when_it_is_asked_for(folder: Path) -> None:
    def spent() -> t.NoReturn:
        raise SynapseError("Cannot remove it.")

    outside = _venv_build._Outside(str(folder / NAME), spent)
    outside.start()
    with pytest.raises(SynapseError, match="Cannot remove it"):
        outside.tree()


def test_a_check_in_a_process_of_its_own_tells_its_problems_or_that_it_died() -> None:
    found = [{"id": "files_missing", "evidence": "x"}]
    assert venv_proof.apart(lambda: found)() == found
    (died,) = venv_proof.apart(lambda: os.kill(os.getpid(), 9) or [])()
    assert died["id"] == "probe_died"
    assert "signal 9" in died["evidence"]
    (failed,) = venv_proof.apart(nothing)()
    assert failed["id"] == "probe_died"
