# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module synapse_user against a real Synapse."""

from __future__ import annotations

import os
import pathlib
import secrets
import stat
import typing as t
import urllib.error
import urllib.parse
import urllib.request

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import ask


def login(server: t.Any, name: str, password: str) -> str:
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password}
    return str(ask(f"{server.url}/_matrix/client/v3/login", body)["access_token"])


@pytest.fixture
def name() -> str:
    return f"user-{secrets.token_hex(4)}"


@pytest.fixture
def options(shared_homeserver: t.Any, name: str, tmp_path: pathlib.Path) -> dict[str, t.Any]:
    return {
        "url": shared_homeserver.url,
        "registration_shared_secret": shared_homeserver.shared_secret,
        "name": name,
        "password_path": str(tmp_path / "password"),
    }


def test_an_admin_is_made_once_and_can_log_in(
    shared_homeserver: t.Any, run_module: t.Any, options: dict[str, t.Any], name: str
) -> None:
    user_id = f"@{name}:{shared_homeserver.server_name}"
    options["admin"] = True
    predicted = run_module("synapse_user", check=True, diff=True, **options)
    assert predicted["changed"]
    assert not os.path.exists(options["password_path"])

    result = run_module("synapse_user", diff=True, **options)
    password = pathlib.Path(options["password_path"]).read_text(encoding="utf-8").strip()
    for key in ("changed", "existed", "user_id", "admin", "password_path", "diff"):
        assert predicted[key] == result[key], key
    assert result["changed"]
    assert not result["existed"]
    assert result["user_id"] == user_id
    assert len(password) == 43
    assert stat.S_IMODE(os.stat(options["password_path"]).st_mode) == 0o600
    assert password not in result["_output"]
    assert shared_homeserver.shared_secret not in result["_output"]

    token = login(shared_homeserver, name, password)
    quoted = urllib.parse.quote(user_id)
    assert ask(f"{shared_homeserver.url}/_synapse/admin/v1/users/{quoted}/admin", token=token) == {"admin": True}
    # Making the account has not logged anybody in: there is no device but this login's.
    assert len(ask(f"{shared_homeserver.url}/_matrix/client/v3/devices", token=token)["devices"]) == 1

    for check in (True, False):
        again = run_module("synapse_user", check=check, **options)
        assert not again["changed"]
        assert again["existed"]
        assert again["user_id"] == user_id
        assert again["password_path"] == options["password_path"]


def test_a_plain_account_with_a_given_password_and_secret_file(
    shared_homeserver: t.Any, run_module: t.Any, name: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "shared").write_text(f"{shared_homeserver.shared_secret}\n", encoding="utf-8")
    options = {
        "url": shared_homeserver.url,
        "registration_shared_secret_path": tmp_path / "shared",
        "name": name,
        "password": "a given pass wörd",
        "displayname": "Alice A.",
    }
    result = run_module("synapse_user", **options)
    assert result["changed"], result
    assert "password_path" not in result
    assert "a given pass" not in result["_output"]
    login(shared_homeserver, name, "a given pass wörd")
    profile = ask(f"{shared_homeserver.url}/_matrix/client/v3/profile/{urllib.parse.quote(result['user_id'])}")
    assert profile["displayname"] == "Alice A."
    assert not run_module("synapse_user", **options)["changed"]


def test_a_password_that_is_kept_already_is_used(
    shared_homeserver: t.Any, run_module: t.Any, options: dict[str, t.Any], name: str
) -> None:
    path = pathlib.Path(options["password_path"])
    path.write_text("kept from an interrupted run\n", encoding="utf-8")
    path.chmod(0o644)
    assert run_module("synapse_user", **options)["changed"]
    assert path.read_text(encoding="utf-8") == "kept from an interrupted run\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    login(shared_homeserver, name, "kept from an interrupted run")


def test_no_password_is_made_up_for_an_account_that_was_there(
    run_module: t.Any, options: dict[str, t.Any], tmp_path: pathlib.Path
) -> None:
    run_module("synapse_user", **options)
    options["password_path"] = str(tmp_path / "other")
    result = run_module("synapse_user", **options)
    assert not result["changed"]
    assert "password_path" not in result
    assert not os.path.exists(tmp_path / "other")


def test_a_server_that_hides_profiles_is_asked_by_trying(
    homeserver: t.Any, run_module: t.Any, options: dict[str, t.Any], tmp_path: pathlib.Path
) -> None:
    options["url"] = homeserver(require_auth_for_profile_requests=True).url
    assert run_module("synapse_user", **options)["changed"]
    for check in (True, False):
        assert not run_module("synapse_user", check=check, **options)["changed"]
    options["password_path"] = str(tmp_path / "other")
    result = run_module("synapse_user", **options)
    assert not result["changed"]
    assert result["existed"]
    assert not os.path.exists(tmp_path / "other")


def test_a_wrong_secret_is_a_failure(run_module: t.Any, options: dict[str, t.Any]) -> None:
    options["registration_shared_secret"] = "not the server's"
    result = run_module("synapse_user", **options)
    assert result["failed"]
    assert "the shared secret is not the one that the running server has" in result["msg"]


def test_registration_that_is_off_is_a_failure(homeserver: t.Any, run_module: t.Any, options: dict[str, t.Any]) -> None:
    options["url"] = homeserver(registration_shared_secret=None).url
    result = run_module("synapse_user", **options)
    assert result["failed"]
    assert "registration_shared_secret_path" in result["msg"]


def test_no_server_is_a_failure_but_a_prediction_in_check_mode(run_module: t.Any, options: dict[str, t.Any]) -> None:
    options["url"] = "http://127.0.0.1:1"
    options["registration_shared_secret"] = None
    options["registration_shared_secret_path"] = "/nowhere/secret"
    options["owner"] = "a-user-that-is-still-to-be-made"
    assert run_module("synapse_user", check=True, **options)["changed"]
    options["owner"] = None
    result = run_module("synapse_user", **options)
    assert result["failed"]
    assert "does not answer" in result["msg"]
    assert not os.path.exists(options["password_path"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "@alice:hs.test"}, "give the part before the colon"),
        ({"password": "x"}, "either password or password_path"),
        ({"password_path": None}, "either password or password_path"),
        ({"registration_shared_secret": None}, "needs registration_shared_secret"),
        ({"registration_shared_secret": ""}, "no shared secret"),
        ({"mode": "rw"}, "is not a mode"),
        ({"url": "alice"}, "not the base URL"),
    ],
)
def test_unusable_options_are_refused(
    run_module: t.Any, options: dict[str, t.Any], changes: dict[str, t.Any], words: str
) -> None:
    result = run_module("synapse_user", **{**options, **changes})
    assert result["failed"]
    assert words in result["msg"]
