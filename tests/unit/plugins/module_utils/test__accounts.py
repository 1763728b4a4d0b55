# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts: what is planned, what is sent, and what each answer of the server means."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _accounts
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._accounts import Account, Found
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import Response
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

URL = "http://127.0.0.1:8008"
ALICE = Account("alice", server_name="hs.test")


def response(status: int, body: t.Any) -> Response:
    return Response(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode(), 1.0)


@pytest.mark.parametrize("name", ["alice", "a.b_c=d-e/f+g", "a1"])
def test_names_that_are_allowed(name: str) -> None:
    _accounts.check_name(name, "hs.test")


@pytest.mark.parametrize("name", ["", "Alice", "@alice:hs.test", "alice:hs.test", "a b", "ä", "123", "a" * 300, "a\n"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(SynapseError):
        _accounts.check_name(name, "hs.test")


@pytest.mark.parametrize("password", ["", "a" * 513, "a\0b"])
def test_passwords_that_are_refused_are_not_quoted(password: str) -> None:
    with pytest.raises(SynapseError) as caught:
        _accounts.check_password(password, "password")
    assert not password or password not in str(caught.value)


@pytest.mark.parametrize(
    ("exists", "has_password", "in_order", "wanted"),
    [
        (True, True, True, (False, False, False)),
        (True, False, True, (False, False, False)),
        (True, True, False, (False, False, True)),
        (False, True, True, (True, False, False)),
        (False, True, False, (True, False, True)),
        (False, False, True, (True, True, True)),
        (None, True, True, (True, False, False)),
        (None, False, True, (True, True, True)),
    ],
)
def test_plan(exists: bool | None, has_password: bool, in_order: bool, wanted: tuple[bool, bool, bool]) -> None:
    todo = _accounts.plan(ALICE, Found(exists, has_password, in_order))
    assert (todo.register, todo.mint, todo.write) == wanted
    assert todo.changed == (todo.register or todo.write)


def test_the_signature_is_the_one_the_server_checks() -> None:
    # Computed with request_registration of Synapse 1.163.2 (synapse/_scripts/register_new_matrix_user.py).
    body = _accounts.registration(Account("alice", admin=True), "wonderland", "shared", "thisisanonce")
    assert body["mac"] == "3dd764ad4a9058465613dc19692c9bb169d1a705"
    assert body["inhibit_login"] is True
    plain = _accounts.registration(Account("alice"), "wonderland", "shared", "thisisanonce")
    assert plain["mac"] == "879488a29aacea9ab41a856e61521f152a8d8db0"


@pytest.mark.parametrize(
    ("status", "body", "exists"),
    [
        (200, {"displayname": "alice"}, True),
        (404, {"errcode": "M_NOT_FOUND", "error": "Profile was not found"}, False),
        (404, {"errcode": "M_UNRECOGNIZED"}, None),
        (401, {"errcode": "M_MISSING_TOKEN"}, None),
        (403, {"errcode": "M_FORBIDDEN"}, None),
        (502, b"<html>", None),
    ],
)
def test_existence_by_profile(status: int, body: t.Any, exists: bool | None) -> None:
    assert _accounts.exists_by_profile(response(status, body)) is exists


@pytest.mark.parametrize(
    ("status", "body", "exists"),
    [
        (200, {"available": True}, None),
        (400, {"errcode": "M_USER_IN_USE", "error": "User ID already taken."}, True),
        (403, {"errcode": "M_FORBIDDEN", "error": "Registration has been disabled"}, None),
    ],
)
def test_existence_by_availability(status: int, body: t.Any, exists: bool | None) -> None:
    assert _accounts.exists_by_availability(response(status, body)) is exists


def test_a_nonce_is_read_and_anything_else_refused() -> None:
    assert _accounts.nonce_of(response(200, {"nonce": "n"}), URL) == "n"
    for answer in (response(200, {}), response(200, b"x"), response(404, {}), response(500, {"error": "x"})):
        with pytest.raises(SynapseError):
            _accounts.nonce_of(answer, URL)


def test_a_new_account_and_one_that_was_there() -> None:
    made = response(200, {"user_id": "@alice:hs.test", "home_server": "hs.test"})
    assert _accounts.registered(made, ALICE, URL) == "@alice:hs.test"
    there = response(400, {"errcode": "M_USER_IN_USE", "error": "User ID already taken."})
    assert _accounts.registered(there, ALICE, URL) is None


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, {"errcode": "M_UNKNOWN", "error": "HMAC incorrect"}, "the shared secret is not the one"),
        (
            400,
            {"errcode": "M_UNKNOWN", "error": "Shared secret registration is not enabled"},
            "set registration_shared_secret_path in its configuration",
        ),
        (400, {"errcode": "M_EXCLUSIVE", "error": "reserved"}, "application service"),
        (429, {"errcode": "M_LIMIT_EXCEEDED", "error": "Rate limited"}, "Try later"),
        (403, {"errcode": "M_FORBIDDEN", "error": "no"}, r"refused to register alice \(status 403: no\)"),
        (500, b"<html>", r"refused to register alice \(status 500\)"),
        (200, {}, "refused to register alice"),
        (200, {"user_id": "@alice:other.test"}, "another server answers there"),
    ],
)
def test_a_refusal_is_a_failure_with_its_reason(status: int, body: t.Any, words: str) -> None:
    with pytest.raises(SynapseError, match=words):
        _accounts.registered(response(status, body), ALICE, URL)
