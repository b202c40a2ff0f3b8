#include "testing.h"

#include "unetgolden.h"

#include "safetensors.h"

#include <math.h>
#include <unistd.h>

enum { MAX_KEYS = 512 };

/* As parameter_values of tests/tools/make_unet_goldens.py. */
static void fill(const char *name, int rank, const int64_t *shape, float *values, int64_t n)
{
    uint32_t state = 2166136261U;
    for (const char *c = name; *c; c++)
        state = (state ^ (uint8_t)*c) * 16777619U;
    const char *dot = strrchr(name, '.');
    double scale = 0.3, shift = dot && strcmp(dot, ".weight") == 0 ? 1 : 0;
    if (rank >= 2) {
        scale = sqrt(3.0 / (double)(n / shape[0]));
        shift = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525U + 1013904223U;
        values[i] = (float)(scale * (2.0 * ((double)(state >> 8) / 16777216.0) - 1) + shift);
    }
}

/* "name 32,3,3,3" into a tensor of its own memory; returns the next line. */
static const char *read_key(const char *line, const char *prefix, struct dm_tensor_view *view)
{
    const char *space = strchr(line, ' '), *end = strchr(line, '\n');
    assert_true(space && end && space < end);
    char plain[160], *name = malloc(256);
    assert_non_null(name);
    snprintf(plain, sizeof plain, "%.*s", (int)(space - line), line);
    snprintf(name, 256, "%s%s", prefix, plain);
    *view = (struct dm_tensor_view){.name = name, .dtype = DEMIST_F32};
    int64_t n = 1, dim = 0;
    for (const char *c = space + 1; c <= end; c++)
        if (*c >= '0' && *c <= '9')
            dim = 10 * dim + (*c - '0');
        else {
            assert_true(view->rank < DM_MAX_RANK && dim > 0);
            view->shape[view->rank++] = dim;
            n *= dim;
            dim = 0;
        }
    float *values = malloc((size_t)n * sizeof *values);
    assert_non_null(values);
    fill(plain, view->rank, view->shape, values, n);
    view->data = values;
    view->bytes = (size_t)n * sizeof *values;
    return end + 1;
}

void unet_golden_open_below(struct unet_golden *golden, const char *name, const char *prefix)
{
    char relative[128];
    struct dm_error err = DM_ERROR_INIT;
    snprintf(relative, sizeof relative, "unet/%s.safetensors", name);
    *golden = (struct unet_golden){.path = source_data(relative),
                                   .checkpoint = "/tmp/demist-unet-XXXXXX"};
    fixture_expect_ok(dm_checkpoint_open(golden->path, &golden->file, &err), &err);
    int fd = mkstemp(golden->checkpoint), n = 0;
    assert_true(fd >= 0);
    close(fd);
    static struct dm_tensor_view views[MAX_KEYS];
    for (const char *line = dm_checkpoint_metadata(golden->file, "keys"); *line; n++) {
        assert_true(n < MAX_KEYS);
        line = read_key(line, prefix, &views[n]);
    }
    fixture_expect_ok(dm_safetensors_save(golden->checkpoint, views, (size_t)n, NULL, 0, &err),
                      &err);
    for (int i = 0; i < n; i++) {
        free((void *)(uintptr_t)views[i].name);
        free((void *)(uintptr_t)views[i].data);
    }
}

void unet_golden_open(struct unet_golden *golden, const char *name)
{
    unet_golden_open_below(golden, name, "");
}

void unet_golden_close(struct unet_golden *golden)
{
    unlink(golden->checkpoint);
    dm_checkpoint_close(golden->file);
}

struct dm_ini *unet_golden_ini(const struct unet_golden *golden, const char *backend,
                               const char *const *overrides)
{
    struct dm_error err = DM_ERROR_INIT;
    char use[80], checkpoint[128];
    snprintf(use, sizeof use, "backend.use=%s", backend);
    snprintf(checkpoint, sizeof checkpoint, "network.checkpoint=%s", golden->checkpoint);
    struct dm_ini *ini = fixture_ini(dm_checkpoint_metadata(golden->file, "ini"),
                                     (const char *[]){use, checkpoint, NULL});
    for (size_t i = 0; overrides && overrides[i]; i++)
        fixture_expect_ok(dm_ini_set(ini, overrides[i], &err), &err);
    return ini;
}
