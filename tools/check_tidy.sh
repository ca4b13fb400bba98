#!/usr/bin/env bash
# clang-tidy over every source of ours, with the compile commands of the build folder given.
#   tools/check_tidy.sh build/release
set -euo pipefail
cd "$(dirname "$0")/.."
sources=('base/*.cc' 'kernels/*.cc' 'engine/*.cc' 'server/*.cc' 'loadtest/*.cc')
# Without the toolkit's headers there is nothing to be said of its users.
grep -q '^STERNA_CUDA:BOOL=ON' "$1/CMakeCache.txt" || sources+=(':!kernels/cuda')
git ls-files "${sources[@]}" |
  xargs -P "$(nproc)" -n 1 .venv/bin/clang-tidy --quiet --warnings-as-errors='*' -p "$1"
echo "clang-tidy: nothing to complain about"
