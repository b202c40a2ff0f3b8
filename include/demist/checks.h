/* What every backend refuses, and in which words: wrong calls of the functions of demist/backend.h.
 * Each check returns DEMIST_OK, or fails through the host. Compiled into the plugin. */
#ifndef DEMIST_CHECKS_H
#define DEMIST_CHECKS_H

#include <demist/backend.h>

#include <inttypes.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* supports: whether input i has an element type that the op takes (docs/ops.md). */
static inline bool demist_type_fits(const demist_node *node, int32_t i)
{
    const demist_dtype dtype = node->inputs[i]->dtype;
    switch (node->op) {
    case DEMIST_OP_CAST: /* these only move elements */
    case DEMIST_OP_RESHAPE:
    case DEMIST_OP_TRANSPOSE:
    case DEMIST_OP_SLICE:
    case DEMIST_OP_CONCAT:
    case DEMIST_OP_PAD:
    case DEMIST_OP_EXPAND:
        return dtype == DEMIST_F32 || dtype == DEMIST_I32;
    case DEMIST_OP_EMBEDDING:
        return dtype == (i == 1 ? DEMIST_I32 : DEMIST_F32);
    default:
        return dtype == DEMIST_F32;
    }
}

/* supports: why a backend that has all ops of demist/graph.h, for f32 and i32, cannot compute the
 * node, or NULL. Of a FUSED node only the result is looked at: its body's nodes have inputs. */
static inline const char *demist_why_not(const demist_node *node)
{
    if (node->dtype != DEMIST_F32 && node->dtype != DEMIST_I32)
        return "this backend computes f32 and i32 values only";
    if (strcmp(demist_op_name(node->op), "unknown") == 0)
        return "this backend does not know this op: it is older than the graph";
    for (int32_t i = 0; i < node->n_inputs && node->op != DEMIST_OP_FUSED; i++)
        if (!demist_type_fits(node, i))
            return "an input has an element type that the op does not take";
    const bool product = node->op == DEMIST_OP_CONV2D || node->op == DEMIST_OP_CONV_TRANSPOSE2D ||
                         node->op == DEMIST_OP_LINEAR;
    if (product && demist_is_batched(node->inputs[1]))
        return "weights that differ from image to image are for matmul";
    return NULL;
}

/* compile: a largest batch of one or more, and nodes that the backend computes. */
static inline demist_status
demist_check_compile(const demist_host *host, demist_device *device, const demist_graph *graph,
                     const demist_compile_info *info,
                     bool (*supports)(demist_device *, const demist_node *, const char **why))
{
    if (info->max_batch < 1)
        return host->fail(host, DEMIST_INVALID, "the largest batch is %" PRId64 ": give 1 or more",
                          info->max_batch);
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const char *why = NULL;
        if (!supports(device, node, &why))
            return host->fail(host, DEMIST_UNSUPPORTED, "node '%s' (%s): %s", node->name,
                              demist_op_name(node->op), why ? why : "it is not supported");
    }
    return DEMIST_OK;
}

/* Bytes of a value of f32 or i32 for so many images. */
static inline int64_t demist_value_bytes(int32_t rank, const int64_t *shape, int64_t images)
{
    const bool batched = rank > 0 && shape[0] == DEMIST_BATCH;
    int64_t bytes = batched ? 4 * images : 4;
    for (int32_t i = batched ? 1 : 0; i < rank; i++)
        bytes *= shape[i];
    return bytes;
}

/* bind, observe: a buffer for a value that takes `needed` bytes for the largest batch. bytes: what
 * the buffer has; −1: it is missing, or of another device. */
static inline demist_status demist_check_buffer(const demist_host *host, const char *node,
                                                int64_t max_batch, int64_t needed, int64_t bytes)
{
    if (bytes < 0)
        return host->fail(host, DEMIST_INVALID,
                          "node '%s': the buffer is missing or of another device", node);
    if (bytes < needed)
        return host->fail(host, DEMIST_INVALID,
                          "node '%s': its buffer has %" PRId64 " bytes; %" PRId64
                          " images take %" PRId64,
                          node, bytes, max_batch, needed);
    return DEMIST_OK;
}

/* bind: the number of buffers. */
static inline demist_status demist_check_buffer_count(const demist_host *host, int32_t n,
                                                      int32_t n_inputs, int32_t n_outputs)
{
    if (n == n_inputs + n_outputs)
        return DEMIST_OK;
    return host->fail(host, DEMIST_INVALID,
                      "%d buffers bound; the graph has %d inputs and %d outputs", (int)n,
                      (int)n_inputs, (int)n_outputs);
}

/* bind: output number i − n_inputs, whose node is `node`, has a buffer that no value before it has.
 */
static inline demist_status demist_check_own_buffer(const demist_host *host, const char *node,
                                                    demist_buffer *const *buffers, int32_t i)
{
    for (int32_t k = 0; k < i; k++)
        if (buffers[k] == buffers[i])
            return host->fail(host, DEMIST_INVALID,
                              "node '%s': an output needs a buffer of its own", node);
    return DEMIST_OK;
}

/* execute: as many images as the program was compiled for, and values for its scalar slots. */
static inline demist_status demist_check_execute(const demist_host *host, int64_t n_images,
                                                 int64_t max_batch, const demist_scalar *scalars,
                                                 int32_t n_scalars)
{
    if (n_images < 1 || n_images > max_batch)
        return host->fail(host, DEMIST_INVALID,
                          "%" PRId64 " images; the program was compiled for 1 to %" PRId64,
                          n_images, max_batch);
    if (n_scalars > 0 && !scalars)
        return host->fail(host, DEMIST_INVALID, "the graph has %d scalar slots: give their values",
                          (int)n_scalars);
    return DEMIST_OK;
}

/* execute: parameter `param`, a node's name, has data. */
static inline demist_status demist_check_filled(const demist_host *host, const char *param,
                                                bool filled)
{
    return filled ? DEMIST_OK
                  : host->fail(host, DEMIST_INVALID,
                               "parameter '%s' has no data: call update_params first", param);
}

/* execute: the draw and image numbers of a PHILOX node are within the generator's 32-bit counters.
 */
static inline demist_status demist_check_draws(const demist_host *host, const char *node,
                                               demist_op op, const demist_attrs *attrs,
                                               const demist_scalar *scalars, int64_t n_images)
{
    const uint64_t draw = scalars[attrs->philox.draw_slot].u;
    const uint64_t image = attrs->philox.per_image ? scalars[attrs->philox.image_slot].u : 0;
    if (draw > UINT32_MAX || image >= DEMIST_IMAGE_SHARED ||
        (attrs->philox.per_image && (uint64_t)n_images > DEMIST_IMAGE_SHARED - image))
        return host->fail(host, DEMIST_INVALID,
                          "node '%s' (%s): draw %" PRIu64 ", images %" PRIu64 " and on: draw "
                          "numbers are below 2^32, image indices below 2^32-1",
                          node, demist_op_name(op), draw, image);
    return DEMIST_OK;
}

/* update_params: parameters that may change, and that there are. flags: of compile. */
static inline demist_status demist_check_update(const demist_host *host, uint32_t flags, int32_t n,
                                                const int32_t *params, int32_t n_params)
{
    if (flags & DEMIST_COMPILE_FROZEN)
        return host->fail(host, DEMIST_INVALID,
                          "the program was compiled with FROZEN parameters: compile it without");
    for (int32_t i = 0; i < n; i++)
        if (params[i] < 0 || params[i] >= n_params)
            return host->fail(host, DEMIST_INVALID, "there is no parameter %d of %d",
                              (int)params[i], (int)n_params);
    return DEMIST_OK;
}

/* observe: a program made for it, and a node whose value there is. flags: of compile. */
static inline demist_status demist_check_observe(const demist_host *host, uint32_t flags,
                                                 int32_t node, int32_t n_nodes,
                                                 demist_observability what)
{
    if (!(flags & DEMIST_COMPILE_OBSERVE))
        return host->fail(host, DEMIST_INVALID,
                          "the program was compiled without OBSERVE: compile it with the flag");
    if (node < 0 || node >= n_nodes)
        return host->fail(host, DEMIST_INVALID, "there is no node %d of %d", (int)node,
                          (int)n_nodes);
    if (what != DEMIST_OBSERVE_MATERIALISED)
        return host->fail(host, DEMIST_INVALID,
                          "node %d is not materialised: it is fused, folded or packed away",
                          (int)node);
    return DEMIST_OK;
}

/* profile: a program made for it. flags: of compile. */
static inline demist_status demist_check_profile(const demist_host *host, uint32_t flags)
{
    if (flags & DEMIST_COMPILE_PROFILE)
        return DEMIST_OK;
    return host->fail(host, DEMIST_INVALID,
                      "the program was compiled without PROFILE: compile it with the flag");
}

#ifdef __cplusplus
}
#endif
#endif
