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
#include "tensorfile.h"
#include "text.h"

enum { MOST_LISTED = 20 };

/* A key of a source, or one that was asked for. */
struct key {
    const char *name;                  /* without the prefix */
    const struct dm_tensor_view *view; /* NULL: missing */
    const float *data;                 /* NULL until it was asked for with the right shape */
    bool wanted, misshapen, ignored;
    int32_t rank; /* as it was asked for, when misshapen as that failed */
    int64_t shape[DEMIST_MAX_RANK];
};

struct source {
    const char *path, *prefix;        /* prefix: "" or with its final dot */
    const struct dm_checkpoint *file; /* NULL: blank */
    dm_fill fill;
    void *user;
    struct key *keys; /* sorted by name */
    size_t n_keys;
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
    struct dm_checkpoint **files; /* owned: those that dm_sources_open opened */
    const char **paths;           /* of files */
    int32_t n_files;
    struct block *blocks; /* converted data; owned */
    bool late;            /* data stay in the files */
};

demist_status dm_sources_create(struct dm_sources **out, struct dm_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? DEMIST_OK : dm_fail_memory(err, "the sources of parameters");
}

void dm_sources_read_late(struct dm_sources *sources)
{
    sources->late = true;
}

void dm_sources_destroy(struct dm_sources *sources)
{
    if (!sources)
        return;
    for (int32_t i = 0; i < sources->count; i++)
        free(sources->items[i]->missing);
    for (int32_t i = 0; i < sources->n_files; i++)
        dm_checkpoint_close(sources->files[i]);
    for (struct block *block = sources->blocks; block; block = block->next)
        dm_free_aligned(block->data);
    free(sources->items);
    free(sources->files);
    free(sources->paths);
    dm_arena_finish(&sources->arena);
    free(sources);
}

/* ---- Opening ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct key *)a)->name, ((const struct key *)b)->name);
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* The table of the file's keys below the prefix. */
static demist_status list_keys(struct dm_sources *sources, struct source *source,
                               struct dm_error *err)
{
    size_t count = dm_checkpoint_count(source->file);
    source->keys = dm_arena_array(&sources->arena, count, sizeof *source->keys);
    if (!source->keys)
        return dm_fail_memory(err, "the keys of a checkpoint");
    for (size_t i = 0; i < count; i++) {
        const struct dm_tensor_view *view = dm_checkpoint_at(source->file, i);
        if (!starts_with(view->name, source->prefix))
            continue;
        source->keys[source->n_keys++] =
            (struct key){.name = view->name + strlen(source->prefix), .view = view};
    }
    if (source->n_keys > 0)
        qsort(source->keys, source->n_keys, sizeof *source->keys, by_name);
    return DEMIST_OK;
}

/* "model" and "model." as "model.", NULL as ""; NULL when out of memory. */
static const char *with_dot(struct dm_sources *sources, const char *prefix)
{
    size_t n = prefix ? strlen(prefix) : 0;
    if (n == 0)
        return "";
    return prefix[n - 1] == '.' ? dm_arena_strdup(&sources->arena, prefix)
                                : dm_arena_printf(&sources->arena, "%s.", prefix);
}

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
    if (source->file)
        DM_TRY(list_keys(sources, source, err));
    *index = sources->count;
    sources->items[sources->count++] = source;
    return DEMIST_OK;
}

demist_status dm_sources_add(struct dm_sources *sources, const struct dm_checkpoint *checkpoint,
                             const char *label, const char *prefix, int32_t *source,
                             struct dm_error *err)
{
    struct source init = {.path = label, .prefix = with_dot(sources, prefix), .file = checkpoint};
    return append(sources, init, source, err);
}

demist_status dm_sources_add_blank(struct dm_sources *sources, dm_fill fill, void *user,
                                   int32_t *source, struct dm_error *err)
{
    struct source init = {.path = "(no file)", .prefix = "", .fill = fill, .user = user};
    return append(sources, init, source, err);
}

/* The open checkpoint of that path. */
static demist_status open_file(struct dm_sources *sources, const char *path,
                               const struct dm_checkpoint **out, struct dm_error *err)
{
    size_t n = (size_t)sources->n_files + 1;
    for (int32_t i = 0; i < sources->n_files; i++)
        if (strcmp(sources->paths[i], path) == 0) {
            *out = sources->files[i];
            return DEMIST_OK;
        }
    struct dm_checkpoint **files = realloc(sources->files, n * sizeof *files);
    if (files)
        sources->files = files;
    const char **paths = realloc(sources->paths, n * sizeof *paths);
    if (paths)
        sources->paths = paths;
    const char *copy = dm_arena_strdup(&sources->arena, path);
    if (!files || !paths || !copy)
        return dm_fail_memory(err, "opening a checkpoint");
    DM_TRY(sources->late ? dm_checkpoint_open_late(path, &files[n - 1], err)
                         : dm_checkpoint_open(path, &files[n - 1], err));
    paths[n - 1] = copy;
    sources->n_files++;
    *out = files[n - 1];
    return DEMIST_OK;
}

demist_status dm_sources_open(struct dm_sources *sources, const char *path, const char *prefix,
                              int32_t *source, struct dm_error *err)
{
    const struct dm_checkpoint *file = NULL;
    const char *below = with_dot(sources, prefix);
    if (!below)
        return dm_fail_memory(err, "opening a checkpoint");
    DM_TRY(open_file(sources, path, &file, err));
    for (int32_t i = 0; i < sources->count; i++)
        if (sources->items[i]->file == file && strcmp(sources->items[i]->prefix, below) == 0) {
            *source = i;
            return DEMIST_OK;
        }
    return dm_sources_add(sources, file, path, prefix, source, err);
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
    const struct source *from = sources->items[source];
    return i >= 0 && (uint64_t)i < from->n_keys ? from->keys[i].name : NULL;
}

static struct key *look_up(const struct source *source, const char *name)
{
    struct key wanted = {.name = name};
    return source->n_keys == 0
               ? NULL
               : bsearch(&wanted, source->keys, source->n_keys, sizeof wanted, by_name);
}

bool dm_sources_find(const struct dm_sources *sources, int32_t source, const char *key,
                     int32_t *rank, int64_t *shape)
{
    const struct key *found = look_up(sources->items[source], key);
    if (!found || found->view->rank > DEMIST_MAX_RANK)
        return false;
    if (rank)
        *rank = found->view->rank;
    for (int32_t i = 0; shape && i < DEMIST_MAX_RANK; i++)
        shape[i] = i < found->view->rank ? found->view->shape[i] : 0;
    return true;
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

static bool has_shape(const struct key *key, int32_t rank, const int64_t *shape)
{
    return key->view->rank == rank &&
           (rank == 0 || memcmp(key->view->shape, shape, (size_t)rank * sizeof *shape) == 0);
}

/* The tensor of the file as f32, wherever it is. */
static demist_status read_view(const struct source *source, const struct dm_tensor_view *view,
                               float *to, struct dm_error *err)
{
    if (view->dtype == DEMIST_F32)
        return dm_checkpoint_read(source->file, view, to, err);
    if (view->data)
        return dm_tensor_to_f32(view, to, err);
    struct dm_tensor_view copy = *view;
    void *bytes = dm_alloc_aligned(view->bytes, 0);
    if (!bytes)
        return dm_fail_memory(err, "a parameter");
    copy.data = bytes;
    demist_status status = dm_checkpoint_read(source->file, view, bytes, err);
    if (status == DEMIST_OK)
        status = dm_tensor_to_f32(&copy, to, err);
    dm_free_aligned(bytes);
    return status;
}

static demist_status read_key(const struct source *source, const struct key *key, float *to,
                              struct dm_error *err)
{
    if (read_view(source, key->view, to, err) != DEMIST_OK)
        return dm_fail_where(err, "%s: parameter '%s%s'", source->path, source->prefix, key->name);
    return DEMIST_OK;
}

static demist_status load(struct dm_sources *sources, struct source *source, struct key *key,
                          struct dm_error *err)
{
    const struct dm_tensor_view *view = key->view;
    if (!view->data && view->dtype != DM_DTYPE_OTHER)
        return DEMIST_OK;
    if (view->dtype == DEMIST_F32 && (uintptr_t)view->data % 64 == 0) {
        key->data = view->data;
        return DEMIST_OK;
    }
    float *data = new_data(sources, (int64_t)dm_tensor_elements(view), err);
    if (!data)
        return DEMIST_NO_MEMORY;
    DM_TRY(read_key(source, key, data, err));
    key->data = data;
    return DEMIST_OK;
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
    struct key *key = look_up(from, name);
    *data = NULL;
    DM_TRY(dm_shape_check(DEMIST_F32, rank, shape, err));
    if (!key && !(key = note_missing(sources, from, name, err)))
        return DEMIST_NO_MEMORY;
    if (!from->file && key->wanted && !same_shape(key, rank, shape))
        return dm_fail(err, DEMIST_INVALID, "parameter '%s' is asked for as %s and as %s", name,
                       dm_shape_text(key->rank, key->shape).text, dm_shape_text(rank, shape).text);
    bool fits = key->view ? has_shape(key, rank, shape) : !from->file;
    if (!key->wanted || (!fits && !key->misshapen))
        want_shape(key, rank, shape);
    key->wanted = true;
    key->misshapen |= key->view && !fits;
    if (fits && !key->data)
        DM_TRY(key->view ? load(sources, from, key, err) : make_up(sources, from, key, err));
    *data = fits ? key->data : NULL;
    return DEMIST_OK;
}

bool dm_sources_has(const struct dm_sources *sources, int32_t source, const char *name)
{
    const struct key *key = look_up(sources->items[source], name);
    return key && key->wanted && !key->misshapen;
}

demist_status dm_sources_read(const struct dm_sources *sources, int32_t source, const char *name,
                              float *to, struct dm_error *err)
{
    const struct source *from = sources->items[source];
    return read_key(from, look_up(from, name), to, err);
}

/* ---- Patterns ---- */

/* `*` any text, `?` one byte; linear but for backtracking to the last star. */
static bool matches(const char *pattern, const char *text)
{
    const char *star = NULL, *resume = NULL;
    while (*text) {
        if (*pattern == '*') {
            star = pattern++;
            resume = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star + 1;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

demist_status dm_sources_ignore(struct dm_sources *sources, int32_t source, const char *pattern,
                                struct dm_error *err)
{
    struct source *from = sources->items[source];
    for (size_t i = 0; i < from->n_keys; i++)
        from->keys[i].ignored = from->keys[i].ignored || matches(pattern, from->keys[i].name);
    return DEMIST_OK;
}

/* ---- The check ---- */

/* A list under a heading that stops after MOST_LISTED entries. */
struct listing {
    struct dm_text *text;
    const char *heading;
    size_t count;
};

static bool next_line(struct listing *list)
{
    if (list->count++ == 0)
        dm_text_append(list->text, list->heading);
    return list->count <= MOST_LISTED;
}

static void end_list(struct listing *list)
{
    if (list->count > MOST_LISTED)
        dm_text_appendf(list->text, "\n    … and %zu more", list->count - MOST_LISTED);
}

/* Only names that nobody asked for are offered in place of a missing one. */
static void list_missing(const struct source *source, struct listing *list)
{
    const char **spare = malloc((source->n_keys + 1) * sizeof *spare);
    size_t n = 0;
    for (size_t i = 0; spare && i < source->n_keys; i++)
        if (!source->keys[i].wanted)
            spare[n++] = source->keys[i].name;
    for (size_t i = 0; i < source->n_missing; i++) {
        const struct key *key = &source->missing[i];
        if (!next_line(list))
            continue;
        const char *nearest = spare ? dm_nearest(key->name, spare, n) : NULL;
        dm_text_appendf(list->text, "\n    %s %s", key->name,
                        dm_shape_text(key->rank, key->shape).text);
        if (nearest)
            dm_text_appendf(list->text, " (there is '%s')", nearest);
    }
    free(spare);
    end_list(list);
}

static void list_misshapen(const struct source *source, struct listing *list)
{
    for (size_t i = 0; i < source->n_keys; i++) {
        const struct key *key = &source->keys[i];
        if (!key->misshapen || !next_line(list))
            continue;
        dm_text_appendf(list->text, "\n    %s: the network has %s, the file %s", key->name,
                        dm_shape_text(key->rank, key->shape).text,
                        dm_shape_text(key->view->rank, key->view->shape).text);
    }
    end_list(list);
}

static void list_unexpected(const struct source *source, struct listing *list)
{
    for (size_t i = 0; i < source->n_keys; i++) {
        const struct key *key = &source->keys[i];
        if (key->wanted || key->ignored || !next_line(list))
            continue;
        dm_text_appendf(list->text, "\n    %s %s", key->name,
                        dm_shape_text(key->view->rank, key->view->shape).text);
    }
    end_list(list);
}

static bool ends_with(const char *text, const char *end, size_t *rest)
{
    size_t n = strlen(text), m = strlen(end);
    *rest = n - m;
    return n > m && strcmp(text + n - m, end) == 0;
}

/* Whether the file has every missing key, and every one that was found, below text[0..length). */
static bool prefix_fits(const struct source *source, const char *text, size_t length)
{
    struct dm_text name = DM_TEXT_INIT;
    bool fits = true;
    size_t n = source->n_missing + source->n_keys;
    for (size_t i = 0; fits && i < n; i++) {
        const struct key *key =
            i < source->n_missing ? &source->missing[i] : &source->keys[i - source->n_missing];
        if (!key->wanted)
            continue;
        name.size = 0;
        dm_text_append_bytes(&name, text, length);
        dm_text_append(&name, key->name);
        fits = !name.failed && dm_checkpoint_find(source->file, name.data) != NULL;
    }
    dm_text_finish(&name);
    return fits;
}

/* Names the prefix below which all keys that were asked for are, if another one than that in use:
 * it must be what stands before the first missing key somewhere in the file. */
static void hint_prefix(const struct source *source, int32_t index, struct dm_text *text)
{
    const char *first = source->missing[0].name;
    for (size_t i = 0; i < dm_checkpoint_count(source->file); i++) {
        const char *name = dm_checkpoint_at(source->file, i)->name;
        size_t n = 0;
        bool bare = strcmp(name, first) == 0;
        if (!bare && (!ends_with(name, first, &n) || name[n - 1] != '.'))
            continue;
        if (!prefix_fits(source, name, n))
            continue;
        if (index == 0)
            dm_text_appendf(text, "\n  All of them exist %s%.*s: set [network] prefix%s%.*s",
                            bare ? "without a prefix" : "below ", bare ? 0 : (int)n - 1, name,
                            bare ? " to nothing" : " = ", bare ? 0 : (int)n - 1, name);
        else
            dm_text_appendf(text, "\n  All of them exist %s%.*s: change this source's prefix",
                            bare ? "without a prefix" : "below ", bare ? 0 : (int)n - 1, name);
        return;
    }
}

/* Appends what does not fit in one source. */
static void describe(const struct source *source, int32_t index, struct dm_text *text)
{
    struct dm_text body = DM_TEXT_INIT;
    struct listing missing = {&body, "\n  missing:", 0};
    struct listing misshapen = {&body, "\n  of another shape:", 0};
    struct listing unexpected = {&body, "\n  unexpected:", 0};
    list_missing(source, &missing);
    list_misshapen(source, &misshapen);
    list_unexpected(source, &unexpected);
    if (missing.count + misshapen.count + unexpected.count > 0) {
        dm_text_appendf(text,
                        "%s%s%s%s: the tensors are not what the network has (%zu missing, "
                        "%zu of another shape, %zu unexpected)",
                        text->size > 0 ? "\n" : "", source->path, *source->prefix ? ", below " : "",
                        source->prefix, missing.count, misshapen.count, unexpected.count);
        if (missing.count > 0)
            hint_prefix(source, index, text);
        dm_text_append(text, body.data ? body.data : "");
    }
    text->failed |= body.failed;
    dm_text_finish(&body);
}

demist_status dm_sources_check(const struct dm_sources *sources, struct dm_error *err)
{
    struct dm_text text = DM_TEXT_INIT;
    for (int32_t i = 0; i < sources->count; i++)
        if (sources->items[i]->file)
            describe(sources->items[i], i, &text);
    bool failed = text.failed;
    char *message = dm_text_take(&text);
    if (failed || !message)
        return dm_fail_memory(err, "the list of tensors that do not fit");
    demist_status status = *message ? dm_fail(err, DEMIST_INCOMPATIBLE, "%s", message) : DEMIST_OK;
    free(message);
    return status;
}
