/* A benchmark as a table and as JSON. */
#include "bench.h"

#include "jsonout.h"

#include <stdio.h>

static double percent(double part, double whole)
{
    return whole > 0 ? 100 * part / whole : 0;
}

/* GFLOP/s */
static double rate(const struct dm_bench_op *op)
{
    return op->ms > 0 ? 1e-6 * op->flops / op->ms : 0;
}

static void print_profile(const struct dm_bench_side *s, struct dm_text *out)
{
    dm_text_appendf(out, "\n%s, one evaluation by op\n%-40s %6s %10s %7s %10s\n", s->label, "op",
                    "nodes", "ms", "share", "GFLOP/s");
    for (size_t i = 0; i < s->n_ops; i++) {
        const struct dm_bench_op *op = &s->ops[i];
        dm_text_appendf(out, "%-40s %6d %10.3f %6.1f%% %10.1f\n", op->name, (int)op->nodes, op->ms,
                        percent(op->ms, s->profile_ms), rate(op));
    }
    dm_text_appendf(out, "%-40s %6s %10.3f\n", "all", "", s->profile_ms);
}

void dm_bench_text(const struct dm_bench *b, struct dm_text *out)
{
    dm_text_appendf(out,
                    "%s: network %s (%.3g GFLOP per image and evaluation), sampler %s, %d steps, "
                    "batch %lld, %d thread%s\n\n",
                    b->config, b->network, 1e-9 * b->flops, b->sampler, (int)b->n_steps,
                    (long long)b->batch, b->threads, b->threads == 1 ? "" : "s");
    dm_text_appendf(out, "%-16s %-6s %9s %21s %10s %10s %10s %12s %11s\n", "backend", "", "ms/step",
                    "(fastest-slowest)", "images/s", "GFLOP/s", "peak", "first step", "memory");
    for (size_t i = 0; i < b->n_sides; i++) {
        const struct dm_bench_side *s = &b->sides[i];
        char range[40];
        snprintf(range, sizeof range, "(%.2f-%.2f)", s->fastest_ms, s->slowest_ms);
        dm_text_appendf(out, "%-16s %-6s %9.2f %21s %10.3g %10.1f %10.1f %9.1f ms %7.1f MiB\n",
                        s->label, s->precision, s->ms_per_step, range, s->images_per_s, s->gflops,
                        s->peak_gflops, s->first_step_ms, (double)s->peak_memory_bytes / (1 << 20));
    }
    for (size_t i = 0; i < b->n_sides; i++)
        dm_text_appendf(out, "%s%s: %s%s%s%s%s\n", i ? "" : "\n", b->sides[i].label,
                        b->sides[i].device, b->sides[i].driver[0] ? ", " : "", b->sides[i].driver,
                        b->sides[i].detail[0] ? ", " : "", b->sides[i].detail);
    for (size_t i = 0; i < b->n_sides; i++)
        if (b->sides[i].n_ops > 0)
            print_profile(&b->sides[i], out);
}

static void put_side(cJSON *array, const struct dm_bench_side *s, bool *ok)
{
    cJSON *object = dm_json_append_object(array, ok);
    dm_json_put_text(object, "name", s->label, ok);
    dm_json_put_text(object, "precision", s->precision, ok);
    dm_json_put_text(object, "device", s->device, ok);
    dm_json_put_text(object, "driver", s->driver, ok);
    dm_json_put_text(object, "detail", s->detail, ok);
    dm_json_put_text(object, "choices", s->choices, ok);
    dm_json_put_number(object, "ms_per_step", s->ms_per_step, ok);
    dm_json_put_number(object, "fastest_ms", s->fastest_ms, ok);
    dm_json_put_number(object, "slowest_ms", s->slowest_ms, ok);
    dm_json_put_integer(object, "measured_steps", (int64_t)s->blocks * s->block, ok);
    dm_json_put_number(object, "images_per_s", s->images_per_s, ok);
    dm_json_put_number(object, "evaluations_per_step", s->evaluations, ok);
    dm_json_put_number(object, "gflops", s->gflops, ok);
    dm_json_put_number(object, "peak_gflops", s->peak_gflops, ok);
    dm_json_put_integer(object, "peak_memory_bytes", s->peak_memory_bytes, ok);
    dm_json_put_integer(object, "param_bytes", s->param_bytes, ok);
    dm_json_put_integer(object, "arena_bytes", s->arena_bytes, ok);
    dm_json_put_number(object, "first_step_ms", s->first_step_ms, ok);
    if (s->n_ops == 0)
        return;
    cJSON *profile = dm_json_put_array(object, "profile", ok);
    for (size_t i = 0; i < s->n_ops; i++) {
        cJSON *op = dm_json_append_object(profile, ok);
        dm_json_put_text(op, "op", s->ops[i].name, ok);
        dm_json_put_integer(op, "nodes", s->ops[i].nodes, ok);
        dm_json_put_number(op, "ms", s->ops[i].ms, ok);
        dm_json_put_number(op, "share", percent(s->ops[i].ms, s->profile_ms) / 100, ok);
        dm_json_put_number(op, "gflops", rate(&s->ops[i]), ok);
    }
}

demist_status dm_bench_json(const struct dm_bench *b, struct dm_text *out, struct dm_error *err)
{
    bool ok = true;
    cJSON *root = cJSON_CreateObject();
    dm_json_put_text(root, "config", b->config, &ok);
    dm_json_put_text(root, "network", b->network, &ok);
    dm_json_put_text(root, "sampler", b->sampler, &ok);
    dm_json_put_integer(root, "batch", b->batch, &ok);
    dm_json_put_integer(root, "steps", b->n_steps, &ok);
    dm_json_put_integer(root, "threads", b->threads, &ok);
    dm_json_put_number(root, "gflop_per_image", 1e-9 * b->flops, &ok);
    cJSON *sides = dm_json_put_array(root, "backends", &ok);
    for (size_t i = 0; i < b->n_sides; i++)
        put_side(sides, &b->sides[i], &ok);
    return dm_json_print(out, root, ok, err);
}
