"""Where listeners are reached."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._listeners import base_urls


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        ({"type": "http", "port": 8008}, [("http://127.0.0.1:8008", ["health"])]),
        (
            {"type": "http", "port": 1, "bind_addresses": ["::"], "resources": [{"names": ["client", "media"]}]},
            [("http://127.0.0.1:1", ["client", "health"])],
        ),
        (
            {"type": "http", "port": 2, "bind_addresses": ["::1"], "resources": [{"names": "metrics"}]},
            [("http://[::1]:2", ["health", "metrics"])],
        ),
        ({"type": "http", "port": 3, "bind_address": "10.0.0.1", "tls": True}, [("https://10.0.0.1:3", ["health"])]),
        ({"type": "http", "path": "/run/synapse.sock"}, [("unix:/run/synapse.sock", ["health"])]),
        ({"type": "metrics", "port": 9000}, []),
    ],
)
def test_where_a_listener_is_reached(listener: dict[str, t.Any], expected: list[tuple[str, list[str]]]) -> None:
    assert [(found["url"], found["resources"]) for found in base_urls([listener])] == expected
