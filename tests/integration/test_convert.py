"""`sterna convert`: what it writes is the same model, as files and as served."""

import json
import random
import struct
import subprocess

import pytest

from tiny_model import write_tiny_model

GGUF = ["gguf-tq1_0", "gguf-tq2_0", "gguf-q2_0-64", "gguf-q2_0-128"]
QUESTION = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "logprobs": 3,
            "ignore_eos": True}


@pytest.fixture
def convert(binary):
    def run(model, output, *flags, fails=False):
        done = subprocess.run([str(binary), "convert", "--model", str(model), "--output",
                               str(output), *flags], capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done

    return run


def tensors(directory):
    """Name to (type, shape, bytes)."""
    content = (directory / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"],
                   content[8 + length:][t["data_offsets"][0]:t["data_offsets"][1]])
            for name, t in header.items()}


def answer(start_server, model):
    choice = start_server(model=model).http.post("/v1/completions", json=QUESTION).json()["choices"][0]
    return choice["text"], choice["logprobs"]


@pytest.fixture(scope="module")
def expected(binary, tiny_model):
    from conftest import Server
    server = Server(binary, tiny_model)
    yield answer(lambda model: server, tiny_model)
    assert server.stop() == 0


def test_packed_files_are_the_same(convert, tiny_model, tmp_path):
    done = convert(tiny_model, tmp_path / "packed", "--format", "hf-packed")
    assert "14 ternary tensors as hf-packed" in done.stdout
    assert "all weights and scales are the same" in done.stdout
    assert tensors(tmp_path / "packed") == tensors(tiny_model)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        assert (tmp_path / "packed" / name).read_text() == (tiny_model / name).read_text()


@pytest.mark.parametrize("form", GGUF)
def test_gguf_and_back_is_the_same_model(convert, start_server, tiny_model, expected, tmp_path,
                                         form):
    gguf, back = tmp_path / "tiny.gguf", tmp_path / "back"
    # The scales are powers of two, which half precision has.
    assert "scales are the same" in convert(tiny_model, gguf, "--format", form).stdout
    convert(gguf, back, "--format", "hf-packed", "--tokenizer", str(tiny_model))
    was, now = tensors(tiny_model), tensors(back)
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        if name.endswith("weight_scale"):
            assert now[name] == ("F32", [1], struct.pack("<f", 1 / 16))
        else:
            assert now[name] == tensor, name
    assert answer(start_server, back) == expected


def test_unpacked_answers_the_same(convert, start_server, tiny_model, expected, tmp_path):
    convert(tiny_model, tmp_path / "unpacked", "--format", "hf-unpacked")
    assert answer(start_server, tmp_path / "unpacked") == expected


def test_gguf_to_gguf_is_the_same_file(convert, tiny_model, tmp_path):
    first, other, second = (tmp_path / name / "tiny.gguf" for name in ["a", "b", "c"])
    for path in [first, other, second]:
        path.parent.mkdir()
    convert(tiny_model, first, "--format", "gguf-tq2_0")
    convert(first, other, "--format", "gguf-q2_0-64")
    convert(other, second, "--format", "gguf-tq2_0")
    assert first.stat().st_size == second.stat().st_size
    # Names are the files' own, keys may come in another order; the tensors are the end of the file.
    data = sum(len(content) for _, _, content in tensors(tiny_model).values())
    assert first.read_bytes()[-data:] == second.read_bytes()[-data:]


def full_precision(directory):
    """The tiny model with weights in BF16 that are not ternary."""
    write_tiny_model(directory)
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    rng = random.Random(2)
    header, data = {}, b""
    for name, (kind, shape, content) in tensors(directory).items():
        if name.endswith("weight_scale"):
            continue
        if kind == "U8":
            shape = [4 * shape[0], shape[1]]
            content = b"".join(struct.pack("<f", rng.gauss(0, 0.02))[2:]
                               for _ in range(shape[0] * shape[1]))
        header[name] = {"dtype": "BF16", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return directory


def test_ternarising_says_what_it_does(convert, start_server, tmp_path):
    model = full_precision(tmp_path / "full")
    refused = convert(model, tmp_path / "no.gguf", fails=True)
    assert "model.layers.0.self_attn.q_proj" in refused.stderr
    assert not (tmp_path / "no.gguf").exists()
    made = tmp_path / "made"
    done = convert(model, made, "--format", "hf-packed", "--ternarize", "tensor")
    assert "this model is damaged" in done.stderr
    assert "are the same" not in done.stdout
    assert "this model is damaged" in (made / "README.md").read_text()
    errors = [float(line.split()[-1]) for line in done.stdout.splitlines()
              if "relative squared error" in line]
    # 14 tensors and all of them; of weights that are normal it is 0.26.
    assert len(errors) == 15
    assert all(0.24 < error < 0.28 for error in errors)
    assert len(answer(start_server, made)[1]["tokens"]) == 24
    for unit in ["row", "group-64", "group-128"]:
        convert(model, tmp_path / f"{unit}.gguf", "--format", "gguf-q2_0-64", "--ternarize", unit)


@pytest.mark.parametrize("flags, message", [
    (["--format", "hf-packed", "--ternarize", "row"], "hf-unpacked"),
    (["--format", "gguf-q4_0"], "gguf-tq2_0"),
])
def test_command_lines_that_are_wrong(convert, tiny_model, tmp_path, flags, message):
    done = convert(tiny_model, tmp_path / "out", *flags, fails=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_what_is_refused_leaves_nothing(convert, tiny_model, tmp_path):
    gguf = tmp_path / "tiny.gguf"
    convert(tiny_model, gguf)
    content = gguf.read_bytes()
    assert "there already" in convert(tiny_model, gguf, fails=True).stderr
    assert gguf.read_bytes() == content
    no_tokenizer = convert(gguf, tmp_path / "out", "--format", "hf-packed", fails=True)
    assert "--tokenizer" in no_tokenizer.stderr
    assert "no/such/model" in convert("no/such/model", tmp_path / "out", fails=True).stderr
    assert not (tmp_path / "out").exists()
