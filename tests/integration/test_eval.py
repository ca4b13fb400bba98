"""`sterna eval` against what the server says of the same tokens."""

import json
import math
import subprocess

import pytest

TEXT = "Once upon a time there was a small model that knew nothing at all, and said so."


@pytest.fixture
def evaluate(binary, tiny_model):
    def run(*flags, code=0):
        done = subprocess.run(
            [binary, "eval", "--model", tiny_model, "--threads", "1", *map(str, flags)],
            capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if "--json" in flags else done.stdout + done.stderr

    return run


def logprobs(server, ids):
    """Of every token but the first."""
    answer = server.http.post("/v1/completions", json={
        "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}).json()
    found = answer["choices"][0]["logprobs"]
    return found["token_logprobs"][1:], found["top_logprobs"][1:]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("stride", [None, 7])
def test_perplexity(evaluate, server, tmp_path, bos, stride):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    context, before = 21, [256] if bos else []
    most = context - len(before)
    nll, scored, windows = [], 0, 0
    for begin in range(0, len(TEXT), stride or most):
        end = min(begin + most, len(TEXT))
        found, _ = logprobs(server, before + list(TEXT[begin:end].encode()))
        new = end - scored
        # Without BOS the first token of a window has no logprob.
        nll += found[-new:] if new <= len(found) else found
        scored, windows = end, windows + 1
        if end == len(TEXT):
            break
    result = evaluate("--file", path, "--context", context, "--json", f"--bos={str(bos).lower()}",
                      *(["--stride", stride] if stride else []))
    assert result["windows"] == windows and result["scored_tokens"] == len(nll)
    assert result["scored_tokens"] == (len(TEXT) if bos else
                                       len(TEXT) - (1 if stride else windows))
    assert result["perplexity"] == pytest.approx(math.exp(-sum(nll) / len(nll)), rel=1e-9)
    some = evaluate("--file", path, "--context", context, "--json", "--limit", 2)
    assert some["windows"] == 2


def test_choices_and_continuations(evaluate, server, tmp_path):
    choices = [("What? ", ["this", "that one", "\u00fc"], 2), ("Who", ["me", "you"], 0),
               ("Where", ["here", "there", "nowhere at all"], 1)]
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps({"query": query, "choices": texts, "gold": gold}) + "\n"
                            for query, texts, gold in choices))
    sums = {"acc": 0, "acc_norm": 0, "acc_bytes": 0}
    for query, texts, gold in choices:
        scores = []
        for text in texts:
            context = (query + "?").rstrip().encode()
            whole = (query + "? " + text).encode()
            found, _ = logprobs(server, [256, *whole])
            scores.append(sum(found[len(context):]))
        for name, lengths in (("acc", [1] * len(texts)), ("acc_norm", map(len, texts)),
                              ("acc_bytes", [len(text.encode()) for text in texts])):
            normed = [score / length for score, length in zip(scores, lengths)]
            sums[name] += normed.index(max(normed)) == gold
    result = evaluate("--items", path, "--suffix", "?", "--json")
    assert result["items"] == 3
    for name, count in sums.items():
        assert result[name] == pytest.approx(count / 3)

    path.write_text(json.dumps({"context": "go on", "continuation": "x"}) + "\n")
    found, top = logprobs(server, [256, *b"go on x"])
    is_greedy = all(logprob == max(of.values()) for logprob, of in zip(found[-2:], top[-2:]))
    result = evaluate("--items", path, "--json")
    assert result["acc"] == float(is_greedy)
    assert result["perplexity"] == pytest.approx(math.exp(-sum(found[-2:])), rel=1e-9)


def test_says_what_is_wrong(evaluate, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abc")
    for flags, words, code in [
        ([], "--file and --items are missing", 2),
        (["--file", path, "--items", path], "both given", 2),
        (["--file", path, "--suffix", "x"], "--suffix is only", 2),
        (["--items", path, "--stride", 3], "--stride is only", 2),
        (["--items", path], ":1", 1),
        (["--file", path, "--context", 5000], "limit is 4096", 1),
        (["--file", path, "--context", 10, "--stride", 10], "a window holds 9", 1),
        (["--file", tmp_path / "none"], "none", 1),
    ]:
        assert words in evaluate(*flags, code=code), flags
    path.write_text("")
    assert "0 tokens" in evaluate("--file", path, code=1)


def test_text_output(evaluate, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    said = evaluate("--file", path, "--context", 50)
    assert said.startswith("perplexity ") and "windows" in said
    assert "\033" not in said and "[" not in said.split("\n")[0], "no bar but on a terminal"
