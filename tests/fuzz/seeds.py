"""What each fuzzer begins with: small valid inputs, made of the repository's test data.

A seed is worth what it reaches. All are far below the fuzzers' longest input, so that libFuzzer has
room to add to them.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/data"
SHARED = ROOT.parent / "shared/data"  # more, where it lies beside the checkout


def files(*patterns: str, max_bytes: int = 8192) -> Iterator[bytes]:
    for pattern in patterns:
        for base in (GOLDEN, SHARED, ROOT / "models"):
            for path in sorted(base.glob(pattern)):
                if path.stat().st_size <= max_bytes:
                    yield path.read_bytes()


def safetensors() -> Iterator[bytes]:
    yield from files("models/*/model*.safetensors", "models/*/model.safetensors.index.json")
    yield b'{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'
    # One tensor of each type that is read; the packed one has the bytes that mean most.
    tensors = {
        "packed": ("U8", [1, 4], bytes([0, 1, 0xAA, 0x55])),
        "scale": ("BF16", [1], b"\x80\x3f"),
        "norm": ("F32", [2], struct.pack("<2f", 1, -2)),
        "latent": ("F16", [2, 2], struct.pack("<4e", 1, -1, 0, 0.5)),
        "ternary": ("F32", [2, 3], struct.pack("<6f", 2, -2, 0, 0, 2, 2)),
        "scalar": ("F32", [], struct.pack("<f", 3)),
        "empty": ("I64", [0, 2], b""),
    }
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, values) in tensors.items():
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += values
    text = json.dumps(header).encode()
    yield struct.pack("<Q", len(text)) + text + data


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_file(metadata: dict[str, bytes], tensors: list[tuple[str, int, list[int], bytes]]) -> bytes:
    """Values as their type's number and bytes; tensors as name, type, dimensions and bytes."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += gguf_string(key) + value
    data = b""
    for name, kind, dims, values in tensors:
        out += gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += values + bytes(-len(values) % 32)
    return out + bytes(-len(out) % 32) + data


def gguf() -> Iterator[bytes]:
    metadata = {
        "general.architecture": struct.pack("<I", 8) + gguf_string("bitnet"),
        "split.count": struct.pack("<IH", 2, 1),
        "split.no": struct.pack("<IH", 2, 0),
        "f32": struct.pack("<If", 6, 1.5),
        "f64": struct.pack("<Id", 12, 1.5),
        "bool": struct.pack("<I?", 7, True),
        "ints": struct.pack("<IIQ3i", 9, 5, 3, 1, -1, 2),
        "floats": struct.pack("<IIQ2f", 9, 6, 2, 1, -1),
        "texts": struct.pack("<IIQ", 9, 8, 2) + gguf_string("a") + gguf_string(""),
        "lists": struct.pack("<IIQIQB", 9, 9, 1, 0, 1, 7),
    }
    half = struct.pack("<e", 0.5)
    all_types = [
        ("f32", 0, [3, 2], struct.pack("<6f", 1, 2, 3, -1, 0, 9)),
        ("f16", 1, [2], half * 2),
        ("q4_0", 2, [32], half + bytes(16)),
        ("q8_0", 8, [32, 1], half + bytes(32)),
        ("q6_k", 14, [256], bytes(208) + half),
        ("bf16", 30, [2, 1, 1, 1], bytes(4)),
        ("tq1_0", 34, [256, 1], bytes(52) + half),
        ("tq2_0", 35, [256, 2], (b"\x55" * 64 + half) * 2),
        ("i2_s", 36, [128, 1], bytes(32) + struct.pack("<f", 0.5) + bytes(28)),
        ("q2_0", 42, [64, 2], (half + b"\x24" * 16) * 2),
        ("i8", 24, [4], bytes(4)),
    ]
    metadata["split.tensors.count"] = struct.pack("<Ii", 5, len(all_types))
    yield gguf_file(metadata, all_types)
    for tensor in all_types:
        yield gguf_file({}, [tensor])
    yield gguf_file({}, [("fork", 42, [128, 1], half + b"\x24" * 32)])
    yield gguf_file({"general.alignment": struct.pack("<II", 4, 64)}, [])


def config_json() -> Iterator[bytes]:
    # One text is all the files that are read, so the seeds are what those say together.
    beside = {
        "eos_token_id": [1, 2],
        "eos_token": {"content": "</s>"},
        "added_tokens": [{"content": "</s>", "id": 2}],
        "added_tokens_decoder": {"2": {"content": "</s>"}},
    }
    for text in files("models/*/config.json", "checkpoints/*/config.json", "stories/config.json"):
        yield text
        yield json.dumps({**json.loads(text), **beside}).encode()


def tokenizer_json() -> Iterator[bytes]:
    for text in files("tokenizers/*_like/tokenizer.json"):
        yield text
        yield text + b"\0Hello  world<|end|> 123\n"
        beside = {
            "bos_token": "<s>",
            "eos_token": {"content": "<|end|>"},
            "added_tokens_decoder": {"420": {"content": "<|bos|>", "special": True}},
        }
        yield json.dumps({**json.loads(text), **beside}).encode()


def tokenizer_model() -> Iterator[bytes]:
    yield from files("tokenizers/*/tokenizer.model")


def chat_template() -> Iterator[bytes]:
    # A published template may ask of messages what the fuzzer's own have not: a conversation.
    messages = b'\0[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]'
    for text in files("chat_templates/*.jinja"):
        yield text
        yield text + messages
    for case in json.loads((GOLDEN / "chat_templates.json").read_text())["constructs"]["templates"]:
        yield case["template"].encode()
