/* attnc check: compiled code against the reference over a battery of shapes. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/attnc/battery.h"
#include "runtime/attnc/common_options.h"
#include "runtime/attnc/decode.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/json.h"
#include "runtime/attnc/prepare.h"
#include "runtime/threads.h"

enum { MAX_CASES = 32, SHOWN_FAILURES = 5 };

/* A text and what is made from it. Each worker has a document of its own, because evaluating a spec
 * adds to its pool. */
struct variant {
  const char *text;
  size_t length;
  struct document *documents; /* by worker */
  bool *opened;               /* by worker: checked, or tried to */
  attn_program *program;
};

struct check_request {
  int type;
  bool quick, json;
  uint64_t seed;
  struct option_list sets, schedule;
  const char *name;
  struct prepare_target target;
};

struct check_state {
  const struct check_request *request;
  const char *path;
  struct thread_pool *pool;
  attn_context *context;
  /* Held while a case is on the device, so that a fault is reported to the case that has it. NULL
   * on the CPU. */
  pthread_mutex_t *device_lock;
  struct json json;
  bool talks; /* progress on stderr */

  /* the attention and type at hand */
  const char *attention;
  enum dtype type;
  struct variant near, far;
  struct battery_case cases[MAX_CASES];
  struct battery_result results[MAX_CASES];
  size_t case_count;
  atomic_size_t done;
};

static void open_variant(struct check_state *state, struct variant *variant, const char *text,
                         size_t length)
{
  unsigned workers = thread_pool_count(state->pool);
  *variant = (struct variant){.text = text, .length = length};
  variant->documents = mem_alloc_zeroed(workers, sizeof(*variant->documents));
  variant->opened = mem_alloc_zeroed(workers, sizeof(*variant->opened));
}

static void close_variant(struct check_state *state, struct variant *variant)
{
  unsigned workers = thread_pool_count(state->pool);
  for (unsigned k = 0; k < workers && variant->opened != NULL && variant->documents != NULL; k++)
    if (variant->opened[k])
      document_close(&variant->documents[k]);
  mem_free(variant->documents);
  mem_free(variant->opened);
  attn_program_free(variant->program);
  *variant = (struct variant){0};
}

/* The worker's own spec; NULL when out of memory. */
static const struct spec *worker_spec(struct check_state *state, struct variant *variant,
                                      unsigned worker)
{
  struct document *document = &variant->documents[worker];
  if (!variant->opened[worker]) {
    variant->opened[worker] = true;
    document_check(document, state->path, variant->text, variant->length, &state->request->sets);
  }
  for (size_t k = 0; document->file != NULL && k < document->file->specs.count; k++)
    if (strcmp(document->file->specs.items[k]->name, state->attention) == 0)
      return document->file->specs.items[k];
  return NULL;
}

static void run_case(void *user, int64_t task, unsigned worker)
{
  struct check_state *state = user;
  /* The largest cases come last in the table; started first, the others fill the gaps. */
  size_t number = state->case_count - 1 - (size_t)task;
  const struct battery_case *c = &state->cases[number];
  struct battery_result *result = &state->results[number];
  struct variant *variant = c->far && state->far.program != NULL ? &state->far : &state->near;
  const struct spec *spec = worker_spec(state, variant, worker);
  if (spec == NULL)
    result->outcome = BATTERY_OUT_OF_MEMORY;
  else
    battery_run(spec, state->type, variant->program, state->context, state->device_lock, c,
                state->request->seed, result);
  size_t done = atomic_fetch_add(&state->done, 1) + 1;
  if (state->talks)
    fprintf(stderr, "\r\033[K%s %s %s %zu/%zu", state->path, state->attention,
            dtype_name(state->type), done, state->case_count);
}

/* Compiles a variant for the type at hand. `error`: why not. */
static attn_status compile_variant(struct check_state *state, struct variant *variant,
                                   const struct document *document, char *error, size_t size)
{
  attn_setting sets[OPTION_LIST_MAX];
  attn_compile_options options = prepare_compile(document, state->attention, state->type,
                                                 &state->request->target.schedule, sets);
  options.error = error;
  options.error_size = size;
  attn_status status = attn_compile(state->context, variant->text, variant->length, state->path,
                                    &options, &variant->program);
  return status == ATTN_OK ? attn_program_prepare(variant->program, options.type) : status;
}

struct summary {
  bool ok;
  size_t run, left_out;
  double worst_ratio;
  int64_t near_ties, nans;
};

static struct summary summarize(const struct check_state *state)
{
  struct summary summary = {.ok = true};
  for (size_t k = 0; k < state->case_count; k++) {
    const struct battery_result *result = &state->results[k];
    summary.left_out += result->outcome == BATTERY_LEFT_OUT;
    summary.run += result->outcome == BATTERY_OK || result->outcome == BATTERY_DIFFERS;
    summary.ok &= result->outcome == BATTERY_OK || result->outcome == BATTERY_LEFT_OUT;
    if (result->outcome != BATTERY_OK && result->outcome != BATTERY_DIFFERS)
      continue;
    summary.worst_ratio = fmax(summary.worst_ratio, result->comparison.worst_ratio);
    summary.near_ties += result->comparison.near_ties;
    summary.nans += result->comparison.nans;
  }
  return summary;
}

/* One line for a case that failed. */
static void describe_failure(const struct check_state *state, size_t number, char *text,
                             size_t size)
{
  const struct battery_result *result = &state->results[number];
  const struct comparison *comparison = &result->comparison;
  char shape[160];
  battery_describe(&state->cases[number], shape, sizeof(shape));
  switch (result->outcome) {
  case BATTERY_DIFFERS:
    snprintf(text, size,
             "%s: %s is %.9g, the reference says %.9g (%.3g of what the error rule allows)", shape,
             comparison->where, comparison->out, comparison->ref, comparison->worst_ratio);
    break;
  case BATTERY_REFUSED: snprintf(text, size, "%s: %s", shape, result->error); break;
  case BATTERY_LEFT_OUT: snprintf(text, size, "%s: left out: %s", shape, result->error); break;
  case BATTERY_OUT_OF_MEMORY: snprintf(text, size, "%s: out of memory", shape); break;
  case BATTERY_OK: snprintf(text, size, "%s: ok", shape); break;
  }
}

static void print_line(const struct check_state *state, const struct summary *summary, double ms)
{
  printf("%-4s %s: %s %s: %zu cases", summary->ok ? "ok" : "FAIL", state->path, state->attention,
         dtype_name(state->type), summary->run);
  if (summary->left_out > 0)
    printf(", %zu left out", summary->left_out);
  if (summary->nans > 0)
    printf(", %lld results NaN in the reference too", (long long)summary->nans);
  printf(", worst %.2f of the bound, %.1f s\n", summary->worst_ratio, ms * 1e-3);
  size_t failures = 0;
  for (size_t k = 0; k < state->case_count; k++) {
    char text[800];
    if (state->results[k].outcome == BATTERY_OK || state->results[k].outcome == BATTERY_LEFT_OUT)
      continue;
    describe_failure(state, k, text, sizeof(text));
    if (failures++ < SHOWN_FAILURES)
      printf("     %s\n", text);
  }
  if (failures > SHOWN_FAILURES)
    printf("     and %zu more\n", failures - SHOWN_FAILURES);
  fflush(stdout);
}

static void print_object(struct check_state *state, const struct summary *summary)
{
  struct json *json = &state->json;
  json_open(json, NULL, '{');
  json_text(json, "file", state->path);
  json_text(json, "name", state->attention);
  json_text(json, "type", dtype_name(state->type));
  json_bool(json, "ok", summary->ok);
  json_integer(json, "cases", (int64_t)summary->run);
  json_integer(json, "left_out", (int64_t)summary->left_out);
  json_integer(json, "near_ties", summary->near_ties);
  json_integer(json, "nans", summary->nans);
  json_number(json, "worst_ratio", summary->worst_ratio);
  json_open(json, "failures", '[');
  for (size_t k = 0; k < state->case_count; k++) {
    char text[800];
    if (state->results[k].outcome == BATTERY_OK || state->results[k].outcome == BATTERY_LEFT_OUT)
      continue;
    describe_failure(state, k, text, sizeof(text));
    json_text(json, NULL, text);
  }
  json_close(json, ']');
  json_close(json, '}');
}

static enum exit_status report(struct check_state *state, double ms)
{
  struct summary summary = summarize(state);
  if (state->talks)
    fputs("\r\033[K", stderr);
  if (state->request->json)
    print_object(state, &summary);
  else
    print_line(state, &summary, ms);
  for (size_t k = 0; k < state->case_count; k++)
    if (state->results[k].outcome == BATTERY_OUT_OF_MEMORY)
      return EXIT_MACHINE;
  return summary.ok ? EXIT_FINE : EXIT_WRONG;
}

static void print_cache_line(struct check_state *state, const struct decode *decode, double ms)
{
  const struct comparison *worst = &decode->comparison;
  bool ok = decode_is_right(decode);
  if (state->request->json) {
    struct json *json = &state->json;
    json_open(json, NULL, '{');
    json_text(json, "file", state->path);
    json_text(json, "name", state->attention);
    json_text(json, "type", dtype_name(state->type));
    json_bool(json, "cache", true);
    json_bool(json, "ok", ok);
    json_integer(json, "cases", decode->checked);
    json_number(json, "worst_ratio", worst->worst_ratio);
    json_integer(json, "nans", worst->nans);
    json_close(json, '}');
    return;
  }
  printf("%-4s %s: %s %s: cache, %lld steps", ok ? "ok" : "FAIL", state->path, state->attention,
         dtype_name(state->type), (long long)decode->checked);
  if (worst->nans > 0)
    printf(", %lld results NaN in the reference too", (long long)worst->nans);
  printf(", worst %.2f of the bound, %.1f s\n", worst->worst_ratio, ms * 1e-3);
  if (!worst->ok)
    printf("     %s is %.9g, the reference says %.9g\n", worst->where, worst->out, worst->ref);
  else if (!ok)
    printf("     one launch on all tokens differs by %.3g\n", decode->prefill_error);
}

/* The kernels that write and read the cache, where the spec has one. */
static enum exit_status check_cache(struct check_state *state, const struct spec *spec)
{
  const struct prepared prepared = {.context = state->context, .program = state->near.program};
  if (spec->cache.layout == CACHE_NONE || spec->cache.layout == CACHE_RAGGED)
    return EXIT_FINE;
  struct decode *decode = mem_alloc(sizeof(*decode));
  if (decode == NULL)
    return fail_memory();
  double start = now_ms();
  enum exit_status status =
      decode_try(decode, spec, state->type, &prepared, state->request->seed, state->request->quick);
  if (status == EXIT_FINE) {
    print_cache_line(state, decode, now_ms() - start);
    status = decode_is_right(decode) ? EXIT_FINE : EXIT_WRONG;
  } else {
    complain("%s: the cache of '%s' in %s was not checked", state->path, state->attention,
             dtype_name(state->type));
  }
  decode_free(decode);
  mem_free(decode);
  return status;
}

/* A spec that does not compile is one failure without a case. */
static enum exit_status report_refusal(struct check_state *state, attn_status status,
                                       const char *error)
{
  state->case_count = 0;
  if (!state->request->json) {
    size_t length = strlen(error);
    printf("FAIL %s: %s %s: it does not compile:\n%s%s", state->path, state->attention,
           dtype_name(state->type), error, length > 0 && error[length - 1] == '\n' ? "" : "\n");
    return exit_of_attn(status);
  }
  struct json *json = &state->json;
  json_open(json, NULL, '{');
  json_text(json, "file", state->path);
  json_text(json, "name", state->attention);
  json_text(json, "type", dtype_name(state->type));
  json_bool(json, "ok", false);
  json_text(json, "error", error);
  json_close(json, '}');
  return exit_of_attn(status);
}

static enum exit_status check_type(struct check_state *state, const struct document *document,
                                   const struct spec *spec, const char *far_text, size_t far_length)
{
  char error[1024] = "";
  double start = now_ms();
  enum exit_status status = EXIT_FINE;
  open_variant(state, &state->near, document->text, document->length);
  open_variant(state, &state->far, far_text, far_length);
  if (state->near.documents == NULL || state->near.opened == NULL || state->far.documents == NULL ||
      state->far.opened == NULL) {
    status = fail_memory();
  } else {
    attn_status compiled = compile_variant(state, &state->near, document, error, sizeof(error));
    bool far = battery_far(spec) == FAR_ALIGN;
    if (compiled == ATTN_OK && far_text != NULL) {
      char ignored[16]; /* a rotary with an `at` of its own cannot take another: then there is no
                           such case */
      far = compile_variant(state, &state->far, document, ignored, sizeof(ignored)) == ATTN_OK;
    }
    if (compiled != ATTN_OK) {
      status = report_refusal(state, compiled, error);
    } else {
      state->case_count = battery_cases(spec, state->request->quick, far, state->cases, MAX_CASES);
      atomic_store(&state->done, 0);
      thread_pool_run(state->pool, (int64_t)state->case_count, run_case, state);
      status = report(state, now_ms() - start);
      enum exit_status cache = check_cache(state, spec);
      status = cache > status ? cache : status;
    }
  }
  close_variant(state, &state->near);
  close_variant(state, &state->far);
  return status;
}

static enum exit_status check_spec(struct check_state *state, const struct document *document,
                                   const struct spec *spec)
{
  enum exit_status worst = EXIT_FINE;
  enum dtype wanted = (enum dtype)state->request->type;
  size_t far_length = 0;
  char *far_text = NULL;
  if (battery_far(spec) == FAR_ROTARY)
    far_text = battery_far_text(spec, document->text, document->length, &far_length);
  state->attention = spec->name;
  bool any = false;
  for (enum dtype type = DTYPE_F32; type <= DTYPE_BF16; type++) {
    if ((spec->type != DTYPE_ANY && spec->type != type) || (wanted != DTYPE_ANY && wanted != type))
      continue;
    any = true;
    state->type = type;
    enum exit_status status = check_type(state, document, spec, far_text, far_length);
    worst = status > worst ? status : worst;
  }
  if (!any)
    complain("%s: note: '%s' has type %s and is not checked with --type %s", state->path,
             spec->name, dtype_name(spec->type), dtype_name(wanted));
  mem_free(far_text);
  return worst;
}

static enum exit_status check_file(struct check_state *state, const char *path)
{
  struct document document;
  enum exit_status worst = document_open(&document, path, &state->request->sets, false);
  state->path = path;
  if (worst == EXIT_FINE && state->request->name != NULL) {
    const struct spec *spec = document_select(&document, state->request->name);
    worst = spec != NULL ? check_spec(state, &document, spec) : EXIT_WRONG;
  } else if (worst == EXIT_FINE) {
    if (document.file->specs.count == 0)
      complain("%s: note: it has no attention", path);
    for (size_t k = 0; k < document.file->specs.count; k++) {
      enum exit_status status = check_spec(state, &document, document.file->specs.items[k]);
      worst = status > worst ? status : worst;
    }
  }
  document_close(&document);
  return worst;
}

static enum exit_status check_all(struct check_state *state, int count, char **paths)
{
  char error[512] = "";
  unsigned threads;
  if (!thread_count_choose((unsigned)state->request->target.threads, getenv("ATTN_NUM_THREADS"),
                           &threads, error, sizeof(error)))
    return fail_with(EXIT_USAGE, "%s", error);
  enum exit_status worst = prepare_context(state->request->target.device, threads, &state->context);
  if (worst != EXIT_FINE)
    return worst;
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  if (attn_context_device(state->context).device_type != kDLCPU)
    state->device_lock = &lock;
  state->pool = thread_pool_new(threads);
  if (state->pool == NULL)
    return fail_memory();
  if (state->request->json)
    json_open(&state->json, NULL, '[');
  for (int k = 0; k < count; k++) {
    enum exit_status file = check_file(state, paths[k]);
    worst = file > worst ? file : worst;
  }
  if (state->request->json)
    json_close(&state->json, ']');
  return worst;
}

enum exit_status command_check(int argc, char **argv)
{
  struct check_request request = {.target.device = "cpu"};
  const struct option options[] = {
      {"type", 0, OPTION_CHOICE, "any|f32|f16|bf16", "check this type only", &request.type, 0, 0},
      {"quick", 'q', OPTION_FLAG, NULL, "small shapes only", &request.quick, 0, 0},
      option_seed(&request.seed),
      option_sets(&request.sets),
      {"name", 'n', OPTION_TEXT, "NAME", "check this attention only", &request.name, 0, 0},
      option_device(&request.target.device),
      option_threads(&request.target.threads),
      option_schedule(&request.schedule),
      option_json(&request.json),
  };
  const struct usage usage = {
      .command = "check",
      .arguments = "SPEC... [options]",
      .summary = "Compares the compiled code of every attention with a float64 evaluation, over "
                 "many shapes.",
      .notes = "The error rule, for each sequence and head: max|out - ref| <= 2 max|naive - ref| + "
               "1e-5 max|ref|, where\n"
               "naive evaluates the formula directly in the storage type.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = -1,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  status = schedule_option(&request.schedule, target_of_device(request.target.device),
                           &request.target.schedule);
  if (status != EXIT_FINE)
    return status;
  struct check_state *state = mem_alloc_zeroed(1, sizeof(*state));
  if (state == NULL)
    return fail_memory();
  state->request = &request;
  state->json.file = stdout;
  state->talks = is_terminal(STDERR_FILENO);
  status = check_all(state, argc, argv);
  thread_pool_free(state->pool);
  attn_context_free(state->context);
  mem_free(state);
  return status;
}
