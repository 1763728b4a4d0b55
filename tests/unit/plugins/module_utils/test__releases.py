# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases: names, manifests, and which ones may go."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import (
    Manifest,
    Release,
    free_name,
    is_release_name,
    name_of,
    request_digest,
    to_prune,
)


def manifest(proven_at: str = "2026-01-01T00:00:00Z") -> Manifest:
    return Manifest(
        version="1.163.2",
        lock_digest="0" * 64,
        request="1" * 64,
        python="/usr/bin/python3.11",
        python_version="3.11.2",
        python_stamp="1 2",
        packages={"matrix-synapse": "1.163.2"},
        installer="uv 0.13.9",
        proven_at=proven_at,
        tree="2" * 64,
    )


def release(name: str, day: int, *, incomplete: bool = False) -> Release:
    return Release(name, f"/r/{name}", manifest(f"2026-01-{day:02}T00:00:00Z"), incomplete)


def test_a_manifest_survives_the_disk() -> None:
    assert Manifest.from_json(manifest().to_json()) == manifest()


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"{}",
        json.dumps({**json.loads(manifest().to_json()), "format": 2}).encode(),
        json.dumps({**json.loads(manifest().to_json()), "new": 1}).encode(),
        json.dumps({**json.loads(manifest().to_json()), "packages": []}).encode(),
        json.dumps({**json.loads(manifest().to_json()), "version": None}).encode(),
        json.dumps({**json.loads(manifest().to_json()), "plugins": {}}).encode(),
        json.dumps({**json.loads(manifest().to_json()), "plugins": ["x"]}).encode(),
    ],
)
def test_a_damaged_manifest_is_none(data: bytes | None) -> None:
    assert Manifest.from_json(data) is None


def test_a_manifest_without_plugins_is_what_it_was_before_there_were_any() -> None:
    assert b"plugins" not in manifest().to_json()
    with_one = replace(manifest(), plugins=[{"name": "a"}])
    assert Manifest.from_json(with_one.to_json()) == with_one


def test_a_release_is_proven_only_with_a_manifest_and_without_the_marker() -> None:
    assert release("a", 1).proven
    assert not release("a", 1, incomplete=True).proven
    assert not Release("a", "/r/a").proven


def test_names() -> None:
    assert name_of("1.163.2", "0123456789abcdef") == "1.163.2-0123456789ab"
    assert free_name("x", []) == "x"
    assert free_name("x", ["x"]) == "x.2"
    assert free_name("x", ["x", "x.2", "x.4"]) == "x.3"
    assert is_release_name("1.163.2-0123456789ab")
    assert is_release_name("1.163.2rc1-0123456789ab.12")
    for name in ("adopted-1.0-20260101", ".tools", "1.163.2", "1.163.2-0123456789ag", "notes"):
        assert not is_release_name(name)


PRUNING = [
    # keep, spared, what goes of a (oldest), b, c, d (newest), and the unproven x
    (3, ["d", "c"], ["a"]),
    (2, ["d", "c"], ["a", "b"]),
    (1, ["d", "c"], ["a", "b"]),
    (1, ["d"], ["a", "b", "c"]),
    (2, ["a", "b"], ["c", "d"]),
    (4, ["d"], []),
    (9, ["d"], []),
    (0, ["d", "a"], ["b", "c"]),
]


@pytest.mark.parametrize(("keep", "spared", "gone"), PRUNING)
def test_the_oldest_go_and_the_spared_stay(keep: int, spared: list[str], gone: list[str]) -> None:
    releases = [release("c", 3), release("a", 1), release("x", 1, incomplete=True), release("d", 4), release("b", 2)]
    assert [one.name for one in to_prune(releases, keep=keep, spare=spared)] == gone


def test_a_request_is_the_same_in_any_order_and_another_with_any_other_content() -> None:
    def digest(
        version: str = "1",
        extras: tuple[str, ...] = ("a", "b"),
        lock: str | None = None,
        constraints: str | None = None,
    ) -> str:
        return request_digest(version=version, extras=extras, extra_packages=(), lock=lock, constraints=constraints)

    assert digest() == digest(extras=("b", "a", "a"))
    # What a host has that was deployed before plugins were carried: its releases must still be what is asked for.
    known = request_digest(version="1", extras=(), extra_packages=(), lock="x", constraints=None)
    assert known == "78a22e05e8497747f43363730f2d080e747f35b79b862047902da494a23d3f87"
    assert known == request_digest(version="1", extras=(), extra_packages=(), lock="x", constraints=None, plugins=())
    assert len({digest(), digest("2"), digest(extras=()), digest(lock="x"), digest(constraints="")}) == 5
