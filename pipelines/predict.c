#include "predict.h"

#include "diffusion.h"
#include "safetensors.h"
#include "tensorfile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct job {
    struct dm_setup *setup;
    const char *path;
    struct dm_checkpoint *in;
    int64_t n; /* images */
    float *x, *t, *c, *low_res, *out;
    int64_t *labels; /* NULL: the network takes none */
    struct dm_model model;
    demist_buffer *x_buffer, *out_buffer;
    demist_binding *binding;
};

static bool is_float(const struct dm_tensor_view *view)
{
    return view->dtype == DEMIST_F32 || view->dtype == DEMIST_F64 || view->dtype == DEMIST_F16 ||
           view->dtype == DEMIST_BF16;
}

/* The tensor if it is there and has the shape [N] or [N,1]; *view is NULL if it is not there. */
static demist_status column(const struct job *job, const char *name,
                            const struct dm_tensor_view **view, struct dm_error *err)
{
    *view = dm_checkpoint_find(job->in, name);
    if (!*view)
        return DEMIST_OK;
    bool one = (*view)->rank == 1 || ((*view)->rank == 2 && (*view)->shape[1] == 1);
    if (!one || (*view)->shape[0] != job->n)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s must have the shape [%lld] or [%lld,1], one for each of x",
                       job->path, name, (long long)job->n, (long long)job->n);
    return DEMIST_OK;
}

static demist_status read_x(struct job *job, struct dm_error *err)
{
    const demist_network_info *info = &job->setup->network.info;
    const struct dm_tensor_view *x = dm_checkpoint_find(job->in, "x");
    if (!x)
        return dm_fail(err, DEMIST_NOT_FOUND, "%s: no tensor x", job->path);
    bool fits = x->rank == info->rank + 1 && x->shape[0] >= 1;
    for (int32_t i = 0; fits && i < info->rank; i++)
        fits = x->shape[i + 1] == info->shape[i];
    if (!fits) {
        struct dm_text shape = DM_TEXT_INIT;
        for (int32_t i = 0; i < info->rank; i++)
            dm_text_appendf(&shape, ",%lld", (long long)info->shape[i]);
        dm_fail(err, DEMIST_INCOMPATIBLE, "%s: tensor x must have the shape [N%s] for network %s",
                job->path, shape.data ? shape.data : "", job->setup->config.network.use);
        dm_text_finish(&shape);
        return DEMIST_INCOMPATIBLE;
    }
    job->n = x->shape[0];
    job->x = malloc(dm_tensor_elements(x) * sizeof *job->x);
    job->t = malloc((size_t)job->n * sizeof *job->t);
    job->out = malloc((size_t)(job->n * job->model.raw_elements + 1) * sizeof *job->out);
    if (!job->x || !job->t || !job->out)
        return dm_fail_memory(err, "tensors");
    return dm_tensor_to_f32(x, job->x, err);
}

/* Indices of the schedule, as the network wants them. */
static demist_status convert_indices(struct job *job, const struct dm_tensor_view *view, float *out,
                                     struct dm_error *err)
{
    const struct dm_setup *s = job->setup;
    if (!s->process)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: tensor %s holds indices of the schedule, and the configuration names "
                       "no schedule: set [schedule] use and steps, or give float times (t_network)",
                       job->path, view->name);
    const struct dm_diffusion *whole = dm_process_whole(s->process);
    int64_t *index = malloc((size_t)job->n * sizeof *index);
    if (!index)
        return dm_fail_memory(err, "times");
    demist_status status = dm_tensor_to_i64(view, index, err);
    for (int64_t i = 0; status == DEMIST_OK && i < job->n; i++) {
        int64_t k = index[i] - whole->first_index;
        if (k < 0 || k >= whole->n)
            status = dm_fail(err, DEMIST_INVALID,
                             "%s: %s[%lld] = %lld is no index of the schedule, which has %d … %lld",
                             job->path, view->name, (long long)i, (long long)index[i],
                             whole->first_index, (long long)(whole->first_index + whole->n - 1));
        else
            out[i] = dm_process_network_time(s->process, s->network.info.time, whole->time[k + 1]);
    }
    free(index);
    return status;
}

/* t_index beside t_network must say the same. */
static demist_status check_agreement(struct job *job, const struct dm_tensor_view *index,
                                     struct dm_error *err)
{
    float *converted = malloc((size_t)job->n * sizeof *converted);
    if (!converted)
        return dm_fail_memory(err, "times");
    demist_status status = convert_indices(job, index, converted, err);
    for (int64_t i = 0; status == DEMIST_OK && i < job->n; i++)
        if (converted[i] != job->t[i])
            status = dm_fail(err, DEMIST_INCOMPATIBLE,
                             "%s: t_index[%lld] converts to %.9g, and t_network[%lld] is %.9g: "
                             "check [schedule] steps and how the network wants its time",
                             job->path, (long long)i, (double)converted[i], (long long)i,
                             (double)job->t[i]);
    free(converted);
    return status;
}

static demist_status read_times(struct job *job, struct dm_error *err)
{
    const struct dm_tensor_view *t, *index, *network;
    DM_TRY(column(job, "t", &t, err));
    DM_TRY(column(job, "t_index", &index, err));
    DM_TRY(column(job, "t_network", &network, err));
    if (t && (index || network))
        return dm_fail(err, DEMIST_INVALID, "%s: tensors t and %s both give the time: leave one",
                       job->path, index ? "t_index" : "t_network");
    if (!t && !index && !network)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: no time: give t (integers are indices of the schedule, floats go to "
                       "the network unchanged), t_index or t_network",
                       job->path);
    if (index && is_float(index))
        return dm_fail(err, DEMIST_INVALID, "%s: t_index must hold integers", job->path);
    if (network && !is_float(network))
        return dm_fail(err, DEMIST_INVALID, "%s: t_network must hold floats", job->path);
    if (network || (t && is_float(t))) {
        DM_TRY(dm_tensor_to_f32(network ? network : t, job->t, err));
        return index ? check_agreement(job, index, err) : DEMIST_OK;
    }
    return convert_indices(job, index ? index : t, job->t, err);
}

static demist_status read_labels(struct job *job, struct dm_error *err)
{
    int64_t n_classes = job->setup->network.info.n_classes;
    const struct dm_tensor_view *y;
    DM_TRY(column(job, "y", &y, err));
    if (!y)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: the network is class-conditional, and there is "
                       "no tensor y with the labels",
                       job->path);
    job->labels = malloc((size_t)job->n * sizeof *job->labels);
    if (!job->labels)
        return dm_fail_memory(err, "labels");
    DM_TRY(dm_tensor_to_i64(y, job->labels, err));
    for (int64_t i = 0; i < job->n; i++)
        if (job->labels[i] < 0 || job->labels[i] >= n_classes)
            return dm_fail(err, DEMIST_INVALID,
                           "%s: y[%lld] = %lld is no class: there are 0 … %lld", job->path,
                           (long long)i, (long long)job->labels[i], (long long)n_classes - 1);
    return DEMIST_OK;
}

static demist_status read_context(struct job *job, struct dm_error *err)
{
    int64_t size = job->setup->network.info.context_size;
    const struct dm_tensor_view *c = dm_checkpoint_find(job->in, "c");
    if (!c)
        return DEMIST_OK; /* no context means zeros */
    if (c->rank != 2 || c->shape[0] != job->n || c->shape[1] != size)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "%s: tensor c must have the shape [%lld,%lld]",
                       job->path, (long long)job->n, (long long)size);
    job->c = malloc(dm_tensor_elements(c) * sizeof *job->c);
    return job->c ? dm_tensor_to_f32(c, job->c, err) : dm_fail_memory(err, "context");
}

static demist_status read_low_res(struct job *job, const demist_node *input, struct dm_error *err)
{
    const struct dm_tensor_view *low = dm_checkpoint_find(job->in, "low_res");
    bool fits = low && low->rank == input->rank && low->shape[0] == job->n;
    for (int32_t i = 1; fits && i < input->rank; i++)
        fits = low->shape[i] == input->shape[i];
    if (!fits)
        return dm_fail(err, low ? DEMIST_INCOMPATIBLE : DEMIST_NOT_FOUND,
                       "%s: %s low_res: the network is for super-resolution and needs the shape "
                       "[%lld,%lld,%lld,%lld]",
                       job->path, low ? "tensor" : "no tensor", (long long)job->n,
                       (long long)input->shape[1], (long long)input->shape[2],
                       (long long)input->shape[3]);
    job->low_res = malloc(dm_tensor_elements(low) * sizeof *job->low_res);
    return job->low_res ? dm_tensor_to_f32(low, job->low_res, err)
                        : dm_fail_memory(err, "low-resolution images");
}

static void notice_ignored(const struct job *job)
{
    const demist_network_info *info = &job->setup->network.info;
    for (size_t i = 0; i < dm_checkpoint_count(job->in); i++) {
        const char *name = dm_checkpoint_at(job->in, i)->name;
        bool known = strcmp(name, "x") == 0 || strcmp(name, "t") == 0 ||
                     strcmp(name, "t_index") == 0 || strcmp(name, "t_network") == 0 ||
                     (info->n_classes && strcmp(name, "y") == 0) ||
                     (info->context_size && strcmp(name, "c") == 0) ||
                     (job->low_res && strcmp(name, "low_res") == 0);
        if (!known)
            dm_log(job->setup->env->services.log, DM_LOG_WARNING, "%s: tensor %s is ignored",
                   job->path, name);
    }
}

static demist_status read_inputs(struct job *job, struct dm_error *err)
{
    const demist_network_info *info = &job->setup->network.info;
    DM_TRY(read_x(job, err));
    DM_TRY(read_times(job, err));
    if (info->n_classes)
        DM_TRY(read_labels(job, err));
    if (info->context_size)
        DM_TRY(read_context(job, err));
    const demist_node *image = dm_network_input(&job->setup->network, DEMIST_ROLE_IMAGE);
    if (image)
        DM_TRY(read_low_res(job, image, err));
    notice_ignored(job);
    return DEMIST_OK;
}

static demist_status evaluate(struct job *job, struct dm_error *err)
{
    struct dm_setup *s = job->setup;
    struct dm_device *d = &s->device;
    int64_t elements = s->network.n_elements, raw = job->model.raw_elements;
    int64_t max = job->model.max_batch, context = s->network.info.context_size;
    const demist_node *image = dm_network_input(&s->network, DEMIST_ROLE_IMAGE);
    int64_t small = image ? demist_elements(image) : 0;
    DM_TRY(dm_device_buffer(d, (size_t)(max * elements) * sizeof(float), "x", &job->x_buffer, err));
    DM_TRY(dm_device_buffer(d, (size_t)(max * raw) * sizeof(float), "out", &job->out_buffer, err));
    DM_TRY(dm_model_bind(&job->model, job->x_buffer, job->out_buffer, false, &job->binding, err));
    for (int64_t first = 0; first < job->n; first += max) {
        int64_t n = job->n - first < max ? job->n - first : max;
        struct dm_conditions conditions = {
            .labels = job->labels ? job->labels + first : NULL,
            .context = job->c ? job->c + first * context : NULL,
            .low_res = job->low_res ? job->low_res + first * small : NULL,
        };
        DM_TRY(dm_model_condition(&job->model, n, &conditions, false, err));
        DM_TRY(dm_device_check(d, "buffer_write",
                               d->vtable->buffer_write(d->queue, job->x_buffer, 0,
                                                       job->x + first * elements,
                                                       (size_t)(n * elements) * sizeof(float)),
                               err));
        DM_TRY(dm_model_execute(&job->model, job->binding, job->t + first, n, s->config.sample.seed,
                                0, (uint64_t)first, err));
        DM_TRY(dm_device_check(d, "buffer_read",
                               d->vtable->buffer_read(d->queue, job->out_buffer, 0,
                                                      job->out + first * raw,
                                                      (size_t)(n * raw) * sizeof(float)),
                               err));
    }
    return DEMIST_OK;
}

static demist_status write_out(const struct job *job, const char *path, struct dm_error *err)
{
    const demist_node *node = dm_graph_view(job->setup->network.graph)->outputs[0];
    struct dm_tensor_view view = {.name = "out", .dtype = DEMIST_F32, .rank = node->rank};
    for (int32_t i = 0; i < node->rank; i++)
        view.shape[i] = i == 0 ? job->n : node->shape[i];
    view.data = job->out;
    view.bytes = (size_t)(job->n * job->model.raw_elements) * sizeof(float);
    return dm_safetensors_save(path, &view, 1, NULL, 0, err);
}

static void close_job(struct job *job)
{
    const demist_backend_vtable *vtable = job->setup->device.vtable;
    if (job->binding)
        vtable->binding_destroy(job->binding);
    if (job->x_buffer)
        vtable->buffer_destroy(job->x_buffer);
    if (job->out_buffer)
        vtable->buffer_destroy(job->out_buffer);
    dm_model_finish(&job->model);
    dm_checkpoint_close(job->in);
    free(job->x);
    free(job->t);
    free(job->c);
    free(job->low_res);
    free(job->out);
    free(job->labels);
}

demist_status dm_predict(struct dm_setup *setup, const char *in, const char *out,
                         struct dm_error *err)
{
    struct job job = {.setup = setup, .path = in};
    demist_status status = dm_checkpoint_open(in, &job.in, err);
    if (status == DEMIST_OK) {
        int64_t batch = setup->config.sample.batch ? setup->config.sample.batch : 16;
        status = dm_model_compile(&job.model, &setup->network, &setup->device, batch, 0, err);
    }
    if (status == DEMIST_OK)
        status = read_inputs(&job, err);
    if (status == DEMIST_OK)
        status = evaluate(&job, err);
    if (status == DEMIST_OK)
        status = write_out(&job, out, err);
    close_job(&job);
    return status;
}
