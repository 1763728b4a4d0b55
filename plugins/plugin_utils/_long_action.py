# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action behind modules that may take a while: it runs the module of its name and says that it is alive."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._progress import Heartbeat

__all__ = ["LongAction"]

display = Display()


class LongAction(ActionBase):
    """Runs the module that the task names, and says every ten seconds that it is still at work."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def module_arguments(self) -> dict[str, t.Any]:
        """Return what the module is told: what the task says, unless an action knows more."""
        return dict(self._task.args)

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module and return its result."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "host")
        with Heartbeat(f"[{host}] {self._task.get_name()}", display.display):
            result.update(
                self._execute_module(
                    module_args=self.module_arguments(), task_vars=task_vars, wrap_async=self._task.async_val
                )
            )
        return result
