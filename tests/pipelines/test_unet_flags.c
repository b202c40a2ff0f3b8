/* Options that contradict the checkpoint are named, with the value that would be right. */
#include "testing.h"

#include "unetgolden.h"

/* Opens the golden's network with one override each and looks for the sentence. */
struct claim {
    const char *override, *sentence;
};

static void expect(struct fixture *f, const struct unet_golden *golden, const struct claim *claim)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_setup setup;
    struct dm_ini *ini =
        unet_golden_ini(golden, "reference", (const char *[]){claim->override, NULL});
    demist_status status = dm_setup_open(&setup, &f->env, ini, DM_NEED_NETWORK, &err);
    if (status == DEMIST_OK)
        fail_msg("%s was accepted", claim->override);
    assert_contains(err.text, claim->sentence);
    /* The description is at fault unless the file holds no U-Net, and the file is named. */
    if (strncmp(err.text, "run.ini:", 8) != 0 && strncmp(err.text, "--set:", 6) != 0)
        assert_contains(err.text, "it is no U-Net");
    dm_error_clear(&err);
    dm_ini_destroy(ini);
}

static void check(const char *name, const char *prefix, const struct claim *claims, size_t n)
{
    struct fixture f;
    struct unet_golden golden;
    fixture_open(&f, 1, NULL);
    unet_golden_open_below(&golden, name, prefix);
    for (size_t i = 0; i < n; i++)
        expect(&f, &golden, &claims[i]);
    unet_golden_close(&golden);
    fixture_close(&f);
}
#define CHECK(name, prefix, ...)                                                                   \
    check(name, prefix, (struct claim[]){__VA_ARGS__},                                             \
          sizeof((struct claim[]){__VA_ARGS__}) / sizeof(struct claim))

static void test_names_num_channels(void **state)
{
    CHECK("upsampler", "",
          {"network.unet.num_channels=64", "set [network.unet] num_channels = 32"});
}

static void test_names_num_res_blocks(void **state)
{
    CHECK("pooling", "", {"network.unet.num_res_blocks=1", "set [network.unet] num_res_blocks = 2"},
          {"network.unet.num_res_blocks=3", "set [network.unet] num_res_blocks = 2"});
    CHECK("upsampler", "",
          {"network.unet.num_res_blocks=2", "set [network.unet] num_res_blocks = 1"});
    CHECK("updown-legacy", "",
          {"network.unet.num_res_blocks=1", "set [network.unet] num_res_blocks = 2"},
          {"network.unet.num_res_blocks=3", "set [network.unet] num_res_blocks = 2"});
}

static void test_names_levels_and_entries_of_channel_mult(void **state)
{
    CHECK("upsampler", "",
          {"network.unet.channel_mult=1,1,1", "set [network.unet] channel_mult = 1,1"},
          {"network.unet.channel_mult=1", "set [network.unet] channel_mult = 1,1"},
          {"network.unet.channel_mult=1,2", "set [network.unet] channel_mult = 1,1"},
          {"network.unet.channel_mult=2,1", "channel_mult = 2,1, but"});
    CHECK("pooling", "",
          {"network.unet.channel_mult=1,1,1", "set [network.unet] channel_mult = 1,1"});
    CHECK("updown-legacy", "",
          {"network.unet.channel_mult=1,1", "set [network.unet] channel_mult = 1,1,1"},
          {"network.unet.channel_mult=1", "set [network.unet] channel_mult = 1,1,1"});
    CHECK("odd-embedding", "",
          {"network.unet.channel_mult=0.9697,0.9697",
           "set [network.unet] channel_mult = 0.969697,1.939394"});
}

static void test_names_the_default_of_channel_mult(void **state)
{
    struct fixture f;
    struct unet_golden golden;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_setup setup;
    fixture_open(&f, 1, NULL);
    unet_golden_open(&golden, "upsampler");
    struct dm_ini *ini = unet_golden_ini(
        &golden, "reference",
        (const char *[]){"network.unet.channel_mult=auto", "network.unet.image_size=64", NULL});
    assert_int_not_equal(dm_setup_open(&setup, &f.env, ini, DM_NEED_NETWORK, &err), DEMIST_OK);
    assert_contains(err.text, "channel_mult = 1,2,3,4 (auto, from image_size), but");
    assert_contains(err.text, "channel_mult = 1,1, or image_size");
    dm_error_clear(&err);
    dm_ini_destroy(ini);
    unet_golden_close(&golden);
    fixture_close(&f);
}

/* What was suggested for an embedding of odd width must be accepted. */
static void test_suggested_channel_mult_is_accepted(void **state)
{
    struct fixture f;
    struct unet_golden golden;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_setup setup;
    fixture_open(&f, 1, NULL);
    unet_golden_open(&golden, "odd-embedding");
    struct dm_ini *ini =
        unet_golden_ini(&golden, "reference",
                        (const char *[]){"network.unet.channel_mult=0.969697,1.939394", NULL});
    fixture_expect_ok(dm_setup_open(&setup, &f.env, ini, DM_NEED_NETWORK, &err), &err);
    dm_setup_close(&setup);
    dm_ini_destroy(ini);
    unet_golden_close(&golden);
    fixture_close(&f);
}

static void test_names_attention_resolutions(void **state)
{
    CHECK("pooling", "",
          {"network.unet.attention_resolutions=8",
           "leaves out 4, and the checkpoint has attention there, if image_size = 8 is right: set "
           "[network.unet] attention_resolutions = 8,4"},
          {"network.unet.attention_resolutions=1", "attention_resolutions leaves out 8"});
    CHECK("upsampler", "",
          {"network.unet.attention_resolutions=8,4",
           "names 8, and the checkpoint has no attention there, if image_size = 8 is right: set "
           "[network.unet] attention_resolutions = 4"},
          {"network.unet.image_size=16", "attention_resolutions = 8"});
}

static void test_names_use_scale_shift_norm(void **state)
{
    CHECK("upsampler", "",
          {"network.unet.use_scale_shift_norm=false",
           "set [network.unet] use_scale_shift_norm = true"});
    CHECK("pooling", "",
          {"network.unet.use_scale_shift_norm=true",
           "set [network.unet] use_scale_shift_norm = false"});
}

static void test_names_num_classes(void **state)
{
    CHECK("upsampler", "", {"network.unet.num_classes=0", "set [network.unet] num_classes = 3"},
          {"network.unet.num_classes=4", "set [network.unet] num_classes = 3"});
    CHECK("pooling", "", {"network.unet.num_classes=3", "set [network.unet] num_classes = 0"});
}

static void test_names_learn_sigma(void **state)
{
    CHECK("upsampler", "",
          {"network.unet.learn_sigma=false", "set [network.unet] learn_sigma = true"});
    CHECK("pooling", "",
          {"network.unet.learn_sigma=true", "set [network.unet] learn_sigma = false"});
}

static void test_names_the_way_of_resampling(void **state)
{
    CHECK("updown-legacy", "",
          {"network.unet.resblock_updown=false", "set [network.unet] resblock_updown = true"});
    CHECK("pooling", "",
          {"network.unet.resblock_updown=true",
           "set [network.unet] resblock_updown = false and conv_resample = false"},
          {"network.unet.conv_resample=true",
           "set [network.unet] resblock_updown = false and conv_resample = false"});
    CHECK("upsampler", "",
          {"network.unet.resblock_updown=true",
           "set [network.unet] resblock_updown = false and conv_resample = true"},
          {"network.unet.conv_resample=false",
           "set [network.unet] resblock_updown = false and conv_resample = true"});
}

static void test_names_small_size(void **state)
{
    CHECK("odd-embedding", "", {"network.unet.small_size=2", "set [network.unet] small_size = 0"});
    CHECK("guided-updown", "", {"network.unet.small_size=2", "set [network.unet] small_size = 0"});
}

static void test_names_the_prefix(void **state)
{
    CHECK("upsampler", "state_dict.model.",
          {"network.prefix=", "add \"state_dict.model\" to [network] prefix"},
          {"network.prefix=state_dict", "add \"model\" to [network] prefix"},
          {"network.prefix=ema", "[network] prefix is wrong"});
}

static void test_names_heads(void **state)
{
    CHECK("upsampler", "", {"network.unet.num_heads=3", "32 channels cannot be split into 3 heads"},
          {"network.unet.num_heads_upsample=5", "num_heads or num_heads_upsample"},
          {"network.unet.num_heads_upsample=0", "num_heads_upsample = 0"},
          {"network.unet.num_head_channels=0", "num_head_channels = 0"},
          {"network.unet.num_head_channels=24", "change [network.unet] num_head_channels"},
          {"network.unet.num_head_channels=64", "change [network.unet] num_head_channels"});
}

static void test_names_options_that_contradict_each_other(void **state)
{
    CHECK("upsampler", "", {"network.unet.image_size=9", "image_size = 9 cannot be halved 1 times"},
          {"network.unet.channel_mult=auto", "channel_mult = auto knows image_size 32, 64, 128"},
          {"network.unet.channel_mult=1,1.5", "norms need a multiple of 32"},
          {"network.unet.null_class=3", "null_class = 3 is not one of num_classes = 3"});
    CHECK("pooling", "",
          {"network.unet.null_class=0", "null_class = 0 is not one of num_classes = 0"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_num_channels),
        cmocka_unit_test(test_names_num_res_blocks),
        cmocka_unit_test(test_names_levels_and_entries_of_channel_mult),
        cmocka_unit_test(test_names_the_default_of_channel_mult),
        cmocka_unit_test(test_suggested_channel_mult_is_accepted),
        cmocka_unit_test(test_names_attention_resolutions),
        cmocka_unit_test(test_names_use_scale_shift_norm),
        cmocka_unit_test(test_names_num_classes),
        cmocka_unit_test(test_names_learn_sigma),
        cmocka_unit_test(test_names_the_way_of_resampling),
        cmocka_unit_test(test_names_small_size),
        cmocka_unit_test(test_names_the_prefix),
        cmocka_unit_test(test_names_heads),
        cmocka_unit_test(test_names_options_that_contradict_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
