/* Philox4x32-10 and Box-Muller's transform: docs/noise.md. The float64 functions repeat those of
 * the host operation by operation, so that bits agree; this file is compiled without contraction
 * (-fmad=false). Seeds, draws and image numbers come from the scalar slots. */
#include "cuda_device.cuh"
#include "cuda_launch.cuh"

enum { THREADS = 128 };

static __device__ __forceinline__ uint64_t bits_of(double x)
{
    return static_cast<uint64_t>(__double_as_longlong(x));
}

static __device__ __forceinline__ double with_bits(uint64_t bits)
{
    return __longlong_as_double(static_cast<long long>(bits));
}

/* ln x = 2s + s·z·P(z) + k·ln2 with x = 2^k·(1 + f), s = f/(2 + f), z = s² */
static __device__ double ln_exactly(double x)
{
    const uint64_t one = 0x3ff0000000000000, sqrt_half = 0x3fe6a09e667f3bcd;
    const uint64_t shifted = bits_of(x) + (one - sqrt_half);
    const double m = with_bits((shifted & 0x000fffffffffffff) + sqrt_half);
    const double k = with_bits(0x4330000000000000 | shifted >> 52) - (0x1p52 + 1023);
    const double f = m - 1;
    const double s = f / (2 + f);
    const double z = s * s;
    double p = 0x1.2b584aae78a57p-3;
    p = p * z + 0x1.39fe606542ddep-3;
    p = p * z + 0x1.7462b4ab2ef6bp-3;
    p = p * z + 0x1.c71c62e5800a1p-3;
    p = p * z + 0x1.2492492df148dp-2;
    p = p * z + 0x1.99999999952e2p-2;
    p = p * z + 0x1.5555555555558p-1;
    const double high = 0x1.62e42fefa2p-1, low = 0x1.9ef35793c7673p-41;
    return k * high + (f - (s * (f - z * p) - k * low));
}

/* sin and cos of u turns */
static __device__ void turn(double u, double *sine, double *cosine)
{
    const double shifted = u * 4 + 0x1.8p52;
    const double r = u - (shifted - 0x1.8p52) * 0.25;
    const uint64_t q = bits_of(shifted);
    const double z = r * r;
    const double two_pi = 0x1.921fb54442d18p+2;
    const double two_pi_high = 0x1.921p+2, two_pi_low = 0x1.f6a8885a308d3p-11;
    const double r_high = with_bits(bits_of(r) & 0xffffff0000000000);
    const double high = r_high * two_pi_high;
    const double low = r_high * two_pi_low + (r - r_high) * two_pi;
    double p = 0x1.e4a9d9166f052p+1;
    p = p * z + -0x1.e3027dea82bd7p+3;
    p = p * z + 0x1.50783208843ebp+5;
    p = p * z + -0x1.32d2cce500387p+6;
    p = p * z + 0x1.466bc6775a476p+6;
    p = p * z + -0x1.4abbce625be52p+5;
    const double s = high + (low + r * (p * z));
    p = -0x1.b38340f56931fp+0;
    p = p * z + 0x1.f9cfc07738157p+2;
    p = p * z + -0x1.a6d1f0ab7905cp+4;
    p = p * z + 0x1.e1f50688302c5p+5;
    p = p * z + -0x1.55d3c7e3cbd74p+6;
    p = p * z + 0x1.03c1f081b5ac4p+6;
    const double half_square = high * high * 0.5;
    const double w = 1 - half_square;
    const double c = w + (((1 - w) - half_square) + (z * z * p - low * (high + low * 0.5)));
    const uint64_t exchange = (bits_of(s) ^ bits_of(c)) & (0 - (q & 1));
    *sine = with_bits((bits_of(s) ^ exchange) ^ (q & 2) << 62);
    *cosine = with_bits((bits_of(c) ^ exchange) ^ ((q + 1) & 2) << 62);
}

struct block {
    uint32_t word[4];
};

static __device__ block philox(block x, uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t a = static_cast<uint64_t>(0xd2511f53u) * x.word[0];
        const uint64_t b = static_cast<uint64_t>(0xcd9e8d57u) * x.word[2];
        x = {{static_cast<uint32_t>(b >> 32) ^ x.word[1] ^ key0, static_cast<uint32_t>(b),
              static_cast<uint32_t>(a >> 32) ^ x.word[3] ^ key1, static_cast<uint32_t>(a)}};
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return x;
}

static __device__ __forceinline__ double unit(uint32_t word)
{
    return (static_cast<double>(word) + 0.5) * 0x1p-32;
}

/* The four elements of one block. */
static __device__ __forceinline__ block words_of(const cu_philox &p, int64_t index, int n)
{
    const uint64_t seed = p.slots[p.seed_slot].u;
    const uint32_t image =
        p.per_image ? static_cast<uint32_t>(p.slots[p.image_slot].u) + static_cast<uint32_t>(n)
                    : 0xffffffffu;
    const block counter = {{static_cast<uint32_t>(index),
                            static_cast<uint32_t>(p.slots[p.draw_slot].u), p.purpose, image}};
    return philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

static __device__ __forceinline__ bool find(const cu_philox &p, int64_t *index, int *n)
{
    const int64_t blocks = (p.elements + 3) / 4;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    *n = static_cast<int>(i / blocks);
    *index = i - *n * blocks;
    return *n < p.images;
}

static __device__ __forceinline__ void put(const cu_philox &p, int64_t index, int n,
                                           const float (&out)[4])
{
    for (int i = 0; i < 4; i++)
        if (4 * index + i < p.elements)
            p.y[n * p.elements + 4 * index + i] = out[i];
}

static __global__ __launch_bounds__(THREADS) void normal(const __grid_constant__ cu_philox p)
{
    int64_t index;
    int n;
    if (!find(p, &index, &n))
        return;
    const block words = words_of(p, index, n);
    float out[4];
    for (int pair = 0; pair < 2; pair++) {
        double sine, cosine;
        const double radius = sqrt(-2 * ln_exactly(unit(words.word[2 * pair])));
        turn(unit(words.word[2 * pair + 1]), &sine, &cosine);
        out[2 * pair] = static_cast<float>(radius * cosine);
        out[2 * pair + 1] = static_cast<float>(radius * sine);
    }
    put(p, index, n, out);
}

static __global__ __launch_bounds__(THREADS) void uniform(const __grid_constant__ cu_philox p)
{
    int64_t index;
    int n;
    if (!find(p, &index, &n))
        return;
    const block words = words_of(p, index, n);
    const double from = p.lo, range = static_cast<double>(p.hi) - from;
    float out[4];
    for (int i = 0; i < 4; i++)
        out[i] = static_cast<float>(from + range * static_cast<float>(unit(words.word[i])));
    put(p, index, n, out);
}

static cudaError_t run(cudaStream_t stream, const void *arguments, void (*kernel)(cu_philox))
{
    const cu_philox &p = *static_cast<const cu_philox *>(arguments);
    const int64_t blocks = (p.elements + 3) / 4 * p.images;
    return launch(kernel, dim3(blocks_for(blocks, THREADS)), dim3(THREADS), 0, stream, p);
}

extern "C" cudaError_t cu_run_normal(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, normal);
}

extern "C" cudaError_t cu_run_uniform(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, uniform);
}
