#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# See that a Docker daemon answers; where none does, provide one if this user can, else say what to do.
# What already runs is never stopped or restarted.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
log=$root/.cache/dockerd.log

answers() { docker info > /dev/null 2>&1; }

explain_for_user() {
  if command -v docker > /dev/null; then
    fail "Docker is installed, but its daemon does not answer this user: $(docker info 2>&1 | tail -n 1)" \
      "Start it (systemctl start docker) and let this user in (usermod -aG docker $(id -un), then log in again)," \
      "or run this as root."
  fi
  fail "molecule needs Docker, which is not installed. As root on Debian: apt-get install docker.io iptables;" \
    "then let this user in: usermod -aG docker $(id -un), and log in again."
}

install() {
  ! { command -v dockerd && command -v docker && command -v iptables; } > /dev/null || return 0
  is_debian || fail "molecule needs Docker (docker, dockerd, iptables), and only on Debian is it installed from here." \
    "Install it with this system's package manager, then try again."
  say "installing Docker"
  install_packages "$log" docker.io iptables ||
    fail "Docker could not be installed: $(tail -n 3 "$log")"
}

start() {
  if [ -d /run/systemd/system ] && systemctl start docker.service 2> /dev/null; then
    return
  fi
  say "starting dockerd (its output: $log)"
  # In a session of its own, so that it outlives this command; no lock of ours goes with it.
  setsid dockerd > "$log" 2>&1 < /dev/null 9>&- &
}

! answers || exit 0
is_root || explain_for_user
lock docker
! answers || exit 0
install
answers || start
for ((i = 0; i < 120; i++)); do
  ! answers || exit 0
  sleep 0.5
done
fail "dockerd was started but does not answer after a minute. The end of its output:" "$(tail -n 5 "$log" 2> /dev/null)"
