# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the benchmark that runs on the managed host: what a module costs there, without the way to it.

Reads one JSON request on standard input and answers with one JSON object: ``{"sides": {name: command}, "times": n}``
runs each side's command in turn, ``times`` times over, and answers with the seconds of each: elapsed, and of CPU. A
command is ``argv``, with ``cwd`` and ``env``, commands to run ``before`` it untimed, and ``own_clock`` where it prints
its seconds itself. ``{folder}`` in its words is a new empty folder each time, made ``under`` the given one.

As ``on_host.py PAYLOAD [PARAMETERS [--may-change]]`` it is one such command: it runs the module that Ansible left
behind as PAYLOAD (a glob; ANSIBLE_KEEP_REMOTE_FILES), with PARAMETERS (JSON) over its own, and prints what its
``main()`` alone took. Everything is imported from the payload's archive, as it is when Ansible runs it.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import glob
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time


def cpu():
    """Return the seconds of CPU that this process and the ended ones that it started have used."""
    return sum(os.times()[:4])


def _call_of(payload):
    """Return what the payload hands to Ansible's wrapper: the archive, the module's name and its parameters."""
    [found] = glob.glob(payload)
    with open(found, encoding="utf-8") as stream:
        tree = ast.parse(stream.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_ansiballz_main":
            names = ("zip_data", "module_fqn", "params", "profile")
            return {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg in names}
    raise SystemExit(f"{payload} is not a module as Ansible sends it")


def run_module(payload, parameters):
    """Run the module's ``main()`` in this process; return its seconds and its result."""
    call = _call_of(payload)
    sent = json.loads(call["params"])
    sent["ANSIBLE_MODULE_ARGS"].update(parameters)
    folder = tempfile.mkdtemp()
    try:
        archive = os.path.join(folder, "payload.zip")
        with open(archive, "wb") as stream:
            stream.write(base64.b64decode(call["zip_data"]))
        sys.path.insert(0, archive)
        basic = importlib.import_module("ansible.module_utils.basic")
        basic._ANSIBLE_ARGS = json.dumps(sent).encode()
        basic._ANSIBLE_PROFILE = call["profile"]
        module = importlib.import_module(call["module_fqn"])
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            begin, used = time.perf_counter(), cpu()
            try:
                module.main()
            finally:
                seconds = [time.perf_counter() - begin, cpu() - used]
    finally:
        shutil.rmtree(folder)
    result = json.loads(said.getvalue().splitlines()[-1])
    if result.get("failed"):
        raise SystemExit(f"{call['module_fqn']} failed: {result.get('msg')}")
    return seconds, result


def run_command(command):
    """Run one side once; return the seconds that it took, or that it says it took."""
    folder = tempfile.mkdtemp(dir=command.get("under"))
    try:
        argv = [word.replace("{folder}", folder) for word in command["argv"]]
        for preparation in command.get("before", []):
            subprocess.run(
                [word.replace("{folder}", folder) for word in preparation], check=True, stdout=subprocess.DEVNULL
            )
        environment = {name: value.replace("{folder}", folder) for name, value in command.get("env", {}).items()}
        options = {"cwd": command.get("cwd"), "env": {**os.environ, **environment}}
        begin, used = time.perf_counter(), cpu()
        done = subprocess.run(argv, check=False, capture_output=True, text=True, **options)
        seconds = [time.perf_counter() - begin, cpu() - used]
        if done.returncode != 0:
            raise SystemExit(f"{argv} ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
        return [float(word) for word in done.stdout.split()[-2:]] if command.get("own_clock") else seconds
    finally:
        shutil.rmtree(folder)


def main():
    """Answer the request, or be one of its commands."""
    if len(sys.argv) > 1:
        seconds, result = run_module(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
        if result.get("changed") and "--may-change" not in sys.argv:
            raise SystemExit(f"the module changed something: {sorted(result)}")
        print(*seconds)
        return
    request = json.load(sys.stdin)
    sides = request["sides"]
    seconds = {name: [] for name in sides}
    for _unused in range(request["times"]):
        for name, command in sides.items():
            seconds[name].append(run_command(command))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
