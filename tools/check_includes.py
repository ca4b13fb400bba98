#!/usr/bin/env python3
"""Checks who includes whom: base <- kernels <- engine <- server, proto <- server and loadtest.

The engine sees kernels/*.h but never a device's own headers, and CUDA headers appear only under
kernels/cuda. JSON stays in source files: no header pulls it into its users.
"""

import re
import subprocess
import sys

# Folder -> folders it may include from, itself included.
ALLOWED = {
    "base": {"base"},
    "kernels": {"base", "kernels"},
    "engine": {"base", "kernels", "engine"},
    "server": {"base", "kernels", "engine", "server", "proto"},
    "loadtest": {"base", "loadtest", "proto"},
    "bench": {"base", "kernels", "engine", "bench"},
    "tests": {"base", "kernels", "engine", "server", "loadtest", "proto", "bench", "tests"},
}
DEVICE_HEADER = re.compile(r"^kernels/(reference|cpu|cuda)/")
CUDA_HEADER = re.compile(r"^(cuda|cublas|nvml|cute|cutlass)")
CUPTI_HEADER = re.compile(r"^cupti")
# Headers that are slow to compile or belong to the transports, by who may include them.
THIRD_PARTY = [
    (re.compile(r"^nlohmann/"), re.compile(r"^(engine|server|loadtest|tests)/.*\.cc$"), "a .cc of a reader"),
    (re.compile(r"^boost/"), re.compile(r"^(server|loadtest|tests)/.*\.cc$"), "a .cc of a transport"),
    (re.compile(r"^(grpc|google/protobuf)"), re.compile(r"^(server|tests)/"), "server/"),
    (re.compile(r"^prometheus/"), re.compile(r"^(server/metrics|tests)/"), "server/metrics/"),
]
# FILE-FORMAT exception of the rule "JSON in source files only": internal headers of one folder.
JSON_HEADERS = re.compile(r"^(engine/(model|text)|server|loadtest|tests)/.*\.h$")


def problems_in(path: str) -> list[str]:
    folder = path.split("/")[0]
    found = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match:
                continue
            quote, name = match.groups()
            where = f"{path}:{number}"
            top = name.split("/")[0]
            if top in ALLOWED or top == "proto":
                if top not in ALLOWED[folder]:
                    found.append(f"{where}: {folder}/ may not include {name}")
                if DEVICE_HEADER.match(name) and folder not in ("kernels", "tests", "bench"):
                    found.append(f"{where}: only kernels/ may include a device's own header {name}")
            elif quote == '"' and "/" not in name:
                found.append(f'{where}: "{name}" must be given from the root of the repository')
            if CUDA_HEADER.match(name) and not path.startswith("kernels/cuda/"):
                found.append(f"{where}: CUDA header {name} outside kernels/cuda/")
            if CUPTI_HEADER.match(name) and not re.match(r"(bench/gpu|tests/unit/bench)/", path):
                found.append(f"{where}: {name} outside bench/gpu/")
            for header, may, who in THIRD_PARTY:
                if header.match(name) and not may.match(path):
                    if name.startswith("nlohmann/") and JSON_HEADERS.match(path):
                        continue
                    found.append(f"{where}: {name} belongs in {who}")
    return found


def main() -> int:
    files = subprocess.run(
        ["git", "ls-files", "*.cc", "*.h", "*.cu", "*.cuh"], capture_output=True, text=True, check=True
    ).stdout.split()
    files = [f for f in files if f.split("/")[0] in ALLOWED]
    problems = [p for f in files for p in problems_in(f)]
    print("\n".join(problems) if problems else f"include rules: {len(files)} files keep them")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
