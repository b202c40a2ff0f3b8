/* Checkpoints as sources of parameters: see sources.h. A source is a sorted table of the keys below
 * its prefix, with what became of each; keys that were asked for in vain are in a list of their
 * own. */
#include "sources.h"

#include <demist/abi.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "shape.h"

/* A key of a source, or one that was asked for. */
struct key {
    const char *name;  /* without the prefix */
    const float *data; /* NULL until it was asked for with the right shape */
    bool wanted;
    int32_t rank; /* as it was asked for, when misshapen as that failed */
    int64_t shape[DEMIST_MAX_RANK];
};

struct source {
    const char *path, *prefix; /* prefix: "" or with its final dot */
    dm_fill fill;
    void *user;
    struct key *missing; /* of a blank source: what was made up */
    size_t n_missing, capacity;
};

struct block {
    struct block *next;
    void *data;
};

struct dm_sources {
    struct dm_arena arena;
    struct source **items;
    int32_t count;
    struct block *blocks; /* converted data; owned */
};

demist_status dm_sources_create(struct dm_sources **out, struct dm_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? DEMIST_OK : dm_fail_memory(err, "the sources of parameters");
}

void dm_sources_destroy(struct dm_sources *sources)
{
    if (!sources)
        return;
    for (int32_t i = 0; i < sources->count; i++)
        free(sources->items[i]->missing);
    for (struct block *block = sources->blocks; block; block = block->next)
        dm_free_aligned(block->data);
    free(sources->items);
    dm_arena_finish(&sources->arena);
    free(sources);
}

/* ---- Opening ---- */

static demist_status append(struct dm_sources *sources, struct source init, int32_t *index,
                            struct dm_error *err)
{
    struct source *source = dm_arena_alloc(&sources->arena, sizeof *source);
    struct source **items =
        realloc(sources->items, ((size_t)sources->count + 1) * sizeof(struct source *));
    if (items)
        sources->items = items;
    init.path = dm_arena_strdup(&sources->arena, init.path);
    if (!source || !items || !init.path || !init.prefix)
        return dm_fail_memory(err, "a source of parameters");
    *source = init;
    *index = sources->count;
    sources->items[sources->count++] = source;
    return DEMIST_OK;
}

demist_status dm_sources_add_blank(struct dm_sources *sources, dm_fill fill, void *user,
                                   int32_t *source, struct dm_error *err)
{
    struct source init = {.path = "(no file)", .prefix = "", .fill = fill, .user = user};
    return append(sources, init, source, err);
}

demist_status dm_sources_open(struct dm_sources *sources, const char *path, const char *prefix,
                              int32_t *source, struct dm_error *err)
{
    return dm_fail(err, DEMIST_UNSUPPORTED, "%s: this build cannot read checkpoints yet", path);
}

/* ---- Looking ---- */

int32_t dm_sources_count(const struct dm_sources *sources)
{
    return sources->count;
}

const char *dm_sources_path(const struct dm_sources *sources, int32_t source)
{
    return sources->items[source]->path;
}

const char *dm_sources_key(const struct dm_sources *sources, int32_t source, int64_t i)
{
    return NULL;
}

bool dm_sources_find(const struct dm_sources *sources, int32_t source, const char *key,
                     int32_t *rank, int64_t *shape)
{
    return false;
}

/* ---- Parameters ---- */

/* Zeroed, 64-byte aligned, freed with the sources. */
static float *new_data(struct dm_sources *sources, int64_t n, struct dm_error *err)
{
    struct block *block = dm_arena_alloc(&sources->arena, sizeof *block);
    float *data = block ? dm_alloc_aligned((size_t)n * sizeof *data, 64) : NULL;
    if (!data) {
        dm_fail_memory(err, "a parameter");
        return NULL;
    }
    memset(data, 0, (size_t)n * sizeof *data);
    *block = (struct block){sources->blocks, data};
    sources->blocks = block;
    return data;
}

/* The note of a key that the source does not have; made once. */
static struct key *note_missing(struct dm_sources *sources, struct source *source, const char *name,
                                struct dm_error *err)
{
    for (size_t i = 0; i < source->n_missing; i++)
        if (strcmp(source->missing[i].name, name) == 0)
            return &source->missing[i];
    const char *copy = dm_arena_strdup(&sources->arena, name);
    if (source->n_missing == source->capacity) {
        size_t capacity = source->capacity ? 2 * source->capacity : 16;
        struct key *keys = realloc(source->missing, capacity * sizeof *keys);
        if (keys) {
            source->missing = keys;
            source->capacity = capacity;
        }
    }
    if (!copy || source->n_missing == source->capacity) {
        dm_fail_memory(err, "the list of missing parameters");
        return NULL;
    }
    source->missing[source->n_missing] = (struct key){.name = copy};
    return &source->missing[source->n_missing++];
}

static demist_status make_up(struct dm_sources *sources, struct source *source, struct key *key,
                             struct dm_error *err)
{
    int64_t n = 1;
    for (int32_t i = 0; i < key->rank; i++)
        n *= key->shape[i];
    float *data = new_data(sources, n, err);
    if (!data)
        return DEMIST_NO_MEMORY;
    if (source->fill)
        DM_TRY(source->fill(source->user, key->name, key->rank, key->shape, n, data, err));
    key->data = data;
    return DEMIST_OK;
}

static bool same_shape(const struct key *key, int32_t rank, const int64_t *shape)
{
    return key->rank == rank &&
           (rank == 0 || memcmp(key->shape, shape, (size_t)rank * sizeof *shape) == 0);
}

static void want_shape(struct key *key, int32_t rank, const int64_t *shape)
{
    key->rank = rank;
    memset(key->shape, 0, sizeof key->shape);
    if (rank > 0)
        memcpy(key->shape, shape, (size_t)rank * sizeof *shape);
}

demist_status dm_sources_param(struct dm_sources *sources, int32_t source, const char *name,
                               int32_t rank, const int64_t *shape, const float **data,
                               struct dm_error *err)
{
    struct source *from = sources->items[source];
    struct key *key;
    *data = NULL;
    DM_TRY(dm_shape_check(DEMIST_F32, rank, shape, err));
    if (!(key = note_missing(sources, from, name, err)))
        return DEMIST_NO_MEMORY;
    if (key->wanted && !same_shape(key, rank, shape))
        return dm_fail(err, DEMIST_INVALID, "parameter '%s' is asked for as %s and as %s", name,
                       dm_shape_text(key->rank, key->shape).text, dm_shape_text(rank, shape).text);
    if (!key->wanted)
        want_shape(key, rank, shape);
    key->wanted = true;
    if (!key->data)
        DM_TRY(make_up(sources, from, key, err));
    *data = key->data;
    return DEMIST_OK;
}

demist_status dm_sources_ignore(struct dm_sources *sources, int32_t source, const char *pattern,
                                struct dm_error *err)
{
    return DEMIST_OK;
}

/* A list under a heading that stops after MOST_LISTED entries. */
struct listing {
    struct dm_text *text;
    const char *heading;
    size_t count;
};

demist_status dm_sources_check(const struct dm_sources *sources, struct dm_error *err)
{
    return DEMIST_OK;
}
