"""Let two people use the homeserver of a host, and write down what they left: leave_a_past.py HOST [SERVER_NAME]."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from conversation import Account
from deployed import relayed
from past import leave

REGISTER = "/var/lib/synapse/venv/bin/register_new_matrix_user"


def main(name: str, server_name: str) -> None:
    accounts = []
    for user in ("ada", "bob"):
        account = Account(f"@{user}:{server_name}", secrets.token_hex(16))
        command = ["docker", "exec", name, REGISTER, "--no-admin", "-u", user, "-p", account.password]
        subprocess.run(
            [*command, "-c", "/etc/synapse/homeserver.yaml", "http://127.0.0.1:8008"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        accounts.append(account)
    with relayed(name, 8008) as port:
        past = leave(f"http://127.0.0.1:{port}", accounts)
        past.check(f"http://127.0.0.1:{port}")
    past.write(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"{name}.past.json"))


if __name__ == "__main__":
    main(sys.argv[1], (sys.argv[2:] or [f"{sys.argv[1]}.test"])[0])
