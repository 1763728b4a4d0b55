#!/usr/bin/env bash
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Every check that reads the files and runs none of them. All of them run; the end says which ones failed.
#   lint.sh [CHECK...]    default: all
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd -P)
. "$root/tests/bin/common.sh"
cd "$root"
export PATH=$root/.venv/bin:$PATH NO_COLOR=1

check_ruff() {
  local status=0
  ruff check --quiet --no-fix --output-format concise . || status=1
  ruff format --check --output-format concise . || status=1
  return $status
}
check_mypy() { tests/bin/mypy.sh; }
check_yamllint() { yamllint --strict .; }
check_shellcheck() { git ls-files -z -co --exclude-standard -- '*.sh' .ci/run tests/bench/run | xargs -0 shellcheck; }
check_ansible_lint() { ansible-lint --profile production --strict --offline --nocolor --format pep8 -q; }
check_docs() {
  antsibull-docs lint-collection-docs --plugin-docs --check-extra-docs-refs --validate-collection-refs all \
    --disallow-unknown-collection-refs .
}
check_changelog() { antsibull-changelog lint; }
check_reuse() { reuse lint --lines; }

checks=("$@")
[ ${#checks[@]} -gt 0 ] || checks=(ruff mypy yamllint shellcheck reuse changelog docs ansible_lint)
failed=()
for check in "${checks[@]}"; do
  printf '%-13s' "$check"
  begin=$EPOCHREALTIME
  if output=$("check_$check" 2>&1); then
    result=ok
  else
    result=FAILED
    failed+=("$check")
  fi
  printf '%-7s%3d.%d s\n' "$result" $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000000)) \
    $(((${EPOCHREALTIME/./} - ${begin/./}) / 100000 % 10))
  [ "$result" = ok ] || printf '%s\n' "$output"
done
[ ${#failed[@]} -eq 0 ] || fail "lint: ${failed[*]} failed; run one alone with: tests/bin/lint.sh ${failed[0]}"
say "lint: ${#checks[@]} passed, 0 failed"
