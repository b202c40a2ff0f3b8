/* Which of the options that shapes do not reveal fit a checkpoint best, measured on data.
 *
 * A few images are noised to a few noise levels, the same for all candidates, and the network is
 * asked for the noise. A candidate's schedule says which timestep belongs to a noise level, and so
 * what time the network is told; with the wrong one, or with the wrong heads, its error is larger.
 * As all candidates see the same images and noise, their errors are compared in pairs. */
#ifndef DM_RANKING_H
#define DM_RANKING_H

#include "detective.h"
#include "setup.h"

/* A combination of options. */
struct dm_candidate {
    const char *options;         /* "schedule.use=cosine schedule.steps=1000 …", of the arena */
    const char *const *set;      /* the same, NULL-ended, as behind --set */
    double error;                /* RMS error of ε: geometric mean over noise levels */
    double excess, excess_error; /* mean log ratio of squared errors to the best, and its standard
                                    error over the images */
    bool tied;                   /* not told apart from the best */
};

struct dm_ranking {
    struct dm_arena arena;
    struct dm_candidate *candidates; /* the winner first: of those tied with the best the most
                                        usual; then by error. Those that a first round on two
                                        images left far behind are not among them */
    int n, n_tried;
    int n_images, n_levels;
    double alpha_bar[8]; /* [n_levels] */
};

/* Probes with a few of the data (a path; see dataset.h), spread over all of them, and puts the
 * winner into the finding. Data that do not fit are INCOMPATIBLE; nothing is resized. Labels that
 * the data lack are dealt out in turn, and a notice says so. dm_ranking_finish on DEMIST_OK. */
demist_status dm_rank_candidates(const struct dm_environment *env, const char *checkpoint,
                                 struct dm_finding *finding, const char *data,
                                 struct dm_ranking *probe, struct dm_error *err);
void dm_ranking_finish(struct dm_ranking *probe);

/* Appends the ranking as a table of at most `rows` rows, without comment signs. */
void dm_ranking_print(const struct dm_ranking *probe, int rows, struct dm_text *out);

#endif
