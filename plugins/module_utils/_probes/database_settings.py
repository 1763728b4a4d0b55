# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment: which database does a configuration ask for?

Request: ``{"text": the file's text}``. Answer: ``{"database": its section}`` or ``{"error": what is wrong with the
file}``.
"""

from __future__ import annotations

import json
import sys
import typing as t


def answer(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Read the one option; nothing else of the file leaves."""
    import yaml

    try:
        config = yaml.safe_load(request["text"])
    except yaml.YAMLError as error:  # whose text may quote the file
        return {"error": f"it is not YAML ({type(error).__name__})"}
    if not isinstance(config, dict):
        return {"error": "it is not a mapping"}
    if config.get("databases") is not None:
        return {"error": "it has several databases ('databases'), of which only one could be asked"}
    return {"database": config.get("database")}


def main() -> None:
    """Answer one request."""
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin)), default=str) + "\n")


if __name__ == "__main__":
    main()
