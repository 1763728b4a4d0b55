# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which options hold a secret, told by their names. Pure."""

from __future__ import annotations

import re
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_secret_name", "secret_arguments"]

_SECRET = re.compile(
    r"(secret|password|passwd|_pass$|^dsn$|private_key|api_key|token|signing_key|pepper|credential)", re.IGNORECASE
)
# A place, a duration or a switch is no secret, whatever it is about.
_PLACE = re.compile(
    r"(_path|_file|_url|_lifetime|_period|_ttl|_count|_enabled)$|^(enable|disable|allow|require)_", re.IGNORECASE
)

# What libpq takes as a parameter of a connection: PostgreSQL's documentation, "Parameter Key Words".
_ARGUMENT = re.compile(r"(?i)password|passwd|passphrase|secret|token|^scram_.*_key$|^dsn$")


def is_secret_name(name: str) -> bool:
    """Return whether an option of this name holds a secret itself, not the place where one lies."""
    return bool(_SECRET.search(name)) and not _PLACE.search(name)


def secret_arguments(args: Mapping[str, object]) -> dict[str, str]:
    """Return what is secret among a connection's further parameters, which Ansible shows; it has options of its own."""
    return {name: "" if value is None else str(value) for name, value in args.items() if _ARGUMENT.search(name)}
