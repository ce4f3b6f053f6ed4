#!/usr/bin/env python3
"""Runs the reference models at every level of kernels this machine has: levels_test.py WESTLAKE GOLDEN_MODELS.

The exact path must give the reference's logits at each of them, and so must the fast path within its own tolerance.
"""
import os
import pathlib
import re
import subprocess
import sys

LEVELS = ["ref", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_amx"]


def run(westlake, level, *words):
    return subprocess.run([westlake, *words], env={**os.environ, "WESTLAKE_ISA": level}, capture_output=True, text=True,
                          timeout=250)


def levels_here(westlake):
    """An unknown level is an error that lists those of this machine."""
    said = run(westlake, "none", "logits", "x", "--ids", "1", "--out", os.devnull).stderr
    match = re.search(r"It has: (.*)", said)
    assert match, f"no list of levels in: {said}"
    return [name.strip() for name in match.group(1).split(",")]


def main():
    westlake, golden = sys.argv[1:]
    folders = sorted(str(path) for path in pathlib.Path(golden).iterdir() if path.is_dir())
    assert folders, f"no reference models in {golden}"
    here, failed = levels_here(westlake), []
    for level in here:
        result = run(westlake, level, "check", *folders)
        print(f"{level}: exit code {result.returncode}")
        if result.returncode != 0:
            failed.append(level)
            print(result.stdout[-4000:], result.stderr[-4000:])
    for level in LEVELS:
        if level not in here:
            print(f"SKIPPED: this machine has no {level}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
