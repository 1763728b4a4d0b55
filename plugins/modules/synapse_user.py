#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_user
short_description: An account on a homeserver
version_added: 0.1.0
description:
  - Makes sure that an account exists, through the server's own registration with a shared secret. Registration
    need not be open to the public, and nothing but Python is needed on the host.
  - The password is given, or read from a file on the host, or made up and kept in that file before the account is
    made. It is never shown.
  - An account that is there already is left as it is. Its password and its rights are neither checked nor changed.
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details: >-
      Asks the server whether the account exists. Where no server answers yet, the account is predicted to be made.
  diff_mode:
    details: Shows the user's id, and whether it is an admin.
options:
  url:
    description:
      - The base URL of a listener of the server with the resource C(client), or C(unix:/path) for a unix socket.
    type: str
    default: http://127.0.0.1:8008
  registration_shared_secret:
    description:
      - The server's C(registration_shared_secret). Either this or O(registration_shared_secret_path) is needed.
    type: str
  registration_shared_secret_path:
    description:
      - The file on the host that holds it.
    type: path
  name:
    description:
      - The part of the user's id before the colon, without the C(@).
    type: str
    required: true
  server_name:
    description:
      - The part of the user's id after the colon. By default the server is asked.
    type: str
  password:
    description:
      - The password of a new account. Either this or O(password_path) is needed.
    type: str
  password_path:
    description:
      - The file on the host that holds the password of a new account. Where it is missing or empty, a password of
        43 characters is made up and written there first, so that an interrupted run loses nothing.
      - It is not written for an account that was there before.
    type: path
  owner:
    description:
      - Who owns the file O(password_path).
    type: str
  group:
    description:
      - The group of the file O(password_path).
    type: str
  mode:
    description:
      - The mode of the file O(password_path).
    type: str
    default: "0600"
  admin:
    description:
      - Whether a new account is one of a server administrator.
    type: bool
    default: false
  displayname:
    description:
      - The name that others see of a new account. By default the same as O(name).
    type: str
  ca_bundle:
    description:
      - A file of PEM certificates on the host to trust beside the host's own.
    type: path
  timeout:
    description:
      - For how many seconds to wait for each answer.
    type: float
    default: 30
  state:
    description:
      - V(present) makes sure that the account exists.
    type: str
    choices: [present]
    default: present
"""

EXAMPLES = r"""
---
- name: Make an administrator whose password is kept on the host
  matrix_fleet.synapse.synapse_user:
    registration_shared_secret_path: /etc/synapse/secrets/registration_shared_secret
    name: admin
    password_path: /etc/synapse/secrets/admin.password
    admin: true

- name: Make an account with a password of one's own
  matrix_fleet.synapse.synapse_user:
    url: http://127.0.0.1:8008
    registration_shared_secret: "{{ vaulted_registration_shared_secret }}"
    name: alice
    password: "{{ vaulted_password_of_alice }}"
    displayname: Alice
"""

RETURN = r"""
user_id:
  description: The full id of the user.
  returned: when the server's name is known
  type: str
  sample: "@admin:example.org"
admin:
  description: >-
    Whether the account was made that of an administrator. Of one that was there before it is not known.
  returned: when the account was made, or would be in check mode
  type: bool
  sample: true
existed:
  description: Whether the account was there before.
  returned: always
  type: bool
  sample: false
password_path:
  description: The file on the host that holds the password.
  returned: when O(password_path) is given and the file is there, or would be
  type: str
  sample: /etc/synapse/secrets/admin.password
"""

import os
import secrets
import stat
import typing as t
import urllib.parse

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _accounts, _files, _http
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._accounts import Account, Found, Plan
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import NoAnswerError, Response, Target
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError


class Server:
    """The server's interface, as far as it is needed here."""

    def __init__(self, params: dict[str, t.Any]) -> None:
        self.url: str = params["url"]
        self._target: Target = _http.parse_target(self.url)
        self._timeout: float = params["timeout"]
        secure = self._target.scheme == "https"
        self._context = _http.tls_context(params["ca_bundle"]) if secure else None

    def ask(self, path: str, body: dict[str, t.Any] | None = None) -> Response:
        """Send a request; raises ``NoAnswerError``."""
        return _http.request(
            self._target,
            path,
            method="GET" if body is None else "POST",
            json_body=body,
            timeout=self._timeout,
            context=self._context,
        )

    def name(self) -> str | None:
        """The server's own name, where this listener publishes the server's key."""
        answer = self.ask("/_matrix/key/v2/server")
        try:
            name = answer.json().get("server_name")
        except (ValueError, AttributeError):
            return None
        return name if isinstance(name, str) else None

    def exists(self, account: Account) -> bool | None:
        """Whether the account is there, ``None`` where the server does not tell."""
        found = None
        if account.user_id is not None:
            quoted = urllib.parse.quote(account.user_id, safe="")
            found = _accounts.exists_by_profile(self.ask(f"/_matrix/client/v3/profile/{quoted}"))
        if found is None:
            quoted = urllib.parse.quote(account.name, safe="")
            answer = self.ask(f"/_matrix/client/v3/register/available?username={quoted}")
            found = _accounts.exists_by_availability(answer)
        return found


def _first_line(path: str) -> str:
    """The text of a small file without the line break at its end; empty where there is no file."""
    data = _files.read(path, limit=65536)
    try:
        return "" if data is None else data.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise SynapseError(f"{path} does not hold text: write the secret there as UTF-8.") from None


def _shared_secret(params: dict[str, t.Any]) -> str:
    """The shared secret; raises ``SynapseError`` where it is not to be had."""
    given: str | None = params["registration_shared_secret"]
    path: str | None = params["registration_shared_secret_path"]
    if given is None and path is None:
        raise SynapseError("The account needs registration_shared_secret or registration_shared_secret_path: give one.")
    # The server strips the file that it reads (synapse/config/_base.py, read_file).
    secret = given if given is not None else _first_line(str(path)).strip()
    if not secret:
        raise SynapseError(
            f"There is no shared secret in {path or 'registration_shared_secret'}: "
            "give the one in the server's configuration."
        )
    return secret


def _file_in_order(path: str, ownership: _files.Ownership, mode: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return True
    return (
        stat.S_IMODE(found.st_mode) == mode
        and ownership.uid in (None, found.st_uid)
        and ownership.gid in (None, found.st_gid)
    )


def _ownership(module: AnsibleModule) -> _files.Ownership:
    """Who is to own the password's file. In check mode that user may be still to be made."""
    try:
        return _files.resolve(module.params["owner"], module.params["group"])
    except SynapseError:
        if module.check_mode:
            return _files.KEEP
        raise


def _register(module: AnsibleModule, server: Server, account: Account, password: str) -> str | None:
    """Register the account; return its id, ``None`` where it was there before."""
    secret = _shared_secret(module.params)
    nonce = _accounts.nonce_of(server.ask("/_synapse/admin/v1/register"), server.url)
    body = _accounts.registration(account, password, secret, nonce)
    return _accounts.registered(server.ask("/_synapse/admin/v1/register", body), account, server.url)


def _observe(module: AnsibleModule, server: Server, password: str, in_order: bool) -> tuple[Account, Found]:
    """Look whether the account is there. In check mode, no server means no account."""
    params = module.params
    name = params["server_name"]
    exists: bool | None = False
    account = Account(params["name"], params["admin"], params["displayname"], name)
    try:
        account = Account(params["name"], params["admin"], params["displayname"], name or server.name())
        exists = server.exists(account)
        if exists is None and module.check_mode:
            # Only an attempt would tell. A password that is kept was kept for an account that was made.
            exists = params["password_path"] is not None and bool(password)
    except NoAnswerError as error:
        if not module.check_mode:
            raise SynapseError(
                f"The server at {server.url} does not answer: {error}. Start it, or correct url, and run this again."
            ) from error
    return account, Found(exists, bool(password), in_order)


def _apply(module: AnsibleModule, server: Server, account: Account, password: str, todo: Plan) -> str | None:
    """Write the password, then register; return the id, ``None`` where the account was there before."""
    path: str | None = module.params["password_path"]
    if todo.mint:
        password = secrets.token_urlsafe(32)
        module.no_log_values.add(password)
    if todo.write and path is not None:
        data = f"{password}\n".encode()
        _files.write(path, data, ownership=_ownership(module), mode=_files.parse_mode(module.params["mode"]))
    if not todo.register:
        return None
    try:
        user_id = _register(module, server, account, password)
    except NoAnswerError as error:
        # The file stays: the server may have made the account with this very password.
        raise SynapseError(
            f"The server at {server.url} did not answer the registration of {account.name}: {error}. Run this again."
        ) from error
    if user_id is None and todo.mint and path is not None:
        # The account has a password of its own; this one opens nothing.
        _files.remove(path)
    return user_id


def _password(params: dict[str, t.Any]) -> str:
    """The password that is given or kept; empty where one is to be made up."""
    path, given = params["password_path"], params["password"]
    if (path is None) == (given is None):
        raise SynapseError("The account needs a password: give either password or password_path.")
    password: str = given if given is not None else _first_line(path)
    if password or path is None:
        _accounts.check_password(password, "password" if path is None else path)
    return password


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Observe, plan, apply."""
    params = module.params
    path: str | None = params["password_path"]
    _accounts.check_name(params["name"], params["server_name"])
    server = Server(params)
    password = _password(params)
    if password:
        module.no_log_values.add(password)
    in_order = path is None or _file_in_order(path, _ownership(module), _files.parse_mode(params["mode"]))
    account, found = _observe(module, server, password, in_order)
    todo = _accounts.plan(account, found)

    existed, changed, user_id = bool(found.exists), todo.changed, account.user_id
    if changed and not module.check_mode:
        made = _apply(module, server, account, password, todo)
        if todo.register and made is None:
            existed, changed = True, todo.write and not todo.mint
        user_id = made or user_id
    result: dict[str, t.Any] = {"changed": changed, "existed": existed}
    if user_id is not None:
        result["user_id"] = user_id
    if not existed:
        result["admin"] = params["admin"]
        result["diff"] = todo.diff
    if path is not None and (password or not existed):
        result["password_path"] = path
    return result


def main() -> t.NoReturn:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:8008"},
            "registration_shared_secret": {"type": "str", "no_log": True},
            "registration_shared_secret_path": {"type": "path", "no_log": False},
            "name": {"type": "str", "required": True},
            "server_name": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "password_path": {"type": "path", "no_log": False},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "str", "default": "0600"},
            "admin": {"type": "bool", "default": False},
            "displayname": {"type": "str"},
            "ca_bundle": {"type": "path"},
            "timeout": {"type": "float", "default": 30},
            "state": {"type": "str", "choices": ["present"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
