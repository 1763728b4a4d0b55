# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts by the server's registration with a shared secret: what to send, what the answers mean. No I/O."""

from __future__ import annotations

import hashlib
import hmac
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import Response

__all__ = [
    "PASSWORD_LENGTH",
    "Account",
    "Found",
    "Plan",
    "check_name",
    "check_password",
    "exists_by_availability",
    "exists_by_profile",
    "nonce_of",
    "plan",
    "registered",
    "registration",
]

# Longer passwords are refused (synapse/rest/admin/users.py 1.163.2, UserRegisterServlet).
PASSWORD_LENGTH = 512
_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")  # synapse/types/__init__.py, mxid_localpart_allowed_characters
_ID_LENGTH = 255


@dataclass(frozen=True)
class Account:
    """An account as it is to be made."""

    name: str
    admin: bool = False
    displayname: str | None = None
    server_name: str | None = None

    @property
    def user_id(self) -> str | None:
        """The full id, where the server's name is known."""
        return None if self.server_name is None else f"@{self.name}:{self.server_name}"


@dataclass(frozen=True)
class Found:
    """What is there. ``exists`` is ``None`` where the server does not tell without an attempt to register."""

    exists: bool | None
    has_password: bool
    file_in_order: bool = True


@dataclass(frozen=True)
class Plan:
    """What to do: register, mint a password before that, write its file (again)."""

    register: bool
    mint: bool
    write: bool
    diff: dict[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return self.register or self.write


def check_name(name: str, server_name: str | None) -> None:
    """Refuse what the server would refuse as the local part of a user's id; raises ``SynapseError``."""
    if name.startswith("@") or ":" in name:
        raise SynapseError(f"{name!r} is a full user id: give the part before the colon without the @, such as alice.")
    if not _LOCALPART.fullmatch(name):
        raise SynapseError(f"{name!r} cannot be the name of a user: only a-z, 0-9 and . _ = - / + are allowed in it.")
    if name.isdigit():
        raise SynapseError(f"{name!r} cannot be the name of a user: names of digits alone are kept for guests.")
    if len(f"@{name}:{server_name or ''}".encode()) > _ID_LENGTH:
        raise SynapseError(f"{name[:20]!r}... is too long: a user id has at most {_ID_LENGTH} characters.")


def check_password(password: str, source: str) -> None:
    """Refuse what the server would refuse as a password; raises ``SynapseError``, which names ``source`` alone."""
    if not password:
        raise SynapseError(f"The password from {source} is empty: give one.")
    if len(password) > PASSWORD_LENGTH or "\0" in password:
        raise SynapseError(
            f"The password from {source} cannot be used: it has more than {PASSWORD_LENGTH} characters, or a NUL in it."
        )


def exists_by_profile(answer: Response) -> bool | None:
    """Read ``GET /_matrix/client/v3/profile/@user:server``: whether the account is there, ``None`` where untold.

    The account of somebody who left has no profile and is there all the same: the attempt to register tells.
    """
    if answer.status == 200:
        return True
    return False if answer.status == 404 and _errcode(answer) == "M_NOT_FOUND" else None


def exists_by_availability(answer: Response) -> bool | None:
    """Read ``GET /_matrix/client/v3/register/available``; a server that is closed for registration does not tell."""
    if answer.status == 200:
        # With inhibit_user_in_use_error every name is called available.
        return None
    return True if _errcode(answer) == "M_USER_IN_USE" else None


def plan(account: Account, found: Found) -> Plan:
    """Decide what to do. An account that is there is left as it is, and no password is made up for it."""
    if found.exists:
        return Plan(False, False, found.has_password and not found.file_in_order)
    mint = not found.has_password
    after = f"{account.user_id or account.name}{' (admin)' if account.admin else ''}\n"
    return Plan(True, mint, mint or not found.file_in_order, {"before": "", "after": after})


def nonce_of(answer: Response, url: str) -> str:
    """Read ``GET /_synapse/admin/v1/register``; raises ``SynapseError`` where the server does not register accounts."""
    body = _object(answer)
    nonce = body.get("nonce")
    if answer.status == 200 and isinstance(nonce, str):
        return nonce
    if answer.status == 404:
        raise SynapseError(
            f"The server at {url} does not register accounts there (status 404): name a listener with the resource "
            "client, not one of a proxy that hides /_synapse/admin; where accounts are kept by "
            "Matrix Authentication Service, make them there."
        )
    raise SynapseError(f"The server at {url} did not begin a registration (status {answer.status}{_error(body)}).")


def registration(account: Account, password: str, secret: str, nonce: str) -> dict[str, t.Any]:
    """Return the body that registers ``account``: signed with the shared secret, and without logging in.

    As synapse/rest/admin/users.py (1.163.2, ``UserRegisterServlet``) checks it.
    """
    parts = (nonce, account.name, password, "admin" if account.admin else "notadmin")
    message = b"\0".join(part.encode("utf-8") for part in parts)
    body: dict[str, t.Any] = {
        "nonce": nonce,
        "username": account.name,
        "password": password,
        "admin": account.admin,
        "mac": hmac.new(secret.encode("utf-8"), message, hashlib.sha1).hexdigest(),
        "inhibit_login": True,
    }
    if account.displayname is not None:
        body["displayname"] = account.displayname
    return body


def registered(answer: Response, account: Account, url: str) -> str | None:
    """Read the answer to a registration: the new user's id, ``None`` where the account was there before.

    Raises ``SynapseError`` for every refusal, with its reason.
    """
    body = _object(answer)
    code, error = _errcode(answer), _error(body)
    if answer.status == 200 and isinstance(body.get("user_id"), str):
        user_id = str(body["user_id"])
        if account.user_id is not None and user_id != account.user_id:
            raise SynapseError(
                f"The server at {url} registered {user_id}, not {account.user_id}: another server answers there than "
                "server_name says. Correct url or server_name, and remove that account if it is not wanted."
            )
        return user_id
    if code == "M_USER_IN_USE":
        return None
    refused = f"The server at {url} refused to register {account.name} (status {answer.status}{error})"
    if answer.status == 403 and "HMAC" in error:
        raise SynapseError(f"{refused}: the shared secret is not the one that the running server has. Give that one.")
    if "Shared secret registration is not enabled" in error:
        raise SynapseError(f"{refused}: set registration_shared_secret_path in its configuration, and restart it.")
    if code == "M_EXCLUSIVE":
        raise SynapseError(f"{refused}: an application service keeps that name for itself. Choose another name.")
    if answer.status == 429:
        raise SynapseError(f"{refused}: a module of the server forbids it, or too much was asked at once. Try later.")
    raise SynapseError(f"{refused}: see the server's log.")


def _object(answer: Response) -> dict[str, t.Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _errcode(answer: Response) -> str:
    return str(_object(answer).get("errcode", ""))


def _error(body: dict[str, t.Any]) -> str:
    """What the server says, as the end of a parenthesis."""
    return f": {str(body['error'])[:200].rstrip('.')}" if body.get("error") else ""
