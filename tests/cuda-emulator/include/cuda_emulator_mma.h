/* Tensor cores' instructions as plain C++, for cuda_mma.cuh: fragments lie in the lanes' registers
 * as PTX describes them. With group = lane / 4 and member = lane % 4,
 *
 *     A, 16 x 16 of 16 bits: a[0], a[1]: rows group, group + 8, columns 2·member + {0, 1};
 *                            a[2], a[3]: the same rows, columns 8 + 2·member + {0, 1}
 *     B, 16 x 8:             b[0], b[1]: rows 2·member + {0, 1} and 8 more, column group
 *     C, 16 x 8 of 32 bits:  c[0], c[1]: row group, columns 2·member + {0, 1}; c[2], c[3]: row + 8
 *     tf32, A 16 x 8:        a[0], a[1]: rows group, group + 8, column member; a[2], a[3]: column +
 * 4 tf32, B 8 x 8:         b[0], b[1]: rows member, member + 4, column group
 *
 * Products are exact and summed in float64: more exactly than the hardware does, which is why
 * bounds have room. */
#ifndef CUDA_EMULATOR_MMA_H
#define CUDA_EMULATOR_MMA_H

#include <stdint.h>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

namespace cuda_emulator
{

struct mma_operands {
    float *c;
    const uint32_t *a, *b;
};

inline float half_of(uint32_t word, int which)
{
    return __half2float({(unsigned short)(word >> 16 * which)});
}
inline float bfloat_of(uint32_t word, int which)
{
    return __bfloat162float({(unsigned short)(word >> 16 * which)});
}

/* c += a·b for rows of K = 16 or 8 that a and b have been gathered into. */
template <int K>
void multiply(mma_operands *const *lanes, const float (&a)[16][K], const float (&b)[K][8])
{
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
            double sum = lanes[l]->c[i];
            for (int k = 0; k < K; k++)
                sum += (double)a[row][k] * b[k][column];
            lanes[l]->c[i] = (float)sum;
        }
}

template <float (*NUMBER)(uint32_t, int)> void mma_16816(mma_operands *const *lanes)
{
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++)
        for (int e = 0; e < 2; e++) {
            const int group = l / 4, k = 2 * (l % 4) + e;
            for (int i = 0; i < 4; i++)
                a[group + 8 * (i % 2)][k + 8 * (i / 2)] = NUMBER(lanes[l]->a[i], e);
            for (int i = 0; i < 2; i++)
                b[k + 8 * i][group] = NUMBER(lanes[l]->b[i], e);
        }
    multiply(lanes, a, b);
}

/* The lowest 13 bits take no part. */
inline float tf32_of(uint32_t word)
{
    return __uint_as_float(word & 0xffffe000u);
}

inline void mma_1688_tf32(mma_operands *const *lanes)
{
    float a[16][8], b[8][8];
    for (int l = 0; l < 32; l++) {
        const int group = l / 4, member = l % 4;
        for (int i = 0; i < 4; i++)
            a[group + 8 * (i % 2)][member + 4 * (i / 2)] = tf32_of(lanes[l]->a[i]);
        for (int i = 0; i < 2; i++)
            b[member + 4 * i][group] = tf32_of(lanes[l]->b[i]);
    }
    multiply(lanes, a, b);
}

/* Lane 8·i + r has the address of row r of matrix i: eight numbers of 16 bits. */
struct matrix_rows {
    const void *row;
    uint32_t *to;
};

inline uint16_t matrix_element(matrix_rows *const *lanes, int matrix, int row, int column)
{
    uint16_t bits;
    memcpy(&bits, static_cast<const uint16_t *>(lanes[8 * matrix + row]->row) + column, 2);
    return bits;
}

template <bool TRANSPOSED> void load_matrices(matrix_rows *const *lanes)
{
    for (int l = 0; l < 32; l++)
        if ((uintptr_t)lanes[l]->row % 16)
            fault("a matrix row that is not aligned to 16 bytes");
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            const int x = l / 4, y = 2 * (l % 4);
            const uint32_t low =
                TRANSPOSED ? matrix_element(lanes, i, y, x) : matrix_element(lanes, i, x, y);
            const uint32_t high = TRANSPOSED ? matrix_element(lanes, i, y + 1, x)
                                             : matrix_element(lanes, i, x, y + 1);
            lanes[l]->to[i] = low | high << 16;
        }
}

} // namespace cuda_emulator

inline void cu_mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t *b,
                       cuda_emulator::place at = cuda_emulator::here())
{
    cuda_emulator::mma_operands mine = {c, a, b};
    cuda_emulator::warp<cuda_emulator::mma_operands>(
        0xffffffffu, mine, cuda_emulator::mma_16816<cuda_emulator::half_of>, at);
}

inline void cu_mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t *b,
                        cuda_emulator::place at = cuda_emulator::here())
{
    cuda_emulator::mma_operands mine = {c, a, b};
    cuda_emulator::warp<cuda_emulator::mma_operands>(
        0xffffffffu, mine, cuda_emulator::mma_16816<cuda_emulator::bfloat_of>, at);
}

inline void cu_mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t *b,
                        cuda_emulator::place at = cuda_emulator::here())
{
    cuda_emulator::mma_operands mine = {c, a, b};
    cuda_emulator::warp<cuda_emulator::mma_operands>(0xffffffffu, mine,
                                                     cuda_emulator::mma_1688_tf32, at);
}

/* To the nearest of 11 bits, ties away from zero. */
inline uint32_t cu_to_tf32(uint32_t bits)
{
    return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & 0xffffe000u;
}

inline uint32_t cu_pack_f16(float first, float second)
{
    return __float2half_rn(first).bits | (uint32_t)__float2half_rn(second).bits << 16;
}

inline uint32_t cu_pack_bf16(float first, float second)
{
    return __float2bfloat16_rn(first).bits | (uint32_t)__float2bfloat16_rn(second).bits << 16;
}

inline void cu_load_matrices(uint32_t *to, const void *row,
                             cuda_emulator::place at = cuda_emulator::here())
{
    cuda_emulator::matrix_rows mine = {row, to};
    cuda_emulator::warp<cuda_emulator::matrix_rows>(0xffffffffu, mine,
                                                    cuda_emulator::load_matrices<false>, at);
}

inline void cu_load_matrices_transposed(uint32_t *to, const void *row,
                                        cuda_emulator::place at = cuda_emulator::here())
{
    cuda_emulator::matrix_rows mine = {row, to};
    cuda_emulator::warp<cuda_emulator::matrix_rows>(0xffffffffu, mine,
                                                    cuda_emulator::load_matrices<true>, at);
}

/* 16 bytes to shared memory, of which the first `bytes` are read and the rest is 0. */
inline void cu_copy_async(void *to, const void *from, int bytes)
{
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16)
        cuda_emulator::fault("an asynchronous copy that is not aligned to 16 bytes");
    cuda_emulator::begin_copy(to, from, (size_t)bytes, 16 - (size_t)bytes);
}
inline void cu_commit_copies()
{
    cuda_emulator::commit_copies();
}
template <int LEFT> inline void cu_wait_copies()
{
    cuda_emulator::wait_copies(LEFT);
}

#endif
