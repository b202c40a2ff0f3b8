#!/usr/bin/env python3
"""Derives the polynomial coefficients of core/detmath.h and prints them as C constants.

Each function is reduced to an even, well-behaved remainder, which is interpolated at Chebyshev
nodes in 60-digit arithmetic: that is close to the minimax polynomial, and needs nothing but a linear
solve. The coefficients are then rounded to float64.

    ln((1+s)/(1-s)) = 2s + s z P(z),           z = s^2,  |s| <= (sqrt2-1)/(sqrt2+1)
    sin(2 pi r)     = 2pi r + r z S(z),        z = r^2,  |r| <= 1/8
    cos(2 pi r)     = 1 - (2pi r)^2/2 + z^2 C(z)

Needs mpmath. The coefficients are pasted into the header. The last lines are hashes over the results
of a second implementation, in Python's floats, which test_detmath.c holds the C one against.
"""
import math
import struct

from mpmath import mp, mpf

mp.dps = 60


def fit(f, z_max, degree):
    """Coefficients, lowest first, rounded to float64."""
    m = degree + 1
    nodes = [z_max / 2 * (1 + mp.cos(mp.pi * (2 * i + 1) / (2 * m))) for i in range(m)]
    rows = mp.matrix(m, m)
    for i, z in enumerate(nodes):
        for k in range(m):
            rows[i, k] = z**k
    return [float(c) for c in mp.lu_solve(rows, mp.matrix([f(z) for z in nodes]))]


def worst(f, coefs, z_max, weight):
    """Largest error of the polynomial times weight(z), in ulps of 1 (2^-53)."""
    grid = (z_max * i / 2000 for i in range(1, 2001))
    return max(abs(f(z) - sum(mpf(c) * z**k for k, c in enumerate(coefs))) * weight(z)
               for z in grid) * mpf(2) ** 53


def log_tail(z):
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) / s - 2) / z


def sin_tail(z):
    r = mp.sqrt(z)
    return (mp.sin(2 * mp.pi * r) / r - 2 * mp.pi) / z


def cos_tail(z):
    return ((mp.cos(2 * mp.pi * mp.sqrt(z)) - 1) / z + 2 * mp.pi**2) / z


def show(name, coefs, error):
    print(f"/* {name}: truncation {mp.nstr(error, 2)} * 2^-53 of the result */")
    for k, c in enumerate(coefs):
        print(f"    {name}{k} = {c.hex()}, /* {c:.17g} */")


def bits(x):
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def horner(coefs, z):
    p = coefs[-1]
    for c in reversed(coefs[:-1]):
        p = p * z + c
    return p


def ln(x, coefs):
    m, k = math.frexp(x)
    while m >= math.sqrt(2):
        m, k = m / 2, k + 1
    while m < float.fromhex("0x1.6a09e667f3bcdp-1"):
        m, k = m * 2, k - 1
    f = m - 1
    s = f / (2 + f)
    z = s * s
    high, low = float.fromhex("0x1.62e42fefa2p-1"), float.fromhex("0x1.9ef35793c7673p-41")
    return k * high + (f - (s * (f - z * horner(coefs, z)) - k * low))


def sincos(u, sin_coefs, cos_coefs):
    q = round(u * 4)
    r = u - q * 0.25
    z = r * r
    two_pi, high_pi = float(2 * mp.pi), float.fromhex("0x1.921p+2")
    low_pi = float(2 * mp.pi - mpf(high_pi))
    r_high = struct.unpack("<d", struct.pack("<Q", bits(r) >> 40 << 40))[0]
    high = r_high * high_pi
    low = r_high * low_pi + (r - r_high) * two_pi
    s = high + (low + r * (horner(sin_coefs, z) * z))
    half_square = high * high * 0.5
    w = 1 - half_square
    c = w + (((1 - w) - half_square) + (z * z * horner(cos_coefs, z) - low * (high + low * 0.5)))
    return [(s, c), (c, -s), (-s, -c), (-c, s)][q % 4]


def hashes(log_coefs, sin_coefs, cos_coefs):
    h = [0, 0, 0]
    for i in range(100000):
        u = (i * 2654435761 % 2**32 + 0.5) * 2.0**-32
        values = (ln(u, log_coefs), *sincos(u, sin_coefs, cos_coefs))
        h = [(a * 31 + bits(v)) % 2**64 for a, v in zip(h, values)]
    return h


def main():
    s_max = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)
    z = s_max**2
    log_coefs = fit(log_tail, z, 6)
    show("ln", log_coefs, worst(log_tail, log_coefs, z, lambda q: q / 2))
    ln2 = mp.log(2)
    high = mp.floor(ln2 * 2**40) / 2**40  # 40 bits: times any exponent it is exact
    print(f"    ln2_high = {float(high).hex()}, ln2_low = {float(ln2 - high).hex()}")
    z = mpf(1) / 64
    sin_coefs = fit(sin_tail, z, 5)
    show("sin", sin_coefs, worst(sin_tail, sin_coefs, z, lambda q: q / 6))
    high = float.fromhex("0x1.921p+2")  # 13 bits: times 13 bits it has 26
    print(f"    2 pi = {float(2 * mp.pi).hex()}")
    print(f"         = {high.hex()} + {float(2 * mp.pi - mpf(high)).hex()}")
    cos_coefs = fit(cos_tail, z, 5)
    show("cos", cos_coefs, worst(cos_tail, cos_coefs, z, lambda q: q * q / mpf("0.7")))
    for name, value in zip(("ln", "sine", "cosine"), hashes(log_coefs, sin_coefs, cos_coefs)):
        print(f"{name} hash {value:#x}")


if __name__ == "__main__":
    main()
