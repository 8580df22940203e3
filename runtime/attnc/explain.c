/* attnc explain: what a spec costs, and why it runs as it does. */
#include "runtime/attnc/explain.h"
#include "runtime/attnc/common_options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compiler/schedule/schedule.h"
#include "runtime/attnc/prepare.h"
#include "runtime/attnc/target_options.h"

enum { MAX_COMPARED = 64 };

/* ---- the tile program ---- */

static void find_products(struct explanation *x, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->region_count; k++)
      find_products(x, op->regions[k]);
    if (op->kind != TILE_PRODUCT)
      continue;
    const struct tile_type *a = &op->operands[0]->type, *o = &op->results[0]->type;
    const struct explain_product found = {.rows = o->rows,
                                          .inner = op->transpose_a ? a->rows : a->columns,
                                          .columns = o->columns,
                                          .over_keys = !op->transpose_b};
    size_t n = 0; /* both bodies of a walk have the same */
    while (n < x->product_count && memcmp(&x->products[n], &found, sizeof(found)) != 0)
      n++;
    if (n == x->product_count && n < EXPLAIN_MAX_PRODUCTS)
      x->products[x->product_count++] = found;
  }
}

/* The heads that share a tile: those that a load of q interleaves. */
static uint32_t find_share(const struct tile_kernel *kernel, const struct tile_region *region)
{
  uint32_t share = 1;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_LOAD && kernel->tensors.items[op->access.tensor].role == TILE_ROLE_QUERY &&
        op->access.row_group > share)
      share = op->access.row_group;
    for (uint32_t k = 0; k < op->region_count; k++) {
      uint32_t inner = find_share(kernel, op->regions[k]);
      share = inner > share ? inner : share;
    }
  }
  return share;
}

static enum exit_status assemble(struct explanation *x)
{
  struct arena *arena = &x->document.arena;
  if (arena_guard(arena))
    return fail_memory();
  const char *message = NULL;
  switch (ptxas_run(arena, (const char *)x->compiled->code,
                    target_name(x->compiled->options.target), &x->assembled, &message)) {
  case PTXAS_OK:
  case PTXAS_MISSING: return EXIT_FINE;
  case PTXAS_FAILED: break;
  }
  return fail_with(EXIT_MACHINE, "ptxas does not take the code: %s", message);
}

static enum exit_status generate(struct explanation *x)
{
  const char *error = NULL;
  char *text = NULL;
  switch (compile_emit(&x->document.arena, x->compiled, COMPILE_OBJECT, &text, &error)) {
  case COMPILE_OK: break;
  case COMPILE_OUT_OF_MEMORY: return fail_memory();
  case COMPILE_UNAVAILABLE:
  case COMPILE_FAILED: return fail_with(EXIT_MACHINE, "%s", error);
  }
  for (size_t k = 0; k < x->compiled->kernels.count; k++)
    if (x->compiled->kernels.items[k].scratch_bytes > x->scratch_bytes)
      x->scratch_bytes = x->compiled->kernels.items[k].scratch_bytes;
  return x->compiled->options.target == TARGET_HOST ? EXIT_FINE : assemble(x);
}

/* What a launch of one row runs; `options` are those of the forward kernel. */
static void build_decode(struct explanation *x, struct compile_options options)
{
  struct diagnostics said;
  diagnostics_init(&said, &x->document.arena, &x->document.sources);
  options.kernel = KERNEL_DECODE;
  options.queries = decode_queries(x->spec, x->target, 1);
  const struct compiled *compiled =
      options.queries == 0 ? NULL : compile_build(&x->document.arena, x->spec, &options, &said);
  if (compiled == NULL)
    return;
  x->decode_queries = options.queries;
  x->decode = compiled->options.schedule;
  for (size_t k = 0; k < compiled->kernels.count; k++)
    x->decode_splits |= strcmp(compiled->kernels.items[k].tile->name, "merge") == 0;
}

static enum exit_status build(struct explanation *x)
{
  struct arena *arena = &x->document.arena;
  struct diagnostics said;
  if (arena_guard(arena))
    return fail_memory();
  const struct compile_options options = {.target = x->target,
                                          .kernel = KERNEL_FORWARD,
                                          .type = x->workload.type,
                                          .schedule = x->schedule};
  diagnostics_init(&said, arena, &x->document.sources);
  x->visibility = visibility_analyze(arena, x->spec);
  x->guard_count = bounds_guards(bounds_new(arena, x->spec), &x->guards);
  x->compiled = compile_build(arena, x->spec, &options, &said);
  x->share = 1;
  if (x->compiled == NULL) {
    x->not_lowered = said.items.count > 0 ? said.items.items[0].message : "not lowered";
    x->schedule = x->table = schedule_choose(x->spec, &options);
    return EXIT_FINE;
  }
  x->schedule = x->compiled->options.schedule;
  for (size_t k = 0; k < x->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = x->compiled->kernels.items[k].tile;
    uint32_t share = find_share(kernel, kernel->body);
    x->share = share > x->share ? share : x->share;
    find_products(x, kernel->body);
  }
  x->table = schedule_choose(x->spec, &options);
  x->table.rows -= x->table.rows % x->share;
  build_decode(x, options);
  return EXIT_FINE;
}

/* ---- the call ---- */

static enum exit_status count(struct explanation *x)
{
  x->size = (struct tile_size){x->schedule.rows / x->share, x->schedule.columns};
  if (!tiles_count(&x->workload, &x->size, &x->counts) ||
      !visible_estimate(&x->workload, &x->visible, &x->pairs, &x->visible_sampled))
    return fail_memory();
  return cost_of_call(&x->workload, &x->counts, &x->size, x->share, &x->cost) ? EXIT_FINE
                                                                              : EXIT_WRONG;
}

enum exit_status explain_open(struct explanation *x, const struct explain_request *request,
                              const char *path, const struct peak *peak)
{
  *x = (struct explanation){.request = request};
  if (peak != NULL)
    x->peak = *peak;
  const struct prepare_request prepare = {.option = "shape",
                                          .sizes = request->shape,
                                          .files = &request->files,
                                          .params = &request->params,
                                          .name = request->name,
                                          .type = request->type,
                                          .seed = request->seed};
  enum exit_status status =
      target_option(request->target != NULL ? request->target : "host", &x->target);
  if (status == EXIT_FINE)
    status = schedule_option(&request->schedule, x->target, &x->schedule);
  if (status == EXIT_FINE)
    status = document_open(&x->document, path, &request->sets, request->json);
  if (status == EXIT_FINE)
    status = prepare_spec(&x->workload, &x->document, &prepare);
  if (status != EXIT_FINE)
    return status;
  x->spec = x->workload.spec;
  if (x->spec->type == DTYPE_ANY && request->type == DTYPE_ANY)
    x->workload.type = DTYPE_F16; /* what is stored, rather than what the host likes best */
  status = build(x);
  if (status == EXIT_FINE && request->compile && x->compiled != NULL)
    status = generate(x);
  if (status != EXIT_FINE || (request->shape == NULL && request->files.count == 0))
    return status;
  struct tensor expected = {0};
  status = request->tensors ? prepare_tensors(&x->workload, &prepare, &expected)
                            : prepare_mask(&x->workload, &prepare);
  tensor_free(&expected);
  return status == EXIT_FINE ? count(x) : status;
}

void explain_close(struct explanation *x)
{
  if (x->compiled != NULL)
    mem_free(x->compiled->code);
  workload_free(&x->workload);
  document_close(&x->document);
}

/* ---- the machine ---- */

static bool parse_figure(const char *option, const char *text, double *figure)
{
  char *end;
  if (text == NULL)
    return true;
  *figure = strtod(text, &end);
  if (end != text && *end == '\0' && isfinite(*figure) && *figure > 0)
    return true;
  complain("--%s takes a number above 0, not '%s'", option, text);
  return false;
}

static enum exit_status find_machine(const struct explain_request *request, struct peak *peak)
{
  *peak = (struct peak){0};
  if (!parse_figure("gflops", request->gflops, &peak->gflops) ||
      !parse_figure("bandwidth", request->bandwidth, &peak->gbytes))
    return EXIT_USAGE;
  if ((peak->gflops > 0) != (peak->gbytes > 0))
    return fail_with(EXIT_USAGE, "--gflops and --bandwidth belong together; add the other one, or "
                                 "--measure instead");
  if (request->measure && peak->gflops > 0)
    return fail_with(EXIT_USAGE, "--measure finds the figures that --gflops and --bandwidth give; "
                                 "leave one out");
  if (!request->measure)
    return EXIT_FINE;
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  unsigned threads = request->threads > 0 ? (unsigned)request->threads : (unsigned)processors;
  return peak_measure(threads, peak) ? EXIT_FINE : fail_memory();
}

static enum exit_status explain(const struct explain_request *request, char **paths, size_t count)
{
  struct peak peak;
  enum exit_status status = find_machine(request, &peak);
  if (status != EXIT_FINE)
    return status;
  struct explanation *all = mem_alloc_zeroed(count, sizeof(*all));
  if (all == NULL)
    return fail_memory();
  size_t opened = 0;
  while (opened < count && status == EXIT_FINE)
    status = explain_open(&all[opened], request, paths[opened], &peak), opened++;
  if (status == EXIT_FINE && request->compare) {
    status = explain_compare(all, count);
  } else if (status == EXIT_FINE && request->json) {
    struct json json = {.file = stdout};
    status = explain_json(&all[0], &json) ? EXIT_FINE : fail_memory();
  } else if (status == EXIT_FINE) {
    status = explain_print(&all[0], stdout) ? EXIT_FINE : fail_memory();
  }
  while (opened > 0)
    explain_close(&all[--opened]);
  mem_free(all);
  return status;
}

enum exit_status command_explain(int argc, char **argv)
{
  struct explain_request request = {.layers = 1};
  const struct option options[] = {
      {"target", 't', OPTION_TEXT, "TARGET", "what it is compiled for: host or sm_80",
       &request.target, 0, 0},
      option_schedule(&request.schedule),
      {"shape", 0, OPTION_TEXT, "B=1,NQ=512,NK=512", "sizes to count tiles, FLOPs and bytes for",
       &request.shape, 0, 0},
      {"in", 'i', OPTION_LIST, "[NAME=]FILE", "inputs of the mask; sizes too, without --shape",
       &request.files, 0, 0},
      {"seed", 0, OPTION_NUMBER, "N", "of the inputs that no file has; 0 by default", &request.seed,
       0, UINT64_MAX},
      option_params(&request.params),
      option_sets(&request.sets),
      {"type", 0, OPTION_CHOICE, "any|f32|f16|bf16", "of a spec without a `type`; f16 by default",
       &request.type, 0, 0},
      option_attention(&request.name),
      {"context", 0, OPTION_NUMBER, "TOKENS", "size of the cache for so many tokens",
       &request.context, 0, UINT64_C(1) << 40},
      {"layers", 0, OPTION_NUMBER, "N", "and for so many layers; 1 by default", &request.layers, 1,
       1000000},
      {"measure", 0, OPTION_FLAG, NULL, "measure what this machine can do, to tell what bounds",
       &request.measure, 0, 0},
      {"threads", 0, OPTION_NUMBER, "N", "threads that measure; all processors by default",
       &request.threads, 1, 1024},
      {"gflops", 0, OPTION_TEXT, "X", "a machine's GFLOP/s, instead of measuring", &request.gflops,
       0, 0},
      {"bandwidth", 0, OPTION_TEXT, "X", "its GB/s of memory", &request.bandwidth, 0, 0},
      {"compile", 0, OPTION_FLAG, NULL, "generate code too, to tell its size and working memory",
       &request.compile, 0, 0},
      {"compare", 'c', OPTION_FLAG, NULL, "several specs in one table", &request.compare, 0, 0},
      {"output", 'o', OPTION_TEXT, "FILE.png", "with --compare: a bar chart", &request.output, 0,
       0},
      option_json(&request.json),
  };
  const struct usage usage = {
      .command = "explain",
      .arguments = "SPEC... [options]",
      .summary = "Tells what a spec costs, how it is scheduled and what its cache takes.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = MAX_COMPARED,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  if (argc > 1 && !request.compare)
    return fail_with(EXIT_USAGE, "explain takes one spec; add --compare for a table of several");
  if (request.output != NULL && !request.compare)
    return fail_with(EXIT_USAGE, "-o is the chart of --compare; add that, or leave -o out");
  return explain(&request, argv, (size_t)argc);
}
