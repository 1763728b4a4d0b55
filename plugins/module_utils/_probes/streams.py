# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Becomes a command whose standard streams are descriptors that it inherits, and that ends with the one who asked.

Arguments: ``{"parent": process id, "streams": {"1": descriptor}}``, then the command.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Have the kernel end this process when ``parent`` ends, even if that is killed.

    To be called after the change of the user, which takes the wish back (prctl(2)).
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the wish was made
        raise SystemExit(143)


def main() -> None:
    """Become the command."""
    spec = json.loads(sys.argv[1])
    end_with(spec["parent"])
    for stream, descriptor in spec["streams"].items():
        os.dup2(descriptor, int(stream))
    for descriptor in set(spec["streams"].values()) - {0, 1, 2}:
        os.close(descriptor)
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 # no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]}: {error.strerror}\n")
        raise SystemExit(127) from None


if __name__ == "__main__":
    main()
