/* Both attention kernels of the CUDA backend alone, on the emulated device, against softmax and
 * sums in float64: every size of heads that tensor cores have a kernel for and sizes between,
 * queries and keys that leave tiles incomplete, causal ones, heads that lie within rows of several;
 * what the tensor cores refuse. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

/* CMocka's header is C's alone. */
extern "C" {
#include "testing.h"
}

#include "cuda_bf16.h"
#include "cuda_emulator.h"
#include "cuda_fp16.h"
#include "cuda_kernels.h"

#define OK(call) assert_int_equal(cudaSuccess, (call))

namespace
{

struct shape {
    int images, heads, queries, keys, depth, columns;
    bool causal;
    float large; /* of logits, about */
};

const shape shapes[] = {
    {1, 1, 1, 1, 8, 8, false, 1},       {1, 2, 17, 70, 32, 32, false, 1},
    {2, 1, 66, 131, 64, 64, false, 1},  {1, 1, 40, 40, 40, 72, true, 1},
    {1, 2, 20, 65, 96, 96, false, 1},   {1, 1, 33, 90, 128, 128, true, 4},
    {1, 1, 34, 50, 256, 256, false, 1}, {1, 1, 70, 129, 16, 16, true, 30},
    {1, 1, 16, 33, 24, 136, false, 1},
};

/* From -1 to 1 */
float number_at(size_t i)
{
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return static_cast<float>(static_cast<int32_t>(x)) * 0x1p-31f;
}

size_t bytes_of(int type)
{
    return type == CU_F32 ? 4 : 2;
}

float from_bits(uint16_t bits, int type)
{
    return type == CU_F16 ? __half2float({bits}) : __bfloat162float({bits});
}

/* Numbers on the device, and what they are there. */
struct numbers {
    std::vector<float> host;
    void *device;

    numbers(size_t n, int type, size_t seed, float unit) : host(n), device(nullptr)
    {
        std::vector<unsigned char> bytes(n * bytes_of(type));
        for (size_t i = 0; i < n; i++) {
            host[i] = unit * number_at(seed + i);
            const uint16_t half =
                type == CU_F16 ? __float2half_rn(host[i]).bits : __float2bfloat16_rn(host[i]).bits;
            if (type != CU_F32)
                host[i] = from_bits(half, type);
            if (type == CU_F32)
                memcpy(&bytes[4 * i], &host[i], 4);
            else
                memcpy(&bytes[2 * i], &half, 2);
        }
        OK(cudaMalloc(&device, bytes.size()));
        OK(cudaMemcpy(device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
    }
    ~numbers()
    {
        cudaFree(device);
    }
    numbers(const numbers &) = delete;
};

/* As a U-Net has them: rows of pixels, in each of them the heads, in each of these q, k and v. */
struct problem {
    const shape s;
    numbers q, k, v, y;
    cu_attention a;

    static int64_t wide(int each)
    {
        return (each + 7) / 8 * 8;
    }
    static size_t elements(const shape &s, int rows, int each)
    {
        return static_cast<size_t>(s.images) * static_cast<size_t>(rows * s.heads) *
               static_cast<size_t>(wide(each));
    }
    void lay_out(int64_t (&stride)[3], int rows, int64_t each) const
    {
        stride[0] = rows * s.heads * each;
        stride[1] = each;
        stride[2] = s.heads * each;
    }
    problem(const shape &of, int type, int y_type)
        : s(of), q(elements(of, of.queries, of.depth), type, 1, sqrtf(of.large)),
          k(elements(of, of.keys, of.depth), type, 1000003, sqrtf(of.large)),
          v(elements(of, of.keys, of.columns), type, 2000003, 1),
          y(elements(of, of.queries, of.columns), y_type, 0, NAN), a()
    {
        a.q = q.device;
        a.k = k.device;
        a.v = v.device;
        a.y = y.device;
        a.q_type = a.k_type = a.v_type = type;
        a.y_type = y_type;
        a.z = s.images * s.heads;
        a.z_inner = s.heads;
        a.queries = s.queries;
        a.keys = s.keys;
        a.depth = s.depth;
        a.columns = s.columns;
        a.causal = s.causal;
        a.tf32 = type == CU_F32;
        a.scale = 3 / sqrtf(static_cast<float>(s.depth));
        lay_out(a.q_stride, s.queries, wide(s.depth));
        lay_out(a.k_stride, s.keys, wide(s.depth));
        lay_out(a.v_stride, s.keys, wide(s.columns));
        lay_out(a.y_stride, s.queries, wide(s.columns));
    }
};

std::vector<float> result_of(const problem &p, cudaError_t (*run)(cudaStream_t, const void *))
{
    const size_t n = p.y.host.size();
    std::vector<unsigned char> bytes(n * bytes_of(p.a.y_type));
    std::vector<float> y(n);
    OK(cudaMemset(p.y.device, 0xff, bytes.size()));
    OK(run(nullptr, &p.a));
    OK(cudaMemcpy(bytes.data(), p.y.device, bytes.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        if (p.a.y_type == CU_F32) {
            memcpy(&y[i], &bytes[4 * i], 4);
        } else {
            memcpy(&half, &bytes[2 * i], 2);
            y[i] = from_bits(half, p.a.y_type);
        }
    }
    return y;
}

size_t at(const int64_t (&stride)[3], int z0, int z1, int row)
{
    return static_cast<size_t>(z0 * stride[0] + z1 * stride[1] + row * stride[2]);
}

/* A row of results, [columns]. */
std::vector<double> exact(const problem &p, int z0, int z1, int l)
{
    const shape &s = p.s;
    const int keys = s.causal ? (l + 1 < s.keys ? l + 1 : s.keys) : s.keys;
    std::vector<double> w(static_cast<size_t>(keys)), y(static_cast<size_t>(s.columns));
    const float *q = &p.q.host[at(p.a.q_stride, z0, z1, l)];
    double most = -INFINITY, total = 0;
    for (int m = 0; m < keys; m++) {
        const float *k = &p.k.host[at(p.a.k_stride, z0, z1, m)];
        double sum = 0;
        for (int d = 0; d < s.depth; d++)
            sum += static_cast<double>(q[d]) * static_cast<double>(k[d]);
        w[static_cast<size_t>(m)] = static_cast<double>(p.a.scale) * sum;
        most = fmax(most, w[static_cast<size_t>(m)]);
    }
    for (double &x : w)
        total += x = exp(x - most);
    for (int m = 0; m < keys; m++)
        for (int e = 0; e < s.columns; e++)
            y[static_cast<size_t>(e)] +=
                w[static_cast<size_t>(m)] / total *
                static_cast<double>(p.v.host[at(p.a.v_stride, z0, z1, m) + static_cast<size_t>(e)]);
    return y;
}

/* Off by as much as rounding the factors may do: weights sum to 1, values are at most 1. */
void check(const shape &s, int type, int y_type, cudaError_t (*run)(cudaStream_t, const void *),
           double bound)
{
    const problem p(s, type, y_type);
    const std::vector<float> y = result_of(p, run);
    for (int z0 = 0; z0 < s.images; z0++)
        for (int z1 = 0; z1 < s.heads; z1++)
            for (int l = 0; l < s.queries; l++) {
                const std::vector<double> wanted = exact(p, z0, z1, l);
                for (int e = 0; e < s.columns; e++) {
                    const double got = static_cast<double>(
                        y[at(p.a.y_stride, z0, z1, l) + static_cast<size_t>(e)]);
                    const double right = wanted[static_cast<size_t>(e)];
                    if (!(fabs(got - right) <= bound))
                        fail_msg("%d queries, %d keys, heads of %d and %d, type %d: "
                                 "y[%d][%d][%d][%d] = %.9g, not %.9g",
                                 s.queries, s.keys, s.depth, s.columns, type, z0, z1, l, e, got,
                                 right);
                }
            }
}

void test_every_size_of_heads_is_computed(void **)
{
    int64_t order = CUDA_EMULATOR_REVERSE;
    for (const shape &s : shapes) {
        cuda_emulator_set_order(order++);
        const double logits = static_cast<double>(s.large); /* that rounding has an effect on */
        check(s, CU_F16, CU_F16, cu_run_attention_mma, 1e-3);
        check(s, CU_BF16, CU_F32, cu_run_attention_mma, 4e-3);
        check(s, CU_F32, CU_F32, cu_run_attention_mma, 1.5e-3 * fmax(1, logits));
        check(s, CU_F32, CU_F32, cu_run_attention, 1e-5 * fmax(1, logits));
    }
    assert_string_equal(cuda_emulator_fault(), "");
}

/* A row's bits depend on nothing but its image and head. */
void test_an_image_has_the_same_bits_in_every_batch(void **)
{
    const shape one = {1, 2, 70, 70, 64, 64, false, 1}, three = {3, 2, 70, 70, 64, 64, false, 1};
    for (int type : {CU_F32, CU_F16}) {
        const problem alone(one, type, CU_F32), batch(three, type, CU_F32);
        const std::vector<float> a = result_of(alone, cu_run_attention_mma);
        const std::vector<float> b = result_of(batch, cu_run_attention_mma);
        assert_memory_equal(a.data(), b.data(), a.size() * sizeof a[0]);
    }
}

void test_tensor_cores_refuse_what_they_cannot(void **)
{
    const shape s = {1, 2, 8, 8, 64, 64, false, 1};
    for (int type : {CU_F32, CU_F16, CU_BF16}) {
        problem p(s, type, CU_F32);
        cu_attention &a = p.a;
        assert_true(cu_fits_attention_mma(&a, 80));
        assert_int_equal(type == CU_F16, cu_fits_attention_mma(&a, 75));
        for (int64_t *stride : {&a.q_stride[0], &a.k_stride[1], &a.v_stride[2]}) {
            *stride += 2;
            assert_false(cu_fits_attention_mma(&a, 80));
            *stride -= 2;
        }
        a.y_stride[2]++;
        assert_false(cu_fits_attention_mma(&a, 80));
        a.y_stride[2]--;
        for (int32_t *size : {&a.depth, &a.columns})
            for (int other : {62, 264}) {
                *size = other;
                assert_false(cu_fits_attention_mma(&a, 80));
                *size = s.depth;
            }
        a.v_type = type == CU_F32 ? CU_F16 : CU_F32;
        assert_false(cu_fits_attention_mma(&a, 80));
        a.v_type = type;
        a.k = static_cast<const char *>(a.k) + 8;
        assert_false(cu_fits_attention_mma(&a, 80));
        a.k = p.k.device;
        a.tf32 = 0;
        assert_int_equal(type != CU_F32, cu_fits_attention_mma(&a, 80));
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_size_of_heads_is_computed),
        cmocka_unit_test(test_an_image_has_the_same_bits_in_every_batch),
        cmocka_unit_test(test_tensor_cores_refuse_what_they_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
