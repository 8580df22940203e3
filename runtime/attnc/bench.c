/* attnc bench: how fast a spec runs, beside what the machine can do. */
#include <stdio.h>
#include <unistd.h>

#include "runtime/attnc/common_options.h"
#include "runtime/attnc/cost.h"
#include "runtime/attnc/device.h"
#include "runtime/attnc/json.h"
#include "runtime/attnc/peak.h"
#include "runtime/attnc/prepare.h"

enum { MAX_REPEAT = 1000000, DEFAULT_REPEAT = 20 };

struct bench_request {
  const char *shape, *name;
  struct prepare_target target;
  int type;
  uint64_t seed, repeat;
  bool json;
  struct option_list files, params, sets, schedule;
};

struct bench {
  const struct bench_request *request;
  struct document document;
  struct workload workload;
  struct prepared prepared;
  struct peak one, all;       /* of one thread, and of those that compute; not of a device */
  double least, median, most; /* milliseconds */
  double visible, pairs;
  bool sampled;
  struct cost cost;
};

static bool on_device(const struct bench *bench)
{
  return attn_context_device(bench->prepared.context).device_type != kDLCPU;
}

static enum exit_status measure_machine(struct bench *bench)
{
  bool talks = is_terminal(STDERR_FILENO);
  unsigned threads = attn_context_threads(bench->prepared.context);
  if (on_device(bench))
    return EXIT_FINE;
  if (talks)
    fputs("measuring the machine ...", stderr);
  bool good = peak_measure(1, &bench->one);
  bench->all = bench->one;
  if (good && threads > 1)
    good = peak_measure(threads, &bench->all);
  if (talks)
    fputs("\r\033[K", stderr);
  return good ? EXIT_FINE : fail_memory();
}

static enum exit_status launch(struct bench *bench)
{
  size_t repeat = (size_t)bench->request->repeat;
  double *times = mem_alloc_zeroed(repeat, sizeof(*times));
  if (times == NULL)
    return fail_memory();
  enum exit_status status = prepare_launches(&bench->prepared, &bench->workload, repeat, times);
  bench->least = times[0];
  bench->median = median_of(times, repeat);
  bench->most = times[repeat - 1];
  mem_free(times);
  return status;
}

/* Bytes that the call needs, whatever its tiles. */
static enum exit_status count(struct bench *bench)
{
  const struct tile_counts none = {0};
  const struct tile_size size = {1, 1};
  if (!visible_estimate(&bench->workload, &bench->visible, &bench->pairs, &bench->sampled))
    return fail_memory();
  return cost_of_call(&bench->workload, &none, &size, 1, &bench->cost) ? EXIT_FINE : EXIT_WRONG;
}

static double per_second(double amount, double ms)
{
  return ms > 0 ? amount / ms * 1e-6 : 0;
}

static void print_peak(const struct peak *peak)
{
  printf("%-11s%.1f GFLOP/s, %.1f GB/s, for %u thread%s\n", "machine", peak->gflops, peak->gbytes,
         peak->threads, peak->threads == 1 ? "" : "s");
}

static void print_share(const struct bench *bench, double share)
{
  if (!on_device(bench))
    printf(", %.1f %% of the machine's", 100 * share);
  printf("\n");
}

static void print_table(const struct bench *bench)
{
  const struct workload *workload = &bench->workload;
  double flops = cost_pair_flops(workload->spec) * bench->visible;
  double gflops = per_second(flops, bench->median);
  double gbytes = per_second(bench->cost.tensor_bytes, bench->median);
  char device[32], name[128];
  printf("%s, %s, B = %lld, NQ = %lld, NK = %lld, ", workload->spec->name,
         dtype_name(workload->type), (long long)workload->batch, (long long)workload->queries,
         (long long)workload->keys);
  if (on_device(bench)) {
    printf("%s, %s\n", device_text(bench->prepared.context, device),
           device_name(bench->prepared.context, name));
  } else {
    printf("%u thread%s\n", bench->all.threads, bench->all.threads == 1 ? "" : "s");
    print_peak(&bench->one);
    if (bench->all.threads > 1)
      print_peak(&bench->all);
  }
  printf("%-11s%.1f ms%s\n", "compile", bench->prepared.compile_ms,
         bench->prepared.from_cache ? ", from the code cache" : "");
  printf("%-11s%.4g ms median, %.4g ms least, %.4g ms most, of %llu\n", "run", bench->median,
         bench->least, bench->most, (unsigned long long)bench->request->repeat);
  printf("%-11s%s%.4g %% of %.0f pairs\n", "visible", bench->sampled ? "about " : "",
         bench->pairs > 0 ? 100 * bench->visible / bench->pairs : 0, bench->pairs);
  printf("%-11s%.1f GFLOP/s over the visible pairs", "compute", gflops);
  print_share(bench, gflops / bench->all.gflops);
  printf("%-11s%.2f GB/s with each tensor moved once", "memory", gbytes);
  print_share(bench, gbytes / bench->all.gbytes);
}

static void json_peak(struct json *json, const struct peak *peak)
{
  json_open(json, NULL, '{');
  json_integer(json, "threads", peak->threads);
  json_text(json, "vector", peak->vector);
  json_number(json, "gflops", peak->gflops);
  json_number(json, "gbytes", peak->gbytes);
  json_close(json, '}');
}

static void print_json(const struct bench *bench)
{
  const struct workload *workload = &bench->workload;
  struct json json = {.file = stdout};
  char device[32], name[128];
  double gflops = per_second(cost_pair_flops(workload->spec) * bench->visible, bench->median);
  double gbytes = per_second(bench->cost.tensor_bytes, bench->median);
  json_open(&json, NULL, '{');
  json_text(&json, "name", workload->spec->name);
  json_text(&json, "type", dtype_name(workload->type));
  json_integer(&json, "B", workload->batch);
  json_integer(&json, "NQ", workload->queries);
  json_integer(&json, "NK", workload->keys);
  json_text(&json, "device", device_text(bench->prepared.context, device));
  if (on_device(bench)) {
    json_text(&json, "device_name", device_name(bench->prepared.context, name));
  } else {
    json_integer(&json, "threads", bench->all.threads);
    json_open(&json, "machine", '[');
    json_peak(&json, &bench->one);
    if (bench->all.threads > 1)
      json_peak(&json, &bench->all);
    json_close(&json, ']');
  }
  json_number(&json, "compile_ms", bench->prepared.compile_ms);
  json_bool(&json, "from_cache", bench->prepared.from_cache);
  json_number(&json, "median_ms", bench->median);
  json_number(&json, "least_ms", bench->least);
  json_number(&json, "most_ms", bench->most);
  json_integer(&json, "repeat", (int64_t)bench->request->repeat);
  json_number(&json, "visible", bench->visible);
  json_bool(&json, "visible_estimated", bench->sampled);
  json_number(&json, "pairs", bench->pairs);
  json_number(&json, "tensor_bytes", bench->cost.tensor_bytes);
  json_number(&json, "gflops", gflops);
  if (!on_device(bench))
    json_number(&json, "share_of_gflops", gflops / bench->all.gflops);
  json_number(&json, "gbytes", gbytes);
  if (!on_device(bench))
    json_number(&json, "share_of_gbytes", gbytes / bench->all.gbytes);
  json_close(&json, '}');
}

static enum exit_status run(struct bench *bench, const char *path)
{
  const struct bench_request *request = bench->request;
  struct tensor expected = {0};
  const struct prepare_request prepare = {.option = "shape",
                                          .sizes = request->shape,
                                          .files = &request->files,
                                          .params = &request->params,
                                          .name = request->name,
                                          .type = request->type,
                                          .seed = request->seed};
  enum exit_status status = document_open(&bench->document, path, &request->sets, request->json);
  if (status == EXIT_FINE)
    status = prepare_spec(&bench->workload, &bench->document, &prepare);
  if (status == EXIT_FINE)
    status = prepare_tensors(&bench->workload, &prepare, &expected);
  tensor_free(&expected);
  if (status == EXIT_FINE)
    status = prepare_program(&bench->prepared, &bench->workload, &bench->document, &request->target,
                             request->json);
  if (status == EXIT_FINE)
    status = launch(bench);
  if (status == EXIT_FINE)
    status = count(bench);
  if (status == EXIT_FINE)
    status = measure_machine(bench);
  if (status == EXIT_FINE && request->json)
    print_json(bench);
  else if (status == EXIT_FINE)
    print_table(bench);
  return status;
}

enum exit_status command_bench(int argc, char **argv)
{
  struct bench_request request = {.repeat = DEFAULT_REPEAT, .target.device = "cpu"};
  const struct option options[] = {
      {"shape", 0, OPTION_TEXT, "B=1,NQ=512,NK=512", "random tensors of these sizes",
       &request.shape, 0, 0},
      {"in", 'i', OPTION_LIST, "[NAME=]FILE", "tensors from files instead", &request.files, 0, 0},
      option_seed(&request.seed),
      option_params(&request.params),
      option_sets(&request.sets),
      option_tensor_type(&request.type),
      option_attention(&request.name),
      option_device(&request.target.device),
      option_threads(&request.target.threads),
      option_schedule(&request.schedule),
      {"repeat", 0, OPTION_NUMBER, "N", "timed launches after the first; 20 by default",
       &request.repeat, 1, MAX_REPEAT},
      option_json(&request.json),
  };
  const struct usage usage = {
      .command = "bench",
      .arguments = "SPEC (--shape SIZES | --in FILE...) [options]",
      .summary = "Times a spec, and the machine's multiply-adds and memory beside it.",
      .notes = "k and v are tensors here; attnc decode times a spec on its cache.",
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
  if (!prepare_has_source("bench", "shape", request.shape, &request.files))
    return EXIT_USAGE;
  struct bench bench = {.request = &request};
  status = run(&bench, argv[0]);
  prepared_free(&bench.prepared);
  workload_free(&bench.workload);
  document_close(&bench.document);
  return status;
}
