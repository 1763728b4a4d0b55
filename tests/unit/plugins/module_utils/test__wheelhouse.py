# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which wheels which kind of host takes, and what a manifest may say."""

from __future__ import annotations

import json
import typing as t
from dataclasses import replace

import pytest
from packaging.markers import Marker
from packaging.tags import compatible_tags, cpython_tags

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import uv_wheel
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import (
    ARCHITECTURES,
    LIBCS,
    PYTHONS,
    Entry,
    Manifest,
    Part,
    Target,
    glibc_floor,
    is_pure,
    lacking_wheel,
    pins_of,
    platforms,
    refusal,
    requirements,
    rounds,
    synapse_in,
    targets_of,
    uv_pin,
)

DEBIAN_12 = Target("3.11", "x86_64", "glibc")
SHA = "a" * 64
WHEEL = "light_a-1.0-py3-none-any.whl"


def pin(name: str = "a", version: str = "1", marker: str = "") -> Pin:
    return Pin(name, version, marker, (SHA,))


def manifest(**changes: t.Any) -> Manifest:
    whole = Manifest(
        synapse="2.0.0",
        lock_digest=SHA,
        made_from=SHA,
        uv="0.1.0",
        targets={DEBIAN_12.name: Part("3.11", "x86_64", "glibc", "2.28", (WHEEL,))},
        files={"lock.txt": Entry(SHA, 1), WHEEL: Entry(SHA, 2)},
    )
    return replace(whole, **changes)


# --------------------------------------------------------------------------------------------------------- the targets


def test_targets_are_every_combination_in_the_order_of_versions() -> None:
    names = [one.name for one in targets_of(["3.11", "3.9", "3.11"], ["x86_64", "aarch64"], ["glibc"])]
    assert names == ["cp39-aarch64-glibc", "cp39-x86_64-glibc", "cp311-aarch64-glibc", "cp311-x86_64-glibc"]


@pytest.mark.parametrize("python", ["3", "3.11.2", "2.7", "latest", ""])
def test_what_is_no_minor_version_is_refused(python: str) -> None:
    with pytest.raises(SynapseError, match=r"give minor versions such as '3\.11'"):
        targets_of([python], ["x86_64"], ["glibc"])


def test_a_wheelhouse_for_nobody_is_refused() -> None:
    with pytest.raises(SynapseError, match="at least one Python"):
        targets_of([], ["x86_64"], ["glibc"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("libc", LIBCS)
def test_the_pinned_uv_runs_on_every_target(architecture: str, libc: str) -> None:
    target = Target("3.12", architecture, libc)
    name, digest = uv_wheel(architecture, libc) or ("", "")
    assert uv_pin(target).hashes == (digest,)
    assert set(name[:-4].rsplit("-", 1)[1].split(".")) & set(platforms(target))


def test_an_unknown_processor_has_no_uv() -> None:
    with pytest.raises(SynapseError, match=r"No uv is known for Python 3\.12 on riscv64"):
        uv_pin(Target("3.12", "riscv64", "glibc"))


@pytest.mark.parametrize(
    ("target", "first", "last", "has", "lacks"),
    [
        (DEBIAN_12, "manylinux_2_5_x86_64", "linux_x86_64", "manylinux2014_x86_64", "manylinux_2_37_x86_64"),
        (
            Target("3.11", "aarch64", "glibc"),
            "manylinux_2_17_aarch64",
            "linux_aarch64",
            "manylinux_2_36_aarch64",
            "manylinux1_aarch64",
        ),
        (
            Target("3.11", "x86_64", "musl"),
            "musllinux_1_0_x86_64",
            "musllinux_1_2_x86_64",
            "musllinux_1_1_x86_64",
            "linux_x86_64",
        ),
    ],
)
def test_platforms_begin_with_what_runs_on_most_hosts(
    target: Target, first: str, last: str, has: str, lacks: str
) -> None:
    tags = platforms(target)
    assert (tags[0], tags[-1]) == (first, last)
    assert has in tags
    assert lacks not in tags


def test_of_two_wheels_pip_prefers_the_one_for_an_older_glibc() -> None:
    # pip takes the first tag that fits (packaging.tags, the order of cpython_tags).
    order = [str(tag) for tag in cpython_tags((3, 11), ["cp311"], list(platforms(DEBIAN_12)))]
    assert order.index("cp311-cp311-manylinux_2_17_x86_64") < order.index("cp311-cp311-manylinux_2_28_x86_64")
    assert "cp310-abi3-manylinux_2_28_x86_64" in order
    assert not any("cp311t" in tag for tag in order)
    assert "py3-none-any" in {str(tag) for tag in compatible_tags((3, 11), "cp311", list(platforms(DEBIAN_12)))}


# --------------------------------------------------------------------------------------------------------- the markers


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_markers_are_judged_as_the_packaging_library_does(python: str, architecture: str) -> None:
    pins = parse(_default_lock.LOCK)
    target = Target(python, architecture, "glibc")
    expected = []
    for one in pins:
        environments = [
            {
                "implementation_name": "cpython",
                "implementation_version": f"{python}.{micro}",
                "os_name": "posix",
                "platform_machine": architecture,
                "platform_python_implementation": "CPython",
                "platform_release": "",
                "platform_system": "Linux",
                "platform_version": "",
                "python_full_version": f"{python}.{micro}",
                "python_version": python,
                "sys_platform": "linux",
                "extra": "",
            }
            for micro in range(30)
        ]
        if not one.marker or any(Marker(one.marker).evaluate(found) for found in environments):
            expected.append(one)
    assert pins_of(pins, target) == tuple(expected)


def test_bug_fix_releases_that_differ_are_both_provided_for() -> None:
    pins = [pin("a", "1", "python_full_version < '3.11.5'"), pin("a", "2", "python_full_version >= '3.11.5'")]
    assert [one.version for one in pins_of(pins, DEBIAN_12)] == ["1", "2"]
    assert [one.version for one in pins_of(pins, Target("3.12", "x86_64", "glibc"))] == ["2"]
    assert [one.version for one in pins_of(pins, Target("3.10", "x86_64", "glibc"))] == ["1"]


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("sys_platform == 'win32'", False),
        ("sys_platform == 'linux'", True),
        ("platform_machine == 'aarch64'", False),
        ("implementation_name != 'PyPy'", True),
        ("platform_python_implementation == 'CPython'", True),
    ],
)
def test_markers_of_the_platform(marker: str, holds: bool) -> None:
    assert bool(pins_of([pin(marker=marker)], DEBIAN_12)) is holds


def test_two_versions_of_a_package_are_asked_for_one_after_the_other() -> None:
    first, second, other = pin("a", "1"), pin("a", "2"), pin("b")
    assert rounds([first, second, other]) == [[first, other], [second]]
    assert rounds([]) == []


def test_pip_gets_pins_without_markers() -> None:
    assert requirements([pin(marker="python_version >= '3.11'")]) == f"a==1 --hash=sha256:{SHA}\n"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("ERROR: No matching distribution found for Foo_Bar==1.0", "foo-bar"),
        (
            "ERROR: Could not find a version that satisfies the requirement threadloop==1.0.2 (from versions: none)\n"
            "ERROR: No matching distribution found for threadloop==1.0.2\n",
            "threadloop",
        ),
        ("ERROR: Connection refused", ""),
    ],
)
def test_what_pip_found_no_wheel_of(said: str, name: str) -> None:
    assert lacking_wheel(said) == name


# ---------------------------------------------------------------------------------------------------------- the wheels


@pytest.mark.parametrize(
    ("name", "pure"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-py2-none-any.whl", False),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", False),
        ("uv-1-py3-none-manylinux_2_17_x86_64.whl", False),
        ("a-1-cp311-none-any.whl", False),
    ],
)
def test_pure_wheels_by_their_names(name: str, pure: bool) -> None:
    assert is_pure(name) is pure


@pytest.mark.parametrize(
    ("names", "glibc"),
    [
        (["a-1-py3-none-any.whl"], "2.0"),
        (["a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "b-1-cp39-abi3-manylinux2014_x86_64.whl"], "2.28"),
        (["a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl"], "2.17"),
        (["a-1-cp311-cp311-manylinux1_x86_64.whl"], "2.5"),
        (["a-1-cp311-cp311-musllinux_1_2_x86_64.whl"], "2.0"),
    ],
)
def test_the_oldest_glibc_that_does(names: list[str], glibc: str) -> None:
    assert glibc_floor(names) == glibc


def test_the_lock_says_which_synapse_it_is() -> None:
    assert synapse_in([pin("matrix-synapse", "1.2.3"), pin()]) == "1.2.3"
    with pytest.raises(SynapseError, match="has none"):
        synapse_in([pin()])
    with pytest.raises(SynapseError, match=r"has 1\.2 and 1\.3"):
        synapse_in([pin("matrix-synapse", "1.2"), pin("matrix-synapse", "1.3")])


# -------------------------------------------------------------------------------------------------------- the manifest


def test_a_manifest_survives_its_json_byte_by_byte() -> None:
    data = manifest().to_json()
    read = Manifest.from_json(data)
    assert read == manifest()
    assert read is not None
    assert read.to_json() == data
    assert read.digest == manifest().digest
    assert read.names_for(DEBIAN_12.name) == ("lock.txt", WHEEL)


@pytest.mark.parametrize(
    "name",
    [
        "../evil-1-py3-none-any.whl",
        "/etc/passwd",
        "a/b-1-py3-none-any.whl",
        ".bashrc",
        "a-1-py3-none-any.whl/x",
        "",
        "a-1.tar.gz",
    ],
)
def test_a_manifest_with_names_that_no_wheel_has_is_none(name: str) -> None:
    data = json.loads(manifest().to_json())
    data["files"][name] = {"sha256": SHA, "size": 1}
    assert Manifest.from_json(json.dumps(data).encode()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"synapse": 1},
        {"files": {}},
        {"files": {"lock.txt": {"sha256": "short", "size": 1}}},
        {"files": {"lock.txt": {"sha256": SHA, "size": -1}}},
        {"files": {"lock.txt": {"sha256": SHA, "size": True}}},
        {"files": []},
        {
            "targets": {
                "other": {"python": "3.11", "architecture": "x86_64", "libc": "glibc", "glibc": "2.17", "files": []}
            }
        },
        {
            "targets": {
                DEBIAN_12.name: {
                    "python": "3.11",
                    "architecture": "x86_64",
                    "libc": "glibc",
                    "glibc": "2.17",
                    "files": ["no-1-py3-none-any.whl"],
                }
            }
        },
        {"unknown": 1},
    ],
)
def test_a_damaged_manifest_is_none(change: dict[str, t.Any]) -> None:
    data = {**json.loads(manifest().to_json()), **change}
    assert Manifest.from_json(json.dumps(data).encode()) is None


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b"{"])
def test_what_is_no_manifest_is_none(data: bytes) -> None:
    assert Manifest.from_json(data) is None


@pytest.mark.parametrize(
    ("target", "glibc", "told"),
    [
        (DEBIAN_12, "2.36", ""),
        (DEBIAN_12, "2.28", ""),
        (DEBIAN_12, "", ""),
        (DEBIAN_12, "2.9", "need glibc 2.28 and this host has 2.9"),
        (
            replace(DEBIAN_12, python="3.13"),
            "2.36",
            "which has Python 3.13 on x86_64. It is for Python 3.11 on x86_64.",
        ),
        (replace(DEBIAN_12, architecture="aarch64"), "2.36", "which has Python 3.11 on aarch64"),
        (replace(DEBIAN_12, libc="musl"), "", "which has Python 3.11 on x86_64 with musl"),
    ],
)
def test_a_host_that_cannot_use_it_is_refused(target: Target, glibc: str, told: str) -> None:
    reason = refusal(manifest(), target, glibc)
    assert told in reason
    assert bool(reason) is bool(told)
