"""Writes a GGUF of the 2B-4T shape with random ternary weights, for peers that read GGUF.

    pip install gguf numpy
    python3 make_gguf.py --arch bitnet-25 --tokenizer DIR 2b.gguf     # ik_llama.cpp
    python3 make_gguf.py --arch bitnet --tokenizer DIR 2b.gguf        # llama.cpp
    llama-quantize --token-embedding-type q6_K --output-tensor-type q6_K ./2b.gguf ./m.gguf IQ2_BN_R4

DIR holds a Llama 3 tokenizer.json, whose vocabulary the shape has. The file has the weights in f16
(4.8 GB); the peer's own tool makes its format of them. (A file name that begins with a number is
taken for a format by llama-quantize; hence the "./".)
"""

import argparse
import json
import pathlib

import gguf
import numpy as np

HIDDEN, LAYERS, FFN, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM = 2560, 30, 6912, 128256, 20, 5, 128


def add_tokenizer(writer, directory):
    data = json.loads((directory / "tokenizer.json").read_text())
    tokens, types = [""] * VOCABULARY, [gguf.TokenType.NORMAL] * VOCABULARY
    for token, index in data["model"]["vocab"].items():
        tokens[index] = token
    for token in data["added_tokens"]:
        tokens[token["id"]], types[token["id"]] = token["content"], gguf.TokenType.CONTROL
    merges = data["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(128000)
    writer.add_eos_token_id(128001)


def add_weights(writer, random):
    def ternary(rows, cols):
        codes = random.integers(-1, 2, (rows, cols), dtype=np.int8)
        return codes.astype(np.float16) * np.float16(0.02)

    embedding = random.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32) * 0.02
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    shapes = {"attn_q": (HEADS * HEAD_DIM, HIDDEN), "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
              "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN), "attn_output": (HIDDEN, HEADS * HEAD_DIM),
              "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN)}
    norms = {"attn_norm": HIDDEN, "attn_sub_norm": HIDDEN, "ffn_norm": HIDDEN, "ffn_sub_norm": FFN}
    for layer in range(LAYERS):
        for name, size in norms.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(size, np.float32))
        for name, (rows, cols) in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", ternary(rows, cols))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", required=True, help="the peer's name of the architecture")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("out")
    args = parser.parse_args()
    writer = gguf.GGUFWriter(args.out, args.arch)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_tokenizer(writer, args.tokenizer)
    add_weights(writer, np.random.default_rng(args.seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
