#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# A real homeserver on this machine with the ansible-core of one environment, in a folder that is removed afterwards:
# predicted, deployed with a vaulted secret, left alone by a second run, asked, stopped.
#   deploy_here.sh ENVIRONMENT
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"
env=$root/${1:?which environment: .venv-oldest or .venv-newest}
if is_root; then export UV_CACHE_DIR=$root/.cache/uv; fi
for name in $(compgen -e ANSIBLE_ || true); do unset "$name"; done

place=$(mktemp -d)
port=$("$env/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
stop() { play -e synapse_quickstart_state=absent > /dev/null 2>&1 || true; rm -rf "$place"; }
trap stop EXIT
export ANSIBLE_HOME=$place/ansible ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false

play() { # ARGUMENT...
  "$env/bin/ansible-playbook" matrix_fleet.synapse.quickstart --vault-password-file "$place/password" \
    -e "ansible_python_interpreter=$env/bin/python" -e "@$place/vaulted.yml" \
    -e "synapse_quickstart_path=$place/server" -e "synapse_quickstart_port=$port" "$@"
}

expect() { # WHAT PATTERN ARGUMENT...
  local what=$1 pattern=$2
  shift 2
  if ! play "$@" > "$place/output" 2>&1 || ! grep -qE "$pattern" "$place/output"; then
    cat "$place/output"
    fail "$("$env/bin/ansible" --version | sed -n 1p): $what"
  fi
  say "ok: $what"
}

secret="kept-in-a-vault-and-as-long-as-a-secret-should-be-7Yq2"
head -c 24 /dev/urandom | base64 > "$place/password"
printf '%s' "$secret" | "$env/bin/ansible-vault" encrypt_string --vault-password-file "$place/password" \
  --stdin-name synapse_form_secret > "$place/vaulted.yml" 2> /dev/null

say "$("$env/bin/ansible" --version | sed -n 1p)"
expect "deploys a server that is proven to answer" "answers at http://127.0.0.1:$port" -vvv --diff
! grep -q "$secret" "$place/output" || fail "the vaulted secret was printed"
grep -q "^$secret" "$place/server/config/secrets/form_secret" || fail "the vaulted secret is not in use"
expect "changes nothing in a second run" " changed=0 "
expect "predicts nothing in check mode" " changed=0 " --check
expect "tells how the server is" "is healthy: process" -e synapse_quickstart_state=status
expect "stops it" "Stopped" -e synapse_quickstart_state=absent
