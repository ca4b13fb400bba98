"""HTTP itself: keep-alive, pipelining, HEAD, CORS, request ids, health, metrics, the index page."""

import json
import socket


def test_index_lists_the_endpoints(server):
    response = server.http.get("/")
    assert response.headers["content-type"].startswith("text/html")
    for path in ("/v1/completions", "/v1/models", "/metrics", "/health/ready", "/tokenize"):
        assert path in response.text


def test_health(server):
    assert server.http.get("/health/live").status_code == 200
    assert server.http.get("/health/ready").json() == {"status": "ready"}


def test_head_has_no_body(server):
    head = server.http.head("/v1/models")
    get = server.http.get("/v1/models")
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


def test_request_id_is_echoed(server):
    assert server.http.get("/", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = server.http.get("/").headers["x-request-id"]
    assert made.startswith("req-") and made != server.http.get("/").headers["x-request-id"]
    unsafe = server.http.get("/", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert unsafe.startswith("req-")
    stream = server.http.post("/v1/completions", headers={"x-request-id": "s-1"},
                              json={"prompt": "a", "stream": True, "max_tokens": 1})
    assert stream.headers["x-request-id"] == "s-1"


def test_keep_alive_and_pipelining(server):
    body = json.dumps({"prompt": "a", "max_tokens": 3, "temperature": 0}).encode()
    post = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    get = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.settimeout(30)
        sock.sendall(post + get + b"\r\n" + post + get + b"Connection: close\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    kinds = [b"text_completion" in part for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert kinds == [True, False, True, False]


def test_chunked_request_body_and_expect(server):
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.settimeout(30)
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
                     b"Connection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        sock.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 OK") and b"text_completion" in answer


def test_http_1_0_stream_ends_with_the_connection(server):
    body = b'{"prompt": "a", "stream": true, "max_tokens": 3}'
    with socket.create_connection(("127.0.0.1", server.http_port)) as sock:
        sock.settimeout(30)
        sock.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert b"chunked" not in answer and answer.endswith(b"data: [DONE]\n\n")


def test_cors_is_off_by_default(server):
    response = server.http.get("/v1/models", headers={"origin": "https://example.org"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_cors_for_listed_origins(start_server):
    server = start_server("--cors-allow-origin", "https://a.example, https://b.example")
    allowed = server.http.get("/v1/models", headers={"origin": "https://b.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    other = server.http.get("/v1/models", headers={"origin": "https://c.example"})
    assert "access-control-allow-origin" not in other.headers and other.headers["vary"] == "Origin"
    preflight = server.http.options("/v1/chat/completions", headers={
        "origin": "https://a.example", "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,authorization"})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "content-type,authorization"


def test_metrics_count_requests(server):
    before = server.metric("sterna_http_requests_total", route="/v1/completions", code="200")
    server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
    after = server.metric("sterna_http_requests_total", route="/v1/completions", code="200")
    assert after == before + 1
    server.http.get("/nowhere/at/all")
    text = server.http.get("/metrics").text
    assert "/nowhere" not in text
    threads = ("engine", "http", "worker", "other")  # one computes, so the engine does
    assert all(server.metric("sterna_thread_cpu_seconds_total", thread=t) > 0 for t in threads)
