#!/usr/bin/env python3
"""The peer of `westlake train`: a GPT-2-style model trained on the CPU with PyTorch as people do it.

Dense, pre-norm LayerNorm, GELU, learned positions, tied head; AdamW, warm-up and cosine. Reads the same text with the
same tokenizer.json, packs it in the same way (documents in shuffled order, ended by eos, cut in rows), and writes a CSV
of held-out bits per byte over seconds and CPU-seconds. The clock runs over training alone, not over evaluation.

  torch_train.py --tokenizer DIR --train TEXT.zst --valid TEXT.zst --out curve.csv --minutes 15
      --width 512 --layers 8 --heads 8 --rows 16 --length 512 --lr 1e-3 --precision float32|bf16 [--compile]
For its best speed PyTorch wants the allocator to keep its memory:
  MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=1073741824
"""
import argparse
import math
import os
import random
import resource
import subprocess
import time

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab, width, layers, heads, length):
        super().__init__()
        self.embed, self.position = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.apply(self.initialise)
        for block in self.blocks:
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * layers))

    @staticmethod
    def initialise(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, ids, targets):
        x = self.embed(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def documents(path):
    text = subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout.decode() \
        if path.endswith(".zst") else open(path, encoding="utf-8").read()
    return [d.strip("\n") for d in text.split("\n<|endoftext|>\n") if d.strip()]


def encode(tokenizer, path, eos):
    return [e.ids + [eos] for e in tokenizer.encode_batch(documents(path), add_special_tokens=False)]


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--tokenizer", "--train", "--valid", "--out"):
        p.add_argument(name, required=True)
    p.add_argument("--minutes", type=float, default=15)
    for name, value in (("--width", 512), ("--layers", 8), ("--heads", 8), ("--rows", 16), ("--length", 512),
                        ("--threads", 2), ("--seed", 0), ("--eval-rows", 64)):
        p.add_argument(name, type=int, default=value)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--eval-seconds", type=float, default=30)
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    rng = random.Random(o.seed)
    tokenizer = Tokenizer.from_file(os.path.join(o.tokenizer, "tokenizer.json"))
    vocab = (tokenizer.get_vocab_size() + 63) // 64 * 64
    eos = 1
    train = encode(tokenizer, o.train, eos)
    valid_text = documents(o.valid)
    valid = [i for d in encode(tokenizer, o.valid, eos) for i in d]
    bytes_per_token = sum(len(d.encode()) for d in valid_text) / len(valid)
    order, stream = [], []

    def batch():
        need = o.rows * o.length + 1
        while len(stream) < need:
            if not order:
                order.extend(rng.sample(range(len(train)), len(train)))
            stream.extend(train[order.pop()])
        ids = torch.tensor(stream[:need])
        del stream[: need - 1]
        return ids[:-1].view(o.rows, o.length), ids[1:].view(o.rows, o.length)

    model = Gpt(vocab, o.width, o.layers, o.heads, o.length)
    parameters = sum(t.numel() for t in model.parameters())
    decay = [t for t in model.parameters() if t.dim() > 1]
    rest = [t for t in model.parameters() if t.dim() < 2]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=o.lr, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if o.compile else model

    def loss_of(ids, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=o.precision == "bf16"):
            return forward(ids, targets)

    def evaluate():
        model.eval()
        nats, rows = 0.0, min(o.eval_rows, (len(valid) - 1) // o.length) // o.rows * o.rows
        with torch.no_grad():
            for r in range(0, rows, o.rows):
                ids = torch.tensor(valid[r * o.length:(r + o.rows) * o.length + 1])
                nats += loss_of(ids[:-1].view(o.rows, -1), ids[1:].view(o.rows, -1)).item() * o.rows
        model.train()
        return nats / rows / math.log(2) / bytes_per_token

    with open(o.out, "w", encoding="utf-8") as out:
        out.write("step,tokens,loss,seconds,cpu_seconds,valid_bits_per_byte\n")
        seconds = cpu = 0.0
        next_eval, step, end = o.eval_seconds, 0, o.minutes * 60
        while seconds < end:
            start, start_cpu = time.monotonic(), cpu_seconds()
            done = seconds / end
            rate = o.lr * min(1, (step + 1) / 50) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = loss_of(*batch())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            value = loss.item()
            seconds += time.monotonic() - start
            cpu += cpu_seconds() - start_cpu
            if seconds >= next_eval or seconds >= end:
                next_eval += o.eval_seconds
                tokens = step * o.rows * o.length
                bpb = evaluate()
                out.write(f"{step},{tokens},{value:.4f},{seconds:.1f},{cpu:.1f},{bpb:.4f}\n")
                out.flush()
                print(f"{parameters / 1e6:.1f}M  step {step}  {tokens / 1e6:.2f}M tokens  {tokens / seconds:.0f} tok/s  "
                      f"loss {value:.3f}  valid {bpb:.4f} bits/byte  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
