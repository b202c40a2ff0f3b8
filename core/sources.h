/* Where a network's parameters come from: opened checkpoints, each seen below a key prefix.
 *
 * Parameters are asked for by exact name while graphs are built. What is missing or has another
 * shape is collected, not reported at once, so that dm_sources_check can list everything that does
 * not fit, in both directions, when all graphs stand. */
#ifndef DM_SOURCES_H
#define DM_SOURCES_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

struct dm_sources;
struct dm_checkpoint;

/* Without any source; the first that is added becomes source 0. */
demist_status dm_sources_create(struct dm_sources **out, struct dm_error *err);

/* Files that are opened from now on keep the data of their parameters, where their format allows
 * it, until dm_sources_read: dm_sources_param then gives none. A checkpoint need not be in memory
 * beside what a backend makes of it. */
void dm_sources_read_late(struct dm_sources *sources);

/* NULL is legal. Ends the life of all data that dm_sources_param gave. */
void dm_sources_destroy(struct dm_sources *sources);

/* Opens a checkpoint, or finds the source of the same path and prefix. Only keys below `prefix`
 * count ("model" is the same as "model."; "" for all), and they are called by what follows it. A
 * file is read once however many sources it has. */
demist_status dm_sources_open(struct dm_sources *sources, const char *path, const char *prefix,
                              int32_t *source, struct dm_error *err);

/* The same for an open checkpoint, which must outlive the sources; `label` stands for its path. */
demist_status dm_sources_add(struct dm_sources *sources, const struct dm_checkpoint *checkpoint,
                             const char *label, const char *prefix, int32_t *source,
                             struct dm_error *err);

/* A source without a file that has every parameter asked for: `fill` sets its `n` values, zero on
 * entry (NULL: they stay zero). For training from scratch, and for measuring a network of any
 * size. It lists no keys and finds none. */
typedef demist_status (*dm_fill)(void *user, const char *key, int32_t rank, const int64_t *shape,
                                 int64_t n, float *values, struct dm_error *err);
demist_status dm_sources_add_blank(struct dm_sources *sources, dm_fill fill, void *user,
                                   int32_t *source, struct dm_error *err);

/* What follows takes source numbers from 0 to count − 1. */
int32_t dm_sources_count(const struct dm_sources *sources);

/* The path or label. */
const char *dm_sources_path(const struct dm_sources *sources, int32_t source);

/* The i-th key in byte order, without the prefix; NULL behind the last. */
const char *dm_sources_key(const struct dm_sources *sources, int32_t source, int64_t i);

/* Whether the key exists with at most 8 dimensions; sets rank and shape [8] if so, where not NULL.
 * Looking does not count as asking for it. */
bool dm_sources_find(const struct dm_sources *sources, int32_t source, const char *key,
                     int32_t *rank, int64_t *shape);

/* The tensor as row-major f32, 64-byte aligned, converted if it is of another type, valid until
 * dm_sources_destroy. *data is NULL, with DEMIST_OK, when it is missing or misshapen, which is
 * noted for dm_sources_check, and when it was left in the file. */
demist_status dm_sources_param(struct dm_sources *sources, int32_t source, const char *key,
                               int32_t rank, const int64_t *shape, const float **data,
                               struct dm_error *err);

/* Whether dm_sources_param was asked for the key and its shape was right. */
bool dm_sources_has(const struct dm_sources *sources, int32_t source, const char *key);

/* For such a key: its data, as dm_sources_param gives them, into `to`. */
demist_status dm_sources_read(const struct dm_sources *sources, int32_t source, const char *key,
                              float *to, struct dm_error *err);

/* Keys that match (`*` any text, `?` one character) are not unexpected. */
demist_status dm_sources_ignore(struct dm_sources *sources, int32_t source, const char *pattern,
                                struct dm_error *err);

/* After all graphs are built: INCOMPATIBLE with the list of all missing keys (each with the
 * nearest name that is there), misshapen ones (expected and found shape) and unexpected ones, per
 * source, at most 20 of a kind; and with the prefix that would mend it, where there is one. */
demist_status dm_sources_check(const struct dm_sources *sources, struct dm_error *err);

#endif
