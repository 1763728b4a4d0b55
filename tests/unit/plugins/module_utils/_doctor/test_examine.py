# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import examine as part
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import diagnose
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.host import Host
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, process_runner

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """Return an examination in which only the given looks are made, after a service and settings without a word."""

    def run(timeout: float = 5.0, **looks: Callable[[Context], t.Any]) -> Seen:
        monkeypatch.setattr(part, "_FIRST", {"service": lambda _context: Service()})
        monkeypatch.setattr(part, "_SECOND", {"settings": lambda _context: Settings()})
        monkeypatch.setattr(part, "_THIRD", looks)
        monkeypatch.setattr(part, "_GRACE", 0.1)
        return part.examine(process_runner(), Request(timeout=timeout))

    return run


def test_a_part_that_hangs_is_unseen_and_the_others_are_seen(examined: Callable[..., Seen]) -> None:
    hanging = threading.Event()
    try:
        seen = examined(0.3, database=lambda _context: hanging.wait(60), host=lambda _context: Host())
    finally:
        hanging.set()
    assert seen.host == Host()
    assert seen.database is None
    assert seen.unseen == {"database": "it did not answer in time"}


def test_a_part_that_fails_says_why_without_what_it_held(examined: Callable[..., Seen]) -> None:
    def refuse(_context: Context) -> t.Any:
        raise SynapseError("The interpreter did not answer.", stderr="first\nlast")

    def break_down(_context: Context) -> t.Any:
        raise KeyError("a-secret")

    seen = examined(database=refuse, identity=break_down)
    assert seen.unseen == {
        "database": "The interpreter did not answer. first last",
        "identity": "KeyError while it was looked at",
    }
    found = diagnose(seen)
    assert "doctor.unseen" in {finding.id for finding in (*found.findings, *found.consequences)}


def test_what_the_first_looks_found_is_there_for_the_others(examined: Callable[..., Seen]) -> None:
    given: list[tuple[t.Any, t.Any]] = []
    examined(host=lambda context: given.append((context.service, context.settings)))
    assert given == [(Service(), Settings())]


def test_what_comes_too_late_does_not_change_what_is_judged(examined: Callable[..., Seen]) -> None:
    late = threading.Event()
    done = threading.Event()

    def look(_context: Context) -> Host:
        late.wait(60)
        done.set()
        return Host()

    seen = examined(0.2, host=look)
    late.set()
    assert done.wait(10)
    assert seen.host is None
    assert "host" in seen.unseen
