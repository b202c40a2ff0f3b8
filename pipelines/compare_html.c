/* A comparison as one page that needs nothing else: styles, drawings and pictures are in it. */
#include "compare.h"

#include "image.h"
#include "plot.h"
#include "pngfile.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

enum { MOST_PICTURES = 8, MOST_RANKED = 12, MOST_POINTS = 2000 };

/* The page in the making. A failure is remembered, and the rest is ignored. */
struct page {
    struct dm_text *out;
    const struct dm_comparison *c;
    demist_status status;
    struct dm_error *err;
};

static const char style[] =
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;"
    "color:#1c1e21;background:#fff}"
    "h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem;border-top:1px solid "
    "#dde;padding-top:1rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.3rem 0 .8rem}"
    ".sub,.note{color:#5a6069}.note{font-size:.9rem}"
    ".verdict{border-left:6px solid;border-radius:4px;padding:.7rem 1rem;margin:.8rem 0}"
    ".good{border-color:#2e8b57;background:#eef8f1}.bad{border-color:#c62828;background:#fdeeee}"
    ".verdict b{font-size:1.05rem}code{background:#f1f2f5;padding:0 .25em;border-radius:3px}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}"
    "th,td{padding:.25rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid "
    "#e4e6ea}"
    "th{font-weight:600;color:#444b55}th:first-child,td:first-child,.left{text-align:left}"
    "tr.bad td{background:#fdeeee}tr.bad td:first-child{font-weight:700;color:#c62828}"
    ".scroll{overflow-x:auto}.pictures{display:grid;gap:6px;align-items:center}"
    ".pictures img{width:100%;max-width:128px;image-rendering:pixelated;display:block}"
    ".pictures .label{font-weight:600;font-size:.9rem}"
    ".pictures .label span{font-weight:400;color:#5a6069;display:block}"
    ".ramp{display:inline-block;width:9rem;height:.8em;border:1px solid #999;vertical-align:middle;"
    "background:linear-gradient(to right,#000004,#57106e,#bc3754,#f98e09,#fcffa4)}"
    ".points{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:300px}figcaption{font-size:"
    ".9rem}"
    ".curves svg{max-width:100%;height:auto}details{margin:.6rem 0}summary{cursor:pointer}"
    "dl{display:grid;grid-template-columns:max-content auto;gap:.15rem 1rem;margin:.4rem 0;"
    "font-size:.9rem}dt{color:#5a6069}dd{margin:0}";

/* ---------------------------------------------------------------- texts and numbers */

static void put(struct page *p, const char *html)
{
    dm_text_append(p->out, html);
}

/* Text as HTML: nothing in it is markup. */
static void put_text(struct page *p, const char *text)
{
    for (; text && *text; text++)
        switch (*text) {
        case '&':
            put(p, "&amp;");
            break;
        case '<':
            put(p, "&lt;");
            break;
        case '>':
            put(p, "&gt;");
            break;
        case '"':
            put(p, "&quot;");
            break;
        default:
            dm_text_append_bytes(p->out, text, 1);
        }
}

static void put_between(struct page *p, const char *before, const char *text, const char *after)
{
    put(p, before);
    put_text(p, text);
    put(p, after);
}

static void put_number(struct page *p, double x)
{
    if (isinf(x))
        put(p, "not finite");
    else if (isnan(x))
        put(p, "–");
    else if (x == 0 || (fabs(x) >= 0.01 && fabs(x) < 1e4))
        dm_text_appendf(p->out, "%.3g", x);
    else
        dm_text_appendf(p->out, "%.1e", x);
}

static void put_cell(struct page *p, double x)
{
    put(p, "<td>");
    put_number(p, x);
    put(p, "</td>");
}

static void put_bytes_cell(struct page *p, int64_t bytes)
{
    dm_text_appendf(p->out, "<td>%.1f MiB</td>", (double)bytes / (1 << 20));
}

static void put_psnr_cell(struct page *p, const struct dm_difference *d)
{
    if (d->max == 0)
        put(p, "<td>equal</td>");
    else if (isfinite(d->psnr))
        dm_text_appendf(p->out, "<td>%.1f dB</td>", d->psnr);
    else
        put(p, "<td>–</td>");
}

/* The op alone, without its attributes. */
static void put_op(struct page *p, const char *op)
{
    for (; *op && *op != ' '; op++)
        dm_text_append_bytes(p->out, op, 1);
}

/* ---------------------------------------------------------------- pictures */

/* The bytes as a data URI. */
static void put_base64(struct page *p, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        uint32_t word = (uint32_t)bytes[i] << 16;
        word |= i + 1 < size ? (uint32_t)bytes[i + 1] << 8 : 0;
        word |= i + 2 < size ? bytes[i + 2] : 0;
        char four[] = {digits[word >> 18], digits[word >> 12 & 63],
                       i + 1 < size ? digits[word >> 6 & 63] : '=',
                       i + 2 < size ? digits[word & 63] : '='};
        dm_text_append_bytes(p->out, four, sizeof four);
    }
}

static void put_image(struct page *p, const struct dm_image *image, const char *alt)
{
    struct dm_text png = DM_TEXT_INIT;
    p->status = dm_png_encode(&png, image, NULL, 0, p->err);
    if (p->status == DEMIST_OK && png.data) {
        put(p, "<img src=\"data:image/png;base64,");
        put_base64(p, (const uint8_t *)png.data, png.size);
        put_between(p, "\" alt=\"", alt, "\">");
    }
    dm_text_finish(&png);
}

static bool is_pictures(const struct dm_comparison *c)
{
    return c->rank == 3 && c->shape[1] <= 4096 && c->shape[2] <= 4096;
}

static bool is_points(const struct dm_comparison *c)
{
    return c->rank == 1 && c->shape[0] == 2;
}

/* Three channels or one: what a picture has, or the first of what has more. */
static void put_picture(struct page *p, const float *x, const char *alt)
{
    const struct dm_comparison *c = p->c;
    struct dm_image image = DM_IMAGE_INIT;
    struct dm_image_levels levels = {DM_IMAGE_ROUND, (float)c->lo, (float)c->hi};
    int channels = c->shape[0] >= 3 ? 3 : 1;
    if (p->status != DEMIST_OK)
        return;
    struct dm_error err = DM_ERROR_INIT;
    p->status = dm_image_from_floats(&image, x, channels, (int)c->shape[1], (int)c->shape[2],
                                     &levels, &err);
    if (p->status == DEMIST_OK)
        put_image(p, &image, alt);
    else if (p->status == DEMIST_NUMERIC) { /* there is no such picture, and that is the news */
        put(p, "<em>not finite</em>");
        p->status = DEMIST_OK;
    } else
        dm_fail(p->err, p->status, "%s", err.text);
    dm_error_clear(&err);
    dm_image_finish(&image);
}

/* Black over violet and orange to light yellow, x from 0 to 1. */
static void heat(double x, uint8_t rgb[3])
{
    static const double stops[5][3] = {
        {0, 0, 4}, {87, 16, 110}, {188, 55, 84}, {249, 142, 9}, {252, 255, 164}};
    double at = fmin(fmax(x, 0), 1) * 4;
    int i = at >= 4 ? 3 : (int)at;
    for (int k = 0; k < 3; k++)
        rgb[k] = (uint8_t)lround(stops[i][k] + (at - i) * (stops[i + 1][k] - stops[i][k]));
}

/* The largest |Δ| over the channels, white at `most`. */
static void put_heat_map(struct page *p, const float *x, const float *y, double most)
{
    const struct dm_comparison *c = p->c;
    struct dm_image image;
    int64_t plane = c->shape[1] * c->shape[2];
    if (p->status != DEMIST_OK)
        return;
    p->status = dm_image_create(&image, (int)c->shape[2], (int)c->shape[1], 3, p->err);
    for (int64_t i = 0; p->status == DEMIST_OK && i < plane; i++) {
        double d = 0;
        for (int64_t k = 0; k < c->shape[0]; k++) {
            double delta = fabs((double)x[k * plane + i] - y[k * plane + i]);
            d = isfinite(delta) ? fmax(d, delta) : INFINITY;
        }
        heat(most > 0 ? d / most : 0, image.pixels + 3 * i);
    }
    if (p->status == DEMIST_OK)
        put_image(p, &image, "difference");
    dm_image_finish(&image);
}

static double largest_difference(const struct dm_compare_run *run, size_t side, int64_t elements)
{
    double most = 0;
    for (int64_t i = 0; i < elements; i++) {
        double d = fabs((double)run->sides[side].x0[i] - run->sides[0].x0[i]);
        most = isfinite(d) ? fmax(most, d) : most;
    }
    return most;
}

static void put_picture_rows(struct page *p, const struct dm_compare_run *run)
{
    const struct dm_comparison *c = p->c;
    int64_t n = c->n_images < MOST_PICTURES ? c->n_images : MOST_PICTURES, e = c->n_elements;
    dm_text_appendf(p->out,
                    "<div class=\"pictures\" style=\"grid-template-columns:8.5rem repeat(%d,"
                    "minmax(0,128px))\">",
                    (int)n);
    for (size_t s = 0; s < c->n_sides; s++) {
        put_between(p, "<div class=\"label\">", run->sides[s].label,
                    s ? "<span>its own run</span></div>" : "<span>the reference side</span></div>");
        for (int64_t i = 0; i < n; i++)
            put_picture(p, run->sides[s].x0 + i * e, run->sides[s].label);
        if (s == 0)
            continue;
        double most = largest_difference(run, s, n * e);
        put(p, "<div class=\"label\">difference<span>white is ");
        put_number(p, most);
        put(p, "</span></div>");
        for (int64_t i = 0; i < n; i++)
            put_heat_map(p, run->sides[s].x0 + i * e, run->sides[0].x0 + i * e, most);
    }
    put(p, "</div><p class=\"note\">Pixels run from ");
    put_number(p, c->lo);
    put(p, " to ");
    put_number(p, c->hi);
    put(p, "; one step of 255 is ");
    put_number(p, (c->hi - c->lo) / 255);
    put(p, ". Heat: <span class=\"ramp\"></span> from 0 to the largest difference, each row on a "
           "scale of its own.</p>");
}

/* ---------------------------------------------------------------- points */

struct frame {
    double x, y, width; /* of the data, square */
};

static struct frame frame_of(const struct page *p, const struct dm_compare_run *run)
{
    double lo[2] = {INFINITY, INFINITY}, hi[2] = {-INFINITY, -INFINITY};
    for (size_t s = 0; s < p->c->n_sides; s++)
        for (int64_t i = 0; i < 2 * p->c->n_images; i++) {
            double v = run->sides[s].x0[i];
            lo[i % 2] = isfinite(v) ? fmin(lo[i % 2], v) : lo[i % 2];
            hi[i % 2] = isfinite(v) ? fmax(hi[i % 2], v) : hi[i % 2];
        }
    double width = fmax(fmax(hi[0] - lo[0], hi[1] - lo[1]) * 1.1, 1e-6);
    if (!isfinite(width))
        return (struct frame){-1, -1, 2};
    return (struct frame){(lo[0] + hi[0] - width) / 2, (lo[1] + hi[1] - width) / 2, width};
}

static void put_points(struct page *p, const struct dm_compare_run *run, size_t s,
                       struct frame frame)
{
    const float *x = run->sides[s].x0, *y = run->sides[0].x0;
    int64_t n = p->c->n_images < MOST_POINTS ? p->c->n_images : MOST_POINTS;
    double most = s ? largest_difference(run, s, 2 * n) : 0;
    put(p, "<figure><svg viewBox=\"0 0 300 300\" width=\"300\" height=\"300\" role=\"img\">"
           "<rect width=\"300\" height=\"300\" fill=\"#f6f7f9\"/>");
    for (int64_t i = 0; i < n; i++) {
        uint8_t rgb[3] = {58, 110, 190};
        double d =
            fmax(fabs((double)x[2 * i] - y[2 * i]), fabs((double)x[2 * i + 1] - y[2 * i + 1]));
        if (!isfinite(x[2 * i]) || !isfinite(x[2 * i + 1]))
            continue;
        if (s)
            heat(most > 0 ? d / most * 0.85 : 0, rgb);
        dm_text_appendf(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"rgb(%d,%d,%d)\"/>",
                        300 * (x[2 * i] - frame.x) / frame.width,
                        300 - 300 * (x[2 * i + 1] - frame.y) / frame.width, rgb[0], rgb[1], rgb[2]);
    }
    put_between(p, "</svg><figcaption><b>", run->sides[s].label, "</b>");
    if (s) {
        put(p, ", coloured by the difference: black 0, yellow ");
        put_number(p, most);
    } else
        put(p, ", the reference side");
    put(p, "</figcaption></figure>");
}

static void put_results(struct page *p, const struct dm_compare_run *run)
{
    const struct dm_comparison *c = p->c;
    put(p, "<h3>What each backend made</h3><p class=\"sub\">Each ran the whole chain by itself "
           "from the same noise. Small differences grow along a chain; that is told here and not "
           "judged.</p>");
    if (is_pictures(c))
        put_picture_rows(p, run);
    else if (is_points(c)) {
        struct frame frame = frame_of(p, run);
        put(p, "<div class=\"points\">");
        for (size_t s = 0; s < c->n_sides; s++)
            put_points(p, run, s, frame);
        put(p, "</div>");
    } else
        put(p, "<p class=\"note\">There is no picture of data of this shape.</p>");
}

/* ---------------------------------------------------------------- tables and curves */

static void put_sides(struct page *p, const struct dm_compare_run *run)
{
    put(p, "<h3>Speed and agreement</h3><div class=\"scroll\"><table><tr><th>backend</th>"
           "<th>precision</th><th>ms per step</th><th>first step, ms</th><th>memory</th>"
           "<th>output, worst</th><th>allowed</th><th>x<sub>0</sub>: max |Δ|</th>"
           "<th>RMS</th><th>PSNR</th></tr>");
    for (size_t i = 0; i < p->c->n_sides; i++) {
        const struct dm_compare_side *s = &run->sides[i];
        put(p, s->output_exceeds ? "<tr class=\"bad\">" : "<tr>");
        put_between(p, "<td>", s->label, "</td>");
        put_between(p, "<td>", s->precision, "</td>");
        dm_text_appendf(p->out, "<td>%.2f</td><td>%.1f</td>", s->ms_per_step, s->first_step_ms);
        put_bytes_cell(p, s->peak_memory_bytes);
        if (i == 0) {
            put(p, "<td colspan=\"5\" class=\"left\">the reference side</td></tr>");
            continue;
        }
        const struct dm_difference *x0 = &s->steps[run->n_steps - 1].free;
        put_cell(p, s->steps[s->output_step].output);
        put_cell(p, s->steps[s->output_step].output_bound);
        put_cell(p, x0->max);
        put_cell(p, x0->rms);
        put_psnr_cell(p, x0);
        put(p, "</tr>");
    }
    put(p, "</table></div><p class=\"note\">The network's output is compared at the reference "
           "side's own states, so that nothing has drifted: only it and the nodes below are "
           "judged. First step: compilation included.</p>");
}

/* An SVG file without what stands before its element. */
static void put_svg(struct page *p, const struct dm_drawing *drawing)
{
    struct dm_text svg = DM_TEXT_INIT;
    p->status = dm_drawing_svg(&svg, drawing, NULL, 0, p->err);
    const char *from = p->status == DEMIST_OK && svg.data ? strstr(svg.data, "<svg") : NULL;
    if (from)
        put(p, from);
    dm_text_finish(&svg);
}

enum curve { OUTPUT, ALLOWED, FORCED, FREE, N_CURVES };

static double curve_at(const struct dm_compare_step *step, enum curve curve)
{
    switch (curve) {
    case OUTPUT:
        return step->output;
    case ALLOWED:
        return step->output_bound;
    case FORCED:
        return step->forced.max;
    default:
        return step->free.max;
    }
}

static void put_curves(struct page *p, const struct dm_compare_run *run,
                       const struct dm_compare_side *s)
{
    static const char *const names[N_CURVES] = {"network output", "allowed for it",
                                                "x, teacher-forced", "x, free-running"};
    size_t n = (size_t)run->n_steps;
    double *data = calloc(n * (N_CURVES + 1), sizeof *data);
    struct dm_series series[N_CURVES];
    struct dm_drawing drawing = DM_DRAWING_INIT;
    struct dm_error none = DM_ERROR_INIT;
    if (p->status != DEMIST_OK || !data) {
        free(data);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        data[i] = (double)i + 1;
        for (int k = 0; k < N_CURVES; k++)
            data[(size_t)(k + 1) * n + i] = curve_at(&s->steps[i], (enum curve)k);
    }
    for (int k = 0; k < N_CURVES; k++)
        series[k] = (struct dm_series){names[k], data, data + (size_t)(k + 1) * n, (int)n};
    struct dm_line_plot plot = {.title = s->label,
                                .x_label = "step",
                                .y_label = "max |difference|",
                                .series = series,
                                .n_series = N_CURVES,
                                .log_y = true};
    put(p, "<div class=\"curves\">");
    if (dm_plot_lines(&drawing, &plot, &none) == DEMIST_OK)
        put_svg(p, &drawing);
    else
        put(p, "<p>There is no difference at any step.</p>");
    put(p, "</div>");
    dm_error_clear(&none);
    dm_drawing_finish(&drawing);
    free(data);
}

static void put_step_rows(struct page *p, const struct dm_compare_run *run,
                          const struct dm_compare_side *s)
{
    put(p, "<details><summary>All steps as numbers</summary><div class=\"scroll\"><table><tr>"
           "<th>step</th><th>output: max</th><th>allowed</th><th>forced: max</th><th>RMS</th>"
           "<th>PSNR</th><th>free: max</th><th>RMS</th><th>PSNR</th></tr>");
    for (int32_t i = 0; i < run->n_steps; i++) {
        const struct dm_compare_step *at = &s->steps[i];
        dm_text_appendf(p->out, "<tr><td>%d</td>", (int)i + 1);
        put_cell(p, at->output);
        put_cell(p, at->output_bound);
        put_cell(p, at->forced.max);
        put_cell(p, at->forced.rms);
        put_psnr_cell(p, &at->forced);
        put_cell(p, at->free.max);
        put_cell(p, at->free.rms);
        put_psnr_cell(p, &at->free);
        put(p, "</tr>");
    }
    put(p, "</table></div></details>");
}

/* ---------------------------------------------------------------- nodes */

static void put_node(struct page *p, const struct dm_compare_node *n)
{
    put(p, n->exceeds ? "<tr class=\"bad\">" : "<tr>");
    put_between(p, "<td>", n->name, "</td><td class=\"left\">");
    put_op(p, n->op);
    put_between(p, "</td><td class=\"left\">", n->shape, "</td>");
    if (n->fate == DM_COMPARE_INSIDE) {
        put_between(p, "<td colspan=\"4\" class=\"left\">inside ", n->inside, "</td></tr>");
        return;
    }
    if (n->fate == DM_COMPARE_GONE) {
        put(p, "<td colspan=\"4\" class=\"left\">folded, or a mere view</td></tr>");
        return;
    }
    put_cell(p, n->difference);
    if (n->alone) {
        put_cell(p, n->error);
        put_cell(p, n->bound);
        put_cell(p, n->ratio);
        put(p, "</tr>");
        return;
    }
    put(p, "<td colspan=\"3\" class=\"left\">");
    if (n->difference > 0) {
        put_number(p, n->screen);
        put(p, " of its tolerance, in place</td></tr>");
    } else
        put(p, "equal</td></tr>");
}

static const char node_head[] =
    "<div class=\"scroll\"><table><tr><th>node</th><th class=\"left\">op</th>"
    "<th class=\"left\">value</th><th>max |Δ| in place</th><th>alone</th><th>allowed</th>"
    "<th>ratio</th></tr>";

static void put_nodes(struct page *p, const struct dm_compare_side *s)
{
    const struct dm_compare_node **ranked =
        malloc(((size_t)s->n_nodes + 1) * sizeof(const struct dm_compare_node *));
    if (!ranked) {
        p->status = dm_fail_memory(p->err, "a page");
        return;
    }
    dm_compare_rank(s, ranked);
    put_between(p, "<h3>Inside the network: ", s->label, "</h3><p class=\"sub\">");
    dm_text_appendf(p->out, "%d of %d values were seen%s, at step", (int)s->n_seen, (int)s->n_nodes,
                    p->c->observe_all ? " (fusion is turned off for this look: --observe all)"
                                      : "");
    for (int32_t i = 0; i < s->n_observed; i++)
        dm_text_appendf(p->out, "%s %d",
                        i                   ? ","
                        : s->n_observed > 1 ? "s"
                                            : "",
                        (int)s->observed_step[i] + 1);
    dm_text_appendf(p->out,
                    ". An error <em>in place</em> may come from upstream; %d suspects were run "
                    "<em>alone</em> on the reference side's inputs, and a ratio over 1 is wrong. "
                    "Those closest to their bound:</p>",
                    (int)s->n_alone);
    put(p, node_head);
    for (int32_t i = 0, rows = 0; i < s->n_nodes && rows < MOST_RANKED; i++)
        if (ranked[i]->fate == DM_COMPARE_SEEN && ranked[i]->difference > 0) {
            put_node(p, ranked[i]);
            rows++;
        }
    put(p, "</table></div><details><summary>All nodes in the graph's order</summary>");
    put(p, node_head);
    for (int32_t i = 0; i < s->n_nodes; i++)
        put_node(p, &s->nodes[i]);
    put(p, "</table></div></details>");
    free(ranked);
}

/* ---------------------------------------------------------------- the page */

static void put_verdict(struct page *p, const struct dm_compare_run *run,
                        const struct dm_compare_side *s)
{
    const struct dm_compare_node *bad = s->first_bad;
    bool wrong = bad || s->output_exceeds;
    put_between(p, wrong ? "<div class=\"verdict bad\"><b>" : "<div class=\"verdict good\"><b>",
                s->label, wrong ? " disagrees with " : " agrees with ");
    put_text(p, run->sides[0].label);
    if (p->c->n_runs > 1)
        put_between(p, " (sampler ", run->sampler, ")");
    put(p, "</b><br>");
    if (bad) {
        put_between(p, "The first node that leaves its tolerance is <code>", bad->name,
                    "</code> (");
        put_op(p, bad->op);
        put(p, "): run alone on the reference side's inputs it is off by ");
        put_number(p, bad->error);
        put(p, ", and ");
        put_number(p, bad->bound);
        put(p, " is allowed. What comes after it inherits the error.");
    } else if (s->output_exceeds) {
        put(p, "The network's output is off by more than the precision allows, and every node "
               "that was seen is right when run alone");
        if (s->first_apart)
            put_between(p, "; the first value that is as far off is <code>", s->first_apart->name,
                        "</code>");
        put(p, ". <code>--observe all</code> sees more.");
    } else
        put(p, "Every node is within its tolerance, and so is the network's output at every step.");
    if (s->case_file)
        put_between(p, "<br>Run it again: <code>demist compare --replay ", s->case_file, "</code>");
    put(p, "</div>");
}

static void put_run(struct page *p, const struct dm_compare_run *run)
{
    put_between(p, "<h2>Sampler ", run->sampler, "");
    dm_text_appendf(p->out, ", %d steps</h2>", (int)run->n_steps);
    put_results(p, run);
    put_sides(p, run);
    put(p, "<h3>Along the chain</h3><p class=\"sub\">Teacher-forced: every step starts from the "
           "reference side's x. Free-running: the backend goes its own way. A gap is a difference "
           "of 0.</p>");
    for (size_t i = 1; i < p->c->n_sides; i++) {
        put_curves(p, run, &run->sides[i]);
        put_step_rows(p, run, &run->sides[i]);
    }
    for (size_t i = 1; i < p->c->n_sides; i++)
        put_nodes(p, &run->sides[i]);
}

static void put_entry(struct page *p, const char *name, const char *value)
{
    if (value && value[0]) {
        put_between(p, "<dt>", name, "</dt>");
        put_between(p, "<dd>", value, "</dd>");
    }
}

static void put_environment(struct page *p)
{
    const struct dm_comparison *c = p->c;
    struct utsname system;
    put(p, "<h2>Environment</h2><dl>");
    put_entry(p, "demist", DM_VERSION);
    if (uname(&system) == 0) {
        put_between(p, "<dt>system</dt><dd>", system.sysname, " ");
        put_between(p, "", system.release, " ");
        put_between(p, "", system.machine, "</dd>");
    }
    put_entry(p, "description", c->config);
    put_entry(p, "network", c->network);
    put_entry(p, "checkpoint", c->checkpoint);
    put_entry(p, "schedule", c->schedule);
    dm_text_appendf(p->out,
                    "<dt>seed</dt><dd>%llu</dd><dt>batch</dt><dd>%lld from number %lld</dd>",
                    (unsigned long long)c->seed, (long long)c->n_images, (long long)c->first);
    for (size_t i = 0; i < c->n_sides; i++) {
        const struct dm_compare_side *s = &c->runs[0].sides[i];
        put_between(p, "<dt>", s->label, "</dt><dd>");
        put_text(p, s->device);
        if (s->driver[0])
            put_between(p, ", ", s->driver, "");
        if (s->detail[0])
            put_between(p, ", ", s->detail, "");
        dm_text_appendf(p->out, "; program: %.1f MiB parameters, %.1f MiB working memory",
                        (double)s->param_bytes / (1 << 20), (double)s->arena_bytes / (1 << 20));
        if (s->choices)
            put_between(p, "; tuned: ", s->choices, "");
        put(p, "</dd>");
    }
    put(p, "</dl>");
}

demist_status dm_compare_html(const struct dm_comparison *c, struct dm_text *out,
                              struct dm_error *err)
{
    struct page p = {.out = out, .c = c, .err = err};
    put(&p, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
            "<title>Backends compared</title><style>");
    put(&p, style);
    put(&p, "</style></head><body><h1>Backends compared</h1><p class=\"sub\">");
    put_between(&p, "The same checkpoint, noise and labels on ", c->runs[0].sides[0].label, "");
    for (size_t i = 1; i < c->n_sides; i++)
        put_between(&p, i + 1 < c->n_sides ? ", " : " and ", c->runs[0].sides[i].label, "");
    put_between(&p, ": network ", c->network, "");
    put_between(&p, c->checkpoint[0] ? " from " : "", c->checkpoint, "</p>");
    for (size_t r = 0; r < c->n_runs; r++)
        for (size_t i = 1; i < c->n_sides; i++)
            put_verdict(&p, &c->runs[r], &c->runs[r].sides[i]);
    for (size_t r = 0; r < c->n_runs; r++)
        put_run(&p, &c->runs[r]);
    put_environment(&p);
    put(&p, "</body></html>\n");
    return p.status;
}
