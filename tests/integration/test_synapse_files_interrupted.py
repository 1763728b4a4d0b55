# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed at any instant, ``synapse_files`` leaves every file old or new, no secret wider, and both ways open."""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import (
    killed_after,
    killed_before,
    run,
    start,
    wait,
)

OLD, NEW = "old: " + "a" * 70_000 + "\n", "new: " + "b" * 90_000 + "\n"
OLD_SECRET, NEW_SECRET = "old-secret-" + "c" * 50, "new-secret-" + "d" * 50
SECRETS = (b"secret-",)
RANDOM_KILLS = int(os.environ.get("MATRIX_FLEET_KILLS", "40"))

Tree = dict[str, tuple[t.Any, ...]]


class Site:
    """A small installation with an old state that was committed, and the arguments of a run that changes all of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.etc, self.output = root / "site", root / "site/etc", root / "answer.json"
        self.transaction = self.etc / ".transaction"
        self.pristine = root / "pristine"
        self.etc.mkdir(parents=True)
        self.make()
        shutil.copytree(self.root, self.pristine, symlinks=True)

    def make(self) -> None:
        (self.etc / "homeserver.yaml").write_text(OLD)
        (self.etc / "homeserver.yaml").chmod(0o604)
        (self.etc / "password").write_text(OLD_SECRET)
        (self.etc / "password").chmod(0o600)
        (self.etc / "obsolete.yaml").write_text("x: 1\n")
        (self.root / "releases/one").mkdir(parents=True)
        (self.root / "releases/two").mkdir()
        (self.root / "live").symlink_to("releases/one")
        (self.root / "venv").mkdir()
        (self.root / "venv/pyvenv.cfg").write_text("hand-made\n")

    def reset(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.pristine, self.root, symlinks=True)

    def wanted(self) -> dict[str, t.Any]:
        return {
            "transaction": str(self.transaction),
            "files": [
                {"path": str(self.etc / "secrets"), "state": "directory", "mode": "0700"},
                {"path": str(self.etc / "secrets/minted"), "generate": 48, "restart": False},
                {"path": str(self.etc / "homeserver.yaml"), "content": NEW, "mode": "0640"},
                {"path": str(self.etc / "log.yaml"), "content": NEW, "mode": "0640"},
                {"path": str(self.etc / "password"), "secret_content": NEW_SECRET, "mode": "0600"},
                {"path": str(self.etc / "obsolete.yaml"), "state": "absent"},
                {"path": str(self.root / "live"), "state": "link", "target": "releases/two"},
                {"path": str(self.root / "venv"), "state": "link", "target": "releases/two"},
            ],
        }

    def closing(self, state: str) -> dict[str, t.Any]:
        return {"transaction": str(self.transaction), "state": state}

    def run(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        return run("synapse_files", arguments, self.output)

    def tree(self) -> Tree:
        """Everything that matters: not the journal, nor what an interrupted write left beside a file."""
        found: Tree = {}
        for folder, names, files in os.walk(self.root):
            if folder == str(self.transaction):
                names.clear()
                continue
            for name in [*names, *files]:
                path = os.path.join(folder, name)
                if path == str(self.transaction) or name.endswith(".partial"):
                    continue
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    found[os.path.relpath(path, self.root)] = ("link", os.readlink(path))
                elif stat.S_ISDIR(status.st_mode):
                    found[os.path.relpath(path, self.root)] = ("directory", stat.S_IMODE(status.st_mode))
                else:
                    data = Path(path).read_bytes()
                    found[os.path.relpath(path, self.root)] = ("file", stat.S_IMODE(status.st_mode), data)
        return found

    def check_no_half(self) -> None:
        tree = self.tree()
        assert tree["etc/homeserver.yaml"] in [("file", 0o604, OLD.encode()), ("file", 0o640, NEW.encode())]
        assert tree.get("etc/log.yaml") in [None, ("file", 0o640, NEW.encode())]
        assert tree["etc/password"] in [("file", 0o600, text.encode()) for text in (OLD_SECRET, NEW_SECRET)]
        assert tree.get("etc/obsolete.yaml") in [None, ("file", 0o644, b"x: 1\n")]
        assert tree["live"] in [("link", "releases/one"), ("link", "releases/two")]
        assert tree["venv"] in [("directory", 0o755), ("link", "releases/two")]
        assert [path for path in tree if path.endswith("pyvenv.cfg")], "the hand-made environment is lost"
        minted = tree.get("etc/secrets/minted")
        assert minted is None or (minted[1] == 0o600 and len(minted[2]) == 48)

    def check_secrets_closed(self) -> None:
        """No file that holds a byte of a secret may be read by anybody else, temporary ones and saved copies too."""
        for folder, _folders, files in os.walk(self.root):
            for name in files:
                path = Path(folder, name)
                if not path.is_symlink() and b"-secret-" in path.read_bytes():
                    assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.root.rglob("*.partial") if self.transaction not in path.parents]

    def converge(self) -> Tree:
        answer = self.run(self.wanted())
        assert not answer.get("failed"), answer
        assert answer["pending"] is True
        assert answer["can_roll_back"] is True
        assert self.run(self.wanted())["changed"] is False
        assert self.leftovers() == []
        return without_minted(self.tree())


def without_minted(tree: Tree) -> Tree:
    """A secret that was minted stays, and is another one in each run."""
    return {path: facts for path, facts in tree.items() if not path.startswith("etc/secrets")}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    os.umask(0o022)
    return Site(tmp_path)


def check_ways_on(site: Site, old: Tree, new: Tree, forward: bool) -> None:
    site.check_no_half()
    site.check_secrets_closed()
    if forward:
        assert site.converge() == new
    answer = site.run(site.closing("rolled_back"))
    assert not answer.get("failed"), answer
    assert without_minted(site.tree()) == old
    assert not (site.transaction / "current/journal.json").exists()
    assert site.run(site.closing("rolled_back"))["changed"] is False


def states(site: Site) -> tuple[Tree, Tree]:
    old = without_minted(site.tree())
    new = site.converge()
    site.reset()
    return old, new


def test_killed_before_each_single_operation(site: Site) -> None:
    old, new = states(site)
    number, kills = 0, 0
    while True:
        number += 1
        site.reset()
        if killed_before(number, site.root, "synapse_files", site.wanted(), site.output).rc >= 0:
            break
        kills += 1
        check_ways_on(site, old, new, forward=number % 2 == 0)
    assert kills >= 40


def test_killed_at_random_instants(site: Site) -> None:
    old, new = states(site)
    began = time.monotonic()
    wait(start("synapse_files", site.wanted(), site.output), site.output)
    duration = time.monotonic() - began
    kills = 0
    for number in range(RANDOM_KILLS * 10):
        site.reset()
        result = killed_after(random.uniform(0, duration * 1.1), "synapse_files", site.wanted(), site.output)
        if result.rc < 0:
            kills += 1
            check_ways_on(site, old, new, forward=number % 2 == 0)
        if kills == RANDOM_KILLS:
            return
    pytest.fail(f"only {kills} runs were still under way when they were killed")


def test_a_killed_rollback_is_finished_by_the_next(site: Site) -> None:
    old, new = states(site)
    number = 0
    while True:
        number += 1
        site.reset()
        site.run(site.wanted())
        result = killed_before(number, site.root, "synapse_files", site.closing("rolled_back"), site.output)
        if result.rc >= 0:
            break
        site.check_no_half()
        site.check_secrets_closed()
        if number % 2:
            # Forward instead: what is saved is still the old state, and the way back from there is the same.
            answer = site.run(site.wanted())
            assert not answer.get("failed"), answer
            assert without_minted(site.tree()) == new
        answer = site.run(site.closing("rolled_back"))
        assert not answer.get("failed"), answer
        assert without_minted(site.tree()) == old
    assert number > 10


def test_a_killed_commit_is_committed_or_still_open(site: Site) -> None:
    new = states(site)[1]
    number = 0
    while True:
        number += 1
        site.reset()
        site.run(site.wanted())
        result = killed_before(number, site.root, "synapse_files", site.closing("committed"), site.output)
        if result.rc >= 0:
            break
        assert without_minted(site.tree()) == new
        answer = site.run(site.wanted())
        assert answer["changed"] is False
        if answer["pending"]:
            assert answer["can_roll_back"] is True
            site.run(site.closing("committed"))
        assert site.run(site.wanted())["pending"] is False
        assert len(list((site.transaction / "backups").iterdir())) == 1
    assert number > 3
