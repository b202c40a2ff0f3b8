/* Variance-based splitting of a colour histogram (in the manner of Wu 1991, with a split at the
 * mean), at 6 bits a channel but with exact means, so that white stays white. giflib's own
 * quantiser cuts colours to 5 bits and so turns white into gray. */
#include "palette.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BINS (1 << 18)

struct bin {
    uint64_t count, sum[3]; /* pixels, and their exact values */
};

/* Bins order[begin..end), and how much its squared error falls at best by a cut along `axis`. */
struct box {
    int begin, end, axis;
    double error, mean; /* along `axis` */
};

struct pixel {
    uint8_t rgb[3];
};

static struct pixel pixel_at(const struct dm_image *image, size_t i)
{
    const uint8_t *p = image->pixels + i * (size_t)image->channels;
    return image->channels == 1 ? (struct pixel){{p[0], p[0], p[0]}}
                                : (struct pixel){{p[0], p[1], p[2]}};
}

static size_t count_pixels(const struct dm_image *image)
{
    return (size_t)image->width * (size_t)image->height;
}

static int bin_of(struct pixel p)
{
    return (p.rgb[0] >> 2) << 12 | (p.rgb[1] >> 2) << 6 | p.rgb[2] >> 2;
}

/* Where the colour stands, or would stand, among the ascending entries. */
static int find(const struct dm_palette *palette, struct pixel p)
{
    int lo = 0, hi = palette->n;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (memcmp(palette->rgb[mid], p.rgb, 3) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Collects the colours in ascending order; false as soon as there are more than 256. */
static bool collect(struct dm_palette *palette, const struct dm_image *image)
{
    for (size_t i = 0, n = count_pixels(image); i < n; i++) {
        struct pixel p = pixel_at(image, i);
        int at = find(palette, p);
        if (at < palette->n && memcmp(palette->rgb[at], p.rgb, 3) == 0)
            continue;
        if (palette->n == 256)
            return false;
        memmove(palette->rgb[at + 1], palette->rgb[at], 3 * (size_t)(palette->n - at));
        memcpy(palette->rgb[at], p.rgb, 3);
        palette->n++;
    }
    return true;
}

/* Finds the axis with the largest squared error about the mean. */
static struct box measure(const struct bin *bins, const int *order, int begin, int end)
{
    struct box box = {begin, end, 0, -1, 0};
    for (int axis = 0; axis < 3; axis++) {
        double count = 0, sum = 0, square = 0;
        for (int i = begin; i < end; i++) {
            const struct bin *bin = &bins[order[i]];
            double n = (double)bin->count, s = (double)bin->sum[axis];
            count += n;
            sum += s;
            square += s * s / n;
        }
        double error = end - begin > 1 ? square - sum * sum / count : 0;
        if (error > box.error) {
            box.error = error;
            box.axis = axis;
            box.mean = sum / count;
        }
    }
    return box;
}

/* Orders the bins of the box so that those below its mean come first; returns where the others
 * begin. */
static int partition(const struct bin *bins, int *order, const struct box *box)
{
    int at = box->begin;
    for (int i = box->begin; i < box->end; i++) {
        const struct bin *bin = &bins[order[i]];
        if ((double)bin->sum[box->axis] / (double)bin->count >= box->mean)
            continue;
        int swap = order[at];
        order[at++] = order[i];
        order[i] = swap;
    }
    return at;
}

static int split(const struct bin *bins, int *order, int n_bins, struct box boxes[256])
{
    int n = 1;
    boxes[0] = measure(bins, order, 0, n_bins);
    while (n < 256) {
        int worst = 0;
        for (int i = 1; i < n; i++)
            if (boxes[i].error > boxes[worst].error)
                worst = i;
        struct box box = boxes[worst];
        int middle = partition(bins, order, &box);
        if (box.error <= 0 || middle == box.begin || middle == box.end)
            break;
        boxes[worst] = measure(bins, order, box.begin, middle);
        boxes[n++] = measure(bins, order, middle, box.end);
    }
    return n;
}

static void fill_entry(struct dm_palette *palette, int entry, const struct bin *bins,
                       const int *order, const struct box *box)
{
    uint64_t count = 0, sum[3] = {0, 0, 0};
    for (int i = box->begin; i < box->end; i++) {
        const struct bin *bin = &bins[order[i]];
        count += bin->count;
        for (int k = 0; k < 3; k++)
            sum[k] += bin->sum[k];
        palette->nearest[order[i]] = (uint8_t)entry;
    }
    assert(count > 0); /* only bins with pixels are in boxes */
    for (int k = 0; k < 3; k++)
        palette->rgb[entry][k] = (uint8_t)((sum[k] + count / 2) / count);
}

static void quantize(struct dm_palette *palette, struct bin *bins, int *order,
                     const struct dm_image *images, int n)
{
    for (int k = 0; k < n; k++)
        for (size_t i = 0, end = count_pixels(&images[k]); i < end; i++) {
            struct pixel p = pixel_at(&images[k], i);
            struct bin *bin = &bins[bin_of(p)];
            bin->count++;
            for (int c = 0; c < 3; c++)
                bin->sum[c] += p.rgb[c];
        }
    int n_bins = 0;
    for (int i = 0; i < BINS; i++)
        if (bins[i].count)
            order[n_bins++] = i;
    struct box boxes[256];
    palette->n = split(bins, order, n_bins, boxes);
    for (int i = 0; i < palette->n; i++)
        fill_entry(palette, i, bins, order, &boxes[i]);
}

demist_status dm_palette_build(struct dm_palette *palette, const struct dm_image *images, int n,
                               struct dm_error *err)
{
    *palette = (struct dm_palette){0};
    bool exact = true;
    for (int k = 0; exact && k < n; k++)
        exact = collect(palette, &images[k]);
    if (exact)
        return DEMIST_OK;
    *palette = (struct dm_palette){.nearest = calloc(BINS, 1)};
    struct bin *bins = calloc(BINS, sizeof *bins);
    int *order = calloc(BINS, sizeof *order);
    demist_status status = DEMIST_OK;
    if (palette->nearest && bins && order)
        quantize(palette, bins, order, images, n);
    else
        status = dm_fail_memory(err, "the palette of a picture");
    free(bins);
    free(order);
    if (status != DEMIST_OK)
        dm_palette_finish(palette);
    return status;
}

void dm_palette_map(const struct dm_palette *palette, const struct dm_image *image, uint8_t *out)
{
    for (size_t i = 0, n = count_pixels(image); i < n; i++) {
        struct pixel p = pixel_at(image, i);
        out[i] = palette->nearest ? palette->nearest[bin_of(p)] : (uint8_t)find(palette, p);
    }
}

void dm_palette_finish(struct dm_palette *palette)
{
    free(palette->nearest);
    *palette = (struct dm_palette){0};
}
