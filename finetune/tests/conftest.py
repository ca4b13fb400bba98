"""Shared fixtures: a tiny random Llama, and the folder of the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from sterna_finetune.train import new_model, small_llama_config

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def shipped() -> Path:
    """models/stories; a missing model is a failure, not a skip."""
    folder = REPOSITORY / "models" / "stories"
    assert (folder / "model.safetensors").exists(), f"{folder} holds no model"
    return folder


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    torch.set_num_threads(1)
    return new_model(small_llama_config(vocab_size=64, layers=2, hidden=256, ffn=256), seed=3)
