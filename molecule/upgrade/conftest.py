"""What the tests of upgrades share: the server with its past, and which host a test is for."""

from __future__ import annotations

import typing as t

import pytest
from upgrading import NEW, OLD, Server

if t.TYPE_CHECKING:
    from deployed import Controller
    from testinfra.host import Host


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of tests that are for one of the hosts."""
    config.addinivalue_line("markers", "only(host): run the test on this host alone")


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
