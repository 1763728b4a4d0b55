"""A server that was deployed, and nothing more, has nothing wrong with it."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from deployed import Controller


def test_nothing_is_wrong_with_a_server_that_was_just_deployed(controller: Controller) -> None:
    assert controller.ailments() == []
