/* Chains of elementwise nodes as code for the kernels' interpreter. The accumulator goes from node
 * to node; a value that is needed later, or not as a node's first input, is kept beside it. */
#include "cuda_program.h"

#include <string.h>

void cu_chain_init(struct cu_chain *c, int32_t n, const demist_node *const *nodes)
{
    memset(c, 0, sizeof *c);
    c->overflow = n > CU_MAX_CHAIN;
    c->n_nodes = c->overflow ? 0 : n;
    for (int32_t i = 0; i < c->n_nodes; i++) {
        c->nodes[i] = nodes[i];
        c->kept[i] = -1;
    }
}

int32_t cu_chain_operand(struct cu_chain *c, const demist_node *node, const demist_view *view)
{
    for (int32_t i = 0; node && i < c->code.n_operands; i++)
        if (c->operand[i].node == node)
            return i;
    if (c->code.n_operands == CU_MAX_OPERANDS) {
        c->overflow = true;
        return 0;
    }
    c->operand[c->code.n_operands].node = node;
    c->operand[c->code.n_operands].view = *view;
    return c->code.n_operands++;
}

int32_t cu_chain_number(struct cu_chain *c, float number)
{
    if (c->n_numbers == CU_MAX_NUMBERS) {
        c->overflow = true;
        return 0;
    }
    c->code.number[c->n_numbers] = number;
    return c->n_numbers++;
}

void cu_chain_add(struct cu_chain *c, enum cu_opcode op, enum cu_from from, int32_t index,
                  enum cu_from from2, int32_t index2)
{
    if (c->code.n_code == CU_MAX_CODE) {
        c->overflow = true;
        return;
    }
    c->reads_slots = c->reads_slots || from == CU_SLOT || from2 == CU_SLOT;
    c->code.code[c->code.n_code++] = (struct cu_instruction){.op = (uint8_t)op,
                                                             .from = (uint8_t)from,
                                                             .from2 = (uint8_t)from2,
                                                             .index = (uint16_t)index,
                                                             .index2 = (uint16_t)index2};
}

/* --- which values are kept --- */

static int32_t place_of(const struct cu_chain *c, const demist_node *node)
{
    for (int32_t i = 0; i < c->n_nodes; i++)
        if (c->nodes[i] == node)
            return i;
    return -1;
}

/* Whether the value of nodes[at] is read by more than the first input of the node behind it. */
static bool is_needed(const struct cu_chain *c, int32_t at)
{
    for (int32_t i = at + 1; i < c->n_nodes; i++)
        for (int32_t k = 0; k < c->nodes[i]->n_inputs; k++)
            if (c->nodes[i]->inputs[k] == c->nodes[at] && (i > at + 1 || k > 0))
                return true;
    return false;
}

void cu_chain_is(struct cu_chain *c, const demist_node *node)
{
    const int32_t at = place_of(c, node);
    c->current = node;
    if (at < 0 || !is_needed(c, at))
        return;
    c->kept[at] = c->n_kept++;
    cu_chain_add(c, CU_KEEP, CU_NOTHING, c->kept[at], CU_NOTHING, 0);
}

/* --- nodes --- */

struct source {
    enum cu_from from;
    int32_t index;
};

static demist_status source_of(demist_program *p, struct cu_chain *c, const demist_node *node,
                               struct source *source)
{
    const int32_t at = place_of(c, node);
    demist_view view;
    if (at >= 0 && c->kept[at] >= 0) {
        *source = (struct source){CU_KEPT, c->kept[at]};
        return DEMIST_OK;
    }
    CU_TRY(cu_value_of(p, node, &view));
    *source = (struct source){CU_OPERAND, cu_chain_operand(c, node, &view)};
    return DEMIST_OK;
}

/* The opcode of a node, and the one with a and x exchanged; CU_SET: not elementwise. */
static enum cu_opcode opcode_of(demist_op op, enum cu_opcode *exchanged)
{
    static const struct {
        demist_op op;
        enum cu_opcode code, exchanged;
    } table[] = {
        {DEMIST_OP_NEG, CU_NEG, CU_SET},       {DEMIST_OP_ABS, CU_ABS, CU_SET},
        {DEMIST_OP_EXP, CU_EXP, CU_SET},       {DEMIST_OP_LOG, CU_LOG, CU_SET},
        {DEMIST_OP_SQRT, CU_SQRT, CU_SET},     {DEMIST_OP_SIN, CU_SIN, CU_SET},
        {DEMIST_OP_COS, CU_COS, CU_SET},       {DEMIST_OP_TANH, CU_TANH, CU_SET},
        {DEMIST_OP_ERF, CU_ERF, CU_SET},       {DEMIST_OP_SIGMOID, CU_SIGMOID, CU_SET},
        {DEMIST_OP_RELU, CU_RELU, CU_SET},     {DEMIST_OP_SILU, CU_SILU, CU_SET},
        {DEMIST_OP_GELU, CU_GELU, CU_SET},     {DEMIST_OP_AFFINE, CU_FMA, CU_SET},
        {DEMIST_OP_CLAMP, CU_CLAMP, CU_SET},   {DEMIST_OP_ADD, CU_ADD, CU_ADD},
        {DEMIST_OP_SUB, CU_SUB, CU_SUB_FROM},  {DEMIST_OP_MUL, CU_MUL, CU_MUL},
        {DEMIST_OP_DIV, CU_DIV, CU_DIV_INTO},  {DEMIST_OP_MIN, CU_MIN, CU_MIN},
        {DEMIST_OP_MAX, CU_MAX, CU_MAX},       {DEMIST_OP_LESS, CU_LESS, CU_GREATER},
        {DEMIST_OP_SELECT, CU_SELECT, CU_SET}, {DEMIST_OP_LINCOMB, CU_ADD_FMA, CU_SET},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].op == op) {
            *exchanged = table[i].exchanged;
            return table[i].code;
        }
    return CU_SET;
}

bool cu_is_elementwise(demist_op op)
{
    enum cu_opcode exchanged;
    return opcode_of(op, &exchanged) != CU_SET;
}

/* c_i is [] or, whatever the rank of x, [N]. */
static demist_view coefficient(const demist_view *c, const demist_node *x)
{
    demist_view view = {.storage = c->storage, .offset = c->offset, .rank = x->rank};
    view.batched = demist_is_batched(x);
    memcpy(view.shape, x->shape, sizeof view.shape);
    view.stride[0] = c->rank > 0 ? c->stride[0] : 0;
    return view;
}

static demist_status add_lincomb(demist_program *p, struct cu_chain *c, const demist_node *node)
{
    const int32_t k = node->n_inputs / 2;
    for (int32_t i = 0; i < k; i++) {
        struct source x;
        demist_view view;
        CU_TRY(cu_value_of(p, node->inputs[k + i], &view));
        view = coefficient(&view, node->inputs[i]);
        CU_TRY(source_of(p, c, node->inputs[i], &x));
        const int32_t factor = cu_chain_operand(c, NULL, &view);
        if (i == 0) {
            cu_chain_add(c, CU_SET, x.from, x.index, CU_NOTHING, 0);
            cu_chain_add(c, CU_MUL, CU_OPERAND, factor, CU_NOTHING, 0);
        } else {
            cu_chain_add(c, CU_ADD_FMA, CU_OPERAND, factor, x.from, x.index);
        }
    }
    cu_chain_is(c, node);
    return DEMIST_OK;
}

/* a(x): the accumulator becomes the first input, unless it is or can be exchanged with the second.
 */
demist_status cu_chain_node(demist_program *p, struct cu_chain *c, const demist_node *node)
{
    struct source in[3] = {{CU_NOTHING, 0}, {CU_NOTHING, 0}, {CU_NOTHING, 0}};
    enum cu_opcode exchanged = CU_SET, op = opcode_of(node->op, &exchanged);
    if (node->op == DEMIST_OP_LINCOMB)
        return add_lincomb(p, c, node);
    const bool first = c->current && node->inputs[0] == c->current;
    const bool second = !first && exchanged != CU_SET && c->current && node->n_inputs == 2 &&
                        node->inputs[1] == c->current;
    if (!first)
        CU_TRY(source_of(p, c, node->inputs[0], &in[0]));
    for (int32_t i = 1; i < node->n_inputs && i < 3 && !second; i++)
        CU_TRY(source_of(p, c, node->inputs[i], &in[i]));
    if (second) {
        op = exchanged;
        in[1] = in[0];
    } else if (!first) {
        cu_chain_add(c, CU_SET, in[0].from, in[0].index, CU_NOTHING, 0);
    }
    if (node->op == DEMIST_OP_AFFINE || node->op == DEMIST_OP_CLAMP) {
        const bool affine = node->op == DEMIST_OP_AFFINE;
        in[1] = (struct source){
            CU_NUMBER, cu_chain_number(c, affine ? node->attrs.affine.a : node->attrs.clamp.lo)};
        in[2] = (struct source){
            CU_NUMBER, cu_chain_number(c, affine ? node->attrs.affine.b : node->attrs.clamp.hi)};
    }
    cu_chain_add(c, op, in[1].from, in[1].index, in[2].from, in[2].index);
    cu_chain_is(c, node);
    return DEMIST_OK;
}

demist_status cu_put_code(const demist_program *p, struct cu_draft *d, struct cu_code *field,
                          const struct cu_chain *c)
{
    const demist_host *host = p->device->host;
    if (c->overflow)
        return host->fail(host, DEMIST_INTERNAL, "a fused kernel has too many parts for its code");
    *field = c->code;
    if (c->reads_slots)
        cu_put_slots(d, &field->slots);
    return DEMIST_OK;
}
