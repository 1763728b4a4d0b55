# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed at any instant, ``synapse_signing_key`` loses no key, shows none to others, and leads to one identity."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import synapse_python
from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import (
    Result,
    killed_after,
    killed_before,
    run,
)

SYNAPSE = synapse_python()
RANDOM_KILLS = int(os.environ.get("MATRIX_FLEET_KILLS", "40"))
NAME = "synapse_signing_key"
LIMIT = 200  # more operations on files than any run makes


class Host:
    """A folder with a key file, and what was ever seen in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "host"
        self.folder.mkdir(parents=True)
        self.output = folder / "answer.json"
        self.key = self.folder / "hs.signing.key"
        self.loose: set[str] = set()
        self.seen: set[bytes] = set()

    def options(self, **more: t.Any) -> dict[str, t.Any]:
        return {"path": str(self.key), "python": str(SYNAPSE), "server_name": "keys.test", **more}

    def run(self, **more: t.Any) -> dict[str, t.Any]:
        result = run(NAME, self.options(**more), self.output)
        assert not result.get("failed"), result["msg"]
        self.look()
        return result

    def look(self) -> None:
        """Note the key file, and every file with a key that somebody else may read."""
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                mode, data = path.stat().st_mode, path.read_bytes()
                if (b"ed25519 " in data or not data) and "verify_keys" not in path.name and mode & 0o077:
                    self.loose.add(f"{path.name} {stat.S_IMODE(mode):o}")
        with contextlib.suppress(FileNotFoundError):
            self.seen.add(self.key.read_bytes())

    @contextlib.contextmanager
    def watched(self) -> t.Iterator[None]:
        """Look as often as possible while something runs."""
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                self.look()
                time.sleep(0.0005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            self.look()

    def all_keys(self) -> set[str]:
        """The ids of all keys in any whole key file of the folder."""
        found = set()
        for path in self.folder.iterdir():
            if "verify_keys" not in path.name and not path.name.endswith(".partial"):
                parsed = keys.parse(path.read_bytes())
                assert not parsed.problems, f"{path.name} is half a file"
                found |= {key.key_id for key in parsed.keys}
        return found

    def check(self) -> None:
        """What must hold at any instant."""
        self.look()
        assert not self.loose
        for data in self.seen:
            assert not keys.parse(data).problems


Kill = t.Callable[[Host, "dict[str, t.Any]"], Result]


def converge_mint(host: Host, kill: Kill) -> Result:
    """Kill a run that mints, then let another end."""
    result = kill(host, host.options())
    host.check()
    before = host.key.read_bytes() if host.key.exists() else None
    final = host.run()
    host.check()
    assert before in (None, host.key.read_bytes())
    assert len(host.seen) == 1, "two identities were there"
    assert len(final["verify_keys"]) == 1
    assert not host.run()["changed"]
    assert {path.name for path in host.folder.iterdir()} == {host.key.name, f"{host.key.name}.verify_keys.json"}
    return result


def converge_rotation(host: Host, kill: Kill, again: str) -> Result:
    """Kill a run that rotates, then let another end, with the same order or a plain one first."""
    (old,) = host.run()["key_ids"]
    order = {"state": "rotated", "replaces": old}
    result = kill(host, host.options(**order))
    host.check()
    assert old in host.all_keys(), "the old key is lost"
    if again == "present":
        kept = host.run()
        assert kept["key_ids"][0] in host.all_keys()
    final = host.run(**order)
    host.check()
    assert old not in final["key_ids"]
    assert list(final["old_signing_keys"]) == [old]
    assert old in host.all_keys(), "the old key is lost"
    assert len(host.seen) == 2, "more than the old and one new identity were there"
    assert not host.run()["changed"]
    assert not host.run(**order)["changed"]
    assert not [path for path in host.folder.iterdir() if path.name.endswith(".partial")]
    return result


@pytest.fixture(autouse=True)
def _the_umask_is_loose() -> t.Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def before_each_operation(folder: Path, converge: t.Callable[[Host, Kill], Result]) -> int:
    """Kill before the first operation on a file, before the second, and so on; return how many there were."""
    for number in range(1, LIMIT):
        host = Host(folder / str(number))

        def kill(host: Host, options: dict[str, t.Any], number: int = number) -> Result:
            return killed_before(number, host.folder, NAME, options, host.output)

        if converge(host, kill).rc == 0:
            return number - 1
    raise AssertionError("the run never ended by itself")


def test_minting_killed_before_each_of_its_operations(tmp_path: Path) -> None:
    assert before_each_operation(tmp_path, converge_mint) >= 8


@pytest.mark.parametrize("again", ["present", "rotated"])
def test_rotating_killed_before_each_of_its_operations(tmp_path: Path, again: str) -> None:
    def converge(host: Host, kill: Kill) -> Result:
        return converge_rotation(host, kill, again)

    assert before_each_operation(tmp_path, converge) >= 16


def test_killed_at_random_instants_while_somebody_watches(tmp_path: Path) -> None:
    chance = random.Random(os.environ.get("MATRIX_FLEET_SEED", str(time.time_ns())))
    began = time.monotonic()
    Host(tmp_path / "first").run()
    usual = time.monotonic() - began
    killed = 0
    for number in range(RANDOM_KILLS):
        host = Host(tmp_path / str(number))
        instant = chance.uniform(0, usual)

        def kill(host: Host, options: dict[str, t.Any], instant: float = instant) -> Result:
            with host.watched():
                return killed_after(instant, NAME, options, host.output)

        if number % 2:
            result = converge_rotation(host, kill, chance.choice(["present", "rotated"]))
        else:
            result = converge_mint(host, kill)
        killed += result.rc < 0
    assert killed >= RANDOM_KILLS // 2
