# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a host's systemd units serve a homeserver's configuration already. Changes nothing. No Ansible.

A server whose unit gets another name would be started twice: the old unit keeps the ports, the database and the pid
file, and the new one fails, or is proven well by what the old one answers.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner

__all__ = ["PLACES", "Serving", "files_of", "observe", "refusal", "serves"]

# Where units are, the first that has a name counts (systemd.unit(5)).
PLACES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_LARGEST = 256 * 1024  # bytes
_RUNNING = ("active", "activating", "deactivating", "reloading", "refreshing", "maintenance")


@dataclass(frozen=True)
class Serving:
    """A unit that serves a configuration: its name, its file, and whether it runs or is started with the host."""

    name: str
    file: str
    running: bool
    enabled: bool


def serves(text: str, config: str) -> bool:
    """Return whether a unit's text starts the main process of Synapse with the configuration file ``config``.

    Workers name the main configuration too; what they start is ``synapse.app.generic_worker`` or the like.
    """
    for line in re.sub(r"\\\n", " ", text).splitlines():
        key, _equals, command = line.strip().partition("=")
        if key.strip() != "ExecStart":
            continue
        words = {word.rstrip("/") for word in re.split(r"[\s='\"]+", command)}
        main = "synapse.app.homeserver" in words or any(word.endswith("/synapse_homeserver") for word in words)
        if main and not words.isdisjoint({config, os.path.dirname(config)}):
            return True
    return False


def files_of(places: t.Sequence[str]) -> dict[str, str]:
    """Return the file of each unit by its name."""
    found: dict[str, str] = {}
    for place in places:
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        for name in names:
            if name.endswith(".service"):
                found.setdefault(name, os.path.join(place, name))
    return found


def observe(run: Runner, config: str, own: str | None, places: t.Sequence[str] = PLACES) -> list[Serving]:
    """Return the units other than ``own`` that serve ``config`` and run or are started with the host."""
    files = files_of(places)
    mine = os.path.realpath(files[own]) if own in files else None
    found = []
    for name, file in sorted(files.items()):
        # A unit may have further names, which are links to it.
        if name == own or os.path.realpath(file) == mine or "@." in name:
            continue
        try:
            text = (_files.read(file, limit=_LARGEST) or b"").decode("utf-8", "replace")
        except SynapseError:  # no regular file, as that of a masked unit is none
            continue
        if serves(text, config):
            found.append(_state(run, name, file))
    return [unit for unit in found if unit.running or unit.enabled]


def _state(run: Runner, name: str, file: str) -> Serving:
    result = run(["systemctl", "show", "--property", "ActiveState,UnitFileState", "--", name], timeout=15.0)
    said = dict(line.partition("=")[::2] for line in result.stdout.splitlines())
    enabled = said.get("UnitFileState", "").startswith("enabled")
    return Serving(name, file, said.get("ActiveState") in _RUNNING, enabled)


def refusal(unit: Serving, config: str, own: str | None) -> str:
    """Return the sentence that says why this unit stands in the way of ``own``, and how to get on."""
    state = "runs" if unit.running else "is started with the host"
    asked = "Synapse's own daemon is asked for" if own is None else f"{own} is asked for"
    keep = "" if own is None else f"Set synapse_service_name: {unit.name[: -len('.service')]} to keep it, or "
    file = f", then remove {unit.file}" if unit.file.startswith("/etc/") else ""
    then = f"{keep}give it up: systemctl disable --now {unit.name}{file}; then run again"
    return (
        f"{unit.name} ({unit.file}) {state} and serves {config}, and {asked} beside it, which would serve the same "
        f"data twice. {then[0].upper()}{then[1:]}."
    )
