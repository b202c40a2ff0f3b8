/* Sampler `learned-sigma`: ancestral sampling with the variance that the network predicts
 * (Nichol & Dhariwal 2021, section 3.1).
 *
 *     x' = μ̃(x_0, x) + exp(½·log σ²)·z,  no noise at the last step */
#include <demist/sampler.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status status_ = (call);                                                            \
        if (status_ != DEMIST_OK)                                                                  \
            return status_;                                                                        \
    } while (0)

struct learned_sigma {
    const demist_host *host;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    (void)values;
    struct learned_sigma *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    s->host = host;
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct learned_sigma *s = self;
    if (s)
        s->host->free(s->host, s);
}

static uint32_t needs(void *self)
{
    (void)self;
    return DEMIST_NEEDS_VARIANCE_PRESERVING | DEMIST_NEEDS_LEARNED_VARIANCE |
           DEMIST_NEEDS_POSTERIOR | DEMIST_NEEDS_NOISE;
}

static demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    (void)self;
    demist_tensor *z, *sigma;
    TRY(run->temp(run, &z));
    TRY(run->temp(run, &sigma));
    for (int32_t i = 0; i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        demist_prediction out = DEMIST_INIT(demist_prediction);
        TRY(demist_predict(run, step->time, x, &out));

        double coef[3] = {step->posterior_x0, step->posterior_x, 1};
        demist_tensor *term[3] = {out.x0, x, z}, *mean[2] = {out.mean, z};
        bool last = i == run->n_steps - 1;
        if (!last) {
            TRY(run->map(run, DEMIST_MAP_EXP, sigma, 1, &out.logvar, (double[]){0.5, 0}));
            TRY(demist_noise(run, DEMIST_NOISE_STEP, i, z));
            TRY(run->map(run, DEMIST_MAP_MUL, z, 2, (demist_tensor *[]){sigma, z}, NULL));
        }
        if (out.mean) /* the network predicts it, whatever clipping made of x_0 */
            TRY(demist_lincomb(run, x, last ? 1 : 2, (double[]){1, 1}, mean));
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
static const demist_class learned_sigma = {
    .size = sizeof learned_sigma,
    .kind = DEMIST_SAMPLER,
    .name = "learned-sigma",
    .doc = "ancestral sampling with the network's own variance (Nichol & Dhariwal 2021)",
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&learned_sigma, NULL};

DEMIST_PLUGIN(sampler_learned_sigma) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.sampler-learned-sigma",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
