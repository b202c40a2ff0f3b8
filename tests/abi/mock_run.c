#include "mock_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct demist_tensor {
    float *data;
};

static const double half_pi = 1.57079632679489661923;

static size_t tensor_size(const struct mock_run *mock)
{
    return (size_t)(mock->run.n_images * mock->run.n_elements);
}

static struct mock_run *mock_of(demist_run *run)
{
    return run->internal;
}

static demist_status coeffs(demist_run *run, double t, demist_coeffs *out)
{
    out->signal = cos(half_pi * t);
    out->noise = sin(half_pi * t);
    out->lambda = log(out->signal / out->noise);
    return DEMIST_OK;
}

/* signal/noise = cot(πt/2) = e^λ */
static demist_status time_of(demist_run *run, double lambda, double *t)
{
    *t = atan(exp(-lambda)) / half_pi;
    return DEMIST_OK;
}

demist_tensor *mock_tensor(struct mock_run *mock, const float *data)
{
    demist_tensor *tensor = malloc(sizeof *tensor);
    demist_tensor **tensors =
        realloc(mock->tensors, (size_t)(mock->n_tensors + 1) * sizeof(demist_tensor *));
    size_t n = tensor_size(mock);
    if (!tensor || !tensors || !(tensor->data = malloc(n * sizeof *tensor->data)))
        abort();
    for (size_t i = 0; i < n; i++)
        tensor->data[i] = data ? data[i] : NAN;
    mock->tensors = tensors;
    mock->tensors[mock->n_tensors++] = tensor;
    return tensor;
}

const float *mock_data(const demist_tensor *tensor)
{
    return tensor->data;
}

static demist_status predict(demist_run *run, int64_t n_times, const double *times,
                             demist_tensor *x, demist_prediction *out)
{
    struct mock_run *mock = mock_of(run);
    demist_tensor *x0 = mock->tensors[0], *eps = mock->tensors[1]; /* the host's */
    if (n_times != 1 && n_times != run->n_images)
        return DEMIST_INVALID;
    for (int64_t image = 0; image < run->n_images; image++) {
        demist_coeffs c;
        coeffs(run, times[n_times == 1 ? 0 : image], &c);
        double variance = c.signal * c.signal * mock->std * mock->std + c.noise * c.noise;
        for (int64_t e = 0; e < run->n_elements; e++) {
            size_t i = (size_t)(image * run->n_elements + e);
            double centred = x->data[i] - c.signal * mock->mean;
            double clean = mock->mean + c.signal * mock->std * mock->std * centred / variance;
            x0->data[i] = (float)clean;
            eps->data[i] = (float)(c.noise * centred / variance);
        }
    }
    mock->n_predictions += run->n_images;
    out->x0 = x0;
    out->eps = eps;
    return DEMIST_OK;
}

static demist_status lincomb(demist_run *run, demist_tensor *out, int32_t n, int64_t n_coefs,
                             const double *coefs, demist_tensor *const *x)
{
    if (n_coefs != n && n_coefs != n * run->n_images)
        return DEMIST_INVALID;
    for (int64_t image = 0; image < run->n_images; image++)
        for (int64_t e = 0; e < run->n_elements; e++) {
            size_t i = (size_t)(image * run->n_elements + e);
            double sum = 0;
            for (int32_t k = 0; k < n; k++)
                sum += (n_coefs == n ? coefs[k] : coefs[k * run->n_images + image]) * x[k]->data[i];
            out->data[i] = (float)sum;
        }
    return DEMIST_OK;
}

static demist_status reduce(demist_run *run, demist_reduce_op op, double param, demist_tensor *x,
                            double *host)
{
    for (int64_t image = 0; image < run->n_images; image++) {
        host[image] = 0;
        for (int64_t e = 0; e < run->n_elements; e++) {
            double value = x->data[image * run->n_elements + e];
            if (op == DEMIST_REDUCE_SUM)
                host[image] += value;
            else if (op == DEMIST_REDUCE_SUM_OF_SQUARES)
                host[image] += value * value;
            else if (op == DEMIST_REDUCE_MAX_ABS)
                host[image] = fmax(host[image], fabs(value));
            else
                return DEMIST_UNSUPPORTED;
        }
    }
    return DEMIST_OK;
}

static demist_status temp(demist_run *run, demist_tensor **out)
{
    *out = mock_tensor(mock_of(run), NULL);
    return DEMIST_OK;
}

static demist_status read_tensor(demist_run *run, demist_tensor *x, float *host)
{
    memcpy(host, x->data, tensor_size(mock_of(run)) * sizeof *host);
    return DEMIST_OK;
}

static demist_status write_tensor(demist_run *run, demist_tensor *x, const float *host)
{
    memcpy(x->data, host, tensor_size(mock_of(run)) * sizeof *host);
    return DEMIST_OK;
}

static demist_status emit(demist_run *run, int32_t i, demist_tensor *x, demist_tensor *x0)
{
    mock_of(run)->n_emitted++;
    return DEMIST_OK;
}

static void make_grid(struct mock_run *mock, int32_t n)
{
    size_t count = (size_t)n;
    mock->times = calloc(count + 1, sizeof *mock->times);
    mock->steps = calloc(count, sizeof *mock->steps);
    mock->step_list = calloc(count, sizeof *mock->step_list);
    if (!mock->times || !mock->steps || !mock->step_list)
        abort();
    for (int32_t i = 0; i <= n; i++)
        mock->times[i] = 0.99 * (n - i) / n;
    for (int32_t i = 0; i < n; i++) {
        demist_step *step = &mock->steps[i];
        double t = mock->times[i], t_next = mock->times[i + 1];
        *step = DEMIST_INIT(demist_step);
        step->time = t;
        step->time_next = t_next;
        step->signal = cos(half_pi * t);
        step->noise = sin(half_pi * t);
        step->signal_next = cos(half_pi * t_next);
        step->noise_next = i + 1 < n ? sin(half_pi * t_next) : 0;
        mock->step_list[i] = step;
    }
}

void mock_run_init(struct mock_run *mock, int64_t n_images, int64_t n_elements, int32_t n_steps,
                   double mean, double std)
{
    *mock = (struct mock_run){.mean = mean, .std = std};
    make_grid(mock, n_steps);
    demist_run *run = &mock->run;
    *run = DEMIST_INIT(demist_run);
    run->internal = mock;
    run->n_images = n_images;
    run->rank = 1;
    run->shape[0] = run->n_elements = n_elements;
    run->n_steps = n_steps;
    run->time = mock->times;
    run->step = mock->step_list;
    run->predict = predict;
    run->coeffs = coeffs;
    run->time_of = time_of;
    run->lincomb = lincomb;
    run->reduce = reduce;
    run->temp = temp;
    run->read = read_tensor;
    run->write = write_tensor;
    run->emit = emit;
    mock_tensor(mock, NULL);
    mock_tensor(mock, NULL);
}

void mock_run_finish(struct mock_run *mock)
{
    for (int i = 0; i < mock->n_tensors; i++) {
        free(mock->tensors[i]->data);
        free(mock->tensors[i]);
    }
    free(mock->tensors);
    free(mock->times);
    free(mock->steps);
    free(mock->step_list);
}

double mock_exact(const struct mock_run *mock, double t, double x)
{
    double signal = cos(half_pi * t), noise = sin(half_pi * t);
    double spread = sqrt(signal * signal * mock->std * mock->std + noise * noise);
    return mock->mean + mock->std * (x - signal * mock->mean) / spread;
}
