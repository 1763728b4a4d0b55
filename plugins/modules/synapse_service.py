#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_service
short_description: Start, stop and enable systemd units
version_added: 0.1.0
description:
  - Starts, stops, restarts, enables and disables units of systemd, several in a given order.
  - Where there is nothing to do, systemd is asked once.
  - A unit that failed too often is started all the same. What is started is started as its file says now.
author:
  - Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  idempotent:
    support: partial
    details:
      - O(state=restarted) always restarts.
  platform:
    platforms: linux
options:
  name:
    description: The unit. A name without a kind is that of a service. Either this or O(units) is required.
    type: str
  units:
    description:
      - Several units, in the order in which they are started. They are stopped in the opposite order.
    type: list
    elements: str
  state:
    description:
      - V(started) starts what does not run, and is not on its way up.
      - V(stopped) stops what runs, or is about to.
      - V(restarted) restarts what runs, and starts what does not.
      - Without it only O(enabled) and O(daemon_reload) count.
    type: str
    choices: [started, stopped, restarted]
  enabled:
    description: Whether the units start with the host. Without it that is left as it is.
    type: bool
  daemon_reload:
    description:
      - Whether systemd reads all unit files again first.
      - Where systemd itself says that the file of a unit has changed, it does so before it starts it in any case.
    type: bool
    default: false
  no_block:
    description:
      - Whether to leave after systemd has accepted the order, without waiting for the units.
      - The order among O(units) is then that of their own dependencies.
    type: bool
    default: false
  timeout:
    description: How long a unit may take to start or stop, in seconds. V(0) waits as long as systemd does.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Run Synapse, now and after each boot
  matrix_fleet.synapse.synapse_service:
    name: matrix-synapse.service
    state: started
    enabled: true

- name: Restart the main process and its workers, in this order
  matrix_fleet.synapse.synapse_service:
    units:
      - matrix-synapse.service
      - matrix-synapse-worker@federation_sender1.service
    state: restarted
    daemon_reload: true
"""

RETURN = r"""
units:
  description: The units as systemd knew them at the end; in check mode, as they are.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "matrix-synapse.service", "active": "active", "sub": "running", "file": "enabled"}]
  contains:
    name:
      description: Its name.
      type: str
      sample: matrix-synapse.service
    active:
      description: C(ActiveState), such as V(active), V(activating), V(failed).
      type: str
      sample: active
    sub:
      description: C(SubState), such as V(running), V(auto-restart).
      type: str
      sample: running
    file:
      description: C(UnitFileState), such as V(enabled), V(disabled), V(static).
      type: str
      sample: enabled
unit:
  description: The unit that could not be brought into its state.
  returned: when one could not
  type: str
  sample: matrix-synapse.service
reason:
  description: Why, in the words of the unit's own log, without values that look like secrets.
  returned: when a unit did not start, and its log says why
  type: str
  sample: "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8008: Address already in use."
"""

import time
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _logs, _service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    TIMED_OUT,
    CommandResult,
    Runner,
    SynapseError,
    module_runner,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._service import Plan, Unit, Wanted

_ENVIRONMENT = {"LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", "SYSTEMD_LOG_LEVEL": "err"}


class Systemd:
    """systemd, by its command."""

    def __init__(self, run: Runner, systemctl: str, journalctl: str | None) -> None:
        self._run, self._systemctl, self._journalctl = run, systemctl, journalctl
        self._begun = int(time.time())

    def __call__(self, *words: str, timeout: float | None = None) -> CommandResult:
        """Run ``systemctl`` with these words."""
        argv = [self._systemctl, "--no-pager", "--no-ask-password", *words]
        return self._run(argv, env=_ENVIRONMENT, timeout=timeout)

    def must(self, *words: str) -> str:
        """Return what ``systemctl`` prints. Raises ``SynapseError`` with what it says where it fails."""
        result = self(*words)
        if result.rc != 0:
            raise SynapseError(f"'systemctl {' '.join(words)}' failed: {advised(result)}", rc=result.rc)
        return result.stdout

    def observe(self, names: t.Sequence[str]) -> list[Unit]:
        """Return what systemd knows of units. Raises ``SynapseError``."""
        units = _service.parse_show(self.must("show", f"--property={','.join(_service.PROPERTIES)}", *names), names)
        if _service.needs_jobs(units):
            jobs = _service.parse_jobs(self.must("list-jobs", "--no-legend", "--full"))
            units = [replace(unit, job=jobs.get(unit.id, "")) for unit in units]
        return units

    def journal(self, name: str) -> str:
        """Return the end of what a unit's log got since this task began; nothing where there is none to read."""
        if self._journalctl is None:
            return ""
        # The journal is behind by a moment: what was said just now has to be in it.
        self._run([self._journalctl, "--sync"], env=_ENVIRONMENT, timeout=20)
        argv = [self._journalctl, "--no-pager", "--quiet", "--boot", "--lines=100", "--output=cat"]
        since = f"--since=@{self._begun}"
        result = self._run([*argv, since, *_logs.of_unit(name)], env=_ENVIRONMENT, timeout=20)
        return result.stdout if result.rc == 0 else ""


def advised(result: CommandResult) -> str:
    """Return what ``systemctl`` complains of on one line, with what to do about what it often complains of."""
    told = _logs.redact(" ".join((result.stderr or result.stdout).split())) or f"it ended with {result.rc}"
    told = told.rstrip(".")
    if "not been booted with systemd" in told or "Failed to connect to bus" in told or "Host is down" in told:
        return f"{told}. systemd does not run on this host, or cannot be reached from here: run Synapse as a daemon."
    if "authentication required" in told or "Access denied" in told or "Permission denied" in told:
        return f"{told}. Only root may do that: run the task with 'become: true'."
    return f"{told}."


def failure(systemd: Systemd, verb: str, name: str, result: CommandResult | None, timeout: float) -> SynapseError:
    """Return the error for a unit that could not be started or stopped, with the reason that decides."""
    unit = systemd.observe([name])[0]
    if result is not None and result.rc == TIMED_OUT:
        past = "stopped" if verb == "stop" else f"{verb}ed"
        return SynapseError(
            f"Unit {name} had not {past} after {timeout:g} s: it is {unit.active} ({unit.sub}), and systemd goes on "
            f"with it. Look at 'systemctl status {name}', or give it a longer 'timeout'.",
            unit=name,
        )
    told = "" if result is None or result.rc == 0 else f" {advised(result)}"
    if "Assertion failed" in told:
        return SynapseError(
            f"Unit {name} was not started: something that its file asserts does not hold, such as a file that has to "
            f"be there. 'systemctl status {name}' names it.",
            unit=name,
        )
    journal = "" if verb == "stop" else systemd.journal(name)
    skipped = None if told else _service.skipped(journal)
    if skipped is not None:
        return SynapseError(f"Unit {name} was not started. {skipped} Put that right, or correct its file.", unit=name)
    reason = _logs.latest_words(journal)
    state = f"it is {unit.active} ({unit.sub}, {unit.result or 'no result'}, status {unit.status})"
    words = f"Its own reason: {reason}" if reason else f"'journalctl --unit={name}' may tell why.{told}"
    return SynapseError(f"Unit {name} did not {verb}: {state}. {words}", unit=name, reason=reason)


def act(systemd: Systemd, todo: Plan, *, no_block: bool, timeout: float) -> None:
    """Start, restart or stop one unit after the other. Raises ``SynapseError`` at the first that cannot be."""
    for name in todo.units:
        words = [todo.verb, *(["--no-block"] if no_block else []), name]
        result = systemd(*words, timeout=timeout or None)
        if result.rc != 0:
            raise failure(systemd, todo.verb, name, result, timeout)
        if todo.verb == "stop" or no_block:
            continue
        unit = systemd.observe([name])[0]
        if not unit.started:
            raise failure(systemd, todo.verb, name, None, timeout)


def apply(systemd: Systemd, todo: Plan, *, no_block: bool, timeout: float) -> None:
    """Do what was planned. Raises ``SynapseError``."""
    if todo.reload:
        systemd.must("daemon-reload")
    if todo.enable:
        systemd.must("enable", "--quiet", *todo.enable)
    if todo.disable:
        systemd.must("disable", "--quiet", *todo.disable)
    if todo.reset:
        # Nothing depends on it: a unit that still may not be started says so itself.
        systemd("reset-failed", *todo.reset)
    act(systemd, todo, no_block=no_block, timeout=timeout)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what is asked for."""
    params = module.params
    names = [_service.full_name(name) for name in ([params["name"]] if params["units"] is None else params["units"])]
    if not names:
        return {"changed": False, "diff": {"before": {}, "after": {}}, "units": []}
    systemctl = module.get_bin_path("systemctl")
    if systemctl is None:
        raise SynapseError("The host has no systemctl: run Synapse as a daemon where there is no systemd.")
    systemd = Systemd(module_runner(module), systemctl, module.get_bin_path("journalctl"))
    if params["daemon_reload"] and not module.check_mode:
        systemd.must("daemon-reload")
    units = systemd.observe(names)
    todo = _service.plan(Wanted(params["state"], params["enabled"]), units)
    if todo.changed and not module.check_mode:
        apply(systemd, todo, no_block=params["no_block"], timeout=float(params["timeout"]))
        units = systemd.observe(names)
    told = [{"name": unit.name, "active": unit.active, "sub": unit.sub, "file": unit.file} for unit in units]
    return {"changed": todo.changed, "diff": todo.diff, "units": told}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "units": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["started", "stopped", "restarted"]},
            "enabled": {"type": "bool"},
            "daemon_reload": {"type": "bool", "default": False},
            "no_block": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 0},
        },
        mutually_exclusive=[("name", "units")],
        required_one_of=[("name", "units")],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
