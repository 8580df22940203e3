/* attnc decode: a sequence grows token by token in a cache, and what comes out is checked and
 * timed. */
#include "runtime/attnc/decode.h"
#include "runtime/attnc/common_options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/attnc/cost.h"
#include "runtime/attnc/device.h"
#include "runtime/attnc/json.h"

enum { DEFAULT_STEPS = 64, MOST_STEPS = 1 << 20, MOST_BATCH = 4096, MOST_ROWS = 4096 };

struct decode_request {
  uint64_t steps, prompt, shared_prefix, batch, rows, seed;
  const char *name;
  struct prepare_target target;
  int type;
  bool json, unchecked;
  struct option_list files, params, sets, schedule;
};

struct figures {
  struct peak peak;                      /* of the threads that compute; not of a device */
  double append_ms, launch_ms, apart_ms; /* medians */
  double token_bytes, held_bytes, tokens_per_second, gbytes;
};

static int compare_doubles(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Sorts. */
static double median(double *times, int64_t count)
{
  qsort(times, (size_t)count, sizeof(*times), compare_doubles);
  return median_of(times, (size_t)count);
}

static bool on_device(const struct decode *decode)
{
  return attn_context_device(decode->prepared.context).device_type != kDLCPU;
}

/* Bytes of the cache that the last step's rows read, were each read once: what `kept` tokens of
 * every sequence take. */
static enum exit_status gather(struct decode *decode, struct figures *f)
{
  const struct workload *whole = &decode->whole;
  *f = (struct figures){.append_ms = median(decode->append_ms, decode->steps),
                        .launch_ms = median(decode->launch_ms, decode->steps),
                        .apart_ms = median(decode->apart_ms, decode->steps)};
  uint32_t ring = cache_ring_tokens(whole->spec);
  double kept = (double)whole->keys;
  if (ring > 0 && ring < kept)
    kept = ring;
  f->token_bytes = cache_token_bytes(decode->plan, whole->type);
  f->held_bytes = (double)whole->batch *
                  (kept * f->token_bytes + cache_sequence_bytes(decode->plan, whole->type));
  f->held_bytes -= (double)((whole->batch - 1) * decode->shared_prefix) * f->token_bytes;
  f->tokens_per_second =
      (double)(whole->batch * decode->rows) / (f->append_ms + f->launch_ms) * 1e3;
  f->gbytes = f->held_bytes / f->launch_ms * 1e-6;
  if (on_device(decode))
    return EXIT_FINE;
  return peak_measure(attn_context_threads(decode->prepared.context), &f->peak) ? EXIT_FINE
                                                                                : fail_memory();
}

static const char *layout_text(const struct spec *spec)
{
  switch (cache_layout(spec)) {
  case CACHE_PAGED: return "paged";
  case CACHE_RING: return "ring";
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: break;
  }
  return "dense";
}

static const char *storage_text(const struct decode *decode, uint32_t source)
{
  const struct spec_storage *storage = cache_storage(decode->whole.spec, source);
  if (storage == NULL)
    return "a slice of k";
  bool own = storage->type == DTYPE_SPEC || storage->type == DTYPE_ANY;
  return dtype_name(own ? decode->whole.type : storage->type);
}

static void print_check(const struct decode *decode)
{
  const struct comparison *worst = &decode->comparison;
  if (decode->checked == 0) {
    printf("%-11snone: the angles of rotated and quantised keys read an input\n", "check");
    return;
  }
  printf("%-11s%s: largest error %.3g, %.2f of the bound, over %lld steps", "check",
         worst->ok ? "fine" : "WRONG", worst->max_error, worst->worst_ratio,
         (long long)decode->checked);
  if (worst->nans > 0)
    printf(", %lld results NaN in the reference too", (long long)worst->nans);
  printf("\n");
  if (!worst->ok)
    printf("%-11s%s is %.9g, the reference has %.9g\n", "", worst->where, worst->out, worst->ref);
  if (decode->no_prefill != NULL)
    printf("%-11snot compared: %s\n", "prefill", decode->no_prefill);
  else
    printf("%-11s%s: one launch on all tokens differs by %.3g at most\n", "prefill",
           decode_is_right(decode) || !worst->ok ? "fine" : "WRONG", decode->prefill_error);
}

static void print_table(const struct decode *decode, const struct figures *f)
{
  const struct workload *whole = &decode->whole;
  char device[32];
  printf("%s, %s, %s, %lld sequence%s of %lld tokens", whole->spec->name, dtype_name(whole->type),
         device_text(decode->prepared.context, device), (long long)whole->batch,
         whole->batch == 1 ? "" : "s", (long long)whole->keys);
  if (!on_device(decode))
    printf(", %u thread%s", f->peak.threads, f->peak.threads == 1 ? "" : "s");
  printf("\n%-11s%s, k in %s, v in %s, %.6g bytes a token, %.4g MB at the end\n", "cache",
         layout_text(whole->spec), storage_text(decode, EXPR_TENSOR_K),
         storage_text(decode, EXPR_TENSOR_V), f->token_bytes, f->held_bytes * 1e-6);
  if (decode->prompt > 0)
    printf("%-11s%lld tokens in %.4g ms\n", "prompt", (long long)decode->prompt, decode->prompt_ms);
  printf(
      "%-11s%lld of %lld token%s, median %.4g ms to append and %.4g ms to attend, %.5g tokens/s\n",
      "steps", (long long)decode->steps, (long long)decode->rows, decode->rows == 1 ? "" : "s",
      f->append_ms, f->launch_ms, f->tokens_per_second);
  if (decode->shared_prefix > 0)
    printf(
        "%-11s%lld tokens of all sequences; without, %.4g ms to attend, and o differs by %.3g at "
        "most\n",
        "shared", (long long)decode->shared_prefix, f->apart_ms, decode->sharing_error);
  printf("%-11s%.4g GB/s of the cache", "memory", f->gbytes);
  if (!on_device(decode))
    printf(", %.1f %% of the machine's %.1f", 100 * f->gbytes / f->peak.gbytes, f->peak.gbytes);
  printf("\n");
  if (decode->checks)
    print_check(decode);
}

static void print_json(const struct decode *decode, const struct figures *f)
{
  const struct workload *whole = &decode->whole;
  struct json json = {.file = stdout};
  char device[32];
  json_open(&json, NULL, '{');
  json_text(&json, "name", whole->spec->name);
  json_text(&json, "type", dtype_name(whole->type));
  json_text(&json, "device", device_text(decode->prepared.context, device));
  json_text(&json, "layout", layout_text(whole->spec));
  json_text(&json, "k", storage_text(decode, EXPR_TENSOR_K));
  json_text(&json, "v", storage_text(decode, EXPR_TENSOR_V));
  json_integer(&json, "B", whole->batch);
  json_integer(&json, "tokens", whole->keys);
  json_integer(&json, "prompt", decode->prompt);
  json_integer(&json, "steps", decode->steps);
  json_integer(&json, "rows", decode->rows);
  json_number(&json, "token_bytes", f->token_bytes);
  json_number(&json, "held_bytes", f->held_bytes);
  json_number(&json, "prompt_ms", decode->prompt_ms);
  json_number(&json, "append_ms", f->append_ms);
  json_number(&json, "launch_ms", f->launch_ms);
  if (decode->shared_prefix > 0) {
    json_integer(&json, "shared_prefix", decode->shared_prefix);
    json_number(&json, "apart_ms", f->apart_ms);
    json_number(&json, "sharing_error", decode->sharing_error);
  }
  json_number(&json, "tokens_per_second", f->tokens_per_second);
  json_number(&json, "gbytes", f->gbytes);
  if (!on_device(decode)) {
    json_integer(&json, "threads", f->peak.threads);
    json_number(&json, "machine_gbytes", f->peak.gbytes);
    json_number(&json, "machine_gflops", f->peak.gflops);
  }
  if (decode->checked > 0) {
    json_bool(&json, "ok", decode_is_right(decode));
    json_integer(&json, "checked", decode->checked);
    json_number(&json, "max_error", decode->comparison.max_error);
    json_number(&json, "worst_ratio", decode->comparison.worst_ratio);
    json_integer(&json, "nans", decode->comparison.nans);
    if (decode->no_prefill == NULL)
      json_number(&json, "prefill_error", decode->prefill_error);
  }
  json_close(&json, '}');
}

/* From the request, or from the files' q. */
static enum exit_status settle_sizes(struct decode *decode, const struct decode_request *request,
                                     struct prepare_request *prepare, char sizes[96])
{
  decode->rows = (int64_t)request->rows;
  decode->prompt = (int64_t)request->prompt;
  decode->steps = (int64_t)request->steps;
  decode->shared_prefix = (int64_t)request->shared_prefix;
  if (request->files.count > 0)
    return EXIT_FINE;
  int64_t tokens = decode->prompt + decode->steps * decode->rows;
  if (tokens > PREPARE_MAX_SIZE)
    return fail_with(EXIT_USAGE, "%lld tokens are more than %d; take fewer --steps",
                     (long long)tokens, PREPARE_MAX_SIZE);
  snprintf(sizes, 96, "B=%llu,NQ=%lld,NK=%lld", (unsigned long long)request->batch,
           (long long)tokens, (long long)tokens);
  prepare->sizes = sizes;
  return EXIT_FINE;
}

/* Of files: all tokens after the prompt are steps. */
static enum exit_status settle_steps(struct decode *decode, const struct decode_request *request)
{
  const struct workload *whole = &decode->whole;
  if (request->files.count == 0)
    return EXIT_FINE;
  if (whole->queries != whole->keys)
    return fail_with(EXIT_WRONG, "q has %lld tokens and k %lld; decoding takes one query a token",
                     (long long)whole->queries, (long long)whole->keys);
  int64_t left = whole->keys - decode->prompt;
  if (left < decode->rows || left % decode->rows != 0)
    return fail_with(EXIT_USAGE, "%lld tokens are not a prompt of %lld and steps of %lld",
                     (long long)whole->keys, (long long)decode->prompt, (long long)decode->rows);
  decode->steps = left / decode->rows;
  return EXIT_FINE;
}

/* Sequences grow alike here, each in slots of its own. */
static enum exit_status refuse_ragged(const struct spec *spec)
{
  if (spec->cache.layout != CACHE_RAGGED)
    return EXIT_FINE;
  return fail_with(EXIT_WRONG,
                   "'%s' takes packed sequences (cache ragged), which decode does not "
                   "make; give it cache dense or paged(page = 16)",
                   spec->name);
}

static enum exit_status run(struct decode *decode, struct document *document,
                            const struct decode_request *request, const char *path)
{
  struct tensor expected = {0};
  struct figures figures;
  char sizes[96];
  struct prepare_request prepare = {.option = "batch",
                                    .files = &request->files,
                                    .params = &request->params,
                                    .name = request->name,
                                    .type = request->type,
                                    .seed = request->seed};
  enum exit_status status = settle_sizes(decode, request, &prepare, sizes);
  if (status == EXIT_FINE)
    status = document_open(document, path, &request->sets, request->json);
  if (status == EXIT_FINE)
    status = prepare_spec(&decode->whole, document, &prepare);
  if (status == EXIT_FINE)
    status = refuse_ragged(decode->whole.spec);
  if (status == EXIT_FINE)
    status = prepare_tensors(&decode->whole, &prepare, &expected);
  tensor_free(&expected);
  if (status == EXIT_FINE)
    status = settle_steps(decode, request);
  if (status == EXIT_FINE)
    status = decode_share_check(decode);
  if (status == EXIT_FINE)
    status = prepare_program(&decode->prepared, &decode->whole, document, &request->target,
                             request->json);
  if (status == EXIT_FINE)
    status = decode_run(decode);
  if (status == EXIT_FINE)
    status = gather(decode, &figures);
  if (status != EXIT_FINE)
    return status;
  if (request->json)
    print_json(decode, &figures);
  else
    print_table(decode, &figures);
  return decode_is_right(decode) ? EXIT_FINE : EXIT_WRONG;
}

enum exit_status command_decode(int argc, char **argv)
{
  struct decode_request request = {
      .steps = DEFAULT_STEPS, .batch = 1, .rows = 1, .target.device = "cpu"};
  const struct option options[] = {
      {"steps", 0, OPTION_NUMBER, "N", "steps after the prompt; 64 by default", &request.steps, 1,
       MOST_STEPS},
      {"prompt", 0, OPTION_NUMBER, "N", "tokens that come at once before them; 0 by default",
       &request.prompt, 0, PREPARE_MAX_SIZE},
      {"shared-prefix", 0, OPTION_NUMBER, "N",
       "the first N tokens of the prompt are the same in all sequences, in pages that they share",
       &request.shared_prefix, 0, PREPARE_MAX_SIZE},
      {"batch", 'b', OPTION_NUMBER, "N", "sequences; 1 by default", &request.batch, 1, MOST_BATCH},
      {"rows", 0, OPTION_NUMBER, "N", "tokens of each step; 1 by default", &request.rows, 1,
       MOST_ROWS},
      {"in", 'i', OPTION_LIST, "[NAME=]FILE",
       "q, k, v and inputs of all tokens from files instead of random ones", &request.files, 0, 0},
      option_seed(&request.seed),
      option_params(&request.params),
      option_sets(&request.sets),
      option_tensor_type(&request.type),
      option_attention(&request.name),
      option_device(&request.target.device),
      option_threads(&request.target.threads),
      option_schedule(&request.schedule),
      {"no-check", 0, OPTION_FLAG, NULL, "do not compare with the reference", &request.unchecked, 0,
       0},
      option_json(&request.json),
  };
  const struct usage usage = {
      .command = "decode",
      .arguments = "SPEC [options]",
      .summary = "Generates step by step on a growing cache, and checks and times it.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = 1,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  status = schedule_option(&request.schedule, target_of_device(request.target.device),
                           &request.target.schedule);
  if (status != EXIT_FINE)
    return status;
  struct decode *decode = mem_alloc_zeroed(1, sizeof(*decode));
  if (decode == NULL)
    return fail_memory();
  struct document document = {0};
  decode->checks = !request.unchecked;
  status = run(decode, &document, &request, argv[0]);
  decode_free(decode);
  prepared_free(&decode->prepared);
  document_close(&document);
  mem_free(decode);
  return status;
}
