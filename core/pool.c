/* The thread pool.
 *
 * A job is published by one store to `unclaimed`, the number of tasks nobody has taken. Whoever
 * lowers it by compare-and-swap owns a task, and reads the job's fields only then: the caller
 * cannot return, nor the fields change, before every claimed task is counted off `unfinished`. So a
 * worker that slept through a job can do no harm in the next one, and nobody waits for it.
 *
 * Sleeping is a pair of Dekker handshakes, hence sequentially consistent: a worker announces itself
 * in `sleepers` and looks at `unclaimed` again, while the caller stores `unclaimed` and then looks
 * at `sleepers`; the same between the caller's `caller_sleeps` and the last worker's `unfinished`.
 */
#define _GNU_SOURCE /* sched_getaffinity, syscall */
#include "pool.h"

#include "memory.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SPINS = 2000,       /* tens of microseconds: longer than the gaps between loops of a network */
    CACHE_LINE = 64,    /* what spinning threads read stands apart from what others write */
    MAX_PIECE = 1 << 30 /* tasks a job; futexes are 32 bits wide */
};

struct job {
    void (*fn)(void *arg, int64_t i, int worker);
    void *arg;
    int64_t first; /* index of the piece's first task */
    int n;
};

struct worker {
    struct dm_pool *pool;
    pthread_t thread;
    int index;
};

struct dm_pool {
    _Alignas(CACHE_LINE) _Atomic int unclaimed;
    struct job job; /* written by the caller before `unclaimed`, read after a claim */
    _Alignas(CACHE_LINE) _Atomic int unfinished; /* futex: the caller sleeps on it */
    _Atomic int caller_sleeps;
    _Alignas(CACHE_LINE) _Atomic int alarm; /* futex: the workers sleep on it */
    _Atomic int sleepers;
    _Atomic bool quit;
    _Alignas(CACHE_LINE) pthread_mutex_t callers; /* one job at a time */
    int n_workers, n_started, spins;
    struct worker *workers; /* [n_workers]; the first is the caller and has no thread */
};

/* The jobs whose tasks this thread is inside of, the innermost first. */
struct frame {
    const struct dm_pool *pool;
    int worker;
    struct frame *outer;
};
static _Thread_local struct frame *frames;

static void futex_wait(_Atomic int *word, int value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic int *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Takes tasks until none is left; returns how many it did. They are counted off at the end only:
 * until then the job cannot end, so all of them belong to one job. */
static int do_tasks(struct dm_pool *pool, int worker)
{
    struct frame frame = {pool, worker, frames};
    frames = &frame;
    int done = 0, left = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    while (left > 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->unclaimed, &left, left - 1,
                                                   memory_order_acquire, memory_order_relaxed))
            continue;
        const struct job *job = &pool->job;
        job->fn(job->arg, job->first + (job->n - left), worker);
        done++;
        left = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    }
    frames = frame.outer;
    return done;
}

static void count_off(struct dm_pool *pool, int done)
{
    if (done && atomic_fetch_sub(&pool->unfinished, done) == done &&
        atomic_load(&pool->caller_sleeps))
        futex_wake(&pool->unfinished, 1);
}

/* Returns when there is something to claim, or the pool ends. */
static void await_work(struct dm_pool *pool)
{
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load_explicit(&pool->unclaimed, memory_order_relaxed) > 0 ||
            atomic_load_explicit(&pool->quit, memory_order_relaxed))
            return;
        relax();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    for (;;) {
        int alarm = atomic_load(&pool->alarm); /* before the last look: a later alarm is not lost */
        if (atomic_load(&pool->unclaimed) > 0 || atomic_load(&pool->quit))
            break;
        futex_wait(&pool->alarm, alarm);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void *work(void *arg)
{
    struct worker *self = arg;
    struct dm_pool *pool = self->pool;
    while (!atomic_load_explicit(&pool->quit, memory_order_relaxed)) {
        await_work(pool);
        count_off(pool, do_tasks(pool, self->index));
    }
    return NULL;
}

static void wake_workers(struct dm_pool *pool, int n)
{
    if (atomic_load(&pool->sleepers) == 0)
        return;
    atomic_fetch_add(&pool->alarm, 1);
    futex_wake(&pool->alarm, n);
}

static void await_end(struct dm_pool *pool)
{
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0)
            return;
        relax();
    }
    atomic_store(&pool->caller_sleeps, 1);
    for (int left; (left = atomic_load(&pool->unfinished)) > 0;)
        futex_wait(&pool->unfinished, left);
    atomic_store(&pool->caller_sleeps, 0);
}

static void run_job(struct dm_pool *pool, struct job job)
{
    pool->job = job;
    atomic_store_explicit(&pool->unfinished, job.n, memory_order_relaxed);
    atomic_store(&pool->unclaimed, job.n); /* publishes the two above */
    wake_workers(pool, job.n - 1);
    int done = do_tasks(pool, 0);
    if (atomic_fetch_sub(&pool->unfinished, done) != done)
        await_end(pool);
}

static void run_inline(struct dm_pool *pool, struct job job, int64_t n, int worker)
{
    struct frame frame = {pool, worker, frames};
    frames = &frame;
    for (int64_t i = 0; i < n; i++)
        job.fn(job.arg, i, worker);
    frames = frame.outer;
}

void dm_pool_parallel(struct dm_pool *pool, int64_t n, void (*fn)(void *arg, int64_t i, int worker),
                      void *arg)
{
    struct job job = {fn, arg, 0, 0};
    for (const struct frame *f = frames; f; f = f->outer)
        if (f->pool == pool) {
            run_inline(pool, job, n, f->worker);
            return;
        }

    pthread_mutex_lock(&pool->callers);
    if (n <= 1 || pool->n_workers == 1)
        run_inline(pool, job, n, 0);
    else
        for (; job.first < n; job.first += job.n) {
            job.n = n - job.first < MAX_PIECE ? (int)(n - job.first) : MAX_PIECE;
            run_job(pool, job);
        }
    pthread_mutex_unlock(&pool->callers);
}

int dm_pool_workers(const struct dm_pool *pool)
{
    return pool->n_workers;
}

/* Signals are for the program's own threads: a handler must never run in the middle of a kernel. */
static bool start_threads(struct dm_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->n_started < pool->n_workers) {
        struct worker *worker = &pool->workers[pool->n_started];
        *worker = (struct worker){.pool = pool, .index = pool->n_started};
        if (worker->index > 0 && pthread_create(&worker->thread, NULL, work, worker))
            break;
        pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->n_started == pool->n_workers;
}

demist_status dm_pool_create(int n_threads, struct dm_pool **out, struct dm_error *err)
{
    if (n_threads < 0 || n_threads > DM_POOL_MAX_THREADS)
        return dm_fail(err, DEMIST_INVALID, "%d threads: give a number from 1 to %d, or 0 for all",
                       n_threads, DM_POOL_MAX_THREADS);
    int usable = dm_pool_default_threads();
    n_threads = n_threads ? n_threads : usable;

    struct dm_pool *pool = dm_alloc_aligned(sizeof *pool, CACHE_LINE);
    if (!pool)
        return dm_fail_memory(err, "a thread pool");
    memset(pool, 0, sizeof *pool);
    pthread_mutex_init(&pool->callers, NULL);
    pool->n_workers = n_threads;
    pool->spins = n_threads <= usable ? SPINS : 0; /* a spinning thread would hold another's core */
    pool->workers = calloc((size_t)n_threads, sizeof *pool->workers);
    if (!pool->workers || !start_threads(pool)) {
        int started = pool->n_started;
        dm_pool_destroy(pool);
        return dm_fail(err, DEMIST_NO_MEMORY,
                       "could start only %d of %d threads; ask for fewer with --threads", started,
                       n_threads);
    }
    *out = pool;
    return DEMIST_OK;
}

void dm_pool_destroy(struct dm_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->quit, true);
    wake_workers(pool, INT_MAX);
    for (int i = 1; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->callers);
    free(pool->workers);
    dm_free_aligned(pool);
}

static int affinity_cpus(void)
{
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) { /* the kernel's mask may be longer */
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (!set)
            break;
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        int n = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        int error = errno;
        CPU_FREE(set);
        if (n > 0)
            return n;
        if (error != EINVAL)
            break;
    }
    return 1;
}

/* "max 100000" or "150000 100000": microseconds of CPU time in each period. */
static int quota_in(const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return INT32_MAX;
    long long quota, period;
    int n = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    if (n != 2 || quota <= 0 || period <= 0)
        return INT32_MAX;
    long long cpus = quota / period + (quota % period != 0);
    return cpus < INT32_MAX ? (int)cpus : INT32_MAX;
}

/* The path in the line "0::/user.slice/…", the one of version 2. */
static bool own_cgroup(const char *proc_cgroup, char *path, size_t size)
{
    FILE *file = fopen(proc_cgroup, "re");
    bool found = false;
    while (file && !found && fgets(path, (int)size, file))
        found = strncmp(path, "0::/", 4) == 0;
    if (file)
        fclose(file);
    if (found) {
        memmove(path, path + 3, strlen(path + 3) + 1);
        path[strcspn(path, "\n")] = '\0';
    }
    return found;
}

int dm_cgroup_cpu_quota(const char *proc_cgroup, const char *root)
{
    char group[4096], path[sizeof group + 256];
    int least = INT32_MAX;
    if (!own_cgroup(proc_cgroup, group, sizeof group))
        return least;
    for (;;) {
        int n = snprintf(path, sizeof path, "%s%s/cpu.max", root, group);
        int quota = n > 0 && n < (int)sizeof path ? quota_in(path) : INT32_MAX;
        least = quota < least ? quota : least;
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0'; /* a limit above holds below too */
    }
}

int dm_pool_default_threads(void)
{
    int cpus = affinity_cpus(), quota = dm_cgroup_cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    int n = quota < cpus ? quota : cpus;
    return n < DM_POOL_MAX_THREADS ? n : DM_POOL_MAX_THREADS;
}
