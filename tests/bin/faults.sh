#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Run cases of tests/faults against the clinic that is up (MOLECULE_COMMAND=converge tests/bin/molecule.sh repair):
#   faults.sh PATTERN[,PATTERN...] [PYTEST ARGUMENT...]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
patterns=${1:?which cases: K01, or K*,C0?, or all}
shift
docker inspect clinic-sqlite clinic-postgresql > /dev/null 2>&1 ||
  fail "the clinic is not up: MOLECULE_COMMAND=converge tests/bin/molecule.sh repair"
ephemeral=$(find "$HOME/.ansible/tmp" -maxdepth 1 -name 'molecule.*.repair' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
export MOLECULE_EPHEMERAL_DIRECTORY=$ephemeral MOLECULE_INVENTORY_FILE=$ephemeral/inventory/ansible_inventory.yml
export MOLECULE_PROJECT_DIRECTORY=$root MATRIX_FLEET_FAULTS=$patterns PATH=$root/.venv/bin:$PATH
cd "$root/molecule/repair"
exec "$root/.venv/bin/python" -m pytest --ansible-inventory="$MOLECULE_INVENTORY_FILE" --connection=ansible \
  -p no:cacheprovider -q tests "$@"
