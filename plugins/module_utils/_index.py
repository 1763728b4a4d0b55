# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The little that is asked of a package index directly: one file by name, the newest version, a version's date.

Reads the simple API in both its forms, JSON (PEP 691) and HTML (PEP 503), and folders of wheels. Fetching is given
from outside, so nothing here opens a connection.
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import dataclass
from html import unescape
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import canonical, version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = [
    "ACCEPT",
    "UNKNOWN",
    "File",
    "check_address",
    "has",
    "host_of",
    "newest",
    "parse_listing",
    "project_url",
    "released",
    "secrets_in",
    "unreachable",
    "without_secrets",
]

UNKNOWN = "no package index is known (neither the task, nor the host, nor a pip names one): set 'index_url'"
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_ANCHOR = re.compile(r"<a\s[^>]*?href\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)
_PRE_RELEASE = re.compile(r"(a|b|c|rc|alpha|beta|dev|pre)", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """One file that an index offers; ``uploaded`` is empty where the index does not say."""

    name: str
    url: str
    uploaded: str = ""


def without_secrets(text: str) -> str:
    """Return ``text`` with the user name and password of every URL in it replaced."""
    return re.sub(r"(?<=://)[^/\s'\"]+@", "***@", text)


def project_url(index: str, project: str) -> str:
    """Return the address of a project's listing; a local index is a file with the name that web servers look for."""
    parts = urlsplit(index)
    path = f"{parts.path.rstrip('/')}/{canonical(project)}/"
    if parts.scheme == "file":
        path += "index.html"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def parse_listing(body: bytes, url: str) -> tuple[File, ...]:
    """Read a listing in either form; what is neither has no files."""
    text = body.decode("utf-8", "replace")
    try:
        listing = json.loads(text)
    except ValueError:
        links = [unescape(first or second) for first, second in _ANCHOR.findall(text)]
        return tuple(file for file in (_file(url, "", link, "") for link in links) if file is not None)
    entries = listing.get("files") if isinstance(listing, dict) else None
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and not entry.get("yanked") and entry.get("filename") and entry.get("url"):
            found.append(_file(url, str(entry["filename"]), str(entry["url"]), str(entry.get("upload-time") or "")))
    return tuple(file for file in found if file is not None)


def _file(base: str, name: str, link: str, uploaded: str) -> File | None:
    """Return what a link of a listing offers; ``None`` where it is no address at all."""
    try:
        return File(name or os.path.basename(unquote(urlsplit(link).path)), urljoin(base, link).split("#")[0], uploaded)
    except ValueError:
        return None


def check_address(option: str, url: str) -> None:
    """Raise ``SynapseError`` where ``url`` is no address; it is not quoted, because a password may be in it."""
    try:
        urlsplit(url).port  # noqa: B018  (raises where the port is none)
    except ValueError:
        raise SynapseError(
            f"{option} holds something that is no address: give one such as https://index.example/simple, with an IPv6 "
            "address in [brackets] and a number for the port. Nothing was changed."
        ) from None


def host_of(url: str) -> str:
    """Return the host's name in an address, for messages; never a password."""
    try:
        return urlsplit(url).hostname or without_secrets(url)
    except ValueError:
        return "an address that is none"


def secrets_in(url: str) -> tuple[str, ...]:
    """Return what of an address must not be shown: user name and password together, and the password alone."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return (url,)
    user = parts.netloc.rpartition("@")[0]
    if not user:
        return ()
    password = user.partition(":")[2]
    return tuple(text for text in (f"{user}@", password, unquote(password)) if text)


def _version_of(file: str, project: str) -> str:
    """Return the version in a file's name; empty for files of other kinds."""
    stem = re.sub(r"(\.tar\.gz|\.zip)$", "", file)
    if file.endswith(".whl"):
        name, _unused, rest = stem.partition("-")
        return rest.split("-")[0] if canonical(name) == canonical(project) else ""
    if stem == file:
        return ""
    name, _unused, version = stem.rpartition("-")
    return version if canonical(name) == canonical(project) else ""


def newest(files: t.Iterable[File], project: str) -> str:
    """Return the newest version that is not a pre-release; empty where there is none."""
    versions = {_version_of(file.name, project) for file in files} - {""}
    final = [version for version in versions if not _PRE_RELEASE.search(version)]
    return max(final, key=version_key, default="")


def released(files: t.Iterable[File], project: str, version: str) -> str:
    """Return when the first file of a version was uploaded (ISO 8601); empty where the index does not say."""
    times = [file.uploaded for file in files if file.uploaded and _version_of(file.name, project) == version]
    return min(times, default="")


def unreachable(host: str, reason: str) -> str:
    """Return the message for an index that could not be asked."""
    if re.search(r"certificate|SSL", reason, re.IGNORECASE):
        return (
            f"The certificate of {host} is not trusted by this host ({reason}). Where a private authority signs it, "
            "give its certificate with 'ca_bundle'; otherwise install the package ca-certificates. Nothing was changed."
        )
    return (
        f"The package index at {host} cannot be reached from this host ({reason}). Check name resolution and the "
        "firewall, set the proxy in the task's environment (https_proxy), name another index with 'index_url', or "
        "install without one ('offline' and 'find_links'). Nothing was changed."
    )


def has(files: t.Iterable[File], project: str, version: str) -> bool:
    """Whether an index offers any file of a version."""
    return any(_version_of(file.name, project) == version for file in files)
