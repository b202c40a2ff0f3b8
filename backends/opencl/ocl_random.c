/* The keyed generator of docs/noise.md: on the device where it has float64, otherwise on the host,
 * which draws while the device works on what was queued before. */
#include "ocl_program.h"

#include <string.h>

struct ocl_draws {
    const demist_host *host;
    const demist_philox *philox;
    bool normal;
    demist_attrs attrs;
    int64_t elements;  /* of one image, or in all */
    int64_t offset;    /* of the view in its storage, bytes */
    float *staging[2]; /* in turns, so that one may still be on its way */
    cl_event sent[2];
    int turn;
};

/* --- on the host --- */

struct draw {
    const struct ocl_draws *d;
    const demist_scalar *scalars;
    float *to;
};

static void draw_image(void *arg, int64_t i, int worker)
{
    (void)worker;
    const struct draw *w = arg;
    const demist_attrs *a = &w->d->attrs;
    const uint64_t seed = w->scalars[a->philox.seed_slot].u;
    const uint32_t draw = (uint32_t)w->scalars[a->philox.draw_slot].u;
    const uint32_t image = a->philox.per_image
                               ? (uint32_t)(w->scalars[a->philox.image_slot].u + (uint64_t)i)
                               : DEMIST_IMAGE_SHARED;
    float *to = w->to + i * w->d->elements;
    const size_t n = (size_t)w->d->elements;
    if (w->d->normal) {
        w->d->philox->normal(seed, image, a->philox.purpose, draw, 0, n, to);
        return;
    }
    const double lo = a->philox.lo, range = (double)a->philox.hi - lo;
    w->d->philox->uniform(seed, image, a->philox.purpose, draw, 0, n, to);
    for (size_t e = 0; e < n; e++)
        to[e] = (float)(lo + range * to[e]);
}

demist_status ocl_run_draws(cl_command_queue queue, const demist_program *p,
                            struct ocl_draws *draws, const struct ocl_place_of *to,
                            const demist_scalar *scalars, int64_t images)
{
    struct ocl_draws *d = draws;
    const int turn = d->turn;
    const int64_t n = d->attrs.philox.per_image ? images : 1;
    if (d->sent[turn]) {
        clWaitForEvents(1, &d->sent[turn]);
        clReleaseEvent(d->sent[turn]);
        d->sent[turn] = NULL;
    }
    struct draw w = {d, scalars, d->staging[turn]};
    d->host->parallel(d->host, n, draw_image, &w);
    d->turn = !turn;
    const cl_int error = clEnqueueWriteBuffer(
        queue, to->memory, CL_FALSE, (size_t)(to->offset + d->offset),
        (size_t)(n * d->elements) * 4, d->staging[turn], 0, NULL, &d->sent[turn]);
    return error == CL_SUCCESS ? DEMIST_OK : ocl_fail(p->device, "clEnqueueWriteBuffer", error);
}

void ocl_draws_finish(struct ocl_draws *draws)
{
    for (int i = 0; draws && i < 2; i++)
        if (draws->sent[i]) {
            clWaitForEvents(1, &draws->sent[i]);
            clReleaseEvent(draws->sent[i]);
        }
}

static demist_status add_host_draws(demist_program *p, const demist_node *node,
                                    const demist_view *out)
{
    const demist_host *host = p->device->host;
    if (!p->device->philox)
        return host->fail(host, DEMIST_INCOMPATIBLE,
                          "node '%s' (%s): the host offers no %s: use a newer host", node->name,
                          demist_op_name(node->op), DEMIST_EXT_PHILOX);
    struct ocl_draws *d = ocl_new(p, sizeof *d);
    if (!d)
        return DEMIST_NO_MEMORY;
    *d = (struct ocl_draws){.host = host,
                            .philox = p->device->philox,
                            .normal = node->op == DEMIST_OP_PHILOX_NORMAL,
                            .attrs = node->attrs,
                            .elements = demist_elements(node),
                            .offset = out->offset * 4};
    const int64_t images = node->attrs.philox.per_image ? p->max_batch : 1;
    for (int i = 0; i < 2; i++)
        if (!(d->staging[i] = ocl_new(p, (size_t)(images * d->elements) * 4)))
            return DEMIST_NO_MEMORY;
    return ocl_add_draws(p, node->id, d, out);
}

/* --- on the device --- */

static demist_status add_device_draws(demist_program *p, const demist_node *node,
                                      const demist_view *out)
{
    const demist_attrs *a = &node->attrs;
    const int64_t elements = demist_elements(node);
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_kernel(p->device, "random.cl", NULL,
                       node->op == DEMIST_OP_PHILOX_NORMAL ? "normal" : "uniform", &kernel));
    ocl_draft_init(&d, node->id, kernel);
    ocl_put_out(&d, out);
    ocl_put_slot(&d, OCL_ARG_SLOT_LOW, a->philox.seed_slot);
    ocl_put_slot(&d, OCL_ARG_SLOT_HIGH, a->philox.seed_slot);
    ocl_put_slot(&d, OCL_ARG_SLOT_LOW, a->philox.draw_slot);
    ocl_put_slot(&d, OCL_ARG_SLOT_LOW, a->philox.image_slot);
    ocl_put_int(&d, (int32_t)a->philox.purpose);
    ocl_put_int(&d, a->philox.per_image);
    ocl_put_int(&d, elements);
    if (node->op == DEMIST_OP_PHILOX_UNIFORM) {
        ocl_put_float(&d, a->philox.lo);
        ocl_put_float(&d, a->philox.hi);
    }
    ocl_put_range(&d, 0, (struct ocl_count){elements, 0}, 4, 64);
    ocl_put_range(&d, 1, a->philox.per_image ? (struct ocl_count){0, 1} : (struct ocl_count){1, 0},
                  1, 1);
    return ocl_add_launch(p, &d.launch);
}

demist_status ocl_add_philox(demist_program *p, const demist_node *node)
{
    demist_view out;
    OCL_TRY(ocl_result_dense(p, node, OCL_F32, &out));
    p->philox_nodes[p->n_philox] = node->id;
    p->philox_attrs[p->n_philox++] = node->attrs;
    ocl_set_result(p, node, &out);
    return p->device->fp64 ? add_device_draws(p, node, &out) : add_host_draws(p, node, &out);
}
