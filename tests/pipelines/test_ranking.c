/* What data reveal: the probe finds how the reference checkpoints were trained. */
#include "testing.h"

#include "dataset.h"
#include "detected.h"
#include "ranking.h"

struct probed {
    struct fixture f;
    struct dm_finding found;
    struct dm_ranking probe;
};

static int64_t size_of(const char *path)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data;
    int64_t shape[3];
    fixture_expect_ok(dm_dataset_open_exact(path, NULL, 0, NULL, &data, &err), &err);
    int64_t size = dm_dataset_shape(data, shape) == 3 ? shape[1] : 0;
    dm_dataset_close(data);
    return size;
}

static void probe(struct probed *p, const char *checkpoint, const char *data)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_text table = DM_TEXT_INIT;
    const char *path = test_data(checkpoint);
    fixture_open(&p->f, 2, NULL);
    struct dm_hints hints = {.image_size = size_of(data)};
    examine(path, &hints, &p->found);
    assert_true(dm_finding_set(&p->found, "backend", "use", fast_backend(), DM_CHOSEN, NULL));
    fixture_expect_ok(dm_rank_candidates(&p->f.env, path, &p->found, data, &p->probe, &err), &err);
    dm_ranking_print(&p->probe, 12, &table);
    print_message("%s", table.data);
    dm_text_finish(&table);
}

static void close_probed(struct probed *p)
{
    dm_ranking_finish(&p->probe);
    dm_finding_finish(&p->found);
    fixture_close(&p->f);
}

static bool sets(const struct dm_candidate *c, const char *assignment)
{
    for (const char *const *s = c->set; *s; s++)
        if (strcmp(*s, assignment) == 0)
            return true;
    return false;
}

/* No candidate that is tied with the best differs in this. */
static void expect_certain(const struct dm_ranking *probe, const char *assignment)
{
    for (int i = 0; i < probe->n && probe->candidates[i].tied; i++)
        if (!sets(&probe->candidates[i], assignment))
            fail_msg("%s is not certain: %s", assignment, probe->candidates[i].options);
}

static void test_finds_how_the_tiles_network_was_trained(void **state)
{
    struct probed p;
    probe(&p, "crawl-unet/checkpoint.safetensors", test_data("crawl-tiles/tiles_32x32_rgb.npy"));
    expect_setting(&p.found, "schedule", "use", "cosine");
    expect_setting(&p.found, "schedule", "steps", "1000");
    expect_setting(&p.found, "network.unet", "rescale_timesteps", "true");
    expect_setting(&p.found, "network.unet", "num_heads", "4");
    expect_setting(&p.found, "network.unet", "attention_order", "legacy");
    expect_setting(&p.found, "network.unet", "predict", "eps");
    expect_setting(&p.found, "network.unet", "sigma", "range");
    expect_setting(&p.found, "network.unet", "image_size", "32");
    expect_certain(&p.probe, "schedule.use=cosine");
    expect_certain(&p.probe, "network.unet.num_heads=4");
    expect_certain(&p.probe, "network.unet.num_head_channels=-1");
    expect_certain(&p.probe, "network.unet.attention_order=legacy");
    expect_certain(&p.probe, "network.unet.predict=eps");
    assert_contains(p.f.notices, "the data have no labels");
    close_probed(&p);
}

static void test_finds_how_the_points_network_was_trained(void **state)
{
    struct probed p;
    probe(&p, "two-moons-mlp/checkpoint.pt", test_data("two-moons-mlp/dataset.pt"));
    expect_setting(&p.found, "schedule", "use", "linear");
    expect_setting(&p.found, "schedule", "steps", "100");
    expect_setting(&p.found, "schedule.linear", "beta_start", "0.0001");
    expect_setting(&p.found, "schedule.linear", "beta_end", "0.02");
    expect_setting(&p.found, "schedule.linear", "indexing", "zero");
    expect_certain(&p.probe, "schedule.steps=100");
    expect_certain(&p.probe, "schedule.linear.beta_end=0.02");
    close_probed(&p);
}

/* The tiles are no sprites; how the network was trained shows all the same. */
static void test_finds_how_the_sprites_network_was_trained(void **state)
{
    struct probed p;
    probe(&p, "context-unet-sprites/checkpoint.pth", test_data("crawl-tiles/tiles_16x16_rgb.npy"));
    expect_setting(&p.found, "schedule", "use", "linear");
    expect_setting(&p.found, "schedule", "steps", "500");
    expect_setting(&p.found, "schedule.linear", "indexing", "one");
    expect_certain(&p.probe, "schedule.steps=500");
    assert_contains(p.probe.candidates[0].options, "noised in training with 1-alpha_bar");
    close_probed(&p);
}

static void test_refuses_data_of_another_shape(void **state)
{
    struct fixture f;
    struct dm_finding found;
    struct dm_ranking result;
    struct dm_error err = DM_ERROR_INIT;
    const char *path = test_data("two-moons-mlp/checkpoint.pt");
    const char *data = test_data("crawl-tiles/tiles_16x16_rgb.npy");
    fixture_open(&f, 1, NULL);
    examine(path, &(struct dm_hints){0}, &found);
    assert_int_equal(dm_rank_candidates(&f.env, path, &found, data, &result, &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "each datum is 3×16×16, and the network takes 2");
    dm_error_clear(&err);
    dm_finding_finish(&found);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_how_the_points_network_was_trained),
        cmocka_unit_test(test_finds_how_the_sprites_network_was_trained),
        cmocka_unit_test(test_finds_how_the_tiles_network_was_trained),
        cmocka_unit_test(test_refuses_data_of_another_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
