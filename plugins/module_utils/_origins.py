# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where packages come from on this machine, and as of which day an old version of Synapse is resolved."""

from __future__ import annotations

import os
import re
import typing as t
from datetime import datetime, timedelta

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _index, _installer, _public_index
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["as_of", "end_of", "sources_of"]


def sources_of(
    *,
    index_url: str,
    default_index_url: str,
    extra_index_urls: tuple[str, ...],
    find_links: tuple[str, ...],
    offline: bool,
    ca_bundle: str,
) -> Sources:
    """Return where packages come from: what is named, else what this machine's pip or uv is set to, else the public.

    Takes every other setting of pip, uv and Python out of the environment of this process. Raises ``SynapseError``.
    """
    index, bundle = _installer.host_sources(os.environ, _installer.pip_configurations(os.environ))
    for name in _installer.stray_variables(os.environ):
        del os.environ[name]
    if ca_bundle and not os.path.isfile(ca_bundle):
        raise SynapseError(
            f"'ca_bundle' is {ca_bundle}, which does not exist on the host: put the file there first. "
            "Nothing was changed."
        )
    _index.check_address("The index that the host's pip or uv is set to", index)
    bundle = ca_bundle or (bundle if os.path.isfile(bundle) else "")
    for link in find_links:
        if "://" not in link and not os.path.isdir(link):
            raise SynapseError(f"'find_links' has {link}, which is no folder on the host. Nothing was changed.")
    return Sources(
        index_url=index_url or index or default_index_url or _public_index.public_index(),
        extra_index_urls=extra_index_urls,
        find_links=find_links,
        offline=offline,
        ca_bundle=bundle,
    )


def as_of(version: str, sources: Sources, fetch: Callable[[str], bytes]) -> str | None:
    """Return the last day (``2026-04-14``) whose packages count for an old Synapse, empty for the newest: no limit.

    That is the day after its release; ``None`` where the index does not say when that was. Raises
    ``SynapseError`` where the index does not have the version.
    """
    if sources.offline:
        return ""
    if not sources.index_url:
        raise SynapseError(
            f"The day of Synapse {version} cannot be looked up, because {_index.UNKNOWN}. Nothing was changed."
        )
    url = _index.project_url(sources.index_url, "matrix-synapse")
    try:
        files = _index.parse_listing(fetch(url), url)
    except FileNotFoundError:
        return None
    newest = _index.newest(files, "matrix-synapse")
    if not sources.extra_index_urls and not sources.find_links and not _index.has(files, "matrix-synapse", version):
        raise SynapseError(
            f"There is no Synapse {version} on {sources.hosts()}: the newest there is {newest or 'none'}. Correct "
            "'version'. Nothing was changed."
        )
    if newest == version:
        return ""
    day = _index.released(files, "matrix-synapse", version)[:10]
    try:
        return _after(day) if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and _after(_after(day)) else None
    except (ValueError, OverflowError):
        return None


def _after(day: str) -> str:
    return (datetime.strptime(day, "%Y-%m-%d") + timedelta(days=1)).strftime("%Y-%m-%d")


def end_of(day: str | None) -> str:
    """Return the instant at which a day ends (UTC); empty for no day. Raises ``ValueError`` for what is none."""
    return f"{_after(day)}T00:00:00Z" if day else ""
