#include "tests/numeric/random_specs/trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/attnc/compare.h"
#include "runtime/attnc/decode.h"
#include "runtime/attnc/device.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/random.h"

/* A slice of few elements can have a naive result that is right by luck, which leaves the bound of
 * the rule at 1e-5 whatever the storage type. A difference counts at once where it is beyond luck,
 * otherwise when it shows with other data too. */
enum { LUCK_UNITS = 64, REPEATS = 5 };
enum { TIME_LIMIT_S = 20 };

void trial_limit_time(unsigned seconds)
{
  const struct itimerval limit = {.it_value = {.tv_sec = (time_t)seconds}};
  setitimer(ITIMER_PROF, &limit, NULL);
}

const char *trial_outcome_name(enum trial_outcome outcome)
{
  static const char *const names[] = {"agrees", "skipped", "faults", "refused",
                                      "broken", "differs", "crashed"};
  return names[outcome];
}

/* ---- data ---- */

/* Integers that are small, of both signs, and mostly near the sizes at hand. */
static void fill_integers(struct workload *workload, uint64_t seed)
{
  for (uint32_t k = 0; k < workload->spec->input_count; k++) {
    enum dtype type = workload->spec->inputs[k].type;
    struct tensor *tensor = &workload->inputs[k];
    if (type != DTYPE_I32 && type != DTYPE_I64 && type != DTYPE_U8)
      continue;
    uint64_t key = random_key(seed, tensor->name);
    for (int64_t n = 0; n < tensor_count(tensor); n++) {
      double value = (double)(random_bits(key, (uint64_t)n) % 12) - (type == DTYPE_U8 ? 0 : 3);
      tensor_set(tensor, n, value);
    }
  }
}

/* NaN and infinities in a tenth of the rows of q and k. */
static void poison(struct tensor *tensor, uint64_t seed)
{
  static const double values[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
  uint64_t key = random_key(seed, "poison");
  int64_t width = tensor->shape[tensor->ndim - 1];
  for (int64_t row = 0; row * width < tensor_count(tensor); row++) {
    uint64_t bits = random_bits(key, (uint64_t)row);
    if (bits % 10 == 0)
      tensor_set(tensor, row * width + (int64_t)(bits / 10 % (uint64_t)width),
                 values[bits / 1000 % 3]);
  }
}

static bool prepare(struct workload *workload, const struct trial_case *c)
{
  const struct trial_shape *shape = &c->shape;
  workload->batch = shape->batch;
  workload->queries = shape->queries[0];
  workload->keys = shape->keys[0];
  if (workload->ragged &&
      !workload_set_lengths(workload, shape->batch, shape->queries, shape->keys))
    return false;
  if (workload_allocate(workload) != EXIT_FINE)
    return false;
  random_fill(workload, c->data);
  fill_integers(workload, c->data);
  if (c->kinds && c->data % 2 == 0) {
    poison(&workload->q, c->data);
    if (!workload->spec->value_is_key) /* a value's NaN may reach rows that do not see it */
      poison(&workload->k, c->data + 1);
  }
  return true;
}

/* ---- one case ---- */

struct subject {
  const struct spec *spec;
  attn_context *context;
  attn_program *program;
};

static bool same_kind(double a, double b)
{
  if (isfinite(a) || isfinite(b))
    return isfinite(a) == isfinite(b);
  return isnan(a) ? isnan(b) : a == b;
}

static double unit(enum dtype type)
{
  return type == DTYPE_F32 ? 0x1p-23 : type == DTYPE_F16 ? 0x1p-10 : 0x1p-7;
}

static bool is_within(const struct comparison *comparison, enum dtype type, double units)
{
  if (!same_kind(comparison->out, comparison->ref))
    return false;
  double off = fabs(comparison->out - comparison->ref);
  return off <= units * unit(type) * fmax(fabs(comparison->ref), 0.25);
}

/* Kernels of a device round rotated vectors to a type of 16 bits, as the naive evaluation does. Its
 * other roundings cancel that in one row of two or three, too often for other data to tell. */
static bool is_rotary_rounding(const struct workload *workload, const struct comparison *comparison)
{
  return workload->device.device_type != kDLCPU && workload->spec->has_rotary &&
         workload->type != DTYPE_F32 && is_within(comparison, workload->type, 1);
}

static void judge(const struct workload *workload, const struct trial_case *c, attn_status status,
                  const struct comparison *comparison, struct trial_result *result)
{
  const struct expr_fault *fault = &comparison->fault;
  result->empty = comparison->visible == 0;
  if (fault->raised && status == ATTN_ERROR_FAULT) {
    result->outcome = TRIAL_FAULTS;
    return;
  }
  if (fault->raised) {
    result->outcome = TRIAL_DIFFERS;
    const char *name = fault->tensor >= EXPR_TENSOR_INPUT
                           ? workload->spec->inputs[fault->tensor - EXPR_TENSOR_INPUT].name
                           : "q, k or v";
    snprintf(result->text, sizeof(result->text),
             "the reference finds index %lld outside dim %u of %s, the launch says '%s'",
             (long long)fault->index, fault->dim, name, attn_status_text(status));
    return;
  }
  if (status != ATTN_OK) {
    result->outcome = TRIAL_BROKEN;
    return; /* the launch has said why */
  }
  bool kind = comparison->where[0] == '\0' || same_kind(comparison->out, comparison->ref);
  bool good = comparison->ok || (c->kinds && kind) || is_rotary_rounding(workload, comparison);
  result->outcome = good ? TRIAL_AGREES : TRIAL_DIFFERS;
  snprintf(result->text, sizeof(result->text), "%s is %.9g, the reference %.9g; error / bound %.3g",
           comparison->where, comparison->out, comparison->ref, comparison->worst_ratio);
}

static bool run_once(const struct subject *subject, const struct trial_case *c,
                     struct trial_result *result)
{
  const struct spec *spec = subject->spec;
  struct workload workload;
  struct comparison comparison;
  enum dtype type = spec->type == DTYPE_ANY ? c->type : spec->type;
  bool luck = false;
  workload_init(&workload, spec, type);
  result->outcome = TRIAL_BROKEN;
  snprintf(result->text, sizeof(result->text), "out of memory");
  if (prepare(&workload, c)) {
    attn_status status = device_run(&workload, subject->program, subject->context, result->text,
                                    sizeof(result->text));
    if (compare_workload(&workload, spec->query_heads, &comparison)) {
      judge(&workload, c, status, &comparison, result);
      luck = result->outcome == TRIAL_DIFFERS && status == ATTN_OK && !comparison.fault.raised &&
             is_within(&comparison, type, LUCK_UNITS);
    }
  }
  workload_free(&workload);
  return luck;
}

/* ---- one case on a cache ---- */

static bool prepare_steps(struct decode *decode, const struct trial_case *c)
{
  enum { MOST_STEPS = 6 };
  const struct trial_shape *shape = &c->shape;
  struct workload *whole = &decode->whole;
  int64_t tokens = shape->keys[0] > shape->queries[0] ? shape->keys[0] : shape->queries[0];
  tokens = tokens > 0 ? tokens : 1;
  decode->rows = 1 + (int64_t)(c->data / 16 % 3);
  decode->rows = tokens < decode->rows ? 1 : decode->rows;
  decode->steps = tokens / decode->rows < MOST_STEPS ? tokens / decode->rows : MOST_STEPS;
  decode->prompt = tokens - decode->steps * decode->rows;
  whole->batch = shape->batch;
  whole->queries = whole->keys = tokens;
  if (workload_allocate(whole) != EXIT_FINE)
    return false;
  random_fill(whole, c->data);
  fill_integers(whole, c->data);
  return true;
}

static void judge_steps(const struct decode *decode, const struct trial_case *c,
                        enum exit_status status, struct trial_result *result)
{
  if (status == EXIT_FINE && decode->checked > 0) {
    judge(&decode->whole, c, ATTN_OK, &decode->comparison, result);
    return;
  }
  bool lowered = strstr(decode->error, "not yet lowered") == NULL;
  result->outcome = decode->failed == ATTN_ERROR_FAULT                    ? TRIAL_FAULTS
                    : decode->failed == ATTN_ERROR_SPEC && !lowered       ? TRIAL_SKIPPED
                    : decode->failed != ATTN_OK || status == EXIT_MACHINE ? TRIAL_BROKEN
                                                                          : TRIAL_SKIPPED;
  snprintf(result->text, sizeof(result->text), "%s",
           decode->failed != ATTN_OK ? decode->error
                                     : "error[-]: not to be had in steps, or not to be checked");
}

static bool run_steps_once(const struct subject *subject, const struct trial_case *c,
                           struct trial_result *result)
{
  struct decode decode = {.prepared = {.context = subject->context, .program = subject->program},
                          .checks = true,
                          .quiet = true,
                          .no_prefill = "it may depend on how many tokens there are"};
  enum dtype type = subject->spec->type == DTYPE_ANY ? c->type : subject->spec->type;
  workload_init(&decode.whole, subject->spec, type);
  enum exit_status status = prepare_steps(&decode, c) ? decode_run(&decode) : EXIT_MACHINE;
  judge_steps(&decode, c, status, result);
  bool luck = result->outcome == TRIAL_DIFFERS && !decode.comparison.fault.raised &&
              is_within(&decode.comparison, type, LUCK_UNITS);
  decode_free(&decode);
  return luck;
}

/* ---- data that is right by luck ---- */

static bool run_this_once(const struct subject *subject, const struct trial_case *c,
                          struct trial_result *result)
{
  return c->on_cache ? run_steps_once(subject, c, result) : run_once(subject, c, result);
}

static void run_case(const struct subject *subject, const struct trial_case *c,
                     struct trial_result *result)
{
  struct trial_case again = *c;
  if (!run_this_once(subject, c, result))
    return;
  for (int k = 0; k < REPEATS; k++) {
    struct trial_result other = {0};
    again.data += 1000003; /* odd and even as before, see prepare */
    again.data += again.data % 2 != c->data % 2;
    run_this_once(subject, &again, &other);
    if (other.outcome == TRIAL_AGREES) {
      *result = other;
      return;
    }
  }
}

/* ---- a spec ---- */

static attn_type launch_type(enum dtype type)
{
  return type == DTYPE_F32 ? ATTN_TYPE_F32 : type == DTYPE_F16 ? ATTN_TYPE_F16 : ATTN_TYPE_BF16;
}

/* Every other spec in tiles of few keys, which launches of few rows are split among: their keys
 * would be a single part otherwise. */
static attn_status compile(attn_context *context, const char *text, const struct trial_case *c,
                           attn_program **program, struct trial_result *result)
{
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.type = launch_type(c->type);
  if (c->data / 16 % 2 == 1) {
    options.schedule.columns = 16;
    options.decode_part = 1;
    options.decode_tasks = UINT32_MAX;
  }
  options.error = result->text;
  options.error_size = sizeof(result->text);
  attn_status status = attn_compile(context, text, strlen(text), "random.attn", &options, program);
  if (status == ATTN_OK && !c->on_cache) /* steps compile what they need */
    status = attn_program_prepare(*program, options.type);
  if (status != ATTN_OK && result->text[0] == '\0')
    attn_context_error(context, result->text, sizeof(result->text));
  return status;
}

static size_t run_compiled(attn_context *context, attn_program *program, const char *text,
                           const struct trial_case *cases, size_t count,
                           struct trial_result *result)
{
  struct document document;
  struct option_list sets = {0};
  size_t n = 0;
  if (document_check(&document, "random.attn", text, strlen(text), &sets) == EXIT_FINE) {
    const struct subject subject = {document.file->specs.items[0], context, program};
    bool empty = true;
    do {
      result->text[0] = '\0';
      run_case(&subject, &cases[n], result);
      empty &= result->empty;
    } while (!trial_is_failure(result->outcome) && ++n < count);
    result->empty = empty;
  }
  document_close(&document);
  return n < count ? n : count - 1;
}

size_t trial_run(const char *device, const char *text, const struct trial_case *cases, size_t count,
                 struct trial_result *result)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  attn_context *context;
  attn_program *program = NULL;
  size_t last = 0;
  *result = (struct trial_result){.outcome = TRIAL_BROKEN};
  options.threads = 1;
  options.code_cache_directory = ""; /* no spec comes twice */
  options.device = device;
  options.error = result->text;
  options.error_size = sizeof(result->text);
  if (attn_context_create(&options, &context) != ATTN_OK)
    return 0;
  attn_status status = compile(context, text, &cases[0], &program, result);
  if (status == ATTN_OK)
    last = run_compiled(context, program, text, cases, count, result);
  else if (status == ATTN_ERROR_SPEC && strstr(result->text, "not yet lowered") != NULL)
    result->outcome = TRIAL_SKIPPED;
  else if (status == ATTN_ERROR_SPEC)
    result->outcome = TRIAL_REFUSED;
  attn_program_free(program);
  attn_context_free(context);
  return last;
}

void trial_run_apart(const char *device, const char *text, const struct trial_case *c,
                     struct trial_result *result)
{
  *result = (struct trial_result){.outcome = TRIAL_CRASHED, .text = "no process or memory"};
  struct trial_result *shared =
      mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED)
    return;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    trial_limit_time(TIME_LIMIT_S);
    trial_run(device, text, c, 1, shared);
    _exit(0);
  }
  int state;
  if (child > 0 && waitpid(child, &state, 0) == child) {
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0)
      *result = *shared;
    else
      snprintf(result->text, sizeof(result->text), WIFSIGNALED(state) ? "signal %d" : "status %d",
               WIFSIGNALED(state) ? WTERMSIG(state) : WEXITSTATUS(state));
  }
  munmap(shared, sizeof(*shared));
}

/* ---- cases as text ---- */

static size_t describe_lengths(const char *name, const int64_t *lengths, int64_t batch, char *text,
                               size_t size)
{
  int used = snprintf(text, size, ", %s", name);
  for (int64_t b = 0; b < batch; b++)
    used += snprintf(text + used, size - (size_t)used, " %lld", (long long)lengths[b]);
  return (size_t)used;
}

void trial_describe(const struct trial_case *c, char *text, size_t size)
{
  size_t used = (size_t)snprintf(text, size, "type %s, data %llu", dtype_name(c->type),
                                 (unsigned long long)c->data);
  used += describe_lengths("NQ", c->shape.queries, c->shape.batch, text + used, size - used);
  used += describe_lengths("NK", c->shape.keys, c->shape.batch, text + used, size - used);
  if (c->kinds || c->on_cache)
    snprintf(text + used, size - used, c->kinds ? ", kinds" : ", cache");
}

static const char *parse_lengths(const char *text, const char *name, int64_t *lengths,
                                 int64_t *count)
{
  const char *at = text == NULL ? NULL : strstr(text, name);
  *count = 0;
  for (at = at == NULL ? NULL : at + strlen(name); at != NULL && *at == ' ';) {
    char *end;
    if (*count == TRIAL_MAX_BATCH)
      return NULL;
    lengths[(*count)++] = strtoll(at, &end, 10);
    at = end == at ? NULL : end;
  }
  return at;
}

bool trial_parse(const char *text, struct trial_case *c)
{
  char type[8];
  unsigned long long data;
  int64_t keys;
  *c = (struct trial_case){0};
  if (sscanf(text, "type %7[a-z0-9], data %llu", type, &data) != 2)
    return false;
  c->data = data;
  c->type = strcmp(type, "f32") == 0   ? DTYPE_F32
            : strcmp(type, "f16") == 0 ? DTYPE_F16
                                       : DTYPE_BF16;
  const char *at = parse_lengths(text, ", NQ", c->shape.queries, &c->shape.batch);
  at = parse_lengths(at, ", NK", c->shape.keys, &keys);
  c->kinds = at != NULL && strncmp(at, ", kinds", 7) == 0;
  c->on_cache = at != NULL && strncmp(at, ", cache", 7) == 0;
  return at != NULL && keys == c->shape.batch;
}
