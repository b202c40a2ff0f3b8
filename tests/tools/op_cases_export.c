/* Writes the op cases for make_op_goldens.py: cases.txt, one line a case that has a PyTorch
 * counterpart, and data.bin, the operands in the lines' order.
 *
 *     name|op|attribute bytes in hex|asked shape|operand;operand;…     operand: dtype shape
 *
 * Shapes are comma-separated, -1 the batch, which is 3 in data.bin. */
#include "testing.h"

#include "op_cases.h"

#include <inttypes.h>

enum { IMAGES = 3 };

static void print_shape(FILE *to, int32_t rank, const int64_t *shape)
{
    for (int32_t i = 0; i < rank; i++)
        fprintf(to, "%s%" PRId64, i > 0 ? "," : "", shape[i]);
}

static void export_case(const struct op_case *c, FILE *text, FILE *data)
{
    fprintf(text, "%s|%s|", c->name, demist_op_name(c->op));
    for (size_t i = 0; i < sizeof c->attrs; i++)
        fprintf(text, "%02x", c->attrs.bytes[i]);
    fprintf(text, "|");
    print_shape(text, c->rank, c->shape);
    fprintf(text, "|");
    for (int32_t i = 0; i < c->n; i++) {
        fprintf(text, "%s%s ", i > 0 ? ";" : "", demist_dtype_name(c->in[i].dtype));
        print_shape(text, c->in[i].rank, c->in[i].shape);
        void *values = op_case_data(c, i);
        fwrite(values, 4, (size_t)op_case_elements(c, i, IMAGES), data);
        free(values);
    }
    fprintf(text, "\n");
}

int main(int argc, char **argv)
{
    char path[2][4096];
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    snprintf(path[0], sizeof path[0], "%s/cases.txt", argv[1]);
    snprintf(path[1], sizeof path[1], "%s/data.bin", argv[1]);
    FILE *text = fopen(path[0], "w"), *data = fopen(path[1], "wb");
    if (!text || !data) {
        perror(argv[1]);
        return 1;
    }
    for (int i = 0; i < op_case_count; i++)
        if (!op_cases[i].chain && op_cases[i].n > 0)
            export_case(&op_cases[i], text, data);
    const bool failed = ferror(text) || ferror(data);
    return fclose(text) != 0 || fclose(data) != 0 || failed;
}
