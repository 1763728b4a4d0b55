# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one run decides while it resolves: whether setuptools is held back."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _venv_task
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import Finding
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_build import UnprovenError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import Options, ask
from ansible_collections.matrix_fleet.synapse.tests.unit.plugins.module_utils.test__venv_request import PARAMS


def task() -> _venv_task.Task:
    options = Options.from_params({**PARAMS, "version": "1.100.0"})
    return _venv_task.Task(
        options, runner=t.cast("t.Any", None), fetcher=t.cast("t.Any", lambda sources: None), log=print
    )


def made(monkeypatch: pytest.MonkeyPatch, *ids: str) -> tuple[_venv_task.Task, list[list[str]]]:
    """Resolve and make with an installer whose first environment has the problems ``ids``; return what was asked."""
    resolved: list[list[str]] = []
    one = task()

    class Resolver:
        def resolve(self, wanted: t.Sequence[str], **unused: object) -> str:
            resolved.append(list(wanted))
            return f"matrix-synapse==1.100.0 --hash=sha256:{'0' * 64}\n"

    def make(*unused: object, **more: object) -> tuple[t.Any, None]:
        if len(resolved) == 1 and ids:
            raise UnprovenError("unproven", tuple(Finding(name, f"evidence of {name}") for name in ids))
        return survey, None

    monkeypatch.setattr(one, "_make", make)
    survey = _venv_task._Survey(ask(one.options, None, None), *t.cast("t.Any", [None] * 4))
    one._resolve_and_make(*t.cast("t.Any", (None, survey, Resolver(), None, Sources("", offline=True))))
    return one, resolved


def test_setuptools_is_held_back_only_where_pkg_resources_alone_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, resolved = made(monkeypatch, "pkg_resources_missing")
    assert [wanted[-1] == "setuptools<82" for wanted in resolved] == [False, True]
    assert "setuptools is held below 82" in one.warnings[-1]


def test_setuptools_is_not_held_back_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    one, resolved = made(monkeypatch)
    assert len(resolved) == 1
    assert not any("setuptools" in warning for warning in one.warnings)


def test_another_problem_is_not_answered_by_holding_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnprovenError):
        made(monkeypatch, "pkg_resources_missing", "import_failed")
