/* Plots: point sets with the path of every point, and line charts. They fill a dm_drawing, which
 * drawing.h turns into SVG or pixels. */
#ifndef DM_PLOT_H
#define DM_PLOT_H

#include "drawing.h"

struct dm_point_plot {
    const char *title;   /* UTF-8; NULL: none */
    const float *states; /* [n_states][n_points][2], in the order they were visited */
    const double *times; /* [n_states], for the legend; NULL: not shown */
    int n_states, n_points;
    bool paths;    /* the line of each point through all states */
    bool start;    /* the points of the first state */
    int max_paths; /* 0: all; else the first ones, and the legend says so. 10^6 states take about a
                      second and 15 MB of SVG, so that a limit is worth having */
};

/* Draws the last state over the paths and the first state, with one scale for both axes. INVALID
 * for an empty set, NUMERIC, with its place, for a coordinate that is not finite. The caller
 * finishes the drawing, also after a failure. */
demist_status dm_plot_points(struct dm_drawing *drawing, const struct dm_point_plot *plot,
                             struct dm_error *err);

struct dm_series {
    const char *name; /* in the legend; NULL: not there */
    const double *x, *y;
    int n;
};

struct dm_line_plot {
    const char *title, *x_label, *y_label; /* UTF-8; NULL: none */
    const struct dm_series *series;
    int n_series;
    bool log_y;
};

/* Draws each series as a line. Values that are not finite, and with log_y those that are not
 * positive, leave a gap. INVALID when nothing is left to draw. The caller finishes the drawing. */
demist_status dm_plot_lines(struct dm_drawing *drawing, const struct dm_line_plot *plot,
                            struct dm_error *err);

#endif
