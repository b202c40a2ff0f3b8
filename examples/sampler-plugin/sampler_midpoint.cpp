// Sampler `midpoint`: the probability-flow ODE by the midpoint method in λ (DPM-Solver-2 in
// essence; Lu et al. 2022), written in C++17. Two evaluations a step, the second between indices.
//
//     x_m = (n_m/n)·x − s_m·(e^(−h/2) − 1)·x_0(t),   λ_m = λ + h/2
//     x'  = (n'/n)·x − s'·(e^(−h) − 1)·x_0(t_m)
//
// No exception may leave a plugin, and this one throws none.
#include <demist/sampler.h>

#include <cmath>
#include <new>

namespace
{

struct midpoint {
    const demist_host *host;
};

demist_status create(const demist_host *host, const demist_value *const *, void **self)
{
    void *memory = host->alloc(host, sizeof(midpoint), 0);
    if (!memory)
        return DEMIST_NO_MEMORY;
    *self = new (memory) midpoint{host};
    return DEMIST_OK;
}

void destroy(void *self)
{
    if (auto *s = static_cast<midpoint *>(self))
        s->host->free(s->host, s);
}

uint32_t needs(void *)
{
    return DEMIST_NEEDS_VARIANCE_PRESERVING | DEMIST_NEEDS_FRACTIONAL_TIMES;
}

// out = (n'/n)·x − s'·(e^(−h) − 1)·x0, from (n, λ) to (s', n', λ')
demist_status advance(demist_run *run, demist_tensor *out, demist_tensor *x, demist_tensor *x0,
                      double noise, double lambda, const demist_coeffs &to)
{
    const double coef[] = {to.noise / noise, -to.signal * std::expm1(lambda - to.lambda)};
    demist_tensor *const terms[] = {x, x0};
    return demist_lincomb(run, out, 2, coef, terms);
}

demist_status sample(void *, demist_run *run, demist_tensor *x)
{
    demist_tensor *middle = nullptr;
    demist_status status = run->temp(run, &middle);
    for (int32_t i = 0; status == DEMIST_OK && i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        demist_prediction out = DEMIST_INIT(demist_prediction);
        demist_coeffs half = DEMIST_INIT(demist_coeffs), end = DEMIST_INIT(demist_coeffs);
        end.signal = step->signal_next;
        end.noise = step->noise_next;
        end.lambda = step->lambda_next;
        double t = 0;
        status = demist_predict(run, step->time, x, &out);
        if (status == DEMIST_OK && std::isfinite(end.lambda)) {
            status = run->time_of(run, (step->lambda + end.lambda) / 2, &t);
            if (status == DEMIST_OK)
                status = run->coeffs(run, t, &half);
            if (status == DEMIST_OK)
                status = advance(run, middle, x, out.x0, step->noise, step->lambda, half);
            if (status == DEMIST_OK)
                status = demist_predict(run, t, middle, &out);
        }
        if (status == DEMIST_OK)
            status = advance(run, x, x, out.x0, step->noise, step->lambda, end);
        if (status == DEMIST_OK)
            status = demist_emit(run, i, x, out.x0);
    }
    return status;
}

constexpr demist_sampler_vtable make_vtable()
{
    auto vtable = DEMIST_INIT(demist_sampler_vtable);
    vtable.create = create;
    vtable.destroy = destroy;
    vtable.needs = needs;
    vtable.sample = sample;
    return vtable;
}
constexpr demist_sampler_vtable vtable = make_vtable();

constexpr demist_class make_class()
{
    auto cls = DEMIST_INIT(demist_class);
    cls.kind = DEMIST_SAMPLER;
    cls.name = "midpoint";
    cls.doc = "the probability-flow ODE by the midpoint method in log signal-to-noise";
    cls.vtable = &vtable;
    return cls;
}
constexpr demist_class midpoint_class = make_class();
constexpr const demist_class *classes[] = {&midpoint_class, nullptr};

constexpr demist_plugin make_plugin()
{
    auto plugin = DEMIST_INIT(demist_plugin);
    plugin.abi_epoch = DEMIST_ABI_EPOCH;
    plugin.abi_minor = DEMIST_ABI_MINOR;
    plugin.id = "org.example.sampler-midpoint";
    plugin.version = "1.0";
    plugin.license = "MIT";
    plugin.url = "";
    plugin.classes = classes;
    return plugin;
}

} // namespace

DEMIST_PLUGIN(sampler_midpoint) = make_plugin();
