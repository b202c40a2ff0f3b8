/* From the graph that a network built to the one that a backend compiles.
 *
 * In this order: nodes that no output needs are removed; unbatched values that are known before
 * anything runs become constants, a reshaped parameter a parameter; a reshape of a reshape becomes
 * one; chains of nodes are proposed to the backend as FUSED nodes. Names are kept: a FUSED node has
 * the name of the last one in it, whose value it is. Inputs, outputs and scalar slots keep their
 * order, used or not. */
#ifndef DM_PASSES_H
#define DM_PASSES_H

#include "graphbuild.h"

struct dm_lower_options {
    /* Parameters never change (DEMIST_COMPILE_FROZEN): what depends on them alone is folded. */
    bool frozen;
    /* Every value that is computed is to be seen: neither fusion nor merging of reshapes. */
    bool observe_all;
    /* Whether the backend computes a node: its vtable's supports on an opened device. Asked for
     * every node but INPUT, PARAM, CONSTANT and SCALAR, and for fusion proposals, whose inputs are
     * then no nodes of a graph yet. NULL: everything is supported, and nothing is fused. */
    bool (*supports)(void *user, const demist_node *node, const char **why);
    void *user;
};

/* What became of a node. */
enum dm_fate {
    DM_FATE_KEPT,   /* it is node `node` of the lowered graph, maybe as a constant */
    DM_FATE_INSIDE, /* it is in the body of node `node`, which is FUSED */
    DM_FATE_REMOVED /* nothing needed it, or it was folded into others or a mere view; node = −1 */
};

struct dm_origin {
    enum dm_fate fate;
    int32_t node;
};

/* The result; dm_graph_destroy(graph) frees all of it. */
struct dm_lowered {
    struct dm_graph *graph;
    const struct dm_origin *origins; /* [nodes of the graph it was made from] */
};

/* `in` is finished, all its parameters have data or are left in files, and it outlives the result,
 * which shares data with it; folding reads what it needs. UNSUPPORTED names the first node that the
 * backend cannot compute, its op and why. */
demist_status dm_graph_lower(const struct dm_graph *in, const struct dm_lower_options *options,
                             struct dm_lowered *out, struct dm_error *err);

#endif
