#!/usr/bin/env python3
"""Drives `westlake train-tokenizer` as a user does: train_tokenizer_test.py WESTLAKE GOLDEN_TOKENIZER_TRAIN.

The folder it writes holds the merges that Hugging Face tokenizers learns from the same text, our own commands read it
and give its ids; files, folders and standard input are the same data; what goes wrong is said in one line.
"""
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile


def run(*words, **options):
    return subprocess.run([str(w) for w in words], capture_output=True, timeout=100, **options)


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def expect_ok(result):
    expect(result.returncode == 0, f"exit code {result.returncode}: {result.stderr.decode()}")
    return result


def expect_error(result, *words):
    text = result.stderr.decode()
    expect(result.returncode == 1, f"exit code {result.returncode}, expected 1: {text}")
    expect(len(text.strip().splitlines()) == 1 and text.startswith("westlake: "), f"one line of error expected: {text}")
    for word in words:
        expect(word in text, f"'{word}' is not in: {text}")


def test_learns_what_hugging_face_learns(westlake, golden, folder):
    for name in ("deepseek-v3", "qwen2", "gpt-2"):
        want = json.loads((golden / f"{name}.json").read_text(encoding="utf-8"))
        out = folder / name
        expect_ok(run(westlake, "train-tokenizer", golden / "corpus.txt", "--vocab", want["vocab_size"], "--out", out,
                      "--pipeline", name))
        model = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        expect([" ".join(m) for m in model["merges"]] == want["merges"], f"{name}: other merges")
        lines = folder / "lines.jsonl"
        lines.write_text("".join(json.dumps(v) + "\n" for v in want["vectors"]), encoding="utf-8")
        rows = expect_ok(run(westlake, "tokenize", out, "--jsonl", lines, "--bos")).stdout.decode().splitlines()
        for row, vector in zip(rows, want["vectors"], strict=True):
            expect(json.loads(row)["ids"] == vector["ids"], f"{name}: other ids for {vector['text']!r}")


def test_chat_template(westlake, golden, folder):
    out = folder / "chat"
    expect_ok(run(westlake, "train-tokenizer", golden / "corpus.txt", "--vocab", 300, "--out", out))
    messages = folder / "messages.json"
    messages.write_text(json.dumps({"messages": [{"role": "user", "content": "<｜Assistant｜>"}],
                                    "add_generation_prompt": True}))
    ids = json.loads(expect_ok(run(westlake, "render", out, "--messages", messages)).stdout)["ids"]
    expect(ids[:2] == [0, 3] and ids[-1] == 4, f"bos, user ... assistant expected: {ids}")
    expect(all(i > 4 for i in ids[2:-1]), f"a user's text became a control token: {ids}")


def test_data_of_all_kinds_is_the_same_data(westlake, golden, folder):
    text = (golden / "corpus.txt").read_bytes()
    data = folder / "data"
    (data / "deep").mkdir(parents=True)
    documents = [d.strip("\r\n") for d in text.decode().split("<|endoftext|>\n")]
    half = len(documents) // 2
    (data / "a.txt.gz").write_bytes(gzip.compress("\n<|endoftext|>\n".join(documents[:half]).encode()))
    (data / "deep/b.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents[half:]))
    results = []
    for name, arguments, options in (("file", [golden / "corpus.txt"], {}), ("folder", [data, "--threads", "3"], {}),
                                     ("input", ["-"], {"input": text})):
        report = run(westlake, "train-tokenizer", *arguments, "--vocab", 500, "--out", folder / name, "--json", **options)
        expect(json.loads(expect_ok(report).stdout)["documents"] == len(documents), f"{name}: {report.stdout}")
        results.append((folder / name / "tokenizer.json").read_bytes())
    expect(results[0] == results[1] == results[2], "the same data gave different tokenizers")


def test_errors(westlake, golden, folder):
    corpus, out = golden / "corpus.txt", folder / "out"
    train = [westlake, "train-tokenizer"]
    expect_error(run(*train, folder / "gone.txt", "--out", out), "gone.txt", "no such file")
    expect_error(run(*train, corpus, "--vocab", 200, "--out", out), "200 is too small", "261")
    expect_error(run(*train, corpus, "--pipeline", "x", "--out", out), "'x'", "deepseek-v3")
    bad = folder / "bad.txt"
    bad.write_bytes(b"good\nbad \xff\n")
    expect_error(run(*train, corpus, bad, "--out", out), "bad.txt:2:", "UTF-8", "Hint")
    bad.write_bytes(b"\n")
    expect_error(run(*train, bad, "--out", out), "no text")
    expect_error(run(*train, corpus, "--out", bad), "bad.txt", "no folder")
    expect(not out.exists(), "an error left a folder")
    expect_ok(run(*train, corpus, "--vocab", 300, "--out", out))
    before = (out / "tokenizer.json").read_bytes()
    expect_ok(run(*train, corpus, "--vocab", 300, "--out", out))  # the same again
    expect_error(run(*train, corpus, "--vocab", 301, "--out", out), "tokenizer.json", "another", "Hint")
    expect((out / "tokenizer.json").read_bytes() == before, "an error changed the folder")


def main():
    westlake, golden = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for test in (test_learns_what_hugging_face_learns, test_chat_template, test_data_of_all_kinds_is_the_same_data,
                 test_errors):
        with tempfile.TemporaryDirectory() as folder:
            test(westlake, golden, pathlib.Path(folder))
        print(f"{test.__name__}: ok")


if __name__ == "__main__":
    main()
