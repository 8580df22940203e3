#include "runtime/unit.h"

#include "runtime/unit_load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum dtype dtype_of_attn(attn_type type)
{
  switch (type) {
  case ATTN_TYPE_F32: return DTYPE_F32;
  case ATTN_TYPE_F16: return DTYPE_F16;
  case ATTN_TYPE_BF16: return DTYPE_BF16;
  case ATTN_TYPE_I32: return DTYPE_I32;
  case ATTN_TYPE_I64: return DTYPE_I64;
  case ATTN_TYPE_U8: return DTYPE_U8;
  case ATTN_TYPE_BOOL: return DTYPE_BOOL;
  case ATTN_TYPE_I8: return DTYPE_I8;
  case ATTN_TYPE_ANY: break;
  }
  return DTYPE_ANY;
}

attn_type attn_of_dtype(enum dtype type)
{
  for (int n = ATTN_TYPE_F32; n <= ATTN_TYPE_I8; n++) {
    if (dtype_of_attn((attn_type)n) == type)
      return (attn_type)n;
  }
  return ATTN_TYPE_ANY;
}

static double milliseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* ---- life ---- */

static struct unit *unit_new(void)
{
  struct unit *unit = mem_alloc_zeroed(1, sizeof(*unit));
  if (unit == NULL)
    return NULL;
  atomic_init(&unit->references, 1);
  arena_init(&unit->arena);
  pthread_mutex_init(&unit->lock, NULL);
  return unit;
}

struct unit *unit_retain(struct unit *unit)
{
  atomic_fetch_add(&unit->references, 1);
  return unit;
}

void unit_free_evaluator(struct unit_evaluator *evaluator)
{
  if (evaluator == NULL)
    return;
  arena_free(&evaluator->arena);
  mem_free(evaluator);
}

void unit_release(struct unit *unit)
{
  if (unit == NULL || atomic_fetch_sub(&unit->references, 1) != 1)
    return;
  while (unit->evaluators != NULL) {
    struct unit_evaluator *next = unit->evaluators->next;
    unit_free_evaluator(unit->evaluators);
    unit->evaluators = next;
  }
  unit_unload(unit);
  if (unit->compiled != NULL)
    mem_free(unit->compiled->code);
  mem_free(unit->key);
  arena_free(&unit->arena);
  pthread_mutex_destroy(&unit->lock);
  mem_free(unit);
}

bool unit_is_packed(const struct unit *unit)
{
  return unit->variant.on_cache ? unit->variant.packed_queries
                                : unit->spec->cache.layout == CACHE_RAGGED;
}

/* ---- front end ---- */

/* What reading an import needs; `foreign` is a text that has not been copied yet, so that an
 * unwinding does not lose it. */
struct import_reader {
  const struct unit_source *source;
  struct unit *unit;
  char *foreign;
};

static const char *read_import(void *user, struct arena *arena, const char *from, const char *path,
                               size_t *length)
{
  struct import_reader *reader = user;
  struct unit_import import = {.from = arena_strndup(arena, from, strlen(from)),
                               .path = arena_strndup(arena, path, strlen(path))};
  const struct unit *before = reader->source->imports;
  if (before != NULL) {
    for (size_t n = 0; n < before->imports.count; n++) {
      const struct unit_import *known = &before->imports.items[n];
      if (known->text != NULL && strcmp(known->from, from) == 0 && strcmp(known->path, path) == 0) {
        import.text = arena_copy(arena, known->text, known->length + 1);
        import.length = known->length;
        break;
      }
    }
  } else if (reader->source->read_import != NULL) {
    reader->foreign = reader->source->read_import(reader->source->user, from, path, &import.length);
    if (reader->foreign != NULL) {
      char *copy = arena_alloc(arena, import.length + 1); /* zeroed: terminated */
      memcpy(copy, reader->foreign, import.length);
      import.text = copy;
      free(reader->foreign);
      reader->foreign = NULL;
    }
  }
  vector_push(arena, &reader->unit->imports, import);
  *length = import.length;
  return import.text;
}

static attn_status choose_attention(struct unit *unit, const struct unit_source *source,
                                    const struct spec_file *file, const struct error_sink *sink)
{
  size_t count = file->specs.count;
  if (count == 0)
    return error_report(sink, ATTN_ERROR_SPEC, "%s: holds no attention", source->name);
  if (source->attention == NULL) {
    if (count == 1) {
      unit->spec = file->specs.items[0];
      return ATTN_OK;
    }
    char *names = arena_format(&unit->arena, "%s", file->specs.items[0]->name);
    for (size_t n = 1; n < count; n++)
      names = arena_format(&unit->arena, "%s, %s", names, file->specs.items[n]->name);
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s holds %zu attentions: %s; name one of them",
                        source->name, count, names);
  }
  const char **names = ARENA_ARRAY(&unit->arena, const char *, count);
  for (size_t n = 0; n < count; n++) {
    names[n] = file->specs.items[n]->name;
    if (strcmp(names[n], source->attention) == 0) {
      unit->spec = file->specs.items[n];
      return ATTN_OK;
    }
  }
  const char *near = diag_nearest(source->attention, names, count);
  return error_report(sink, ATTN_ERROR_ARGUMENT, "%s holds no attention '%s'%s%s%s", source->name,
                      source->attention, near == NULL ? "" : "; did you mean '",
                      near == NULL ? "" : near, near == NULL ? "" : "'?");
}

static enum target target_of(const struct unit_source *source)
{
  return source->device != NULL ? TARGET_SM_80 : TARGET_HOST;
}

static attn_status check_in_guard(struct unit *unit, struct import_reader *reader,
                                  const struct error_sink *sink)
{
  const struct unit_source *source = reader->source;
  if (arena_guard(&unit->arena)) {
    free(reader->foreign);
    return error_out_of_memory(sink);
  }
  source_set_init(&unit->sources, &unit->arena);
  diagnostics_init(&unit->diagnostics, &unit->arena, &unit->sources);
  uint32_t index = source_add(&unit->sources, source->name, source->text, source->length);
  if (index == UINT32_MAX)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s: a spec of %zu bytes is larger than 16 MiB",
                        source->name, source->length);
  struct spec_options options = {.sets = source->sets,
                                 .set_count = source->set_count,
                                 .read_import = read_import,
                                 .user = reader};
  const struct spec_file *file =
      spec_check(&unit->arena, &unit->sources, index, &options, &unit->diagnostics);
  if (diagnostics_has_errors(&unit->diagnostics))
    return error_report(sink, ATTN_ERROR_SPEC, "%s", diagnostics_print(&unit->diagnostics, false));
  attn_status status = choose_attention(unit, source, file, sink);
  if (status != ATTN_OK)
    return status;
  unit_describe(unit);
  for (int n = 0; n < UNIT_DECODE_SIZES; n++)
    unit->decode_queries[n] = decode_queries(unit->spec, target_of(source), INT64_C(1) << n);
  return ATTN_OK;
}

attn_status unit_check(const struct unit_source *source, const struct error_sink *sink,
                       struct unit **out)
{
  double start = milliseconds();
  struct unit *unit = unit_new();
  *out = unit;
  if (unit == NULL)
    return error_out_of_memory(sink);
  struct import_reader reader = {.source = source, .unit = unit};
  attn_status status = check_in_guard(unit, &reader, sink);
  unit->timings.check = milliseconds() - start;
  if (status == ATTN_ERROR_OUT_OF_MEMORY) {
    unit_release(unit);
    *out = NULL;
  }
  return status;
}

const char *unit_diagnostics(struct unit *unit, attn_diagnostics_format format)
{
  if (arena_guard(&unit->arena))
    return NULL;
  if (format == ATTN_DIAGNOSTICS_JSON)
    return diagnostics_print_json(&unit->diagnostics);
  return diagnostics_print(&unit->diagnostics, format == ATTN_DIAGNOSTICS_COLOR);
}

/* ---- key ---- */

static void key_bytes(struct unit *unit, const void *bytes, size_t size)
{
  if (unit->key != NULL)
    memcpy(unit->key + unit->key_size, bytes, size);
  unit->key_size += size;
}

/* With its length, so that two texts never run into one. */
static void key_text(struct unit *unit, const char *text, size_t length)
{
  uint64_t count = length;
  key_bytes(unit, &count, sizeof(count));
  key_bytes(unit, text, length);
}

static void key_fields(struct unit *unit, const struct unit_source *source,
                       const struct unit_variant *variant)
{
  const uint32_t numbers[] = {
      (uint32_t)source->set_count, (uint32_t)variant->type,       (uint32_t)variant->kernel,
      variant->on_cache,           variant->packed_queries,       variant->queries,
      (uint32_t)target_of(source), source->schedule.rows,         source->schedule.columns,
      source->schedule.lanes,      source->schedule.row_vectors,  source->schedule.column_registers,
      source->schedule.warps,      source->schedule.column_warps, source->schedule.stages,
      source->schedule.tasks,      source->schedule.part,         variant->shared_prefix};
  unit->key_size = 0;
  key_bytes(unit, numbers, sizeof(numbers));
  if (source->device != NULL) {
    unsigned char device[CUDA_KEY_SIZE];
    cuda_device_key(source->device, device);
    key_bytes(unit, device, sizeof(device));
  }
  key_text(unit, unit->spec->name, strlen(unit->spec->name));
  for (size_t n = 0; n < source->set_count; n++) {
    key_text(unit, source->sets[n].name, strlen(source->sets[n].name));
    key_text(unit, source->sets[n].value, strlen(source->sets[n].value));
  }
  for (size_t n = 0; n < unit->sources.sources.count; n++) {
    const struct source *s = &unit->sources.sources.items[n];
    key_text(unit, s->name, strlen(s->name));
    key_text(unit, s->text, s->length);
  }
}

attn_status unit_make_key(struct unit *unit, const struct unit_source *source,
                          const struct unit_variant *variant, const struct error_sink *sink)
{
  key_fields(unit, source, variant); /* counts */
  unit->key = mem_alloc(unit->key_size);
  if (unit->key == NULL)
    return error_out_of_memory(sink);
  key_fields(unit, source, variant);
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (size_t n = 0; n < unit->key_size; n++)
    hash = (hash ^ unit->key[n]) * UINT64_C(0x100000001b3);
  unit->key_hash = hash;
  return ATTN_OK;
}

/* ---- code ---- */

static struct compile_options compile_options_for(const struct unit_source *source,
                                                  const struct unit_variant *variant)
{
  return (struct compile_options){.target = target_of(source),
                                  .kernel = variant->kernel,
                                  .type = variant->type,
                                  .schedule = source->schedule,
                                  .on_cache = variant->on_cache,
                                  .packed_queries = variant->packed_queries,
                                  .queries = variant->queries,
                                  .shared_prefix = variant->shared_prefix};
}

static attn_status build(struct unit *unit, const struct unit_source *source,
                         const struct unit_variant *variant, const struct error_sink *sink)
{
  if (arena_guard(&unit->arena))
    return error_out_of_memory(sink);
  struct compile_options options = compile_options_for(source, variant);
  unit->compiled = compile_build(&unit->arena, unit->spec, &options, &unit->diagnostics);
  if (unit->compiled == NULL)
    return error_report(sink, ATTN_ERROR_SPEC, "%s", diagnostics_print(&unit->diagnostics, false));
  return ATTN_OK;
}

attn_status unit_try_build(struct unit *unit, const struct unit_source *source,
                           const struct unit_variant *variant, const struct error_sink *sink)
{
  attn_status status = build(unit, source, variant, sink);
  unit->compiled = NULL;
  return status;
}

static attn_status emit(struct unit *unit, enum compile_form form, char **text,
                        const struct error_sink *sink)
{
  const char *error = NULL;
  switch (compile_emit(&unit->arena, unit->compiled, form, text, &error)) {
  case COMPILE_OK: return ATTN_OK;
  case COMPILE_OUT_OF_MEMORY: return error_out_of_memory(sink);
  case COMPILE_UNAVAILABLE: return error_report(sink, ATTN_ERROR_UNSUPPORTED, "%s", error);
  case COMPILE_FAILED: break;
  }
  return error_report(sink, ATTN_ERROR_INTERNAL, "cannot compile '%s': %s", unit->spec->name,
                      error == NULL ? "no reason given" : error);
}

static bool launch_evaluates(const struct unit *unit)
{
  if (unit->workspace_count != 0 || (unit->spec->has_rotary && !unit->rotary_is_constant))
    return true;
  for (uint32_t n = 0; n < unit->spec->input_count; n++) {
    for (uint32_t d = 0; d < unit->spec->inputs[n].rank; d++) {
      if (unit->spec->inputs[n].dims[d].kind == DIM_EXPR)
        return true;
    }
  }
  for (uint32_t n = 0; unit->variant.on_cache && n < unit->cache->count; n++) {
    for (uint32_t d = 0; d < unit->cache->tensors[n].rank; d++) {
      if (unit->cache->tensors[n].dims[d].kind == CACHE_DIM_INPUT)
        return true;
    }
  }
  return false;
}

static void drop_object(struct unit *unit)
{
  mem_free(unit->compiled->code);
  unit->compiled->code = NULL;
}

/* Sets unit->from_disk. Code that the cache has but that does not load is none. */
static attn_status load_from_disk(struct unit *unit, const struct disk_cache *disk,
                                  const struct error_sink *sink)
{
  const struct error_sink quiet = {NULL, NULL, 0};
  const struct compile_options options = unit->compiled->options;
  switch (disk_cache_load(disk, unit->key, unit->key_size, unit->compiled)) {
  case DISK_CACHE_OUT_OF_MEMORY: return error_out_of_memory(sink);
  case DISK_CACHE_MISS: return ATTN_OK;
  case DISK_CACHE_HIT: break;
  }
  attn_status status = unit_load(unit, &quiet);
  drop_object(unit);
  unit->from_disk = status == ATTN_OK;
  if (!unit->from_disk) {
    unit->compiled->options = options;
    unit_unload(unit);
  }
  return status == ATTN_ERROR_OUT_OF_MEMORY ? error_out_of_memory(sink) : ATTN_OK;
}

attn_status unit_compile(struct unit *unit, const struct unit_source *source,
                         const struct unit_variant *variant, const struct disk_cache *disk,
                         const struct error_sink *sink)
{
  unit->device = source->device;
  unit->variant = *variant;
  attn_status status = build(unit, source, variant, sink);
  double start = milliseconds();
  if (status == ATTN_OK)
    status = load_from_disk(unit, disk, sink);
  if (status == ATTN_OK && !unit->from_disk) {
    status = emit(unit, COMPILE_OBJECT, NULL, sink);
    start = milliseconds();
    if (status == ATTN_OK)
      status = unit_assemble(unit, sink);
    if (status == ATTN_OK)
      status = unit_load(unit, sink);
    if (status == ATTN_OK)
      disk_cache_store(disk, unit->key, unit->key_size, unit->compiled);
    drop_object(unit); /* it is mapped now */
  }
  if (status == ATTN_OK)
    status = unit_settle_rotary(unit, sink);
  if (status != ATTN_OK)
    return status;
  unit->needs_evaluator = launch_evaluates(unit);
  const struct compile_timings *t = &unit->compiled->timings;
  unit->timings =
      (attn_timings){unit->timings.check, t->build, t->optimize, t->emit, milliseconds() - start};
  unit->info.type = attn_of_dtype(variant->type);
  return status;
}

static char *print_tile(struct unit *unit)
{
  if (arena_guard(&unit->arena))
    return NULL;
  const char *text = tile_print(&unit->arena, unit->compiled->program);
  size_t size = strlen(text) + 1;
  char *copy = mem_alloc(size);
  return copy == NULL ? NULL : memcpy(copy, text, size);
}

attn_status unit_text(struct unit *unit, const struct unit_source *source,
                      const struct unit_variant *variant, attn_form form, char **text,
                      size_t *length, const struct error_sink *sink)
{
  attn_status status = build(unit, source, variant, sink);
  if (status != ATTN_OK)
    return status;
  switch (form) {
  case ATTN_FORM_TILE:
    *text = print_tile(unit);
    status = *text == NULL ? error_out_of_memory(sink) : ATTN_OK;
    break;
  case ATTN_FORM_LLVM: status = emit(unit, COMPILE_LLVM, text, sink); break;
  case ATTN_FORM_ASSEMBLY: status = emit(unit, COMPILE_ASSEMBLY, text, sink); break;
  case ATTN_FORM_OBJECT:
    status = emit(unit, COMPILE_OBJECT, NULL, sink);
    if (status != ATTN_OK)
      break;
    *length = unit->compiled->code_size;
    *text = mem_realloc(unit->compiled->code, *length + 1);
    if (*text == NULL)
      return error_out_of_memory(sink);
    unit->compiled->code = NULL;
    (*text)[*length] = '\0';
    return ATTN_OK;
  }
  if (status == ATTN_OK)
    *length = strlen(*text);
  return status;
}

/* ---- evaluators ---- */

static bool make_evaluator(struct unit *unit, struct unit_evaluator *evaluator)
{
  if (arena_guard(&evaluator->arena))
    return false;
  evaluator->evaluator = expr_evaluator_new(&evaluator->arena, unit->spec->pool);
  return true;
}

struct unit_evaluator *unit_take_evaluator(struct unit *unit)
{
  pthread_mutex_lock(&unit->lock);
  struct unit_evaluator *evaluator = unit->evaluators;
  if (evaluator != NULL)
    unit->evaluators = evaluator->next;
  pthread_mutex_unlock(&unit->lock);
  if (evaluator != NULL)
    return evaluator;
  evaluator = mem_alloc_zeroed(1, sizeof(*evaluator));
  if (evaluator == NULL)
    return NULL;
  arena_init(&evaluator->arena);
  if (!make_evaluator(unit, evaluator)) {
    unit_free_evaluator(evaluator);
    return NULL;
  }
  return evaluator;
}

void unit_give_evaluator(struct unit *unit, struct unit_evaluator *evaluator)
{
  if (evaluator == NULL)
    return;
  pthread_mutex_lock(&unit->lock);
  evaluator->next = unit->evaluators;
  unit->evaluators = evaluator;
  pthread_mutex_unlock(&unit->lock);
}
