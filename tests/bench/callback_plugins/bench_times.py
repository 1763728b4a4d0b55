# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes how long each task took, as a JSON list of [task, seconds], into the file that BENCH_TIMES names."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: bench_times
type: aggregate
short_description: Time each task for the benchmark
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
description:
  - Writes how long each task took into the file that the environment variable E(BENCH_TIMES) names.
"""


class CallbackModule(CallbackBase):
    """A task lasts from its start to the start of the next one."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[tuple[str, float]] = []

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        """Remember when the task began."""
        self._starts.append((f"{task.get_name()} [{task.action.rpartition('.')[2]}]", time.monotonic()))

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Write what was seen."""
        ends = [begin for _name, begin in self._starts[1:]] + [time.monotonic()]
        spans = [(name, end - begin) for (name, begin), end in zip(self._starts, ends, strict=True)]
        Path(os.environ["BENCH_TIMES"]).write_text(json.dumps(spans), encoding="utf-8")
