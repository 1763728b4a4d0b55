# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _journal
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._journal import Store
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._transaction import Entry, Journal

ONE = Entry("/etc/a", "file", 1, 2, 0o640, b"a")
TWO = Entry("/etc/b", "file", 1, 2, 0o640, b"b")
LINK = Entry("/etc/l", "link", target="x")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "below/transaction"))


def test_without_a_folder_there_is_nothing(store: Store) -> None:
    assert store.trusted() is False
    assert store.load() is None
    with store.locked():
        assert not os.path.exists(store.folder)


def test_a_journal_is_found_again_and_only_its_owner_can_read_it(store: Store) -> None:
    store.save(Journal("then", True, (ONE, LINK)), 0)
    assert store.load() == Journal("then", True, (ONE, LINK))
    for folder, _folders, files in os.walk(store.folder):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert all(stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600 for name in files)


def test_what_is_added_leaves_the_saved_copies_alone(store: Store) -> None:
    store.save(Journal("then", False, (ONE,)), 0)
    saved = Path(store.current, "0").stat().st_ino
    store.save(Journal("then", False, (ONE, LINK, TWO)), 1)
    assert Path(store.current, "0").stat().st_ino == saved
    assert store.load() == Journal("then", False, (ONE, LINK, TWO))


def test_copies_without_a_journal_are_nothing_and_are_cleared_by_the_next(store: Store) -> None:
    store.save(Journal("then", False, (ONE, TWO)), 0)
    os.unlink(store.file)
    assert store.load() is None
    store.save(Journal("now", False, (ONE,)), 0)
    assert sorted(os.listdir(store.current)) == ["0", "journal.json"]


@pytest.mark.parametrize("name", ["0", "journal.json"])
def test_damage_is_named_with_what_to_do(store: Store, name: str) -> None:
    store.save(Journal("then", False, (ONE,)), 0)
    path = Path(store.current, name)
    if name == "0":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        SynapseError, match=r"is damaged .* put back by hand what you need, move .* away, and run again"
    ):
        store.load()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"copy": "0"', '"copy": 3'),
        ('"copy": "0"', '"copy": null'),
        ('"uid": 1', '"uid": Infinity'),
        ('"uid": 1', '"uid": 1e999'),
        ('"uid": 1', '"uid": ' + "[" * 100_000),
    ],
)
def test_a_journal_of_the_wrong_kinds_is_damaged_too(store: Store, old: str, new: str) -> None:
    store.save(Journal("then", False, (ONE,)), 0)
    path = Path(store.file)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SynapseError, match="is damaged"):
        store.load()


def test_a_copy_is_never_looked_for_elsewhere(store: Store) -> None:
    store.save(Journal("then", False, (ONE,)), 0)
    path = Path(store.file)
    path.write_text(path.read_text().replace('"copy": "0"', '"copy": "../../secret"'))
    with pytest.raises(SynapseError, match="names the copy"):
        store.load()


def test_dropping_takes_the_journal_away_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(Journal("then", False, (ONE,)), 0)
    monkeypatch.setattr(_journal.shutil, "rmtree", lambda *_, **__: None)
    store.drop()
    assert os.listdir(store.current) == ["0"]
    assert store.load() is None


def test_a_commit_is_a_backup_and_backups_are_pruned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock stands still, goes on, and goes back: the newest backup is always the last to go.
    places = []
    for moment in ("1", "1", "1", "3", "2"):
        monkeypatch.setattr(_journal, "timestamp", lambda moment=moment: f"2026010{moment}T000000Z")
        store.save(Journal(moment, False, (ONE,)), 0)
        places.append(store.commit(2))
        assert store.load() is None
        assert places[-1] is not None
        assert os.path.exists(os.path.join(places[-1], "0"))
        assert [place for place in places if place and os.path.exists(place)] == places[-2:]
    store.save(Journal("4", False, (ONE,)), 0)
    assert store.commit(0) is None
    assert os.listdir(store.backups) == []


def test_what_nobody_replaced_needs_no_backup(store: Store) -> None:
    assert store.back_up([Entry("/etc/a", "absent")], 5) is None
    assert store.back_up([ONE], 0) is None
    assert not os.path.exists(store.folder)
    place = store.back_up([ONE, Entry("/etc/b", "absent")], 5)
    assert place is not None
    assert Path(place, "0").read_bytes() == b"a"
    assert store.load() is None


def test_pruning_touches_only_backups(store: Store) -> None:
    store.back_up([ONE], 5)
    Path(store.backups, "mine").mkdir()
    store.back_up([ONE], 1)
    assert sorted(os.listdir(store.backups))[-1] == "mine"
    assert len(os.listdir(store.backups)) == 2


@pytest.mark.parametrize("kind", ["writable", "link", "file"])
def test_a_folder_that_others_could_have_written_is_not_believed(store: Store, tmp_path: Path, kind: str) -> None:
    path = Path(store.folder)
    path.parent.mkdir()
    if kind == "writable":
        path.mkdir()
        path.chmod(0o770)
    elif kind == "link":
        path.symlink_to(tmp_path)
    else:
        path.write_bytes(b"")
    with pytest.raises(SynapseError, match="cannot be trusted"):
        store.trusted()


def test_two_at_once_do_not_go(store: Store) -> None:
    store.save(Journal("then", False, (ONE,)), 0)
    with store.locked(), pytest.raises(SynapseError, match="Another run is changing"), Store(store.folder).locked():
        pass
    with store.locked():
        pass


@pytest.mark.parametrize(("module", "name"), [(os, "open"), (fcntl, "flock")], ids=["open", "flock"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOLCK, errno.EIO])
def test_a_folder_that_cannot_be_locked_is_named(
    store: Store, module: object, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(Journal("then", False, (ONE,)), 0)

    def fail(*unused: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, name, fail)
    told = rf"{store.folder}: {os.strerror(number)}.*Nothing was changed"
    with pytest.raises(SynapseError, match=told), store.locked():
        pytest.fail("it was locked")


def test_backups_that_cannot_be_looked_at_are_named(store: Store) -> None:
    Path(store.folder).mkdir(parents=True, mode=0o700)
    Path(store.backups).write_text("in the way", encoding="utf-8")
    with pytest.raises(SynapseError, match=rf"{store.backups}: Not a directory.*run again"):
        store._kept(store.backups)
