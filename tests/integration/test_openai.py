"""The OpenAI client and plain HTTP against completions and chat."""

import json

import openai
import pytest

PROMPT = "Once upon a time"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def check_usage(usage):
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert isinstance(usage.energy_millijoules, int) and usage.energy_millijoules >= 0
    assert usage.energy_method in ("nvml", "rapl", "modelled")


def test_models(server):
    assert [model.id for model in server.openai.models.list()] == [server.name]
    model = server.openai.models.retrieve(server.name)
    assert model.id == server.name and model.max_model_len == 4096
    with pytest.raises(openai.NotFoundError) as error:
        server.openai.models.retrieve("other")
    assert error.value.code == "model_not_found" and error.value.param == "model"


def test_completion(server):
    answer = server.openai.completions.create(model=server.name, prompt=PROMPT, max_tokens=24,
                                              temperature=0, extra_body={"ignore_eos": True})
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens == 1 + len(PROMPT)
    check_usage(answer.usage)


def test_completion_default_is_16_tokens(server):
    answer = server.openai.completions.create(model=server.name, prompt=PROMPT,
                                              extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16


def test_streamed_completion_equals_whole(server):
    request = dict(model=server.name, prompt=PROMPT, max_tokens=64, temperature=0.8, seed=5,
                   extra_body={"ignore_eos": True})
    whole = server.openai.completions.create(**request)
    chunks = list(server.openai.completions.create(
        **request, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert len({c.id for c in chunks}) == 1 and len({c.created for c in chunks}) == 1
    assert chunks[-1].choices == [] and all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].usage.completion_tokens == 64
    check_usage(chunks[-1].usage)


def test_chat(server):
    answer = server.openai.chat.completions.create(model=server.name, messages=MESSAGES,
                                                   max_completion_tokens=20, temperature=0,
                                                   extra_body={"ignore_eos": True})
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    text = "<s>[system] Be brief.\n[user] Hello\n[assistant] "
    assert answer.usage.prompt_tokens == len(text) - len("<s>") + 1
    check_usage(answer.usage)


def test_chat_stream(server):
    chunks = list(server.openai.chat.completions.create(
        model=server.name, messages=MESSAGES, max_tokens=20, seed=1, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))
    whole = server.openai.chat.completions.create(model=server.name, messages=MESSAGES,
                                                  max_tokens=20, seed=1,
                                                  extra_body={"ignore_eos": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(c.choices[0].delta.role is None for c in chunks[1:-1])
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    check_usage(chunks[-1].usage)


def test_raw_event_stream(server):
    with server.http.stream("POST", "/v1/completions",
                            json={"prompt": PROMPT, "stream": True, "max_tokens": 4}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        body = response.read().decode()
    events = body.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    for event in events[:-2]:
        assert event.startswith("data: ")
        assert "usage" not in json.loads(event[6:])


def test_content_parts_are_joined(server):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"},
                                          {"type": "text", "text": "lo"}]}]
    plain = [{"role": "user", "content": "Hello"}]
    answers = [server.openai.chat.completions.create(model=server.name, messages=m, max_tokens=8,
                                                     temperature=0).choices[0].message.content
               for m in (parts, plain)]
    assert answers[0] == answers[1]


def test_n_and_several_prompts(server):
    answer = server.openai.completions.create(model=server.name, prompt=["one", [50, 51, 52]], n=2,
                                              max_tokens=8, seed=7,
                                              extra_body={"ignore_eos": True})
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    # Both prompts count once each: "one" with BOS, and three ids.
    assert answer.usage.prompt_tokens == 4 + 3
    assert answer.usage.completion_tokens == 32
    assert answer.choices[0].text != answer.choices[1].text
    alone = server.openai.completions.create(model=server.name, prompt=[50, 51, 52], max_tokens=8,
                                             seed=8, extra_body={"ignore_eos": True})
    assert alone.choices[0].text == answer.choices[3].text  # choice 1 draws with seed + 1


def test_completion_logprobs(server):
    answer = server.openai.completions.create(model=server.name, prompt=PROMPT, max_tokens=6,
                                              temperature=0, logprobs=3,
                                              extra_body={"ignore_eos": True})
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 6
    assert len(logprobs.text_offset) == 6 and logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs,
                                   logprobs.top_logprobs):
        assert len(top) == 3 and logprob <= 0
        # Greedy: the token is the likeliest of its alternatives.
        assert top[token] == logprob == max(top.values())


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(server, stream):
    request = dict(model=server.name, messages=MESSAGES, max_tokens=6, temperature=0,
                   logprobs=True, top_logprobs=2, extra_body={"ignore_eos": True})
    if stream:
        content = [entry for chunk in server.openai.chat.completions.create(**request, stream=True)
                   if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    else:
        content = server.openai.chat.completions.create(**request).choices[0].logprobs.content
    assert len(content) == 6
    for entry in content:
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob == entry.logprob
        assert entry.bytes and len(entry.bytes) == 1  # every token of this model is one byte


def test_stop_string(server):
    request = dict(model=server.name, prompt=PROMPT, max_tokens=64, temperature=0.9, seed=3)
    text = server.openai.completions.create(**request, extra_body={"ignore_eos": True}) \
        .choices[0].text
    # A short piece of plain text from the middle is made the stop string.
    position = next(i for i in range(5, 60) if text[i].isascii() and text.find(text[i]) == i)
    stopped = server.openai.completions.create(**request, stop=[text[position]],
                                               extra_body={"ignore_eos": True})
    assert stopped.choices[0].text == text[:position]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].stop_reason == text[position]
    with_stop = server.openai.completions.create(
        **request, stop=text[position],
        extra_body={"ignore_eos": True, "include_stop_str_in_output": True})
    assert with_stop.choices[0].text == text[:position + 1]


def test_stop_token(server):
    request = dict(model=server.name, prompt=PROMPT, max_tokens=8, temperature=0, logprobs=0)
    body = server.http.post("/v1/completions", json=request | {"ignore_eos": True}).json()
    first = body["choices"][0]["logprobs"]["tokens"][0]
    ids = server.http.post("/tokenize", json={"prompt": first, "add_special_tokens": False}) \
        .json()["tokens"] if not first.startswith("bytes:") else [int(first[8:], 16)]
    stopped = server.http.post("/v1/completions", json=request | {"stop_token_ids": ids}).json()
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["choices"][0]["stop_reason"] == ids[0]
    assert stopped["choices"][0]["text"] == ""
    assert stopped["usage"]["completion_tokens"] == 1


def test_logit_bias_forces_a_token(server):
    answer = server.openai.completions.create(model=server.name, prompt=PROMPT, max_tokens=3,
                                              temperature=0, logit_bias={"65": 100})
    assert answer.choices[0].text == "AAA"


def test_tokenize_and_detokenize(server):
    text = "Füße & <|sep|> 🐦"
    tokens = server.http.post("/tokenize", json={"prompt": text}).json()
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 4096
    assert tokens["tokens"][0] == 256 and 258 in tokens["tokens"]
    back = server.http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back["prompt"].replace(" ", "") == text.replace("<|sep|>", "").replace(" ", "")
    chat = server.http.post("/tokenize", json={"messages": MESSAGES}).json()
    assert bytes(i for i in chat["tokens"] if i < 256).decode() == \
        "[system] Be brief.\n[user] Hello\n[assistant] "


def test_chat_context_is_what_the_prompt_leaves(server):
    answer = server.openai.chat.completions.create(
        model=server.name, messages=[{"role": "user", "content": "x" * 4000}],
        extra_body={"ignore_eos": True})
    assert answer.usage.total_tokens == 4096
    assert answer.choices[0].finish_reason == "length"


def test_the_story_model_tells_a_story(story_server):
    answer = story_server.openai.completions.create(
        model=story_server.name, prompt="Once upon a time, there was a little", max_tokens=60,
        temperature=0)
    words = answer.choices[0].text.split()
    assert len(words) > 20
    plain = [word for word in words if word.strip(".,!?\"'").isascii()]
    assert len(plain) == len(words)
    check_usage(answer.usage)
