#!/usr/bin/env python3
"""What this GPU can do at most, and what bf16 takes for the shapes of bench/cuda_bench.cc.

JSON lines on standard output: copy bandwidth (bytes read and written), the rate of a large int8
matrix product, and the time of the bf16 product (cuBLAS, through PyTorch) of every shape and number
of tokens, weights rotating so that the L2 does not serve them. Medians of CUDA event times.
"""

import json
import statistics
import sys

try:
    import torch
except ImportError as error:
    sys.exit(f"ceilings.py: {error}")
if not torch.cuda.is_available():
    sys.exit("ceilings.py: PyTorch sees no GPU")

ROTATED_BYTES = 1 << 30
SHAPES = {
    ("2b-4t", "qkv"): (3840, 2560),
    ("2b-4t", "o"): (2560, 2560),
    ("2b-4t", "gate_up"): (13824, 2560),
    ("2b-4t", "down"): (2560, 6912),
    ("llama3-8b", "qkv"): (6144, 4096),
    ("llama3-8b", "o"): (4096, 4096),
    ("llama3-8b", "gate_up"): (28672, 4096),
    ("llama3-8b", "down"): (4096, 14336),
}
TOKENS = [1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192]


def median_ns(body, calls: int) -> float:
    """Of one call of `calls` that `body` makes, from a replayed graph."""
    body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(5):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e6 / 5 / calls)
    return statistics.median(times)


def emit(**fields) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    torch.manual_seed(0)
    emit(op="device", name=torch.cuda.get_device_name(), torch=torch.__version__)
    source = torch.randint(-128, 127, (4 << 30,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    ns = median_ns(lambda: target.copy_(source), 1)
    emit(op="copy", gbytes_per_s=2 * source.numel() / ns)
    del source, target

    n = 8192
    a = torch.randint(-127, 127, (n, n), dtype=torch.int8, device="cuda")
    b = torch.randint(-127, 127, (n, n), dtype=torch.int8, device="cuda")
    ns = median_ns(lambda: torch._int_mm(a, b.t()), 1)
    emit(op="int8_matmul", tops=2 * n**3 / ns / 1e3)
    del a, b

    for (model, name), (rows, cols) in SHAPES.items():
        copies = max(1, ROTATED_BYTES // (rows * cols * 2))
        weights = [torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
        for tokens in TOKENS:
            x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)

            def body():
                for w in weights:
                    torch.nn.functional.linear(x, w)

            emit(op="bf16", model=model, name=name, tokens=tokens, ns=median_ns(body, copies))


if __name__ == "__main__":
    main()
