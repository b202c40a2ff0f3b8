/* demist/view.h, held against what its functions mean for every single element. */
#include "testing.h"

#include <demist/view.h>

enum { IMAGES = 3, MOST = 20000 };

static uint64_t random_state = 1;

static int64_t below(int64_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)(random_state >> 33) % n;
}

/* Entries of an axis in an execution of IMAGES images. */
static int64_t length(const demist_view *view, int32_t axis)
{
    return view->batched && axis == 0 ? IMAGES : view->shape[axis];
}

static int64_t all_elements(const demist_view *view)
{
    return demist_view_elements(view) * (view->batched ? IMAGES : 1);
}

/* Where the view's element number i in row-major order lies in the storage. */
static int64_t place(const demist_view *view, int64_t i)
{
    int64_t at = view->offset;
    for (int32_t axis = view->rank - 1; axis >= 0; axis--) {
        at += i % length(view, axis) * view->stride[axis];
        i /= length(view, axis);
    }
    return at;
}

static void assert_same_places(const demist_view *a, const demist_view *b)
{
    assert_int_equal(all_elements(a), all_elements(b));
    for (int64_t i = 0; i < all_elements(a); i++)
        assert_int_equal(place(a, i), place(b, i));
}

#define DENSE(batched, ...)                                                                        \
    demist_view_dense(7, batched, (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),   \
                      (int64_t[]){__VA_ARGS__})

/* A dense view of random shape with its axes in random order (the images' stays), sliced. */
static demist_view random_view(bool batched)
{
    int64_t shape[DEMIST_MAX_RANK];
    const int32_t rank = (batched ? 1 : 0) + (int32_t)below(5), first = batched ? 1 : 0;
    for (int32_t i = 0; i < rank; i++)
        shape[i] = 1 + below(4);
    if (batched)
        shape[0] = DEMIST_BATCH;
    demist_view view = demist_view_dense(7, batched, rank, shape);
    for (int32_t i = first; i < rank && below(2); i++) {
        const int32_t k = i + (int32_t)below(rank - i);
        const int64_t n = view.shape[i], step = view.stride[i];
        view.shape[i] = view.shape[k];
        view.stride[i] = view.stride[k];
        view.shape[k] = n;
        view.stride[k] = step;
    }
    if (rank > first && below(2)) {
        const int32_t axis = first + (int32_t)below(rank - first);
        if (view.shape[axis] > 1) {
            view.shape[axis]--;
            view.offset += view.stride[axis];
        }
    }
    return view;
}

/* --- layouts --- */

static void test_dense_views_count_through_their_storage(void **state)
{
    const demist_view view = DENSE(false, 2, 3, 4), batch = DENSE(true, DEMIST_BATCH, 3, 4);
    assert_int_equal(view.storage, 7);
    assert_int_equal(demist_view_elements(&view), 24);
    assert_int_equal(demist_view_elements(&batch), 12);
    for (int64_t i = 0; i < 24; i++)
        assert_int_equal(place(&view, i), i);
    for (int64_t i = 0; i < 12 * IMAGES; i++)
        assert_int_equal(place(&batch, i), i);
    assert_true(demist_view_is_dense(&view));
    assert_true(demist_view_is_dense(&batch));
    const demist_view number = demist_view_dense(0, false, 0, view.shape);
    assert_int_equal(demist_view_elements(&number), 1);
    assert_true(demist_view_is_dense(&number));
}

static void test_is_dense_says_whether_the_places_are_a_row(void **state)
{
    int dense = 0;
    for (int n = 0; n < 2000; n++) {
        const demist_view view = random_view(n % 2);
        bool row = true;
        for (int64_t i = 0; i < all_elements(&view); i++)
            row = row && place(&view, i) == view.offset + i;
        assert_int_equal(demist_view_is_dense(&view), row);
        dense += row;
    }
    assert_in_range(dense, 200, 1800);
}

static void test_lay_out_puts_axes_in_the_order_given(void **state)
{
    int32_t order[DEMIST_MAX_RANK];
    demist_view view = DENSE(true, DEMIST_BATCH, 3, 4, 5);
    demist_order_last(4, 1, order); /* N, H, W, C */
    assert_int_equal(demist_view_lay_out(&view, order), 60);
    const int64_t wanted[] = {60, 1, 15, 3};
    assert_memory_equal(view.stride, wanted, sizeof wanted);
    demist_order_rows(4, order);
    assert_int_equal(demist_view_lay_out(&view, order), 60);
    assert_true(demist_view_is_dense(&view));
}

static void test_order_like_gives_the_layout_of_the_view(void **state)
{
    for (int n = 0; n < 2000; n++) {
        int32_t order[DEMIST_MAX_RANK];
        const demist_view view = random_view(n % 2);
        assert_true(demist_order_like(&view, view.batched, order));
        demist_view copy = view;
        demist_view_lay_out(&copy, order);
        for (int32_t i = 0; i < view.rank; i++)
            for (int32_t k = 0; k < i; k++)
                if (view.shape[i] != 1 && view.shape[k] != 1)
                    assert_int_equal(copy.stride[i] < copy.stride[k],
                                     view.stride[i] < view.stride[k]);
    }
    int32_t order[DEMIST_MAX_RANK];
    demist_view repeated = DENSE(false, 2, 3);
    repeated.stride[1] = 0;
    assert_false(demist_order_like(&repeated, false, order));
}

/* --- the same elements otherwise --- */

static void test_broadcast_repeats_axes_of_one_entry(void **state)
{
    const demist_view row = DENSE(false, 3, 1), to = DENSE(true, DEMIST_BATCH, 2, 3, 4);
    const demist_view view = demist_view_broadcast(&row, &to);
    assert_int_equal(view.rank, 4);
    assert_true(view.batched);
    for (int64_t i = 0; i < all_elements(&to); i++)
        assert_int_equal(place(&view, i), i / 4 % 3);
    const demist_view batch = DENSE(true, DEMIST_BATCH, 1, 3, 1);
    const demist_view own = demist_view_broadcast(&batch, &to);
    for (int64_t i = 0; i < all_elements(&to); i++)
        assert_int_equal(place(&own, i), i / 24 * 3 + i / 4 % 3);
}

static void test_a_reshape_keeps_every_element_in_its_place(void **state)
{
    int done = 0, refused = 0;
    for (int n = 0; n < 5000; n++) {
        const demist_view view = random_view(n % 2);
        const int32_t first = view.batched ? 1 : 0;
        int64_t shape[DEMIST_MAX_RANK] = {view.batched ? DEMIST_BATCH : 0};
        int64_t left = demist_view_elements(&view);
        int32_t rank = first;
        while (left > 1 || below(3) == 0) { /* factors in random order */
            int64_t factor = 1 + below(left);
            while (left % factor != 0)
                factor--;
            if (rank == DEMIST_MAX_RANK - 1)
                factor = left;
            shape[rank++] = factor;
            left /= factor;
            if (rank == DEMIST_MAX_RANK)
                break;
        }
        demist_view out;
        if (demist_view_reshape(&view, rank, shape, &out)) {
            assert_int_equal(out.rank, rank);
            assert_memory_equal(out.shape, shape, sizeof *shape * (size_t)rank);
            assert_same_places(&view, &out);
            done++;
        } else {
            assert_false(demist_view_is_dense(&view));
            refused++;
        }
    }
    assert_true(done > 1000 && refused > 100);
}

static void test_a_reshape_across_a_transpose_is_refused(void **state)
{
    demist_view view = DENSE(false, 3, 4), out;
    view.shape[0] = 4;
    view.shape[1] = 3;
    view.stride[0] = 1;
    view.stride[1] = 4;
    assert_false(demist_view_reshape(&view, 1, (int64_t[]){12}, &out));
    assert_true(demist_view_reshape(&view, 3, (int64_t[]){2, 2, 3}, &out));
    assert_same_places(&view, &out);
}

static void test_nodes_that_move_nothing_are_views(void **state)
{
    const demist_view x = DENSE(true, DEMIST_BATCH, 6, 4);
    demist_node node = DEMIST_INIT(demist_node);
    demist_view out;
    node.rank = 3;

    node.op = DEMIST_OP_TRANSPOSE;
    memcpy(node.shape, (int64_t[]){DEMIST_BATCH, 4, 6}, 3 * sizeof(int64_t));
    memcpy(node.attrs.transpose.perm, (int32_t[]){0, 2, 1}, 3 * sizeof(int32_t));
    assert_true(demist_view_of_node(&node, &x, &out));
    for (int64_t i = 0; i < all_elements(&out); i++)
        assert_int_equal(place(&out, i), i / 24 * 24 + i % 6 * 4 + i / 6 % 4);

    node.op = DEMIST_OP_SLICE;
    memset(&node.attrs, 0, sizeof node.attrs);
    memcpy(node.shape, (int64_t[]){DEMIST_BATCH, 2, 4}, 3 * sizeof(int64_t));
    node.attrs.slice.axis = 1;
    node.attrs.slice.start = 1;
    node.attrs.slice.length = 2;
    node.attrs.slice.step = 3;
    assert_true(demist_view_of_node(&node, &x, &out));
    for (int64_t i = 0; i < all_elements(&out); i++)
        assert_int_equal(place(&out, i), i / 8 * 24 + (1 + i / 4 % 2 * 3) * 4 + i % 4);

    const demist_view row = DENSE(false, 4);
    node.op = DEMIST_OP_EXPAND;
    memcpy(node.shape, (int64_t[]){DEMIST_BATCH, 6, 4}, 3 * sizeof(int64_t));
    assert_true(demist_view_of_node(&node, &row, &out));
    assert_true(out.batched);
    for (int64_t i = 0; i < all_elements(&out); i++)
        assert_int_equal(place(&out, i), i % 4);

    node.op = DEMIST_OP_RESHAPE;
    memcpy(node.shape, (int64_t[]){DEMIST_BATCH, 3, 8}, 3 * sizeof(int64_t));
    assert_true(demist_view_of_node(&node, &x, &out));
    assert_same_places(&x, &out);
}

/* --- loops over several views --- */

/* Entries of the nest's axis in an execution of IMAGES images. */
static int64_t nest_length(const demist_nest *nest, int32_t axis)
{
    return nest->size[axis] * (nest->batched && axis == 0 ? IMAGES : 1);
}

/* Marks the places of view k that the nest leads to together with places of view 0. */
static void assert_nest_leads_everywhere(const demist_nest *nest, const demist_view *views)
{
    static int64_t met[MOST]; /* by place in view 0's storage: place in view 1's, plus one */
    memset(met, 0, sizeof met);
    int64_t total = 1;
    for (int32_t axis = 0; axis < nest->rank; axis++)
        total *= nest_length(nest, axis);
    assert_int_equal(total, all_elements(&views[0]));
    for (int64_t i = 0; i < total; i++) {
        int64_t rest = i, at[2] = {views[0].offset, views[1].offset};
        for (int32_t axis = nest->rank - 1; axis >= 0; axis--) {
            for (int k = 0; k < 2; k++)
                at[k] += rest % nest_length(nest, axis) * nest->stride[k][axis];
            rest /= nest_length(nest, axis);
        }
        assert_in_range(at[0], 0, MOST - 1);
        assert_int_equal(met[at[0]], 0);
        met[at[0]] = at[1] + 1;
    }
    for (int64_t i = 0; i < total; i++)
        assert_int_equal(met[place(&views[0], i)], place(&views[1], i) + 1);
}

static void test_a_nest_leads_through_all_elements_of_its_views_together(void **state)
{
    for (int n = 0; n < 3000; n++) {
        const demist_view to = random_view(n % 2);
        demist_view from = random_view(n % 2), views[2];
        for (int32_t i = 0; i < from.rank; i++) /* of a shape that broadcasts */
            if (from.rank <= to.rank && !(from.batched && i == 0) && below(2))
                from.shape[i] = to.shape[i + to.rank - from.rank];
            else if (!(from.batched && i == 0))
                from.shape[i] = 1;
        if (from.rank > to.rank || (from.batched && from.rank != to.rank))
            continue;
        views[0] = to;
        views[1] = demist_view_broadcast(&from, &to);
        demist_nest nest;
        demist_nest_init(&nest, 2, views);
        assert_nest_leads_everywhere(&nest, views);
    }
}

static void test_a_nest_has_as_few_axes_as_will_do(void **state)
{
    demist_nest nest;
    const demist_view dense[] = {DENSE(true, DEMIST_BATCH, 3, 4, 5),
                                 DENSE(true, DEMIST_BATCH, 3, 4, 5)};
    demist_nest_init(&nest, 2, dense);
    assert_int_equal(nest.rank, 1);
    assert_true(nest.batched);
    assert_int_equal(nest.size[0], 60);
    assert_int_equal(nest.stride[1][0], 1);

    const demist_view channels = DENSE(false, 3, 1, 1);
    const demist_view biased[] = {dense[0], demist_view_broadcast(&channels, &dense[0])};
    demist_nest_init(&nest, 2, biased);
    assert_int_equal(nest.rank, 3); /* image, channel, pixel */
    assert_int_equal(nest.size[0], 1);
    assert_int_equal(nest.size[1], 3);
    assert_int_equal(nest.size[2], 20);
    assert_int_equal(nest.stride[1][0], 0);
    assert_int_equal(nest.stride[1][1], 1);
    assert_int_equal(nest.stride[1][2], 0);

    const demist_view number[] = {demist_view_dense(0, false, 0, dense[0].shape)};
    demist_nest_init(&nest, 1, number);
    assert_int_equal(nest.rank, 1);
    assert_int_equal(nest.size[0], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_views_count_through_their_storage),
        cmocka_unit_test(test_is_dense_says_whether_the_places_are_a_row),
        cmocka_unit_test(test_lay_out_puts_axes_in_the_order_given),
        cmocka_unit_test(test_order_like_gives_the_layout_of_the_view),
        cmocka_unit_test(test_broadcast_repeats_axes_of_one_entry),
        cmocka_unit_test(test_a_reshape_keeps_every_element_in_its_place),
        cmocka_unit_test(test_a_reshape_across_a_transpose_is_refused),
        cmocka_unit_test(test_nodes_that_move_nothing_are_views),
        cmocka_unit_test(test_a_nest_leads_through_all_elements_of_its_views_together),
        cmocka_unit_test(test_a_nest_has_as_few_axes_as_will_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
