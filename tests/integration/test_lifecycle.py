"""Clients that leave or do not read, a full queue, and shutting down."""

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import httpx
import openai
import pytest

LONG = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "temperature": 1}


def idle(server):
    return (server.metric("sterna_requests_running") == 0
            and server.metric("sterna_kv_cache_blocks_used") == 0)


def post_bytes(body):
    text = json.dumps(body).encode()
    return (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(text), text))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_blocks(server, stream):
    server.wait_for(lambda: idle(server), what="idle before")
    cancelled = server.metric("sterna_requests_finished_total", reason="cancelled")
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.sendall(post_bytes(LONG | {"stream": stream}))
        server.wait_for(lambda: server.metric("sterna_kv_cache_blocks_used") > 0, what="blocks in use")
    server.wait_for(lambda: idle(server), what="blocks free")
    assert server.metric("sterna_requests_finished_total", reason="cancelled") == cancelled + 1


def test_a_client_that_reads_nothing_holds_up_nobody(start_server):
    server = start_server("--write-timeout-seconds", "2")
    sock = socket.socket()
    # So little room that the stream does not fit into it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", server.http_port))
    body = LONG | {"stream": True, "logprobs": 20, "n": 4}
    sock.sendall(post_bytes(body))
    time.sleep(0.2)
    start = time.monotonic()
    answer = server.openai.completions.create(model=server.name, prompt="b", max_tokens=20)
    assert answer.usage.completion_tokens > 0
    assert time.monotonic() - start < 20
    server.wait_for(lambda: idle(server), seconds=60, what="the request to end")
    sock.close()


def read_stream(server, body, result):
    try:
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            result["status"] = response.status_code
            result["text"] = response.read().decode()
    except httpx.HTTPError as error:
        result["error"] = error


def test_queue_full_is_429(start_server):
    server = start_server("--max-sequences", "1", "--max-queue", "1")
    first, second = (threading.Thread(target=read_stream, args=(server, LONG, {}))
                     for _ in range(2))
    first.start()
    server.wait_for(lambda: server.metric("sterna_requests_running") == 1, what="one running")
    second.start()
    server.wait_for(lambda: server.metric("sterna_requests_waiting") == 1, what="one waiting")
    response = server.http.post("/v1/completions", json=LONG)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "queue_full"
    with pytest.raises(openai.RateLimitError):
        server.openai.completions.create(model=server.name, prompt="a")
    assert server.metric("sterna_requests_refused_total", label="queue_full") == 2
    server.stop(signal.SIGKILL)
    first.join()
    second.join()


def start_stream(server, body):
    result = {}
    thread = threading.Thread(target=read_stream, args=(server, body, result))
    thread.start()
    server.wait_for(lambda: server.metric("sterna_requests_running") >= 1, what="running")
    return thread, result


def test_sigterm_finishes_streams_and_exits_0(start_server):
    server = start_server("--drain-timeout-seconds", "100")
    thread, result = start_stream(server, LONG | {"stream": True, "n": 2})
    server.process.send_signal(signal.SIGTERM)
    late = httpx.Client(base_url=server.url, timeout=30)
    server.wait_for(lambda: late.get("/health/ready").json() == {"status": "draining"},
                    what="draining")
    assert late.get("/health/live").status_code == 200
    refused = late.post("/v1/completions", json={"prompt": "a"})
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
    assert server.process.wait(120) == 0, "".join(server.log)
    thread.join()
    assert result["text"].endswith("data: [DONE]\n\n")
    choices = [json.loads(event[6:])["choices"][0] for event in result["text"].split("\n\n")[:-2]]
    assert sorted(c["index"] for c in choices if c["finish_reason"] == "length") == [0, 1]


def test_drain_timeout_cancels_what_is_left(start_server):
    server = start_server("--drain-timeout-seconds", "0", "--max-sequences", "1")
    thread, result = start_stream(server, LONG | {"stream": True})
    assert server.stop() == 0, "".join(server.log)
    thread.join()
    last = json.loads(result["text"].strip().split("\n\n")[-1][6:])
    assert last["error"]["code"] == "cancelled"
    assert "[DONE]" not in result["text"]


def test_second_signal_ends_at_once(start_server):
    # One after the other: they must outlast this test's own delays.
    server = start_server("--max-sequences", "1")
    thread, _ = start_stream(server, LONG | {"stream": True, "n": 8})
    server.process.send_signal(signal.SIGTERM)
    server.wait_for(lambda: any("draining" in line for line in server.log), what="draining")
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(10) == 130
    thread.join()


@pytest.mark.parametrize("which", ["http", "grpc"])
def test_port_in_use(server, binary, tiny_model, which):
    ports = {"http": "0", "grpc": "0", which: str(getattr(server, f"{which}_port"))}
    done = subprocess.run(
        [binary, "serve", "--model", tiny_model, "--http-port", ports["http"], "--grpc-port",
         ports["grpc"]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert ports[which] in done.stderr and which in done.stderr.lower()


def run(binary, *args, **more):
    return subprocess.run([str(binary), *map(str, args)], capture_output=True, text=True,
                          timeout=120, **more)


@pytest.mark.parametrize("args, words", [
    (["serve", "--prot", "1"], "unknown flag --prot"),
    (["serve", "--http-prot", "1"], "did you mean --http-port"),
    (["serve", "--http-port", "70000"], "an integer from 0 to 65535"),
    (["serve", "--http-port"], "needs a value"),
    (["serve", "--cpu-isa", "mmx"], "one of auto, scalar"),
    (["serve", "--model", "/nonexistent"], "/nonexistent"),
    (["serve", "stray"], "unexpected argument 'stray'"),
    (["serv"], "did you mean serve"),
    (["eval"], "--file"),
])
def test_bad_command_lines_exit_2(binary, args, words):
    done = run(binary, *args)
    assert done.returncode == 2 and words in done.stderr


def test_a_directory_without_a_model(binary, tmp_path):
    done = run(binary, "serve", "--model", tmp_path, "--http-port", "0", "--grpc-port", "0",
               "--exit-on-load-failure")
    assert done.returncode == 1 and "config.json" in done.stderr


UP = "model.layers.1.mlp.up_proj.weight"


def fill_tensor(path, name, byte):
    """Overwrites all bytes of a tensor of a safetensors file."""
    content = bytearray(path.read_bytes())
    size = struct.unpack("<Q", content[:8])[0]
    begin, end = (8 + size + offset
                  for offset in json.loads(content[8:8 + size])[name]["data_offsets"])
    content[begin:end] = bytes([byte]) * (end - begin)
    path.write_bytes(content)


@pytest.fixture
def broken_model(tiny_model, tmp_path):
    """One that loads, but which no training made."""
    directory = tmp_path / "broken"
    shutil.copytree(tiny_model, directory)
    fill_tensor(directory / "model.safetensors", UP, 0)
    return directory


def test_readiness_says_why_a_model_does_not_load(binary, broken_model):
    process = subprocess.Popen(
        [str(binary), "serve", "--model", str(broken_model), "--http-port", "0", "--grpc-port", "0",
         "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = json.loads(process.stdout.readline())["http_port"]
        event = json.loads(process.stdout.readline())
        assert event["event"] == "load_failed" and UP in event["reason"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            assert http.get("/health/live").status_code == 200
            ready = http.get("/health/ready")
            assert ready.status_code == 503
            assert ready.json() == {"status": "load_failed", "reason": event["reason"]}
            refused = http.post("/v1/completions", json={"prompt": "a"})
            assert refused.status_code == 503 and "could not be loaded" in refused.text
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"error: '{UP}': all its weights are -1" in log
    finally:
        process.kill()


def test_lint_refuses_what_it_is_told_to(binary, broken_model, tiny_model):
    refused = run(binary, "inspect", "--model", broken_model)
    assert refused.returncode == 1 and UP in refused.stderr
    loaded = run(binary, "inspect", "--model", broken_model, "--lint-refuses", "nothing", "--json")
    assert loaded.returncode == 0, loaded.stderr
    assert [finding["tensor"] for finding in json.loads(loaded.stdout)["findings"]] == [UP]

    lint = run(binary, "inspect", "--lint", "--model", broken_model)
    assert lint.returncode == 1 and lint.stdout.startswith(f"error: '{UP}'")
    (broken_model / "config.json").write_text("{")
    unreadable = run(binary, "inspect", "--lint", "--model", broken_model, "--json")
    assert unreadable.returncode == 1
    assert "config.json" in json.loads(unreadable.stdout)["findings"][0]["message"]
    good = run(binary, "inspect", "--lint", "--model", tiny_model)
    assert good.returncode == 0 and good.stdout == "no findings\n"


def test_help_lists_every_flag(binary):
    overview = run(binary, "help")
    assert overview.returncode == 0
    for command in ("serve", "generate", "inspect", "eval", "bench"):
        assert re.search(rf"^  {command} ", overview.stdout, re.M)
        assert run(binary, command, "--help").stdout == run(binary, "help", command).stdout
    assert "--drain-timeout-seconds" in run(binary, "help", "serve").stdout
    assert run(binary, "version").stdout.startswith("sterna ")


def test_bench_command(binary, tiny_model, tmp_path):
    done = run(binary, "bench", "--model", tiny_model, "--prompt-tokens", "7,20", "--batch", "1,3",
               "--context-tokens", 5, "--decode-tokens", 4, "--repetitions", 2, "--threads", 1,
               "--kv-cache-dtype", "int8", "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["kv_cache_dtype"] == "int8"
    assert len(report["cases"]) == 4
    assert all(case["tokens_per_second_median"] > 0 for case in report["cases"])


def test_generate_command(binary, tiny_model):
    args = ["generate", "--model", tiny_model, "--threads", 1, "--max-tokens", 12, "--seed", 4]
    done = run(binary, *args, "--prompt", "abc")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[4 \+ \d+ tokens, \d+ mJ \(\w+\), \w+\]", done.stderr)
    assert run(binary, *args, input="abc").stdout == done.stdout
    chat = run(binary, *args, "--chat", "--prompt", "abc")
    assert chat.returncode == 0 and "[24 + " in chat.stderr


def test_inspect_command(binary, tiny_model):
    done = run(binary, "inspect", "--model", tiny_model, "--json")
    description = json.loads(done.stdout)
    assert description["family"] == "B" and description["shape"]["layers"] == 2
    assert description["tokenizer"]["end_tokens"] == [{"id": 257, "token": "</s>"}]
    int8 = run(binary, "inspect", "--model", tiny_model, "--head-dtype", "int8", "--json")
    assert int8.returncode == 0, int8.stderr
    step = description["step"]
    assert step["max_tokens"] == 64 + step["tuning"]["prompt_tokens_per_step"]
    assert step["tuning"]["prompt_tokens_per_step"] >= 64
    assert step["tuning"]["prompt_tokens_per_second"] > 1
    fixed = run(binary, "inspect", "--model", tiny_model, "--max-step-tokens", 77, "--json")
    step = json.loads(fixed.stdout)["step"]
    assert step["max_tokens"] == 77 and "prompt_tokens_per_second" not in step["tuning"]
    short = run(binary, "inspect", "--model", tiny_model, "--step-seconds", 0.001, "--max-sequences",
                3, "--json")
    assert json.loads(short.stdout)["step"]["max_tokens"] in range(3 + 64, 3 + 512)
    memory, int8_memory = json.loads(done.stdout)["memory"], json.loads(int8.stdout)["memory"]
    assert int8_memory["head_dtype"] == "int8" != memory["head_dtype"]
    assert int8_memory["head_bytes"] < memory["head_bytes"]
    assert memory["head_shortlist_bytes"] == 0  # auto: a small head gains nothing
    shortlist = run(binary, "inspect", "--model", tiny_model, "--head-shortlist", "on", "--json")
    assert shortlist.returncode == 0, shortlist.stderr
    shortlist_memory = json.loads(shortlist.stdout)["memory"]
    assert shortlist_memory["head_bytes"] == memory["head_bytes"]
    assert 0 < shortlist_memory["head_shortlist_bytes"] < memory["head_bytes"]
    refused = run(
        binary, "inspect", "--model", tiny_model, "--head-shortlist", "on", "--head-dtype", "int8"
    )
    assert refused.returncode != 0 and "int8" in refused.stderr
    assert memory["peak_resident_bytes"] > memory["ternary_bytes"] + memory["dense_bytes"]
    assert re.fullmatch(r"[0-9a-f]{16}", description["fingerprint"])
    assert json.loads(int8.stdout)["fingerprint"] != description["fingerprint"]  # a rounded head
    assert description["weights"]["container"] == "safetensors"
    assert description["weights"]["files"][0]["name"] == "model.safetensors"
    classes = {row["class"]: row for row in description["tensors"]}
    assert 2 <= classes["ternary layers"]["bits_per_weight"] < 2.1
    assert classes["embedding"]["bits_per_weight"] == 16
    assert classes["all"]["parameters"] == description["parameters"]
    assert description["tokenizer"]["kind"] == "byte-level BPE"
    assert description["tokenizer"]["bos_token"] == "<s>"
    assert description["chat_template"]["begins_with"].startswith("{{ bos_token }}")
    at = json.loads(run(binary, "inspect", "--model", tiny_model, "--context", 100, "--batch", 3,
                        "--json").stdout)["memory_at"]
    # Three requests of seven blocks of 16 tokens; two layers, K and V, two heads of 64 in f16.
    assert at["kv_cache_bytes"] == 3 * 7 * 16 * 2 * 2 * 2 * 64 * 2
    assert at["total_bytes"] == at["kv_cache_bytes"] + at["weights_bytes"] + at["work_bytes"]
    too_long = run(binary, "inspect", "--model", tiny_model, "--context", 100_000)
    assert too_long.returncode == 2 and "4096" in too_long.stderr
    text = run(binary, "inspect", "--model", tiny_model).stdout
    assert re.search(r"^family +B$", text, re.M)
    assert re.search(r"^  ternary layers +\d+ +\d+", text, re.M)


def test_eval_command(binary, tiny_model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abc" * 100)
    results = [json.loads(run(binary, "eval", "--model", tiny_model, "--threads", 1, "--file", text,
                              "--context", 101, "--max-step-tokens", step, "--json").stdout)
               for step in (7, 512)]
    assert results[0]["windows"] == 3 and results[0]["scored_tokens"] == 300
    # Chunks of a window change nothing.
    assert results[0]["perplexity"] == results[1]["perplexity"] > 1
