# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What packages want and lack, as tables."""

from __future__ import annotations

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.requirements import (
    Lack,
    Wish,
    allows,
    extras_of,
    lacks,
    markers_of,
    parse,
)

MARKERS = markers_of("3.11.2", machine="x86_64")
# matrix_synapse-1.163.2.dist-info/METADATA, some of its lines.
SYNAPSE = (
    "signedjson>=1.1.4,<2.0.0",
    "twisted[tls]>=21.2.0",
    "attrs>=19.2.0,!=21.1.0",
    "setuptools-rust>=1.3",
    "pydantic>=2.8 ; python_full_version < '3.14'",
    "pydantic>=2.12 ; python_full_version >= '3.14'",
    "psycopg2>=2.8 ; platform_python_implementation != 'PyPy' and extra == 'postgres'",
    "authlib ; extra == 'jwt'",
    "authlib>=0.15.1 ; extra == 'oidc'",
    "parameterized>=0.9.0 ; extra == 'test'",
)
TWISTED = ('pyopenssl>=21.0.0 ; extra == "tls"', 'idna (>=2.4) ; extra == "tls"', "constantly>=15.1")
WANTS = {"matrix-synapse": SYNAPSE, "twisted": TWISTED}
WHOLE = {
    "matrix-synapse": "1.163.2",
    "signedjson": "1.1.4",
    "twisted": "26.10.0",
    "attrs": "26.1.0",
    "pydantic": "2.14.3",
    "pyopenssl": "26.4.0",
    "idna": "3.20",
    "constantly": "23.10.4",
}


@pytest.mark.parametrize(
    ("line", "wish"),
    [
        ("signedjson>=1.1.4,<2.0.0", Wish("signedjson", (), ">=1.1.4,<2.0.0", "")),
        ("Twisted[TLS] (>=21.2.0)", Wish("twisted", ("tls",), ">=21.2.0", "")),
        ("six (>=1.8.0) ; extra == 'a'", Wish("six", (), ">=1.8.0", "extra == 'a'")),
        ("ldap3", Wish("ldap3", (), "", "")),
        ("mine @ https://example.org/mine.whl ; python_version > '3'", Wish("mine", (), "", "python_version > '3'")),
        ("???", None),
    ],
)
def test_a_requirement_is_read(line: str, wish: Wish | None) -> None:
    assert parse(line) == wish


@pytest.mark.parametrize(
    ("versions", "version", "allowed"),
    [
        ("", "1", True),
        (">=0.0.9", "0.0.5", False),
        (">=0.0.9", "0.0.34", True),
        (">=1.4.12,<1.6.0", "1.5.0", True),
        (">=1.4.12,<1.6.0", "1.6.0", False),
        ("!=21.1.0", "21.1", False),
        ("==1.1.*", "1.10", False),
        ("==1.1.*", "1.1.7", True),
        ("!=1.1.*", "1.1.7", False),
        ("~=2.2", "2.9", True),
        ("~=2.2", "3.0", False),
        ("~=2.2.1", "2.3", False),
        ("===1.0", "1.0", True),
        (">=3.10.0, <4.0.0", "3.13.5", True),
        (">=2", "2.0rc1", False),
        (">=1!2.0", "1!2.1", True),
    ],
)
def test_a_version_is_compared(versions: str, version: str, allowed: bool) -> None:
    assert allows(versions, version) is allowed


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"signedjson": None}, [Lack("matrix-synapse", "signedjson", ">=1.1.4,<2.0.0", None)]),
        ({"attrs": "21.1.0"}, [Lack("matrix-synapse", "attrs", ">=19.2.0,!=21.1.0", "21.1.0")]),
        # What only an extra of a dependency wants, because Synapse wants that extra.
        ({"idna": None}, [Lack("twisted", "idna", ">=2.4", None)]),
        ({"pydantic": "2.9"}, []),
        # An extra that nobody asked for counts where it is there, and too old (synapse/util/check_dependencies.py).
        ({"psycopg2": "2.7"}, [Lack("matrix-synapse", "psycopg2", ">=2.8", "2.7")]),
        ({"authlib": "0.1"}, [Lack("matrix-synapse", "authlib", ">=0.15.1", "0.1")]),
        ({"psycopg2-binary": "2.9.13"}, []),
        # Synapse's tests are nobody's business.
        ({"parameterized": "0.1"}, []),
    ],
)
def test_what_synapse_lacks(change: dict[str, str | None], found: list[Lack]) -> None:
    packages = {name: version for name, version in {**WHOLE, **change}.items() if version is not None}
    assert lacks(WANTS, packages, MARKERS)[0] == found


def test_what_is_needed_is_told_with_what_an_extra_needs() -> None:
    packages = {**WHOLE, "authlib": "1.9.9", "psycopg2-binary": "2.9.13"}
    assert lacks(WANTS, packages, MARKERS)[1] == frozenset(WHOLE)
    assert lacks(WANTS, packages, MARKERS, ("jwt",))[1] == frozenset({*WHOLE, "authlib"})


def test_another_python_wants_something_else() -> None:
    packages = {**WHOLE, "pydantic": "2.9"}
    assert [one.versions for one in lacks(WANTS, packages, markers_of("3.14.0"))[0]] == [">=2.12"]


def test_what_extras_lack() -> None:
    found = extras_of(SYNAPSE, WHOLE, MARKERS)
    assert {extra: [one.name for one in many] for extra, many in found.items()} == {
        "jwt": ["authlib"],
        "oidc": ["authlib"],
        "postgres": ["psycopg2"],
        "test": ["parameterized"],
    }
    assert "postgres" not in extras_of(SYNAPSE, {**WHOLE, "psycopg2-binary": "2.9.13"}, MARKERS)


def test_garbage_wants_nothing() -> None:
    wants = {"matrix-synapse": ("???", "a ; what is this", "", "b>=\x00")}
    assert lacks(wants, {}, MARKERS)[0] == []
