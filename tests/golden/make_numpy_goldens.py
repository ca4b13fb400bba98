#!/usr/bin/env python3
"""Makes the small random checkpoints of families C, D and E and their goldens.

Run (seconds; needs numpy only, but for family E what make_model_goldens.py installs):

    python3 tests/golden/make_numpy_goldens.py [name ...]

Family C (1bitLLM's bitnet_b1_58 models, docs/formats.md) has an architecture that Transformers does
not know, so that its forward pass is written out here, from the definition of the format. A
checkpoint of family A' differs from one of family C in nothing but the names of its norms and its
activation: before anything is made, this code computes the goldens of family A', which are
Transformers' own, and must agree with them within 1e-12 of the largest logit.

Family D (TriLM) is a llama to Transformers, which computes it in full precision. Here as in Sterna
its activations are quantised per token like all the others'. Its weights are on disk as {-s, 0, s},
with one s for each of a few blocks of rows.

Family E (Ternary-Bonsai) is a Qwen3 to Transformers, which again computes in full precision. Its
weights are {-s, 0, s} with an s for each group of columns of a row, its embedding and head mostly
too, and its activations are quantised here in groups of the same columns. Without that, the code
below has to agree with Transformers' Qwen3 in float64 within 1e-12 on every model that is made; how
far the quantised logits are from those is kept in golden.json, as the mean divergence and the cross
entropies of the tokens.

Files are as in make_model_goldens.py, with
        logits_f64 [tokens, vocabulary] F64: the forward pass below in float64
        logits_f32 [tokens, vocabulary] F32: the same in float32
golden_rules.py says when a seed is rejected and the next tried.
"""

import json

import numpy as np

from golden_rules import OUT, PROMPT_TOKENS, make_all, why_rejected

# name -> shape. `dtype` is that of the stored weights.
MODELS = {
    "c-f16-tied": dict(hidden=64, ffn=108, heads=4, kv_heads=4, vocab=102, tied=True,
                       dtype=np.float16, attention_bias=False, eps=1e-5),
    "c-f32-gqa": dict(hidden=40, ffn=92, heads=4, kv_heads=2, vocab=101, tied=False,
                      dtype=np.float32, attention_bias=True, eps=1e-6),
    "d-blocks": dict(hidden=48, ffn=96, heads=3, kv_heads=1, vocab=103, tied=False,
                     dtype=np.float16, attention_bias=False, eps=1e-5, blocks=4),
    # Some matrices have fewer columns than a group, or none that is whole.
    "e-groups-64": dict(hidden=128, ffn=64, heads=2, kv_heads=1, head_dim=16, vocab=100, tied=True,
                        dtype=np.float16, eps=1e-6, group=64, ternary_embedding=True),
    "e-groups-128": dict(hidden=256, ffn=48, heads=2, kv_heads=1, head_dim=16, vocab=70,
                         tied=False, dtype=np.float16, eps=1e-6, group=128, ternary_embedding=True,
                         layers=1, rope={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                                         "original_max_position_embeddings": 64}),
    "e-dense-embedding": dict(hidden=128, ffn=128, heads=4, kv_heads=2, head_dim=16, vocab=90,
                              tied=False, dtype=np.float16, eps=1e-6, group=64,
                              ternary_embedding=False, layers=1),
}
DEFAULTS = dict(layers=2, attention_bias=False, group=None, rope=None, ternary_embedding=False)
ROPE_THETA = 10000.0

# Where each family has its norms inside the blocks.
INNER_NORMS = {"C": ("self_attn.inner_attn_ln", "mlp.ffn_layernorm"),
               "A'": ("self_attn.attn_sub_norm", "mlp.ffn_sub_norm"),
               "D": (None, None), "E": (None, None)}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


# --- safetensors ---------------------------------------------------------------------------------


def load_tensors(path):
    """All tensors of a file, in float64."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    types = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin:8 + length + end]
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, types[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def save_tensors(path, tensors):
    types = {"float64": "F64", "float32": "F32", "float16": "F16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in sorted(tensors.items()):
        begin = len(data)
        data += values.tobytes()
        header[name] = {"dtype": types[values.dtype.name], "shape": list(values.shape),
                        "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# --- the model -----------------------------------------------------------------------------------


class TieWatch:
    """Records how close any quantised value comes to a rounding tie."""

    def __init__(self):
        self.distance = float("inf")

    def note(self, scaled):
        fraction = scaled - np.floor(scaled)
        self.distance = min(self.distance, np.abs(fraction - 0.5).min().item())


class TernaryModel:
    """The forward pass, in the float type `dtype`, over latent weights or unpacked ternary ones.

    Weights, and with them activations, have a scale for each `group` columns; None: for all. With
    `quantised` false activations are left as they are.
    """

    def __init__(self, config, tensors, family, watch, dtype=np.float64, group=None,
                 quantised=True):
        self.config, self.family, self.dtype, self.watch = config, family, dtype, watch
        self.group, self.quantised = group, quantised
        self.inner_attention_norm, self.inner_ffn_norm = INNER_NORMS[family]
        self.tensors = {name: values.astype(dtype) for name, values in tensors.items()}
        self.scales = {}
        for name in list(tensors):
            if name.endswith("_proj.weight") or (family == "E" and self.is_ternary_table(name)):
                self.quantise_weight(name)

    def groups(self, x):
        """`x` [..., columns] as [..., groups, columns of a group], the last filled up with zeros."""
        group = self.group or x.shape[-1]
        filled = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % group)])
        return filled.reshape(*x.shape[:-1], -1, group)

    def is_ternary_table(self, name):
        """Whether embedding or head are ternary in groups of 64, as their values tell."""
        if name not in (EMBEDDING, HEAD):
            return False
        magnitudes = np.abs(self.tensors[name]).reshape(len(self.tensors[name]), -1, 64)
        largest = magnitudes.max(-1, keepdims=True)
        return bool(((magnitudes == 0) | (magnitudes == largest)).all())

    def quantise_weight(self, name):
        """Leaves {-1, 0, 1} in place of the stored weight, and its scale in `scales`."""
        latent = self.tensors[name]
        if self.family in "DE":
            self.scales[name] = np.abs(self.groups(latent)).max(-1)  # [rows, groups]
            self.tensors[name] = np.sign(latent)
            unpacked = self.groups(self.tensors[name]) * self.scales[name][..., None]
            assert (self.groups(latent) == unpacked).all()
            return
        scale = max(np.abs(latent).mean(), 1e-5)
        self.watch.note(latent * (1 / scale))
        self.tensors[name] = np.clip(np.rint(latent * (1 / scale)), -1, 1).astype(self.dtype)
        self.scales[name] = np.full((1, 1), scale, self.dtype)

    def ternary_product(self, weight, x):
        """x is quantised to int8, per token and group, then multiplied."""
        x = self.groups(x)  # [tokens, groups, columns]
        s = np.ones(x.shape[:-1] + (1,), self.dtype)
        if self.quantised:
            s = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), self.dtype(1e-5))
            self.watch.note(x * s)
            x = np.clip(np.rint(x * s), -128, 127)
        sums = np.einsum("tgc,ngc->tgn", x, self.groups(self.tensors[weight]))
        return (sums / s * self.scales[weight].T).sum(1)

    def linear(self, name, x):
        y = self.ternary_product(name + ".weight", x)
        return y + self.tensors[name + ".bias"] if name + ".bias" in self.tensors else y

    def head_norm(self, name, x):
        """RMSNorm of each head of x [tokens, heads, head size]; x itself in other families."""
        return self.norm(name, x) if name + ".weight" in self.tensors else x

    def norm(self, name, x):
        """RMSNorm; x itself where the family has no norm in this place."""
        if name.endswith("None"):
            return x
        mean_square = np.square(x).mean(-1, keepdims=True)
        eps = self.config["rms_norm_eps"]
        return (x / np.sqrt(mean_square + eps) * self.tensors[name + ".weight"]).astype(self.dtype)

    def rotate(self, x):
        """Rotary embedding of x [tokens, heads, head size]: pairs are half a head apart."""
        half = x.shape[-1] // 2
        frequencies, factor = self.frequencies(2 * half)
        angles = np.arange(len(x))[:, None] * frequencies
        cos = (factor * np.cos(angles))[:, None, :].astype(self.dtype)
        sin = (factor * np.sin(angles))[:, None, :].astype(self.dtype)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def frequencies(self, dim):
        """Radians per position of each pair, and what cos and sin are multiplied by."""
        rope = self.config.get("rope_parameters") or {"rope_theta": self.config["rope_theta"]}
        theta = rope["rope_theta"]
        plain = theta ** -(np.arange(dim // 2) / (dim // 2))
        if rope.get("rope_type", "default") == "default":
            return plain, 1.0
        assert rope["rope_type"] == "yarn"  # Peng et al. 2023, arXiv:2309.00071

        def pair_of(turns):
            positions = rope["original_max_position_embeddings"]
            return dim * np.log(positions / (turns * 2 * np.pi)) / (2 * np.log(theta))

        begin, end = max(np.floor(pair_of(32)), 0), min(np.ceil(pair_of(1)), dim - 1)
        stretched = np.clip((np.arange(dim // 2) - begin) / (end - begin), 0, 1)
        factor = rope["factor"]
        return plain / factor * stretched + plain * (1 - stretched), 0.1 * np.log(factor) + 1

    def attention(self, prefix, x):
        tokens, heads = len(x), self.config["num_attention_heads"]
        kv_heads = self.config["num_key_value_heads"]

        def split(name, count):
            return self.linear(f"{prefix}{name}_proj", x).reshape(tokens, count, -1)

        q = self.rotate(self.head_norm(prefix + "q_norm", split("q", heads)))
        k = self.rotate(self.head_norm(prefix + "k_norm", split("k", kv_heads)))
        k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, split("v", kv_heads)))
        scores = np.einsum("qhd,khd->hqk", q, k) / self.dtype(np.sqrt(q.shape[-1]))
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1)

    def activation(self, x):
        return np.square(np.maximum(x, 0)) if self.config["hidden_act"] == "relu2" else (
            x / (1 + np.exp(-x)))

    def logits(self, tokens):
        x = self.tensors[EMBEDDING][tokens]
        if EMBEDDING in self.scales:
            x = (self.groups(x) * self.scales[EMBEDDING][tokens][..., None]).reshape(x.shape)
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            h = self.attention(layer + "self_attn.", self.norm(layer + "input_layernorm", x))
            h = self.norm(f"{layer}{self.inner_attention_norm}", h)
            x = x + self.linear(layer + "self_attn.o_proj", h)
            h = self.norm(layer + "post_attention_layernorm", x)
            h = self.activation(self.linear(layer + "mlp.gate_proj", h)) * self.linear(
                layer + "mlp.up_proj", h)
            h = self.norm(f"{layer}{self.inner_ffn_norm}", h)
            x = x + self.linear(layer + "mlp.down_proj", h)
        head = EMBEDDING if self.config["tie_word_embeddings"] else HEAD
        x = self.norm("model.norm", x)
        logits = self.ternary_product(head, x) if head in self.scales else x @ self.tensors[head].T
        assert logits.dtype == self.dtype, logits.dtype
        return logits


def check_against_transformers():
    """Fails unless this code gives the logits that Transformers has for family A'."""
    for directory in sorted(OUT.glob("latent-*")):
        config = json.loads((directory / "config.json").read_text())
        golden = json.loads((directory / "golden.json").read_text())
        tensors = load_tensors(directory / "model.safetensors")
        model = TernaryModel(config, tensors, "A'", TieWatch())
        expected = load_tensors(directory / "golden.safetensors")["logits_f64"]
        error = np.abs(model.logits(golden["tokens"]) - expected).max() / np.abs(expected).max()
        assert error < 1e-12, (directory.name, error)
        print(f"{directory.name}: within {error:.1e} of Transformers")


def check_against_qwen3(model, directory, tokens):
    """Fails unless `model`, which leaves activations as they are, is Transformers' Qwen3."""
    import make_model_goldens as transformers_goldens

    qwen3 = transformers_goldens.load_in_double(directory)
    expected = transformers_goldens.logits_in_double(qwen3, tokens).numpy()
    error = np.abs(model.logits(tokens) - expected).max() / np.abs(expected).max()
    assert error < 1e-12, (directory.name, error)
    return error.item()


# --- random checkpoints --------------------------------------------------------------------------


def family_of(spec):
    return "E" if spec["group"] else "D" if "blocks" in spec else "C"


def config_json(spec):
    """The fields of the published configs; the model_type of family C is indeed llama."""
    family = family_of(spec)
    architectures = {"C": "BitnetForCausalLM", "D": "LlamaForCausalLM", "E": "Qwen3ForCausalLM"}
    config = {
        "architectures": [architectures[family]],
        "attention_bias": spec["attention_bias"],
        "bos_token_id": None,
        "eos_token_id": None,
        "hidden_act": "silu",
        "hidden_size": spec["hidden"],
        "intermediate_size": spec["ffn"],
        "max_position_embeddings": 256,
        "model_type": "qwen3" if family == "E" else "llama",
        "num_attention_heads": spec["heads"],
        "num_hidden_layers": spec["layers"],
        "num_key_value_heads": spec["kv_heads"],
        "rms_norm_eps": spec["eps"],
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": spec["tied"],
        "torch_dtype": spec["dtype"].__name__,
        "vocab_size": spec["vocab"],
    }
    if family == "C":
        config |= {"input_bits": 8, "weight_bits": 1}
    if family == "E":
        config |= {"head_dim": spec["head_dim"], "use_sliding_window": False}
    if spec["rope"]:
        config = {k: v for k, v in config.items() if not k.startswith("rope_")}
        config["rope_parameters"] = spec["rope"]
    return dict(sorted(config.items()))


def random_tensors(spec, seed):
    """Weights of a model that does not settle on one token: strong layers, a modest embedding."""
    random = np.random.default_rng(seed)
    hidden, ffn, dtype = spec["hidden"], spec["ffn"], spec["dtype"]
    head_dim = spec.get("head_dim", hidden // spec["heads"])
    tensors = {}

    def unpacked(rows, cols, scale):
        """Ternary values, in family E with a scale for each group, of 11 bits as in F16."""
        groups = -(-cols // spec["group"])
        scales = scale * random.uniform(0.6, 1.5, (rows, groups)).astype(dtype)
        scales = np.repeat(scales, spec["group"], axis=1)[:, :cols]
        return (random.integers(-1, 2, (rows, cols)) * scales).astype(dtype)

    def normal(shape, deviation):
        return (random.standard_normal(shape) * deviation).astype(dtype)

    def norm(name, size):
        tensors[name + ".weight"] = np.maximum(np.abs(1 + normal(size, 0.2)), 0.1).astype(dtype)

    def linear(name, rows, cols, gain, bias=False):
        scale = gain * (1.5 / cols) ** 0.5 * random.uniform(0.8, 1.2)
        if family_of(spec) == "E":
            tensors[name + ".weight"] = unpacked(rows, cols, scale)
        elif family_of(spec) == "D":
            scales = scale * random.uniform(0.7, 1.4, spec["blocks"])
            rows_of_blocks = np.repeat(scales, rows // spec["blocks"])[:, None].astype(dtype)
            codes = random.integers(-1, 2, (rows, cols))
            tensors[name + ".weight"] = (codes * rows_of_blocks).astype(dtype)
        else:
            # Its scale will be the mean magnitude, 0.8 of the standard deviation.
            tensors[name + ".weight"] = normal((rows, cols), scale / 0.8)
        if bias:
            tensors[name + ".bias"] = normal(rows, 0.2)

    # A tied head sees its own token again in the residual stream, and would repeat it.
    embedding_deviation = 0.2 if spec["tied"] else 0.5


    def table(deviation):
        shape = spec["vocab"], hidden
        if spec["ternary_embedding"]:
            return unpacked(*shape, deviation * 1.5 ** 0.5)
        return normal(shape, deviation)

    tensors[EMBEDDING] = table(embedding_deviation)
    for i in range(spec["layers"]):
        attention, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        norm(f"model.layers.{i}.input_layernorm", hidden)
        for name, heads in (("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads")):
            linear(f"{attention}{name}_proj", spec[heads] * head_dim, hidden,
                   1.0 if name == "v" else 1.6, spec["attention_bias"])
        linear(f"{attention}o_proj", hidden, spec["heads"] * head_dim, 1.0, spec["attention_bias"])
        if family_of(spec) == "E":
            norm(attention + "q_norm", head_dim)
            norm(attention + "k_norm", head_dim)
        if family_of(spec) == "C":
            norm(attention + "inner_attn_ln", hidden)
        norm(f"model.layers.{i}.post_attention_layernorm", hidden)
        for name in ("gate", "up"):
            linear(f"{mlp}{name}_proj", ffn, hidden, 1.2)
        if family_of(spec) == "C":
            norm(mlp + "ffn_layernorm", ffn)
        linear(mlp + "down_proj", hidden, ffn, 1.5)
    norm("model.norm", hidden)
    if not spec["tied"]:
        tensors[HEAD] = table(0.5)
    return tensors


def cost_of_int8(quantised, exact, tokens):
    """What quantised activations change: mean KL divergence, and cross entropies of the tokens."""
    def log_softmax(logits):
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    p, q = log_softmax(exact), log_softmax(quantised)
    following = np.arange(len(tokens) - 1), np.array(tokens[1:])
    return {"kl_of_int8_activations": (np.exp(p) * (p - q)).sum(-1).mean().item(),
            "cross_entropy": -q[following].mean().item(),
            "cross_entropy_of_exact_activations": -p[following].mean().item()}


def make_golden(_name, spec, directory, seed):
    """Makes one model with its golden in `directory`; returns why it was rejected, or None."""
    spec = DEFAULTS | spec
    config = config_json(spec)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_tensors(directory / "model.safetensors", random_tensors(spec, seed))
    tensors = load_tensors(directory / "model.safetensors")
    watch = TieWatch()

    def make_model(**options):
        return TernaryModel(config, tensors, family_of(spec), **options, group=spec["group"])

    model = make_model(watch=watch)
    tokens = np.random.default_rng(seed + 1).integers(0, spec["vocab"], PROMPT_TOKENS).tolist()
    reason = why_rejected(lambda fed: model.logits(fed)[-1].tolist(), tokens, watch)
    if reason:
        return reason
    greedy = tokens[PROMPT_TOKENS:]
    fed = tokens[:-1]  # its last logits choose the last greedy token
    logits = model.logits(fed)
    assert logits.argmax(-1)[PROMPT_TOKENS - 1:].tolist() == greedy
    single = make_model(watch=TieWatch(), dtype=np.float32).logits(fed)
    save_tensors(directory / "golden.safetensors", {"logits_f64": logits, "logits_f32": single})
    golden = {
        "family": family_of(spec), "seed": seed, "tokens": fed, "prompt_tokens": PROMPT_TOKENS,
        "greedy": greedy, "distinct_greedy": len(set(greedy)),
        "max_abs_logit": np.abs(logits).max().item(), "closest_tie": watch.distance,
        "f32_top1_agreement": (single.argmax(-1) == logits.argmax(-1)).mean().item(),
        "numpy": np.__version__,
    }
    if family_of(spec) == "E":
        exact = make_model(watch=TieWatch(), quantised=False)
        golden |= {"error_of_exact_activations": check_against_qwen3(exact, directory, fed)}
        golden |= cost_of_int8(logits, exact.logits(fed), fed)
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")
    return None


if __name__ == "__main__":
    check_against_transformers()
    make_all(__doc__.splitlines()[0], MODELS, make_golden)
