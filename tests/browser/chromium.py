# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium that is spoken to over a pipe, in its DevTools protocol. Standard library alone.

With ``--remote-debugging-pipe`` Chromium reads commands from descriptor 3 and writes answers and events to
descriptor 4, each one JSON document that ends with a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
import typing as t
from pathlib import Path

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Chromium", "Tab", "program"]

TIMEOUT = 60.0


def program() -> str | None:
    """Return the browser's program, ``None`` where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One browser with a profile of its own that is gone afterwards. It has no way to any network."""

    def __init__(self, binary: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        options = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._folder.name}/profile",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            # Whatever a page asked for would be refused at once, and be seen.
            "--proxy-server=127.0.0.1:9",
            *(["--no-sandbox"] if os.getuid() == 0 else []),
        ]
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as log:
            # bash alone can give descriptors the numbers that are wanted without code between fork and exec.
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", binary, *options, "about:blank"],
                pass_fds=(commands, answers),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": self._folder.name, "TZ": "UTC"},
            )
        os.close(commands)
        os.close(answers)
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, t.Any]] = []

    def _read(self, until: float) -> dict[str, t.Any]:
        """Return the next message."""
        while b"\0" not in self._rest:
            ready, _writable, _broken = select.select([self._answers], [], [], max(until - time.monotonic(), 0))
            more = os.read(self._answers, 1 << 16) if ready else b""
            if not more:
                said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise TimeoutError(f"Chromium {'ended' if ready else 'said nothing in time'}: {said}")
            self._rest += more
        one, _zero, self._rest = self._rest.partition(b"\0")
        message: dict[str, t.Any] = json.loads(one)
        return message

    def call(self, method: str, session: str | None = None, **params: t.Any) -> dict[str, t.Any]:
        """Run one command of the protocol, and return its result. Events that come meanwhile are kept."""
        self._number += 1
        message: dict[str, t.Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT
        while True:
            answer = self._read(until)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, t.Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)

    def wait_for(self, method: str, session: str, after: int) -> None:
        """Wait until an event has come, after so many others."""
        until = time.monotonic() + TIMEOUT
        while not any(one["method"] == method and one.get("sessionId") == session for one in self.events[after:]):
            answer = self._read(until)
            if "method" in answer:
                self.events.append(answer)

    def close(self) -> None:
        """End it."""
        try:
            self.call("Browser.close")
        except (OSError, RuntimeError, TimeoutError):
            self._process.kill()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._folder.cleanup()


class Tab:
    """One page in a browsing context of its own, of a width as a phone or a screen has it."""

    def __init__(self, browser: Chromium, url: str, *, width: int, dark: bool = False, scripts: bool = True) -> None:
        self._browser = browser
        self.width = width
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._first = len(browser.events)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.colours(dark)
        self.resize(width)
        self._load("Page.navigate", url=url)

    def _load(self, method: str, **params: t.Any) -> None:
        before = len(self._browser.events)
        self.call(method, **params)
        self._browser.wait_for("Page.loadEventFired", self._session, before)

    def reload(self) -> None:
        """Load the page again."""
        self._load("Page.reload")

    def wait_until(self, expression: str) -> None:
        """Wait until an expression holds."""
        until = time.monotonic() + TIMEOUT
        while not self.ask(expression):
            if time.monotonic() > until:
                raise TimeoutError(f"never came true: {expression}")
            time.sleep(0.05)

    def call(self, method: str, **params: t.Any) -> dict[str, t.Any]:
        """Run a command on this page."""
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int = 844) -> None:
        """Give the page another width, a narrow one as on a phone."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def colours(self, dark: bool) -> None:
        """Let the system prefer light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def ask(self, expression: str) -> t.Any:
        """Return what an expression of JavaScript gives, as if somebody had touched the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click into the middle of an element with the mouse."""
        self.ask(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box: Mapping[str, float] = self.ask(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str, text: str = "") -> None:
        """Press a key."""
        code = {"Enter": 13, "Tab": 9, " ": 32, "Backspace": 8}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def events(self, method: str) -> list[dict[str, t.Any]]:
        """Return the events of a kind that came from this page."""
        return [
            one["params"]
            for one in self._browser.events[self._first :]
            if one["method"] == method and one.get("sessionId") == self._session
        ]

    def complaints(self) -> list[str]:
        """Return whatever the browser's console was told."""
        self.ask("0")  # what was on its way has come before this answer
        return [
            *(str(one["exceptionDetails"]) for one in self.events("Runtime.exceptionThrown")),
            *(str(one["args"]) for one in self.events("Runtime.consoleAPICalled")),
            *(f"{one['entry']['level']}: {one['entry']['text']}" for one in self.events("Log.entryAdded")),
        ]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for."""
        return [one["request"]["url"] for one in self.events("Network.requestWillBeSent")]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Keep a picture of the page, or of what of it is in sight."""
        if whole:
            self.resize(self.width, min(max(int(self.ask("document.documentElement.scrollHeight")), 400), 16000))
        picture = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))
        self.resize(self.width)

    def close(self) -> None:
        """Leave the page."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
