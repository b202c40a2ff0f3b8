#include "trajectory.h"

#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

struct dm_trajectory {
    const struct dm_setup *setup;
    struct dm_outfile out;
    int64_t first, images; /* [sample] first and images */
    int32_t n_steps;
    size_t elements; /* of one datum */
    float *x;        /* [n_steps+1, images, elements] */
    int64_t *index;  /* [n_steps]; NULL for a path */
    float *time;     /* [n_steps]; NULL otherwise */
    int64_t *seen;   /* [n_steps+1] images whose state after that many steps is here */
};

static void copy_times(struct dm_trajectory *t, const double *time)
{
    for (int32_t i = 0; i < t->n_steps; i++)
        if (t->index)
            t->index[i] = (int64_t)time[i];
        else
            t->time[i] = (float)time[i];
}

static demist_status allocate(struct dm_trajectory *t, struct dm_error *err)
{
    size_t n = (size_t)t->n_steps, bytes;
    if (dm_process_is_vp(t->setup->process))
        t->index = calloc(n, sizeof *t->index);
    else
        t->time = calloc(n, sizeof *t->time);
    t->seen = calloc(n + 1, sizeof *t->seen);
    if (dm_mul_size(n + 1, (size_t)t->images, &bytes) &&
        dm_mul_size(bytes, t->elements * sizeof(float), &bytes))
        t->x = malloc(bytes);
    if (t->x && t->seen && (t->index || t->time))
        return DEMIST_OK;
    return dm_fail(err, DEMIST_NO_MEMORY,
                   "out of memory: a trajectory of %lld images and %d steps is gathered in memory "
                   "(%.3g GB): make fewer images at a time, with [sample] images and first",
                   (long long)t->images, (int)t->n_steps,
                   (double)(n + 1) * (double)t->images * (double)t->elements * sizeof(float) / 1e9);
}

demist_status dm_trajectory_create(const struct dm_setup *setup, const char *path,
                                   struct dm_trajectory **trajectory, struct dm_error *err)
{
    if (setup->network.info.rank + 2 > DM_MAX_RANK)
        return dm_fail(err, DEMIST_UNSUPPORTED,
                       "a trajectory has two dimensions more than the network's data, and files "
                       "hold %d at most: network %s's have %d",
                       DM_MAX_RANK, setup->config.network.use, (int)setup->network.info.rank);
    struct dm_trajectory *t = calloc(1, sizeof *t);
    if (!t)
        return dm_fail_memory(err, "a trajectory");
    t->setup = setup;
    t->out = DM_OUTFILE_INIT;
    t->first = setup->config.sample.first;
    t->images = setup->config.sample.images;
    t->n_steps = dm_process_n_steps(setup->process);
    t->elements = (size_t)setup->network.n_elements;
    demist_status status = dm_outfile_open(&t->out, path, err);
    if (status == DEMIST_OK)
        status = allocate(t, err);
    if (status != DEMIST_OK) {
        dm_trajectory_destroy(t);
        return status;
    }
    copy_times(t, dm_process_time(setup->process));
    *trajectory = t;
    return DEMIST_OK;
}

void dm_trajectory_destroy(struct dm_trajectory *t)
{
    if (!t)
        return;
    free(t->x);
    free(t->index);
    free(t->time);
    free(t->seen);
    dm_outfile_finish(&t->out);
    free(t);
}

void dm_trajectory_add(struct dm_trajectory *t, const struct dm_sample_progress *p)
{
    int64_t image = p->first - t->first;
    size_t row = (size_t)p->step * (size_t)t->images + (size_t)image; /* of all states */
    memcpy(t->x + row * t->elements, p->x, (size_t)p->n * t->elements * sizeof *p->x);
    if (t->seen[p->step] == image) /* else it is told again, or one before was not told */
        t->seen[p->step] += p->n;
}

static demist_status check_complete(const struct dm_trajectory *t, int64_t n_images,
                                    struct dm_error *err)
{
    for (int32_t step = 0; step <= t->n_steps; step++)
        if (t->seen[step] < n_images)
            return dm_fail(err, DEMIST_UNSUPPORTED,
                           "sampler %s does not report its state after step %d of %d, so there is "
                           "no whole trajectory to write",
                           t->setup->config.sampler.use, (int)step, (int)t->n_steps);
    return DEMIST_OK;
}

/* Closes the gaps that unfinished images leave. */
static void pack(struct dm_trajectory *t, int64_t n_images)
{
    size_t row = (size_t)n_images * t->elements;
    for (int32_t step = 1; step <= t->n_steps && n_images < t->images; step++)
        memmove(t->x + (size_t)step * row, t->x + (size_t)step * (size_t)t->images * t->elements,
                row * sizeof *t->x);
}

demist_status dm_trajectory_write(struct dm_trajectory *t, int64_t n_images,
                                  const char *description, struct dm_error *err)
{
    DM_TRY(check_complete(t, n_images, err));
    const demist_network_info *info = &t->setup->network.info;
    size_t steps = (size_t)t->n_steps;
    struct dm_tensor_view views[] = {
        {.name = "x",
         .dtype = DEMIST_F32,
         .rank = info->rank + 2,
         .shape = {t->n_steps + 1, n_images},
         .data = t->x,
         .bytes = (steps + 1) * (size_t)n_images * t->elements * sizeof *t->x},
        {.name = "timesteps",
         .dtype = t->index ? DEMIST_I64 : DEMIST_F32,
         .rank = 1,
         .shape = {t->n_steps},
         .data = t->index ? (const void *)t->index : (const void *)t->time,
         .bytes = steps * (t->index ? sizeof *t->index : sizeof *t->time)},
    };
    for (int32_t i = 0; i < info->rank; i++)
        views[0].shape[i + 2] = info->shape[i];
    pack(t, n_images);
    struct dm_metadata metadata = {"demist", description};
    DM_TRY(dm_safetensors_write(&t->out, views, 2, &metadata, 1, err));
    return dm_outfile_commit(&t->out, err);
}
