/* The runtime API of the emulated device. What a stream gets is queued and runs when somebody waits
 * for it, as late as CUDA allows, so that host memory that is changed or freed too early shows.
 * Device memory can be touched only while queued work runs: the host that follows a device's
 * pointer faults, as it would. Memory is filled with NaN when it is allocated, and lies between
 * pages that nobody may touch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "include/cuda_emulator.h"
#include "include/cuda_emulator_kernel.h"

#if defined(__SANITIZE_ADDRESS__) && !defined(CUDA_EMULATOR_ASAN)
#define CUDA_EMULATOR_ASAN 1
#endif
#ifdef CUDA_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace
{

using work = std::function<void()>;

enum : size_t { PAGE = 4096, ALIGNMENT = 256, DEFAULT_MEMORY = size_t(1) << 30 };
enum : unsigned char { AROUND = 0xa5, FRESH = 0xff };

struct allocation {
    unsigned char *map;
    size_t map_bytes; /* with a page at both ends that stays closed */
    size_t bytes;     /* asked for */
    size_t taken;     /* of the device */
};

struct graph {
    std::vector<work> nodes;
    bool broken = false;
};

struct stream {
    std::deque<work> queue;
    uint64_t queued = 0, done = 0;
    bool blocking = true; /* waits for the default stream, and it for this one */
    std::shared_ptr<graph> capture;
    bool origin = false;   /* of the capture */
    bool unjoined = false; /* in a capture that began on another one, not waited for since */
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
};

double now()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

} // namespace

struct CUstream_st {
    std::shared_ptr<stream> s;
};
struct CUevent_st {
    std::shared_ptr<stream> on;     /* NULL: not recorded */
    uint64_t ticket = 0;            /* done when on->done has come so far */
    std::shared_ptr<graph> capture; /* recorded in a capture */
    std::shared_ptr<double> time = std::make_shared<double>(0);
    bool timing = true;
};
struct CUgraph_st {
    std::shared_ptr<graph> g;
};
struct CUgraphExec_st {
    std::shared_ptr<graph> g;
};

namespace
{

struct failure {
    int64_t nth;
    cudaError_t error;
};

struct device {
    std::recursive_mutex lock;
    int count = 1;
    int major = 8, minor = 0;
    size_t memory = DEFAULT_MEMORY, used = 0;
    int64_t order = CUDA_EMULATOR_FORWARD;
    cudaError_t last = cudaSuccess, lost = cudaSuccess;
    std::map<std::string, int64_t> calls;
    std::map<std::string, failure> failures;
    int64_t n_calls = 0;
    std::map<uintptr_t, allocation> memories, pinned; /* by address */
    std::map<const void *, size_t> shared_limits;
    std::vector<std::weak_ptr<stream>> streams;
    std::shared_ptr<stream> default_stream = std::make_shared<stream>();
    int running = 0; /* depth of queued work that runs */
    char fault[512] = "";
    bool configured = false;
};
device d;

void set_order(const char *text)
{
    d.order = strcmp(text, "forward") == 0   ? (int64_t)CUDA_EMULATOR_FORWARD
              : strcmp(text, "reverse") == 0 ? (int64_t)CUDA_EMULATOR_REVERSE
                                             : strtoll(text, nullptr, 10);
}

void set_one(const std::string &name, const char *value)
{
    char call[64] = "";
    long long nth = 0;
    int error = 0;
    if (name == "devices")
        d.count = strcmp(value, "none") == 0 ? -1 : (int)strtol(value, nullptr, 10);
    else if (name == "capability" && sscanf(value, "%d.%d", &d.major, &d.minor) == 2)
        ;
    else if (name == "memory")
        d.memory = strtoull(value, nullptr, 10);
    else if (name == "order")
        set_order(value);
    else if (name == "fail" && sscanf(value, "%63[^:]:%lld:%d", call, &nth, &error) == 3)
        d.failures[call] = {nth, (cudaError_t)error};
    else
        fprintf(stderr, "CUDA_EMULATOR: what is %s=%s?\n", name.c_str(), value);
}

void configure()
{
    const char *text = getenv("CUDA_EMULATOR");
    d.configured = true;
    for (std::string rest = text ? text : ""; !rest.empty();) {
        const size_t comma = rest.find(','), equals = rest.find('=');
        const std::string item = rest.substr(0, comma);
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        if (equals < item.size())
            set_one(item.substr(0, equals), item.c_str() + equals + 1);
    }
}

/* Whether an injected failure is due. */
cudaError_t injected(const char *function)
{
    d.calls[function]++;
    auto f = d.failures.find(function);
    if (f == d.failures.end() || --f->second.nth > 0)
        return cudaSuccess;
    const cudaError_t error = f->second.error;
    d.failures.erase(f);
    return error;
}

cudaError_t result(cudaError_t error)
{
    if (error != cudaSuccess && error != cudaErrorNotReady)
        d.last = error;
    return error;
}

/* At the head of every call. */
cudaError_t enter(const char *function)
{
    if (!d.configured)
        configure();
    d.n_calls++;
    const cudaError_t error = injected(function);
    if (error != cudaSuccess)
        return error;
    if (d.count < 0)
        return cudaErrorInsufficientDriver;
    if (d.count == 0)
        return cudaErrorNoDevice;
    return d.lost;
}

#define ENTER()                                                                                    \
    std::lock_guard<std::recursive_mutex> guard(d.lock);                                           \
    do {                                                                                           \
        const cudaError_t entered = enter(__func__);                                               \
        if (entered != cudaSuccess)                                                                \
            return result(entered);                                                                \
    } while (0)
#define TRY(call)                                                                                  \
    do {                                                                                           \
        const cudaError_t tried = (call);                                                          \
        if (tried != cudaSuccess)                                                                  \
            return result(tried);                                                                  \
    } while (0)

void report(const char *text)
{
    fprintf(stderr, "cuda emulator: %s\n", text);
    if (!d.fault[0])
        snprintf(d.fault, sizeof d.fault, "%s", text);
}

/* --- device memory --- */

void protect(const allocation &a, int how)
{
    mprotect(a.map + PAGE, a.map_bytes - 2 * PAGE, how);
}

/* Opens the device's memory while queued work runs. */
struct opened {
    opened()
    {
        if (d.running++ == 0)
            for (auto &entry : d.memories)
                protect(entry.second, PROT_READ | PROT_WRITE);
    }
    ~opened()
    {
        if (--d.running == 0)
            for (auto &entry : d.memories)
                protect(entry.second, PROT_NONE);
    }
    opened(const opened &) = delete;
};

void poison(const unsigned char *from, const unsigned char *to, bool on)
{
#ifdef CUDA_EMULATOR_ASAN
    if (on)
        __asan_poison_memory_region(from, (size_t)(to - from));
    else
        __asan_unpoison_memory_region(from, (size_t)(to - from));
#else
    (void)from, (void)to, (void)on;
#endif
}

/* Ends as close to the page behind it as its alignment lets it. */
bool map_memory(std::map<uintptr_t, allocation> &list, size_t bytes, void **memory)
{
    const size_t taken = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t pages = (taken + PAGE - 1) / PAGE * PAGE;
    void *map = mmap(nullptr, pages + 2 * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return false;
    allocation a = {static_cast<unsigned char *>(map), pages + 2 * PAGE, bytes, taken};
    unsigned char *first = a.map + PAGE, *end = first + pages, *at = end - taken;
    memset(first, AROUND, (size_t)(at - first));
    memset(at, FRESH, bytes);
    memset(at + bytes, AROUND, taken - bytes);
    mprotect(a.map, PAGE, PROT_NONE);
    mprotect(end, PAGE, PROT_NONE);
    poison(first, at, true);
    poison(at + bytes, end, true);
    list[(uintptr_t)at] = a;
    *memory = at;
    return true;
}

/* Whether what lies around is as it was. */
bool intact(uintptr_t at, const allocation &a)
{
    const unsigned char *p = (const unsigned char *)at, *end = p + a.taken;
    bool ok = true;
    poison(a.map + PAGE, end, false);
    for (const unsigned char *q = a.map + PAGE; q < p; q++)
        ok = ok && *q == AROUND;
    for (const unsigned char *q = p + a.bytes; q < end; q++)
        ok = ok && *q == AROUND;
    poison(a.map + PAGE, p, true);
    poison(p + a.bytes, end, true);
    return ok;
}

void unmap_memory(std::map<uintptr_t, allocation> &list,
                  std::map<uintptr_t, allocation>::iterator i)
{
    poison(i->second.map, i->second.map + i->second.map_bytes, false);
    munmap(i->second.map, i->second.map_bytes);
    list.erase(i);
}

/* The allocation that holds the address; NULL: none. */
const allocation *find(const std::map<uintptr_t, allocation> &list, const void *p, uintptr_t *start)
{
    auto i = list.upper_bound((uintptr_t)p);
    if (i == list.begin())
        return nullptr;
    --i;
    *start = i->first;
    return (uintptr_t)p < i->first + i->second.taken ? &i->second : nullptr;
}

bool on_device(const void *p)
{
    uintptr_t start;
    return find(d.memories, p, &start) != nullptr;
}

bool is_pinned(const void *p)
{
    uintptr_t start;
    return find(d.pinned, p, &start) != nullptr;
}

/* All of it, in one allocation. */
bool inside(const void *p, size_t bytes)
{
    uintptr_t start;
    const allocation *a = find(d.memories, p, &start);
    return a && (uintptr_t)p - start + bytes <= a->bytes;
}

/* --- streams --- */

stream *of(cudaStream_t s)
{
    return s ? s->s.get() : d.default_stream.get();
}

std::shared_ptr<stream> shared_of(cudaStream_t s)
{
    return s ? s->s : d.default_stream;
}

/* Runs what the stream got up to a ticket. After a kernel's fault nothing runs any more. */
void advance(stream *s, uint64_t ticket)
{
    const opened open;
    while (s->done < ticket && !s->queue.empty()) {
        const work w = std::move(s->queue.front());
        s->queue.pop_front();
        if (d.lost == cudaSuccess)
            w();
        s->done++;
    }
}

void drain(stream *s)
{
    advance(s, s->queued);
}

void drain_all(bool blocking_only)
{
    for (auto &weak : d.streams)
        if (auto s = weak.lock())
            if (!blocking_only || s->blocking)
                drain(s.get());
}

/* The default stream runs at once, behind all that blocking streams have. What fails as it runs
 * shows at the next call. */
cudaError_t enqueue(cudaStream_t handle, work w)
{
    stream *s = of(handle);
    if (s->capture) {
        if (s->capture->broken)
            return cudaErrorStreamCaptureInvalidated;
        s->capture->nodes.push_back(std::move(w));
        s->unjoined = !s->origin;
        return cudaSuccess;
    }
    s->queue.push_back(std::move(w));
    s->queued++;
    if (!handle) {
        drain_all(true);
        drain(s);
    }
    return cudaSuccess;
}

/* Calls that wait, or allocate, cannot be while a capture is on: they break it. */
cudaError_t not_while_capturing()
{
    for (auto &weak : d.streams)
        if (auto s = weak.lock())
            if (s->capture && s->mode != cudaStreamCaptureModeRelaxed) {
                s->capture->broken = true;
                return cudaErrorStreamCaptureUnsupported;
            }
    return cudaSuccess;
}

/* --- kernels --- */

size_t most_shared()
{
    const int c = d.major * 10 + d.minor;
    return (size_t)(c >= 90 ? 227 : c == 80 || c == 87 ? 163 : c >= 80 ? 99 : 64) * 1024;
}

bool fits_grid(dim3 grid, dim3 block)
{
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    return grid.x && grid.y && grid.z && threads && threads <= 1024 && block.z <= 64 &&
           grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535;
}

void check_surroundings()
{
    char text[256];
    for (auto &entry : d.memories)
        if (!intact(entry.first, entry.second)) {
            snprintf(text, sizeof text, "a kernel wrote around an allocation of %zu bytes",
                     entry.second.bytes);
            report(text);
            d.lost = cudaErrorIllegalAddress;
            return;
        }
}

void run_kernel(dim3 grid, dim3 block, size_t shared, const work &body)
{
    char message[400] = "";
    const cudaError_t error = injected("launch");
    if (error != cudaSuccess) {
        d.lost = error;
        return;
    }
    if (!cuda_emulator::run_grid(grid, block, shared, body, d.order, message, sizeof message)) {
        report(message);
        d.lost = cudaErrorLaunchFailure;
        return;
    }
    check_surroundings();
}

} // namespace

namespace cuda_emulator
{

cudaError_t launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   std::function<void()> body)
{
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    TRY(enter("cudaLaunchKernel"));
    auto limit = d.shared_limits.find(kernel);
    if (!fits_grid(grid, block))
        return result(cudaErrorInvalidConfiguration);
    if (shared > (limit == d.shared_limits.end() ? 48 * 1024 : limit->second))
        return result(cudaErrorInvalidValue);
    return result(enqueue(stream, [=] { run_kernel(grid, block, shared, body); }));
}

cudaError_t set_shared_limit(const void *kernel, int bytes)
{
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    TRY(enter("cudaFuncSetAttribute"));
    if (bytes < 0 || (size_t)bytes > most_shared())
        return result(cudaErrorInvalidValue);
    d.shared_limits[kernel] = (size_t)bytes;
    return cudaSuccess;
}

} // namespace cuda_emulator

extern "C" {

/* --- errors --- */

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define NAME(name, number, text)                                                                   \
    case name:                                                                                     \
        return #name;
        CUDA_EMULATOR_ERRORS(NAME)
#undef NAME
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define TEXT(name, number, text)                                                                   \
    case name:                                                                                     \
        return text;
        CUDA_EMULATOR_ERRORS(TEXT)
#undef TEXT
    }
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError(void)
{
    return d.lost != cudaSuccess ? d.lost : d.last;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = cudaPeekAtLastError();
    d.last = cudaSuccess;
    return error;
}

/* --- devices --- */

cudaError_t cudaDriverGetVersion(int *version)
{
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    if (!d.configured)
        configure();
    *version = d.count < 0 ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* Without a driver *count stays what it was. */
cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER();
    *count = d.count;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index)
{
    ENTER();
    return result(index >= 0 && index < d.count ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *index)
{
    ENTER();
    *index = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int index)
{
    ENTER();
    if (index < 0 || index >= d.count)
        return result(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->totalGlobalMem = d.memory;
    p->sharedMemPerBlock = 48 * 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = d.major;
    p->minor = d.minor;
    p->multiProcessorCount = 4;
    p->pciBusID = index + 1;
    p->maxThreadsPerMultiProcessor = 1536;
    p->sharedMemPerMultiprocessor = most_shared() + 1024;
    p->sharedMemPerBlockOptin = most_shared();
    p->l2CacheSize = 4 << 20;
    p->memoryBusWidth = 256;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int index)
{
    cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceProperties(&p, index);
    if (error != cudaSuccess)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = p.memoryBusWidth;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    default:
        return result(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER();
    TRY(not_while_capturing());
    drain_all(false);
    return result(d.lost);
}

cudaError_t cudaDeviceReset(void)
{
    return cudaDeviceSynchronize();
}

/* --- memory --- */

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    ENTER();
    TRY(not_while_capturing());
    *memory = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    if (bytes > d.memory - d.used)
        return result(cudaErrorMemoryAllocation);
    if (!map_memory(d.memories, bytes, memory))
        return result(cudaErrorMemoryAllocation);
    const allocation &a = d.memories[(uintptr_t)*memory];
    d.used += a.taken;
    if (d.running == 0)
        protect(a, PROT_NONE);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    ENTER();
    if (!memory)
        return cudaSuccess;
    TRY(not_while_capturing());
    drain_all(false);
    auto i = d.memories.find((uintptr_t)memory);
    if (i == d.memories.end())
        return result(cudaErrorInvalidValue);
    d.used -= i->second.taken;
    unmap_memory(d.memories, i);
    return result(d.lost);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    ENTER();
    TRY(not_while_capturing());
    *memory = nullptr;
    (void)flags;
    if (bytes == 0)
        return cudaSuccess;
    return result(map_memory(d.pinned, bytes, memory) ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *memory)
{
    ENTER();
    if (!memory)
        return cudaSuccess;
    drain_all(false);
    auto i = d.pinned.find((uintptr_t)memory);
    if (i == d.pinned.end())
        return result(cudaErrorInvalidValue);
    unmap_memory(d.pinned, i);
    return result(d.lost);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    ENTER();
    *free_bytes = d.memory - d.used;
    *total_bytes = d.memory;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t handle)
{
    ENTER();
    const bool to_device = on_device(to), from_device = on_device(from);
    const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (bytes == 0)
        return cudaSuccess;
    if (kind != cudaMemcpyDefault && (to_device != wants_to || from_device != wants_from))
        return result(cudaErrorInvalidValue);
    if ((to_device && !inside(to, bytes)) || (from_device && !inside(from, bytes)))
        return result(cudaErrorInvalidValue);
    stream *s = of(handle);
    TRY(enqueue(handle, [=] { memmove(to, from, bytes); }));
    /* Memory that is not pinned has been copied when the call returns. */
    const bool host_waits = (!to_device && !is_pinned(to)) || (!from_device && !is_pinned(from));
    if (host_waits && !s->capture)
        drain(s);
    return result(d.lost);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    {
        ENTER();
        TRY(not_while_capturing());
    }
    return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t handle)
{
    ENTER();
    if (bytes == 0)
        return cudaSuccess;
    if (!inside(to, bytes))
        return result(cudaErrorInvalidValue);
    return result(enqueue(handle, [=] { memset(to, byte, bytes); }));
}

cudaError_t cudaMemset(void *to, int byte, size_t bytes)
{
    return cudaMemsetAsync(to, byte, bytes, nullptr);
}

/* --- streams and events --- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *handle, unsigned flags)
{
    ENTER();
    auto *created = new CUstream_st{std::make_shared<stream>()};
    created->s->blocking = !(flags & cudaStreamNonBlocking);
    d.streams.push_back(created->s);
    *handle = created;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *handle)
{
    return cudaStreamCreateWithFlags(handle, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    ENTER();
    if (!handle)
        return result(cudaErrorInvalidResourceHandle);
    drain(handle->s.get());
    delete handle;
    return result(d.lost);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    ENTER();
    TRY(not_while_capturing());
    if (!handle)
        drain_all(true);
    drain(of(handle));
    return result(d.lost);
}

/* Never ready as long as anything is queued, and each question gets one thing done. */
cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    ENTER();
    TRY(not_while_capturing());
    stream *s = of(handle);
    if (s->done == s->queued)
        return cudaSuccess;
    advance(s, s->done + 1);
    return result(d.lost != cudaSuccess ? d.lost : cudaErrorNotReady);
}

static cudaError_t wait_captured(stream *s, cudaEvent_t event)
{
    if (s->capture && s->capture != event->capture)
        return cudaErrorStreamCaptureIsolation;
    if (!s->capture) {
        s->capture = event->capture;
        s->mode = event->on->mode;
        s->origin = false;
        s->unjoined = true;
    } else if (event->on.get() != s) {
        event->on->unjoined = false;
    }
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags)
{
    ENTER();
    (void)flags;
    if (!event)
        return result(cudaErrorInvalidResourceHandle);
    stream *s = of(handle);
    if (event->capture)
        return result(wait_captured(s, event));
    if (s->capture)
        return result(cudaErrorStreamCaptureIsolation);
    if (!event->on || event->on.get() == s)
        return cudaSuccess;
    return result(
        enqueue(handle, [on = event->on, ticket = event->ticket] { advance(on.get(), ticket); }));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void *user)
{
    ENTER();
    return result(enqueue(handle, [=] { function(user); }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    ENTER();
    *event = new CUevent_st;
    (*event)->timing = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER();
    if (!event)
        return result(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    ENTER();
    if (!event)
        return result(cudaErrorInvalidResourceHandle);
    stream *s = of(handle);
    event->on = shared_of(handle);
    event->capture = s->capture;
    if (s->capture)
        return cudaSuccess;
    TRY(enqueue(handle, [time = event->time] { *time = now(); }));
    event->ticket = s->queued;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER();
    if (!event)
        return result(cudaErrorInvalidResourceHandle);
    TRY(not_while_capturing());
    if (event->on)
        advance(event->on.get(), event->ticket);
    return result(d.lost);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER();
    if (!event)
        return result(cudaErrorInvalidResourceHandle);
    if (!event->on || event->on->done >= event->ticket)
        return cudaSuccess;
    advance(event->on.get(), event->on->done + 1);
    return result(d.lost != cudaSuccess ? d.lost : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    ENTER();
    if (!start || !end || !start->on || !end->on || !start->timing || !end->timing)
        return result(cudaErrorInvalidResourceHandle);
    if (start->on->done < start->ticket || end->on->done < end->ticket)
        return result(cudaErrorNotReady);
    *milliseconds = (float)(*end->time - *start->time);
    return cudaSuccess;
}

/* --- graphs --- */

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    ENTER();
    if (!handle || handle->s->capture)
        return result(cudaErrorStreamCaptureUnsupported);
    handle->s->capture = std::make_shared<graph>();
    handle->s->origin = true;
    handle->s->mode = mode;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out)
{
    ENTER();
    *out = nullptr;
    if (!handle || !handle->s->capture || !handle->s->origin)
        return result(cudaErrorStreamCaptureUnsupported);
    auto g = handle->s->capture;
    bool unjoined = false;
    for (auto &weak : d.streams)
        if (auto s = weak.lock())
            if (s->capture == g) {
                unjoined = unjoined || s->unjoined;
                s->capture = nullptr;
                s->unjoined = false;
            }
    if (g->broken)
        return result(cudaErrorStreamCaptureInvalidated);
    if (unjoined)
        return result(cudaErrorStreamCaptureUnjoined);
    *out = new CUgraph_st{g};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    ENTER();
    const stream *s = of(handle);
    *status = !s->capture          ? cudaStreamCaptureStatusNone
              : s->capture->broken ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags)
{
    ENTER();
    (void)flags;
    if (!g)
        return result(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{std::make_shared<graph>(*g->g)};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t handle)
{
    ENTER();
    (void)handle;
    return result(exec ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle)
{
    ENTER();
    if (!exec)
        return result(cudaErrorInvalidValue);
    return result(enqueue(handle, [g = exec->g] {
        for (const work &node : g->nodes)
            if (d.lost == cudaSuccess)
                node();
    }));
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    ENTER();
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    ENTER();
    drain_all(false);
    delete exec;
    return cudaSuccess;
}

/* --- for tests --- */

void cuda_emulator_reset(void)
{
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    d.count = 1;
    d.major = 8;
    d.minor = 0;
    d.memory = DEFAULT_MEMORY;
    d.order = CUDA_EMULATOR_FORWARD;
    d.last = d.lost = cudaSuccess;
    d.calls.clear();
    d.failures.clear();
    d.n_calls = 0;
    d.fault[0] = 0;
    configure();
}

void cuda_emulator_set_devices(int count)
{
    d.configured = true;
    d.count = count;
}

void cuda_emulator_set_capability(int major, int minor)
{
    d.major = major;
    d.minor = minor;
}

void cuda_emulator_set_memory(size_t bytes)
{
    d.memory = bytes > d.used ? bytes : d.used;
}

void cuda_emulator_set_order(int64_t order)
{
    d.order = order;
}

void cuda_emulator_fail(const char *function, int64_t nth, cudaError_t error)
{
    d.failures[function] = {nth, error};
}

int64_t cuda_emulator_calls(const char *function)
{
    if (!function)
        return d.n_calls;
    auto i = d.calls.find(function);
    return i == d.calls.end() ? 0 : i->second;
}

size_t cuda_emulator_used(void)
{
    return d.used;
}

const char *cuda_emulator_fault(void)
{
    return d.fault;
}

} /* extern "C" */
