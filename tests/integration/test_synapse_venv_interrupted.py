# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed at any instant, ``synapse_venv`` leaves an environment that answers, and the next run comes to a good end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.light_synapse import (
    lock_of,
    place_uv,
    put_back,
    synapse_wheel,
    wheel,
)
from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import (
    killed_before_write,
    run,
    start,
    telling,
    wait,
    writes_of,
)

KILLS = int(os.environ.get("MATRIX_FLEET_KILLS", "40"))
VERSIONS = ("2.0.0", "2.0.1")


class Host:
    """A host whose live environment is one of two versions, and a run that goes to the other."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.releases = root, root / "host/venv", root / "host/releases"
        self.output = root / "answer.json"
        wheels = root / "wheels"
        wheels.mkdir(parents=True)
        place_uv(self.releases)
        many = {f"light_a/m{number}.py": f"x = {number}\n" * 50 for number in range(400)}
        extra = wheel(wheels, "light-a", "1.0", {"light_a/__init__.py": "", **many})
        self.locks = {version: lock_of(synapse_wheel(wheels, version), extra) for version in VERSIONS}
        self.common = {"path": str(self.path), "offline": True, "find_links": [str(wheels)], "keep_releases": 1}

    def arguments(self, version: str, **options: t.Any) -> dict[str, t.Any]:
        return {**self.common, "requirements_content": self.locks[version], **options}

    def live(self) -> str:
        """Return the version that the live environment answers with."""
        code = "import synapse.app.homeserver, synapse, light_a.m399; print(synapse.__version__)"
        python = self.path / "bin/python"
        return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    def check(self, old: str, new: str) -> None:
        """Check the promises after a kill: the old or the new answers, and the next run ends well and is the last."""
        assert self.live() in {old, new}
        answer = run("synapse_venv", self.arguments(new), self.output)
        assert not answer.get("failed"), answer.get("msg")
        assert self.live() == new
        assert not run("synapse_venv", self.arguments(new), self.output)["changed"]
        unfinished = list(self.releases.glob("*/.incomplete")) + list(self.releases.glob(".tools/new-*"))
        assert unfinished == []


def in_memory() -> str | None:
    """Return a folder in memory where there is one that programs run from, else nothing.

    A killed process loses nothing that it wrote, on whatever file system; so these tests need no disk to wait for.
    """
    folder = "/dev/shm"
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    found = os.statvfs(folder)
    roomy = found.f_bavail * found.f_frsize > 2 * 2**30
    return folder if roomy and not found.f_flag & os.ST_NOEXEC else None


@pytest.fixture(scope="module")
def ground() -> t.Iterator[Host]:
    """A host with one release, built once, beside a copy of it."""
    with tempfile.TemporaryDirectory(dir=in_memory(), prefix="matrix-fleet-") as folder:
        host = Host(Path(folder))
        assert run("synapse_venv", host.arguments(VERSIONS[0]), host.output)["changed"]
        shutil.copytree(host.root / "host", host.root / "kept", symlinks=True)
        yield host


@pytest.fixture
def host(ground: Host) -> Host:
    put_back(ground.root / "kept", ground.root / "host")
    assert ground.live() == VERSIONS[0]
    return ground


def kill(pid: int, *, group: bool) -> None:
    """End a run, with or without its children; right after the fork it has no group of its own yet, and no children."""
    try:
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def test_killed_at_random_instants_the_server_s_environment_answers(host: Host) -> None:
    began = time.monotonic()
    assert run("synapse_venv", host.arguments(VERSIONS[1], state="rebuilt"), host.output)["changed"]
    whole = time.monotonic() - began
    chance = random.Random(20)
    cut = 0
    for number in range(KILLS):
        here, there = (VERSIONS[1], VERSIONS[0]) if number % 2 == 0 else VERSIONS
        pid = start("synapse_venv", host.arguments(there, state="rebuilt"), host.output, os.setsid)
        time.sleep(chance.uniform(0, whole))
        # With its installer, as when the machine goes down, or alone, so that the installer writes on.
        kill(pid, group=chance.random() < 0.5)
        cut += wait(pid, host.output).rc == -signal.SIGKILL
        host.check(here, there)
    assert cut >= KILLS // 2, f"only {cut} of {KILLS} runs were still going when they were to be killed"


def test_killed_before_each_of_its_own_writes_it_converges(host: Host) -> None:
    place, arguments = host.root / "host", host.arguments(VERSIONS[1])
    numbers = telling(writes_of(place, "synapse_venv", arguments, host.output))
    assert len(numbers) > 20
    for number in numbers:
        put_back(host.root / "kept", place)
        ended = killed_before_write(number, place, "synapse_venv", arguments, host.output)
        assert ended.rc == -signal.SIGKILL, f"write {number}"
        host.check(*VERSIONS)


def test_killed_while_a_hand_made_environment_gives_way_it_is_not_lost(host: Host) -> None:
    release = host.path.resolve()
    arguments = host.arguments(VERSIONS[0])
    host.path.unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", host.path], check=True)
    (host.path / "mine.txt").write_text("mine")
    kept_host = host.root / "made-by-hand"
    shutil.copytree(host.root / "host", kept_host, symlinks=True)
    numbers = telling(writes_of(host.root / "host", "synapse_venv", arguments, host.output))
    assert len(numbers) > 5
    for number in numbers:
        put_back(kept_host, host.root / "host")
        ended = killed_before_write(number, host.root / "host", "synapse_venv", arguments, host.output)
        assert ended.rc == -signal.SIGKILL, f"write {number}"
        kept = [path for path in (host.path, *host.releases.glob("adopted-*")) if (path / "mine.txt").exists()]
        assert len(kept) == 1, f"write {number}"
        answer = run("synapse_venv", arguments, host.output)
        assert not answer.get("failed"), answer.get("msg")
        assert host.live() == VERSIONS[0]
        assert host.path.resolve() == release
        kept = [path for path in host.releases.glob("adopted-*") if path.is_dir() and not path.is_symlink()]
        assert len(kept) == 1, f"write {number}"
        assert (kept[0] / "mine.txt").exists()


@pytest.mark.parametrize("part", [0.1, 0.4, 0.8])
def test_killed_while_the_real_synapse_is_installed_the_old_one_answers(
    host: Host, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv"))
    pid = start("synapse_venv", {"path": str(host.path), "activate": False}, host.output, os.setsid)
    until = time.monotonic() + 60
    while not list(host.releases.glob("1.*")) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(part * 5)
    kill(pid, group=True)
    wait(pid, host.output)
    host.check(VERSIONS[0], VERSIONS[1])
