#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Tests against a real Synapse on this machine. Its environment is made by uv from the lock that the collection ships,
# once for each content of that lock, and handed to the tests as SYNAPSE_VENV. SYNAPSE_OLD_VENV is one of an old release,
# from tests/integration/old-synapse.txt, for what happens between two versions.
#   integration.sh [ARGUMENT of pytest...]      -n 0, for example: one test at a time, for a debugger
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"
adopt_pip_settings
# Root's cache is also what the hosts of molecule use; what root wrote, another user could not write to.
if is_root; then export UV_CACHE_DIR=$root/.cache/uv; fi
# A copy, not a hard link: what befalls a file of these environments must not befall the cache.
export UV_LINK_MODE=copy
venv=$root/.cache/synapse-venv
old_venv=$root/.cache/synapse-old-venv
lock_file=$root/.cache/synapse-requirements.txt

make_environment() { # FOLDER REQUIREMENTS [OPTION of uv pip install...]
  local python wanted folder=$1 requirements=$2
  shift 2
  # Rather the system's than one in somebody's home: tests run it as other users.
  python=/usr/bin/python3
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null ||
    python=$(tests/bin/find_python.sh controller)
  wanted=$(say "$python" "$@" | cat - "$requirements" tests/bin/integration.sh | sha256sum | cut -d' ' -f1)
  [ "$(cat "$folder/.made-from" 2> /dev/null)" != "$wanted" ] || return 0
  say "making .cache/${folder##*/} with $python"
  rm -rf "$folder"
  .venv/bin/uv venv --quiet --python "$python" "$folder"
  .venv/bin/uv pip install --quiet --python "$folder/bin/python" "$@" -r "$requirements"
  say "$wanted" > "$folder/.made-from"
}

make_environments() {
  lock synapse-venv
  PYTHONPATH=$root/plugins/module_utils .venv/bin/python -c 'import _default_lock; print(_default_lock.LOCK)' > "$lock_file"
  make_environment "$venv" "$lock_file" --require-hashes
  make_environment "$old_venv" tests/integration/old-synapse.txt --no-deps
  exec 9>&-
}

# The signing key's keeper asks PostgreSQL for events too; the tests start servers of their own from these programs.
provide_postgresql() {
  local log=$root/.cache/postgresql-install.log clusters=/etc/postgresql-common/createcluster.conf
  compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null && return
  if is_root && is_debian; then
    say "installing PostgreSQL"
    # The tests need the programs; no server of the system's own is wanted.
    mkdir -p /etc/postgresql-common
    [ -e "$clusters" ] || printf 'create_main_cluster = false\n' > "$clusters"
    install_packages "$log" postgresql || fail "PostgreSQL could not be installed: $(tail -n 3 "$log")"
  else
    fail "some tests need the programs of a PostgreSQL server. As root on Debian: apt-get install postgresql"
  fi
}

make_environments
provide_postgresql
export SYNAPSE_VENV=$venv SYNAPSE_OLD_VENV=$old_venv

# A folder for temporary files of this run alone: no other run's files are met there, and nothing of it stays. Other users
# can enter it, as they can enter /tmp.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
chmod 1777 "$TMPDIR"
# A file's tests stay together, in their order; conftest.py says which files come first.
command=(.venv/bin/python -m pytest -q --numprocesses "$(workers)" --dist loadfile --no-loadscope-reorder)
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then
    "${command[@]}" "$@"
    exit
  fi
done
"${command[@]}" tests/integration "$@"
