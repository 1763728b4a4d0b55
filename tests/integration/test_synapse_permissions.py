# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module synapse_permissions as a whole."""

from __future__ import annotations

import pathlib
import stat
import typing as t

import pytest


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "etc" / "workers").mkdir(parents=True)
    for name in ("homeserver.yaml", "workers/a.yaml", "homeserver.signing.key"):
        (tmp_path / "etc" / name).write_text("x", encoding="utf-8")
        (tmp_path / "etc" / name).chmod(0o644)
    return tmp_path / "etc"


def entries(tree: pathlib.Path) -> list[dict[str, t.Any]]:
    return [
        {"path": str(tree), "recurse": True, "directory_mode": "0750", "file_mode": "0640"},
        {"path": f"{tree}/homeserver.signing.key", "mode": "0600"},
    ]


def test_prediction_change_and_rest(tree: pathlib.Path, run_module: t.Any) -> None:
    predicted = run_module("synapse_permissions", check=True, diff=True, paths=entries(tree))
    assert stat.S_IMODE((tree / "homeserver.yaml").stat().st_mode) == 0o644
    done = run_module("synapse_permissions", diff=True, paths=entries(tree))
    for key in ("changed", "changed_count", "changed_paths", "diff", "examined"):
        assert predicted[key] == done[key], key
    assert done["changed"]
    assert done["changed_count"] == 5
    assert f"{tree}/homeserver.signing.key" in done["changed_paths"]
    assert "0600" in done["diff"]["after"]
    again = run_module("synapse_permissions", paths=entries(tree))
    assert (again["changed"], again["changed_paths"], again["examined"]) == (False, [], 5)


def test_a_missing_path_fails_before_anything_is_changed(tree: pathlib.Path, run_module: t.Any) -> None:
    paths = [*entries(tree), {"path": f"{tree}/missing"}]
    result = run_module("synapse_permissions", paths=paths)
    assert result["failed"]
    assert f"There is no {tree}/missing" in result["msg"]
    assert stat.S_IMODE((tree / "homeserver.yaml").stat().st_mode) == 0o644
    assert run_module("synapse_permissions", check=True, paths=paths)["warnings"]
    paths[-1]["missing_ok"] = True
    result = run_module("synapse_permissions", paths=paths)
    assert result["changed"]
    assert result["missing"] == [f"{tree}/missing"]


def test_a_user_who_is_still_to_be_made_is_a_prediction_in_check_mode_alone(
    tree: pathlib.Path, run_module: t.Any
) -> None:
    paths = [{"path": str(tree), "owner": "a-user-to-be-made"}]
    result = run_module("synapse_permissions", check=True, diff=True, paths=paths)
    assert result["changed"]
    assert "(new)" in result["diff"]["after"]
    assert "no user 'a-user-to-be-made'" in run_module("synapse_permissions", paths=paths)["msg"]


@pytest.mark.parametrize("half", ["owner", "group"])
@pytest.mark.parametrize("check", [True, False])
def test_a_number_that_no_user_can_have_is_refused_in_check_mode_too(
    tree: pathlib.Path, run_module: t.Any, half: str, check: bool
) -> None:
    result = run_module("synapse_permissions", check=check, paths=[{"path": str(tree), half: "4294967295"}])
    assert result["failed"]
    assert "4294967295 is no number of a user or group" in result["msg"]


def test_what_was_left_alone_is_said(tree: pathlib.Path, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").hardlink_to(tree / "homeserver.yaml")
    result = run_module(
        "synapse_permissions", check=True, paths=[{"path": str(tree), "recurse": True, "owner": "65533"}]
    )
    assert result["left_alone_count"] == 1
    assert result["left_alone"][0]["path"] == f"{tree}/homeserver.yaml"
    assert "were left alone" in str(result["warnings"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"path": "/", "recurse": True}, "whole file system"),
        ({"path": "/srv", "mode": "u=rw"}, "is not a mode"),
        ({"path": "/srv", "file_mode": "0640"}, "add recurse"),
    ],
)
def test_unusable_entries_are_refused(run_module: t.Any, entry: dict[str, t.Any], words: str) -> None:
    result = run_module("synapse_permissions", paths=[entry])
    assert result["failed"]
    assert words in result["msg"]
