/* A run without a network: the data are Gaussian, N(mean, std²) in every element, so what a perfect
 * network would answer, and where the probability-flow ODE leads, is known in closed form.
 *
 * With x = s·x_0 + n·ε:  E[x_0 | x] = mean + s·std²·(x − s·mean)/(s²·std² + n²), and the ODE takes
 * (x − s·mean)/√(s²·std² + n²) unchanged from any time to any other. */
#ifndef MOCK_RUN_H
#define MOCK_RUN_H

#include <demist/sampler.h>

struct mock_run {
    demist_run run; /* what a sampler gets */
    double mean, std;
    int64_t n_predictions; /* images times evaluations that were asked for */
    int n_emitted;
    demist_tensor **tensors; /* all that were made */
    int n_tensors;
    double *times;
    demist_step *steps;
    const demist_step **step_list;
};

/* Cosine path: t in [0, 1], signal cos(πt/2), noise sin(πt/2); the grid has equal steps from 0.99
 * to 0. n_elements: of one image. */
void mock_run_init(struct mock_run *mock, int64_t n_images, int64_t n_elements, int32_t n_steps,
                   double mean, double std);
void mock_run_finish(struct mock_run *mock);

/* A tensor that holds data [n_images][n_elements]; freed by mock_run_finish. */
demist_tensor *mock_tensor(struct mock_run *mock, const float *data);
const float *mock_data(const demist_tensor *tensor);

/* Where the ODE leads from x at time t: to x_0 at time 0. */
double mock_exact(const struct mock_run *mock, double t, double x);

#endif
