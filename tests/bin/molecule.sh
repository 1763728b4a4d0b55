#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Run one molecule scenario from beginning to end, on Docker hosts that are made here if they are missing.
#   molecule.sh SCENARIO [ARGUMENT...]        molecule.sh --list
# MOLECULE_COMMAND=converge (or verify, login, destroy, ...) runs that instead of the whole test.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"

scenarios=()
for file in molecule/*/molecule.yml; do
  [ ! -e "$file" ] || scenarios+=("$(basename "$(dirname "$file")")")
done
if [ "${1:-}" = --list ]; then
  printf '%s\n' "${scenarios[@]}"
  exit 0
fi
scenario=${1:?which scenario: ${scenarios[*]}}
shift
[ -e "molecule/$scenario/molecule.yml" ] || fail "there is no scenario $scenario; there are: ${scenarios[*]}"

"$root/tests/bin/docker.sh"
"$root/tests/images/build.sh"
mkdir -p "$root/.cache/uv" "$root/.cache/pip"
# The scenarios stand at the top level; without this molecule looks elsewhere first and says so.
export MOLECULE_GLOB='molecule/*/molecule.yml'
export PATH=$root/.venv/bin:$PATH
unset ANSIBLE_CONFIG
if [ ! -t 1 ]; then # a log, not a terminal
  export NO_COLOR=1 PY_COLORS=0 ANSIBLE_NOCOLOR=true COLUMNS=150
fi
exec molecule "${MOLECULE_COMMAND:-test}" --scenario-name "$scenario" "$@"
