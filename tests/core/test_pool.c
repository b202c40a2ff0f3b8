#define _GNU_SOURCE /* sched_setaffinity */
#include "testing.h"

#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int const thread_counts[] = {1, 2, 3, 8};
enum { COUNTS = sizeof thread_counts / sizeof *thread_counts };

static struct dm_pool *make_pool(int n)
{
    struct dm_pool *pool = NULL;
    assert_int_equal(dm_pool_create(n, &pool, NULL), DEMIST_OK);
    return pool;
}

static void mark(void *arg, int64_t i, int worker)
{
    ((int *)arg)[i] += 1 + (int)i; /* plain: a second call, or a late one, is a race TSan sees */
}

static void test_every_task_runs_once_and_its_writes_are_seen(void **state)
{
    enum { N = 1000 };
    int marks[N];
    for (int c = 0; c < COUNTS; c++) {
        struct dm_pool *pool = make_pool(thread_counts[c]);
        assert_int_equal(dm_pool_workers(pool), thread_counts[c]);
        int const sizes[] = {0, 1, 2, 3, 17, N};
        for (int round = 0; round < 300; round++) {
            int n = sizes[round % 6];
            memset(marks, 0, sizeof marks);
            dm_pool_parallel(pool, n, mark, marks);
            for (int i = 0; i < N; i++)
                assert_int_equal(marks[i], i < n ? i + 1 : 0);
        }
        dm_pool_destroy(pool);
    }
}

struct occupancy {
    atomic_int busy[8];
    atomic_int clashes;
    int n_workers;
};

static void occupy(void *arg, int64_t i, int worker)
{
    struct occupancy *o = arg;
    if (worker < 0 || worker >= o->n_workers || atomic_fetch_add(&o->busy[worker], 1) != 0)
        atomic_fetch_add(&o->clashes, 1);
    for (volatile int k = 0; k < 200; k++) {
    }
    if (worker >= 0 && worker < o->n_workers)
        atomic_fetch_sub(&o->busy[worker], 1);
}

struct caller {
    struct dm_pool *pool;
    struct occupancy *o;
};

static void *call_often(void *arg)
{
    struct caller *caller = arg;
    for (int i = 0; i < 100; i++)
        dm_pool_parallel(caller->pool, i % 12, occupy, caller->o);
    return NULL;
}

static void test_a_worker_is_in_one_task_at_a_time_whoever_calls(void **state)
{
    for (int c = 0; c < COUNTS; c++) {
        struct occupancy o = {.n_workers = thread_counts[c]};
        struct caller caller = {make_pool(thread_counts[c]), &o};
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
            pthread_create(&threads[i], NULL, call_often, &caller);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(atomic_load(&o.clashes), 0);
        dm_pool_destroy(caller.pool);
    }
}

struct nested {
    struct dm_pool *pool, *other;
    atomic_int inner, wrong;
};

static void inner_task(void *arg, int64_t i, int worker)
{
    atomic_fetch_add(&((struct nested *)arg)->inner, 1);
}

struct inner_arg {
    struct nested *nested;
    int worker;
    pthread_t thread;
};

static void check_inline(void *arg, int64_t i, int worker)
{
    struct inner_arg *a = arg;
    if (worker != a->worker || !pthread_equal(a->thread, pthread_self()))
        atomic_fetch_add(&a->nested->wrong, 1);
    atomic_fetch_add(&a->nested->inner, 1);
}

static void outer_task(void *arg, int64_t i, int worker)
{
    struct nested *n = arg;
    struct inner_arg a = {n, worker, pthread_self()};
    dm_pool_parallel(n->pool, 5, check_inline, &a);
    if (n->other)
        dm_pool_parallel(n->other, 3, inner_task, n);
}

static void test_a_call_from_within_a_task_runs_inline(void **state)
{
    for (int c = 0; c < COUNTS; c++) {
        struct nested n = {.pool = make_pool(thread_counts[c]), .other = NULL};
        dm_pool_parallel(n.pool, 40, outer_task, &n);
        assert_int_equal(atomic_load(&n.inner), 200);
        assert_int_equal(atomic_load(&n.wrong), 0);
        n.other = make_pool(2); /* a second pool's tasks may be waited for */
        dm_pool_parallel(n.pool, 40, outer_task, &n);
        assert_int_equal(atomic_load(&n.inner), 200 + 200 + 120);
        assert_int_equal(atomic_load(&n.wrong), 0);
        dm_pool_destroy(n.other);
        dm_pool_destroy(n.pool);
    }
}

static void test_sleeping_workers_wake(void **state)
{
    struct dm_pool *pool = make_pool(4);
    int marks[64] = {0};
    for (int round = 1; round <= 20; round++) {
        struct timespec pause = {.tv_nsec = 2000000}; /* far longer than they spin */
        nanosleep(&pause, NULL);
        dm_pool_parallel(pool, 64, mark, marks);
        assert_int_equal(marks[63], 64 * round);
    }
    dm_pool_destroy(pool);
}

static void wait_for_two(void *arg, int64_t i, int worker)
{
    atomic_int *here = arg;
    atomic_fetch_add(here, 1);
    while (atomic_load(here) < 2)
        sched_yield();
}

static void test_tasks_run_at_the_same_time(void **state)
{
    struct dm_pool *pool = make_pool(2);
    for (int round = 0; round < 50; round++) {
        atomic_int here = 0;
        dm_pool_parallel(pool, 2, wait_for_two, &here); /* hangs where one thread does both */
    }
    dm_pool_destroy(pool);
}

static void signal_mask_of_workers(void *arg, int64_t i, int worker)
{
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (worker > 0)
        atomic_fetch_or((atomic_int *)arg, sigismember(&mask, SIGINT) == 1 ? 1 : 2);
    struct timespec pause = {.tv_nsec = 1000000};
    nanosleep(&pause, NULL); /* leaves tasks for the others */
}

static void test_signals_are_blocked_in_workers_only(void **state)
{
    struct dm_pool *pool = make_pool(3);
    atomic_int seen = 0;
    for (int round = 0; round < 100 && !atomic_load(&seen); round++)
        dm_pool_parallel(pool, 12, signal_mask_of_workers, &seen);
    assert_int_equal(atomic_load(&seen), 1);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGINT), 0);
    dm_pool_destroy(pool);
}

static void test_refuses_absurd_thread_counts(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_pool *pool;
    assert_int_equal(dm_pool_create(-1, &pool, &err), DEMIST_INVALID);
    assert_int_equal(dm_pool_create(DM_POOL_MAX_THREADS + 1, &pool, &err), DEMIST_INVALID);
    assert_contains(err.text, "1024");
    dm_error_clear(&err);
    dm_pool_destroy(NULL);
}

static void test_the_affinity_mask_limits_the_default(void **state)
{
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_in_range(dm_pool_default_threads(), 1, CPU_COUNT(&before));
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int n = dm_pool_default_threads();
    struct dm_pool *pool = make_pool(0);
    int workers = dm_pool_workers(pool);
    dm_pool_destroy(pool);
    sched_setaffinity(0, sizeof before, &before);
    assert_int_equal(n, 1);
    assert_int_equal(workers, 1);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_the_smallest_quota_on_the_way_up_counts(void **state)
{
    char dir[] = "/tmp/demist-test-XXXXXX", proc[64], sub[64];
    assert_non_null(mkdtemp(dir));
    snprintf(proc, sizeof proc, "%s/proc", dir);
    snprintf(sub, sizeof sub, "%s/a", dir);
    assert_int_equal(mkdir(sub, 0700), 0);
    write_file(dir, "proc", "4:cpu:/elsewhere\n0::/a\n");
    assert_int_equal(dm_cgroup_cpu_quota(proc, dir), INT32_MAX);
    write_file(sub, "cpu.max", "max 100000\n");
    assert_int_equal(dm_cgroup_cpu_quota(proc, dir), INT32_MAX);
    write_file(sub, "cpu.max", "350000 100000\n");
    assert_int_equal(dm_cgroup_cpu_quota(proc, dir), 4);
    write_file(dir, "cpu.max", "150000 100000\n");
    assert_int_equal(dm_cgroup_cpu_quota(proc, dir), 2);
    write_file(sub, "cpu.max", "1000 100000\n");
    assert_int_equal(dm_cgroup_cpu_quota(proc, dir), 1);
    write_file(dir, "proc", "4:cpu:/a\n"); /* version 1 only */
    assert_int_equal(dm_cgroup_cpu_quota(proc, dir), INT32_MAX);
    assert_int_equal(dm_cgroup_cpu_quota("/nonexistent", dir), INT32_MAX);
    const char *names[] = {"a/cpu.max", "a", "cpu.max", "proc", "."};
    for (int i = 0; i < 5; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        remove(i < 4 ? path : dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_runs_once_and_its_writes_are_seen),
        cmocka_unit_test(test_a_worker_is_in_one_task_at_a_time_whoever_calls),
        cmocka_unit_test(test_a_call_from_within_a_task_runs_inline),
        cmocka_unit_test(test_sleeping_workers_wake),
        cmocka_unit_test(test_tasks_run_at_the_same_time),
        cmocka_unit_test(test_signals_are_blocked_in_workers_only),
        cmocka_unit_test(test_refuses_absurd_thread_counts),
        cmocka_unit_test(test_the_affinity_mask_limits_the_default),
        cmocka_unit_test(test_the_smallest_quota_on_the_way_up_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
