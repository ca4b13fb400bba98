"""Export and reload: the packed checkpoint computes what the trained model computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sterna_finetune.bitlinear import convert_to_bitlinear, ternary_codes
from sterna_finetune.evaluate import IGNORED, scoring_windows, summed_nll
from sterna_finetune.export import export, is_ternary, load_packed, pack_state
from sterna_finetune.packing import unpack_ternary
from sterna_finetune.train import new_model, small_llama_config

TOKENS = torch.tensor([[1, 5, 9, 33, 2, 60, 7, 7]])


@pytest.fixture
def exported(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    tiny_llama.save_pretrained(tmp_path / "latent")
    export(tmp_path / "latent", tmp_path, tmp_path / "packed", temperature=0.7)
    return tmp_path / "packed"


def test_tensors_on_disk(tiny_llama: LlamaForCausalLM, exported: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    assert "lm_head.weight" not in tensors  # tied
    latent = tiny_llama.state_dict()
    for name in filter(is_ternary, latent):
        rows, columns = latent[name].shape
        assert tensors[name].dtype == torch.uint8
        assert tensors[name].shape == (rows // 4, columns)
        assert torch.equal(unpack_ternary(tensors[name]).float(), ternary_codes(latent[name]))
        scale = tensors[f"{name}_scale"]
        assert scale.shape == (1,) and scale.dtype == torch.bfloat16
        assert scale.item() == pytest.approx(1 / latent[name].abs().mean().item(), rel=2**-8)
    others = [name for name in tensors if tensors[name].dtype != torch.uint8]
    assert all(tensors[name].dtype == torch.bfloat16 for name in others)


def test_reload_equals_the_trained_model(tiny_llama: LlamaForCausalLM, exported: Path) -> None:
    """Up to the rounding that export does: scales, embeddings and norms in bf16."""
    convert_to_bitlinear(tiny_llama)
    stored = load_file(exported / "model.safetensors")
    with torch.no_grad():
        for name, parameter in tiny_llama.named_parameters():
            if is_ternary(name):  # the latent weight whose own scale is the stored one
                codes = ternary_codes(parameter)
                scaled = codes / stored[f"{name}_scale"].float() / codes.abs().mean()
                parameter.copy_(scaled)
            else:
                parameter.copy_(stored[name].float())
        expected = tiny_llama(input_ids=TOKENS).logits
        logits = load_packed(exported)(input_ids=TOKENS).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_stock_transformers_agrees(exported: Path) -> None:
    stock = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    with torch.inference_mode():
        ours = load_packed(exported)(input_ids=TOKENS).logits
        torch.testing.assert_close(stock(input_ids=TOKENS).logits, ours, rtol=1e-5, atol=1e-5)


def test_biases_and_an_untied_head_survive(tmp_path: Path) -> None:
    config = small_llama_config(vocab_size=64, layers=1, hidden=256, ffn=256)
    config.attention_bias = config.mlp_bias = True
    config.tie_word_embeddings = False
    model = new_model(config, seed=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(tmp_path / "latent")
    export(tmp_path / "latent", tmp_path, tmp_path / "packed", temperature=1.0)
    convert_to_bitlinear(model)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32).eval()
    with torch.inference_mode():
        ours = load_packed(tmp_path / "packed")(input_ids=TOKENS).logits
        torch.testing.assert_close(stock(input_ids=TOKENS).logits, ours, rtol=1e-5, atol=1e-5)
        # The trained model differs by the rounding to bf16 only.
        difference = model(input_ids=TOKENS).logits - ours
    assert difference.norm() < 0.02 * ours.norm()


def test_config_is_family_b(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["quantization_config"]["quant_method"] == "bitnet"
    assert "linear_class" not in config["quantization_config"]  # absent means: divide
    assert config["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is True


def test_a_missing_tensor_is_refused(exported: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, exported / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing tensors .*model\.norm\.weight"):
        load_packed(exported)


def test_pack_state_leaves_the_head_alone() -> None:
    state = {
        "lm_head.weight": torch.ones(4, 4),
        "model.layers.0.mlp.up_proj.weight": torch.ones(4, 4),
    }
    packed = pack_state(state)
    assert packed["lm_head.weight"].dtype == torch.bfloat16
    assert packed["model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8


@pytest.mark.parametrize("length", [2, 9, 10, 23, 100])
def test_windows_score_every_token_once_with_context(length: int) -> None:
    ids = np.arange(length)
    scored: list[int] = []
    for inputs, labels in scoring_windows(ids, context=8):
        assert len(inputs) == len(labels) <= 8
        kept = labels != IGNORED
        assert (labels[kept] == inputs[kept] + 1).all()
        if scored:
            assert np.flatnonzero(kept)[0] >= 4  # at least half a context before it
        scored += labels[kept].tolist()
    assert scored == list(range(1, length))


def test_summed_nll_does_not_depend_on_the_batch(tiny_llama: LlamaForCausalLM) -> None:
    rng = np.random.default_rng(0)
    encoded = [rng.integers(0, 64, size=n) for n in (5, 30, 12, 2)]
    tiny_llama.eval()
    alone = sum(summed_nll(tiny_llama, [ids], context=16) for ids in encoded)
    together = summed_nll(tiny_llama, encoded, context=16)
    assert together == pytest.approx(alone, rel=1e-5)
