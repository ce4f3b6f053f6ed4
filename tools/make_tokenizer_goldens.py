#!/usr/bin/env python3
"""Writes tests/golden/text/: small tokenizers of every family and what Hugging Face tokenizers make of random text.

Each family's normaliser and pre-tokenizer are those of its published tokenizer.json; the vocabulary is trained here on
a page of prose, code and several scripts. A vector is {"text", "ids", "special", "decoded"}; "special" false means that
the list of added tokens was empty. The texts are random: letters and signs of all kinds at the seams of the regexes,
white space of every sort, added tokens, and code points from the whole of Unicode.

  python3 tools/make_tokenizer_goldens.py            # needs the package tokenizers
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P, \
    processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/text"
VECTORS = 100

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LEAD = r"[^\r\n\p{L}\p{N}]?"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
LLAMA3 = CONTRACTION + "|" + LEAD + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = CONTRACTION + "|" + LEAD + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES
O200K = (f"{LEAD}[{UPPER}]*[{LOWER}]+{CONTRACTION}?|{LEAD}[{UPPER}]+[{LOWER}]*{CONTRACTION}?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES)
TEKKEN = f"{LEAD}[{UPPER}]*[{LOWER}]+|{LEAD}[{UPPER}]+[{LOWER}]*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
NO_HAN = r"&&[^\p{Han}]"
KIMI = (r"[\p{Han}]+|" + f"{LEAD}[{UPPER}{NO_HAN}]*[{LOWER}{NO_HAN}]+{CONTRACTION}?"
        f"|{LEAD}[{UPPER}{NO_HAN}]+[{LOWER}{NO_HAN}]*{CONTRACTION}?" + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES)
V3 = [r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
      r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^""" + "\r\n" + r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
      r"| ?[\p{P}\p{S}]+" + "[\r\n]*" + r"|\s*" + "[\r\n]+" + r"|\s+(?!\S)|\s+"]
HAN = "[一-龥ࠀ-一가-\ud7ff]+"
CODER = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN]
LLM_LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+")
LLM = ["[\r\n]", LLM_LETTERS, "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", HAN]


def splits(regexes, *rest):
    return P.Sequence([P.Split(Regex(r), "isolated") for r in regexes] + list(rest))


def byte_level(use_regex=False, add_prefix_space=False):
    return P.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


FAMILIES = {
    "deepseek_v3": (None, splits(V3, byte_level())),
    "deepseek_llm": (None, splits(LLM, P.Digits(True), byte_level())),
    "deepseek_coder": (None, splits(CODER, P.Digits(True), byte_level())),
    "llama3": (None, splits([LLAMA3], byte_level())),
    "qwen2": (N.NFC(), splits([QWEN2], byte_level())),
    "qwen35": (N.NFC(), splits([QWEN35], byte_level())),
    "o200k": (None, splits([O200K], byte_level())),
    "tekken": (None, splits([TEKKEN], byte_level())),
    "kimi_k2": (None, splits([KIMI], byte_level())),
    "smollm": (None, P.Sequence([P.Digits(True), byte_level(True)])),
    "gpt2": (None, byte_level(True)),
    # Not of a family: the other steps, and regexes that no scanner knows.
    "mixed_prefix": (N.Sequence([N.NFKC(), N.Strip(), N.Replace("aa", "b")]),
                     P.Sequence([P.Digits(False), P.Punctuation(), byte_level(True, True)])),
    "mixed_behaviors": (N.Sequence([N.NFD(), N.Prepend("_x")]),
                        P.Sequence([P.Split(Regex(r"\s+"), "removed"), P.Split("-", "merged_with_previous"),
                                    P.Split("=", "merged_with_next"), P.Split(Regex(r"[A-Z]"), "contiguous"),
                                    byte_level()])),
    "mixed_regex": (N.Replace(Regex(r"[^\S\n]+"), " "),
                    P.Sequence([P.Split(Regex(r"(?<=\d)(?=(?:\d{3})+\b)|^\s+|\s+$|x*"), "isolated"),
                                P.Split(Regex(r"[\w']+"), "removed", invert=True), byte_level()])),
}
SPACE_CHARS = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u3000\u200b\u180e"
ADDED = ["<|im_start|>", "<|end|>", "[MASK]", "<x>", "<xy>", "<L>", "<R>", "<W>", "the", "é", "é", " sp ", "ＡＢ"]
SIGNS = list("aAbBzZ'sStTrReEvVmMlLdD0123456789.,!?-_/\\(){}[]<>|\"#$%&*+:;=@^`~") + list(
    "éüßñçÉÜ中文字符日本語ひらがなカタカナ한국어русский😀🇩🇪👨\u200d👩\u0301\u0308\u0300ſKǅ①½²³٣०〇々⺀ℌﬁﬃΩ")
PROSE = """The tokenizer cuts a text into pieces that the merges never cross, and merges what it meets most often first.
Don't they've it's we'll I'm he'd you're: "quoted", (bracketed) and hyphen-ated words, 12 apples at 3.50 each in 2024.
def merge(pairs, ids):\n    for left, right in zip(ids, ids[1:]):\n        if (left, right) in pairs: return pairs[left]\n
人们说，文字是思想的衣裳。今天天气很好，我们去公园散步吧！一二三四五。 日本語の文章もここにあります。カタカナ 한국어 문장도 있다.
Привет, мир! Это короткий текст. Ça va très bien, où est l'été? Größe und Straße. Ελληνικά γράμματα. العربية والعبرية
"""


def random_text(rng, assigned, corpus):
    if rng.random() < 0.15:
        start = rng.randrange(len(corpus))
        return corpus[start:start + rng.randrange(80)]
    out = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 13])):
        kind = rng.random()
        if kind < 0.3:
            out.append(rng.choice(SIGNS) * rng.choice([1, 1, 1, 2, 3, 5]))
        elif kind < 0.5:
            out.append(rng.choice(SPACE_CHARS + " " * 10) * rng.choice([1, 1, 2, 3]))
        elif kind < 0.62:
            out.append(chr(rng.choice(assigned)))
        elif kind < 0.72:
            out.append(rng.choice(ADDED))
        elif kind < 0.77:
            out.append(rng.choice(["'s", "'S", "'ll", "'Ll", "'RE", "'ſ", "don't", "I'VE"]))
        else:
            start = rng.randrange(len(corpus))
            out.append(corpus[start:start + rng.randrange(12)])
    return "".join(out)


def train(name, corpus):
    normalizer, pre_tokenizer = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=name in ("llama3", "tekken")))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = D.ByteLevel()
    inside = ["<|im_start|>", "<|end|>"] if name in ("smollm", "llama3", "deepseek_llm") else []
    tokenizer.train_from_iterator([corpus], trainers.BpeTrainer(
        vocab_size=384, special_tokens=inside, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|end|>"), AddedToken("[MASK]", lstrip=True),
                                  AddedToken("<x>"), AddedToken("<xy>")])
    tokenizer.add_tokens([
        AddedToken("<L>", lstrip=True, normalized=False), AddedToken("<R>", rstrip=True),
        AddedToken("<W>", single_word=True), AddedToken("the", single_word=True, normalized=True),
        AddedToken("é", normalized=True), AddedToken(" sp ", rstrip=True, lstrip=True),
        AddedToken("ＡＢ", normalized=True)])
    if inside:
        ends = "<|im_start|> $A" + (" <|end|>" if name == "deepseek_llm" else "")
        ids = [(token, tokenizer.token_to_id(token)) for token in inside]
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(), processors.TemplateProcessing(single=ends, pair="$A $B", special_tokens=ids)])
    return tokenizer


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assigned = []
    for _, (begin, end) in P.Split(Regex(r"\p{Cn}|\p{Co}"), "removed").pre_tokenize_str("".join(map(chr, codes))):
        assigned += codes[begin:end]
    for index, name in enumerate(FAMILIES):
        rng = random.Random(index)
        tokenizer = train(name, PROSE)
        text = tokenizer.to_str()
        (OUT / f"{name}.tokenizer.json").write_text(text, encoding="utf-8")
        plain_json = json.loads(text)
        plain_json["added_tokens"] = []
        plain = Tokenizer.from_str(json.dumps(plain_json))
        with open(OUT / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for number in range(VECTORS):
                text, special = random_text(rng, assigned, PROSE), number % 5 != 4
                ids = (tokenizer if special else plain).encode(text, add_special_tokens=False).ids
                row = {"text": text, "ids": ids, "special": special,
                       "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
                if special and number % 10 == 0:
                    row["with_ends"] = tokenizer.encode(text, add_special_tokens=True).ids
                    row["without_special"] = tokenizer.decode(ids, skip_special_tokens=True)
                out.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


main()
