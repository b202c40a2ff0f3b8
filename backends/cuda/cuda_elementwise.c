/* Maps: one launch for a chain of elementwise nodes, a copy, a cast, padding, or upsampling. */
#include "cuda_program.h"

#include <string.h>

static demist_status map_draft(const demist_program *p, int32_t node, const struct cu_chain *c,
                               const demist_view *out, enum cu_type type, struct cu_draft *d)
{
    demist_view views[CU_MAX_OPERANDS + 1] = {*out};
    demist_nest nest;
    const int32_t n = c->code.n_operands;
    struct cu_map *m = cu_draft_init(d, node, "map", cu_run_map, sizeof *m);
    for (int32_t i = 0; i < n; i++)
        views[i + 1] = demist_view_broadcast(&c->operand[i].view, out);
    demist_nest_init(&nest, n + 1, views);
    m->n_axes = nest.rank;
    m->y_type = (int32_t)type;
    for (int32_t axis = 0; axis < nest.rank; axis++) {
        const struct cu_count size = cu_axis(&nest, axis);
        m->size[axis] = (int32_t)size.a;
        if (size.b)
            cu_put_count(d, &m->size[axis], size);
        m->y_stride[axis] = nest.stride[0][axis];
    }
    cu_put_out(d, &m->y, out);
    for (int32_t i = 0; i < n; i++) {
        m->operand[i].type = (int32_t)cu_type_of(p, &views[i + 1]);
        memcpy(m->operand[i].stride, nest.stride[i + 1], sizeof m->operand[i].stride);
        cu_put_in(d, &m->operand[i].at, &views[i + 1]);
    }
    return cu_put_code(p, d, &m->code, c);
}

demist_status cu_add_map(demist_program *p, int32_t node, const struct cu_chain *c,
                         const demist_view *out)
{
    struct cu_draft d;
    CU_TRY(map_draft(p, node, c, out, cu_type_of(p, out), &d));
    return cu_add_launch(p, &d);
}

static void copy_chain(struct cu_chain *c, const demist_view *from)
{
    cu_chain_init(c, 0, NULL);
    cu_chain_add(c, CU_SET, CU_OPERAND, cu_chain_operand(c, NULL, from), CU_NOTHING, 0);
}

demist_status cu_copy_out(const demist_program *p, int32_t node, const demist_view *to,
                          const demist_view *from, struct cu_draft *d)
{
    struct cu_chain c;
    copy_chain(&c, from);
    return map_draft(p, node, &c, to, cu_type_of(p, from) == CU_I32 ? CU_I32 : CU_F32, d);
}

demist_status cu_add_copy(demist_program *p, int32_t node, const demist_view *to,
                          const demist_view *from)
{
    struct cu_chain c;
    copy_chain(&c, from);
    return cu_add_map(p, node, &c, to);
}

/* --- ops --- */

static bool has_shape(const demist_view *v, const demist_node *node)
{
    bool same = v->rank == node->rank && v->batched == demist_is_batched(node);
    for (int32_t k = v->batched ? 1 : 0; same && k < v->rank; k++)
        same = v->shape[k] == node->shape[k];
    return same;
}

/* The layout of the first operand that has the result's shape and repeats nothing, the type of all
 * that have its shape. */
static demist_status result_like_operands(demist_program *p, const demist_node *result,
                                          const struct cu_chain *c, demist_view *out)
{
    demist_view same[CU_MAX_OPERANDS];
    const demist_view *like = NULL;
    int32_t n = 0;
    for (int32_t i = 0; i < c->code.n_operands; i++) {
        const demist_view *v = &c->operand[i].view;
        if (!has_shape(v, result))
            continue;
        bool repeats = false;
        for (int32_t k = v->batched ? 1 : 0; k < v->rank; k++)
            repeats = repeats || (v->stride[k] == 0 && v->shape[k] != 1);
        if (!repeats && !like)
            like = v;
        same[n++] = *v;
    }
    const enum cu_type type = cu_type_like(p, result, n, same);
    return like ? cu_result_like(p, result, like, type, out)
                : cu_result_dense(p, result, type, out);
}

demist_status cu_add_elementwise(demist_program *p, const struct cu_fused *f)
{
    struct cu_chain c;
    demist_view out;
    cu_chain_init(&c, f->n, f->chain);
    for (int32_t i = 0; i < f->n; i++)
        CU_TRY(cu_chain_node(p, &c, f->chain[i]));
    CU_TRY(result_like_operands(p, f->result, &c, &out));
    CU_TRY(cu_add_map(p, f->result->id, &c, &out));
    cu_set_result(p, f->result, &out);
    return DEMIST_OK;
}

demist_status cu_add_scalar(demist_program *p, const demist_node *node)
{
    struct cu_chain c;
    demist_view out;
    cu_chain_init(&c, 0, NULL);
    cu_chain_add(&c, CU_SET, CU_SLOT, node->attrs.scalar.slot, CU_NOTHING, 0);
    CU_TRY(cu_result_dense(p, node, CU_F32, &out));
    CU_TRY(cu_add_map(p, node->id, &c, &out));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status cu_add_cast(demist_program *p, const demist_node *node)
{
    struct cu_chain c;
    demist_view from, out;
    CU_TRY(cu_value_of(p, node->inputs[0], &from));
    copy_chain(&c, &from);
    enum cu_type type = node->dtype == DEMIST_I32 ? CU_I32 : CU_F32;
    if (node->dtype == node->inputs[0]->dtype)
        type = cu_type_of(p, &from);
    else
        cu_chain_add(&c, node->dtype == DEMIST_I32 ? CU_TO_INT : CU_FROM_INT, CU_NOTHING, 0,
                     CU_NOTHING, 0);
    CU_TRY(cu_result_like(p, node, &from, type, &out));
    CU_TRY(cu_add_map(p, node->id, &c, &out));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status cu_add_pad(demist_program *p, const demist_node *node)
{
    struct cu_chain zero;
    demist_view from, out;
    CU_TRY(cu_value_of(p, node->inputs[0], &from));
    CU_TRY(cu_result_like(p, node, &from, cu_type_of(p, &from), &out));
    cu_chain_init(&zero, 0, NULL); /* the accumulator starts as 0 */
    CU_TRY(cu_add_map(p, node->id, &zero, &out));
    demist_view inner = out;
    for (int32_t i = 0; i < node->rank; i++) {
        inner.offset += node->attrs.pad.before[i] * out.stride[i];
        inner.shape[i] = from.shape[i];
    }
    CU_TRY(cu_add_copy(p, node->id, &inner, &from));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

/* [N,C,H,W] seen as [N,C,H,f,W,f] with the new axes repeated. */
demist_status cu_add_upsample(demist_program *p, const demist_node *node)
{
    const int64_t f = node->attrs.upsample.factor;
    demist_view from, out;
    CU_TRY(cu_value_of(p, node->inputs[0], &from));
    CU_TRY(cu_result_pixels(p, node, cu_type_of(p, &from), &out));
    demist_view source = from, to = out;
    source.rank = to.rank = 6;
    for (int32_t axis = 2; axis < 4; axis++) {
        const int32_t at = 2 * axis - 2;
        source.shape[at] = to.shape[at] = from.shape[axis];
        source.shape[at + 1] = to.shape[at + 1] = f;
        source.stride[at] = from.stride[axis];
        source.stride[at + 1] = 0;
        to.stride[at] = out.stride[axis] * f;
        to.stride[at + 1] = out.stride[axis];
    }
    CU_TRY(cu_add_copy(p, node->id, &to, &source));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}
