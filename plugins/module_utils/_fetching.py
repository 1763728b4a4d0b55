# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How modules fetch from a package index: through Ansible's own client, which knows proxies and certificates."""

from __future__ import annotations

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _index
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources

__all__ = ["fetcher", "passwords_of"]


def passwords_of(params: Mapping[str, t.Any]) -> Iterator[str]:
    """Yield the passwords in addresses; one that is part of a path that is returned shows only with its user."""
    paths = f"{params.get('path')} {params.get('releases_path')}"
    for option in ("index_url", "default_index_url", "extra_index_urls", "find_links"):
        value = params.get(option) or ()
        for url in [value] if isinstance(value, str) else value:
            if "://" in str(url):
                yield from (text for text in _index.secrets_in(str(url)) if text not in paths)


def fetcher(sources: Sources) -> Callable[[str], bytes]:
    """Return a function that fetches an address; ``FileNotFoundError`` where the other side has nothing there."""

    def fetch(url: str) -> bytes:
        # Where nothing has to be fetched, the client is not loaded: it is half of all that a module imports.
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError

        from ansible.module_utils.urls import ConnectionError as IndexConnectionError
        from ansible.module_utils.urls import MissingModuleError, open_url

        # Everything that goes wrong on the way; proxies and certificates are among Ansible's own connection errors.
        unreachable = (URLError, OSError, ValueError, HTTPException, IndexConnectionError, MissingModuleError)
        host = _index.host_of(url)
        try:
            with open_url(
                url, headers={"Accept": _index.ACCEPT}, timeout=60, ca_path=sources.ca_bundle or None
            ) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            if error.code in {403, 404, 410}:
                raise FileNotFoundError(url) from None
            raise SynapseError(f"The package index at {host} answered {error.code}: check 'index_url'.") from None
        except unreachable as error:
            reason = _index.without_secrets(str(getattr(error, "reason", error)))
            raise SynapseError(_index.unreachable(host, reason)) from None

    return fetch
