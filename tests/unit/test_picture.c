/* Pictures: drawing, letters, PNG files, bar charts, masks and weights as panels. */
#include <check.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/chart.h"
#include "runtime/attnc/show_picture.h"

static bool same(struct color a, struct color b)
{
  return a.red == b.red && a.green == b.green && a.blue == b.blue;
}

static int count_dots(const struct picture *picture, struct color color)
{
  int count = 0;
  for (int y = 0; y < picture->height; y++)
    for (int x = 0; x < picture->width; x++)
      count += same(picture_get(picture, x, y), color);
  return count;
}

static const uint32_t red = 0xc00000, white = 0xffffff;

START_TEST(sides_have_limits)
{
  struct picture picture;
  ck_assert(!picture_init(&picture, 0, 4));
  ck_assert(!picture_init(&picture, 4, PICTURE_MAX_SIDE + 1));
  ck_assert_ptr_null(picture.dots);
  mem_fail_at(1);
  ck_assert(!picture_init(&picture, 4, 4));
  mem_fail_at(0);
  ck_assert(picture_init(&picture, 4, 3));
  ck_assert_int_eq(count_dots(&picture, COLOR(white)), 12);
  picture_free(&picture);
  ck_assert_int_eq(mem_live_count(), 0);
}
END_TEST

START_TEST(what_lies_outside_is_cut_off)
{
  struct picture picture;
  ck_assert(picture_init(&picture, 8, 6));
  picture_fill(&picture, -3, -3, 5, 5, COLOR(red));
  ck_assert_int_eq(count_dots(&picture, COLOR(red)), 4);
  picture_frame(&picture, 4, 2, 100, 100, COLOR(red));
  ck_assert_int_eq(count_dots(&picture, COLOR(red)), 4 + 4 + 3);
  picture_text(&picture, -20, 3, 3, ANCHOR_LEFT, COLOR(red), "outside");
  picture_text_up(&picture, 6, 200, 3, COLOR(red), "outside");
  ck_assert(same(picture_get(&picture, -1, 0), COLOR(white)));
  picture_free(&picture);
}
END_TEST

START_TEST(letters_are_there_and_differ)
{
  bool cells[PICTURE_LETTERS][PICTURE_CELL_HEIGHT][PICTURE_CELL_WIDTH] = {{{false}}};
  for (int n = 0; n < PICTURE_LETTERS; n++) {
    int set = 0;
    for (int y = 0; y < PICTURE_CELL_HEIGHT; y++) {
      for (int x = 0; x < PICTURE_CELL_WIDTH; x++) {
        cells[n][y][x] = picture_letter_dot((char)(' ' + n), x, y);
        set += cells[n][y][x];
      }
      ck_assert(!cells[n][y][PICTURE_CELL_WIDTH - 1]); /* the gap between letters */
    }
    ck_assert_msg(n == 0 ? set == 0 : set > 1, "letter '%c'", ' ' + n);
    for (int other = 0; other < n; other++)
      ck_assert_msg(memcmp(cells[n], cells[other], sizeof(cells[n])) != 0, "'%c' and '%c'", ' ' + n,
                    ' ' + other);
  }
  ck_assert(picture_letter_dot('p', 0, 8)); /* hangs below the line */
  ck_assert(!picture_letter_dot('b', 0, 8));
  for (int y = 0; y < PICTURE_CELL_HEIGHT; y++)
    for (int x = 0; x < PICTURE_CELL_WIDTH; x++)
      ck_assert_int_eq(picture_letter_dot('\xc3', x, y), picture_letter_dot('?', x, y));
}
END_TEST

START_TEST(text_is_anchored)
{
  struct picture picture;
  ck_assert_int_eq(picture_text_width("", 2), 0);
  ck_assert_int_eq(picture_text_width("HI", 2), 22);
  ck_assert(picture_init(&picture, 80, 40));
  picture_text(&picture, 40, 10, 2, ANCHOR_RIGHT, COLOR(red), "HH");
  ck_assert(same(picture_get(&picture, 38, 10), COLOR(red))); /* the last stroke ends at 40 */
  ck_assert(same(picture_get(&picture, 40, 10), COLOR(white)));
  ck_assert(same(picture_get(&picture, 18, 10), COLOR(red)));
  picture_text(&picture, 60, 10, 2, ANCHOR_MIDDLE, COLOR(red), "H");
  ck_assert(same(picture_get(&picture, 55, 10), COLOR(red)));
  ck_assert(same(picture_get(&picture, 63, 10), COLOR(red)));
  picture_free(&picture);
}
END_TEST

/* Upwards the same dots, turned by a quarter to the left. */
START_TEST(text_runs_upwards)
{
  struct picture across, up;
  ck_assert(picture_init(&across, 40, 40) && picture_init(&up, 40, 40));
  picture_text(&across, 0, 0, 1, ANCHOR_LEFT, COLOR(red), "Key");
  int height = picture_text_width("Key", 1);
  picture_text_up(&up, 0, 20, 1, COLOR(red), "Key");
  int bottom = 20 + height / 2;
  for (int y = 0; y < PICTURE_CELL_HEIGHT; y++)
    for (int x = 0; x < height; x++)
      ck_assert(same(picture_get(&across, x, y), picture_get(&up, y, bottom - 1 - x)));
  picture_free(&across);
  picture_free(&up);
}
END_TEST

static void fill_pattern(struct picture *picture)
{
  for (int y = 0; y < picture->height; y++)
    for (int x = 0; x < picture->width; x++)
      picture_fill(picture, x, y, 1, 1, COLOR((uint32_t)(x * 0x30507 + y * 0x10b01) & 0xffffff));
}

START_TEST(png_files_hold_every_dot)
{
  struct picture picture;
  unsigned char *data;
  size_t size;
  ck_assert(picture_init(&picture, 37, 23));
  fill_pattern(&picture);
  ck_assert(picture_png(&picture, &data, &size));
  png_image image = {.version = PNG_IMAGE_VERSION};
  ck_assert(png_image_begin_read_from_memory(&image, data, size) != 0);
  ck_assert_uint_eq(image.width, 37);
  ck_assert_uint_eq(image.height, 23);
  ck_assert_uint_eq(image.format, PNG_FORMAT_RGB);
  unsigned char read[37 * 23 * 3];
  ck_assert(png_image_finish_read(&image, NULL, read, 0, NULL) != 0);
  ck_assert_mem_eq(read, picture.dots, sizeof(read));
  mem_free(data);
  picture_free(&picture);
  ck_assert_int_eq(mem_live_count(), 0);
}
END_TEST

START_TEST(png_runs_out_of_memory_anywhere)
{
  struct picture picture;
  unsigned char *data;
  size_t size;
  ck_assert(picture_init(&picture, 300, 200));
  fill_pattern(&picture);
  int failures = 0;
  for (uint64_t n = 1;; n++) {
    int64_t before = mem_live_count();
    mem_fail_at(n);
    bool good = picture_png(&picture, &data, &size);
    mem_fail_at(0);
    if (good)
      break;
    failures++;
    ck_assert_ptr_null(data);
    ck_assert_uint_eq(size, 0);
    ck_assert_int_eq(mem_live_count(), before);
  }
  ck_assert_int_gt(failures, 4);
  mem_free(data);
  picture_free(&picture);
}
END_TEST

/* The dots in a colour along a row. */
static int bar_length(const struct picture *picture, int y, struct color color)
{
  int length = 0;
  for (int x = 0; x < picture->width; x++)
    length += same(picture_get(picture, x, y), color);
  return length;
}

START_TEST(bars_are_as_long_as_their_values)
{
  const char *names[] = {"one", "two", "none"};
  const char *labels[] = {"1", "2", "0"};
  const double values[] = {1, 2, 0}, shares[] = {0.5, 1, 0.25};
  const struct chart_panel panels[] = {{"largest is whole", values, labels, 0},
                                       {"of a limit", shares, labels, 2}};
  struct picture picture;
  ck_assert(chart_draw(&picture, "title", names, 3, panels, 2));
  int longest[2][3] = {{0}};
  const struct color colors[] = {COLOR(0x2166ac), COLOR(0xe08214)};
  for (int bar = 0; bar < 3; bar++)
    for (int panel = 0; panel < 2; panel++)
      longest[panel][bar] = bar_length(&picture, 84 + 34 * bar + 17, colors[panel]);
  ck_assert_int_eq(longest[0][0] * 2, longest[0][1]);
  ck_assert_int_eq(longest[0][2], 0);
  ck_assert_int_eq(longest[1][1], longest[0][1] / 2);
  ck_assert_int_eq(longest[1][2] * 4, longest[1][1]);
  picture_free(&picture);
  ck_assert_int_eq(mem_live_count(), 0);
}
END_TEST

START_TEST(cells_keep_the_shape_of_a_mask)
{
  ck_assert_int_eq(show_cells(10, 10, 512), 10);
  ck_assert_int_eq(show_cells(1024, 1024, 512), 512);
  ck_assert_int_eq(show_cells(256, 1024, 512), 128);
  ck_assert_int_eq(show_cells(1, 1 << 20, 512), 1);
  ck_assert_int_eq(show_cells(0, 7, 512), 0);
}
END_TEST

START_TEST(colors_say_class_and_weight)
{
  struct show_figure figure = {.weights = true, .limit = 4};
  ck_assert(same(show_weight_color(&figure, 0), COLOR(white)));
  struct color most = show_weight_color(&figure, 4), some = show_weight_color(&figure, 1);
  ck_assert_int_lt(most.red, some.red);
  struct color below = show_weight_color(&figure, -4);
  ck_assert_int_gt(below.blue, below.red);
  for (int class = 0; class < 3; class ++) {
    struct color hidden = show_mask_color((enum visibility_class) class, 0);
    struct color faint = show_mask_color((enum visibility_class) class, 0.001);
    ck_assert(!same(hidden, faint)); /* what little is visible shows */
  }
  struct color full = show_mask_color(VISIBILITY_FULL, 1);
  struct color partial = show_mask_color(VISIBILITY_PARTIAL, 1);
  ck_assert(full.blue > full.red && partial.red > partial.blue);
}
END_TEST

/* Every dot of a panel has the colour of its cell, but for the edges of tiles. */
START_TEST(panels_show_their_cells)
{
  double values[16];
  uint8_t classes[16];
  for (int n = 0; n < 16; n++) {
    values[n] = n % 4 <= n / 4;
    classes[n] = (uint8_t)(n % 4 / 2 < n / 8    ? VISIBILITY_FULL
                           : n % 4 / 2 == n / 8 ? VISIBILITY_PARTIAL
                                                : VISIBILITY_EMPTY);
  }
  struct show_panel panel = {.queries = 4,
                             .keys = 4,
                             .rows = 4,
                             .columns = 4,
                             .values = values,
                             .classes = classes,
                             .counts = {.empty = 1, .partial = 2, .full = 1}};
  const struct show_figure figure = {.title = "a mask",
                                     .subtitle = "of four",
                                     .panels = &panel,
                                     .count = 1,
                                     .side = 512,
                                     .tile = {2, 2}};
  struct picture picture;
  ck_assert(show_draw(&picture, &figure));
  const int cell = 512 / 4 * (512 / 4), swatch = 20 * 14;
  int full = count_dots(&picture, show_mask_color(VISIBILITY_FULL, 1)) - swatch;
  int hidden = count_dots(&picture, show_mask_color(VISIBILITY_PARTIAL, 0)) - swatch;
  int skipped = count_dots(&picture, show_mask_color(VISIBILITY_EMPTY, 0)) - swatch;
  ck_assert_int_le(abs(full - 4 * cell), 2 * 256);
  ck_assert_int_le(abs(hidden - 2 * cell), 3 * 256);
  ck_assert_int_le(abs(skipped - 4 * cell), 2 * 256);
  picture_free(&picture);
  ck_assert_int_eq(mem_live_count(), 0);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("picture");
  TCase *tests = tcase_create("picture");
  tcase_add_test(tests, sides_have_limits);
  tcase_add_test(tests, what_lies_outside_is_cut_off);
  tcase_add_test(tests, letters_are_there_and_differ);
  tcase_add_test(tests, text_is_anchored);
  tcase_add_test(tests, text_runs_upwards);
  tcase_add_test(tests, png_files_hold_every_dot);
  tcase_add_test(tests, png_runs_out_of_memory_anywhere);
  tcase_add_test(tests, bars_are_as_long_as_their_values);
  tcase_add_test(tests, cells_keep_the_shape_of_a_mask);
  tcase_add_test(tests, colors_say_class_and_weight);
  tcase_add_test(tests, panels_show_their_cells);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
