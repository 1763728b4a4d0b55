#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Make one of the environments of this checkout, or see that it is up to date.
#   setup.sh dev         .venv             everything the checks and tests use
#   setup.sh newest      .venv-newest      the newest ansible-core; says so and succeeds where no Python 3.12+ is there
#   setup.sh oldest      .venv-oldest      the oldest ansible-core that is supported
#   setup.sh quickstart  .venv-quickstart  ansible-core alone
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"

kind=${1:?which environment: dev, newest, oldest or quickstart}
case $kind in
  dev) env=$root/.venv requirements=$root/requirements-dev.txt bundle=ansible==12.3.0 ;;
  newest) env=$root/.venv-newest requirements=$root/requirements-dev-newest.txt bundle= ;;
  oldest) env=$root/.venv-oldest requirements=$root/requirements-oldest.txt bundle= ;;
  quickstart) env=$root/.venv-quickstart requirements=$root/requirements-quickstart.txt bundle= ;;
  *) fail "no such environment: $kind" ;;
esac

# What the environment was made from. It names its own place too: a moved checkout has scripts that point elsewhere.
wanted=$(printf '%s\n' "$env" "$bundle" | cat - "$requirements" "$root/tests/bin/setup.sh" \
  "$root/tests/bin/install_collections.py" | sha256sum | cut -d' ' -f1)

up_to_date() {
  [ "$(cat "$env/.made-from" 2> /dev/null)" = "$wanted" ] && "$env/bin/python" -c 'import ansible' 2> /dev/null
}

install_requirements() {
  adopt_pip_settings
  if [ "$kind" = quickstart ]; then # ten packages: not worth fetching uv first
    "$env/bin/python" -m pip install -qq --require-virtualenv -r "$requirements"
    return
  fi
  "$env/bin/python" -m pip install -qq --require-virtualenv "$(grep -m 1 -o '^uv==[^ ]*' "$requirements")"
  if ! "$env/bin/uv" pip install --quiet --python "$env/bin/python" -r "$requirements"; then
    say "uv could not install the requirements; trying with pip"
    "$env/bin/python" -m pip install -qq --require-virtualenv -r "$requirements"
  fi
}

! up_to_date || exit 0
lock "setup-$kind"
! up_to_date || exit 0

if ! "$env/bin/python" -c 'import pip' 2> /dev/null || ! grep -qsF "$env" "$env/bin/activate"; then
  if [ "$kind" = newest ]; then
    python=$("$root/tests/bin/find_python.sh" newest)
    if [ -z "$python" ]; then
      rm -rf "$env"
      exit 0
    fi
  else
    python=$("$root/tests/bin/find_python.sh" controller)
  fi
  say "making ${env##*/} with $python"
  rm -rf "$env"
  "$python" -m venv "$env"
fi
rm -f "$env/.made-from"
say "installing ${requirements##*/} into ${env##*/}"
install_requirements
"$env/bin/python" "$root/tests/bin/install_collections.py" "$bundle"
printf '%s\n' "$wanted" > "$env/.made-from"
