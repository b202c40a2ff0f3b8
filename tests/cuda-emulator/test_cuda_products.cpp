/* Every product kernel of the CUDA backend alone, on the emulated device, against sums in float64:
 * shapes that leave tiles, steps and chunks incomplete, convolutions with borders and strides,
 * operands behind the sum. Factors are such that rounding them changes nothing. */
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
    const char *name;
    int images, height, width, stride, kernel, depth, columns, z;
};

/* Of the grid of results; padding is kernel / 2. */
const shape shapes[] = {
    {"one place", 1, 1, 1, 1, 1, 8, 1, 1},
    {"a row of matrices", 1, 1, 40, 1, 1, 24, 20, 3},
    {"more than a tile", 1, 1, 150, 1, 1, 72, 136, 1},
    {"3 x 3, a border all around", 2, 5, 7, 1, 3, 16, 40, 1},
    {"3 x 3, several steps a tap", 1, 9, 8, 1, 3, 48, 70, 1},
    {"3 x 3 of stride 2", 3, 4, 5, 2, 3, 32, 33, 1},
    {"a long sum", 1, 4, 4, 1, 3, 264, 24, 1},
    {"groups", 2, 3, 3, 1, 3, 8, 8, 4},
    {"many columns", 1, 2, 3, 1, 1, 8, 300, 1},
    {"odd channels", 2, 3, 4, 1, 3, 3, 5, 1},
    {"rows of several tiles", 2, 13, 11, 1, 3, 8, 136, 1},
};

/* Whole numbers from -4 to 4: exact in every type, as are their sums. */
int number_at(size_t i)
{
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u;
    x ^= x >> 15;
    x *= 2246822519u;
    return static_cast<int>(x >> 20) % 9 - 4;
}

size_t bytes_of(int type)
{
    return type == CU_F32 ? 4 : 2;
}

/* A device's buffer of n such numbers, from `seed` on, times `unit`. */
void *numbers(size_t n, int type, size_t seed, float unit)
{
    std::vector<unsigned char> host(n * bytes_of(type));
    void *device;
    for (size_t i = 0; i < n; i++) {
        const float x = static_cast<float>(number_at(seed + i)) * unit;
        const uint16_t half =
            type == CU_F16 ? __float2half_rn(x).bits : __float2bfloat16_rn(x).bits;
        if (type == CU_F32)
            memcpy(&host[4 * i], &x, 4);
        else
            memcpy(&host[2 * i], &half, 2);
    }
    OK(cudaMalloc(&device, host.size()));
    OK(cudaMemcpy(device, host.data(), host.size(), cudaMemcpyHostToDevice));
    return device;
}

enum : size_t { SEED_A = 1, SEED_B = 100003, SEED_BIAS = 200003, SEED_SKIP = 300007 };

struct problem {
    shape s;
    int in_height, in_width, taps;
    cu_product p;
    std::vector<void *> owned;
};

/* b's rows are as long as the next multiple of 8 columns. */
int64_t row_of_b(const shape &s)
{
    return (s.columns + 7) / 8 * 8;
}

size_t rows_of(const shape &s)
{
    return static_cast<size_t>(s.images) * static_cast<size_t>(s.height * s.width);
}

void set_taps(problem &q)
{
    std::vector<int32_t> taps;
    for (int y = 0; y < q.s.kernel; y++)
        for (int x = 0; x < q.s.kernel; x++) {
            taps.push_back(y - q.s.kernel / 2);
            taps.push_back(x - q.s.kernel / 2);
        }
    void *device;
    OK(cudaMalloc(&device, taps.size() * sizeof taps[0]));
    OK(cudaMemcpy(device, taps.data(), taps.size() * sizeof taps[0], cudaMemcpyHostToDevice));
    q.owned.push_back(device);
    q.p.taps = static_cast<int32_t *>(device);
    q.p.n_taps = q.taps = static_cast<int>(taps.size() / 2);
}

/* out = max(sum + bias, 0) + skip, where `fused`; z counts groups of channels of one image. */
void set_code(problem &q)
{
    const shape &s = q.s;
    const int64_t wide = static_cast<int64_t>(s.columns) * s.z;
    cu_instruction code[3] = {};
    code[0].op = CU_ADD;
    code[0].from = CU_OPERAND;
    code[1].op = CU_RELU;
    code[2].op = CU_ADD;
    code[2].from = CU_OPERAND;
    code[2].index = 1;
    memcpy(q.p.after.code, code, sizeof code);
    q.p.after.n_code = 3;
    q.p.after.n_operands = 2;
    q.owned.push_back(numbers(static_cast<size_t>(wide), CU_F32, SEED_BIAS, 1));
    q.p.operand[0].at = q.owned.back();
    q.p.operand[0].type = CU_F32;
    q.p.operand[0].stride[3] = 1;
    q.owned.push_back(numbers(rows_of(s) * static_cast<size_t>(wide), CU_F16, SEED_SKIP, 1));
    q.p.operand[1].at = q.owned.back();
    q.p.operand[1].type = CU_F16;
    q.p.operand[1].stride[0] = s.height * s.width * wide;
    q.p.operand[1].stride[1] = s.width * wide;
    q.p.operand[1].stride[2] = wide;
    q.p.operand[1].stride[3] = 1;
}

/* a: [images][in_height][in_width][z][depth], b: [z][taps][depth][row], y: as a with columns. */
void begin(problem &q, const shape &s, int type, bool fused, float unit)
{
    q = {};
    q.s = s;
    q.in_height = s.height * s.stride;
    q.in_width = s.width * s.stride;
    cu_product &p = q.p;
    set_taps(q);
    const int64_t a_place = static_cast<int64_t>(s.depth) * s.z,
                  y_place = static_cast<int64_t>(s.columns) * s.z;
    p.a_type = p.b_type = type;
    p.y_type = CU_F32;
    p.tf32 = type == CU_F32;
    p.rows = static_cast<int32_t>(rows_of(s));
    p.columns = s.columns;
    p.depth = s.depth;
    p.height = s.height;
    p.width = s.width;
    p.in_height = q.in_height;
    p.in_width = q.in_width;
    p.stride[0] = p.stride[1] = s.stride;
    p.z = p.z_inner = s.z;
    p.a_stride[0] = q.in_height * q.in_width * a_place;
    p.a_stride[1] = q.in_width * a_place;
    p.a_stride[2] = a_place;
    p.y_stride[0] = s.height * s.width * y_place;
    p.y_stride[1] = s.width * y_place;
    p.y_stride[2] = y_place;
    p.b_row = row_of_b(s);
    p.a_z[1] = s.depth;
    p.b_z[1] = q.taps * s.depth * p.b_row;
    p.y_z[1] = s.columns;
    p.column_z = s.columns;
    q.owned.push_back(numbers(static_cast<size_t>(s.images * p.a_stride[0]), type, SEED_A, unit));
    p.a = q.owned.back();
    q.owned.push_back(numbers(static_cast<size_t>(s.z * p.b_z[1]), type, SEED_B, unit));
    p.b = q.owned.back();
    if (fused)
        set_code(q);
    void *y;
    OK(cudaMalloc(&y, rows_of(s) * static_cast<size_t>(y_place) * 4));
    q.owned.push_back(y);
    p.y = y;
}

void end(problem &q)
{
    for (void *memory : q.owned)
        OK(cudaFree(memory));
}

int exact(const problem &q, int n, int i, int j, int z, int o, bool fused)
{
    const shape &s = q.s;
    const cu_product &p = q.p;
    int sum = 0;
    for (int t = 0; t < q.taps; t++) {
        const int h = i * s.stride + t / s.kernel - s.kernel / 2;
        const int w = j * s.stride + t % s.kernel - s.kernel / 2;
        if (h < 0 || h >= q.in_height || w < 0 || w >= q.in_width)
            continue;
        for (int k = 0; k < s.depth; k++) {
            const int64_t a =
                n * p.a_stride[0] + h * p.a_stride[1] + w * p.a_stride[2] + z * p.a_z[1] + k;
            const int64_t b = z * p.b_z[1] + (static_cast<int64_t>(t) * s.depth + k) * p.b_row + o;
            sum += number_at(SEED_A + static_cast<size_t>(a)) *
                   number_at(SEED_B + static_cast<size_t>(b));
        }
    }
    if (!fused)
        return sum;
    const int64_t at = z * s.columns + o;
    const int biased = sum + number_at(SEED_BIAS + static_cast<size_t>(at));
    const int64_t y = n * p.y_stride[0] + i * p.y_stride[1] + j * p.y_stride[2] + at;
    return (biased > 0 ? biased : 0) + number_at(SEED_SKIP + static_cast<size_t>(y));
}

/* A kernel may leave small products to others of its type; it computes what one of them can. */
bool can(const cu_product_kernel &kernel, cu_product p)
{
    const size_t type = strcspn(kernel.name, "_") + 1;
    bool fits = false;
    p.rows = 1 << 24;
    for (int k = 0; k < cu_n_product_kernels; k++)
        fits = fits || (strncmp(cu_product_kernels[k].name, kernel.name, type) == 0 &&
                        cu_product_kernels[k].fits(&p, 80));
    return fits;
}

std::vector<float> result_of(const problem &q, const cu_product_kernel &kernel)
{
    std::vector<float> y(rows_of(q.s) * static_cast<size_t>(q.s.columns * q.s.z));
    OK(cudaMemset(q.p.y, 0xff, y.size() * 4));
    OK(kernel.run(nullptr, &q.p));
    OK(cudaMemcpy(y.data(), q.p.y, y.size() * 4, cudaMemcpyDeviceToHost));
    return y;
}

/* Whether the kernel can, and then does. */
bool check(const cu_product_kernel &kernel, const shape &s, int type, bool fused)
{
    problem q;
    begin(q, s, type, fused, 1);
    const bool fits = can(kernel, q.p);
    if (fits) {
        const std::vector<float> y = result_of(q, kernel);
        size_t at = 0;
        for (int n = 0; n < s.images; n++)
            for (int i = 0; i < s.height; i++)
                for (int j = 0; j < s.width; j++)
                    for (int z = 0; z < s.z; z++)
                        for (int o = 0; o < s.columns; o++, at++)
                            if (y[at] != static_cast<float>(exact(q, n, i, j, z, o, fused)))
                                fail_msg("%s, %s: y[%d][%d,%d][%d][%d] = %g, not %d", kernel.name,
                                         s.name, n, i, j, z, o, static_cast<double>(y[at]),
                                         exact(q, n, i, j, z, o, fused));
    }
    end(q);
    return fits;
}

void test_every_kernel_computes_every_shape(void **)
{
    for (int k = 0; k < cu_n_product_kernels; k++) {
        int64_t order = CUDA_EMULATOR_REVERSE;
        int done = 0;
        for (const shape &s : shapes)
            for (int type : {CU_F32, CU_F16, CU_BF16}) {
                cuda_emulator_set_order(order++);
                done += check(cu_product_kernels[k], s, type, order % 2 == 0);
            }
        assert_true(done > 0);
    }
}

/* Sums are taken in one order, whatever the tile; `split` has another. */
void test_kernels_of_one_type_give_the_same_bits(void **)
{
    const shape s = {"long", 2, 9, 7, 1, 3, 112, 70, 1};
    int compared = 0;
    for (int type : {CU_F32, CU_F16, CU_BF16}) {
        problem q;
        std::vector<float> first[2]; /* of float32 and of narrow types */
        begin(q, s, type, false, 0.1f);
        for (int k = 0; k < cu_n_product_kernels; k++) {
            const cu_product_kernel &kernel = cu_product_kernels[k];
            const bool narrow =
                strncmp(kernel.name, "simt", 4) != 0 && strncmp(kernel.name, "f32", 3) != 0;
            if (!can(kernel, q.p) || strstr(kernel.name, "_split"))
                continue;
            const std::vector<float> y = result_of(q, kernel);
            if (first[narrow].empty())
                first[narrow] = y;
            else
                compared++;
            if (y != first[narrow])
                fail_msg("%s gives other bits", kernel.name);
        }
        end(q);
    }
    assert_int_equal(1 + 3 * 2, compared);
}

/* What each kernel needs, one lack at a time. */
void test_kernels_refuse_what_they_cannot(void **)
{
    const shape large = {"large", 1, 64, 64, 1, 3, 128, 128, 1};
    int tensor_cores = 0;
    for (int k = 0; k < cu_n_product_kernels; k++)
        for (int type : {CU_F32, CU_F16, CU_BF16}) {
            const cu_product_kernel &kernel = cu_product_kernels[k];
            cu_product p = {};
            p.a_type = p.b_type = type;
            p.tf32 = type == CU_F32;
            p.depth = large.depth;
            p.columns = large.columns;
            p.height = large.height;
            p.width = large.width;
            p.rows = large.height * large.width;
            p.z = p.z_inner = 1;
            p.b_row = large.columns;
            p.a_stride[2] = large.depth;
            if (!kernel.fits(&p, 80) || strncmp(kernel.name, "simt", 4) == 0 ||
                strncmp(kernel.name, "f32", 3) == 0)
                continue;
            tensor_cores++;
            assert_int_equal(type == CU_F16, kernel.fits(&p, 75));
            assert_false(kernel.fits(&p, 70));
            for (int64_t *stride : {&p.a_stride[2], &p.b_row, &p.a_z[0], &p.b_z[1]}) {
                *stride += 2;
                assert_false(kernel.fits(&p, 80));
                *stride -= 2;
            }
            p.depth += 2;
            assert_false(kernel.fits(&p, 80));
            p.depth -= 2;
            p.b_type = type == CU_F16 ? CU_BF16 : CU_F16;
            assert_false(kernel.fits(&p, 80));
            p.b_type = type;
            p.a = reinterpret_cast<const void *>(8);
            assert_false(kernel.fits(&p, 80));
        }
    assert_int_equal(9, tensor_cores);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kernel_computes_every_shape),
        cmocka_unit_test(test_kernels_of_one_type_give_the_same_bits),
        cmocka_unit_test(test_kernels_refuse_what_they_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
