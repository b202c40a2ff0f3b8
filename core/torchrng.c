/* Derived from the outputs of the installed PyTorch and the published algorithms it builds on:
 * mt19937 (Matsumoto and Nishimura 1998), the single-precision functions of the Cephes library
 * (Moshier) in the order of operations of its well-known SIMD form, every multiply-add fused. The
 * fmaf below are that fusion, not an optimisation: without FMA in hardware the C library computes
 * them exactly all the same. */
#include "torchrng.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { STATE = 624, MIDDLE = 397, BLOCK = 16, HALF = BLOCK / 2 };

void dm_torch_seed(struct dm_torch_rng *rng, uint64_t seed)
{
    *rng = (struct dm_torch_rng){.used = STATE};
    rng->mt[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < STATE; i++) {
        const uint32_t last = rng->mt[i - 1];
        rng->mt[i] = 1812433253u * (last ^ last >> 30) + i;
    }
}

static void refill(struct dm_torch_rng *rng)
{
    uint32_t *const mt = rng->mt;
    for (int i = 0; i < STATE; i++) {
        const uint32_t y = (mt[i] & 0x80000000) | (mt[(i + 1) % STATE] & 0x7fffffff);
        mt[i] = mt[(i + MIDDLE) % STATE] ^ y >> 1 ^ (y & 1 ? 0x9908b0df : 0);
    }
    rng->used = 0;
}

static uint32_t random32(struct dm_torch_rng *rng)
{
    if (rng->used == STATE)
        refill(rng);
    uint32_t y = rng->mt[rng->used++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680;
    y ^= y << 15 & 0xefc60000;
    return y ^ y >> 18;
}

static uint64_t random64(struct dm_torch_rng *rng)
{
    const uint64_t high = random32(rng);
    return high << 32 | random32(rng);
}

void dm_torch_rand(struct dm_torch_rng *rng, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(random32(rng) & 0xffffff) * 0x1p-24f;
}

void dm_torch_randint(struct dm_torch_rng *rng, int64_t low, int64_t high, size_t n, int64_t *out)
{
    assert(low < high);
    const uint64_t range = (uint64_t)high - (uint64_t)low;
    const bool wide = range >= UINT64_C(1) << 28;
    for (size_t i = 0; i < n; i++)
        out[i] = (int64_t)((wide ? random64(rng) : random32(rng)) % range + (uint64_t)low);
}

/* Cephes' logf for x in [2^-24, 1]. */
static float log32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    float e = (float)((int)(bits >> 23) - 126);
    bits = (bits & 0x007fffff) | 0x3f000000; /* the mantissa, in [1/2, 1) */
    memcpy(&x, &bits, sizeof x);
    if (x < 0.707106781186547524f) {
        e -= 1;
        x = x - 1 + x;
    } else {
        x = x - 1;
    }
    const float z = x * x;
    float y = 7.0376836292e-2f;
    y = fmaf(y, x, -1.1514610310e-1f);
    y = fmaf(y, x, 1.1676998740e-1f);
    y = fmaf(y, x, -1.2420140846e-1f);
    y = fmaf(y, x, 1.4249322787e-1f);
    y = fmaf(y, x, -1.6668057665e-1f);
    y = fmaf(y, x, 2.0000714765e-1f);
    y = fmaf(y, x, -2.4999993993e-1f);
    y = fmaf(y, x, 3.3333331174e-1f);
    y = y * x;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(-0.5f, z, y);
    return fmaf(e, 0.693359375f, x + y);
}

/* Cephes' sinf and cosf for x in [0, 2 pi]. */
static void sincos32(float x, float *sine, float *cosine)
{
    const int octant = ((int)(x * 1.27323954473516f) + 1) & ~1;
    const float n = (float)octant;
    x = fmaf(n, -0.78515625f, x); /* minus n pi/4, in three parts */
    x = fmaf(n, -2.4187564849853515625e-4f, x);
    x = fmaf(n, -3.77489497744594108e-8f, x);
    const float z = x * x;

    float p = 2.443315711809948e-5f;
    p = fmaf(p, z, -1.388731625493765e-3f);
    p = fmaf(p, z, 4.166664568298827e-2f);
    const float c = fmaf(p * z, z, -z * 0.5f) + 1;

    p = -1.9515295891e-4f;
    p = fmaf(p, z, 8.3321608736e-3f);
    p = fmaf(p, z, -1.6666654611e-1f);
    const float s = fmaf(p * z, x, x);

    *sine = octant & 2 ? c : s;
    *cosine = octant & 2 ? s : c;
    if (octant & 4)
        *sine = -*sine;
    if ((octant + 2) & 4)
        *cosine = -*cosine;
}

/* Sixteen uniforms become sixteen normals: pairs are (j, j + 8). */
static void normal_block(float data[BLOCK])
{
    for (int j = 0; j < HALF; j++) {
        float sine, cosine, radius = sqrtf(-2 * log32(1 - data[j]));
        sincos32(6.283185307179586f * data[j + HALF], &sine, &cosine);
        data[j] = radius * cosine + 0.0f; /* the mean: it turns -0 into 0 */
        data[j + HALF] = radius * sine + 0.0f;
    }
}

static void randn_large(struct dm_torch_rng *rng, size_t n, float *out)
{
    dm_torch_rand(rng, n, out);
    for (size_t i = 0; i + BLOCK <= n; i += BLOCK)
        normal_block(out + i);
    if (n % BLOCK) { /* the last sixteen once more, overlapping what is there */
        float *const tail = out + n - BLOCK;
        dm_torch_rand(rng, BLOCK, tail);
        normal_block(tail);
    }
}

static double uniform53(struct dm_torch_rng *rng)
{
    return (double)(random64(rng) & 0x1fffffffffffff) * 0x1p-53;
}

static float normal_small(struct dm_torch_rng *rng)
{
    if (rng->has_spare) {
        rng->has_spare = false;
        return (float)rng->spare;
    }
    const double u1 = uniform53(rng), u2 = uniform53(rng);
    const double radius = sqrt(-2 * log1p(-u2)), theta = 2 * 3.14159265358979323846 * u1;
    rng->spare = radius * sin(theta);
    rng->has_spare = true;
    return (float)(radius * cos(theta));
}

void dm_torch_randn(struct dm_torch_rng *rng, size_t n, float *out)
{
    if (n >= BLOCK) {
        randn_large(rng, n, out);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = normal_small(rng);
}
