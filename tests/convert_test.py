#!/usr/bin/env python3
"""Drives `westlake convert` and `westlake synth` as a user does: convert_test.py WESTLAKE GOLDEN_MODELS.

A full disk, a kill, Ctrl-C and bad arguments leave the old file or none; what is converted passes `westlake check`.
"""
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, timeout=200, **options)


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def expect_error(result, *words):
    expect(result.returncode == 1, f"exit code {result.returncode}, expected 1: {result.stderr}")
    lines = result.stderr.strip().splitlines()
    expect(len(lines) == 1 and lines[0].startswith("westlake: "), f"one line of error expected: {result.stderr}")
    for word in words:
        expect(word in result.stderr, f"'{word}' is not in: {result.stderr}")
    expect(result.stdout == "", f"nothing is expected on stdout: {result.stdout}")


def limit_file_size():
    """Writing beyond this gives an error, as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_conversions_pass_check(westlake, golden, folder):
    for case in ("llama_rope_tied", "deepseek_v3_mtp", "qwen3_moe"):
        gguf, back = folder / f"{case}.gguf", folder / case
        expect(run(westlake, "convert", golden / case, gguf, "--quant", "f32").returncode == 0, "convert to GGUF")
        expect(run(westlake, "convert", gguf, back, "--quant", "f32").returncode == 0, "convert to a folder")
        for name in ("tokens.npy", "logits.npy", "greedy.npy", "meta.json"):
            (back / name).write_bytes((golden / case / name).read_bytes())
        result = run(westlake, "check", back)
        expect(result.returncode == 0, f"{case}: {result.stdout} {result.stderr}")


def test_quantised_on_first_load(westlake, golden, folder):
    """--quant says what a converted file says, from a copy that is made once."""
    environment = {**os.environ, "WESTLAKE_CACHE": str(folder / "cache")}
    for case in ("qwen3", "deepseek_v3_mtp", "deepseek_v3_fp8_ue8m0"):
        ask = ("--ids", "1,2,3,4", "-n", "12", "--temp", "0", "--json")
        gguf = folder / f"{case}.gguf"
        expect(run(westlake, "convert", golden / case, gguf, "--quant", "q8_0").returncode == 0, "convert")
        converted = run(westlake, "generate", gguf, *ask, env=environment)
        copies = []
        for _ in range(2):
            result = run(westlake, "generate", golden / case, "--quant", "q8_0", *ask, env=environment)
            expect(result.returncode == 0, f"--quant: {result.stderr}")
            expect(json.loads(result.stdout)["ids"] == json.loads(converted.stdout)["ids"], f"{case}: other tokens")
            copies.append([(p.name, p.stat().st_mtime_ns) for p in sorted((folder / "cache/quantised").glob("*.gguf"))])
        expect(copies[0] == copies[1], f"{case}: the second start writes: {copies}")
        if case == "qwen3":  # others have rows that are no whole blocks
            expect_error(run(westlake, "generate", gguf, "--quant", "q4_0", *ask, env=environment), "is quantised already",
                         "q8_0")
    expect_error(run(westlake, "logits", golden / "qwen3", "--ids", "1", "--out", folder / "l.npy", "--quant", "q3_x",
                     env=environment), "q3_x", "q4_k")
    before = sorted((folder / "cache/quantised").iterdir())
    full = run(westlake, "generate", golden / "qwen3", "--quant", "q5_0", "--ids", "1", env=environment,
               preexec_fn=limit_file_size)
    expect_error(full, "cannot write", "WESTLAKE_CACHE")
    expect(sorted((folder / "cache/quantised").iterdir()) == before, "a full disk leaves something behind")


def test_full_disk(westlake, golden, folder):
    out = folder / "full.gguf"
    out.write_text("old")
    result = run(westlake, "convert", golden / "qwen3", out, preexec_fn=limit_file_size)
    expect_error(result, "full.gguf", "cannot write")
    expect(out.read_text() == "old", "the old file is gone")
    expect_error(run(westlake, "convert", golden / "qwen3", folder / "full", preexec_fn=limit_file_size), "cannot write")
    expect_error(run(westlake, "synth", "--preset", "tiny-llama", "--out", out, preexec_fn=limit_file_size),
                 "cannot write")
    expect(sorted(p.name for p in folder.iterdir()) == ["full.gguf"], f"left behind: {list(folder.iterdir())}")


def interrupted(westlake, out, number):
    """Starts to write some gigabytes, waits until bytes are on their way, then sends the signal."""
    process = subprocess.Popen([westlake, "synth", "--preset", "deepseek-v2-lite", "--quant", "f16", "--out", out],
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 1_000_000 for p in out.parent.glob(out.name + ".*")):
        expect(time.monotonic() < deadline and process.poll() is None, f"synth did not start: {process.poll()}")
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(timeout=60)
    return process.returncode


def test_interrupt_and_kill(westlake, golden, folder):
    out = folder / "big.gguf"
    out.write_text("old")
    expect(interrupted(westlake, out, signal.SIGINT) == 130, "Ctrl-C ends with 130")
    expect(sorted(p.name for p in folder.iterdir()) == ["big.gguf"], f"left behind: {list(folder.iterdir())}")
    interrupted(westlake, out, signal.SIGKILL)
    expect(out.read_text() == "old", "the old file is gone")


def test_arguments(westlake, golden, folder):
    source = golden / "qwen3"
    expect_error(run(westlake, "convert", source, folder / "a.gguf", "--quant", "q9"), "q9", "q4_k")
    expect_error(run(westlake, "convert", source, folder / "a", "--quant", "q4_0"), "q4_0", "OUT.gguf")
    expect_error(run(westlake, "convert", folder / "none", folder / "a.gguf"), "none")
    expect_error(run(westlake, "convert", source, folder / "no" / "a.gguf"), "cannot create")
    expect_error(run(westlake, "convert", source, source), "both the source and the target")
    expect_error(run(westlake, "synth", "--preset", "gpt-5", "--out", folder / "a.gguf"), "gpt-5", "deepseek-v3")
    expect_error(run(westlake, "synth", "--preset", "tiny-llama", "--quant", "f8_e4m3", "--out", folder / "a.gguf"),
                 "f8_e4m3")
    expect_error(run(westlake, "synth"), "--preset")
    expect(not list(folder.iterdir()), f"left behind: {list(folder.iterdir())}")
    listed = run(westlake, "synth", "--list")
    expect(listed.returncode == 0 and "deepseek-v2-lite" in listed.stdout, "the list of presets")
    result = run(westlake, "synth", "--preset", "tiny-deepseek-v3", "--quant", "q4_k", "--out", folder / "t.gguf", "--json")
    expect(result.returncode == 0 and '"preset":"tiny-deepseek-v3"' in result.stdout, result.stderr)
    result = run(westlake, "generate", folder / "t.gguf", "-p", "Hello", "-n", "4", "--temp", "0")
    expect(result.returncode == 0, result.stderr)


def main():
    westlake, golden = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    for test in (test_conversions_pass_check, test_quantised_on_first_load, test_full_disk, test_interrupt_and_kill,
                 test_arguments):
        with tempfile.TemporaryDirectory() as folder:
            test(westlake, golden, pathlib.Path(folder))
        print(f"{test.__name__}: passed")


if __name__ == "__main__":
    main()
