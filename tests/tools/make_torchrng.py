#!/usr/bin/env python3
"""Writes tests/data/torchrng.h: what the installed PyTorch's CPU generator gives.

Each row is one call: the first four elements as bits, and the FNV-1a hash over the bits of all. A
row that starts with a seed begins with torch.manual_seed; one without goes on where the last ended.
Run on x86 with AVX2 or AVX-512, as PyTorch's scalar path gives other last bits.
"""
from pathlib import Path

import torch

SIZES = (1, 2, 5, 15, 16, 17, 31, 32, 100, 768, 3072)
SEEDS = (0, 1, 20240229, 2**32 + 5, 2**63 - 1)
MIXED = (("RANDN", 3), ("RANDN", 16), ("RANDN", 4), ("RANDINT10", 8), ("RANDN", 15), ("RAND", 5),
         ("RANDN", 33), ("RANDN", 1), ("RANDINT_WIDE", 6), ("RANDN", 1), ("RANDN", 3072),
         ("RANDINT_SIGNED", 9), ("RAND", 700), ("RANDN", 7))
CALLS = {
    "RANDN": lambda n: torch.randn(n),
    "RAND": lambda n: torch.rand(n),
    "RANDINT10": lambda n: torch.randint(0, 10, (n,)),
    "RANDINT_WIDE": lambda n: torch.randint(0, 2**28, (n,)),
    "RANDINT_SIGNED": lambda n: torch.randint(-3, 2**40, (n,)),
}


def words(x):
    wide = x.dtype == torch.int64
    integers = x if wide else x.view(torch.int32).to(torch.int64)
    return [v % (2**64 if wide else 2**32) for v in integers.tolist()]


def row(seed, call, n):
    values = words(CALLS[call](n))
    hash64 = 0xCBF29CE484222325
    for v in values:
        hash64 = (hash64 ^ v) * 0x100000001B3 % 2**64
    first = ", ".join(f"{v:#x}" for v in values[:4])
    seeds = "false, 0" if seed is None else f"true, {seed:#x}"
    return f"    {{{seeds}, {call}, {n}, {{{first}}}, {hash64:#x}}},"


def rows():
    for seed in SEEDS:
        for n in SIZES:
            torch.manual_seed(seed)
            yield row(seed, "RANDN", n)
        torch.manual_seed(seed)
        for i, (call, n) in enumerate(MIXED):
            yield row(None if i else seed, call, n)


def main():
    path = Path(__file__).resolve().parent.parent / "data" / "torchrng.h"
    head = f"/* Made by tests/tools/make_torchrng.py with PyTorch {torch.__version__}. */\n"
    head += "/* clang-format off */\n"
    path.write_text(head + "\n".join(rows()) + "\n")


if __name__ == "__main__":
    main()
