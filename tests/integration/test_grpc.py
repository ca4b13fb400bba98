"""A grpcio client against sterna.v1.Inference, health and reflection."""

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc


@pytest.fixture
def api(server, stubs):
    return stubs.inference(server)


def generate(api, stubs, text="Once upon a time", max_tokens=16, **sampling):
    request = stubs.pb.GenerateRequest(
        text=text, sampling=stubs.pb.SamplingParameters(**sampling),
        stop=stubs.pb.StopParameters(max_tokens=max_tokens, ignore_eos=True))
    return list(api.Generate(request, timeout=60))


def test_generate_equals_http(api, stubs, server):
    messages = generate(api, stubs, max_tokens=40, temperature=0.7, seed=11, top_p=0.9)
    assert [m.HasField("finish") for m in messages] == [False] * (len(messages) - 1) + [True]
    assert len({m.request_id for m in messages}) == 1 and messages[0].request_id
    finish = messages[-1].finish
    assert finish.reason == stubs.pb.Finish.REASON_LENGTH
    assert finish.usage.prompt_tokens == 17 and finish.usage.completion_tokens == 40
    assert finish.usage.energy_millijoules >= 0
    assert finish.usage.energy_method in ("nvml", "rapl", "modelled")
    assert sum(len(m.tokens) for m in messages) == 40
    http = server.http.post("/v1/completions", json={
        "prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.7, "seed": 11,
        "top_p": 0.9, "ignore_eos": True}).json()
    assert "".join(m.text for m in messages) == http["choices"][0]["text"]


def test_logprobs(api, stubs):
    tokens = [t for m in generate(api, stubs, max_tokens=5, temperature=0, logprobs=2)
              for t in m.tokens]
    for token in tokens:
        assert token.HasField("logprob") and len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token_id == token.id
        assert token.top_logprobs[0].logprob == token.logprob
        assert token.top_logprobs[0].token == bytes([token.id])
    assert not any(t.HasField("logprob") for m in generate(api, stubs, max_tokens=2)
                   for t in m.tokens)


def test_token_ids_and_request_id(api, stubs):
    request = stubs.pb.GenerateRequest(
        token_ids=stubs.pb.TokenIds(ids=[256, 65, 66]), request_id="mine",
        sampling=stubs.pb.SamplingParameters(logit_bias={67: 100}, temperature=0),
        stop=stubs.pb.StopParameters(max_tokens=10, stop=["CC"], include_stop=True))
    messages = list(api.Generate(request, timeout=60))
    assert {m.request_id for m in messages} == {"mine"}
    assert "".join(m.text for m in messages) == "CC"
    assert messages[-1].finish.reason == stubs.pb.Finish.REASON_STOP
    assert messages[-1].finish.stop_string == "CC"


def test_unary_calls(api, stubs, server):
    tokens = api.Tokenize(stubs.pb.TokenizeRequest(text="Hi"), timeout=30)
    assert list(tokens.ids) == [256, 72, 105] and tokens.max_context_tokens == 4096
    plain = api.Tokenize(stubs.pb.TokenizeRequest(text="Hi", add_special_tokens=False), timeout=30)
    assert list(plain.ids) == [72, 105]
    assert api.Detokenize(stubs.pb.DetokenizeRequest(ids=[256, 72, 105]), timeout=30).text == "Hi"
    model = api.GetModel(stubs.pb.GetModelRequest(), timeout=30)
    assert model.name == server.name and model.family == "B" and model.vocab_size == 260
    assert model.device.startswith("cpu/") and model.energy_method


@pytest.mark.parametrize("change, code, label, param", [
    (dict(), "INVALID_ARGUMENT", "invalid_request", "prompt"),
    (dict(text="x", model="other"), "NOT_FOUND", "model_not_found", "model"),
    (dict(token_ids=dict(ids=[])), "INVALID_ARGUMENT", "invalid_request", "prompt"),
    (dict(token_ids=dict(ids=[-1])), "INVALID_ARGUMENT", "invalid_request", "token_ids"),
    (dict(text="x" * 5000), "INVALID_ARGUMENT", "context_length_exceeded", "prompt"),
    (dict(text="x", stop=dict(max_tokens=5000)), "INVALID_ARGUMENT", "context_length_exceeded",
     "max_tokens"),
    (dict(text="x", stop=dict(max_tokens=0)), "INVALID_ARGUMENT", "invalid_request", "max_tokens"),
    (dict(text="x", sampling=dict(temperature=float("nan"))), "INVALID_ARGUMENT",
     "invalid_request", "temperature"),
    (dict(text="x", sampling=dict(top_p=2)), "INVALID_ARGUMENT", "invalid_request", "top_p"),
    (dict(text="x", sampling=dict(logit_bias={7: 200})), "INVALID_ARGUMENT", "invalid_request",
     "logit_bias"),
    (dict(text="x", stop=dict(stop=[""])), "INVALID_ARGUMENT", "invalid_request", "stop"),
    (dict(text="x", request_id="i" * 200), "INVALID_ARGUMENT", "invalid_request", "request_id"),
])
def test_errors_carry_label_and_param(api, stubs, change, code, label, param):
    with pytest.raises(grpc.RpcError) as error:
        list(api.Generate(stubs.pb.GenerateRequest(**change), timeout=30))
    assert error.value.code().name == code
    metadata = dict(error.value.trailing_metadata())
    assert metadata["sterna-error-label"] == label and metadata["sterna-error-param"] == param


def test_message_too_large(api, stubs):
    with pytest.raises(grpc.RpcError) as error:
        api.Tokenize(stubs.pb.TokenizeRequest(text="x" * (9 << 20)), timeout=30)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_cancelled_stream_frees_its_blocks(api, stubs, server):
    call = api.Generate(stubs.pb.GenerateRequest(
        text="x", stop=stubs.pb.StopParameters(max_tokens=4000, ignore_eos=True)))
    next(iter(call))
    call.cancel()
    server.wait_for(lambda: server.metric("sterna_kv_cache_blocks_used") == 0, what="blocks free")


def test_reader_that_stops_reading_holds_up_nobody(api, stubs, server):
    call = api.Generate(stubs.pb.GenerateRequest(
        text="x", sampling=stubs.pb.SamplingParameters(logprobs=20),
        stop=stubs.pb.StopParameters(max_tokens=4000, ignore_eos=True)))
    next(iter(call))
    assert generate(api, stubs, max_tokens=5)[-1].HasField("finish")
    call.cancel()


def test_many_streams_at_once(api, stubs):
    results = [None] * 24

    def work(i):
        messages = generate(api, stubs, text="x" * (1 + i * 7), max_tokens=20, seed=i)
        results[i] = "".join(m.text for m in messages)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in results
    # Alone, request 5 says the same.
    work(5)
    alone = results[5]
    assert "".join(m.text for m in generate(api, stubs, text="x" * 36, max_tokens=20, seed=5)) \
        == alone


def test_health(server):
    health = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", "sterna.v1.Inference"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_turns_when_draining(start_server, stubs):
    server = start_server()
    health = health_pb2_grpc.HealthStub(server.channel)
    api = stubs.inference(server)
    call = api.Generate(stubs.pb.GenerateRequest(
        text="x", stop=stubs.pb.StopParameters(max_tokens=4000, ignore_eos=True)))
    next(iter(call))
    server.process.terminate()
    serving = health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest(service="sterna.v1.Inference")
    server.wait_for(lambda: health.Check(request, timeout=30).status != serving, what="not serving")
    with pytest.raises(grpc.RpcError) as error:
        list(api.Generate(stubs.pb.GenerateRequest(text="x"), timeout=30))
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(error.value.trailing_metadata())["sterna-error-label"] == "draining"
    messages = list(call)
    assert messages[-1].finish.reason == stubs.pb.Finish.REASON_LENGTH
    assert server.process.wait(60) == 0, "".join(server.log)


def test_reflection(server):
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=30))
    names = {s.name for s in answer.list_services_response.service}
    assert {"sterna.v1.Inference", "grpc.health.v1.Health"} <= names
    request = reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="sterna.v1.Inference.Generate")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=30))
    assert answer.file_descriptor_response.file_descriptor_proto
