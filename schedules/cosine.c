/* Schedule `cosine`: ᾱ follows a squared cosine (Nichol & Dhariwal 2021, eq. 17).
 *
 * β_i = min(1 − f((i+1)/T)/f(i/T), max_beta), evaluated in this order: 1 − f/f cancels, and
 * another order gives other tables. */
#include <demist/schedule.h>

#include <math.h>

enum { OFFSET, MAX_BETA };

static const demist_option offset = {
    .size = sizeof(demist_option),
    .key = "offset",
    .doc = "s of the paper: keeps beta near t = 0 from being too small",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = "0.008",
    .has_range = true,
    .min = 0,
    .max = 1,
};
static const demist_option max_beta = {
    .size = sizeof(demist_option),
    .key = "max_beta",
    .doc = "beta is clipped to this, against a singularity at t = T",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = "0.999",
    .has_range = true,
    .min = 1e-6,
    .max = 0.999999,
};
static const demist_option *const options[] = {&offset, &max_beta, NULL};

struct cosine {
    const demist_host *host;
    double offset, max_beta;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct cosine *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct cosine){host, values[OFFSET]->number, values[MAX_BETA]->number};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct cosine *s = self;
    if (s)
        s->host->free(s->host, s);
}

/* f(u) = cos²((u + s)/(1 + s)·π/2) */
static double alpha_bar(double u, double s)
{
    const double pi = 3.14159265358979323846;
    double c = cos((u + s) / (1 + s) * pi / 2);
    return c * c;
}

static demist_status fill(void *self, demist_tables *tables)
{
    struct cosine *s = self;
    tables->form = DEMIST_VARIANCE_PRESERVING;
    double T = (double)tables->n;
    for (int64_t i = 0; i < tables->n; i++) {
        double beta =
            1 - alpha_bar((double)(i + 1) / T, s->offset) / alpha_bar((double)i / T, s->offset);
        tables->beta[i] = beta < s->max_beta ? beta : s->max_beta;
    }
    return DEMIST_OK;
}

static const demist_schedule_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .fill = fill,
};
static const demist_class cosine = {
    .size = sizeof cosine,
    .kind = DEMIST_SCHEDULE,
    .name = "cosine",
    .doc = "alpha_bar follows a squared cosine (Nichol & Dhariwal 2021)",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&cosine, NULL};

DEMIST_PLUGIN(schedule_cosine) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.schedule-cosine",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
