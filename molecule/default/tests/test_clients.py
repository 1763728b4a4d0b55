"""Real Matrix clients use the deployed server."""

from __future__ import annotations

import secrets
import typing as t

import pytest
from conversation import Account, converse

if t.TYPE_CHECKING:
    from testinfra.host import Host

REGISTER = "/var/lib/synapse/venv/bin/register_new_matrix_user -c /etc/synapse/homeserver.yaml"


@pytest.fixture
def accounts(host: Host) -> list[Account]:
    """Return an administrator and a user, made by Synapse's own command."""
    server_name = host.check_output("cat /etc/hostname") + ".test"
    made = []
    for kind in ("--admin", "--no-admin"):
        name, password = f"u{secrets.token_hex(4)}", secrets.token_hex(16)
        host.check_output(f"{REGISTER} {kind} -u {name} -p {password} http://127.0.0.1:8008")
        made.append(Account(f"@{name}:{server_name}", password))
    return made


def test_two_clients_talk_and_share_a_file(client_port: int, accounts: list[Account]) -> None:
    assert converse(f"http://127.0.0.1:{client_port}", *accounts).startswith("!")
