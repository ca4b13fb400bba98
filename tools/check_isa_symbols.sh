#!/bin/sh
# Fails if an object file compiled for one instruction set exports anything but its kernel table, or
# runs anything before main.
# An inline function or template that such a file emits is a weak symbol: the linker may keep that
# copy for the whole program, which then executes, say, AVX-512 on a machine without it.
#
# Use: check_isa_symbols.sh <libsterna_kernels.a>
set -eu
archive=${1:?usage: check_isa_symbols.sh <libsterna_kernels.a>}
status=0
checked=0
for object in $(ar t "$archive" | grep -E '^(scalar|avx[0-9a-z_]*|amx[0-9a-z_]*)_kernels\.cc\.o$'); do
  checked=$((checked + 1))
  # Upper-case letters are global symbols; W, V and u are weak or unique. The one strong function
  # allowed is the table's accessor.
  extra=$(nm -C --defined-only "$archive" 2>/dev/null |
    awk -v object="$object:" '
      /:$/ { inside = ($0 == object); next }
      inside && NF >= 3 && $2 ~ /^[A-Zuvw]$/ {
        name = $0; sub(/^[0-9a-f]+ . /, "", name)
        if (!($2 == "T" && name ~ /^sterna::cpu::[A-Za-z0-9]+Kernels\(\)$/)) print $2 " " name
      }')
  # Code that runs before main does so before anybody has asked what the machine can execute.
  initialisers=$(nm --defined-only "$archive" 2>/dev/null |
    awk -v object="$object:" '
      /:$/ { inside = ($0 == object); next }
      inside && $NF ~ /^(_GLOBAL__sub_I_|_ZStL8__ioinit)/ { print $NF }')
  if [ -n "$initialisers" ]; then
    echo "$object has static initialisers, as <iostream> in a header brings them:" >&2
    echo "$initialisers" >&2
    status=1
  elif [ -n "$extra" ]; then
    echo "$object exports symbols that the linker may use for the whole program:" >&2
    echo "$extra" >&2
    status=1
  else
    echo "$object: exports its table alone"
  fi
done
if [ "$checked" -eq 0 ]; then
  echo "no kernel objects found in $archive" >&2
  exit 1
fi
exit $status
