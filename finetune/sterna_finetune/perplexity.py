"""Perplexity over windows of a text, as `sterna eval --file` defines it (docs/evaluation.md).

The text is encoded as a whole, without special tokens. Windows advance by `stride` tokens of it and
hold as many as fit beside BOS; a token is scored once, in the first window that holds it, given BOS
and all before it there. Without BOS a window's first token is not scored. This is the loop of
Transformers' guide to perplexity of fixed-length models, with BOS in front of every window.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedModel

from sterna_finetune.evaluate import load_model


def windows(
    ids: list[int], context: int, stride: int | None, bos: int | None
) -> Iterator[tuple[list[int], int]]:
    """`(tokens, first)`: of the tokens of a window those from index `first` on are scored."""
    before = 0 if bos is None else 1
    most = context - before
    scored = 0
    for begin in range(0, len(ids), stride or most):
        end = min(begin + most, len(ids))
        yield ([] if bos is None else [bos]) + ids[begin:end], max(before + scored - begin, 1)
        scored = end
        if end == len(ids):
            return


@torch.inference_mode()
def score(model: PreTrainedModel, tokens: list[int], first: int) -> tuple[float, int]:
    """Summed negative log-likelihood in nats, and of how many tokens."""
    logits = model(input_ids=torch.tensor([tokens[:-1]]), use_cache=False).logits[0].double()
    targets = torch.tensor(tokens[1:])
    nll = F.cross_entropy(logits[first - 1 :], targets[first - 1 :], reduction="sum")
    return nll.item(), len(tokens) - first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--file", type=Path, required=True, help="a text, UTF-8")
    parser.add_argument("--context", type=int, required=True, help="tokens of a window")
    parser.add_argument("--stride", type=int, help="default: windows do not overlap")
    parser.add_argument("--no-bos", action="store_true", help="nothing in front of a window")
    parser.add_argument("--limit", type=int, help="only the first so many windows")
    parser.add_argument(
        "--stock", action="store_true", help="load through AutoModelForCausalLM, not this package"
    )
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ids = tokenizer(args.file.read_text(), add_special_tokens=False, verbose=False).input_ids
    model = load_model(args.model, args.stock)
    # Where the tokenizer puts BOS in front; some know one and do not.
    adds_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    bos = tokenizer.bos_token_id if adds_bos and not args.no_bos else None
    total, count, done = 0.0, 0, 0
    for tokens, first in windows(ids, args.context, args.stride, bos):
        if done == args.limit:
            break
        if len(tokens) > first:
            nll, scored = score(model, tokens, first)
            total, count = total + nll, count + scored
        done += 1
    figures = {"windows": done, "scored_tokens": count, "perplexity": math.exp(total / count)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
