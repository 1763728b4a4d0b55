"""What the tests of upgrades share: the server with its past, and which host a test is for."""

from __future__ import annotations

import typing as t

import pytest
from upgrading import HOSTS, NEW, OLD, Server
from xdist.scheduler import LoadScopeScheduling

if t.TYPE_CHECKING:
    from deployed import Controller
    from testinfra.host import Host


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of tests that are for one of the hosts."""
    config.addinivalue_line("markers", "only(host): run the test on this host alone")


class _ByHost(LoadScopeScheduling):
    """Gives each host's tests to one worker, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        return next((host for host in HOSTS if f"//{host}" in nodeid), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: t.Any) -> LoadScopeScheduling:
    """What is done to one server has nothing to do with the other: let each have a worker of its own."""
    return _ByHost(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a host is not for."""
    chosen, left_out = [], []
    for item in items:
        host = item.callspec.params["_testinfra_host"].backend.get_pytest_id().rsplit("://", 1)[-1]
        only = item.get_closest_marker("only")
        if only is not None and only.args[0] != host:
            left_out.append(item)
        else:
            chosen.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen


@pytest.fixture
def server(host: Host, controller: Controller, client_port: int) -> Server:
    """Return the server under test, whatever it serves."""
    return Server(host, controller, f"http://127.0.0.1:{client_port}")


@pytest.fixture
def old(server: Server) -> Server:
    """Return the server, serving the old version."""
    server.bring(OLD)
    return server


@pytest.fixture
def new(server: Server) -> Server:
    """Return the server, serving the new version."""
    server.bring(NEW)
    return server
