# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a homeserver's listeners are reached from its own host. Pure."""

from __future__ import annotations

import typing as t

__all__ = ["base_urls"]

# Of all that Synapse can serve (synapse/config/server.py, KNOWN_RESOURCES), what a question is known for.
_ASKED = frozenset({"client", "federation", "metrics"})


def _reachable(address: str) -> str:
    """The address at which a process on the same host reaches a socket bound to ``address``."""
    if address in ("0.0.0.0", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    if address in ("::", "*"):
        return "[::1]"
    return f"[{address}]" if ":" in address else address


def base_urls(listeners: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return where a process on the host reaches each HTTP listener: ``{"url": ..., "resources": [...]}``.

    One entry a listener, on the first address it binds; ``unix:PATH`` for a Unix socket. Synapse serves ``/health`` on
    every listener of type ``http`` (synapse/app/homeserver.py, ``_listener_http``, 1.163.2).
    """
    found = []
    for listener in listeners:
        if listener.get("type") != "http":
            continue
        resources = [
            name
            for resource in listener.get("resources") or []
            for name in ([resource["names"]] if isinstance(resource["names"], str) else resource["names"])
        ]
        if "path" in listener:
            url = f"unix:{listener['path']}"
        else:
            addresses = listener.get("bind_addresses") or [listener.get("bind_address") or "::"]
            # Synapse binds IPv4 as well where it is told to bind "::" (synapse/app/_base.py, listen_tcp).
            plain = [str(address) for address in addresses if address not in ("::", "*")]
            scheme = "https" if listener.get("tls") else "http"
            url = f"{scheme}://{_reachable(plain[0]) if plain else '127.0.0.1'}:{listener['port']}"
        found.append({"url": url, "resources": sorted((_ASKED & set(resources)) | {"health"})})
    return found
