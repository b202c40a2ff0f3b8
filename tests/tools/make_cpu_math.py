#!/usr/bin/env python3
"""Derives the polynomial coefficients of backends/cpu/cpu_vec_math.h and prints them.

Each function is reduced as the header says; the remainder is fitted in a Chebyshev basis by least
squares whose weights are raised where the error is largest (Lawson's iteration), which converges to
the least maximum of the weighted error. Coefficients are printed lowest first: hexadecimal float32,
or float64 for sin and cos, whose polynomials are evaluated in float64. Needs mpmath and numpy.
"""
import numpy as np
from mpmath import mp, mpf

mp.dps = 80


def fit(f, a, b, degree, weight=lambda x: 1):
    m = 400
    a, b = mpf(a), mpf(b)
    xs = [(a + b) / 2 + (b - a) / 2 * mp.cos(mp.pi * (2 * i + 1) / (2 * m)) for i in range(m)]
    y = np.array([float(f(x)) for x in xs])
    w = np.array([float(weight(x)) for x in xs])
    t = np.array([float((2 * x - a - b) / (b - a)) for x in xs])
    basis = np.polynomial.chebyshev.chebvander(t, degree)
    lawson = np.ones(m)
    for _ in range(60):
        s = np.sqrt(lawson) * w
        c = np.linalg.lstsq(basis * s[:, None], y * s, rcond=None)[0]
        error = np.abs((basis @ c - y) * w)
        lawson *= error / error.max() + 1e-6
        lawson /= lawson.mean()
    series = np.polynomial.Chebyshev(c, domain=[float(a), float(b)])
    return series.convert(kind=np.polynomial.Polynomial).coef, error.max()


def show(name, result, double=False):
    coefs, error = result
    text = [repr(float(c)) if double else float(np.float32(c)).hex() for c in coefs]
    print(f'{name}: error {error:.1e}\n    ' + '\n    '.join(text))


def erfcx(w):
    t = 3 * (1 + w) / (1 - w)
    return mp.erfc(t) * mp.exp(t * t)


def root(f, at_zero):
    return lambda z: f(mp.sqrt(z), z) if z > 0 else mpf(at_zero)


half_ln2 = mp.log(2) / 2 + mpf('0.002')
show('exp: (e^r - 1 - r)/r^2',
     fit(lambda r: (mp.exp(r) - 1 - r) / r**2 if r else mpf(1) / 2, -half_ln2, half_ln2, 4,
         lambda r: r * r))
show('log: (ln(1+f) - f + f^2/2)/f^3',
     fit(lambda f: (mp.log(1 + f) - f + f * f / 2) / f**3 if f else mpf(1) / 3,
         mp.sqrt(mpf(1) / 2) - 1, mp.sqrt(mpf(2)) - 1, 8, lambda f: f * f))
show('tanh: (tanh(x)/x - 1)/z, z = x^2',
     fit(root(lambda x, z: (mp.tanh(x) / x - 1) / z, mpf(-1) / 3), 0, '0.4', 4, lambda z: z))
show('erfc: e^(t^2) erfc(t) in w = (t-3)/(t+3)',
     fit(erfcx, -1, '0.7', 10, lambda w: 1 / erfcx(w)))
show('erf: erf(x)/x, z = x^2 (the header takes 1 off the first)',
     fit(root(lambda x, z: mp.erf(x) / x, 2 / mp.sqrt(mp.pi)), 0, 1, 6))
quarter = (mp.pi / 4)**2 * mpf('1.01')
show('sin: (sin(r)/r - 1)/z, z = r^2',
     fit(root(lambda r, z: (mp.sin(r) / r - 1) / z, mpf(-1) / 6), 0, quarter, 3, lambda z: z), True)
show('cos: (cos(r) - 1 + z/2)/z^2',
     fit(root(lambda r, z: (mp.cos(r) - 1 + z / 2) / z**2, mpf(1) / 24), 0, quarter, 3,
         lambda z: z * z), True)
print('2/pi in words:', [hex(int(mp.floor(2 / mp.pi * mpf(2)**(32 * (i + 1)))) & 0xffffffff)
                         for i in range(8)])
