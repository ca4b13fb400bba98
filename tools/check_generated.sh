#!/usr/bin/env bash
# Fails when a page that a program generates is not as that program writes it now.
#   tools/check_generated.sh build/release            compare
#   tools/check_generated.sh build/release --update   write them anew
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
status=0
page() { # page FILE COMMAND...
  local file=$1
  shift
  if [ "${update-}" = 1 ]; then
    "$@" >"$file"
  elif ! "$@" | diff -u "$file" - >/dev/null; then
    echo "$file is not what '$*' prints; run tools/check_generated.sh $build --update"
    status=1
  fi
}
[ "${2-}" = --update ] && update=1
page docs/flags.md "$build/server/sterna" help --markdown
page docs/metrics.md "$build/server/metrics/sterna-metrics-doc"
exit $status
