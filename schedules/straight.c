/* Schedule `straight`: the straight path x_t = (1−t)·x_0 + t·x_1 from data (t = 0) to a known
 * start (t = 1). The network predicts x_1, which takes ε's place.
 *
 * The grid is t_i = t_start·i/(T−1), i = 0 … T−1, visited downwards; both ends are on it, and
 * after t = 0 the path ends at 0 again, so that the last state is x_0. */
#include <demist/schedule.h>

enum { T_START, GUARD };

static const demist_option t_start = {
    .size = sizeof(demist_option),
    .key = "t_start",
    .doc = "the time at which sampling starts; below 1, where x_0 cannot be told from x_1",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = "0.95",
    .has_range = true,
    .min = 1e-6,
    .max = 1,
};
static const demist_option guard = {
    .size = sizeof(demist_option),
    .key = "guard",
    .doc = "added to 1 - t where x_0 = (x_t - t*x_1)/(1 - t)",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = "1e-7",
    .has_range = true,
    .min = 0,
    .max = 1,
};
static const demist_option *const options[] = {&t_start, &guard, NULL};

struct straight {
    const demist_host *host;
    double t_start, guard;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct straight *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct straight){host, values[T_START]->number, values[GUARD]->number};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct straight *s = self;
    if (s)
        s->host->free(s->host, s);
}

static demist_status eval(void *self, int64_t n, double t, double *signal, double *noise)
{
    (void)self, (void)n;
    *signal = 1 - t;
    *noise = t;
    return DEMIST_OK;
}

static demist_status fill(void *self, demist_tables *tables)
{
    struct straight *s = self;
    if (s->t_start + s->guard >= 1 && s->guard == 0)
        return s->host->fail(s->host, DEMIST_CONFIG,
                             "t_start = 1 needs guard > 0: x_0 = (x_t - t*x_1)/(1 - t + guard)");
    tables->form = DEMIST_GAUSSIAN_PATH;
    tables->time_end = 0;
    tables->signal_guard = s->guard;
    for (int64_t i = 0; i < tables->n; i++) {
        double t = tables->n > 1 ? s->t_start * (double)i / (double)(tables->n - 1) : s->t_start;
        tables->time[i] = t;
        eval(s, tables->n, t, &tables->signal[i], &tables->noise[i]);
    }
    return DEMIST_OK;
}

static const demist_schedule_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .fill = fill,
    .eval = eval,
};
static const demist_class straight = {
    .size = sizeof straight,
    .kind = DEMIST_SCHEDULE,
    .name = "straight",
    .doc = "the straight path (1-t)*x_0 + t*x_1, from t_start down to 0",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&straight, NULL};

DEMIST_PLUGIN(schedule_straight) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.schedule-straight",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};
