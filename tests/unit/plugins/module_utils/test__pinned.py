# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By which path a thing is used, below folders that others can or cannot change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _pinned
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._pinned import Pins
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")


def give(path: Path, mode: int | None = None) -> Path:
    """Make a folder of another user."""
    path.mkdir()
    os.chown(path, 1, 1)
    if mode is not None:
        path.chmod(mode)
    return path


@pytest.mark.parametrize("below", ["a", "one/a", "missing/a", "link/a", "up/a", "file/a"])
def test_where_only_this_user_can_change_anything_names_will_do(tmp_path: Path, below: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    (tmp_path / "up").symlink_to("one/../one/.")
    assert Pins().reach(f"{tmp_path}/{below}") == f"{tmp_path}/{below}"


def test_a_circle_of_links_is_left_to_what_is_done_there(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert Pins().reach(f"{tmp_path}/a/x") == f"{tmp_path}/a/x"


@as_root
@pytest.mark.parametrize(
    ("mode", "owner", "shaky"),
    [(0o755, 0, False), (0o775, 0, True), (0o757, 0, True), (0o1777, 0, False), (0o1777, 1, True), (0o755, 1, False)],
)
def test_who_can_put_something_else_in_the_place_of_a_folder(
    tmp_path: Path, mode: int, owner: int, shaky: bool
) -> None:
    (tmp_path / "above/folder").mkdir(parents=True)
    (tmp_path / "above").chmod(mode)
    os.chown(tmp_path / "above/folder", owner, owner)
    path = f"{tmp_path}/above/folder/x"
    assert (Pins().reach(path) != path) is shaky


@as_root
def test_a_way_that_is_not_there_yet_is_kept_open_once(tmp_path: Path) -> None:
    give(tmp_path / "theirs")
    pins = Pins()
    path = f"{tmp_path}/theirs/missing/deep/a"
    first = pins.reach(path)
    before = len(os.listdir("/proc/self/fd"))
    assert {pins.reach(path) for _time in range(20)} == {first}
    assert len(os.listdir("/proc/self/fd")) == before
    # What is there now is gone to, and what was said before still leads where it did.
    (tmp_path / "theirs/missing").mkdir()
    assert pins.reach(path) != first
    assert Path(first).parent.parent.samefile(tmp_path / "theirs/missing")
    assert len({pins.reach(path) for _time in range(20)}) == 1
    assert len(os.listdir("/proc/self/fd")) == before + 1


@as_root
def test_the_folder_stays_the_same_whatever_becomes_of_its_name(tmp_path: Path) -> None:
    give(give(tmp_path / "theirs") / "inner")
    pins = Pins()
    Path(pins.reach(f"{tmp_path}/theirs/inner/x")).write_text("seen")
    (tmp_path / "theirs/inner").rename(tmp_path / "theirs/away")
    (tmp_path / "theirs/inner").symlink_to("/nonexistent")
    assert Path(pins.reach(f"{tmp_path}/theirs/inner/x")).read_text() == "seen"
    assert pins.named(f"Cannot read {pins.reach(f'{tmp_path}/theirs/inner/x')}.") == (
        f"Cannot read {tmp_path}/theirs/inner/x."
    )


@as_root
@pytest.mark.parametrize("target", ["inner", "/etc", "../victim"])
def test_a_link_of_somebody_else_is_refused(tmp_path: Path, target: str) -> None:
    give(give(tmp_path / "theirs") / "inner")
    (tmp_path / "theirs/link").symlink_to(target)
    os.chown(tmp_path / "theirs/link", 1, 1, follow_symlinks=False)
    with pytest.raises(SynapseError, match=r"leads through link, a link of the user with the number 1, .* without"):
        Pins().reach(f"{tmp_path}/theirs/link/x")
    assert Pins().reach(f"{tmp_path}/theirs/link").endswith("/link"), "a link at the end is looked at as one"


@as_root
def test_a_link_of_root_in_a_folder_of_somebody_else_is_followed_once(tmp_path: Path) -> None:
    give(tmp_path / "theirs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs/link").symlink_to(tmp_path / "mine")
    pins = Pins()
    Path(pins.reach(f"{tmp_path}/theirs/link/x")).write_text("")
    (tmp_path / "theirs/link").unlink()
    assert Path(pins.reach(f"{tmp_path}/theirs/link/x")).exists()
    assert (tmp_path / "mine/x").exists()


@as_root
def test_missing_folders_are_made_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(tmp_path / "theirs")
    pins, path = Pins(), f"{tmp_path}/theirs/a/b/x"
    assert not os.path.lexists(pins.reach(path))
    pins.make_parents(path)
    assert (tmp_path / "theirs/a/b").is_dir()
    pins.make_parents(path)
    os.rmdir(tmp_path / "theirs/a/b")
    made, real = [], _pinned._files.make_directory

    def make_directory(folder: str, *, mode: int) -> bool:
        made.append(folder)
        done = real(folder, mode=mode)
        if len(made) == 1:  # Whoever owns the folder above is quick.
            (tmp_path / "theirs/c").rename(tmp_path / "theirs/away")
            (tmp_path / "theirs/c").symlink_to(tmp_path)
            os.chown(tmp_path / "theirs/c", 1, 1, follow_symlinks=False)
        return done

    monkeypatch.setattr(_pinned._files, "make_directory", make_directory)
    with pytest.raises(SynapseError, match="leads through c, a link"):
        Pins().make_parents(f"{tmp_path}/theirs/c/d/x")
    assert not (tmp_path / "d").exists()


@as_root
def test_what_is_in_the_way_is_said(tmp_path: Path) -> None:
    (give(tmp_path / "theirs") / "file").write_text("")
    with pytest.raises(SynapseError, match=rf"Cannot go to {tmp_path}/theirs/file: Not a directory"):
        Pins().reach(f"{tmp_path}/theirs/file/x")
