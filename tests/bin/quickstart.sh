#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The homeserver of the quickstart: quickstart.sh present|status|absent [ARGUMENT of ansible-playbook...]. Needs no more than
# ansible-core, in an environment of its own, and works with any HOME; settings of the caller's Ansible are left out.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
state=${1:?present, status or absent}
shift
"$root/tests/bin/setup.sh" quickstart
for name in $(compgen -e ANSIBLE_ || true); do unset "$name"; done
export ANSIBLE_HOME=$root/.cache/ansible-home
export ANSIBLE_REMOTE_TEMP=$ANSIBLE_HOME/remote # not the home that the user database names: it may not exist
# An empty one, so that no ansible.cfg of the caller's home or of the system changes what happens.
export ANSIBLE_CONFIG=$ANSIBLE_HOME/ansible.cfg
export ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false
export ANSIBLE_PYTHON_INTERPRETER=$root/.venv-quickstart/bin/python
# What is left out is left out of the screen too, so that the last lines are the answer.
export ANSIBLE_DISPLAY_SKIPPED_HOSTS=false
export PYTHONUNBUFFERED=1
mkdir -p "$ANSIBLE_HOME"
: > "$ANSIBLE_CONFIG"
cd "$root"
exec "$root/.venv-quickstart/bin/ansible-playbook" matrix_fleet.synapse.quickstart -e "synapse_quickstart_state=$state" "$@"
