#!/usr/bin/env python3
"""Prefill and decode of Westlake and of other engines on the same files, one after the other, in one run.

  bench/compare.py --out bench/results/MACHINE/peers.csv --westlake build/westlake \
      --peer 'llama.cpp=/path/to/llama-bench' --peer 'ik=/path/to/llama-bench -rtr 1 -fmoe 1' MODEL.gguf ...

Each model: Westlake, every peer, and so on, --rounds times; the medians go to the CSV. A peer is any program with the
command line and the table of llama-bench. WESTLAKE_CACHE says where panels are kept.
"""
import argparse
import csv
import json
import os
import re
import shlex
import statistics
import subprocess
import sys


def westlake(binary, model, args):
    out = subprocess.run([binary, "bench", model, "--prefill", str(args.prefill), "--decode", str(args.decode),
                          "--threads", str(args.threads), "--repeats", "3", "--json"],
                         check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    return {"prefill": report["prefill"]["tok_s"], "decode": report["decode"]["tok_s"],
            "prefill_roof": report["prefill"]["roof_fraction"], "decode_roof": report["decode"]["roof_fraction"],
            "read_gb_s": report["roof"]["read_gb_s"]}


def peer(command, model, args):
    done = subprocess.run(shlex.split(command) + ["-m", model, "-p", str(args.prefill), "-n", str(args.decode),
                                                  "-t", str(args.threads), "-r", "2"], capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines():
        if match := re.search(r"\|\s*(pp|tg)\d+\s*\|\s*([0-9.]+)", line):
            found["prefill" if match[1] == "pp" else "decode"] = float(match[2])
    if not found:
        print(f"{command}: no figures for {model} (exit code {done.returncode})", file=sys.stderr)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--westlake", default="build/westlake")
    parser.add_argument("--peer", action="append", default=[], help="NAME=COMMAND")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    args = parser.parse_args()
    engines = {"westlake": lambda model: westlake(args.westlake, model, args)}
    for item in args.peer:
        name, command = item.split("=", 1)
        engines[name] = lambda model, command=command: peer(command, model, args)
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    rows = []
    for model in args.models:
        seen = {name: [] for name in engines}
        for _ in range(args.rounds):
            for name, run in engines.items():
                seen[name].append(run(model))
        for name, results in seen.items():
            row = {"model": os.path.basename(model), "engine": name}
            for key in ("prefill", "decode", "prefill_roof", "decode_roof", "read_gb_s"):
                values = [r[key] for r in results if key in r]
                row[key] = f"{statistics.median(values):.4g}" if values else ""
            rows.append(row)
            print(row, flush=True)
    with open(args.out, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
