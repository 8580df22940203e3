/* Caches of the library. */
#include "tests/numeric/cache_properties/model.h"

attn_cache *managed_open(const struct model *m, uint32_t sequences, uint32_t layers,
                         const uint32_t *producers)
{
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  attn_cache *cache;
  char error[512] = "";
  options.sequences = sequences;
  options.tokens = MOST_SEQUENCES * MOST_TOKENS;
  options.layers = layers;
  options.producers = producers;
  options.error = error;
  options.error_size = sizeof(error);
  ck_assert_msg(attn_cache_create(m->program, &options, &cache) == ATTN_OK, "%s", error);
  return cache;
}

void managed_ok(attn_status status)
{
  char error[512] = "";
  if (status != ATTN_OK)
    attn_context_error(shared_context(), error, sizeof(error));
  ck_assert_msg(status == ATTN_OK, "%s", error);
}

void managed_step(attn_cache *cache, const struct model *m, const attn_sequence *sequences,
                  const struct batch *batch, uint32_t layer, struct rows *rows)
{
  attn_cache_batch *open;
  const attn_named_tensor *tensors;
  size_t count;
  uint32_t added[MOST_SEQUENCES];
  for (int b = 0; b < batch->sequences; b++)
    added[b] = (uint32_t)batch->rows[b];
  managed_ok(attn_cache_begin(cache, sequences, added, (size_t)batch->sequences, &open));
  managed_ok(attn_cache_tensors(open, 0, &tensors, &count));
  model_append(m, tensors, count, batch);
  managed_ok(attn_cache_tensors(open, layer, &tensors, &count));
  model_attend(m, tensors, count, batch, rows);
  managed_ok(attn_cache_end(open));
}
