"""Bad input: every answer is OpenAI's error object, names the field, and the server lives on."""

import json
import socket

import openai
import pytest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]

# path, body, status, param, words of the message
TABLE = [
    (TEXT, b"{", 400, None, "JSON"),
    (TEXT, b"", 400, None, "JSON"),
    (TEXT, b"[1]", 400, None, "must be a JSON object"),
    (TEXT, b'{"prompt": "\xff"}', 400, None, "JSON"),
    (TEXT, b'{"prompt": "\xed\xa0\x80"}', 400, None, "JSON"),
    (TEXT, b'{"prompt": "a", "prompt": "b"}', 400, None, "twice"),
    (TEXT, b"[" * 100_000, 400, None, "nested deeper than 64"),
    (TEXT, b'{"a":' * 100_000, 400, None, "nested deeper than 64"),
    (TEXT, {}, 400, "prompt", "missing"),
    (TEXT, {"prompt": 7}, 400, "prompt", "an integer; it must be a string"),
    (TEXT, {"prompt": []}, 400, "prompt", "empty"),
    (TEXT, {"prompt": [1, "a"]}, 400, "prompt", "a string among token ids"),
    (TEXT, {"prompt": ["a", 5]}, 400, "prompt[1]", "must be a string"),
    (TEXT, {"prompt": [260]}, 400, "prompt", "token id 260"),
    (TEXT, {"prompt": [-1]}, 400, "prompt", "token id -1"),
    (TEXT, {"prompt": ""} | {"add_special_tokens": False}, 400, "prompt", "no tokens"),
    (TEXT, {"prompt": "x" * 5000}, 400, "prompt", "4096"),
    # What could not fit however it is encoded is not encoded.
    (TEXT, {"prompt": "x" * 200_000}, 400, "prompt", "200000 bytes of text; at most 4096 tokens"),
    (TEXT, {"prompt": ["x", "x" * 200_000]}, 400, "prompt[1]", "200000 bytes"),
    (CHAT, {"messages": [{"role": "user", "content": "x" * 200_000}]}, 400, "messages",
     "bytes of text; at most 4096 tokens"),
    ("/tokenize", {"prompt": "x" * 200_000}, 400, "prompt", "200000 bytes"),
    (TEXT, {"prompt": "x", "max_tokens": 4096}, 400, "max_tokens", "4096"),
    (TEXT, {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "from 1"),
    (TEXT, {"prompt": "x", "max_tokens": "5"}, 400, "max_tokens", "a string"),
    (TEXT, {"prompt": "x", "max_tokens": 1.5}, 400, "max_tokens", "an integer"),
    (TEXT, {"prompt": "x", "max_tokens": 10**30}, 400, "max_tokens", "an integer"),
    (TEXT, {"prompt": "x", "max_tokens": 2**63}, 400, "max_tokens", "out of range"),
    (TEXT, {"prompt": "x", "temperature": 2.1}, 400, "temperature", "from 0 to 2"),
    (TEXT, {"prompt": "x", "temperature": True}, 400, "temperature", "a boolean"),
    (TEXT, {"prompt": "x", "top_p": 0}, 400, "top_p", "above 0"),
    (TEXT, {"prompt": "x", "top_k": -1}, 400, "top_k", "from 0"),
    (TEXT, {"prompt": "x", "min_p": 1.5}, 400, "min_p", "from 0 to 1"),
    (TEXT, {"prompt": "x", "presence_penalty": -3}, 400, "presence_penalty", "from -2 to 2"),
    (TEXT, {"prompt": "x", "repetition_penalty": 0}, 400, "repetition_penalty", "above 0"),
    (TEXT, {"prompt": "x", "logprobs": 21}, 400, "logprobs", "from 0 to 20"),
    (TEXT, {"prompt": "x", "logit_bias": {"a": 1}}, 400, "logit_bias.a", "no token id"),
    (TEXT, {"prompt": "x", "logit_bias": {"300": 1}}, 400, "logit_bias", "token 300"),
    (TEXT, {"prompt": "x", "logit_bias": {"3": 101}}, 400, "logit_bias", "from -100 to 100"),
    (TEXT, {"prompt": "x", "stop": [""]}, 400, "stop", "empty string"),
    (TEXT, {"prompt": "x", "stop": ["a", 1]}, 400, "stop[1]", "must be a string"),
    (TEXT, {"prompt": "x", "stop": ["a"] * 17}, 400, "stop", "at most 16"),
    (TEXT, {"prompt": "x", "n": 9}, 400, "n", "from 1 to 8"),
    (TEXT, {"prompt": "x", "suffix": "y"}, 400, "suffix", "not supported"),
    (TEXT, {"prompt": "x", "echo": 1}, 400, "echo", "a boolean"),
    (TEXT, {"prompt": "x", "echo": True, "max_tokens": -1}, 400, "max_tokens", "from 0"),
    (TEXT, {"prompt": "x", "echo": True, "logprobs": 21}, 400, "logprobs", "from 0 to 20"),
    (TEXT, {"prompt": "x" * 4096, "echo": True, "max_tokens": 0}, 400, "prompt", "4097"),
    (TEXT, {"prompt": "x", "best_of": 3}, 400, "best_of", "not supported"),
    (TEXT, {"prompt": "x", "temperatur": 1}, 400, "temperatur", "did you mean temperature"),
    (TEXT, {"prompt": "x", "stream_options": {}}, 400, "stream_options", "stream"),
    (TEXT, {"prompt": "x", "stream": True, "stream_options": {"include_usag": True}}, 400,
     "stream_options.include_usag", "include_usage"),
    (TEXT, {"prompt": "x", "model": "gpt-4"}, 404, "model", "'gpt-4' is not served"),
    (TEXT, {"prompt": "x", "model": 4}, 400, "model", "an integer"),
    (CHAT, {}, 400, "messages", "missing"),
    (CHAT, {"messages": []}, 400, "messages", "empty array"),
    (CHAT, {"messages": "hi"}, 400, "messages", "a string"),
    (CHAT, {"messages": ["hi"]}, 400, "messages[0]", "an object"),
    (CHAT, {"messages": [{"content": "hi"}]}, 400, "messages[0].role", "string"),
    (CHAT, {"messages": USER + [{"role": "user"}]}, 400, "messages[1].content", "missing"),
    (CHAT, {"messages": USER + [{"role": "user", "content": 5}]}, 400, "messages[1].content",
     "an integer"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "messages[0].content[0]", "text"),
    (CHAT, {"messages": [{"role": "pirate", "content": "arr"}]}, 400, "messages",
     "unknown role pirate"),
    (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, 400, "response_format",
     "not supported"),
    (CHAT, {"messages": USER, "functions": [{"name": "f"}]}, 400, "functions", "tools"),
    (CHAT, {"messages": USER, "tools": [1]}, 400, "tools[0]", "an object"),
    (CHAT, {"messages": USER, "tool_choice": "required"}, 400, "tool_choice", "not supported"),
    (CHAT, {"messages": USER, "top_logprobs": 2}, 400, "top_logprobs", "logprobs"),
    (CHAT, {"messages": USER, "max_tokens": 3, "max_completion_tokens": 4}, 400,
     "max_completion_tokens", "max_tokens is 3"),
    (CHAT, {"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "prompt", "4096"),
    ("/tokenize", {}, 400, "prompt", "missing"),
    ("/detokenize", {}, 400, "tokens", "missing"),
    ("/detokenize", {"tokens": [1, "a"]}, 400, "tokens[1]", "an integer"),
    ("/detokenize", {"tokens": [99999]}, 400, "tokens", "99999"),
]


@pytest.mark.parametrize("path, body, status, param, words", TABLE,
                         ids=[f"{i}-{row[3]}" for i, row in enumerate(TABLE)])
def test_error_table(server, path, body, status, param, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = server.http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_harmless_fields_are_accepted(server):
    body = {"messages": USER, "max_tokens": 2, "user": "u", "store": False, "metadata": {"a": "b"},
            "service_tier": "auto", "n": None, "temperature": None, "tool_choice": "none",
            "response_format": {"type": "text"}, "parallel_tool_calls": True}
    assert server.http.post(CHAT, json=body).status_code == 200


def test_openai_client_raises_its_own_errors(server):
    with pytest.raises(openai.BadRequestError) as error:
        server.openai.completions.create(model=server.name, prompt="x" * 5000)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        server.openai.completions.create(model="gpt-4", prompt="x")


def test_body_too_large(server):
    body = b'{"prompt": "' + b"x" * (9 << 20) + b'"}'
    response = server.http.post(TEXT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 413 and "bytes" in response.json()["error"]["message"]


def test_head_too_large(server):
    response = server.http.get("/v1/models", headers={"x-filler": "x" * 40_000})
    assert response.status_code == 431


def test_wrong_content_type(server):
    response = server.http.post(TEXT, content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415


def test_unknown_path_and_method(server):
    response = server.http.get("/v1/nothing")
    assert response.status_code == 404 and "/v1/nothing" in response.json()["error"]["message"]
    response = server.http.get("/v1/completions")
    assert response.status_code == 405 and response.headers["allow"] == "POST, OPTIONS"
    response = server.http.post("/v1/models", json={})
    assert response.status_code == 405 and response.headers["allow"] == "GET, HEAD, OPTIONS"


def raw(server, data, seconds=20):
    """Everything the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.settimeout(seconds)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize("data", [
    b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nBroken\r\n\r\n",
])
def test_no_http_is_answered_with_400_or_closed(server, data):
    answer = raw(server, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_slow_loris_is_cut_off(start_server):
    server = start_server("--read-timeout-seconds", "1")
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.settimeout(20)
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Le")
        assert sock.recv(100) == b""


def test_connection_limit(start_server):
    server = start_server("--max-connections", "2")
    address = ("127.0.0.1", server.http_port)
    with socket.create_connection(address) as first, socket.create_connection(address) as second:
        for sock in (first, second):
            sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        with socket.create_connection(address) as third:
            third.settimeout(20)
            assert third.recv(1000).startswith(b"HTTP/1.1 503")
