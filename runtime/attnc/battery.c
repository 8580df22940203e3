#include "runtime/attnc/battery.h"
#include "runtime/attnc/device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/attnc/random.h"

/* What the reference may cost in one case, in units of about a nanosecond, before heads are left
 * out; and what a pair costs beyond its channels. */
enum { BUDGET = 100000000, PAIR_COST = 150 };

enum battery_far battery_far(const struct spec *spec)
{
  const struct expr *offset = spec->offset;
  if (spec->align == ALIGN_EXPR && offset->op == EXPR_PARAM)
    return FAR_ALIGN;
  if (spec->align == ALIGN_EXPR && offset->op == EXPR_READ && offset->arg_count == 1 &&
      expr_is_var(offset->args[0], EXPR_VAR_B))
    return FAR_ALIGN;
  return spec->has_rotary ? FAR_ROTARY : FAR_NEVER;
}

char *battery_far_text(const struct spec *spec, const char *text, size_t length, size_t *far_length)
{
  /* Behind the rotary's name: "rope" becomes "rope(at = ...)", "rope(base = b)" "rope(at = ...,
   * base = b)". */
  static const char at[] = "at = t + 1000000";
  size_t begin = spec->rotary.span.begin;
  if (spec->rotary.span.source != 0 || begin >= length)
    return NULL;
  size_t word = begin;
  while (word < length && ((text[word] >= 'a' && text[word] <= 'z') || text[word] == '_'))
    word++;
  size_t open = word;
  while (open < length && text[open] == ' ')
    open++;
  bool has_arguments = open < length && text[open] == '(';
  size_t cut = has_arguments ? open + 1 : word;
  size_t size = length + sizeof(at) + 8;
  char *changed = mem_alloc(size);
  if (changed == NULL)
    return NULL;
  int used = snprintf(changed, size, has_arguments ? "%.*s%s, " : "%.*s(%s)", (int)cut, text, at);
  memcpy(changed + used, text + cut, length - cut);
  *far_length = (size_t)used + length - cut;
  changed[*far_length] = '\0';
  return changed;
}

size_t battery_cases(const struct spec *spec, bool quick, bool far, struct battery_case *cases,
                     size_t capacity)
{
  static const struct battery_case dense[] = {
      {.batch = 1, .queries = 1, .keys = 1},      {.batch = 2, .queries = 3, .keys = 7},
      {.batch = 2, .queries = 17, .keys = 9},     {.batch = 1, .queries = 0, .keys = 5},
      {.batch = 1, .queries = 5, .keys = 0},      {.batch = 0, .queries = 4, .keys = 4},
      {.batch = 1, .queries = 33, .keys = 65},    {.batch = 1, .queries = 113, .keys = 203},
      {.batch = 1, .queries = 1, .keys = 1024},   {.batch = 1, .queries = 799, .keys = 3},
      {.batch = 1, .queries = 257, .keys = 1023},
  };
  enum { QUICK = 7 };
  static const struct battery_case ragged[] = {
      {.batch = 5,
       .ragged = true,
       .query_lengths = {3, 0, 1, 17, 0},
       .key_lengths = {7, 0, 1, 33, 5}},
      {.batch = 3, .ragged = true, .query_lengths = {3, 2, 1}, .key_lengths = {0, 1, 4}},
      {.batch = 4,
       .ragged = true,
       .query_lengths = {1, 113, 0, 70},
       .key_lengths = {203, 113, 90, 1}},
  };
  static const struct battery_case distant[] = {
      {.batch = 2, .queries = 3, .keys = 7, .far = true},
      {.batch = 1, .queries = 37, .keys = 113, .far = true},
  };
  size_t count = 0;
  for (size_t k = 0;
       k < sizeof(dense) / sizeof(dense[0]) && (!quick || k < QUICK) && count < capacity; k++) {
    struct battery_case *c = &cases[count++];
    *c = dense[k];
    c->ragged = spec->cache.layout == CACHE_RAGGED;
    for (int64_t b = 0; b < c->batch; b++) {
      c->query_lengths[b] = c->queries;
      c->key_lengths[b] = c->keys;
    }
  }
  if (spec->cache.layout == CACHE_RAGGED)
    for (size_t k = 0; k < sizeof(ragged) / sizeof(ragged[0]) && count < capacity; k++)
      cases[count++] = ragged[k];
  else
    for (size_t k = 0; far && k < sizeof(distant) / sizeof(distant[0]) && count < capacity; k++)
      cases[count++] = distant[k];
  return count;
}

void battery_describe(const struct battery_case *c, char *text, size_t size)
{
  int used;
  if (!c->ragged) {
    used = snprintf(text, size, "B=%lld NQ=%lld NK=%lld", (long long)c->batch,
                    (long long)c->queries, (long long)c->keys);
  } else {
    used = snprintf(text, size, "lengths (NQ x NK)");
    for (int64_t b = 0; b < c->batch; b++)
      used += snprintf(text + used, size - (size_t)used, " %lldx%lld",
                       (long long)c->query_lengths[b], (long long)c->key_lengths[b]);
  }
  if (c->far)
    snprintf(text + used, size - (size_t)used, ", positions from 10^6");
}

/* FAR_ALIGN: the parameter or input that the offset is. */
static void move_away(struct workload *workload)
{
  const struct expr *offset = workload->spec->offset;
  if (battery_far(workload->spec) != FAR_ALIGN)
    return;
  if (offset->op == EXPR_PARAM) {
    workload->params[offset->value.i].i = BATTERY_FAR;
    return;
  }
  struct tensor *first = &workload->inputs[offset->value.i - EXPR_TENSOR_INPUT];
  for (int64_t n = 0; n < tensor_count(first); n++)
    tensor_set(first, n, BATTERY_FAR);
}

/* How many query heads the reference computes: whole groups, at least one. */
static uint32_t heads_within_budget(const struct workload *workload)
{
  const struct spec *spec = workload->spec;
  uint32_t group = spec->query_heads / spec->kv_heads;
  double pairs = 0;
  for (int64_t b = 0; b < workload->batch; b++)
    pairs += (double)workload_queries(workload, b) * (double)workload_keys(workload, b);
  double cost = 2 * pairs * (double)(spec->dim_qk + spec->dim_v + PAIR_COST) * group;
  uint32_t groups = cost * spec->kv_heads <= BUDGET ? spec->kv_heads : (uint32_t)(BUDGET / cost);
  return (groups < 1 ? 1 : groups) * group;
}

static void compare(struct workload *workload, struct battery_result *result)
{
  uint32_t heads = heads_within_budget(workload);
  bool good = compare_workload(workload, heads, &result->comparison);
  /* A formula may read another head's keys, which a reference of the first heads does not have. */
  if (good && result->comparison.fault.raised && heads != workload->spec->query_heads)
    good = compare_workload(workload, workload->spec->query_heads, &result->comparison);
  const struct expr_fault *fault = &result->comparison.fault;
  if (!good) {
    result->outcome = BATTERY_OUT_OF_MEMORY;
  } else if (fault->raised) {
    result->outcome = BATTERY_LEFT_OUT;
    const char *name = fault->tensor >= EXPR_TENSOR_INPUT
                           ? workload->spec->inputs[fault->tensor - EXPR_TENSOR_INPUT].name
                           : "q, k or v";
    snprintf(result->error, sizeof(result->error),
             "index %lld is outside dim %u of %s, which has %lld elements", (long long)fault->index,
             fault->dim, name, (long long)fault->size);
  } else if (result->status != ATTN_OK) {
    result->outcome = BATTERY_REFUSED;
  } else {
    result->outcome = result->comparison.ok ? BATTERY_OK : BATTERY_DIFFERS;
  }
}

static void launch(struct workload *workload, attn_program *program, attn_context *context,
                   pthread_mutex_t *lock, struct battery_result *result)
{
  if (lock != NULL)
    pthread_mutex_lock(lock);
  result->status = device_run(workload, program, context, result->error, sizeof(result->error));
  if (lock != NULL)
    pthread_mutex_unlock(lock);
}

static void run_once(const struct spec *spec, enum dtype type, attn_program *program,
                     attn_context *context, pthread_mutex_t *lock, const struct battery_case *c,
                     uint64_t seed, struct battery_result *result)
{
  struct workload workload;
  memset(result, 0, sizeof(*result));
  result->outcome = BATTERY_OUT_OF_MEMORY;
  workload_init(&workload, spec, type);
  for (uint32_t k = 0; k < spec->param_count; k++) {
    /* A parameter without a default is most often a size or a factor. */
    if (!workload.given[k] && spec->params[k].type == EXPR_FLOAT)
      workload.params[k].f = 1;
    else if (!workload.given[k])
      workload.params[k].i = 1;
    workload.given[k] = true;
  }
  workload.batch = c->batch;
  workload.queries = c->queries;
  workload.keys = c->keys;
  bool good = !workload.ragged ||
              workload_set_lengths(&workload, c->batch, c->query_lengths, c->key_lengths);
  if (good && workload_allocate(&workload) == EXIT_FINE) {
    random_fill(&workload, seed);
    if (c->far)
      move_away(&workload);
    launch(&workload, program, context, lock, result);
    if (result->status == ATTN_OK || result->status == ATTN_ERROR_FAULT)
      compare(&workload, result);
    else
      result->outcome = BATTERY_REFUSED;
  }
  workload_free(&workload);
}

/* The rule compares with what the naive evaluation happens to get wrong. In a slice of a few rows
 * that can be next to nothing, and then a result that is as good as another exceeds the bound. Such
 * luck does not last: what differs by a few units counts when it differs with other data too. */
static bool may_be_luck(const struct battery_result *result, enum dtype type,
                        const struct battery_case *c)
{
  enum { UNITS = 64, FEW_PAIRS = 4096 };
  const double unit = type == DTYPE_F32 ? 0x1p-24 : type == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
  const struct comparison *found = &result->comparison;
  return result->outcome == BATTERY_DIFFERS && !c->ragged && c->queries * c->keys <= FEW_PAIRS &&
         fabs(found->out - found->ref) <= UNITS * unit * fmax(1, fabs(found->ref));
}

void battery_run(const struct spec *spec, enum dtype type, attn_program *program,
                 attn_context *context, pthread_mutex_t *lock, const struct battery_case *c,
                 uint64_t seed, struct battery_result *result)
{
  enum { REPEATS = 2 };
  run_once(spec, type, program, context, lock, c, seed, result);
  for (uint64_t k = 1; k <= REPEATS && may_be_luck(result, type, c); k++)
    run_once(spec, type, program, context, lock, c, seed + (k << 32), result);
}
