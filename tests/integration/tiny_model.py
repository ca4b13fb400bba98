"""Writes a tiny random ternary checkpoint of family B with a byte-level tokenizer.

The protocol tests run against it: it loads in milliseconds, needs nothing but the standard library,
and its output is arbitrary bytes, so that replacement characters occur as a matter of course.
"""

import json
import random
import struct
from pathlib import Path

HIDDEN = 256
FFN = 256
LAYERS = 2
HEADS = 4
KV_HEADS = 2
CONTEXT = 4096
BOS = 256
EOS = 257
VOCAB = 260

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


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


def _bf16(values):
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def _tensors(rng):
    """Name to (dtype, shape, bytes)."""
    head_dim = HIDDEN // HEADS

    def ones(size):
        return "BF16", [size], _bf16([1.0] * size)

    def table(rows, columns):
        return "BF16", [rows, columns], _bf16(rng.gauss(0, 1) for _ in range(rows * columns))

    def packed(outputs, inputs):
        # Four rows of codes 0, 1, 2 in a byte; 3 never occurs.
        codes = [c0 | c1 << 2 | c2 << 4 | c3 << 6
                 for c0 in range(3) for c1 in range(3) for c2 in range(3) for c3 in range(3)]
        return "U8", [outputs // 4, inputs], bytes(rng.choices(codes, k=outputs // 4 * inputs))

    tensors = {
        "model.embed_tokens.weight": table(VOCAB, HIDDEN),
        "lm_head.weight": table(VOCAB, HIDDEN),
        "model.norm.weight": ones(HIDDEN),
    }
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * head_dim, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * head_dim, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = ones(HIDDEN)
        tensors[prefix + "post_attention_layernorm.weight"] = ones(HIDDEN)
        for name, shape in shapes.items():
            tensors[prefix + name + ".weight"] = packed(*shape)
            tensors[prefix + name + ".weight_scale"] = "BF16", [1], _bf16([16.0])
    return tensors


def _write_safetensors(path, tensors):
    header = {}
    data = []
    offset = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [offset, offset + len(content)]}
        data.append(content)
        offset += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def _tokenizer():
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


def write_tiny_model(directory: Path):
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "bitnet"},
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (directory / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    _write_safetensors(directory / "model.safetensors", _tensors(random.Random(1)))
