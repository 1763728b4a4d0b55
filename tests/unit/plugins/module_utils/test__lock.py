# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: what is read, what is refused, which pins hold on a host, and what the digest depends on."""

from __future__ import annotations

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import (
    applies,
    canonical,
    digest_of,
    parse,
    pins_for,
    text_of,
    version_key,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

A, B = "a" * 64, "b" * 64
LINUX = {
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
    "implementation_name": "cpython",
}


def test_a_lock_as_uv_writes_it_is_read() -> None:
    text = (
        "# made by uv\n"
        f"Zope.Interface==8.7 ; python_full_version >= '3.11' \\\n    --hash=sha256:{B} \\\n    --hash=sha256:{A}\n"
        "    # via twisted\n"
        f"matrix-synapse[redis]==1.163.2 --hash=sha256:{A}  # comment\n"
    )
    pins = parse(text)
    assert [pin.name for pin in pins] == ["matrix-synapse", "zope-interface"]
    assert pins[1].marker == "python_full_version >= '3.11'"
    assert pins[1].hashes == (A, B)
    assert parse(text_of(pins)) == pins


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no package"),
        ("# only a comment\n", "names no package"),
        ("twisted==26.10.0\n", "line 1: twisted has no SHA-256 hash"),
        (f"\ntwisted>=26 --hash=sha256:{A}\n", "line 2: expected one exact version"),
        (f"git+https://h/x --hash=sha256:{A}\n", "line 1: expected one exact version"),
        ("-r other.txt\n", "line 1: expected one exact version"),
        (f"twisted==26.10.0 --hash=md5:{A}\n", "line 1: expected one exact version"),
        (f"twisted==26.10.0 ; os is 'x' --hash=sha256:{A}\n", "cannot be read"),
        (f"twisted==26.10.0 --hash=sha256:{A} \\\n", "cut short"),
    ],
)
def test_what_is_no_lock_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(SynapseError, match=complaint):
        parse(text)


def test_the_digest_depends_on_what_is_locked_and_on_nothing_else() -> None:
    one = parse(f"b==1 --hash=sha256:{A} --hash=sha256:{B}\na==2 --hash=sha256:{A}\n")
    same = parse(f"# hello\na==2 \\\n  --hash=sha256:{A}\nB==1 --hash=sha256:{B} --hash=sha256:{A}\n")
    other = parse(f"b==1 --hash=sha256:{A}\na==2 --hash=sha256:{A}\n")
    assert digest_of(one) == digest_of(same) != digest_of(other)


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("", True),
        ("python_full_version < '3.11'", False),
        ("python_full_version >= '3.11'", True),
        ("python_full_version < '3.11.5'", True),
        ("python_version >= '3.9'", True),
        ("python_version == '3.11.*'", True),
        ("python_version != '3.1.*'", True),
        ("'3.8' < python_version", True),
        ("sys_platform == 'win32'", False),
        ("python_full_version < '3.11' or sys_platform == 'linux'", True),
        ("python_full_version >= '3.11' and implementation_name != 'PyPy'", True),
        ("(sys_platform == 'win32' or sys_platform == 'linux') and python_version in '3.11 3.12'", True),
        ("sys_platform not in 'linux darwin'", False),
    ],
)
def test_a_marker_holds_or_not(marker: str, holds: bool) -> None:
    assert applies(marker, LINUX) is holds


@pytest.mark.parametrize(
    "marker", ["python_version", "python_version >=", "(os_name == 'posix'", "os_name ~= 'x'", "os_name == 'a' 'b'"]
)
def test_a_damaged_marker_is_refused(marker: str) -> None:
    with pytest.raises(SynapseError, match="cannot be read"):
        applies(marker, LINUX)


def test_versions_sort_by_number() -> None:
    versions = ["1.9.0", "1.10.0a2", "1.10.0rc1", "1.10.0", "1.10.0.post1", "1.10.1", "1.100.0"]
    assert sorted(reversed(versions), key=version_key) == versions
    assert version_key("8.7") == version_key("8.7.0")


def test_names_compare_as_the_index_compares_them() -> None:
    assert canonical("Zope._.Interface") == "zope-interface"


def test_the_shipped_lock_is_whole_for_every_supported_python() -> None:
    pins = parse(_default_lock.LOCK)
    assert digest_of(pins) == _default_lock.DIGEST
    for full in ("3.10.0", "3.11.2", "3.11.7", "3.12.3", "3.13.5", "3.14.0"):
        minor = ".".join(full.split(".")[:2])
        packages = pins_for(pins, {**LINUX, "python_full_version": full, "python_version": minor})
        assert packages["matrix-synapse"] == _default_lock.VERSION
        assert {"psycopg2-binary", "twisted", "txredisapi", "authlib", "pympler"} <= set(packages)
        assert "psycopg2" not in packages
        # One version of each: two would mean that two markers hold at once.
        assert len([pin for pin in pins if applies(pin.marker, {**LINUX, "python_full_version": full})]) == len(
            packages
        )
