#!/usr/bin/env bash
# clang-tidy over every source of ours, with the compile commands of the build folder given.
#   tools/check_tidy.sh build/release
set -euo pipefail
cd "$(dirname "$0")/.."
folders='base|kernels|engine|server|loadtest'
run-clang-tidy-16 -quiet -j "$(nproc)" -p "$1" "^$PWD/($folders)/.*\.cc$" 2>&1 |
  grep -E '(warning|error):' && exit 1
echo "clang-tidy: nothing to complain about"
