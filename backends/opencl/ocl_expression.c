/* Chains of elementwise nodes as OpenCL C text: what a fused kernel computes for one element. The
 * text depends on ops alone, never on shapes or constants, so that few kernels serve a network. */
#include "ocl_program.h"

#include <stdarg.h>
#include <string.h>

/* --- text --- */

struct ocl_text ocl_text_behind(char *buffer, size_t size)
{
    const size_t used = strlen(buffer);
    return (struct ocl_text){buffer + used, size - used, false};
}

/* n: what vsnprintf returned */
static void advance(struct ocl_text *text, int n)
{
    if (n < 0 || (size_t)n >= text->left) {
        text->overflow = true;
        return;
    }
    text->at += n;
    text->left -= (size_t)n;
}

void ocl_print(struct ocl_text *text, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    advance(text, vsnprintf(text->at, text->left, fmt, args));
    va_end(args);
}

/* --- building --- */

void ocl_expression_init(struct ocl_expression *e)
{
    e->text[0] = '\0';
    e->overflow = e->in_place = false;
    e->n_operands = e->n_numbers = e->n_known = 0;
}

int32_t ocl_expression_operand(struct ocl_expression *e, const demist_node *node,
                               const demist_view *view)
{
    for (int32_t i = 0; node && i < e->n_operands; i++)
        if (e->operand[i].node == node)
            return i;
    if (e->n_operands == OCL_MAX_OPERANDS) {
        e->overflow = true;
        return 0;
    }
    e->operand[e->n_operands].node = node;
    e->operand[e->n_operands].view = *view;
    e->operand[e->n_operands].dtype = node ? node->dtype : DEMIST_F32;
    return e->n_operands++;
}

static int32_t add_number(struct ocl_expression *e, bool is_slot, int32_t slot, float number)
{
    if (e->n_numbers == OCL_MAX_CHAIN * 2) {
        e->overflow = true;
        return 0;
    }
    e->number[e->n_numbers].is_slot = is_slot;
    e->number[e->n_numbers].slot = slot;
    e->number[e->n_numbers].number = number;
    return e->n_numbers++;
}

int32_t ocl_expression_number(struct ocl_expression *e, float number)
{
    return add_number(e, false, 0, number);
}

void ocl_expression_let(struct ocl_expression *e, const demist_node *node, const char *fmt, ...)
{
    va_list args;
    struct ocl_text text = ocl_text_behind(e->text, sizeof e->text);
    if (e->n_known == OCL_MAX_CHAIN) {
        e->overflow = true;
        return;
    }
    ocl_print(&text, "    const T t%d = ", (int)e->n_known);
    va_start(args, fmt);
    advance(&text, vsnprintf(text.at, text.left, fmt, args));
    va_end(args);
    ocl_print(&text, ";\n");
    e->overflow = e->overflow || text.overflow;
    e->known[e->n_known++] = node;
}

/* --- nodes --- */

struct name {
    char text[8];
};

static demist_status name_of(demist_program *p, struct ocl_expression *e, const demist_node *node,
                             const demist_view *as, struct name *name)
{
    for (int32_t i = 0; i < e->n_known; i++)
        if (e->known[i] == node) {
            snprintf(name->text, sizeof name->text, "t%d", (int)i % 1000);
            return DEMIST_OK;
        }
    demist_view view;
    if (as)
        view = *as;
    else
        OCL_TRY(ocl_value_of(p, node, &view));
    const int32_t i = ocl_expression_operand(e, node, &view);
    snprintf(name->text, sizeof name->text, "v%d", (int)i % 1000);
    return DEMIST_OK;
}

static const char *function_of(demist_op op)
{
    switch (op) {
    case DEMIST_OP_NEG:
        return "neg";
    case DEMIST_OP_ABS:
        return "abs";
    case DEMIST_OP_EXP:
        return "exp";
    case DEMIST_OP_LOG:
        return "log";
    case DEMIST_OP_SQRT:
        return "sqrt";
    case DEMIST_OP_SIN:
        return "sin";
    case DEMIST_OP_COS:
        return "cos";
    case DEMIST_OP_TANH:
        return "tanh";
    case DEMIST_OP_ERF:
        return "erf";
    case DEMIST_OP_SIGMOID:
        return "sigmoid";
    case DEMIST_OP_RELU:
        return "relu";
    case DEMIST_OP_SILU:
        return "silu";
    case DEMIST_OP_GELU:
        return "gelu";
    case DEMIST_OP_AFFINE:
        return "affine";
    case DEMIST_OP_CLAMP:
        return "clamp";
    case DEMIST_OP_ADD:
        return "add";
    case DEMIST_OP_SUB:
        return "sub";
    case DEMIST_OP_MUL:
        return "mul";
    case DEMIST_OP_DIV:
        return "div";
    case DEMIST_OP_MIN:
        return "min";
    case DEMIST_OP_MAX:
        return "max";
    case DEMIST_OP_LESS:
        return "less";
    case DEMIST_OP_SELECT:
        return "select";
    case DEMIST_OP_LINCOMB:
        return "lincomb";
    default:
        return NULL;
    }
}

bool ocl_is_elementwise(demist_op op)
{
    return function_of(op) != NULL;
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

static demist_status add_lincomb(demist_program *p, struct ocl_expression *e,
                                 const demist_node *node)
{
    const int32_t k = node->n_inputs / 2;
    char text[OCL_MAX_OPERANDS * 32] = "";
    for (int32_t i = 0; i < k; i++) {
        struct name x, c;
        demist_view view;
        char term[sizeof text];
        OCL_TRY(ocl_value_of(p, node->inputs[k + i], &view));
        view = coefficient(&view, node->inputs[i]);
        OCL_TRY(name_of(p, e, node->inputs[i], NULL, &x));
        snprintf(c.text, sizeof c.text, "v%d", (int)ocl_expression_operand(e, NULL, &view) % 1000);
        if (i == 0)
            snprintf(term, sizeof term, "%s*%s", c.text, x.text);
        else
            snprintf(term, sizeof term, "FMA(%s, %s, %.*s)", c.text, x.text,
                     (int)(sizeof text - 40), text);
        memcpy(text, term, sizeof text);
    }
    ocl_expression_let(e, node, "%s", text);
    return DEMIST_OK;
}

demist_status ocl_expression_add(demist_program *p, struct ocl_expression *e,
                                 const demist_node *node)
{
    const char *function = function_of(node->op);
    struct name in[3];
    if (node->op == DEMIST_OP_LINCOMB)
        return add_lincomb(p, e, node);
    for (int32_t i = 0; i < node->n_inputs && i < 3; i++)
        OCL_TRY(name_of(p, e, node->inputs[i], NULL, &in[i]));
    if (node->op == DEMIST_OP_AFFINE || node->op == DEMIST_OP_CLAMP) {
        const bool affine = node->op == DEMIST_OP_AFFINE;
        const int32_t a =
            ocl_expression_number(e, affine ? node->attrs.affine.a : node->attrs.clamp.lo);
        const int32_t b =
            ocl_expression_number(e, affine ? node->attrs.affine.b : node->attrs.clamp.hi);
        ocl_expression_let(e, node, "F(d_%s)(%s, num%d, num%d)", function, in[0].text, (int)a,
                           (int)b);
    } else if (node->n_inputs == 1) {
        ocl_expression_let(e, node, "F(d_%s)(%s)", function, in[0].text);
    } else if (node->n_inputs == 2) {
        ocl_expression_let(e, node, "F(d_%s)(%s, %s)", function, in[0].text, in[1].text);
    } else {
        ocl_expression_let(e, node, "F(d_%s)(%s, %s, %s)", function, in[0].text, in[1].text,
                           in[2].text);
    }
    return DEMIST_OK;
}

/* --- the source --- */

static void print_function(struct ocl_text *t, const struct ocl_expression *e)
{
    ocl_print(t, "INLINE T F(value)(T x_");
    for (int32_t i = 0; i < e->n_operands; i++)
        ocl_print(t, ", T v%d", (int)i);
    for (int32_t i = 0; i < e->n_numbers; i++)
        ocl_print(t, ", float num%d", (int)i);
    if (e->n_known > 0)
        ocl_print(t, ")\n{\n%s    return t%d;\n}\n", e->text, (int)e->n_known - 1);
    else
        ocl_print(t, ")\n{\n    return x_;\n}\n");
}

demist_status ocl_expression_source(const demist_host *host, const struct ocl_expression *e,
                                    char *out, size_t size)
{
    struct ocl_text t = {out, size, e->overflow};
    ocl_print(&t, "#define T float\n#define I int\n#define F(name) name##_s\n");
    print_function(&t, e);
    ocl_print(&t, "#undef T\n#undef I\n#undef F\n#define T VT\n#define I VI\n"
                  "#define F(name) name##_v\n");
    print_function(&t, e);
    ocl_print(&t, "#undef T\n#undef I\n#undef F\n");
    ocl_print(&t, "#define NUMBERS ");
    for (int32_t i = 0; i < e->n_numbers; i++)
        ocl_print(&t, ", float num%d", (int)i);
    ocl_print(&t, "\n#define PASS_NUMBERS ");
    for (int32_t i = 0; i < e->n_numbers; i++)
        ocl_print(&t, ", num%d", (int)i);
    ocl_print(&t, "\n");
    if (!t.overflow)
        return DEMIST_OK;
    return host->fail(host, DEMIST_INTERNAL, "a fused kernel has too many parts for its text");
}
