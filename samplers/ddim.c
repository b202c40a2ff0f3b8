/* Sampler `ddim`: denoising diffusion implicit models (Song et al. 2021).
 *
 * Written in signal s and noise n, so that it walks any Gaussian path: on a variance-preserving
 * one s² = ᾱ and n² = 1 − ᾱ, and the step is eq. 12 of the paper; on the straight path ε is the
 * path's far end, and with η = 0 the step is (1−t')·x_0 + t'·x_1. With η = 0 it walks upwards, from
 * data to noise, as it walks down. */
#include <demist/sampler.h>

#include <math.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status status_ = (call);                                                            \
        if (status_ != DEMIST_OK)                                                                  \
            return status_;                                                                        \
    } while (0)

enum { ETA };

static const demist_option eta = {
    .size = sizeof(demist_option),
    .key = "eta",
    .doc = "share of the posterior's noise: 0 is deterministic, 1 is DDPM-like",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = "0.0",
    .has_range = true,
    .min = 0,
    .max = 1,
};
static const demist_option *const options[] = {&eta, NULL};

struct ddim {
    const demist_host *host;
    double eta;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct ddim *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct ddim){host, values[ETA]->number};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct ddim *s = self;
    if (s)
        s->host->free(s->host, s);
}

/* Standard deviation of q(x_{t'} | x_t, x_0): (n'/n)·√(n² − (s/s')²·n'²), which for a
 * variance-preserving process is √((1−ᾱ')/(1−ᾱ))·√(1 − ᾱ/ᾱ')   (eq. 16 with η = 1) */
static double posterior_std(const demist_step *step)
{
    double n = step->noise, n1 = step->noise_next, ratio = step->signal / step->signal_next;
    if (n1 <= 0 || n <= 0)
        return 0;
    double variance = n * n - ratio * ratio * n1 * n1;
    return variance > 0 ? n1 / n * sqrt(variance) : 0;
}

static uint32_t needs(void *self)
{
    struct ddim *s = self;
    return s->eta > 0 ? (uint32_t)DEMIST_NEEDS_NOISE : 0u;
}

static demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    struct ddim *s = self;
    demist_tensor *z = NULL;
    if (s->eta > 0)
        TRY(run->temp(run, &z));
    for (int32_t i = 0; i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        demist_prediction out = DEMIST_INIT(demist_prediction);
        TRY(demist_predict(run, step->time, x, &out));

        /* x' = s'·x_0 + √(n'² − σ²)·ε + σ·z   (eq. 12) */
        double sigma = s->eta * posterior_std(step);
        double direction = step->noise_next * step->noise_next - sigma * sigma;
        double coef[3] = {step->signal_next, direction > 0 ? sqrt(direction) : 0, sigma};
        if (sigma > 0)
            TRY(demist_noise(run, DEMIST_NOISE_STEP, i, z));
        TRY(demist_lincomb(run, x, sigma > 0 ? 3 : 2, coef,
                           (demist_tensor *[]){out.x0, out.eps, z}));
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
static const demist_class ddim = {
    .size = sizeof ddim,
    .kind = DEMIST_SAMPLER,
    .name = "ddim",
    .doc = "denoising diffusion implicit models (Song et al. 2021), on any Gaussian path",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&ddim, NULL};

DEMIST_PLUGIN(sampler_ddim) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.sampler-ddim",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
