/* The sampler interface carries an adaptive method in which each image takes steps of its own. */
#include "testing.h"

#include "adaptive_sampler.h"
#include "hosttable.h"
#include "mock_run.h"

#include <math.h>

enum { N = 5, ELEMENTS = 3 };

/* From almost in the middle to far out: the further, the harder. */
static const float start[N * ELEMENTS] = {0.01f, -0.02f, 0.03f, 1, -1, 0.5f, 3,     -2,
                                          1,     5,      6,     4, -8, 7,    -12.5f};

static void sample_with(double tolerance, int64_t first, int64_t n, float *result, int *steps,
                        struct mock_run *mock)
{
    struct dm_host host;
    void *self;
    demist_value value = DEMIST_INIT(demist_value);
    const demist_value *const values[] = {&value, NULL};
    value.number = tolerance;
    assert_int_equal(dm_host_init(&host, "sampler adaptive", NULL, NULL, NULL), DEMIST_OK);
    assert_int_equal(adaptive_vtable.create(&host.table, values, &self), DEMIST_OK);
    assert_int_equal(adaptive_vtable.needs(self), DEMIST_NEEDS_FRACTIONAL_TIMES);
    mock_run_init(mock, n, ELEMENTS, 1, 0.5, 0.25);
    demist_tensor *x = mock_tensor(mock, start + first * ELEMENTS);
    assert_int_equal(adaptive_vtable.sample(self, &mock->run, x), DEMIST_OK);
    memcpy(result, mock_data(x), (size_t)(n * ELEMENTS) * sizeof *result);
    memcpy(steps, adaptive_steps(self), (size_t)n * sizeof *steps);
    assert_int_equal(mock->n_emitted, 1);
    adaptive_vtable.destroy(self);
    dm_host_finish(&host);
}

static double largest_error(const struct mock_run *mock, const float *result)
{
    double largest = 0;
    for (int i = 0; i < N * ELEMENTS; i++) {
        double exact = mock_exact(mock, mock->times[0], start[i]);
        largest = fmax(largest, fabs(result[i] - exact));
    }
    return largest;
}

static void test_solution_converges_to_the_closed_form(void **state)
{
    struct mock_run mock;
    float result[N * ELEMENTS];
    int steps[N];
    double before = INFINITY;
    for (double tolerance = 1e-2; tolerance > 5e-5; tolerance /= 10) {
        sample_with(tolerance, 0, N, result, steps, &mock);
        double error = largest_error(&mock, result);
        print_message("tolerance %g: error %.2e, %d to %d steps\n", tolerance, error, steps[0],
                      steps[N - 1]);
        assert_true(error < 20 * tolerance);
        assert_true(error < before);
        before = error;
        mock_run_finish(&mock);
    }
}

static void test_each_image_takes_steps_of_its_own(void **state)
{
    struct mock_run mock;
    float result[N * ELEMENTS];
    int steps[N];
    sample_with(1e-3, 0, N, result, steps, &mock);
    for (int i = 1; i < N; i++)
        assert_true(steps[i] > steps[i - 1]);
    mock_run_finish(&mock);
}

static void test_an_image_alone_is_the_same_as_in_a_batch(void **state)
{
    struct mock_run mock;
    float all[N * ELEMENTS], alone[ELEMENTS];
    int all_steps[N], steps;
    sample_with(1e-3, 0, N, all, all_steps, &mock);
    mock_run_finish(&mock);
    for (int i = 0; i < N; i++) {
        sample_with(1e-3, i, 1, alone, &steps, &mock);
        assert_int_equal(steps, all_steps[i]);
        assert_memory_equal(alone, all + (size_t)i * ELEMENTS, sizeof alone);
        mock_run_finish(&mock);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_solution_converges_to_the_closed_form),
        cmocka_unit_test(test_each_image_takes_steps_of_its_own),
        cmocka_unit_test(test_an_image_alone_is_the_same_as_in_a_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
