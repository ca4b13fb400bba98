"""Stories as token streams: reading, encoding and seeded batches.

Each story becomes `BOS tokens EOS`. An epoch shuffles the stories, joins them into one stream and
cuts it into sequences; attention is not masked between stories of one sequence (as in llama2.c).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

END_OF_STORY = "<|endoftext|>"


def read_stories(path: Path) -> list[str]:
    """Splits a file at its `<|endoftext|>` lines; paragraphs stay joined by one newline."""
    pieces = path.read_text(encoding="utf-8").split(f"\n{END_OF_STORY}\n")
    return [piece.strip("\n") for piece in pieces if piece.strip()]


def encode_stories(stories: list[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """`BOS tokens EOS` of each story, int32."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None or eos is None:
        raise ValueError("the tokenizer names no BOS or no EOS token")
    encoded = tokenizer(stories, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array([bos, *ids, eos], dtype=np.int32) for ids in encoded]


class PackedBatches:
    """Endless batches `[batch, seq_len + 1]` int64, a pure function of the seed and the index.

    `batch(i)` may be asked for in any order, so a resumed run sees what an unbroken one would.
    """

    def __init__(self, stories: list[np.ndarray], seq_len: int, batch_size: int, seed: int) -> None:
        self._stories = stories
        self._seq_len = seq_len
        self._batch_size = batch_size
        self._seed = seed
        num_tokens = sum(len(story) for story in stories)
        self.batches_per_epoch = (num_tokens - 1) // (seq_len * batch_size)
        if self.batches_per_epoch == 0:
            raise ValueError(f"{num_tokens} tokens are fewer than one batch")
        self._epoch = -1
        self._stream = np.empty(0, dtype=np.int32)

    def batch(self, index: int) -> np.ndarray:
        epoch, position = divmod(index, self.batches_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._stories))
            self._stream = np.concatenate([self._stories[i] for i in order])
            self._epoch = epoch
        tokens_per_batch = self._seq_len * self._batch_size
        rows = position * tokens_per_batch + self._seq_len * np.arange(self._batch_size)
        columns = np.arange(self._seq_len + 1)
        return self._stream[rows[:, None] + columns[None, :]].astype(np.int64)
