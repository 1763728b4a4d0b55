# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment: which listeners does a configuration ask for?

Request: ``{"paths": [file, ...]}``, in the order in which Synapse merges them: what a later file says of an option
replaces what an earlier one said (``read_config_files`` in synapse/config/_base.py, 1.163.2).
Answer: ``{"listeners": [...]}``, or ``{"error": what is wrong, "path": with which file}``.
"""

from __future__ import annotations

import json
import sys
import typing as t


def answer(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Read the one option; nothing else of the files leaves."""
    import yaml

    listeners, where = None, ""
    for path in request["paths"]:
        try:
            with open(path, encoding="utf-8") as stream:
                config = yaml.safe_load(stream)
        except OSError as error:
            return {"error": error.strerror or type(error).__name__, "path": path}
        except (UnicodeDecodeError, yaml.YAMLError) as error:  # whose text may quote the file
            return {"error": f"it is not YAML ({type(error).__name__})", "path": path}
        if isinstance(config, dict) and "listeners" in config:
            listeners, where = config["listeners"], path
    where = where or ", ".join(request["paths"])
    if not isinstance(listeners, list) or not all(isinstance(listener, dict) for listener in listeners):
        return {"error": "it has no list of listeners", "path": where}
    return {"listeners": listeners, "path": where}


def main() -> None:
    """Answer one request."""
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin)), default=str) + "\n")


if __name__ == "__main__":
    main()
