"""Trains the SentencePiece tokenizer and writes the files that AutoTokenizer loads.

The tokenizer is BPE with byte fallback and Llama's ids (unk 0, bos 1, eos 2), no normalisation of
the text and a dummy prefix. `tokenizer.json` is written here from the SentencePiece model, piece by
piece, so that SentencePiece's own library and Transformers give the same ids
(tests/test_shipped.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from sterna_finetune.data import read_stories

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
UNK, BOS, EOS = "<unk>", "<s>", "</s>"
SPACE = "\u2581"  # SentencePiece's visible space

# A story model cannot chat: the template hands it the last user message as the start of a story.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if loop.last %}{{ message['content'] | trim }}{% endif %}"
    "{% endfor %}"
)


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


def bpe_merges(processor: spm.SentencePieceProcessor) -> list[tuple[str, str]]:
    """Every split of every piece into two pieces, best piece first: SentencePiece's merge order."""
    ordinary = {
        processor.id_to_piece(i): i
        for i in range(processor.vocab_size())
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }
    merges: list[tuple[str, str]] = []
    for piece in sorted(ordinary, key=lambda piece: -processor.get_score(ordinary[piece])):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(a, b) for a, b in splits if a in ordinary and b in ordinary]
        merges += sorted(known, key=lambda pair: (ordinary[pair[0]], ordinary[pair[1]]))
    return merges


def build_fast_tokenizer(processor: spm.SentencePieceProcessor) -> Tokenizer:
    """The SentencePiece model as a `tokenizers` pipeline (Llama's, with the dummy prefix)."""
    vocab = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    fast = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=bpe_merges(processor),
            unk_token=UNK,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, BOS_ID)]
    )
    fast.add_special_tokens([AddedToken(t, normalized=False) for t in (UNK, BOS, EOS)])
    return fast


def write_tokenizer_files(model: Path, out: Path, context: int) -> None:
    """Writes tokenizer.model, tokenizer.json and the two config files into the folder `out`."""
    processor = spm.SentencePieceProcessor(model_file=str(model))
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(model.read_bytes())
    build_fast_tokenizer(processor).save(str(out / "tokenizer.json"), pretty=False)
    special = {"unk_token": UNK, "bos_token": BOS, "eos_token": EOS}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="train.txt of the stories")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--context", type=int, default=512, help="model_max_length, in tokens")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = args.out / "tokenizer.model"
    train_sentencepiece(read_stories(args.train), args.vocab_size, model)
    write_tokenizer_files(model, args.out, args.context)


if __name__ == "__main__":
    main()
