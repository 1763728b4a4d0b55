# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What synapse_permissions costs on a tree in good order, against a bare walk that stats each file.

Both sides run in turn in one process, on the same tree, in a warm cache; the ratio is of the best of each.
Usage: python tests/bench/permissions_walk.py [FILES]
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import tempfile
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions import Rule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions_walk import walk

_PER_FOLDER = 100
_ROUNDS = 7


def plant(root: pathlib.Path, files: int) -> None:
    """Make a tree like a media store: two levels of folders, a hundred files in each."""
    for number in range(0, files, _PER_FOLDER):
        folder = root / f"{number // (_PER_FOLDER * 32):03d}" / f"{number // _PER_FOLDER:05d}"
        folder.mkdir(parents=True, mode=0o750)
        for file in range(min(_PER_FOLDER, files - number)):
            (folder / f"file-{file:04d}").touch(mode=0o640)
    for folder, _names, _files in os.walk(root):
        os.chmod(folder, 0o750)  # the mode that the rule wants


def bare(top: str | int) -> int:
    """Walk and stat, and nothing else: by open folders, which is the fastest way there is."""
    handle = os.open(top, os.O_RDONLY | os.O_DIRECTORY) if isinstance(top, str) else top
    count = 0
    folders = []
    with os.scandir(handle) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            count += 1
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
    for name in folders:
        count += bare(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle))
    os.close(handle)
    return count


def best(rounds: int, *sides: t.Callable[[], object]) -> list[float]:
    """Return the best time of each side in seconds; the sides take turns."""
    times: list[list[float]] = [[] for _unused in sides]
    for _unused in range(rounds):
        for taken, side in zip(times, sides, strict=True):
            started = time.perf_counter()
            side()
            taken.append(time.perf_counter() - started)
    return [min(taken) for taken in times]


def main() -> None:
    """Plant, measure, print."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        plant(root, files)
        rule = Rule(
            folder, os.geteuid(), root.stat().st_gid, 0o750, recurse=True, directory_mode=0o750, file_mode=0o640
        )
        tally = walk([rule], write=True)
        if walk([rule], write=True).changed_count or tally.examined != bare(folder) + 1:
            raise SystemExit("the tree is not in good order, or the two walks do not see the same")
        picky = dataclasses.replace(rule, exclude=("*.tmp", "lost+found/*"))
        walked, sifted, floor = best(
            _ROUNDS,
            lambda: walk([rule], write=True),
            lambda: walk([picky], write=True),
            lambda: bare(folder),
        )
    print(
        f"synapse_permissions on {tally.examined} objects in good order: {walked * 1000:.0f} ms, "
        f"with two exclusions {sifted * 1000:.0f} ms, bare walk {floor * 1000:.0f} ms, "
        f"ratios {walked / floor:.2f} and {sifted / floor:.2f} (target: at most 1.5)"
    )


if __name__ == "__main__":
    main()
