# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
# What the scripts beside this file share. Sourced, never run; `root` is the checkout.

say() { printf '%s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

is_debian() { [ -e /etc/debian_version ] && command -v apt-get > /dev/null; }

# PATH without pyenv's shims: a shim stands for an interpreter that may not be active, and then ends with 127.
plain_path() {
  local entry entries kept=
  IFS=: read -r -a entries <<< "$PATH"
  for entry in "${entries[@]}"; do
    case $entry in
      */shims | */shims/) ;;
      *) kept=${kept:+$kept:}$entry ;;
    esac
  done
  printf '%s' "$kept"
}

# Install packages of Debian, as root. apt works for one at a time: several of our commands wait for each other here.
install_packages() { # LOG PACKAGE...
  local log=$1
  shift
  mkdir -p "${root:?}/.cache"
  {
    flock 8
    # Services that a package starts must not keep the lock.
    {
      apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    } > "$log" 2>&1 8>&- 9>&-
  } 8> "$root/.cache/apt.lock"
}

# How many integration tests run at a time.
workers() {
  local cores
  cores=$(nproc)
  say $((cores < 4 ? cores : 4))
}

# uv reads none of pip's settings. Hand on what says where packages come from and whom to trust.
adopt_pip_settings() {
  [ -n "${SSL_CERT_FILE:-}" ] || [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=$PIP_CERT
  [ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
  [ -n "${UV_INDEX:-}" ] || [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX=$PIP_EXTRA_INDEX_URL
  # As pip does: whom this machine trusts is trusted. Older uv know it by the other name.
  [ -n "${SSL_CERT_FILE:-}" ] || export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1} UV_NATIVE_TLS=${UV_NATIVE_TLS:-1}
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_NO_PROGRESS=1
  export PIP_DISABLE_PIP_VERSION_CHECK=1
}

# One at a time per lock name: two make runs in one checkout wait for each other instead of breaking each other.
lock() { # NAME
  mkdir -p "${root:?}/.cache"
  exec 9> "$root/.cache/$1.lock"
  if ! flock --nonblock 9; then
    say "another run holds $1; waiting for it"
    flock 9
  fi
}
