/* The reference backend against PyTorch: every op case, computed by PyTorch in float64
 * (tests/tools/make_op_goldens.py). The reference sums in float64 too and rounds once, so results
 * agree to about one unit in the last place, which is the bound. */
#include "testing.h"

#include "harness.h"
#include "op_cases.h"
#include "tensorfile.h"

#include <math.h>

extern const demist_plugin demist_plugin_v1_backend_reference;

enum { IMAGES = 3 }; /* in the goldens */

struct state {
    struct harness h;
    struct dm_checkpoint *goldens;
};

static int setup(void **arg)
{
    static struct state s;
    struct dm_error err = DM_ERROR_INIT;
    harness_open(&s.h, &demist_plugin_v1_backend_reference, 2, NULL);
    if (dm_checkpoint_open(TESTING_SOURCE_DATA "/op_goldens.safetensors", &s.goldens, &err) !=
        DEMIST_OK)
        fail_msg("%s", err.text);
    *arg = &s;
    return 0;
}

static int teardown(void **arg)
{
    struct state *s = *arg;
    harness_close(&s->h);
    dm_checkpoint_close(s->goldens);
    return 0;
}

/* The case's result for n images out of a largest batch of OP_CASE_BATCH; free() it. */
static void *run_case(struct harness *h, const struct op_case *c, int64_t n, size_t *bytes)
{
    void *operands[OP_CASE_OPERANDS] = {NULL};
    const void *inputs[OP_CASE_OPERANDS];
    int32_t n_inputs = 0;
    for (int32_t i = 0; i < c->n; i++) {
        operands[i] = op_case_data(c, i);
        if (c->in[i].rank > 0 && c->in[i].shape[0] == DEMIST_BATCH)
            inputs[n_inputs++] = operands[i];
    }
    struct dm_graph *graph = op_case_build(c, OP_CASE_CONSTANTS, operands);
    const demist_graph *view = dm_graph_view(graph);
    void *out = harness_run(h, view, OP_CASE_BATCH, DEMIST_PRECISION_STRICT, DEMIST_COMPILE_FROZEN,
                            inputs, op_case_scalars, n);
    *bytes = harness_bytes(view->outputs[0], n);
    dm_graph_destroy(graph);
    for (int32_t i = 0; i < c->n; i++)
        free(operands[i]);
    return out;
}

/* Half a unit in the last place for the rounding, half for float64's own error; and 1e-13 of the
 * largest result for sums that cancel. */
static bool agree(double got, double wanted, double largest)
{
    if (isnan(wanted) || isinf(wanted))
        return isnan(wanted) ? isnan(got) : got == wanted;
    return fabs(got - wanted) <= fabs(wanted) * 0x1.2p-23 + largest * 1e-13 + 0x1p-149;
}

static void compare(const struct op_case *c, const struct dm_tensor_view *golden, const void *out)
{
    const size_t n = golden->bytes / 4;
    const float *f = out, *g = golden->data;
    const int32_t *fi = out, *gi = golden->data;
    double largest = 0;
    for (size_t i = 0; i < n && golden->dtype == DEMIST_F32; i++)
        largest = isfinite(g[i]) ? fmax(largest, fabs((double)g[i])) : largest;
    for (size_t i = 0; i < n; i++)
        if (golden->dtype == DEMIST_I32 ? fi[i] != gi[i] : !agree(f[i], g[i], largest))
            fail_msg("%s, element %zu: %.9g, PyTorch %.9g", c->name, i,
                     golden->dtype == DEMIST_I32 ? fi[i] : (double)f[i],
                     golden->dtype == DEMIST_I32 ? gi[i] : (double)g[i]);
}

static bool has_golden(const struct op_case *c)
{
    return !c->chain && c->n > 0;
}

static void test_every_op_equals_pytorch(void **arg)
{
    struct state *s = *arg;
    size_t compared = 0;
    for (int i = 0; i < op_case_count; i++) {
        const struct op_case *c = &op_cases[i];
        if (!has_golden(c))
            continue;
        size_t bytes;
        void *out = run_case(&s->h, c, IMAGES, &bytes);
        const struct dm_tensor_view *golden = dm_checkpoint_find(s->goldens, c->name);
        if (golden && golden->bytes == bytes)
            compare(c, golden, out);
        else
            fail_msg("%s has no golden of its size: run tests/tools/make_op_goldens.py", c->name);
        free(out);
        compared++;
    }
    assert_int_equal(compared, dm_checkpoint_count(s->goldens));
}

/* FNV-1a over the operands' words, as make_op_goldens.py has it. */
static uint64_t hash_operands(void)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (int i = 0; i < op_case_count; i++)
        for (int32_t k = 0; has_golden(&op_cases[i]) && k < op_cases[i].n; k++) {
            uint32_t *words = op_case_data(&op_cases[i], k);
            const int64_t n = op_case_elements(&op_cases[i], k, IMAGES);
            for (int64_t j = 0; j < n; j++)
                hash = (hash ^ words[j]) * 0x100000001b3;
            free(words);
        }
    return hash;
}

static void test_goldens_were_made_from_these_operands(void **arg)
{
    struct state *s = *arg;
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash_operands());
    assert_string_equal(text, dm_checkpoint_metadata(s->goldens, "operands"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens_were_made_from_these_operands),
        cmocka_unit_test(test_every_op_equals_pytorch),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
