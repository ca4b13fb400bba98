"""Measures Sterna and peers of the llama.cpp family on one machine, test by test in turn.

    python3 compare.py --peer NAME=BIN_DIR:MODEL.gguf [--peer ...] [--rounds 5] [--json FILE]

BIN_DIR holds the peer's llama-bench and llama-batched-bench, MODEL is of the 2B-4T shape
(make_gguf.py). In each round every test runs once for each competitor, one after the other, so that
what the machine does in that minute hits them alike; the ratios printed, after every round, are
medians over the rounds of the ratio within a round. The machine's own limits are measured in every
round as well.

A virtual machine's neighbours take processor time that it then cannot have ("steal" in /proc/stat).
With --most-steal 0.03 what was measured while they took more than that part is measured again, up
to --tries times; if all were disturbed the least disturbed counts. The JSON has the part for
every figure.
"""

import argparse
import functools
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def output_of(*command):
    with tempfile.TemporaryDirectory() as directory:  # some leave a log where they run
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False,
                              cwd=directory)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


class Test:
    """`prompt` tokens of one sequence, or `batch` sequences that decode after 128 tokens each."""

    def __init__(self, prompt=0, batch=0):
        self.prompt, self.batch = prompt, batch
        self.name = f"pp{prompt}" if prompt else f"tg x {batch}"


class Sterna:
    def __init__(self, program, threads, decode, extra):
        self.name, self.program = "sterna", pathlib.Path(program).resolve()
        self.threads, self.decode = threads, decode
        self.extra = extra

    def measure(self, test):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            output_of(self.program, "bench", "--shape", "2b-4t", "--threads", self.threads,
                      "--prompt-tokens", test.prompt or "", "--batch", test.batch or "",
                      "--context-tokens", 128, "--decode-tokens", self.decode,
                      "--repetitions", 1, "--json", file.name, *self.extra)
            return json.load(file)["cases"][0]["tokens_per_second_median"]


class Peer:
    def __init__(self, text, threads, decode, extra):
        self.name, paths = text.split("=", 1)
        directory, model = paths.rsplit(":", 1)
        self.directory, self.model = pathlib.Path(directory).resolve(), pathlib.Path(model).resolve()
        self.threads = threads
        self.decode, self.extra = decode, extra

    def measure(self, test):
        if test.batch > 1:
            return self.measure_batch(test.batch)
        sizes = ("-p", test.prompt, "-n", 0) if test.prompt else ("-p", 0, "-n", self.decode)
        text, _ = output_of(self.directory / "llama-bench", "-m", self.model, "-t", self.threads,
                            *sizes, "-r", 1, "-o", "json", *self.extra)
        return json.loads(text[text.index("["):])[0]["avg_ts"]

    def measure_batch(self, batch):
        context = 128 + batch * (self.decode + 128)
        text = "".join(output_of(  # the table goes to one or the other, by version
            self.directory / "llama-batched-bench", "-m", self.model, "-t", self.threads, "-c", context,
            "-npp", 128, "-ntg", self.decode, "-npl", batch, "-pps", *self.extra))
        row = re.search(rf"^\|\s+128 \|\s+{self.decode} \|\s+{batch} \|(.*)\|$", text, re.MULTILINE)
        if row is None:
            raise SystemExit(f"{self.name}: no row for {batch} sequences in\n{text[-2000:]}")
        return float(row[1].split("|")[4])  # after N_KV, T_PP, S_PP and T_TG: S_TG


def limits(program, threads):
    text, _ = output_of(program, f"--threads={threads}", "--benchmark_format=json",
                        f"--benchmark_filter=Limits/.*threads:{threads}/")
    found = {}
    for row in json.loads(text)["benchmarks"]:
        for unit in ("GB", "GOP"):
            if unit in row:
                name = row["name"].removeprefix("Limits/").removesuffix("/real_time")
                found[f"{name}, {unit}/s"] = row[unit] / (1 if row[unit] < 1e6 else 1e9)
    return found


def processor_ticks():
    """Ticks of all processors since boot, and those of them that neighbours took."""
    with open("/proc/stat") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:9]]  # the rest is in user and nice
    return sum(ticks), ticks[7]


def undisturbed(measure, most_steal, tries):
    """What measure() returns, and the part of processor time that was stolen meanwhile."""
    best = None
    for _ in range(tries):
        total_before, stolen_before = processor_ticks()
        value = measure()
        total, stolen = processor_ticks()
        part = (stolen - stolen_before) / max(total - total_before, 1)
        if best is None or part < best[1]:
            best = value, part
        if part <= most_steal:
            break
    return best


def spread(values):
    return f"{statistics.median(values):9.2f} ({min(values):.2f} to {max(values):.2f})"


def report(path, machine, tests, peers, figures, steal):
    for name, values in machine.items():
        print(f"{name:45}{spread(values)}")
    for test in tests:
        ours = figures[test.name]["sterna"]
        print(f"{test.name:10}{'sterna':35}{spread(ours)}")
        for peer in peers:
            theirs = figures[test.name][peer.name]
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            print(f"{'':10}{peer.name:35}{spread(theirs)}  sterna is {ratio:.2f} times as fast")
    parts = [100 * part for of_one in steal.values() for part in of_one]
    print(f"{'stolen processor time, %':45}{spread(parts)}", flush=True)
    if path:
        pathlib.Path(path).write_text(
            json.dumps({"limits": machine, "tokens_per_second": figures, "steal": steal},
                       indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sterna", default=ROOT / "build/release/server/sterna")
    parser.add_argument("--kernels-bench", default=ROOT / "build/release/bench/kernels_bench")
    parser.add_argument("--peer", action="append", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--batch", default="1,16,32")
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--sterna-args", default="", help="e.g. '--cpu-isa avx2'")
    parser.add_argument("--peer-args", default="")
    parser.add_argument("--most-steal", type=float, default=1.0)
    parser.add_argument("--tries", type=int, choices=range(1, 100), default=5, metavar="N")
    parser.add_argument("--json", help="file for every single figure")
    args = parser.parse_args()

    def measured(name, measure):
        value, part = undisturbed(measure, args.most_steal, args.tries)
        steal.setdefault(name, []).append(part)
        return value

    sterna = Sterna(args.sterna, args.threads, args.decode, args.sterna_args.split())
    peers = [Peer(p, args.threads, args.decode, args.peer_args.split()) for p in args.peer]
    tests = [Test(prompt=args.prompt)] + [Test(batch=int(b)) for b in args.batch.split(",")]
    figures = {test.name: {c.name: [] for c in (sterna, *peers)} for test in tests}
    machine, steal = {}, {}
    bench = pathlib.Path(args.kernels_bench).resolve()
    for round_number in range(args.rounds):
        for name, value in measured("limits", lambda: limits(bench, args.threads)).items():
            machine.setdefault(name, []).append(value)
        for test in tests:
            for competitor in (sterna, *peers):
                figures[test.name][competitor.name].append(
                    measured(f"{test.name}, {competitor.name}",
                             functools.partial(competitor.measure, test)))
        print(f"\nafter {round_number + 1} of {args.rounds} rounds:", flush=True)
        report(args.json, machine, tests, peers, figures, steal)


if __name__ == "__main__":
    main()
