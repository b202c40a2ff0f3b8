/* Schedule `linear`: β rises linearly (Ho et al. 2020, section 4).
 *
 * Two conventions meet here. With indexing = zero, t = 0 … T−1 and ᾱ is the cumulative product
 * of 1 − β. With indexing = one (the ContextUnet course) there are T+1 coefficients, the product
 * runs over all of them, and ᾱ_0 is then set to 1: so ᾱ_1 = (1−β_0)(1−β_1), which does not
 * follow from the β of the steps t = 1 … T alone. */
#include <demist/schedule.h>

#include <math.h>

enum { BETA_START, BETA_END, INDEXING };

static const char *const indexings[] = {"zero", "one", NULL};
static const demist_option beta_start = {
    .size = sizeof(demist_option),
    .key = "beta_start",
    .doc = "first beta, taken literally; auto: 1e-4 * 1000/T",
    .type = DEMIST_OPTION_FLOAT,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .has_range = true,
    .min = 0,
    .max = 1,
};
static const demist_option beta_end = {
    .size = sizeof(demist_option),
    .key = "beta_end",
    .doc = "last beta, taken literally; auto: 0.02 * 1000/T",
    .type = DEMIST_OPTION_FLOAT,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .has_range = true,
    .min = 0,
    .max = 1,
};
static const demist_option indexing = {
    .size = sizeof(demist_option),
    .key = "indexing",
    .doc = "zero: t = 0 .. T-1; one: t = 1 .. T with alpha_bar_0 = 1 (the ContextUnet course)",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "zero",
    .choices = indexings,
};
static const demist_option *const options[] = {&beta_start, &beta_end, &indexing, NULL};

struct linear {
    const demist_host *host;
    const demist_value *start, *end;
    bool one_based;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct linear *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s =
        (struct linear){host, values[BETA_START], values[BETA_END], values[INDEXING]->integer == 1};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct linear *s = self;
    if (s)
        s->host->free(s->host, s);
}

/* i-th of n evenly spaced values, both ends exact. */
static double linspace(double a, double b, int64_t n, int64_t i)
{
    return i == n - 1 && n > 1 ? b : a + (double)i * ((b - a) / (double)(n > 1 ? n - 1 : 1));
}

static demist_status fill(void *self, demist_tables *tables)
{
    struct linear *s = self;
    const demist_host *host = s->host;
    int64_t T = tables->n;
    double scale = 1000.0 / (double)T;
    double a = s->start->is_auto ? 1e-4 * scale : s->start->number;
    double b = s->end->is_auto ? 0.02 * scale : s->end->number;
    if (T != 1000 && (s->start->is_auto || s->end->is_auto))
        host->log(host, DEMIST_LOG_NOTICE,
                  "beta_start = auto, beta_end = auto are scaled by 1000/T = %g: %g to %g", scale,
                  a, b);
    if (!(a > 0 && a < 1 && b > 0 && b < 1))
        return host->fail(host, DEMIST_CONFIG,
                          "T = %lld steps give beta from %g to %g, and each must lie in (0, 1): "
                          "raise [schedule] steps, or set beta_start and beta_end",
                          (long long)T, a, b);

    tables->form = DEMIST_VARIANCE_PRESERVING;
    if (!s->one_based) {
        for (int64_t i = 0; i < T; i++)
            tables->beta[i] = linspace(a, b, T, i);
        return DEMIST_OK;
    }
    tables->first_index = 1;
    tables->has_alpha_bar = true;
    tables->alpha_bar[0] = 1;
    double log_alpha_bar = log(1 - a); /* of t = 0, replaced by 1 but part of every product */
    for (int64_t i = 0; i < T; i++) {
        tables->beta[i] = linspace(a, b, T + 1, i + 1);
        log_alpha_bar += log(1 - tables->beta[i]);
        tables->alpha_bar[i + 1] = exp(log_alpha_bar);
    }
    return DEMIST_OK;
}

static const demist_schedule_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .fill = fill,
};
static const demist_class linear = {
    .size = sizeof linear,
    .kind = DEMIST_SCHEDULE,
    .name = "linear",
    .doc = "beta rises linearly from beta_start to beta_end (Ho et al. 2020)",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&linear, NULL};

DEMIST_PLUGIN(schedule_linear) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.schedule-linear",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
