#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Type-check plugins/ under the names by which its files import each other.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
cache=$root/.cache
. "$root/tests/bin/common.sh"
tree=$cache/mypy/tree
mkdir -p "$tree/ansible_collections/matrix_fleet"
ln -sfn "$root" "$tree/ansible_collections/matrix_fleet/synapse"
cd "$root"
status=0
"$root/.venv/bin/mypy" --strict -p ansible_collections.matrix_fleet.synapse.plugins "$@" > "$cache/mypy/output" || status=$?
sed -E 's,^.*ansible_collections/matrix_fleet/synapse/,,' "$cache/mypy/output"
exit "$status"
