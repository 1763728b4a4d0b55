# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module of the collection as it runs on a managed host: in a process of its own, with its arguments as data."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from ansible.module_utils.testing import patch_module_args

PACKAGE = "ansible_collections.matrix_fleet.synapse.plugins.modules"

_APART = f"""
import json, runpy, sys
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.load(sys.stdin)):
    runpy.run_module("{PACKAGE}." + sys.argv[1], run_name="__main__")
"""


class Result(t.NamedTuple):
    """What a module returned, and how its process ended (a signal is negative)."""

    rc: int
    answer: dict[str, t.Any]


def start(name: str, arguments: dict[str, t.Any], output: Path, before: t.Callable[[], None] | None = None) -> int:
    """Fork a process that runs the module; return its id. ``before`` runs in it first."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        with output.open("w") as stream:
            sys.stdout = stream
            sys.stdin = io.StringIO("")
            if before is not None:
                before()
            with patch_module_args({"_ansible_remote_tmp": str(output.parent), **arguments}):
                module.main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:  # nothing may return into pytest's copy
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def wait(pid: int, output: Path) -> Result:
    """Wait for the process of ``start``."""
    _pid, status = os.waitpid(pid, 0)
    text = output.read_text() if output.exists() else ""
    rc = os.waitstatus_to_exitcode(status)
    try:
        return Result(rc, json.loads(text))
    except ValueError:
        return Result(rc, {})


def run(name: str, arguments: dict[str, t.Any], output: Path) -> dict[str, t.Any]:
    """Run the module to its end; its result must be one."""
    result = wait(start(name, arguments, output), output)
    assert result.answer, f"{name} ended with {result.rc} and no result"
    return result.answer


def killed_after(seconds: float, name: str, arguments: dict[str, t.Any], output: Path) -> Result:
    """Run the module and kill it after ``seconds``, if it still runs then."""
    pid = start(name, arguments, output)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return wait(pid, output)


def killed_before(number: int, below: Path, name: str, arguments: dict[str, t.Any], output: Path) -> Result:
    """Run the module and kill it right before its ``number``-th operation on the file system below a folder."""
    count = 0

    def hook(event: str, details: tuple[t.Any, ...]) -> None:
        nonlocal count
        if event in {"os.chmod", "os.chown", "os.remove", "os.rmdir", "ctypes.dlsym"} or (
            (event == "open" or event.startswith(("os.", "shutil."))) and any(str(below) in str(x) for x in details)
        ):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return wait(start(name, arguments, output, lambda: sys.addaudithook(hook)), output)


def run_apart(name: str, arguments: dict[str, t.Any]) -> subprocess.CompletedProcess[str]:
    """Run the module in an interpreter of its own, and keep all that it prints."""
    return subprocess.run(
        [sys.executable, "-c", _APART, name],
        input=json.dumps(arguments),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


_CHANGES = {"mkdir", "rename", "symlink", "link", "remove", "rmdir", "chmod", "chown", "truncate", "utime"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _is_write(event: str, details: tuple[t.Any, ...], below: Path) -> bool:
    """Whether an event is about to change something below a folder, as far as it tells where it happens."""
    if event == "open":
        return bool(details[2] & _WRITING) and str(below) in str(details[0])
    group, _unused, name = event.rpartition(".")
    if event == "ctypes.dlsym":  # renameat2 and syncfs
        return True
    absolute = any(str(one).startswith("/") for one in details)
    return group == "os" and name in _CHANGES and (not absolute or any(str(below) in str(one) for one in details))


def writes_of(below: Path, name: str, arguments: dict[str, t.Any], output: Path) -> list[str]:
    """Run the module to its end and return the name of each of its writes below a folder, in their order."""
    log = output.with_suffix(".writes")
    log.write_text("")

    def hook(event: str, details: tuple[t.Any, ...]) -> None:
        if _is_write(event, details, below):
            with log.open("a") as stream:
                stream.write(f"{event}\n")

    assert wait(start(name, arguments, output, lambda: sys.addaudithook(hook)), output).rc == 0
    return log.read_text().split()


def killed_before_write(number: int, below: Path, name: str, arguments: dict[str, t.Any], output: Path) -> Result:
    """Run the module and kill it right before its ``number``-th write: what it only reads leaves nothing to find."""
    count = 0

    def hook(event: str, details: tuple[t.Any, ...]) -> None:
        nonlocal count
        if _is_write(event, details, below):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return wait(start(name, arguments, output, lambda: sys.addaudithook(hook)), output)


def telling(writes: t.Sequence[str]) -> list[int]:
    """Return the numbers of the writes worth a kill: each one, but of removals in a row the first, middle and last."""
    removals = {"os.remove", "os.rmdir"}
    chosen: list[int] = []
    row: list[int] = []
    for number, event in enumerate([*writes, ""], start=1):
        if event in removals:
            row.append(number)
            continue
        chosen += sorted({row[0], row[len(row) // 2], row[-1]}) if row else []
        row = []
        chosen += [number] if event else []
    return chosen
