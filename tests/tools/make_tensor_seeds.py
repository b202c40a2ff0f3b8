#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets safetensors, torchfile and npy: small files of each kind that
their readers tell apart. Needs no packages; takes some of make_checkpoints.py's fixtures."""
import json
import pathlib
import shutil
import struct

tests = pathlib.Path(__file__).parent.parent
fixtures, corpus = tests / "data" / "checkpoints", tests / "fuzz" / "corpus"


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npy(version, header, data=b""):
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I",
                                                           len(header)) + header + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GLOBAL = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = (b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" b"0X\3\0\0\0cpuK\4tQ")
TENSOR = GLOBAL + b"(" + STORAGE + b"K\0K\4\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"

SEEDS = {
    "safetensors": {
        "empty": safetensors({}, b""),
        "scalar": safetensors({"a": tensor("F32", [], 0, 4)}, b"abcd"),
        "unaligned": safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("F64", [1], 1, 9)},
                                 b"123456789"),
        "metadata": safetensors({"__metadata__": {"a": "b", "c": "\u00e9"},
                                 "e": tensor("BF16", [0, 3], 0, 0)}, b""),
        "overlap": safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)},
                               b"123"),
        "huge": safetensors({"a": tensor("F32", [2**32, 2**32, 2**32], 0, 4)}, b"1234"),
        "escapes": safetensors(b'{"\\u0061\\ud83d\\ude00":{"dtype":"I8","shape":[1e0],'
                               b'"data_offsets":[0,1]}}   ', b"1"),
        "nested": safetensors(b'{"a":' + b"[" * 50 + b"]" * 50 + b"}", b""),
    },
    "torchfile": {
        "tensor.pkl": b"\x80\2" + TENSOR + b".",
        "dict.pkl": b"\x80\2}q\0(X\1\0\0\0aq\1" + TENSOR + b"X\1\0\0\0bG?\xf0\0\0\0\0\0\0u.",
        "strided.pkl": b"\x80\2" + GLOBAL + b"(" + STORAGE + b"K\1K\2K\2\x86K\1K\0\x86tR.",
        "v3.pkl": b"\x80\2ctorch._utils\n_rebuild_tensor_v3\n(" + STORAGE +
                  b"K\0K\3\x85K\1\x85\x89N" + b"ctorch\nuint16\ntR.",
        "parameter.pkl": b"\x80\2ctorch._utils\n_rebuild_parameter\n" + TENSOR + b"\x88N\x87R.",
        "protocol4.pkl": b"\x80\4\x95\x40\0\0\0\0\0\0\0}\x94(\x8c\1a\x94K\1\x8c\1b]\x94(K\1\x88Ne"
                         b"\x8c\1c\x8f(K\1\x90\x8c\1d(K\1\x91\x8d\1\0\0\0\0\0\0\0eM\1\1u.",
        "system.pkl": b"\x80\2cos\nsystem\nX\4\0\0\0true\x85R.",
        "empty_mark.pkl": b"\x80\2(l.",
        "cycle.pkl": b"\x80\2]q\1h\1a.",
        "plain.pkl": b"\x80\2](c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0latin1\x86RU\1aT\1\0\0\0bC\1c"
                     b"B\1\0\0\0d\x8a\1\xff\x8b\2\0\0\0ab(K\1l20(K\1e(K\1K\2d(K\1tK\2\x85e.",
        "build.pkl": b"\x80\2ccollections\nOrderedDict\n]K\1K\2\x86a\x85Rq\1}b.",
    },
    "npy": {
        "v1": npy(1, b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", b"abcd"),
        "v2": npy(2, b"{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2), }\n", b"abcd"),
        "v3": npy(3, b'{"shape":(),"descr":"|b1","fortran_order":False}', b"a"),
        "object": npy(1, b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"N."),
        "structured": npy(1, b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"),
        "huge": npy(1, b"{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904,"
                       b" 4), }"),
    },
}
COPIES = {
    "safetensors": ["kinds.safetensors"],
    "torchfile": ["small.pt", "small-legacy.pt", "bare.pt", "kinds-legacy.pt"],
    "npy": ["fortran.npy", "arrays.npz", "arrays-compressed.npz"],
}

for target, seeds in SEEDS.items():
    (corpus / target).mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (corpus / target / name).write_bytes(data)
    for name in COPIES[target]:
        shutil.copy(fixtures / name, corpus / target / name)
