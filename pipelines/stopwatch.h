/* Wall time and the memory of this process, for comparisons and benchmarks. */
#ifndef DM_STOPWATCH_H
#define DM_STOPWATCH_H

#include <stddef.h>
#include <stdint.h>

/* Seconds since some moment; never runs backwards. */
double dm_seconds(void);

/* The middle one of n values, of an even number the mean of the two; sorts them. 0 for none. */
double dm_median(double *values, size_t n);

/* The most resident memory since dm_peak_memory_reset, in bytes; 0 where the system does not tell.
 * A system that cannot reset it tells the most since the program started. */
void dm_peak_memory_reset(void);
int64_t dm_peak_memory(void);

#endif
