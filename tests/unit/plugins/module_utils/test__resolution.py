# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lock for many hosts: which files they can install, which packages they need, and what the lock's header says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, digest_of, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._resolution import (
    ARCHITECTURES,
    PYTHONS,
    Header,
    Host,
    Lack,
    Wheel,
    file_names,
    hosts_of,
    needs,
    outline,
    prune,
    read,
    render,
    without_hashes,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

DEBIAN = Host((3, 11), "x86_64", "glibc")
ALPINE = Host((3, 12), "x86_64", "musl")
ARM = Host((3, 13), "aarch64", "glibc")

FITS = [
    ("a-1-py3-none-any.whl", DEBIAN, True),
    ("a-1-py2.py3-none-any.whl", ALPINE, True),
    ("a-1-py2-none-any.whl", DEBIAN, False),
    ("a-1-py38-none-any.whl", DEBIAN, True),
    ("a-1-py312-none-any.whl", DEBIAN, False),
    ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", DEBIAN, True),
    ("a-1-cp311-cp311-manylinux2014_x86_64.whl", ALPINE, False),
    ("a-1-cp311-cp311-linux_x86_64.whl", DEBIAN, True),
    ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", DEBIAN, False),
    ("a-1-cp312-cp312-musllinux_1_2_x86_64.whl", ALPINE, True),
    ("a-1-cp313-cp313-manylinux_2_28_aarch64.whl", ARM, True),
    ("a-1-cp313-cp313-manylinux_2_28_x86_64.whl", ARM, False),
    ("a-1-cp313-cp313t-manylinux_2_28_aarch64.whl", ARM, False),
    ("a-1-cp39-abi3-manylinux_2_28_aarch64.whl", ARM, True),
    ("a-1-cp314-abi3-manylinux_2_28_aarch64.whl", ARM, False),
    ("a-1-cp310-cp310-manylinux_2_28_aarch64.whl", ARM, False),
    ("a-1-pp311-pypy311_pp73-manylinux2014_x86_64.whl", DEBIAN, False),
    ("a-1-cp311-cp311-win_amd64.whl", DEBIAN, False),
    ("a-1-cp311-cp311-macosx_11_0_arm64.whl", ARM, False),
    ("a-1-1-cp311-none-manylinux2014_x86_64.whl", DEBIAN, True),
]


@pytest.mark.parametrize(("name", "host", "fits"), FITS)
def test_a_wheel_fits_the_hosts_that_its_name_says(name: str, host: Host, fits: bool) -> None:
    assert Wheel.of(name).fits(host) is fits


NEEDS = [
    ("", True),
    ("python_full_version < '3.11'", False),
    ("python_full_version >= '3.11'", True),
    ("python_full_version < '3.11.5'", True),
    ("python_full_version >= '3.11.5'", True),
    ("sys_platform == 'win32'", False),
    ("platform_python_implementation == 'PyPy'", False),
    ("implementation_name != 'PyPy' and python_version >= '3.9'", True),
    ("platform_machine == 'aarch64'", False),
]


@pytest.mark.parametrize(("marker", "needed"), NEEDS)
def test_a_marker_says_whether_a_host_can_need_a_package(marker: str, needed: bool) -> None:
    assert needs(DEBIAN, marker) is needed


def pin(name: str, *hashes: str, marker: str = "") -> Pin:
    return Pin(name, "1", marker, tuple(sorted(hashes)))


NAMES = {
    "a" * 64: "x-1-py3-none-any.whl",
    "b" * 64: "x-1-cp311-cp311-manylinux2014_x86_64.whl",
    "c" * 64: "x-1-cp313-cp313-manylinux2014_aarch64.whl",
    "d" * 64: "x-1.tar.gz",
    "e" * 64: "x-1-cp311-cp311-win_amd64.whl",
}
A, B, C, D, E = NAMES


def test_hashes_of_what_no_host_can_install_go() -> None:
    unknown = "f" * 64
    kept, lacks = prune([pin("x", A, D, E, unknown), pin("y", B, C, D, E)], NAMES, [DEBIAN, ARM])
    assert [one.hashes for one in kept] == [(A,), (B, C)]
    assert lacks == ()


def test_a_package_that_no_host_needs_goes() -> None:
    kept, lacks = prune([pin("x", E, marker="sys_platform == 'win32'"), pin("y", A)], NAMES, [DEBIAN])
    assert [one.name for one in kept] == ["y"]
    assert lacks == ()


def test_a_source_distribution_stays_where_a_host_has_no_wheel() -> None:
    kept, lacks = prune([pin("x", B, D)], NAMES, [DEBIAN, ALPINE])
    assert kept[0].hashes == (B, D)
    assert lacks == (Lack("x", "1", ("3.12",), ("x86_64",), ("musl",), True),)


def test_hosts_without_a_wheel_are_named_exactly() -> None:
    hosts = hosts_of(["3.11", "3.13"], ["x86_64", "aarch64"])
    lacks = prune([pin("x", B, C, D)], NAMES, hosts)[1]
    named = {
        (python, machine, library)
        for lack in lacks
        for python in lack.pythons
        for machine in lack.architectures
        for library in lack.libraries
    }
    every = {(f"{host.python[0]}.{host.python[1]}", host.machine, host.library) for host in hosts}
    assert named == every - {("3.11", "x86_64", "glibc"), ("3.13", "aarch64", "glibc")}
    assert len(lacks) == 3
    assert [one.libraries for one in prune([pin("x", D)], NAMES, hosts)[1]] == [("glibc", "musl")]


def test_it_is_told_where_there_is_nothing_to_build_from() -> None:
    lacks = prune([pin("x", B)], NAMES, [DEBIAN, ARM])[1]
    assert lacks == (Lack("x", "1", ("3.13",), ("aarch64",), ("glibc",), False),)
    assert lacks[0].text() == "x 1 for Python 3.13 on aarch64 with glibc, and nothing to build it from"
    assert prune([pin("x", E)], NAMES, [DEBIAN])[0] == ()


def test_the_shipped_lock_serves_every_host_that_it_is_for() -> None:
    hosts = hosts_of(PYTHONS, ARCHITECTURES)
    assert len(hosts) == 20
    for host in hosts:
        assert any(needs(host, one.marker) for one in parse(_default_lock.LOCK) if one.name == "matrix-synapse")


def test_file_names_are_read_from_addresses_paths_and_names() -> None:
    document = {
        "packages": [
            {"wheels": [{"url": "https://h/x%2B1-1-py3-none-any.whl#y", "hashes": {"sha256": A}}]},
            {"wheels": [{"path": "../w/x-1-py3-none-any.whl", "hashes": {"sha256": B}}]},
            {"sdist": {"name": "x-1.tar.gz", "url": "https://h/download?x", "hashes": {"sha256": D}}},
            {"name": "without files"},
        ]
    }
    assert file_names(document) == {A: "x+1-1-py3-none-any.whl", B: "x-1-py3-none-any.whl", D: "x-1.tar.gz"}


# ---------------------------------------------------------------------------------------------------------- the file

PINS = (pin("x", A, B), pin("y", C, marker="python_version < '3.11'"))
LACK = Lack("y", "1", ("3.12",), ("x86_64",), ("musl",), True)


def test_what_is_written_is_read_again() -> None:
    header = Header({"version": "1.150.0", "extras": ["redis"]}, "2026-03-25", (LACK,))
    text = render(header, PINS)
    assert read(text) == (header, PINS)
    assert digest_of(parse(text)) in text
    assert all(len(line) < 90 for line in text.splitlines() if not line.startswith("#"))
    assert read(render(Header({"version": "1"}), PINS)) == (Header({"version": "1"}), PINS)


@given(st.dictionaries(st.text(), st.lists(st.text())), st.sampled_from(["", "2026-03-25"]))
def test_any_request_survives(more: dict[str, list[str]], day: str) -> None:
    header = Header({**more, "version": "1"}, day)
    assert read(render(header, PINS))[0] == header


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y==1 ", "y==2 "),
        (A, E),
        ("# digest: ", "# digest: 0"),
        ("# request: {", "# request: "),
        ('# request: {"version": "1"}', "# request: []"),
        ("# request: ", "# wish: "),
        ('"package"', '"parcel"'),
    ],
)
def test_what_was_edited_is_no_lock_of_ours(old: str, new: str) -> None:
    text = render(Header({"version": "1"}, lacks=(LACK,)), PINS)
    assert old in text
    header, pins = read(text.replace(old, new))
    assert header is None
    assert len(pins) == 2


def test_what_is_no_lock_is_refused() -> None:
    with pytest.raises(SynapseError):
        read("- hosts: all\n")


def test_a_diff_shows_packages_and_not_hashes() -> None:
    text = render(Header({"version": "1"}), PINS)
    shown = outline(text)
    assert "x==1  # 2 files\ny==1 ; python_version < '3.11'  # 1 file\n" in shown
    assert "--hash" not in shown
    assert (outline(None), outline("no lock\n")) == ("", "no lock\n")
    assert without_hashes(PINS) == "x==1\ny==1 ; python_version < '3.11'\n"
