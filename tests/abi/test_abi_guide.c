/* The sampler that docs/plugin-abi.md prints does what it says: it is Heun's method, of order two,
 * and Euler's, of order one, without the correction. Linked as a static plugin. */
#include "testing.h"

#include "hosttable.h"
#include "mock_run.h"
#include "registry.h"
#include "schema.h"

#include <math.h>

extern const demist_plugin demist_plugin_v1_sampler_heun;
static const demist_plugin *const linked[] = {&demist_plugin_v1_sampler_heun, NULL};

enum { N = 2, ELEMENTS = 3 };
static const float start[N * ELEMENTS] = {0.3f, -1.2f, 2, -0.01f, 0.7f, -2.5f};

/* The largest error of a sampler after n_steps. */
static double run_sampler(const demist_sampler_vtable *vtable, void *self, int32_t n_steps)
{
    struct mock_run mock;
    mock_run_init(&mock, N, ELEMENTS, n_steps, 0.5, 0.4);
    demist_tensor *x = mock_tensor(&mock, start);
    assert_int_equal(vtable->sample(self, &mock.run, x), DEMIST_OK);
    assert_int_equal(mock.n_emitted, n_steps);
    double largest = 0;
    for (int i = 0; i < N * ELEMENTS; i++)
        largest = fmax(largest, fabs(mock_data(x)[i] - mock_exact(&mock, 0.99, start[i])));
    mock_run_finish(&mock);
    return largest;
}

/* The order of convergence, under the options of an INI file. */
static double order_of(const char *ini_text)
{
    struct dm_plugin_path path = {0};
    struct dm_registry *registry;
    const struct dm_class *class;
    struct dm_arena arena = {0};
    struct dm_ini *ini;
    const demist_value *const *values;
    struct dm_host host;
    void *self;
    assert_int_equal(dm_registry_create(&path, linked, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "heun", &class, NULL), DEMIST_OK);
    assert_int_equal(dm_ini_read_memory("run.ini", ini_text, strlen(ini_text), &ini, NULL),
                     DEMIST_OK);
    assert_int_equal(dm_schema_parse(ini, "sampler.heun", class->options, &arena, &values, NULL),
                     DEMIST_OK);
    assert_int_equal(dm_host_init(&host, "sampler heun", NULL, NULL, NULL), DEMIST_OK);
    const demist_sampler_vtable *vtable = class->vtable;
    assert_int_equal(vtable->create(&host.table, values, &self), DEMIST_OK);
    double coarse = run_sampler(vtable, self, 40), fine = run_sampler(vtable, self, 80);
    print_message("error %.2e, with half the step %.2e\n", coarse, fine);
    vtable->destroy(self);
    dm_host_finish(&host);
    dm_ini_destroy(ini);
    dm_arena_finish(&arena);
    dm_registry_destroy(registry);
    return log2(coarse / fine);
}

static void test_guides_sampler_has_order_two(void **state)
{
    double order = order_of("");
    assert_true(order > 1.7 && order < 2.5);
}

static void test_without_correction_it_is_eulers_of_order_one(void **state)
{
    double order = order_of("[sampler.heun]\ncorrect = false\n");
    assert_true(order > 0.8 && order < 1.3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guides_sampler_has_order_two),
        cmocka_unit_test(test_without_correction_it_is_eulers_of_order_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
