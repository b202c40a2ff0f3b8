/* The embedding API: what a program gets, is told, and can stop. */
#include "testing.h"

#include "fixture.h"
#include "safetensors.h"
#include "session.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

static const char text[] = "[backend]\nuse = reference\n"
                           "[schedule]\nuse = linear\nsteps = 100\n"
                           "[network]\nuse = mlp\n"
                           "[network.mlp]\nhidden = 8\n"
                           "[sampler]\nuse = ddpm\n"
                           "[sample]\nsteps = 10\nimages = 5\nbatch = 2\nseed = 7\n";

/* A folder with a small network, gone after the test. */
struct place {
    char dir[64], net[96], file[96];
};

static int set_up(void **state)
{
    static struct place place;
    static const int64_t shapes[4][2] = {{8, 3}, {8, 0}, {2, 8}, {2, 0}};
    static const char *const names[] = {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"};
    float weights[24];
    for (int i = 0; i < 24; i++)
        weights[i] = 0.3F * sinf((float)(7 * i));
    struct dm_tensor_view views[4];
    for (int i = 0; i < 4; i++) {
        int64_t n = shapes[i][0] * (shapes[i][1] ? shapes[i][1] : 1);
        views[i] = (struct dm_tensor_view){.name = names[i],
                                           .dtype = DEMIST_F32,
                                           .rank = shapes[i][1] ? 2 : 1,
                                           .shape = {shapes[i][0], shapes[i][1]},
                                           .data = weights,
                                           .bytes = (size_t)n * sizeof(float)};
    }
    snprintf(place.dir, sizeof place.dir, "/tmp/test-session-XXXXXX");
    assert_non_null(mkdtemp(place.dir));
    snprintf(place.net, sizeof place.net, "%s/net.safetensors", place.dir);
    snprintf(place.file, sizeof place.file, "%s/file.safetensors", place.dir);
    assert_int_equal(dm_safetensors_save(place.net, views, 4, NULL, 0, NULL), DEMIST_OK);
    *state = &place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    unlink(place->net);
    unlink(place->file);
    rmdir(place->dir);
    return 0;
}

static void expect(demist_session *s, demist_status found, demist_status expected)
{
    if (found != expected)
        fail_msg("status %d, not %d: %s", found, expected, demist_session_error(s));
}

/* A session that is ready to sample. */
static demist_session *open_session(const struct place *place)
{
    char set[128];
    demist_session *s = demist_session_create();
    assert_non_null(s);
    expect(s, demist_session_static_plugins(s, fixture_plugins()), DEMIST_OK);
    expect(s, demist_session_threads(s, 2), DEMIST_OK);
    expect(s, demist_session_load_text(s, "run", text), DEMIST_OK);
    snprintf(set, sizeof set, "network.checkpoint=%s", place->net);
    expect(s, demist_session_set(s, set), DEMIST_OK);
    return s;
}

/* What a callback saw, and when it says stop. */
struct told {
    int64_t calls, stop_batch, stop_step;
    demist_progress last;
    float ends[10]; /* x after the last step of every batch */
};

static bool listen(void *user, const demist_progress *p)
{
    struct told *told = user;
    bool in_order = told->calls == 0
                        ? p->batch == 0 && p->step == 0
                        : (p->batch == told->last.batch && p->step == told->last.step + 1) ||
                              (p->batch == told->last.batch + 1 && p->step == 0 &&
                               told->last.step == told->last.n_steps);
    assert_true(in_order);
    told->calls++;
    told->last = *p;
    if (p->x && p->step == p->n_steps)
        memcpy(told->ends + 2 * p->first_image, p->x, 2 * (size_t)p->n_images * sizeof *p->x);
    return !(p->batch == told->stop_batch && p->step == told->stop_step);
}

static struct told never_stops(void)
{
    return (struct told){.stop_batch = -1};
}

static void test_a_program_gets_the_data(void **state)
{
    demist_session *s = open_session(*state);
    demist_result *result, *again;
    expect(s, demist_session_sample(s, NULL, &result), DEMIST_OK);
    assert_int_equal(result->n_images, 5);
    assert_int_equal(result->rank, 1);
    assert_int_equal(result->shape[0], 2);
    assert_null(result->labels);
    assert_int_equal(result->n_files, 0);
    for (int i = 0; i < 10; i++)
        assert_true(isfinite(result->data[i]));
    expect(s, demist_session_set(s, "sample.batch=5"), DEMIST_OK);
    expect(s, demist_session_threads(s, 1), DEMIST_OK);
    expect(s, demist_session_sample(s, NULL, &again), DEMIST_OK);
    assert_memory_equal(result->data, again->data, 10 * sizeof(float));
    demist_result_free(result);
    demist_result_free(again);
    demist_session_destroy(s);
}

static void test_data_are_kept_only_on_request(void **state)
{
    demist_session *s = open_session(*state);
    demist_sample_options options = DEMIST_INIT(demist_sample_options);
    demist_result *result;
    expect(s, demist_session_sample(s, &options, &result), DEMIST_OK);
    assert_int_equal(result->n_images, 5);
    assert_null(result->data);
    demist_result_free(result);
    expect(s, demist_session_sample(s, &options, NULL), DEMIST_OK);
    demist_session_destroy(s);
}

static void test_progress_comes_in_order_with_states(void **state)
{
    demist_session *s = open_session(*state);
    struct told told = never_stops();
    demist_sample_options options = DEMIST_INIT(demist_sample_options);
    options.progress = listen;
    options.user = &told;
    options.wants_data = options.keep_data = true;
    demist_result *result;
    expect(s, demist_session_sample(s, &options, &result), DEMIST_OK);
    assert_int_equal(told.calls, 3 * 11);
    assert_int_equal(told.last.batch, 2);
    assert_int_equal(told.last.n_batches, 3);
    assert_int_equal(told.last.first_image, 4);
    assert_int_equal(told.last.n_images, 1);
    assert_memory_equal(told.ends, result->data, 10 * sizeof(float));
    demist_result_free(result);
    demist_session_destroy(s);
}

static void stops_with(void **state, int64_t batch, int64_t step, int64_t kept)
{
    demist_session *s = open_session(*state);
    struct told told = {.stop_batch = batch, .stop_step = step};
    demist_sample_options options = DEMIST_INIT(demist_sample_options);
    demist_result *whole, *result;
    expect(s, demist_session_sample(s, NULL, &whole), DEMIST_OK);
    options.progress = listen;
    options.user = &told;
    options.keep_data = true;
    expect(s, demist_session_sample(s, &options, &result), DEMIST_CANCELLED);
    assert_int_equal(result->n_images, kept);
    assert_memory_equal(result->data, whole->data, (size_t)kept * 2 * sizeof(float));
    demist_result_free(result);
    demist_result_free(whole);
    demist_session_destroy(s);
}

static void test_stopping_keeps_finished_batches(void **state)
{
    stops_with(state, 0, 0, 0);
    stops_with(state, 0, 3, 0);
    stops_with(state, 1, 3, 2);
    stops_with(state, 2, 0, 4);
}

static void test_stopping_after_a_last_step_keeps_that_batch(void **state)
{
    stops_with(state, 0, 10, 2);
    stops_with(state, 1, 10, 4);
}

static void test_trajectory_of_a_stopped_run_holds_what_is_finished(void **state)
{
    const struct place *place = *state;
    demist_session *s = open_session(place);
    struct told told = {.stop_batch = 2, .stop_step = 5};
    demist_sample_options options = DEMIST_INIT(demist_sample_options);
    options.progress = listen;
    options.user = &told;
    options.keep_data = true;
    options.trajectory = place->file;
    demist_result *result;
    expect(s, demist_session_sample(s, &options, &result), DEMIST_CANCELLED);
    struct dm_checkpoint *file;
    assert_int_equal(dm_checkpoint_open(place->file, &file, NULL), DEMIST_OK);
    const struct dm_tensor_view *x = dm_checkpoint_find(file, "x");
    assert_int_equal(x->rank, 3);
    assert_int_equal(x->shape[0], 11);
    assert_int_equal(x->shape[1], 4);
    assert_int_equal(x->shape[2], 2);
    const float *states = x->data;
    assert_memory_equal(states + (size_t)10 * 4 * 2, result->data, 8 * sizeof(float));
    dm_checkpoint_close(file);
    demist_result_free(result);
    demist_session_destroy(s);
}

static void test_an_error_says_where_and_leaves_the_session_usable(void **state)
{
    demist_session *s = open_session(*state);
    demist_result *result = (demist_result *)s;
    expect(s, demist_session_set(s, "sample.images=-1"), DEMIST_OK);
    expect(s, demist_session_sample(s, NULL, &result), DEMIST_CONFIG);
    assert_null(result);
    assert_contains(demist_session_error(s), "--set: [sample]: images");
    expect(s, demist_session_load(s, "/nowhere/run.ini"), DEMIST_NOT_FOUND);
    expect(s, demist_session_set(s, "nonsense"), DEMIST_CONFIG);
    expect(s, demist_session_threads(s, -1), DEMIST_INVALID);
    expect(s, demist_session_set(s, "sample.images=1"), DEMIST_OK);
    assert_string_equal(demist_session_error(s), "");
    expect(s, demist_session_sample(s, NULL, &result), DEMIST_OK);
    demist_result_free(result);
    demist_session_destroy(s);
}

static void test_calls_out_of_order_are_refused(void **state)
{
    demist_session *s = demist_session_create();
    demist_sample_options options = {0};
    expect(s, demist_session_sample(s, NULL, NULL), DEMIST_INVALID);
    expect(s, demist_session_set(s, "sample.images=1"), DEMIST_INVALID);
    demist_session_destroy(s);
    s = open_session(*state);
    expect(s, demist_session_sample(s, &options, NULL), DEMIST_INVALID);
    assert_contains(demist_session_error(s), "DEMIST_INIT");
    expect(s, demist_session_sample(s, NULL, NULL), DEMIST_OK);
    expect(s, demist_session_plugin_path(s, "/usr/lib"), DEMIST_INVALID);
    expect(s, demist_session_static_plugins(s, NULL), DEMIST_INVALID);
    demist_session_destroy(s);
    demist_session_destroy(NULL);
    demist_result_free(NULL);
}

static void test_options_of_an_older_header_are_enough(void **state)
{
    demist_session *s = open_session(*state);
    struct told told = never_stops();
    demist_sample_options options = {.size = offsetof(demist_sample_options, keep_data),
                                     .progress = listen,
                                     .user = &told,
                                     .keep_data = true,
                                     .trajectory = "/nowhere/file"};
    demist_result *result;
    expect(s, demist_session_sample(s, &options, &result), DEMIST_OK);
    assert_int_equal(told.calls, 3 * 11);
    demist_result_free(result);
    demist_session_destroy(s);
}

struct lines {
    char text[1024];
    int n;
};

static void keep_line(void *user, demist_log_level level, const char *line)
{
    struct lines *lines = user;
    snprintf(lines->text, sizeof lines->text, "%d %s", (int)level, line);
    lines->n++;
}

static void test_the_log_goes_to_the_program(void **state)
{
    struct lines lines = {.n = 0};
    demist_session *s = open_session(*state);
    demist_session_on_log(s, DEMIST_LOG_NOTICE, keep_line, &lines);
    expect(s, demist_session_sample(s, NULL, NULL), DEMIST_OK);
    assert_int_equal(lines.n, 1);
    assert_contains(lines.text, "scaled by 1000/T");
    demist_session_on_log(s, DEMIST_LOG_ERROR, keep_line, &lines);
    expect(s, demist_session_sample(s, NULL, NULL), DEMIST_OK);
    demist_session_on_log(s, DEMIST_LOG_DEBUG, NULL, NULL);
    expect(s, demist_session_sample(s, NULL, NULL), DEMIST_OK);
    assert_int_equal(lines.n, 1);
    demist_session_destroy(s);
}

static void *run_alone(void *arg)
{
    demist_result *result = NULL;
    demist_session *s = arg;
    return demist_session_sample(s, NULL, &result) == DEMIST_OK ? result : NULL;
}

static void test_sessions_are_independent(void **state)
{
    demist_session *sessions[2] = {open_session(*state), open_session(*state)};
    demist_result *alone, *together[2];
    pthread_t threads[2];
    expect(sessions[1], demist_session_set(sessions[1], "sample.seed=8"), DEMIST_OK);
    expect(sessions[0], demist_session_sample(sessions[0], NULL, &alone), DEMIST_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_alone, sessions[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(threads[i], &result);
        together[i] = result;
        assert_non_null(result);
    }
    assert_memory_equal(alone->data, together[0]->data, 10 * sizeof(float));
    assert_memory_not_equal(alone->data, together[1]->data, 10 * sizeof(float));
    demist_result_free(alone);
    for (int i = 0; i < 2; i++) {
        demist_result_free(together[i]);
        demist_session_destroy(sessions[i]);
    }
}

static void test_versions_and_texts(void **state)
{
    assert_int_equal(demist_version()[0] >= '0' && demist_version()[0] <= '9', 1);
    assert_contains(demist_status_text(DEMIST_CANCELLED), "interrupted");
    assert_non_null(demist_status_text((demist_status)9999));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_program_gets_the_data),
        cmocka_unit_test(test_data_are_kept_only_on_request),
        cmocka_unit_test(test_progress_comes_in_order_with_states),
        cmocka_unit_test(test_stopping_keeps_finished_batches),
        cmocka_unit_test(test_stopping_after_a_last_step_keeps_that_batch),
        cmocka_unit_test(test_trajectory_of_a_stopped_run_holds_what_is_finished),
        cmocka_unit_test(test_an_error_says_where_and_leaves_the_session_usable),
        cmocka_unit_test(test_calls_out_of_order_are_refused),
        cmocka_unit_test(test_options_of_an_older_header_are_enough),
        cmocka_unit_test(test_the_log_goes_to_the_program),
        cmocka_unit_test(test_sessions_are_independent),
        cmocka_unit_test(test_versions_and_texts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
