# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action tells the module beside what the task says."""

from __future__ import annotations

import types
import typing as t

import pytest

pytest.importorskip("ansible")

from ansible_collections.matrix_fleet.synapse.plugins.action import synapse_health, synapse_venv

# What the task says, what the controller's pip knows, what the module is told beside what the task says.
TOLD: dict[str, tuple[dict[str, t.Any], str, dict[str, t.Any]]] = {
    "nothing is said": ({}, "https://public.example", {"default_index_url": "https://public.example"}),
    "an index is named": (
        {"index_url": "https://mine.example"},
        "https://public.example",
        {"default_index_url": "https://public.example"},
    ),
    "the default is named": ({"default_index_url": "https://mine.example"}, "https://public.example", {}),
    "the controller has no pip": ({}, "", {"default_index_url": None}),
}


def action_of(kind: t.Any, arguments: dict[str, t.Any]) -> t.Any:
    action = kind.ActionModule.__new__(kind.ActionModule)
    action._task = types.SimpleNamespace(args=arguments)
    return action


@pytest.mark.parametrize("case", TOLD)
def test_the_module_is_told_where_the_public_index_is(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said, known, added = TOLD[case]
    monkeypatch.setattr(synapse_venv, "public_index", lambda: known)
    before = dict(said)
    assert action_of(synapse_venv, said).module_arguments() == {**said, **added}
    assert said == before, "the task's own arguments stay as they are, for a loop or a retry"


def test_other_long_modules_are_told_what_the_task_says() -> None:
    assert action_of(synapse_health, {"urls": []}).module_arguments() == {"urls": []}
