#!/usr/bin/env python3
"""Writes tests/data/pictures: files of every mode with what Pillow reads in them, and what Pillow's
resize makes of noise.

Needs Pillow and numpy; run once, by hand, where a fixture is added.
"""
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image

out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                   pathlib.Path(__file__).parent.parent / "data" / "pictures")
rng = np.random.default_rng(7)


def noise(width, height, channels=3):
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def fit(image, size):
    """Box halvings, bicubic to the shorter side, centre crop."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top:top + size, left:left + size]


def write_resizes():
    arrays = {}
    wanted = [((45, 37), (22, 18)), ((45, 37), (90, 74)), ((8, 8), (8, 3)), ((5, 40), (5, 13)),
              ((31, 17), (1, 1)), ((1, 1), (7, 5)), ((33, 33), (32, 32)), ((64, 10), (21, 10))]
    for i, (source, target) in enumerate(wanted):
        pixels = noise(*source)
        if i == 1:
            pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)  # where bicubic overshoots
        image = Image.fromarray(pixels)
        arrays[f"resize_{i}_in"] = pixels
        arrays[f"resize_{i}_box"] = np.asarray(image.resize(target, Image.BOX))
        arrays[f"resize_{i}_bicubic"] = np.asarray(image.resize(target, Image.BICUBIC))
    for i, (source, size) in enumerate([((70, 45), 16), ((45, 71), 16), ((16, 16), 16),
                                        ((9, 12), 16), ((67, 33), 32), ((130, 64), 32),
                                        ((21, 22), 12)]):
        pixels = noise(*source)
        arrays[f"fit_{i}_in"] = pixels
        arrays[f"fit_{i}_out"] = fit(Image.fromarray(pixels), size)
    np.savez_compressed(out / "resizes.npz", **arrays)


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 7 % 256],
                    -1).astype(np.uint8)


def gif(width, height, frame, indices, palette, transparent=None, interlace=False):
    """A GIF with a frame smaller than its screen, which Pillow does not write. LZW without tables:
    a clear code before each pixel."""
    left, top, fw, fh = frame
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF1, 0, 0) + bytes(palette)
    if transparent is not None:
        data += b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    data += b"\x2c" + struct.pack("<HHHHB", left, top, fw, fh, 0x40 if interlace else 0)
    bits, n = 0, 0
    for index in indices:
        for code in (4, index):
            bits |= code << n
            n += 3
    bits |= 5 << n
    n += 3
    block = bits.to_bytes((n + 7) // 8, "little")
    data += b"\x02"
    for i in range(0, len(block), 255):
        data += bytes([len(block[i:i + 255])]) + block[i:i + 255]
    return data + b"\0\x3b"


def gray16_png(pixels):
    height, width = pixels.shape

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I",
                                                                        zlib.crc32(kind + body))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0,
                                                              0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_modes():
    rgb = Image.fromarray(smooth(19, 14))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(noise(19, 14, 1)[..., 0]))
    palette = rgb.quantize(13)
    files = {
        "rgb.png": rgb, "rgba.png": rgba, "gray.png": rgb.convert("L"), "bit.png": rgb.convert("1"),
        "grayalpha.png": rgba.convert("LA"), "palette.png": palette,
    }
    for name, image in files.items():
        image.save(out / name)
    palette.save(out / "palettealpha.png", transparency=bytes(range(0, 13 * 19, 19)))
    rgb.save(out / "rgb.jpg", quality=80)
    rgb.save(out / "progressive.jpg", quality=60, progressive=True, subsampling=0)
    rgb.convert("L").save(out / "gray.jpeg")
    rgb.convert("CMYK").save(out / "cmyk.jpg", quality=90)
    palette.save(out / "palette.gif", interlace=0)
    palette.save(out / "interlaced.gif", interlace=1)
    palette.save(out / "transparent.gif", transparency=3)
    colours = [10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200]
    indices = [int(v) for v in rng.integers(0, 4, 12)]
    (out / "small.gif").write_bytes(gif(7, 6, (2, 1, 4, 3), indices, colours))
    (out / "smalltransparent.gif").write_bytes(gif(7, 6, (2, 1, 4, 3), indices, colours, 2))
    arrays = {p.name: np.asarray(Image.open(p).convert("RGB"))
              for p in sorted(out.iterdir()) if p.suffix != ".npz"}
    deep = rng.integers(0, 65536, (6, 5))
    (out / "gray16.png").write_bytes(gray16_png(deep))
    arrays["gray16.png"] = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, -1)
    np.savez_compressed(out / "modes.npz", **arrays)


out.mkdir(parents=True, exist_ok=True)
for old in out.iterdir():
    old.unlink()
write_resizes()
write_modes()
