#include "runtime/program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 16 * 1024 * 1024 };

/* ---- files ---- */

/* A file's bytes, malloc'd, or NULL with errno. Larger ones than a spec may be are refused with
 * EFBIG. */
static char *read_file(const char *path, size_t *length)
{
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return NULL;
  char *text = NULL;
  size_t count = 0, capacity = 0;
  int error = 0;
  for (;;) {
    if (count == capacity) {
      capacity = capacity == 0 ? 16384 : 2 * capacity;
      char *grown = realloc(text, capacity);
      if (grown == NULL) {
        error = ENOMEM;
        break;
      }
      text = grown;
    }
    errno = 0;
    size_t got = fread(text + count, 1, capacity - count, file);
    count += got;
    if (got == 0) {
      error = ferror(file) ? (errno != 0 ? errno : EIO) : 0;
      break;
    }
    if (count > MAX_FILE) {
      error = EFBIG;
      break;
    }
  }
  fclose(file);
  if (error != 0) {
    free(text);
    errno = error;
    return NULL;
  }
  *length = count;
  return text;
}

/* Looks beside the importing file. */
static char *read_import_file(void *user, const char *from, const char *path, size_t *length)
{
  (void)user;
  const char *slash = strrchr(from, '/');
  size_t folder = slash == NULL || path[0] == '/' ? 0 : (size_t)(slash - from) + 1;
  size_t size = strlen(path) + 1;
  char *joined = malloc(folder + size);
  if (joined == NULL)
    return NULL;
  memcpy(joined, from, folder);
  memcpy(joined + folder, path, size);
  char *text = read_file(joined, length);
  free(joined);
  return text;
}

/* ---- making ---- */

static size_t text_size(const char *text)
{
  return text == NULL ? 0 : strlen(text) + 1;
}

static const char *keep(char **cursor, const char *text, size_t size)
{
  if (text == NULL)
    return NULL;
  char *copy = *cursor;
  memcpy(copy, text, size);
  *cursor += size;
  return copy;
}

/* Copies what later compilations of the program need. */
static bool copy_source(struct attn_program *program, const char *text, size_t length,
                        const char *name, const attn_compile_options *options)
{
  size_t size = text_size(name) + text_size(options->attention);
  for (size_t n = 0; n < options->set_count; n++)
    size += text_size(options->sets[n].name) + text_size(options->sets[n].value);
  if (length > SIZE_MAX - size)
    return false;
  program->texts = mem_alloc(size + length);
  program->sets = mem_alloc_zeroed(options->set_count, sizeof(*program->sets));
  if (program->texts == NULL || program->sets == NULL)
    return false;
  char *cursor = program->texts;
  const attn_schedule *s = &options->schedule;
  program->kernel = options->kernel;
  program->source = (struct unit_source){
      .text = keep(&cursor, text, length),
      .length = length,
      .name = keep(&cursor, name, text_size(name)),
      .attention = keep(&cursor, options->attention, text_size(options->attention)),
      .sets = program->sets,
      .set_count = options->set_count,
      .schedule = {.rows = s->rows,
                   .columns = s->columns,
                   .lanes = s->lanes,
                   .row_vectors = s->row_vectors,
                   .column_registers = s->column_registers,
                   .warps = s->warps,
                   .column_warps = s->column_warps,
                   .stages = s->stages,
                   .tasks = options->decode_tasks,
                   .part = options->decode_part},
      .device = program->context->device,
  };
  for (size_t n = 0; n < options->set_count; n++) {
    const attn_setting *set = &options->sets[n];
    program->sets[n].name = keep(&cursor, set->name, text_size(set->name));
    program->sets[n].value = keep(&cursor, set->value, text_size(set->value));
  }
  return true;
}

/* Compiles `unit`, which becomes *made, or takes what the cache has for it and drops `unit`.
 * Consumes the reference. */
static attn_status compile_or_find(struct attn_program *program, struct unit *unit,
                                   const struct unit_variant *variant,
                                   const struct error_sink *sink, struct unit **made)
{
  struct attn_context *context = program->context;
  attn_status status = unit_make_key(unit, &program->source, variant, sink);
  if (status == ATTN_OK) {
    struct unit *known =
        code_cache_find(&context->cache, unit->key_hash, unit->key, unit->key_size);
    if (known != NULL) {
      atomic_fetch_add_explicit(&context->cache_hits, 1, memory_order_relaxed);
      unit_release(unit);
      *made = known;
      return ATTN_OK;
    }
    status = unit_compile(unit, &program->source, variant, &context->disk, sink);
  }
  if (status != ATTN_OK) {
    unit_release(unit);
    return status;
  }
  atomic_fetch_add_explicit(unit->from_disk ? &context->disk_hits : &context->compilations, 1,
                            memory_order_relaxed);
  *made = code_cache_store(&context->cache, unit);
  return ATTN_OK;
}

/* A fresh unit of the program's text, with its imports as they were. */
static attn_status check_again(struct attn_program *program, const struct error_sink *sink,
                               struct unit **unit)
{
  struct unit_source source = program->source;
  source.imports = program->front;
  attn_status status = unit_check(&source, sink, unit);
  if (status != ATTN_OK) {
    unit_release(*unit);
    *unit = NULL;
  }
  return status;
}

/* ---- variants ---- */

static unsigned kernel_index(const struct unit_variant *variant)
{
  switch (variant->kernel) {
  case KERNEL_FORWARD: return 0;
  case KERNEL_APPEND: return 1;
  case KERNEL_DECODE: break;
  }
  unsigned size = 2;
  for (uint32_t most = 1; most < variant->queries; most *= 2)
    size++;
  return size;
}

static _Atomic(struct unit *) *variant_slot(struct attn_program *program,
                                            const struct unit_variant *variant)
{
  const unsigned type = variant->type == DTYPE_F32 ? 0 : variant->type == DTYPE_F16 ? 1 : 2;
  const unsigned cached = variant->packed_queries ? 2 : variant->shared_prefix ? 3 : 1;
  const unsigned place = variant->on_cache ? cached : 0;
  return &program
              ->variants[(kernel_index(variant) * PROGRAM_PLACES + place) * PROGRAM_TYPES + type];
}

void program_choose_kernel(const struct attn_program *program, int64_t queries, int64_t keys,
                           struct unit_variant *variant)
{
  unsigned size = 0;
  while (size + 1 < UNIT_DECODE_SIZES && (1 << size) < queries)
    size++;
  variant->queries = 0;
  if (program->kernel == ATTN_KERNEL_DECODE)
    variant->queries = UINT32_C(1) << size;
  else if (program->kernel == ATTN_KERNEL_ANY && queries > 0 && queries <= 1 << size &&
           (variant->on_cache || keys >= PROGRAM_DECODE_KEYS))
    variant->queries = program->front->decode_queries[size];
  variant->kernel = variant->queries == 0 ? KERNEL_FORWARD : KERNEL_DECODE;
}

bool program_may_share(const struct unit_variant *variant)
{
  return variant->kernel == KERNEL_DECODE && variant->on_cache && !variant->packed_queries;
}

attn_status program_unit(struct attn_program *program, const struct unit_variant *variant,
                         const struct error_sink *sink, struct unit **out)
{
  _Atomic(struct unit *) *slot = variant_slot(program, variant);
  *out = atomic_load_explicit(slot, memory_order_acquire);
  if (*out != NULL)
    return ATTN_OK;
  pthread_mutex_lock(&program->lock);
  attn_status status = ATTN_OK;
  *out = atomic_load_explicit(slot, memory_order_relaxed);
  if (*out == NULL) {
    struct unit *unit, *made = NULL;
    status = check_again(program, sink, &unit);
    if (status == ATTN_OK)
      status = compile_or_find(program, unit, variant, sink, &made);
    if (status == ATTN_OK)
      atomic_store_explicit(slot, made, memory_order_release);
    *out = made;
  }
  pthread_mutex_unlock(&program->lock);
  return status;
}

/* The diagnostics for the caller, if any. */
static attn_status give_diagnostics(struct unit *unit, const attn_compile_options *options,
                                    const struct error_sink *sink)
{
  if (options->diagnostics == NULL || unit == NULL || unit->diagnostics.items.count == 0)
    return ATTN_OK;
  const char *text = unit_diagnostics(unit, options->diagnostics_format);
  size_t size = text_size(text);
  char *copy = text == NULL ? NULL : mem_alloc(size);
  if (copy == NULL)
    return error_out_of_memory(sink);
  *options->diagnostics = memcpy(copy, text, size);
  return ATTN_OK;
}

static bool type_is_storage(attn_type type)
{
  return type == ATTN_TYPE_F32 || type == ATTN_TYPE_F16 || type == ATTN_TYPE_BF16;
}

/* The storage type that the spec and the options settle; ANY when neither does. */
static attn_status settle_type(const struct spec *spec, attn_type wanted,
                               const struct error_sink *sink, enum dtype *type)
{
  *type = spec->type;
  if (wanted == ATTN_TYPE_ANY)
    return ATTN_OK;
  if (!type_is_storage(wanted))
    return error_report(sink, ATTN_ERROR_ARGUMENT, "type is %s; q, k and v are f32, f16 or bf16",
                        attn_type_name(wanted));
  if (spec->type != DTYPE_ANY && dtype_of_attn(wanted) != spec->type)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "type is %s, but '%s' says type %s",
                        attn_type_name(wanted), spec->name, dtype_name(spec->type));
  *type = dtype_of_attn(wanted);
  return ATTN_OK;
}

/* What attn_program_prepare compiles: K and V given, many rows, or else the kernel asked for. */
static struct unit_variant plain_variant(const struct attn_program *program, enum dtype type)
{
  const bool decodes = program->kernel == ATTN_KERNEL_DECODE;
  return (struct unit_variant){
      .type = type, .kernel = decodes ? KERNEL_DECODE : KERNEL_FORWARD, .queries = decodes ? 1 : 0};
}

/* Fills program->front. The diagnostics are those of this thread's own unit, also where the cache
 * had the code. */
static attn_status make_front(struct attn_program *program, const struct unit_source *source,
                              const attn_compile_options *options, const struct error_sink *sink)
{
  struct unit *unit;
  enum dtype type = DTYPE_ANY;
  attn_status status = unit_check(source, sink, &unit);
  if (status == ATTN_OK)
    status = settle_type(unit->spec, options->type, sink, &type);
  const struct unit_variant variant = plain_variant(program, type == DTYPE_ANY ? DTYPE_F32 : type);
  if (status == ATTN_OK && type == DTYPE_ANY)
    status = unit_try_build(unit, source, &variant, sink);
  if (status == ATTN_OK && type != DTYPE_ANY) {
    unit_retain(unit); /* for its diagnostics */
    status = compile_or_find(program, unit, &variant, sink, &program->front);
    if (program->front != NULL)
      atomic_store(variant_slot(program, &variant), unit_retain(program->front));
  } else if (status == ATTN_OK) {
    program->front = unit_retain(unit);
  }
  if (status != ATTN_ERROR_OUT_OF_MEMORY) {
    attn_status given = give_diagnostics(unit, options, sink);
    status = given == ATTN_OK ? status : given;
  }
  unit_release(unit);
  return status;
}

void attn_program_free(attn_program *program)
{
  if (program == NULL)
    return;
  for (size_t n = 0; n < PROGRAM_VARIANTS; n++)
    unit_release(atomic_load(&program->variants[n]));
  unit_release(program->front);
  mem_free(program->sets);
  mem_free(program->texts);
  pthread_mutex_destroy(&program->lock);
  context_release(program->context);
  mem_free(program);
}

static attn_status check_options(const attn_compile_options *options, const struct error_sink *sink)
{
  if (options->kernel == ATTN_KERNEL_APPEND)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "kernel is APPEND, which attn_append compiles when it is needed; launches "
                        "take FORWARD, DECODE or ANY");
  if ((unsigned)options->kernel > ATTN_KERNEL_ANY)
    return error_report(sink, ATTN_ERROR_UNSUPPORTED, "kernel %d does not exist",
                        (int)options->kernel);
  if (options->set_count != 0 && options->sets == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "sets is NULL but set_count is %zu",
                        options->set_count);
  for (size_t n = 0; n < options->set_count; n++) {
    if (options->sets[n].name == NULL || options->sets[n].value == NULL)
      return error_report(sink, ATTN_ERROR_ARGUMENT, "sets[%zu] has no name or no value", n);
  }
  return ATTN_OK;
}

static attn_status compile(attn_context *context, const char *text, size_t length, const char *name,
                           const attn_compile_options *options, attn_read_import *read_import,
                           const struct error_sink *sink, attn_program **out)
{
  struct attn_program *program = mem_alloc_zeroed(1, sizeof(*program));
  if (program == NULL)
    return error_out_of_memory(sink);
  program->context = context_retain(context);
  pthread_mutex_init(&program->lock, NULL);
  attn_status status = ATTN_OK;
  if (copy_source(program, text, length, name, options)) {
    struct unit_source source = program->source;
    source.read_import = read_import;
    source.user = options->user;
    status = make_front(program, &source, options, sink);
  } else {
    status = error_out_of_memory(sink);
  }
  if (status != ATTN_OK) {
    attn_program_free(program);
    return status;
  }
  *out = program;
  return ATTN_OK;
}

/* What attn_compile and attn_compile_file begin with. */
static attn_status open_options(attn_context *context, const attn_compile_options *given,
                                attn_compile_options *options, struct error_sink *sink,
                                attn_program **program)
{
  if (program == NULL || context == NULL)
    return ATTN_ERROR_ARGUMENT;
  *program = NULL;
  *options = (attn_compile_options)ATTN_COMPILE_OPTIONS_INIT;
  *sink = (struct error_sink){context, NULL, 0};
  if (given != NULL && !options_copy(options, sizeof(*options), given, given->size))
    return error_report(
        sink, ATTN_ERROR_ARGUMENT,
        "the compile options have the size %zu; begin with ATTN_COMPILE_OPTIONS_INIT", given->size);
  sink->buffer = options->error;
  sink->size = options->error_size;
  if (options->diagnostics != NULL)
    *options->diagnostics = NULL;
  return check_options(options, sink);
}

attn_status attn_compile(attn_context *context, const char *text, size_t length, const char *name,
                         const attn_compile_options *given, attn_program **program)
{
  attn_compile_options options;
  struct error_sink sink;
  attn_status status = open_options(context, given, &options, &sink, program);
  if (status != ATTN_OK)
    return status;
  if (text == NULL)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "the source text is NULL");
  return compile(context, text, length, name == NULL ? "<input>" : name, &options,
                 options.read_import, &sink, program);
}

attn_status attn_compile_file(attn_context *context, const char *path,
                              const attn_compile_options *given, attn_program **program)
{
  attn_compile_options options;
  struct error_sink sink;
  attn_status status = open_options(context, given, &options, &sink, program);
  if (status != ATTN_OK)
    return status;
  if (path == NULL)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "the path is NULL");
  size_t length;
  char *text = read_file(path, &length);
  if (text == NULL)
    return errno == ENOMEM ? error_out_of_memory(&sink)
                           : error_report(&sink, ATTN_ERROR_IO, "%s: %s", path, strerror(errno));
  status =
      compile(context, text, length, path, &options,
              options.read_import != NULL ? options.read_import : read_import_file, &sink, program);
  free(text);
  return status;
}

/* ---- using ---- */

const attn_program_info *attn_program_describe(const attn_program *program)
{
  return &program->front->info;
}

const char *attn_type_name(attn_type type)
{
  return type == ATTN_TYPE_ANY ? "any" : dtype_name(dtype_of_attn(type));
}

/* The storage type that a caller's `type` means for this program. */
static attn_status choose_type(const attn_program *program, attn_type wanted,
                               const struct error_sink *sink, enum dtype *type)
{
  attn_type own = program->front->info.type;
  if (wanted == ATTN_TYPE_ANY)
    wanted = own == ATTN_TYPE_ANY ? ATTN_TYPE_F32 : own;
  if (!type_is_storage(wanted) || (own != ATTN_TYPE_ANY && wanted != own))
    return error_report(sink, ATTN_ERROR_ARGUMENT, "'%s' does not take q, k and v of type %s",
                        program->front->info.name, attn_type_name(wanted));
  *type = dtype_of_attn(wanted);
  return ATTN_OK;
}

attn_status attn_program_prepare(attn_program *program, attn_type wanted)
{
  if (program == NULL)
    return ATTN_ERROR_ARGUMENT;
  struct error_sink sink = {program->context, NULL, 0};
  enum dtype type = DTYPE_ANY;
  attn_status status = choose_type(program, wanted, &sink, &type);
  if (status != ATTN_OK)
    return status;
  struct unit *unit;
  const struct unit_variant variant = plain_variant(program, type);
  return program_unit(program, &variant, &sink, &unit);
}

/* The kernel that a caller asks for by name, which the program need not take of its own. */
static attn_status choose_variant_kernel(const struct attn_program *program,
                                         const attn_variant *wanted, const struct error_sink *sink,
                                         struct unit_variant *variant)
{
  if (wanted->kernel == ATTN_KERNEL_APPEND) {
    variant->kernel = KERNEL_APPEND;
    variant->on_cache = true;
    return ATTN_OK;
  }
  if ((unsigned)wanted->kernel > ATTN_KERNEL_ANY)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "kernel %d does not exist", (int)wanted->kernel);
  program_choose_kernel(program, wanted->queries, PROGRAM_DECODE_KEYS, variant);
  if (wanted->kernel == ATTN_KERNEL_ANY ||
      (wanted->kernel == ATTN_KERNEL_DECODE) == (variant->kernel == KERNEL_DECODE))
    return ATTN_OK;
  return error_report(sink, ATTN_ERROR_ARGUMENT,
                      "launches of '%s' with %lld query rows do not take the %s kernel",
                      program->front->info.name, (long long)wanted->queries,
                      wanted->kernel == ATTN_KERNEL_DECODE ? "decode" : "forward");
}

attn_status attn_program_prepare_for(attn_program *program, const attn_variant *given)
{
  if (program == NULL || given == NULL)
    return ATTN_ERROR_ARGUMENT;
  struct error_sink sink = {program->context, NULL, 0};
  attn_variant wanted = ATTN_VARIANT_INIT;
  if (!options_copy(&wanted, sizeof(wanted), given, given->size))
    return error_report(&sink, ATTN_ERROR_ARGUMENT,
                        "the variant has the size %zu; begin with ATTN_VARIANT_INIT", given->size);
  struct unit_variant variant = {.on_cache = wanted.on_cache != 0};
  attn_status status = choose_type(program, wanted.type, &sink, &variant.type);
  if (status == ATTN_OK)
    status = choose_variant_kernel(program, &wanted, &sink, &variant);
  if (status != ATTN_OK)
    return status;
  struct unit *unit;
  variant.packed_queries = variant.on_cache && (wanted.packed != 0 || program->front->info.ragged);
  variant.shared_prefix = wanted.shared_prefix != 0 && program_may_share(&variant);
  return program_unit(program, &variant, &sink, &unit);
}

attn_status attn_program_text(attn_program *program, attn_form form, attn_type wanted, char **text,
                              size_t *length)
{
  if (program == NULL || text == NULL)
    return ATTN_ERROR_ARGUMENT;
  *text = NULL;
  struct error_sink sink = {program->context, NULL, 0};
  enum dtype type = DTYPE_ANY;
  attn_status status = choose_type(program, wanted, &sink, &type);
  if (status != ATTN_OK)
    return status;
  struct unit *unit;
  status = check_again(program, &sink, &unit);
  if (status != ATTN_OK)
    return status;
  size_t size = 0;
  const struct unit_variant variant = plain_variant(program, type);
  status = unit_text(unit, &program->source, &variant, form, text, &size, &sink);
  unit_release(unit);
  if (length != NULL)
    *length = size;
  return status;
}

void attn_text_free(char *text)
{
  mem_free(text);
}

attn_status attn_program_timings(attn_program *program, attn_type wanted, attn_timings *timings)
{
  if (program == NULL || timings == NULL)
    return ATTN_ERROR_ARGUMENT;
  *timings = (attn_timings){0};
  struct error_sink sink = {program->context, NULL, 0};
  enum dtype type = DTYPE_ANY;
  attn_status status = choose_type(program, wanted, &sink, &type);
  if (status != ATTN_OK)
    return status;
  const struct unit_variant variant = plain_variant(program, type);
  struct unit *unit = atomic_load_explicit(variant_slot(program, &variant), memory_order_acquire);
  if (unit == NULL)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "'%s' is not compiled for %s yet",
                        program->front->info.name, dtype_name(type));
  *timings = unit->timings;
  return ATTN_OK;
}
