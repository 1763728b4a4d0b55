# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which database a configuration asks for."""

from __future__ import annotations

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._configured import Configured, parse_section
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError


def test_what_a_section_says() -> None:
    sqlite = {"name": "sqlite3", "args": {"database": "/srv/homeserver.db"}}
    assert parse_section(sqlite, "x") == Configured("/srv/homeserver.db")
    args = {
        "user": "synapse",
        "password": "word",
        "database": "matrix",
        "host": "db",
        "cp_min": 5,
        "sslmode": "require",
    }
    found = parse_section({"name": "psycopg2", "args": args, "allow_unsafe_locale": True}, "x")
    assert found.path is None
    assert found.postgresql == {
        "user": "synapse",
        "password": "word",
        "host": "db",
        "args": {"database": "matrix", "cp_min": 5, "sslmode": "require"},
    }
    assert (found.allow_unsafe_locale, found.secrets) == (True, ("word",))
    assert "word" not in repr(found)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (None, "it has no database"),
        ("sqlite3", "has no args"),
        ({"name": "sqlite3"}, "has no args"),
        ({"name": "sqlite3", "args": {}}, "no path from the root"),
        ({"name": "sqlite3", "args": {"database": "homeserver.db"}}, "no path from the root"),
        ({"name": "sqlite3", "args": {"database": ":memory:"}}, "no path from the root"),
        ({"name": "mysql", "args": {}}, "of the kind 'mysql'"),
    ],
)
def test_what_cannot_be_told_is_said(section: object, words: str) -> None:
    with pytest.raises(SynapseError, match=words) as caught:
        parse_section(section, "/etc/synapse/homeserver.yaml")
    assert "Which database /etc/synapse/homeserver.yaml asks for cannot be told" in caught.value.msg
