/* What kernels use of the device beyond plain C++: dynamic shared memory, exchange within a warp,
 * and narrow types as the bits that memory holds. Nothing else in the kernels depends on how the
 * device does these. */
#ifndef CUDA_DEVICE_CUH
#define CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda_kernels.h"

/* The block's dynamic shared memory as `type *name`. */
#ifndef CU_SHARED
#define CU_SHARED(type, name)                                                                      \
    extern __shared__ __align__(16) unsigned char cu_shared_bytes[];                               \
    type *name = reinterpret_cast<type *>(cu_shared_bytes)
#endif

static constexpr int CU_WARP = 32;

/* --- exchange within a warp; every lane takes part --- */

static __device__ __forceinline__ float cu_shuffle_xor(float x, int mask)
{
    return __shfl_xor_sync(0xffffffffu, x, mask);
}

/* The value of lane `lane`. */
static __device__ __forceinline__ float cu_shuffle(float x, int lane)
{
    return __shfl_sync(0xffffffffu, x, lane);
}

/* --- narrow types --- */

static __device__ __forceinline__ float cu_from_half(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}

static __device__ __forceinline__ uint16_t cu_to_half(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

static __device__ __forceinline__ float cu_from_bfloat(uint16_t bits)
{
    return __bfloat162float(__ushort_as_bfloat16(bits));
}

static __device__ __forceinline__ uint16_t cu_to_bfloat(float x)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/* Integers travel as the floats with their bits. */
static __device__ __forceinline__ float cu_load(const void *at, int64_t i, int type)
{
    switch (type) {
    case CU_F16:
        return cu_from_half(static_cast<const uint16_t *>(at)[i]);
    case CU_BF16:
        return cu_from_bfloat(static_cast<const uint16_t *>(at)[i]);
    default:
        return static_cast<const float *>(at)[i];
    }
}

static __device__ __forceinline__ void cu_store(void *at, int64_t i, int type, float x)
{
    switch (type) {
    case CU_F16:
        static_cast<uint16_t *>(at)[i] = cu_to_half(x);
        break;
    case CU_BF16:
        static_cast<uint16_t *>(at)[i] = cu_to_bfloat(x);
        break;
    default:
        static_cast<float *>(at)[i] = x;
    }
}

/* Four neighbours, aligned to four elements. */
static __device__ __forceinline__ void cu_load4(const void *at, int64_t i, int type, float x[4])
{
    if (type == CU_F16 || type == CU_BF16) {
        const uint2 bits = *reinterpret_cast<const uint2 *>(static_cast<const uint16_t *>(at) + i);
        const unsigned words[2] = {bits.x, bits.y};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint16_t half = static_cast<uint16_t>(words[k / 2] >> 16 * (k % 2));
            x[k] = type == CU_F16 ? cu_from_half(half) : cu_from_bfloat(half);
        }
    } else {
        const float4 v = *reinterpret_cast<const float4 *>(static_cast<const float *>(at) + i);
        x[0] = v.x;
        x[1] = v.y;
        x[2] = v.z;
        x[3] = v.w;
    }
}

static __device__ __forceinline__ void cu_store4(void *at, int64_t i, int type, const float x[4])
{
    if (type == CU_F16 || type == CU_BF16) {
        unsigned half[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            half[k] = type == CU_F16 ? cu_to_half(x[k]) : cu_to_bfloat(x[k]);
        *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(at) + i) =
            make_uint2(half[0] | half[1] << 16, half[2] | half[3] << 16);
    } else {
        *reinterpret_cast<float4 *>(static_cast<float *>(at) + i) =
            make_float4(x[0], x[1], x[2], x[3]);
    }
}

#endif
