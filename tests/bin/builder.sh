#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Have ansible-builder accept execution-environment.yml with the artifact that build.sh left.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
area=$root/.cache/builder
lock builder
rm -rf "$area"
mkdir -p "$area"
cp "$root/execution-environment.yml" "$root"/.cache/build/matrix_fleet-synapse-*.tar.gz "$area"
cd "$area"
"$root/.venv/bin/ansible-builder" create --file execution-environment.yml --context context > log 2>&1 ||
  fail "ansible-builder refuses execution-environment.yml: $(tail -n 10 log)"
[ -s context/Dockerfile ] || [ -s context/Containerfile ] || fail "ansible-builder wrote no build file into $area/context"
"$root/.venv/bin/ansible-builder" introspect "$root/.cache/build/site" >> log 2>&1 ||
  fail "ansible-builder cannot read meta/execution-environment.yml: $(tail -n 10 log)"
say "execution environment: accepted"
