// A sampler plugin in C++17: what C++ has of its own (a class, exceptions that stay inside) behind
// the C interface.
#include <demist/sampler.h>

#include <exception>
#include <new>
#include <vector>

namespace
{

class Halver
{
  public:
    Halver(const demist_host *host, double by) : host_(host), coefs_(1, by)
    {
    }

    demist_status sample(demist_run *run, demist_tensor *x) const
    {
        try {
            for (int32_t i = 0; i < run->n_steps; i++) {
                demist_status status = demist_lincomb(run, x, 1, coefs_.data(), &x);
                if (status != DEMIST_OK)
                    return status;
            }
            return DEMIST_OK;
        } catch (const std::exception &e) {
            return host_->fail(host_, DEMIST_INTERNAL, "%s", e.what());
        }
    }

  private:
    const demist_host *host_;
    std::vector<double> coefs_;
};

demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    *self = new (std::nothrow) Halver(host, values[0]->number);
    return *self ? DEMIST_OK : host->fail(host, DEMIST_NO_MEMORY, "out of memory");
}

void destroy(void *self)
{
    delete static_cast<Halver *>(self);
}

demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    return static_cast<const Halver *>(self)->sample(run, x);
}

constexpr demist_option make_option()
{
    demist_option option = DEMIST_INIT(demist_option);
    option.key = "by";
    option.doc = "What x is multiplied by in each step";
    option.type = DEMIST_OPTION_FLOAT;
    option.default_value = "0.5";
    return option;
}

constexpr demist_sampler_vtable make_vtable()
{
    demist_sampler_vtable vtable = DEMIST_INIT(demist_sampler_vtable);
    vtable.create = create;
    vtable.destroy = destroy;
    vtable.sample = sample;
    return vtable;
}

constexpr demist_option by = make_option();
constexpr const demist_option *options[] = {&by, nullptr};
constexpr demist_sampler_vtable vtable = make_vtable();
constexpr demist_class halver = {sizeof(demist_class), DEMIST_SAMPLER, "cxx",
                                 "Halves, in C++17",   options,        &vtable};
constexpr const demist_class *classes[] = {&halver, nullptr};

} // namespace

DEMIST_PLUGIN(sampler_cxx) = {sizeof(demist_plugin),
                              DEMIST_ABI_EPOCH,
                              DEMIST_ABI_MINOR,
                              0,
                              "org.example.cxx",
                              "1",
                              "MIT",
                              "",
                              classes};
