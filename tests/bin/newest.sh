#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Unit tests, sanity, the playbooks' syntax and a real deployment under the newest ansible-core. Where no Python that it
# runs on is on this machine, one line says so, and that is not a failure.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"
tests/bin/setup.sh newest
if [ ! -x .venv-newest/bin/python ]; then
  say "NOT RUN: the newest ansible-core, for it needs Python 3.12 or newer and this machine has none"
  exit 0
fi
.venv-newest/bin/ansible --version | sed -n 1p
.venv-newest/bin/python -m pytest -q tests/unit
tests/bin/ansible-test.sh .venv-newest sanity --local
for playbook in playbooks/*.yml; do
  [ -e "$playbook" ] || continue
  name=matrix_fleet.synapse.$(basename "$playbook" .yml)
  .venv-newest/bin/ansible-playbook --syntax-check -i localhost, "$name" > /dev/null
  say "syntax ok: $name"
done
tests/bin/deploy_here.sh .venv-newest
