/* What only the CUDA backend promises. On an emulated device (EMULATED; tests/cuda-emulator): whole
 * networks in every precision, executions that are captured once and allocate nothing, errors that
 * say call, code and place, memory that is too small with the batch that fits, choices that are
 * measured once. Without EMULATED, on a machine that shows it no GPU: what is said there. */
#include "testing.h"

#include "harness.h"

extern const demist_plugin demist_plugin_v1_backend_cuda;
static const demist_plugin *const cuda = &demist_plugin_v1_backend_cuda;

static void test_descriptor_names_one_backend_with_options(void **state)
{
    const demist_class *class = cuda->classes[0];
    assert_string_equal(cuda->id, "demist.backend-cuda");
    assert_int_equal(class->kind, DEMIST_BACKEND);
    assert_string_equal(class->name, "cuda");
    assert_null(cuda->classes[1]);
    static const char *const keys[] = {"device", "tuning",    "cache",
                                       "graphs", "libraries", "library_folder"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        assert_string_equal(class->options[i]->key, keys[i]);
    assert_null(class->options[6]);
}

static void test_refuses_a_relative_cache_folder(void **state)
{
    struct harness h;
    static const char *const options[] = {"cache = here", NULL};
    assert_false(harness_try_open(&h, cuda, 1, options));
    assert_int_equal(h.error.status, DEMIST_CONFIG);
    assert_contains(h.error.text, "cache = here");
    harness_close(&h);
}

/* The backend opens nothing and still lists: nothing, and no failure. */
static void expect_no_device(const char *why)
{
    struct harness h;
    const demist_device_info *const *infos;
    int32_t n = 7;
    assert_false(harness_try_open(&h, cuda, 1, NULL));
    assert_int_equal(h.error.status, DEMIST_NOT_FOUND);
    assert_contains(h.error.text, "there is no CUDA device here");
    assert_contains(h.error.text, why);
    HARNESS_OK(&h, devices, (h.self, &infos, &n));
    assert_int_equal(n, 0);
    harness_close(&h);
}

#ifndef EMULATED

static void test_without_a_gpu_it_lists_nothing_and_says_why(void **state)
{
    expect_no_device("NVIDIA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor_names_one_backend_with_options),
        cmocka_unit_test(test_refuses_a_relative_cache_folder),
        cmocka_unit_test(test_without_a_gpu_it_lists_nothing_and_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "cuda_emulator.h"
#include "passes.h"
#include "unet_graph.h"

#include <dirent.h>
#include <math.h>
#include <unistd.h>

static int reset(void **state)
{
    cuda_emulator_reset();
    return 0;
}

/* --- devices --- */

static void test_without_a_driver_it_lists_nothing_and_says_so(void **state)
{
    cuda_emulator_set_devices(-1);
    expect_no_device("there is no NVIDIA driver");
    cuda_emulator_set_devices(0);
    expect_no_device("finds no NVIDIA GPU");
}

static void test_an_old_device_is_listed_and_refused(void **state)
{
    struct harness h;
    const demist_device_info *const *infos;
    int32_t n;
    cuda_emulator_set_capability(7, 0);
    assert_false(harness_try_open(&h, cuda, 1, NULL));
    assert_int_equal(h.error.status, DEMIST_DEVICE);
    assert_contains(h.error.text, "compute capability 7.0");
    assert_contains(h.error.text, "7.5 or newer");
    HARNESS_OK(&h, devices, (h.self, &infos, &n));
    assert_int_equal(n, 1);
    assert_contains(infos[0]->unusable, "7.0");
    harness_close(&h);
}

static void test_devices_are_chosen_by_index_and_name(void **state)
{
    struct harness h;
    static const char *const second[] = {"device = 1", NULL}, *const third[] = {"device = 2", NULL};
    static const char *const nobody[] = {"device = abacus", NULL};
    cuda_emulator_set_devices(2);
    harness_open(&h, cuda, 1, second);
    assert_contains(h.vtable->device_info(h.device)->driver, "CUDA ");
    assert_contains(h.vtable->device_info(h.device)->detail, "compute capability ");
    harness_close(&h);
    assert_false(harness_try_open(&h, cuda, 1, third));
    assert_contains(h.error.text, "CUDA offers 0 to 1");
    harness_close(&h);
    assert_false(harness_try_open(&h, cuda, 1, nobody));
    assert_contains(h.error.text, "device = abacus");
    harness_close(&h);
}

/* --- a network --- */

enum { IMAGES = 3, SIDE = 8, X = 3 * SIDE * SIDE };

static const struct unet_shape small = {
    .image = SIDE,
    .channels = 32,
    .blocks = 1,
    .mult = {1, 2},
    .levels = 2,
    .attention = 4 | 8,
    .heads = 2,
    .out_channels = 3,
};

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

struct network {
    struct harness h;
    void *weights;
    struct dm_graph *owner;
    struct dm_lowered lowered;
    const demist_graph *graph;
    float x[IMAGES * X], t[IMAGES];
};

static void network_open(struct network *w, const demist_plugin *plugin, const char *const *options)
{
    struct dm_error err = DM_ERROR_INIT;
    uint32_t r = 7;
    memset(w, 0, sizeof *w);
    harness_open(&w->h, plugin, 2, options);
    w->owner = unet_graph(&small, &w->weights);
    const struct dm_lower_options lower = {.frozen = true, .supports = supports, .user = &w->h};
    if (dm_graph_lower(w->owner, &lower, &w->lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    w->graph = dm_graph_view(w->lowered.graph);
    for (int i = 0; i < IMAGES * X; i++) {
        r = r * 1664525 + 1013904223;
        w->x[i] = (float)(int32_t)r * 0x1p-30f;
    }
    for (int i = 0; i < IMAGES; i++)
        w->t[i] = 120.5f * (float)(i + 1);
}

static void network_close(struct network *w)
{
    dm_graph_destroy(w->lowered.graph);
    dm_graph_destroy(w->owner);
    unet_release(w->weights);
    harness_close(&w->h);
}

static float *network_run(struct network *w, demist_precision precision)
{
    const void *const inputs[] = {w->x, w->t};
    return harness_run(&w->h, w->graph, IMAGES, precision, DEMIST_COMPILE_FROZEN, inputs, NULL,
                       IMAGES);
}

static void test_a_u_net_keeps_the_bound_of_each_precision(void **state)
{
    static const struct {
        demist_precision precision;
        double bound; /* docs/ops.md: whole networks */
    } runs[] = {{DEMIST_PRECISION_F32, 2e-5},
                {DEMIST_PRECISION_STRICT, 2e-5},
                {DEMIST_PRECISION_TF32, 3e-3},
                {DEMIST_PRECISION_F16, 0x1p-6},
                {DEMIST_PRECISION_BF16, 0x1p-3}};
    extern const demist_plugin demist_plugin_v1_backend_reference;
    static struct network exact, tested;
    static const char *const options[] = {"tuning = off", NULL};
    double largest = 0;
    network_open(&exact, &demist_plugin_v1_backend_reference, NULL);
    network_open(&tested, cuda, options);
    float *wanted = network_run(&exact, DEMIST_PRECISION_STRICT);
    for (int i = 0; i < IMAGES * X; i++)
        largest = fmax(largest, fabs((double)wanted[i]));
    assert_true(largest > 0);
    for (size_t k = 0; k < sizeof runs / sizeof runs[0]; k++) {
        double off = 0;
        float *got = network_run(&tested, runs[k].precision);
        for (int i = 0; i < IMAGES * X; i++)
            off = fmax(off, isnan(got[i]) ? INFINITY : fabs((double)got[i] - (double)wanted[i]));
        if (off > runs[k].bound * largest)
            fail_msg("precision %d: off by %.3g of the largest value, %.3g allowed",
                     (int)runs[k].precision, off / largest, runs[k].bound);
        free(got);
    }
    assert_string_equal(cuda_emulator_fault(), "");
    free(wanted);
    network_close(&exact);
    network_close(&tested);
}

/* --- executions --- */

static void set_images(struct network *w, struct harness_program *p)
{
    harness_set(p, 0, w->x, IMAGES);
    harness_set(p, 1, w->t, IMAGES);
}

static void test_an_execution_is_captured_once_and_allocates_nothing(void **state)
{
    static struct network w;
    struct harness_program p;
    static const char *const options[] = {"tuning = off", NULL};
    static const char *const allocating[] = {"cudaMalloc", "cudaHostAlloc", "cudaFree",
                                             "cudaGraphInstantiate"};
    int64_t before[4];
    network_open(&w, cuda, options);
    harness_compile(&w.h, w.graph, IMAGES, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    set_images(&w, &p);
    harness_execute(&p, NULL, IMAGES); /* kernels are loaded */
    assert_int_equal(cuda_emulator_calls("cudaGraphInstantiate"), 0);
    harness_execute(&p, NULL, IMAGES);
    harness_execute(&p, NULL, 1);
    float *first = harness_get(&p, 0, IMAGES);
    for (int i = 0; i < 4; i++)
        before[i] = cuda_emulator_calls(allocating[i]);
    assert_int_equal(before[3], 2);
    for (int i = 0; i < 6; i++)
        harness_execute(&p, NULL, i % 2 ? 1 : IMAGES);
    float *last = harness_get(&p, 0, IMAGES);
    for (int i = 0; i < 4; i++)
        assert_int_equal(cuda_emulator_calls(allocating[i]), before[i]);
    assert_memory_equal(first, last, IMAGES * X * sizeof *last);
    free(first);
    free(last);
    harness_program_finish(&p);
    network_close(&w);
}

/* The last of three executions: loaded, captured, replayed. */
static float *third_run(const char *const *options, demist_precision precision)
{
    static struct network w;
    struct harness_program p;
    network_open(&w, cuda, options);
    harness_compile(&w.h, w.graph, IMAGES, precision, DEMIST_COMPILE_FROZEN, &p);
    set_images(&w, &p);
    for (int i = 0; i < 3; i++)
        harness_execute(&p, NULL, IMAGES);
    float *out = harness_get(&p, 0, IMAGES);
    harness_program_finish(&p);
    network_close(&w);
    return out;
}

static void test_replayed_and_queued_executions_have_the_same_bits(void **state)
{
    static const char *const graphs[] = {"tuning = off", "graphs = auto", NULL};
    static const char *const none[] = {"tuning = off", "graphs = off", NULL};
    float *a = third_run(graphs, DEMIST_PRECISION_BF16);
    const int64_t launched = cuda_emulator_calls("cudaGraphLaunch");
    assert_int_equal(launched, 2);
    float *b = third_run(none, DEMIST_PRECISION_BF16);
    assert_int_equal(cuda_emulator_calls("cudaGraphLaunch"), launched);
    assert_memory_equal(a, b, IMAGES * X * sizeof *a);
    free(a);
    free(b);
}

/* More numbers of images than graphs are kept for. */
static void test_every_number_of_images_gives_the_same_images(void **state)
{
    enum { MOST = 6 };
    static struct network w;
    static float x[MOST * X], t[MOST];
    struct harness_program p;
    static const char *const options[] = {"tuning = off", NULL};
    network_open(&w, cuda, options);
    for (int i = 0; i < MOST; i++) {
        memcpy(x + i * X, w.x, X * sizeof *x);
        t[i] = w.t[0];
    }
    harness_compile(&w.h, w.graph, MOST, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    harness_set(&p, 0, x, MOST);
    harness_set(&p, 1, t, MOST);
    harness_execute(&p, NULL, MOST);
    float *all = harness_get(&p, 0, MOST);
    static const int numbers[] = {1, 2, 3, 4, 5, 1, 5}; /* the first 1 has to give way */
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        harness_execute(&p, NULL, numbers[i]);
        float *some = harness_get(&p, 0, numbers[i]);
        assert_memory_equal(some, all, (size_t)numbers[i] * X * sizeof *some);
        free(some);
    }
    free(all);
    harness_program_finish(&p);
    network_close(&w);
}

/* x [N,3,SIDE,SIDE] -> a convolution of the concatenation of two convolutions and, where `input`, x
 */
static struct dm_graph *concat_graph(bool input, const float *weights)
{
    struct dm_graph *graph;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_graph_create("parts", NULL, &graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *part[3], *whole;
    const demist_node *x =
        b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 4, (int64_t[]){DEMIST_BATCH, 3, SIDE, SIDE});
    for (int i = 0; i < 2; i++) {
        const int64_t shape[] = {4 + i, 3, 3, 3};
        part[i] = demist_conv2d(b, x, b->constant(b, DEMIST_F32, 4, shape, weights), NULL, 1, 1);
    }
    part[2] = x;
    whole = demist_concat(b, 1, input ? 3 : 2, part);
    const int64_t shape[] = {3, input ? 12 : 9, 3, 3};
    b->output(b, "out",
              demist_conv2d(b, whole, b->constant(b, DEMIST_F32, 4, shape, weights), NULL, 1, 1));
    if (dm_graph_finish(graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return graph;
}

static int64_t kernels_of_a_concatenation(bool input)
{
    extern const demist_plugin demist_plugin_v1_backend_reference;
    static float weights[3 * 12 * 9], x[IMAGES * X];
    static const char *const options[] = {"tuning = off", NULL};
    const void *const inputs[] = {x};
    struct harness h;
    struct harness_program p;
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++)
        weights[i] = 0.25f * (float)((int)(i * 7 % 9) - 4);
    for (int i = 0; i < IMAGES * X; i++)
        x[i] = (float)(i * 5 % 11 - 5);
    struct dm_graph *graph = concat_graph(input, weights);
    harness_open(&h, &demist_plugin_v1_backend_reference, 1, NULL);
    float *wanted = harness_run(&h, dm_graph_view(graph), IMAGES, DEMIST_PRECISION_STRICT,
                                DEMIST_COMPILE_FROZEN, inputs, NULL, IMAGES);
    harness_close(&h);
    harness_open(&h, cuda, 1, options);
    harness_compile(&h, dm_graph_view(graph), IMAGES, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN,
                    &p);
    harness_set(&p, 0, x, IMAGES);
    const int64_t before = cuda_emulator_calls("launch");
    harness_execute(&p, NULL, IMAGES);
    const int64_t kernels = cuda_emulator_calls("launch") - before;
    float *got = harness_get(&p, 0, IMAGES);
    assert_memory_equal(got, wanted, IMAGES * X * sizeof *got); /* all numbers are exact */
    free(wanted);
    free(got);
    harness_program_finish(&p);
    harness_close(&h);
    dm_graph_destroy(graph);
    return kernels;
}

static void test_parts_are_written_where_their_concatenation_has_them(void **state)
{
    /* To pixels for two convolutions, from them for the output, and three convolutions; the input
     * has to be copied. */
    assert_int_equal(kernels_of_a_concatenation(false), 3 + 3);
    assert_int_equal(kernels_of_a_concatenation(true), 3 + 3 + 1);
}

/* --- errors --- */

static void test_a_failing_call_is_named_with_code_and_place(void **state)
{
    struct harness h;
    demist_buffer *buffer;
    static const float data[1024]; /* too much for a kernel's arguments */
    harness_open(&h, cuda, 1, NULL);
    HARNESS_OK(&h, buffer_create, (h.device, sizeof data, &buffer));
    cuda_emulator_fail("cudaMemcpyAsync", 1, cudaErrorInvalidValue);
    HARNESS_FAILS(&h, buffer_write, (h.queue, buffer, 0, data, sizeof data), DEMIST_DEVICE,
                  "cudaMemcpyAsync failed: cudaErrorInvalidValue (1");
    cuda_emulator_fail("cudaMemcpyAsync", 1, cudaErrorInvalidValue);
    HARNESS_FAILS(&h, buffer_write, (h.queue, buffer, 0, data, sizeof data), DEMIST_DEVICE,
                  "at cuda_backend.c:");
    HARNESS_OK(&h, buffer_write, (h.queue, buffer, 0, data, sizeof data));
    h.vtable->buffer_destroy(buffer);
    harness_close(&h);
}

static void test_a_lost_device_says_that_it_cannot_go_on(void **state)
{
    static struct network w;
    struct harness_program p;
    static const char *const options[] = {"tuning = off", NULL};
    network_open(&w, cuda, options);
    harness_compile(&w.h, w.graph, IMAGES, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    set_images(&w, &p);
    cuda_emulator_fail("launch", 5, cudaErrorIllegalAddress);
    demist_status status =
        harness_status(&w.h, "execute", w.h.vtable->execute(w.h.queue, p.binding, NULL, IMAGES));
    if (status == DEMIST_OK)
        status = harness_status(&w.h, "synchronize", w.h.vtable->synchronize(w.h.queue));
    assert_int_equal(status, DEMIST_DEVICE);
    assert_contains(w.h.error.text, "cudaErrorIllegalAddress");
    assert_contains(w.h.error.text, "cannot go on in this process");
    harness_program_finish(&p);
    network_close(&w);
    cuda_emulator_reset();
}

static int64_t batch_in(const char *text)
{
    const char *at = strstr(text, "a batch of about ");
    return at ? strtoll(at + strlen("a batch of about "), NULL, 10) : 0;
}

static void test_too_little_memory_tells_the_batch_that_fits(void **state)
{
    static struct network w;
    struct harness_program p;
    demist_program *program;
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    static const char *const options[] = {"tuning = off", NULL};
    network_open(&w, cuda, options);
    cuda_emulator_set_memory(cuda_emulator_used() + (24 << 20));
    info.flags = DEMIST_COMPILE_FROZEN;
    info.max_batch = 4096;
    HARNESS_FAILS(&w.h, compile, (w.h.device, w.graph, &info, &program), DEMIST_NO_MEMORY,
                  "bytes asked for");
    assert_int_equal(
        harness_status(&w.h, "compile", w.h.vtable->compile(w.h.device, w.graph, &info, &program)),
        DEMIST_NO_MEMORY);
    assert_contains(w.h.error.text, "are free");
    const int64_t fits = batch_in(w.h.error.text);
    assert_in_range(fits, 1, 4095);
    info.max_batch = fits;
    HARNESS_OK(&w.h, compile, (w.h.device, w.graph, &info, &program));
    w.h.vtable->program_destroy(program);
    cuda_emulator_reset();
    harness_compile(&w.h, w.graph, 1, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    harness_program_finish(&p);
    network_close(&w);
}

static void test_large_buffers_go_and_come_back_whole(void **state)
{
    enum { N = 3 << 20 }; /* more than the pinned pieces hold */
    struct harness h;
    demist_buffer *buffer;
    uint32_t *data = malloc(N * sizeof *data);
    assert_non_null(data);
    for (uint32_t i = 0; i < N; i++)
        data[i] = i * 2654435761u;
    harness_open(&h, cuda, 1, NULL);
    HARNESS_OK(&h, buffer_create, (h.device, N * sizeof *data, &buffer));
    HARNESS_OK(&h, buffer_write, (h.queue, buffer, 0, data, N * sizeof *data));
    uint32_t *back = harness_read(&h, buffer, N * sizeof *data);
    assert_memory_equal(data, back, N * sizeof *data);
    free(back);
    free(data);
    h.vtable->buffer_destroy(buffer);
    harness_close(&h);
}

/* --- choices --- */

static char folder[] = "/tmp/demist-cuda-XXXXXX";
static char cache_option[64];

static int make_folder(void **state)
{
    cuda_emulator_reset();
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    assert_non_null(mkdtemp(folder));
    snprintf(cache_option, sizeof cache_option, "cache = %s", folder);
    return 0;
}

static int each_file(void (*fn)(const char *path))
{
    char path[512];
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        n++;
        if (fn)
            fn(path);
    }
    if (dir)
        closedir(dir);
    return n;
}

static void remove_file(const char *path)
{
    unlink(path);
}

static int remove_folder(void **state)
{
    each_file(remove_file);
    rmdir(folder);
    return 0;
}

static void cut_short(const char *path)
{
    assert_int_equal(truncate(path, 20), 0);
}

/* What measuring takes: times between events. */
static int64_t measured(float **out)
{
    static struct network w;
    /* The vendor's libraries, where there are some, do not know this device. */
    const char *const options[] = {"tuning = cached", "libraries = off", cache_option, NULL};
    network_open(&w, cuda, options);
    const int64_t before = cuda_emulator_calls("cudaEventElapsedTime");
    *out = network_run(&w, DEMIST_PRECISION_F16);
    const int64_t after = cuda_emulator_calls("cudaEventElapsedTime");
    network_close(&w);
    return after - before;
}

static void test_kernels_are_measured_once_and_remembered(void **state)
{
    float *first, *second, *third;
    assert_true(measured(&first) > 0);
    assert_true(each_file(NULL) > 0);
    assert_int_equal(measured(&second), 0);
    assert_memory_equal(first, second, IMAGES * X * sizeof *first);
    each_file(cut_short);
    assert_true(measured(&third) > 0);
    free(first);
    free(second);
    free(third);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_descriptor_names_one_backend_with_options, reset),
        cmocka_unit_test_setup(test_refuses_a_relative_cache_folder, reset),
        cmocka_unit_test_setup_teardown(test_without_a_driver_it_lists_nothing_and_says_so, reset,
                                        reset),
        cmocka_unit_test_setup_teardown(test_an_old_device_is_listed_and_refused, reset, reset),
        cmocka_unit_test_setup_teardown(test_devices_are_chosen_by_index_and_name, reset, reset),
        cmocka_unit_test_setup(test_a_u_net_keeps_the_bound_of_each_precision, reset),
        cmocka_unit_test_setup(test_an_execution_is_captured_once_and_allocates_nothing, reset),
        cmocka_unit_test_setup(test_replayed_and_queued_executions_have_the_same_bits, reset),
        cmocka_unit_test_setup(test_every_number_of_images_gives_the_same_images, reset),
        cmocka_unit_test_setup(test_parts_are_written_where_their_concatenation_has_them, reset),
        cmocka_unit_test_setup(test_a_failing_call_is_named_with_code_and_place, reset),
        cmocka_unit_test_setup_teardown(test_a_lost_device_says_that_it_cannot_go_on, reset, reset),
        cmocka_unit_test_setup_teardown(test_too_little_memory_tells_the_batch_that_fits, reset,
                                        reset),
        cmocka_unit_test_setup(test_large_buffers_go_and_come_back_whole, reset),
        cmocka_unit_test_setup_teardown(test_kernels_are_measured_once_and_remembered, make_folder,
                                        remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
