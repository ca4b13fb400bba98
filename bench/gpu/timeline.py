#!/usr/bin/env python3
"""How much of a step the GPU is idle, and where: of a file of libsterna_timeline.so.

    timeline.py TRACE [--json FILE] [--picture FILE.svg] [--anchor NAME]
                [--untraced BENCH.json] [--traced BENCH.json]

Prints Markdown. Busy is the union of all that runs: kernels overlap where one starts before the one
before it has ended (programmatic dependent launch), and one that waits for another counts for
nothing more, as the other runs. Idle is the rest of the window. What passes between one kernel's end
and the next one's beginning to work, which already waits for it, is so not idle but a part of the
latter's exclusive time: what it takes longer there than on its own, in kernels.jsonl.

A step is what lies between the starts of two launches of a large graph, so a recorded decode step
with the copies and sampling around it; small graphs are those that take under half as long as the
ones in which the GPU spends most of its time. Without graphs a step lies between two copies to the
host, and with --anchor between two kernels with that in their names. The window is the longest run
of steps none of which takes under half or over twice the median of all.

--untraced and --traced are files of `sterna-bench --json` of the same test without and with the
recorder: what recording costs, and how much of a step is idle without it if kernels take as long.

--picture draws the step of the median time; it needs matplotlib, the figures need nothing.
"""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

FORMAT = ["sterna-timeline", "1"]
KINDS = ("kernel", "copy", "set", "graph")
LISTED = 12  # lines of a table
LEAST_STEPS = 3


class TimelineError(Exception):
    """A file or a trace of which nothing can be said, and why."""


@dataclass(frozen=True)
class Record:
    """Something the GPU did; times in ns, names short."""

    kind: str
    start: int
    end: int
    stream: int
    launch: int
    graph: int
    bytes: int
    name: str


def short_name(name: str) -> str:
    """A kernel's name without return type, namespaces and parameters."""
    name = name.replace("(anonymous namespace)::", "")
    depth, begin, end = 0, 0, len(name)
    for i, c in enumerate(name):
        if c == "<":
            depth += 1
        elif c == ">":
            depth -= 1
        elif depth == 0 and c == "(":
            end = i
            break
        elif depth == 0 and c in " :":
            begin = i + 1
    return re.sub(r"\b(?:\w+::)+", "", name[begin:end]) or name


def read(lines) -> tuple[list[Record], dict[str, int]]:
    """The records by start, and the notes on what is not among them."""
    lines = iter(lines)
    if next(lines, "").rstrip("\n").split("\t") != FORMAT:
        raise TimelineError("this is no file of libsterna_timeline.so (of this version)")
    records, notes, names = [], {}, {}
    for number, line in enumerate(lines, 2):
        kind, *fields = line.rstrip("\n").split("\t")
        try:
            if kind == "note":
                notes[fields[0]] = int(fields[1])
            elif kind == "name":
                names[int(fields[0])] = fields[1]
            elif kind in KINDS:
                start, end, stream, launch, graph, size, name = map(int, fields)
                if end < start:
                    raise ValueError("it ends before it starts")
                full = names[name]
                text = short_name(full) if kind == "kernel" else full
                records.append(Record(kind, start, end, stream, launch, graph, size, text))
            else:
                raise ValueError(f"no line begins with {kind[:20]!r}")
        except (ValueError, KeyError, IndexError) as error:
            raise TimelineError(f"line {number} is not as it should be: {error}") from error
    return sorted(records, key=lambda r: (r.start, r.end)), notes


def union(intervals) -> list[tuple[int, int]]:
    """What the (start, end) cover, as intervals that neither overlap nor touch, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def clipped(records: list[Record], start: int, end: int) -> list[tuple[int, int]]:
    return [
        (max(r.start, start), min(r.end, end)) for r in records if r.start < end and r.end > start
    ]


def gaps(records: list[Record], start: int, end: int) -> list[tuple[int, Record, Record]]:
    """The ns of every gap in [start, end], and what ended last before and began first after it."""
    found, last = [], None
    for r in records:
        if last is not None and r.start > last.end:
            gap = min(r.start, end) - max(last.end, start)
            if gap > 0:
                found.append((gap, last, r))
        if last is None or r.end > last.end:
            last = r
        if r.start >= end:
            break
    return found


def step_starts(records: list[Record], anchor: str | None = None) -> list[int]:
    if anchor is not None:
        return [r.start for r in records if anchor in r.name]
    launches: dict[int, tuple[int, int]] = {}
    for r in records:
        if r.graph != 0:
            start, end = launches.get(r.launch, (r.start, r.end))
            launches[r.launch] = (min(start, r.start), max(end, r.end))
    if not launches:
        return [r.start for r in records if r.name == "copy device to host"]
    times = sorted((end - start for start, end in launches.values()), reverse=True)
    reached, typical = 0, 0
    for typical in times:  # launches that take this long or longer have half of the time
        reached += typical
        if 2 * reached >= sum(times):
            break
    return sorted(start for start, end in launches.values() if 2 * (end - start) >= typical)


def steady(starts: list[int]) -> list[int]:
    """The starts of the longest run of steps of about the same time, its end included."""
    if len(starts) < 2:
        return []
    median = statistics.median(b - a for a, b in pairwise(starts))
    best, run = [], [starts[0]]
    for a, b in pairwise(starts):
        if median <= 2 * (b - a) and b - a <= 2 * median:
            run.append(b)
        else:
            run = [b]
        if len(run) > len(best):
            best = list(run)
    return best


def by_kernel(records: list[Record], start: int, end: int, steps: int) -> list[dict]:
    spent, alone, calls = defaultdict(int), defaultdict(int), defaultdict(int)
    latest = start  # end of those that began before
    for r in sorted(records, key=lambda r: (r.start, r.end)):
        if start <= r.start < end:
            spent[r.name] += r.end - r.start
            alone[r.name] += max(0, r.end - max(r.start, latest))
            calls[r.name] += 1
        latest = max(latest, r.end)
    window = end - start
    return [
        {
            "name": name,
            "calls_per_step": calls[name] / steps,
            "us_per_step": ns / steps / 1e3,
            # After all that began earlier had ended: what a step would be shorter by without it, the
            # wait for the others' end included, which is to be compared with what it takes alone.
            "us_exclusive_per_step": alone[name] / steps / 1e3,
            "percent": 100 * ns / window,
        }
        for name, ns in sorted(spent.items(), key=lambda item: (-item[1], item[0]))
    ]


def by_gap(found: list[tuple[int, Record, Record]], window: int, steps: int) -> list[dict]:
    all_of = defaultdict(list)
    for ns, before, after in found:
        all_of[before.name, after.name].append(ns)
    return [
        {
            "after": names[0],
            "before": names[1],
            "per_step": len(ns) / steps,
            "us_median": statistics.median(ns) / 1e3,
            "us_largest": max(ns) / 1e3,
            "percent": 100 * sum(ns) / window,
        }
        for names, ns in sorted(all_of.items(), key=lambda item: (-sum(item[1]), item[0]))
    ]


def analyse(records: list[Record], anchor: str | None = None) -> dict:
    """Everything that is printed, of the window of steady steps."""
    starts = steady(step_starts(records, anchor))
    steps = len(starts) - 1
    if steps < LEAST_STEPS:
        raise TimelineError(
            f"{max(steps, 0)} steps of about the same time in {len(records)} records; "
            f"{LEAST_STEPS} are needed"
        )
    start, end = starts[0], starts[-1]
    window = end - start
    times = [b - a for a, b in pairwise(starts)]
    inside = clipped(records, start, end)
    busy = sum(b - a for a, b in union(inside))
    found = gaps(records, start, end)
    in_graphs = sum(
        ns for ns, a, b in found if a.graph != 0 and (a.launch, a.graph) == (b.launch, b.graph)
    )
    typical = min(range(steps), key=lambda i: (abs(times[i] - statistics.median(times)), i))
    return {
        "steps": steps,
        "whole_graphs": any(r.kind == "graph" for r in records),
        "step_us": statistics.median(times) / 1e3,
        "step_us_mean": window / steps / 1e3,
        "step_us_least": min(times) / 1e3,
        "step_us_most": max(times) / 1e3,
        "busy_us": busy / steps / 1e3,
        "idle_percent": 100 * (window - busy) / window,
        "idle_in_graphs_percent": 100 * in_graphs / window,
        "idle_elsewhere_percent": 100 * (window - busy - in_graphs) / window,
        "overlap_percent": 100 * (sum(b - a for a, b in inside) - busy) / window,
        "records_per_step": sum(start <= r.start < end for r in records) / steps,
        "kernels": by_kernel(records, start, end, steps),
        "gaps": by_gap(found, window, steps),
        "typical_step_ns": [starts[typical], starts[typical + 1]],
    }


def bench_step_us(bench: dict) -> float:
    """The time of a step by the clock of sterna-bench, of its first test that decodes."""
    for case in bench["cases"]:
        if case["sequences"] > 0:
            return case["sequences"] * 1e6 / case["tokens_per_second_median"]
    raise TimelineError("the file of sterna-bench has no test that decodes")


def compare(summary: dict, untraced: dict | None, traced: dict | None) -> None:
    """Adds what the runs without and with the recorder say."""
    if traced is not None:
        summary["bench_step_us_traced"] = bench_step_us(traced)
    if untraced is not None:
        step_us = bench_step_us(untraced)
        summary["bench_step_us_untraced"] = step_us
        # Unknown where recording makes the kernels themselves longer than a whole step without it.
        idle = 100 * (1 - summary["busy_us"] / step_us)
        summary["idle_percent_untraced"] = idle if idle >= 0 else None


def markdown(s: dict, notes: dict[str, int]) -> str:
    detail = "graphs as a whole" if s["whole_graphs"] else "every kernel"
    lines = [
        f"{s['steps']} steps, {detail}, {s['records_per_step']:.1f} records a step; a step takes "
        f"{s['step_us']:.1f} us ({s['step_us_least']:.1f} to {s['step_us_most']:.1f}).",
        f"**GPU idle {s['idle_percent']:.1f} %** "
        f"(inside graphs {s['idle_in_graphs_percent']:.1f} %, "
        f"elsewhere {s['idle_elsewhere_percent']:.1f} %), busy {s['busy_us']:.1f} us a step; "
        f"kernels overlap for {s['overlap_percent']:.1f} %.",
    ]
    if "bench_step_us_untraced" in s:
        traced, idle = s.get("bench_step_us_traced"), s["idle_percent_untraced"]
        lines.append(
            f"Unrecorded, a step takes {s['bench_step_us_untraced']:.1f} us"
            + (f" (recorded {traced:.1f})" if traced else "")
            + (
                "; kernels take longer when recorded."
                if idle is None
                else f": if it is as long busy, {idle:.1f} % idle."
            )
        )
    if missing := ", ".join(f"{word} {number}" for word, number in notes.items() if number):
        lines.append(f"Records that are not in the file: {missing}.")
    lines += [
        "",
        "| kernel | a step | us a step | exclusive | % of the step |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for k in s["kernels"][:LISTED]:
        lines.append(
            f"| `{k['name']}` | {k['calls_per_step']:.1f} | {k['us_per_step']:.1f} "
            f"| {k['us_exclusive_per_step']:.1f} | {k['percent']:.1f} |"
        )
    lines += [
        "",
        "| idle after | and before | a step | us (median) | largest | % of the step |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for g in s["gaps"][:LISTED]:
        lines.append(
            f"| `{g['after']}` | `{g['before']}` | {g['per_step']:.1f} | {g['us_median']:.2f} "
            f"| {g['us_largest']:.2f} | {g['percent']:.2f} |"
        )
    return "\n".join(lines)


def draw_part(
    axes, records: list[Record], rows: list[str], start: int, end: int, origin: int
) -> None:
    """What runs in [start, end], a row a kernel, and below them what is idle."""
    for row, name in enumerate(rows):
        bars = [
            ((max(r.start, start) - origin) / 1e3, (min(r.end, end) - max(r.start, start)) / 1e3)
            for r in records
            if r.start < end and r.end > start and (r.name if r.name in rows else rows[-1]) == name
        ]
        axes.broken_barh(bars, (row - 0.4, 0.8), color=f"C{row % 10}", linewidth=0)
    edges = [(start, start), *union(clipped(records, start, end)), (end, end)]
    idle = [((a[1] - origin) / 1e3, (b[0] - a[1]) / 1e3) for a, b in pairwise(edges) if b[0] > a[1]]
    axes.broken_barh(idle, (len(rows) - 0.4, 0.8), color="red", linewidth=0)
    axes.set_yticks(range(len(rows) + 1), [*rows, "idle"], fontsize=7)
    axes.set_xlim((start - origin) / 1e3, (end - origin) / 1e3)
    axes.set_xlabel("us since the step began")
    axes.invert_yaxis()


def picture(records: list[Record], summary: dict, file: Path) -> None:
    """A typical step as a whole, and a twentieth of it from its middle on."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    start, end = summary["typical_step_ns"]
    rows = [k["name"] for k in summary["kernels"]]
    if len(rows) > LISTED:
        rows = [*rows[: LISTED - 1], "other"]
    figure, parts = plt.subplots(2, 1, figsize=(12, 8), layout="constrained")
    middle = (start + end) // 2
    draw_part(parts[0], records, rows, start, end, start)
    draw_part(parts[1], records, rows, middle, middle + max((end - start) // 20, 1), start)
    parts[0].set_title(
        f"A step of {(end - start) / 1e3:.0f} us; GPU idle {summary['idle_percent']:.1f} % of "
        f"{summary['steps']} steps"
    )
    figure.savefig(file)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--untraced", type=Path)
    parser.add_argument("--traced", type=Path)
    parser.add_argument("--anchor")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    try:
        with args.trace.open(encoding="utf-8", errors="replace") as file:
            records, notes = read(file)
        summary = analyse(records, args.anchor)
        benches = [json.loads(p.read_text()) if p else None for p in (args.untraced, args.traced)]
        compare(summary, *benches)
    except (TimelineError, OSError, ValueError, KeyError) as error:
        sys.exit(f"timeline.py: {args.trace}: {error}")
    print(markdown(summary, notes))
    if args.json:
        args.json.write_text(json.dumps({**summary, "notes": notes}, indent=1))
    if args.picture:
        try:
            picture(records, summary, args.picture)
        except ImportError as error:
            print(f"\nNo picture: {error}.")


if __name__ == "__main__":
    main()
