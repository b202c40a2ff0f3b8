#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "text.h"
#include "utf8.h"

/* The format's own limit; and one on the JSON values in it, each of which takes cJSON about 80
 * bytes: a header with 200,000 tensors stays below. */
enum { MAX_HEADER = 100000000, MAX_VALUES = 4000000 };

static const struct {
    const char *name; /* as the format spells it */
    struct dm_element element;
} dtypes[] = {
    {"F32", {DEMIST_F32, 4, "f32"}},
    {"F64", {DEMIST_F64, 8, "f64"}},
    {"F16", {DEMIST_F16, 2, "f16"}},
    {"BF16", {DEMIST_BF16, 2, "bf16"}},
    {"I8", {DEMIST_I8, 1, "i8"}},
    {"I16", {DEMIST_I16, 2, "i16"}},
    {"I32", {DEMIST_I32, 4, "i32"}},
    {"I64", {DEMIST_I64, 8, "i64"}},
    {"U8", {DEMIST_U8, 1, "u8"}},
    {"U16", {DEMIST_U16, 2, "u16"}},
    {"U32", {DEMIST_U32, 4, "u32"}},
    {"U64", {DEMIST_U64, 8, "u64"}},
    {"BOOL", {DEMIST_BOOL, 1, "bool"}},
    {"F8_E4M3", {DM_DTYPE_OTHER, 1, "F8_E4M3"}},
    {"F8_E5M2", {DM_DTYPE_OTHER, 1, "F8_E5M2"}},
    {"F8_E8M0", {DM_DTYPE_OTHER, 1, "F8_E8M0"}},
    {"C64", {DM_DTYPE_OTHER, 8, "C64"}},
};

static const struct dm_element *find_element(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i].element;
    return NULL;
}

/* One tensor of the header. */
struct entry {
    const char *name;
    struct dm_element element;
    int rank;
    int64_t shape[DM_MAX_RANK];
    uint64_t begin, end; /* in the data, which follow the header */
};

/* A whole number that a double holds exactly; no file is larger. */
static bool whole(const cJSON *value, uint64_t *out)
{
    if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble < 0x1p53))
        return false;
    *out = (uint64_t)value->valuedouble;
    return (double)*out == value->valuedouble;
}

/* What keeps cJSON from reading the header as something else, or from using too much memory:
 * NUL ends its strings, and every value costs far more than the two bytes it may be written in. */
static demist_status check_text(const char *header, size_t length, struct dm_error *err)
{
    if (dm_utf8_check(header, length) < length || memchr(header, '\0', length))
        return dm_fail(err, DEMIST_FORMAT, "the header is not UTF-8 text");
    size_t values = 0;
    for (size_t i = 0; i < length; i++) {
        char c = header[i];
        values += c == ',' || c == '[' || c == '{';
        if (c == '\\' && ++i < length && header[i] == 'u' && length - i > 4 &&
            memcmp(header + i, "u0000", 5) == 0)
            return dm_fail(err, DEMIST_FORMAT, "the header has a NUL character in a text");
    }
    if (values > MAX_VALUES)
        return dm_fail(err, DEMIST_FORMAT, "the header has more than %d values", MAX_VALUES);
    return DEMIST_OK;
}

static demist_status read_shape(const cJSON *shape, struct entry *entry, struct dm_error *err)
{
    if (!shape || !cJSON_IsArray(shape))
        return dm_fail(err, DEMIST_FORMAT, "\"shape\" is missing or no list");
    for (const cJSON *dim = shape->child; dim; dim = dim->next) {
        uint64_t size;
        if (!whole(dim, &size))
            return dm_fail(err, DEMIST_FORMAT, "a dimension is not a whole number below 2^53");
        if (entry->rank == DM_MAX_RANK)
            return dm_fail(err, DEMIST_UNSUPPORTED, "more than %d dimensions", DM_MAX_RANK);
        entry->shape[entry->rank++] = (int64_t)size;
    }
    return DEMIST_OK;
}

static demist_status read_offsets(const cJSON *offsets, uint64_t data_size, struct entry *entry,
                                  struct dm_error *err)
{
    if (!offsets || !cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !whole(offsets->child, &entry->begin) || !whole(offsets->child->next, &entry->end))
        return dm_fail(err, DEMIST_FORMAT, "\"data_offsets\" is not a pair of whole numbers");
    if (entry->begin > entry->end || entry->end > data_size)
        return dm_fail(err, DEMIST_FORMAT, "bytes %llu to %llu lie outside the file's %llu of data",
                       (unsigned long long)entry->begin, (unsigned long long)entry->end,
                       (unsigned long long)data_size);
    int64_t count, bytes;
    if (!dm_shape_elements(entry->rank, entry->shape, &count) ||
        __builtin_mul_overflow(count, (int64_t)entry->element.bytes, &bytes))
        return dm_fail(err, DEMIST_FORMAT, "the shape is too large for any file");
    if ((uint64_t)bytes != entry->end - entry->begin)
        return dm_fail(err, DEMIST_FORMAT, "dtype and shape make %lld bytes, the offsets %llu",
                       (long long)bytes, (unsigned long long)(entry->end - entry->begin));
    return DEMIST_OK;
}

static demist_status read_entry(const cJSON *item, uint64_t data_size, struct entry *entry,
                                struct dm_error *err)
{
    const cJSON *dtype = NULL, *shape = NULL, *offsets = NULL;
    if (!cJSON_IsObject(item))
        return dm_fail(err, DEMIST_FORMAT, "not an object");
    for (const cJSON *field = item->child; field; field = field->next) {
        const cJSON **slot = strcmp(field->string, "dtype") == 0          ? &dtype
                             : strcmp(field->string, "shape") == 0        ? &shape
                             : strcmp(field->string, "data_offsets") == 0 ? &offsets
                                                                          : NULL;
        if (!slot)
            continue; /* what later versions may add, as the format's own reader does */
        if (*slot)
            return dm_fail(err, DEMIST_FORMAT, "duplicate key \"%s\"", field->string);
        *slot = field;
    }
    if (!dtype || !cJSON_IsString(dtype))
        return dm_fail(err, DEMIST_FORMAT, "\"dtype\" is missing or no text");
    const struct dm_element *element = find_element(dtype->valuestring);
    if (!element)
        return dm_fail(err, DEMIST_UNSUPPORTED, "unknown dtype \"%s\"",
                       dm_printable(dtype->valuestring, strlen(dtype->valuestring)).text);
    *entry = (struct entry){.name = item->string, .element = *element};
    DM_TRY(read_shape(shape, entry, err));
    return read_offsets(offsets, data_size, entry, err);
}

static demist_status read_metadata(struct dm_checkpoint *ckpt, const cJSON *object,
                                   struct dm_error *err)
{
    if (!cJSON_IsObject(object))
        return dm_fail(err, DEMIST_FORMAT, "__metadata__ is not an object");
    for (const cJSON *pair = object->child; pair; pair = pair->next) {
        if (!cJSON_IsString(pair))
            return dm_fail(err, DEMIST_FORMAT, "the metadata \"%s\" is not text",
                           dm_printable(pair->string, strlen(pair->string)).text);
        DM_TRY(dm_checkpoint_add_metadata(ckpt, pair->string, strlen(pair->string),
                                          pair->valuestring, strlen(pair->valuestring), err));
    }
    return DEMIST_OK;
}

static int compare_keys(const void *a, const void *b)
{
    const struct dm_metadata *const *left = a, *const *right = b;
    return strcmp((*left)->key, (*right)->key);
}

static demist_status refuse_duplicate_metadata(const struct dm_metadata *metadata, size_t n,
                                               struct dm_error *err)
{
    const struct dm_metadata **sorted = malloc((n + 1) * sizeof(void *));
    if (!sorted)
        return dm_fail_memory(err, "metadata");
    for (size_t i = 0; i < n; i++)
        sorted[i] = &metadata[i];
    qsort(sorted, n, sizeof(void *), compare_keys);
    demist_status status = DEMIST_OK;
    for (size_t i = 1; i < n && status == DEMIST_OK; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0)
            status = dm_fail(err, DEMIST_FORMAT, "duplicate metadata key \"%s\"", sorted[i]->key);
    free(sorted);
    return status;
}

static int compare_begin(const void *a, const void *b)
{
    const struct entry *left = a, *right = b;
    if (left->begin != right->begin)
        return left->begin < right->begin ? -1 : 1;
    return (left->end > right->end) - (left->end < right->end); /* empty ones first */
}

/* Sorts by place; neighbours must touch, and the last must end with the file. */
static demist_status check_cover(struct entry *entries, size_t n, uint64_t data_size,
                                 struct dm_error *err)
{
    qsort(entries, n, sizeof *entries, compare_begin);
    uint64_t at = 0;
    for (size_t i = 0; i < n; at = entries[i++].end) {
        if (entries[i].begin < at)
            return dm_fail(err, DEMIST_FORMAT, "tensors \"%s\" and \"%s\" overlap",
                           entries[i - 1].name, entries[i].name);
        if (entries[i].begin > at)
            return dm_fail(err, DEMIST_FORMAT, "a hole of %llu bytes before tensor \"%s\"",
                           (unsigned long long)(entries[i].begin - at), entries[i].name);
    }
    if (at < data_size)
        return dm_fail(err, DEMIST_FORMAT, "%llu bytes after the last tensor",
                       (unsigned long long)(data_size - at));
    return DEMIST_OK;
}

/* Views into `data`; what lies unaligned there is copied. */
static demist_status add_tensors(struct dm_checkpoint *ckpt, const struct entry *entries, size_t n,
                                 const char *data, struct dm_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct entry *entry = &entries[i];
        const void *at = data + entry->begin;
        if (entry->begin % entry->element.bytes) {
            size_t bytes = (size_t)(entry->end - entry->begin);
            void *copy = dm_checkpoint_alloc(ckpt, bytes, err);
            if (!copy)
                return DEMIST_NO_MEMORY;
            at = memcpy(copy, at, bytes);
        }
        DM_TRY(dm_checkpoint_add(ckpt, entry->name, strlen(entry->name), entry->element,
                                 entry->rank, entry->shape, at, err));
    }
    return DEMIST_OK;
}

/* The same without reading them. */
static demist_status add_late(struct dm_checkpoint *ckpt, const struct entry *entries, size_t n,
                              uint64_t data_at, struct dm_error *err)
{
    for (size_t i = 0; i < n; i++)
        DM_TRY(dm_checkpoint_add_late(ckpt, entries[i].name, strlen(entries[i].name),
                                      entries[i].element, entries[i].rank, entries[i].shape,
                                      data_at + entries[i].begin, err));
    return DEMIST_OK;
}

/* `entries` has room for every child of root. */
static demist_status read_root(struct dm_checkpoint *ckpt, const cJSON *root, struct entry *entries,
                               const struct dm_input *input, uint64_t data_at, struct dm_error *err)
{
    uint64_t data_size = input->size - data_at;
    size_t n = 0;
    bool has_metadata = false;
    for (const cJSON *item = root->child; item; item = item->next) {
        if (strcmp(item->string, "__metadata__") == 0) {
            if (has_metadata)
                return dm_fail(err, DEMIST_FORMAT, "duplicate key \"__metadata__\"");
            has_metadata = true;
            DM_TRY(read_metadata(ckpt, item, err));
            continue;
        }
        demist_status status = read_entry(item, data_size, &entries[n++], err);
        if (status != DEMIST_OK) {
            dm_fail_where(err, "tensor \"%s\"",
                          dm_printable(item->string, strlen(item->string)).text);
            return status;
        }
    }
    DM_TRY(refuse_duplicate_metadata(ckpt->metadata, ckpt->n_metadata, err));
    DM_TRY(check_cover(entries, n, data_size, err));
    if (ckpt->late)
        return add_late(ckpt, entries, n, data_at, err);
    void *data = dm_checkpoint_alloc(ckpt, (size_t)data_size, err);
    if (!data)
        return DEMIST_NO_MEMORY;
    DM_TRY(dm_input_read(input, data_at, data, (size_t)data_size, err));
    return add_tensors(ckpt, entries, n, data, err);
}

static demist_status read_header(struct dm_checkpoint *ckpt, const char *header, size_t length,
                                 const struct dm_input *input, struct dm_error *err)
{
    DM_TRY(check_text(header, length, err));
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(header, length, &end, 0);
    while (root && end < header + length && *end == ' ')
        end++;
    demist_status status;
    if (!cJSON_IsObject(root) || end != header + length) {
        status = dm_fail(err, DEMIST_FORMAT, "the header is not a JSON object (near byte %td)",
                         end ? end - header + 8 : 8);
    } else {
        size_t n = (size_t)cJSON_GetArraySize(root);
        struct entry *entries = calloc(n + 1, sizeof *entries);
        status = entries ? read_root(ckpt, root, entries, input, 8 + (uint64_t)length, err)
                         : dm_fail_memory(err, "the safetensors header");
        free(entries);
    }
    cJSON_Delete(root);
    return status;
}

demist_status dm_safetensors_load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                                  struct dm_error *err)
{
    uint8_t prefix[8];
    DM_TRY(dm_input_read(input, 0, prefix, sizeof prefix, err));
    uint64_t length;
    memcpy(&length, prefix, sizeof length);
    if (length > MAX_HEADER)
        return dm_fail(err, DEMIST_FORMAT, "a safetensors header of %llu bytes; %d are allowed",
                       (unsigned long long)length, MAX_HEADER);
    if (length > input->size - sizeof prefix)
        return dm_fail(err, DEMIST_FORMAT,
                       "the safetensors header has %llu bytes, but the file only %llu",
                       (unsigned long long)length, (unsigned long long)input->size);
    ckpt->format = "safetensors";
    char *header = malloc((size_t)length + 1);
    if (!header)
        return dm_fail_memory(err, "the safetensors header");
    demist_status status = dm_input_read(input, sizeof prefix, header, (size_t)length, err);
    if (status == DEMIST_OK)
        status = read_header(ckpt, header, (size_t)length, input, err);
    free(header);
    return status;
}

/* ---- writing ---- */

static demist_status check_writable(const struct dm_tensor_view *view, struct dm_error *err)
{
    int64_t elements;
    size_t length = strlen(view->name);
    if (strcmp(view->name, "__metadata__") == 0 || !dm_tensor_name_valid(view->name, length))
        return dm_fail(err, DEMIST_INVALID, "\"%s\" cannot be the name of a tensor",
                       dm_printable(view->name, length).text);
    if (view->dtype < 0 || demist_dtype_bytes((demist_dtype)view->dtype) == 0)
        return dm_fail(err, DEMIST_UNSUPPORTED, "tensor \"%s\" is of a type that is not written",
                       view->name);
    if (view->rank < 0 || view->rank > DM_MAX_RANK ||
        !dm_shape_elements(view->rank, view->shape, &elements))
        return dm_fail(err, DEMIST_INVALID, "tensor \"%s\" has an impossible shape", view->name);
    return DEMIST_OK;
}

static size_t element_bytes(const struct dm_tensor_view *view)
{
    return demist_dtype_bytes((demist_dtype)view->dtype);
}

static size_t view_bytes(const struct dm_tensor_view *view)
{
    return dm_tensor_elements(view) * element_bytes(view);
}

static int compare_layout(const void *a, const void *b)
{
    const struct dm_tensor_view *const *left = a, *const *right = b;
    size_t wide = element_bytes(*left), other = element_bytes(*right);
    return wide != other ? (wide < other) - (wide > other) : strcmp((*left)->name, (*right)->name);
}

static int compare_tensor_names(const void *a, const void *b)
{
    const struct dm_tensor_view *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

/* A JSON text: quotes, backslashes and control characters escaped, UTF-8 as it is. */
static void put_text(struct dm_text *json, const char *text)
{
    dm_text_append(json, "\"");
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            dm_text_append(json, "\\");
        if (c < 0x20)
            dm_text_appendf(json, "\\u%04x", c);
        else
            dm_text_append_bytes(json, text, 1);
    }
    dm_text_append(json, "\"");
}

static demist_status put_metadata(struct dm_text *json, const struct dm_metadata *metadata,
                                  size_t n, struct dm_error *err)
{
    const struct dm_metadata **sorted = malloc((n + 1) * sizeof *sorted);
    if (!sorted)
        return dm_fail_memory(err, "metadata");
    for (size_t i = 0; i < n; i++)
        sorted[i] = &metadata[i];
    qsort(sorted, n, sizeof *sorted, compare_keys);
    demist_status status = DEMIST_OK;
    dm_text_append(json, "\"__metadata__\":{");
    for (size_t i = 0; i < n && status == DEMIST_OK; i++) {
        const char *key = sorted[i]->key, *value = sorted[i]->value;
        if (!dm_tensor_name_valid(key, strlen(key)) ||
            dm_utf8_check(value, strlen(value)) < strlen(value) ||
            (i && strcmp(key, sorted[i - 1]->key) == 0))
            status = dm_fail(err, DEMIST_INVALID, "metadata \"%s\" is there twice or not UTF-8",
                             dm_printable(key, strlen(key)).text);
        dm_text_append(json, i ? "," : "");
        put_text(json, key);
        dm_text_append(json, ":");
        put_text(json, value);
    }
    dm_text_append(json, "}");
    free(sorted);
    return status;
}

static const char *written_dtype(const struct dm_tensor_view *view)
{
    size_t i = 0;
    while (dtypes[i].element.dtype != view->dtype)
        i++;
    return dtypes[i].name;
}

static void put_tensor(struct dm_text *json, const struct dm_tensor_view *view,
                       unsigned long long begin)
{
    unsigned long long end = begin + view_bytes(view);
    put_text(json, view->name);
    dm_text_appendf(json, ":{\"dtype\":\"%s\",\"shape\":[", written_dtype(view));
    for (int i = 0; i < view->rank; i++)
        dm_text_appendf(json, i ? ",%lld" : "%lld", (long long)view->shape[i]);
    dm_text_appendf(json, "],\"data_offsets\":[%llu,%llu]}", begin, end);
}

static demist_status put_header(struct dm_text *json, const struct dm_tensor_view *const *sorted,
                                size_t count, const struct dm_metadata *metadata, size_t n_metadata,
                                struct dm_error *err)
{
    uint64_t at = 0;
    dm_text_append(json, "{");
    if (n_metadata)
        DM_TRY(put_metadata(json, metadata, n_metadata, err));
    for (size_t i = 0; i < count; i++) {
        if (i || n_metadata)
            dm_text_append(json, ",");
        put_tensor(json, sorted[i], at);
        at += view_bytes(sorted[i]);
    }
    dm_text_append(json, "}");
    static const char blanks[] = "       ";
    dm_text_append_bytes(json, blanks, -json->size % 8);
    if (json->failed)
        return dm_fail_memory(err, "the safetensors header");
    if (json->size > MAX_HEADER)
        return dm_fail(err, DEMIST_INVALID, "a header of %zu bytes; %d are allowed", json->size,
                       MAX_HEADER);
    return DEMIST_OK;
}

/* Sorts and checks the views; sorted[count]. */
static demist_status sort_views(const struct dm_tensor_view **sorted,
                                const struct dm_tensor_view *tensors, size_t count,
                                struct dm_error *err)
{
    for (size_t i = 0; i < count; i++) {
        DM_TRY(check_writable(&tensors[i], err));
        sorted[i] = &tensors[i];
    }
    qsort(sorted, count, sizeof *sorted, compare_tensor_names);
    for (size_t i = 1; i < count; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return dm_fail(err, DEMIST_INVALID, "two tensors have the name \"%s\"",
                           sorted[i]->name);
    qsort(sorted, count, sizeof *sorted, compare_layout);
    return DEMIST_OK;
}

demist_status dm_safetensors_write(struct dm_outfile *out, const struct dm_tensor_view *tensors,
                                   size_t count, const struct dm_metadata *metadata,
                                   size_t n_metadata, struct dm_error *err)
{
    struct dm_text json = DM_TEXT_INIT;
    const struct dm_tensor_view **sorted = calloc(count + 1, sizeof *sorted);
    demist_status status =
        sorted ? sort_views(sorted, tensors, count, err) : dm_fail_memory(err, "tensors");
    if (status == DEMIST_OK)
        status = put_header(&json, sorted, count, metadata, n_metadata, err);
    uint64_t length = json.size;
    if (status == DEMIST_OK)
        status = dm_outfile_write(out, &length, sizeof length, err);
    if (status == DEMIST_OK)
        status = dm_outfile_write(out, json.data, json.size, err);
    for (size_t i = 0; i < count && status == DEMIST_OK; i++)
        status = dm_outfile_write(out, sorted[i]->data, view_bytes(sorted[i]), err);
    dm_text_finish(&json);
    free(sorted);
    return status;
}

demist_status dm_safetensors_save(const char *path, const struct dm_tensor_view *tensors,
                                  size_t count, const struct dm_metadata *metadata,
                                  size_t n_metadata, struct dm_error *err)
{
    struct dm_outfile out = DM_OUTFILE_INIT;
    demist_status status = dm_outfile_open(&out, path, err);
    if (status == DEMIST_OK)
        status = dm_safetensors_write(&out, tensors, count, metadata, n_metadata, err);
    if (status == DEMIST_OK)
        status = dm_outfile_commit(&out, err);
    dm_outfile_finish(&out);
    return status;
}
