#!/usr/bin/env python3
"""Writes a checkpoint of random weights in Hugging Face's layout, of any family that Sterna reads.

    tools/random_checkpoint.py --family A --output DIR
    tools/random_checkpoint.py --family E --group-size 64 --hidden 512 --layers 4 --output DIR
    tools/random_checkpoint.py --config Llama3-8B-1.58-100B-tokens/config.json --output DIR

The families are those of docs/formats.md: A packed and A' latent BitNet, B bitlinear, C 1bitLLM,
D TriLM unpacked, E Ternary-Bonsai unpacked. Tensors follow from config.json alone, which the flags
make, or --config gives. They are written one after the other: memory stays small at any size. With
--tokenizer bytes (the default for small vocabularies) the model reads and writes single bytes; give
a directory to copy one that fits. Same arguments, same files.

Needs nothing but the standard library.
"""

import argparse
import json
import math
import random
import shutil
import struct
import sys
from pathlib import Path

BYTE_VOCAB = 260  # of the tokenizer of single bytes: 256, and four special tokens
BOS, EOS = 256, 257
_CHUNK = 1 << 24  # bytes or elements made at a time

# Every byte of four valid codes, 0 to 2, as the image of all bytes.
_FOUR_CODES = [c0 | c1 << 2 | c2 << 4 | c3 << 6
               for c0 in range(3) for c1 in range(3) for c2 in range(3) for c3 in range(3)]
_TO_CODES = bytes(_FOUR_CODES[byte * len(_FOUR_CODES) // 256] for byte in range(256))
# The upper byte of a number of either sign and a magnitude from 2^-7 to 2^-6, by the sign's bit.
_BF16_HIGH = bytes(0x3C | byte & 0x80 for byte in range(256))
# Of half precision, whose exponent begins elsewhere, from 2^-7 to 2^-6 or from 2^-5 to 2^-4: latent
# weights need some that round to zero.
_F16_HIGH = bytes(0x20 | byte & 0x8B for byte in range(256))


def bf16(value):
    return struct.pack("<f", value)[2:]


def f16(value):
    return struct.pack("<e", value)


class Tensor:
    """What the header says of a tensor, and its bytes in pieces."""

    def __init__(self, dtype, shape, pieces):
        self.dtype = dtype
        self.shape = shape
        self.pieces = pieces
        self.num_bytes = math.prod(shape) * {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}[dtype]


def _packed(rng, outputs, inputs):
    def pieces():
        left = outputs // 4 * inputs
        while left > 0:
            size = min(left, _CHUNK)
            yield rng.randbytes(size).translate(_TO_CODES)
            left -= size
    return Tensor("U8", [outputs // 4, inputs], pieces)


def _dense(rng, dtype, shape):
    high = {"BF16": _BF16_HIGH, "F16": _F16_HIGH}[dtype]

    def pieces():
        left = math.prod(shape)
        while left > 0:
            size = min(left, _CHUNK)
            values = bytearray(2 * size)
            values[0::2] = rng.randbytes(size)
            values[1::2] = rng.randbytes(size).translate(high)
            yield bytes(values)
            left -= size
    return Tensor(dtype, list(shape), pieces)


def _unpacked(rng, dtype, outputs, inputs, group_size, scales_of_row):
    """Values -s, 0 and s; `scales_of_row(row, groups)` gives the s of each group."""
    encode = {"BF16": bf16, "F16": f16}[dtype]
    tables = {}

    def table(scale):
        if scale not in tables:
            codes = [encode(-scale), encode(0.0), encode(scale)]
            tables[scale] = [bytes(codes[byte * 3 // 256][i] for byte in range(256))
                             for i in range(2)]
        return tables[scale]

    def pieces():
        groups = inputs // group_size
        for row in range(outputs):
            values = bytearray(2 * inputs)
            codes = rng.randbytes(inputs)
            for group, scale in enumerate(scales_of_row(row, groups)):
                low, high = table(scale)
                of_group = codes[group * group_size:(group + 1) * group_size]
                begin, end = 2 * group * group_size, 2 * (group + 1) * group_size
                values[begin:end:2] = of_group.translate(low)
                values[begin + 1:end:2] = of_group.translate(high)
            yield bytes(values)
    return Tensor(dtype, [outputs, inputs], pieces)


def _vector(dtype, values):
    encode = {"BF16": bf16, "F16": f16}[dtype]
    return Tensor(dtype, [len(values)], lambda: [b"".join(encode(value) for value in values)])


def family_of(config):
    """The family that a config.json describes."""
    quantization = config.get("quantization_config")
    if config["model_type"] == "qwen3":
        return "E"
    if "weight_bits" in config:
        return "C"
    if quantization is None:
        return "D"
    if quantization.get("linear_class", "bitlinear") == "autobitlinear":
        return "A'" if quantization.get("quantization_mode") == "online" else "A"
    return "B"


def tensors_of(config, seed=1, group_size=128):
    """Name to Tensor: everything that config.json implies."""
    family = family_of(config)
    rng = random.Random(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    vocab = config["vocab_size"]
    dtype = "F16" if family in "CD" else "BF16"
    tensors = {}

    def norm(name, size):
        # Of a few hundredths around 1, as powers of two add up exactly in either type.
        tensors[name] = _vector(dtype, [1 + rng.randint(-8, 8) / 128 for _ in range(size)])

    def scale_of(inputs):
        # Keeps the variance of what goes through; two thirds of the weights are not zero.
        return 2.0 ** round(math.log2(1 / math.sqrt(inputs * 2 / 3)))

    def grouped(outputs, inputs, unit):
        def scales(_, groups):
            return [unit * (1 + rng.randrange(4) / 4) for _ in range(groups)]
        return _unpacked(rng, dtype, outputs, inputs, group_size, scales)

    def linear(name, outputs, inputs):
        unit = scale_of(inputs)
        if family in ("A", "B"):
            tensors[name + ".weight"] = _packed(rng, outputs, inputs)
            scale = unit if family == "A" else 1 / unit
            tensors[name + ".weight_scale"] = _vector("BF16", [scale])
        elif family in ("A'", "C"):
            tensors[name + ".weight"] = _dense(rng, dtype, [outputs, inputs])
        elif family == "D":  # two blocks of rows, as if from two devices
            tensors[name + ".weight"] = _unpacked(
                rng, dtype, outputs, inputs, inputs,
                lambda row, _: [unit if row < outputs // 2 else 1.5 * unit])
        else:
            tensors[name + ".weight"] = grouped(outputs, inputs, unit)

    def table(name):
        if family == "E":
            tensors[name] = grouped(vocab, hidden, scale_of(hidden))
        else:
            tensors[name] = _dense(rng, dtype, [vocab, hidden])

    table("model.embed_tokens.weight")
    if not config.get("tie_word_embeddings", False):
        table("lm_head.weight")
    norm("model.norm.weight", hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        norm(prefix + "input_layernorm.weight", hidden)
        norm(prefix + "post_attention_layernorm.weight", hidden)
        linear(prefix + "self_attn.q_proj", heads * head_dim, hidden)
        linear(prefix + "self_attn.k_proj", kv_heads * head_dim, hidden)
        linear(prefix + "self_attn.v_proj", kv_heads * head_dim, hidden)
        linear(prefix + "self_attn.o_proj", hidden, heads * head_dim)
        linear(prefix + "mlp.gate_proj", ffn, hidden)
        linear(prefix + "mlp.up_proj", ffn, hidden)
        linear(prefix + "mlp.down_proj", hidden, ffn)
        if family == "E":
            norm(prefix + "self_attn.q_norm.weight", head_dim)
            norm(prefix + "self_attn.k_norm.weight", head_dim)
        if family == "C":
            norm(prefix + "self_attn.inner_attn_ln.weight", heads * head_dim)
            norm(prefix + "mlp.ffn_layernorm.weight", ffn)
        if config["model_type"] == "bitnet":
            norm(prefix + "self_attn.attn_sub_norm.weight", heads * head_dim)
            norm(prefix + "mlp.ffn_sub_norm.weight", ffn)
    return tensors


def write_safetensors(path, tensors):
    header = {}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape,
                        "data_offsets": [offset, offset + tensor.num_bytes]}
        offset += tensor.num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for piece in tensor.pieces():
                file.write(piece)


def _byte_characters():
    """The printable character that byte-level BPE writes for each byte (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {}
    extra = 0
    for byte in range(256):
        if byte in printable:
            characters[byte] = chr(byte)
        else:
            characters[byte] = chr(256 + extra)
            extra += 1
    return characters


def byte_tokenizer():
    """A tokenizer.json whose tokens are single bytes."""
    characters = _byte_characters()
    special = {"<s>": BOS, "</s>": EOS, "<|sep|>": 258, "<|pad|>": 259}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for content, id in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                    "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {characters[byte]: byte for byte in range(256)} | special,
            "merges": [],
        },
    }


def write_checkpoint(directory, config, seed=1, group_size=128, chat_template=None):
    """Config, weights, and for vocabularies of BYTE_VOCAB the tokenizer of single bytes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_safetensors(directory / "model.safetensors", tensors_of(config, seed, group_size))
    if config["vocab_size"] == BYTE_VOCAB:
        tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                            "eos_token": "</s>"}
        if chat_template is not None:
            tokenizer_config["chat_template"] = chat_template
        (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        (directory / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))


def config_of(family, hidden=256, ffn=512, layers=2, heads=4, kv_heads=2, vocab=BYTE_VOCAB,
              context=4096, tied=False, head_dim=None):
    """A config.json of these sizes."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or hidden // heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }
    if vocab == BYTE_VOCAB:
        config |= {"bos_token_id": BOS, "eos_token_id": EOS}
    if family in ("A", "A'"):
        config |= {
            "model_type": "bitnet", "architectures": ["BitNetForCausalLM"], "hidden_act": "relu2",
            "rope_theta": 500000.0,
            "quantization_config": {
                "quant_method": "bitnet", "linear_class": "autobitlinear",
                "quantization_mode": "offline" if family == "A" else "online"}}
    elif family == "B":
        config["quantization_config"] = {"quant_method": "bitnet"}
    elif family == "C":
        config |= {"architectures": ["BitnetForCausalLM"], "weight_bits": 1, "input_bits": 8}
    elif family == "E":
        config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
                   "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "attention_bias": False}
    return config


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a directory to be made")
    parser.add_argument("--config", type=Path, help="a config.json to follow, instead of the flags")
    parser.add_argument("--family", choices=["A", "A'", "B", "C", "D", "E"])
    for name, default in [("hidden", 256), ("ffn", 512), ("layers", 2), ("heads", 4),
                          ("kv-heads", 2), ("vocab", BYTE_VOCAB), ("context", 4096)]:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N",
                            help=f"default {default}")
    parser.add_argument("--head-dim", type=int, metavar="N", help="default hidden / heads")
    parser.add_argument("--tied", action="store_true", help="the head is the embedding")
    parser.add_argument("--group-size", type=int, default=128, metavar="N",
                        help="columns that share a scale in family E; default 128")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR",
                        help="copy the tokenizer files from there")
    args = parser.parse_args()
    if (args.config is None) == (args.family is None):
        parser.error("give --family, or --config")
    if args.config is not None:
        config = json.loads(args.config.read_text())
    else:
        config = config_of(args.family, args.hidden, args.ffn, args.layers, args.heads,
                           args.kv_heads, args.vocab, args.context, args.tied, args.head_dim)
    write_checkpoint(args.output, config, args.seed, args.group_size)
    if args.tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
            if (args.tokenizer / name).exists():
                shutil.copyfile(args.tokenizer / name, args.output / name)
    elif config["vocab_size"] != BYTE_VOCAB:
        print(f"{args.output} has no tokenizer: give --tokenizer to copy one", file=sys.stderr)


if __name__ == "__main__":
    main()
