"""Samples stories from a checkpoint, one for each seed, without selection."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sterna_finetune.evaluate import load_model


@torch.inference_mode()
def sample_story(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    seed: int,
    temperature: float,
    max_tokens: int,
) -> str:
    """The prompt and its continuation up to EOS; no top-k or top-p is applied."""
    torch.manual_seed(seed)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]  # BOS is added by the tokenizer
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(out[0], skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--prompt", default="Once upon a time", help="where the story begins")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument(
        "--stock", action="store_true", help="load through AutoModelForCausalLM, not this package"
    )
    args = parser.parse_args()
    model = load_model(args.model, args.stock)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    for seed in args.seeds:
        story = sample_story(model, tokenizer, args.prompt, seed, args.temperature, args.max_tokens)
        print(f"--- seed {seed}\n{story}")


if __name__ == "__main__":
    main()
