/* Elementwise kernels, written for each chain: one loop over strided views that computes an
 * expression for every element. Copies, casts, padding, nearest upsampling, concatenation and
 * normalisation are such loops too. */
#include "ocl_program.h"

#include <string.h>

enum { CHUNK = 2048, GROUP = 64, SOURCE = 24576 };

/* "o", "i0", "i1", … */
static const char *name_of(int32_t view, char *name, size_t size)
{
    if (view == 0)
        snprintf(name, size, "o");
    else
        snprintf(name, size, "i%d", (int)view - 1);
    return name;
}

static void print_arguments(struct ocl_text *s, const demist_nest *nest, int32_t n,
                            const enum ocl_type *types)
{
    char name[16];
    ocl_print(s, "__kernel void map(OUT_OF(%s, o)", ocl_type_name(types[0]));
    for (int32_t k = 1; k < n; k++)
        ocl_print(s, ", IN_OF(%s, %s)", ocl_type_name(types[k]), name_of(k, name, sizeof name));
    ocl_print(s, ", int width");
    for (int32_t d = 1; d < nest->rank - 1; d++)
        ocl_print(s, ", int size%d", (int)d);
    for (int32_t k = 0; k < n; k++)
        for (int32_t d = 0; d < nest->rank; d++)
            ocl_print(s, ", int %s_%d", name_of(k, name, sizeof name), (int)d);
    ocl_print(s, " NUMBERS)\n{\n");
}

/* Moves the pointers to the row of this work-item. */
static void print_row(struct ocl_text *s, const demist_nest *nest, int32_t n)
{
    char name[16];
    for (int32_t k = 0; k < n; k++)
        ocl_print(s, "    %s += %s_at;\n", name_of(k, name, sizeof name), name);
    if (nest->rank > 1)
        ocl_print(s, "    int row = get_global_id(1);\n");
    for (int32_t d = nest->rank - 2; d >= 0; d--) {
        if (d > 0)
            ocl_print(s, "    const int x%d = row %% size%d;\n    row /= size%d;\n", (int)d, (int)d,
                      (int)d);
        else
            ocl_print(s, "    const int x0 = row;\n");
        for (int32_t k = 0; k < n; k++)
            ocl_print(s, "    %s += (long)x%d * %s_%d;\n", name_of(k, name, sizeof name), (int)d,
                      name, (int)d);
    }
}

static void print_call(struct ocl_text *s, const demist_nest *nest, int32_t n,
                       const enum ocl_type *types, bool in_place, bool vector)
{
    char name[16];
    const int32_t inner = nest->rank - 1;
    ocl_print(s, "value_%c(", vector ? 'v' : 's');
    if (!in_place)
        ocl_print(s, "0");
    else
        ocl_print(s, "%s(%s, o + %s)", vector ? "GETV" : "GET", ocl_type_name(types[0]),
                  nest->stride[0][inner] == 1 ? "x" : "(long)x * STRIDE");
    for (int32_t k = 1; k < n; k++) {
        const char *type = ocl_type_name(types[k]);
        name_of(k, name, sizeof name);
        if (nest->stride[k][inner] == 0)
            ocl_print(s, vector ? ", (VT)(GET(%s, %s))" : ", GET(%s, %s)", type, name);
        else if (nest->stride[k][inner] == 1)
            ocl_print(s, ", %s(%s, %s + x)", vector ? "GETV" : "GET", type, name);
        else
            ocl_print(s, ", GET(%s, %s + (long)x * %s_%d)", type, name, name, (int)inner);
    }
    ocl_print(s, " PASS_NUMBERS)");
}

static void print_loops(struct ocl_text *s, const demist_nest *nest, int32_t n,
                        const enum ocl_type *types, bool in_place, bool wide)
{
    const int32_t inner = nest->rank - 1;
    bool vectors = wide && nest->stride[0][inner] == 1;
    for (int32_t k = 1; k < n; k++)
        vectors = vectors && nest->stride[k][inner] >= 0 && nest->stride[k][inner] <= 1;
    if (wide)
        ocl_print(s,
                  "    int x = get_global_id(0) * %d;\n    const int end = min(x + %d, width);\n",
                  CHUNK, CHUNK);
    else
        ocl_print(s, "    int x = get_global_id(0);\n    const int end = min(x + 1, width);\n");
    if (vectors) {
        ocl_print(s, "    for (; x + VECTOR <= end; x += VECTOR)\n        PUTV(%s, ",
                  ocl_type_name(types[0]));
        print_call(s, nest, n, types, in_place, true);
        ocl_print(s, ", o + x);\n");
    }
    ocl_print(s, "    for (; x < end; x++)\n        PUT(%s, ", ocl_type_name(types[0]));
    print_call(s, nest, n, types, in_place, false);
    ocl_print(s, ", o + %s);\n}\n", nest->stride[0][inner] == 1 ? "x" : "(long)x * STRIDE");
}

static struct ocl_count rows_of(const demist_nest *nest)
{
    struct ocl_count rows = {1, 0};
    if (nest->rank > 1)
        rows = ocl_axis(nest, 0);
    for (int32_t d = 1; d < nest->rank - 1; d++)
        rows = ocl_times(rows, nest->size[d]);
    return rows;
}

static demist_status map_kernel(demist_device *device, const struct ocl_expression *e,
                                const demist_nest *nest, int32_t n, const enum ocl_type *types,
                                cl_kernel *kernel)
{
    const demist_host *host = device->host;
    char *text = host->alloc(host, SOURCE, 0);
    if (!text)
        return DEMIST_NO_MEMORY;
    demist_status status = ocl_expression_source(host, e, text, SOURCE);
    if (status == DEMIST_OK) {
        struct ocl_text s = ocl_text_behind(text, SOURCE);
        ocl_print(&s, "#define STRIDE o_%d\n", (int)nest->rank - 1);
        print_arguments(&s, nest, n, types);
        print_row(&s, nest, n);
        print_loops(&s, nest, n, types, e->in_place, device->style == OCL_WIDE);
        status = s.overflow ? host->fail(host, DEMIST_INTERNAL, "a fused kernel is too long")
                            : ocl_kernel(device, "empty.cl", text, "map", kernel);
    }
    host->free(host, text);
    return status;
}

static demist_status map_launch(const demist_program *p, int32_t node,
                                const struct ocl_expression *e, const demist_view *out,
                                struct ocl_draft *d)
{
    demist_device *device = p->device;
    demist_view views[OCL_MAX_OPERANDS + 1] = {*out};
    enum ocl_type types[OCL_MAX_OPERANDS + 1] = {ocl_type_of(p, out)};
    demist_nest nest;
    cl_kernel kernel = NULL;
    const int32_t n = e->n_operands + 1;
    for (int32_t i = 1; i < n; i++) {
        views[i] = demist_view_broadcast(&e->operand[i - 1].view, out);
        types[i] = ocl_type_of(p, &views[i]);
    }
    demist_nest_init(&nest, n, views);
    OCL_TRY(map_kernel(device, e, &nest, n, types, &kernel));
    ocl_draft_init(d, node, kernel);
    ocl_put_out(d, &views[0]);
    for (int32_t i = 1; i < n; i++)
        ocl_put_in(d, &views[i]);
    ocl_put_count(d, ocl_axis(&nest, nest.rank - 1));
    for (int32_t i = 1; i < nest.rank - 1; i++)
        ocl_put_count(d, ocl_axis(&nest, i));
    for (int32_t i = 0; i < n; i++)
        for (int32_t axis = 0; axis < nest.rank; axis++)
            ocl_put_int(d, nest.stride[i][axis]);
    for (int32_t i = 0; i < e->n_numbers; i++)
        if (e->number[i].is_slot)
            ocl_put_slot(d, OCL_ARG_SCALAR, e->number[i].slot);
        else
            ocl_put_float(d, e->number[i].number);
    const bool wide = device->style == OCL_WIDE;
    ocl_put_range(d, 0, ocl_axis(&nest, nest.rank - 1), wide ? CHUNK : 1, wide ? 1 : GROUP);
    ocl_put_range(d, 1, rows_of(&nest), 1, 1);
    return DEMIST_OK;
}

demist_status ocl_add_map(demist_program *p, int32_t node, struct ocl_expression *e,
                          const demist_view *out)
{
    struct ocl_draft d;
    OCL_TRY(map_launch(p, node, e, out, &d));
    return ocl_add_launch(p, &d.launch);
}

static void copy_expression(struct ocl_expression *e, const demist_view *from)
{
    ocl_expression_init(e);
    ocl_expression_operand(e, NULL, from);
    ocl_expression_let(e, NULL, "v0");
}

demist_status ocl_copy_launch(const demist_program *p, int32_t node, const demist_view *to,
                              const demist_view *from, struct ocl_draft *d)
{
    struct ocl_expression e;
    copy_expression(&e, from);
    return map_launch(p, node, &e, to, d);
}

demist_status ocl_add_copy(demist_program *p, int32_t node, const demist_view *to,
                           const demist_view *from)
{
    struct ocl_expression e;
    copy_expression(&e, from);
    return ocl_add_map(p, node, &e, to);
}

/* --- ops --- */

static bool has_shape(const demist_view *v, const demist_node *node)
{
    bool same = v->rank == node->rank && v->batched == demist_is_batched(node);
    for (int32_t k = v->batched ? 1 : 0; same && k < v->rank; k++)
        same = v->shape[k] == node->shape[k];
    return same;
}

static bool repeats(const demist_view *v)
{
    for (int32_t k = v->batched ? 1 : 0; k < v->rank; k++)
        if (v->stride[k] == 0 && v->shape[k] != 1)
            return true;
    return false;
}

/* The layout of the first operand that has the result's shape and repeats nothing, the type of all
 * that have its shape. */
static demist_status result_like_operands(demist_program *p, const demist_node *result,
                                          const struct ocl_expression *e, demist_view *out)
{
    demist_view same[OCL_MAX_OPERANDS];
    const demist_view *like = NULL;
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_operands; i++) {
        const demist_view *v = &e->operand[i].view;
        if (!has_shape(v, result))
            continue;
        if (!like && !repeats(v))
            like = v;
        same[n++] = *v;
    }
    const enum ocl_type type = ocl_type_like(p, result, n, same);
    return like ? ocl_result_like(p, result, like, type, out)
                : ocl_result_dense(p, result, type, out);
}

demist_status ocl_add_elementwise(demist_program *p, const struct ocl_fused *f)
{
    struct ocl_expression e;
    demist_view out;
    ocl_expression_init(&e);
    for (int32_t i = 0; i < f->n; i++)
        OCL_TRY(ocl_expression_add(p, &e, f->chain[i]));
    OCL_TRY(result_like_operands(p, f->result, &e, &out));
    OCL_TRY(ocl_add_map(p, f->result->id, &e, &out));
    ocl_set_result(p, f->result, &out);
    return DEMIST_OK;
}

demist_status ocl_add_scalar(demist_program *p, const demist_node *node)
{
    struct ocl_expression e;
    demist_view out;
    ocl_expression_init(&e);
    const int32_t n = ocl_expression_number(&e, 0);
    e.number[n].is_slot = true;
    e.number[n].slot = node->attrs.scalar.slot;
    ocl_expression_let(&e, node, "(T)(num%d)", (int)n);
    OCL_TRY(ocl_result_dense(p, node, OCL_F32, &out));
    OCL_TRY(ocl_add_map(p, node->id, &e, &out));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status ocl_add_cast(demist_program *p, const demist_node *node)
{
    struct ocl_expression e;
    demist_view from, out;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &from));
    ocl_expression_init(&e);
    ocl_expression_operand(&e, NULL, &from);
    const bool same = node->dtype == node->inputs[0]->dtype;
    ocl_expression_let(&e, node,
                       same                        ? "v0"
                       : node->dtype == DEMIST_I32 ? "F(d_to_int)(v0)"
                                                   : "F(d_from_int)(v0)");
    OCL_TRY(ocl_result_like(p, node, &from, same ? ocl_type_of(p, &from) : OCL_F32, &out));
    OCL_TRY(ocl_add_map(p, node->id, &e, &out));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status ocl_add_pad(demist_program *p, const demist_node *node)
{
    struct ocl_expression zero;
    demist_view from, out;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &from));
    OCL_TRY(ocl_result_dense(p, node, ocl_type_of(p, &from), &out));
    ocl_expression_init(&zero);
    ocl_expression_let(&zero, NULL, "(T)(0.0f)");
    OCL_TRY(ocl_add_map(p, node->id, &zero, &out));
    demist_view inner = out;
    for (int32_t i = 0; i < node->rank; i++) {
        inner.offset += node->attrs.pad.before[i] * out.stride[i];
        inner.shape[i] = from.shape[i];
    }
    OCL_TRY(ocl_add_copy(p, node->id, &inner, &from));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

/* [N,C,H,W] seen as [N,C,H,f,W,f] with the new axes repeated. */
demist_status ocl_add_upsample(demist_program *p, const demist_node *node)
{
    const int64_t f = node->attrs.upsample.factor;
    demist_view from, out;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &from));
    OCL_TRY(ocl_result_pixels(p, node, ocl_type_of(p, &from), &out));
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
    OCL_TRY(ocl_add_copy(p, node->id, &to, &source));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}
