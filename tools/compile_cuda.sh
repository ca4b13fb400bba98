#!/usr/bin/env bash
# Compiles one CUDA source and keeps what ptxas says of its kernels' registers and spills beside the
# object, as OBJECT.resources, for tools/check_cuda_resources.py. CMake puts it before the compiler.
#   tools/compile_cuda.sh COMMAND...
set -uo pipefail
object=
previous=
for argument in "$@"; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
if [[ "$object" != *.o ]]; then exec "$@"; fi
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
"$@" 2>"$messages"
result=$?
is_report='^ptxas info|^ +[0-9]+ bytes stack frame|^$'
grep -E "$is_report" "$messages" >"$object.resources"
grep -vE "$is_report" "$messages" >&2
# What ptxas calls information about warpgroup products is a broken contract that it mends or a loss
# of speed (C7508 .. C7519): not in this house.
if grep -E '\(C75[0-9]{2}\)' "$messages" >&2; then
  rm -f "$object"
  exit 1
fi
exit $result
