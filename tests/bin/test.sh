#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Everything that guards the project, in one go; stops at the first failure, and ends with what was run and how long it took.
#   test.sh            all steps
#   test.sh --list     their names
#   test.sh STEP...    these steps alone
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"

step_setup() { tests/bin/setup.sh dev; }
step_lint() { tests/bin/lint.sh; }
step_unit() { .venv/bin/python -m pytest -q tests/unit; }
step_sanity() { tests/bin/ansible-test.sh .venv sanity --local; }
step_build() { tests/bin/build.sh; }
step_builder() { tests/bin/builder.sh; }
step_newest() { tests/bin/newest.sh; }
step_oldest() { tests/bin/setup.sh oldest && tests/bin/deploy_here.sh .venv-oldest; }
step_docker() { tests/bin/docker.sh; }
step_images() { tests/images/build.sh; }
step_integration() { tests/bin/integration.sh; }
step_quickstart() { .venv/bin/python -m pytest -q tests/quickstart; }
step_molecule() { tests/bin/molecule.sh "$1"; }

# What finds most mistakes soonest comes first. The scenarios are whatever is in molecule/.
mapfile -t steps < <(printf '%s\n' setup lint unit sanity build builder newest oldest docker images integration quickstart
  tests/bin/molecule.sh --list | sed '/./s/^/molecule /;/^$/d')
if [ "${1:-}" = --list ]; then
  printf '%s\n' "${steps[@]}"
  exit 0
fi
[ $# -eq 0 ] || steps=("$@")

lock test
times=()
passed=0
output=$root/.cache/test-output

# The line of a step in the summary: its seconds, and how each pytest that it ran closed.
note() { # STEP SECONDS [WORD]
  local closing='[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9.]+s( \([0-9:]+\))?'
  closing=$(sed -E 's/\x1b\[[0-9;]*m//g' "$output" | sed -nE "s/^=* *($closing) *=*$/\1/p" | paste -sd ';' | sed 's/;/; /g')
  times+=("$(printf '%-28s %4d s  %s' "$1" "$2" "${3:+$3  }$closing" | sed 's/ *$//')")
}

finish() {
  printf '\n'
  printf '%s\n' "${times[@]}"
  printf '%-28s %4d s\n' "in all" "$SECONDS"
}

for step in "${steps[@]}"; do
  printf '\n=== %s\n' "$step"
  begin=$SECONDS
  read -r name argument <<< "$step"
  status=0
  # A shell of its own for each step: inside a condition "set -e" would not end a function at its first failure.
  # What it prints is kept too, for the summary.
  exec {copy}> >(exec 9>&-; exec tee "$output")
  copier=$!
  (
    exec 9>&-
    set -e
    "step_$name" "$argument"
  ) >&"$copy" 2>&1 {copy}>&- &
  wait $! || status=$?
  exec {copy}>&-
  # A server that the step left behind may hold the copier open: never wait long for it.
  for ((i = 0; i < 50; i++)); do
    kill -0 "$copier" 2> /dev/null || break
    sleep 0.1
  done
  if [ "$status" -ne 0 ]; then
    note "$step" $((SECONDS - begin)) FAILED
    finish
    say "make test: $passed passed, 1 failed ($step), $((${#steps[@]} - passed - 1)) not run"
    exit 1
  fi
  note "$step" $((SECONDS - begin))
  passed=$((passed + 1))
done
finish
say "make test: $passed passed, 0 failed"
