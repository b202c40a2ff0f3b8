/* Results of slow work that outlive a run: compiled kernels, measured choices. The host keeps them
 * as files in the user's cache folder; a plugin names what it stores and what that is good for.
 *
 *     demist_cache *cache;
 *     TRY(demist_cache_open(host, values[CACHE]->text, "my-backend", &cache));
 *     void *binary = demist_cache_load(cache, "program", driver_version, hash, &bytes);
 *     if (!binary) {
 *         … compile …
 *         demist_cache_store(cache, "program", driver_version, hash, binary, bytes);
 *     }
 *
 * A cache only saves time. What is damaged, cut short, or was made for something else is missing;
 * what cannot be written is not kept; both are logged for debugging and neither is an error. */
#ifndef DEMIST_CACHE_H
#define DEMIST_CACHE_H

#include <demist/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An opened folder. NULL stands for a cache that is off: the functions below accept it. */
typedef struct demist_cache demist_cache;
struct demist_cache {
    size_t size;
    void *internal; /* the host's own */

    /* [any thread, several at once] What was stored last under (kind, key, hash), in memory for
     * host->free, its size in *bytes; NULL: nothing that can be used.
     *
     * kind: what it is, one word of [a-z0-9-], part of the file's name: "program". key: what it is
     * good for, any text: device, driver, their versions, and the plugin's own where its data may
     * come to mean something else. hash: of all that it was made from (demist_hash). */
    void *(*load)(const demist_cache *cache, const char *kind, const char *key,
                  const uint64_t hash[2], size_t *bytes);

    /* [any thread, several at once, in other processes too] Keeps a copy of data under
     * (kind, key, hash), whole or not at all. The folder is made on the first store. */
    void (*store)(const demist_cache *cache, const char *kind, const char *key,
                  const uint64_t hash[2], const void *data, size_t bytes);

    /* [any thread, nothing else running on it] Frees the cache, and leaves its files. */
    void (*close)(demist_cache *cache);
};

/* What host->extension(host, DEMIST_EXT_CACHE) returns. */
#define DEMIST_EXT_CACHE "demist.cache/1"

typedef struct demist_cache_service {
    size_t size;
    /* [any thread] option, as the user wrote it: "auto", the folder demist/NAME in
     * $XDG_CACHE_HOME or else ~/.cache (off where neither is set); "off"; or a folder's absolute
     * path. name: the plugin's, of [a-z0-9-]. *cache is NULL when off. `host` must outlive it.
     * DEMIST_CONFIG for another option, with `fail` called. */
    demist_status (*open)(const demist_host *host, const char *option, const char *name,
                          demist_cache **cache);
} demist_cache_service;

/* --- Shorthands --- */

/* On a host without the service nothing is kept. */
static inline demist_status demist_cache_open(const demist_host *host, const char *option,
                                              const char *name, demist_cache **cache)
{
    const demist_cache_service *service =
        (const demist_cache_service *)host->extension(host, DEMIST_EXT_CACHE);
    *cache = NULL;
    return service ? service->open(host, option, name, cache) : DEMIST_OK;
}

static inline void *demist_cache_load(const demist_cache *cache, const char *kind, const char *key,
                                      const uint64_t hash[2], size_t *bytes)
{
    return cache ? cache->load(cache, kind, key, hash, bytes) : NULL;
}

static inline void demist_cache_store(const demist_cache *cache, const char *kind, const char *key,
                                      const uint64_t hash[2], const void *data, size_t bytes)
{
    if (cache)
        cache->store(cache, kind, key, hash, data, bytes);
}

static inline void demist_cache_close(demist_cache *cache)
{
    if (cache)
        cache->close(cache);
}

/* FNV-1a of the bytes, whitened at the end. Of several pieces: the hash of one is the seed of the
 * next. Another seed gives another hash of the same bytes. Not for secrets. */
static inline uint64_t demist_hash(uint64_t seed, const void *data, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)data;
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ seed;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ at[i]) * UINT64_C(0x100000001b3); /* NOLINT: bytes of any object */
    h = (h ^ h >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return h ^ h >> 32;
}

#ifdef __cplusplus
}
#endif
#endif
