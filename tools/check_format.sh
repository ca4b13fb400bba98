#!/usr/bin/env bash
# Fails, naming the places, when a C++ file is not as clang-format would write it.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format-16 --dry-run --Werror
