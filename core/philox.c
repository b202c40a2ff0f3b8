/* Work goes in chunks of LANES counters, as arrays of structures of one word each, so that every
 * loop below vectorises with whatever the compiler has; the bits do not depend on that. */
#include "philox.h"

#include <inttypes.h>
#include <math.h>

#include "detmath.h"

enum { LANES = 64, CHUNK = 4 * LANES };

struct stream {
    uint32_t key[2], draw, purpose, image;
};

/* Ten rounds on counter words c[4] under key k[2] (paper, section 3.3). */
static inline void rounds(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)c[0] * 0xd2511f53, b = (uint64_t)c[2] * 0xcd9e8d57;
        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9e3779b9; /* the golden ratio */
        k1 += 0xbb67ae85; /* sqrt(3) - 1 */
    }
}

void dm_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    rounds(c, key[0], key[1]);
    memcpy(out, c, sizeof c);
}

static void words(const struct stream *s, uint32_t block, uint32_t r[4][LANES])
{
    for (uint32_t i = 0; i < LANES; i++) {
        uint32_t c[4] = {block + i, s->draw, s->purpose, s->image};
        rounds(c, s->key[0], s->key[1]);
        for (int j = 0; j < 4; j++)
            r[j][i] = c[j];
    }
}

/* (r + 1/2) 2^-32, exact. The detour through the mantissa of 2^52 vectorises everywhere. */
static inline double unit(uint32_t r)
{
    return (dm_from_bits(0x4330000000000000 | r) - (0x1p52 - 0.5)) * 0x1p-32;
}

static void normal_chunk(const struct stream *s, uint32_t block, float out[CHUNK])
{
    uint32_t r[4][LANES];
    float z[4][LANES];
    words(s, block, r);
    for (int j = 0; j < 4; j += 2)
        for (int i = 0; i < LANES; i++) {
            double sine, cosine, radius = sqrt(-2 * dm_ln(unit(r[j][i])));
            dm_sincos_turns(unit(r[j + 1][i]), &sine, &cosine);
            z[j][i] = (float)(radius * cosine);
            z[j + 1][i] = (float)(radius * sine);
        }
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++)
            out[4 * i + j] = z[j][i];
}

static void uniform_chunk(const struct stream *s, uint32_t block, float out[CHUNK])
{
    uint32_t r[4][LANES];
    words(s, block, r);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++)
            out[4 * i + j] = (float)unit(r[j][i]);
}

typedef void chunk_fn(const struct stream *s, uint32_t block, float out[CHUNK]);

/* Whole chunks go straight to `out`, ragged ends through a buffer. A chunk begins at any block, so
 * that at most the first and the last are ragged. */
static void fill(chunk_fn *chunk, const struct stream *s, uint64_t first, size_t n, float *out)
{
    const uint64_t room = first < DM_PHILOX_MAX_ELEMENTS ? DM_PHILOX_MAX_ELEMENTS - first : 0;
    const size_t made = n < room ? n : (size_t)room;
    float buffer[CHUNK];
    size_t done = 0;
    while (done < made) {
        const uint64_t element = first + done;
        const size_t skip = element % 4, left = made - done;
        const size_t count = left < CHUNK - skip ? left : CHUNK - skip;
        const uint32_t block = (uint32_t)(element / 4);
        if (count == CHUNK) {
            chunk(s, block, out + done);
        } else {
            chunk(s, block, buffer);
            memcpy(out + done, buffer + skip, count * sizeof *out);
        }
        done += count;
    }
    for (; done < n; done++)
        out[done] = NAN;
}

static struct stream stream_of(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw)
{
    return (struct stream){{(uint32_t)seed, (uint32_t)(seed >> 32)}, draw, purpose, image};
}

void dm_philox_normal(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw,
                      uint64_t first, size_t n, float *out)
{
    const struct stream s = stream_of(seed, image, purpose, draw);
    fill(normal_chunk, &s, first, n, out);
}

void dm_philox_uniform(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw,
                       uint64_t first, size_t n, float *out)
{
    const struct stream s = stream_of(seed, image, purpose, draw);
    fill(uniform_chunk, &s, first, n, out);
}

demist_status dm_philox_check(uint64_t image, uint64_t draw, uint64_t elements,
                              struct dm_error *err)
{
    if (image > UINT32_MAX)
        return dm_fail(err, DEMIST_INVALID,
                       "image index %" PRIu64 " is too large: the noise of images 0 to 4294967295 "
                       "is defined; use another seed for more",
                       image);
    if (draw > UINT32_MAX)
        return dm_fail(err, DEMIST_INVALID,
                       "draw number %" PRIu64 " is too large: draws 0 to 4294967295 are defined",
                       draw);
    if (elements > DM_PHILOX_MAX_ELEMENTS)
        return dm_fail(err, DEMIST_INVALID,
                       "%" PRIu64 " elements an image are too many: noise is defined for 2^34",
                       elements);
    return DEMIST_OK;
}

const demist_philox dm_philox_extension = {
    .size = sizeof(demist_philox),
    .normal = dm_philox_normal,
    .uniform = dm_philox_uniform,
};
