# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs under any Python 3 that has, or is shown, a YAML library: what do these configuration files say?

Request: ``{"texts": [[path, text]], "libraries": [folders that may hold the package yaml]}``. Answer: ``{"files":
[{"path", "problem", "line", "keys"}], "config": the merged mapping, "problem": why there is none or null}``. Values of
options that are named like secrets are replaced by ``null`` (absent or empty) or ``"***"``.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from typing import Any

SECRET = re.compile(
    r"(?i)(secret|password|passwd|_pass$|^dsn$|private_key|api_key|token|signing_key|pepper|credential|macaroon_secret_key)"
)
PLACE = re.compile(
    r"(?i)(_path|_file|_files|_url|_lifetime|_period|_ttl|_count|_enabled|_keys)$|^(enable|disable|allow|require)_"
    r"|^(registration_requires_token|trusted_key_servers|old_signing_keys)$"
)
URL = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@")
DEPTH = 40


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON can carry it, without what is secret."""
    if depth > DEPTH:
        return None
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            name = str(key)
            if SECRET.search(name) and not PLACE.search(name) and not isinstance(item, (dict, list, bool)):
                found[name] = None if item in (None, "") else "***"
            else:
                found[name] = plain(item, depth + 1)
        return found
    if isinstance(value, (list, tuple, set)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, str):
        return URL.sub(r"\1:***@", value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def library(folders: list[str]) -> Any:
    """Import the package yaml, from one of ``folders`` where this interpreter has none of its own."""
    try:
        return importlib.import_module("yaml")
    except ImportError:
        for folder in folders:
            sys.path.append(folder)
        return importlib.import_module("yaml")


def read(yaml: Any, path: str, text: str) -> tuple[dict[str, Any], Any]:
    """Return the facts about one file, and what it holds."""
    facts: dict[str, Any] = {"path": path, "problem": None, "line": None, "keys": [], "numbers": []}
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        facts["problem"] = "it is not YAML: " + str(getattr(error, "problem", None) or type(error).__name__)
        facts["line"] = mark.line + 1 if mark is not None else None
        return facts, None
    if not isinstance(data, dict):
        facts["problem"] = "it is empty" if data is None else "it holds no options"
        return facts, None
    facts["keys"] = sorted(str(key) for key in data)
    # What their values are is told of secrets too, since a number is no secret that Synapse takes.
    facts["numbers"] = sorted(
        str(key) for key, value in data.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    return facts, data


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Read the files, and merge them as Synapse does: the last file to set an option wins."""
    try:
        yaml = library(request["libraries"])
    except Exception as error:  # whatever a damaged environment raises
        return {"files": [], "config": {}, "problem": f"no YAML library can be loaded ({type(error).__name__})"}
    merged: dict[Any, Any] = {}
    files = []
    for path, text in request["texts"]:
        facts, data = read(yaml, path, text)
        files.append(facts)
        merged.update(data or {})
    return {"files": files, "config": plain(merged), "problem": None}


def main() -> None:
    """Answer one request."""
    sys.dont_write_bytecode = True
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))) + "\n")


if __name__ == "__main__":
    main()
