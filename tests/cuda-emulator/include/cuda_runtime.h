/* A stand-in for the header of CUDA's C++: the kernel language as far as backends/cuda uses it. The
 * sources are compiled by a C++ compiler as they are; kernels are launched by cudaLaunchKernel or
 * cudaLaunchKernelEx, and have internal linkage if they hold static shared memory. */
#ifndef CUDA_EMULATOR_RUNTIME_H
#define CUDA_EMULATOR_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus

#include <math.h>
#include <string.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_emulator_kernel.h"

/* --- qualifiers; the built-in variables are in cuda_emulator_kernel.h --- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
/* In a section of its own, which is filled with NaN before each block. */
#define __shared__ static __attribute__((used, section("cuda_shared")))
/* extern __shared__ type name[]; is written so, since `static` and `extern` do not go together. */
#define CU_SHARED(type, name)                                                                      \
    type *const name = reinterpret_cast<type *>(cuda_emulator::dynamic_shared)

constexpr int warpSize = 32;

/* --- launches --- */

namespace cuda_emulator
{

template <class... Parameters, size_t... I>
std::function<void()> bind_from_memory(void (*kernel)(Parameters...), void **arguments,
                                       std::index_sequence<I...>)
{
    std::tuple<std::decay_t<Parameters>...> values(
        *static_cast<std::decay_t<Parameters> *>(arguments[I])...);
    return [kernel, values] { std::apply(kernel, values); };
}

} // namespace cuda_emulator

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void **arguments,
                             size_t shared = 0, cudaStream_t stream = 0)
{
    return cuda_emulator::launch(
        reinterpret_cast<const void *>(kernel), grid, block, shared, stream,
        cuda_emulator::bind_from_memory(kernel, arguments,
                                        std::make_index_sequence<sizeof...(Parameters)>()));
}

struct cudaLaunchAttribute {
    int id;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments)
{
    std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
    return cuda_emulator::launch(reinterpret_cast<const void *>(kernel), config->gridDim,
                                 config->blockDim, config->dynamicSmemBytes, config->stream,
                                 [kernel, values] { std::apply(kernel, values); });
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), enum cudaFuncAttribute attribute,
                                 int value)
{
    return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize
               ? cuda_emulator::set_shared_limit(reinterpret_cast<const void *>(kernel), value)
               : cudaSuccess;
}

template <class T> cudaError_t cudaMalloc(T **memory, size_t bytes)
{
    return cudaMalloc(reinterpret_cast<void **>(memory), bytes);
}

/* --- what threads do together --- */

inline void __syncthreads(cuda_emulator::place at = cuda_emulator::here())
{
    cuda_emulator::barrier(false, at);
}
inline int __syncthreads_count(int yes, cuda_emulator::place at = cuda_emulator::here())
{
    return cuda_emulator::barrier(yes != 0, at);
}
inline int __syncthreads_or(int yes, cuda_emulator::place at = cuda_emulator::here())
{
    return cuda_emulator::barrier(yes != 0, at) != 0;
}
inline int __syncthreads_and(int yes, cuda_emulator::place at = cuda_emulator::here())
{
    return cuda_emulator::barrier(yes == 0, at) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, cuda_emulator::place at = cuda_emulator::here())
{
    int nothing = 0;
    cuda_emulator::warp<int>(
        mask, nothing, [](int *const *) {}, at);
}

namespace cuda_emulator
{

template <class T> struct shuffled {
    T value, result;
    unsigned source;
};

/* The value of lane `source`; of lanes that take no part there is none. */
template <class T> T shuffle(unsigned mask, T value, unsigned source, place at)
{
    shuffled<T> mine = {value, value, source};
    warp<shuffled<T>>(
        mask, mine,
        [](shuffled<T> *const *lanes) {
            for (int i = 0; i < 32; i++)
                if (lanes[i] && !lanes[lanes[i]->source])
                    fault("a lane reads from lane %u, which is not in the mask", lanes[i]->source);
            for (int i = 0; i < 32; i++)
                if (lanes[i])
                    lanes[i]->result = lanes[lanes[i]->source]->value;
        },
        at);
    return mine.result;
}

struct vote {
    unsigned yes, result;
};

inline unsigned ballot(unsigned mask, bool yes, place at)
{
    vote mine = {yes, 0};
    warp<vote>(
        mask, mine,
        [](vote *const *lanes) {
            unsigned bits = 0;
            for (int i = 0; i < 32; i++)
                bits |= lanes[i] && lanes[i]->yes ? 1u << i : 0;
            for (int i = 0; i < 32; i++)
                if (lanes[i])
                    lanes[i]->result = bits;
        },
        at);
    return mine.result;
}

} // namespace cuda_emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              cuda_emulator::place at = cuda_emulator::here())
{
    const unsigned lane = cuda_emulator::lane(), first = lane & ~(unsigned)(width - 1);
    return cuda_emulator::shuffle(mask, value, first + ((unsigned)source & (unsigned)(width - 1)),
                                  at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  cuda_emulator::place at = cuda_emulator::here())
{
    const unsigned lane = cuda_emulator::lane(), source = lane ^ (unsigned)bits;
    const bool inside = source < (lane & ~(unsigned)(width - 1)) + (unsigned)width;
    return cuda_emulator::shuffle(mask, value, inside ? source : lane, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   cuda_emulator::place at = cuda_emulator::here())
{
    const unsigned lane = cuda_emulator::lane();
    const bool inside = (lane & (unsigned)(width - 1)) + by < (unsigned)width;
    return cuda_emulator::shuffle(mask, value, inside ? lane + by : lane, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 cuda_emulator::place at = cuda_emulator::here())
{
    const unsigned lane = cuda_emulator::lane();
    const bool inside = (lane & (unsigned)(width - 1)) >= by;
    return cuda_emulator::shuffle(mask, value, inside ? lane - by : lane, at);
}

inline unsigned __ballot_sync(unsigned mask, int yes,
                              cuda_emulator::place at = cuda_emulator::here())
{
    return cuda_emulator::ballot(mask, yes != 0, at);
}
inline int __any_sync(unsigned mask, int yes, cuda_emulator::place at = cuda_emulator::here())
{
    return cuda_emulator::ballot(mask, yes != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int yes, cuda_emulator::place at = cuda_emulator::here())
{
    return cuda_emulator::ballot(mask, yes == 0, at) == 0;
}

inline void __threadfence()
{
}
inline void __threadfence_block()
{
}

/* --- atomics: threads run one after another; TSan is told that they may meet here --- */

template <class T, class F> T cuda_emulator_atomic(T *at, F change)
{
    T old, changed;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do
        changed = change(old);
    while (
        !__atomic_compare_exchange(at, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T> T atomicAdd(T *at, std::common_type_t<T> value)
{
    return cuda_emulator_atomic(at, [=](T old) { return (T)(old + value); });
}
template <class T> T atomicExch(T *at, std::common_type_t<T> value)
{
    return cuda_emulator_atomic(at, [=](T) { return value; });
}
template <class T> T atomicCAS(T *at, std::common_type_t<T> compare, std::common_type_t<T> value)
{
    return cuda_emulator_atomic(at, [=](T old) { return old == compare ? value : old; });
}
template <class T> T atomicMax(T *at, std::common_type_t<T> value)
{
    return cuda_emulator_atomic(at, [=](T old) { return old < value ? value : old; });
}
template <class T> T atomicMin(T *at, std::common_type_t<T> value)
{
    return cuda_emulator_atomic(at, [=](T old) { return value < old ? value : old; });
}
template <class T> T atomicOr(T *at, std::common_type_t<T> value)
{
    return cuda_emulator_atomic(at, [=](T old) { return (T)(old | value); });
}
inline unsigned atomicInc(unsigned *at, unsigned last)
{
    return cuda_emulator_atomic(at, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}

/* --- arithmetic --- */

template <class T> T cuda_emulator_bits(T to, const void *from)
{
    memcpy(&to, from, sizeof to);
    return to;
}
inline int __float_as_int(float x)
{
    return cuda_emulator_bits(0, &x);
}
inline unsigned __float_as_uint(float x)
{
    return cuda_emulator_bits(0u, &x);
}
inline float __int_as_float(int x)
{
    return cuda_emulator_bits(0.0f, &x);
}
inline float __uint_as_float(unsigned x)
{
    return cuda_emulator_bits(0.0f, &x);
}
inline long long __double_as_longlong(double x)
{
    return cuda_emulator_bits(0LL, &x);
}
inline double __longlong_as_double(long long x)
{
    return cuda_emulator_bits(0.0, &x);
}
inline int __double2hiint(double x)
{
    return (int)(__double_as_longlong(x) >> 32);
}
inline int __double2loint(double x)
{
    return (int)(unsigned)(unsigned long long)__double_as_longlong(x);
}
inline double __hiloint2double(int high, int low)
{
    return __longlong_as_double(
        (long long)((unsigned long long)(unsigned)high << 32 | (unsigned)low));
}

/* Each rounded once, never contracted. */
inline float __fadd_rn(float a, float b)
{
    return a + b;
}
inline float __fsub_rn(float a, float b)
{
    return a - b;
}
inline float __fmul_rn(float a, float b)
{
    return a * b;
}
inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
inline float __frcp_rn(float a)
{
    return 1 / a;
}
inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
inline double __dadd_rn(double a, double b)
{
    return a + b;
}
inline double __dsub_rn(double a, double b)
{
    return a - b;
}
inline double __dmul_rn(double a, double b)
{
    return a * b;
}
inline double __ddiv_rn(double a, double b)
{
    return a / b;
}
inline double __dsqrt_rn(double a)
{
    return sqrt(a);
}
inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
inline float rsqrtf(float a)
{
    return (float)(1 / sqrt((double)a));
}
inline double rsqrt(double a)
{
    return 1 / sqrt(a);
}
/* The fast functions are as exact here as may be: their faults are the hardware's. */
inline float __expf(float a)
{
    return expf(a);
}
inline float __logf(float a)
{
    return logf(a);
}
inline float __fdividef(float a, float b)
{
    return a / b;
}
inline float __saturatef(float a)
{
    return a > 0 ? a < 1 ? a : 1 : 0;
}

/* To the nearest, ties to even, saturating; NaN gives 0. */
inline int __float2int_rn(float x)
{
    return x != x ? 0 : x >= 0x1p31f ? 2147483647 : x <= -0x1p31f ? -2147483647 - 1 : (int)rintf(x);
}
inline int __float2int_rz(float x)
{
    return x != x ? 0 : x >= 0x1p31f ? 2147483647 : x <= -0x1p31f ? -2147483647 - 1 : (int)x;
}
inline float __int2float_rn(int x)
{
    return (float)x;
}
inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}
inline double __uint2double_rn(unsigned x)
{
    return (double)x;
}
inline float __double2float_rn(double x)
{
    return (float)x;
}
inline double __int2double_rn(int x)
{
    return (double)x;
}
inline double __ull2double_rn(unsigned long long x)
{
    return (double)x;
}
inline float __ull2float_rn(unsigned long long x)
{
    return (float)x;
}

inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((unsigned long long)a * b >> 32);
}
__extension__ typedef unsigned __int128 cuda_emulator_u128;
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((cuda_emulator_u128)a * b >> 64);
}
inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1) << (31 - i);
    return y;
}

template <class T> T __ldg(const T *at)
{
    return *at;
}
template <class T> T __ldcg(const T *at)
{
    return *at;
}
template <class T> void __stcg(T *at, T value)
{
    *at = value;
}

template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b)
{
    using T = std::common_type_t<A, B>;
    return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b)
{
    using T = std::common_type_t<A, B>;
    return (T)a < (T)b ? (T)b : (T)a;
}

#define CUDA_EMULATOR_MAKE(name, type)                                                             \
    inline name##1 make_##name##1(type x)                                                          \
    {                                                                                              \
        return {x};                                                                                \
    }                                                                                              \
    inline name##2 make_##name##2(type x, type y)                                                  \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    inline name##3 make_##name##3(type x, type y, type z)                                          \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    inline name##4 make_##name##4(type x, type y, type z, type w)                                  \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
CUDA_EMULATOR_MAKE(char, signed char)
CUDA_EMULATOR_MAKE(uchar, unsigned char)
CUDA_EMULATOR_MAKE(short, short)
CUDA_EMULATOR_MAKE(ushort, unsigned short)
CUDA_EMULATOR_MAKE(int, int)
CUDA_EMULATOR_MAKE(uint, unsigned)
CUDA_EMULATOR_MAKE(longlong, long long)
CUDA_EMULATOR_MAKE(ulonglong, unsigned long long)
CUDA_EMULATOR_MAKE(float, float)
CUDA_EMULATOR_MAKE(double, double)

#endif
#endif
