#!/usr/bin/env python3
"""Makes results.json and results.md of what scripts/gpu-check has measured.

    report.py RESULTS_FOLDER COMMIT_FILE
"""

import json
import sys
from pathlib import Path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def timeline_table(timelines: dict[str, dict]) -> list[str]:
    """Of the summaries of timeline.py, by what was recorded."""
    if not timelines:
        return []
    table = [
        "",
        "| step timeline, 64 streams | us a step | GPU idle, % | in graphs | elsewhere | us unrecorded | idle of it, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    columns = (
        "step_us",
        "idle_percent",
        "idle_in_graphs_percent",
        "idle_elsewhere_percent",
        "bench_step_us_untraced",
        "idle_percent_untraced",
    )
    for name, s in timelines.items():
        values = [s.get(column) for column in columns]
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return table


def plan_rows(kernels: list[dict]) -> list[str]:
    """Products of few tokens as they are planned, without splits or taller tiles, and in the fastest way that was tried."""
    rows = ["", "| product | tokens | plan | us | plain, us | fastest | us |", "| --- | ---: | --- | ---: | ---: | --- | ---: |"]
    ways: dict[tuple[str, str, int], list[dict]] = {}
    for k in kernels:
        if k["op"] in ("ternary", "other_plan"):
            ways.setdefault((k["model"], k["name"], k["tokens"]), []).append(k)
    for (model, name, tokens), tried in ways.items():
        if not any(k["op"] == "other_plan" for k in tried):
            continue
        chosen = next(k for k in tried if k["op"] == "ternary")
        plain = next((k for k in tried if k["plan"].removeprefix("mma_").isdigit()), chosen)
        fastest = min(tried, key=lambda k: k["ns"])
        rows.append(
            f"| {model} {name} | {tokens} | {chosen['plan']} | {chosen['ns'] / 1e3:.2f} | {plain['ns'] / 1e3:.2f} "
            f"| {fastest['plan']} | {fastest['ns'] / 1e3:.2f} |"
        )
    return rows if len(rows) > 3 else []


def main() -> None:
    folder, commit = Path(sys.argv[1]), Path(sys.argv[2]).read_text().strip()
    ceilings, kernels = lines(folder / "ceilings.jsonl"), lines(folder / "kernels.jsonl")
    engines = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("engine-*.json"))}
    timelines = {
        p.name.split(".")[0]: json.loads(p.read_text()) for p in sorted(folder.glob("timeline/*.summary.json"))
    }
    copy = next((c["gbytes_per_s"] for c in ceilings if c["op"] == "copy"), None)
    int8 = next((c["tops"] for c in ceilings if c["op"] == "int8_matmul"), None)
    bf16 = {(c["model"], c["name"], c["tokens"]): c["ns"] for c in ceilings if c["op"] == "bf16"}
    phases = {p.stem: "passed" for p in folder.glob("*.passed")}

    def share(value: float, ceiling: float | None) -> str:
        return f"{value / ceiling:.2f}" if ceiling else "-"

    table = [
        f"# GPU check of {commit}",
        "",
        f"Device: {next((k['name'] for k in kernels if k['op'] == 'device'), 'unknown')}. "
        f"Phases passed: {', '.join(sorted(phases)) or 'none'}.",
        f"Copy bandwidth {copy or 0:.0f} GB/s, int8 matrix product {int8 or 0:.0f} TOPS (both measured here).",
        "",
        "| product | tokens | us | GB/s of weights | of copy | TOPS | of int8 | times bf16's speed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for k in kernels:
        if k["op"] != "ternary":
            continue
        theirs = bf16.get((k["model"], k["name"], k["tokens"]))
        table.append(
            f"| {k['model']} {k['name']} | {k['tokens']} | {k['ns'] / 1e3:.2f} | {k['gbytes_per_s']:.0f} "
            f"| {share(k['gbytes_per_s'], copy)} | {k['tops']:.0f} | {share(k['tops'], int8)} "
            f"| {theirs / k['ns']:.2f} |" if theirs else
            f"| {k['model']} {k['name']} | {k['tokens']} | {k['ns'] / 1e3:.2f} | {k['gbytes_per_s']:.0f} "
            f"| {share(k['gbytes_per_s'], copy)} | {k['tops']:.0f} | {share(k['tops'], int8)} | - |"
        )
    table += plan_rows(kernels)
    table += ["", "| other op | tokens | us | GB/s |", "| --- | ---: | ---: | ---: |"]
    for k in kernels:
        if k["op"] in ("head", "norm_quantize"):
            table.append(
                f"| {k['op']} {k['name']} {k['cols']} | {k['tokens']} | {k['ns'] / 1e3:.2f} | {k.get('gbytes_per_s', '-')} |"
            )
    table += ["", "| engine | test | tokens/s | J/token |", "| --- | --- | ---: | ---: |"]
    for name, engine in engines.items():
        for case in engine["cases"]:
            joules = case.get("joules_per_token")
            table.append(
                f"| {name} | {case['name']} | {case['tokens_per_second_median']:.0f} "
                f"| {f'{joules:.5f}' if joules is not None else '-'} |"
            )
    table += timeline_table(timelines)
    (folder / "results.md").write_text("\n".join(table) + "\n")
    (folder / "results.json").write_text(
        json.dumps(
            {
                "commit": commit,
                "phases": phases,
                "ceilings": ceilings,
                "kernels": kernels,
                "engines": engines,
                "timelines": timelines,
            },
            indent=1,
        )
    )
    print("\n".join(table))


if __name__ == "__main__":
    main()
