/* One file for each thing kept: a header, then the data. The header repeats what the file was kept
 * for and holds a checksum, so that whatever does not fit (damaged, cut short, of another driver)
 * is known and treated as missing. */
#include "hostcache.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fileio.h"
#include "text.h"

#define MOST_BYTES ((size_t)1 << 30) /* of a file; a binary has a few megabytes */

static const char magic[8] = "demist2";

struct header {
    char magic[8];
    uint64_t key, hash[2], bytes, checksum;
};

/* What `internal` points to; the table is its first member, so that both are freed at once. */
struct folder {
    demist_cache table;
    const demist_host *host;
    char *path;
};

static bool is_word(const char *word)
{
    return word[0] && word[strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789-")] == '\0';
}

static uint64_t key_of(uint64_t seed, const char *kind, const char *key)
{
    return demist_hash(demist_hash(seed, kind, strlen(kind)), key, strlen(key));
}

static struct header header_of(const char *kind, const char *key, const uint64_t hash[2],
                               const void *data, size_t bytes)
{
    struct header h = {.key = key_of(1, kind, key),
                       .hash = {hash[0], hash[1]},
                       .bytes = bytes,
                       .checksum = demist_hash(2, data, bytes)};
    memcpy(h.magic, magic, sizeof magic);
    return h;
}

static void not_kept(const struct folder *f, const struct dm_error *err)
{
    f->host->log(f->host, DEMIST_LOG_DEBUG, "the cache keeps nothing: %s",
                 err->text ? err->text : dm_status_text(err->status));
}

/* A string for free(); NULL, which is logged, for a kind that is no word. */
static char *file_name(const struct folder *f, const char *kind, const char *key,
                       const uint64_t hash[2])
{
    struct dm_text path = DM_TEXT_INIT;
    if (!is_word(kind)) {
        f->host->log(f->host, DEMIST_LOG_WARNING,
                     "the cache keeps nothing of the kind \"%s\": a kind is a word of a-z, 0-9 "
                     "and -",
                     kind);
        return NULL;
    }
    dm_text_appendf(&path, "%s/%s-%016" PRIx64 "-%016" PRIx64, f->path, kind, key_of(0, kind, key),
                    hash[0] ^ hash[1]);
    return dm_text_take(&path);
}

/* The data in a file's `size` bytes if they are what was asked for; otherwise NULL. */
static const char *data_in(const char *file, size_t size, const char *kind, const char *key,
                           const uint64_t hash[2])
{
    struct header found;
    if (size < sizeof found)
        return NULL;
    const char *data = file + sizeof found;
    const struct header wanted = header_of(kind, key, hash, data, size - sizeof found);
    memcpy(&found, file, sizeof found);
    return memcmp(&found, &wanted, sizeof found) == 0 ? data : NULL;
}

static void *load(const demist_cache *cache, const char *kind, const char *key,
                  const uint64_t hash[2], size_t *bytes)
{
    const struct folder *f = cache->internal;
    struct dm_error err = DM_ERROR_INIT;
    char *file = NULL, *path = file_name(f, kind, key, hash);
    void *copy = NULL;
    size_t size = 0;
    if (path && dm_read_file(path, MOST_BYTES, &file, &size, &err) == DEMIST_OK) {
        const char *data = data_in(file, size, kind, key, hash);
        *bytes = data ? size - sizeof(struct header) : 0;
        if (data && (copy = f->host->alloc(f->host, *bytes, 0)))
            memcpy(copy, data, *bytes);
        else if (!data)
            f->host->log(f->host, DEMIST_LOG_DEBUG,
                         "%s is not used: it is damaged, or of another device or driver", path);
    }
    dm_error_clear(&err);
    free(file);
    free(path);
    return copy;
}

static demist_status write_file(const char *path, const struct header *header, const void *data,
                                struct dm_error *err)
{
    struct dm_outfile out = DM_OUTFILE_INIT;
    demist_status status = dm_outfile_open(&out, path, err);
    if (status == DEMIST_OK)
        status = dm_outfile_write(&out, header, sizeof *header, err);
    if (status == DEMIST_OK)
        status = dm_outfile_write(&out, data, (size_t)header->bytes, err);
    if (status == DEMIST_OK)
        status = dm_outfile_commit(&out, err);
    dm_outfile_finish(&out);
    return status;
}

static void store(const demist_cache *cache, const char *kind, const char *key,
                  const uint64_t hash[2], const void *data, size_t bytes)
{
    const struct folder *f = cache->internal;
    struct dm_error err = DM_ERROR_INIT;
    char *path = file_name(f, kind, key, hash);
    if (!path)
        return;
    const struct header header = header_of(kind, key, hash, data, bytes);
    if (bytes > MOST_BYTES - sizeof header)
        dm_fail(&err, DEMIST_INVALID, "%zu bytes are too many for \"%s\"", bytes, path);
    else if (dm_make_dirs(f->path, 0700, &err) == DEMIST_OK)
        write_file(path, &header, data, &err);
    if (err.status != DEMIST_OK)
        not_kept(f, &err);
    dm_error_clear(&err);
    free(path);
}

static void close_folder(demist_cache *cache)
{
    struct folder *f = cache->internal;
    free(f->path);
    f->host->free(f->host, f);
}

/* The folder's path for free() in *path, or NULL where nothing is to be kept. */
static demist_status folder_path(const demist_host *host, const char *option, const char *name,
                                 char **path, struct dm_error *err)
{
    *path = NULL;
    if (strcmp(option, "off") == 0)
        return DEMIST_OK;
    if (option[0] == '/') {
        *path = strdup(option);
        return *path ? DEMIST_OK : dm_fail_memory(err, option);
    }
    if (strcmp(option, "auto") != 0)
        return dm_fail(err, DEMIST_CONFIG,
                       "cache = %s: give auto, off, or a folder whose path starts with /", option);
    struct dm_text below = DM_TEXT_INIT;
    dm_text_appendf(&below, "demist/%s", name);
    char *folder = dm_text_take(&below);
    if (!folder)
        return dm_fail_memory(err, name);
    const demist_status status = dm_user_path("XDG_CACHE_HOME", ".cache", folder, path, err);
    if (status == DEMIST_OK && !*path)
        host->log(host, DEMIST_LOG_DEBUG,
                  "nothing is cached: neither XDG_CACHE_HOME nor HOME is an absolute path");
    free(folder);
    return status;
}

static demist_status open_folder(const demist_host *host, const char *option, const char *name,
                                 demist_cache **cache)
{
    struct dm_error err = DM_ERROR_INIT;
    char *path = NULL;
    *cache = NULL;
    if (!is_word(name))
        return host->fail(host, DEMIST_INVALID,
                          "the cache's name \"%s\" is no word of a-z, 0-9 and -", name);
    const demist_status status = folder_path(host, option, name, &path, &err);
    if (status != DEMIST_OK)
        host->fail(host, status, "%s", err.text ? err.text : dm_status_text(status));
    dm_error_clear(&err);
    if (!path)
        return status;
    struct folder *f = host->alloc(host, sizeof *f, 0);
    if (!f) {
        free(path);
        return DEMIST_NO_MEMORY;
    }
    *f = (struct folder){.table = {.size = sizeof f->table,
                                   .internal = f,
                                   .load = load,
                                   .store = store,
                                   .close = close_folder},
                         .host = host,
                         .path = path};
    *cache = &f->table;
    return DEMIST_OK;
}

const demist_cache_service dm_cache_service = {
    .size = sizeof(demist_cache_service),
    .open = open_folder,
};
