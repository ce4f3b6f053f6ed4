#!/usr/bin/env python3
"""Makes tests/golden/formats/: tiny files as the public packages write them, which formats_test reads.

Needs numpy, safetensors and gguf from PyPI. Run from the root of the repository; the output is committed.
"""
import json
import pathlib

import gguf
import numpy as np
import safetensors

FOLDER = pathlib.Path("tests/golden/formats")
ALL_SAFETENSORS = {  # name -> (dtype, bytes of an element); F64 is in a file of its own: unsupported here
    "f32": ("float32", 4), "f16": ("float16", 2), "bf16": ("bfloat16", 2), "f8_e4m3": ("float8_e4m3fn", 1),
    "f8_e8m0": ("float8_e8m0fnu", 1), "i8": ("int8", 1), "i32": ("int32", 4), "i64": ("int64", 8), "u8": ("uint8", 1),
    "bool": ("bool", 1),
}


def counting(n, start):
    """Bytes start, start + 1, ... so that a test can say which byte must stand where."""
    return bytes((start + i) % 251 for i in range(n))


def serialize(tensors, path, metadata):
    """tensors: name -> {"dtype", "shape", "data": bytes}."""
    kept = {name: np.frombuffer(tensor["data"], np.uint8) for name, tensor in tensors.items()}  # pointers must stay valid
    specs = {name: safetensors.TensorSpec(dtype=tensor["dtype"], shape=tensor["shape"],
                                            data_ptr=kept[name].ctypes.data, data_len=kept[name].nbytes)
             for name, tensor in tensors.items()}
    safetensors.serialize_file(specs, path, metadata)


def make_safetensors():
    tensors = {}
    for i, (name, (dtype, size)) in enumerate(ALL_SAFETENSORS.items()):
        tensors[name] = {"dtype": dtype, "shape": [2, 3], "data": counting(6 * size, 10 * i)}
    tensors["scalar"] = {"dtype": "float32", "shape": [], "data": np.float32(1.5).tobytes()}
    tensors["empty"] = {"dtype": "float32", "shape": [0, 7], "data": b""}
    tensors["名前 \"quoted\"\n"] = {"dtype": "uint8", "shape": [1], "data": b"\x07"}
    serialize(tensors, FOLDER / "all.safetensors", {"format": "pt", "note": "größer"})
    serialize({"wide": {"dtype": "float64", "shape": [1], "data": bytes(8)}}, FOLDER / "f64.safetensors", None)
    shards = FOLDER / "sharded"
    shards.mkdir(exist_ok=True)
    where = {}
    for i, names in enumerate([["b.weight", "a.weight"], ["c.weight"]], 1):
        shard = f"model-{i:05}-of-00002.safetensors"
        data = {name: {"dtype": "float32", "shape": [1], "data": np.float32(ord(name[0])).tobytes()} for name in names}
        serialize(data, shards / shard, {"format": "pt"})
        where.update({name: shard for name in names})
    index = {"metadata": {"total_size": 12}, "weight_map": where}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def add_everything(writer):
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -100)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4000000000)
    writer.add_int32("t.i32", -2000000000)
    writer.add_float32("t.f32", 0.5)
    writer.add_bool("t.bool", True)
    writer.add_string("t.string", "größer")
    writer.add_uint64("t.u64", 2**63)
    writer.add_int64("t.i64", -2**62)
    writer.add_float64("t.f64", 1e300)
    writer.add_array("t.strings", ["a", "", "名前"])
    writer.add_array("t.i32s", [1, -2, 3])
    writer.add_array("t.f32s", [0.5, -1.5])
    writer.add_array("t.bools", [True, False])


def make_gguf():
    writer = gguf.GGUFWriter(FOLDER / "all.gguf", "llama")
    add_everything(writer)
    values = (np.arange(128, dtype=np.float32) - 64).reshape(2, 64)
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    for name in ("BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name.lower(), gguf.quants.quantize(values, kind), raw_dtype=kind)
    for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"):  # the package only reads these
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        writer.add_tensor(name.lower(), np.frombuffer(counting(2 * size, 0), np.uint8).reshape(2, size), raw_dtype=kind)
    writer.add_tensor("i8", np.arange(6, dtype=np.int8).reshape(1, 2, 3))
    writer.add_tensor("i32", np.arange(6, dtype=np.int32).reshape(2, 3))
    writer.add_tensor("i64", np.arange(6, dtype=np.int64).reshape(3, 2))
    finish(writer)

    writer = gguf.GGUFWriter(FOLDER / "parts.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("t.u32", 7)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full((3,), i, dtype=np.float32))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_npy():
    arrays = {"f4": np.arange(6, dtype="<f4").reshape(2, 3), "f2": np.arange(3, dtype="<f2"),
              "i4": np.arange(4, dtype="<i4") - 2, "i8": np.array([[1], [-5]], dtype="<i8"),
              "u1": np.array([0, 255], dtype="|u1"), "b1": np.array([True, False]), "scalar": np.float32(2.5),
              "empty": np.zeros((0, 5), dtype="<f4")}
    for name, array in arrays.items():
        np.save(FOLDER / f"{name}.npy", array)
    np.save(FOLDER / "f8.npy", np.zeros(1, dtype="<f8"))
    np.save(FOLDER / "big_endian.npy", np.zeros(1, dtype=">f4"))
    np.save(FOLDER / "fortran.npy", np.asfortranarray(np.zeros((2, 3), dtype="<f4")))
    for version in ((2, 0), (3, 0)):
        with open(FOLDER / f"v{version[0]}.npy", "wb") as file:
            np.lib.format.write_array(file, np.arange(2, dtype="<i4"), version=version)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_safetensors()
    make_gguf()
    make_npy()
