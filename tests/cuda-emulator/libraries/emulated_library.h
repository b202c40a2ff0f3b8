/* What tests may ask of an emulated library and do to it, through dlsym, as the backend opens it
 * privately. Included once in each. */
#ifndef EMULATED_LIBRARY_H
#define EMULATED_LIBRARY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <functional>
#include <map>
#include <string>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime_api.h"

namespace emulated
{

struct failure {
    int64_t nth;
    int status;
};
static std::map<std::string, int64_t> calls;
static std::map<std::string, failure> failures;
static size_t version;
static const char *complaint = ""; /* the first thing that a caller did wrong */

/* At the head of every call: the status that is due, or 0. */
static int enter(const char *function)
{
    calls[function]++;
    auto f = failures.find(function);
    if (f == failures.end() || --f->second.nth > 0)
        return 0;
    const int status = f->second.status;
    failures.erase(f);
    return status;
}

static void complain(const char *what)
{
    if (!complaint[0])
        complaint = what;
}

/* Queues work that a captured graph may repeat, so that it is never forgotten. */
static cudaError_t queue(cudaStream_t stream, std::function<void()> work)
{
    static std::deque<std::function<void()>> all;
    all.push_back(std::move(work));
    return cudaLaunchHostFunc(
        stream, [](void *user) { (*static_cast<std::function<void()> *>(user))(); }, &all.back());
}

enum number { F32, F16, BF16 };

static float load(const void *at, int64_t i, number type)
{
    const auto *narrow = static_cast<const unsigned short *>(at);
    return type == F32   ? static_cast<const float *>(at)[i]
           : type == F16 ? __half2float({narrow[i]})
                         : __bfloat162float({narrow[i]});
}

static void store(void *at, int64_t i, number type, float x)
{
    auto *narrow = static_cast<unsigned short *>(at);
    if (type == F32)
        static_cast<float *>(at)[i] = x;
    else
        narrow[i] = type == F16 ? __float2half_rn(x).bits : __float2bfloat16_rn(x).bits;
}

/* 11 bits, ties away from zero, as tensor cores' instructions round. */
static float to_tf32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + 0x1000) & 0xffffe000;
    memcpy(&x, &bits, 4);
    return x;
}

} // namespace emulated

extern "C" {
__attribute__((visibility("default"))) int64_t emulated_calls(const char *function)
{
    return emulated::calls[function];
}
__attribute__((visibility("default"))) void emulated_fail(const char *function, int64_t nth,
                                                          int status)
{
    emulated::failures[function] = {nth, status};
}
/* Whether the failure was not due yet; it is not any more. */
__attribute__((visibility("default"))) int emulated_pending(const char *function)
{
    return emulated::failures.erase(function) > 0;
}
__attribute__((visibility("default"))) void emulated_set_version(size_t version)
{
    emulated::version = version;
}
__attribute__((visibility("default"))) const char *emulated_complaint(void)
{
    return emulated::complaint;
}
}

#endif
