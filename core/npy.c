#include "npy.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

/* np.save pads the header to 64 bytes; a real one has at most a few hundred. */
enum { MAX_HEADER = 65536 };

static const struct {
    const char *descr;
    demist_dtype dtype;
} descrs[] = {
    {"<f4", DEMIST_F32}, {"<f8", DEMIST_F64}, {"<f2", DEMIST_F16}, {"|i1", DEMIST_I8},
    {"<i2", DEMIST_I16}, {"<i4", DEMIST_I32}, {"<i8", DEMIST_I64}, {"|u1", DEMIST_U8},
    {"<u2", DEMIST_U16}, {"<u4", DEMIST_U32}, {"<u8", DEMIST_U64}, {"|b1", DEMIST_BOOL},
};

struct header {
    bool has_descr, has_order, has_shape, fortran;
    demist_dtype dtype;
    int rank;
    int64_t shape[DM_MAX_RANK];
};

/* ---- the header's dictionary ---- */

struct cursor {
    const char *at, *end;
};

static void skip_blanks(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

/* Skips blanks and `word`; false, with only the blanks skipped, when something else is there. */
static bool accept(struct cursor *c, const char *word)
{
    size_t n = strlen(word);
    skip_blanks(c);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

/* 'text' or "text", without escapes. */
static bool accept_text(struct cursor *c, const char **text, size_t *length)
{
    skip_blanks(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return false;
    const char *close = memchr(c->at + 1, *c->at, (size_t)(c->end - c->at - 1));
    if (!close)
        return false;
    *text = c->at + 1;
    *length = (size_t)(close - *text);
    c->at = close + 1;
    return true;
}

static bool accept_dim(struct cursor *c, int64_t *dim)
{
    skip_blanks(c);
    const char *begin = c->at;
    for (*dim = 0; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
        if (__builtin_mul_overflow(*dim, 10, dim) ||
            __builtin_add_overflow(*dim, *c->at - '0', dim))
            return false;
    return c->at > begin;
}

static demist_status malformed(const char *what, struct dm_error *err)
{
    return dm_fail(err, DEMIST_FORMAT, "malformed .npy header: %s", what);
}

static demist_status read_descr(struct cursor *c, struct header *h, struct dm_error *err)
{
    const char *text;
    size_t length;
    if (accept(c, "["))
        return dm_fail(err, DEMIST_UNSUPPORTED, "an array of structures; save its fields apart");
    if (!accept_text(c, &text, &length))
        return malformed("'descr' is no text", err);
    for (size_t i = 0; i < sizeof descrs / sizeof descrs[0]; i++)
        if (strlen(descrs[i].descr) == length && memcmp(descrs[i].descr, text, length) == 0) {
            h->dtype = descrs[i].dtype;
            return DEMIST_OK;
        }
    const char *what = length && text[0] == '>' ? "big-endian elements"
                       : memchr(text, 'O', length)
                           ? "pickled Python objects, which demist never loads"
                           : "elements that demist cannot use";
    return dm_fail(err, DEMIST_UNSUPPORTED, "'%s' are %s; convert the array with astype",
                   dm_printable(text, length).text, what);
}

static demist_status read_shape(struct cursor *c, struct header *h, struct dm_error *err)
{
    if (!accept(c, "("))
        return malformed("'shape' is no tuple", err);
    while (!accept(c, ")")) {
        int64_t dim;
        if (!accept_dim(c, &dim))
            return malformed("a dimension is no whole number within 64 bits", err);
        if (h->rank == DM_MAX_RANK)
            return dm_fail(err, DEMIST_UNSUPPORTED, "more than %d dimensions", DM_MAX_RANK);
        h->shape[h->rank++] = dim;
        if (!accept(c, ",")) {
            if (h->rank == 1 || !accept(c, ")")) /* (3) is a number in parentheses */
                return malformed("'shape' is no tuple", err);
            break;
        }
    }
    return DEMIST_OK;
}

static demist_status read_field(struct cursor *c, struct header *h, struct dm_error *err)
{
    bool *seen;
    demist_status status = DEMIST_OK;
    if (accept(c, "'descr'") || accept(c, "\"descr\""))
        seen = &h->has_descr;
    else if (accept(c, "'fortran_order'") || accept(c, "\"fortran_order\""))
        seen = &h->has_order;
    else if (accept(c, "'shape'") || accept(c, "\"shape\""))
        seen = &h->has_shape;
    else
        return malformed("an unknown key", err);
    if (*seen || !accept(c, ":"))
        return malformed(*seen ? "a duplicate key" : "a key without value", err);
    *seen = true;
    if (seen == &h->has_descr)
        status = read_descr(c, h, err);
    else if (seen == &h->has_shape)
        status = read_shape(c, h, err);
    else if (accept(c, "True"))
        h->fortran = true;
    else if (!accept(c, "False"))
        status = malformed("'fortran_order' is neither True nor False", err);
    return status;
}

static demist_status read_dict(const char *text, size_t length, struct header *h,
                               struct dm_error *err)
{
    struct cursor c = {text, text + length};
    *h = (struct header){0};
    if (!accept(&c, "{"))
        return malformed("no dictionary", err);
    while (!accept(&c, "}")) {
        DM_TRY(read_field(&c, h, err));
        if (accept(&c, ","))
            continue;
        if (!accept(&c, "}"))
            return malformed("no comma between keys", err);
        break;
    }
    skip_blanks(&c);
    if (c.at != c.end)
        return malformed("text after the dictionary", err);
    if (!h->has_descr || !h->has_order || !h->has_shape)
        return malformed("'descr', 'fortran_order' or 'shape' is missing", err);
    return DEMIST_OK;
}

/* ---- one array ---- */

static demist_status add_array(struct dm_checkpoint *ckpt, const char *name, size_t length,
                               const struct header *h, const void *data, struct dm_error *err)
{
    struct dm_element element = dm_element_of(h->dtype);
    int64_t elements, stride[DM_MAX_RANK], product = 1;
    dm_shape_elements(h->rank, h->shape, &elements);
    if (h->fortran && h->rank > 1 && elements) {
        void *copy = dm_checkpoint_alloc(ckpt, (size_t)elements * element.bytes, err);
        if (!copy)
            return DEMIST_NO_MEMORY;
        for (int i = 0; i < h->rank; i++) {
            stride[i] = product;
            product *= h->shape[i];
        }
        dm_copy_strided(copy, data, element.bytes, h->rank, h->shape, stride);
        data = copy;
    }
    return dm_checkpoint_add(ckpt, name, length, element, h->rank, h->shape, data, err);
}

/* Parses what precedes the data of a file of `size` bytes. *data_at: where they begin. */
static demist_status read_header(const struct dm_input *input, struct header *h, uint64_t *data_at,
                                 struct dm_error *err)
{
    uint8_t prefix[12] = {0};
    if (input->size < 10)
        return dm_fail(err, DEMIST_FORMAT, "too short for an .npy array");
    DM_TRY(dm_input_read(input, 0, prefix, input->size < 12 ? 10 : 12, err));
    if (memcmp(prefix, "\x93NUMPY", 6) != 0)
        return dm_fail(err, DEMIST_FORMAT, "not an .npy array");
    if (prefix[6] < 1 || prefix[6] > 3 || prefix[7] != 0)
        return dm_fail(err, DEMIST_UNSUPPORTED, "unknown .npy version %d.%d", prefix[6], prefix[7]);
    uint64_t start = prefix[6] == 1 ? 10 : 12;
    uint64_t length = prefix[8] | (uint64_t)prefix[9] << 8;
    if (prefix[6] > 1)
        length |= (uint64_t)prefix[10] << 16 | (uint64_t)prefix[11] << 24;
    if (length > MAX_HEADER)
        return dm_fail(err, DEMIST_FORMAT, "an .npy header of %llu bytes",
                       (unsigned long long)length);
    char *text = malloc((size_t)length + 1);
    if (!text)
        return dm_fail_memory(err, "an .npy header");
    demist_status status = dm_input_read(input, start, text, (size_t)length, err);
    if (status == DEMIST_OK)
        status = read_dict(text, (size_t)length, h, err);
    free(text);
    *data_at = start + length;
    return status;
}

/* The data's size; an array must end with its file. */
static demist_status check_size(const struct header *h, uint64_t available, size_t *bytes,
                                struct dm_error *err)
{
    int64_t elements;
    if (!dm_shape_elements(h->rank, h->shape, &elements) ||
        !dm_mul_size((size_t)elements, demist_dtype_bytes(h->dtype), bytes))
        return dm_fail(err, DEMIST_FORMAT, "the shape is too large for any file");
    if (*bytes != available)
        return dm_fail(err, DEMIST_FORMAT, "the array needs %zu bytes of data; there are %llu",
                       *bytes, (unsigned long long)available);
    return DEMIST_OK;
}

demist_status dm_npy_load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                          struct dm_error *err)
{
    struct header h;
    uint64_t data_at = 0;
    size_t bytes;
    ckpt->format = "npy";
    DM_TRY(read_header(input, &h, &data_at, err));
    DM_TRY(check_size(&h, input->size - data_at, &bytes, err));
    void *data = dm_checkpoint_alloc(ckpt, bytes, err);
    if (!data)
        return DEMIST_NO_MEMORY;
    DM_TRY(dm_input_read(input, data_at, data, bytes, err));
    return add_array(ckpt, "tensor", 6, &h, data, err);
}

/* ---- .npz ---- */

/* The data of `member` behind its header, moved to where they are aligned. */
static demist_status add_member(struct dm_checkpoint *ckpt, const char *name, uint8_t *member,
                                uint64_t size, struct dm_error *err)
{
    struct dm_input input = {member, -1, size};
    struct header h;
    uint64_t data_at = 0;
    size_t bytes, length = strlen(name);
    DM_TRY(read_header(&input, &h, &data_at, err));
    DM_TRY(check_size(&h, size - data_at, &bytes, err));
    memmove(member, member + data_at, bytes);
    if (length > 4 && strcmp(name + length - 4, ".npy") == 0)
        length -= 4;
    return add_array(ckpt, name, length, &h, member, err);
}

static demist_status load_member(struct dm_checkpoint *ckpt, struct dm_zip *zip, uint64_t index,
                                 const char *name, struct dm_error *err)
{
    uint64_t size;
    DM_TRY(dm_zip_member(zip, index, true, &size, err));
    uint8_t *member = dm_checkpoint_alloc(ckpt, size, err);
    if (!member)
        return DEMIST_NO_MEMORY;
    DM_TRY(dm_zip_read(zip, index, member, size, err));
    return add_member(ckpt, name, member, size, err);
}

demist_status dm_npz_load(struct dm_checkpoint *ckpt, struct dm_zip *zip, struct dm_error *err)
{
    zip_int64_t n = zip_get_num_entries(zip->archive, 0);
    ckpt->format = "npz";
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(zip->archive, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        if (!name)
            return dm_fail(err, DEMIST_FORMAT, "broken entry in the zip directory");
        demist_status status = load_member(ckpt, zip, (uint64_t)i, name, err);
        if (status != DEMIST_OK) {
            dm_fail_where(err, "%s", dm_printable(name, strlen(name)).text);
            return status;
        }
    }
    return DEMIST_OK;
}

/* ---- writing ---- */

/* What precedes the data, padded so that they start at a multiple of 64. */
static demist_status put_header(struct dm_text *text, const struct dm_tensor_view *view,
                                struct dm_error *err)
{
    size_t i = 0, n = sizeof descrs / sizeof descrs[0];
    int64_t count;
    while (i < n && (int)descrs[i].dtype != view->dtype)
        i++;
    if (i == n)
        return dm_fail(err, DEMIST_UNSUPPORTED, "NumPy has no elements of the type of \"%s\"",
                       view->name ? view->name : "");
    if (view->rank < 0 || view->rank > DM_MAX_RANK ||
        !dm_shape_elements(view->rank, view->shape, &count))
        return dm_fail(err, DEMIST_INVALID, "an impossible shape");
    dm_text_append_bytes(text, "\x93NUMPY\1\0\0\0", 10);
    dm_text_appendf(text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descrs[i].descr);
    for (int axis = 0; axis < view->rank; axis++)
        dm_text_appendf(text, axis ? ", %lld" : "%lld", (long long)view->shape[axis]);
    dm_text_append(text, view->rank == 1 ? ",), }" : "), }");
    while (!text->failed && text->size % 64 != 63)
        dm_text_append(text, " ");
    dm_text_append(text, "\n");
    if (text->failed)
        return dm_fail_memory(err, "an .npy header");
    text->data[8] = (char)((text->size - 10) & 255);
    text->data[9] = (char)((text->size - 10) >> 8);
    return DEMIST_OK;
}

static size_t view_bytes(const struct dm_tensor_view *view)
{
    return dm_tensor_elements(view) * demist_dtype_bytes((demist_dtype)view->dtype);
}

demist_status dm_npy_write(struct dm_outfile *out, const struct dm_tensor_view *tensor,
                           struct dm_error *err)
{
    struct dm_text header = DM_TEXT_INIT;
    demist_status status = put_header(&header, tensor, err);
    if (status == DEMIST_OK)
        status = dm_outfile_write(out, header.data, header.size, err);
    if (status == DEMIST_OK)
        status = dm_outfile_write(out, tensor->data, view_bytes(tensor), err);
    dm_text_finish(&header);
    return status;
}

/* `header` must live until the archive is closed. */
static demist_status add_to_zip(zip_t *archive, const struct dm_tensor_view *view,
                                struct dm_text *header, struct dm_error *err)
{
    enum { FIRST_OF_1980 = 1 << 5 | 1 }; /* the oldest date of a zip */
    DM_TRY(put_header(header, view, err));
    zip_buffer_fragment_t parts[2] = {{(zip_uint8_t *)header->data, header->size}};
    memcpy(&parts[1].data, &view->data, sizeof parts[1].data); /* libzip only reads */
    parts[1].length = view_bytes(view);
    struct dm_text name = DM_TEXT_INIT;
    dm_text_appendf(&name, "%s.npy", view->name);
    zip_source_t *source = zip_source_buffer_fragment(archive, parts, 2, 0);
    zip_int64_t index = -1;
    if (source && !name.failed)
        index = zip_file_add(archive, name.data, source, ZIP_FL_ENC_UTF_8);
    dm_text_finish(&name);
    if (index < 0) {
        zip_source_free(source);
        return dm_fail(err, DEMIST_INVALID, "cannot add \"%s\" to the .npz: %s", view->name,
                       zip_strerror(archive));
    }
    zip_uint64_t member = (zip_uint64_t)index;
    if (zip_set_file_compression(archive, member, ZIP_CM_STORE, 0) != 0 ||
        zip_file_set_dostime(archive, member, 0, FIRST_OF_1980, 0) != 0)
        return dm_fail(err, DEMIST_INTERNAL, "cannot make the .npz: %s", zip_strerror(archive));
    return DEMIST_OK;
}

/* Fills the archive and closes it into its source. */
static demist_status fill_zip(zip_t *archive, const struct dm_tensor_view *tensors, size_t count,
                              struct dm_error *err)
{
    struct dm_text *headers = calloc(count + 1, sizeof *headers);
    demist_status status = headers ? DEMIST_OK : dm_fail_memory(err, "an .npz");
    for (size_t i = 0; i < count && status == DEMIST_OK; i++)
        status = add_to_zip(archive, &tensors[i], &headers[i], err);
    if (status == DEMIST_OK && zip_close(archive) == 0)
        archive = NULL;
    else if (status == DEMIST_OK)
        status = dm_fail(err, DEMIST_NO_MEMORY, "cannot make the .npz: %s", zip_strerror(archive));
    if (archive)
        zip_discard(archive);
    for (size_t i = 0; headers && i < count; i++)
        dm_text_finish(&headers[i]);
    free(headers);
    return status;
}

static demist_status copy_source(zip_source_t *source, struct dm_outfile *out, struct dm_error *err)
{
    enum { BLOCK = 65536 };
    char *block = malloc(BLOCK);
    if (!block || zip_source_open(source) != 0) {
        free(block);
        return dm_fail_memory(err, "an .npz");
    }
    demist_status status = DEMIST_OK;
    zip_int64_t got;
    while (status == DEMIST_OK && (got = zip_source_read(source, block, BLOCK)) > 0)
        status = dm_outfile_write(out, block, (size_t)got, err);
    zip_source_close(source);
    free(block);
    return status;
}

demist_status dm_npz_write(struct dm_outfile *out, const struct dm_tensor_view *tensors,
                           size_t count, struct dm_error *err)
{
    if (count == 0)
        return dm_fail(err, DEMIST_INVALID,
                       "an .npz needs an array"); /* libzip writes no empty one */
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, NULL);
    if (!source)
        return dm_fail_memory(err, "an .npz");
    zip_source_keep(source);
    zip_t *archive = zip_open_from_source(source, ZIP_TRUNCATE, NULL);
    demist_status status;
    if (archive) {
        status = fill_zip(archive, tensors, count, err);
    } else {
        zip_source_free(source);
        status = dm_fail_memory(err, "an .npz");
    }
    if (status == DEMIST_OK)
        status = copy_source(source, out, err);
    zip_source_free(source);
    return status;
}

demist_status dm_npy_save(const char *path, const struct dm_tensor_view *tensor,
                          struct dm_error *err)
{
    struct dm_outfile out = DM_OUTFILE_INIT;
    demist_status status = dm_outfile_open(&out, path, err);
    if (status == DEMIST_OK)
        status = dm_npy_write(&out, tensor, err);
    if (status == DEMIST_OK)
        status = dm_outfile_commit(&out, err);
    dm_outfile_finish(&out);
    return status;
}

demist_status dm_npz_save(const char *path, const struct dm_tensor_view *tensors, size_t count,
                          struct dm_error *err)
{
    struct dm_outfile out = DM_OUTFILE_INIT;
    demist_status status = dm_outfile_open(&out, path, err);
    if (status == DEMIST_OK)
        status = dm_npz_write(&out, tensors, count, err);
    if (status == DEMIST_OK)
        status = dm_outfile_commit(&out, err);
    dm_outfile_finish(&out);
    return status;
}
