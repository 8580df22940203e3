#include "runtime/attnc/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/attnc/bind.h"
#include "runtime/attnc/device.h"
#include "runtime/attnc/random.h"

/* ---- sizes ---- */

static bool complain_of_sizes(const char *option, const char *name, const char *wrong)
{
  complain("--%s %s%s; it takes B=1,NQ=512,NK=512: sequences, queries and keys of each", option,
           name, wrong);
  return false;
}

/* B=2,NQ=512,NK=512 in any order; B is 1 and NK is NQ where they are left out. */
static bool parse_sizes(const struct prepare_request *request, int64_t sizes[3])
{
  static const char *const names[] = {"B", "NQ", "NK"};
  bool given[3] = {false, false, false};
  sizes[0] = 1;
  for (const char *at = request->sizes; *at != '\0';) {
    char part[64];
    char name[64];
    const char *value;
    uint64_t number;
    size_t length = strcspn(at, ",");
    size_t k = 0;
    snprintf(part, sizeof(part), "%.*s",
             length < sizeof(part) ? (int)length : (int)sizeof(part) - 1, at);
    if (strchr(part, '=') == NULL)
      return complain_of_sizes(request->option, part, " is no NAME=VALUE");
    if (!option_split(request->option, part, name, sizeof(name), &value))
      return false;
    while (k < 3 && strcmp(names[k], name) != 0)
      k++;
    if (k == 3)
      return complain_of_sizes(request->option, name, " is no size of a call");
    if (given[k])
      return complain_of_sizes(request->option, name, " is given twice");
    if (!parse_number(value, 0, PREPARE_MAX_SIZE, &number)) {
      complain("--%s %s takes a whole number from 0 to %d, not '%s'", request->option, name,
               PREPARE_MAX_SIZE, value);
      return false;
    }
    sizes[k] = (int64_t)number;
    given[k] = true;
    at += length + (at[length] == ',');
  }
  if (!given[1])
    return complain_of_sizes(request->option, "NQ", " is missing");
  if (!given[2])
    sizes[2] = sizes[1];
  return true;
}

bool prepare_has_source(const char *command, const char *option, const char *sizes,
                        const struct option_list *files)
{
  if (sizes != NULL && files->count > 0)
    complain("--%s and --in both say what %s takes; leave one out", option, command);
  else if (sizes == NULL && files->count == 0)
    complain("%s needs either --%s B=1,NQ=512,NK=512 or --in FILE", command, option);
  else
    return true;
  return false;
}

static enum exit_status set_sizes(struct workload *workload, const struct prepare_request *request)
{
  int64_t sizes[3];
  if (!parse_sizes(request, sizes))
    return EXIT_USAGE;
  workload->batch = sizes[0];
  workload->queries = sizes[1];
  workload->keys = sizes[2];
  if (workload->ragged && !random_lengths(workload, request->seed, sizes[0], sizes[1], sizes[2]))
    return fail_memory();
  return EXIT_FINE;
}

/* ---- tensors ---- */

enum exit_status prepare_spec(struct workload *workload, const struct document *document,
                              const struct prepare_request *request)
{
  const struct spec *spec = document_select(document, request->name);
  enum dtype type;
  if (spec == NULL || !document_type(spec, (enum dtype)request->type, &type))
    return EXIT_WRONG;
  workload_init(workload, spec, type);
  for (size_t k = 0; k < request->params->count; k++) {
    enum exit_status status = workload_set_param(workload, request->params->items[k]);
    if (status != EXIT_FINE)
      return status;
  }
  for (uint32_t k = 0; k < spec->param_count; k++)
    if (!workload->given[k])
      return fail_with(EXIT_USAGE, "parameter '%s' has no default; add --param %s=VALUE",
                       spec->params[k].name, spec->params[k].name);
  return EXIT_FINE;
}

enum exit_status prepare_tensors(struct workload *workload, const struct prepare_request *request,
                                 struct tensor *expected)
{
  enum exit_status status;
  *expected = (struct tensor){0};
  if (request->sizes == NULL) {
    const struct bind_request bind = {request->files, (enum dtype)request->type};
    status = bind_files(workload, &bind, expected);
    return status == EXIT_FINE ? workload_allocate(workload) : status;
  }
  status = set_sizes(workload, request);
  if (status == EXIT_FINE)
    status = workload_allocate(workload);
  if (status == EXIT_FINE)
    random_fill(workload, request->seed);
  return status;
}

/* Marks the inputs that the mask or the offset read, or that those inputs' indices read. */
static bool find_mask_inputs(const struct spec *spec, bool wanted[SPEC_MAX_INPUTS])
{
  const struct expr_pool *pool = spec->pool;
  uint32_t count = (spec->mask->id > spec->offset->id ? spec->mask->id : spec->offset->id) + 1;
  bool *reached = mem_alloc_zeroed(count, sizeof(*reached));
  if (reached == NULL)
    return false;
  reached[spec->mask->id] = true;
  reached[spec->offset->id] = true;
  for (uint32_t id = count; id-- > 0;) {
    const struct expr *e = pool->nodes.items[id];
    if (!reached[id])
      continue;
    if (e->op == EXPR_READ && e->value.i >= EXPR_TENSOR_INPUT)
      wanted[e->value.i - EXPR_TENSOR_INPUT] = true;
    for (uint32_t k = 0; k < e->arg_count; k++)
      reached[e->args[k]->id] = true;
  }
  mem_free(reached);
  return true;
}

enum exit_status prepare_mask(struct workload *workload, const struct prepare_request *request)
{
  struct tensor expected = {0};
  bool wanted[SPEC_MAX_INPUTS] = {false};
  if (request->sizes == NULL) {
    enum exit_status bound = prepare_tensors(workload, request, &expected);
    tensor_free(&expected);
    return bound;
  }
  enum exit_status status = set_sizes(workload, request);
  if (status == EXIT_FINE && !find_mask_inputs(workload->spec, wanted))
    status = fail_memory();
  for (uint32_t k = 0; k < workload->spec->input_count && status == EXIT_FINE; k++)
    if (wanted[k])
      status = workload_allocate_one(workload, WORKLOAD_INPUT, k);
  if (status != EXIT_FINE)
    return status;
  random_fill(workload, request->seed);
  const struct bind_request bind = {request->files, (enum dtype)request->type};
  return bind_inputs(workload, &bind, wanted);
}

/* ---- programs ---- */

enum exit_status prepare_context(const char *device, uint64_t threads, attn_context **context)
{
  char error[1024] = "";
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = device;
  options.threads = (unsigned)threads;
  options.error = error;
  options.error_size = sizeof(error);
  attn_status status = attn_context_create(&options, context);
  if (status == ATTN_OK)
    return EXIT_FINE;
  return fail_with(status == ATTN_ERROR_ARGUMENT ? EXIT_USAGE : exit_of_attn(status), "%s", error);
}

attn_compile_options prepare_compile(const struct document *document, const char *attention,
                                     enum dtype type, const struct schedule *schedule,
                                     attn_setting sets[OPTION_LIST_MAX])
{
  static const attn_type types[] = {
      [DTYPE_F32] = ATTN_TYPE_F32, [DTYPE_F16] = ATTN_TYPE_F16, [DTYPE_BF16] = ATTN_TYPE_BF16};
  for (size_t k = 0; k < document->set_count; k++)
    sets[k] = (attn_setting){document->sets[k].name, document->sets[k].value};
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.attention = attention;
  options.type = types[type];
  options.sets = sets;
  options.set_count = document->set_count;
  options.schedule = (attn_schedule){.rows = schedule->rows,
                                     .columns = schedule->columns,
                                     .lanes = schedule->lanes,
                                     .row_vectors = schedule->row_vectors,
                                     .column_registers = schedule->column_registers,
                                     .warps = schedule->warps,
                                     .column_warps = schedule->column_warps,
                                     .stages = schedule->stages};
  options.decode_tasks = schedule->tasks;
  options.decode_part = schedule->part;
  options.read_import = document_read_import;
  return options;
}

enum exit_status prepare_program(struct prepared *prepared, const struct workload *workload,
                                 const struct document *document,
                                 const struct prepare_target *target, bool json)
{
  char error[1024] = "";
  char *diagnostics = NULL;
  attn_setting sets[OPTION_LIST_MAX];
  *prepared = (struct prepared){0};
  enum exit_status created = prepare_context(target->device, target->threads, &prepared->context);
  if (created != EXIT_FINE)
    return created;
  attn_compile_options compile =
      prepare_compile(document, workload->spec->name, workload->type, &target->schedule, sets);
  compile.diagnostics = &diagnostics;
  compile.diagnostics_format = json            ? ATTN_DIAGNOSTICS_JSON
                               : wants_color() ? ATTN_DIAGNOSTICS_COLOR
                                               : ATTN_DIAGNOSTICS_TEXT;
  compile.error = error;
  compile.error_size = sizeof(error);
  double start = now_ms();
  attn_status status = attn_compile(prepared->context, document->text, document->length,
                                    document->name, &compile, &prepared->program);
  if (status == ATTN_OK)
    status = attn_program_prepare(prepared->program, compile.type);
  prepared->compile_ms = now_ms() - start;
  attn_timings stages;
  prepared->from_cache =
      status == ATTN_OK &&
      attn_program_timings(prepared->program, compile.type, &stages) == ATTN_OK &&
      stages.optimize == 0 && stages.emit == 0;
  if (status != ATTN_OK && diagnostics != NULL)
    fputs(diagnostics, json ? stdout : stderr);
  else if (status != ATTN_OK)
    complain("%s", error);
  /* Warnings were printed when the document was opened. */
  attn_text_free(diagnostics);
  return exit_of_attn(status);
}

void prepared_free(struct prepared *prepared)
{
  attn_program_free(prepared->program);
  attn_context_free(prepared->context);
  *prepared = (struct prepared){0};
}

static int compare_doubles(const void *a, const void *b)
{
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static attn_status time_launches(const struct prepared *prepared, struct workload *workload,
                                 struct device_timer *timer, size_t repeat, double *times,
                                 char *error, size_t size)
{
  bool talks = is_terminal(STDERR_FILENO);
  double shown = 0, ignored;
  attn_status status =
      device_timer_launch(timer, workload, prepared->program, &ignored, error, size);
  for (size_t k = 0; k < repeat && status == ATTN_OK; k++) {
    status = device_timer_launch(timer, workload, prepared->program, &times[k], error, size);
    double end = now_ms();
    if (talks && end - shown > 200) {
      fprintf(stderr, "\rlaunch %zu of %zu ...", k + 1, repeat);
      shown = end;
    }
  }
  if (shown > 0)
    fputs("\r\033[K", stderr);
  return status;
}

enum exit_status prepare_launches(const struct prepared *prepared, struct workload *workload,
                                  size_t repeat, double *times)
{
  char error[1024] = "";
  struct device_timer *timer = device_timer_new(prepared->context, error, sizeof(error));
  if (timer == NULL)
    return fail_with(EXIT_MACHINE, "%s", error);
  attn_status status = device_upload(workload, prepared->context, error, sizeof(error));
  if (status == ATTN_OK)
    status = time_launches(prepared, workload, timer, repeat, times, error, sizeof(error));
  if (status == ATTN_OK)
    status = device_download(workload, prepared->context, error, sizeof(error));
  device_release(workload, prepared->context);
  device_timer_free(timer);
  qsort(times, repeat, sizeof(*times), compare_doubles);
  if (status != ATTN_OK)
    complain("%s", error);
  return exit_of_attn(status);
}

double median_of(const double *sorted, size_t count)
{
  return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}
