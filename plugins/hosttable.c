#include "hosttable.h"

#include <demist/random.h>

#include <limits.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hostcache.h"
#include "memory.h"
#include "memplan.h"
#include "philox.h"

/* What fmt says, whatever the locale, for free(); NULL without memory. */
DM_PRINTF(1, 0) static char *format(const char *fmt, va_list args)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t callers = c ? uselocale(c) : (locale_t)0;
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    if (c) {
        uselocale(callers);
        freelocale(c);
    }
    return text;
}

/* A plugin's NOTICE is for the user as much as its WARNING is. */
static enum dm_log_level log_level(demist_log_level level)
{
    switch (level) {
    case DEMIST_LOG_ERROR:
        return DM_LOG_ERROR;
    case DEMIST_LOG_WARNING:
    case DEMIST_LOG_NOTICE:
        return DM_LOG_WARNING;
    case DEMIST_LOG_DEBUG:
        break;
    }
    return DM_LOG_DEBUG;
}

DM_PRINTF(3, 4)
static void host_log(const demist_host *table, demist_log_level level, const char *fmt, ...)
{
    const struct dm_host *host = table->internal;
    if (!dm_log_wants(host->log, log_level(level)))
        return;
    va_list args;
    va_start(args, fmt);
    char *text = format(fmt, args);
    va_end(args);
    if (text)
        dm_log(host->log, log_level(level), "%s: %s", host->who, text);
    free(text);
}

DM_PRINTF(3, 4)
static demist_status host_fail(const demist_host *table, demist_status status, const char *fmt, ...)
{
    struct dm_host *host = table->internal;
    va_list args;
    va_start(args, fmt);
    char *text = format(fmt, args);
    va_end(args);
    pthread_mutex_lock(&host->lock);
    if (host->error.status == DEMIST_OK && status != DEMIST_OK)
        dm_fail(&host->error, status, "%s", text ? text : dm_status_text(status));
    pthread_mutex_unlock(&host->lock);
    free(text);
    return status;
}

static void *host_alloc(const demist_host *table, size_t bytes, size_t align)
{
    void *memory = dm_alloc_aligned(bytes, align);
    if (!memory && (align & (align - 1)))
        host_fail(table, DEMIST_INVALID, "alloc: an alignment of %zu is no power of two", align);
    else if (!memory)
        host_fail(table, DEMIST_NO_MEMORY, "out of memory: %zu bytes", bytes);
    return memory;
}

static void host_free(const demist_host *table, void *memory)
{
    dm_free_aligned(memory);
}

static void host_parallel(const demist_host *table, int64_t n, demist_task fn, void *arg)
{
    const struct dm_host *host = table->internal;
    if (host->pool) {
        dm_pool_parallel(host->pool, n, fn, arg);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        fn(arg, i, 0);
}

static int64_t host_plan_memory(const demist_host *table, demist_block *blocks, size_t n,
                                size_t align)
{
    if (n > INT_MAX || align > INT_MAX) {
        host_fail(table, DEMIST_INVALID, "plan_memory: %zu blocks, alignment %zu", n, align);
        return -1;
    }
    struct dm_memblock *plan = calloc(n ? n : 1, sizeof *plan);
    if (!plan) {
        host_fail(table, DEMIST_NO_MEMORY, "out of memory: a plan of %zu blocks", n);
        return -1;
    }
    for (size_t i = 0; i < n; i++)
        plan[i] = (struct dm_memblock){blocks[i].bytes, blocks[i].first, blocks[i].last, 0};
    struct dm_error err = DM_ERROR_INIT;
    int64_t arena_bytes = -1;
    demist_status status =
        dm_plan_memory(plan, (int)n, align ? (int64_t)align : 64, &arena_bytes, &err);
    for (size_t i = 0; i < n && status == DEMIST_OK; i++)
        blocks[i].offset = plan[i].offset;
    if (status != DEMIST_OK) {
        arena_bytes = -1;
        host_fail(table, status, "plan_memory: %s", err.text ? err.text : dm_status_text(status));
    }
    dm_error_clear(&err);
    free(plan);
    return arena_bytes;
}

static const void *host_extension(const demist_host *table, const char *id)
{
    if (strcmp(id, DEMIST_EXT_PHILOX) == 0)
        return &dm_philox_extension;
    if (strcmp(id, DEMIST_EXT_CACHE) == 0)
        return &dm_cache_service;
    return NULL;
}

demist_status dm_host_init(struct dm_host *host, const char *who, const struct dm_log *log,
                           struct dm_pool *pool, struct dm_error *err)
{
    char *copy = strdup(who);
    if (!copy)
        return dm_fail_memory(err, who);
    *host = (struct dm_host){
        .table = {.size = sizeof(demist_host),
                  .abi_minor = DEMIST_ABI_MINOR,
                  .internal = host,
                  .log = host_log,
                  .fail = host_fail,
                  .alloc = host_alloc,
                  .free = host_free,
                  .parallel = host_parallel,
                  .n_workers = pool ? dm_pool_workers(pool) : 1,
                  .plan_memory = host_plan_memory,
                  .extension = host_extension},
        .log = log,
        .pool = pool,
        .who = copy,
        .error = DM_ERROR_INIT,
    };
    pthread_mutex_init(&host->lock, NULL);
    return DEMIST_OK;
}

void dm_host_finish(struct dm_host *host)
{
    if (!host->who)
        return;
    pthread_mutex_destroy(&host->lock);
    dm_error_clear(&host->error);
    free(host->who);
    *host = (struct dm_host){0};
}

static bool is_status(demist_status status)
{
    return strcmp(dm_status_name(status), "UNKNOWN") != 0;
}

demist_status dm_host_take_error(struct dm_host *host, const char *function, demist_status status,
                                 struct dm_error *err)
{
    pthread_mutex_lock(&host->lock);
    struct dm_error said = host->error;
    host->error = DM_ERROR_INIT;
    pthread_mutex_unlock(&host->lock);

    if (status == DEMIST_OK)
        ;
    else if (!is_status(status))
        status =
            dm_fail(err, DEMIST_INTERNAL, "%s: `%s` returned %d, which is no status%s%s", host->who,
                    function, (int)status, said.text ? ": " : "", said.text ? said.text : "");
    else if (said.text)
        dm_fail(err, status, "%s: %s", host->who, said.text);
    else
        dm_fail(err, status, "%s: `%s` failed without saying why (%s)", host->who, function,
                dm_status_text(status));
    dm_error_clear(&said);
    return status;
}
