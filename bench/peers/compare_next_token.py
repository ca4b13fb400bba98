"""Whether llama.cpp, given a GGUF file of `sterna convert`, computes the model that Sterna does.

    pip install llama-cpp-python          # or built from its sources; LLAMA_CPP_LIB_PATH names the
                                          # folder of a libllama.so that lies elsewhere
    sterna convert --model ../../models/stories --format gguf-tq2_0 --output /some/where/stories.gguf
    python3 compare_next_token.py --sterna PROGRAM --model ../../models/stories --text valid.txt \\
        /some/where/stories.gguf [more.gguf ...]

The text is cut into windows of --window tokens, each after BOS. At every position of a window both
are given all tokens before it, and the token that each finds most likely is compared, by its
spelling; over --positions positions in all. That is not the same at all of them even when all is
well: llama.cpp quantises activations in blocks of 256, Sterna per token, so that near ties turn
out one way or the other. The share of positions at which they agree is printed for each file, and
is what --least asks for: below it the exit status is 1.
"""

import argparse
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import llama_cpp
import numpy as np

MOST_PROMPTS = 64  # of one request


class Sterna:
    def __init__(self, program, model):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [program, "serve", "--model", model, "--http-port", str(port), "--grpc-port", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url + "/health/ready", timeout=5).close()
                return self
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        self.__exit__()
        raise SystemExit("sterna does not serve: run the command by hand to see why")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def tokens_of(self, text):
        return self.post("/tokenize", {"prompt": text})["tokens"]

    def most_likely(self, window):
        """The spelling of the most likely token after each prefix of `window`."""
        spellings = []
        prefixes = [window[:end] for end in range(1, len(window) + 1)]
        for first in range(0, len(prefixes), MOST_PROMPTS):
            answer = self.post("/v1/completions", {
                "prompt": prefixes[first:first + MOST_PROMPTS], "max_tokens": 1, "temperature": 0,
                "repetition_penalty": 1, "ignore_eos": False, "logprobs": 1,
                "include_stop_str_in_output": True})
            for choice in sorted(answer["choices"], key=lambda c: c["index"]):
                top = choice["logprobs"]["top_logprobs"][0]
                spellings.append(max(top, key=top.get))
        return spellings


def llama_most_likely(model, windows):
    """As Sterna.most_likely, for each window."""
    llama = llama_cpp.Llama(str(model), n_ctx=max(map(len, windows)), logits_all=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    for window in windows:
        llama.reset()
        llama.eval(window)
        ids = np.argmax(llama.scores[:len(window)], axis=1)
        yield [piece(vocab, int(token)) for token in ids]


def piece(vocab, token):
    buffer = bytes(256)
    size = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
    return buffer[:size].decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sterna", required=True, help="the program")
    parser.add_argument("--model", required=True, help="what was converted")
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--positions", type=int, default=1000)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--least", type=float, default=0.95)
    parser.add_argument("gguf", nargs="+")
    args = parser.parse_args()

    with Sterna(args.sterna, args.model) as sterna:
        # About four characters a token: enough, and no megabytes in one request.
        bos, *tokens = sterna.tokens_of(args.text.read_text()[:10 * args.positions])
        windows, left = [], args.positions
        while left > 0:
            take = min(args.window - 1, left - 1, len(tokens))
            windows.append([bos] + tokens[:take])
            tokens, left = tokens[take:], left - take - 1
        ours = [sterna.most_likely(window) for window in windows]

    positions = sum(map(len, ours))
    below = False
    for path in args.gguf:
        agreed = sum(a == b for our, their in zip(ours, llama_most_likely(path, windows))
                     for a, b in zip(our, their))
        print(f"{path}: the same most likely token at {agreed} of {positions} positions, "
              f"{100 * agreed / positions:.1f} %")
        below |= agreed < args.least * positions
    sys.exit(below)


if __name__ == "__main__":
    main()
