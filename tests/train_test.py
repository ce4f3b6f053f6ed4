#!/usr/bin/env python3
"""Runs that survive, driven as a user does: train_test.py WESTLAKE.

A tiny model is trained on a small text and fine-tuned on a few conversations. Runs that are killed with -9 at random
moments, interrupted, or met by a full disk, and then resumed, end with the bytes of the undisturbed run. What goes wrong
is said in one line.
"""
import gzip
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

WORDS = "the cat dog sat ran on a mat hill red big small and saw one day they were happy home again".split()
TRAIN = ("--sequence", 64, "--batch-tokens", 512, "--threads", 1, "--checkpoint-minutes", 0.0001, "--seed", 3, "--quiet")


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def stories(count, seed):
    r = random.Random(seed)
    return [" ".join(r.choice(WORDS) for _ in range(r.randint(20, 80))) + "." for _ in range(count)]


class Driver:
    def __init__(self, westlake, folder):
        self.westlake, self.folder = westlake, folder
        self.environment = dict(os.environ, WESTLAKE_CACHE=str(folder / "cache"))

    def start(self, *words, **options):
        return subprocess.Popen([self.westlake, *map(str, words)], env=self.environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def run(self, *words, **options):
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=250)
        return process.returncode, out.decode(), err.decode()

    def ok(self, *words):
        code, out, err = self.run(*words)
        expect(code == 0, f"{words}: exit code {code}: {err}")
        return out

    def error(self, words, *parts, **options):
        code, _, err = self.run(*words, **options)
        expect(code == 1, f"{words}: exit code {code}, expected 1: {err}")
        lines = [line for line in err.strip().splitlines() if line.startswith("westlake: ")]
        expect(len(lines) == 1, f"one line of error expected: {err}")
        for part in parts:
            expect(part in lines[0], f"'{part}' is not in: {lines[0]}")


def weights(run):
    return (run / "model.safetensors").read_bytes()


def steps_of(run):
    return sorted(p.name for p in (run / "trainer").glob("step-*") if not p.name.endswith(".tmp"))


def kill_until_done(driver, begin, run, seed):
    """Starts the run, kills it again and again, mostly after it wrote a checkpoint, and lets it end. Returns the number
    of kills that hit."""
    r = random.Random(seed)
    kills, words = 0, begin
    for attempt in range(9):
        process = driver.start(*words)
        before, began = steps_of(run), time.time()
        patience = r.choice((0.1, 60, 60))
        while process.poll() is None and steps_of(run) == before and time.time() - began < patience:
            time.sleep(0.002)
        try:
            process.communicate(timeout=None if attempt == 8 else r.uniform(0, 0.2))
            expect(process.returncode == 0, f"resumed run: exit code {process.returncode}")
            return kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        # A kill before the first checkpoint leaves a folder in which the run begins anew.
        words = ("train", "--resume", run, "--quiet") if steps_of(run) else begin
    expect(False, "the run never ended")


def test_killed_runs(driver, begin, whole, seeds):
    for seed in seeds:
        run = driver.folder / f"{whole.name}-killed-{seed}"
        kills = kill_until_done(driver, (*begin, "--out", run), run, seed)
        expect(kills > 0, "no kill hit the run: it is too short for this machine")
        expect(weights(run) == weights(whole), f"{run}: other weights than the undisturbed run's after {kills} kills")
        lines = [line.split(",") for line in (run / "loss.csv").read_text().splitlines()[1:]]
        same = [line.split(",") for line in (whole / "loss.csv").read_text().splitlines()[1:]]
        expect([l[:6] for l in lines] == [l[:6] for l in same], f"{run}: loss.csv has other steps or losses")
        expect(not list((run / "trainer").glob("*.tmp")) or steps_of(run), "half a checkpoint at the end")


def test_interrupted_run(driver, begin, whole):
    run = driver.folder / f"{whole.name}-interrupted"
    for number in (signal.SIGINT, signal.SIGTERM):
        words = ("train", "--resume", run, "--quiet") if number == signal.SIGTERM else (*begin, "--out", run)
        process = driver.start(*words)
        began = time.time()
        before = steps_of(run)
        while process.poll() is None and time.time() - began < 60 and (not steps_of(run) or steps_of(run) == before):
            time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode != 0:  # else it was at its end already
            expect(process.returncode == 130, f"{number}: exit code {process.returncode}: {err}")
            expect(b"--resume" in err, f"{number}: no word of how to go on: {err}")
    driver.ok("train", "--resume", run, "--quiet")
    expect(weights(run) == weights(whole), "interrupted run: other weights than the undisturbed run's")
    driver.ok("train", "--resume", run, "--quiet")  # at its end: nothing to do


def test_full_disk(driver, begin, whole):
    run = driver.folder / f"{whole.name}-full"
    limit = len(weights(whole)) // 2

    def small_files():  # as a full disk: a write fails
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    driver.error((*begin, "--out", run), "model.safetensors", preexec_fn=small_files)
    expect(not run.exists() or not steps_of(run), "a checkpoint that could not be written")
    # The same in the middle of a run: the checkpoint before stays, and the run goes on from it.
    process = driver.start(*begin, "--out", run)
    while process.poll() is None and not steps_of(run):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    before = steps_of(run)
    driver.error(("train", "--resume", run, "--quiet"), "model.safetensors", preexec_fn=small_files)
    expect(steps_of(run) == before, f"{before} became {steps_of(run)}")
    driver.ok("train", "--resume", run, "--quiet")
    expect(weights(run) == weights(whole), "after a full disk: other weights than the undisturbed run's")


def test_finetune(driver, base):
    folder = driver.folder
    chats = folder / "chats.jsonl"
    r = random.Random(5)
    lines = [{"messages": [{"role": "user", "content": "Tell me of " + r.choice(WORDS)},
                           {"role": "assistant", "content": story[:150]}]} for story in stories(50, 6)]
    lines[3]["messages"].insert(0, {"role": "system", "content": "You tell stories."})
    chats.write_text("".join(json.dumps(line) + "\n" for line in lines))
    packed = folder / "chats2.jsonl.gz"
    packed.write_bytes(gzip.compress(chats.read_bytes()))
    begin = ("finetune", base, "--chat", chats, packed, "--valid", chats, "--epochs", 1, *TRAIN)
    whole = folder / "tuned"
    driver.ok(*begin, "--out", whole)
    expect(weights(whole) != weights(base), "fine-tuning changed nothing")
    generation = json.loads((whole / "generation_config.json").read_text())
    expect(generation["temperature"] == 0.8 and generation["top_p"] == 0.95, f"sampling defaults: {generation}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        expect((whole / name).read_bytes() == (base / name).read_bytes(), f"{name} is another one")
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    expect(samples and samples[0]["prompt"] == "Hello!\n", f"samples of a chat: {samples[:1]}")
    test_killed_runs(driver, begin, whole, (3,))

    # From the same model as a GGUF: the same weights, so the same run; quantised it is refused.
    gguf, small = folder / "base-f32.gguf", folder / "base-q8_0.gguf"
    driver.ok("convert", base, gguf, "--quant", "f32")
    driver.ok("convert", base, small, "--quant", "q8_0")
    tuned = folder / "tuned-from-gguf"
    driver.ok("finetune", gguf, *begin[2:], "--out", tuned)
    expect(weights(tuned) == weights(whole), "fine-tuning from a GGUF in f32: other weights than from the folder")
    driver.ok("finetune", "--resume", tuned)
    driver.error(("finetune", small, *begin[2:], "--out", folder / "no"), "quantised", "q8_0")
    expect(not (folder / "no").exists(), "a folder of a run that did not come to be")

    bad = folder / "bad.jsonl"
    for text, parts in (("{\"messages\": [\n", (":1",)), ("", ("empty",)),
                        (json.dumps(lines[0]) + "\n" + json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n",
                         ("bad.jsonl:2", "assistant"))):
        bad.write_text(text)
        driver.error(("finetune", base, "--chat", bad, "--out", folder / "no", *TRAIN), *parts)
        expect(not (folder / "no").exists(), "a folder of a run that did not come to be")
    driver.error(("finetune", base, "--chat", chats, "--out", base, *TRAIN), "a run is there already")
    driver.error(("finetune", base, "--chat", chats, "--out", folder / "no", "--sequence", 1 << 20, "--batch-tokens", 1 << 20),
                 "context")
    driver.error(("train", "--model", base / "config.json", "--tokenizer", base, "--data", chats, "--out", folder / "no",
                  "--tokens", "1k"), "finetune --chat")


def main():
    westlake = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        driver = Driver(westlake, folder)
        data, held = folder / "data.txt", folder / "held.txt"
        data.write_text("\n<|endoftext|>\n".join(stories(400, 1)))
        held.write_text("\n<|endoftext|>\n".join(stories(20, 2)))
        driver.ok("train-tokenizer", data, "--vocab", 320, "--out", folder / "tokenizer")
        begin = ("train", "--model", "story-1m", "--tokenizer", folder / "tokenizer", "--data", data, "--valid", held,
                 "--tokens", "10k", *TRAIN)
        whole = folder / "whole"
        driver.ok(*begin, "--out", whole)
        expect(len(steps_of(whole)) <= 2, f"two checkpoints are kept, seen {steps_of(whole)}")
        test_killed_runs(driver, begin, whole, (1, 2))
        test_interrupted_run(driver, begin, whole)
        test_full_disk(driver, begin, whole)
        test_finetune(driver, whole)
    print("ok")


if __name__ == "__main__":
    main()
