#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Resolve requirements-*.in into requirements-*.txt.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
adopt_pip_settings
cd "$root"
resolve() { # NAME PYTHON
  .venv/bin/uv pip compile --quiet --upgrade --universal --python-version "$2" --custom-compile-command "make lock-dev" \
    "$1.in" -o "$1.txt"
}
resolve requirements-dev 3.11
resolve requirements-dev-newest 3.12
resolve requirements-oldest 3.11
resolve requirements-quickstart 3.11
