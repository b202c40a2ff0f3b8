/* What names and shapes reveal: descriptions that reproduce the reference results. */
#include "testing.h"

#include "detected.h"
#include "predict.h"
#include "safetensors.h"
#include "unetgolden.h"

#include <unistd.h>

/* The printed description as a run on `in`, with overrides for what shapes cannot reveal. Every
 * tensor of `out` is to be met. */
static void reproduce(const struct dm_finding *found, const char *checkpoint, const char *in,
                      const char *const *overrides)
{
    struct fixture f;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_setup setup;
    struct dm_text text = DM_TEXT_INIT;
    char out[] = "/tmp/demist-detect-XXXXXX", use[64];
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    close(fd);
    fixture_open(&f, 2, NULL);
    dm_finding_print(found, checkpoint, &text);
    struct dm_ini *ini = fixture_ini(text.data, overrides);
    snprintf(use, sizeof use, "backend.use=%s", fast_backend());
    fixture_expect_ok(dm_ini_set(ini, use, &err), &err);
    unsigned needs = DM_NEED_SAMPLER | DM_NEED_BACKEND;
    fixture_expect_ok(dm_setup_open(&setup, &f.env, ini, needs, &err), &err);
    fixture_expect_ok(dm_predict(&setup, in, out, &err), &err);
    dm_setup_close(&setup);
    int64_t n, expected;
    float *got = fixture_tensor(out, "out", &n), *want = fixture_tensor(in, "out", &expected);
    assert_int_equal(n, expected);
    double error = max_difference(got, want, n) / max_magnitude(want, n);
    print_message("%s: %.2e of max|out|\n", in, error);
    assert_true(error < 2e-5);
    free(got);
    free(want);
    unlink(out);
    dm_text_finish(&text);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static void check(const char *folder, const char *file, const char *in,
                  const char *const *overrides)
{
    char name[128];
    struct dm_finding found;
    snprintf(name, sizeof name, "%s/%s", folder, file);
    const char *path = test_data(name);
    snprintf(name, sizeof name, "%s/%s.safetensors", folder, in);
    examine(path, &(struct dm_hints){0}, &found);
    reproduce(&found, path, test_data(name), overrides);
    dm_finding_finish(&found);
}

static void test_describes_the_tiles_network(void **state)
{
    check("crawl-unet", "checkpoint.pt", "forward", NULL);
    check("crawl-unet", "checkpoint.safetensors", "forward", NULL);
}

static void test_describes_a_learned_variance(void **state)
{
    check("improved-diffusion/hybrid-32", "checkpoint.pt", "forward",
          (const char *[]){"schedule.steps=4000", NULL});
}

static void test_describes_a_network_without_scale_shift(void **state)
{
    check(
        "improved-diffusion/classcond-64", "checkpoint.safetensors", "forward",
        (const char *[]){"network.unet.num_heads=1", "network.unet.rescale_timesteps=false", NULL});
}

static void test_describes_a_context_unet(void **state)
{
    check("context-unet-sprites", "checkpoint.pth", "eps_zero_shortcut", NULL);
}

static void test_describes_mlps(void **state)
{
    check("straight-path", "checkpoint.pt", "predict", NULL);
    check("two-moons-mlp", "checkpoint.pt", "eps",
          (const char *[]){"schedule.steps=100", "sample.steps=", NULL});
}

/* A variant of the U-Net below a prefix, with what shapes cannot reveal given. */
static void check_golden(const char *name, const char *prefix, int64_t size,
                         const char *const *overrides)
{
    struct unet_golden golden;
    struct dm_finding found;
    unet_golden_open_below(&golden, name, prefix);
    examine(golden.checkpoint, &(struct dm_hints){.image_size = size}, &found);
    size_t n = strlen(prefix);
    assert_int_equal(strlen(found.prefix), n ? n - 1 : 0);
    assert_memory_equal(found.prefix, prefix, strlen(found.prefix));
    reproduce(&found, golden.checkpoint, golden.path, overrides);
    dm_finding_finish(&found);
    unet_golden_close(&golden);
}

static void test_describes_variants_below_prefixes(void **state)
{
    check_golden("guided-updown", "ema.", 8,
                 (const char *[]){"network.unet.num_head_channels=8",
                                  "network.unet.attention_order=new",
                                  "network.unet.rescale_timesteps=false", NULL});
    check_golden("updown-legacy", "state_dict.model.", 8,
                 (const char *[]){"network.unet.num_heads=4", NULL});
    check_golden(
        "pooling", "", 8,
        (const char *[]){"network.unet.num_heads=2", "network.unet.num_heads_upsample=4", NULL});
    check_golden("odd-embedding", "module.", 4,
                 (const char *[]){"network.unet.attention_order=new", NULL});
    check_golden("upsampler", "model.", 8,
                 (const char *[]){"network.unet.num_heads=1", "network.unet.small_size=3", NULL});
}

static void test_tells_super_resolution_with_a_learned_variance_from_six_channels(void **state)
{
    struct unet_golden golden;
    struct dm_finding found;
    unet_golden_open(&golden, "upsampler");
    examine(golden.checkpoint, &(struct dm_hints){.image_size = 8}, &found);
    assert_true(found.super_resolution && found.learn_sigma);
    assert_int_equal(found.shape[0], 3);
    expect_setting(&found, "network.unet", "small_size", "2");
    dm_finding_finish(&found);
    unet_golden_close(&golden);
}

/* Writes MLPs 3→4→2 below prefixes, NULL-ended. */
static void save_mlps(const char *const *prefixes, char path[32])
{
    static const float zeros[16];
    static const struct {
        const char *key;
        int rank;
        int64_t shape[2];
    } keys[] = {
        {"0.weight", 2, {4, 3}}, {"0.bias", 1, {4}}, {"2.weight", 2, {2, 4}}, {"2.bias", 1, {2}}};
    static char names[16][64];
    struct dm_tensor_view views[16];
    size_t n = 0;
    for (size_t i = 0; prefixes[i]; i++)
        for (size_t k = 0; k < 4; k++, n++) {
            snprintf(names[n], sizeof names[n], "%s%s", prefixes[i], keys[k].key);
            views[n] = (struct dm_tensor_view){.name = names[n],
                                               .dtype = DEMIST_F32,
                                               .rank = keys[k].rank,
                                               .shape = {keys[k].shape[0], keys[k].shape[1]},
                                               .data = zeros};
            views[n].bytes = dm_tensor_elements(&views[n]) * sizeof(float);
        }
    struct dm_error err = DM_ERROR_INIT;
    snprintf(path, 32, "/tmp/demist-mlps-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    fixture_expect_ok(dm_safetensors_save(path, views, n, NULL, 0, &err), &err);
}

static void test_takes_averaged_weights_and_lists_the_others(void **state)
{
    char path[32];
    struct dm_finding found;
    struct dm_text text = DM_TEXT_INIT;
    save_mlps((const char *[]){"a.net.", "model_ema.net.", NULL}, path);
    examine(path, &(struct dm_hints){0}, &found);
    assert_string_equal(found.prefix, "model_ema.net");
    assert_int_equal(found.n_others, 1);
    dm_finding_print(&found, path, &text);
    assert_contains(text.data, "prefix = model_ema.net\n");
    assert_contains(text.data, "; a.net\n");
    dm_finding_finish(&found);
    dm_text_finish(&text);
    examine(path, &(struct dm_hints){.prefix = "a.net"}, &found);
    assert_string_equal(found.prefix, "a.net");
    dm_finding_finish(&found);
    unlink(path);
}

static void expect_unknown(const char *path, const char *prefix, const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt;
    struct dm_finding found;
    fixture_expect_ok(dm_checkpoint_open(path, &ckpt, &err), &err);
    assert_int_equal(dm_examine(ckpt, path, &(struct dm_hints){.prefix = prefix}, &found, &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    dm_checkpoint_close(ckpt);
}

static void test_names_layouts_that_are_not_supported(void **state)
{
    expect_unknown(test_data("tiny-latent/unet.safetensors"), NULL, "U-Net in diffusers' layout");
    expect_unknown(test_data("tiny-latent/text_encoder.safetensors"), NULL, "CLIP's text encoder");
}

static void test_says_what_is_there_instead(void **state)
{
    char path[32];
    expect_unknown(source_data("unet/pooling.safetensors"), NULL,
                   "There are 6 tensors: x, t_network, x_T, ...");
    save_mlps((const char *[]){"net.", NULL}, path);
    expect_unknown(path, "ema", "no network that demist has below prefix ema");
    unlink(path);
}

static void test_leaves_paths_to_set_that_no_line_holds(void **state)
{
    char path[32], longer[400];
    struct dm_finding found;
    save_mlps((const char *[]){"net.", NULL}, path);
    examine(path, &(struct dm_hints){0}, &found);
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    const char *const paths[] = {longer, "a ;b", "a\nb", "", "caf\xe9"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct dm_text text = DM_TEXT_INIT;
        dm_finding_print(&found, paths[i], &text);
        assert_contains(text.data, "; network.checkpoint=PATH\n");
        dm_ini_destroy(fixture_ini(text.data, NULL));
        dm_text_finish(&text);
    }
    dm_finding_finish(&found);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describes_the_tiles_network),
        cmocka_unit_test(test_describes_a_learned_variance),
        cmocka_unit_test(test_describes_a_network_without_scale_shift),
        cmocka_unit_test(test_describes_a_context_unet),
        cmocka_unit_test(test_describes_mlps),
        cmocka_unit_test(test_describes_variants_below_prefixes),
        cmocka_unit_test(test_tells_super_resolution_with_a_learned_variance_from_six_channels),
        cmocka_unit_test(test_takes_averaged_weights_and_lists_the_others),
        cmocka_unit_test(test_names_layouts_that_are_not_supported),
        cmocka_unit_test(test_says_what_is_there_instead),
        cmocka_unit_test(test_leaves_paths_to_set_that_no_line_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
