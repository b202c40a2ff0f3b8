/* Ops that move elements and compute nothing, and the gather of an embedding. Every value is made
 * anew, a reshape too: so each can be observed, and the arena stays simple. */
#include "ref_ops.h"

#include <inttypes.h>
#include <string.h>

demist_status ref_reshape(const struct ref_call *call)
{
    memcpy(call->out.data, call->in[0].data,
           (size_t)ref_elements(&call->out) * demist_dtype_bytes(call->out.dtype));
    return DEMIST_OK;
}

/* out[index] = in[start + Σ index·step] */
static demist_status read_strided(const struct ref_call *call, int64_t start, const int64_t *step)
{
    const struct ref_tensor *out = &call->out;
    const size_t bytes = demist_dtype_bytes(out->dtype);
    int64_t out_step[DEMIST_MAX_RANK];
    ref_steps(out, out_step);
    ref_move(call, out->rank, out->shape, out->data, out_step,
             (const char *)call->in[0].data + start * (int64_t)bytes, step, bytes);
    return DEMIST_OK;
}

/* Axis i of the result is axis perm[i] of the input. */
demist_status ref_transpose(const struct ref_call *call)
{
    int64_t own[DEMIST_MAX_RANK], step[DEMIST_MAX_RANK] = {0};
    ref_steps(&call->in[0], own);
    for (int32_t i = 0; i < call->out.rank; i++)
        step[i] = own[call->attrs->transpose.perm[i]];
    return read_strided(call, 0, step);
}

demist_status ref_slice(const struct ref_call *call)
{
    const int32_t axis = call->attrs->slice.axis;
    int64_t step[DEMIST_MAX_RANK];
    ref_steps(&call->in[0], step);
    const int64_t start = call->attrs->slice.start * step[axis];
    step[axis] *= call->attrs->slice.step;
    return read_strided(call, start, step);
}

demist_status ref_expand(const struct ref_call *call)
{
    int64_t step[DEMIST_MAX_RANK] = {0};
    ref_broadcast_steps(&call->in[0], &call->out, step);
    return read_strided(call, 0, step);
}

/* out[start + Σ index·step] = in[index] */
static void write_strided(const struct ref_call *call, const struct ref_tensor *in, int64_t start,
                          const int64_t *step)
{
    const size_t bytes = demist_dtype_bytes(in->dtype);
    int64_t in_step[DEMIST_MAX_RANK];
    ref_steps(in, in_step);
    ref_move(call, in->rank, in->shape, (char *)call->out.data + start * (int64_t)bytes, step,
             in->data, in_step, bytes);
}

demist_status ref_concat(const struct ref_call *call)
{
    const int32_t axis = call->attrs->axis.axis;
    int64_t step[DEMIST_MAX_RANK], position = 0;
    ref_steps(&call->out, step);
    for (int32_t i = 0; i < call->n_inputs; i++) {
        write_strided(call, &call->in[i], position * step[axis], step);
        position += call->in[i].shape[axis];
    }
    return DEMIST_OK;
}

demist_status ref_pad(const struct ref_call *call)
{
    int64_t step[DEMIST_MAX_RANK], start = 0;
    ref_steps(&call->out, step);
    for (int32_t i = 0; i < call->out.rank; i++)
        start += call->attrs->pad.before[i] * step[i];
    memset(call->out.data, 0,
           (size_t)ref_elements(&call->out) * demist_dtype_bytes(call->out.dtype));
    write_strided(call, &call->in[0], start, step);
    return DEMIST_OK;
}

/* table [K,D], ids [..] i32 -> [..,D] */
demist_status ref_embedding(const struct ref_call *call)
{
    const int64_t rows = call->in[0].shape[0], width = call->in[0].shape[1];
    const int64_t n = ref_elements(&call->in[1]);
    const int32_t *ids = (const int32_t *)call->in[1].data;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= rows)
            return call->host->fail(call->host, DEMIST_INVALID,
                                    "node '%s' (embedding): id %" PRId32 " at position %" PRId64
                                    " is outside its table of %" PRId64
                                    " rows: give ids from 0 to %" PRId64,
                                    call->name, ids[i], i, rows, rows - 1);
        memcpy(ref_out(call) + i * width, ref_in(call, 0) + ids[i] * width,
               (size_t)width * sizeof(float));
    }
    return DEMIST_OK;
}
