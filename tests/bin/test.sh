#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Everything that guards the project, in one go: as many steps at a time as there are cores to keep busy. Stops at the first
# failure, and ends with what was run and how long it took. What a step prints is kept in .cache/test-logs, where it can be
# followed while it runs; of a step that fails it is shown whole, and what decided it once more at the end.
#   test.sh            all steps
#   test.sh --list     their names
#   test.sh STEP...    these steps alone
#   JOBS=1 test.sh     one after another
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
step_browser() { tests/bin/browser.sh; }
step_quickstart() { .venv/bin/python -m pytest -q tests/quickstart; }
step_molecule() { tests/bin/molecule.sh "$1"; }

# What has to have passed before a step can begin.
after() { # STEP: sets before
  case $1 in
    setup | docker) before=() ;;
    images) before=(docker) ;;
    builder) before=(setup build) ;;
    molecule*) before=(setup images) ;;
    *) before=(setup) ;;
  esac
}

# How many cores a step keeps busy.
cores() { # STEP
  local number=1
  case $1 in
    integration) number=$(workers) ;;
    molecule*) number=$(sed -n 's/^ *numprocesses: "\([0-9]*\)"$/\1/p' "molecule/${1#* }/molecule.yml" 2> /dev/null) ;;
  esac
  say "${number:-1}"
}

# What finds most mistakes soonest comes first, and of the rest what takes long before what fits into the gaps. The scenarios
# are whatever is in molecule/.
mapfile -t steps < <(printf '%s\n' setup lint unit docker sanity images integration
  tests/bin/molecule.sh --list | sed '/./s/^/molecule /;/^$/d'
  printf '%s\n' newest quickstart oldest browser build builder)
if [ "${1:-}" = --list ]; then
  printf '%s\n' "${steps[@]}"
  exit 0
fi
for step in "$@"; do
  printf '%s\n' "${steps[@]}" | grep -qxF -- "$step" || fail "there is no step $step; test.sh --list names them."
done
[ $# -eq 0 ] || steps=("$@")

lock test
logs=$root/.cache/test-logs
rm -rf "$logs"
mkdir -p "$logs"
# A step that has ended writes here, so that nobody has to look all the time.
mkfifo "$logs/ended"
exec 7<> "$logs/ended"
jobs=${JOBS:-$(nproc)}
busy=0
passed=0
pending=("${steps[@]}")
running=()  # in the order in which they began
declare -A pid cost began line

log_of() { say "$logs/${1// /-}.log"; }

# The line of a step in the summary: its seconds, and how each pytest that it ran closed.
note() { # STEP [WORD]
  local closing='[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9.]+s( \([0-9:]+\))?'
  closing=$(sed -E 's/\x1b\[[0-9;]*m//g' "$(log_of "$1")" | sed -nE "s/^=* *($closing) *=*$/\1/p" | paste -sd ';' | sed 's/;/; /g')
  line[$1]=$(printf '%-28s %4d s  %s' "$1" $((SECONDS - began[$1])) "${2:+$2  }$closing" | sed 's/ *$//')
}

summary() {
  local step
  printf '\n'
  for step in "${steps[@]}"; do
    [ -z "${line[$step]:-}" ] || printf '%s\n' "${line[$step]}"
  done
  printf '%-28s %4d s\n' "in all" "$SECONDS"
}

waits() { # STEP: for another one that has not passed yet
  local before one other
  after "$1"
  for one in "${before[@]}"; do
    for other in "${pending[@]}" "${running[@]}"; do
      [ "$one" != "$other" ] || return 0
    done
  done
  return 1
}

fits() { # STEP: what asks for more cores than there are has them all
  cost[$1]=$(cores "$1")
  [ "${cost[$1]}" -le "$jobs" ] || cost[$1]=$jobs
  # One more than there are, for a step waits for its servers much of its time; but JOBS=1 is one after another.
  [ "$busy" -eq 0 ] || [ "$jobs" -gt 1 ] && [ $((busy + cost[$1])) -le $((jobs + 1)) ]
}

start() { # STEP
  local name argument
  read -r name argument <<< "$1"
  : > "$(log_of "$1")"
  # With a process group of its own, so that it can be stopped with all that it started.
  set -m
  (
    set +em
    exec 9>&-
    (
      set -e
      "step_$name" "$argument"
    ) 7>&-
    say $? > "$logs/${1// /-}.status"
    say >&7
  ) >> "$(log_of "$1")" 2>&1 < /dev/null &
  pid[$1]=$!
  set +m
  began[$1]=$SECONDS
  printf '%5d s  %s\n' "$SECONDS" "$1"
  busy=$((busy + cost[$1]))
  running+=("$1")
}

start_what_fits() {
  local step later=()
  # A copy: what has been started is no longer pending for those that wait for it, but running.
  for step in "${pending[@]}"; do
    if ! waits "$step" && fits "$step"; then
      start "$step"
    else
      later+=("$step")
    fi
  done
  pending=("${later[@]}")
}

# The lines by which tests and plays say what went wrong.
decisive() { # STEP
  sed -E 's/\x1b\[[0-9;]*m//g' "$(log_of "$1")" | grep -E '^(FAILED|ERROR|fatal: |failed: |E  |\[ERROR\])' | grep -v '^FAILED - RETRYING' |
    cut -c 1-600 | tail -n 60 || true
}

without() { # STEP ELEMENT...: sets left
  local element
  left=()
  for element in "${@:2}"; do
    [ "$element" = "$1" ] || left+=("$element")
  done
}

# End what still runs: as Control-C would, then less kindly. Take away the hosts of scenarios that could not do so.
stop_all() {
  local step signal i
  for signal in INT TERM KILL; do
    for step in "${running[@]}"; do
      kill "-$signal" -- "-${pid[$step]}" 2> /dev/null || true
    done
    for step in "${running[@]}"; do
      for ((i = 0; i < 150; i++)); do
        kill -0 -- "-${pid[$step]}" 2> /dev/null || break
        read -r -t 0.1 -u 7 || true # a short sleep that starts no process
      done
    done
  done
  for step in "${running[@]}"; do
    wait "${pid[$step]}" 2> /dev/null || true
    note "$step" stopped
    case $step in
      molecule*) MOLECULE_COMMAND=destroy tests/bin/molecule.sh "${step#* }" > "$(log_of "$step").destroy" 2>&1 < /dev/null || true ;;
    esac
  done
}

# What a signal asks for is done in the loop below: inside of a trap bash does not see that processes have ended.
interrupted=
trap 'interrupted=yes' INT TERM

be_interrupted() {
  trap '' INT TERM
  printf '\nstopping: %s\n' "$(printf '%s, ' "${running[@]}" | sed 's/, $//')"
  stop_all
  summary
  exit 130
}

give_up() { # STEP: it has failed
  local stopped=${#running[@]}
  [ "$stopped" -eq 0 ] || printf '\n%s failed; stopping: %s\n' "$1" "$(printf '%s, ' "${running[@]}" | sed 's/, $//')"
  stop_all
  printf '\n=== %s\n' "$1"
  # Waiting is no failure, but looks like one to whatever searches this output.
  sed '/^FAILED - RETRYING/d' "$(log_of "$1")"
  summary
  printf '\n=== what failed in %s\n' "$1"
  decisive "$1"
  say "make test: $passed passed, 1 failed ($1), $stopped stopped, ${#pending[@]} not run"
  exit 1
}

finish() { # STEP: it has ended
  local status
  # Its status is whole once its process is gone; one that was killed could not write any.
  wait "${pid[$1]}" || true
  status=$(cat "$logs/${1// /-}.status" 2> /dev/null) || status=killed
  without "$1" "${running[@]}"
  running=("${left[@]}")
  busy=$((busy - cost[$1]))
  if [ "$status" != 0 ]; then
    note "$1" FAILED
    give_up "$1"
  fi
  note "$1"
  printf '%5d s  %s\n' "$SECONDS" "passed: ${line[$1]}"
  passed=$((passed + 1))
}

while true; do
  start_what_fits
  [ ${#running[@]} -gt 0 ] || break
  [ -z "$interrupted" ] || be_interrupted
  read -r -t 1 -u 7 || true
  for step in "${running[@]}"; do
    if [ -e "$logs/${step// /-}.status" ] || ! kill -0 "${pid[$step]}" 2> /dev/null; then
      finish "$step"
    fi
  done
done
summary
say "make test: $passed passed, 0 failed"
