#!/usr/bin/env bash
# clang-tidy over every source of ours, with the compile commands of the build folder given.
#   tools/check_tidy.sh build/release
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files 'base/*.cc' 'kernels/*.cc' 'engine/*.cc' 'server/*.cc' 'loadtest/*.cc' |
  xargs -P "$(nproc)" -n 1 .venv/bin/clang-tidy --quiet --warnings-as-errors='*' -p "$1"
echo "clang-tidy: nothing to complain about"
