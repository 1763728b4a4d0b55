# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order a fleet is upgraded, and what is said of it at the end. Runs on the controller; no I/O, no Ansible."""

from __future__ import annotations

import re
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["upgrade_lines", "upgrade_refusals"]

_SHARE = re.compile(r"^(100|[1-9][0-9]?)%$")


def upgrade_refusals(settings: Mapping[str, t.Any], hosts: Collection[str]) -> list[str]:
    """Return why an upgrade cannot be carried out in this order, in words; empty where it can.

    ``settings`` holds synapse_canary, synapse_batch and synapse_rollback; ``hosts`` are all of the inventory, because
    what is set there holds for a run that is limited to some of them, too.
    """
    refusals = []
    canary, batches = settings["synapse_canary"], settings["synapse_batch"]
    if isinstance(canary, str) and canary.isdecimal():  # as it comes from a command line
        canary = int(canary)
    if isinstance(canary, int) and not isinstance(canary, bool):
        if canary < 0:
            refusals.append(
                f"synapse_canary is {canary}: allowed is a number of hosts from 0, or a list of their names."
            )
    elif not isinstance(canary, list):
        refusals.append(f"synapse_canary is {canary!r}: allowed is a number of hosts, or a list of their names.")
    else:
        strangers = [str(name) for name in canary if name not in hosts]
        if strangers:
            refusals.append(f"synapse_canary names {', '.join(strangers)}: allowed are hosts of the inventory.")
    if not isinstance(batches, list) or not batches:
        refusals.append(f"synapse_batch is {batches!r}: allowed is a list such as [1, 25%, 100%].")
    else:
        refusals.extend(
            f"synapse_batch has {size!r}: allowed are numbers of hosts from 1, and shares from 1% to 100%."
            for size in batches
            if not (
                _SHARE.match(size)
                if isinstance(size, str)
                else isinstance(size, int) and not isinstance(size, bool) and size > 0
            )
        )
    if str(settings["synapse_rollback"]).lower() not in {"true", "false", "yes", "no"}:
        refusals.append(f"synapse_rollback is {settings['synapse_rollback']!r}: allowed are true and false.")
    return refusals


def upgrade_lines(
    facts: Mapping[str, Mapping[str, t.Any]],
    hosts: Sequence[str],
    *,
    proven: Collection[str],
    failed: Collection[str],
    away: Collection[str],
    unknown: Collection[str] = (),
    predicted: bool = False,
) -> list[str]:
    """Return one line a host: what it ran and runs now, or why not. ``facts`` are the hosts' variables."""
    lines = []
    for host in hosts:
        known = facts[host]
        if host in away:
            line = "out of reach, nothing was done"
        elif host in unknown:
            line = (
                "UNKNOWN: it went out of reach in the middle of it, and serves what was in place at that instant. The "
                "next run finishes that, or puts back what was there"
            )
        elif host in failed:
            # What a rollback said, or what failed without anything to roll back.
            told = known.get("_synapse_failure") or {}, known.get("ansible_failed_result") or {}
            reason = next((str(one["msg"]).strip() for one in told if one.get("msg")), "see above")
            line = f"FAILED: {reason}"
        elif host in proven:
            line = _outcome(known, predicted)
        else:
            line = "untouched, because a server before it was not proven"
        lines.append(f"{host}: {line}")
    return lines


def _outcome(known: Mapping[str, t.Any], predicted: bool) -> str:
    gate = known.get("_synapse_gate") or {}
    release = str((known.get("_synapse_environment") or {}).get("release", ""))
    # Where nothing served before and there was no database, nothing was upgraded.
    first = (gate.get("database") or {}).get("state") in {"missing", "empty"} and not (gate.get("current") or {}).get(
        "version"
    )
    if not gate.get("target") or first:
        begun = (known.get("_synapse_switched") or {}).get("pending")
        if begun and predicted:
            return f"{release or 'everything'} would be in place, with what changes beside it or was left open"
        done = "with what had changed beside it or was left open" if begun else "nothing to do"
        return f"{release or 'everything'} is in place, {done}" + ("" if predicted else ", proven healthy")
    before = (gate.get("current") or {}).get("version") or "an environment that says no version"
    after = gate["target"].get("version") or release
    steps = f"{before} -> {after}"
    if predicted:
        return f"would go {steps}"
    backup = (known.get("_synapse_backup") or {}).get("path")
    return f"{steps}, proven healthy" + (f"; the database as it was before: {backup}" if backup else "")
