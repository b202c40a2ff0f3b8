/* demist/convolution.h, held against the definitions of both convolutions. */
#include "testing.h"

#include <demist/convolution.h>

enum { MOST = 128, X = 5 };

/* y[j·stride + k·dilation − pad] += x[j]·w[k], with w[k] = 7^k-like weights that tell taps apart.
 */
static void transposed_by_definition(const double *w, int64_t kernel, int32_t stride, int32_t pad,
                                     int32_t dilation, int64_t outputs, double *y)
{
    memset(y, 0, sizeof *y * MOST);
    for (int64_t j = 0; j < X; j++)
        for (int64_t k = 0; k < kernel; k++) {
            const int64_t at = j * stride + k * dilation - pad;
            if (at >= 0 && at < outputs)
                y[at] += (double)(j + 1) * w[k];
        }
}

static double at_input(int64_t j)
{
    return j >= 0 && j < X ? (double)(j + 1) : 0;
}

/* Sums over the taps of output number j with inputs stride·j + … */
static double sum_taps(const demist_taps *taps, const double *w, int64_t first)
{
    double sum = 0;
    for (int32_t i = 0; i < taps->n; i++)
        sum += at_input(first + taps->place + (int64_t)i * taps->move) *
               w[taps->first + i * taps->step];
    return sum;
}

static void test_phases_together_are_the_transposed_convolution(void **state)
{
    double w[6], y[MOST];
    int empty = 0;
    for (int k = 0; k < 6; k++)
        w[k] = 1 << (4 * k);
    for (int64_t kernel = 1; kernel <= 6; kernel++)
        for (int32_t stride = 1; stride <= 5; stride++)
            for (int32_t dilation = 1; dilation <= 4; dilation++)
                for (int32_t pad = 0; pad <= 3; pad++) {
                    const int64_t outputs = (X - 1) * stride + (kernel - 1) * dilation + 2;
                    int64_t done = 0;
                    transposed_by_definition(w, kernel, stride, pad, dilation, outputs, y);
                    for (int64_t phase = 0; phase < stride; phase++) {
                        const demist_taps taps =
                            demist_transposed_taps(kernel, stride, pad, dilation, phase);
                        const int64_t n = demist_phase_outputs(outputs, stride, phase);
                        for (int64_t j = 0; j < n; j++)
                            assert_true(sum_taps(&taps, w, j) == y[phase + j * stride]);
                        done += n;
                        empty += taps.n == 0;
                    }
                    assert_int_equal(done, outputs);
                }
    assert_true(empty > 0);
}

static void test_a_convolution_has_all_taps_for_every_output(void **state)
{
    const double w[] = {1, 100, 10000};
    const demist_taps taps = demist_conv_taps(3, 2, 2);
    for (int64_t j = 0; j < 4; j++) { /* stride 3: y[j] = Σ x[3j + 2k − 2]·w[k] */
        double sum = 0;
        for (int64_t k = 0; k < 3; k++)
            sum += at_input(3 * j + 2 * k - 2) * w[k];
        assert_true(sum_taps(&taps, w, 3 * j) == sum);
    }
}

static void test_no_output_is_of_a_phase_beyond_the_last(void **state)
{
    assert_int_equal(demist_phase_outputs(2, 4, 1), 1);
    assert_int_equal(demist_phase_outputs(2, 4, 2), 0);
    assert_int_equal(demist_phase_outputs(2, 4, 3), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_phases_together_are_the_transposed_convolution),
        cmocka_unit_test(test_a_convolution_has_all_taps_for_every_output),
        cmocka_unit_test(test_no_output_is_of_a_phase_beyond_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
