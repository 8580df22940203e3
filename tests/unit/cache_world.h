/* What the suites about cache managers share: caches of a spec's text, and tokens in the tensors of
 * a batch, found by the formulas of docs/caches.md and nothing else. A token has a number, which is
 * all that is known of it: what its elements must be follows from that. */
#ifndef ATTN_TESTS_UNIT_CACHE_WORLD_H
#define ATTN_TESTS_UNIT_CACHE_WORLD_H

#include "attn/cache.h"
#include "dsl/base/memory.h"
#include "runtime/cache.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char message[2048];

static inline const char *error_of(attn_context *context)
{
  attn_context_error(context, message, sizeof(message));
  return message;
}

#define ASSERT_SAYS(text)                                                                          \
  ck_assert_msg(strstr(message, text) != NULL, "\"%s\" does not say \"%s\"", message, text)

/* What is asserted very often: Check's own assertions write down that they were passed. */
#define REQUIRE(condition)                                                                         \
  do {                                                                                             \
    if (!(condition))                                                                              \
      ck_abort_msg("%s", #condition);                                                              \
  } while (0)

struct world {
  attn_context *context;
  struct unit *unit;
  attn_cache *cache;
};

static inline struct unit *unit_of(const char *text)
{
  char error[1024] = "";
  const struct error_sink sink = {NULL, error, sizeof(error)};
  const struct unit_source source = {.name = "t.attn", .text = text, .length = strlen(text)};
  struct unit *unit;
  ck_assert_msg(unit_check(&source, &sink, &unit) == ATTN_OK, "%s", error);
  return unit;
}

static inline attn_status try_cache(struct world *w, const attn_cache_options *options)
{
  const struct error_sink sink = {w->context, message, sizeof(message)};
  w->cache = NULL;
  message[0] = '\0';
  return cache_create(w->context, w->unit, options, &sink, &w->cache);
}

/* With 2 K/V heads of 4 and 3 channels, and this cache statement. */
static inline void world_open(struct world *w, const char *device, const char *statement,
                              const attn_cache_options *options)
{
  char text[1024];
  attn_context_options context = ATTN_CONTEXT_OPTIONS_INIT;
  context.device = device;
  context.threads = 1;
  context.error = message;
  context.error_size = sizeof(message);
  ck_assert_msg(attn_context_create(&context, &w->context) == ATTN_OK, "%s", message);
  snprintf(text, sizeof(text),
           "attention t {\n  heads q = 4, kv = 2\n  dim qk = 4, v = 3\n  type f32\n"
           "  input tag : u8[B, NK] cached\n  mask tag[b, j] == tag[b, i]\n  %s\n}\n",
           statement);
  w->unit = unit_of(text);
  ck_assert_msg(try_cache(w, options) == ATTN_OK, "%s", message);
}

static inline void world_close(struct world *w)
{
  attn_cache_free(w->cache);
  unit_release(w->unit);
  attn_context_free(w->context);
}

/* ---- tensors ---- */

struct view {
  const attn_cache *cache;
  attn_context *context;
  uint32_t layer;
  const attn_named_tensor *tensors;
  size_t count;
};

static inline struct view view_of(const struct world *w, const attn_cache_batch *batch,
                                  uint32_t layer)
{
  struct view view = {.cache = w->cache, .context = w->context, .layer = layer};
  REQUIRE(attn_cache_tensors(batch, layer, &view.tensors, &view.count) == ATTN_OK);
  return view;
}

static inline const DLTensor *find_tensor(const struct view *view, const char *name)
{
  for (size_t n = 0; n < view->count; n++) {
    if (strcmp(view->tensors[n].name, name) == 0)
      return view->tensors[n].tensor;
  }
  return NULL;
}

/* Writes or reads `bytes` in the context's memory. */
static inline void transfer(const struct view *view, void *there, void *here, size_t bytes,
                            bool write)
{
  if (attn_context_device(view->context).device_type == kDLCPU)
    memcpy(write ? there : here, write ? here : there, bytes);
  else if (write)
    REQUIRE(attn_memory_upload(view->context, there, here, bytes, NULL) == ATTN_OK);
  else
    REQUIRE(attn_memory_download(view->context, here, there, bytes, NULL) == ATTN_OK);
}

static inline int32_t table_entry(const struct view *view, const char *name, int64_t row,
                                  int64_t column)
{
  int32_t value;
  const DLTensor *t = find_tensor(view, name);
  REQUIRE(t != NULL);
  REQUIRE(row >= 0 && row < t->shape[0]);
  REQUIRE(t->ndim == 1 || (column >= 0 && column < t->shape[1]));
  int32_t *data = (int32_t *)t->data + row * t->strides[0];
  transfer(view, data + (t->ndim == 1 ? 0 : column * t->strides[1]), &value, sizeof(value), false);
  return value;
}

/* Where the token of that rank lies: docs/caches.md, "Where position j is". */
static inline void find_slot(const struct view *view, int64_t row, int64_t rank, int64_t *block,
                             int64_t *slot)
{
  const struct spec_cache *spec = &view->cache->plan->spec->cache;
  *block = row;
  *slot = rank;
  if (spec->layout == CACHE_PAGED) {
    *block = table_entry(view, "page_table", row, rank / spec->page);
    *slot = rank % spec->page;
  } else if (spec->layout == CACHE_RING && rank >= spec->sinks) {
    *slot = spec->sinks + (rank - spec->sinks) % spec->capacity;
  }
}

/* ---- tokens ---- */

static inline uint32_t element(uint32_t token, uint32_t layer, uint32_t tensor, uint32_t n)
{
  uint32_t x = token * 0x9e3779b1u + layer * 0x85ebca6bu + tensor * 0xc2b2ae35u + n * 0x27d4eb2fu;
  x ^= x >> 15;
  x *= 0x2c1b3c6du;
  return x ^ x >> 13;
}

/* Writes, or compares, all that a tensor has of a token. */
static inline bool touch(const struct view *view, uint32_t n, int64_t block, int64_t slot,
                         uint32_t token, bool write)
{
  const DLTensor *t = view->tensors[n].tensor;
  const size_t size = t->dtype.bits / 8u;
  int64_t inner = 1;
  for (int d = 2; d < t->ndim; d++)
    inner *= t->shape[d];
  REQUIRE(block >= 0 && block < t->shape[0] && slot >= 0 && slot < t->shape[1]);
  for (int64_t m = 0; m < inner; m++) {
    int64_t at = block * t->strides[0] + slot * t->strides[1], rest = m;
    for (int d = t->ndim - 1; d >= 2; d--) {
      at += rest % t->shape[d] * t->strides[d];
      rest /= t->shape[d];
    }
    uint32_t expected = element(token, view->layer, n, (uint32_t)m), found = 0;
    unsigned char *there = (unsigned char *)t->data + (size_t)at * size;
    transfer(view, there, write ? &expected : &found, size, write);
    if (!write && memcmp(&expected, &found, size) != 0)
      return false;
  }
  return true;
}

/* All that a layer has of a token. `recent`: whether it is among those that a residual holds, which
 * then is all that is compared of k and v. */
static inline bool touch_token(const struct view *view, int64_t row, int64_t rank, uint32_t token,
                               bool recent, bool write)
{
  bool same = true;
  int64_t block, slot;
  find_slot(view, row, rank, &block, &slot);
  for (uint32_t n = 0; n < view->count; n++) {
    const char *name = view->tensors[n].name;
    const DLTensor *t = view->tensors[n].tensor;
    if (strstr(name, ".recent") != NULL) {
      if (write || recent)
        same = touch(view, n, row, rank % t->shape[1], token, write) && same;
    } else if (strcmp(name, "lengths") != 0 && strcmp(name, "seen") != 0 &&
               strcmp(name, "page_table") != 0 && strcmp(name, "positions") != 0) {
      same = touch(view, n, block, slot, token, write) && same;
    }
  }
  return same;
}

/* Where the stored position of a token is. */
static inline int32_t *position_of(const struct view *view, int64_t row, int64_t rank)
{
  int64_t block, slot;
  find_slot(view, row, rank, &block, &slot);
  const DLTensor *t = find_tensor(view, "positions");
  return (int32_t *)t->data + block * t->strides[0] + slot * t->strides[1];
}

static inline int32_t stored_position(const struct view *view, int64_t row, int64_t rank)
{
  int32_t value;
  transfer(view, position_of(view, row, rank), &value, sizeof(value), false);
  return value;
}

static inline void store_position(const struct view *view, int64_t row, int64_t rank, int32_t value)
{
  transfer(view, position_of(view, row, rank), &value, sizeof(value), true);
}

/* ---- a cache of pages and one layer ---- */

static const char paged[] = "cache paged(page = 4), positions = stored";

static inline attn_cache_options options_with(uint32_t sequences, uint64_t tokens)
{
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  options.sequences = sequences;
  options.tokens = tokens;
  return options;
}

static inline void open_paged(struct world *w, uint32_t sequences, uint64_t tokens)
{
  const attn_cache_options options = options_with(sequences, tokens);
  world_open(w, "cpu", paged, &options);
}

static inline attn_sequence added(struct world *w)
{
  attn_sequence sequence;
  ck_assert_msg(attn_cache_add(w->cache, &sequence) == ATTN_OK, "%s", error_of(w->context));
  return sequence;
}

static inline attn_cache_batch *begun(struct world *w, attn_sequence sequence, uint32_t tokens)
{
  attn_cache_batch *batch;
  ck_assert_msg(attn_cache_begin(w->cache, &sequence, &tokens, 1, &batch) == ATTN_OK, "%s",
                error_of(w->context));
  return batch;
}

/* Appends tokens of the numbers from `first` on. */
static inline void append(struct world *w, attn_sequence sequence, uint32_t tokens, uint32_t first)
{
  uint64_t length;
  ck_assert_int_eq(attn_cache_length(w->cache, sequence, &length), ATTN_OK);
  attn_cache_batch *batch = begun(w, sequence, tokens);
  const struct view view = view_of(w, batch, 0);
  for (uint32_t n = 0; n < tokens; n++)
    touch_token(&view, 0, (int64_t)length + n, first + n, true, true);
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
}

static inline bool holds(struct world *w, attn_sequence sequence, const uint32_t *tokens,
                         uint32_t count)
{
  attn_cache_batch *batch;
  ck_assert_int_eq(attn_cache_begin(w->cache, &sequence, NULL, 1, &batch), ATTN_OK);
  const struct view view = view_of(w, batch, 0);
  bool same = table_entry(&view, "lengths", 0, 0) == (int32_t)count;
  for (uint32_t n = 0; n < count && same; n++)
    same = touch_token(&view, 0, n, tokens[n], true, false);
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
  return same;
}

#define REFUSED(w, call, text)                                                                     \
  do {                                                                                             \
    ck_assert_int_eq(call, ATTN_ERROR_ARGUMENT);                                                   \
    error_of((w)->context);                                                                        \
    ASSERT_SAYS(text);                                                                             \
  } while (0)

static inline int run_suite(Suite *suite)
{
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
