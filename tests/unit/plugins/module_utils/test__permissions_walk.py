# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk on real files: no way out of the tree, no harm by what happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _permissions_walk
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions import Rule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions_walk import walk
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode_of(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    for name in ("f", "a/g", "a/b/h", "a/b/k.key"):
        (top / name).write_text(name, encoding="utf-8")
    for folder in (top, top / "a", top / "a/b"):
        folder.chmod(0o755)
    return top


def rule(top: pathlib.Path, **options: t.Any) -> Rule:
    return Rule(str(top), **{"recurse": True, "directory_mode": 0o750, "file_mode": 0o640, **options})


def test_what_differs_is_changed_once(tree: pathlib.Path) -> None:
    (tree / "f").chmod(0o640)
    predicted = walk([rule(tree)], write=False)
    assert mode_of(tree / "a/g") != 0o640
    done = walk([rule(tree)], write=True)
    assert done.changes == predicted.changes
    assert sorted(change.path for change in done.changes) == sorted(
        str(path) for path in (tree, tree / "a", tree / "a/b", tree / "a/g", tree / "a/b/h", tree / "a/b/k.key")
    )
    assert (done.changed_count, done.examined) == (6, 7)
    assert mode_of(tree / "a/b") == 0o750
    assert mode_of(tree / "a/b/h") == 0o640
    assert walk([rule(tree)], write=True).changed_count == 0


def test_without_recursion_only_the_path_is_changed(tree: pathlib.Path) -> None:
    tally = walk([Rule(str(tree), mode=0o700)], write=True)
    assert (tally.changed_count, mode_of(tree), mode_of(tree / "a")) == (1, 0o700, 0o755)


def test_exclusions_hold_for_everything_below(tree: pathlib.Path) -> None:
    walk([rule(tree, exclude=("b", "*.key"))], write=True)
    assert mode_of(tree / "a/g") == 0o640
    assert mode_of(tree / "a/b") == 0o755


def test_a_key_with_its_own_rule_is_never_widened_by_the_rule_of_its_folder(
    tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tree / "a/b/k.key"
    key.chmod(0o600)
    set_modes = []
    chmod = os.chmod
    monkeypatch.setattr(_permissions_walk.os, "chmod", lambda path, mode: set_modes.append(mode) or chmod(path, mode))
    walk([rule(tree), Rule(str(key), mode=0o400)], write=True)
    assert mode_of(key) == 0o400
    assert mode_of(tree / "a/b/h") == 0o640
    assert set_modes[-1] == 0o400
    assert len(set_modes) == 7


def test_below_a_folder_with_its_own_flat_rule_the_outer_rule_goes_on(tree: pathlib.Path) -> None:
    walk([rule(tree), Rule(str(tree / "a"), mode=0o700)], write=True)
    assert (mode_of(tree / "a"), mode_of(tree / "a/g"), mode_of(tree / "a/b/h")) == (0o700, 0o640, 0o640)
    assert walk([rule(tree), Rule(str(tree / "a"), mode=0o700)], write=True).changed_count == 0


def test_no_link_is_followed(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x", encoding="utf-8")
    (outside / "file").chmod(0o604)
    (tree / "to-folder").symlink_to(outside)
    (tree / "to-file").symlink_to(outside / "file")
    (tree / "dangling").symlink_to("/nowhere")
    walk([rule(tree)], write=True)
    assert mode_of(outside / "file") == 0o604


def test_a_link_as_the_path_itself_is_refused(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    for options in ({}, {"recurse": False, "mode": 0o700, "directory_mode": None, "file_mode": None}):
        with pytest.raises(SynapseError, match="links are not followed"):
            walk([rule(tmp_path / "link", **options)], write=True)


def test_a_missing_path_is_noted(tmp_path: pathlib.Path) -> None:
    assert walk([Rule(str(tmp_path / "x")), Rule(str(tmp_path / "y/z"))], write=True).missing == [
        str(tmp_path / "x"),
        str(tmp_path / "y/z"),
    ]


def test_files_that_vanish_meanwhile_are_passed_over(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def open_and_remove(path: t.Any, flags: int, *arguments: t.Any, **named: t.Any) -> int:
        if path == "h":
            (tree / "a/b/h").unlink()
        return opened(path, flags, *arguments, **named)

    monkeypatch.setattr(_permissions_walk.os, "open", open_and_remove)
    tally = walk([rule(tree)], write=True)
    assert str(tree / "a/b/h") not in {change.path for change in tally.changes}
    assert mode_of(tree / "a/b/k.key") == 0o640


def test_a_file_exchanged_for_a_link_meanwhile_is_not_followed(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x", encoding="utf-8")
    victim.chmod(0o604)
    opened = os.open

    def open_and_exchange(path: t.Any, flags: int, *arguments: t.Any, **named: t.Any) -> int:
        if path == "h":
            (tree / "a/b/h").unlink()
            (tree / "a/b/h").symlink_to(victim)
        return opened(path, flags, *arguments, **named)

    monkeypatch.setattr(_permissions_walk.os, "open", open_and_exchange)
    walk([rule(tree)], write=True)
    assert mode_of(victim) == 0o604


def test_a_file_exchanged_for_another_name_of_a_foreign_file_meanwhile_is_left_alone(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of somebody else")
    victim = tmp_path / "victim"
    victim.write_text("x", encoding="utf-8")
    victim.chmod(0o604)
    os.chown(victim, 4242, 4242)
    opened = os.open

    def open_and_exchange(path: t.Any, flags: int, *arguments: t.Any, **named: t.Any) -> int:
        if path == "h":
            (tree / "a/b/h").unlink()
            os.link(victim, tree / "a/b/h")
        return opened(path, flags, *arguments, **named)

    monkeypatch.setattr(_permissions_walk.os, "open", open_and_exchange)
    tally = walk([rule(tree, uid=os.geteuid())], write=True)
    assert mode_of(victim) == 0o604
    assert [item.path for item in tally.skipped] == [str(tree / "a/b/h")]


@needs_root
def test_owners_are_given_links_themselves_included(tree: pathlib.Path) -> None:
    target = tree.parent / "target"
    target.write_text("x", encoding="utf-8")
    (tree / "link").symlink_to(target)
    walk([rule(tree, uid=4242, gid=4243)], write=True)
    for path in [tree, *tree.rglob("*")]:
        assert (path.lstat().st_uid, path.lstat().st_gid) == (4242, 4243)
    assert target.stat().st_uid == 0
    assert walk([rule(tree, uid=4242, gid=4243)], write=True).changed_count == 0


@needs_root
def test_another_name_of_a_foreign_file_is_left_alone(tree: pathlib.Path) -> None:
    shadow = tree.parent / "shadow"
    shadow.write_text("x", encoding="utf-8")
    os.link(shadow, tree / "mine")
    tally = walk([rule(tree, uid=4242, gid=4242)], write=True)
    assert (shadow.stat().st_uid, [item.path for item in tally.skipped]) == (0, [str(tree / "mine")])
    tally = walk([rule(tree, uid=4242, gid=4242, hard_links=True)], write=True)
    assert (shadow.stat().st_uid, tally.skipped_count) == (4242, 0)


@needs_root
def test_a_setuid_file_does_not_run_as_its_new_owner(tree: pathlib.Path) -> None:
    (tree / "f").chmod(0o4755)
    os.chown(tree / "f", 4242, 4242)
    (tree / "f").chmod(0o4755)
    walk([Rule(str(tree), uid=0, gid=0, recurse=True)], write=True)
    assert mode_of(tree / "f") == 0o755


@needs_root
def test_a_path_through_a_link_of_somebody_else_is_refused(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree)
    walk([Rule(str(link / "a"), mode=0o700)], write=True)
    assert mode_of(tree / "a") == 0o700
    os.lchown(link, 4242, 4242)
    with pytest.raises(SynapseError, match="a symbolic link of the user"):
        walk([Rule(str(link / "a"), mode=0o755)], write=True)


class Mounted:
    """A folder's entry that is on another file system."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.entry = entry
        self.name = entry.name

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        found = list(self.entry.stat(follow_symlinks=follow_symlinks))
        found[2] = -1
        return os.stat_result(found)


@pytest.mark.parametrize("one_file_system", [True, False])
def test_other_file_systems_are_left_alone(
    tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch, one_file_system: bool
) -> None:
    scandir = os.scandir

    @contextlib.contextmanager
    def scan(handle: int) -> t.Iterator[t.Any]:
        with scandir(handle) as entries:
            yield (Mounted(entry) if entry.name == "a" else entry for entry in entries)

    monkeypatch.setattr(_permissions_walk.os, "scandir", scan)
    tally = walk([rule(tree)], write=True, one_file_system=one_file_system)
    assert mode_of(tree / "f") == 0o640
    assert mode_of(tree / "a/g") == (0o644 if one_file_system else 0o640)
    assert [item.reason for item in tally.skipped] == ["it is on another file system"] * one_file_system


def test_a_tree_that_is_too_deep_is_refused_with_all_handles_closed(tmp_path: pathlib.Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    deep = tmp_path / "d"
    deep.mkdir()
    current = os.open(deep, os.O_RDONLY)
    for _level in range(230):
        os.mkdir("d", dir_fd=current)
        following = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = following
    os.close(current)
    with pytest.raises(SynapseError, match="nested more than"):
        walk([rule(deep)], write=False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_that_are_no_text_are_walked(tree: pathlib.Path) -> None:
    path = os.fsencode(tree) + b"/\xff\xfe"
    with open(path, "wb"):
        pass
    os.chmod(path, 0o604)
    walk([rule(tree)], write=True)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_named_pipes_and_sockets_are_left_alone(tree: pathlib.Path) -> None:
    os.mkfifo(tree / "pipe", 0o604)
    os.chmod(tree / "pipe", 0o604)
    walk([rule(tree)], write=True)
    assert mode_of(tree / "pipe") == 0o604


class BadDisk:
    """Entries of a folder whose facts cannot be read."""

    name = "f"

    def __enter__(self) -> BadDisk:
        return self

    def __exit__(self, *_details: object) -> None:
        return

    def __iter__(self) -> t.Iterator[BadDisk]:
        return iter([self])

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_cannot_be_looked_at_is_named(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda _folder: BadDisk())
    with pytest.raises(SynapseError, match=r"Cannot look at .*/tree/f: Input/output error"):
        walk([rule(tree)], write=True)
