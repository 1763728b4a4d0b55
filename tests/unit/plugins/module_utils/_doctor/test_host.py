# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules about the host: each has a case in which it finds something, and all are silent about a healthy one."""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import host as part
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import host_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.host import (
    Host,
    Space,
    parse_numbers,
    spaces_of,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import process_runner

if t.TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2
GIB = 1024**3
DATA = Space(("database", "data"), "/var/lib/synapse", 1, 100 * GIB, 50 * GIB, 6_000_000, 5_000_000)
LOGS = Space(("logs",), "/var/log/synapse", 2, 10 * GIB, 5 * GIB, 600_000, 500_000)
HEALTHY = Host(
    spaces=(DATA, LOGS),
    memory={"MemTotal": 4 * GIB, "MemAvailable": GIB, "SwapFree": 0},
    limit=4 * GIB,
    used=GIB,
    newest=(1000.0, "/var/log/synapse/homeserver.log"),
    synchronised=True,
    files=(3000, 100_000),
    processes=(100, 4000),
    temporary_mode=0o1777,
    localhost=("127.0.0.1", "::1"),
)


def found(host: Host | None) -> list[tuple[str, str]]:
    """Return the ids without their part, and the severities, of what is found."""
    seen = Seen(request=Request(), host=host, now=1010.0)
    return [(one.id.partition(".")[2], one.severity) for rule in part.RULES.rules for one in rule.findings(seen)]


@pytest.mark.parametrize("host", [HEALTHY, Host(), None])
def test_a_healthy_host_is_not_talked_about(host: Host | None) -> None:
    assert found(host) == []


@pytest.mark.parametrize(
    "space",
    [
        replace(DATA, free=2 * GIB),  # little of a large disk is still a lot
        replace(DATA, total=64 * MIB, free=40 * MIB),  # and a small one may be as good as empty
        replace(LOGS, total=GIB, free=300 * MIB),
        replace(LOGS, inodes=0, free_inodes=0),  # btrfs counts none
    ],
)
def test_a_small_or_a_large_disk_is_no_fault(space: Space) -> None:
    assert found(replace(HEALTHY, spaces=(space,))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"spaces": (replace(DATA, free=0),)}, [("disk_full", "critical")]),
        ({"spaces": (replace(DATA, total=MIB, free=MIB),)}, [("disk_full", "critical")]),
        ({"spaces": (replace(LOGS, free=0),)}, [("logs_full", "error")]),
        ({"spaces": (replace(LOGS, free=100 * MIB),)}, [("disk_low", "warning")]),
        ({"spaces": (replace(DATA, free_inodes=0),)}, [("inodes", "critical")]),
        ({"spaces": (replace(LOGS, free_inodes=0),)}, [("inodes", "error")]),
        ({"spaces": (replace(LOGS, free_inodes=500),)}, [("inodes", "warning")]),
        ({"spaces": (replace(DATA, read_only=True),)}, [("read_only", "critical")]),
        ({"spaces": (Space(("releases",), "/opt", read_only=True, total=GIB),)}, []),
        ({"spaces": (Space(("media",), "/mnt/media", hangs=True),)}, [("file_system_hangs", "critical")]),
        ({"newest": (5000.0, "/log")}, [("clock", "error")]),
        ({"synchronised": False}, [("clock_unsynchronised", "info")]),
        ({"synchronised": False, "container": True}, []),
        ({"memory": {"MemAvailable": 10 * MIB, "SwapFree": 0}}, [("memory", "warning")]),
        ({"memory": {"MemAvailable": 10 * MIB, "SwapFree": GIB}}, []),
        ({"used": 4 * GIB - 1}, [("memory", "warning")]),
        ({"files": (99_000, 100_000)}, [("limits", "warning")]),
        ({"processes": (3999, 4000)}, [("limits", "warning")]),
        ({"temporary_mode": 0o755}, [("temporary_folder", "warning")]),
        ({"localhost": ()}, [("localhost", "error")]),
        ({"localhost": ("192.0.2.7",)}, [("localhost", "error")]),
    ],
)
def test_a_fault_of_the_host_is_named(changes: dict[str, t.Any], expected: list[tuple[str, str]]) -> None:
    assert found(replace(HEALTHY, **changes)) == expected


def test_what_is_on_one_file_system_is_told_once() -> None:
    media = replace(DATA, uses=("media",), path="/var/lib/synapse/media")
    (both,) = spaces_of([DATA, media])
    assert both.uses == ("database", "data", "media")
    assert len(spaces_of([DATA, replace(media, read_only=True)])) == 2


def test_numbers_of_the_kernel_are_read() -> None:
    assert parse_numbers("MemTotal:  12 kB\nHugePages: 3\ninactive_file 7\nbroken\nx y\n") == {
        "MemTotal": 12 * 1024,
        "HugePages": 3,
        "inactive_file": 7,
    }


def context_of(tmp_path: Path, log_config: str) -> Context:
    """Return a context with a log configuration."""
    (tmp_path / "log.yaml").write_text(log_config, encoding="utf-8")
    config = {
        "log_config": str(tmp_path / "log.yaml"),
        "media_store_path": str(tmp_path / "media"),
        "database": {"args": {"database": str(tmp_path / "homeserver.db")}},
    }
    settings = Settings((ConfigFile("/etc/synapse/homeserver.yaml"),), config)
    return Context(Request(), process_runner(), time.monotonic() + 20, settings=settings)


@pytest.mark.parametrize(
    "text",
    [
        "handlers:\n  file:\n    class: x\n    filename: {path}\n",
        "handlers: {{f: {{class: x, filename: {path}, when: midnight}}}}\n",
        "handlers:\n  file:\n    'filename': \"{path}\"  # a remark\n",
    ],
)
def test_log_files_are_found_in_every_style(tmp_path: Path, text: str) -> None:
    path = str(tmp_path / "logs" / "homeserver.log")
    assert host_look.log_files(context_of(tmp_path, text.format(path=path))) == (path,)


def test_a_look_sees_the_file_systems_of_this_machine_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "homeserver.db").write_bytes(b"x")
    os.utime(tmp_path / "homeserver.db", (5e9, 5e9))
    context = context_of(tmp_path, "")
    before = sorted(tmp_path.iterdir())
    host = host_look.look(context)
    assert sorted(tmp_path.iterdir()) == before
    uses = [use for space in host.spaces for use in space.uses]
    assert {"database", "media", "temporary files"} <= set(uses)
    assert host.newest == (5e9, str(tmp_path / "homeserver.db"))
    assert host.memory is not None
    assert "MemAvailable" in host.memory


def test_a_file_system_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_look, "_PATIENCE", 0.2)
    space_of = host_look._space

    def hanging(use: str, path: str) -> Space | None:
        if use == "media":
            time.sleep(5)
        return space_of(use, path)

    monkeypatch.setattr(host_look, "_space", hanging)
    begun = time.monotonic()
    host = host_look.look(context_of(tmp_path, ""))
    assert time.monotonic() - begun < 3
    assert ("media",) in [space.uses for space in host.spaces if space.hangs]
