/* The table that the host hands to every instance of a class. A plugin links nothing of the
 * project's: all it needs from the host is here.
 *
 * A plugin never prints, exits, aborts, or changes the locale, signal handlers, the working
 * directory or the floating-point environment. It reports through `log` and `fail`. */
#ifndef DEMIST_HOST_H
#define DEMIST_HOST_H

#include <demist/abi.h>
#include <demist/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum demist_log_level {
    DEMIST_LOG_ERROR = 0,
    DEMIST_LOG_WARNING = 1,
    DEMIST_LOG_NOTICE = 2,
    DEMIST_LOG_DEBUG = 3,
} demist_log_level;

/* A piece of memory that lives from step `first` to step `last`, both included. A plain struct
 * of fixed layout: arrays of it are legal. */
typedef struct demist_block {
    int64_t bytes;
    int32_t first, last;
    int64_t offset; /* out: from the arena's start */
} demist_block;

/* One task of `parallel`; worker is in 0 … n_workers−1 and no two tasks that run at the same
 * time share it. */
typedef void (*demist_task)(void *arg, int64_t i, int worker);

typedef struct demist_host demist_host;
struct demist_host {
    size_t size;
    uint32_t abi_minor; /* of the host */
    void *internal;     /* the host's own */

    /* [any thread] A line for the user's eyes; no newline needed. */
    void (*log)(const demist_host *host, demist_log_level level, const char *fmt, ...)
        DEMIST_PRINTF(3, 4);

    /* [any thread] States why the current call fails and returns `status`, so that plugins write
     * `return host->fail(host, DEMIST_CONFIG, "…")`. Say what, where, and the way out. */
    demist_status (*fail)(const demist_host *host, demist_status status, const char *fmt, ...)
        DEMIST_PRINTF(3, 4);

    /* [any thread] Uninitialised memory, at least 64-byte aligned (align: a power of two, 0 for
     * the default); NULL when there is none, with `fail` already called. */
    void *(*alloc)(const demist_host *host, size_t bytes, size_t align);
    void (*free)(const demist_host *host, void *memory); /* NULL is legal */

    /* [any thread] Calls fn(arg, i, worker) for every i in 0 … n−1 on the host's thread pool and
     * returns when all are done. Called from within a task it runs inline; concurrent callers
     * are serialised. Which worker gets which i varies: results must not depend on it. */
    void (*parallel)(const demist_host *host, int64_t n, demist_task fn, void *arg);
    int n_workers;

    /* [any thread] Liveness packing: sets every block's offset so that blocks whose lives overlap
     * do not overlap in memory; returns the arena's size in bytes, or −1 with `fail` called. */
    int64_t (*plan_memory)(const demist_host *host, demist_block *blocks, size_t n, size_t align);

    /* [any thread] A versioned extension by name ("demist.philox/1"), or NULL. The struct that it
     * points to stays valid while the instance lives. */
    const void *(*extension)(const demist_host *host, const char *id);
};

#ifdef __cplusplus
}
#endif
#endif
