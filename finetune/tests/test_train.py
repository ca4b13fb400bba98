"""Schedules, batches and the training loop."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sterna_finetune.bitlinear import convert_to_bitlinear
from sterna_finetune.data import PackedBatches, read_stories
from sterna_finetune.train import (
    learning_rate_factor,
    new_model,
    quant_lambda,
    small_llama_config,
    train,
)


def test_lambda_schedule() -> None:
    values = [quant_lambda(step, 1000, "linear") for step in (0, 1, 250, 499, 500, 501, 999)]
    assert values == [0.0, 0.002, 0.5, 0.998, 1.0, 1.0, 1.0]
    assert quant_lambda(0, 1000, "none") == 1.0
    with pytest.raises(ValueError, match="one of: linear, none"):
        quant_lambda(0, 1000, "sigmoid")


def test_learning_rate_schedule() -> None:
    factors = [learning_rate_factor(step, 100, 10, 0.4) for step in (0, 9, 10, 60, 80, 99)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 1 / 40])


def test_stories_are_split_at_their_marker(tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_text("One.\nTwo.\n<|endoftext|>\nThree.\n<|endoftext|>\n")
    assert read_stories(text) == ["One.\nTwo.", "Three."]


def stories_of_numbers(count: int) -> list[np.ndarray]:
    return [np.arange(7 * i, 7 * (i + 1), dtype=np.int32) for i in range(count)]


def test_an_epoch_shows_every_token_once_and_in_story_order() -> None:
    batches = PackedBatches(stories_of_numbers(20), seq_len=5, batch_size=2, seed=0)
    inputs = [batches.batch(i)[:, :-1].ravel() for i in range(batches.batches_per_epoch)]
    seen = np.concatenate(inputs)
    assert len(seen) == len(set(seen.tolist())) == 130  # of 140; the tail is not a full batch
    starts = np.flatnonzero(seen % 7 == 0)
    assert all((np.diff(seen[s : s + 7]) == 1).all() for s in starts)


def test_targets_are_the_inputs_moved_by_one() -> None:
    rows = PackedBatches(stories_of_numbers(20), seq_len=5, batch_size=2, seed=0).batch(1)
    assert rows.shape == (2, 6)
    assert rows[0, -1] == rows[1, 0]


def test_batches_depend_on_seed_and_index_alone() -> None:
    forward = PackedBatches(stories_of_numbers(20), seq_len=5, batch_size=2, seed=0)
    backward = PackedBatches(stories_of_numbers(20), seq_len=5, batch_size=2, seed=0)
    wanted = [forward.batch(i) for i in range(30)]
    for i in reversed(range(30)):
        np.testing.assert_array_equal(backward.batch(i), wanted[i])
    other = PackedBatches(stories_of_numbers(20), seq_len=5, batch_size=2, seed=1)
    assert not np.array_equal(other.batch(0), wanted[0])
    assert not np.array_equal(wanted[0], wanted[forward.batches_per_epoch])  # epochs differ


def run_arguments(out: Path, **changes: object) -> argparse.Namespace:
    values = {
        "out": out,
        "steps": 6,
        "accumulate": 2,
        "optimiser": "muon",
        "lr": 3e-3,
        "lr_warmup": 2,
        "lr_decay": 0.4,
        "weight_decay": 0.05,
        "ternary": True,
        "lambda_warmup": "linear",
        "bf16": False,
        "compile": False,
        "checkpoint_minutes": 0.0,  # after every step
        "resume": False,
    }
    return argparse.Namespace(**(values | changes))


def ternary_run(out: Path, **changes: object) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    out.mkdir(exist_ok=True)
    model = new_model(small_llama_config(vocab_size=160, layers=1, hidden=256, ffn=256), seed=3)
    convert_to_bitlinear(model)
    batches = PackedBatches(stories_of_numbers(20), seq_len=5, batch_size=2, seed=0)
    train(model, batches, run_arguments(out, **changes))
    return model.state_dict()


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_a_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    whole = ternary_run(tmp_path / "whole", optimiser=optimiser)

    def stop_before_step_3(self: PackedBatches, index: int) -> np.ndarray:
        if index >= 6:
            raise KeyboardInterrupt
        return original(self, index)

    original = PackedBatches.batch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PackedBatches, "batch", stop_before_step_3)
        ternary_run(tmp_path / "broken", optimiser=optimiser)
    resumed = ternary_run(tmp_path / "broken", optimiser=optimiser, resume=True)

    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    log = [json.loads(line) for line in (tmp_path / "broken" / "log.jsonl").open()]
    assert [record["step"] for record in log] == [0, 1, 2, 3, 4, 5]
    assert [record["lambda"] for record in log] == [0.0, 0.3333, 0.6667, 1.0, 1.0, 1.0]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    ternary_run(tmp_path / "run", steps=60)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def data_parallel_rank(rank: int, out: Path) -> None:
    store = torch.distributed.FileStore(str(out.parent / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    ternary_run(out, accumulate=1)
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = ternary_run(tmp_path / "alone", accumulate=2)
    torch.multiprocessing.spawn(data_parallel_rank, args=(tmp_path / "both",), nprocs=2)
    state = torch.load(tmp_path / "both" / "last.pt", weights_only=True)
    for name, tensor in alone.items():
        torch.testing.assert_close(state["model"][name], tensor, rtol=1e-3, atol=1e-4)
