#!/usr/bin/env python3
"""Makes the small random checkpoints under tests/golden/data/models and their golden logits.

Run (CPU, a few minutes; nothing is downloaded):

    python3 -m venv golden-venv
    golden-venv/bin/pip install torch==2.13.0 transformers==5.14.1 accelerate==1.15.0 \
        safetensors==0.8.0 numpy==2.4.6
    golden-venv/bin/python tests/golden/make_model_goldens.py [name ...]

Each directory is a Hugging Face checkpoint of family A, A' or B (docs/formats.md) with random
weights, plus
    golden.json         the tokens fed, the greedy continuation, the seed, versions
    golden.safetensors  logits_f64 [tokens, vocabulary] F64: Transformers with every cast lifted
                        logits_f32 [tokens, vocabulary] F32: stock Transformers in float32

Truth is Transformers' own model code run in float64. That code casts to float32 inside RMSNorm, the
rotary tables, softmax and quantisation whatever the model's type is. Here those very lines run, but
with `torch.float32`, `torch.float` and `Tensor.float()` meaning float64 to them; a dispatch hook
fails the run should any operation still produce a narrower float.

golden_rules.py says when a seed is rejected and the next tried. Families C, D and E have
make_numpy_goldens.py.

Transformers 5.9 to 5.13 must not be used: on CPU they unpack the code of -1 as 255.
"""

import contextlib
import json
import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the quantisers are torch.compile'd: run them as written
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM
from transformers.integrations import bitnet as bitnet_integration
from transformers.models.bitnet import modeling_bitnet
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3
from transformers import modeling_rope_utils

from golden_rules import PROMPT_TOKENS, make_all, why_rejected

BITNET, LLAMA = "bitnet", "llama"

# name -> what differs from DEFAULTS. `family` is A, A' or B.
DEFAULTS = dict(
    model_type=None, layers=2, head_dim=None, tied=False, dtype=torch.bfloat16, rope={"rope_theta": 10000.0},
    attention_bias=False, mlp_bias=False, use_rms_norm=False, shards=1, eps=1e-5,
)
MODELS = {
    "a-gqa": dict(family="A", hidden=64, ffn=172, heads=4, kv_heads=2, vocab=112, tied=True,
                  rope={"rope_theta": 500000.0}),
    "a-odd": dict(family="A", hidden=60, ffn=148, heads=5, kv_heads=1, vocab=99, layers=3),
    "a-wide": dict(family="A", hidden=144, ffn=320, heads=6, kv_heads=3, vocab=104, tied=True),
    "latent-odd": dict(family="A'", hidden=54, ffn=101, heads=3, kv_heads=1, vocab=97, tied=True),
    "latent-bias": dict(family="A'", hidden=40, ffn=120, heads=4, kv_heads=4, vocab=100,
                        attention_bias=True),
    # The two other pairings of model code and linear class that Transformers knows.
    "a-in-llama": dict(family="A", model_type=LLAMA, hidden=40, ffn=84, heads=2, kv_heads=1,
                       vocab=98),
    "b-in-bitnet": dict(family="B", model_type=BITNET, hidden=40, ffn=88, heads=4, kv_heads=2,
                        vocab=98),
    "b-heads": dict(family="B", hidden=64, ffn=176, heads=4, kv_heads=4, vocab=128),
    "b-wide": dict(family="B", hidden=192, ffn=512, heads=6, kv_heads=2, vocab=120),
    "b-llama3-rope": dict(
        family="B", hidden=72, ffn=132, heads=6, kv_heads=2, head_dim=20, vocab=101,
        rope={"rope_theta": 10000.0,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "b-sharded": dict(family="B", hidden=60, ffn=92, heads=3, kv_heads=3, vocab=110, tied=True,
                      shards=3),
    "b-f16-linear-rope": dict(
        family="B", hidden=64, ffn=136, heads=8, kv_heads=2, vocab=105, tied=True,
        dtype=torch.float16,
        rope={"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 20000.0}}),
    "b-f32-bias": dict(family="B", hidden=48, ffn=100, heads=4, kv_heads=2, vocab=100,
                       dtype=torch.float32, attention_bias=True, mlp_bias=True, eps=1e-6),
    "b-yarn-rope": dict(
        family="B", hidden=60, ffn=96, heads=3, kv_heads=1, head_dim=32, vocab=100,
        rope={"rope_theta": 10000.0,
              "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                               "original_max_position_embeddings": 64}}),
    # Falcon3's heads.
    "b-head-256": dict(family="B", hidden=72, ffn=100, heads=2, kv_heads=1, head_dim=256, vocab=99,
                       rope={"rope_theta": 1000042.0}, eps=1e-6),
    "b-norm": dict(family="B", hidden=52, ffn=116, heads=2, kv_heads=2, vocab=103,
                   use_rms_norm=True),
}


# --- Transformers in float64 ---------------------------------------------------------------------


class TorchInDouble:
    """Stands for the `torch` module in Transformers' files, with float32 meaning float64."""

    float32 = torch.float64
    float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class OnlyDouble(TorchDispatchMode):
    """Fails on any operation that yields a float narrower than float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                if value.dtype != torch.float64:
                    raise AssertionError(f"{func} yields {value.dtype}: a cast was not lifted")
        return result


@contextlib.contextmanager
def lifted_casts():
    """Runs Transformers' model code with its float32 casts lifted to float64."""
    files = (modeling_bitnet, modeling_llama, modeling_qwen3, modeling_rope_utils,
             bitnet_integration)
    saved_float = torch.Tensor.float
    for file in files:
        file.torch = TorchInDouble()
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = saved_float
        for file in files:
            file.torch = torch


class TieWatch:
    """Records how close any quantised value comes to a rounding tie."""

    def __init__(self):
        self.distance = float("inf")

    def _note(self, scaled):
        fraction = scaled - torch.floor(scaled)
        self.distance = min(self.distance, (fraction - 0.5).abs().min().item())

    @contextlib.contextmanager
    def watch(self):
        bit_linear, act_quant = bitnet_integration.BitLinear, bitnet_integration.ActQuant
        weight_quant = bitnet_integration.WeightQuant
        saved = bit_linear.activation_quant, act_quant.forward, weight_quant.forward

        def note_activation(x):
            self._note(x * (127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)))

        def bit_linear_quant(module, x, num_bits=8):
            note_activation(x)
            return saved[0](module, x, num_bits)

        def act_quant_forward(ctx, x):
            note_activation(x)
            return saved[1](ctx, x)

        def weight_quant_forward(ctx, weight):
            self._note(weight / weight.abs().mean().clamp(min=1e-5))
            return saved[2](ctx, weight)

        bit_linear.activation_quant = bit_linear_quant
        act_quant.forward = staticmethod(act_quant_forward)
        weight_quant.forward = staticmethod(weight_quant_forward)
        try:
            yield
        finally:
            bit_linear.activation_quant = saved[0]
            act_quant.forward = staticmethod(saved[1])
            weight_quant.forward = staticmethod(saved[2])


def load(directory, dtype):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    return model.eval()


def logits_in_double(model, tokens):
    with torch.no_grad(), lifted_casts(), OnlyDouble():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    assert logits.dtype == torch.float64
    return logits


def load_in_double(directory):
    with lifted_casts():
        model = load(directory, torch.float64)
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(config=model.config)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float64
    return model


# --- random checkpoints --------------------------------------------------------------------------


def model_type(spec):
    return spec["model_type"] or (LLAMA if spec["family"] == "B" else BITNET)


def config_json(spec):
    bitnet = model_type(spec) == BITNET
    quantization = {"quant_method": "bitnet"}
    if spec["family"] != "B":
        quantization["linear_class"] = "autobitlinear"
        quantization["quantization_mode"] = "online" if spec["family"] == "A'" else "offline"
    if spec["use_rms_norm"]:
        quantization.update(use_rms_norm=True, rms_norm_eps=1e-6)
    config = {
        "architectures": ["BitNetForCausalLM" if bitnet else "LlamaForCausalLM"],
        "model_type": model_type(spec),
        "hidden_size": spec["hidden"],
        "intermediate_size": spec["ffn"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": spec["heads"],
        "num_key_value_heads": spec["kv_heads"],
        "vocab_size": spec["vocab"],
        "max_position_embeddings": 256,
        "hidden_act": "relu2" if bitnet else "silu",
        "rms_norm_eps": spec["eps"],
        "tie_word_embeddings": spec["tied"],
        "attention_bias": spec["attention_bias"],
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": str(spec["dtype"]).removeprefix("torch."),
        "quantization_config": quantization,
    }
    if spec["head_dim"]:
        config["head_dim"] = spec["head_dim"]
    if not bitnet:
        config["mlp_bias"] = spec["mlp_bias"]
    return config | spec["rope"]


def random_tensors(spec, seed):
    """Weights of a model that does not settle on one token: strong layers, a modest embedding."""
    generator = torch.Generator().manual_seed(seed)
    dtype, family, hidden = spec["dtype"], spec["family"], spec["hidden"]
    head_dim = spec["head_dim"] or hidden // spec["heads"]
    tensors = {}

    def normal(shape, std):
        return torch.randn(shape, generator=generator, dtype=torch.float64) * std

    def norm(name, size):
        tensors[name + ".weight"] = (1 + normal((size,), 0.2)).abs().clamp(min=0.1).to(dtype)

    def linear(name, rows, cols, gain, bias):
        scale = gain * (1.5 / cols) ** 0.5 * (0.8 + 0.4 * torch.rand(1, generator=generator).item())
        if family == "A'":
            # Its scale will be the mean magnitude, 0.8 of the standard deviation.
            tensors[name + ".weight"] = normal((rows, cols), scale / 0.8).to(dtype)
        else:
            assert rows % 4 == 0, (name, rows)  # a byte packs four rows
            ternary = torch.randint(-1, 2, (rows, cols), generator=generator, dtype=torch.int8)
            tensors[name + ".weight"] = bitnet_integration.pack_weights(ternary)
            stored = scale if family == "A" else 1 / scale
            tensors[name + ".weight_scale"] = torch.tensor([stored], dtype=dtype)
        if bias:
            tensors[name + ".bias"] = normal((rows,), 0.2).to(dtype)
        if spec["use_rms_norm"]:
            norm(name + ".rms_norm", cols)

    # A tied head sees its own token again in the residual stream, and would repeat it.
    embedding_std = 0.2 if spec["tied"] else 0.5
    tensors["model.embed_tokens.weight"] = normal((spec["vocab"], hidden), embedding_std).to(dtype)
    for i in range(spec["layers"]):
        layer = f"model.layers.{i}."
        attention_rows = {"q": spec["heads"], "k": spec["kv_heads"], "v": spec["kv_heads"]}
        norm(layer + "input_layernorm", hidden)
        for name, heads in attention_rows.items():
            gain = 1.0 if name == "v" else 1.6
            linear(f"{layer}self_attn.{name}_proj", heads * head_dim, hidden, gain,
                   spec["attention_bias"])
        linear(layer + "self_attn.o_proj", hidden, spec["heads"] * head_dim, 1.0,
               spec["attention_bias"])
        norm(layer + "post_attention_layernorm", hidden)
        for name in ("gate", "up"):
            linear(f"{layer}mlp.{name}_proj", spec["ffn"], hidden, 1.2, spec["mlp_bias"])
        linear(layer + "mlp.down_proj", hidden, spec["ffn"], 1.5, spec["mlp_bias"])
        if model_type(spec) == BITNET:
            norm(layer + "self_attn.attn_sub_norm", spec["heads"] * head_dim)
            norm(layer + "mlp.ffn_sub_norm", spec["ffn"])
    norm("model.norm", hidden)
    if not spec["tied"]:
        tensors["lm_head.weight"] = normal((spec["vocab"], hidden), 0.5).to(dtype)
    return tensors


def save_checkpoint(directory, spec, tensors):
    (directory / "config.json").write_text(json.dumps(config_json(spec), indent=1) + "\n")
    metadata = {"format": "pt"}
    if spec["shards"] == 1:
        save_file(tensors, directory / "model.safetensors", metadata)
        return
    names, count = sorted(tensors), spec["shards"]
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        part = names[shard * len(names) // count:(shard + 1) * len(names) // count]
        save_file({name: tensors[name] for name in part}, directory / file, metadata)
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


# --- goldens -------------------------------------------------------------------------------------


def make_golden(name, spec, directory, seed):
    """Makes one model with its golden in `directory`; returns why it was rejected, or None."""
    spec = DEFAULTS | spec
    save_checkpoint(directory, spec, random_tensors(spec, seed))
    model = load_in_double(directory)
    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randint(0, spec["vocab"], (PROMPT_TOKENS,), generator=generator).tolist()
    watch = TieWatch()
    with watch.watch():
        reason = why_rejected(lambda fed: logits_in_double(model, fed)[-1].tolist(), tokens, watch)
    if reason:
        return reason
    greedy = tokens[PROMPT_TOKENS:]
    fed = tokens[:-1]  # its last logits choose the last greedy token
    logits = logits_in_double(model, fed)
    assert logits.argmax(-1)[PROMPT_TOKENS - 1:].tolist() == greedy
    with torch.no_grad():
        stock = load(directory, torch.float32)(torch.tensor([fed]), use_cache=False).logits[0]
    assert stock.dtype == torch.float32
    save_file({"logits_f64": logits, "logits_f32": stock}, directory / "golden.safetensors")
    agreement = (stock.argmax(-1) == logits.argmax(-1)).double().mean().item()
    golden = {
        "family": spec["family"], "seed": seed, "tokens": fed, "prompt_tokens": PROMPT_TOKENS,
        "greedy": greedy, "distinct_greedy": len(set(greedy)),
        "max_abs_logit": logits.abs().max().item(), "closest_tie": watch.distance,
        "stock_f32_top1_agreement": agreement,
        "torch": torch.__version__, "transformers": transformers.__version__,
    }
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")
    return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_all(__doc__.splitlines()[0], MODELS, make_golden)
