#include "threshold.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double dm_quantile(double *values, int64_t n, double p)
{
    for (int64_t i = 0; i < n; i++)
        if (isnan(values[i])) /* it has no place in an order */
            return NAN;
    qsort(values, (size_t)n, sizeof *values, by_value);
    double at = p * (double)(n - 1);
    int64_t below = (int64_t)at, above = below + 1 < n ? below + 1 : below;
    double share = at - (double)below;
    if (share == 0) /* infinity·0 is none */
        return values[below];
    return values[below] + share * (values[above] - values[below]);
}

double dm_threshold_scale(double *magnitudes, int64_t n, double p, double c)
{
    double s = dm_quantile(magnitudes, n, p);
    return s <= c ? 1 : c / s;
}
