"""Makes tests/golden/tensor/codec.json: blocks of every format with the floats that Python's `gguf` package reads from
them, rows with the blocks it writes, and a piece of a real matrix with the error that ggml's own k-quantisers leave.

usage: make_tensor_golden.py MODEL.gguf GGML_QUANTS.so OUT.json
MODEL.gguf has a q8_0 'token_embd.weight' (SmolLM2-135M-Instruct, Apache-2.0, was used); GGML_QUANTS.so is a shared
library of ggml's quantize_row_*_ref, built with -ffp-contract=off.
"""
import ctypes
import json
import sys

import gguf
import numpy as np
from gguf import quants

BLOCKS = {32: 6, 256: 3, 1: 48}  # blocks a format, by the elements of a block
READ = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()
WRITE = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0".split()
K_QUANTS = {f"q{bits}_k": (f"Q{bits}_K", f"quantize_row_q{bits}_K_ref") for bits in (4, 5, 6)}


def finite_blocks(rng, kind):
    """Random bytes whose numbers are all finite, with their numbers."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    kept, numbers = [], []
    while len(kept) < BLOCKS[elements]:
        raw = rng.integers(0, 256, size=(1, size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            values = quants.dequantize(raw, kind).astype(np.float32).reshape(-1)
        if np.isfinite(values).all():
            kept.append(raw)
            numbers.append(values)
    return np.concatenate(kept), np.concatenate(numbers)


def rows_to_write(rng):
    """Ten blocks of 32: Gaussian, exact grids with ties, one sign, constant, zero, tiny and large."""
    n = rng.standard_normal
    rows = [n(32) * 0.02, n(32), rng.integers(-16, 17, 32) * 0.5, rng.integers(-254, 255, 32) * 0.5, rng.uniform(0.1, 1, 32),
            rng.uniform(-1, -0.1, 32), np.full(32, 0.3), np.zeros(32), n(32) * 2.0**-18, n(32) * 1000]
    return np.concatenate(rows).astype(np.float32)


def k_quant_errors(x, library):
    """Root mean square error of ggml's reference k-quantisers on x."""
    errors = {}
    for name, (kind, function) in K_QUANTS.items():
        kind = gguf.GGMLQuantizationType[kind]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros(x.size // elements * size, np.uint8)
        getattr(library, function)(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
                                   ctypes.c_int64(x.size))
        back = quants.dequantize(out.reshape(1, -1), kind).reshape(-1)
        errors[name] = float(np.sqrt(np.mean((back.astype(np.float64) - x) ** 2)))
    return errors


def main():
    model, library, out = sys.argv[1:]
    rng = np.random.default_rng(20)
    golden = {"dequantise": {}, "quantise": {}}
    for name in READ:
        raw, numbers = finite_blocks(rng, gguf.GGMLQuantizationType[name])
        golden["dequantise"][name.lower()] = {"blocks": raw.tobytes().hex(), "numbers": numbers.tobytes().hex()}
    x = rows_to_write(rng)
    golden["quantise"]["numbers"] = x.tobytes().hex()
    for name in WRITE:
        blocks = quants.quantize(x.reshape(1, -1), gguf.GGMLQuantizationType[name])
        golden["quantise"][name.lower()] = blocks.tobytes().hex()
    embedding = next(t for t in gguf.GGUFReader(model).tensors if t.name == "token_embd.weight")
    real = quants.dequantize(embedding.data[1000:1004], embedding.tensor_type).reshape(-1)[:2048].astype(np.float16)
    errors = k_quant_errors(real.astype(np.float32), ctypes.CDLL(library))
    golden["real"] = {"numbers_f16": real.tobytes().hex(), "rmse_of_ggml": errors}
    with open(out, "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
