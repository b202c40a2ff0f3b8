/* What must hold for a file of tensors that was accepted, whatever its bytes were. */
#ifndef OPENED_H
#define OPENED_H

#include "tensorfile.h"

#include <stdlib.h>
#include <string.h>

static inline void check_tensor(const struct dm_tensor_view *view)
{
    size_t n = dm_tensor_elements(view);
    size_t element =
        view->dtype == DM_DTYPE_OTHER ? 1 : demist_dtype_bytes((demist_dtype)view->dtype);
    if (!view->data || (uintptr_t)view->data % element)
        abort();
    if (view->dtype != DM_DTYPE_OTHER && view->bytes != n * element)
        abort();
    unsigned char sum = 0; /* every byte is there, and a sanitizer looks on */
    for (size_t i = 0; i < view->bytes; i++)
        sum ^= ((const unsigned char *)view->data)[i];
    int64_t *out = malloc((n + 1) * sizeof *out);
    if (!out)
        return;
    out[0] = sum;
    dm_tensor_to_i64(view, out, NULL);
    double *real = realloc(out, (n + 1) * sizeof *real);
    if (dm_tensor_to_f64(view, real, NULL) != DEMIST_OK && view->dtype != DM_DTYPE_OTHER)
        abort();
    free(real);
}

/* Opens the bytes; an error must have a text. */
static inline void check_open(const uint8_t *data, size_t size)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt;
    if (dm_checkpoint_open_memory("fuzz", data, size, &ckpt, &err) != DEMIST_OK) {
        if (!err.text || ckpt)
            abort();
        dm_error_clear(&err);
        return;
    }
    for (size_t i = 0; i < dm_checkpoint_count(ckpt); i++) {
        const struct dm_tensor_view *view = dm_checkpoint_at(ckpt, i);
        if (dm_checkpoint_find(ckpt, view->name) != view)
            abort();
        check_tensor(view);
    }
    for (size_t i = 0; i < dm_checkpoint_metadata_count(ckpt); i++)
        if (!dm_checkpoint_metadata(ckpt, dm_checkpoint_metadata_at(ckpt, i)->key))
            abort();
    dm_checkpoint_close(ckpt);
}

#endif
