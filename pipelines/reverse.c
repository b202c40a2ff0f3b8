#include "reverse.h"

#include "diffusion.h"
#include "threshold.h"

#include <math.h>
#include <string.h>

static demist_status find_variance(const struct dm_setup *s, enum dm_variance *out,
                                   struct dm_error *err)
{
    static const char *const names[] = {"large", "small", "course"};
    const demist_sampler_vtable *vtable = s->sampler.cls->vtable;
    uint32_t needs = vtable->needs ? vtable->needs(s->sampler.self) : 0;
    const demist_value *value = dm_instance_value(&s->sampler, "variance");
    bool learned = s->network.info.learned_variance != DEMIST_VARIANCE_NONE;
    if (!value) {
        *out = (needs & DEMIST_NEEDS_LEARNED_VARIANCE) || learned ? DM_VARIANCE_NETWORK
                                                                  : DM_VARIANCE_LARGE;
        return DEMIST_OK;
    }
    for (int i = 0; i < 3; i++)
        if (value->text && strcmp(value->text, names[i]) == 0) {
            *out = (enum dm_variance)i;
            return DEMIST_OK;
        }
    return dm_fail(err, DEMIST_UNSUPPORTED,
                   "sampler %s has the variance \"%s\", of which no likelihood is known here: take "
                   "sampler ddpm or learned-sigma",
                   s->config.sampler.use, value->text ? value->text : "");
}

demist_status dm_reverse_open(const struct dm_setup *s, struct dm_reverse *out,
                              struct dm_error *err)
{
    if (!dm_process_is_vp(s->process))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "a likelihood needs a variance-preserving schedule (linear, cosine), and "
                       "schedule %s is a path",
                       s->config.schedule.use);
    DM_TRY(dm_diffusion_check_posterior(dm_process_kept(s->process), "a likelihood", err));
    *out = (struct dm_reverse){.info = &s->network.info,
                               .n_elements = s->network.n_elements,
                               .clip = s->clip,
                               .threshold = s->threshold};
    return find_variance(s, &out->variance, err);
}

/* log σ² where it does not depend on the network. */
static double fixed_logvar(enum dm_variance variance, const demist_step *step)
{
    switch (variance) {
    case DM_VARIANCE_SMALL:
        return step->posterior_logvar;
    case DM_VARIANCE_COURSE: /* the schedule's own β where no step was skipped */
        return log(step->time - step->time_next == 1 ? step->schedule_beta : step->beta);
    case DM_VARIANCE_LARGE:
    case DM_VARIANCE_NETWORK:
        break;
    }
    return log(step->large_variance);
}

static void logvar_of(const struct dm_reverse *r, const demist_step *step, const float *raw,
                      double *logvar)
{
    double fixed = fixed_logvar(r->variance, step);
    double low = step->posterior_logvar, high = log(step->beta);
    bool network = r->variance == DM_VARIANCE_NETWORK;
    for (int64_t i = 0; i < r->n_elements; i++) {
        double v = network ? raw[r->n_elements + i] : 0, f = (v + 1) / 2;
        if (!network)
            logvar[i] = fixed;
        else if (r->info->learned_variance == DEMIST_VARIANCE_RANGE) /* Nichol & Dhariwal, eq. 15 */
            logvar[i] = f * high + (1 - f) * low;
        else
            logvar[i] = v;
    }
}

/* x̂_0 from what the network predicts, before clipping. */
static double x0_of(demist_prediction_type prediction, const demist_step *step, double x,
                    double out)
{
    switch (prediction) {
    case DEMIST_PREDICT_X0:
        return out;
    case DEMIST_PREDICT_V:
        return step->signal * x - step->noise * out;
    case DEMIST_PREDICT_MEAN:
        return (out - step->posterior_x * x) / step->posterior_x0;
    case DEMIST_PREDICT_EPS:
    case DEMIST_PREDICT_X1: /* of paths only */
        break;
    }
    return (x - step->noise * out) / step->signal;
}

/* Clamps x̂_0, or thresholds it; scratch: [n_elements]. */
static void clip(const struct dm_reverse *r, double *x0, double *scratch)
{
    double low = r->info->clip_low, high = r->info->clip_high, scale = 1;
    if (r->threshold > 0) {
        for (int64_t i = 0; i < r->n_elements; i++)
            scratch[i] = fabs(x0[i]);
        scale = dm_threshold_scale(scratch, r->n_elements, r->threshold, high);
    }
    for (int64_t i = 0; i < r->n_elements; i++) {
        double scaled = scale * x0[i];
        x0[i] = scaled < low ? low : scaled > high ? high : scaled;
    }
}

void dm_reverse_step(const struct dm_reverse *r, const demist_step *step, const float *x,
                     const float *raw, double *x0, double *mean, double *logvar)
{
    for (int64_t i = 0; i < r->n_elements; i++)
        x0[i] = x0_of(r->info->prediction, step, x[i], raw[i]);
    if (r->clip)
        clip(r, x0, mean);
    for (int64_t i = 0; i < r->n_elements; i++)
        mean[i] = r->info->prediction == DEMIST_PREDICT_MEAN
                      ? raw[i] /* the network's own, whatever clipping made of x_0 */
                      : step->posterior_x0 * x0[i] + step->posterior_x * x[i];
    logvar_of(r, step, raw, logvar);
}
