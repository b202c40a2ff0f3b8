#include "torchfile.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "unpickle.h"
#include "utf8.h"

enum {
    MAX_DEPTH = 64,   /* of nested containers */
    MAX_PATH = 1024,  /* of a dotted name */
    MAX_VALUE = 4096, /* of a text that is kept as metadata */
    MAX_ITEMS = 64,   /* of a list whose numbers are kept as metadata */
    /* A value shared by many containers is walked once for each: a few bytes of pickle could make
     * a tree of any size. Real files share next to nothing. */
    MAX_SHARING = 16,
};

/* Copies of views that are not row-major: four times the file, or 64 MiB if that is more. */
#define MIN_COPIES ((uint64_t)64 << 20)

/* A tensor with its dotted name (in the unpickler's arena). */
struct leaf {
    const char *name;
    const struct dm_pickle_tensor *tensor;
};

struct loader {
    struct dm_checkpoint *ckpt;
    struct dm_unpickler unpickler;
    struct leaf *leaves;
    size_t n_leaves, capacity;
    uint64_t steps_left; /* of the walk */
    uint64_t copies_left;
    char path[MAX_PATH + 1];
    size_t path_length;
    struct dm_pickle_storage **storages; /* sorted by key */
    size_t n_storages;
    struct dm_error *err;
};

static void loader_finish(struct loader *l)
{
    dm_unpickler_finish(&l->unpickler);
    free(l->leaves);
    free(l->storages);
}

/* ---- the walk over the values ---- */

static demist_status keep_text(struct loader *l, const char *text, size_t length)
{
    if (length > MAX_VALUE || dm_utf8_check(text, length) < length || memchr(text, '\0', length))
        return DEMIST_OK; /* nothing that a list of settings would show */
    return dm_checkpoint_add_metadata(l->ckpt, l->path, l->path_length, text, length, l->err);
}

static demist_status keep_scalar(struct loader *l, const struct dm_pickle_value *v)
{
    char text[DM_DOUBLE_TEXT];
    switch (v->kind) {
    case DM_PICKLE_BOOL:
        return v->truth ? keep_text(l, "true", 4) : keep_text(l, "false", 5);
    case DM_PICKLE_INT:
        return keep_text(l, text, (size_t)snprintf(text, sizeof text, "%" PRId64, v->integer));
    case DM_PICKLE_FLOAT:
        dm_format_double(v->real, text);
        return keep_text(l, text, strlen(text));
    case DM_PICKLE_TEXT:
        return keep_text(l, v->text.bytes, v->text.length);
    default:
        return DEMIST_OK;
    }
}

static demist_status keep_tensor(struct loader *l, const struct dm_pickle_tensor *tensor)
{
    if (!dm_grow(&l->leaves, l->n_leaves, &l->capacity, sizeof *l->leaves))
        return dm_fail_memory(l->err, "the list of tensors");
    const char *name = dm_arena_strndup(&l->unpickler.arena, l->path, l->path_length);
    if (!name)
        return dm_fail_memory(l->err, "the names of tensors");
    tensor->storage->used = true;
    l->leaves[l->n_leaves++] = (struct leaf){name, tensor};
    return DEMIST_OK;
}

static demist_status append_path(struct loader *l, const char *text, size_t length)
{
    size_t dot = l->path_length > 0;
    if (length > MAX_PATH - dot || l->path_length > MAX_PATH - dot - length ||
        memchr(text, '\0', length))
        return dm_fail(l->err, DEMIST_FORMAT, "the key \"%s\" under \"%s\" is no usable name",
                       dm_printable(text, length).text, dm_printable(l->path, l->path_length).text);
    if (dot)
        l->path[l->path_length++] = '.';
    memcpy(l->path + l->path_length, text, length);
    l->path_length += length;
    l->path[l->path_length] = '\0';
    return DEMIST_OK;
}

/* The path's next part: the key, or the position where that is neither text nor a whole number. */
static demist_status append_key(struct loader *l, const struct dm_pickle_value *key, size_t i)
{
    char text[32];
    if (key && key->kind == DM_PICKLE_TEXT)
        return append_path(l, key->text.bytes, key->text.length);
    if (key && key->kind == DM_PICKLE_INT)
        snprintf(text, sizeof text, "%" PRId64, key->integer);
    else
        snprintf(text, sizeof text, key ? "#%zu" : "%zu", i);
    return append_path(l, text, strlen(text));
}

static bool is_container(const struct dm_pickle_value *v)
{
    return v->kind == DM_PICKLE_DICT || v->kind == DM_PICKLE_LIST || v->kind == DM_PICKLE_TUPLE;
}

static demist_status walk(struct loader *l, const struct dm_pickle_value *v, int depth)
{
    if (l->steps_left-- == 0)
        return dm_fail(l->err, DEMIST_FORMAT, "values share each other beyond all measure");
    if (v->kind == DM_PICKLE_TENSOR)
        return keep_tensor(l, v->tensor);
    if (!is_container(v))
        return keep_scalar(l, v);
    if (depth == MAX_DEPTH)
        return dm_fail(l->err, DEMIST_FORMAT, "containers nested deeper than %d", MAX_DEPTH);
    bool dict = v->kind == DM_PICKLE_DICT;
    size_t count = dict ? v->list.count / 2 : v->list.count, length = l->path_length;
    for (size_t i = 0; i < count; i++) {
        const struct dm_pickle_value *key = dict ? v->list.items[2 * i] : NULL;
        const struct dm_pickle_value *child = v->list.items[dict ? 2 * i + 1 : i];
        if (!dict && count > MAX_ITEMS && !is_container(child) && child->kind != DM_PICKLE_TENSOR)
            continue; /* a history of losses, say */
        DM_TRY(append_key(l, key, i));
        DM_TRY(walk(l, child, depth + 1));
        l->path_length = length;
        l->path[length] = '\0';
    }
    return DEMIST_OK;
}

static demist_status collect(struct loader *l, const struct dm_pickle_value *root)
{
    if (l->unpickler.ops > UINT64_MAX / MAX_SHARING)
        return dm_fail(l->err, DEMIST_FORMAT, "an impossible pickle");
    l->steps_left = l->unpickler.ops * MAX_SHARING;
    if (root->kind == DM_PICKLE_TENSOR)
        DM_TRY(append_path(l, "tensor", 6));
    else if (!is_container(root))
        return dm_fail(l->err, DEMIST_UNSUPPORTED, "holds neither a tensor nor a dictionary");
    return walk(l, root, 0);
}

/* ---- storages ---- */

static int compare_text(const char *a, size_t n, const char *b, size_t m)
{
    int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

static int compare_storages(const void *a, const void *b)
{
    const struct dm_pickle_storage *const *left = a, *const *right = b;
    return compare_text((*left)->key, (*left)->key_length, (*right)->key, (*right)->key_length);
}

static demist_status sort_storages(struct loader *l)
{
    size_t n = 0;
    for (struct dm_pickle_storage *s = l->unpickler.storages; s; s = s->next)
        n++;
    l->storages = malloc((n + 1) * sizeof *l->storages);
    if (!l->storages)
        return dm_fail_memory(l->err, "the list of storages");
    l->n_storages = n;
    for (struct dm_pickle_storage *s = l->unpickler.storages; s; s = s->next)
        l->storages[--n] = s;
    qsort(l->storages, l->n_storages, sizeof *l->storages, compare_storages);
    return DEMIST_OK;
}

/* The end of the run of equal keys that starts at `first`. */
static size_t group_end(const struct loader *l, size_t first)
{
    size_t end = first + 1;
    while (end < l->n_storages && compare_storages(&l->storages[first], &l->storages[end]) == 0)
        end++;
    return end;
}

static uint64_t storage_bytes(const struct dm_pickle_storage *s)
{
    return (uint64_t)s->numel * s->element.bytes;
}

/* Gives every storage of the group its data, or the part of them that it stands for. A storage that
 * is seen as several types is as large as the largest says. */
static demist_status share(struct loader *l, size_t first, size_t end, const uint8_t *data,
                           uint64_t bytes)
{
    uint64_t declared = 0;
    for (size_t i = first; i < end; i++)
        if (storage_bytes(l->storages[i]) > declared)
            declared = storage_bytes(l->storages[i]);
    if (declared != bytes)
        return dm_fail(l->err, DEMIST_FORMAT, "has %llu bytes, but %llu are declared",
                       (unsigned long long)bytes, (unsigned long long)declared);
    for (size_t i = first; i < end; i++) {
        struct dm_pickle_storage *s = l->storages[i];
        bool part = s->view_offset >= 0;
        s->data = data + (part ? (uint64_t)s->view_offset * s->element.bytes : 0);
        s->bytes = part ? (uint64_t)s->view_numel * s->element.bytes : storage_bytes(s);
    }
    return DEMIST_OK;
}

static bool any_used(const struct loader *l, size_t first, size_t end)
{
    bool used = false;
    for (size_t i = first; i < end; i++)
        used |= l->storages[i]->used;
    return used;
}

/* ---- tensors ---- */

static bool is_row_major(const struct dm_pickle_tensor *t)
{
    int64_t expected = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != expected)
            return false;
        expected *= t->shape[i]; /* within int64: dm_shape_elements has checked the product */
    }
    return true;
}

/* All elements lie inside the storage. `elements` is not 0. */
static bool is_inside(const struct dm_pickle_tensor *t)
{
    int64_t last = t->offset, span;
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(t->shape[i] - 1, t->stride[i], &span) ||
            __builtin_add_overflow(last, span, &last))
            return false;
    return (uint64_t)last < t->storage->bytes / t->element.bytes;
}

static const uint8_t *first_element(const struct dm_pickle_tensor *t)
{
    return t->storage->data + (size_t)t->offset * t->element.bytes;
}

/* Always so, but for wide elements in a part of a storage of bytes. */
static bool is_aligned(const struct dm_pickle_tensor *t)
{
    return (uintptr_t)first_element(t) % t->element.bytes == 0;
}

static demist_status add_tensor(struct loader *l, const struct leaf *leaf)
{
    const struct dm_pickle_tensor *t = leaf->tensor;
    int64_t elements;
    const void *data;
    if (!dm_shape_elements(t->rank, t->shape, &elements))
        return dm_fail(l->err, DEMIST_FORMAT, "the shape is too large for any file");
    if (elements == 0) {
        data = dm_checkpoint_alloc(l->ckpt, 0, l->err);
    } else if (!is_inside(t)) {
        return dm_fail(l->err, DEMIST_FORMAT, "reaches outside its storage of %llu bytes",
                       (unsigned long long)t->storage->bytes);
    } else if (is_row_major(t) && is_aligned(t)) {
        data = first_element(t);
    } else {
        uint64_t bytes;
        if (__builtin_mul_overflow((uint64_t)elements, (uint64_t)t->element.bytes, &bytes) ||
            bytes > l->copies_left)
            return dm_fail(l->err, DEMIST_FORMAT,
                           "repeats its storage to a size far beyond the file's");
        l->copies_left -= bytes;
        void *copy = dm_checkpoint_alloc(l->ckpt, bytes, l->err);
        if (copy)
            dm_copy_strided(copy, first_element(t), t->element.bytes, t->rank, t->shape, t->stride);
        data = copy;
    }
    if (!data)
        return DEMIST_NO_MEMORY;
    return dm_checkpoint_add(l->ckpt, leaf->name, strlen(leaf->name), t->element, t->rank, t->shape,
                             data, l->err);
}

static demist_status add_tensors(struct loader *l, uint64_t file_size)
{
    l->copies_left = file_size > MIN_COPIES / 4 ? 4 * file_size : MIN_COPIES;
    for (size_t i = 0; i < l->n_leaves; i++) {
        demist_status status = add_tensor(l, &l->leaves[i]);
        if (status != DEMIST_OK) {
            const char *name = l->leaves[i].name;
            dm_fail_where(l->err, "tensor \"%s\"", dm_printable(name, strlen(name)).text);
            return status;
        }
    }
    return DEMIST_OK;
}

/* ---- the zip of PyTorch 1.6 and later ---- */

/* The directory inside the archive, whose name follows the file's when it was saved. */
struct directory {
    struct dm_zip *zip;
    const char *name;
    size_t length;
};

/* DIR/rest[0..n); -1 when there is none. */
static int64_t locate(struct loader *l, const struct directory *dir, const char *part,
                      const char *rest, size_t n)
{
    struct dm_arena *arena = &l->unpickler.arena;
    char *path =
        dm_arena_printf(arena, "%.*s/%s%.*s", (int)dir->length, dir->name, part, (int)n, rest);
    return path ? zip_name_locate(dir->zip->archive, path, ZIP_FL_ENC_RAW) : -1;
}

static demist_status read_group(struct loader *l, const struct directory *dir, size_t first,
                                size_t end)
{
    const struct dm_pickle_storage *s = l->storages[first];
    int64_t index = s->key_length > MAX_PATH || memchr(s->key, '\0', s->key_length)
                        ? -1
                        : locate(l, dir, "data/", s->key, s->key_length);
    uint64_t size = 0;
    if (index >= 0)
        DM_TRY(dm_zip_member(dir->zip, (uint64_t)index, false, &size, l->err));
    else if (s->numel != 0)
        return dm_fail(l->err, DEMIST_FORMAT, "the storage is missing");
    uint8_t *data = dm_checkpoint_alloc(l->ckpt, size, l->err);
    if (!data)
        return DEMIST_NO_MEMORY;
    if (size)
        DM_TRY(dm_zip_read(dir->zip, (uint64_t)index, data, size, l->err));
    return share(l, first, end, data, size);
}

static demist_status read_storages(struct loader *l, const struct directory *dir)
{
    DM_TRY(sort_storages(l));
    for (size_t first = 0, end; first < l->n_storages; first = end) {
        end = group_end(l, first);
        if (!any_used(l, first, end))
            continue;
        demist_status status = read_group(l, dir, first, end);
        if (status != DEMIST_OK) {
            const struct dm_pickle_storage *s = l->storages[first];
            dm_fail_where(l->err, "%.*s/data/%s", (int)dir->length, dir->name,
                          dm_printable(s->key, s->key_length).text);
            return status;
        }
    }
    return DEMIST_OK;
}

static demist_status check_byte_order(struct loader *l, const struct directory *dir)
{
    int64_t index = locate(l, dir, "byteorder", "", 0);
    if (index < 0)
        return DEMIST_OK; /* before 2.1: little-endian */
    uint64_t size;
    char text[8] = "";
    DM_TRY(dm_zip_member(dir->zip, (uint64_t)index, false, &size, l->err));
    if (size < sizeof text)
        DM_TRY(dm_zip_read(dir->zip, (uint64_t)index, text, size, l->err));
    if (strcmp(text, "big") == 0)
        return dm_fail(l->err, DEMIST_UNSUPPORTED,
                       "written on a big-endian machine; save it again on a little-endian one");
    if (strcmp(text, "little") != 0)
        return dm_fail(l->err, DEMIST_FORMAT, "an unknown byte order");
    return DEMIST_OK;
}

static demist_status load_zip(struct loader *l, const struct directory *dir, const uint8_t *pickle,
                              uint64_t size, uint64_t file_size)
{
    struct dm_pickle_value *root;
    DM_TRY(check_byte_order(l, dir));
    DM_TRY(dm_unpickle(&l->unpickler, pickle, size, NULL, &root, l->err));
    DM_TRY(collect(l, root));
    DM_TRY(read_storages(l, dir));
    return add_tensors(l, file_size);
}

demist_status dm_torch_load_zip(struct dm_checkpoint *ckpt, struct dm_zip *zip,
                                const char *pickle_name, uint64_t pickle_index,
                                struct dm_error *err)
{
    uint64_t file_size = zip->budget, size;
    struct directory dir = {zip, pickle_name, strlen(pickle_name) - strlen("/data.pkl")};
    ckpt->format = "PyTorch";
    if (dir.length > MAX_PATH)
        return dm_fail(err, DEMIST_FORMAT, "the zip's directory has an impossible name");
    DM_TRY(dm_zip_member(zip, pickle_index, false, &size, err));
    uint8_t *pickle = malloc(size + 1);
    if (!pickle)
        return dm_fail_memory(err, "data.pkl");
    struct loader *l = calloc(1, sizeof *l);
    demist_status status =
        l ? dm_zip_read(zip, pickle_index, pickle, size, err) : dm_fail_memory(err, "data.pkl");
    if (status == DEMIST_OK) {
        l->ckpt = ckpt;
        l->err = err;
        status = load_zip(l, &dir, pickle, size, file_size);
    }
    if (l)
        loader_finish(l);
    free(l);
    free(pickle);
    return status;
}

/* ---- the stream of older versions ----
 * Five pickles (a magic number, the version 1001, facts about the machine, the object, a list of
 * storage keys), then for every key an int64 count and the elements. */

static const uint8_t legacy_magic[10] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                         0x20, 0x6a, 0xa8, 0x50, 0x19};

/* The bytes of the file, consumed from the front. */
struct stream {
    const uint8_t *at;
    size_t left;
};

static demist_status next_pickle(struct loader *l, struct stream *in, struct dm_pickle_value **root)
{
    size_t used;
    DM_TRY(dm_unpickle(&l->unpickler, in->at, in->left, &used, root, l->err));
    in->at += used;
    in->left -= used;
    return DEMIST_OK;
}

static demist_status check_machine(struct loader *l, const struct dm_pickle_value *facts)
{
    if (facts->kind != DM_PICKLE_DICT)
        return dm_fail(l->err, DEMIST_FORMAT, "no facts about the machine that wrote it");
    for (size_t i = 0; i + 1 < facts->list.count; i += 2) {
        const struct dm_pickle_value *key = facts->list.items[i], *v = facts->list.items[i + 1];
        if (key->kind == DM_PICKLE_TEXT &&
            compare_text(key->text.bytes, key->text.length, "little_endian", 13) == 0 &&
            v->kind == DM_PICKLE_BOOL && !v->truth)
            return dm_fail(l->err, DEMIST_UNSUPPORTED,
                           "written on a big-endian machine; save it again on a little-endian one");
    }
    return DEMIST_OK;
}

/* The index of the first storage with this key; n_storages when the pickle mentions none. */
static size_t find_group(const struct loader *l, const struct dm_pickle_value *key)
{
    size_t low = 0, high = l->n_storages;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct dm_pickle_storage *s = l->storages[middle];
        if (compare_text(s->key, s->key_length, key->text.bytes, key->text.length) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < l->n_storages && compare_text(l->storages[low]->key, l->storages[low]->key_length,
                                            key->text.bytes, key->text.length) != 0)
        low = l->n_storages;
    return low;
}

static demist_status read_legacy_storage(struct loader *l, struct stream *in,
                                         const struct dm_pickle_value *key)
{
    size_t first = key->kind == DM_PICKLE_TEXT ? find_group(l, key) : l->n_storages;
    if (first == l->n_storages)
        return dm_fail(l->err, DEMIST_FORMAT, "a storage that no tensor mentions");
    size_t end = group_end(l, first);
    if (l->storages[first]->data)
        return dm_fail(l->err, DEMIST_FORMAT, "a storage is there twice");
    /* The count is in elements of one of the types that the storage is seen as. */
    uint64_t count, bytes = UINT64_MAX;
    if (in->left < sizeof count)
        return dm_fail(l->err, DEMIST_FORMAT, "the file ends in the middle of the storages");
    memcpy(&count, in->at, sizeof count);
    for (size_t i = first; i < end; i++)
        if (count == (uint64_t)l->storages[i]->numel)
            bytes = storage_bytes(l->storages[i]);
    if (bytes == UINT64_MAX)
        return dm_fail(l->err, DEMIST_FORMAT, "a storage has another size than its tensors say");
    if (bytes > in->left - sizeof count)
        return dm_fail(l->err, DEMIST_FORMAT, "the file ends in the middle of the storages");
    uint8_t *data = dm_checkpoint_alloc(l->ckpt, bytes, l->err);
    if (!data)
        return DEMIST_NO_MEMORY;
    memcpy(data, in->at + sizeof count, bytes);
    in->at += sizeof count + bytes;
    in->left -= sizeof count + bytes;
    return share(l, first, end, data, bytes);
}

static demist_status load_legacy(struct loader *l, struct stream in)
{
    uint64_t file_size = in.left;
    struct dm_pickle_value *magic, *version, *machine, *root, *keys;
    DM_TRY(next_pickle(l, &in, &magic));
    if (magic->kind != DM_PICKLE_BIG_INT || magic->text.length != sizeof legacy_magic ||
        memcmp(magic->text.bytes, legacy_magic, sizeof legacy_magic) != 0)
        return dm_fail(l->err, DEMIST_FORMAT, "a Python pickle, but not one that torch.save wrote");
    DM_TRY(next_pickle(l, &in, &version));
    if (version->kind != DM_PICKLE_INT || version->integer != 1001)
        return dm_fail(l->err, DEMIST_UNSUPPORTED, "an unknown version of torch.save's old format");
    DM_TRY(next_pickle(l, &in, &machine));
    DM_TRY(check_machine(l, machine));
    DM_TRY(next_pickle(l, &in, &root));
    DM_TRY(collect(l, root));
    DM_TRY(next_pickle(l, &in, &keys));
    DM_TRY(sort_storages(l));
    if (keys->kind != DM_PICKLE_LIST)
        return dm_fail(l->err, DEMIST_FORMAT, "the list of storages is missing");
    for (size_t i = 0; i < keys->list.count; i++)
        DM_TRY(read_legacy_storage(l, &in, keys->list.items[i]));
    if (in.left)
        return dm_fail(l->err, DEMIST_FORMAT, "%zu bytes after the last storage", in.left);
    for (size_t i = 0; i < l->n_storages; i++)
        if (!l->storages[i]->data && l->storages[i]->used)
            return dm_fail(l->err, DEMIST_FORMAT, "the storage \"%s\" is missing",
                           dm_printable(l->storages[i]->key, l->storages[i]->key_length).text);
    return add_tensors(l, file_size);
}

demist_status dm_torch_load_legacy(struct dm_checkpoint *ckpt, const struct dm_input *input,
                                   struct dm_error *err)
{
    ckpt->format = "PyTorch (before 1.6)";
    uint8_t *bytes = malloc((size_t)input->size + 1);
    struct loader *l = calloc(1, sizeof *l);
    demist_status status = bytes && l ? dm_input_read(input, 0, bytes, (size_t)input->size, err)
                                      : dm_fail_memory(err, "the file");
    if (status == DEMIST_OK) {
        l->ckpt = ckpt;
        l->err = err;
        status = load_legacy(l, (struct stream){bytes, (size_t)input->size});
    }
    if (l)
        loader_finish(l);
    free(l);
    free(bytes);
    return status;
}
