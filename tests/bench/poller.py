# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a server every 20 ms whether it answers, until a file appears; print the longest time in which it did not.

Runs on the host with nothing but its Python: poller.py PORT FILE. The time is from the start of the first request that
failed to the start of the first that was answered again, in seconds. Ends by itself after ten minutes.
"""

from __future__ import annotations

import http.client
import os
import sys
import time

INTERVAL = 0.02
LIMIT = 600.0


def answers(port: int) -> bool:
    """Whether the server says that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Watch, and print."""
    port, stop = int(sys.argv[1]), sys.argv[2]
    longest, since = 0.0, None
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        now = time.monotonic()
        if answers(port):
            if since is not None:
                longest, since = max(longest, now - since), None
            if os.path.exists(stop):
                break
        elif since is None:
            since = now
        time.sleep(max(0.0, now + INTERVAL - time.monotonic()))
    print(longest)


if __name__ == "__main__":
    main()
