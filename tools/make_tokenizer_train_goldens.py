#!/usr/bin/env python3
"""Writes tests/golden/tokenizer_train/PIPELINE.json: what Hugging Face tokenizers learns from corpus.txt beside it.

Each file is {"vocab_size", "merges", "vectors": [{"text", "ids"}]}: the merges in order of rank, and what the trained
tokenizer makes of texts, bos included. corpus.txt is public-domain prose and verse (Project Gutenberg, Tang poems) with
rows of repeated letters, numbers and white space, documents separated by lines <|endoftext|>.

  python3 tools/make_tokenizer_train_goldens.py      # needs the package tokenizers
"""
import json
import pathlib

from tokenizers import Tokenizer, models, pre_tokenizers as P, processors, trainers

from make_tokenizer_goldens import QWEN2, V3, byte_level, splits
from tokenizers import normalizers as N

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/tokenizer_train"
SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"]
# name: (normaliser, pre-tokenizer, size of the vocabulary; 100000: until no pair is left)
PIPELINES = {"deepseek-v3": (None, splits(V3, byte_level()), 1400),
             "qwen2": (N.NFC(), splits([QWEN2], byte_level()), 700),
             "gpt-2": (None, P.Sequence([byte_level(use_regex=True)]), 700)}
TEXTS = ["", "Once upon a time, there was a little girl.", "\"Hi!\" she said. It's 1234567 o'clock; don't wait.",
         "  two  spaces\n\n\tand tabs \r\n", "春眠不觉晓，处处闻啼鸟。", "naïve café 🙂 ｜User｜", "aaaaaaaa abababab xyxyx",
         "<｜User｜>Tell me a story<｜Assistant｜>", "e\u0301 \u00e9"]


def trained(name, documents, vocab_size):
    normalizer, pre_tokenizer, _ = PIPELINES[name]
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", pair=f"{SPECIAL[0]} $A $B", special_tokens=[(SPECIAL[0], 0)])
    return tokenizer


def write(name, tokenizer, vocab_size):
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    vectors = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    content = {"vocab_size": vocab_size, "merges": [" ".join(m) for m in merges], "vectors": vectors}
    (OUT / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    text = (OUT / "corpus.txt").read_bytes().decode()
    documents = [d.strip("\r\n") for d in text.split("<|endoftext|>\n")]
    for name, (_, _, vocab_size) in PIPELINES.items():
        write(name, trained(name, documents, vocab_size), vocab_size)
    # Until no pair is left, where ties and pairs that come to be twice are the rule.
    write("exhausted", trained("deepseek-v3", documents[-1:], 100000), 100000)


if __name__ == "__main__":
    main()
