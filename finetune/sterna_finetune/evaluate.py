"""Held-out perplexity of a checkpoint: full precision, latent ternary or packed.

Each story is scored on its own as `BOS tokens EOS`: BOS is given, every other token, EOS included,
is predicted. A story longer than the context is scored in windows that overlap by half of it, each
token once, with at least half a context before it. Perplexity is `exp(nll / tokens)`; bits per byte
is `nll / ln 2 / bytes` over the UTF-8 bytes of the stories (EOS costs bits and adds no byte).
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from sterna_finetune.data import encode_stories, read_stories
from sterna_finetune.export import load_packed

IGNORED = -100  # label of a token that is context only, or padding


@dataclass(frozen=True)
class HeldOut:
    """Sums over a held-out text and what is reported from them."""

    stories: int
    tokens: int  # predicted tokens: all but BOS
    text_bytes: int
    nll: float  # nats, summed

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nll / math.log(2) / self.text_bytes


def scoring_windows(ids: np.ndarray, context: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(inputs, labels)` of at most `context` tokens that predict each token after BOS once."""
    inputs, targets = ids[:-1].astype(np.int64), ids[1:].astype(np.int64)
    windows = []
    scored = 0
    while scored < len(targets):
        start = 0 if scored == 0 else scored - context // 2
        end = min(start + context, len(targets))
        labels = targets[start:end].copy()
        labels[: scored - start] = IGNORED
        windows.append((inputs[start:end], labels))
        scored = end
    return windows


@torch.inference_mode()
def summed_nll(
    model: PreTrainedModel, encoded: list[np.ndarray], context: int, batch_size: int = 16
) -> float:
    """Negative log-likelihood in nats of every token after BOS, summed in float64."""
    windows = [window for ids in encoded for window in scoring_windows(ids, context)]
    windows.sort(key=lambda window: len(window[0]))
    total = 0.0
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        width = max(len(inputs) for inputs, _ in batch)
        inputs = torch.zeros(len(batch), width, dtype=torch.int64)
        labels = torch.full((len(batch), width), IGNORED, dtype=torch.int64)
        for row, (window_inputs, window_labels) in enumerate(batch):
            inputs[row, : len(window_inputs)] = torch.from_numpy(window_inputs)
            labels[row, : len(window_labels)] = torch.from_numpy(window_labels)
        # Padding is on the right, so causal attention hides it from every scored token.
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        nll = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        total += nll.double().sum().item()
    return total


def load_model(folder: Path, stock: bool) -> PreTrainedModel:
    """A checkpoint in f32: packed ones on this package's arithmetic unless `stock` is asked for."""
    if stock:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = json.loads((folder / "config.json").read_text())
    if "quantization_config" in config:
        return load_packed(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def held_out(model: PreTrainedModel, tokenizer_folder: Path, text: Path) -> HeldOut:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    stories = read_stories(text)
    encoded = encode_stories(stories, tokenizer)
    return HeldOut(
        stories=len(stories),
        tokens=sum(len(ids) - 1 for ids in encoded),
        text_bytes=sum(len(story.encode()) for story in stories),
        nll=summed_nll(model, encoded, model.config.max_position_embeddings),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--tokenizer", type=Path, help="folder; default: that of the model")
    parser.add_argument("--text", type=Path, required=True, help="valid.txt of the stories")
    parser.add_argument(
        "--stock", action="store_true", help="load through AutoModelForCausalLM, not this package"
    )
    args = parser.parse_args()
    result = held_out(load_model(args.model, args.stock), args.tokenizer or args.model, args.text)
    figures = asdict(result) | {
        "perplexity": round(result.perplexity, 4),
        "bits_per_byte": round(result.bits_per_byte, 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
