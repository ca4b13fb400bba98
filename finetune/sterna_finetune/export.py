"""Writes a trained ternary model as a packed checkpoint (family B: divide by `weight_scale`).

Every linear layer of the blocks becomes U8 `weight` [out/4, in] and BF16 `weight_scale` [1], which
holds `1 / mean|W|`; embeddings and norms become BF16. The config asks Transformers for its BitNet
integration, and `load_packed` reads the result back into this package's own arithmetic.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from sterna_finetune.bitlinear import (
    TERNARY_LINEARS,
    activation_scale,
    int8_codes,
    ternary_codes,
    weight_scale,
)
from sterna_finetune.packing import pack_ternary, unpack_ternary

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",  # where Transformers 5 saves the template of other checkpoints
)

CONFIG_KEYS = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "use_cache",
    "vocab_size",
)


def is_ternary(name: str) -> bool:
    """Whether the tensor `name` is the weight of a linear layer inside a block."""
    parts = name.split(".")
    return parts[-1] == "weight" and len(parts) > 1 and parts[-2] in TERNARY_LINEARS


def pack_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Latent weights by name to the tensors on disk."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if is_ternary(name):
            packed[name] = pack_ternary(ternary_codes(tensor))
            packed[f"{name}_scale"] = weight_scale(tensor).to(torch.bfloat16).reshape(1)
        else:
            packed[name] = tensor.to(torch.bfloat16)
    return packed


class PackedBitLinear(nn.Module):
    """Inference on exported weights: int8 x ternary sums, `acc / (s * weight_scale)`, bias."""

    def __init__(self, packed: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # f32 holding integers: |acc| <= 128 * in_features, exact below 2**24.
        self.register_buffer("codes", unpack_ternary(packed).float())  # [out, in]
        self.register_buffer("scale", scale.float())  # [1], 1 / mean|W| as stored
        self.register_buffer("bias", None if bias is None else bias.float())  # [out]

    def forward(self, x: Tensor) -> Tensor:  # x: [..., in]
        accumulated = F.linear(int8_codes(x), self.codes)
        product = accumulated / (activation_scale(x) * self.scale)
        return product if self.bias is None else product + self.bias


def load_packed(folder: Path) -> LlamaForCausalLM:
    """An exported checkpoint as an f32 model on this package's arithmetic, for evaluation."""
    config = LlamaConfig.from_pretrained(folder)
    del config.quantization_config
    model = LlamaForCausalLM(config)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if is_ternary(name)]:
        path = name.removesuffix(".weight")
        weight, scale = tensors.pop(name), tensors.pop(f"{name}_scale")
        layer = PackedBitLinear(weight, scale, tensors.pop(f"{path}.bias", None))
        model.set_submodule(path, layer)
    plain = {name: tensor.float() for name, tensor in tensors.items()}
    result = model.load_state_dict(plain, strict=False)
    # The packed layers have filled themselves; a tied head is not on disk.
    filled = (*TERNARY_LINEARS, "lm_head") if config.tie_word_embeddings else TERNARY_LINEARS
    missing = [name for name in result.missing_keys if name.split(".")[-2] not in filled]
    unexpected = result.unexpected_keys
    if missing or unexpected:
        raise ValueError(f"{folder}: missing tensors {missing}, unexpected tensors {unexpected}")
    model.tie_weights()
    return model.eval()


def checkpoint_config(config: LlamaConfig) -> dict[str, object]:
    """config.json of an exported model: the keys of family B's published checkpoints only."""
    values = config.to_dict()
    rope = dict(values["rope_parameters"])  # Transformers 5 keeps both RoPE settings here
    theta = rope.pop("rope_theta")
    return {key: values[key] for key in CONFIG_KEYS} | {
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": theta,
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": None},
    }


def export(source: Path, tokenizer: Path, out: Path, temperature: float) -> None:
    """Packs the latent checkpoint `source` (a folder of `train.py`) into the folder `out`."""
    latent = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    out.mkdir(parents=True, exist_ok=True)
    state = dict(latent.state_dict())
    if latent.config.tie_word_embeddings:
        del state["lm_head.weight"]
    tensors = save(pack_state(state), metadata={"format": "pt"})
    (out / "model.safetensors").write_bytes(tensors)

    config = checkpoint_config(latent.config)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    generation = {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "do_sample": True,
        "temperature": temperature,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="final/ of a ternary run")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with its tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--temperature", type=float, default=0.7, help="for generation_config.json")
    args = parser.parse_args()
    export(args.source, args.tokenizer, args.out, args.temperature)


if __name__ == "__main__":
    main()
