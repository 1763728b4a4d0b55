"""What the scenarios' tests share: playbooks, a way in for clients, and the journal where a test fails."""

from __future__ import annotations

import re
import typing as t

import pytest
from deployed import UNIT, Controller, relayed
from xdist.scheduler import LoadScopeScheduling

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from testinfra.host import Host


class _ByHost(LoadScopeScheduling):
    """Gives each host's tests to one worker, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        # A host's name is two words: synapse-bookworm.
        found = re.search(r"\[\w+://(\w+-\w+)", nodeid)
        return found[1] if found else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: t.Any) -> LoadScopeScheduling | None:
    """With ``dist: loadscope``, let each host have a worker of its own: what is done to one is nothing to another."""
    return _ByHost(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> t.Generator[None, pytest.TestReport, pytest.TestReport]:
    """Append the unit's journal to the report of a test that failed on a host."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and host is not None:
        journal = host.run(f"journalctl --no-pager -n 60 -u {UNIT}")
        report.sections.append((f"journal of {UNIT}", journal.stdout + journal.stderr))
        log = host.run("tail -n 40 /var/log/synapse/homeserver.log")
        report.sections.append(("homeserver.log", log.stdout))
    return report


@pytest.fixture
def controller(host: Host, tmp_path: Path) -> Controller:
    """Return the controller's end of the connection to the host under test."""
    return Controller(host, tmp_path)


@pytest.fixture
def client_port(host: Host, controller: Controller) -> Iterator[int]:
    """Return a port on the controller's loopback that leads to the homeserver's own loopback listener."""
    with relayed(controller.name, 8008) as port:
        yield port
