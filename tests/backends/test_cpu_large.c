/* The CPU backend on the network that it is measured with, CIFAR-10's of improved-diffusion with
 * pseudo-random weights: pictures, channels and sums that the small network of test_cpu.c does not
 * reach. */
#include "testing.h"

#include "harness.h"
#include "passes.h"
#include "unet_graph.h"

#include <math.h>

extern const demist_plugin demist_plugin_v1_backend_cpu, demist_plugin_v1_backend_reference;

enum { BATCH = 3, IN = 3 * 32 * 32, OUT = 6 * 32 * 32 };

static const char *const levels[] = {"auto", "avx512", "avx2"};

struct network {
    struct dm_graph *graph;
    void *weights;
    float x[BATCH * IN], t[BATCH];
    float *wanted; /* of the first image, by the reference */
};

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

/* The lowered network's output for `images` from image `first` on; free() it. */
static float *evaluate(const struct network *n, struct harness *h, demist_precision precision,
                       int64_t first, int64_t images)
{
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = h};
    if (dm_graph_lower(n->graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    const void *inputs[] = {n->x + first * IN, n->t + first};
    float *out = harness_run(h, dm_graph_view(lowered.graph), images, precision,
                             DEMIST_COMPILE_FROZEN, inputs, NULL, images);
    dm_graph_destroy(lowered.graph);
    return out;
}

static int setup(void **state)
{
    static struct network n;
    struct harness h;
    uint64_t random = 7;
    n.graph = unet_graph(&unet_cifar, &n.weights);
    for (int i = 0; i < BATCH * IN; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        n.x[i] = 1.5F * (float)(int32_t)(random >> 32) * 0x1p-31f;
    }
    for (int i = 0; i < BATCH; i++)
        n.t[i] = 37.25F * (float)(i + 1);
    harness_open(&h, &demist_plugin_v1_backend_reference, 2, NULL);
    n.wanted = evaluate(&n, &h, DEMIST_PRECISION_STRICT, 0, 1);
    harness_close(&h);
    *state = &n;
    return 0;
}

static int teardown(void **state)
{
    struct network *n = *state;
    dm_graph_destroy(n->graph);
    unet_release(n->weights);
    free(n->wanted);
    return 0;
}

static bool open_level(struct harness *h, const char *level, int threads)
{
    char option[32];
    snprintf(option, sizeof option, "isa = %s", level);
    if (harness_try_open(h, &demist_plugin_v1_backend_cpu, threads, (const char *[]){option, NULL}))
        return true;
    print_message("skipped: %s\n", h->error.text);
    harness_close(h);
    return false;
}

/* At the machine's best level and at those below it. */
static void check(const struct network *n, demist_precision precision, double bound, double psnr)
{
    double largest = 0;
    for (int i = 0; i < OUT; i++)
        largest = fmax(largest, fabs((double)n->wanted[i]));
    assert_true(largest > 0);
    for (size_t k = 0; k < sizeof levels / sizeof *levels; k++) {
        struct harness h;
        if (!open_level(&h, levels[k], 2))
            continue;
        double error = 0, squares = 0;
        float *out = evaluate(n, &h, precision, 0, 1);
        for (int i = 0; i < OUT; i++) {
            const double d = fabs((double)out[i] - n->wanted[i]);
            error = d <= error ? error : d; /* NaN stays */
            squares += d * d / OUT;
        }
        const double db = 10 * log10(4 * largest * largest / squares);
        print_message("%s: %.2e of the largest result, %.0f dB\n", levels[k], error / largest, db);
        assert_true(error <= bound * largest && db >= psnr);
        free(out);
        harness_close(&h);
    }
}

static void test_f32_agrees_with_the_reference(void **state)
{
    check(*state, DEMIST_PRECISION_F32, 2e-5, 100);
}

static void test_strict_agrees_with_the_reference(void **state)
{
    check(*state, DEMIST_PRECISION_STRICT, 2e-5, 100);
}

static void test_bf16_agrees_with_the_reference(void **state)
{
    check(*state, DEMIST_PRECISION_BF16, 0x1p-5, 54);
}

static void test_an_image_does_not_depend_on_threads_or_batch(void **state)
{
    static const demist_precision precisions[] = {DEMIST_PRECISION_F32, DEMIST_PRECISION_BF16};
    for (int k = 0; k < 2; k++) {
        struct harness one, three;
        open_level(&one, "auto", 1);
        open_level(&three, "auto", 3);
        float *all = evaluate(*state, &three, precisions[k], 0, BATCH);
        float *last = evaluate(*state, &one, precisions[k], BATCH - 1, 1);
        assert_memory_equal(last, all + (BATCH - 1) * OUT, OUT * sizeof *last);
        free(all);
        free(last);
        harness_close(&one);
        harness_close(&three);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_agrees_with_the_reference),
        cmocka_unit_test(test_strict_agrees_with_the_reference),
        cmocka_unit_test(test_bf16_agrees_with_the_reference),
        cmocka_unit_test(test_an_image_does_not_depend_on_threads_or_batch),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
