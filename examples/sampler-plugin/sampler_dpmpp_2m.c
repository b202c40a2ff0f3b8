/* Sampler `dpmpp-2m`: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), a second-order multistep
 * method that needs one evaluation a step.
 *
 * With s, n the signal and noise at t, λ = ln(s/n), h = λ' − λ:
 *
 *     x' = (n'/n)·x − s'·(e^(−h) − 1)·D,   D = x_0 + (x_0 − x_0 of the step before)·h/(2·h_before)
 *
 * The first step, and the one into the clean end, where h is infinite, take D = x_0.
 *
 * This file is a project of its own: it includes demist's public headers, links nothing, and
 * exports one symbol. */
#include <demist/sampler.h>

#include <math.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status status_ = (call);                                                            \
        if (status_ != DEMIST_OK)                                                                  \
            return status_;                                                                        \
    } while (0)

enum { ORDER };

static const demist_option order = {
    .size = sizeof(demist_option),
    .key = "order",
    .doc = "2: multistep; 1: DDIM",
    .type = DEMIST_OPTION_INT,
    .default_value = "2",
    .has_range = true,
    .min = 1,
    .max = 2,
};
static const demist_option *const options[] = {&order, NULL};

struct dpmpp_2m {
    const demist_host *host;
    int64_t order;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct dpmpp_2m *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY; /* alloc has said so */
    *s = (struct dpmpp_2m){host, values[ORDER]->integer};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct dpmpp_2m *s = self;
    if (s)
        s->host->free(s->host, s);
}

/* On a path that visits the clean end itself λ is infinite before the last step. */
static uint32_t needs(void *self)
{
    (void)self;
    return DEMIST_NEEDS_VARIANCE_PRESERVING;
}

static demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    struct dpmpp_2m *s = self;
    demist_tensor *before; /* x_0 of the step before: what predict returns holds until the next */
    double h_before = 0;
    TRY(run->temp(run, &before));
    for (int32_t i = 0; i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        demist_prediction out = DEMIST_INIT(demist_prediction);
        TRY(demist_predict(run, step->time, x, &out));

        double h = step->lambda_next - step->lambda;
        double keep = step->noise_next / step->noise, gain = -step->signal_next * expm1(-h);
        bool second = s->order == 2 && i > 0 && isfinite(h);
        double r = second ? h / (2 * h_before) : 0;
        double coef[3] = {keep, gain * (1 + r), -gain * r};
        TRY(demist_lincomb(run, x, second ? 3 : 2, coef, (demist_tensor *[]){x, out.x0, before}));
        TRY(demist_lincomb(run, before, 1, (double[]){1}, &out.x0));
        h_before = h;
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
static const demist_class dpmpp_2m = {
    .size = sizeof dpmpp_2m,
    .kind = DEMIST_SAMPLER,
    .name = "dpmpp-2m",
    .doc = "DPM-Solver++(2M): second order, one evaluation a step (Lu et al. 2022)",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&dpmpp_2m, NULL};

DEMIST_PLUGIN(sampler_dpmpp_2m) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "org.example.sampler-dpmpp-2m",
    .version = "1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
