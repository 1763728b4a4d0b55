"""Which of the tests of repairs are part of a run."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of tests that are for the whole set alone."""
    config.addinivalue_line("markers", "at_length: run the test with MATRIX_FLEET_FAULTS=all alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless all is asked for."""
    if os.environ.get("MATRIX_FLEET_FAULTS", "") != "all":
        left_out = [item for item in items if item.get_closest_marker("at_length") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
