/* What a sampler's step asks of CUDA, through all of the pipeline, on the emulated device: the
 * state stays there, everything between two evaluations is one captured graph, and nothing is
 * waited for, copied or allocated from one step to the next. */
#include "testing.h"

#include "cuda_emulator.h"
#include "fixture.h"
#include "mixture.h"

#include <unistd.h>

enum { STEPS = 24, WARM = 8 }; /* by then, graphs for both of x's buffers are captured */

static const char text[] = "[backend]\nuse = cuda\n"
                           "[backend.cuda]\ntuning = off\n"
                           "[schedule]\nuse = linear\n"
                           "[network]\nuse = mixture\n"
                           "[sampler]\nuse = ddim\n"
                           "[sample]\nimages = 5\nbatch = 5\nsteps = 24\nseed = 7\n"
                           "clip_denoised = true\n";

/* Calls that a step may make, and how many: the network's graph and the sampler's, each behind its
 * arguments (times; coefficients and draw numbers). */
static const struct {
    const char *function;
    int64_t each;
} allowed[] = {
    {"cudaGraphLaunch", 2},
    {"cudaLaunchKernel", 2},
    {"cudaSetDevice", 3},
};
enum { N_ALLOWED = sizeof allowed / sizeof allowed[0] };

struct counts {
    int64_t all, each[N_ALLOWED];
};

struct counter {
    struct counts before;
    int32_t steps; /* compared */
    char wrong[256];
};

static struct counts counts_now(void)
{
    struct counts now = {.all = cuda_emulator_calls(NULL)};
    for (int i = 0; i < N_ALLOWED; i++)
        now.each[i] = cuda_emulator_calls(allowed[i].function);
    return now;
}

static bool count(void *user, const struct dm_sample_progress *p)
{
    struct counter *c = user;
    const struct counts now = counts_now();
    if (p->step > WARM && !c->wrong[0]) {
        int64_t others = now.all - c->before.all;
        for (int i = 0; i < N_ALLOWED; i++) {
            const int64_t made = now.each[i] - c->before.each[i];
            others -= made;
            if (made > allowed[i].each)
                snprintf(c->wrong, sizeof c->wrong, "step %d: %lld calls of %s, not %lld", p->step,
                         (long long)made, allowed[i].function, (long long)allowed[i].each);
        }
        if (others != 0)
            snprintf(c->wrong, sizeof c->wrong, "step %d: %lld calls of other functions", p->step,
                     (long long)others);
        c->steps++;
    }
    c->before = now;
    return true;
}

static void expect_few_calls(const char *const *overrides)
{
    struct fixture f;
    struct dm_setup setup;
    struct counter c = {.wrong = ""};
    const struct dm_sample_hooks hooks = {.progress = count, .user = &c};
    const demist_plugin *const extra[] = {&mixture_plugin, NULL};
    struct dm_error err = DM_ERROR_INIT;
    char *checkpoint = mixture_checkpoint(3), line[128];
    struct dm_ini *ini = fixture_ini(text, overrides);
    snprintf(line, sizeof line, "network.checkpoint=%s", checkpoint);
    fixture_expect_ok(dm_ini_set(ini, line, &err), &err);
    fixture_open(&f, 1, extra);
    fixture_expect_ok(dm_setup_open(&setup, &f.env, ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, &err),
                      &err);
    fixture_expect_ok(dm_sample(&setup, &hooks, &err), &err);
    if (c.wrong[0])
        fail_msg("%s", c.wrong);
    assert_in_range(c.steps, STEPS - WARM - 1, STEPS - WARM);
    assert_string_equal(cuda_emulator_fault(), "");
    dm_setup_close(&setup);
    fixture_close(&f);
    dm_ini_destroy(ini);
    unlink(checkpoint);
    free(checkpoint);
}

static void test_a_step_of_ddim_is_two_graphs_and_their_arguments(void **state)
{
    expect_few_calls(NULL);
}

static void test_noise_adds_nothing(void **state)
{
    expect_few_calls((const char *[]){"sampler.use=ddpm", NULL});
    expect_few_calls((const char *[]){"sampler.ddim.eta=0.5", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_step_of_ddim_is_two_graphs_and_their_arguments),
        cmocka_unit_test(test_noise_adds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
