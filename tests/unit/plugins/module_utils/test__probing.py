# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom an environment's interpreter runs, and what root does not run."""

from __future__ import annotations

import errno
import os
import pathlib
import signal

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _probing
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, SynapseError

NOBODY_KNOWN = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def python(tmp_path: pathlib.Path) -> pathlib.Path:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for folder in (programs, programs.parent):
        folder.chmod(0o755)
    return programs / "python"


@needs_root
@pytest.mark.parametrize("levels", [0, 1])
def test_an_environment_of_another_user_runs_as_that_user_and_gets_no_keys(python: pathlib.Path, levels: int) -> None:
    os.chown(python.parents[levels], NOBODY_KNOWN, NOBODY_KNOWN)
    assert _probing.account_for(None, str(python)) == Account(NOBODY_KNOWN, NOBODY_KNOWN)
    with pytest.raises(SynapseError, match=r"belongs to the user with the number 54321.*synapse_venv"):
        _probing.require_trusted(str(python))


@needs_root
@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("levels", [0, 1])
def test_an_environment_that_others_can_write_to_gets_no_keys(python: pathlib.Path, levels: int, mode: int) -> None:
    python.parents[levels].chmod(mode)
    with pytest.raises(SynapseError, match="can be changed by others than root"):
        _probing.require_trusted(str(python))


@needs_root
def test_a_link_that_another_user_can_point_elsewhere_gets_no_keys(python: pathlib.Path) -> None:
    link = python.parents[2] / "live"
    link.symlink_to(python.parents[1])
    _probing.require_trusted(str(link / "bin" / "python"))
    os.chown(link, NOBODY_KNOWN, NOBODY_KNOWN, follow_symlinks=False)
    with pytest.raises(SynapseError, match="54321"):
        _probing.require_trusted(str(link / "bin" / "python"))


@needs_root
def test_roots_own_environment_is_run_by_root(python: pathlib.Path) -> None:
    _probing.require_trusted(str(python))
    assert _probing.account_for(None, str(python)) is None
    assert _probing.account_for(None, None) is None
    given = _probing.account_for("daemon", str(python))
    assert given is not None
    assert given.uid == 1


def test_a_scratch_folder_goes_away_with_all_that_is_in_it(tmp_path: pathlib.Path) -> None:
    def use(folder: str) -> None:
        pathlib.Path(folder, "db").write_text("copy", encoding="utf-8")
        raise KeyError

    with pytest.raises(KeyError), _probing.scratch(str(tmp_path), None) as folder:
        use(folder)
    assert list(tmp_path.iterdir()) == []


def aged(folder: pathlib.Path) -> pathlib.Path:
    os.utime(folder, (0, 0))
    return folder


def killed_in(place: pathlib.Path) -> None:
    """Have a process killed while it holds a copy of a database."""
    pid = os.fork()
    if not pid:
        with _probing.scratch(str(place), None) as folder:
            pathlib.Path(folder, "db").write_text("copy", encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_a_killed_process_left_goes_with_the_next_call(tmp_path: pathlib.Path) -> None:
    killed_in(tmp_path)
    [left] = tmp_path.iterdir()
    assert (left / "db").exists()
    with _probing.scratch(str(tmp_path), None) as folder:
        assert left.exists(), "a folder that was just made may be without its lock"
        aged(left)
        aged(pathlib.Path(folder))
        (tmp_path / "other").mkdir()
        aged(tmp_path / "other")
        (tmp_path / "synapse-probe-file").touch()
        with _probing.scratch(str(tmp_path), None):
            assert not left.exists()
            assert pathlib.Path(folder).is_dir(), "its process is at work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "synapse-probe-file"]


@needs_root
def test_what_belongs_to_somebody_else_stays(tmp_path: pathlib.Path) -> None:
    for number, owner in enumerate((1, 2)):
        folder = tmp_path / f"synapse-probe-{number}"
        folder.mkdir()
        (folder / "outside").symlink_to(tmp_path)
        os.chown(aged(folder), owner, owner)
        aged(folder)
    with _probing.scratch(str(tmp_path), Account(1, 1)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["synapse-probe-1"]


def test_a_full_disk_is_told_and_leaves_no_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files, "own", full)
    with pytest.raises(SynapseError, match="No space left"), _probing.scratch(str(tmp_path), Account(1, 1)):
        pytest.fail("the folder cannot be used")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SynapseError, match="/not/there"), _probing.scratch("/not/there", None):
        pytest.fail("there is no folder")


@needs_root
def test_roots_own_links_are_followed_and_those_of_others_are_theirs(tmp_path: pathlib.Path) -> None:
    for name, leads_to in {"first": "second", "second": "others", "others": "file"}.items():
        (tmp_path / name).symlink_to(leads_to)
    (tmp_path / "file").touch()
    assert _probing.as_named(str(tmp_path / "first"))[0] == str(tmp_path / "file")
    os.chown(tmp_path / "file", NOBODY_KNOWN, NOBODY_KNOWN)
    assert _probing.as_named(str(tmp_path / "first"))[1].st_uid == NOBODY_KNOWN
    os.chown(tmp_path / "file", 0, 0)
    os.chown(tmp_path / "others", NOBODY_KNOWN, NOBODY_KNOWN, follow_symlinks=False)
    path, status = _probing.as_named(str(tmp_path / "first"))
    assert (path, status.st_uid) == (str(tmp_path / "others"), NOBODY_KNOWN)


@needs_root
def test_links_that_lead_nowhere_end(tmp_path: pathlib.Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    assert _probing.as_named(str(tmp_path / "circle"))[1].st_uid == 0
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        _probing.as_named(str(tmp_path / "dangling"))
