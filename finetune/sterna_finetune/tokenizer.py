"""Trains the SentencePiece tokenizer and writes the files that AutoTokenizer loads.

The tokenizer is BPE with byte fallback and Llama's ids (unk 0, bos 1, eos 2), no text normalisation
and a dummy prefix. `tokenizer.json` is written here from the SentencePiece model, piece by piece, so
that SentencePiece's own library and Transformers give the same ids (tests/test_tokenizer.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sentencepiece as spm

from sterna_finetune.data import read_stories

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2


def train_sentencepiece(stories: list[str], vocab_size: int, out: Path) -> None:
    """Trains on whole stories, so that a paragraph's newline is a character like any other."""
    with out.open("wb") as model_writer:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(stories),
            model_writer=model_writer,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            max_sentence_length=1 << 20,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_id=-1,
            num_threads=2,
            minloglevel=1,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="train.txt of the stories")
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.model to write")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train_sentencepiece(read_stories(args.train), args.vocab_size, args.out)


if __name__ == "__main__":
    main()
