/* The steps of attnc decode: each appends its tokens to the cache and launches on it. */
#include "runtime/attnc/decode.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/attnc/device.h"
#include "runtime/attnc/random.h"

/* ---- pieces of tensors ---- */

/* Copies the box of `to`'s shape that begins at `first` of `from`. */
static void copy_box(struct tensor *to, const struct tensor *from, const int64_t *first)
{
  size_t element = tensor_dtype_size(from->dtype);
  int64_t at[TENSOR_MAX_RANK] = {0};
  int last = to->ndim - 1;
  size_t run = last < 0 ? element : (size_t)to->shape[last] * element;
  unsigned char *out = to->data;
  for (size_t done = 0; done < to->bytes; done += run) {
    int64_t place = 0;
    for (int d = 0; d <= last; d++)
      place = place * from->shape[d] + first[d] + at[d];
    memcpy(out + done, (const unsigned char *)from->data + (size_t)place * element, run);
    for (int d = last - 1; d >= 0 && ++at[d] == to->shape[d]; d--)
      at[d] = 0;
  }
}

enum exit_status decode_take(const struct decode *decode, struct workload *step,
                             enum workload_role role, uint32_t number, int64_t from,
                             int64_t first_key)
{
  struct workload *whole = (struct workload *)(uintptr_t)&decode->whole;
  const struct tensor *source = workload_tensor(whole, role, number);
  struct workload_shape shape;
  int64_t first[TENSOR_MAX_RANK] = {0};
  enum exit_status status = workload_allocate_one(step, role, number);
  if (status != EXIT_FINE || !workload_shape(step, role, number, &shape))
    return status != EXIT_FINE ? status : EXIT_WRONG;
  for (int d = 0; d < shape.ndim; d++) {
    if (shape.kinds[d] == DIM_NQ)
      first[d] = from;
    else if (shape.kinds[d] == DIM_NK)
      first[d] = first_key;
    if (first[d] + shape.dims[d] > source->shape[d])
      return fail_with(EXIT_WRONG,
                       "'%s' has %lld elements along dimension %d after %lld tokens, "
                       "more than the %lld after all of them: it cannot be given in steps",
                       source->name, (long long)shape.dims[d], d, (long long)step->keys,
                       (long long)source->shape[d]);
  }
  copy_box(workload_tensor(step, role, number), source, first);
  return EXIT_FINE;
}

/* The rows of a step, put where they belong among all. */
static void keep_rows(struct decode *decode, const struct decode_step *step)
{
  struct tensor *to = &decode->whole.o;
  const struct tensor *rows = &step->rows.o;
  size_t row = (size_t)rows->shape[3] * tensor_dtype_size(rows->dtype);
  size_t run = (size_t)step->count * row;
  for (int64_t n = 0; n < rows->shape[0] * rows->shape[1]; n++)
    memcpy((unsigned char *)to->data + ((size_t)(n * to->shape[2] + step->from)) * row,
           (const unsigned char *)rows->data + (size_t)n * run, run);
}

static void start_piece(const struct decode *decode, struct workload *piece, int64_t queries,
                        int64_t keys)
{
  const struct workload *whole = &decode->whole;
  workload_init(piece, whole->spec, whole->type);
  memcpy(piece->params, whole->params, sizeof(piece->params));
  memcpy(piece->given, whole->given, sizeof(piece->given));
  piece->batch = whole->batch;
  piece->queries = queries;
  piece->keys = keys;
}

/* New tokens: k, v and cached inputs. */
static enum exit_status take_tokens(const struct decode *decode, struct workload *tokens,
                                    int64_t from)
{
  const struct spec *spec = tokens->spec;
  enum exit_status status = decode_take(decode, tokens, WORKLOAD_K, 0, from, from);
  if (status == EXIT_FINE && !spec->value_is_key)
    status = decode_take(decode, tokens, WORKLOAD_V, 0, from, from);
  for (uint32_t n = 0; n < spec->input_count && status == EXIT_FINE; n++)
    if (spec->inputs[n].cached)
      status = decode_take(decode, tokens, WORKLOAD_INPUT, n, from, from);
  return status;
}

static enum exit_status take_rows(const struct decode *decode, struct decode_step *step)
{
  struct workload *rows = &step->rows;
  const struct spec *spec = rows->spec;
  enum exit_status status = decode_take(decode, rows, WORKLOAD_Q, 0, step->from, 0);
  if (status == EXIT_FINE)
    status = workload_allocate_one(rows, WORKLOAD_O, 0);
  for (uint32_t n = 0; n < spec->input_count && status == EXIT_FINE; n++)
    if (!spec->inputs[n].cached)
      status = decode_take(decode, rows, WORKLOAD_INPUT, n, step->from, 0);
  for (uint32_t n = 0; n < spec->output_count && status == EXIT_FINE; n++)
    status = workload_allocate_one(rows, WORKLOAD_OUTPUT, n);
  return status;
}

/* ---- a step ---- */

static attn_status append(struct decode *decode, struct decode_step *step, struct workload *tokens,
                          char *error, size_t size)
{
  struct workload_call call;
  workload_call_init(&call, tokens);
  workload_call_inputs(&call, &step->rows);
  call.arguments.cache = step->tensors;
  call.arguments.cache_count = step->tensor_count;
  call.arguments.max_length = step->rows.keys;
  call.arguments.error = error;
  call.arguments.error_size = size;
  attn_status status = attn_append(decode->prepared.program, &call.arguments);
  return status == ATTN_OK ? attn_sync(decode->prepared.context, NULL) : status;
}

static attn_status launch(struct decode *decode, struct decode_step *step, int64_t shared,
                          char *error, size_t size)
{
  struct workload_call call;
  workload_call_init(&call, &step->rows);
  call.arguments.cache = step->tensors;
  call.arguments.cache_count = step->tensor_count;
  call.arguments.max_length = step->rows.keys;
  call.arguments.shared_prefix = shared;
  call.arguments.error = error;
  call.arguments.error_size = size;
  attn_status status = attn_launch(decode->prepared.program, &call.arguments);
  return status == ATTN_OK ? attn_sync(decode->prepared.context, NULL) : status;
}

struct step_times {
  double append, launch, apart;
};

/* The launch that does not share, and what it gives. */
static attn_status launch_apart(struct decode *decode, struct decode_step *step,
                                struct tensor *apart, double *ms)
{
  char *error = decode->error;
  const size_t size = sizeof(decode->error);
  const double start = now_ms();
  attn_status status = launch(decode, step, 0, error, size);
  *ms = now_ms() - start;
  if (status == ATTN_OK)
    status = device_download(&step->rows, decode->prepared.context, error, size);
  if (status != ATTN_OK)
    return status;
  *apart = step->rows.o;
  apart->data = mem_alloc(apart->bytes + 1);
  if (apart->data == NULL)
    return ATTN_ERROR_OUT_OF_MEMORY;
  memcpy(apart->data, step->rows.o.data, apart->bytes);
  return ATTN_OK;
}

/* With the text of it in decode->error. */
static enum exit_status failed(struct decode *decode, attn_status status)
{
  decode->failed = status;
  if (!decode->quiet)
    complain("%s", decode->error);
  return exit_of_attn(status);
}

static enum exit_status compute(struct decode *decode, struct decode_step *step,
                                struct workload *tokens, struct step_times *times)
{
  attn_context *context = decode->prepared.context;
  char *error = decode->error;
  const size_t size = sizeof(decode->error);
  attn_status status = device_upload(tokens, context, error, size);
  if (status == ATTN_OK)
    status = device_upload(&step->rows, context, error, size);
  struct tensor apart = {.data = NULL};
  *times = (struct step_times){0};
  double start = now_ms();
  if (status == ATTN_OK && step->appends)
    status = append(decode, step, tokens, error, size);
  times->append = now_ms() - start;
  if (status == ATTN_OK && step->shared > 0)
    status = launch_apart(decode, step, &apart, &times->apart);
  start = now_ms();
  if (status == ATTN_OK && step->attends)
    status = launch(decode, step, step->shared, error, size);
  times->launch = now_ms() - start;
  if (status == ATTN_OK && step->attends)
    status = device_download(&step->rows, context, error, size);
  if (status == ATTN_OK && apart.data != NULL)
    decode_share_compare(decode, &step->rows.o, &apart);
  mem_free(apart.data);
  if (status != ATTN_OK && error[0] == '\0')
    attn_context_error(context, error, size);
  device_release(&step->rows, context);
  device_release(tokens, context);
  return status == ATTN_OK ? EXIT_FINE : failed(decode, status);
}

static enum exit_status cache_failed(struct decode *decode, attn_status status)
{
  attn_context_error(decode->prepared.context, decode->error, sizeof(decode->error));
  return failed(decode, status);
}

/* With the batch open. */
static enum exit_status run_batch(struct decode *decode, struct decode_step *step,
                                  struct step_times *times)
{
  struct workload tokens;
  start_piece(decode, &tokens, step->count, step->count);
  tokens.batch = step->sequences;
  enum exit_status status = EXIT_FINE;
  if (step->appends)
    status = take_tokens(decode, &tokens, step->from);
  if (status == EXIT_FINE)
    status = take_rows(decode, step);
  if (status == EXIT_FINE)
    status = compute(decode, step, &tokens, times);
  workload_free(&tokens);
  if (status != EXIT_FINE || !step->attends)
    return status;
  keep_rows(decode, step);
  return decode_wants_check(decode, step->from) ? decode_check(decode, step) : EXIT_FINE;
}

/* NK of a launch after so many tokens: where ranks are counted, those that a ring keeps. */
static int64_t keys_after(const struct decode *decode, int64_t tokens)
{
  const struct spec *spec = decode->whole.spec;
  int64_t ring = cache_ring_tokens(spec);
  bool ranks = ring > 0 && spec->cache.positions != CACHE_POSITIONS_ORIGINAL;
  return ranks && tokens > ring ? ring : tokens;
}

static enum exit_status run_step(struct decode *decode, struct decode_step step,
                                 struct step_times *times)
{
  attn_cache_batch *batch = NULL;
  for (int64_t b = 0; b < step.sequences; b++)
    decode->new_tokens[b] = step.appends ? (uint32_t)step.count : 0;
  attn_status opened = attn_cache_begin(decode->cache, decode->sequences, decode->new_tokens,
                                        (size_t)step.sequences, &batch);
  if (opened == ATTN_OK)
    opened = attn_cache_tensors(batch, 0, &step.tensors, &step.tensor_count);
  if (opened == ATTN_OK && step.from == 0 && step.appends)
    opened = decode_calibrate(decode, &step);
  if (opened != ATTN_OK) {
    attn_cache_cancel(batch);
    return cache_failed(decode, opened);
  }
  if (decode->shared_prefix > 0 && step.attends)
    step.shared = attn_cache_shared_prefix(batch);
  start_piece(decode, &step.rows, step.count, keys_after(decode, step.from + step.count));
  step.rows.batch = step.sequences;
  enum exit_status status = run_batch(decode, &step, times);
  workload_free(&step.rows);
  if (status != EXIT_FINE) {
    attn_cache_cancel(batch);
    return status;
  }
  attn_status ended = attn_cache_end(batch);
  return ended == ATTN_OK ? EXIT_FINE : cache_failed(decode, ended);
}

/* ---- all ---- */

static enum exit_status open_cache(struct decode *decode)
{
  const struct workload *whole = &decode->whole;
  const struct spec_cache *layout = &whole->spec->cache;
  uint64_t page = layout->layout == CACHE_PAGED ? layout->page : 1;
  uint64_t tokens = ((uint64_t)whole->keys + page - 1) / page * page;
  struct workload_call call;
  struct workload none = *whole;
  char error[1024] = "";
  memset(&none.q, 0, sizeof(none.q));
  workload_call_init(&call, &none);
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  options.sequences = (uint32_t)whole->batch;
  options.tokens = layout->layout == CACHE_PAGED ? tokens * (uint64_t)whole->batch : tokens;
  if (whole->spec->type == DTYPE_ANY)
    options.type = whole->type == DTYPE_F16    ? ATTN_TYPE_F16
                   : whole->type == DTYPE_BF16 ? ATTN_TYPE_BF16
                                               : ATTN_TYPE_F32;
  options.params = call.arguments.params;
  options.param_count = call.arguments.param_count;
  options.error = error;
  options.error_size = sizeof(error);
  attn_status status = attn_cache_create(decode->prepared.program, &options, &decode->cache);
  if (status != ATTN_OK && !decode->quiet)
    complain("%s", error);
  if (status != ATTN_OK)
    return exit_of_attn(status);
  const int64_t first = decode->shared_prefix > 0 ? 1 : whole->batch; /* the others are forks */
  for (int64_t b = 0; b < first; b++) {
    status = attn_cache_add(decode->cache, &decode->sequences[b]);
    if (status != ATTN_OK)
      return cache_failed(decode, status);
  }
  return EXIT_FINE;
}

/* The first sequence appends the prefix, and the others are forks of it. */
static enum exit_status run_prefix(struct decode *decode)
{
  const int64_t batch = decode->whole.batch;
  struct decode_step step = {.count = decode->shared_prefix, .sequences = 1, .appends = true};
  struct step_times times;
  enum exit_status status = run_step(decode, step, &times);
  decode->prompt_ms += times.append;
  for (int64_t b = 1; b < batch && status == EXIT_FINE; b++) {
    attn_status forked =
        attn_cache_fork(decode->cache, decode->sequences[0], &decode->sequences[b]);
    if (forked != ATTN_OK)
      return cache_failed(decode, forked);
  }
  if (status != EXIT_FINE)
    return status;
  step.sequences = batch;
  step.appends = false;
  step.attends = true;
  status = run_step(decode, step, &times);
  decode->prompt_ms += times.launch;
  return status;
}

static enum exit_status run_steps(struct decode *decode)
{
  bool talks = is_terminal(STDERR_FILENO);
  double shown = 0;
  struct step_times times;
  struct decode_step step = {.sequences = decode->whole.batch, .appends = true, .attends = true};
  enum exit_status status = EXIT_FINE;
  if (decode->shared_prefix > 0)
    status = run_prefix(decode);
  if (decode->prompt > decode->shared_prefix && status == EXIT_FINE) {
    step.from = decode->shared_prefix;
    step.count = decode->prompt - decode->shared_prefix;
    status = run_step(decode, step, &times);
    decode->prompt_ms += times.append + times.launch;
  }
  step.count = decode->rows;
  for (int64_t n = 0; n < decode->steps && status == EXIT_FINE; n++) {
    step.from = decode->prompt + n * decode->rows;
    status = run_step(decode, step, &times);
    decode->append_ms[n] = times.append;
    decode->launch_ms[n] = times.launch;
    decode->apart_ms[n] = times.apart;
    if (talks && now_ms() - shown > 200) {
      shown = now_ms();
      fprintf(stderr, "\rstep %lld of %lld ...", (long long)n + 1, (long long)decode->steps);
    }
  }
  if (shown > 0)
    fputs("\r\033[K", stderr);
  return status;
}

void decode_free(struct decode *decode)
{
  attn_cache_free(decode->cache);
  mem_free(decode->sequences);
  mem_free(decode->new_tokens);
  mem_free(decode->append_ms);
  mem_free(decode->launch_ms);
  mem_free(decode->apart_ms);
  if (decode->plan != NULL)
    arena_free(&decode->arena);
  workload_free(&decode->whole);
}

bool decode_is_right(const struct decode *decode)
{
  bool prefill = decode->no_prefill != NULL || decode->prefill_error <= 2 * decode->widest_bound;
  bool sharing = decode->sharing_error <= 2 * decode->widest_bound;
  return decode->checked == 0 || (decode->comparison.ok && prefill && sharing);
}

static const struct cache_plan *make_plan(struct decode *decode)
{
  arena_init(&decode->arena);
  if (arena_guard(&decode->arena)) {
    arena_free(&decode->arena);
    return NULL;
  }
  return cache_plan_new(&decode->arena, decode->whole.spec);
}

enum exit_status decode_run(struct decode *decode)
{
  size_t batch = (size_t)decode->whole.batch, steps = (size_t)decode->steps;
  decode->sequences = mem_alloc_zeroed(batch, sizeof(*decode->sequences));
  decode->new_tokens = mem_alloc_zeroed(batch, sizeof(*decode->new_tokens));
  decode->append_ms = mem_alloc_zeroed(steps, sizeof(double));
  decode->launch_ms = mem_alloc_zeroed(steps, sizeof(double));
  decode->apart_ms = mem_alloc_zeroed(steps, sizeof(double));
  decode->plan = make_plan(decode);
  if (decode->sequences == NULL || decode->new_tokens == NULL || decode->append_ms == NULL ||
      decode->launch_ms == NULL || decode->apart_ms == NULL || decode->plan == NULL)
    return fail_memory();
  enum exit_status status = decode_share_tokens(decode);
  if (status == EXIT_FINE)
    status = open_cache(decode);
  if (status == EXIT_FINE)
    status = run_steps(decode);
  if (status == EXIT_FINE && decode->checks)
    status = decode_check_prefill(decode);
  return status;
}

enum exit_status decode_try(struct decode *decode, const struct spec *spec, enum dtype type,
                            const struct prepared *prepared, uint64_t seed, bool quick)
{
  *decode = (struct decode){.prepared = *prepared,
                            .prompt = quick ? 21 : 150,
                            .steps = quick ? 12 : 40,
                            .rows = 1,
                            .checks = true};
  struct workload *whole = &decode->whole;
  workload_init(whole, spec, type);
  whole->batch = 2;
  whole->queries = whole->keys = decode->prompt + decode->steps;
  enum exit_status status = workload_allocate(whole);
  if (status != EXIT_FINE)
    return status;
  random_fill(whole, seed);
  return decode_run(decode);
}
