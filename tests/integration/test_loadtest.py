"""sterna-loadtest against a real server, and against one that misbehaves."""

import json
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@pytest.fixture(scope="session")
def loadtest(binary):
    path = binary.parent.parent / "loadtest/sterna-loadtest"
    assert path.exists(), f"{path} is not there: build it beside {binary}"

    def run(*flags, **options):
        return subprocess.run([path, *flags], capture_output=True, text=True, timeout=120, **options)

    run.path = path
    return run


def report_of(result):
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_closed_loop_counts_what_the_server_counts(loadtest, start_server):
    server = start_server()
    result = loadtest("--url", server.url, "--concurrency", "3", "--requests", "12", "--warmup", "2",
                      "--prompt-tokens", "20", "--max-tokens", "9", "--ignore-eos",
                      "--check-counters", "--json", "-")
    assert result.returncode == 0, result.stderr
    report = report_of(result)
    assert report["requests"] == {"sent": 12, "succeeded": 12, "late_starts": 0, "errors": {}}
    assert report["tokens"] == {"prompt": 12 * 20, "output": 12 * 9}
    counters = {c["name"]: c for c in report["counters"]}
    assert counters["sterna_generation_tokens_total"]["server"] == 12 * 9
    assert counters["sterna_prompt_tokens_total"]["server"] == 12 * 20
    assert counters["sterna_requests_finished_total"]["server"] == 12
    assert counters["sterna_energy_joules_total"]["matches"]
    assert report["energy"]["method"] in ("nvml", "rapl", "modelled")
    latency = report["milliseconds"]
    assert latency["time_to_first_token"]["count"] == 12
    assert 0 < latency["time_to_first_token"]["p50"] <= latency["end_to_end"]["p50"]
    assert "equal" in result.stderr and "MISMATCH" not in result.stderr


def test_chat_from_a_file_of_prompts(loadtest, server, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\nanother one\n')
    result = loadtest("--url", server.url, "--endpoint", "chat", "--prompts",
                      str(tmp_path / "prompts.jsonl"), "--requests", "4", "--max-tokens", "5",
                      "--ignore-eos", "--json", str(tmp_path / "report.json"))
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["requests"]["succeeded"] == 4
    assert report["tokens"]["output"] == 20
    assert "output tokens/s" in result.stdout


def test_open_loop_keeps_to_its_duration_and_rate(loadtest, server):
    result = loadtest("--url", server.url, "--rate", "20", "--duration", "2", "--prompt-tokens", "4",
                      "--max-tokens", "2", "--slo-e2e-ms", "60000", "--json", "-")
    assert result.returncode == 0, result.stderr
    report = report_of(result)
    # Poisson with mean 40: beyond five standard deviations something is wrong.
    assert 9 <= report["requests"]["sent"] <= 72
    assert report["goodput"]["requests"] == report["requests"]["succeeded"]
    assert report["seconds"] < 30


def test_bad_flags_say_what_would_be_right(loadtest):
    result = loadtest("--concurrency", "many")
    assert result.returncode == 2
    assert "--concurrency is 'many'; it must be an integer of at least 1" in result.stderr
    assert loadtest("--help").stdout.startswith("sterna-loadtest sends requests")


def test_no_server_is_an_error(loadtest):
    result = loadtest("--url", "http://127.0.0.1:1", "--requests", "1")
    assert result.returncode == 1
    assert "cannot connect to 127.0.0.1:1" in result.stderr


class FakeServer(ThreadingHTTPServer):
    """Speaks just enough of the API, and can be told to do it badly."""

    daemon_threads = True

    def __init__(self, behaviour):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.behaviour = behaviour
        self.requests = 0
        self.tokens = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body, content_type="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/v1/models":
            return self.answer(200, b'{"data": [{"id": "fake"}]}')
        text = f"sterna_generation_tokens_total {self.server.tokens}\n"
        self.answer(200, text.encode(), "text/plain")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            count = len(request["prompt"].split())
            return self.answer(200, json.dumps({"tokens": list(range(count))}).encode())
        with self.server.lock:
            self.server.requests += 1
            number = self.server.requests
        self.server.behaviour(self, request, number)

    def stream(self, events, delay=0.0):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            time.sleep(delay)
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def events(tokens):
    for i in range(tokens):
        yield json.dumps({"choices": [{"text": f"t{i} "}], "usage": None})
    yield json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}})
    yield "[DONE]"


def good(handler, request, number):
    with handler.server.lock:
        handler.server.tokens += request["max_tokens"]
    handler.stream(events(request["max_tokens"]), delay=0.02)


def test_latencies_are_those_of_the_server(loadtest):
    server = FakeServer(good)
    result = loadtest("--url", server.url, "--requests", "6", "--concurrency", "2", "--max-tokens",
                      "10", "--prompt-tokens", "3", "--check-counters", "--json", "-")
    assert result.returncode == 0, result.stderr
    latency = report_of(result)["milliseconds"]
    # 20 ms before each of ten pieces, the usage and the end; a busy machine may only be slower,
    # and no machine is so slow that a wrong unit would pass.
    assert 20 <= latency["time_to_first_token"]["p50"] < 2000
    assert 15 <= latency["inter_token_latency"]["mean"] < 2000
    assert latency["inter_token_latency"]["count"] == 6 * 9
    assert latency["end_to_end"]["p50"] >= 240
    assert report_of(result)["energy"] is None


def test_a_server_that_miscounts_is_found_out(loadtest):
    def miscounting(handler, request, number):
        good(handler, request, number)
        with handler.server.lock:
            handler.server.tokens += number == 2

    flags = ("--requests", "3", "--max-tokens", "4", "--prompt-tokens", "3", "--json", "-")
    result = loadtest("--url", FakeServer(miscounting).url, "--check-counters", *flags)
    assert result.returncode == 1
    assert "MISMATCH" in result.stderr
    assert report_of(result)["counters"][0]["server"] == 13
    assert loadtest("--url", FakeServer(miscounting).url, *flags).returncode == 0


def test_errors_are_counted_by_kind(loadtest):
    finished = threading.Event()

    def unreliable(handler, request, number):
        if number == 1:
            return handler.answer(429, b'{"error": {"message": "full", "code": "queue_full"}}')
        if number == 2:
            handler.close_connection = True
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nda")
            return handler.wfile.flush()
        if number == 3:
            return handler.stream(['{"error": {"message": "oh", "code": "internal"}}'])
        if number == 4:
            return handler.stream(list(events(2))[:-1])
        if number == 5:
            handler.close_connection = True
            return finished.wait()
        return good(handler, request, number)

    # Long enough that a stalled machine does not turn the good answers into timeouts.
    result = loadtest("--url", FakeServer(unreliable).url, "--requests", "7", "--concurrency", "1",
                      "--max-tokens", "2", "--prompt-tokens", "3", "--timeout", "10", "--json", "-")
    finished.set()
    assert result.returncode == 0, result.stderr
    requests = report_of(result)["requests"]
    assert requests["succeeded"] == 2
    assert requests["errors"] == {"http 429 queue_full": 1, "broken connection": 1,
                                  "error in stream internal": 1, "stream without [DONE]": 1,
                                  "timeout": 1}


def test_interrupt_prints_partial_results(loadtest):
    def slow_after_two(handler, request, number):
        if number > 2:
            time.sleep(30)
        good(handler, request, number)

    server = FakeServer(slow_after_two)
    process = subprocess.Popen(
        [loadtest.path, "--url", server.url, "--requests", "50", "--concurrency", "2",
         "--max-tokens", "2", "--prompt-tokens", "3", "--json", "-"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while server.requests < 4 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 0, stderr
    report = json.loads(stdout)
    assert report["interrupted"] is True
    assert report["requests"]["succeeded"] == 2
    assert report["requests"]["errors"] == {"interrupted": 2}
    assert "partial results" in stderr
