#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Build the collection, install the artifact as a user would, and read every module's documentation out of what was installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
export PATH=$root/.venv/bin:$PATH
area=$root/.cache/build
lock build
rm -rf "$area"
mkdir -p "$area/site"
# From a copy of what version control knows: litter in the checkout can neither get in nor hide that a file is missing.
(cd "$root" && git ls-files -co --exclude-standard -z |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar --null -T - -cf -) | { mkdir "$area/source" && tar -xf - -C "$area/source"; }
ansible-galaxy collection build "$area/source" --output-path "$area" > "$area/log"
artifact=$(echo "$area"/matrix_fleet-synapse-*.tar.gz)
ansible-galaxy collection install "$artifact" --offline --force --collections-path "$area/site" >> "$area/log" 2>&1 ||
  fail "the artifact does not install: $(tail -n 5 "$area/log")"
installed=$area/site/ansible_collections/matrix_fleet/synapse
modules=()
for file in "$installed"/plugins/modules/*.py; do
  name=$(basename "$file" .py)
  [ "$name" = __init__ ] || [ ! -e "$file" ] || modules+=("matrix_fleet.synapse.$name")
done
[ ${#modules[@]} -gt 0 ] || fail "no module is in the artifact"
# Isolated from the link in .venv, which would stand in for what the artifact lacks.
cd "$area"
ANSIBLE_COLLECTIONS_PATH=$area/site ANSIBLE_COLLECTIONS_SCAN_SYS_PATH=false \
  ansible-doc --type module --json "${modules[@]}" > docs.json
python - "$installed" "${modules[@]}" << 'PYTHON'
import json
import pathlib
import sys

documents = json.loads(pathlib.Path("docs.json").read_text(encoding="utf-8"))
for name in sys.argv[2:]:
    document = documents[name]
    if not document["doc"]["filename"].startswith(sys.argv[1]):
        raise SystemExit(f"{name} was read from {document['doc']['filename']}, not from the installed artifact")
    lacking = [part for part in ("doc", "examples", "return") if not document.get(part)]
    if lacking:
        raise SystemExit(f"{name} is documented without {lacking}")
PYTHON
say "$(basename "$artifact"): built, installed, ${#modules[@]} modules documented"
