#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Print the project's figures.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
export PATH=$root/.venv/bin:$PATH
[ -x "$root/tests/bench/run" ] || fail "tests/bench/run is missing or not executable"
exec "$root/tests/bench/run" "$@"
