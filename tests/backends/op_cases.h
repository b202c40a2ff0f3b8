/* Cases for every op: small graphs with deterministic data, the same for goldens, for the reference
 * and for every other backend.
 *
 * A case is one op with its operands, or a chain of ops that networks build (for fusion). Operands
 * with the batch as dimension 0 are graph inputs; the others can be made constants, parameters or
 * inputs, as backends treat these differently. */
#ifndef OP_CASES_H
#define OP_CASES_H

#include <demist/backend.h>
#include <demist/builder.h>

#include "graphbuild.h"

enum { OP_CASE_OPERANDS = 10, OP_CASE_BATCH = 5, OP_CASE_SCALARS = 4 };

struct op_operand {
    demist_dtype dtype;
    int32_t rank;
    int64_t shape[5]; /* DEMIST_BATCH first: batched */
    /* f32: shift + scale·g, g about normal; or |g|·scale + shift; or `values` over and over */
    double scale, shift;
    bool positive;
    const float *values;
    int32_t n_values;
    int32_t below; /* i32: 0 … below − 1 */
};

struct op_case {
    const char *name; /* "conv2d/stride2" */
    demist_op op;     /* 0: a chain */
    int32_t n;
    struct op_operand in[OP_CASE_OPERANDS];
    demist_attrs attrs;
    int32_t rank; /* RESHAPE, EXPAND, PHILOX_…: the shape asked for */
    int64_t shape[5];
    const demist_node *(*chain)(demist_builder *b, const demist_node *const *in);
};

/* What becomes of operands that are not batched. INSIDE: constants, and before the op's images and
 * sequences and behind its result come normalisations that change no value, so that the op reads
 * and writes what a program stores inside: in 16 bits, if the precision says so. */
enum op_case_weights { OP_CASE_CONSTANTS, OP_CASE_PARAMS, OP_CASE_INPUTS, OP_CASE_INSIDE };

extern const struct op_case op_cases[];
extern const int op_case_count;

/* Whether the result depends on which images are computed together. */
bool op_case_mixes_images(const struct op_case *c);

/* Elements of operand i for `images`. */
int64_t op_case_elements(const struct op_case *c, int32_t i, int64_t images);

/* Operand i's data (OP_CASE_BATCH images if batched), f32 or i32; free() it. Image k is the same
 * whatever the batch. */
void *op_case_data(const struct op_case *c, int32_t i);

/* The case's graph; output "out". Fails the running test when it cannot be built. operands: each
 * one's data, kept by PARAM nodes, so they must outlive the graph. */
struct dm_graph *op_case_build(const struct op_case *c, enum op_case_weights weights,
                               void *const *operands);

/* Values of the scalar slots that a case's graph may have: seed, draw, image, and a number. */
extern const demist_scalar op_case_scalars[OP_CASE_SCALARS];

#endif
