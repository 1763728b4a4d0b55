# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on the way to an index, and which passwords are in its address."""

from __future__ import annotations

import typing as t
from http.client import BadStatusLine, IncompleteRead

import pytest

pytest.importorskip("ansible")

from ansible.module_utils import urls
from ansible.module_utils.urls import MissingModuleError, ProxyError, SSLValidationError

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _fetching
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError


@pytest.mark.parametrize(
    "error",
    [
        IncompleteRead(b"x"),
        BadStatusLine("x"),
        ProxyError("https://u:pa55@proxy:1"),
        SSLValidationError("x"),
        MissingModuleError("x", None),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_goes_wrong_on_the_way_to_the_index_is_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*unused: object, **more: object) -> t.NoReturn:
        raise error

    monkeypatch.setattr(urls, "open_url", fail)
    with pytest.raises(SynapseError, match="Nothing was changed") as told:
        _fetching.fetcher(Sources("x"))("https://user:pa55@index.example/simple/")
    assert "pa55" not in told.value.msg
    with pytest.raises(SynapseError, match="Nothing was changed"):
        _fetching.fetcher(Sources("x"))("http://[::1/simple")


def test_a_password_is_hidden_with_its_user_only_where_it_is_part_of_a_path() -> None:
    params = {
        "path": "/var/lib/synapse",
        "index_url": "https://u:synapse@h/",
        "find_links": ["https://u:other@h/", "/x"],
    }
    assert set(_fetching.passwords_of(params)) == {"u:synapse@", "u:other@", "other"}
    assert set(_fetching.passwords_of({})) == set()
