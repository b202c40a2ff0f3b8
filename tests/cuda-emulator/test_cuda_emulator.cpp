/* The emulated device itself: kernels of its own, so that a fault of the backend's is not taken for
 * one of the emulation's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

/* CMocka's header is C's alone. */
extern "C" {
#include "testing.h"
}

#include "cuda_emulator.h"
#include "cuda_emulator_mma.h"

#define OK(call) assert_int_equal(cudaSuccess, (call))

static int reset(void **state)
{
    (void)state;
    cuda_emulator_reset();
    return 0;
}

template <class... P, class... A>
static cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                          cudaStream_t stream, A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

/* What the kernel writes into n elements. */
template <class T, class... P, class... A>
static std::vector<T> run(size_t n, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                          A... args)
{
    std::vector<T> host(n);
    T *device;
    OK(cudaMalloc(&device, n * sizeof(T)));
    OK(launch(kernel, grid, block, shared, nullptr, device, args...));
    OK(cudaMemcpy(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost));
    OK(cudaFree(device));
    return host;
}

/* --- kernels --- */

static __global__ void places(unsigned *out)
{
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned all = blockDim.x * blockDim.y * blockDim.z;
    out[block * all + thread] = block * 1000 + thread;
}

/* Each element is the sum of the block's, by a tree in static shared memory. */
template <int N> static __global__ void tree(int *out)
{
    __shared__ int sum[N];
    const int i = static_cast<int>(threadIdx.x);
    sum[i] = i + static_cast<int>(blockIdx.x);
    __syncthreads();
    for (int step = N / 2; step > 0; step /= 2) {
        if (i < step)
            sum[i] += sum[i + step];
        __syncthreads();
    }
    out[blockIdx.x * N + threadIdx.x] = sum[0];
}

/* Reads a neighbour's number, with or without the barrier that this needs. */
static __global__ void turn(int *out, bool wait)
{
    CU_SHARED(int, shared);
    const int i = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
    shared[i] = i;
    if (wait)
        __syncthreads();
    out[i] = shared[(i + 1) % n];
}

static __global__ void fresh(float *out)
{
    __shared__ float fixed[32];
    CU_SHARED(float, dynamic);
    out[threadIdx.x] = fixed[threadIdx.x];
    out[32 + threadIdx.x] = dynamic[threadIdx.x];
}

static __global__ void exchange(int *out)
{
    const int lane = static_cast<int>(threadIdx.x);
    int *to = out + lane * 6;
    to[0] = __shfl_xor_sync(0xffffffffu, lane, 5);
    to[1] = __shfl_down_sync(0xffffffffu, lane, 3, 16);
    to[2] = __shfl_up_sync(0xffffffffu, lane, 2);
    to[3] = __shfl_sync(0xffffffffu, lane, 7, 8);
    /* two halves of a warp, each for itself */
    to[4] = lane < 16 ? static_cast<int>(__ballot_sync(0x0000ffffu, lane % 3 == 0))
                      : static_cast<int>(__ballot_sync(0xffff0000u, lane % 5 == 0));
    to[5] = 2 * __any_sync(0xffffffffu, lane == 9) + __all_sync(0xffffffffu, lane == 9);
}

static __global__ void count(int *out)
{
    atomicAdd(out, 1);
    const int odd = __syncthreads_count(threadIdx.x % 2);
    if (threadIdx.x == 0)
        atomicMax(out + 1, odd);
}

static __global__ void diverge(int *out)
{
    if (threadIdx.x == 3)
        return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

static __global__ void meet_elsewhere(int *out)
{
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

static __global__ void absent_lane(int *out)
{
    if (threadIdx.x < 31)
        out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}

static __global__ void write_at(char *out, int at)
{
    out[at] = 1;
}

static __global__ void add(float *x, const float *by)
{
    x[threadIdx.x] += *by;
}

/* --- kernels run as on a device --- */

static void test_threads_know_their_places(void **)
{
    const auto out = run<unsigned>(2 * 3 * 2 * 24, places, dim3(2, 3, 2), dim3(4, 3, 2), 0);
    for (unsigned i = 0; i < out.size(); i++)
        assert_int_equal(i / 24 * 1000 + i % 24, out[i]);
}

static void test_barriers_hold_in_every_order(void **)
{
    for (int64_t order = CUDA_EMULATOR_REVERSE; order < 4; order++) {
        cuda_emulator_set_order(order);
        const auto out = run<int>(3 * 256, tree<256>, dim3(3), dim3(256), 0);
        for (int i = 0; i < 3 * 256; i++)
            assert_int_equal(255 * 128 + 256 * (i / 256), out[(size_t)i]);
    }
}

[[maybe_unused]] static void test_a_missing_barrier_shows(void **) // under TSan it is an error
{
    for (int wait = 0; wait < 2; wait++) {
        bool right = true;
        for (int64_t order = CUDA_EMULATOR_REVERSE; order < 2; order++) {
            cuda_emulator_set_order(order);
            const auto out = run<int>(64, turn, dim3(1), dim3(64), 64 * sizeof(int), wait != 0);
            for (int i = 0; i < 64; i++)
                right = right && out[(size_t)i] == (i + 1) % 64;
        }
        assert_int_equal(wait, right);
    }
}

static void test_shared_memory_is_not_a_number_at_first(void **)
{
    for (int repeat = 0; repeat < 2; repeat++)
        for (float x : run<float>(64, fresh, dim3(2), dim3(32), 32 * sizeof(float)))
            assert_true(isnan(x));
}

static void test_lanes_exchange(void **)
{
    for (int64_t order = CUDA_EMULATOR_REVERSE; order < 2; order++) {
        cuda_emulator_set_order(order);
        const auto out = run<int>(32 * 6, exchange, dim3(1), dim3(32), 0);
        for (int i = 0; i < 32; i++) {
            const int *got = &out[(size_t)i * 6];
            assert_int_equal(i ^ 5, got[0]);
            assert_int_equal(i % 16 + 3 < 16 ? i + 3 : i, got[1]);
            assert_int_equal(i >= 2 ? i - 2 : i, got[2]);
            assert_int_equal(i / 8 * 8 + 7, got[3]);
            assert_int_equal(i < 16 ? 0x00009249 : 0x42100000, got[4]);
            assert_int_equal(2, got[5]);
        }
    }
}

static void test_atomics_and_counts(void **)
{
    int *device, host[2] = {};
    OK(cudaMalloc(&device, sizeof host));
    OK(cudaMemset(device, 0, sizeof host));
    OK(launch(count, dim3(5), dim3(33), 0, nullptr, device));
    OK(cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost));
    assert_int_equal(5 * 33, host[0]);
    assert_int_equal(16, host[1]);
    OK(cudaFree(device));
}

/* --- what a kernel may not do --- */

template <class... A>
static void check_fault(void (*kernel)(A...), cudaError_t error, const char *text, int at)
{
    char *device;
    OK(cudaMalloc(&device, 1000));
    if constexpr (sizeof...(A) == 2)
        OK(launch(kernel, dim3(1), dim3(1), 0, nullptr, device, at));
    else
        OK(launch(kernel, dim3(1), dim3(32), 0, nullptr, reinterpret_cast<int *>(device)));
    assert_int_equal(error, cudaDeviceSynchronize());
    assert_contains(cuda_emulator_fault(), text);
    /* the device stays lost */
    assert_int_equal(error, cudaMemset(device, 0, 4));
    assert_int_equal(error, cudaGetLastError());
    cuda_emulator_reset();
    OK(cudaFree(device));
    /* and is whole again afterwards */
    assert_int_equal(255 * 128, run<int>(256, tree<256>, dim3(1), dim3(256), 0)[0]);
}

static void test_threads_that_do_not_meet_are_told(void **)
{
    check_fault(diverge, cudaErrorLaunchFailure, "thread (3,0,0) has ended", 0);
    check_fault(meet_elsewhere, cudaErrorLaunchFailure, "where others wait at line", 0);
    check_fault(absent_lane, cudaErrorLaunchFailure, "thread (31,0,0) has ended", 0);
}

/* ASan ends the process where this finds it afterwards. */
#ifndef __SANITIZE_ADDRESS__
static void test_a_write_around_an_allocation_is_told(void **)
{
    check_fault(write_at, cudaErrorIllegalAddress, "an allocation of 1000 bytes", 1000);
    check_fault(write_at, cudaErrorIllegalAddress, "an allocation of 1000 bytes", -1);
}
#endif

static void test_launches_that_cannot_be_are_refused(void **)
{
    int *device;
    OK(cudaMalloc(&device, 64));
    assert_int_equal(cudaErrorInvalidConfiguration,
                     launch(count, dim3(1), dim3(1025), 0, nullptr, device));
    assert_int_equal(cudaErrorInvalidConfiguration,
                     launch(count, dim3(1, 65536), dim3(32), 0, nullptr, device));
    assert_int_equal(cudaErrorInvalidConfiguration,
                     launch(count, dim3(0), dim3(32), 0, nullptr, device));
    assert_int_equal(cudaErrorInvalidValue,
                     launch(count, dim3(1), dim3(32), 49153, nullptr, device));
    OK(cudaFuncSetAttribute(count, cudaFuncAttributeMaxDynamicSharedMemorySize, 49153));
    OK(launch(count, dim3(1), dim3(32), 49153, nullptr, device));
    OK(cudaFree(device));
}

/* --- memory, streams, events, graphs --- */

static void test_memory_ends(void **)
{
    size_t free_bytes, total;
    char *a, *b;
    const size_t used = cuda_emulator_used();
    cuda_emulator_set_memory(used + (1 << 20));
    OK(cudaMalloc(&a, 1000));
    OK(cudaMemGetInfo(&free_bytes, &total));
    assert_int_equal((1 << 20) - 1024, free_bytes);
    assert_int_equal(used + (1 << 20), total);
    assert_int_equal(cudaErrorMemoryAllocation, cudaMalloc(&b, 1 << 20));
    assert_int_equal(cudaErrorMemoryAllocation, cudaGetLastError());
    OK(cudaGetLastError());
    assert_int_equal(cudaErrorInvalidValue, cudaFree(a + 8));
    assert_int_equal(cudaErrorInvalidValue, cudaMemset(a, 0, 1001));
    OK(cudaFree(a));
}

static void test_failures_come_when_told(void **)
{
    char *a, *b;
    cuda_emulator_fail("cudaMalloc", 2, cudaErrorMemoryAllocation);
    OK(cudaMalloc(&a, 8));
    assert_int_equal(cudaErrorMemoryAllocation, cudaMalloc(&b, 8));
    OK(cudaMalloc(&b, 8));
    assert_int_equal(3, cuda_emulator_calls("cudaMalloc"));
    cuda_emulator_fail("launch", 1, cudaErrorLaunchTimeout);
    OK(launch(write_at, dim3(1), dim3(1), 0, nullptr, a, 0));
    assert_int_equal(cudaErrorLaunchTimeout, cudaFree(a));
    cuda_emulator_reset();
    OK(cudaFree(b));
}

static void test_without_a_driver_there_is_no_count(void **)
{
    int count = 77;
    cuda_emulator_set_devices(-1);
    assert_int_equal(cudaErrorInsufficientDriver, cudaGetDeviceCount(&count));
    assert_int_equal(77, count);
    assert_string_equal("cudaErrorInsufficientDriver", cudaGetErrorName(cudaGetLastError()));
    cuda_emulator_set_devices(0);
    assert_int_equal(cudaErrorNoDevice, cudaGetDeviceCount(&count));
}

/* Queued work reads pinned memory when it runs: what is changed too early arrives changed. */
static void test_streams_run_late(void **)
{
    cudaStream_t stream;
    float *device, *pinned, host = 1, back = 0;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaMalloc(&device, sizeof(float)));
    OK(cudaMallocHost(reinterpret_cast<void **>(&pinned), sizeof(float)));
    *pinned = 1;
    OK(cudaMemcpyAsync(device, pinned, sizeof(float), cudaMemcpyHostToDevice, stream));
    *pinned = 2;
    OK(cudaMemcpyAsync(&back, device, sizeof(float), cudaMemcpyDeviceToHost, stream));
    assert_true(back == 2);
    OK(cudaMemcpyAsync(device, &host, sizeof(float), cudaMemcpyHostToDevice, stream));
    host = 3;
    OK(cudaMemcpyAsync(pinned, device, sizeof(float), cudaMemcpyDeviceToHost, stream));
    assert_true(*pinned == 2);
    assert_int_equal(cudaErrorNotReady, cudaStreamQuery(stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaStreamQuery(stream));
    assert_true(*pinned == 1);
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
}

static void test_events_order_streams(void **)
{
    cudaStream_t first, second;
    cudaEvent_t event;
    float *device, *one, back = 0;
    OK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    OK(cudaMalloc(&device, sizeof(float)));
    OK(cudaMalloc(&one, sizeof(float)));
    const float value = 1;
    OK(cudaMemcpy(one, &value, sizeof value, cudaMemcpyHostToDevice));
    OK(cudaMemsetAsync(device, 0, sizeof(float), first));
    OK(launch(add, dim3(1), dim3(1), 0, first, device, static_cast<const float *>(one)));
    OK(cudaEventRecord(event, first));
    assert_int_equal(cudaErrorNotReady, cudaEventQuery(event));
    OK(cudaStreamWaitEvent(second, event));
    OK(cudaEventDestroy(event)); /* waits stay in force */
    OK(launch(add, dim3(1), dim3(1), 0, second, device, static_cast<const float *>(one)));
    OK(cudaMemcpyAsync(&back, device, sizeof back, cudaMemcpyDeviceToHost, second));
    assert_true(back == 2);
    OK(cudaFree(device));
    OK(cudaFree(one));
    OK(cudaStreamDestroy(first));
    OK(cudaStreamDestroy(second));
}

static void test_graphs_are_replayed(void **)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float *x, *by, back = 0;
    void *none;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaMalloc(&x, sizeof(float)));
    OK(cudaMalloc(&by, sizeof(float)));
    OK(cudaMemset(x, 0, sizeof(float)));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(launch(add, dim3(1), dim3(1), 0, stream, x, static_cast<const float *>(by)));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph));
    OK(cudaGraphDestroy(graph));
    assert_int_equal(0, cuda_emulator_calls("launch"));
    for (float value = 1; value <= 4; value *= 2) { /* what it reads may change between replays */
        OK(cudaMemcpy(by, &value, sizeof value, cudaMemcpyHostToDevice));
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaStreamSynchronize(stream));
    }
    OK(cudaMemcpy(&back, x, sizeof back, cudaMemcpyDeviceToHost));
    assert_true(back == 7);
    OK(cudaGraphExecDestroy(exec));
    /* nothing may be allocated in a capture */
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    assert_int_equal(cudaErrorStreamCaptureUnsupported, cudaMalloc(&none, 8));
    assert_int_equal(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
    OK(cudaFree(x));
    OK(cudaFree(by));
    OK(cudaStreamDestroy(stream));
}

/* --- narrow types and tensor cores --- */

static void test_halves_are_rounded_to_the_nearest(void **)
{
    for (unsigned i = 0; i < 0x7c00; i++) {
        const __half low = {static_cast<unsigned short>(i)};
        const __half high = {static_cast<unsigned short>(i + 1)};
        const float a = __half2float(low), b = i + 1 == 0x7c00 ? 65536.0f : __half2float(high);
        const float middle = (a + b) / 2;
        assert_int_equal(i, __float2half_rn(a).bits);
        assert_int_equal(i | 0x8000, __float2half_rn(-a).bits);
        assert_int_equal(i + i % 2, __float2half_rn(middle).bits);
        assert_int_equal(i, __float2half_rn(nextafterf(middle, 0)).bits);
        assert_int_equal(i + 1, __float2half_rn(nextafterf(middle, INFINITY)).bits);
    }
    assert_true(__half2float({0x3c01}) == 1 + 0x1p-10f && __half2float({1}) == 0x1p-24f);
    assert_true(isinf(__half2float({0x7c00})) && isnan(__half2float({0x7e00})));
    assert_true(isnan(__half2float(__float2half_rn(NAN))));
    assert_int_equal(0x3f80, __float2bfloat16_rn(1 + 0x1p-8f).bits);
    assert_int_equal(0x3f82, __float2bfloat16_rn(1 + 0x3p-8f).bits);
    assert_int_equal(0x7f80, __float2bfloat16_rn(3.4e38f).bits);
    assert_true(isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
}

/* out (16 x 8) = a (16 x 16) · b (16 x 8), each in rows, through shared memory. */
template <bool BRAIN>
static __global__ void multiply(float *out, const uint16_t *a, const uint16_t *b)
{
    CU_SHARED(uint16_t, tile); /* a, then b twice */
    const int lane = static_cast<int>(threadIdx.x), row = lane % 16;
    for (int i = 0; i < 2; i++)
        cu_copy_async(tile + (row * 2 + i) * 8, a + (row * 2 + i) * 8, 16);
    cu_commit_copies();
    cu_copy_async(tile + 256 + row * 8, b + row * 8, lane < 16 ? 16 : 0);
    cu_commit_copies();
    cu_wait_copies<0>();
    __syncwarp();
    cu_copy_async(tile + 256 + row * 8, b + row * 8, 16);
    cu_commit_copies();
    cu_wait_copies<0>();
    __syncthreads();
    uint32_t fa[4], fb[4];
    float c[4] = {1, 1, 1, 1};
    cu_load_matrices(fa, tile + row * 16 + lane / 16 * 8);
    cu_load_matrices_transposed(fb, tile + 256 + row * 8);
    if (BRAIN)
        cu_mma_bf16(c, fa, fb);
    else
        cu_mma_f16(c, fa, fb);
    for (int i = 0; i < 4; i++)
        out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
}

template <bool BRAIN> static void check_multiply()
{
    uint16_t a[256], b[128], *device_a, *device_b;
    for (int i = 0; i < 256; i++)
        a[i] = BRAIN ? __float2bfloat16_rn(static_cast<float>(i * 7 % 31 - 15)).bits
                     : __float2half_rn(static_cast<float>(i * 7 % 31 - 15)).bits;
    for (int i = 0; i < 128; i++)
        b[i] = BRAIN ? __float2bfloat16_rn(static_cast<float>(i * 5 % 23 - 11)).bits
                     : __float2half_rn(static_cast<float>(i * 5 % 23 - 11)).bits;
    OK(cudaMalloc(&device_a, sizeof a));
    OK(cudaMalloc(&device_b, sizeof b));
    OK(cudaMemcpy(device_a, a, sizeof a, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(device_b, b, sizeof b, cudaMemcpyHostToDevice));
    const auto out = run<float>(128, multiply<BRAIN>, dim3(1), dim3(32), 1024,
                                static_cast<const uint16_t *>(device_a),
                                static_cast<const uint16_t *>(device_b));
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            int sum = 1;
            for (int k = 0; k < 16; k++)
                sum += ((i * 16 + k) * 7 % 31 - 15) * ((k * 8 + j) * 5 % 23 - 11);
            assert_true(out[(size_t)(i * 8 + j)] == static_cast<float>(sum));
        }
    OK(cudaFree(device_a));
    OK(cudaFree(device_b));
}

static void test_matrices_are_multiplied(void **)
{
    check_multiply<false>();
    check_multiply<true>();
}

/* For TSan, which is to end this. */
static void run_a_race()
{
    run<int>(64, turn, dim3(1), dim3(64), 64 * sizeof(int), false);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "race") == 0) {
        run_a_race();
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_threads_know_their_places, reset),
        cmocka_unit_test_setup(test_barriers_hold_in_every_order, reset),
#ifndef __SANITIZE_THREAD__
        cmocka_unit_test_setup(test_a_missing_barrier_shows, reset),
#endif
        cmocka_unit_test_setup(test_shared_memory_is_not_a_number_at_first, reset),
        cmocka_unit_test_setup(test_lanes_exchange, reset),
        cmocka_unit_test_setup(test_atomics_and_counts, reset),
        cmocka_unit_test_setup(test_threads_that_do_not_meet_are_told, reset),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test_setup(test_a_write_around_an_allocation_is_told, reset),
#endif
        cmocka_unit_test_setup(test_launches_that_cannot_be_are_refused, reset),
        cmocka_unit_test_setup(test_memory_ends, reset),
        cmocka_unit_test_setup(test_failures_come_when_told, reset),
        cmocka_unit_test_setup(test_without_a_driver_there_is_no_count, reset),
        cmocka_unit_test_setup(test_streams_run_late, reset),
        cmocka_unit_test_setup(test_events_order_streams, reset),
        cmocka_unit_test_setup(test_graphs_are_replayed, reset),
        cmocka_unit_test_setup(test_halves_are_rounded_to_the_nearest, reset),
        cmocka_unit_test_setup(test_matrices_are_multiplied, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
