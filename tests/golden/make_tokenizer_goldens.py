"""Makes tests/golden/data/tokenizers/: five small tokenizers of the kinds the server reads, and what
Transformers encodes and decodes with them, for tests/unit/engine/text/tokenizer_golden_test.cc.

Usage: make_tokenizer_goldens.py     (needs `pip install transformers tokenizers sentencepiece protobuf`)

The tokenizers are trained here, on the sentences below, so that nothing in the files is third-party.
"""

import json
import os
import random
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import generate_merges

SENTENCES = [
    "The little fox walked over the hill and looked at the bright red kite.",
    "\"Where are you going?\" asked the owl. \"I'm going home,\" said the fox, \"and it's late.\"",
    "There were 12 apples, 345 pears and 6789 nuts; they'd counted them all twice!",
    "Über den Wolken, sagt man, muß die Freiheit wohl grenzenlos sein: schöne Grüße.",
    "Лиса пошла домой, и наступила ночь. Было тихо и темно.",
    "def walk(fox):\n    return [step for step in fox if step != 0]\n\n\n",
    "狐は丘を越えて家に帰りました。夜は静かでした。",
    "We'll see what they've done; I'd say you're right, won't you? The end...",
    "   spaces   between    words\tand\ttabs\r\nand lines\n",
] * 4

LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+")

# Everything that splits, maps or normalises in some special way.
PIECES = [
    "Hello", "the fox", "world", " ", "  ", "\n", "\r\n", "\t", "'s", "'T", "\u017f", "'\u017f", "123", "4567",
    "\u00e9a", "e\u0301", "\u00f1", "\ud55c\uad6d", "\u1112", "\u1161", "\u11ab", "\u65e5\u672c", "\U0001f999",
    "\U0001f469\u200d\U0001f467", "\u0301", "\u0323\u0301", "\u212b", "\ufb01", "\u00bd", "\u2163", "\u180e", "\u00a0",
    "\u2003", "\u3000", "\u0085", "_", "-", "...", "!?", "<s>", "</s>", "<unk>", "<|bos|>", "<|end|>", "<tool>",
    "<left>", "<right>", "word", "<0x0A>", "\u2581", "a\u2581b", "\0", "\x1f", "\u0130", "\u01c5", "\ufeff", "\u096a",
    "{", "}", "\"", "\\", "don't", "I'LL", "\u1100\u1161", "over the hill",
]


def texts():
    generator = random.Random(5)
    result = ["", " ", "a", "  a  ", "\u0301", "The fox.", " The fox."]
    for _ in range(120):
        result.append("".join(generator.choice(PIECES) for _ in range(generator.randrange(1, 10))))
    for _ in range(40):
        result.append("".join(
            chr(generator.choice([generator.randrange(0x20, 0x7F), generator.randrange(0xA0, 0x600),
                                  generator.randrange(0x900, 0x3100), generator.randrange(0x1F300, 0x1FB00)]))
            for _ in range(generator.randrange(1, 10))))
    return result


def byte_level(pre_tokenizer, normalizer=None, ignore_merges=False, bos=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(["<|bos|>", "<|end|>", AddedToken("<left>", lstrip=True, special=True),
                                  AddedToken("<right>", rstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("word", single_word=True,
                                                                             normalized=True)])
    if bos:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                          special_tokens=[(bos, tokenizer.token_to_id(bos))]),
        ])
    return tokenizer


def write_byte_level(directory, tokenizer, config, string_merges):
    os.makedirs(directory, exist_ok=True)
    data = json.loads(tokenizer.to_str())
    if string_merges:  # the older of the two spellings
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, separators=(",", ":"))
    write_config(directory, config)


def write_config(directory, config):
    with open(os.path.join(directory, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}, file)


def write_sentencepiece(directory):
    os.makedirs(directory, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        prefix = os.path.join(temporary, "model")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(s.strip() for s in SENTENCES), model_prefix=prefix, model_type="bpe", vocab_size=440,
            byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
            remove_extra_whitespaces=False, split_digits=True, minloglevel=2, num_threads=1)
        with open(prefix + ".model", "rb") as file:
            model = file.read()
    with open(os.path.join(directory, "tokenizer.model"), "wb") as file:
        file.write(model)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    merges = generate_merges(vocab, {piece.piece: piece.score for piece in proto.pieces})
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<|end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer.save(os.path.join(directory, "tokenizer.json"), pretty=False)
    write_config(directory, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def record(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    cases = []
    for text in texts():
        ids = tokenizer.encode(text)
        cases.append([
            text,
            ids,
            tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True),
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        ])
    return cases


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "tokenizers")
    split = pre_tokenizers.Split(Regex(LLAMA_WORDS), "isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    write_byte_level(
        os.path.join(root, "llama3_like"),
        byte_level(pre_tokenizers.Sequence([split, plain]), ignore_merges=True, bos="<|bos|>"),
        {"bos_token": "<|bos|>", "eos_token": "<|end|>"}, string_merges=True)
    write_byte_level(
        os.path.join(root, "qwen_like"),
        byte_level(pre_tokenizers.Sequence([split, plain]), normalizer=normalizers.NFC()),
        {"bos_token": None, "eos_token": "<|end|>", "add_bos_token": False}, string_merges=False)
    write_byte_level(
        os.path.join(root, "gpt2_like"), byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        {"bos_token": "<|bos|>", "eos_token": "<|end|>", "add_bos_token": True}, string_merges=True)
    write_byte_level(
        os.path.join(root, "falcon_like"),
        byte_level(pre_tokenizers.Sequence([
            pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])),
        {"eos_token": "<|end|>"}, string_merges=False)
    write_sentencepiece(os.path.join(root, "llama2_like"))
    goldens = {name: record(os.path.join(root, name))
               for name in ("llama3_like", "qwen_like", "gpt2_like", "falcon_like", "llama2_like")}
    with open(os.path.join(root, "goldens.json"), "w", encoding="utf-8") as file:
        json.dump(goldens, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
