#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The page that the playbook status writes, in a headless Chromium. Pictures of it are left in .cache/browser.
#   browser.sh [ARGUMENT of pytest...]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"

provide_chromium() {
  local log=$root/.cache/chromium-install.log
  command -v chromium chromium-browser google-chrome > /dev/null && return
  if is_root && is_debian; then
    say "installing Chromium"
    install_packages "$log" chromium || fail "Chromium could not be installed: $(tail -n 3 "$log")"
  else
    fail "the page is tested in Chromium, which is not installed. As root on Debian: apt-get install chromium"
  fi
}

lock browser
provide_chromium
exec .venv/bin/python -m pytest -q tests/browser "$@"
