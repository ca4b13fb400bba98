"""Starts real servers for real clients.

`server` is one that most tests share, over a tiny random model; `start_server` starts more with
other flags. `story_server` serves the model that ships (or --model-dir), and its tests are skipped
where there is none.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import httpx
import openai
import pytest
from grpc_tools import protoc

from tiny_model import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PROTO = "sterna/v1/inference.proto"
# Sanitizer builds on a busy machine take their time.
START_SECONDS = 120


def pytest_addoption(parser):
    parser.addoption("--sterna-binary", default=os.environ.get(
        "STERNA_BINARY", str(ROOT / "build/release/server/sterna")))
    parser.addoption("--model-dir", default=str(ROOT / "models/stories"))
    parser.addoption("--lm-eval-python", default=os.environ.get("LM_EVAL_PYTHON", sys.executable))


@pytest.fixture(scope="session")
def binary(request):
    path = Path(request.config.getoption("--sterna-binary")).resolve()
    assert path.exists(), f"{path} is not there: build it, or give --sterna-binary"
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(directory)
    return directory


class Server:
    """A running `sterna serve`."""

    def __init__(self, binary, model, *flags):
        self.process = subprocess.Popen(
            [str(binary), "serve", "--model", str(model), "--http-port", "0", "--grpc-port", "0",
             "--threads", "1", "--kv-cache-mib", "128", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        listening = self._event("listening")
        self._event("ready")
        watchdog.cancel()
        self.http_port = listening["http_port"]
        self.grpc_port = listening["grpc_port"]
        self.name = Path(model).name
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0,
                                    timeout=60)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _event(self, name):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self._reader.join(5)
            raise RuntimeError("the server ended: " + "".join(self.log))
        event = json.loads(line)
        if event["event"] == "load_failed":
            self.process.kill()
            raise RuntimeError("the model was not loaded: " + event["reason"])
        assert event["event"] == name
        return event

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            match = re.match(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$", line)
            if not match or match[1] != name:
                continue
            found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if all(found.get(key) == value for key, value in labels.items()):
                total += float(match[3])
        return total

    def wait_for(self, condition, seconds=20, what="condition"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}")

    def stop(self, sig=signal.SIGTERM, seconds=60):
        """Sends the signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(seconds)
        finally:
            self.http.close()
            self.channel.close()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def start_server(binary, tiny_model):
    servers = []

    def start(*flags, model=tiny_model):
        servers.append(Server(binary, model, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def shared_server(binary, tiny_model):
    server = Server(binary, tiny_model)
    yield server
    assert server.process.poll() is None, "the server died: " + "".join(server.log)
    assert server.stop() == 0, "".join(server.log)


@pytest.fixture
def server(shared_server):
    assert shared_server.process.poll() is None, "the server died: " + "".join(shared_server.log)
    return shared_server


@pytest.fixture(scope="session")
def story_server(request, binary):
    model = Path(request.config.getoption("--model-dir"))
    if not (model / "config.json").exists():
        pytest.skip(f"{model} is not there (--model-dir names another)")
    server = Server(binary, model)
    yield server
    assert server.stop() == 0, "".join(server.log)


class Stubs:
    """The modules protoc makes of the public .proto file."""

    def __init__(self, directory):
        assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={directory}",
                            f"--grpc_python_out={directory}", PROTO]) == 0
        sys.path.insert(0, str(directory))
        self.pb = importlib.import_module("sterna.v1.inference_pb2")
        self.grpc = importlib.import_module("sterna.v1.inference_pb2_grpc")

    def inference(self, server):
        return self.grpc.InferenceStub(server.channel)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    return Stubs(tmp_path_factory.mktemp("stubs"))
