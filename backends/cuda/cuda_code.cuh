/* The interpreter of fused chains: cuda_kernels.h says what each instruction does. The elementwise
 * functions keep the tolerances of docs/ops.md; NaN stays NaN, as comparisons with it are false. */
#ifndef CUDA_CODE_CUH
#define CUDA_CODE_CUH

#include "cuda_device.cuh"

static __device__ __forceinline__ float cu_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* x·Φ(x), without cancellation for x < 0 */
static __device__ __forceinline__ float cu_gelu(float x)
{
    return 0.5f * x * erfcf(-x * 0.70710678118654752f);
}

/* Half to even; what is beyond the type becomes its nearest end, NaN becomes 0. */
static __device__ __forceinline__ float cu_to_int(float x)
{
    const int i = x != x                ? 0
                  : x >= 2147483648.0f  ? INT32_MAX
                  : x <= -2147483648.0f ? INT32_MIN
                                        : __float2int_rn(x);
    return __int_as_float(i);
}

static __device__ __forceinline__ float cu_min(float a, float b)
{
    return a < b || a != a ? a : b;
}

static __device__ __forceinline__ float cu_max(float a, float b)
{
    return a > b || a != a ? a : b;
}

static __device__ __forceinline__ float cu_unary(int op, float a)
{
    switch (op) {
    case CU_NEG:
        return -a;
    case CU_ABS:
        return fabsf(a);
    case CU_EXP:
        return expf(a);
    case CU_LOG:
        return logf(a);
    case CU_SQRT:
        return sqrtf(a);
    case CU_SIN:
        return sinf(a);
    case CU_COS:
        return cosf(a);
    case CU_TANH:
        return tanhf(a);
    case CU_ERF:
        return erff(a);
    case CU_SIGMOID:
        return cu_sigmoid(a);
    case CU_RELU:
        return a < 0.0f ? 0.0f : a;
    case CU_SILU:
        return a / (1.0f + expf(-a));
    case CU_GELU:
        return cu_gelu(a);
    case CU_TO_INT:
        return cu_to_int(a);
    default: /* CU_FROM_INT */
        return static_cast<float>(__float_as_int(a));
    }
}

static __device__ __forceinline__ float cu_binary(int op, float a, float x)
{
    switch (op) {
    case CU_ADD:
        return a + x;
    case CU_SUB:
        return a - x;
    case CU_SUB_FROM:
        return x - a;
    case CU_MUL:
        return a * x;
    case CU_DIV:
        return a / x;
    case CU_DIV_INTO:
        return x / a;
    case CU_MIN:
        return cu_min(a, x);
    case CU_MAX:
        return cu_max(a, x);
    case CU_LESS:
        return a < x ? 1.0f : 0.0f;
    case CU_GREATER:
        return a > x ? 1.0f : 0.0f;
    default: /* CU_RSQRT */
        return 1.0f / sqrtf(a + x);
    }
}

static __device__ __forceinline__ float cu_ternary(int op, float a, float x, float y)
{
    switch (op) {
    case CU_FMA:
        return fmaf(a, x, y);
    case CU_ADD_FMA:
        return fmaf(x, y, a);
    case CU_CLAMP:
        return a < x ? x : a > y ? y : a;
    default: /* CU_SELECT */
        return a != 0.0f ? x : y;
    }
}

/* Applies the code to LANES accumulators; load(operand, float[LANES]) reads an operand for them. */
template <int LANES, class Load>
static __device__ __forceinline__ void cu_run_code(const cu_code &c, float (&a)[LANES],
                                                   const Load &load)
{
    float kept[CU_MAX_CHAIN][LANES];
    const auto fetch = [&](int from, int index, float(&x)[LANES]) {
        if (from == CU_OPERAND) {
            load(index, x);
            return;
        }
        const float same = from == CU_NUMBER ? c.number[index]
                           : from == CU_SLOT ? static_cast<float>(c.slots[index].f)
                                             : 0.0f;
#pragma unroll
        for (int i = 0; i < LANES; i++)
            x[i] = from == CU_KEPT ? kept[index][i] : same;
    };
#pragma unroll 1
    for (int k = 0; k < c.n_code; k++) {
        const cu_instruction in = c.code[k];
        float x[LANES], y[LANES];
        if (in.op >= CU_NEG && in.op <= CU_FROM_INT) {
#pragma unroll
            for (int i = 0; i < LANES; i++)
                a[i] = cu_unary(in.op, a[i]);
            continue;
        }
        if (in.op == CU_KEEP) {
#pragma unroll
            for (int i = 0; i < LANES; i++)
                kept[in.index][i] = a[i];
            continue;
        }
        fetch(in.from, in.index, x);
        if (in.op >= CU_FMA)
            fetch(in.from2, in.index2, y);
#pragma unroll
        for (int i = 0; i < LANES; i++)
            a[i] = in.op == CU_SET   ? x[i]
                   : in.op >= CU_FMA ? cu_ternary(in.op, a[i], x[i], y[i])
                                     : cu_binary(in.op, a[i], x[i]);
    }
}

#endif
