/* Files of tensors made in memory, byte by byte, for the tests of their readers. */
#ifndef TENSORFILES_H
#define TENSORFILES_H

#include "testing.h"

#include <stdbool.h>

#include "tensorfile.h"
#include "text.h"

#include <zlib.h>

/* Appends an unsigned number, little-endian. */
static inline void put_uint(struct dm_text *file, uint64_t number, size_t bytes)
{
    dm_text_append_bytes(file, &number, bytes);
}

static inline void put_bytes(struct dm_text *file, const void *bytes, size_t size)
{
    dm_text_append_bytes(file, bytes, size);
}

/* A member of a zip file: `size` bytes as they are in the archive. */
struct member {
    const char *name;
    const void *data;
    size_t size;
    uint32_t unpacked; /* the declared size where it is another; then the method is deflate */
    uint32_t crc;      /* of the unpacked data; not looked at in stored members */
    bool lie;          /* declare twice the size; still stored */
    bool encrypted;
    bool same_place; /* the local header is the first member's */
};

static inline void put_member_fields(struct dm_text *file, const struct member *m)
{
    uint32_t declared = m->unpacked ? m->unpacked : (uint32_t)m->size * (m->lie ? 2 : 1);
    put_uint(file, m->encrypted, 2);
    put_uint(file, m->unpacked ? 8 : 0, 2);
    put_uint(file, 0x00210000, 4); /* 1980-01-01 */
    put_uint(file, m->crc, 4);
    put_uint(file, m->size * (m->lie ? 2 : 1), 4);
    put_uint(file, declared, 4);
    put_uint(file, strlen(m->name), 2);
    put_uint(file, 0, 2);
}

/* A zip file as the format's description has it; see APPNOTE.TXT of PKWARE. */
static inline struct dm_text make_zip(const struct member *members, size_t n)
{
    struct dm_text file = DM_TEXT_INIT;
    uint32_t offsets[16];
    assert_true(n <= 16);
    for (size_t i = 0; i < n; i++) {
        offsets[i] = (uint32_t)(members[i].same_place ? 0 : file.size);
        if (members[i].same_place)
            continue;
        put_uint(&file, 0x04034b50, 4);
        put_uint(&file, 20, 2);
        put_member_fields(&file, &members[i]);
        dm_text_append(&file, members[i].name);
        put_bytes(&file, members[i].data, members[i].size);
    }
    size_t directory = file.size;
    for (size_t i = 0; i < n; i++) {
        put_uint(&file, 0x02014b50, 4);
        put_uint(&file, 20, 2);
        put_uint(&file, 20, 2);
        put_member_fields(&file, &members[i]);
        put_uint(&file, 0, 8);
        put_uint(&file, 0, 2);
        put_uint(&file, offsets[i], 4);
        dm_text_append(&file, members[i].name);
    }
    size_t size = file.size - directory;
    put_uint(&file, 0x06054b50, 4);
    put_uint(&file, 0, 4);
    put_uint(&file, n, 2);
    put_uint(&file, n, 2);
    put_uint(&file, size, 4);
    put_uint(&file, directory, 4);
    put_uint(&file, 0, 2);
    return file;
}

/* `size` bytes of `byte`, deflated without zlib's header; *crc gets their checksum. */
static inline struct dm_text deflate_bytes(size_t size, uint8_t byte, uint32_t *crc)
{
    struct dm_text packed = DM_TEXT_INIT;
    uint8_t in[4096], out[4096];
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
    memset(in, byte, sizeof in);
    *crc = 0;
    for (int end = Z_OK; end != Z_STREAM_END;) {
        if (z.avail_in == 0 && size) {
            z.next_in = in;
            z.avail_in = size < sizeof in ? (uInt)size : sizeof in;
            *crc = (uint32_t)crc32(*crc, in, z.avail_in);
            size -= z.avail_in;
        }
        z.next_out = out;
        z.avail_out = sizeof out;
        end = deflate(&z, size ? Z_NO_FLUSH : Z_FINISH);
        put_bytes(&packed, out, sizeof out - z.avail_out);
    }
    deflateEnd(&z);
    return packed;
}

/* A whole file, which must be there. */
static inline struct dm_text read_all(const char *path)
{
    struct dm_text content = DM_TEXT_INIT;
    char block[4096];
    size_t got;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    while ((got = fread(block, 1, sizeof block, file)) > 0)
        dm_text_append_bytes(&content, block, got);
    fclose(file);
    assert_false(content.failed);
    return content;
}

static inline struct dm_checkpoint *open_bytes(const struct dm_text *file)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt = NULL;
    /* A block of the exact size, so that a sanitizer sees the first byte read beyond it. */
    void *exact = calloc(file->size ? file->size : 1, 1);
    memcpy(exact, file->data, file->size);
    demist_status status = dm_checkpoint_open_memory("mem", exact, file->size, &ckpt, &err);
    free(exact);
    if (status != DEMIST_OK)
        fail_msg("%s", err.text);
    return ckpt;
}

static inline struct dm_checkpoint *open_file(const char *path)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt = NULL;
    if (dm_checkpoint_open(path, &ckpt, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return ckpt;
}

/* Opening the first `size` bytes fails; returns the status. The text must contain `fragment`. */
static inline demist_status refuse_part(const struct dm_text *file, size_t size,
                                        const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt = NULL;
    void *exact = calloc(size ? size : 1, 1);
    if (size)
        memcpy(exact, file->data, size);
    demist_status status = dm_checkpoint_open_memory("mem", exact, size, &ckpt, &err);
    free(exact);
    if (status == DEMIST_OK)
        fail_msg("%zu bytes were accepted; expected: %s", size, fragment);
    assert_null(ckpt);
    assert_int_equal(strncmp(err.text, "mem: ", 5), 0);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    return status;
}

/* Opening the bytes fails with that status and text; they are freed. */
static inline void assert_refused(struct dm_text *file, demist_status status, const char *fragment)
{
    assert_false(file->failed);
    assert_int_equal(refuse_part(file, file->size, fragment), status);
    dm_text_finish(file);
}

static inline const struct dm_tensor_view *tensor(const struct dm_checkpoint *ckpt,
                                                  const char *name)
{
    const struct dm_tensor_view *view = dm_checkpoint_find(ckpt, name);
    if (!view)
        fail_msg("no tensor \"%s\"", name);
    return view;
}

static inline void assert_shape(const struct dm_tensor_view *view, int rank, const int64_t *shape)
{
    assert_int_equal(view->rank, rank);
    for (int i = 0; i < rank; i++)
        assert_int_equal(view->shape[i], shape[i]);
}

/* Both have the same tensors by name, dtype, shape and bytes. */
static inline void assert_same_tensors(const struct dm_checkpoint *a, const struct dm_checkpoint *b)
{
    assert_true(dm_checkpoint_count(a) > 0);
    assert_int_equal(dm_checkpoint_count(a), dm_checkpoint_count(b));
    for (size_t i = 0; i < dm_checkpoint_count(a); i++) {
        const struct dm_tensor_view *x = dm_checkpoint_at(a, i), *y = tensor(b, x->name);
        assert_int_equal(x->dtype, y->dtype);
        assert_shape(x, y->rank, y->shape);
        assert_int_equal(x->bytes, y->bytes);
        if (x->bytes)
            assert_memory_equal(x->data, y->data, x->bytes);
    }
}

#endif
