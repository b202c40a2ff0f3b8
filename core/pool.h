/* The thread pool: one loop split over all cores, thousands of times a second.
 *
 * Between two loops the workers first spin, as the next one mostly follows within microseconds, and
 * then sleep on a futex, so that an idle pool costs nothing. A loop never waits for a worker that
 * has not taken a task: where other programs hold the cores, the caller does the work itself. */
#ifndef DM_POOL_H
#define DM_POOL_H

#include "error.h"

#include <stdint.h>

struct dm_pool;

#define DM_POOL_MAX_THREADS 1024

/* A pool of `n_threads` workers, the calling thread being one of them: 1 starts no thread at all;
 * 0 stands for dm_pool_default_threads(). Threads start here, with all signals blocked.
 * DEMIST_INVALID for a number outside 0 … DM_POOL_MAX_THREADS, DEMIST_NO_MEMORY when the system
 * has no more threads. [any thread] */
demist_status dm_pool_create(int n_threads, struct dm_pool **pool, struct dm_error *err);

/* Joins the threads. No call of dm_pool_parallel may be under way. NULL is accepted. */
void dm_pool_destroy(struct dm_pool *pool);

/* The number of workers, the caller included: `worker` below is less than that. */
int dm_pool_workers(const struct dm_pool *pool);

/* Calls fn(arg, i, worker) once for each i from 0 to n-1, in any order and at once, and returns
 * when all calls have returned; what they wrote is then visible. No two calls run at the same time
 * with the same `worker`, so scratch memory may be indexed by it. The caller is worker 0.
 *
 * Called from within a task of this pool it runs inline, under that task's worker. Calls from
 * several threads are done one after the other. Tasks of one pool may use a second pool, but not
 * so that the second's tasks wait for the first. [any thread] */
void dm_pool_parallel(struct dm_pool *pool, int64_t n, void (*fn)(void *arg, int64_t i, int worker),
                      void *arg);

/* How many threads this process may run at once: the CPUs of its affinity mask, fewer where a
 * cgroup (v2) quota gives less time than that, and 1 at least. */
int dm_pool_default_threads(void);

/* The smallest quota in CPUs, rounded up, of the cgroup that `proc_cgroup` (/proc/self/cgroup)
 * names and of those above it, in the hierarchy mounted at `root` (/sys/fs/cgroup); INT32_MAX
 * where there is none. The paths are arguments for the tests' sake. */
int dm_cgroup_cpu_quota(const char *proc_cgroup, const char *root);

#endif
