#!/usr/bin/env python3
"""Compares the registers and spills of the CUDA kernels with the recorded budget.

    tools/check_cuda_resources.py BUILD_DIR            fails where a kernel takes more, or is not known
    tools/check_cuda_resources.py BUILD_DIR --update   records what they take now

A kernel that needs more registers than its launch allows for runs with fewer threads at a time; one
that spills reads and writes memory that nobody sees in the source. Neither fails a test.
"""

import re
import subprocess
import sys
from pathlib import Path

BUDGET = Path(__file__).parent.parent / "kernels/cuda/resource_budget.txt"
HEADER = """\
# Registers of a thread and bytes of its stack frame (spills and arrays in memory) for each kernel,
# as ptxas reports them: kernels/cuda, by tools/check_cuda_resources.py BUILD_DIR --update.
# arch     registers  stack  kernel
"""


def readable(mangled: list[str]) -> list[str]:
    names = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    short = []
    for name in names:
        name = re.sub(r"sterna::cuda::|\(anonymous namespace\)::|_GLOBAL__N__\w+::|^void ", "", name)
        short.append(re.sub(r"\((?:int|bool)\)|\(.*\)$", "", name).replace(", ", ","))
    return short


def reported(build: Path) -> dict[tuple[str, str], tuple[int, int]]:
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for path in sorted(build.glob("kernels/CMakeFiles/**/*.resources")):
        kernel, stack = None, 0
        for line in path.read_text().splitlines():
            if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
                kernel = (match[2], match[1])
            elif match := re.match(r" +(\d+) bytes stack frame", line):
                stack = int(match[1])
            elif (match := re.search(r"Used (\d+) registers", line)) and kernel:
                found[kernel] = (int(match[1]), stack)
                kernel, stack = None, 0
    names = readable([mangled for _, mangled in found])
    return {(arch, name): use for ((arch, _), use), name in zip(found.items(), names)}


def recorded() -> dict[tuple[str, str], tuple[int, int]]:
    budget = {}
    for line in BUDGET.read_text().splitlines():
        if not line.startswith("#"):
            arch, registers, stack, kernel = line.split(maxsplit=3)
            budget[arch, kernel] = (int(registers), int(stack))
    return budget


def main() -> int:
    uses = reported(Path(sys.argv[1]))
    if not uses:
        print(f"{sys.argv[1]} has no report of CUDA kernels: was it built with STERNA_CUDA?")
        return 1
    if "--update" in sys.argv:
        lines = [f"{a:<9}{u[0]:>10}{u[1]:>7}  {k}\n" for (a, k), u in sorted(uses.items(), key=lambda i: (i[0][1], i[0][0]))]
        BUDGET.write_text(HEADER + "".join(lines))
    budget = recorded()
    problems = [f"{a} {k} is not in {BUDGET.name}" for a, k in uses if (a, k) not in budget]
    problems += [f"{a} {k} is in {BUDGET.name}, but no longer built" for a, k in budget if (a, k) not in uses]
    for (arch, kernel), (registers, stack) in uses.items():
        most = budget.get((arch, kernel), (registers, stack))
        if registers > most[0] or stack > most[1]:
            problems.append(
                f"{arch} {kernel}: {registers} registers and {stack} bytes of stack; recorded are {most[0]} and {most[1]}"
            )
    print("\n".join(problems) if problems else f"CUDA resources: {len(uses)} kernels within their budget")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
