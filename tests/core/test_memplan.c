#include "testing.h"

#include "memplan.h"

#include <stdbool.h>

static uint32_t draw(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u, *seed >> 8;
}

static int64_t round_up(int64_t bytes, int64_t align)
{
    return (bytes + align - 1) / align * align;
}

/* The most bytes live in one step: no plan can need less. */
static int64_t lower_bound(const struct dm_memblock *blocks, int n, int64_t align)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++) { /* live bytes only ever grow where a block begins */
        int64_t live = 0;
        for (int k = 0; k < n; k++)
            if (blocks[k].first <= blocks[i].first && blocks[i].first <= blocks[k].last)
                live += round_up(blocks[k].bytes, align);
        most = live > most ? live : most;
    }
    return most;
}

/* Plans, and holds every property of the plan against its definition. */
static int64_t plan_and_check(struct dm_memblock *blocks, int n, int64_t align)
{
    int64_t arena = -1;
    assert_int_equal(dm_plan_memory(blocks, n, align, &arena, NULL), DEMIST_OK);
    assert_true(arena % align == 0 && arena >= lower_bound(blocks, n, align));
    for (int i = 0; i < n; i++) {
        const struct dm_memblock *a = &blocks[i];
        assert_true(a->offset >= 0 && a->offset % align == 0 && a->offset + a->bytes <= arena);
        for (int k = 0; k < i; k++) {
            const struct dm_memblock *b = &blocks[k];
            bool together = a->first <= b->last && b->first <= a->last;
            bool apart = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
            assert_true(!together || apart || a->bytes == 0 || b->bytes == 0);
        }
    }
    return arena;
}

static void test_live_blocks_never_overlap(void **state)
{
    uint32_t seed = 7;
    for (int round = 0; round < 300; round++) {
        struct dm_memblock blocks[60];
        int n = (int)(draw(&seed) % 60) + 1;
        for (int i = 0; i < n; i++) {
            int32_t first = (int32_t)(draw(&seed) % 40) - 5;
            blocks[i] = (struct dm_memblock){.bytes = draw(&seed) % 5000,
                                             .first = first,
                                             .last = first + (int32_t)(draw(&seed) % 12),
                                             .offset = -1};
        }
        plan_and_check(blocks, n, (int64_t[]){1, 64, 256}[round % 3]);
    }
}

static void test_the_plan_depends_on_its_input_alone(void **state)
{
    struct dm_memblock a[50], b[50];
    uint32_t seed = 3;
    for (int i = 0; i < 50; i++) {
        a[i] = (struct dm_memblock){.bytes = 100 * (i % 4), .first = i, .last = i + i % 5};
        b[i] = a[i];
        b[i].offset = draw(&seed);
    }
    assert_true(plan_and_check(a, 50, 64) == plan_and_check(b, 50, 64));
    assert_memory_equal(a, b, sizeof a);
}

static void test_a_chain_needs_its_two_largest_neighbours(void **state)
{
    uint32_t seed = 11;
    struct dm_memblock blocks[200];
    for (int i = 0; i < 200; i++)
        blocks[i] =
            (struct dm_memblock){.bytes = (1 + draw(&seed) % 64) * 1024, .first = i, .last = i + 1};
    assert_true(plan_and_check(blocks, 200, 64) == lower_bound(blocks, 200, 64));
}

/* Down and up again with a skip at each level, as a U-Net's values live. */
static void test_a_unet_is_near_the_lower_bound(void **state)
{
    enum { LEVELS = 12, N = 4 * LEVELS };
    struct dm_memblock blocks[N];
    int n = 0;
    for (int level = 0; level < LEVELS; level++) {
        int64_t bytes = (int64_t)1 << (24 - level);
        int32_t down = 2 * level, up = 4 * LEVELS - 2 * level;
        blocks[n++] = (struct dm_memblock){.bytes = bytes, .first = down, .last = up};
        blocks[n++] = (struct dm_memblock){.bytes = bytes, .first = down + 1, .last = down + 2};
        blocks[n++] = (struct dm_memblock){.bytes = 2 * bytes, .first = up, .last = up + 1};
        blocks[n++] = (struct dm_memblock){.bytes = bytes, .first = up + 1, .last = up + 2};
    }
    int64_t arena = plan_and_check(blocks, n, 256), bound = lower_bound(blocks, n, 256);
    assert_true(arena <= bound + bound / 20);
}

static void test_empty_plans_need_nothing(void **state)
{
    struct dm_memblock blocks[] = {{.bytes = 0, .first = 0, .last = 9, .offset = 5},
                                   {.bytes = 0, .first = 0, .last = 9, .offset = 5}};
    assert_int_equal(plan_and_check(blocks, 2, 64), 0);
    assert_int_equal(blocks[0].offset, 0);
    assert_int_equal(plan_and_check(blocks, 0, 64), 0);
}

static void test_refuses_nonsense_by_index(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    int64_t arena;
    struct dm_memblock b[] = {{.bytes = 1}, {.bytes = -1}};
    assert_int_equal(dm_plan_memory(b, 2, 64, &arena, &err), DEMIST_INVALID);
    assert_contains(err.text, "block 1");
    b[1] = (struct dm_memblock){.bytes = 1, .first = 3, .last = 2};
    assert_int_equal(dm_plan_memory(b, 2, 64, &arena, &err), DEMIST_INVALID);
    assert_int_equal(dm_plan_memory(b, 1, 48, &arena, &err), DEMIST_INVALID);
    b[0].bytes = b[1].bytes = INT64_MAX / 2;
    b[1].first = 0;
    assert_int_equal(dm_plan_memory(b, 2, 64, &arena, &err), DEMIST_NO_MEMORY);
    dm_error_clear(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_live_blocks_never_overlap),
        cmocka_unit_test(test_the_plan_depends_on_its_input_alone),
        cmocka_unit_test(test_a_chain_needs_its_two_largest_neighbours),
        cmocka_unit_test(test_a_unet_is_near_the_lower_bound),
        cmocka_unit_test(test_empty_plans_need_nothing),
        cmocka_unit_test(test_refuses_nonsense_by_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
