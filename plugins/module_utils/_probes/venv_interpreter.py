# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what an interpreter is: its version, the markers of its platform, what it can make environments with."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import typing as t


def facts() -> dict[str, t.Any]:
    """Return the facts; names under ``markers`` are those of environment markers."""
    full = platform.python_version()
    implementation = sys.implementation.name
    return {
        "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        "version": full,
        "minor": list(sys.version_info[:2]),
        "ensurepip": importlib.util.find_spec("ensurepip") is not None,
        "markers": {
            "implementation_name": implementation,
            "implementation_version": full,
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": platform.release(),
            "platform_system": platform.system(),
            "platform_version": platform.version(),
            "python_full_version": full,
            "python_version": ".".join(full.split(".")[:2]),
            "sys_platform": sys.platform,
            "extra": "",
        },
    }


if __name__ == "__main__":
    sys.stdin.read()
    sys.stdout.write(json.dumps(facts()) + "\n")
