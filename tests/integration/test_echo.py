"""Logprobs of prompts: `echo` over HTTP, `prompt_logprobs` over gRPC, and what both agree on."""

import pytest

PROMPT = "Once upon a time"
IDS = [256, *PROMPT.encode()]  # BOS and bytes: the tiny model's tokens


def complete(server, **body):
    response = server.http.post("/v1/completions", json={"temperature": 0, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_echo_with_logprobs(server):
    answer = complete(server, prompt=PROMPT, max_tokens=4, logprobs=2, echo=True, ignore_eos=True)
    plain = complete(server, prompt=PROMPT, max_tokens=4, logprobs=2, ignore_eos=True)
    choice, own = answer["choices"][0], plain["choices"][0]
    assert choice["text"] == PROMPT + own["text"]
    logprobs = choice["logprobs"]
    assert all(len(values) == len(IDS) + 4 for values in logprobs.values())
    assert logprobs["tokens"][:len(IDS)] == ["<s>", *PROMPT]
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"][:len(IDS)] == [0, *range(len(PROMPT))]
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    # The two likeliest, and the token itself where it is neither.
    for token, value, top in list(zip(logprobs["tokens"], logprobs["token_logprobs"],
                                      logprobs["top_logprobs"]))[1:]:
        assert top[token] == value and len(top) in (2, 3)
        assert len(top) == 2 or value == min(top.values())
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert logprobs[name][len(IDS):] == own["logprobs"][name]
    assert [offset - len(PROMPT) for offset in logprobs["text_offset"][len(IDS):]] == \
        own["logprobs"]["text_offset"]
    assert answer["usage"]["prompt_tokens"] == len(IDS)
    assert answer["usage"]["completion_tokens"] == 4


def test_prompt_logprobs_are_those_of_the_same_tokens_when_drawn(server):
    drawn = complete(server, prompt="x", max_tokens=30, logprobs=1, ignore_eos=True,
                     temperature=1, seed=3)["choices"][0]["logprobs"]
    # Every token of the tiny model is a byte, and its text or its number in hexadecimal, or special.
    special = {"<s>": 256, "</s>": 257, "<|sep|>": 258, "<|pad|>": 259}
    ids = [special[token] if token in special else
           int(token[8:], 16) if token.startswith("bytes:") else ord(token)
           for token in drawn["tokens"]]
    scored = complete(server, prompt=[256, ord("x"), *ids], max_tokens=0, logprobs=1, echo=True)
    count = len(ids)
    assert count > 5
    assert scored["choices"][0]["logprobs"]["token_logprobs"][2:] == \
        drawn["token_logprobs"][:count]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_prompts_of_every_form_are_the_same(server, max_tokens):
    request = dict(max_tokens=max_tokens, logprobs=1, echo=True, ignore_eos=True)
    text = complete(server, prompt=PROMPT, **request)["choices"][0]
    other = complete(server, prompt="Other", **request)["choices"][0]
    assert complete(server, prompt=IDS, **request)["choices"] == [text]
    for prompts in ([PROMPT, "Other"], [IDS, [256, *b"Other"]]):
        assert complete(server, prompt=prompts, **request)["choices"] == [text, {**other,
                                                                                 "index": 1}]


def test_a_text_that_begins_with_bos_gets_no_second_one(server):
    request = dict(max_tokens=0, logprobs=0, echo=True)
    assert complete(server, prompt="<s>" + PROMPT, **request)["choices"] == \
        complete(server, prompt=PROMPT, **request)["choices"]
    once = complete(server, prompt="<s>", **request)["choices"][0]["logprobs"]
    assert once["tokens"] == ["<s>"]
    assert server.http.post("/tokenize", json={
        "prompt": "<s>x", "add_special_tokens": False}).json()["tokens"] == [256, 120]


def test_no_output_at_all(server):
    answer = complete(server, prompt=PROMPT, max_tokens=0, echo=True)
    assert answer["choices"] == [{"index": 0, "text": PROMPT, "logprobs": None,
                                  "finish_reason": "length", "stop_reason": None}]
    assert answer["usage"]["completion_tokens"] == 0
    one = complete(server, prompt=[65], max_tokens=0, echo=True, logprobs=0)["choices"][0]
    assert one["logprobs"] == {"tokens": ["A"], "token_logprobs": [None], "top_logprobs": [None],
                               "text_offset": [0]}


def test_a_prompt_may_fill_the_context(server):
    answer = complete(server, prompt="x" * 4095, max_tokens=0, echo=True, logprobs=0)
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 4096


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize("max_tokens", [0, 5])
def test_streamed_echo_adds_up_to_the_whole(server, logprobs, max_tokens):
    request = dict(model=server.name, prompt=[PROMPT, "x" * 300], max_tokens=max_tokens, n=2,
                   echo=True, logprobs=logprobs, temperature=0.8, seed=4,
                   extra_body={"ignore_eos": True})
    whole = server.openai.completions.create(**request)
    texts = ["" for _ in whole.choices]
    streamed = [[] for _ in whole.choices]
    for chunk in server.openai.completions.create(**request, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        if choice.logprobs:
            streamed[choice.index] += choice.logprobs.token_logprobs
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0].startswith(PROMPT) and texts[1].startswith(PROMPT)
    if logprobs is not None:
        assert streamed == [choice.logprobs.token_logprobs for choice in whole.choices]


def test_grpc_says_the_same(server, stubs):
    request = stubs.pb.GenerateRequest(
        text=PROMPT, sampling=stubs.pb.SamplingParameters(prompt_logprobs=2),
        stop=stubs.pb.StopParameters(max_tokens=0))
    messages = list(stubs.inference(server).Generate(request, timeout=60))
    tokens = [token for message in messages for token in message.prompt_tokens]
    assert [token.id for token in tokens] == IDS[1:]
    http = complete(server, prompt=PROMPT, max_tokens=0, logprobs=2,
                    echo=True)["choices"][0]["logprobs"]
    assert [token.logprob for token in tokens] == http["token_logprobs"][1:]
    assert [[top.logprob for top in token.top_logprobs] for token in tokens] == \
        [sorted(top.values(), reverse=True)[:2] for top in http["top_logprobs"][1:]]
    assert messages[-1].finish.usage.completion_tokens == 0
    assert not any(message.tokens for message in messages)
