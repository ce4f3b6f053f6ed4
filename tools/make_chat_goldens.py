#!/usr/bin/env python3
"""Writes the expected outputs of tests/golden/chat/, rendered by transformers' own Jinja environment.

constructs.jsonl     {"template", "text"}: one construct of the language a line; "text" null where Jinja raises. The
                     templates are kept, the texts are made anew. Variables: see CONSTRUCT below and chat_golden_test.cc.
conversations.jsonl  {"messages", "tools", "variables"}: requests, kept as they are.
families.jsonl       {"template", "conversation", "add_generation_prompt", "text"}: each of templates/*.jinja over each.
ids.jsonl            {"template", "conversation", "add_generation_prompt", "ids", "ids_apart"} for two templates whose
                     control flow does not look at contents: contents are replaced by marks, so that the pieces are found
                     without an interpreter that knows origins. Tokenizer: tokenizer.json, made here from
                     tests/golden/text with the control tokens of these templates.

  python3 tools/make_chat_goldens.py          # needs transformers, tokenizers
"""
import datetime
import json
import pathlib
import re

import tokenizers
import transformers.utils.chat_template_utils as chat

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/chat"
SPECIAL = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
CONSTRUCT = [{"role": "user", "content": "Hëllo <|x|>", "n": 3, "f": 1.5, "ok": True, "none": None, "list": [1, "a"],
              "obj": {"k": "v"}}, {"role": "assistant", "content": "ok"}]
CONTROL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>",
           "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>",
           "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<|im_start|>", "<|im_end|>"]


class Noon(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 13, 0, 0)


chat.datetime = Noon


def render(template, messages, tools=None, variables=None, generate=True):
    try:
        return chat._compile_jinja_template(template).render(
            messages=chat._alias_reasoning_fields(messages), tools=tools, documents=None,
            add_generation_prompt=generate, **{**SPECIAL, **(variables or {})})
    except Exception:  # whatever Jinja says, the line expects an error
        return None


def rows(name):
    return [json.loads(line) for line in (OUT / name).read_text(encoding="utf-8").splitlines()]


def write(name, items):
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (OUT / name).write_text(text, encoding="utf-8")


def make_tokenizer():
    model = json.loads((ROOT / "tests/golden/text/deepseek_v3.tokenizer.json").read_text(encoding="utf-8"))
    first = 1 + max(model["model"]["vocab"].values())
    model["added_tokens"] = [{"id": first + i, "content": content, "single_word": False, "lstrip": False,
                              "rstrip": False, "normalized": False, "special": True}
                             for i, content in enumerate(CONTROL)]
    model["post_processor"] = None
    (OUT / "tokenizer.json").write_text(json.dumps(model, ensure_ascii=False) + "\n", encoding="utf-8")
    plain = tokenizers.Tokenizer.from_str(json.dumps({**model, "added_tokens": []}))
    return tokenizers.Tokenizer.from_str(json.dumps(model)), plain


def marked(value, texts, key=""):
    """The same conversation with a mark for every string but roles, which templates compare."""
    if isinstance(value, str) and key != "role":
        texts.append(value)
        return f"\ue000{len(texts) - 1}\ue001"
    if isinstance(value, dict):
        return {name: marked(item, texts, name) for name, item in value.items()}
    return [marked(item, texts) for item in value] if isinstance(value, list) else value


def ids_apart(template, messages, generate, full, plain):
    texts, ids = [], []
    text = render(template, marked(messages, texts), generate=generate)
    for i, part in enumerate(re.split("\ue000(\\d+)\ue001", text)):
        ids += (plain.encode(texts[int(part)]) if i % 2 else full.encode(part)).ids
    return ids


def main():
    constructs = [row["template"] for row in rows("constructs.jsonl")]
    write("constructs.jsonl", [{"template": t, "text": render(t, CONSTRUCT)} for t in constructs])
    full, plain = make_tokenizer()
    families, ids = [], []
    for path in sorted((OUT / "templates").glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        for number, request in enumerate(rows("conversations.jsonl")):
            for generate in (True, False):
                text = render(template, request["messages"], request["tools"], request["variables"], generate)
                row = {"template": path.name, "conversation": number, "add_generation_prompt": generate}
                families.append({**row, "text": text})
                if path.name in ("deepseek_v3.jinja", "smollm2.jinja") and text is not None and not request["tools"]:
                    ids.append({**row, "ids": full.encode(text).ids,
                                "ids_apart": ids_apart(template, request["messages"], generate, full, plain)})
    write("families.jsonl", families)
    write("ids.jsonl", ids)


if __name__ == "__main__":
    main()
