# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of what each release of Synapse reads, and the command that makes it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import version_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._schema_versions import NEWEST, TABLE

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "tests" / "bin" / "make_schema_table.py"
SCHEMA = "synapse/storage/schema/__init__.py"


def test_the_versions_ascend_and_so_do_the_schemas() -> None:
    versions = [version_key(row[0]) for row in TABLE]
    assert versions == sorted(set(versions))
    assert version_key(NEWEST) >= versions[-1]
    for before, after in itertools.pairwise(TABLE):
        assert before[1] <= after[1]
        assert before[2] <= after[2]
        assert before[1:] != after[1:]
    assert all(compat <= schema for _version, schema, compat, *_limits in TABLE)


def test_the_default_version_is_in_the_table() -> None:
    assert version_key(_default_lock.VERSION) <= version_key(NEWEST)


@pytest.mark.parametrize(
    ("version", "facts"),
    [  # as Synapse's documentation has it: docs/upgrade.md, and the SCHEMA_COMPAT_VERSION of these tags
        ("1.37.0", (59, 59)),
        ("1.62.0", (72, 71)),
        ("1.105.1", (84, 84)),
        ("1.151.0", (94, 84)),
    ],
)
def test_some_rows_that_are_known_from_elsewhere(version: str, facts: tuple[int, int]) -> None:
    assert next(row[1:3] for row in TABLE if row[0] == version) == facts


def files(schema: str, limit: str = "160000") -> dict[str, str]:
    """What the command reads of one release."""
    return {
        SCHEMA: schema,
        "synapse/__init__.py": "import sys\nif sys.version_info < (3, 10):\n    sys.exit(1)\n",
        "synapse/storage/engines/sqlite.py": (
            "import sqlite3\nOTHER = sqlite3.sqlite_version_info < (3, 0, 0)\nclass Engine:\n"
            "    def check_database(self):\n        if sqlite3.sqlite_version_info < (3, 37, 2):\n            raise X\n"
        ),
        "synapse/storage/engines/postgres.py": (
            f"class Engine:\n    def check_database(self):\n        if self._version < {limit}:\n            raise X\n"
        ),
    }


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write files below a folder."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git directory with releases of a made-up Synapse."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=folder, check=True)

    git("init", "-q")
    for tag, texts in {
        "v1.1.0": {SCHEMA: "SCHEMA_VERSION = 1\n"},
        "v1.9.0": files("SCHEMA_VERSION = 2\nSCHEMA_COMPAT_VERSION = 1\n", "90600"),
        "v1.10.0rc1": files("SCHEMA_VERSION = 9\nSCHEMA_COMPAT_VERSION = 9\n"),
        "v1.10.0": files('SCHEMA_VERSION: int = 3\n"""what"""\nSCHEMA_COMPAT_VERSION = (\n    # why\n    2\n)\n'),
        "v1.10.1": files("SCHEMA_VERSION = 3\nSCHEMA_COMPAT_VERSION = 2\n"),
    }.items():
        write(folder, texts)
        git("add", ".")
        git("commit", "-q", "-m", tag)
        git("tag", tag)
    return folder / ".git"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_command_reads_tags_and_environments(repository: Path, tmp_path: Path) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    write(packages, files("SCHEMA_VERSION = 4\nSCHEMA_COMPAT_VERSION = 2\n"))
    (packages / "matrix_synapse-1.11.2.dist-info").mkdir()
    output = tmp_path / "table.py"
    ended = run(repository, "--environment", tmp_path / "venv", "--output", output)
    assert ended.returncode == 0, ended.stderr
    text = output.read_text(encoding="utf-8")
    assert 'NEWEST: t.Final = "1.11.2"' in text
    assert text.endswith(
        '    ("1.9.0", 2, 1, "3.10", "3.37.2", "9.6"),\n'
        '    ("1.10.0", 3, 2, "3.10", "3.37.2", "16"),\n'
        '    ("1.11.2", 4, 2, "3.10", "3.37.2", "16"),\n'
        ")\n"
    )


def test_what_cannot_be_read_is_not_guessed(repository: Path, tmp_path: Path) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    write(packages, files("SCHEMA_VERSION = 4\nSCHEMA_COMPAT_VERSION = 2\n", "MINIMUM"))
    (packages / "matrix_synapse-1.11.2.dist-info").mkdir()
    ended = run(repository, "--environment", tmp_path / "venv", "--output", tmp_path / "table.py")
    assert ended.returncode != 0
    assert "1.11.2 PostgreSQL: expected one limit" in ended.stderr
    assert not (tmp_path / "table.py").exists()
