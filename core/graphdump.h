/* Graphs as text, for `--explain`, for errors and for the eye; and what their nodes cost. */
#ifndef DM_GRAPHDUMP_H
#define DM_GRAPHDUMP_H

#include <demist/graph.h>

#include "text.h"

/* Floating-point operations of a node for one image (of one evaluation where the value is not
 * batched). Products count two for each multiply-add, exactly; the others by rule of thumb: one per
 * element and elementary function, 8 for a norm, 5 for a softmax, 0 for what only moves data. A
 * FUSED node costs what its body does. */
double dm_op_flops(const demist_node *node);

/* Of all nodes. */
double dm_graph_flops(const demist_graph *graph);

/* Elements of all parameters. */
int64_t dm_graph_parameters(const demist_graph *graph);

/* "stride=2 pad=1,1,0,0": what differs from an op's plain form; nothing where all is plain. Numbers
 * are the shortest that read back as the same float32, in every locale. */
void dm_op_attrs_print(struct dm_text *text, const demist_node *node);

/* A heading with the totals, a line for each node that is neither a parameter nor a constant, and
 * one for each output:
 *
 *     graph denoise: 3 nodes, 1808 parameters, 3.539 MFLOP per image
 *        0  x  input role=x -> [N,3,32,32] f32
 *        3  conv1  conv2d pad=1 (x, [conv1.weight 16,3,3,3], [conv1.bias 16]) -> [N,16,32,32] f32
 *        4  act  fused {relu + affine a=0.5} (conv1) -> [N,16,32,32] f32
 *     output out = act */
void dm_graph_dump(struct dm_text *text, const demist_graph *graph);

#endif
