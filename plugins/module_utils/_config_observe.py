# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks an installed Synapse what it makes of a configuration. The one place that does. Imports nothing from Ansible."""

from __future__ import annotations

import contextlib
import inspect
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _probing
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import config_check
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Account,
    Runner,
    SynapseError,
    ask_python,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Asked", "account_for", "environment_of", "observe"]

# What the runner reports for a process that could not be started.
_NOT_STARTED = 127


@dataclass(frozen=True)
class Asked:
    """What an installed Synapse is asked about.

    ``main`` and ``workers`` are configuration files; ``files`` are taken to be in place with this content, ``None`` for
    one that is not known yet; ``directories`` are taken to be in place.
    """

    main: Sequence[str]
    workers: Sequence[str] = ()
    files: Mapping[str, str | None] | None = None
    directories: Sequence[str] = ()
    secrets_allowed: bool = True

    def request(self) -> dict[str, t.Any]:
        """Return what the probe is told."""
        return {
            "main": list(self.main),
            "workers": list(self.workers),
            "files": dict(self.files or {}),
            "directories": list(self.directories),
            "secrets_allowed": self.secrets_allowed,
        }


def account_for(user: str | None, python: str) -> tuple[Account | None, str | None]:
    """Return the identity to check as, and why it is not the wanted one where it is not."""
    try:
        return _probing.account_for(user, python), None
    except SynapseError as error:
        note = f"{error.msg} The check ran as the account it had: what {user} may read was not judged."
        return _probing.account_for(None, python), note


def environment_of(python: str) -> str:
    """Return the folder of the environment that an interpreter belongs to, without any link in its name."""
    return os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(python))))


@contextlib.contextmanager
def _place(parent: str | None, folder: str | None, account: Account | None) -> Iterator[str]:
    if folder is not None:
        yield folder
        return
    with _probing.scratch(parent, account) as scratch:
        yield scratch


def observe(
    run: Runner,
    python: str,
    asked: Asked,
    *,
    account: Account | None,
    timeout: float,
    user: str | None = None,
    parent: str | None = None,
    folder: str | None = None,
) -> dict[str, t.Any]:
    """Ask the Synapse behind ``python``; raises ``SynapseError`` where it cannot be asked.

    It works in ``folder``, or in one that is made below ``parent`` and taken away again. ``user`` is what ``account``
    was called.
    """
    source = inspect.getsource(config_check)
    try:
        with _place(parent, folder, account) as place:
            answer = ask_python(run, python, source, asked.request(), cwd=place, account=account, timeout=timeout)
    except SynapseError as error:
        if error.details.get("rc") != _NOT_STARTED:
            raise
        who = "this account" if account is None else user or f"the user with the number {account.uid}"
        raise SynapseError(
            f"{who} cannot start {python}: {error.details['stderr'].strip()}. Let every account read and enter the "
            "environment and the interpreter behind it (umask 022 while they are installed)."
        ) from None
    if "broken" in answer:
        raise SynapseError(
            f"The Synapse behind {python} cannot judge a configuration: {answer['broken']}. "
            "Repair the environment with the module synapse_venv."
        )
    return answer
