# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the configuration files say, as this process reads them: the ground on which the other parts are looked at."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ConfigFile", "Settings"]


@dataclass(frozen=True)
class ConfigFile:
    """One file. ``problem`` says why it gave nothing; ``line`` counts from 1; ``managed``: the collection wrote it.

    ``numbers`` are the options whose value is a number.
    """

    path: str
    problem: str | None = None
    line: int | None = None
    missing: bool = False
    keys: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    size: int = 0
    managed: bool = False


@dataclass(frozen=True)
class Settings:
    """The files, and the mapping that they make together; values of secrets are ``"***"``, or ``None`` where empty.

    ``problem``: why no mapping could be read at all. ``managed``: the collection wrote the first file.
    """

    files: tuple[ConfigFile, ...] = ()
    config: Mapping[str, t.Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def readable(self) -> bool:
        """Whether all files were read."""
        return self.problem is None and bool(self.files) and not any(file.problem for file in self.files)

    @property
    def managed(self) -> bool:
        """Whether the collection wrote the first file."""
        return bool(self.files) and self.files[0].managed

    def get(self, *path: str | int) -> t.Any:
        """Return the value at a path of names and positions, ``None`` where there is none."""
        value: t.Any = self.config
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value):
                value = value[part]
            else:
                return None
        return value

    def text(self, *path: str | int) -> str | None:
        """Return the text at a path, ``None`` where there is none or something else."""
        value = self.get(*path)
        return value if isinstance(value, str) and value else None

    def mappings(self, *path: str | int) -> list[dict[str, t.Any]]:
        """Return the mappings in the list at a path."""
        value = self.get(*path)
        return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

    @property
    def server_name(self) -> str | None:
        """The server's name."""
        return self.text("server_name")

    @property
    def engine(self) -> str:
        """``sqlite3`` or ``psycopg2``, or whatever is written there."""
        return self.text("database", "name") or "sqlite3"
