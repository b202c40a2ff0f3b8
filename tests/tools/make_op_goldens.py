"""Makes tests/data/op_goldens.safetensors: every op case computed by PyTorch in float64.

    ninja -C BUILD tests/op_cases_export && BUILD/tests/op_cases_export DIR
    python3 tests/tools/make_op_goldens.py DIR tests/data/op_goldens.safetensors

DIR holds what op_cases_export writes. The operands are float32; PyTorch gets them as float64, so
that its results are as good as exact, and they are stored as float32 (3 images). The metadata hold
a hash of the operands, so that a changed case without a new golden is noticed."""
import json
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

IMAGES = 3


def ints(raw, n, at=0):
    return list(struct.unpack_from(f"<{n}i", raw, at))


def floats(raw, n, at=0):
    return [float(np.float32(v)) for v in struct.unpack_from(f"<{n}f", raw, at)]


def fnv(data):
    words = np.frombuffer(data, dtype="<u4").tolist()
    h = 0xCBF29CE484222325
    for w in words:
        h = ((h ^ w) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def conv(x, w, b, raw):
    s, p, d, g = ints(raw, 2), ints(raw, 4, 8), ints(raw, 2, 24), ints(raw, 1, 32)[0]
    return F.conv2d(F.pad(x, (p[1], p[3], p[0], p[2])), w, b, stride=s, dilation=d, groups=g)


def conv_transpose(x, w, b, raw):
    s, p, d, g = ints(raw, 2), ints(raw, 4, 8), ints(raw, 2, 24), ints(raw, 1, 32)[0]
    assert p[:2] == p[2:]
    return F.conv_transpose2d(x, w, b, stride=s, padding=p[:2], output_padding=ints(raw, 2, 36),
                              groups=g, dilation=d)


def attention(q, k, v, raw):
    scale, causal = floats(raw, 1)[0], ints(raw, 1, 4)[0]
    t = lambda a: a.transpose(-1, -2)
    return t(F.scaled_dot_product_attention(t(q), t(k), t(v), scale=scale, is_causal=bool(causal)))


def matmul(a, b, raw):
    ta, tb = ints(raw, 2)
    return (a.mT if ta else a) @ (b.mT if tb else b)


def lincomb(values):
    k = len(values) // 2
    shape = lambda c, x: c.reshape(c.shape + (1,) * (x.dim() - 1)) if c.dim() else c
    return sum(shape(c, x) * x for x, c in zip(values[:k], values[k:]))


def slice_(x, raw):
    axis, step = ints(raw, 2)
    start, length = struct.unpack_from("<2q", raw, 8)
    index = [slice(None)] * x.dim()
    index[axis] = slice(start, start + (length - 1) * step + 1, step)
    return x[tuple(index)]


def pad(x, raw):
    before, after = ints(raw, 8), ints(raw, 8, 32)
    return F.pad(x, [n for i in reversed(range(x.dim())) for n in (before[i], after[i])])


def cast(x, raw):
    if ints(raw, 1)[0] == 0:  # f32
        return x.double()
    return torch.round(torch.nan_to_num(x, nan=0)).clamp(-(2**31), 2**31 - 1).to(torch.int32)


def axes(x, raw):
    mask = struct.unpack_from("<I", raw)[0]
    return [i for i in range(x.dim()) if mask >> i & 1]


def norm_args(raw):
    return ints(raw, 1)[0], floats(raw, 1, 4)[0]


def get(v, i):
    return v[i] if i < len(v) else None


def asked(shape, x):
    return [x.shape[0] if i == 0 and n == -1 else n for i, n in enumerate(shape)]


def reshape(x, shape):
    known = asked(shape, x)
    return x.reshape([-1 if n == 0 else n for n in known])


UNARY = dict(neg=torch.neg, abs=torch.abs, exp=torch.exp, log=torch.log, sqrt=torch.sqrt,
             sin=torch.sin, cos=torch.cos, tanh=torch.tanh, erf=torch.erf, sigmoid=torch.sigmoid,
             relu=torch.relu, silu=F.silu, gelu=F.gelu)
BINARY = dict(add=torch.add, sub=torch.sub, mul=torch.mul, div=torch.div, min=torch.minimum,
              max=torch.maximum, less=torch.lt)
OTHER = {
    "affine": lambda v, a, s: floats(a, 2)[0] * v[0] + floats(a, 2)[1],
    "clamp": lambda v, a, s: torch.clamp(v[0], *floats(a, 2)),
    "cast": lambda v, a, s: cast(v[0], a),
    "select": lambda v, a, s: torch.where(v[0] != 0, v[1], v[2]),
    "lincomb": lambda v, a, s: lincomb(v),
    "sum": lambda v, a, s: v[0].sum(axes(v[0], a), keepdim=True),
    "mean": lambda v, a, s: v[0].mean(axes(v[0], a), keepdim=True),
    "amax": lambda v, a, s: v[0].amax(axes(v[0], a), keepdim=True),
    "batch_sum": lambda v, a, s: v[0].sum(0, keepdim=True),
    "softmax": lambda v, a, s: F.softmax(v[0], ints(a, 1)[0]),
    "linear": lambda v, a, s: F.linear(v[0], v[1], get(v, 2)),
    "matmul": lambda v, a, s: matmul(v[0], v[1], a),
    "conv2d": lambda v, a, s: conv(v[0], v[1], get(v, 2), a),
    "conv_transpose2d": lambda v, a, s: conv_transpose(v[0], v[1], get(v, 2), a),
    "attention": lambda v, a, s: attention(*v, a),
    "group_norm": lambda v, a, s: F.group_norm(v[0], norm_args(a)[0], get(v, 1), get(v, 2),
                                               norm_args(a)[1]),
    "batch_norm": lambda v, a, s: F.batch_norm(v[0], v[3], v[4], v[1], v[2], False, 0,
                                               norm_args(a)[1]),
    "layer_norm": lambda v, a, s: F.layer_norm(v[0], v[0].shape[-1:], get(v, 1), get(v, 2),
                                               norm_args(a)[1]),
    "max_pool2d": lambda v, a, s: F.max_pool2d(v[0], ints(a, 2), ints(a, 2, 8)),
    "avg_pool2d": lambda v, a, s: F.avg_pool2d(v[0], ints(a, 2), ints(a, 2, 8)),
    "upsample_nearest": lambda v, a, s: F.interpolate(v[0], scale_factor=ints(a, 1)[0]),
    "resize_bilinear": lambda v, a, s: F.interpolate(v[0], ints(a, 2), mode="bilinear",
                                                     align_corners=False, antialias=False),
    "reshape": lambda v, a, s: reshape(v[0], s),
    "transpose": lambda v, a, s: v[0].permute(ints(a, 8)[:v[0].dim()]),
    "slice": lambda v, a, s: slice_(v[0], a),
    "concat": lambda v, a, s: torch.cat(v, ints(a, 1)[0]),
    "pad": lambda v, a, s: pad(v[0], a),
    "expand": lambda v, a, s: v[0].expand([IMAGES if n == -1 else n for n in s]),
    "embedding": lambda v, a, s: F.embedding(v[1].long(), v[0]),
}


def compute(op, raw, shape, v):
    if op in UNARY:
        return UNARY[op](v[0])
    if op in BINARY:
        return BINARY[op](v[0], v[1])
    return OTHER[op](v, raw, shape)


def main(directory, output):
    blob = open(f"{directory}/data.bin", "rb").read()
    tensors, at = {}, 0
    for line in open(f"{directory}/cases.txt", encoding="utf-8"):
        name, op, attrs, shape, operands = line.rstrip("\n").split("|")
        shape = [int(n) for n in shape.split(",")] if shape else []
        values = []
        for operand in operands.split(";"):
            dtype, dims = operand.split(" ")
            dims = [IMAGES if n == "-1" else int(n) for n in dims.split(",")] if dims else []
            n = int(np.prod(dims, dtype=np.int64))
            array = np.frombuffer(blob, "<f4" if dtype == "f32" else "<i4", n, at).reshape(dims)
            at += 4 * n
            values.append(torch.from_numpy(array.astype("f8" if dtype == "f32" else "i4")))
        out = compute(op, bytes.fromhex(attrs), shape, values)
        dtype = np.int32 if out.dtype == torch.int32 else np.float32
        with np.errstate(over="ignore"):  # exp reaches inf, as it should
            tensors[name] = np.ascontiguousarray(out.numpy().astype(dtype))
    assert at == len(blob)

    header, offset = {"__metadata__": {"operands": fnv(blob)}}, 0
    for name, array in tensors.items():
        kind = "I32" if array.dtype == np.int32 else "F32"
        header[name] = {"dtype": kind, "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(output, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())
    print(f"{len(tensors)} cases, {offset + len(text) + 8} bytes")


main(*sys.argv[1:])
