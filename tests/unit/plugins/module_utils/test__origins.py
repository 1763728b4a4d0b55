# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where packages come from, and as of which day an old version is resolved."""

from __future__ import annotations

import json
import os
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _origins
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

INDEX = Sources("https://index.example/simple")


def listed(version: str, time: str) -> dict[str, str]:
    return {"filename": f"matrix_synapse-{version}.tar.gz", "url": "x", "upload-time": time}


def as_of(*files: dict[str, str], sources: Sources = INDEX) -> str:
    def fetch(url: str) -> bytes:
        return json.dumps({"files": files}).encode()

    return _origins.end_of(_origins.as_of("1.100.0", sources, fetch))


def test_an_old_version_is_resolved_as_of_its_own_days() -> None:
    assert as_of(listed("1.100.0", "2024-01-30T12:00:00Z"), listed("1.101.0", "")) == "2024-02-01T00:00:00Z"
    assert as_of(listed("1.100.0", "2024-01-30T12:00:00Z")) == "", "the newest is resolved as of now"


@pytest.mark.parametrize("day", ["2024-13-45T00:00:00Z", "2024-02-30", "9999-12-31", "9999-12-30", "soon", ""])
def test_a_day_that_is_none_does_not_count(day: str) -> None:
    assert as_of(listed("1.100.0", day), listed("1.101.0", "")) == ""


def test_a_version_that_the_index_does_not_have_is_refused() -> None:
    with pytest.raises(SynapseError, match=r"no Synapse 1\.100\.0 on index\.example: the newest there is 1\.101\.0"):
        as_of(listed("1.101.0", ""))


def test_no_index_is_asked_where_none_may_be_and_one_is_needed_where_none_is_known() -> None:
    assert as_of(sources=Sources("", offline=True)) == ""
    with pytest.raises(SynapseError, match="set 'index_url'"):
        as_of(sources=Sources(""))


def sources_of(**options: t.Any) -> Sources:
    nothing: dict[str, t.Any] = {
        "index_url": "",
        "default_index_url": "",
        "extra_index_urls": (),
        "find_links": (),
        "offline": False,
        "ca_bundle": "",
    }
    return _origins.sources_of(**{**nothing, **options})


def test_what_is_named_wins_over_what_the_host_is_set_to_and_stray_settings_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "https://host.example/simple")
    monkeypatch.setenv("UV_CONSTRAINT", "stray.txt")
    assert sources_of(index_url="https://named.example", default_index_url="x").index_url == "https://named.example"
    assert "UV_CONSTRAINT" not in os.environ
    monkeypatch.setenv("PIP_INDEX_URL", "https://host.example/simple")
    assert sources_of(default_index_url="x").index_url == "https://host.example/simple"


@pytest.mark.parametrize("option", [{"ca_bundle": "/no/such/file"}, {"find_links": ("/no/such/folder",)}])
def test_what_is_not_there_is_refused(option: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SynapseError, match=r"/no/such/f.*Nothing was changed"):
        sources_of(**option)
