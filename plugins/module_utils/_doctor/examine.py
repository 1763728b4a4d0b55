# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at everything at once, within one time limit, and returns what was seen. Reads only. No Ansible."""

from __future__ import annotations

import threading
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import (
    access_look,
    answers_look,
    configuration_look,
    database_look,
    environment_look,
    folklore_look,
    host_look,
    identity_look,
    neighbours_look,
    public_look,
    service_look,
    settings_look,
    words_look,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner

    Look = Callable[[Context], t.Any]

__all__ = ["examine"]

# What the others stand on.
_FIRST: Mapping[str, Look] = {"service": service_look.look}
_SECOND: Mapping[str, Look] = {"settings": settings_look.look}
_THIRD: Mapping[str, Look] = {
    "configuration": configuration_look.look,
    "environment": environment_look.look,
    "identity": identity_look.look,
    "database": database_look.look,
    "access": access_look.look,
    "words": words_look.look,
    "answers": answers_look.look,
    "public": public_look.look,
    "neighbours": neighbours_look.look,
    "host": host_look.look,
    "folklore": folklore_look.look,
}
# Past the deadline, what is under way gets this long to end by its own limits.
_GRACE = 1.0


def _together(context: Context, looks: Mapping[str, Look]) -> tuple[dict[str, t.Any], dict[str, str]]:
    """Look at several parts at once; return what was seen, and why of the rest nothing was."""
    seen: dict[str, t.Any] = {}
    unseen: dict[str, str] = {}

    def work(part: str, look: Look) -> None:
        try:
            seen[part] = look(context)
        except SynapseError as error:
            detail = " ".join(str(error.details.get("stderr", "")).split())[-300:]
            unseen[part] = f"{error.msg} {detail}".strip()
        except Exception as error:  # what a damaged host has in store; the other parts are looked at all the same
            unseen[part] = f"{type(error).__name__} while it was looked at"

    threads = {part: threading.Thread(target=work, args=(part, look), daemon=True) for part, look in looks.items()}
    for thread in threads.values():
        thread.start()
    # One time for all of them: many that hang together take no longer than one.
    end = context.deadline + _GRACE
    for part, thread in threads.items():
        thread.join(max(end - time.monotonic(), 0.0))
        if thread.is_alive() and part not in seen:
            unseen.setdefault(part, "it did not answer in time")
    # A thread that is still at work must not change what is judged.
    return dict(seen), dict(unseen)


def examine(run: Runner, request: Request) -> Seen:
    """Return what can be seen of an installation within ``request.timeout`` seconds."""
    context = Context(request, run, time.monotonic() + request.timeout)
    found, unseen = _together(context, _FIRST)
    context.service = found.get("service")
    for looks in (_SECOND, _THIRD):
        more, missing = _together(context, looks)
        found.update(more)
        unseen.update(missing)
        context.settings = found.get("settings")
    return Seen(request=request, unseen=unseen, now=time.time(), **found)
