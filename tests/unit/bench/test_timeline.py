"""The arithmetic of bench/gpu/timeline.py on traces of known truth, and its lines of report.py."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[3] / "bench" / "gpu"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


timeline = load("timeline")
report = load("report")


def record(start, end, name="k", kind="kernel", launch=0, graph=0):
    return timeline.Record(kind, start, end, 7, launch, graph, 0, name)


def decode(steps=5, first=1000):
    """Steps of 1000 ns: a graph of a (300), b (200, from 50 before the end of a), 100 idle and c
    (200); then 50 idle, a copy (50), 50 idle, another copy (50) and 50 idle."""
    made = []
    for i in range(steps):
        at = launch = first + 1000 * i
        made += [
            record(at, at + 300, "a", launch=launch, graph=4),
            record(at + 250, at + 450, "b", launch=launch, graph=4),
            record(at + 550, at + 750, "c", launch=launch, graph=4),
            record(at + 800, at + 850, "copy device to host", "copy", launch + 1),
            record(at + 900, at + 950, "copy host to device", "copy", launch + 2),
        ]
    return made


def lines(records, notes=()):
    names = sorted({r.name for r in records})
    text = ["sterna-timeline\t1\n"]
    text += [f"note\t{word}\t{number}\n" for word, number in notes]
    text += [f"name\t{i}\t{name}\n" for i, name in enumerate(names)]
    for r in records:
        fields = [r.start, r.end, r.stream, r.launch, r.graph, r.bytes, names.index(r.name)]
        text.append("\t".join([r.kind, *map(str, fields)]) + "\n")
    return text


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("plain_kernel", "plain_kernel"),
        ("void sterna::cuda::NormKernel<4>(float*, int)", "NormKernel<4>"),
        ("sterna::cuda::(anonymous namespace)::Copy(sterna::cuda::Args)", "Copy"),
        (
            "void sterna::cuda::Mma<sterna::cuda::Tile<64, 8>, (sterna::Kind)1>(sterna::P<int>)",
            "Mma<Tile<64, 8>, (Kind)1>",
        ),
        ("", ""),
        ("(", "("),
    ],
)
def test_short_names(name, short):
    assert timeline.short_name(name) == short


def test_union_of_intervals():
    assert timeline.union([]) == []
    assert timeline.union([(5, 7), (0, 2), (1, 3), (3, 4), (5, 6)]) == [(0, 4), (5, 7)]
    assert timeline.union([(0, 9), (1, 2), (9, 9)]) == [(0, 9)]


def test_union_and_gaps_add_up_to_the_window():
    dice = random.Random(5)
    for _ in range(200):
        starts = [dice.randrange(1000) for _ in range(dice.randrange(1, 30))]
        records = sorted(
            (record(s, s + dice.randrange(60)) for s in starts), key=lambda r: (r.start, r.end)
        )
        start, end = records[0].start, records[-1].start  # as steps have them
        covered = {t for r in records for t in range(max(r.start, start), min(r.end, end))}
        busy = sum(b - a for a, b in timeline.union(timeline.clipped(records, start, end)))
        assert busy == len(covered)
        assert busy + sum(g[0] for g in timeline.gaps(records, start, end)) == end - start


def test_a_steady_decode():
    s = timeline.analyse(decode())
    assert s["steps"] == 4
    assert s["step_us"] == s["step_us_least"] == s["step_us_most"] == 1.0
    assert s["busy_us"] == pytest.approx(0.75)
    assert s["idle_percent"] == pytest.approx(25)
    assert s["idle_in_graphs_percent"] == pytest.approx(10)
    assert s["idle_elsewhere_percent"] == pytest.approx(15)
    assert s["overlap_percent"] == pytest.approx(5)
    assert s["records_per_step"] == 5
    assert s["kernels"][0] == {
        "name": "a", "calls_per_step": 1.0, "us_per_step": 0.3, "us_exclusive_per_step": 0.3,
        "percent": pytest.approx(30),
    }  # fmt: skip
    # All that runs is somebody's, and what overlaps is that of whoever began first.
    exclusive = {k["name"]: k["us_exclusive_per_step"] for k in s["kernels"]}
    assert sum(exclusive.values()) == pytest.approx(s["busy_us"])
    overlap = sum(k["us_per_step"] - exclusive[k["name"]] for k in s["kernels"])
    assert overlap == pytest.approx(s["overlap_percent"] / 100)
    assert s["gaps"][0]["after"] == "b" and s["gaps"][0]["before"] == "c"
    assert s["gaps"][0]["us_largest"] == pytest.approx(0.1)
    assert sum(g["percent"] for g in s["gaps"]) == pytest.approx(s["idle_percent"])


def as_whole_graphs(records):
    return [
        record(r.start, r.end + 450, "graph", "graph", r.launch, 4) if r.name == "a" else r
        for r in records
        if r.name not in ("b", "c")
    ]


def test_graphs_as_a_whole():
    s = timeline.analyse(as_whole_graphs(decode()))
    assert s["whole_graphs"] and s["steps"] == 4
    assert s["idle_percent"] == s["idle_elsewhere_percent"] == pytest.approx(15)


@pytest.mark.parametrize("whole_graphs", [False, True])
def test_set_up_and_prompts_are_no_part_of_the_window(whole_graphs):
    # A short run, a pause with a prompt, the long run, and a small graph that is no step.
    prompt = [record(9_000, 60_000, "prompt")]
    small = [
        record(70_100 + 1000 * i, 70_110 + 1000 * i, "tiny", launch=3 + i, graph=5)
        for i in range(9)
    ]
    records = sorted(decode(4) + prompt + decode(9, 70_000) + small, key=lambda r: r.start)
    s = timeline.analyse(as_whole_graphs(records) if whole_graphs else records)
    assert s["steps"] == 8
    assert s["idle_percent"] == pytest.approx(15 if whole_graphs else 25)


def test_steps_without_graphs_and_by_name():
    records = [timeline.Record(**{**vars(r), "graph": 0}) for r in decode()]
    assert timeline.step_starts(records) == [1800 + 1000 * i for i in range(5)]
    assert timeline.analyse(records)["idle_percent"] == pytest.approx(25)
    assert timeline.step_starts(records, "b") == [1250 + 1000 * i for i in range(5)]


@pytest.mark.parametrize("records", [[], decode(1), decode(3), [record(5, 5)] * 9])
def test_too_little_for_a_figure_is_said(records):
    with pytest.raises(timeline.TimelineError, match="steps of about the same time"):
        timeline.analyse(records)


def test_read_gives_back_what_was_written():
    records, notes = timeline.read(lines(decode(), [("lost", 3)]))
    assert records == decode()
    assert notes == {"lost": 3}
    assert "lost 3" in timeline.markdown(timeline.analyse(records), notes)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "",
        "kernel\t1\t2",
        "kernel\t1\t2\t3\t4\t5\t6\t7\t8",
        "kernel\ta\t2\t3\t4\t5\t6\t0",
        "kernel\t9\t2\t3\t4\t5\t6\t0",
        "kernel\t1\t2\t3\t4\t5\t6\t99",
        "note\tlost",
        "name\tx\ty",
    ],
)
def test_a_line_that_is_garbage_is_named(line):
    with pytest.raises(timeline.TimelineError, match="line 3 is not as it should be"):
        timeline.read(["sterna-timeline\t1\n", "name\t0\tk\n", line + "\n"])


@pytest.mark.parametrize("text", ["", "sterna-timeline\t2\n", "{}", "\0\xff"])
def test_another_file_is_refused(text):
    with pytest.raises(timeline.TimelineError, match="no file of libsterna_timeline"):
        timeline.read([text] if text else [])


def test_what_recording_costs():
    s = timeline.analyse(decode())
    bench = {"cases": [{"sequences": 0, "tokens_per_second_median": 1},
                       {"sequences": 64, "tokens_per_second_median": 80e6}]}  # fmt: skip
    timeline.compare(s, bench, None)
    assert s["bench_step_us_untraced"] == pytest.approx(0.8)
    assert s["idle_percent_untraced"] == pytest.approx(100 * (1 - 0.75 / 0.8))
    # Where kernels are slowed down themselves there is nothing to say, and it is said.
    faster = {"cases": [{"sequences": 64, "tokens_per_second_median": 100e6}]}
    timeline.compare(s, faster, faster)
    assert s["idle_percent_untraced"] is None
    assert "kernels take longer when recorded" in timeline.markdown(s, {})
    assert report.timeline_table({"nodes": s})[-1].endswith("| 0.6 | - |")
    with pytest.raises(timeline.TimelineError, match="no test that decodes"):
        timeline.compare(s, {"cases": []}, None)


def run(*args):
    return subprocess.run(
        [sys.executable, GPU / "timeline.py", *args], capture_output=True, text=True, check=False
    )


def test_the_program_prints_and_writes(tmp_path):
    (tmp_path / "t.tsv").write_text("".join(lines(decode())))
    done = run(tmp_path / "t.tsv", "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert "**GPU idle 25.0 %** (inside graphs 10.0 %, elsewhere 15.0 %)" in done.stdout
    assert json.loads((tmp_path / "t.json").read_text())["steps"] == 4


def test_the_program_fails_with_a_sentence(tmp_path):
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "bad", tmp_path / "missing"):
        done = run(path)
        assert done.returncode == 1 and done.stderr.startswith("timeline.py: ")
        assert "Traceback" not in done.stderr


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    timeline.picture(decode(), timeline.analyse(decode()), tmp_path / "step.svg")
    assert "<svg" in (tmp_path / "step.svg").read_text()


def test_the_report_has_a_line_for_each_run(tmp_path):
    assert report.timeline_table({}) == []
    s = timeline.analyse(decode())
    timeline.compare(s, {"cases": [{"sequences": 64, "tokens_per_second_median": 80e6}]}, None)
    table = report.timeline_table({"nodes": s})
    assert table[-1] == "| nodes | 1.0 | 25.0 | 10.0 | 15.0 | 0.8 | 6.2 |"
