/* attnc run: computes a spec on tensors from files or on random ones. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/attnc/common_options.h"
#include "runtime/attnc/compare.h"
#include "runtime/attnc/device.h"
#include "runtime/attnc/json.h"
#include "runtime/attnc/prepare.h"
#include "runtime/attnc/tensor_file.h"
#include "runtime/attnc/visible.h"

enum { MAX_REPEAT = 1000000, DEFAULT_REPEAT = 5 };

struct run_request {
  const char *random, *output, *name;
  struct prepare_target target;
  int type;
  uint64_t seed, repeat, batch, head;
  bool compare, show_mask, json;
  struct option_list files, params, sets, schedule;
};

struct run_state {
  const struct run_request *request;
  struct document document;
  struct workload workload;
  struct tensor expected; /* the file's o; unused without a name */
  struct prepared prepared;
  double run_ms;
  uint64_t visible, pairs;
  struct comparison comparison;
  double expected_error, expected_scale;
};

static enum exit_status make_workload(struct run_state *state)
{
  const struct run_request *request = state->request;
  const struct prepare_request prepare = {.option = "random",
                                          .sizes = request->random,
                                          .files = &request->files,
                                          .params = &request->params,
                                          .name = request->name,
                                          .type = request->type,
                                          .seed = request->seed};
  enum exit_status status = prepare_spec(&state->workload, &state->document, &prepare);
  return status == EXIT_FINE ? prepare_tensors(&state->workload, &prepare, &state->expected)
                             : status;
}

static enum exit_status launch(struct run_state *state)
{
  size_t repeat = (size_t)state->request->repeat;
  double *times = mem_alloc_zeroed(repeat, sizeof(*times));
  if (times == NULL)
    return fail_memory();
  enum exit_status status = prepare_launches(&state->prepared, &state->workload, repeat, times);
  state->run_ms = median_of(times, repeat);
  mem_free(times);
  return status;
}

static enum exit_status compare_expected(struct run_state *state)
{
  const struct tensor *o = &state->workload.o;
  const struct tensor *expected = &state->expected;
  if (tensor_count(o) != tensor_count(expected))
    return fail_with(
        EXIT_WRONG,
        "the file's 'o' has %lld elements and the result %lld; leave it out of the file, or fix it",
        (long long)tensor_count(expected), (long long)tensor_count(o));
  for (int64_t n = 0; n < tensor_count(o); n++) {
    state->expected_error = fmax(state->expected_error, tensor_element_distance(o, expected, n));
    state->expected_scale = fmax(state->expected_scale, fabs(tensor_get(expected, n)));
  }
  return EXIT_FINE;
}

/* Differences are the table's to show; this fails only when there is nothing to show. */
static enum exit_status compare(struct run_state *state)
{
  bool talks = is_terminal(STDERR_FILENO);
  if (talks)
    fputs("computing the reference in float64 ...", stderr);
  bool good =
      compare_workload(&state->workload, state->workload.spec->query_heads, &state->comparison);
  if (talks)
    fputs("\r\033[K", stderr);
  if (!good)
    return fail_memory();
  const struct expr_fault *fault = &state->comparison.fault;
  if (fault->raised)
    return fail_with(
        EXIT_WRONG,
        "the reference found index %lld outside dim %u of an input, which has %lld elements",
        (long long)fault->index, fault->dim, (long long)fault->size);
  return state->expected.name != NULL ? compare_expected(state) : EXIT_FINE;
}

static double gflops(const struct run_state *state)
{
  const struct spec *spec = state->workload.spec;
  double operations = 2.0 * (double)state->visible * (double)(spec->dim_qk + spec->dim_v);
  return state->run_ms > 0 ? operations / state->run_ms * 1e-6 : 0;
}

static void print_shape(const struct tensor *tensor)
{
  printf("%-11s%s[", tensor->name, tensor_dtype_name(tensor->dtype));
  for (int d = 0; d < tensor->ndim; d++)
    printf("%s%lld", d > 0 ? ", " : "", (long long)tensor->shape[d]);
  printf("]\n");
}

static void print_comparison(const struct run_state *state)
{
  const struct comparison *result = &state->comparison;
  printf("%-11s%s: largest error %.2e", "reference", result->ok ? "PASS" : "FAIL",
         result->max_error);
  if (result->where[0] != '\0')
    printf(", at most %.2g of what the error rule allows", result->worst_ratio);
  if (result->near_ties > 0)
    printf(", %lld near ties left out", (long long)result->near_ties);
  if (result->nans > 0)
    printf(", %lld results NaN in the reference too", (long long)result->nans);
  printf("\n");
  if (!result->ok)
    printf("%-11s%s is %.9g, the reference says %.9g\n", "", result->where, result->out,
           result->ref);
  if (state->expected.name != NULL)
    printf("%-11slargest difference %.2e, where the largest |o| is %.3g\n", "file's o",
           state->expected_error, state->expected_scale);
}

static void print_table(const struct run_state *state)
{
  const struct workload *workload = &state->workload;
  const struct spec *spec = workload->spec;
  unsigned threads = attn_context_threads(state->prepared.context);
  char device[32];
  if (attn_context_device(state->prepared.context).device_type == kDLCPU)
    printf("%s on the CPU, %u thread%s\n", spec->name, threads, threads == 1 ? "" : "s");
  else
    printf("%s on %s\n", spec->name, device_text(state->prepared.context, device));
  print_shape(&workload->q);
  print_shape(&workload->k);
  if (!spec->value_is_key)
    print_shape(&workload->v);
  for (uint32_t k = 0; k < spec->input_count; k++)
    print_shape(&workload->inputs[k]);
  print_shape(&workload->o);
  for (uint32_t k = 0; k < spec->output_count; k++)
    print_shape(&workload->outputs[k]);
  printf("%-11s%.1f ms%s\n", "compile", state->prepared.compile_ms,
         state->prepared.from_cache ? ", from the code cache" : "");
  printf("%-11s%.3f ms (median of %llu)\n", "run", state->run_ms,
         (unsigned long long)state->request->repeat);
  printf("%-11s%.1f GFLOP/s over the visible pairs\n", "speed", gflops(state));
  printf("%-11s%.1f %% of %llu pairs\n", "visible",
         state->pairs > 0 ? 100.0 * (double)state->visible / (double)state->pairs : 0,
         (unsigned long long)state->pairs);
  if (state->request->compare)
    print_comparison(state);
}

static void json_shape(struct json *json, const struct tensor *tensor)
{
  json_open(json, NULL, '{');
  json_text(json, "name", tensor->name);
  json_text(json, "type", tensor_dtype_name(tensor->dtype));
  json_integers(json, "shape", tensor->shape, tensor->ndim);
  json_close(json, '}');
}

static void print_json(const struct run_state *state)
{
  const struct workload *workload = &state->workload;
  const struct spec *spec = workload->spec;
  struct json json = {.file = stdout};
  char device[32];
  json_open(&json, NULL, '{');
  json_text(&json, "name", spec->name);
  json_text(&json, "device", device_text(state->prepared.context, device));
  json_integer(&json, "threads", attn_context_threads(state->prepared.context));
  json_open(&json, "tensors", '[');
  json_shape(&json, &workload->q);
  json_shape(&json, &workload->k);
  if (!spec->value_is_key)
    json_shape(&json, &workload->v);
  for (uint32_t k = 0; k < spec->input_count; k++)
    json_shape(&json, &workload->inputs[k]);
  json_shape(&json, &workload->o);
  for (uint32_t k = 0; k < spec->output_count; k++)
    json_shape(&json, &workload->outputs[k]);
  json_close(&json, ']');
  json_number(&json, "compile_ms", state->prepared.compile_ms);
  json_bool(&json, "from_cache", state->prepared.from_cache);
  json_number(&json, "run_ms", state->run_ms);
  json_number(&json, "gflops", gflops(state));
  json_integer(&json, "visible", (int64_t)state->visible);
  json_integer(&json, "pairs", (int64_t)state->pairs);
  if (state->request->compare) {
    json_open(&json, "reference", '{');
    json_bool(&json, "ok", state->comparison.ok);
    json_number(&json, "max_error", state->comparison.max_error);
    json_number(&json, "worst_ratio", state->comparison.worst_ratio);
    json_integer(&json, "near_ties", state->comparison.near_ties);
    json_integer(&json, "nans", state->comparison.nans);
    json_text(&json, "worst_element", state->comparison.where);
    json_close(&json, '}');
    if (state->expected.name != NULL)
      json_number(&json, "expected_difference", state->expected_error);
  }
  json_close(&json, '}');
}

/* Before anything is computed. */
static enum exit_status check_picture(const struct run_state *state)
{
  const struct run_request *request = state->request;
  const struct workload *workload = &state->workload;
  if (!request->show_mask)
    return EXIT_FINE;
  if (request->batch >= (uint64_t)workload->batch)
    return fail_with(EXIT_USAGE, "--batch %llu: there are %lld sequences, counted from 0",
                     (unsigned long long)request->batch, (long long)workload->batch);
  if (request->head >= workload->spec->query_heads)
    return fail_with(EXIT_USAGE, "--head %llu: there are %u heads, counted from 0",
                     (unsigned long long)request->head, workload->spec->query_heads);
  return EXIT_FINE;
}

static enum exit_status show_mask(struct run_state *state)
{
  const struct run_request *request = state->request;
  printf("\n");
  bool good =
      visible_draw(&state->workload, (int64_t)request->batch, (int64_t)request->head, stdout);
  return good ? EXIT_FINE : fail_memory();
}

/* o and the outputs; a .npy file takes o alone. */
static enum exit_status write_results(const struct run_state *state)
{
  const struct workload *workload = &state->workload;
  struct tensor results[1 + SPEC_MAX_OUTPUTS] = {workload->o};
  size_t count = 1;
  enum tensor_format format;
  struct tensor_error error;
  bool only_o = tensor_format_of(state->request->output, &format) && format == TENSOR_FORMAT_NPY;
  for (uint32_t k = 0; k < workload->spec->output_count && !only_o; k++)
    results[count++] = workload->outputs[k];
  if (only_o && workload->spec->output_count > 0)
    complain("note: a .npy file holds one tensor, o; -o FILE.safetensors writes the outputs too");
  enum tensor_status status = tensor_file_write(state->request->output, results, count, &error);
  if (status == TENSOR_OK)
    return EXIT_FINE;
  complain("%s", error.text);
  return status == TENSOR_INVALID ? EXIT_WRONG : EXIT_MACHINE;
}

static enum exit_status run(struct run_state *state, const char *path)
{
  const struct run_request *request = state->request;
  enum exit_status status = document_open(&state->document, path, &request->sets, request->json);
  if (status == EXIT_FINE)
    status = make_workload(state);
  if (status == EXIT_FINE)
    status = check_picture(state);
  if (status == EXIT_FINE)
    status = prepare_program(&state->prepared, &state->workload, &state->document, &request->target,
                             request->json);
  if (status == EXIT_FINE)
    status = launch(state);
  if (status == EXIT_FINE && !visible_count(&state->workload, &state->visible, &state->pairs))
    status = fail_memory();
  if (status == EXIT_FINE && request->compare)
    status = compare(state);
  if (status != EXIT_FINE)
    return status;
  if (request->json)
    print_json(state);
  else
    print_table(state);
  if (request->show_mask && !request->json)
    status = show_mask(state);
  if (status == EXIT_FINE && request->output != NULL)
    status = write_results(state);
  if (status == EXIT_FINE && request->compare && !state->comparison.ok)
    status = EXIT_WRONG;
  return status;
}

enum exit_status command_run(int argc, char **argv)
{
  struct run_request request = {.repeat = DEFAULT_REPEAT, .target.device = "cpu"};
  const struct option options[] = {
      {"in", 'i', OPTION_LIST, "[NAME=]FILE", "tensors from a .safetensors or .npy file",
       &request.files, 0, 0},
      {"random", 'r', OPTION_TEXT, "B=1,NQ=512,NK=512", "random tensors of these sizes instead",
       &request.random, 0, 0},
      option_seed(&request.seed),
      option_params(&request.params),
      option_sets(&request.sets),
      option_tensor_type(&request.type),
      option_attention(&request.name),
      option_device(&request.target.device),
      option_threads(&request.target.threads),
      option_schedule(&request.schedule),
      {"repeat", 0, OPTION_NUMBER, "N", "timed launches after the first; 5 by default",
       &request.repeat, 1, MAX_REPEAT},
      {"compare", 'c', OPTION_FLAG, NULL, "compare with the reference; exit with 1 if it differs",
       &request.compare, 0, 0},
      {"show-mask", 'm', OPTION_FLAG, NULL, "draw the visible set", &request.show_mask, 0, 0},
      {"batch", 0, OPTION_NUMBER, "B", "the sequence to draw; 0 by default", &request.batch, 0,
       PREPARE_MAX_SIZE},
      {"head", 0, OPTION_NUMBER, "H", "the query head to draw; 0 by default", &request.head, 0,
       PREPARE_MAX_SIZE},
      {"output", 'o', OPTION_TEXT, "FILE", "write the results to a .safetensors or .npy file",
       &request.output, 0, 0},
      option_json(&request.json),
  };
  const struct usage usage = {
      .command = "run",
      .arguments = "SPEC (--in FILE... | --random SIZES) [options]",
      .summary = "Computes a spec and prints shapes, times and how much is visible.",
      .notes = "Tensors are found by name: q, k, v and the spec's inputs. With --compare a tensor "
               "called o in a file is\n"
               "compared with the result too.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = 1,
  };
  enum exit_status status;
  enum tensor_format format;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  status = schedule_option(&request.schedule, target_of_device(request.target.device),
                           &request.target.schedule);
  if (status != EXIT_FINE)
    return status;
  if (!prepare_has_source("run", "random", request.random, &request.files))
    return EXIT_USAGE;
  if (request.output != NULL && !tensor_format_of(request.output, &format))
    return fail_with(EXIT_USAGE, "-o %s: end the name with .safetensors or .npy", request.output);
  struct run_state state = {.request = &request};
  status = run(&state, argv[0]);
  prepared_free(&state.prepared);
  tensor_free(&state.expected);
  workload_free(&state.workload);
  document_close(&state.document);
  return status;
}
