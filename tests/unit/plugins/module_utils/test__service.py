# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._service import Unit, Wanted

NAME = "a.service"

# Recorded with systemd 252: a service that fails, one that is masked, none, and one that is being started.
SHOWN = """\
Type=notify
Result=exit-code
ExecMainStatus=3
Id=bad.service
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=static
Job=
NeedDaemonReload=no
LoadError=

Result=success
Id=masked.service
LoadState=masked
ActiveState=inactive
SubState=dead
UnitFileState=masked
Job=
NeedDaemonReload=no
LoadError=org.freedesktop.systemd1.UnitMasked "Unit masked.service is masked."

Result=success
Id=nope.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
Job=
NeedDaemonReload=no
LoadError=org.freedesktop.systemd1.NoSuchUnit "Unit nope.service not found."

Type=notify
Result=success
ExecMainStatus=0
Id=slow.service
LoadState=loaded
ActiveState=activating
SubState=start
UnitFileState=static
Job=218
NeedDaemonReload=yes
LoadError=
"""
JOBS = "218 slow.service start running\n9 x@a-b.service stop  waiting\n\nNo jobs running.\n"


def test_what_systemd_says_of_units() -> None:
    bad, masked, nope, slow = _service.parse_show(SHOWN, ["bad.service", "masked.service", "nope.service", "s.service"])
    assert (bad.active, bad.result, bad.status, bad.file, bad.kind) == ("failed", "exit-code", "3", "static", "notify")
    assert (bad.down, bad.up, bad.queued, bad.stale) == (True, False, False, False)
    assert (masked.load, masked.load_error) == ("masked", "Unit masked.service is masked.")
    assert (nope.load, nope.file) == ("not-found", "")
    assert (slow.name, slow.id, slow.up, slow.queued, slow.stale) == ("s.service", "slow.service", True, True, True)
    assert _service.needs_jobs([bad, slow])
    assert not _service.needs_jobs([bad, masked, nope])


def test_an_answer_about_other_units_is_an_error() -> None:
    with pytest.raises(SynapseError, match="asked about 1 units and told of 4"):
        _service.parse_show(SHOWN, ["bad.service"])


@given(st.text())
def test_whatever_is_shown_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SynapseError):
        assert len(_service.parse_show(text, [NAME])) == 1


def test_queued_jobs() -> None:
    assert _service.parse_jobs(JOBS) == {"slow.service": "start", "x@a-b.service": "stop"}


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("matrix-synapse", "matrix-synapse.service"),
        ("matrix-synapse.service", "matrix-synapse.service"),
        ("w@a.b", "w@a.b.service"),
        ("matrix-synapse.target", "matrix-synapse.target"),
    ],
)
def test_names(name: str, full: str) -> None:
    assert _service.full_name(name) == full


@pytest.mark.parametrize("name", ["", "-x", "--all", "a b", "a*", "/etc/a.service", "a\n", "[a]"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(SynapseError, match="is no name of a unit"):
        _service.full_name(name)


RUNNING = Unit(NAME, active="active", sub="running", file="enabled")
STOPPED = Unit(NAME, file="enabled")


@pytest.mark.parametrize(
    ("state", "unit", "acts", "resets"),
    [
        ("started", RUNNING, False, False),
        # One that was started often of late is refused, though it never failed.
        ("started", STOPPED, True, True),
        ("started", replace(RUNNING, active="activating", sub="start"), False, False),
        ("started", replace(RUNNING, active="reloading", sub="reload"), False, False),
        # It is tried again by itself; whether that helps is for the proof to see.
        ("started", replace(RUNNING, active="activating", sub="auto-restart"), False, False),
        ("started", replace(STOPPED, active="failed", sub="failed"), True, True),
        ("started", replace(RUNNING, active="deactivating", sub="stop-sigterm"), True, True),
        # Somebody is stopping it.
        ("started", replace(RUNNING, queued=True, job="stop"), True, True),
        ("started", replace(RUNNING, queued=True, job="restart"), False, False),
        ("stopped", RUNNING, True, False),
        ("stopped", STOPPED, False, False),
        ("stopped", replace(STOPPED, active="failed"), False, False),
        ("stopped", replace(RUNNING, active="activating", sub="auto-restart"), True, False),
        ("stopped", replace(RUNNING, active="deactivating"), True, False),
        ("stopped", replace(STOPPED, queued=True, job="start"), True, False),
        ("restarted", RUNNING, True, True),
        ("restarted", STOPPED, True, True),
        ("restarted", replace(STOPPED, active="failed"), True, True),
        ("restarted", replace(RUNNING, active="activating", sub="auto-restart"), True, True),
        (None, STOPPED, False, False),
    ],
)
def test_what_is_done_about_a_state(state: str | None, unit: Unit, acts: bool, resets: bool) -> None:
    todo = _service.plan(Wanted(state), [unit])
    assert (todo.units, todo.reset) == ((NAME,) * acts, (NAME,) * resets)
    assert todo.changed is acts
    assert (todo.diff["before"] == todo.diff["after"]) is not acts
    assert not todo.reload


@pytest.mark.parametrize(
    ("enabled", "file", "enables", "disables"),
    [
        (True, "disabled", True, False),
        (True, "enabled-runtime", True, False),
        (True, "linked", True, False),
        (True, "", True, False),
        (True, "enabled", False, False),
        (True, "alias", False, False),
        (True, "static", False, False),
        (True, "indirect", False, False),
        (True, "generated", False, False),
        (False, "enabled", False, True),
        (False, "enabled-runtime", False, True),
        (False, "disabled", False, False),
        (False, "static", False, False),
        (False, "masked", False, False),
        (None, "disabled", False, False),
    ],
)
def test_what_is_done_about_the_boot(enabled: bool | None, file: str, enables: bool, disables: bool) -> None:
    todo = _service.plan(Wanted(None, enabled), [replace(RUNNING, file=file)])
    assert (todo.enable, todo.disable, todo.units) == ((NAME,) * enables, (NAME,) * disables, ())
    assert todo.changed is (enables or disables)
    assert (todo.diff["before"] == todo.diff["after"]) is not todo.changed


@pytest.mark.parametrize(
    ("wanted", "unit", "told"),
    [
        (Wanted("started"), replace(STOPPED, load="masked", file="masked"), "systemctl unmask a.service"),
        (Wanted(None, True), replace(STOPPED, file="masked-runtime"), "cannot be enabled"),
        (Wanted("restarted"), replace(STOPPED, load="not-found", file=""), "has no unit a.service"),
        (Wanted("stopped", True), replace(STOPPED, load="not-found", file=""), "has no unit a.service"),
        (Wanted("started"), replace(STOPPED, load="bad-setting", load_error="bad x"), "refuses the file .* bad x"),
        (Wanted("started"), replace(STOPPED, load="error"), "refuses the file"),
        (Wanted(None, True), replace(RUNNING, file="transient"), "calls its file transient"),
    ],
)
def test_what_systemd_could_not_do_is_refused(wanted: Wanted, unit: Unit, told: str) -> None:
    with pytest.raises(SynapseError, match=told):
        _service.plan(wanted, [unit])


@pytest.mark.parametrize("load", ["masked", "not-found", "error"])
def test_what_cannot_start_can_be_left_stopped(load: str) -> None:
    assert not _service.plan(Wanted("stopped", False), [Unit(NAME, load=load, file="")]).changed


def test_units_start_in_their_order_and_stop_in_the_opposite_one() -> None:
    units = [replace(RUNNING, name=name) for name in ("main", "worker1", "worker2")]
    assert _service.plan(Wanted("restarted"), units).units == ("main", "worker1", "worker2")
    assert _service.plan(Wanted("stopped"), units).units == ("worker2", "worker1", "main")
    units[1] = replace(units[1], active="failed")
    todo = _service.plan(Wanted("started"), units)
    assert (todo.units, todo.reset, todo.verb) == (("worker1",), ("worker1",), "start")


def test_what_starts_is_read_again_where_its_file_has_changed() -> None:
    stale = replace(STOPPED, stale=True)
    assert _service.plan(Wanted("started"), [stale]).reload
    assert not _service.plan(Wanted("stopped"), [replace(RUNNING, stale=True)]).reload
    assert not _service.plan(Wanted("started"), [replace(RUNNING, stale=True)]).reload


def test_a_oneshot_that_ended_well_was_started() -> None:
    assert Unit(NAME, kind="oneshot").started
    assert not Unit(NAME, kind="notify").started
    assert not Unit(NAME, kind="oneshot", active="failed").started


@pytest.mark.parametrize(
    ("journal", "told"),
    [
        ("", None),
        ("Started A.\n", None),
        # systemd 252, and 247
        (
            "Stopped A.\na.service was skipped because of an unmet condition check (ConditionPathExists=/nope).\n",
            "a.service was skipped because of an unmet condition check (ConditionPathExists=/nope).",
        ),
        (
            "a.service skipped, unmet condition check ConditionPathExists=/nope\n",
            "a.service skipped, unmet condition check ConditionPathExists=/nope.",
        ),
        ("Condition check resulted in A being skipped.\n", "Condition check resulted in A being skipped."),
        ("Condition check resulted in A being skipped.\nStarted A.\n", None),
    ],
)
def test_a_start_that_a_condition_forbids(journal: str, told: str | None) -> None:
    assert _service.skipped(journal) == told
