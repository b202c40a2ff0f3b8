/* Shapes of a graph's values: the rules of docs/ops.md as code, one function per kind of op.
 *
 * Every value has 0 to DEMIST_MAX_RANK dimensions, each from 1 to 2^31−1 (DEMIST_BATCH for the
 * batch), and at most DM_MAX_ELEMENTS elements (per image), so that sizes in bytes never overflow
 * an int64_t. Element types are f32 and i32. */
#ifndef DM_SHAPE_H
#define DM_SHAPE_H

#include <demist/graph.h>

#include "error.h"

#define DM_MAX_ELEMENTS ((int64_t)1 << 40)

/* A shape as people write it: "[N,3,32,32]", N for the batch; "[]" for a scalar. */
struct dm_shape_text {
    char text[112];
};
struct dm_shape_text dm_shape_text(int32_t rank, const int64_t *shape);

/* The same for a node, with its element type: "[N,3,32,32] f32". */
struct dm_shape_text dm_node_shape_text(const demist_node *node);

/* What docs/ops.md allows as a value's shape; the batch only in dimension 0. The text says what is
 * wrong without saying where. */
demist_status dm_shape_check(demist_dtype dtype, int32_t rank, const int64_t *shape,
                             struct dm_error *err);

/* The fewest and most inputs of an op (most −1: any number); false for an unknown one. */
bool dm_op_arity(demist_op op, int32_t *fewest, int32_t *most);

/* How many of the bytes of demist_attrs the op uses. */
size_t dm_op_attrs_bytes(demist_op op);

/* Checks a node's inputs and attributes and sets its dtype, rank and shape. name, op, inputs and
 * attrs are set, and rank and shape to what the caller asks for where the op has no shape of its
 * own (RESHAPE, EXPAND, PHILOX_…). Attributes that the op does not use become zero. n_slots: the
 * graph's scalar slots. Not for FUSED. Errors (INVALID) name the node, its op, and the shapes of
 * its inputs. */
demist_status dm_shape_infer(demist_node *node, int32_t n_slots, struct dm_error *err);

#endif
