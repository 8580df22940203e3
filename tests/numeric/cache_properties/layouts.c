/* Whatever a cache looks like, whatever the steps: the rows are those of one launch on contiguous
 * keys and values. */
#include "tests/numeric/cache_properties/model.h"

#include <stdio.h>
#include <string.h>

static const char *const computed[] = {
    "  mask causal\n  position rope(base = 100.0)\n",
    "  mask sliding(9)\n  position alibi\n",
    "  mask causal and (sinks(2) or sliding(16))\n  normalize softmax(plus = 1)\n",
    "  mask causal and (i - j < 33 or j < 3)\n  position rope(pairing = interleaved)\n"
    "  score 5 * tanh(s / 5)\n",
};

/* StreamingLLM counts ranks, which are positions until something is lost (4). */
static void write_cache(char *text, size_t size, bool rotated, struct draw *draw)
{
  static const int pages[] = {1, 2, 3, 5, 16, 32, 48};
  int used = 0;
  switch (pick(draw, 0, 4)) {
  case 0: used = snprintf(text, size, "  cache dense"); break;
  case 1:
  case 2: used = snprintf(text, size, "  cache paged(page = %d)", PICK_OF(draw, pages)); break;
  case 3: used = snprintf(text, size, "  cache ring(capacity = %d)", MOST_TOKENS); break;
  default:
    used = snprintf(text, size, "  cache ring(capacity = %d, sinks = %d)%s", MOST_TOKENS - 4,
                    (int)pick(draw, 0, 4),
                    !rotated ? ", positions = slot" : ", positions = slot, rope = read");
    return;
  }
  if (rotated && pick(draw, 0, 1) == 1)
    used += snprintf(text + used, size - (size_t)used, ", rope = read");
  if (pick(draw, 0, 4) == 0)
    snprintf(text + used, size - (size_t)used, ", positions = stored");
}

static attn_compile_options any_schedule(struct draw *draw)
{
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  static const uint32_t tasks[] = {0, 1, 7, 64, UINT32_MAX};
  static const uint32_t parts[] = {0, 1, 16, 40};
  if (pick(draw, 0, 1) == 0)
    return options;
  options.schedule.columns = 16;
  options.decode_tasks = PICK_OF(draw, tasks);
  options.decode_part = PICK_OF(draw, parts);
  return options;
}

static struct batch any_batch(struct draw *draw, int64_t most)
{
  struct batch whole = {.sequences = (int)pick(draw, 1, MOST_SEQUENCES)};
  for (int b = 0; b < whole.sequences; b++) {
    whole.stories[b] = b;
    whole.lengths[b] = pick(draw, 0, 5) == 0 ? pick(draw, 0, 2) : pick(draw, 1, most);
  }
  return whole;
}

/* Every other draw with a schedule that splits keys. */
START_TEST(layouts_agree)
{
  struct draw draw = draw_of("layouts", _i);
  static struct rows found, wanted;
  char cache[128], text[512];
  const char *statements = PICK_OF(&draw, computed);
  write_cache(cache, sizeof(cache), strstr(statements, "rope") != NULL, &draw);
  snprintf(text, sizeof(text), "%s%s\n", statements, cache);
  const attn_compile_options options = any_schedule(&draw);
  struct batch whole = any_batch(&draw, on_device() ? 30 : MOST_TOKENS - 1);
  whole.lengths[0] += whole.lengths[0] == 0;
  struct model m = model_open(text, &options);
  struct store s;
  store_open(&s, &m, whole.sequences, MOST_TOKENS, &draw);
  store_fill(&s, &m, &whole, &draw, &found);
  plain_rows(statements, any_element, &whole, &wanted);
  expect_rows(text, &found, &wanted);
  store_close(&s);
  model_close(&m);
}
END_TEST

/* With parts of one length the bits of a sequence's rows do not depend on the rest of a batch. */
START_TEST(batches_change_no_bit)
{
  struct draw draw = draw_of("batches", _i);
  static struct rows all, alone;
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.schedule.columns = 16;
  options.decode_tasks = UINT32_MAX;
  options.decode_part = 16;
  struct model m =
      model_open("  mask causal\n  position rope\n  cache paged(page = 8)\n", &options);
  struct batch whole = {.sequences = 3, .stories = {0, 1, 2}, .lengths = {129, 3, 40}};
  struct batch last = whole;
  struct store s;
  store_open(&s, &m, 3, MOST_TOKENS, &draw);
  store_set_lengths(&s, whole.lengths);
  memcpy(whole.rows, whole.lengths, sizeof(whole.rows));
  whole.packed = true;
  model_append(&m, s.named, s.info->cache_count, &whole);
  for (int b = 0; b < 3; b++)
    last.rows[b] = 1;
  memset(&all, 0, sizeof(all));
  model_attend(&m, s.named, s.info->cache_count, &last, &all);
  for (int b = 0; b < 3; b++) {
    int64_t lengths[3] = {0};
    struct batch one = last;
    memset(&alone, 0, sizeof(alone));
    memcpy(one.rows, lengths, sizeof(lengths));
    one.rows[b] = 1;
    one.packed = true;
    lengths[b] = whole.lengths[b];
    store_set_lengths(&s, lengths);
    model_attend(&m, s.named, s.info->cache_count, &one, &alone);
    ck_assert_mem_eq(alone.values[b][lengths[b] - 1], all.values[b][lengths[b] - 1],
                     sizeof(all.values[b][0]));
  }
  store_close(&s);
  model_close(&m);
}
END_TEST

void layouts_add(TCase *tests)
{
  tcase_add_loop_test(tests, layouts_agree, 0, draws(14, 5));
  tcase_add_loop_test(tests, batches_change_no_bit, 0, 2);
}
