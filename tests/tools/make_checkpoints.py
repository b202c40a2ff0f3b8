#!/usr/bin/env python3
"""Writes tests/data/checkpoints: small files as torch.save and numpy write them.

Needs torch and numpy; run once, by hand, where a fixture is added. `kinds.safetensors` is written
here byte by byte, so that it is independent of both readers and of demist's own writer.
"""
import io
import json
import pathlib
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import torch

out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                   pathlib.Path(__file__).parent.parent / "data" / "checkpoints")

DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.uint8: "U8", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
    torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.complex64: "C64",
}


def tensors_of(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from tensors_of(child, f"{path}.{key}" if path else str(key))


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors:
        raw = bytes(tensor.detach().contiguous().clone().reshape(-1).view(torch.uint8).numpy())
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Pipe(io.RawIOBase):
    """Cannot seek: makes zipfile write data descriptors."""

    def __init__(self):
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, b):
        self.data += bytes(b)
        return len(b)


def rewrite_as_zip64(data):
    """The same members with zip64 fields and data descriptors."""
    pipe = Pipe()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(pipe, "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(old.read(name))
    return bytes(pipe.data)


def kinds():
    base = torch.arange(24, dtype=torch.float32)
    halves = [0x0000, 0x8000, 0x0001, 0x03ff, 0x8400, 0x3c00, 0x7bff, 0x7c00, 0xfc00, 0x7e00]
    model = OrderedDict()
    model["whole"] = base.reshape(2, 3, 4)
    model["tail"] = base[20:]                             # shares the storage, with an offset
    model["transposed"] = base.reshape(4, 6).t()
    model["every_other"] = base[1::2]
    model["permuted"] = base.reshape(2, 3, 4).permute(2, 0, 1)
    model["expanded"] = torch.tensor([[7.0], [8.0]]).expand(2, 5)
    model["parameter"] = torch.nn.Parameter(torch.tensor([1.5, -2.5]))
    model["scalar"] = torch.tensor(3, dtype=torch.int64)
    model["empty"] = torch.zeros(0, 4)
    model["f16"] = torch.tensor(np.array(halves, np.uint16).view(np.float16))
    model["bf16"] = torch.tensor([1.0, -0.5, 1e-40, 3e38, float("inf")], dtype=torch.bfloat16)
    model["f64"] = torch.tensor([0.1, -1e300], dtype=torch.float64)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        model[str(dtype)[6:]] = torch.tensor([torch.iinfo(dtype).min, -1, torch.iinfo(dtype).max],
                                             dtype=dtype)
    model["uint8"] = torch.tensor([0, 255], dtype=torch.uint8)
    model["uint16"] = torch.tensor([0, 65535], dtype=torch.uint16)
    model["uint32"] = torch.tensor([0, 2**32 - 1], dtype=torch.uint32)
    model["uint64"] = torch.tensor([2**64 - 1, 5], dtype=torch.uint64)
    model["bool"] = torch.tensor([True, False, True])
    model["complex"] = torch.tensor([1 + 2j])
    model["f8"] = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    model._metadata = {"": {"version": 1}}
    return {
        "model": model,
        "ema": {"a": {"b": torch.ones(2)}},
        "optimizer": {"state": {0: {"step": torch.tensor(4.0)}},
                      "param_groups": [{"lr": 0.0001, "betas": (0.9, 0.999), "params": [0, 1]}]},
        "list": [torch.zeros(1), torch.ones(1)],
        "size": torch.Size([2, 3]),
        "epoch": 12, "big": -(2**40), "lr": 0.1, "name": "run é", "flag": True, "none": None,
        "tags": {"only"}, "raw": b"\x00\xff",
        "history": [float(i) for i in range(100)],
    }


def main():
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    value = kinds()
    write_safetensors(out / "kinds.safetensors", list(tensors_of(value)))
    torch.save(value, out / "kinds.pt")
    torch.save(value, out / "kinds-protocol4.pt", pickle_protocol=4)
    torch.save(value, out / "kinds-legacy.pt", _use_new_zipfile_serialization=False)
    (out / "kinds-zip64.pt").write_bytes(rewrite_as_zip64((out / "kinds.pt").read_bytes()))
    torch.save(torch.arange(6.0).reshape(3, 2).t(), out / "bare.pt")
    w = torch.arange(4.0)
    torch.save({"w": w, "v": w[1:3]}, out / "small.pt")
    torch.save({"w": w, "v": w[1:3]}, out / "small-legacy.pt",
               _use_new_zipfile_serialization=False)

    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = dict(arr_0=(np.arange(24, dtype=np.uint8).reshape(2, 2, 3, 2)),
                  arr_1=np.array([-1, 2**40]), half=a.astype(np.float16), flags=np.array([True, False]),
                  fortran=np.asfortranarray(a), scalar=np.float64(2.5))
    np.savez(out / "arrays.npz", **arrays)
    np.savez_compressed(out / "arrays-compressed.npz", **arrays)
    np.save(out / "fortran.npy", np.asfortranarray(a))
    np.save(out / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(out / "big-endian.npy", a.astype(">f4"))


main()
