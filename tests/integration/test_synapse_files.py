# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``synapse_files`` on a real file system."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import start, wait

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")


class Host:
    """A folder to work in, and the module."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "answer.json"
        self.transaction = root / "transaction"

    def __call__(
        self, *files: dict[str, t.Any], before: t.Callable[[], None] | None = None, **more: t.Any
    ) -> dict[str, t.Any]:
        arguments = {"transaction": str(self.transaction), **more}
        if files:
            arguments["files"] = [{**file, "path": str(self.root / file["path"])} for file in files]
        result = wait(start("synapse_files", arguments, self.output, before), self.output)
        assert result.answer, f"the module ended with {result.rc}"
        return result.answer

    def mode(self, name: str) -> int:
        return stat.S_IMODE((self.root / name).lstat().st_mode)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    os.umask(0o022)
    return Host(tmp_path)


def test_a_fresh_host_gets_everything_and_a_second_run_changes_nothing(host: Host) -> None:
    files: list[dict[str, t.Any]] = [
        {"path": "etc/deep/file", "content": "a\n", "mode": "0640"},
        {"path": "etc/deep", "state": "directory", "mode": "0700"},
        {"path": "etc", "state": "directory", "mode": "0750"},
        {"path": "etc/secret", "generate": 32},
        {"path": "etc/empty", "content": ""},
        {"path": "link", "state": "link", "target": "etc"},
        {"path": "nothing", "state": "absent"},
    ]
    predicted = host(*files, _ansible_check_mode=True, _ansible_diff=True)
    assert not (host.root / "etc").exists()
    real = host(*files, _ansible_diff=True)
    assert {**predicted, "invocation": 0} == {**real, "invocation": 0}
    assert [Path(path).name for path in real["files_changed"]] == ["etc", "deep", "file", "secret", "empty", "link"]
    assert (host.mode("etc"), host.mode("etc/deep"), host.mode("etc/deep/file")) == (0o750, 0o700, 0o640)
    assert (host.mode("etc/secret"), host.mode("etc/empty")) == (0o600, 0o644)
    minted = (host.root / "etc/secret").read_text()
    assert len(minted) == 32
    again = host(*files)
    assert (again["changed"], again["files_changed"], again["pending"]) == (False, [], True)
    assert (host.root / "etc/secret").read_text() == minted


@pytest.mark.parametrize("blank", ["", "\n"])
def test_a_blank_secret_is_minted_and_another_one_stays(host: Host, blank: str) -> None:
    (host.root / "blank").write_text(blank)
    (host.root / "mine").write_text("x")
    host({"path": "blank", "generate": 20}, {"path": "mine", "generate": 20})
    assert len((host.root / "blank").read_text()) == 20
    assert (host.root / "mine").read_text() == "x"


@pytest.mark.parametrize("blank", [None, "\n"])
def test_a_secret_that_was_in_use_and_is_lost_is_not_minted_anew(host: Host, blank: str | None) -> None:
    secret, config = host.root / "secret", host.root / "homeserver.yaml"
    item = {"path": "secret", "generate": 20, "used_by": str(config)}
    assert host(item)["changed"] is True  # nothing uses it yet
    config.write_text(f"macaroon_secret_key_path: {secret}\n")
    assert host(item)["changed"] is False
    secret.unlink()
    if blank is not None:
        secret.write_text(blank)
    for dry in (True, False):
        answer = host(item, {"path": "other", "content": "x"}, _ansible_check_mode=dry)
        assert "was in use and is lost" in answer["msg"]
        assert not (host.root / "other").exists()
    assert host({**item, "secret_content": "given by the operator"})["changed"] is True
    config.write_text("macaroon_secret_key_path: /elsewhere\n")
    secret.unlink()
    assert host(item)["changed"] is True


def test_mode_is_mended_in_place_and_asks_for_no_restart(host: Host) -> None:
    path = host.root / "a"
    path.write_text("x")
    path.chmod(0o666)
    inode = path.stat().st_ino
    answer = host({"path": "a", "content": "x", "mode": "0640"}, _ansible_diff=True)
    assert (answer["changed"], answer["pending"]) == (True, False)
    assert [(diff["before"][-5:], diff["after"][-5:]) for diff in answer["diff"]] == [("0666\n", "0640\n")]
    assert (host.mode("a"), path.stat().st_ino) == (0o640, inode)
    assert not host.transaction.exists()


@as_root
def test_owner_holds_and_is_kept_where_none_is_asked_for(host: Host) -> None:
    host({"path": "a", "content": "1", "owner": "daemon", "group": "1", "mode": "0600"})
    assert (host.root / "a").stat().st_uid == 1
    host({"path": "a", "content": "2"})
    status = (host.root / "a").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 1, 0o600)


def test_an_unknown_user_is_predicted_in_check_mode_and_refused_before_anything_changes(host: Host) -> None:
    files = ({"path": "b", "content": "1"}, {"path": "a", "content": "1", "owner": "nobody-of-this-name"})
    predicted = host(*files, _ansible_check_mode=True, _ansible_diff=True)
    assert predicted["changed"] is True
    assert "nobody-of-this-name" in json.dumps(predicted["diff"])
    answer = host(*files)
    assert answer["failed"] is True
    assert "'nobody-of-this-name': create it first" in answer["msg"]
    assert not (host.root / "b").exists()


def test_a_commit_keeps_what_was_replaced_as_a_backup(host: Host) -> None:
    (host.root / "a").write_text("old\n")
    (host.root / "a").chmod(0o640)
    assert host({"path": "a", "content": "new\n"})["can_roll_back"] is True
    assert host(state="committed", _ansible_check_mode=True)["changed"] is True
    done = host(state="committed")
    assert (done["changed"], done["pending"]) == (True, False)
    backup = Path(done["backup"])
    journal = json.loads((backup / "journal.json").read_text())
    [item] = journal["items"]
    assert (item["path"], item["mode"]) == (str(host.root / "a"), "0640")
    assert (backup / item["copy"]).read_text() == "old\n"
    assert stat.S_IMODE((backup / item["copy"]).stat().st_mode) == 0o600
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert host({"path": "a", "content": "new\n"})["pending"] is False
    assert host(state="committed")["changed"] is False


def test_only_the_newest_backups_stay(host: Host) -> None:
    for number in range(5):
        host({"path": "a", "content": str(number)})
        host(state="committed", keep_backups=2)
    kept = sorted((host.transaction / "backups").glob("*/0"), key=lambda path: path.read_text())
    assert [path.read_text() for path in kept] == ["2", "3"]


def test_what_needs_no_restart_is_backed_up_without_opening_a_transaction(host: Host) -> None:
    (host.root / "a").write_text("old")
    answer = host({"path": "a", "content": "new", "restart": False})
    assert answer["pending"] is False
    assert (Path(answer["backup"]) / "0").read_text() == "old"
    assert host(state="rolled_back")["changed"] is False


def test_a_rollback_restores_contents_links_absence_owner_and_mode(host: Host) -> None:
    (host.root / "a").write_text("old")
    (host.root / "a").chmod(0o604)
    (host.root / "l").symlink_to("a")
    (host.root / "gone").write_text("g")
    files: list[dict[str, t.Any]] = [
        {"path": "a", "content": "new", "mode": "0640"},
        {"path": "l", "state": "link", "target": "b"},
        {"path": "gone", "state": "absent"},
        {"path": "fresh", "content": "f"},
        {"path": "quiet", "content": "q", "restart": False},
        {"path": "minted", "generate": 16},
    ]
    host(*files)
    host({"path": "a", "content": "newer"})
    answer = host(state="rolled_back", _ansible_diff=True)
    assert {Path(path).name for path in answer["files_changed"]} == {"a", "l", "gone", "fresh", "quiet"}
    assert ((host.root / "a").read_text(), host.mode("a")) == ("old", 0o604)
    assert os.readlink(host.root / "l") == "a"
    assert (host.root / "gone").read_text() == "g"
    assert not (host.root / "fresh").exists()
    assert not (host.root / "quiet").exists()
    assert (host.root / "minted").exists(), "a minted secret is never destroyed"
    assert (answer["pending"], answer["can_roll_back"]) == (False, False)
    journal = json.loads((Path(answer["kept"]) / "journal.json").read_text())
    [copy] = [item["copy"] for item in journal["items"] if item["path"].endswith("/a")]
    assert (Path(answer["kept"]) / copy).read_text() == "newer", "what did not work cannot be studied"
    assert stat.S_IMODE(Path(answer["kept"]).stat().st_mode) == 0o700
    assert host(state="rolled_back")["changed"] is False


def test_a_first_deployment_cannot_be_rolled_back_and_stays_open(host: Host) -> None:
    files = ({"path": "a", "content": "1"}, {"path": "l", "state": "link", "target": "a"})
    assert host(*files)["can_roll_back"] is False
    for _turn in range(2):
        answer = host(state="rolled_back")
        assert (answer["changed"], answer["can_roll_back"], answer["pending"]) == (False, False, True)
    assert (host.root / "a").read_text() == "1"
    assert host(*files)["pending"] is True


def test_a_secret_minted_before_the_configuration_is_looked_at_does_not_forbid_the_way_back(host: Host) -> None:
    (host.root / "config").write_text("old")
    assert host({"path": "secret", "generate": 16})["pending"] is True
    looked = host({"path": "config", "content": "old"})
    assert (looked["changed"], looked["pending"], looked["can_roll_back"]) == (False, True, True)
    assert host({"path": "config", "content": "new"})["can_roll_back"] is True
    host(state="rolled_back")
    assert (host.root / "config").read_text() == "old"


def test_a_given_secret_comes_before_a_minted_one_and_stays_when_it_is_no_longer_given(host: Host) -> None:
    host({"path": "s", "generate": 16, "secret_content": "given by the operator"})
    assert host({"path": "s", "generate": 16})["changed"] is False
    assert (host.root / "s").read_text() == "given by the operator"
    assert host({"path": "s", "generate": 16, "secret_content": "another"})["changed"] is True


def test_a_folder_gives_way_to_a_link_and_comes_back(host: Host) -> None:
    (host.root / "venv").mkdir(0o755)
    (host.root / "venv/x").write_text("mine")
    (host.root / "releases").mkdir()
    item = {"path": "venv", "state": "link", "target": str(host.root / "releases/one")}
    assert host(item)["can_roll_back"] is True
    assert os.readlink(host.root / "venv").endswith("releases/one")
    [kept] = (host.root / "releases").glob("adopted-*")
    assert (kept / "x").read_text() == "mine"
    assert host(item)["changed"] is False
    host(state="rolled_back")
    assert (host.root / "venv/x").read_text() == "mine"
    assert list((host.root / "releases").iterdir()) == []
    host({**item, "keep_as": str(host.root / "mine")})
    host(state="committed")
    assert (host.root / "mine/x").read_text() == "mine"


def test_a_secret_kept_elsewhere_is_left_alone(host: Host) -> None:
    (host.root / "elsewhere").write_text("s")
    (host.root / "a").symlink_to("elsewhere")
    (host.root / "b").symlink_to("nowhere")
    assert host({"path": "a", "generate": 16, "mode": "0600"})["changed"] is False
    assert "there is no secret" in host({"path": "b", "generate": 16})["msg"]


@pytest.mark.parametrize("room", range(8))
def test_a_full_disk_leaves_everything_as_it_was(host: Host, room: int) -> None:
    (host.root / "a").write_text("old")

    def small_disk() -> None:
        calls = []
        real = os.fsync

        def fsync(handle: int) -> None:
            calls.append(handle)
            if len(calls) > room and stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(28, "No space left on device")
            real(handle)

        os.fsync = fsync

    files = (
        {"path": "new", "state": "directory"},
        {"path": "a", "content": "new"},
        {"path": "b", "content": "x" * 30_000},
    )
    answer = host(*files, before=small_disk)
    assert answer["failed"] is True
    assert "No space left on device" in answer["msg"]
    assert "All files are as they were before this task." in answer["msg"]
    assert (host.root / "a").read_text() == "old"
    assert {path.name for path in host.root.iterdir()} <= {"a", "answer.json", "transaction"}
    assert host(state="rolled_back")["pending"] is False
    assert host(*files)["changed"] is True


def test_what_was_put_into_place_is_taken_back_where_a_later_step_fails(host: Host) -> None:
    (host.root / "a").write_text("old")
    (host.root / "a").chmod(0o640)
    (host.root / "b").write_text("old")

    def refuse_b() -> None:
        def hook(event: str, details: tuple[t.Any, ...]) -> None:
            if event == "os.rename" and str(details[1]) == str(host.root / "b"):
                raise OSError(5, "Input/output error")

        sys.addaudithook(hook)

    answer = host({"path": "a", "content": "new", "mode": "0600"}, {"path": "b", "content": "new"}, before=refuse_b)
    assert "Input/output error" in answer["msg"]
    assert ((host.root / "a").read_text(), host.mode("a")) == ("old", 0o640)
    assert list(host.root.glob(".*.partial")) == []
    assert host(state="rolled_back")["pending"] is False


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([{"path": "d", "content": "x"}], "is a folder, where a file is wanted"),
        ([{"path": "f/x", "content": "x"}], "Not a directory"),
        ([{"path": "f", "state": "directory"}], "is a file, where a folder is wanted"),
        ([{"path": "d", "state": "absent"}], "is a folder, where nothing is wanted"),
        ([{"path": "a", "content": "x"}, {"path": "a", "content": "y"}], "listed twice"),
        ([{"path": "a", "content": "x"}, {"path": "a/b", "content": "y"}], "would lie below"),
        ([{"path": "a/../b", "content": "x"}], "not a plain absolute path"),
        ([{"path": "a", "content": "x", "mode": "rw"}], "is not a mode"),
        ([{"path": "a", "content": "x", "secret": True}], "give it as 'secret_content'"),
        ([{"path": "a", "generate": 3}], "16 to 4096"),
        ([{"path": "transaction/current/0", "content": "x"}], "transaction's own folder"),
        ([{"path": "a"}], "any of the following are missing: content, secret_content, generate"),
        ([{"path": "pipe", "content": "x"}], "neither file, link nor folder"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words_and_changes_nothing(
    host: Host, files: list[dict[str, t.Any]], words: str
) -> None:
    (host.root / "d").mkdir()
    (host.root / "f").write_text("f")
    os.mkfifo(host.root / "pipe")
    answer = host({"path": "first", "content": "x"}, *files)
    assert answer["failed"] is True
    assert words in answer["msg"]
    assert not (host.root / "first").exists()


@as_root
def test_a_folder_that_somebody_else_made_is_not_believed(host: Host) -> None:
    host.transaction.mkdir()
    os.chown(host.transaction, 1, 1)
    assert "cannot be trusted" in host({"path": "a", "content": "x"})["msg"]
    assert "cannot be trusted" in host(state="rolled_back")["msg"]


@as_root
def test_without_the_right_to_write_nothing_happens(host: Host) -> None:
    host.root.chmod(0o755)
    for folder in list(host.root.parents)[:2]:
        folder.chmod(0o755)
    (host.root / "own").mkdir()
    os.chown(host.root / "own", 1, 1)

    def drop() -> None:
        os.setgroups([])
        os.setgid(1)
        os.setuid(1)

    files = ({"path": "own/a", "content": "x"}, {"path": "b", "content": "x"})
    answer = host(*files, before=drop, transaction=str(host.root / "own/t"))
    assert "Permission denied" in answer["msg"]
    assert list((host.root / "own").iterdir()) == []


def test_a_second_run_at_the_same_time_is_turned_away(host: Host) -> None:
    host({"path": "a", "content": "x"})
    handle = os.open(host.transaction, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "Another run is changing" in host({"path": "a", "content": "y"})["msg"]
    finally:
        os.close(handle)
    assert host({"path": "a", "content": "y"})["changed"] is True


def taken_over(answer: dict[str, t.Any]) -> bool:
    if answer.get("taken_over"):
        assert "Another run has taken over this installation and will finish it" in answer["msg"]
        assert answer["failed"]
    return bool(answer.get("taken_over"))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("state", ["committed", "rolled_back"])
def test_a_run_leaves_alone_what_another_has_taken_over(host: Host, state: str, check: bool) -> None:
    host({"path": "a", "content": "old"})
    host(state="committed")
    host({"path": "a", "content": "of one"}, run="one")
    # Nothing of the other one differs yet: it goes on from what is there all the same.
    assert host({"path": "a", "content": "of one"}, run="two")["changed"] is False
    before = (host.transaction / "current/journal.json").read_bytes()
    assert taken_over(host(state=state, run="one", _ansible_check_mode=check))
    assert (host.transaction / "current/journal.json").read_bytes() == before
    assert (host.root / "a").read_text() == "of one"
    assert host(state=state, run="two")["changed"] is True
    assert (host.root / "a").read_text() == ("of one" if state == "committed" else "old")
    # Of what is closed nobody has to be told.
    assert host(state=state, run="one")["changed"] is False


def test_a_transaction_without_a_name_may_be_closed_by_anybody_and_is_taken_over(host: Host) -> None:
    host({"path": "a", "content": "old"})
    journal = host.transaction / "current/journal.json"
    assert "run" not in json.loads(journal.read_text())
    assert host(state="committed", run="one")["changed"] is True
    host({"path": "a", "content": "of an earlier version"})
    host({"path": "a", "content": "of an earlier version"}, run="one", _ansible_check_mode=True)
    assert "run" not in json.loads(journal.read_text())
    host({"path": "a", "content": "of an earlier version"}, run="one")
    assert taken_over(host(state="rolled_back", run="two"))
    # Who has no name leaves it to whom it belongs, and may close it.
    host({"path": "a", "content": "by hand"})
    assert taken_over(host(state="rolled_back", run="two"))
    assert host(state="rolled_back")["files_changed"] == [str(host.root / "a")]
    assert (host.root / "a").read_text() == "old"


def test_a_run_that_fails_puts_back_what_it_took_over(host: Host) -> None:
    host({"path": "a", "content": "old"})
    host(state="committed")
    host({"path": "a", "content": "of a run that was killed"}, run="one")
    (host.root / "b").mkdir()
    assert "is a folder" in host({"path": "b", "content": "in the way"}, run="two")["msg"]
    assert host(state="rolled_back", run="two")["files_changed"] == [str(host.root / "a")]
    assert (host.root / "a").read_text() == "old"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 2}', b'{"version": 1, "items": 3}', b"[]", b"3"])
def test_a_damaged_journal_is_named_and_nothing_is_touched(host: Host, damage: bytes) -> None:
    (host.root / "a").write_text("old")
    host({"path": "a", "content": "x"})
    (host.transaction / "current/journal.json").write_bytes(damage)
    for answer in (host({"path": "a", "content": "y"}), host(state="rolled_back"), host(state="committed")):
        assert "is damaged" in answer["msg"]
    assert (host.root / "a").read_text() == "x"


@as_root
@pytest.mark.parametrize("kind", ["link", "chain", "above"])
def test_a_link_that_somebody_else_made_is_no_folder(host: Host, kind: str) -> None:
    """The service's user may write where its folders are: it must not be given what its links lead to."""
    for name in ("victim", "victim/d", "trusted"):
        (host.root / name).mkdir(mode=0o700)
    (host.root / "theirs").symlink_to("victim")
    os.chown(host.root / "theirs", 1, 1, follow_symlinks=False)
    path = {"link": "theirs", "chain": "chain", "above": "above"}[kind]
    (host.root / "chain").symlink_to("theirs")
    (host.root / "above").symlink_to("theirs/d")
    item = {"path": path, "state": "directory", "owner": "1", "group": "1", "mode": "0755"}
    for more in ({"_ansible_check_mode": True}, {}):
        answer = host(item, **more)
        assert "is a link, where a folder is wanted" in answer["msg"]
    for name in ("victim", "victim/d"):
        status = (host.root / name).stat()
        assert (status.st_uid, status.st_gid, host.mode(name)) == (0, 0, 0o700)


@as_root
def test_a_link_that_appears_after_the_look_is_not_followed(host: Host) -> None:
    (host.root / "victim").mkdir(mode=0o700)
    (host.root / "d").mkdir(mode=0o700)

    def swap() -> None:
        real = os.open

        def hook(path: t.Any, *arguments: t.Any, **more: t.Any) -> int:
            if path == str(host.root / "d") and not (host.root / "d").is_symlink():
                (host.root / "d").rename(host.root / "away")
                (host.root / "d").symlink_to("victim")
                os.chown(host.root / "d", 1, 1, follow_symlinks=False)
            return real(path, *arguments, **more)

        os.open = hook

    answer = host({"path": "d", "state": "directory", "owner": "1", "mode": "0755"}, before=swap)
    assert answer["failed"] is True
    assert "Cannot set owner and mode" in answer["msg"]
    assert ((host.root / "victim").stat().st_uid, host.mode("victim")) == (0, 0o700)


# What is asked for at a path below a folder of the service's user, each of another kind.
BELOW: list[dict[str, t.Any]] = [
    {"content": "new"},
    {"generate": 20},
    {"state": "link", "target": "elsewhere"},
    {"state": "absent"},
    {"state": "directory", "mode": "0700"},
    {"content": "old", "mode": "0604"},
]


def theirs(host: Host, *folders: str) -> None:
    """Make folders of another user, and one that is not theirs, where a file of each name lies."""
    for name in ("victim", *folders):
        (host.root / name).mkdir(mode=0o755)
    for name in folders:
        os.chown(host.root / name, 1, 1)
    (host.root / "victim/x").write_text("old")


def untouched(host: Host) -> bool:
    status = (host.root / "victim/x").lstat()
    return (
        os.listdir(host.root / "victim") == ["x"]
        and (host.root / "victim/x").read_text() == "old"
        and (stat.S_IMODE(status.st_mode), status.st_uid) == (0o644, 0)
    )


@as_root
@pytest.mark.parametrize("item", BELOW, ids=str)
@pytest.mark.parametrize("below", ["x", "new/x"])
def test_no_link_of_another_user_is_followed_on_the_way(host: Host, item: dict[str, t.Any], below: str) -> None:
    theirs(host, "data")
    (host.root / "data/link").symlink_to("../victim")
    os.chown(host.root / "data/link", 1, 1, follow_symlinks=False)
    for more in ({"_ansible_check_mode": True}, {}):
        answer = host({"path": f"data/link/{below}", **item}, **more)
        assert "leads through link, a link of the user with the number 1" in answer["msg"]
    assert untouched(host)


@as_root
@pytest.mark.parametrize("item", BELOW, ids=str)
def test_a_folder_that_becomes_a_link_after_the_look_leads_nowhere_else(host: Host, item: dict[str, t.Any]) -> None:
    theirs(host, "data", "data/inner")
    if item.get("state") != "directory" and "generate" not in item:
        (host.root / "data/inner/x").write_text("old")

    def swap() -> None:
        from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _transaction

        real = _transaction.plan

        def plan(*arguments: t.Any, **more: t.Any) -> t.Any:
            changes = real(*arguments, **more)
            (host.root / "data/inner").rename(host.root / "data/away")
            (host.root / "data/inner").symlink_to("../victim")
            os.chown(host.root / "data/inner", 1, 1, follow_symlinks=False)
            return changes

        _transaction.plan = plan

    answer = host({"path": "data/inner/x", **item}, before=swap)
    assert answer.get("changed") is True, answer
    assert untouched(host)
    assert [path.name for path in (host.root / "data/away").iterdir()] == (
        [] if item.get("state") == "absent" else ["x"]
    )


@as_root
def test_what_is_missing_below_a_folder_of_another_user_is_made_and_taken_back(host: Host) -> None:
    theirs(host, "data")
    (host.root / "mine").write_text("old")
    files = ({"path": "mine", "content": "new"}, {"path": "data/new/deep/a", "content": "x", "owner": "1"})
    predicted = host(*files, _ansible_check_mode=True)
    answer = host(*files)
    assert predicted["files_changed"] == answer["files_changed"]
    assert (host.root / "data/new/deep/a").read_text() == "x"
    assert ((host.root / "data/new").stat().st_uid, host.mode("data/new/deep")) == (0, 0o755)
    assert host(*files)["changed"] is False
    assert host(state="rolled_back")["changed"] is True
    assert not (host.root / "data/new/deep/a").exists()


@as_root
def test_a_message_names_the_folder_and_not_how_it_was_reached(host: Host) -> None:
    theirs(host, "data", "data/inner")

    def full() -> None:
        def fsync(handle: int) -> None:
            raise OSError(28, "No space left on device")

        os.fsync = fsync

    answer = host({"path": "data/inner/a", "content": "x"}, before=full)
    assert f"{host.root}/data/inner/a: No space left on device" in answer["msg"]
    assert "/proc/" not in answer["msg"]
    assert os.listdir(host.root / "data/inner") == []


def test_a_link_of_the_administrator_counts_as_the_folder_and_is_undone_through_it(host: Host) -> None:
    (host.root / "real").mkdir(mode=0o700)
    (host.root / "link").symlink_to("real")
    item = {"path": "link", "state": "directory", "mode": "0750"}
    assert host(item)["changed"] is True
    assert (host.root / "link").is_symlink()
    assert host.mode("real") == 0o750
    assert host(item)["changed"] is False

    def full() -> None:
        def fsync(handle: int) -> None:
            raise OSError(28, "No space left on device")

        os.fsync = fsync

    answer = host({**item, "mode": "0755"}, {"path": "a", "content": "x"}, before=full)
    assert "All files are as they were before this task." in answer["msg"]
    assert host.mode("real") == 0o750


def test_whatever_goes_wrong_is_undone(host: Host) -> None:
    (host.root / "a").write_text("old")

    def surprise() -> None:
        def hook(event: str, details: tuple[t.Any, ...]) -> None:
            if event == "os.rename" and str(details[1]) == str(host.root / "b"):
                raise OverflowError("a number that nobody thought of")

        sys.addaudithook(hook)

    answer = host({"path": "a", "content": "new"}, {"path": "b", "content": "new"}, before=surprise)
    assert "a number that nobody thought of" in answer["msg"]
    assert "All files are as they were before this task." in answer["msg"]
    assert (host.root / "a").read_text() == "old"
    assert list(host.root.glob(".*.partial")) == []


def test_an_interruption_is_undone_too(host: Host) -> None:
    (host.root / "a").write_text("old")

    def interrupt() -> None:
        def hook(event: str, details: tuple[t.Any, ...]) -> None:
            if event == "os.rename" and str(details[1]) == str(host.root / "b"):
                raise KeyboardInterrupt

        sys.addaudithook(hook)

    files = [{"path": str(host.root / name), "content": "new"} for name in ("a", "b")]
    arguments = {"transaction": str(host.transaction), "files": files}
    assert wait(start("synapse_files", arguments, host.output, interrupt), host.output).rc != 0
    assert (host.root / "a").read_text() == "old"
    assert list(host.root.glob(".*.partial")) == []
    assert host(state="rolled_back")["pending"] is False


def test_a_leftover_that_cannot_be_cleared_does_not_stop_the_way_back(host: Host) -> None:
    (host.root / "a").write_text("old")
    assert host({"path": "a", "content": "new"}, {"path": "b", "content": "new"})["changed"] is True
    (host.root / ".b.x.partial").write_text("")

    def refuse() -> None:
        def hook(event: str, details: tuple[t.Any, ...]) -> None:
            if event == "os.remove" and str(details[0]).endswith(".b.x.partial"):
                raise PermissionError(1, "Operation not permitted")

        sys.addaudithook(hook)

    assert host(state="rolled_back", before=refuse)["pending"] is False
    assert (host.root / "a").read_text() == "old"
    assert not (host.root / "b").exists()


@pytest.mark.parametrize("check", [False, True])
def test_an_impossible_owner_is_refused_in_words(host: Host, check: bool) -> None:
    answer = host({"path": "a", "content": "x", "owner": "4294967296"}, _ansible_check_mode=check)
    assert "owner: 4294967296 is no number of a user or group" in answer["msg"]


def test_a_folder_named_like_a_leftover_blocks_neither_writing_nor_the_way_back(host: Host) -> None:
    (host.root / "a").write_text("old")
    (host.root / ".a.x.partial").mkdir()
    assert host({"path": "a", "content": "new"})["changed"] is True
    assert host(state="rolled_back")["files_changed"] == [str(host.root / "a")]
    assert (host.root / "a").read_text() == "old"


SECRET = "correct\nhorse-battery-staple\n"
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - matrix_fleet.synapse.synapse_files:
        transaction: {root}/transaction
        files:
          - {{path: {root}/given, secret_content: "{{{{ secret }}}}"}}
          - {{path: {root}/minted, generate: 40}}
          - {{path: {root}/old, content: "not secret any more"}}
          - {{path: {root}/gone, state: absent, secret: true}}
    - matrix_fleet.synapse.synapse_files: {{transaction: {root}/transaction, state: rolled_back}}
"""


def test_no_secret_is_shown_by_ansible_at_its_most_talkative(host: Host) -> None:
    (host.root / "given").write_text("earlier-secret-1")
    (host.root / "gone").write_text("earlier-secret-2")
    (host.root / "old").write_text("public")
    (host.root / "play.yml").write_text(PLAYBOOK.format(root=host.root))
    (host.root / "vars.json").write_text(json.dumps({"secret": SECRET, "ansible_python_interpreter": sys.executable}))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "-vvv"]
    command += ["--diff", "-e", f"@{host.root}/vars.json", str(host.root / "play.yml")]
    environment = {**os.environ, "ANSIBLE_HOME": str(host.root / "ansible")}
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    text = shown.stdout + shown.stderr
    assert shown.returncode == 0, text
    minted = (host.root / "minted").read_text()
    assert len(minted) == 40
    assert "(new secret, 29 characters)" in text
    for secret in (minted, "horse-battery-staple", "earlier-secret"):
        assert secret not in text


def test_no_secret_reaches_the_log_of_the_host(host: Host) -> None:
    lines = host.root / "log"

    def listen() -> None:
        import syslog

        from ansible.module_utils import basic

        def note(*arguments: t.Any, **fields: t.Any) -> None:
            with lines.open("a") as stream:
                stream.write(repr((arguments, fields)) + "\n")

        syslog.syslog = note  # type: ignore[assignment]
        if basic.has_journal:
            basic.journal.send = note

    host({"path": "a", "secret_content": SECRET}, {"path": "b", "content": "a whole configuration"}, before=listen)
    text = lines.read_text()
    assert "NOT_LOGGING_PARAMETER" in text
    assert "horse" not in text
    assert "whole configuration" not in text


def release(host: Host, name: str, config: str) -> tuple[dict[str, t.Any], ...]:
    (host.root / name).mkdir(exist_ok=True)
    return (
        {"path": "venv", "state": "link", "target": str(host.root / name)},
        {"path": "config", "content": config, "mode": "0640"},
        {"path": "secret", "generate": 16},
    )


def test_going_back_by_hand_takes_back_the_newest_release_and_goes_forth_again(host: Host) -> None:
    for name, config in (("one", "of one"), ("two", "of two"), ("two", "of two, later")):
        host(*release(host, name, config))
        host(state="committed")
    back = {"state": "reverted", "until": str(host.root / "venv")}
    predicted = host(**back, _ansible_check_mode=True)
    assert predicted["links"] == {str(host.root / "venv"): str(host.root / "one")}
    assert os.readlink(host.root / "venv").endswith("two"), "check mode has changed something"
    answer = host(**back)
    assert answer["files_changed"] == predicted["files_changed"]
    assert (answer["pending"], answer["can_roll_back"], answer["links"]) == (True, True, predicted["links"])
    assert (os.readlink(host.root / "venv"), (host.root / "config").read_text()) == (str(host.root / "one"), "of one")
    host(state="rolled_back")
    assert (host.root / "config").read_text() == "of two, later", "the way back has no way back"
    host(**back)
    host(state="committed")
    host(**back)
    assert (os.readlink(host.root / "venv"), (host.root / "config").read_text()) == (
        str(host.root / "two"),
        "of two, later",
    )


def test_what_served_before_an_upgrade_that_was_left_open_is_known_to_the_next_run(host: Host) -> None:
    host(*release(host, "one", "of one"))
    assert host({"path": "etc", "state": "directory"}, state="present")["before"] == {}
    host(state="committed")
    host(*release(host, "two", "of two"))
    for check in (True, False):
        before = host({"path": "etc", "state": "directory"}, _ansible_check_mode=check)["before"]
        assert before == {str(host.root / "venv"): str(host.root / "one")}
    host(state="committed")
    assert host({"path": "etc", "state": "directory"})["before"] == {}


def test_the_way_back_names_the_copies_of_what_it_puts_back(host: Host) -> None:
    for name, config in (("one", "of one"), ("two", "of two")):
        host(*release(host, name, config))
        host(state="committed")
    path = str(host.root / "config")
    for name in ("three", "four"):  # the second time beside an open transaction
        back = {"state": "reverted", "until": str(host.root / "venv"), "_ansible_check_mode": True}
        assert Path(host(**back)["saved"][path]).read_text() == ("of one" if name == "three" else "of two")
        host(*release(host, name, f"of {name}"))
        assert Path(host(state="rolled_back", _ansible_check_mode=True)["saved"][path]).read_text() == "of two"
    assert "saved" not in host(state="rolled_back")


@pytest.mark.parametrize("opened", ["by the way back", "by an upgrade"])
def test_going_back_by_hand_is_finished_where_it_was_interrupted(host: Host, opened: str) -> None:
    for name in ("zero", "one", "two"):
        host(*release(host, name, f"of {name}"))
        if name != "two" or opened == "by the way back":
            host(state="committed")
    back = {"state": "reverted", "until": str(host.root / "venv")}
    host(**back)  # and then the run was killed, before anything was started anew
    again = host(**back)
    assert (again["changed"], again["pending"]) == (False, True)
    assert again["links"] == {str(host.root / "venv"): str(host.root / "one")}
    assert (host.root / "config").read_text() == "of one"


def test_what_was_put_back_stays_pending_until_the_server_was_started_anew(host: Host) -> None:
    host(*release(host, "one", "of one"))
    host(state="committed")
    host(*release(host, "two", "of two"))
    answer = host(state="rolled_back", close=False)
    assert (answer["changed"], answer["pending"]) == (True, True)
    assert (host.root / "config").read_text() == "of one"
    # The run was killed here. What serves still is what was put back.
    assert host(*release(host, "one", "of one"))["pending"]
    answer = host(state="rolled_back")
    assert (answer["pending"], answer["files_changed"]) == (False, [])
    assert not host(*release(host, "one", "of one"))["pending"]


def test_a_folder_that_has_not_given_way_yet_is_named_by_where_it_is(host: Host) -> None:
    (host.root / "venv").mkdir()
    (host.root / "config").write_text("by hand")
    host(*release(host, "one", "of one"))
    predicted = host(state="rolled_back", _ansible_check_mode=True)
    assert predicted["links"][str(host.root / "venv")].startswith(str(host.root / "adopted-"))
    host(state="rolled_back", close=False)
    predicted = host(state="rolled_back", _ansible_check_mode=True)
    assert predicted["links"] == {str(host.root / "venv"): str(host.root / "venv")}


def test_going_back_by_hand_goes_to_a_folder_where_it_was_kept(host: Host) -> None:
    (host.root / "venv").mkdir()
    (host.root / "venv/mine").write_text("mine")
    (host.root / "config").write_text("by hand")
    host(*release(host, "one", "of one"))
    host(state="committed")
    host(state="reverted", until=str(host.root / "venv"))
    assert (host.root / "venv").is_symlink()
    assert (host.root / "venv/mine").read_text() == "mine"
    assert (host.root / "config").read_text() == "by hand"


@pytest.mark.parametrize(("first", "words"), [(True, "nothing to go back to"), (False, "not there any more")])
def test_going_back_by_hand_is_refused_where_nothing_is_left_to_go_to(host: Host, first: bool, words: str) -> None:
    for name in ("one",) if first else ("one", "two"):
        host(*release(host, name, f"of {name}"))
        host(state="committed")
    if not first:
        (host.root / "one").rmdir()
    before = (os.readlink(host.root / "venv"), (host.root / "config").read_text())
    answer = host(state="reverted", until=str(host.root / "venv"))
    assert answer["failed"]
    assert words in answer["msg"]
    assert (os.readlink(host.root / "venv"), (host.root / "config").read_text()) == before
