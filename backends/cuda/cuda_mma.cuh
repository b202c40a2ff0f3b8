/* The few instructions of tensor cores, their types and asynchronous copies, each as one function,
 * and nothing else: the only PTX of this backend.
 *
 * Fragments, with group = lane / 4 and member = lane % 4 (PTX ISA, "Matrix fragments for mma"):
 *
 *     A, 16 x 16 of 16 bits: a[0], a[1]: rows group, group + 8, columns 2·member + {0, 1};
 *                            a[2], a[3]: the same rows, columns 8 + 2·member + {0, 1}
 *     B, 16 x 8:             b[0], b[1]: rows 2·member + {0, 1} and 8 more, column group
 *     C, 16 x 8 of 32 bits:  c[0], c[1]: row group, columns 2·member + {0, 1}; c[2], c[3]: row + 8
 *     tf32, A 16 x 8:        a[0], a[1]: rows group, group + 8, column member; a[2], a[3]: column +
 * 4 tf32, B 8 x 8:         b[0], b[1]: rows member, member + 4, column group
 */
#ifndef CUDA_MMA_CUH
#define CUDA_MMA_CUH

#include "cuda_device.cuh"

#ifdef CUDA_EMULATOR
#include <cuda_emulator_mma.h>
#else

/* Code for devices that lack an instruction is compiled, but never run: `fits` asks for them. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define CU_AMPERE 0
#else
#define CU_AMPERE 1
#endif

/* c += a·b, f16: 16 x 8 x 16 */
static __device__ __forceinline__ void cu_mma_f16(float (&c)[4], const uint32_t (&a)[4],
                                                  const uint32_t *b)
{
#if CU_AMPERE
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int i = 0; i < 2; i++) /* columns 0 to 7 of A, then 8 to 15 */
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#endif
}

/* c += a·b, bf16: 16 x 8 x 16; from sm_80 on */
static __device__ __forceinline__ void cu_mma_bf16(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t *b)
{
#if CU_AMPERE
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

/* c += a·b, tf32: 16 x 8 x 8; from sm_80 on. The lowest 13 bits of a and b take no part. */
static __device__ __forceinline__ void cu_mma_tf32(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t *b)
{
#if CU_AMPERE
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

/* The bits of a float rounded to tf32: to the nearest, ties away from zero. */
static __device__ __forceinline__ uint32_t cu_to_tf32(uint32_t bits)
{
#if CU_AMPERE
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
#else
    return bits;
#endif
}

/* Two numbers of 16 bits, the first one in the lower half. */
static __device__ __forceinline__ uint32_t cu_pack_f16(float first, float second)
{
#if CU_AMPERE
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return cu_to_half(first) | static_cast<uint32_t>(cu_to_half(second)) << 16;
#endif
}

static __device__ __forceinline__ uint32_t cu_pack_bf16(float first, float second)
{
#if CU_AMPERE
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return cu_to_bfloat(first) | static_cast<uint32_t>(cu_to_bfloat(second)) << 16;
#endif
}

/* Four matrices of 8 rows of 16 bytes in shared memory; lane 8·i + r names row r of matrix i. to[i]
 * gets 4 bytes of row lane / 4 from matrix i: its part lane % 4. */
static __device__ __forceinline__ void cu_load_matrices(uint32_t *to, const void *row)
{
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}

/* The same, transposed as matrices of 8 x 8 numbers of 16 bits. */
static __device__ __forceinline__ void cu_load_matrices_transposed(uint32_t *to, const void *row)
{
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes from global to shared memory, both aligned so, of which the first `bytes` (a multiple of
 * 2) are read and the rest becomes 0. There when the group that it belongs to has been waited for.
 */
static __device__ __forceinline__ void cu_copy_async(void *to, const void *from, int bytes)
{
#if CU_AMPERE
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
#else
    uint4 all = make_uint4(0, 0, 0, 0);
    if (bytes == 16) {
        all = __ldg(static_cast<const uint4 *>(from));
    } else {
        const uint16_t *half = static_cast<const uint16_t *>(from);
        uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (2 * i < bytes)
                words[i / 2] |= static_cast<uint32_t>(__ldg(half + i)) << 16 * (i % 2);
        all = make_uint4(words[0], words[1], words[2], words[3]);
    }
    *static_cast<uint4 *>(to) = all;
#endif
}

/* Ends a group of copies. */
static __device__ __forceinline__ void cu_commit_copies()
{
#if CU_AMPERE
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits for this thread's copies but for the last LEFT groups. */
template <int LEFT> static __device__ __forceinline__ void cu_wait_copies()
{
#if CU_AMPERE
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

#endif
#endif
