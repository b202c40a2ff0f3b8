/* Printing and counting: see graphdump.h. */
#include "graphdump.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "number.h"
#include "shape.h"

/* ---- Cost ---- */

double dm_op_flops(const demist_node *node)
{
    double flops = 0, out = (double)demist_elements(node);
    switch (node->op) {
    case DEMIST_OP_INPUT:
    case DEMIST_OP_PARAM:
    case DEMIST_OP_CONSTANT:
    case DEMIST_OP_SCALAR:
    case DEMIST_OP_UPSAMPLE_NEAREST:
    case DEMIST_OP_RESHAPE:
    case DEMIST_OP_TRANSPOSE:
    case DEMIST_OP_SLICE:
    case DEMIST_OP_CONCAT:
    case DEMIST_OP_PAD:
    case DEMIST_OP_EXPAND:
    case DEMIST_OP_EMBEDDING:
        return 0;
    case DEMIST_OP_LINEAR:
    case DEMIST_OP_MATMUL:
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return demist_product_flops(node);
    case DEMIST_OP_ATTENTION: /* and a softmax over its weights */
        return demist_product_flops(node) + 5 * (double)node->inputs[0]->shape[1] *
                                                (double)node->inputs[0]->shape[3] *
                                                (double)node->inputs[1]->shape[3];
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
        return (double)demist_elements(node->inputs[0]);
    case DEMIST_OP_SOFTMAX:
        return 5 * out;
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_LAYER_NORM:
        return 8 * out;
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_AFFINE:
        return 2 * out;
    case DEMIST_OP_LINCOMB:
        return node->n_inputs * out;
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return out * node->attrs.pool.kernel[0] * node->attrs.pool.kernel[1];
    case DEMIST_OP_RESIZE_BILINEAR:
        return 8 * out;
    case DEMIST_OP_FUSED:
        for (int32_t i = 0; i < node->n_body; i++)
            flops += dm_op_flops(node->body[i]);
        return flops;
    default:
        return out;
    }
}

double dm_graph_flops(const demist_graph *graph)
{
    double flops = 0;
    for (int32_t i = 0; i < graph->n_nodes; i++)
        flops += dm_op_flops(graph->nodes[i]);
    return flops;
}

int64_t dm_graph_parameters(const demist_graph *graph)
{
    int64_t n = 0;
    for (int32_t i = 0; i < graph->n_params; i++)
        n += demist_elements(graph->params[i]);
    return n;
}

/* ---- Attributes ---- */

/* The shortest decimal that is this float32: the float64 nearest to it with the fewest digits. */
static void print_float(struct dm_text *text, const char *name, float value)
{
    char digits[DM_DOUBLE_TEXT];
    double shortest = (double)value;
    if (value != 0 && isfinite(value))
        for (int p = 0; p < 9; p++) {
            int places = p - (int)floor(log10(fabs((double)value)));
            double scale = pow(10, abs(places));
            double rounded = places >= 0 ? rint((double)value * scale) / scale
                                         : rint((double)value / scale) * scale;
            if ((float)rounded == value) {
                shortest = rounded;
                break;
            }
        }
    dm_text_appendf(text, " %s=%s", name, dm_format_double(shortest, digits));
}

static bool all_equal(const int32_t *values, int n)
{
    for (int i = 1; i < n; i++)
        if (values[i] != values[0])
            return false;
    return true;
}

/* " pad=1", " pad=1,1,0,0", nothing if all are `plain`. */
static void print_list(struct dm_text *text, const char *name, const int32_t *values, int n,
                       int32_t plain)
{
    bool equal = all_equal(values, n);
    if (n == 0 || (equal && values[0] == plain))
        return;
    dm_text_appendf(text, " %s=%d", name, (int)values[0]);
    for (int i = 1; i < n && !equal; i++)
        dm_text_appendf(text, ",%d", (int)values[i]);
}

static void print_axes(struct dm_text *text, uint32_t axes)
{
    const char *comma = " axes=";
    for (int i = 0; i < DEMIST_MAX_RANK; i++)
        if (axes >> i & 1) {
            dm_text_appendf(text, "%s%d", comma, i);
            comma = ",";
        }
}

static const char *role_name(int32_t role)
{
    static const char *const names[] = {"other",   "x",      "time", "label",
                                        "context", "tokens", "image"};
    return role >= 0 && (size_t)role < sizeof names / sizeof *names ? names[role] : "unknown";
}

static const char *pattern_name(int32_t pattern)
{
    static const char *const names[] = {"?", "product", "norm", "elementwise"};
    return pattern >= 1 && (size_t)pattern < sizeof names / sizeof *names ? names[pattern] : "?";
}

void dm_op_attrs_print(struct dm_text *text, const demist_node *node)
{
    const demist_attrs *a = &node->attrs;
    switch ((int)node->op) {
    case DEMIST_OP_INPUT:
        dm_text_appendf(text, " role=%s", role_name(a->input.role));
        break;
    case DEMIST_OP_SCALAR:
        dm_text_appendf(text, " slot=%d", (int)a->scalar.slot);
        break;
    case DEMIST_OP_AFFINE:
        print_float(text, "a", a->affine.a);
        print_float(text, "b", a->affine.b);
        break;
    case DEMIST_OP_CLAMP:
        print_float(text, "lo", a->clamp.lo);
        print_float(text, "hi", a->clamp.hi);
        break;
    case DEMIST_OP_CAST:
        dm_text_appendf(text, " to=%s", demist_dtype_name((demist_dtype)a->cast.dtype));
        break;
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
        print_axes(text, a->reduce.axes);
        break;
    case DEMIST_OP_SOFTMAX:
    case DEMIST_OP_CONCAT:
        dm_text_appendf(text, " axis=%d", (int)a->axis.axis);
        break;
    case DEMIST_OP_MATMUL:
        print_list(text, "transpose_a", &a->matmul.transpose_a, 1, 0);
        print_list(text, "transpose_b", &a->matmul.transpose_b, 1, 0);
        break;
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
        print_list(text, "stride", a->conv.stride, 2, 1);
        print_list(text, "pad", a->conv.pad, 4, 0);
        print_list(text, "dilation", a->conv.dilation, 2, 1);
        print_list(text, "groups", &a->conv.groups, 1, 1);
        print_list(text, "output_pad", a->conv.output_pad, 2, 0);
        break;
    case DEMIST_OP_ATTENTION:
        print_float(text, "scale", a->attention.scale);
        print_list(text, "causal", &a->attention.causal, 1, 0);
        break;
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        print_list(text, "groups", &a->norm.groups, 1, 0);
        print_float(text, "eps", a->norm.eps);
        break;
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        print_list(text, "kernel", a->pool.kernel, 2, 0);
        print_list(text, "stride", a->pool.stride, 2, 0);
        break;
    case DEMIST_OP_UPSAMPLE_NEAREST:
        dm_text_appendf(text, " factor=%d", (int)a->upsample.factor);
        break;
    case DEMIST_OP_TRANSPOSE:
        for (int32_t i = 0; i < node->rank; i++)
            dm_text_appendf(text, "%s%d", i ? "," : " perm=", (int)a->transpose.perm[i]);
        break;
    case DEMIST_OP_SLICE:
        dm_text_appendf(text, " axis=%d start=%" PRId64, (int)a->slice.axis, a->slice.start);
        print_list(text, "step", &a->slice.step, 1, 1);
        break;
    case DEMIST_OP_PAD:
        print_list(text, "before", a->pad.before, node->rank, 0);
        print_list(text, "after", a->pad.after, node->rank, 0);
        break;
    case DEMIST_OP_PHILOX_UNIFORM:
        print_float(text, "lo", a->philox.lo);
        print_float(text, "hi", a->philox.hi); /* fallthrough */
    case DEMIST_OP_PHILOX_NORMAL:
        dm_text_appendf(text, " purpose=%u slots=%d,%d,%d", (unsigned)a->philox.purpose,
                        (int)a->philox.seed_slot, (int)a->philox.draw_slot,
                        (int)a->philox.image_slot);
        print_list(text, "per_image", &a->philox.per_image, 1, 0);
        break;
    case DEMIST_OP_FUSED:
        dm_text_appendf(text, " pattern=%s", pattern_name(a->fused.pattern));
        break;
    default:
        break;
    }
}

/* ---- Graphs ---- */

static void print_input(struct dm_text *text, const demist_node *x)
{
    if (x->op != DEMIST_OP_PARAM && x->op != DEMIST_OP_CONSTANT) {
        dm_text_append(text, x->name);
        return;
    }
    dm_text_appendf(text, "[%s", x->name);
    for (int32_t i = 0; i < x->rank; i++)
        dm_text_appendf(text, "%s%" PRId64, i ? "," : " ", x->shape[i]);
    dm_text_append(text, "]");
}

static void print_node(struct dm_text *text, const demist_node *node)
{
    dm_text_appendf(text, "%6d  %s  %s", (int)node->id, node->name, demist_op_name(node->op));
    dm_op_attrs_print(text, node);
    for (int32_t i = 0; i < node->n_body; i++) {
        dm_text_appendf(text, "%s%s", i ? " + " : " {", demist_op_name(node->body[i]->op));
        dm_op_attrs_print(text, node->body[i]);
    }
    if (node->n_body > 0)
        dm_text_append(text, "}");
    for (int32_t i = 0; i < node->n_inputs; i++) {
        dm_text_append(text, i ? ", " : " (");
        print_input(text, node->inputs[i]);
    }
    dm_text_appendf(text, "%s -> %s\n", node->n_inputs > 0 ? ")" : "",
                    dm_node_shape_text(node).text);
}

/* "3.539 MFLOP": integer arithmetic, as the decimal point must not follow the locale. */
static void print_flops(struct dm_text *text, double flops)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    size_t unit = 0;
    while (flops >= 1000 && unit + 1 < sizeof units / sizeof *units) {
        flops /= 1000;
        unit++;
    }
    if (unit == 0)
        dm_text_appendf(text, "%" PRId64 " FLOP", (int64_t)flops);
    else
        dm_text_appendf(text, "%" PRId64 ".%03" PRId64 " %sFLOP", (int64_t)flops,
                        (int64_t)((flops - floor(flops)) * 1000), units[unit]);
}

void dm_graph_dump(struct dm_text *text, const demist_graph *graph)
{
    dm_text_appendf(text, "graph %s: %d nodes, %" PRId64 " parameters, ", graph->name,
                    (int)graph->n_nodes, dm_graph_parameters(graph));
    print_flops(text, dm_graph_flops(graph));
    dm_text_append(text, " per image\n");
    for (int32_t i = 0; i < graph->n_nodes; i++)
        if (graph->nodes[i]->op != DEMIST_OP_PARAM && graph->nodes[i]->op != DEMIST_OP_CONSTANT)
            print_node(text, graph->nodes[i]);
    for (int32_t i = 0; i < graph->n_outputs; i++)
        dm_text_appendf(text, "output %s = %s\n", graph->output_names[i], graph->outputs[i]->name);
}
