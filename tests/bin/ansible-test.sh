#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Run ansible-test on a copy of the checkout that lies where ansible-test insists: ansible_collections/NAMESPACE/NAME.
#   ansible-test.sh ENVIRONMENT ARGUMENT...    for example: ansible-test.sh .venv sanity --local
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
cache=$root/.cache
. "$root/tests/bin/common.sh"

venv=$root/$1
shift
area=$cache/ansible-test/${venv##*/}
tree=$area/ansible_collections
work=$tree/matrix_fleet/synapse
home=$area/home
lock "ansible-test-${venv##*/}"

rm -rf "$tree"
mkdir -p "$work" "$home/.config/pip" "$home/.ansible/test/cache"
(cd "$root" && git ls-files -co --exclude-standard -z |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar --null -T - -cf -) | tar -xf - -C "$work"
# Inside this checkout's repository every file of the copy is an ignored one, and ansible-test would skip all of them and
# still succeed: give the copy a repository of its own.
git init --quiet "$work"

# ansible-test passes on almost nothing of its environment: what pip needs to know has to be in a file.
{
  say "[global]"
  say "disable-pip-version-check = true"
  say "quiet = 2"
  [ -z "${PIP_CERT:-}" ] || say "cert = $PIP_CERT"
  [ -z "${PIP_INDEX_URL:-}" ] || say "index-url = $PIP_INDEX_URL"
} > "$home/.config/pip/pip.conf"

# It would fetch the installer of pip from a host of its own. Put pip's own package, from the package index, in its place.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
store=$home/.ansible/test/cache
sed -n "s/^ *pip='\([0-9.]*\)',$/\1/p" "$site/ansible_test/_internal/python_requirements.py" | while read -r version; do
  script=$store/get_pip_${version//./_}.py
  [ ! -e "$script" ] || continue
  "$venv/bin/python" -m pip download -qq --no-deps --dest "$store" "pip==$version"
  cat > "$script" << END
import runpy
import sys

sys.path.insert(0, "$store/pip-$version-py3-none-any.whl")
sys.argv[1:] = ["install", *(word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel"))]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
END
done

PATH=$venv/bin:$(plain_path):$("$root/tests/bin/find_python.sh" all 8 14)
export PATH HOME=$home
unset XDG_CONFIG_HOME
cd "$work"
status=0
"$venv/bin/ansible-test" "$@" 2>&1 | sed -u '/^Installing requirements for /d; /^Using cached pip /d' |
  tee "$area/output" || status=$?
if grep -q "All targets skipped" "$area/output"; then
  fail "ansible-test found nothing to test, which is never right here."
fi
exit "$status"
