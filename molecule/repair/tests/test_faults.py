"""Faults that real servers have had: named, mended or refused with the reason, and nothing lost.

A few of them by default; MATRIX_FLEET_FAULTS=all for every one, or a pattern of their ids.
"""

from __future__ import annotations

import os
import re
import typing as t
from fnmatch import fnmatchcase

import pytest
from patients import Case, admitted, cases, changed

if t.TYPE_CHECKING:
    from pathlib import Path

WANTED = os.environ.get("MATRIX_FLEET_FAULTS", "")


def chosen(case: Case) -> bool:
    """Return whether a case is part of this run."""
    if not WANTED:
        return case.always and not case.skip
    return any(fnmatchcase(case.id, pattern) for pattern in WANTED.replace("all", "*").split(","))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases() if chosen(case)])
def test_fault_is_named_and_mended_or_refused(case: Case, tmp_path: Path) -> None:
    if case.skip:
        pytest.skip(case.skip)
    with admitted(case, tmp_path) as patient:
        patient.inject()
        before = patient.digests(case.keeps)
        report = patient.report()
        found = [(one["id"], one["severity"], one["summary"]) for one in report["findings"]]
        assert found, report
        assert found[0][0] == case.finding, found
        repair = patient.play("repair")
        if case.outcome == "refused":
            assert repair.returncode != 0, repair.stdout
            assert re.search(case.says, repair.stdout, re.IGNORECASE | re.DOTALL), repair.stdout
        else:
            assert repair.returncode == 0, repair.stdout
            patient.check_past()
            again = patient.play("repair")
            assert again.returncode == 0, again.stdout
            assert changed(again.stdout) == 0, again.stdout
        assert patient.digests(case.keeps) == before


@pytest.mark.parametrize("pattern", ["sqlite", "postgresql"])
def test_nothing_is_found_on_a_healthy_server_and_repairing_it_changes_nothing(pattern: str, tmp_path: Path) -> None:
    with admitted(Case(f"healthy-{pattern}", "", "", "", "nothing", host=pattern), tmp_path) as patient:
        report = patient.report()
        assert report["state"] == "healthy", report
        assert [one for one in report["findings"] if one["severity"] != "info"] == []
        repair = patient.play("repair")
        assert repair.returncode == 0, repair.stdout
        assert changed(repair.stdout) == 0, repair.stdout
