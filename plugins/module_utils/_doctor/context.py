# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doctor's looks share: the request, the settings, who the service runs as, and how much time is left.

A look is a function ``look(context) -> <dataclass>`` in ``<part>_look.py``. It reads and never writes, starts processes
only through ``context.run``, gives each of them a time limit of at most ``context.left()``, and raises ``SynapseError``
where nothing at all could be seen. What is only partly readable is part of what was seen.
"""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _probing
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, Runner, SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Service
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings

__all__ = ["Context"]


@dataclass
class Context:
    """One examination. ``texts`` are the configuration files as this process read them; they hold secrets.

    ``deadline`` is on the monotonic clock, in seconds.
    """

    request: Request
    run: Runner
    deadline: float
    settings: Settings | None = None
    service: Service | None = None
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def left(self, most: float = 20.0) -> float:
        """Return how many seconds a process may take, at most ``most``. At least a little, so that limits are valid."""
        return max(min(self.deadline - time.monotonic(), most), 0.1)

    @property
    def user(self) -> str | None:
        """The account that the service runs as, as far as it is known: asked for, or as the unit says."""
        if self.request.user is not None:
            return self.request.user
        return self.service.user if self.service is not None else None

    def account(self) -> Account | None:
        """Return whom Synapse's own interpreter runs as; ``None`` for this process's own identity."""
        try:
            return _probing.account_for(self.user, self.request.python)
        except SynapseError:  # a user that the host does not know; there is a rule for that
            if self.user is not None and self.user.isdecimal() and os.geteuid() == 0:
                return Account(int(self.user), int(self.user))  # a number that the host has no name for
            return _probing.account_for(None, self.request.python)

    @property
    def environment(self) -> str:
        """The folder of Synapse's environment, as it is named."""
        return os.path.dirname(os.path.dirname(os.path.abspath(self.request.python)))

    def read(self, path: str, limit: int = 1024 * 1024) -> bytes | None:
        """Return what a file holds, ``None`` where there is none. Raises ``SynapseError``."""
        return _files.read(path, limit=limit)
