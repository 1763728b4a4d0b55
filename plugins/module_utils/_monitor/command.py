# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of the monitor: examine, remember, tell. Started by a timer on the host; needs no Ansible.

The settings are a JSON file: ``request`` (what the doctor is asked), ``state`` (a folder of its own), ``metrics`` (a
file or null), ``hook`` (a program with its arguments, or an empty list) and ``hook_timeout`` in seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.command import ask, request_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor.changes import Change, compare, lines
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor.metrics import exposition
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Runner,
    SynapseError,
    process_runner,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["main", "run_once"]

_LARGEST = 16 * 1024 * 1024  # bytes of a record


def read_record(path: str) -> dict[str, t.Any] | None:
    """Return what the run before has written, ``None`` where it cannot be used."""
    try:
        data = _files.read(path, limit=_LARGEST)
        record = json.loads(data) if data is not None else None
    except (SynapseError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("report"), dict):
        return None
    return record if isinstance(record.get("changed"), (int, float)) else None


def run_hook(
    run: Runner, hook: Sequence[str], timeout: float, change: Change, record: Mapping[str, t.Any]
) -> str | None:
    """Run the operator's program; return why it failed, ``None`` where it did not.

    It gets the record as JSON on standard input, and in its environment ``SYNAPSE_STATE`` (``healthy`` or
    ``unhealthy``), ``SYNAPSE_SERVER_NAME`` and ``SYNAPSE_SUMMARY``.
    """
    report = record["report"]
    environment = {
        "SYNAPSE_STATE": "healthy" if change.healthy else "unhealthy",
        "SYNAPSE_SERVER_NAME": str(report["server_name"] or ""),
        "SYNAPSE_SUMMARY": str(report["summary"]).replace("\0", ""),
    }
    done = run(list(hook), stdin=json.dumps(record), env=environment, timeout=timeout)
    if done.rc == 0:
        return None
    words = " ".join(f"{done.stderr} {done.stdout}".split())[-300:]
    return f"The hook {hook[0]} failed (rc={done.rc}): {words}".rstrip(": ")


def _write_metrics(settings: Mapping[str, t.Any], record: Mapping[str, t.Any]) -> None:
    if settings.get("metrics"):
        _files.write(settings["metrics"], exposition(record).encode(), mode=0o644)


def run_once(run: Runner, settings: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Examine the server, write down what was found, tell what is new; return the record. Raises ``SynapseError``."""
    state = settings["state"]
    path = os.path.join(state, "last.json")
    before = read_record(path)
    begin = time.monotonic()
    report = ask(run, request_of(settings["request"]))
    now = time.time()
    change = compare(before["report"] if before is not None else None, report)
    record: dict[str, t.Any] = {
        "format": 1,
        "ended": round(now, 3),
        "changed": round(now, 3) if change or before is None else before["changed"],
        "seconds": round(time.monotonic() - begin, 3),
        "hook_failed": bool(before is not None and before.get("hook_failed")),
        "report": report,
    }
    _write_metrics(settings, record)
    # The record comes last: a run that is cut off before it is told again by the next one, rather than never.
    told = lines(change, report)
    if change and settings.get("hook"):
        problem = run_hook(run, settings["hook"], float(settings.get("hook_timeout") or 60), change, record)
        told += [f"<3>{problem}"] if problem is not None else []
        if record["hook_failed"] != (problem is not None):
            record["hook_failed"] = problem is not None
            _write_metrics(settings, record)
    for line in told:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    _files.write(path, json.dumps(record, indent=1).encode(), mode=0o640)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once with the settings in the named file. The exit status is 0 however the server is, 2 where this failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        sys.stderr.write("<3>Name the file with the monitor's settings, and nothing else.\n")
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as stream:
            settings = json.load(stream)
        run_once(process_runner(), settings)
    except SynapseError as error:
        sys.stderr.write(f"<3>The homeserver could not be examined: {error.msg}\n")
        return 2
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{type(error).__name__}: {error}"
        sys.stderr.write(f"<3>The homeserver could not be examined with the settings in {arguments[0]}: {words}\n")
        return 2
    return 0
