"""The sign of life of a long step."""

from __future__ import annotations

import threading

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._progress import Heartbeat


def test_a_short_step_says_nothing() -> None:
    said: list[str] = []
    with Heartbeat("Build", said.append, after=30):
        pass
    assert said == []


def test_a_long_step_says_again_and_again_that_it_is_at_work() -> None:
    twice = threading.Event()
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 2:
            twice.set()

    with Heartbeat("Build", say, after=0.01, every=0.01):
        assert twice.wait(10)
    assert said[0].startswith("Build: still at work after")
    told = len(said)
    assert not threading.Event().wait(0.05)
    assert len(said) == told
