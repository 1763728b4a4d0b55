#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Print the path of a Python interpreter that can make a virtual environment.
#   find_python.sh controller   3.11 or newer: $PYTHON, else python3, else the newest that ansible-core 2.19 runs on
#   find_python.sh newest       3.12 or newer, the newest first; prints nothing and succeeds where there is none
#   find_python.sh all MIN MAX  folders of every interpreter in the range, colon-separated, the first of each minor version
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"

# Interpreters as "minor path" lines; each is really started, so that a dead shim or a broken build is left out.
inspect() { # COMMAND...
  local command
  for command in "$@"; do
    "$command" -I -c '
import os, sys
if sys.version_info[0] == 3 and sys.implementation.name == "cpython":
    print(sys.version_info[1], os.path.realpath(sys.executable))
' 2> /dev/null || true
  done
}

can_make_venv() { "$1" -I -c 'import ensurepip, ssl, venv' 2> /dev/null; }

candidates() { # MINOR...
  local minor folder
  for minor in "$@"; do
    PATH=$(plain_path) command -v "python3.$minor" || true
    for folder in "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin; do
      [ ! -x "$folder/python3.$minor" ] || say "$folder/python3.$minor"
    done
  done
}

missing_venv() { # INTERPRETER
  local package
  package=python3.$("$1" -I -c 'import sys; print(sys.version_info[1])')-venv
  if is_debian && [ "${1#/usr/bin/}" != "$1" ]; then
    if is_root; then
      say "installing $package, which $1 needs to make virtual environments" >&2
      install_packages "$root/.cache/apt.log" "$package" ||
        fail "$package could not be installed: $(tail -n 3 "$root/.cache/apt.log")"
      return
    fi
    fail "$1 cannot make virtual environments: its venv module is a package of its own here." \
      "Run this as root once, then try again: apt-get install -y $package"
  fi
  fail "$1 cannot make virtual environments (no ensurepip or no ssl). Install the rest of that Python," \
    "or name another interpreter, 3.11 or newer: make PYTHON=/path/to/python3"
}

controller() {
  local minor path first=
  local -a order
  if [ -n "${PYTHON:-}" ]; then
    order=("$PYTHON")
  else
    mapfile -t order < <(say python3; candidates 13 12 11 14)
  fi
  while read -r minor path; do
    [ "$minor" -ge 11 ] || continue
    if can_make_venv "$path"; then
      say "$path"
      return
    fi
    first=${first:-$path}
  done < <(inspect "${order[@]}")
  [ -n "$first" ] || fail "no Python 3.11 or newer was found (tried: ${order[*]})." \
    "Install one, or name it: make PYTHON=/path/to/python3"
  missing_venv "$first"
  can_make_venv "$first" || fail "$first still cannot make a virtual environment."
  say "$first"
}

newest() {
  local path
  while read -r _ path; do
    if can_make_venv "$path"; then
      say "$path"
      return
    fi
  done < <(candidates 14 13 12 | while read -r found; do inspect "$found"; done)
}

all() { # MIN MAX
  local minor path folders=
  for ((minor = $1; minor <= $2; minor++)); do
    path=$(candidates "$minor" | while read -r found; do inspect "$found"; done | sed -n 1p)
    [ -z "$path" ] || folders=${folders:+$folders:}$(dirname "${path#* }")
  done
  say "$folders"
}

"$@"
