/* attnc compile: a spec, or a tile program, to one of the stages of its compilation. */
#include <stdio.h>
#include <string.h>

#include "compiler/pipeline.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/spec_print.h"

enum emit { EMIT_SPEC, EMIT_TILE, EMIT_LLVM, EMIT_ASM, EMIT_OBJ };

struct compile_request {
  const char *target, *kernel, *name, *output;
  int emit, type;
  bool timings, json;
  struct option_list sets;
};

struct compile_state {
  const struct compile_request *request;
  struct document document;
  struct compiled *compiled;
  char *text; /* of a stage, allocated; or `printed`, in the arena */
  const char *printed;
};

/* What language the text of a file is in is told by its name alone. */
static bool is_tile_path(const char *path)
{
  size_t length = strlen(path);
  return length >= 5 && strcmp(path + length - 5, ".tile") == 0;
}

static enum exit_status check_request(const struct compile_request *request, bool is_tile)
{
  static const char *const planned_targets[] = {"sm_80", "sm_90a", "sm_100a"};
  static const char *const planned_kernels[] = {"decode", "append", "backward"};
  for (size_t k = 0; k < 3; k++) {
    if (strcmp(request->target, planned_targets[k]) == 0)
      return fail_with(EXIT_MACHINE, "target %s is not lowered yet; this version compiles for host",
                       request->target);
    if (strcmp(request->kernel, planned_kernels[k]) == 0)
      return fail_with(EXIT_MACHINE, "kernel %s is not lowered yet; this version compiles forward",
                       request->kernel);
  }
  if (strcmp(request->target, "host") != 0)
    return fail_with(EXIT_USAGE, "there is no target '%s'; attnc targets lists them",
                     request->target);
  if (strcmp(request->kernel, "forward") != 0)
    return fail_with(EXIT_USAGE, "there is no kernel '%s'; leave --kernel out or say forward",
                     request->kernel);
  if (request->emit == EMIT_OBJ && request->output == NULL)
    return fail_with(
        EXIT_USAGE,
        "an object file needs a name: add -o FILE.o, or --emit tile, llvm or asm to read a stage");
  if (is_tile && request->emit == EMIT_SPEC)
    return fail_with(EXIT_USAGE,
                     "a tile program has no spec; --emit takes tile, llvm, asm or obj here");
  if (is_tile && (request->name != NULL || request->sets.count > 0))
    return fail_with(EXIT_USAGE,
                     "a tile program has no attentions and parameters; leave --name and --set out");
  return EXIT_FINE;
}

/* Up to the tile program. */
static enum exit_status build_spec(struct compile_state *state, struct compile_options *options)
{
  const struct compile_request *request = state->request;
  struct document *document = &state->document;
  const struct spec *spec = document_select(document, request->name);
  if (spec == NULL || !document_type(spec, (enum dtype)request->type, &options->type))
    return EXIT_WRONG;
  if (arena_guard(&document->arena))
    return fail_memory();
  if (request->emit == EMIT_SPEC) {
    state->printed = spec_print(&document->arena, spec);
    return EXIT_FINE;
  }
  /* What was said about the text has been printed. */
  document->diagnostics.items.count = 0;
  document->diagnostics.warning_count = 0;
  state->compiled = compile_build(&document->arena, spec, options, &document->diagnostics);
  enum exit_status status = document_report(document, request->json);
  if (state->compiled == NULL && status == EXIT_FINE)
    return fail_with(EXIT_MACHINE, "attention '%s' could not be compiled", spec->name);
  return status;
}

static enum exit_status build_tile(struct compile_state *state, const char *path,
                                   const struct compile_options *options)
{
  struct document *document = &state->document;
  enum exit_status status;
  size_t length;
  double start = now_ms();
  char *volatile text = read_text(path, &length, &status); /* still there when memory runs out */
  document->read_ms = now_ms() - start;
  if (text == NULL)
    return status;
  arena_init(&document->arena);
  if (arena_guard(&document->arena)) {
    mem_free(text);
    return fail_memory();
  }
  source_set_init(&document->sources, &document->arena);
  diagnostics_init(&document->diagnostics, &document->arena, &document->sources);
  uint32_t source = source_add(&document->sources, path, text, length);
  mem_free(text);
  text = NULL;
  if (source == UINT32_MAX)
    return fail_with(
        EXIT_WRONG, "%s: it is larger than 16 MiB, which is no tile program; check the path", path);
  struct expr_pool *pool = ARENA_NEW(&document->arena, struct expr_pool);
  expr_pool_init(pool, &document->arena);
  start = now_ms();
  struct tile_program *program =
      tile_parse(&document->arena, pool, &document->sources, source, &document->diagnostics);
  document->check_ms = now_ms() - start;
  if (program == NULL)
    return document_report(document, state->request->json);
  const char *wrong = tile_verify(&document->arena, program);
  if (wrong != NULL)
    return fail_with(EXIT_WRONG, "%s: %s", path, wrong);
  state->compiled = compile_wrap(&document->arena, program, options);
  return EXIT_FINE;
}

static enum exit_status emit(struct compile_state *state)
{
  struct document *document = &state->document;
  if (state->printed != NULL)
    return EXIT_FINE;
  if (state->request->emit == EMIT_TILE) {
    if (arena_guard(&document->arena))
      return fail_memory();
    state->printed = tile_print(&document->arena, state->compiled->program);
    return EXIT_FINE;
  }
  enum compile_form form = state->request->emit == EMIT_LLVM  ? COMPILE_LLVM
                           : state->request->emit == EMIT_ASM ? COMPILE_ASSEMBLY
                                                              : COMPILE_OBJECT;
  const char *error = NULL;
  switch (compile_emit(&document->arena, state->compiled, form, &state->text, &error)) {
  case COMPILE_OK: return EXIT_FINE;
  case COMPILE_OUT_OF_MEMORY: return fail_memory();
  case COMPILE_UNAVAILABLE:
  case COMPILE_FAILED: break;
  }
  return fail_with(EXIT_MACHINE, "%s", error != NULL ? error : "the compiler failed");
}

static enum exit_status write_stage(const struct compile_state *state)
{
  const char *output = state->request->output;
  if (state->request->emit == EMIT_OBJ)
    return write_output(output, state->compiled->code, state->compiled->code_size);
  const char *text = state->text != NULL ? state->text : state->printed;
  return write_output(output, text, strlen(text));
}

static void print_timings(const struct compile_state *state, double total)
{
  const struct document *document = &state->document;
  struct compile_timings timings = {0};
  if (state->compiled != NULL)
    timings = state->compiled->timings;
  const struct {
    const char *stage;
    double ms;
  } rows[] = {{"read", document->read_ms}, {"check", document->check_ms},
              {"build", timings.build},    {"optimize", timings.optimize},
              {"emit", timings.emit},      {"total", total}};
  fflush(stdout);
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++)
    fprintf(stderr, "%-10s %8.2f ms\n", rows[k].stage, rows[k].ms);
}

static enum exit_status compile(struct compile_state *state, const char *path)
{
  const struct compile_request *request = state->request;
  bool is_tile = is_tile_path(path);
  double start = now_ms();
  enum exit_status status = check_request(request, is_tile);
  struct compile_options options = {.target = TARGET_HOST, .kernel = KERNEL_FORWARD};
  options.type = request->type == DTYPE_ANY ? DTYPE_F32 : (enum dtype)request->type;
  if (status == EXIT_FINE && is_tile)
    status = build_tile(state, path, &options);
  else if (status == EXIT_FINE)
    status = document_open(&state->document, path, &request->sets, request->json);
  if (status == EXIT_FINE && !is_tile)
    status = build_spec(state, &options);
  if (status == EXIT_FINE)
    status = emit(state);
  if (status == EXIT_FINE)
    status = write_stage(state);
  if (status == EXIT_FINE && request->timings)
    print_timings(state, now_ms() - start);
  return status;
}

enum exit_status command_compile(int argc, char **argv)
{
  struct compile_request request = {
      .target = "host", .kernel = "forward", .emit = EMIT_OBJ, .type = DTYPE_ANY};
  const struct option options[] = {
      {"target", 't', OPTION_TEXT, "TARGET", "what to compile for: host (see attnc targets)",
       &request.target, 0, 0},
      {"kernel", 'k', OPTION_TEXT, "KERNEL", "which kernel: forward", &request.kernel, 0, 0},
      {"emit", 'e', OPTION_CHOICE, "spec|tile|llvm|asm|obj", "the stage to write; obj by default",
       &request.emit, 0, 0},
      {"set", 's', OPTION_LIST, "NAME=VALUE", "a const parameter, or a new default of another",
       &request.sets, 0, 0},
      {"type", 0, OPTION_CHOICE, "any|f32|f16|bf16", "of a spec without a `type`; f32 by default",
       &request.type, 0, 0},
      {"name", 'n', OPTION_TEXT, "NAME", "which attention of the file; the first by default",
       &request.name, 0, 0},
      {"timings", 0, OPTION_FLAG, NULL, "print the time of each stage on stderr", &request.timings,
       0, 0},
      {"json", 0, OPTION_FLAG, NULL, "print errors of the spec as JSON on stdout", &request.json, 0,
       0},
      {"output", 'o', OPTION_TEXT, "FILE", "write there; stdout by default, but for obj",
       &request.output, 0, 0},
  };
  const struct usage usage = {
      .command = "compile",
      .arguments = "SPEC [options]",
      .summary = "Compiles a spec (FILE.attn, or - for stdin) or a tile program (FILE.tile), or "
                 "shows a stage of that.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = 1,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  struct compile_state state = {.request = &request};
  status = compile(&state, argv[0]);
  mem_free(state.text);
  if (state.compiled != NULL)
    mem_free(state.compiled->code);
  document_close(&state.document);
  return status;
}
