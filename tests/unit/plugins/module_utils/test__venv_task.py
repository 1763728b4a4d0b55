# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one run decides while it resolves: as of which day, and whether setuptools is held back."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _venv_task
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import Finding
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_build import UnprovenError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import Options, ask
from ansible_collections.matrix_fleet.synapse.tests.unit.plugins.module_utils.test__venv_request import PARAMS

INDEX = Sources("https://index.example/simple")


def task(files: object = ()) -> _venv_task.Task:
    def fetch(url: str) -> bytes:
        return json.dumps({"files": files}).encode()

    options = Options.from_params({**PARAMS, "version": "1.100.0"})
    return _venv_task.Task(options, runner=t.cast("t.Any", None), fetcher=lambda sources: fetch, log=print)


def listed(version: str, time: str) -> dict[str, str]:
    return {"filename": f"matrix_synapse-{version}.tar.gz", "url": "x", "upload-time": time}


def as_of(*files: dict[str, str], sources: Sources = INDEX) -> str:
    one = task(files)
    return one._as_of(ask(one.options, None, None), sources)


def test_an_old_version_is_resolved_as_of_its_own_days() -> None:
    assert as_of(listed("1.100.0", "2024-01-30T12:00:00Z"), listed("1.101.0", "")) == "2024-02-01T00:00:00Z"
    assert as_of(listed("1.100.0", "2024-01-30T12:00:00Z")) == "", "the newest is resolved as of now"


@pytest.mark.parametrize("day", ["2024-13-45T00:00:00Z", "2024-02-30", "9999-12-31", "soon", ""])
def test_a_day_that_is_none_does_not_count(day: str) -> None:
    assert as_of(listed("1.100.0", day), listed("1.101.0", "")) == ""


def test_a_version_that_the_index_does_not_have_is_refused() -> None:
    with pytest.raises(SynapseError, match=r"no Synapse 1\.100\.0 on index\.example: the newest there is 1\.101\.0"):
        as_of(listed("1.101.0", ""))


def made(monkeypatch: pytest.MonkeyPatch, *ids: str) -> tuple[_venv_task.Task, list[list[str]]]:
    """Resolve and make with an installer whose first environment has the problems ``ids``; return what was asked."""
    resolved: list[list[str]] = []
    one = task()

    def resolve(installer: object, wanted: t.Sequence[str], *unused: object) -> tuple[()]:
        resolved.append(list(wanted))
        return ()

    def make(*unused: object) -> str:
        if len(resolved) == 1 and ids:
            raise UnprovenError("unproven", tuple(Finding(name, f"evidence of {name}") for name in ids))
        return "made"

    monkeypatch.setattr(_venv_task, "_resolve", resolve)
    monkeypatch.setattr(one, "_make", make)
    survey = _venv_task._Survey(ask(one.options, None, None), *t.cast("t.Any", [None] * 4))
    one._resolve_and_make(*t.cast("t.Any", (None, survey, None, None, Sources("", offline=True))))
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
