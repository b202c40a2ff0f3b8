/* Files that save work: measured choices, in the user's cache folder.
 *
 * A file holds the key that it was made for (device, version, driver), the hash of what it was made
 * from, and a checksum. Whatever does not fit (damaged, cut short, of another driver) is treated
 * as missing. Files are written to a temporary name and renamed, so that two runs at once cannot
 * spoil them. */
#include "cuda_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "demist1";

struct header {
    char magic[8];
    uint64_t key, hash[2], bytes, checksum;
};

/* FNV-1a, whitened at the end */
uint64_t cu_hash(uint64_t seed, const void *data, size_t bytes)
{
    const unsigned char *at = data;
    uint64_t h = 0xcbf29ce484222325 ^ seed;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ at[i]) * 0x100000001b3;
    h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9;
    return h ^ h >> 32;
}

/* --- the folder --- */

static demist_status set_folder(struct cu_cache *cache, const char *base, const char *below)
{
    const demist_host *host = cache->host;
    const size_t bytes = strlen(base) + strlen(below) + 1;
    cache->folder = host->alloc(host, bytes, 0);
    if (!cache->folder)
        return DEMIST_NO_MEMORY;
    snprintf(cache->folder, bytes, "%s%s", base, below);
    return DEMIST_OK;
}

demist_status cu_cache_init(struct cu_cache *cache, const demist_host *host, const char *option)
{
    *cache = (struct cu_cache){.host = host};
    if (strcmp(option, "off") == 0)
        return DEMIST_OK;
    if (strcmp(option, "auto") != 0) {
        if (option[0] != '/')
            return host->fail(host, DEMIST_CONFIG,
                              "cache = %s: give auto, off, or a folder whose path starts with /",
                              option);
        return set_folder(cache, option, "");
    }
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (base && base[0] == '/')
        return set_folder(cache, base, "/demist/cuda");
    if (home && home[0] == '/')
        return set_folder(cache, home, "/.cache/demist/cuda");
    return DEMIST_OK;
}

void cu_cache_finish(struct cu_cache *cache)
{
    if (cache->host)
        cache->host->free(cache->host, cache->folder);
}

static void make_folders(char *path)
{
    for (char *at = path + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    mkdir(path, 0700);
}

/* --- files --- */

static bool file_name(const struct cu_cache *cache, const char *kind, const char *key,
                      const uint64_t hash[2], char *path, size_t size)
{
    const int n = snprintf(path, size, "%s/%s-%016" PRIx64 "-%016" PRIx64, cache->folder, kind,
                           cu_hash(0, key, strlen(key)), hash[0] ^ hash[1]);
    return n > 0 && (size_t)n < size;
}

static void fill_header(struct header *h, const char *key, const uint64_t hash[2], const void *data,
                        size_t bytes)
{
    memset(h, 0, sizeof *h);
    memcpy(h->magic, magic, sizeof magic);
    h->key = cu_hash(1, key, strlen(key));
    h->hash[0] = hash[0];
    h->hash[1] = hash[1];
    h->bytes = bytes;
    h->checksum = cu_hash(2, data, bytes);
}

static bool read_all(int fd, void *to, size_t bytes)
{
    char *at = to;
    while (bytes > 0) {
        const ssize_t n = read(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const void *from, size_t bytes)
{
    const char *at = from;
    while (bytes > 0) {
        const ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* The file's data, or NULL with *why. */
static unsigned char *read_file(const struct cu_cache *cache, int fd, const char *key,
                                const uint64_t hash[2], size_t *bytes, const char **why)
{
    struct header found, wanted;
    struct stat st;
    *why = "it is cut short or of another kind";
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof found ||
        !read_all(fd, &found, sizeof found) || found.bytes != (uint64_t)st.st_size - sizeof found ||
        found.bytes == 0)
        return NULL;
    unsigned char *data = cache->host->alloc(cache->host, (size_t)found.bytes, 0);
    if (!data || !read_all(fd, data, (size_t)found.bytes)) {
        cache->host->free(cache->host, data);
        return NULL;
    }
    fill_header(&wanted, key, hash, data, (size_t)found.bytes);
    *bytes = (size_t)found.bytes;
    if (memcmp(&found, &wanted, sizeof found) == 0)
        return data;
    cache->host->free(cache->host, data);
    *why = "it is damaged, or of another device or driver";
    return NULL;
}

unsigned char *cu_cache_load(const struct cu_cache *cache, const char *kind, const char *key,
                             const uint64_t hash[2], size_t *bytes)
{
    char path[4096];
    const char *why = NULL;
    if (!cache->folder || !file_name(cache, kind, key, hash, path, sizeof path))
        return NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    unsigned char *data = read_file(cache, fd, key, hash, bytes, &why);
    close(fd);
    if (!data)
        cache->host->log(cache->host, DEMIST_LOG_DEBUG, "%s is not used: %s", path, why);
    return data;
}

void cu_cache_store(const struct cu_cache *cache, const char *kind, const char *key,
                    const uint64_t hash[2], const void *data, size_t bytes)
{
    char path[4096], temporary[4112];
    struct header header;
    if (!cache->folder || !file_name(cache, kind, key, hash, path, sizeof path))
        return;
    make_folders(cache->folder);
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    const int fd = mkstemp(temporary);
    if (fd < 0) {
        cache->host->log(cache->host, DEMIST_LOG_DEBUG, "%s cannot be written: %s", path,
                         strerror(errno));
        return;
    }
    fill_header(&header, key, hash, data, bytes);
    const bool written = write_all(fd, &header, sizeof header) && write_all(fd, data, bytes);
    if (close(fd) != 0 || !written || rename(temporary, path) != 0) {
        cache->host->log(cache->host, DEMIST_LOG_DEBUG, "%s cannot be written: %s", path,
                         strerror(errno));
        unlink(temporary);
    }
}
