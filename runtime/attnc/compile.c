/* attnc compile: a spec, or a tile program, to one of the stages of its compilation. */
#include <stdio.h>
#include <string.h>

#include "compiler/pipeline.h"
#include "runtime/attnc/common_options.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/launch_text.h"
#include "runtime/attnc/spec_print.h"
#include "runtime/attnc/target_options.h"

enum emit {
  EMIT_SPEC,
  EMIT_TILE,
  EMIT_LLVM,
  EMIT_ASM,
  EMIT_PTX,
  EMIT_OBJ,
  EMIT_HEADER, /* how PTX is launched */
  EMIT_JSON,
  EMIT_DEFAULT /* the target's code */
};

struct compile_request {
  const char *target, *kernel, *name, *output;
  int emit, type;
  bool timings, json, on_cache, packed;
  uint64_t queries;
  struct option_list sets, schedule;
};

struct compile_state {
  const struct compile_request *request;
  struct document document;
  const char *path;
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

static bool has_kernel_code(int emit)
{
  return emit == EMIT_PTX || emit == EMIT_HEADER || emit == EMIT_JSON;
}

/* What a target has no such stage of. */
static enum exit_status check_stage(const struct compile_request *request, enum target target)
{
  if (target == TARGET_HOST && has_kernel_code(request->emit))
    return fail_with(EXIT_USAGE,
                     "PTX, and how to launch it, is for GPUs; add --target sm_80, or --emit asm");
  if (target != TARGET_HOST && request->emit == EMIT_OBJ)
    return fail_with(EXIT_USAGE, "what a GPU's driver takes is PTX; --emit ptx, or leave it out");
  if (request->emit == EMIT_OBJ && request->output == NULL)
    return fail_with(
        EXIT_USAGE,
        "an object file needs a name: add -o FILE.o, or --emit tile, llvm or asm to read a stage");
  return EXIT_FINE;
}

static enum exit_status find_kernel(const char *name, enum kernel_kind *kernel)
{
  static const char *const names[] = {
      [KERNEL_FORWARD] = "forward", [KERNEL_DECODE] = "decode", [KERNEL_APPEND] = "append"};
  for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++)
    if (strcmp(name, names[k]) == 0) {
      *kernel = (enum kernel_kind)k;
      return EXIT_FINE;
    }
  if (strcmp(name, "backward") == 0)
    return fail_with(EXIT_MACHINE,
                     "kernel backward is not lowered yet; this version compiles forward, decode "
                     "and append");
  return fail_with(EXIT_USAGE, "there is no kernel '%s'; --kernel takes forward, decode or append",
                   name);
}

static enum exit_status check_request(const struct compile_request *request, bool is_tile)
{
  bool appends = strcmp(request->kernel, "append") == 0;
  if (request->packed && !request->on_cache && !appends)
    return fail_with(EXIT_USAGE,
                     "--packed goes with --cache or --kernel append; without a cache the "
                     "spec says `cache ragged`");
  if (is_tile && (request->on_cache || appends))
    return fail_with(EXIT_USAGE,
                     "a tile program is one kernel; --kernel and --cache are for specs");
  if (is_tile && request->emit == EMIT_SPEC)
    return fail_with(EXIT_USAGE,
                     "a tile program has no spec; --emit takes tile, llvm, asm, ptx or obj here");
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

/* The name that an attention has, or a tile program's file without folders and ending. */
static const char *program_name(struct compile_state *state)
{
  if (state->compiled->spec != NULL)
    return state->compiled->spec->name;
  const char *slash = strrchr(state->path, '/');
  const char *name = slash == NULL ? state->path : slash + 1;
  return arena_strndup(&state->document.arena, name, strcspn(name, "."));
}

static enum exit_status describe_launch(struct compile_state *state)
{
  struct arena *arena = &state->document.arena;
  int emit = state->request->emit;
  if (emit != EMIT_HEADER && emit != EMIT_JSON)
    return EXIT_FINE;
  if (arena_guard(arena))
    return fail_memory();
  const struct launch_text text = {arena, state->compiled, program_name(state)};
  state->printed = emit == EMIT_JSON ? launch_text_json(&text) : launch_text_header(&text);
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
  int emit = state->request->emit;
  enum compile_form form = emit == EMIT_LLVM                      ? COMPILE_LLVM
                           : emit == EMIT_ASM || emit == EMIT_PTX ? COMPILE_ASSEMBLY
                                                                  : COMPILE_OBJECT;
  const char *error = NULL;
  switch (compile_emit(&document->arena, state->compiled, form, &state->text, &error)) {
  case COMPILE_OK: return describe_launch(state);
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

static enum exit_status compile(struct compile_state *state, struct compile_request *request)
{
  const char *path = state->path;
  bool is_tile = is_tile_path(path);
  double start = now_ms();
  struct compile_options options = {.on_cache = request->on_cache,
                                    .packed_queries = request->packed,
                                    .queries = (uint32_t)request->queries};
  enum exit_status status = target_option(request->target, &options.target);
  if (status == EXIT_FINE)
    status = find_kernel(request->kernel, &options.kernel);
  if (status == EXIT_FINE)
    status = schedule_option(&request->schedule, options.target, &options.schedule);
  if (status == EXIT_FINE)
    status = check_request(request, is_tile);
  if (request->emit == EMIT_DEFAULT)
    request->emit = options.target == TARGET_HOST ? EMIT_OBJ : EMIT_PTX;
  if (status == EXIT_FINE)
    status = check_stage(request, options.target);
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
      .target = "host", .kernel = "forward", .emit = EMIT_DEFAULT, .type = DTYPE_ANY, .queries = 1};
  const struct option options[] = {
      {"target", 't', OPTION_TEXT, "TARGET",
       "what to compile for: host or sm_80 (see attnc targets)", &request.target, 0, 0},
      {"kernel", 'k', OPTION_TEXT, "KERNEL", "which kernel: forward, decode or append",
       &request.kernel, 0, 0},
      {"queries", 0, OPTION_NUMBER, "N", "decode: query rows that tiles are made for, by default 1",
       &request.queries, 1, 16},
      {"cache", 0, OPTION_FLAG, NULL,
       "forward, decode: k, v and cached inputs are read from a cache (docs/caches.md)",
       &request.on_cache, 0, 0},
      {"packed", 0, OPTION_FLAG, NULL,
       "with --cache, or append: sequences have different numbers of rows, with query_starts",
       &request.packed, 0, 0},
      {"emit", 'e', OPTION_CHOICE, "spec|tile|llvm|asm|ptx|obj|header|json",
       "the stage to write, by default obj or ptx; header, json: how PTX is launched",
       &request.emit, 0, 0},
      option_sets(&request.sets),
      option_schedule(&request.schedule),
      {"type", 0, OPTION_CHOICE, "any|f32|f16|bf16", "of a spec without a `type`; f32 by default",
       &request.type, 0, 0},
      option_attention(&request.name),
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
  struct compile_state state = {.request = &request, .path = argv[0]};
  status = compile(&state, &request);
  mem_free(state.text);
  if (state.compiled != NULL)
    mem_free(state.compiled->code);
  document_close(&state.document);
  return status;
}
