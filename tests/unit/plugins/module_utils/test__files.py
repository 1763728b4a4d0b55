# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._files import KEEP, Ownership
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def refuse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: t.Any, **__: t.Any) -> t.NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(
    ("text", "number"), [("0640", 0o640), ("640", 0o640), ("1770", 0o1770), ("0o755", 0o755), ("0000", 0)]
)
def test_modes(text: str, number: int) -> None:
    assert _files.parse_mode(text) == number


@pytest.mark.parametrize("text", ["", "u=rw", "0888", "-640", " 640", "6_40", "17777", "0x1ff", "64", "٠٦٤٠"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(SynapseError, match="is not a mode"):
        _files.parse_mode(text)


@given(st.integers(0, 0o7777))
def test_every_mode_is_read_as_it_is_written(number: int) -> None:
    assert _files.parse_mode(f"{number:04o}") == number


def test_names_and_numbers_are_resolved() -> None:
    assert _files.resolve("root", "0") == Ownership(0, 0)
    assert _files.resolve("12345", None) == Ownership(12345, None)
    assert _files.resolve(None, None) == KEEP


@pytest.mark.parametrize(("owner", "group", "kind"), [("no-such-one", None, "user"), (None, "no-such-one", "group")])
def test_an_unknown_name_says_what_to_do(owner: str | None, group: str | None, kind: str) -> None:
    with pytest.raises(SynapseError, match=f"no {kind} 'no-such-one': create it first"):
        _files.resolve(owner, group)


@pytest.mark.parametrize("number", [str(2**32 - 1), str(2**32), "9" * 5000])
def test_a_number_that_no_user_can_have_is_named(number: str) -> None:
    with pytest.raises(SynapseError, match=rf"owner: {number[:40]}.* is no number of a user or group"):
        _files.resolve(number, None)
    with pytest.raises(SynapseError, match=f"group: {number[:40]}"):
        _files.resolve(None, number)
    with pytest.raises(SynapseError, match=f"{number[:40]}"):
        _files.account_of(number)
    assert _files.resolve(str(2**32 - 2), None) == Ownership(2**32 - 2, None)


@pytest.mark.parametrize("name", ["²", "", "-1"])
def test_what_only_looks_like_a_number_is_a_name(name: str) -> None:
    with pytest.raises(SynapseError, match="has no user"):
        _files.resolve(name, None)


def test_the_own_account_is_none() -> None:
    assert _files.account_of(str(os.geteuid())) is None
    with pytest.raises(SynapseError, match="no user 'no-such-one'"):
        _files.account_of("no-such-one")


@as_root
def test_another_account_has_its_own_groups() -> None:
    account = _files.account_of("daemon")
    assert account is not None
    assert (account.uid, account.gid) == (1, 1)
    assert 0 not in account.groups


def test_read_tells_missing_from_unreadable(tmp_path: Path) -> None:
    assert _files.read(str(tmp_path / "none")) is None
    (tmp_path / "a").write_bytes(b"12345")
    assert _files.read(str(tmp_path / "a" / "below")) is None
    assert _files.read(str(tmp_path / "a"), limit=5) == b"12345"
    with pytest.raises(SynapseError, match="larger than 4 bytes"):
        _files.read(str(tmp_path / "a"), limit=4)
    with pytest.raises(SynapseError, match="not a regular file"):
        _files.read(str(tmp_path))


def test_read_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SynapseError, match="not a regular file"):
        _files.read(str(tmp_path / "pipe"))


def test_read_follows_a_link_only_where_it_may(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "l").symlink_to("a")
    assert _files.read(str(tmp_path / "l")) == b"x"
    with pytest.raises(SynapseError, match="Cannot read"):
        _files.read(str(tmp_path / "l"), follow=False)


def test_the_tail_of_a_log_is_its_last_bytes_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n")
    assert _files.tail(str(log), 4) == b"two\n"
    assert _files.tail(str(log), 100) == b"one\ntwo\n"
    assert _files.tail(str(tmp_path / "missing"), 4) == b""


def test_the_tail_of_what_is_no_log_is_empty(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"not to be shown\n")
    (tmp_path / "link").symlink_to("other")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        assert _files.tail(str(tmp_path / name), 4) == b"", name


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (13, "(become: true|lsattr)"),
        (28, "Make room"),
        (30, "writable"),
        (40, "instead of a link"),
        (5, "kernel's log"),
    ],
)
def test_a_failure_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def fail(*_: t.Any, **__: t.Any) -> t.NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(SynapseError, match=rf"Cannot read .*\. .*{words}.*\.$"):
        _files.read(str(tmp_path / "a"))


def test_write_makes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    _files.write(str(path), b"1", mode=0o600)
    assert (path.read_bytes(), mode(path)) == (b"1", 0o600)
    _files.write(str(path), b"2", mode=0o644)
    assert (path.read_bytes(), mode(path)) == (b"2", 0o644)
    assert os.listdir(tmp_path) == ["a"]


def test_write_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "l").symlink_to("target")
    _files.write(str(tmp_path / "l"), b"new", mode=0o600)
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "l").is_symlink()


@as_root
def test_owner_and_mode_hold_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.fchmod

    def fchmod(handle: int, wanted: int) -> None:
        before = os.fstat(handle)
        real(handle, wanted)
        seen.append((before.st_size, before.st_uid, stat.S_IMODE(before.st_mode), wanted))

    monkeypatch.setattr(os, "fchmod", fchmod)
    _files.write(str(tmp_path / "a"), b"secret", ownership=Ownership(1, 1), mode=0o640)
    assert seen == [(0, 1, 0o600, 0o640)]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    refuse(call, monkeypatch)
    with pytest.raises(SynapseError, match="No space left on device"):
        _files.write(str(tmp_path / "a"), b"new", mode=0o600)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_an_interrupted_write_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.0011.partial", ".b.0011.partial", ".a.partial.txt", "a.0011.partial"):
        (tmp_path / name).write_bytes(b"x")
    _files.write(str(tmp_path / "a"), b"new", mode=0o600)
    assert set(os.listdir(tmp_path)) == {"a", ".b.0011.partial", ".a.partial.txt", "a.0011.partial"}


def test_a_folder_with_the_name_of_a_leftover_keeps_nothing_from_being_written(tmp_path: Path) -> None:
    (tmp_path / ".a.x.partial").mkdir()
    (tmp_path / ".a.y.partial").symlink_to(".a.x.partial")
    _files.write(str(tmp_path / "a"), b"new", mode=0o600)
    assert set(os.listdir(tmp_path)) == {"a", ".a.x.partial"}


def test_staged_files_are_invisible_until_they_are_published(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    partial = _files.stage(path, b"x", mode=0o640)
    assert not os.path.exists(path)
    assert mode(Path(partial)) == 0o640
    _files.publish(partial, path)
    assert os.listdir(tmp_path) == ["a"]
    _files.discard(_files.stage(path, b"y", mode=0o640))
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "l"
    for target in ("one", "two"):
        _files.replace_link(str(path), target)
        assert os.readlink(path) == target
    assert os.listdir(tmp_path) == ["l"]


def test_a_link_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(SynapseError, match="What was there is still in place"):
        _files.replace_link(str(tmp_path / "d"), "x")
    assert os.listdir(tmp_path) == ["d"]


def test_folders_are_made_with_their_parents_and_left_alone_after(tmp_path: Path) -> None:
    path = tmp_path / "a/b"
    earlier = os.umask(0o077)
    try:
        assert _files.make_directory(str(path), mode=0o2750) is True
    finally:
        os.umask(earlier)
    assert (mode(path), mode(tmp_path / "a")) == (0o2750, 0o755)
    path.chmod(0o700)
    assert _files.make_directory(str(path) + "/", mode=0o755) is False
    assert mode(path) == 0o700


def test_the_mode_of_a_new_folder_is_never_given_to_what_took_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    real = os.chown

    def chown(*arguments: t.Any, **more: t.Any) -> None:
        real(*arguments, **more)
        (tmp_path / "new").rename(tmp_path / "away")
        (tmp_path / "new").symlink_to("other")

    monkeypatch.setattr(os, "chown", chown)
    ownership = Ownership(os.geteuid(), os.getegid())
    assert _files.make_directory(str(tmp_path / "new"), ownership=ownership, mode=0o755) is True
    assert (mode(tmp_path / "other"), mode(tmp_path / "away")) == (0o700, 0o755)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    for name in ("f", "f/below"):
        with pytest.raises(SynapseError, match=f"{tmp_path}/f is in the way"):
            _files.make_directory(str(tmp_path / name), mode=0o755)


def test_a_folder_that_cannot_get_its_owner_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse("chown", monkeypatch)
    with pytest.raises(SynapseError, match="Cannot give the new folder its owner and mode"):
        _files.make_directory(str(tmp_path / "d"), ownership=Ownership(1, 1), mode=0o755)
    assert os.listdir(tmp_path) == []


def test_exchange_swaps_a_folder_and_a_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(b"")
    (tmp_path / "l").symlink_to("nowhere")
    _files.exchange(str(tmp_path / "d"), str(tmp_path / "l"))
    assert os.readlink(tmp_path / "d") == "nowhere"
    assert os.listdir(tmp_path / "l") == ["x"]
    with pytest.raises(FileNotFoundError):
        _files.exchange(str(tmp_path / "d"), str(tmp_path / "none"))


def test_remove_says_whether_there_was_anything(tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("nowhere")
    assert _files.remove(str(tmp_path / "l")) is True
    assert _files.remove(str(tmp_path / "l")) is False
    with pytest.raises(SynapseError, match="Cannot remove"):
        _files.remove(str(tmp_path))


def test_own_follows_no_link_and_does_nothing_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l").symlink_to("nowhere")
    _files.own(str(tmp_path / "l"), Ownership(os.geteuid(), os.getegid()))
    refuse("chown", monkeypatch)
    _files.own(str(tmp_path / "l"), KEEP)


def test_a_file_system_without_folder_sync_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_handle: int) -> t.NoReturn:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    _files.sync_directory(str(tmp_path))


def test_a_file_without_a_name_is_opened_by_its_number_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with _files.nameless(b"a secret") as handle:
        status = os.fstat(handle)
        assert (stat.S_IMODE(status.st_mode), status.st_nlink, os.listdir(tmp_path)) == (0o600, 0, [])
        assert Path(f"/proc/self/fd/{handle}").read_bytes() == b"a secret"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


@as_root
def test_a_file_without_a_name_is_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with _files.nameless(b"a secret", ownership=Ownership(12345, 54321)) as handle:
        status = os.fstat(handle)
        assert (status.st_uid, status.st_gid) == (12345, 54321)


def test_no_room_for_a_file_without_a_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(SynapseError, match=r"folder for temporary files: .*missing: No such file"),
        _files.nameless(b""),
    ):
        pass
