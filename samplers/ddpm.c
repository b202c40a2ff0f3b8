/* Sampler `ddpm`: ancestral sampling with a fixed variance (Ho et al. 2020, algorithm 2).
 *
 * x' = μ̃(x_0, x) + σ·z, no noise at the last step. The variance is one of the two bounds of
 * section 3.2 (large: β, small: β̃), or the ContextUnet course's: σ = √β_t with the mean written
 * in ε, which is not the posterior mean at t = 1, because ᾱ_0 was set to 1 there. */
#include <demist/sampler.h>

#include <math.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status status_ = (call);                                                            \
        if (status_ != DEMIST_OK)                                                                  \
            return status_;                                                                        \
    } while (0)

enum { VARIANCE };
enum { LARGE, SMALL, COURSE };

static const char *const variances[] = {"large", "small", "course", NULL};
static const demist_option variance = {
    .size = sizeof(demist_option),
    .key = "variance",
    .doc = "large: beta; small: the posterior's; course: beta, with the mean written in eps",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "large",
    .choices = variances,
};
static const demist_option *const options[] = {&variance, NULL};

struct ddpm {
    const demist_host *host;
    int variance;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct ddpm *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct ddpm){host, (int)values[VARIANCE]->integer};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct ddpm *s = self;
    if (s)
        s->host->free(s->host, s);
}

static uint32_t needs(void *self)
{
    struct ddpm *s = self;
    return DEMIST_NEEDS_VARIANCE_PRESERVING | DEMIST_NEEDS_NOISE |
           (s->variance == COURSE ? 0u : (uint32_t)DEMIST_NEEDS_POSTERIOR);
}

/* β of the step: the schedule's own where no step was skipped, else that of the respaced one. */
static double course_beta(const demist_step *step)
{
    return step->time - step->time_next == 1 ? step->schedule_beta : step->beta;
}

static demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    struct ddpm *s = self;
    demist_tensor *z;
    TRY(run->temp(run, &z));
    for (int32_t i = 0; i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        demist_prediction out = DEMIST_INIT(demist_prediction);
        TRY(demist_predict(run, step->time, x, &out));

        double coef[3];
        demist_tensor *term[3] = {NULL, x, z};
        if (s->variance == COURSE) {
            /* (x − ε·β/√(1−ᾱ))/√α + √β·z   (eq. 11) */
            double beta = course_beta(step), alpha = 1 - beta;
            term[0] = out.eps;
            coef[0] = -beta / (step->noise * sqrt(alpha));
            coef[1] = 1 / sqrt(alpha);
            coef[2] = sqrt(beta);
        } else {
            /* μ̃(x_0, x) + σ·z   (eq. 7) */
            term[0] = out.x0;
            coef[0] = step->posterior_x0;
            coef[1] = step->posterior_x;
            coef[2] = s->variance == LARGE ? sqrt(step->large_variance)
                                           : exp(0.5 * step->posterior_logvar);
        }
        bool last = i == run->n_steps - 1;
        if (!last)
            TRY(demist_noise(run, DEMIST_NOISE_STEP, i, z));
        if (out.mean &&
            s->variance != COURSE) /* the network's own, whatever clipping made of x_0 */
            TRY(demist_lincomb(run, x, last ? 1 : 2, (double[]){1, coef[2]},
                               (demist_tensor *[]){out.mean, z}));
        else
            TRY(demist_lincomb(run, x, last ? 2 : 3, coef, term));
        TRY(demist_emit(run, i, x, out.x0));
    }
    return DEMIST_OK;
}

static const demist_sampler_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .needs = needs,
    .sample = sample,
};
static const demist_class ddpm = {
    .size = sizeof ddpm,
    .kind = DEMIST_SAMPLER,
    .name = "ddpm",
    .doc = "ancestral sampling with a fixed variance (Ho et al. 2020)",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&ddpm, NULL};

DEMIST_PLUGIN(sampler_ddpm) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.sampler-ddpm",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
