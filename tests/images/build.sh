#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Build the images of molecule's hosts: build.sh [SUITE...], default the suites that the scenarios name.
#   MOLECULE_IMAGE_REPO  ready-made images are used: nothing is built
#   MOLECULE_BASE_REPO   where the bases come from, default debian; docker has them or can pull them.
#                        Where it cannot, a base is bootstrapped from this machine's own Debian mirror.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"

bases=${MOLECULE_BASE_REPO:-debian}
target=matrix-fleet/systemd
# An image stays good while its recipe is the same.
recipe=$(sha256sum < "$root/tests/images/Dockerfile" | cut -c1-16)

mirror() { # the archive in this machine's own apt sources
  # shellcheck disable=SC2016 # the fields are apt's, not the shell's
  apt-get indextargets --format '$(REPO_URI)|$(ORIGIN)|$(LABEL)' 'Created-By: Packages' |
    awk -F'|' '$2 == "Debian" && $3 == "Debian" { print $1; exit }'
}

bootstrap() { # SUITE TAG
  local uri hooks=() archive=$work/$1.tar
  if ! is_debian || ! is_root; then
    fail "$bases:$1 is neither in Docker nor can it be pulled, and only root on Debian can bootstrap it instead." \
      "Name a repository that has it (MOLECULE_BASE_REPO), or finished images (MOLECULE_IMAGE_REPO), or run this as root."
  fi
  uri=$(mirror)
  if [ -z "$uri" ] || ! command -v mmdebstrap > /dev/null; then
    install_packages "$work/apt.log" mmdebstrap ||
      fail "mmdebstrap could not be installed: $(tail -n 3 "$work/apt.log")"
    uri=$(mirror)
  fi
  [ -n "$uri" ] || fail "this machine's apt sources name no Debian archive to bootstrap $1 from."
  case $1 in
    bullseye | bookworm) ;;
    *) hooks=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr) ;;
  esac
  mmdebstrap --quiet --mode=root --variant=minbase "${hooks[@]}" --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$1" "$archive" "$uri" > "$work/$1.log" 2>&1 ||
    fail "$1 could not be bootstrapped from $uri: $(tail -n 5 "$work/$1.log")"
  docker import "$archive" "$2" > /dev/null
  rm -f "$archive"
}

base_of() { # SUITE: sets base
  base=$bases:$1
  ! docker image inspect "$base" > /dev/null 2>&1 || return 0
  if [ -z "${offline:-}" ] && timeout 300 docker pull -q "$base" > /dev/null 2>&1; then
    return
  fi
  offline=yes
  base=localhost/debian:$1
  if ! docker image inspect "$base" > /dev/null 2>&1; then
    say "$target:$1: no registry has $bases:$1; bootstrapping it (a minute)"
    bootstrap "$1" "$base"
  fi
}

suites=("$@")
if [ ${#suites[@]} -eq 0 ]; then
  mapfile -t suites < <(cat "$root/.config/molecule/config.yml" "$root"/molecule/*/molecule.yml |
    sed -n 's,^.*matrix-fleet/systemd}:\([a-z]*\)"*$,\1,p' | sort -u)
fi
if [ -n "${MOLECULE_IMAGE_REPO:-}" ]; then
  say "using ready-made images: $MOLECULE_IMAGE_REPO"
  exit 0
fi
lock images
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for suite in "${suites[@]}"; do
  have=$(docker image inspect --format '{{ index .Config.Labels "recipe" }}' "$target:$suite" 2> /dev/null || true)
  [ "$have" != "$recipe" ] || continue
  begin=$SECONDS
  base_of "$suite"
  DOCKER_BUILDKIT=0 docker build -q --no-cache --label "recipe=$recipe" --build-arg "BASE=$base" -t "$target:$suite" \
    "$root/tests/images" > "$work/build" 2>&1 || fail "$target:$suite could not be built: $(tail -n 5 "$work/build")"
  say "$target:$suite made from $base in $((SECONDS - begin)) s"
done
