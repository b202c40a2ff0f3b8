/* See cuda_emulator_kernel.h. A thread runs on a fiber until it waits; its fiber then hands over to
 * the next thread that can run. A kernel without barriers is one loop on one fiber.
 *
 * Under ASan the fibers are announced to it. Under TSan each thread of a block is a fiber that TSan
 * sees as a thread of its own, and barriers are all that orders them: it finds races on shared and
 * on global memory within a block. This file is then compiled without it. */
#undef _FORTIFY_SOURCE /* its longjmp refuses to change stacks */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "include/cuda_emulator.h"
#include "include/cuda_emulator_kernel.h"

#if defined(__SANITIZE_ADDRESS__) && !defined(CUDA_EMULATOR_ASAN)
#define CUDA_EMULATOR_ASAN 1
#endif
#ifdef CUDA_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUDA_EMULATOR_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *at);
void __tsan_release(void *at);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/* Static shared memory; no such section: none in this program. */
extern "C" {
extern unsigned char __start_cuda_shared[] __attribute__((weak));
extern unsigned char __stop_cuda_shared[] __attribute__((weak));
}

namespace cuda_emulator
{

unsigned char *dynamic_shared;

namespace
{

enum { WARP = 32, STACK = 256 * 1024, GUARD = 4096, TOKENS = 8192 };

enum state { READY, AT_BARRIER, AT_WARP, DONE };

struct fiber {
    ucontext_t context;
    jmp_buf saved;
    unsigned char *stack = nullptr; /* NULL: the caller's own */
    bool started = false;
    void *sanitizer = nullptr; /* ASan's fake stack, or TSan's fiber */
    const void *low = nullptr; /* ASan: the stack's bounds */
    size_t size = 0;
};

struct copy {
    void *to;
    const void *from;
    size_t bytes, zeros;
};

struct thread {
    uint3 index;
    state what;
    fiber *on; /* NULL: not started */
    place at;
    unsigned mask;
    void *operand;
    std::vector<std::vector<copy>> copies; /* groups, the last one not committed */
};

/* Lanes of a warp that wait for each other. */
struct gathering {
    unsigned mask, arrived, token;
    place at;
    void *operands[WARP];
};

struct machine {
    std::vector<thread> threads;
    std::vector<std::vector<gathering>> gatherings; /* by warp */
    std::deque<thread *> ready;
    std::vector<std::unique_ptr<fiber>> fibers;
    std::vector<fiber *> idle;
    fiber caller, *left = nullptr; /* the fiber that ran before */
    thread *running = nullptr;
    const std::function<void()> *body = nullptr;
    int n_done = 0, n_waiting = 0, n_yes = 0;
    int result = 0; /* of the last barrier */
    std::mt19937_64 random;
    int64_t order = CUDA_EMULATOR_FORWARD;
    bool failed = false;
    char *message = nullptr;
    size_t message_size = 0;
    unsigned last_token = 0, begin_token = 0, end_token = 0, barrier_token = 0;
    char tokens[TOKENS];
};
machine m;

/* What one thread did before it released a token, another one sees after it has acquired it;
 * nothing else orders threads for TSan. Each meeting has a token of its own: the next one's must
 * not order those that are still on their way from the last. */
unsigned new_token()
{
    return m.last_token = (m.last_token + 1) % TOKENS;
}

void acquire(unsigned token)
{
#ifdef CUDA_EMULATOR_TSAN
    __tsan_acquire(&m.tokens[token]);
#endif
    (void)token;
}

void release(unsigned token)
{
#ifdef CUDA_EMULATOR_TSAN
    __tsan_release(&m.tokens[token]);
#endif
    (void)token;
}

/* What is done in here for a thread is not the kernel's doing. */
struct unseen {
    unseen()
    {
#ifdef CUDA_EMULATOR_TSAN
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
    }
    ~unseen()
    {
#ifdef CUDA_EMULATOR_TSAN
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
    }
    unseen(const unseen &) = delete;
};

/* --- fibers --- */

void fiber_main();

void arrive(fiber *f)
{
#ifdef CUDA_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(f->sanitizer, &m.left->low, &m.left->size);
#endif
    (void)f;
}

/* From the fiber that runs to another one; comes back when that one is switched to. */
__attribute__((noinline)) void switch_fiber(fiber *from, fiber *to)
{
    const bool started = to->started;
    to->started = true;
#if defined(CUDA_EMULATOR_ASAN)
    (void)started;
    m.left = from;
    __sanitizer_start_switch_fiber(&from->sanitizer, to->low, to->size);
    swapcontext(&from->context, &to->context);
    arrive(from);
#elif defined(CUDA_EMULATOR_TSAN)
    enum { UNORDERED = 1 };
    (void)started;
    __tsan_switch_to_fiber(to->sanitizer, UNORDERED);
    swapcontext(&from->context, &to->context);
#else
    if (_setjmp(from->saved))
        return;
    if (started)
        _longjmp(to->saved, 1);
    setcontext(&to->context);
#endif
}

void fiber_init(fiber *f)
{
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = nullptr;
    f->started = false;
    makecontext(&f->context, fiber_main, 0);
#ifdef CUDA_EMULATOR_ASAN
    f->sanitizer = nullptr;
    f->low = f->stack;
    f->size = STACK;
    __asan_unpoison_memory_region(f->stack, STACK);
#endif
}

fiber *new_fiber()
{
    auto f = std::make_unique<fiber>();
    void *memory = mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("cuda emulator: no memory for a thread's stack");
        _Exit(1);
    }
    mprotect(memory, GUARD, PROT_NONE); /* an overflow is a fault, not another thread's variable */
    f->stack = static_cast<unsigned char *>(memory) + GUARD;
#ifdef CUDA_EMULATOR_TSAN
    f->sanitizer = __tsan_create_fiber(0);
#endif
    fiber_init(f.get());
    m.fibers.push_back(std::move(f));
    return m.fibers.back().get();
}

fiber *take_fiber()
{
    if (m.idle.empty())
        return new_fiber();
    fiber *f = m.idle.back();
    m.idle.pop_back();
    return f;
}

/* --- threads --- */

void start_running(thread *t)
{
    m.running = t;
    threadIdx = t->index;
}

/* Gives the fiber away until the running thread can go on; to the caller if nobody can. */
void leave(fiber *mine)
{
    if (m.ready.empty() || m.failed) {
        m.running = nullptr;
        switch_fiber(mine, &m.caller);
        return;
    }
    thread *next = m.ready.front();
    m.ready.pop_front();
    if (!next->on)
        next->on = take_fiber();
    start_running(next);
    if (next->on != mine)
        switch_fiber(mine, next->on);
}

void end_thread(thread *t)
{
    for (const auto &group : t->copies)
        if (!group.empty())
            fault("a thread ended before copies that it had begun");
    t->copies.clear();
    t->what = DONE;
    m.n_done++;
    release(m.end_token);
}

/* One thread after another, as long as there are any that have not begun. */
void fiber_main()
{
    fiber *mine = m.running->on;
    arrive(mine);
    for (;;) {
        acquire(m.begin_token);
        (*m.body)();
        const unseen here;
        end_thread(m.running);
#ifndef CUDA_EMULATOR_TSAN
        if (!m.ready.empty() && !m.ready.front()->on) {
            thread *next = m.ready.front();
            m.ready.pop_front();
            next->on = mine;
            start_running(next);
            continue;
        }
        m.idle.push_back(mine);
#endif
        leave(mine);
    }
}

void make_ready(std::vector<thread *> &threads)
{
    if (m.order == CUDA_EMULATOR_REVERSE)
        std::reverse(threads.begin(), threads.end());
    else if (m.order >= 0)
        std::shuffle(threads.begin(), threads.end(), m.random);
    for (thread *t : threads) {
        t->what = READY;
        m.ready.push_back(t);
    }
}

void wait_as(state what, place at, unsigned token)
{
    thread *t = m.running;
    t->what = what;
    t->at = at;
    release(m.end_token); /* for the caller, if this never goes on */
    release(token);
    leave(t->on);
    acquire(token);
}

const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Nobody can go on, and not all are done: says who waits where. */
void explain_deadlock()
{
    const thread *waiting = nullptr, *other = nullptr;
    for (const thread &t : m.threads)
        if (t.what != DONE && !waiting)
            waiting = &t;
    for (const thread &t : m.threads)
        if (t.what != waiting->what || t.at.line != waiting->at.line || t.mask != waiting->mask)
            other = &t;
    const int n = snprintf(m.message, m.message_size,
                           "block (%u,%u,%u): barrier divergence: thread (%u,%u,%u) waits at %s:%d",
                           blockIdx.x, blockIdx.y, blockIdx.z, waiting->index.x, waiting->index.y,
                           waiting->index.z, base_name(waiting->at.file), waiting->at.line);
    if (!other || n < 0 || (size_t)n >= m.message_size)
        return;
    if (other->what == DONE)
        snprintf(m.message + n, m.message_size - (size_t)n, ", thread (%u,%u,%u) has ended",
                 other->index.x, other->index.y, other->index.z);
    else
        snprintf(m.message + n, m.message_size - (size_t)n, ", thread (%u,%u,%u) at %s:%d",
                 other->index.x, other->index.y, other->index.z, base_name(other->at.file),
                 other->at.line);
}

/* --- blocks --- */

void begin_block(size_t shared)
{
    if (__start_cuda_shared && __stop_cuda_shared)
        memset(__start_cuda_shared, 0xff, (size_t)(__stop_cuda_shared - __start_cuda_shared));
    memset(dynamic_shared, 0xff, shared);
    std::vector<thread *> all;
    size_t i = 0;
    for (unsigned z = 0; z < blockDim.z; z++)
        for (unsigned y = 0; y < blockDim.y; y++)
            for (unsigned x = 0; x < blockDim.x; x++, i++) {
                thread &t = m.threads[i];
                t.index = {x, y, z};
                t.on = nullptr;
                t.at = {"", 0};
                t.mask = 0;
                all.push_back(&t);
            }
    for (auto &g : m.gatherings)
        g.clear();
    m.n_done = m.n_waiting = m.n_yes = 0;
    m.begin_token = new_token();
    m.end_token = new_token();
    m.barrier_token = new_token();
    make_ready(all);
#ifdef CUDA_EMULATOR_TSAN
    /* One for each thread, made by the caller: otherwise that would order them. */
    while (m.fibers.size() < m.threads.size())
        new_fiber();
    m.idle.clear();
    for (auto &f : m.fibers)
        m.idle.push_back(f.get());
#endif
}

/* Fibers that a fault left in the middle of a kernel begin anew. */
void abandon_fibers()
{
    m.idle.clear();
    for (auto &f : m.fibers) {
        fiber_init(f.get());
#ifdef CUDA_EMULATOR_TSAN
        f->sanitizer = __tsan_create_fiber(0);
#endif
        m.idle.push_back(f.get());
    }
    for (thread &t : m.threads)
        t.copies.clear();
    m.ready.clear();
}

bool run_block(size_t shared)
{
    begin_block(shared);
    m.running = nullptr;
    release(m.begin_token);
    leave(&m.caller);
    acquire(m.end_token);
    if (!m.failed && m.n_done != (int)m.threads.size()) {
        explain_deadlock();
        m.failed = true;
    }
    if (m.failed)
        abandon_fibers();
    return !m.failed;
}

} // namespace

bool run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body,
              int64_t order, char *message, size_t message_size)
{
    const uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    const size_t n_threads = (size_t)block.x * block.y * block.z;
    m.threads.assign(n_threads, {});
    m.gatherings.assign((n_threads + WARP - 1) / WARP, {});
    m.body = &body;
    m.order = order;
    m.random.seed(order >= 0 ? (uint64_t)order : 0);
    m.failed = false;
    m.caller.started = true;
    m.message = message;
    m.message_size = message_size;
#ifdef CUDA_EMULATOR_TSAN
    m.caller.sanitizer = __tsan_get_current_fiber();
#endif
    /* ASan sees what lies behind it. */
    const size_t room = (shared / 1024 + 1) * 1024;
    unsigned char *memory = static_cast<unsigned char *>(aligned_alloc(1024, room));
    dynamic_shared = memory;
#ifdef CUDA_EMULATOR_ASAN
    __asan_poison_memory_region(memory + shared, room - shared);
#endif
    gridDim = grid;
    blockDim = block;
    bool ok = true;
    for (uint64_t i = 0; ok && i < n; i++) {
        const uint64_t b = order == CUDA_EMULATOR_REVERSE ? n - 1 - i
                           : order >= 0                   ? (i + (uint64_t)order) % n
                                                          : i;
        blockIdx = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                    (unsigned)(b / grid.x / grid.y)};
        ok = run_block(shared);
    }
#ifdef CUDA_EMULATOR_ASAN
    __asan_unpoison_memory_region(memory, room);
#endif
    free(memory);
    return ok;
}

/* --- called by kernels --- */

unsigned lane()
{
    return (unsigned)(m.running - m.threads.data()) % WARP;
}

void fault(const char *fmt, ...)
{
    va_list args;
    const thread *t = m.running;
    const int n =
        snprintf(m.message, m.message_size, "block (%u,%u,%u), thread (%u,%u,%u): ", blockIdx.x,
                 blockIdx.y, blockIdx.z, t->index.x, t->index.y, t->index.z);
    va_start(args, fmt);
    if (n >= 0 && (size_t)n < m.message_size)
        vsnprintf(m.message + n, m.message_size - (size_t)n, fmt, args);
    va_end(args);
    m.failed = true;
    release(m.end_token);
    leave(m.running->on);
    __builtin_unreachable();
}

int barrier(bool yes, place at)
{
    const unseen here;
    thread *mine = m.running;
    const unsigned token = m.barrier_token;
    m.n_yes += yes;
    if (++m.n_waiting < (int)m.threads.size()) {
        wait_as(AT_BARRIER, at, token);
        return m.result;
    }
    std::vector<thread *> all;
    for (thread &t : m.threads) {
        if (&t != mine && t.at.line != at.line)
            fault("a barrier at %s:%d, where others wait at line %d", base_name(at.file), at.line,
                  t.at.line);
        all.push_back(&t);
    }
    m.result = m.n_yes;
    m.n_waiting = m.n_yes = 0;
    m.barrier_token = new_token();
    make_ready(all);
    release(token);
    leave(mine->on);
    acquire(token);
    return m.result;
}

void together(unsigned mask, void *operand, void (*all)(void *const *lanes), place at)
{
    const unseen here;
    const unsigned mine = lane();
    const size_t w = (size_t)(m.running - m.threads.data()) / WARP;
    if (!(mask >> mine & 1))
        fault("lane %u takes part at %s:%d, but is not in the mask %08x", mine, base_name(at.file),
              at.line, mask);
    auto &list = m.gatherings[w];
    gathering *g = nullptr;
    for (gathering &candidate : list)
        if (candidate.mask == mask && candidate.at.line == at.line && candidate.at.file == at.file)
            g = &candidate;
    if (!g) {
        list.push_back({mask, 0, new_token(), at, {}});
        g = &list.back();
    }
    g->arrived |= 1u << mine;
    g->operands[mine] = operand;
    m.running->mask = mask;
    if (g->arrived != mask) {
        wait_as(AT_WARP, at, g->token);
        return;
    }
    const gathering whole = *g;
    list.erase(list.begin() + (g - list.data()));
    release(whole.token);
    acquire(whole.token);
    all(whole.operands);
    release(whole.token);
    std::vector<thread *> others;
    for (unsigned i = 0; i < WARP; i++)
        if ((mask >> i & 1) && i != mine)
            others.push_back(&m.threads[w * WARP + i]);
    make_ready(others);
}

/* --- asynchronous copies: done as late as allowed --- */

void begin_copy(void *to, const void *from, size_t bytes, size_t zeros)
{
    const unseen here;
    auto &groups = m.running->copies;
    if (groups.empty())
        groups.emplace_back();
    groups.back().push_back({to, from, bytes, zeros});
}

void commit_copies()
{
    const unseen here;
    auto &groups = m.running->copies;
    if (groups.empty())
        groups.emplace_back();
    groups.emplace_back();
}

void wait_copies(int groups_left)
{
    const unseen here;
    auto &groups = m.running->copies;
    while ((int)groups.size() > groups_left + 1) {
        for (const copy &c : groups.front()) {
            memcpy(c.to, c.from, c.bytes);
            memset(static_cast<unsigned char *>(c.to) + c.bytes, 0, c.zeros);
        }
        groups.erase(groups.begin());
    }
}

} // namespace cuda_emulator
