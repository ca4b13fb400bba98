"""lm-evaluation-harness against the server, and `sterna eval`: the same items, the same figures.

Needs lm-eval and Transformers, in the interpreter that --lm-eval-python (or LM_EVAL_PYTHON) names;
skipped without. The items are made here, so that no data is needed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = Path(__file__).with_name("lm_eval")
CHOICES = [
    ("Question: What did the dog do?", ["He barked.", "He ran to the park.", "Wug."], 1),
    ("Question: Who was happy?", ["Lily was happy", "the", "The big red ball was blue"], 0),
    ("Question: Where did they play? ", ["in the park", "purple"], 0),
    ("Question: Tim's mom said", ["no", "yes", "\u201cdo not worry\u201d", "caf\u00e9"], 2),
    ("Question: The cat saw", ["a bird", "a bird in the tall tree", "x"], 0),
]
WORDS = [
    ("Once upon a", "time"),
    ("Once upon a time, there was a little girl named", "Lily"),
    ("They played together all day", "long"),
    ("Tom and Lily went to the park. Tom saw a big", "zebra"),
]


@pytest.fixture(scope="module")
def lm_eval_python(request):
    python = request.config.getoption("--lm-eval-python")
    check = subprocess.run([python, "-c", "import lm_eval, tenacity, transformers"], capture_output=True)
    if check.returncode != 0:
        pytest.skip(f"{python} has no lm-eval[api] (--lm-eval-python names one that has)")
    return python


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The task files and the items they name."""
    folder = tmp_path_factory.mktemp("lm_eval")
    for path in TASKS.glob("*.yaml"):
        shutil.copy(path, folder)

    def write(name, items):
        (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))

    write("arc_easy.jsonl", [{"query": query, "choices": choices, "gold": gold}
                             for query, choices, gold in CHOICES])
    write("piqa.jsonl", [{"query": query + "\n", "choices": choices, "gold": gold}
                         for query, choices, gold in CHOICES])
    write("lambada_openai.jsonl", [{"context": context, "continuation": word}
                                   for context, word in WORDS])
    return folder


def run_lm_eval(python, folder, server, model, batch_size=1, **model_args):
    """Task name to figures."""
    arguments = dict(model=server.name, base_url=f"{server.url}/v1/completions", tokenizer=model,
                     add_bos_token=True, max_length=512, **model_args)
    out = folder / "results"
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [python, "-m", "lm_eval", "--model", "local-completions", "--include_path", folder,
         "--tasks", "sterna_arc_easy,sterna_piqa,sterna_lambada_openai", "--output_path", out,
         "--batch_size", str(batch_size),
         "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())],
        cwd=folder, capture_output=True, text=True, timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                          "HF_HOME": str(folder / "cache")})
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.rglob("results_*.json")
    return json.loads(path.read_text())["results"]


def sterna_eval(binary, model, items, *flags):
    done = subprocess.run([binary, "eval", "--model", model, "--threads", "1", "--items", items,
                           "--context", "511", "--json", *flags],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expect_the_same(python, data, binary, server, model, **model_args):
    theirs = run_lm_eval(python, data, server, model, **model_args)
    for task, suffix in (("arc_easy", "\nAnswer:"), ("piqa", "Answer:")):
        ours = sterna_eval(binary, model, data / f"{task}.jsonl", "--suffix", suffix)
        figures = theirs[f"sterna_{task}"]
        assert figures["acc,none"] == pytest.approx(ours["acc"], abs=1e-12)
        assert figures["acc_norm,none"] == pytest.approx(ours["acc_norm"], abs=1e-12)
    ours = sterna_eval(binary, model, data / "lambada_openai.jsonl")
    figures = theirs["sterna_lambada_openai"]
    assert figures["acc,none"] == pytest.approx(ours["acc"], abs=1e-12)
    assert figures["perplexity,none"] == pytest.approx(ours["perplexity"], rel=1e-12)


@pytest.mark.parametrize("model_args", [dict(), dict(batch_size=4, num_concurrent=2)])
def test_figures_are_the_same(lm_eval_python, data, binary, request, story_server, model_args):
    expect_the_same(lm_eval_python, data, binary, story_server,
                    request.config.getoption("--model-dir"), **model_args)


# lm-eval decodes its token ids to a text. A byte-level tokenizer loses nothing by that; with
# SentencePiece, "<s> Question" has a space more than what it was made of.
def test_figures_are_the_same_from_texts(lm_eval_python, data, binary, server, tiny_model):
    expect_the_same(lm_eval_python, data, binary, server, tiny_model, batch_size=2,
                    tokenized_requests=False)
