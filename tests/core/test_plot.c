#include "testing.h"

#include <math.h>

#include "plot.h"

static struct dm_text svg(const struct dm_drawing *drawing, const struct dm_png_text *texts, int n)
{
    struct dm_text out = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_drawing_svg(&out, drawing, texts, n, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return out;
}

static int occurrences(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)); text += strlen(word))
        n++;
    return n;
}

/* Every element is closed in order, attributes are quoted, entities are known. */
static void assert_well_formed(const char *text)
{
    char open[32][32];
    int depth = 0;
    assert_memory_equal(text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>", 38);
    for (text = strchr(text, '\n'); *text; text++) {
        if (*text == '&')
            assert_true(strncmp(text, "&amp;", 5) == 0 || strncmp(text, "&lt;", 4) == 0 ||
                        strncmp(text, "&gt;", 4) == 0 || strncmp(text, "&#13;", 5) == 0);
        assert_true((unsigned char)*text >= ' ' || *text == '\n' || *text == '\t');
        assert_int_not_equal(*text, '>'); /* those of tags are stepped over below */
        if (*text != '<')
            continue;
        const char *end = strchr(text, '>');
        assert_non_null(end);
        size_t name = strcspn(text + 1, " />");
        if (text[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_int_equal(strlen(open[depth]), end - text - 2);
            assert_memory_equal(open[depth], text + 2, strlen(open[depth]));
        } else if (end[-1] != '/') {
            assert_true(depth < 32 && name < 32);
            snprintf(open[depth++], 32, "%.*s", (int)name, text + 1);
        }
        int quotes = 0;
        for (const char *c = text; c < end; c++)
            quotes += *c == '"';
        assert_int_equal(quotes % 2, 0);
        text = end;
    }
    assert_int_equal(depth, 0);
}

/* Two points on their way from y = 1 to y = 0. */
static const float states[3][2][2] = {
    {{-1, 1}, {1, 1}}, {{-1, 0.5F}, {1, 0.5F}}, {{-1, 0}, {1, 0}}};
static const double times[3] = {0.95, 0.5, 0};

static struct dm_point_plot two_points(void)
{
    return (struct dm_point_plot){"Title", &states[0][0][0], times, 3, 2, true, true, 0};
}

static void test_points_show_start_end_and_every_path(void **state)
{
    struct dm_drawing drawing = DM_DRAWING_INIT;
    struct dm_point_plot plot = two_points();
    assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
    struct dm_text out = svg(&drawing, NULL, 0);
    assert_well_formed(out.data);
    assert_int_equal(occurrences(out.data, "<circle"), 2 + 2 + 2); /* two in the legend */
    assert_contains(out.data, ">Title<");
    assert_contains(out.data, ">start (t = 0.95)<");
    assert_contains(out.data, ">end (t = 0)<");
    assert_contains(out.data, ">paths of 2 points in 2 steps<");
    assert_contains(out.data, ">\xE2\x88\x92"
                              "1<");    /* ticks */
    assert_contains(out.data, ">0.6<"); /* not 0.6000000000000001 */
    dm_text_finish(&out);
    dm_drawing_finish(&drawing);

    plot.max_paths = 1;
    assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
    out = svg(&drawing, NULL, 0);
    assert_contains(out.data, ">paths of the first 1 of 2 points<");
    dm_text_finish(&out);
    dm_drawing_finish(&drawing);
}

/* The discs of the last state, in the order of the points. */
static void test_both_axes_have_one_scale(void **state)
{
    static const float square[4][2] = {{10, 10}, {12, 10}, {12, 11}, {10, 11}};
    struct dm_drawing drawing = DM_DRAWING_INIT;
    struct dm_point_plot plot = {.states = &square[0][0], .n_states = 1, .n_points = 4};
    assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
    struct dm_xy at[4];
    int n = 0;
    for (size_t i = 0; i < drawing.n_shapes && n < 4; i++)
        if (drawing.shapes[i].kind == DM_SHAPE_DISC)
            at[n++] = drawing.points[drawing.shapes[i].first];
    assert_int_equal(n, 4);
    float dx = at[1].x - at[0].x, dy = at[1].y - at[2].y;
    assert_true(dx > 100 && fabsf(dx - 2 * dy) < 0.01F);
    assert_true(at[3].y < at[0].y && at[3].x == at[0].x);
    dm_drawing_finish(&drawing);
}

static void test_awkward_ranges_are_drawn_inside_the_page(void **state)
{
    static const float sets[][2][2] = {
        {{0, 0}, {0, 0}},          {{5, 5}, {5, 5}},
        {{1e30F, 0}, {-1e30F, 0}}, {{1e-30F, 0}, {0, 0}},
        {{1e9F, 1}, {1e9F, 1}},    {{-3e38F, 3e38F}, {3e38F, -3e38F}},
        {{-3, -3.2F}, {3, 3.2F}},  {{16777216, 0}, {16777218, 0}},
        {{0, 1}, {1e-6F, 1e6F}},
    };
    for (size_t k = 0; k < sizeof sets / sizeof sets[0]; k++) {
        struct dm_drawing drawing = DM_DRAWING_INIT;
        struct dm_point_plot plot = {
            .states = &sets[k][0][0], .n_states = 2, .n_points = 1, .paths = true, .start = true};
        assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
        assert_true(drawing.width <= 1000 && drawing.height <= 1000);
        for (size_t i = 0; i < drawing.n_points; i++) {
            struct dm_xy p = drawing.points[i];
            assert_true(p.x >= 0 && p.x <= (float)drawing.width);
            assert_true(p.y >= 0 && p.y <= (float)drawing.height);
        }
        for (size_t i = 0; i < drawing.n_shapes; i++) { /* labels: 0.5 of the font's size a byte */
            const struct dm_shape *shape = &drawing.shapes[i];
            if (shape->kind == DM_SHAPE_TEXT && shape->anchor == DM_ANCHOR_END)
                assert_true(drawing.points[shape->first].x >=
                            0.5F * shape->size * (float)strlen(drawing.texts.data + shape->text));
        }
        struct dm_text out = svg(&drawing, NULL, 0);
        assert_well_formed(out.data);
        dm_text_finish(&out);
        dm_drawing_finish(&drawing);
    }
}

static void test_refuses_points_that_are_not_finite(void **state)
{
    float bad[2][2][2] = {{{0, 0}, {0, 0}}, {{0, 0}, {0, NAN}}};
    struct dm_point_plot plot = {.states = &bad[0][0][0], .n_states = 2, .n_points = 2};
    struct dm_drawing drawing = DM_DRAWING_INIT;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_plot_points(&drawing, &plot, &err), DEMIST_NUMERIC);
    assert_contains(err.text, "y of point 1 in state 1");
    plot.n_points = 0;
    assert_int_equal(dm_plot_points(&drawing, &plot, &err), DEMIST_INVALID);
    dm_error_clear(&err);
    dm_drawing_finish(&drawing);
}

static void test_texts_are_escaped_and_made_valid(void **state)
{
    struct dm_drawing drawing = DM_DRAWING_INIT;
    struct dm_point_plot plot = two_points();
    plot.title = "a<b> & \"c\"\x01 \xFF \xE2\x86\x92";
    assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
    struct dm_png_text texts[] = {{"demist", "[x]\nk = <&>\r\n\x02"}};
    struct dm_text out = svg(&drawing, texts, 1);
    assert_well_formed(out.data);
    assert_contains(out.data, ">a&lt;b&gt; &amp; \"c\"\xEF\xBF\xBD \xEF\xBF\xBD \xE2\x86\x92<");
    assert_contains(out.data, "<desc>demist: [x]\nk = &lt;&amp;&gt;&#13;\n \n</desc>");
    dm_text_finish(&out);
    struct dm_png_text bad = {"demist", "\xFF"};
    assert_int_equal(dm_drawing_svg(&out, &drawing, &bad, 1, NULL), DEMIST_INVALID);
    dm_drawing_finish(&drawing);
}

static void test_equal_plots_give_equal_svg(void **state)
{
    struct dm_text out[2];
    for (int k = 0; k < 2; k++) {
        struct dm_drawing drawing = DM_DRAWING_INIT;
        struct dm_point_plot plot = two_points();
        assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
        out[k] = svg(&drawing, NULL, 0);
        dm_drawing_finish(&drawing);
    }
    assert_string_equal(out[0].data, out[1].data);
    dm_text_finish(&out[0]);
    dm_text_finish(&out[1]);
}

static void test_coordinates_have_two_decimals_in_every_sign(void **state)
{
    struct dm_drawing drawing = {.width = 10, .height = 10};
    struct dm_xy points[] = {{-0.004F, -0.05F}, {1.999F, -12.5F}, {3.25F, 0}};
    dm_draw_lines(&drawing, points, 3, 1, (struct dm_rgba){1, 2, 255, 255});
    dm_draw_lines(&drawing, points, 1, 1, (struct dm_rgba){0}); /* not a line */
    struct dm_text out = svg(&drawing, NULL, 0);
    assert_contains(out.data, "stroke=\"#0102ff\" points=\"0,-0.05 2,-12.5 3.25,0\"/>");
    assert_int_equal(occurrences(out.data, "<polyline"), 1);
    dm_text_finish(&out);
    dm_drawing_finish(&drawing);
}

static void test_line_charts_have_names_gaps_and_round_ticks(void **state)
{
    double x[] = {0, 1000, 2000, 3000, 4000, 5000}, y[] = {1, 0.1, NAN, 0.01, 0, 0.001};
    struct dm_series series[] = {{"train", x, y, 6}, {"one", x, y, 1}};
    struct dm_line_plot plot = {"Loss", "step", "loss", series, 2, true};
    struct dm_drawing drawing = DM_DRAWING_INIT;
    assert_int_equal(dm_plot_lines(&drawing, &plot, NULL), DEMIST_OK);
    struct dm_text out = svg(&drawing, NULL, 0);
    assert_well_formed(out.data);
    /* log: 0.01 and 0.001 stand alone, and so does the second series */
    assert_int_equal(occurrences(out.data, "<circle"), 3);
    const char *words[] = {">train<", ">step<", ">loss<", ">0.01<", ">0.1<", ">1<", ">2000<"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        assert_contains(out.data, words[i]);
    dm_text_finish(&out);
    dm_drawing_finish(&drawing);

    plot.log_y = false;
    assert_int_equal(dm_plot_lines(&drawing, &plot, NULL), DEMIST_OK);
    out = svg(&drawing, NULL, 0);
    assert_int_equal(occurrences(out.data, "<circle"), 1);
    assert_contains(out.data, ">0.6<"); /* not 0.6000000000000001 */
    dm_text_finish(&out);
    dm_drawing_finish(&drawing);

    double none[] = {0, -1, NAN};
    struct dm_series nothing = {"n", x, none, 3};
    struct dm_error err = DM_ERROR_INIT;
    plot = (struct dm_line_plot){.series = &nothing, .n_series = 1, .log_y = true};
    assert_int_equal(dm_plot_lines(&drawing, &plot, &err), DEMIST_INVALID);
    assert_contains(err.text, "positive");
    dm_error_clear(&err);
    dm_drawing_finish(&drawing);
}

static void test_many_names_take_more_rows(void **state)
{
    double x[] = {0, 1}, y[] = {0, 1};
    struct dm_series series[12];
    for (int i = 0; i < 12; i++)
        series[i] = (struct dm_series){"a rather long name", x, y, 2};
    struct dm_line_plot plot = {.series = series, .n_series = 1};
    struct dm_drawing one = DM_DRAWING_INIT, many = DM_DRAWING_INIT;
    assert_int_equal(dm_plot_lines(&one, &plot, NULL), DEMIST_OK);
    plot.n_series = 12;
    assert_int_equal(dm_plot_lines(&many, &plot, NULL), DEMIST_OK);
    assert_true(many.height >= one.height + 60);
    for (size_t i = 0; i < many.n_points; i++)
        assert_true(many.points[i].x < 720);
    dm_drawing_finish(&one);
    dm_drawing_finish(&many);
}

#ifdef DM_HAVE_CAIRO

static void test_pixels_show_the_colours_and_are_deterministic(void **state)
{
    struct dm_text files[2] = {DM_TEXT_INIT, DM_TEXT_INIT};
    struct dm_png_text text = {DM_PNG_KEYWORD, "[sampler]\nuse = ddim\n"};
    for (int k = 0; k < 2; k++) {
        struct dm_drawing drawing = DM_DRAWING_INIT;
        struct dm_point_plot plot = two_points();
        assert_int_equal(dm_plot_points(&drawing, &plot, NULL), DEMIST_OK);
        struct dm_image image;
        assert_int_equal(dm_drawing_image(&image, &drawing, 2, NULL), DEMIST_OK);
        assert_int_equal(image.width, 2 * drawing.width);
        assert_int_equal(image.height, 2 * drawing.height);
        for (size_t i = 0; i < drawing.n_shapes; i++) {
            const struct dm_shape *shape = &drawing.shapes[i];
            if (shape->kind != DM_SHAPE_DISC)
                continue;
            struct dm_xy at = drawing.points[shape->first];
            const uint8_t *p =
                image.pixels + 3 * ((size_t)(2 * at.y) * (size_t)image.width + (size_t)(2 * at.x));
            const uint8_t expected[] = {shape->color.r, shape->color.g, shape->color.b};
            assert_memory_equal(p, expected, 3);
        }
        size_t dark = 0; /* letters */
        for (size_t i = 0; i < dm_image_size(&image); i += 3)
            dark += image.pixels[i] < 80 && image.pixels[i + 1] < 80 && image.pixels[i + 2] < 80;
        assert_true(dark > 500);
        assert_int_equal(dm_png_encode(&files[k], &image, &text, 1, NULL), DEMIST_OK);
        dm_image_finish(&image);
        dm_drawing_finish(&drawing);
    }
    assert_int_equal(files[0].size, files[1].size);
    assert_memory_equal(files[0].data, files[1].data, files[0].size);
    dm_text_finish(&files[0]);
    dm_text_finish(&files[1]);
}

static void test_refuses_scales_and_sizes_out_of_range(void **state)
{
    struct dm_drawing drawing = {.width = 10, .height = 10};
    struct dm_image image;
    assert_int_equal(dm_drawing_image(&image, &drawing, 0, NULL), DEMIST_INVALID);
    assert_int_equal(dm_drawing_image(&image, &drawing, 5, NULL), DEMIST_INVALID);
    drawing.width = 8001;
    assert_int_equal(dm_drawing_image(&image, &drawing, 1, NULL), DEMIST_INVALID);
    assert_null(image.pixels);
}

#else

static void test_a_build_without_cairo_says_so(void **state)
{
    struct dm_drawing drawing = {.width = 10, .height = 10};
    struct dm_image image;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_drawing_image(&image, &drawing, 1, &err), DEMIST_UNSUPPORTED);
    assert_contains(err.text, "cairo");
    dm_error_clear(&err);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points_show_start_end_and_every_path),
        cmocka_unit_test(test_both_axes_have_one_scale),
        cmocka_unit_test(test_awkward_ranges_are_drawn_inside_the_page),
        cmocka_unit_test(test_refuses_points_that_are_not_finite),
        cmocka_unit_test(test_texts_are_escaped_and_made_valid),
        cmocka_unit_test(test_equal_plots_give_equal_svg),
        cmocka_unit_test(test_coordinates_have_two_decimals_in_every_sign),
        cmocka_unit_test(test_line_charts_have_names_gaps_and_round_ticks),
        cmocka_unit_test(test_many_names_take_more_rows),
#ifdef DM_HAVE_CAIRO
        cmocka_unit_test(test_pixels_show_the_colours_and_are_deterministic),
        cmocka_unit_test(test_refuses_scales_and_sizes_out_of_range),
#else
        cmocka_unit_test(test_a_build_without_cairo_says_so),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
