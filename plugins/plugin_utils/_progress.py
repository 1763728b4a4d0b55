# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says on the controller's terminal that a long remote step is still running. A module cannot: it answers once."""

from __future__ import annotations

import threading
import time
import typing as t

if t.TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Heartbeat"]


class Heartbeat:
    """A context in which ``say`` is called every ``every`` seconds, after a first silence of ``after`` seconds."""

    def __init__(self, what: str, say: t.Callable[[str], None], *, after: float = 5.0, every: float = 10.0) -> None:
        self._what = what
        self._say = say
        self._after = after
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._started = 0.0

    def _beat(self) -> None:
        pause = self._after
        while not self._over.wait(pause):
            self._say(f"{self._what}: still at work after {time.monotonic() - self._started:.0f} s")
            pause = self._every

    def __enter__(self) -> Heartbeat:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
