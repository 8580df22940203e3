/* A cache that the library manages: a prompt is appended once, two sequences go on from it, sharing
 * its pages, and each step appends a token to both and computes on all tokens so far. Then
 * StreamingLLM's rule makes one of them shorter.
 *
 *     cc cache_manager.c $(pkg-config --cflags --libs attn)
 */
#include <attn/cache.h>

#include <stdio.h>
#include <string.h>

static const char spec[] = "attention causal_pages {\n"
                           "  heads 2\n"
                           "  dim   4\n"
                           "  type  f32\n"
                           "  mask  causal\n"
                           "  cache paged(page = 4), positions = slot\n"
                           "}\n";

enum { HEADS = 2, DIM = 4, PROMPT = 6, STEPS = 4, SINKS = 1, RECENT = 3 };

static DLTensor tensor(float *data, int64_t *shape)
{
  DLTensor t = {0};
  t.data = data;
  t.device.device_type = kDLCPU;
  t.ndim = 4;
  t.dtype.code = kDLFloat;
  t.dtype.bits = 32;
  t.dtype.lanes = 1;
  t.shape = shape; /* row-major: no strides needed */
  return t;
}

/* Appends `tokens` tokens to each sequence and computes with them as queries. All keys are zeros,
 * so that the result is the mean of the values that a query sees; a value is its token's number. */
static attn_status step(attn_program *program, attn_cache *cache, const attn_sequence *sequences,
                        int count, int tokens, float number)
{
  static float zeros[2 * HEADS * PROMPT * DIM], values[2 * HEADS * PROMPT * DIM];
  static float results[2 * HEADS * PROMPT * DIM];
  const uint32_t new_tokens[2] = {(uint32_t)tokens, (uint32_t)tokens};
  int64_t shape[4] = {count, HEADS, tokens, DIM};
  DLTensor q = tensor(zeros, shape), k = tensor(zeros, shape);
  DLTensor v = tensor(values, shape), o = tensor(results, shape);
  for (int n = 0; n < count * HEADS * tokens * DIM; n++)
    values[n] = number + (float)(n / DIM % tokens);

  attn_cache_batch *batch;
  attn_status status = attn_cache_begin(cache, sequences, new_tokens, (size_t)count, &batch);
  if (status != ATTN_OK)
    return status;
  attn_arguments appended = ATTN_ARGUMENTS_INIT, computed = ATTN_ARGUMENTS_INIT;
  status = attn_cache_tensors(batch, 0, &appended.cache, &appended.cache_count);
  computed.cache = appended.cache;
  computed.cache_count = appended.cache_count;
  computed.max_length = attn_cache_max_length(batch);
  appended.k = &k;
  appended.v = &v;
  computed.q = &q;
  computed.o = &o;
  if (status == ATTN_OK)
    status = attn_append(program, &appended);
  if (status == ATTN_OK)
    status = attn_launch(program, &computed);
  if (status != ATTN_OK) {
    attn_cache_cancel(batch);
    return status;
  }
  for (int n = 0; n < count; n++)
    printf("%s%.3f", n == 0 ? "mean token of what is seen: " : ", ",
           (double)results[((n + 1) * HEADS * tokens - 1) * DIM]);
  printf("\n");
  return attn_cache_end(batch);
}

static attn_status generate(attn_program *program, attn_cache *cache)
{
  attn_sequence sequences[2];
  attn_status status = attn_cache_add(cache, &sequences[0]);
  if (status == ATTN_OK)
    status = step(program, cache, sequences, 1, PROMPT, 0);
  if (status == ATTN_OK)
    status = attn_cache_fork(cache, sequences[0], &sequences[1]);
  for (int n = 0; n < STEPS && status == ATTN_OK; n++)
    status = step(program, cache, sequences, 2, 1, (float)(PROMPT + n));
  if (status != ATTN_OK)
    return status;

  attn_cache_usage usage = attn_cache_memory(cache);
  printf("%u sequences of %d tokens in %u pages of %u\n", usage.sequences, PROMPT + STEPS,
         usage.pages - usage.pages_free, usage.page);

  int32_t kept[PROMPT + STEPS];
  size_t count;
  status = attn_evict_streaming(PROMPT + STEPS, SINKS, RECENT, 1, kept, &count);
  if (status == ATTN_OK)
    status = attn_cache_keep(cache, sequences[1], kept, count, 1);
  if (status == ATTN_OK)
    status = step(program, cache, sequences, 2, 1, (float)(PROMPT + STEPS));
  return status;
}

int main(void)
{
  attn_context *context;
  attn_program *program = NULL;
  attn_cache *cache = NULL;
  attn_status status = attn_context_create(NULL, &context);
  if (status != ATTN_OK) {
    fprintf(stderr, "%s\n", attn_status_text(status));
    return 1;
  }
  status = attn_compile(context, spec, strlen(spec), "pages.attn", NULL, &program);
  if (status == ATTN_OK) {
    attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
    options.sequences = 2;
    options.tokens = 64;
    status = attn_cache_create(program, &options, &cache);
  }
  if (status == ATTN_OK)
    status = generate(program, cache);
  if (status != ATTN_OK) {
    char text[1024];
    attn_context_error(context, text, sizeof(text));
    fprintf(stderr, "%s: %s\n", attn_status_text(status), text);
  }
  attn_cache_free(cache);
  attn_program_free(program);
  attn_context_free(context);
  return status == ATTN_OK ? 0 : 1;
}
