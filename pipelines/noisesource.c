#include "noisesource.h"

#include "philox.h"
#include "tensorfile.h"
#include "torchrng.h"

#include <stdlib.h>
#include <string.h>

struct dm_noise_source {
    struct dm_noise_options o;
    int64_t elements; /* of one datum */
    int64_t first, n; /* the batch */

    struct dm_torch_rng rng, batch_start; /* batch_start: before x_T of this batch */
    int64_t drawn;                        /* draws of this batch taken from rng, x_T included */

    struct dm_checkpoint *file;
    float *initial, *noise;              /* of the file; NULL where it has none */
    int64_t n_initial, n_draws, n_noise; /* images, draws, images of a draw */
};

/* A tensor of the file whose last dimensions are one datum's, as float32. lead: the dimensions
 * before them, of which there must be n_lead. */
static demist_status file_tensor(struct dm_noise_source *s, const char *name, int n_lead,
                                 int64_t *lead, float **out, struct dm_error *err)
{
    const struct dm_tensor_view *view = dm_checkpoint_find(s->file, name);
    if (!view)
        return DEMIST_OK;
    bool fits = view->rank == n_lead + s->o.rank;
    for (int i = 0; fits && i < s->o.rank; i++)
        fits = view->shape[n_lead + i] == s->o.shape[i];
    if (!fits)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "[noise] file %s: %s does not have the shape [%s…] of this network's data",
                       s->o.file, name, n_lead == 2 ? "draws, images, " : "images, ");
    memcpy(lead, view->shape, (size_t)n_lead * sizeof *lead);
    *out = malloc(dm_tensor_elements(view) * sizeof **out + 1);
    if (!*out)
        return dm_fail_memory(err, "recorded noise");
    return dm_tensor_to_f32(view, *out, err);
}

static demist_status open_file(struct dm_noise_source *s, struct dm_error *err)
{
    int64_t lead[2] = {0, 0};
    DM_TRY(dm_checkpoint_open(s->o.file, &s->file, err));
    DM_TRY(file_tensor(s, "x_T", 1, &s->n_initial, &s->initial, err));
    DM_TRY(file_tensor(s, "noise", 2, lead, &s->noise, err));
    s->n_draws = lead[0];
    s->n_noise = lead[1];
    dm_checkpoint_close(s->file);
    s->file = NULL;
    return DEMIST_OK;
}

demist_status dm_noise_source_open(const struct dm_noise_options *options,
                                   struct dm_noise_source **source, struct dm_error *err)
{
    struct dm_noise_source *s = calloc(1, sizeof *s);
    if (!s)
        return dm_fail_memory(err, "the noise source");
    s->o = *options;
    s->elements = 1;
    for (int i = 0; i < options->rank; i++)
        s->elements *= options->shape[i];
    demist_status status = DEMIST_OK;
    if (options->kind == DM_NOISE_TORCH_CPU)
        dm_torch_seed(&s->rng, options->seed);
    if (options->kind == DM_NOISE_FILE)
        status = open_file(s, err);
    if (status != DEMIST_OK) {
        dm_noise_source_close(s);
        return status;
    }
    *source = s;
    return DEMIST_OK;
}

void dm_noise_source_close(struct dm_noise_source *s)
{
    if (!s)
        return;
    dm_checkpoint_close(s->file);
    free(s->initial);
    free(s->noise);
    free(s);
}

uint64_t dm_noise_seed(const struct dm_noise_source *s)
{
    return s->o.seed;
}

bool dm_noise_is_keyed(const struct dm_noise_source *s)
{
    return s->o.kind == DM_NOISE_PHILOX;
}

/* Takes draws from PyTorch's stream until `count` of this batch are taken. */
static void skip_to(struct dm_noise_source *s, int64_t count, float *scratch)
{
    for (; s->drawn < count; s->drawn++)
        dm_torch_randn(&s->rng, (size_t)(s->n * s->elements), scratch);
}

/* How many draws one batch takes from PyTorch's stream, x_T included. */
static int64_t draws_per_batch(const struct dm_noise_source *s)
{
    return s->o.draws == DM_DRAWS_IMPROVED ? 1 + (int64_t)s->o.n_steps : s->drawn;
}

demist_status dm_noise_start(struct dm_noise_source *s, int64_t first, int64_t n,
                             struct dm_error *err)
{
    DM_TRY(dm_philox_check((uint64_t)(first + n - 1), 0, (uint64_t)s->elements, err));
    if (s->o.kind == DM_NOISE_TORCH_CPU && s->n > 0) {
        /* The process that is reproduced went on with what the last batch left. */
        float *scratch = malloc((size_t)(s->n * s->elements) * sizeof *scratch);
        if (!scratch)
            return dm_fail_memory(err, "noise");
        skip_to(s, draws_per_batch(s), scratch);
        free(scratch);
    }
    s->batch_start = s->rng;
    s->drawn = 0;
    s->first = first;
    s->n = n;
    return DEMIST_OK;
}

static void keyed_normals(const struct dm_noise_source *s, uint32_t purpose, uint32_t k, float *out)
{
    for (int64_t i = 0; i < s->n; i++)
        dm_philox_normal(s->o.seed, (uint32_t)(s->first + i), purpose, k, 0, (size_t)s->elements,
                         out + i * s->elements);
}

/* Draw number `index` of the batch: 0 is x_T. */
static void torch_draw(struct dm_noise_source *s, int64_t index, float *out)
{
    if (index < s->drawn) { /* asked for again */
        s->rng = s->batch_start;
        s->drawn = 0;
    }
    skip_to(s, index, out);
    dm_torch_randn(&s->rng, (size_t)(s->n * s->elements), out);
    s->drawn++;
}

/* Rows of the batch out of a recorded tensor [images, …]; images count from the run's first. */
static demist_status file_rows(const struct dm_noise_source *s, const char *name, const float *data,
                               int64_t images, float *out, struct dm_error *err)
{
    int64_t at = s->first; /* row i is image i, so that any image can be made again alone */
    if (at + s->n > images)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "[noise] file %s: %s holds %lld images, and this run goes up to image %lld: "
                       "lower [sample] images",
                       s->o.file, name, (long long)images, (long long)(at + s->n - 1));
    memcpy(out, data + at * s->elements, (size_t)(s->n * s->elements) * sizeof *out);
    return DEMIST_OK;
}

demist_status dm_noise_initial(struct dm_noise_source *s, float *out, struct dm_error *err)
{
    if (s->initial)
        return file_rows(s, "x_T", s->initial, s->n_initial, out, err);
    if (s->o.kind == DM_NOISE_TORCH_CPU)
        torch_draw(s, 0, out);
    else
        keyed_normals(s, DEMIST_NOISE_INITIAL, 0, out);
    return DEMIST_OK;
}

demist_status dm_noise_draw(struct dm_noise_source *s, uint32_t purpose, int64_t k, float *out,
                            struct dm_error *err)
{
    if (purpose != DEMIST_NOISE_STEP && s->o.kind != DM_NOISE_PHILOX)
        return dm_fail(err, DEMIST_UNSUPPORTED,
                       "[noise] source: the sampler asks for noise of purpose %u, which only "
                       "source = philox has",
                       (unsigned)purpose);
    switch (s->o.kind) {
    case DM_NOISE_PHILOX:
        keyed_normals(s, purpose, (uint32_t)k, out);
        return DEMIST_OK;
    case DM_NOISE_TORCH_CPU:
        torch_draw(s, k + 1, out);
        return DEMIST_OK;
    case DM_NOISE_FILE:
        break;
    }
    if (k >= s->n_draws)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "[noise] file %s: draw %lld is asked for, and the file holds %lld",
                       s->o.file, (long long)k, (long long)s->n_draws);
    return file_rows(s, "noise", s->noise + k * s->n_noise * s->elements, s->n_noise, out, err);
}
