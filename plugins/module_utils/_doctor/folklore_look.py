# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into the small text files where operators keep their scripts for advice that never worked."""

from __future__ import annotations

import glob
import os
import stat
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.folklore import Folklore, Line, read
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._logs import redact
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]

_PLACES = (
    "/usr/local/bin/*",
    "/usr/local/sbin/*",
    "/root/*.sh",
    "/root/*.py",
    "/root/bin/*",
    "/etc/cron.d/*",
    "/etc/cron.daily/*",
    "/etc/cron.hourly/*",
    "/etc/cron.weekly/*",
    "/etc/systemd/system/*.service",
    "/etc/systemd/system/*.service.d/*.conf",
    "/var/spool/cron/crontabs/*",
)
_LARGEST = 128 * 1024  # bytes
_MOST = 400  # so many files are read
_TIME = 5.0  # seconds


def _paths(context: Context) -> Iterator[str]:
    seen = set()
    folders = {os.path.dirname(path) for path in context.request.config_paths}
    places = [*_PLACES, *(f"{glob.escape(folder)}/*.{ext}" for folder in sorted(folders) for ext in ("sh", "py"))]
    for path in context.request.scripts:
        seen.add(path)
        yield path
    for place in places:
        for path in sorted(glob.glob(place)):
            if path not in seen:
                seen.add(path)
                yield path


def _text(path: str) -> str:
    """Return the text of a small text file, empty for everything else."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return ""
        data = _files.read(path, limit=_LARGEST) or b""
    except (OSError, SynapseError):
        return ""
    return "" if b"\0" in data else data.decode("utf-8", "replace")


def look(context: Context) -> Folklore:
    """Look; a script is only read, whoever wrote it."""
    found = []
    for count, path in enumerate(_paths(context)):
        if count >= _MOST or context.left(_TIME) < _TIME / 5:
            break
        for kind, number, text, about in read(_text(path)):
            exists = about.startswith("/") and os.path.exists(about.strip("\"'"))
            found.append(Line(kind, path, number, redact(text), exists))
    return Folklore(tuple(found))
