"""The model that ships: size, tokenizer, and what a user's AutoModel gets from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece as spm
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sterna_finetune.evaluate import load_model
from sterna_finetune.export import is_ternary
from sterna_finetune.packing import unpack_ternary
from sterna_finetune.sample import sample_story

MAX_BYTES = 8_000_000

ODD_STRINGS = [
    "",
    " ",
    "   three spaces   before and after   ",
    "a\nb\n\nc\n",
    "\n",
    "\t tab\r\n",
    'He said, "Stop!"\n"No," said the cat.\n',
    "aaaaaaaaaaaaaaaaaaaaa hahahahahaha llllll oooooooo .......... !!!!!!",
    "Caf\u00e9 na\u00efve e\u0301 \u00df \u0130",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 zero\u200bwidth",
    "\u2581 already a visible space \u2581\u2581",
    "\u00a0no-break\u3000ideographic\u2028line",
    "\ufeffbyte order mark",
    "\ufffd\u0000\u0001\x7f",
    "1234567890 3.14159 1,000,000",
    "<unk <s <0x0A> </ s>",
]


def valid_stories() -> list[str]:
    """Stories kept beside the tests: every 25th of valid.txt."""
    text = (Path(__file__).parent / "valid_sample.txt").read_text()
    return [story for story in text.split("\n<|endoftext|>\n") if story]


@pytest.mark.parametrize("text", ODD_STRINGS + valid_stories())
def test_sentencepiece_and_auto_tokenizer_agree(shipped: Path, text: str) -> None:
    processor = spm.SentencePieceProcessor(model_file=str(shipped / "tokenizer.model"))
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    ids = processor.encode(text)
    assert tokenizer(text)["input_ids"] == [processor.bos_id(), *ids]
    assert tokenizer.decode(ids) == processor.decode(ids)


def test_vocabularies_are_equal(shipped: Path) -> None:
    processor = spm.SentencePieceProcessor(model_file=str(shipped / "tokenizer.model"))
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == pieces
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_chat_template_hands_over_the_last_message(shipped: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " One day, a cat "},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<s>One day, a cat"
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer("One day, a cat")["input_ids"]


def test_files_fit_in_eight_megabytes(shipped: Path) -> None:
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= MAX_BYTES


def test_shapes_and_codes(shipped: Path) -> None:
    config = json.loads((shipped / "config.json").read_text())
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0
    tensors = load_file(shipped / "model.safetensors")
    ternary = [name for name in tensors if is_ternary(name)]
    assert len(ternary) == 7 * config["num_hidden_layers"]
    for name in ternary:
        codes = unpack_ternary(tensors[name])
        assert all((codes == value).float().mean() > 0.1 for value in (-1, 0, 1)), name


def test_auto_model_agrees_with_this_package(shipped: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    ids = tokenizer("Once upon a time, there was a", return_tensors="pt")["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = load_model(shipped, stock=False)(input_ids=ids).logits
        torch.testing.assert_close(stock(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_it_tells_a_story(shipped: Path) -> None:
    """Greedy, so that the expected word does not hang on a seed."""
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    model = load_model(shipped, stock=False)
    ids = tokenizer("Once upon a", return_tensors="pt")["input_ids"]
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=1
    )
    assert tokenizer.decode(out[0], skip_special_tokens=True) == "Once upon a time"
    story = sample_story(model, tokenizer, "Once upon a time", 0, temperature=0.7, max_tokens=60)
    assert len(set(story.split())) > 20  # words, not one word over and over
