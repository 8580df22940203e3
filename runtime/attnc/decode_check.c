/* What attnc decode compares: each step with the reference on the keys and values that its cache
 * holds, and all steps with one launch. */
#include <math.h>
#include <string.h>

#include "compiler/cache/apply.h"
#include "runtime/attnc/decode.h"
#include "runtime/attnc/device.h"
#include "runtime/attnc/visible.h"

enum {
  CHECKED_STEPS = 24,   /* at most, evenly among all */
  MOST_SCORES = 1 << 19 /* of a step, over all heads; above it the first K/V head's are compared */
};

bool decode_wants_check(const struct decode *decode, int64_t from)
{
  if (!decode->checks)
    return false;
  int64_t n = (from - decode->prompt) / decode->rows, last = decode->steps - 1;
  if (from < decode->prompt || n == 0 || n == last)
    return true;
  int64_t stride = (decode->steps + CHECKED_STEPS - 1) / CHECKED_STEPS;
  return n % stride == 0;
}

/* ---- the cache's tensors in host memory ---- */

struct content {
  struct cache_content cache;
  void *copies[CACHE_MAX_TENSORS]; /* of a device's */
};

static void content_free(struct content *content)
{
  for (uint32_t n = 0; n < CACHE_MAX_TENSORS; n++)
    mem_free(content->copies[n]);
}

static const DLTensor *find_tensor(const struct decode_step *step, const char *name)
{
  for (size_t n = 0; n < step->tensor_count; n++)
    if (strcmp(step->tensors[n].name, name) == 0)
      return step->tensors[n].tensor;
  return NULL;
}

static enum exit_status load_tensor(struct decode *decode, struct content *content, uint32_t number,
                                    const DLTensor *given)
{
  const struct cache_tensor *planned = &decode->plan->tensors[number];
  enum dtype type = planned->type == DTYPE_SPEC || planned->type == DTYPE_ANY ? decode->whole.type
                                                                              : planned->type;
  uint32_t bits = cache_element_bits(type);
  int64_t per_byte = bits < 8 ? 8 / bits : 1, last = 0, stride = 1;
  struct ref_tensor *tensor = &content->cache.tensors[number];
  *tensor = (struct ref_tensor){.type = type, .rank = planned->rank};
  for (uint32_t d = planned->rank; d-- > 0;) {
    bool codes = d + 1 == planned->rank;
    tensor->shape[d] = given->shape[d] * (codes ? per_byte : 1);
    int64_t bytes = given->strides != NULL ? given->strides[d] : stride;
    tensor->stride[d] = codes ? 1 : bytes * per_byte;
    stride *= given->shape[d];
    if (given->shape[d] == 0)
      return EXIT_FINE; /* nothing is read */
    last += (given->shape[d] - 1) * bytes;
  }
  unsigned char *data = (unsigned char *)given->data + given->byte_offset;
  tensor->data = data;
  if (given->device.device_type == kDLCPU)
    return EXIT_FINE;
  size_t size = (size_t)(last + 1) * (bits < 8 ? 1 : bits / 8);
  content->copies[number] = mem_alloc(size);
  if (content->copies[number] == NULL)
    return fail_memory();
  tensor->data = content->copies[number];
  attn_status status =
      attn_memory_download(decode->prepared.context, content->copies[number], data, size, NULL);
  return status == ATTN_OK ? EXIT_FINE
                           : fail_with(exit_of_attn(status), "the cache cannot be read back");
}

static struct ref_tensor table_of(const struct workload *whole, uint32_t source)
{
  const struct spec_storage *storage = cache_storage(whole->spec, source);
  if (storage == NULL || storage->table == 0)
    return (struct ref_tensor){0};
  const struct tensor *tensor = &whole->inputs[storage->table - EXPR_TENSOR_INPUT];
  return (struct ref_tensor){.type = DTYPE_F32,
                             .rank = 1,
                             .shape = {tensor->shape[0]},
                             .stride = {1},
                             .data = tensor->data};
}

static enum exit_status content_load(struct decode *decode, const struct decode_step *step,
                                     struct content *content)
{
  *content = (struct content){.cache = {.plan = decode->plan, .type = decode->whole.type}};
  content->cache.tables[0] = table_of(&decode->whole, EXPR_TENSOR_K);
  content->cache.tables[1] = table_of(&decode->whole, EXPR_TENSOR_V);
  enum exit_status status = EXIT_FINE;
  for (uint32_t n = 0; n < decode->plan->count && status == EXIT_FINE; n++)
    status = load_tensor(decode, content, n, find_tensor(step, decode->plan->tensors[n].name));
  return status;
}

/* ---- keys and values ---- */

static bool keeps_rotated(const struct spec *spec)
{
  return spec->has_rotary && !spec->cache.rope_on_read;
}

static bool reads_tensors(const struct expr *e)
{
  bool reads = e->op == EXPR_READ;
  for (uint32_t k = 0; k < e->arg_count && !reads; k++)
    reads = reads_tensors(e->args[k]);
  return reads;
}

/* Whether a rotated key can be turned back by what is known here. */
static bool can_turn_back(const struct spec *spec)
{
  return expr_is_var(spec->rotary.key_position, EXPR_VAR_J) && !reads_tensors(spec->rotary.angle) &&
         !reads_tensors(spec->rotary.gain);
}

/* Undoes the rotation of a key of D channels: the reference rotates it again. */
static void turn_back(const struct spec_rotary *rotary, struct expr_evaluator *evaluator,
                      int64_t position, double *x)
{
  expr_set_int(evaluator, EXPR_VAR_T, position);
  double gain = expr_evaluate(evaluator, rotary->gain).f;
  for (uint32_t p = 0; p < rotary->repeat; p++) {
    for (uint32_t m = 0; m < rotary->dim / 2; m++) {
      uint32_t base = rotary->from + p * rotary->dim;
      bool half = rotary->pairing == PAIRING_HALF;
      double *a = &x[base + (half ? m : 2 * m)];
      double *b = &x[base + (half ? m + rotary->dim / 2 : 2 * m + 1)];
      expr_set_int(evaluator, EXPR_VAR_C, m);
      double angle = expr_evaluate(evaluator, rotary->angle).f;
      double c = cos(angle) / gain, s = sin(angle) / gain, first = *a;
      *a = first * c + *b * s;
      *b = *b * c - first * s;
    }
  }
}

static enum dtype stored_type(const struct decode *decode, uint32_t source)
{
  enum dtype type = cache_storage(decode->whole.spec, source)->type;
  return type == DTYPE_SPEC || type == DTYPE_ANY ? decode->whole.type : type;
}

/* What keys may be off that are stored unquantised, after they were rotated, in parts of their
 * largest channel. */
static double storage_error(enum dtype type)
{
  return type == DTYPE_F16 ? 0x1p-10 : type == DTYPE_BF16 ? 0x1p-7 : 0;
}

/* A channel of a key as it was given, or as it was stored if that is as close as it should be: what
 * a fault of append made wrong shows in the results then, and roundings are not counted twice. */
static void take_given(double *x, const struct tensor *given, int64_t at, int64_t channels,
                       double error)
{
  double largest = 0;
  for (int64_t c = 0; c < channels; c++)
    largest = fmax(largest, fabs(tensor_get(given, at + c)));
  for (int64_t c = 0; c < channels; c++) {
    double exact = tensor_get(given, at + c);
    if (!(fabs(x[c] - exact) <= error * largest))
      x[c] = exact;
  }
}

/* Fills k or v [B, G, NK, channels] f32 with what the cache holds. Keys that it stores unquantised
 * but rotated are those that were given, but for their rounding. */
static void fill_vectors(const struct decode *decode, const struct cache_content *content,
                         struct expr_evaluator *evaluator, uint32_t source, struct tensor *out)
{
  const struct spec *spec = decode->whole.spec;
  const bool key = source == EXPR_TENSOR_K;
  const struct tensor *given = key ? &decode->whole.k : &decode->whole.v;
  bool rotated = key && keeps_rotated(spec);
  bool as_given = rotated && !cache_is_quantised(cache_storage(spec, source));
  bool turns = rotated && (!as_given || can_turn_back(spec));
  double error = as_given ? storage_error(stored_type(decode, source)) : 0;
  int64_t heads = out->shape[1], keys = out->shape[2], channels = out->shape[3];
  double x[DECODE_MOST_CHANNELS];
  for (int64_t row = 0; row < out->shape[0] * heads * keys; row++) {
    int64_t j = row % keys, g = row / keys % heads, b = row / keys / heads;
    bool held = cache_content_has(content, b, j);
    int64_t token = cache_content_token(content, b, j);
    for (int64_t c = 0; c < channels; c++)
      x[c] = held ? cache_content_element(content, source, b, g, j, c) : 0;
    if (turns && held)
      turn_back(&spec->rotary, evaluator, token, x);
    if (as_given && held)
      take_given(x, given, ((b * heads + g) * given->shape[2] + token) * channels, channels, error);
    for (int64_t c = 0; c < channels; c++)
      tensor_set(out, row * channels + c, x[c]);
  }
}

/* An input that is cached, by keys. */
static void fill_input(const struct decode *decode, const struct cache_content *content,
                       const struct spec_input *input, uint32_t planned, struct tensor *out)
{
  (void)decode;
  for (int64_t n = 0, count = tensor_count(out); n < count; n++) {
    int64_t b = 0, j = 0, rest[SPEC_MAX_RANK], left = n;
    bool had_batch = false, had_keys = false;
    uint32_t others = 0, at[SPEC_MAX_RANK];
    int64_t index[SPEC_MAX_RANK];
    for (uint32_t d = input->rank; d-- > 0;) {
      index[d] = left % out->shape[d];
      left /= out->shape[d];
    }
    for (uint32_t d = 0; d < input->rank; d++) {
      enum dim_kind kind = input->dims[d].kind;
      if (kind == DIM_B && !had_batch) {
        had_batch = true;
        b = index[d];
      } else if (kind == DIM_NK && !had_keys) {
        had_keys = true;
        j = index[d];
      } else {
        at[others] = d;
        others++;
      }
    }
    for (uint32_t k = 0; k < others; k++)
      rest[k] = index[at[k]];
    if (cache_content_has(content, b, j))
      tensor_set(out, n, cache_content_input(content, planned, b, j, rest));
  }
}

/* ---- a step ---- */

static enum exit_status take_vectors(const struct decode *decode,
                                     const struct cache_content *content,
                                     struct expr_evaluator *evaluator, struct workload *seen)
{
  const struct spec *spec = decode->whole.spec;
  struct tensor_error error;
  for (int n = 0; n < (spec->value_is_key ? 1 : 2); n++) {
    struct tensor *out = n == 0 ? &seen->k : &seen->v;
    const int64_t shape[] = {seen->batch, spec->kv_heads, seen->keys,
                             n == 0 ? spec->dim_qk : spec->dim_v};
    enum exit_status status = report_tensor(
        tensor_init(out, n == 0 ? "k" : "v", TENSOR_DTYPE_F32, 4, shape, &error), &error);
    if (status != EXIT_FINE)
      return status;
    fill_vectors(decode, content, evaluator, n == 0 ? EXPR_TENSOR_K : EXPR_TENSOR_V, out);
  }
  return EXIT_FINE;
}

static enum exit_status take_inputs(const struct decode *decode,
                                    const struct cache_content *content, struct decode_step *step,
                                    const struct cache_spec *applied, struct workload *seen)
{
  enum exit_status status = EXIT_FINE;
  for (uint32_t n = 0; n < seen->spec->input_count && status == EXIT_FINE; n++) {
    const struct spec_input *input = &seen->spec->inputs[n];
    bool added = n >= applied->added_inputs;
    if (!added && !input->cached) {
      status = decode_take(decode, seen, WORKLOAD_INPUT, n, step->from, 0);
      continue;
    }
    status = workload_allocate_one(seen, WORKLOAD_INPUT, n);
    if (status != EXIT_FINE)
      break;
    uint32_t source = added ? EXPR_TENSOR_K : EXPR_TENSOR_INPUT + n;
    enum cache_part part = !added ? CACHE_DATA : input->cached ? CACHE_POSITIONS : CACHE_SEEN;
    uint32_t planned = (uint32_t)cache_plan_find(decode->plan, source, part);
    if (part == CACHE_SEEN)
      for (int64_t b = 0; b < seen->batch; b++)
        tensor_set(&seen->inputs[n], b,
                   dtype_load(DTYPE_I32, content->tensors[planned].data,
                              b * content->tensors[planned].stride[0]));
    else
      fill_input(decode, content, input, planned, &seen->inputs[n]);
  }
  return status;
}

/* o and the outputs of the step, moved for the comparison. */
static void take_results(struct decode_step *step, struct workload *seen)
{
  seen->o = step->rows.o;
  step->rows.o = (struct tensor){0};
  for (uint32_t n = 0; n < seen->spec->output_count; n++) {
    seen->outputs[n] = step->rows.outputs[n];
    step->rows.outputs[n] = (struct tensor){0};
  }
}

static void note(struct decode *decode, const struct comparison *comparison)
{
  struct comparison *worst = &decode->comparison;
  double error = fmax(worst->max_error, comparison->max_error);
  bool first = decode->checked++ == 0;
  decode->widest_bound = fmax(decode->widest_bound, comparison->bound);
  bool ok = (first || worst->ok) && comparison->ok;
  int64_t nans = worst->nans + comparison->nans;
  if (first || comparison->worst_ratio >= worst->worst_ratio)
    *worst = *comparison;
  worst->ok = ok;
  worst->max_error = error;
  worst->nans = nans;
}

static enum exit_status compare_with_content(struct decode *decode, struct decode_step *step,
                                             struct content *content,
                                             const struct cache_spec *applied,
                                             struct expr_evaluator *evaluator)
{
  const struct spec *spec = decode->whole.spec;
  struct workload seen;
  struct comparison comparison;
  workload_init(&seen, applied->spec, decode->whole.type);
  memcpy(seen.params, decode->whole.params, sizeof(seen.params));
  memcpy(seen.given, decode->whole.given, sizeof(seen.given));
  seen.ragged = false;
  seen.batch = decode->whole.batch;
  seen.queries = step->count;
  seen.keys = cache_content_keys(&content->cache, 0);
  expr_set_int(evaluator, EXPR_VAR_SIZE_B, seen.batch);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, seen.queries);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, seen.keys);
  for (uint32_t n = 0; n < spec->param_count; n++)
    expr_set_param(evaluator, n, seen.params[n]);
  enum exit_status status = decode_take(decode, &seen, WORKLOAD_Q, 0, step->from, 0);
  if (status == EXIT_FINE)
    status = take_vectors(decode, &content->cache, evaluator, &seen);
  if (status == EXIT_FINE)
    status = take_inputs(decode, &content->cache, step, applied, &seen);
  if (status == EXIT_FINE) {
    take_results(step, &seen);
    int64_t scores = seen.batch * seen.queries * seen.keys * spec->query_heads;
    uint32_t heads = scores > MOST_SCORES ? spec->query_heads / spec->kv_heads : spec->query_heads;
    status = compare_step(&seen, heads, &comparison) ? EXIT_FINE : fail_memory();
  }
  if (status == EXIT_FINE)
    note(decode, &comparison);
  workload_free(&seen);
  return status;
}

enum exit_status decode_check(struct decode *decode, struct decode_step *step)
{
  const struct spec *spec = decode->whole.spec;
  if (keeps_rotated(spec) && cache_is_quantised(&spec->cache.k) && !can_turn_back(spec)) {
    decode->checks = false;
    return EXIT_FINE;
  }
  struct content *content = mem_alloc(sizeof(*content));
  struct arena arena;
  arena_init(&arena);
  if (content == NULL || arena_guard(&arena)) {
    mem_free(content);
    arena_free(&arena);
    return fail_memory();
  }
  const struct cache_spec applied = cache_apply(&arena, spec);
  struct expr_evaluator *evaluator = expr_evaluator_new(&arena, spec->pool);
  enum exit_status status = content_load(decode, step, content);
  if (status == EXIT_FINE)
    status = compare_with_content(decode, step, content, &applied, evaluator);
  content_free(content);
  mem_free(content);
  arena_free(&arena);
  return status;
}

/* ---- one launch ---- */

/* Whether results change when tokens follow that are not seen. */
static bool reads_sizes(const struct spec *spec)
{
  const struct expr *formulas[9 + 3 * SPEC_MAX_MAPS] = {
      spec->value,        spec->mask,          spec->weight,
      spec->post,         spec->select.always, spec->select.by,
      spec->rotary.angle, spec->rotary.gain,   spec->rotary.key_position};
  uint32_t count = 9;
  for (uint32_t m = 0; m < spec->map_count; m++) {
    formulas[count++] = spec->maps[m].score;
    formulas[count++] = spec->maps[m].sink;
    formulas[count++] = spec->maps[m].at_least;
  }
  for (uint32_t n = 0; n < count; n++)
    if (formulas[n] != NULL &&
        (expr_depends(formulas[n], EXPR_VAR_SIZE_NQ) ||
         expr_depends(formulas[n], EXPR_VAR_SIZE_NK) || expr_depends(formulas[n], EXPR_VAR_OFFSET)))
      return true;
  return spec->align == ALIGN_EXPR;
}

static const char *why_no_prefill(const struct decode *decode)
{
  const struct spec_cache *cache = &decode->whole.spec->cache;
  if (cache_is_quantised(&cache->k) || cache_is_quantised(&cache->v))
    return "the cache is quantised, and one launch on k and v is not";
  bool v_as_given =
      decode->whole.spec->value_is_key || stored_type(decode, EXPR_TENSOR_V) == decode->whole.type;
  if (stored_type(decode, EXPR_TENSOR_K) != decode->whole.type || !v_as_given)
    return "the cache rounds to a type of its own, and one launch on k and v does not";
  if (cache->positions != CACHE_POSITIONS_ORIGINAL)
    return "positions are those of the cache";
  if (reads_sizes(decode->whole.spec))
    return "a formula reads how many tokens there are";
  return NULL;
}

/* Whether a row of [from, to) sees a key of these that comes after it. The parts beside the
 * diagonal are looked at as a whole. */
static bool sees_later(struct visible *visible, int64_t from, int64_t to)
{
  int64_t middle = from + (to - from) / 2;
  if (to - from < 2)
    return false;
  return visible_pairs(visible, from, middle, middle, to) > 0 ||
         sees_later(visible, from, middle) || sees_later(visible, middle, to);
}

static bool any_sees_later(struct workload *whole, struct arena *arena)
{
  struct visible visible;
  int64_t heads = visible_by_head(whole->spec) ? whole->spec->query_heads : 1;
  visible_open(&visible, whole, arena);
  for (int64_t n = 0; n < whole->batch * heads; n++) {
    visible_enter(&visible, n / heads, n % heads);
    if (sees_later(&visible, 0, whole->keys))
      return true;
  }
  return false;
}

/* Whether steps cannot show a row all that one launch shows it. Also when out of memory. */
static bool looks_ahead(struct workload *whole)
{
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return true;
  }
  bool ahead = any_sees_later(whole, &arena);
  arena_free(&arena);
  return ahead;
}

/* Whether the step that computed the row of that token saw all that the row sees: a ring is read as
 * it is after the step's last token. */
static bool is_whole(const struct decode *decode, int64_t token)
{
  int64_t kept = cache_ring_tokens(decode->whole.spec), from = decode->prompt, rows = decode->rows;
  int64_t end = token < from ? from : token - (token - from) % rows + rows;
  return kept == 0 || end <= kept || token == end - 1;
}

enum exit_status decode_check_prefill(struct decode *decode)
{
  struct workload *whole = &decode->whole;
  if (decode->no_prefill == NULL)
    decode->no_prefill = why_no_prefill(decode);
  if (decode->no_prefill == NULL && looks_ahead(whole))
    decode->no_prefill = "a row of it sees keys that come after it";
  if (decode->no_prefill != NULL)
    return EXIT_FINE;
  struct tensor steps = whole->o;
  char error[1024] = "";
  whole->o = (struct tensor){0};
  enum exit_status status = workload_allocate(whole);
  if (status == EXIT_FINE) {
    attn_status launched =
        device_run(whole, decode->prepared.program, decode->prepared.context, error, sizeof(error));
    if (launched != ATTN_OK)
      status = fail_with(exit_of_attn(launched), "%s", error);
  }
  for (int64_t n = 0, count = tensor_count(&steps); n < count && status == EXIT_FINE; n++) {
    int64_t token = n / steps.shape[3] % steps.shape[2];
    if (is_whole(decode, token))
      decode->prefill_error =
          fmax(decode->prefill_error, tensor_element_distance(&steps, &whole->o, n));
  }
  tensor_free(&whole->o);
  whole->o = steps;
  return status;
}
