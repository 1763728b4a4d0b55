#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_daemon
short_description: Start and stop Synapse where there is no systemd
version_added: 0.1.0
description:
  - Runs a Synapse process as a daemon by Synapse's own daemon mode, in containers and on hosts without systemd.
  - Knows its process by the pid file and by the process's own command line, so that a number that another process has
    by now is never taken for the daemon, and never signalled.
  - A process with this configuration that was not started as a daemon, by systemd for example, is refused, not touched.
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
  state:
    description:
      - V(started) starts the daemon where it does not run.
      - V(stopped) stops it with C(SIGTERM), and removes a pid file that speaks of no such process.
      - V(restarted) stops it where it runs, and starts it.
    type: str
    choices: [started, stopped, restarted]
    default: started
  python:
    description: Interpreter of the environment that Synapse is installed in. Required where it has to be started.
    type: path
  app:
    description: What to run. V(synapse.app.generic_worker) for workers.
    type: str
    default: synapse.app.homeserver
  config_paths:
    description: The configuration files, in the order in which Synapse merges them. They must name O(pid_file).
    type: list
    elements: path
    required: true
  pid_file:
    description: The pid file, as the configuration names it (C(pid_file), or C(worker_pid_file) of a worker).
    type: path
    required: true
  user:
    description:
      - User that Synapse runs as. Only root can start it as another user.
      - The default is the user that runs the task.
    type: str
  working_directory:
    description: Folder against which relative paths in the configuration are taken.
    type: path
    default: /
  args:
    description: More arguments, such as V(--no-secrets-in-config).
    type: list
    elements: str
    default: []
  environment:
    description: More environment variables. Not for secrets, which any process of that user could read there.
    type: dict
    default: {}
  requires:
    description:
      - Files that must be there before Synapse is started.
      - The signing key belongs here. Without it Synapse mints another identity when it starts.
    type: list
    elements: path
    default: []
  log_file:
    description: Synapse's log, where the reason is looked for when it ends right after its start.
    type: path
  timeout:
    description:
      - How long starting, and how long stopping may take, in seconds.
      - Synapse upgrades its database before it becomes a daemon; give that the time that it needs.
    type: int
    default: 300
  force:
    description: Whether to kill a process that does not stop in time. Without it the task fails.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run Synapse without systemd
  matrix_fleet.synapse.synapse_daemon:
    python: /var/lib/synapse/venv/bin/python
    config_paths: [/etc/synapse/homeserver.yaml]
    pid_file: /var/lib/synapse/homeserver.pid
    user: synapse
    working_directory: /var/lib/synapse
    args: [--no-secrets-in-config]
    requires: [/etc/synapse/homeserver.signing.key]
    log_file: /var/log/synapse/homeserver.log

- name: Stop it
  matrix_fleet.synapse.synapse_daemon:
    config_paths: [/etc/synapse/homeserver.yaml]
    pid_file: /var/lib/synapse/homeserver.pid
    state: stopped
"""

RETURN = r"""
pid:
  description: Id of the running process; none where it is stopped, or would have been started.
  returned: success
  type: int
  sample: 4711
state:
  description: Whether it runs now, V(started) or V(stopped); in check mode, whether it would.
  returned: success
  type: str
  sample: started
listening:
  description: Whether the process accepts connections already. A worker without listeners never does.
  returned: success
  type: bool
  sample: true
reason:
  description: Why Synapse did not start, in its own words.
  returned: when it did not start
  type: str
  sample: "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8008: Address already in use."
stderr:
  description: The end of what Synapse wrote when it was started, without values that look like secrets.
  returned: when it did not start
  type: str
  sample: "Error in configuration at 'listeners': ..."
"""

import os
import signal
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _daemon, _files, _logs
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._daemon import Process, Verdict
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._processes import listens, process, processes
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    TIMED_OUT,
    Runner,
    SynapseError,
    module_runner,
)

_STEP = 0.05  # seconds between two looks
_SETTLE = 10.0  # seconds in which a daemon that has listeners begins to listen
_TAIL = 256 * 1024  # bytes of a log that are searched


def observe(params: dict[str, t.Any]) -> Verdict:
    """Say whether the daemon runs. Raises ``SynapseError``."""
    if not os.path.exists("/proc/self/stat"):
        raise SynapseError("There is no /proc on this host, so that no process can be told from another: mount it.")
    data = _files.read(params["pid_file"])
    pid = _daemon.parse_pid(data)
    named = None if pid is None else process(pid)
    facts = {"app": params["app"], "config_paths": params["config_paths"]}
    if named is not None and _daemon.is_ours(named.argv, **facts, named=True):
        return Verdict(named, stale=False)
    return _daemon.judge(pid_file=data, named=named, others=tuple(processes()), **facts)


def lives(known: Process) -> bool:
    """Whether this very process still lives; another one with its number is not it."""
    now = process(known.pid)
    return now is not None and now.started == known.started


def _until(seconds: float, reached: t.Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(_STEP)
    return True


def stop(known: Process, *, timeout: float, force: bool) -> None:
    """End the process. Raises ``SynapseError`` where it does not end in time, or may not be ended."""
    try:
        for number, limit in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
            if not lives(known):
                return
            os.kill(known.pid, number)
            if _until(limit, lambda: not lives(known)):
                return
            if not force:
                break
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise SynapseError(
            f"Synapse runs as process {known.pid} of another user, and may not be stopped by this one: run the task "
            "with 'become: true'."
        ) from error
    raise SynapseError(
        f"Synapse, process {known.pid}, did not stop within {timeout:g} s of SIGTERM. It may be writing still: look at "
        "its log, give it a longer 'timeout', or end it with 'force: true'."
    )


def _log_since(path: str | None, began: float) -> str:
    """Return the end of Synapse's log, if anything was written to it since ``began`` (seconds since the epoch)."""
    if path is None:
        return ""
    try:
        if os.stat(path).st_mtime < began - 1:
            return ""
    except OSError:
        return ""
    return _logs.latest_start(_files.tail(path, _TAIL).decode("utf-8", "replace"))


def _failure(summary: str, output: str, log_file: str | None, began: float) -> SynapseError:
    log = _log_since(log_file, began)
    last = [line.strip() for line in output.splitlines() if line.strip()][-1:]
    reason = _logs.decisive_line(output) or _logs.decisive_line(log) or _logs.redact("".join(last))
    where = f"Its log {log_file} may tell more." if log_file else "Look into its log, or name it as 'log_file'."
    message = f"{summary} Its own reason: {reason}" if reason else f"{summary} It gave no reason. {where}"
    return SynapseError(message, reason=reason, stderr=_logs.redact(output[-4000:]))


def check_start(params: dict[str, t.Any]) -> None:
    """Raise ``SynapseError`` where something is missing without which Synapse must not be started."""
    if params["python"] is None:
        raise SynapseError("python is not given: name the interpreter of Synapse's environment.")
    for path in params["requires"]:
        if not os.path.exists(path):
            raise SynapseError(f"{path} is missing: Synapse was not started. Put the file there, then run again.")
    for path in params["config_paths"]:
        if not os.path.exists(path):
            raise SynapseError(
                f"The configuration {path} is missing: Synapse was not started. Write it, then run again."
            )


def start(run: Runner, params: dict[str, t.Any]) -> Process:
    """Start the daemon and return its process. Raises ``SynapseError`` with Synapse's own reason."""
    account = None if params["user"] is None else _files.account_of(params["user"])
    began, timeout = time.time(), float(params["timeout"])
    argv = _daemon.command(params["python"], params["app"], params["config_paths"], params["args"])
    # What Synapse makes before it is a daemon, the SQLite database above all, is nobody else's business.
    os.umask(0o027)
    environment = {name: str(value) for name, value in params["environment"].items()}
    result = run(argv, env=environment, cwd=params["working_directory"], account=account, timeout=timeout)
    output = result.stdout + "\n" + result.stderr
    if result.rc == TIMED_OUT:
        raise _failure(f"Synapse had not become a daemon after {timeout:g} s.", output, params["log_file"], began)
    if result.rc != 0:
        raise _failure(f"Synapse did not start (rc={result.rc}).", output, params["log_file"], began)
    found: list[Process] = []

    def named() -> bool:
        pid = _daemon.parse_pid(_files.read(params["pid_file"]))
        known = None if pid is None else process(pid)
        if known is not None:
            found.append(known)
        return bool(found) or (pid is not None and known is None)

    _until(min(timeout, _SETTLE), named)
    if not found:
        raise _unnamed(params, output, began)
    if not _until(min(timeout, _SETTLE), lambda: not lives(found[0]) or listens(found[0])) and lives(found[0]):
        return found[0]
    if not lives(found[0]):
        raise _failure("Synapse ended right after its start.", output, params["log_file"], began)
    return found[0]


def _unnamed(params: dict[str, t.Any], output: str, began: float) -> SynapseError:
    """The error where the pid file does not name a living process after the start."""
    facts = {"app": params["app"], "config_paths": params["config_paths"]}
    for other in processes():
        if _daemon.is_ours(other.argv, **facts, named=False):
            stop(other, timeout=float(params["timeout"]), force=False)
            return SynapseError(
                f"Synapse started, but did not write its id into {params['pid_file']}; it was stopped again. The "
                "configuration must name that file as its 'pid_file' ('worker_pid_file' of a worker)."
            )
    return _failure("Synapse ended right after its start.", output, params["log_file"], began)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what is asked for."""
    params = module.params
    verdict = observe(params)
    todo = _daemon.plan(params["state"], verdict)
    current = verdict.process
    if not module.check_mode:
        if todo.start:
            check_start(params)
        if todo.stop and current is not None:
            stop(current, timeout=float(params["timeout"]), force=params["force"])
        if todo.remove or (todo.stop and current is not None and _left_by(current, params["pid_file"])):
            _files.remove(params["pid_file"])
        if todo.stop or todo.start:
            current = start(module_runner(module), params) if todo.start else None
    elif todo.changed:
        current = None
    return {
        "changed": todo.changed,
        "diff": todo.diff,
        "pid": None if current is None else current.pid,
        "state": "stopped" if todo.after == "stopped" else "started",
        "listening": current is not None and listens(current),
    }


def _left_by(known: Process, pid_file: str) -> bool:
    """Whether a process that has ended left its pid file behind, as a killed one does."""
    return _daemon.parse_pid(_files.read(pid_file)) == known.pid


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "stopped", "restarted"], "default": "started"},
            "python": {"type": "path"},
            "app": {"type": "str", "default": "synapse.app.homeserver"},
            "config_paths": {"type": "list", "elements": "path", "required": True},
            "pid_file": {"type": "path", "required": True},
            "user": {"type": "str"},
            "working_directory": {"type": "path", "default": "/"},
            "args": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "dict", "default": {}},
            "requires": {"type": "list", "elements": "path", "default": []},
            "log_file": {"type": "path"},
            "timeout": {"type": "int", "default": 300},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
