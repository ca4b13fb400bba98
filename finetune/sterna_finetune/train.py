"""Trains a Llama-shaped model, in full precision or to 1.58 bits.

Three uses, one loop: a new model in full precision (`--new-model`), a checkpoint taken to 1.58 bits
(`--init DIR --ternary`), and the same without warm-up of the quantisation (`--lambda-warmup none`).
A run is a function of its arguments and seed; `--resume` continues from the last checkpoint.

Under `torchrun` the processes share each step's batches (data parallel over gloo), so
`--nproc-per-node 2 ... --accumulate 1` sees what one process with `--accumulate 2` sees. On a CPU
that is shared with other work this is much faster than threads, which meet after every operation.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sterna_finetune.bitlinear import convert_to_bitlinear, set_lambda
from sterna_finetune.data import PackedBatches, encode_stories, read_stories


def quant_lambda(step: int, steps: int, warmup: str) -> float:
    """Quantisation mix at `step`: `min(2*step/steps, 1)`, or 1 from the start for `none`."""
    if warmup == "none":
        return 1.0
    if warmup == "linear":
        return min(2 * step / steps, 1.0)
    raise ValueError(f"lambda warm-up {warmup!r} is not one of: linear, none")


def learning_rate_factor(step: int, steps: int, warmup: int, decay_fraction: float) -> float:
    """Linear rise over `warmup` steps, flat, then a linear fall to 0 over the last fraction."""
    rise = min((step + 1) / max(warmup, 1), 1.0)
    fall = min((steps - step) / max(decay_fraction * steps, 1.0), 1.0)
    return rise * fall


def small_llama_config(vocab_size: int, layers: int, hidden: int, ffn: int) -> LlamaConfig:
    """The shape of models/stories: heads of 64, two query heads a key/value head, tied head."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )


def new_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """Random weights; projections into the residual stream start smaller (GPT-2, section 2.3)."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    shrink = (2 * config.num_hidden_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(shrink)
    return model


def make_optimisers(model: nn.Module, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest; or AdamW for all."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    decay = args.weight_decay
    if args.optimiser == "muon":
        return [
            torch.optim.Muon(
                matrices, lr=args.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)]


class Checkpoint:
    """The run's state on disk, replaced atomically; a run is resumed from it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.pt"

    def save(self, step: int, model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> None:
        state = {
            "step": step,
            "model": model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        }
        temporary = self._path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self._path)

    def load(self, model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> int:
        """Restores in place; returns the number of finished steps (0 if there is no file)."""
        if not self._path.exists():
            return 0
        state = torch.load(self._path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return state["step"]


def average_gradients(model: nn.Module) -> None:
    """Averages the gradients over the processes, in one transfer."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, averaged in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def train(model: LlamaForCausalLM, batches: PackedBatches, args: argparse.Namespace) -> None:
    """Runs the remaining steps of `args.steps`; writes log.jsonl, last.pt and final/."""
    optimisers = make_optimisers(model, args)
    checkpoint = Checkpoint(args.out)
    first = checkpoint.load(model, optimisers) if args.resume else 0

    def loss_of(tokens: Tensor) -> Tensor:  # tokens: [batch, seq_len + 1]
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    compiled = torch.compile(loss_of) if args.compile else loss_of
    parallel = dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if parallel else (0, 1)
    log = (args.out / "log.jsonl").open("a", buffering=1) if rank == 0 else None
    started = saved = time.monotonic()
    model.train()
    for step in range(first, args.steps):
        factor = learning_rate_factor(step, args.steps, args.lr_warmup, args.lr_decay)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = args.lr * factor
        mix = quant_lambda(step, args.steps, args.lambda_warmup) if args.ternary else 0.0
        set_lambda(model, mix)
        loss_sum = 0.0
        for part in range(args.accumulate):
            index = (step * processes + rank) * args.accumulate + part
            tokens = torch.from_numpy(batches.batch(index))
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = compiled(tokens) / args.accumulate
            loss.backward()
            loss_sum += loss.item()
        if parallel:
            average_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if log is None:
            continue
        record = {
            "step": step,
            "loss": round(loss_sum, 4),
            "lambda": round(mix, 4),
            "lr": args.lr * factor,
            "grad_norm": round(norm, 3),
            "seconds": round(time.monotonic() - started, 1),
        }
        log.write(json.dumps(record) + "\n")
        if time.monotonic() - saved > 60 * args.checkpoint_minutes:
            checkpoint.save(step + 1, model, optimisers)
            saved = time.monotonic()
    if log is not None:
        log.close()
        checkpoint.save(args.steps, model, optimisers)
        model.save_pretrained(args.out / "final")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--new-model", action="store_true", help="random weights, small shape")
    source.add_argument("--init", type=Path, help="folder of a Llama checkpoint in HF's format")
    parser.add_argument("--layers", type=int, default=6, help="of a new model")
    parser.add_argument("--hidden", type=int, default=256, help="of a new model")
    parser.add_argument("--ffn", type=int, default=768, help="of a new model")
    parser.add_argument("--ternary", action="store_true", help="train to 1.58 bits")
    parser.add_argument("--lambda-warmup", choices=("linear", "none"), default="linear")
    parser.add_argument("--train", type=Path, required=True, help="text, <|endoftext|> between")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with a tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8, help="sequences a forward pass")
    parser.add_argument("--accumulate", type=int, default=2, help="forward passes a step")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens a sequence")
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--lr-warmup", type=int, default=50, help="steps")
    parser.add_argument("--lr-decay", type=float, default=0.4, help="last fraction of the steps")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of the matrices")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the data order")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    parser.add_argument("--resume", action="store_true", help="continue from OUT/last.pt")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if "WORLD_SIZE" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    stories = encode_stories(read_stories(args.train), tokenizer)
    batches = PackedBatches(stories, args.seq_len, args.batch_size, args.seed)
    if args.new_model:
        config = small_llama_config(len(tokenizer), args.layers, args.hidden, args.ffn)
        model = new_model(config, args.seed)
    else:
        model = LlamaForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    # Attention written out: torch.compile fuses its softmax, while the CPU's fused kernel spends
    # 40 % of a training step at this size in its backward pass.
    model.set_attn_implementation("eager")
    if args.ternary:
        print(f"{convert_to_bitlinear(model)} linear layers become ternary")
    settings = {key: str(value) for key, value in vars(args).items()}
    (args.out / "arguments.json").write_text(json.dumps(settings, indent=2) + "\n")
    train(model, batches, args)
    tokenizer.save_pretrained(args.out / "final")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
