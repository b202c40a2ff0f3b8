/* The cache that the host keeps for plugins: see demist/cache.h. */
#ifndef DM_HOSTCACHE_H
#define DM_HOSTCACHE_H

#include <demist/cache.h>

/* What host->extension(host, DEMIST_EXT_CACHE) returns. Of the host that a plugin opens a cache
 * with it needs log, fail, alloc and free alone. */
extern const demist_cache_service dm_cache_service;

#endif
