/* One evaluation of a network: tensors in, the raw output out. */
#ifndef DM_PREDICT_H
#define DM_PREDICT_H

#include "setup.h"

/* Evaluates the network on the tensors of the file `in` and writes tensor `out` [N, …] to the
 * safetensors file `out`, which is replaced: all channels where the variance is learned, no
 * guidance, no clipping.
 *
 * in: `x` [N, …]; a time, [N] or [N,1]: integer `t` or `t_index` (an index of the schedule,
 * converted as the network declares) or float `t` or `t_network` (handed over unchanged);
 * `y` [N] labels or `c` [N, size] context where the network takes them. t_index and t_network
 * together are accepted when the one converts to the other. Other tensors are ignored with a
 * notice.
 *
 * setup: opened with DM_NEED_NETWORK | DM_NEED_BACKEND, and DM_NEED_SCHEDULE for indices. */
demist_status dm_predict(struct dm_setup *setup, const char *in, const char *out,
                         struct dm_error *err);

#endif
