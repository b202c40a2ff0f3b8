/* Comparing backends: what agrees, a kernel that is wrong and by how little, and its case. */
#include "testing.h"

#include "compare.h"
#include "fileio.h"
#include "fixture.h"
#include "jsonout.h"

#include <math.h>
#include <unistd.h>

extern const demist_plugin demist_plugin_v1_backend_wrong;
#ifdef HAVE_BACKEND_CPU
extern const demist_plugin demist_plugin_v1_backend_wrong_cpu;
#endif
static const demist_plugin *const extra[] = {&demist_plugin_v1_backend_wrong,
#ifdef HAVE_BACKEND_CPU
                                             &demist_plugin_v1_backend_wrong_cpu,
#endif
                                             NULL};

static const char points[] = "[schedule]\nuse = straight\nsteps = 10\n"
                             "[network]\nuse = mlp\n"
                             "[network.mlp]\npredict = x1\ntime = t\n"
                             "[sampler]\nuse = ddim\n"
                             "[sample]\nimages = 7\nstart = half-circle\n";
static const char images[] = "[schedule]\nuse = cosine\nsteps = 1000\n"
                             "[network]\nuse = unet\n"
                             "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                             "num_res_blocks = 1\nlearn_sigma = true\nnum_classes = 8\n"
                             "[sampler]\nuse = ddim\n"
                             "[sample]\nsteps = 2\nimages = 1\nlabels = 2\n";

static const char sprites[] = "[schedule]\nuse = linear\nsteps = 500\n"
                              "[schedule.linear]\nindexing = one\nbeta_start = 1e-4\n"
                              "beta_end = 0.02\n"
                              "[network]\nuse = context-unet\n"
                              "[network.context-unet]\nn_feat = 32\nn_cfeat = 5\nheight = 16\n"
                              "[sampler]\nuse = ddim\n"
                              "[sample]\nsteps = course4\nimages = 2\n";

/* The description with its checkpoint, and further overrides. */
static struct dm_ini *describe(const char *text, const char *const *overrides)
{
    char checkpoint[4200];
    struct dm_error err = DM_ERROR_INIT;
    const char *file = text == points    ? "straight-path/checkpoint.safetensors"
                       : text == sprites ? "context-unet-sprites/checkpoint.safetensors"
                                         : "crawl-unet/checkpoint.safetensors";
    snprintf(checkpoint, sizeof checkpoint, "network.checkpoint=%s", test_data(file));
    struct dm_ini *ini = fixture_ini(text, (const char *[]){checkpoint, NULL});
    for (; overrides && *overrides; overrides++)
        fixture_expect_ok(dm_ini_set(ini, *overrides, &err), &err);
    return ini;
}

/* Compares two backends under the overrides; the result is to be finished. */
static struct dm_comparison compare(const char *text, const char *a, const char *b,
                                    const char *const *overrides,
                                    const struct dm_compare_options *more)
{
    struct fixture f;
    struct dm_comparison c;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_compare_options o = more ? *more : (struct dm_compare_options){0};
    o.backends = (const char *[]){a, b};
    o.n_backends = 2;
    fixture_open(&f, 2, extra);
    struct dm_ini *ini = describe(text, overrides);
    fixture_expect_ok(dm_compare(&f.env, ini, &o, &c, &err), &err);
    dm_ini_destroy(ini);
    fixture_close(&f);
    return c;
}

static const struct dm_compare_side *other_side(const struct dm_comparison *c)
{
    return &c->runs[0].sides[1];
}

/* Compares the reference with itself, one node's weights multiplied by the factor. */
static struct dm_comparison compare_wrong(const char *text, const char *node, const char *factor,
                                          const struct dm_compare_options *more)
{
    char set_node[128], set_factor[64];
    snprintf(set_node, sizeof set_node, "backend.wrong.node=%s", node);
    snprintf(set_factor, sizeof set_factor, "backend.wrong.factor=%s", factor);
    return compare(text, "reference", "wrong", (const char *[]){set_node, set_factor, NULL}, more);
}

/* ---------------------------------------------------------------- what agrees */

static void test_a_backend_equals_itself(void **state)
{
    (void)state;
    struct dm_comparison c = compare_wrong(points, "", "1", NULL);
    const struct dm_compare_side *s = other_side(&c);
    assert_false(c.disagrees);
    assert_int_equal(s->n_alone, 0);
    for (int32_t i = 0; i < c.runs[0].n_steps; i++) {
        assert_true(s->steps[i].free.max == 0 && s->steps[i].forced.max == 0);
        assert_true(s->steps[i].output == 0 && s->steps[i].output_bound > 0);
        assert_true(isinf(s->steps[i].free.psnr));
    }
    dm_comparison_finish(&c);
}

#ifdef HAVE_BACKEND_CPU
static void check_agreement(const char *text, const char *a, const char *b, bool observe_all)
{
    struct dm_compare_options more = {.observe_all = observe_all};
    struct dm_comparison c = compare(text, a, b, NULL, &more);
    const struct dm_compare_side *s = other_side(&c);
    double largest = 0;
    assert_false(c.disagrees);
    assert_null(s->first_bad);
    assert_true(s->n_seen > 0 && s->output_worst > 0 && s->output_worst < 1);
    assert_true(s->ms_per_step > 0 && s->first_step_ms > 0 && s->peak_memory_bytes > 0);
    assert_true(s->param_bytes > 0 && s->arena_bytes > 0);
    for (int32_t i = 0; i < c.runs[0].n_steps; i++)
        largest = fmax(largest, s->steps[i].free.max);
    assert_true(largest > 0); /* they are two implementations */
    dm_comparison_finish(&c);
}

static void test_cpu_agrees_on_points(void **state)
{
    (void)state;
    check_agreement(points, "reference", "cpu", false);
}

static void test_cpu_agrees_on_images(void **state)
{
    (void)state;
    check_agreement(images, "reference", "cpu", false);
}

static void test_cpu_agrees_in_bf16(void **state)
{
    (void)state;
    check_agreement(points, "reference", "cpu:bf16", false);
    check_agreement(images, "reference", "cpu:bf16", false);
    check_agreement(images, "reference", "cpu:bf16", true);
    check_agreement(sprites, "reference", "cpu:bf16", false);
}

/* x after a step from one same x. The first step is left out: there x_0 is eps times hundreds. */
static void test_steps_in_bf16_are_within_40_db(void **state)
{
    (void)state;
    static const char *const texts[] = {images, sprites};
    static const char *const levels[] = {"auto", "generic", "amx-emulated"};
    for (int i = 0; i < 6; i++) {
        char isa[64];
        snprintf(isa, sizeof isa, "backend.cpu.isa=%s", levels[i % 3]);
        const char *const overrides[] = {isa, i / 3 == 0 ? "sample.steps=4" : NULL, NULL};
        struct dm_comparison c = compare(texts[i / 3], "reference", "cpu:bf16", overrides, NULL);
        const struct dm_compare_side *s = other_side(&c);
        assert_false(c.disagrees);
        for (int32_t step = 1; step < c.runs[0].n_steps; step++)
            if (!(s->steps[step].forced.psnr >= 40))
                fail_msg("%s, step %d: %.1f dB", levels[i % 3], (int)step,
                         s->steps[step].forced.psnr);
        dm_comparison_finish(&c);
    }
}

static void test_cpu_agrees_unfused(void **state)
{
    (void)state;
    check_agreement(images, "reference", "cpu", true);
}

static void test_a_reference_side_may_be_inexact(void **state)
{
    (void)state;
    check_agreement(images, "cpu", "cpu:strict", false);
    check_agreement(points, "cpu", "reference", false);
}

static void test_fused_values_are_listed_with_their_node(void **state)
{
    (void)state;
    struct dm_comparison fused = compare(points, "reference", "cpu", NULL, NULL);
    struct dm_comparison all = compare(points, "reference", "cpu", NULL,
                                       &(struct dm_compare_options){.observe_all = true});
    int inside = 0;
    for (int32_t i = 0; i < other_side(&fused)->n_nodes; i++) {
        const struct dm_compare_node *n = &other_side(&fused)->nodes[i];
        assert_true((n->fate == DM_COMPARE_INSIDE) == (n->inside != NULL));
        inside += n->fate == DM_COMPARE_INSIDE;
        assert_int_not_equal(other_side(&all)->nodes[i].fate, DM_COMPARE_INSIDE);
    }
    assert_true(inside > 0);
    assert_true(other_side(&all)->n_seen > other_side(&fused)->n_seen);
    dm_comparison_finish(&all);
    dm_comparison_finish(&fused);
}

/* The free run is the run that sample makes, bit for bit. */
static void test_the_free_run_is_what_sample_makes(void **state)
{
    (void)state;
    struct dm_comparison c = compare(images, "reference", "cpu", NULL, NULL);
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    fixture_open(&f, 2, extra);
    struct dm_ini *ini = describe(images, (const char *[]){"backend.use=cpu", NULL});
    fixture_expect_ok(fixture_sample(&f, ini, false, &r, &err), &err);
    assert_memory_equal(r.x0, other_side(&c)->x0, (size_t)(r.n * r.elements) * sizeof(float));
    recording_free(&r);
    dm_ini_destroy(ini);
    fixture_close(&f);
    dm_comparison_finish(&c);
}
#endif

#ifdef HAVE_BACKEND_CPU
/* A fused chain is run alone as one node, and bears the name of its last. */
static void test_a_wrong_fused_kernel_is_found_and_named(void **state)
{
    (void)state;
    struct dm_comparison right = compare(images, "reference", "cpu", NULL, NULL);
    char node[128] = "", set_node[160];
    for (int32_t i = 0; i < other_side(&right)->n_nodes && !node[0]; i++) {
        const struct dm_compare_node *n = &other_side(&right)->nodes[i];
        bool conv = strncmp(n->op, "conv2d", 6) == 0;
        if (conv && n->fate == DM_COMPARE_INSIDE)
            snprintf(node, sizeof node, "%s", n->inside);
    }
    dm_comparison_finish(&right);
    assert_true(node[0]);
    snprintf(set_node, sizeof set_node, "backend.wrong-cpu.node=%s", node);
    struct dm_comparison c =
        compare(images, "reference", "wrong-cpu",
                (const char *[]){set_node, "backend.wrong-cpu.factor=1.001", NULL}, NULL);
    assert_true(c.disagrees);
    assert_non_null(other_side(&c)->first_bad);
    assert_string_equal(other_side(&c)->first_bad->name, node);
    dm_comparison_finish(&c);
}
#endif

static void test_every_sampler_gets_a_run(void **state)
{
    (void)state;
    struct dm_compare_options more = {
        .samplers = (const char *[]){"ddim", "ddpm"}, .n_samplers = 2, .steps = "3"};
    struct dm_comparison c = compare(images, "reference", "wrong", NULL, &more);
    assert_int_equal(c.n_runs, 2);
    assert_string_equal(c.runs[0].sampler, "ddim");
    assert_string_equal(c.runs[1].sampler, "ddpm");
    assert_int_equal(c.runs[0].n_steps, 3);
    assert_int_equal(c.runs[1].n_steps, 3);
    assert_false(c.disagrees);
    dm_comparison_finish(&c);
}

/* ---------------------------------------------------------------- what is wrong */

static void check_found(const char *text, const char *node, const char *factor)
{
    struct dm_comparison c = compare_wrong(text, node, factor, NULL);
    const struct dm_compare_side *s = other_side(&c);
    assert_true(c.disagrees);
    assert_non_null(s->first_bad);
    assert_string_equal(s->first_bad->name, node);
    int exceeding = 0;
    for (int32_t i = 0; i < s->n_nodes; i++)
        exceeding += s->nodes[i].exceeds;
    assert_int_equal(exceeding, 1); /* what came after it is innocent */
    const struct dm_compare_node **ranked = calloc((size_t)s->n_nodes, sizeof *ranked);
    assert_non_null(ranked);
    dm_compare_rank(s, ranked);
    assert_ptr_equal(ranked[0], s->first_bad);
    free(ranked);
    dm_comparison_finish(&c);
}

static void test_a_wrong_kernel_is_found_and_named(void **state)
{
    (void)state;
    check_found(points, "nn.2", "1.001");
    check_found(images, "middle_block.0.in_layers.2", "1.0001");
}

static void test_a_kernel_that_is_slightly_wrong_is_found(void **state)
{
    (void)state;
    check_found(points, "nn.2", "1.00002"); /* 2e-5; 8e-6 is allowed */
}

static void test_an_error_within_the_bound_is_no_disagreement(void **state)
{
    (void)state;
    struct dm_comparison c = compare_wrong(points, "nn.2", "1.000004", NULL);
    assert_false(c.disagrees);
    assert_true(other_side(&c)->output_worst > 0);
    dm_comparison_finish(&c);
}

static void test_nan_is_found_and_named(void **state)
{
    (void)state;
    check_found(points, "nn.4", "0");
}

/* Chains drift apart by more than any bound, and that alone accuses nobody. */
static void test_drift_is_told_and_not_judged(void **state)
{
    (void)state;
    struct dm_comparison c = compare_wrong(points, "nn.0", "1.000005", NULL);
    const struct dm_compare_side *s = other_side(&c);
    double drift = 0, step = 0;
    for (int32_t i = 0; i < c.runs[0].n_steps; i++) {
        drift = fmax(drift, s->steps[i].free.max);
        step = fmax(step, s->steps[i].forced.max);
    }
    assert_false(c.disagrees);
    assert_true(drift > 2 * step);
    dm_comparison_finish(&c);
}

/* ---------------------------------------------------------------- cases */

/* Runs the case on a backend that has the fault, or not. */
static struct dm_replay replay(const char *path, const char *backend, const char *node)
{
    struct fixture f;
    struct dm_replay r;
    struct dm_error err = DM_ERROR_INIT;
    char set_node[128];
    snprintf(set_node, sizeof set_node, "backend.wrong.node=%s", node);
    fixture_open(&f, 2, extra);
    struct dm_ini *ini =
        fixture_ini("", (const char *[]){set_node, "backend.wrong.factor=1.001", NULL});
    fixture_expect_ok(dm_compare_replay(&f.env, ini, path, &backend, backend ? 1 : 0, &r, &err),
                      &err);
    dm_ini_destroy(ini);
    fixture_close(&f);
    return r;
}

static void check_case(const char *text, const char *node)
{
    char dir[] = "/tmp/demist-case-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct dm_compare_options more = {.save_case = dir};
    struct dm_comparison c = compare_wrong(text, node, "1.001", &more);
    const struct dm_compare_node *bad = other_side(&c)->first_bad;
    const char *path = other_side(&c)->case_file;
    assert_non_null(bad);
    assert_non_null(path);

    struct dm_replay again = replay(path, NULL, node);
    assert_true(again.disagrees);
    assert_string_equal(again.node, node);
    assert_string_equal(again.sides[0].label, "wrong:f32");
    assert_true(again.sides[0].error == bad->error && again.sides[0].ratio == bad->ratio);
    dm_replay_finish(&again);
    struct dm_replay right = replay(path, "reference", node);
    assert_false(right.disagrees);
    assert_true(right.sides[0].error == 0);
    dm_replay_finish(&right);

    char notes[4200], *text_file;
    size_t size;
    struct dm_error err = DM_ERROR_INIT;
    snprintf(notes, sizeof notes, "%s/ddim-wrong.txt", dir);
    fixture_expect_ok(dm_read_file(notes, 1 << 20, &text_file, &size, &err), &err);
    assert_contains(text_file, node);
    assert_contains(text_file, "demist compare --replay");
    free(text_file);
    unlink(notes);
    unlink(path);
    rmdir(dir);
    dm_comparison_finish(&c);
}

static void test_a_saved_case_replays_alone(void **state)
{
    (void)state;
    check_case(points, "nn.2");
    check_case(images, "middle_block.0.in_layers.2");
}

static void check_refused(const char *path, const char *fragment)
{
    struct fixture f;
    struct dm_replay r;
    struct dm_error err = DM_ERROR_INIT;
    fixture_open(&f, 1, extra);
    struct dm_ini *ini = fixture_ini("", NULL);
    assert_int_not_equal(dm_compare_replay(&f.env, ini, path, NULL, 0, &r, &err), DEMIST_OK);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

/* Every byte of a case's header is damaged in turn: it loads or is refused, and never crashes. */
static void test_damaged_cases_are_refused(void **state)
{
    (void)state;
    char dir[] = "/tmp/demist-case-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct dm_compare_options more = {.save_case = dir};
    struct dm_comparison c = compare_wrong(points, "nn.2", "1.001", &more);
    const char *path = other_side(&c)->case_file;
    char *bytes, notes[64];
    size_t size;
    struct dm_error err = DM_ERROR_INIT;
    assert_non_null(path);
    fixture_expect_ok(dm_read_file(path, 1 << 20, &bytes, &size, &err), &err);
    size_t header = 8 + (size_t)(unsigned char)bytes[0] + 256 * (size_t)(unsigned char)bytes[1];
    struct fixture f;
    fixture_open(&f, 1, extra);
    struct dm_ini *ini = fixture_ini("", NULL);
    for (size_t i = 8; i < header; i += 3) {
        static const char damage[] = {'"', '9', '-', 'x'};
        char kept = bytes[i];
        struct dm_replay r;
        bytes[i] = damage[i % sizeof damage];
        fixture_expect_ok(dm_write_file(path, bytes, size, NULL, &err), &err);
        if (dm_compare_replay(&f.env, ini, path, NULL, 0, &r, &err) == DEMIST_OK)
            dm_replay_finish(&r);
        else
            assert_non_null(err.text);
        dm_error_clear(&err);
        bytes[i] = kept;
    }
    dm_ini_destroy(ini);
    fixture_close(&f);
    free(bytes);
    snprintf(notes, sizeof notes, "%s/ddim-wrong.txt", dir);
    unlink(notes);
    unlink(path);
    rmdir(dir);
    dm_comparison_finish(&c);
    check_refused(test_data("straight-path/checkpoint.safetensors"), "--save-case");
    check_refused("/nowhere/case.safetensors", "/nowhere/case.safetensors");
}

/* ---------------------------------------------------------------- refusals, reports */

static void check_usage(const char *const *backends, size_t n, const char *fragment)
{
    struct fixture f;
    struct dm_comparison c;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_compare_options o = {.backends = backends, .n_backends = n};
    fixture_open(&f, 1, extra);
    struct dm_ini *ini = describe(points, NULL);
    assert_int_not_equal(dm_compare(&f.env, ini, &o, &c, &err), DEMIST_OK);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static void test_refuses_what_cannot_be_compared(void **state)
{
    (void)state;
    check_usage((const char *[]){"reference"}, 1, "name 2 to");
    check_usage((const char *[]){"reference", "reference"}, 2, "twice");
    check_usage((const char *[]){"reference", "wrong:f64"}, 2, "cpu:bf16");
    check_usage((const char *[]){"reference", "wrong:bf16"}, 2, "bf16");
    check_usage((const char *[]){"reference", "nonesuch"}, 2, "nonesuch");
}

static bool stop_at_once(void *user, const char *what, int64_t done, int64_t total)
{
    (void)what, (void)done, (void)total;
    return ++*(int *)user < 5;
}

static void test_a_listener_can_stop_it(void **state)
{
    (void)state;
    int calls = 0;
    struct fixture f;
    struct dm_comparison c;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_compare_options o = {.backends = (const char *[]){"reference", "wrong"},
                                   .n_backends = 2,
                                   .progress = stop_at_once,
                                   .user = &calls};
    fixture_open(&f, 1, extra);
    struct dm_ini *ini = describe(points, NULL);
    assert_int_equal(dm_compare(&f.env, ini, &o, &c, &err), DEMIST_CANCELLED);
    assert_int_equal(calls, 5);
    dm_error_clear(&err);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static const cJSON *member(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item)
        fail_msg("the JSON has no %s", key);
    return item;
}

static void test_json_holds_what_was_found(void **state)
{
    (void)state;
    struct dm_comparison c = compare_wrong(points, "nn.2", "0", NULL);
    struct dm_text text = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    fixture_expect_ok(dm_compare_json(&c, &text, &err), &err);
    cJSON *root = cJSON_Parse(text.data);
    assert_non_null(root);
    assert_true(cJSON_IsTrue(member(root, "disagrees")));
    const cJSON *run = cJSON_GetArrayItem(member(root, "runs"), 0);
    const cJSON *sides = member(run, "backends");
    assert_int_equal(cJSON_GetArraySize(sides), 2);
    assert_true(member(cJSON_GetArrayItem(sides, 0), "ms_per_step")->valuedouble > 0);
    const cJSON *side = cJSON_GetArrayItem(sides, 1);
    assert_string_equal(member(side, "first_bad_node")->valuestring, "nn.2");
    assert_int_equal(cJSON_GetArraySize(member(side, "steps")), c.runs[0].n_steps);
    assert_int_equal(cJSON_GetArraySize(member(side, "nodes")), other_side(&c)->n_nodes);
    const cJSON *step = cJSON_GetArrayItem(member(side, "steps"), 0);
    assert_true(cJSON_IsNull(member(step, "output"))); /* NaN: not a number in JSON */
    cJSON_Delete(root);
    dm_text_finish(&text);
    dm_comparison_finish(&c);
}

#ifdef HAVE_BACKEND_OPENCL
/* The kernels of CPUs, and those of GPUs. */
static void test_opencl_agrees_in_f16(void **state)
{
    (void)state;
    static const char *const texts[] = {images, sprites};
    for (int i = 0; i < 2; i++) {
        const char *const overrides[] = {"backend.opencl.tuning=off",
                                         i ? "backend.opencl.kernels=tiled" : NULL, NULL};
        struct dm_comparison c = compare(texts[i], "reference", "opencl:f16", overrides, NULL);
        const struct dm_compare_side *s = other_side(&c);
        print_message("output: %.2g of what is allowed\n", s->output_worst);
        assert_false(c.disagrees);
        assert_null(s->first_bad);
        assert_true(s->output_worst > 0 && s->output_worst < 1);
        dm_comparison_finish(&c);
    }
}

static int run_opencl(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_opencl_agrees_in_f16)};
    return cmocka_run_group_tests_name("compare opencl", tests, NULL, NULL);
}
#endif

/* With "opencl", what needs a device and compiles for it. */
int main(int argc, char **argv)
{
#ifdef HAVE_BACKEND_OPENCL
    if (argc > 1 && strcmp(argv[1], "opencl") == 0)
        return run_opencl();
#else
    (void)argc;
    (void)argv;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_backend_equals_itself),
#ifdef HAVE_BACKEND_CPU
        cmocka_unit_test(test_cpu_agrees_on_points),
        cmocka_unit_test(test_cpu_agrees_on_images),
        cmocka_unit_test(test_cpu_agrees_unfused),
        cmocka_unit_test(test_cpu_agrees_in_bf16),
        cmocka_unit_test(test_steps_in_bf16_are_within_40_db),
        cmocka_unit_test(test_a_reference_side_may_be_inexact),
        cmocka_unit_test(test_fused_values_are_listed_with_their_node),
        cmocka_unit_test(test_the_free_run_is_what_sample_makes),
        cmocka_unit_test(test_a_wrong_fused_kernel_is_found_and_named),
#endif
        cmocka_unit_test(test_every_sampler_gets_a_run),
        cmocka_unit_test(test_a_wrong_kernel_is_found_and_named),
        cmocka_unit_test(test_a_kernel_that_is_slightly_wrong_is_found),
        cmocka_unit_test(test_an_error_within_the_bound_is_no_disagreement),
        cmocka_unit_test(test_nan_is_found_and_named),
        cmocka_unit_test(test_drift_is_told_and_not_judged),
        cmocka_unit_test(test_a_saved_case_replays_alone),
        cmocka_unit_test(test_damaged_cases_are_refused),
        cmocka_unit_test(test_refuses_what_cannot_be_compared),
        cmocka_unit_test(test_a_listener_can_stop_it),
        cmocka_unit_test(test_json_holds_what_was_found),
    };
    return cmocka_run_group_tests_name("compare", tests, NULL, NULL);
}
