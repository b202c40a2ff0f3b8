/* The host's side of `struct demist_host`: one table for each instance of a class, so that what a
 * plugin logs and why it fails is known to be that instance's.
 *
 * After each call into a plugin, its status and what it said come together in one error:
 *
 *     demist_status status = vtable->fill(self, &tables);
 *     DM_TRY(dm_host_take_error(&host, "fill", status, err)); */
#ifndef DM_HOSTTABLE_H
#define DM_HOSTTABLE_H

#include <demist/host.h>

#include <pthread.h>

#include "error.h"
#include "log.h"
#include "pool.h"

/* Must not be moved after dm_host_init. */
struct dm_host {
    demist_host table; /* what the instance gets */
    const struct dm_log *log;
    struct dm_pool *pool;
    char *who; /* "sampler ddim"; owned */
    pthread_mutex_t lock;
    struct dm_error error; /* the first failure of the current call; under lock */
};

/* `who` names the instance in messages: "sampler ddim". A NULL log is silent; a NULL pool is one
 * worker, the caller. Both must outlive the host. */
demist_status dm_host_init(struct dm_host *host, const char *who, const struct dm_log *log,
                           struct dm_pool *pool, struct dm_error *err);

/* [the instance destroyed] */
void dm_host_finish(struct dm_host *host);

/* Ends a call of the member `function`: returns `status`, with the text of host->fail, or with one
 * that names plugin and function where the plugin gave none. What was said in a call that succeeded
 * after all is dropped. A status that does not exist is DEMIST_INTERNAL. [any thread; calls into
 * one instance that run at once share their text] */
demist_status dm_host_take_error(struct dm_host *host, const char *function, demist_status status,
                                 struct dm_error *err);

#endif
