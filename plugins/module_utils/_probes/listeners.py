# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment: which listeners does a configuration ask for?

Request: ``{"path": file}``. Answer: ``{"listeners": [...]}`` or ``{"error": what is wrong with the file}``.
"""

from __future__ import annotations

import json
import sys
import typing as t


def answer(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Read the one option; nothing else of the file leaves."""
    import yaml

    try:
        with open(request["path"], encoding="utf-8") as stream:
            config = yaml.safe_load(stream)
    except OSError as error:
        return {"error": error.strerror or type(error).__name__}
    except (UnicodeDecodeError, yaml.YAMLError) as error:  # whose text may quote the file
        return {"error": f"it is not YAML ({type(error).__name__})"}
    listeners = config.get("listeners") if isinstance(config, dict) else None
    if not isinstance(listeners, list) or not all(isinstance(listener, dict) for listener in listeners):
        return {"error": "it has no list of listeners"}
    return {"listeners": listeners}


def main() -> None:
    """Answer one request."""
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin)), default=str) + "\n")


if __name__ == "__main__":
    main()
