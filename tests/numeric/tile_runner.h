/* Runs tile programs on this machine, or with TILE_ON_DEVICE on the stand-in for a GPU: from text
 * to loaded code, tensors bound by name.
 *
 * Tensors lie against a page that cannot be touched, with NaN (or a pattern, where a kernel writes)
 * in every gap between their elements, so that what a kernel reads or writes beyond them shows. The
 * scratch area is poisoned before each task and has guards around it.
 *
 * Functions that can fail return NULL, or what went wrong as text that lives as long as the code.
 */
#ifndef ATTN_TESTS_NUMERIC_TILE_RUNNER_H
#define ATTN_TESTS_NUMERIC_TILE_RUNNER_H

#include "compiler/pipeline.h"
#include "compiler/reference/reference.h"
#include "compiler/tile/text.h"
#ifdef TILE_ON_DEVICE
#include "compiler/tile/tasks.h"
#include "tests/device/device.h"
#else
#include "runtime/host_loader.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct tile_code {
  struct arena arena;
  struct source_set sources;
  struct expr_pool pool;
  struct diagnostics diagnostics;
  struct tile_program *program;
  struct compiled *compiled;
#ifdef TILE_ON_DEVICE
  struct ptx_module *code;
  uint64_t fault; /* on the device, while kernels run */
#else
  struct host_code *code;
#endif
};

#ifdef TILE_ON_DEVICE
static const enum target tile_target = TARGET_SM_80;

static inline const char *tile_code_load(struct tile_code *c)
{
  char log[1000] = "";
  c->code = ptx_module_load((const char *)c->compiled->code, log, sizeof(log));
  return c->code == NULL ? arena_format(&c->arena, "cannot load: %s", log) : NULL;
}

static inline void tile_code_unload(struct tile_code *c)
{
  if (c->code != NULL)
    ptx_module_free(c->code);
}
#else
static const enum target tile_target = TARGET_HOST;

static inline const char *tile_code_load(struct tile_code *c)
{
  char reason[HOST_LOAD_ERROR_SIZE] = "out of memory";
  if (host_code_load(c->compiled->code, c->compiled->code_size, &c->code, reason) != HOST_LOAD_OK)
    return arena_format(&c->arena, "cannot load: %s", reason);
  return NULL;
}

static inline void tile_code_unload(struct tile_code *c)
{
  host_code_free(c->code);
}
#endif

/* Parses, verifies, compiles and loads. Close it also after an error. */
static inline const char *tile_code_open(struct tile_code *c, const char *text,
                                         const struct schedule *schedule)
{
  *c = (struct tile_code){0};
  arena_init(&c->arena);
  source_set_init(&c->sources, &c->arena);
  expr_pool_init(&c->pool, &c->arena);
  uint32_t source = source_add(&c->sources, "test.tile", text, strlen(text));
  diagnostics_init(&c->diagnostics, &c->arena, &c->sources);
  c->program = tile_parse(&c->arena, &c->pool, &c->sources, source, &c->diagnostics);
  if (c->program == NULL)
    return diagnostics_print(&c->diagnostics, false);
  const char *error = tile_verify(&c->arena, c->program);
  if (error != NULL)
    return error;
  struct compile_options options = {.target = tile_target, .type = DTYPE_F32};
  if (schedule != NULL)
    options.schedule = *schedule;
  c->compiled = compile_wrap(&c->arena, c->program, &options);
  char *unused = NULL;
  switch (compile_emit(&c->arena, c->compiled, COMPILE_OBJECT, &unused, &error)) {
  case COMPILE_OK: break;
  case COMPILE_OUT_OF_MEMORY: return "out of memory";
  case COMPILE_UNAVAILABLE:
  case COMPILE_FAILED: return error;
  }
  return tile_code_load(c);
}

static inline void tile_code_close(struct tile_code *c)
{
  tile_code_unload(c);
  if (c->compiled != NULL)
    mem_free(c->compiled->code);
  arena_free(&c->arena);
}

/* A file below the source directory; NULL when it cannot be read. The caller frees it. */
static inline char *tile_read_file(const char *path)
{
  const char *root = getenv("ATTN_SOURCE_DIR");
  char full[1024];
  snprintf(full, sizeof(full), "%s/%s", root == NULL ? "." : root, path);
  FILE *file = fopen(full, "rb");
  if (file == NULL)
    return NULL;
  enum { LIMIT = 1 << 20 };
  char *text = malloc(LIMIT + 1);
  size_t size = text == NULL ? 0 : fread(text, 1, LIMIT, file);
  fclose(file);
  if (text != NULL)
    text[size] = '\0';
  return text;
}

/* ---- tensors ---- */

struct tile_array {
  const char *name;
  enum dtype type;
  uint32_t rank;
  int64_t sizes[SPEC_MAX_RANK], strides[SPEC_MAX_RANK]; /* strides in elements */
  int64_t count;
  unsigned char *map; /* `bytes` of memory, then a page without access */
  size_t bytes;
  unsigned char *data;
  unsigned char *before; /* the memory as a run found it */
  unsigned char *inside; /* a byte for each: whether it belongs to an element */
  uint64_t device;       /* TILE_ON_DEVICE, while kernels run: `map` on the device */
};

static inline bool tile_array_is_real(const struct tile_array *a)
{
  return tile_read_type(a->type) == EXPR_FLOAT;
}

/* Where element number `k`, counted in row-major order, lies: in elements from `data`. */
static inline int64_t tile_array_offset(const struct tile_array *a, int64_t k)
{
  int64_t offset = 0;
  for (uint32_t d = a->rank; d > 0; d--) {
    offset += k % a->sizes[d - 1] * a->strides[d - 1];
    k /= a->sizes[d - 1];
  }
  return offset;
}

static inline double tile_array_get(const struct tile_array *a, int64_t k)
{
  return dtype_load(a->type, a->data, tile_array_offset(a, k));
}

static inline void tile_array_set(struct tile_array *a, int64_t k, double value)
{
  dtype_store(a->type, a->data, tile_array_offset(a, k), value);
}

/* `pads` (or NULL): by how much each dimension's extent in memory exceeds its size; the strides
 * follow, and are multiples of a byte. Elements start as NaN, -1 or true. Exits when memory runs
 * out. */
static inline struct tile_array tile_array_new(const char *name, enum dtype type, uint32_t rank,
                                               const int64_t *sizes, const int64_t *pads)
{
  struct tile_array a = {.name = name, .type = type, .rank = rank, .count = 1};
  int64_t per_byte = tile_elements_per_byte(type);
  int64_t stride = 1;
  int64_t span = 1;
  for (uint32_t d = rank; d > 0; d--) {
    a.sizes[d - 1] = sizes[d - 1];
    a.strides[d - 1] = stride;
    a.count *= sizes[d - 1];
    span += (sizes[d - 1] - 1) * stride;
    stride *= sizes[d - 1] + (pads == NULL ? 0 : pads[d - 1]);
    stride = (stride + per_byte - 1) / per_byte * per_byte;
  }
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t size = per_byte > 1 ? 1 : dtype_size(type);
  size_t used = a.count == 0 ? 0 : (size_t)((span + per_byte - 1) / per_byte) * size;
  a.bytes = (used + 256 + page - 1) / page * page;
  a.map = mmap(NULL, a.bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  a.before = malloc(a.bytes);
  a.inside = calloc(a.bytes, 1);
  if (a.map == MAP_FAILED || a.before == NULL || a.inside == NULL ||
      mprotect(a.map + a.bytes, page, PROT_NONE) != 0) {
    perror("tile_array_new");
    exit(EXIT_FAILURE);
  }
  if (a.count == 0) { /* abi.h: a page of zeros */
    memset(a.strides, 0, sizeof(a.strides));
    a.data = a.map;
    return a;
  }
  memset(a.map, 0xff, a.bytes);
  a.data = a.map + a.bytes - used;
  size_t first = (size_t)(a.data - a.map);
  for (int64_t k = 0; k < a.count; k++)
    memset(a.inside + first + (size_t)(tile_array_offset(&a, k) / per_byte) * size, 1, size);
  if (type == DTYPE_BOOL)
    memset(a.data, 1, used);
  return a;
}

static inline void tile_array_free(struct tile_array *a)
{
  munmap(a->map, a->bytes + (size_t)sysconf(_SC_PAGESIZE));
  free(a->before);
  free(a->inside);
}

/* The same type, shape, strides and elements. */
static inline struct tile_array tile_array_clone(const struct tile_array *a)
{
  int64_t pads[SPEC_MAX_RANK] = {0};
  for (uint32_t d = 1; d < a->rank && a->count != 0; d++) /* rounded as the strides are */
    pads[d] = a->strides[d - 1] / a->strides[d] - a->sizes[d];
  struct tile_array copy = tile_array_new(a->name, a->type, a->rank, a->sizes, pads);
  memcpy(copy.map, a->map, a->bytes);
  return copy;
}

/* Small multiples of 1/8, whose sums of products are exact in f32; 0 or 1 where the type is bool.
 */
static inline void tile_array_fill(struct tile_array *a, uint32_t seed)
{
  for (int64_t k = 0; k < a->count; k++) {
    seed = seed * 1664525u + 1013904223u;
    int32_t number = (int32_t)(seed >> 16) % 33 - 16;
    double value = number / 8.0;
    if (a->type == DTYPE_BOOL)
      value = number > 0;
    else if (a->type == DTYPE_U8)
      value = number + 16;
    else if (!tile_array_is_real(a))
      value = number;
    tile_array_set(a, k, value);
  }
}

/* ---- running ---- */

struct tile_argument {
  const char *name;
  double value;
};

struct tile_launch {
  struct tile_array *arrays;
  size_t array_count;
  const struct tile_argument *params;
  size_t param_count;
  struct tile_fault fault;
};

static inline struct tile_array *tile_launch_array(const struct tile_launch *launch,
                                                   const char *name)
{
  for (size_t k = 0; k < launch->array_count; k++)
    if (strcmp(launch->arrays[k].name, name) == 0)
      return &launch->arrays[k];
  return NULL;
}

static inline const struct tile_argument *tile_launch_param(const struct tile_launch *launch,
                                                            const char *name)
{
  for (size_t k = 0; k < launch->param_count; k++)
    if (strcmp(launch->params[k].name, name) == 0)
      return &launch->params[k];
  return NULL;
}

static inline int64_t tile_param_bits(const struct tile_param *param, double value)
{
  if (param->type != EXPR_FLOAT)
    return (int64_t)value;
  int64_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/* Where kernels record faults. */
static inline int64_t tile_fault_address(struct tile_code *c, struct tile_launch *launch)
{
#ifdef TILE_ON_DEVICE
  (void)launch;
  return (int64_t)c->fault;
#else
  (void)c;
  return (int64_t)(intptr_t)&launch->fault;
#endif
}

/* NULL, or which name is not bound or bound to something else. */
static inline const char *tile_bind(struct tile_code *c, const struct tile_kernel *kernel,
                                    struct tile_launch *launch, int64_t *slots)
{
  for (uint32_t t = 0; t < kernel->tensors.count; t++) {
    const struct tile_tensor *tensor = &kernel->tensors.items[t];
    const struct tile_array *a = tile_launch_array(launch, tensor->name);
    if (a == NULL || a->type != tensor->element || a->rank != tensor->rank)
      return arena_format(&c->arena, "tensor %s is not bound as declared", tensor->name);
    int64_t *slot = &slots[tile_tensor_slot(kernel, t)];
    *slot++ = a->device != 0 ? (int64_t)a->device + (a->data - a->map) : (int64_t)(intptr_t)a->data;
    memcpy(slot, a->strides, a->rank * sizeof(*slot));
    memcpy(slot + a->rank, a->sizes, a->rank * sizeof(*slot));
  }
  for (uint32_t p = 0; p < kernel->params.count; p++) {
    const struct tile_param *param = &kernel->params.items[p];
    const struct tile_argument *argument = tile_launch_param(launch, param->name);
    if (argument == NULL)
      return arena_format(&c->arena, "parameter %s is not bound", param->name);
    slots[tile_param_slot(kernel, p)] = tile_param_bits(param, argument->value);
  }
  slots[tile_fault_slot(kernel)] = tile_fault_address(c, launch);
  return NULL;
}

#ifdef TILE_ON_DEVICE
static inline const char *tile_run_tasks(struct tile_code *c, size_t k, const int64_t *slots)
{
  const struct compiled_kernel *kernel = &c->compiled->kernels.items[k];
  int64_t tasks = tile_task_count(kernel->tile, slots);
  const struct ptx_entry *entry = ptx_module_entry(c->code, kernel->tile->name);
  if (entry == NULL || tasks < 0)
    return arena_format(&c->arena, "kernel %s has no entry, or no number of tasks",
                        kernel->tile->name);
  struct ptx_launch launch = {
      .entry = entry,
      .grid = {(uint32_t)tasks, 1, 1},
      .block = {kernel->threads, 1, 1},
      .dynamic_shared = kernel->shared_bytes,
      .params = (const unsigned char *)slots,
      .seed = 1,
  };
  struct device_fault fault = {0};
  struct device_counts counts;
  if (tasks == 0 || ptx_run(&launch, &fault, &counts))
    return NULL;
  return arena_format(&c->arena, "kernel %s, block %u, thread %u, line %u: %s", kernel->tile->name,
                      fault.block[0], fault.thread, fault.line, fault.text);
}

static inline const char *tile_upload(struct tile_code *c, struct tile_launch *launch)
{
  for (size_t k = 0; k < launch->array_count; k++) {
    struct tile_array *a = &launch->arrays[k];
    a->device = device_allocate(a->bytes);
    if (a->device == 0)
      return "no memory on the device";
    memcpy(device_translate(a->device, a->bytes), a->map, a->bytes);
  }
  c->fault = device_allocate(sizeof(launch->fault));
  if (c->fault == 0)
    return "no memory on the device";
  memset(device_translate(c->fault, sizeof(launch->fault)), 0, sizeof(launch->fault));
  return NULL;
}

static inline void tile_download(struct tile_code *c, struct tile_launch *launch)
{
  for (size_t k = 0; k < launch->array_count; k++) {
    struct tile_array *a = &launch->arrays[k];
    if (a->device == 0)
      continue;
    memcpy(a->map, device_translate(a->device, a->bytes), a->bytes);
    device_free(a->device);
    a->device = 0;
  }
  if (c->fault == 0)
    return;
  memcpy(&launch->fault, device_translate(c->fault, sizeof(launch->fault)), sizeof(launch->fault));
  device_free(c->fault);
  c->fault = 0;
}
#else
static inline const char *tile_upload(struct tile_code *c, struct tile_launch *launch)
{
  (void)c, (void)launch;
  return NULL;
}

static inline void tile_download(struct tile_code *c, struct tile_launch *launch)
{
  (void)c, (void)launch;
}

static inline const char *tile_run_tasks(struct tile_code *c, size_t k, const int64_t *slots)
{
  enum { GUARD = 256, PATTERN = 0x5a };
  const struct compiled_kernel *kernel = &c->compiled->kernels.items[k];
  const char *name = kernel->tile->name;
  void *count_symbol = host_code_symbol(c->code, arena_format(&c->arena, "%s_tasks", name));
  void *symbol = host_code_symbol(c->code, name);
  if (count_symbol == NULL || symbol == NULL)
    return arena_format(&c->arena, "the object lacks the functions of kernel %s", name);
  int64_t (*count)(const int64_t *);
  void (*run)(const int64_t *, int64_t, void *);
  memcpy(&count, &count_symbol, sizeof(count));
  memcpy(&run, &symbol, sizeof(run));
  size_t size = (kernel->scratch_bytes + 2 * GUARD + 63) / 64 * 64;
  unsigned char *memory = aligned_alloc(64, size);
  if (memory == NULL)
    return "out of memory";
  memset(memory, PATTERN, size);
  int64_t tasks = count(slots);
  const char *error = NULL;
  for (int64_t task = 0; task < tasks && error == NULL; task++) {
    memset(memory + GUARD, 0xff, kernel->scratch_bytes);
    run(slots, task, memory + GUARD);
    for (size_t n = 0; n < GUARD; n++)
      if (memory[n] != PATTERN || memory[GUARD + kernel->scratch_bytes + n] != PATTERN)
        error = arena_format(&c->arena, "kernel %s wrote outside of its scratch memory", name);
  }
  free(memory);
  return error;
}
#endif

static inline bool tile_is_written(const struct tile_program *program, const char *name)
{
  for (size_t k = 0; k < program->kernels.count; k++) {
    const struct tile_kernel *kernel = program->kernels.items[k];
    for (size_t t = 0; t < kernel->tensors.count; t++)
      if (kernel->tensors.items[t].written && strcmp(kernel->tensors.items[t].name, name) == 0)
        return true;
  }
  return false;
}

/* Runs all kernels. Also an error: a byte changed that is no element of a written tensor. */
static inline const char *tile_run(struct tile_code *c, struct tile_launch *launch)
{
  launch->fault = (struct tile_fault){0};
  for (size_t k = 0; k < launch->array_count; k++) {
    struct tile_array *a = &launch->arrays[k];
    for (size_t n = 0; n < a->bytes && tile_is_written(c->program, a->name); n++)
      if (!a->inside[n])
        a->map[n] = 0xa5;
    memcpy(a->before, a->map, a->bytes);
  }
  const char *failed = tile_upload(c, launch);
  for (size_t k = 0; failed == NULL && k < c->program->kernels.count; k++) {
    const struct tile_kernel *kernel = c->program->kernels.items[k];
    int64_t *slots = ARENA_ARRAY(&c->arena, int64_t, tile_slot_count(kernel));
    failed = tile_bind(c, kernel, launch, slots);
    if (failed == NULL)
      failed = tile_run_tasks(c, k, slots);
  }
  tile_download(c, launch);
  if (failed != NULL)
    return failed;
  for (size_t k = 0; k < launch->array_count; k++) {
    const struct tile_array *a = &launch->arrays[k];
    bool written = tile_is_written(c->program, a->name);
    for (size_t n = 0; n < a->bytes; n++)
      if (a->map[n] != a->before[n] && !(written && a->inside[n]))
        return arena_format(&c->arena, "tensor %s changed at byte %td, which is not its to write",
                            a->name, a->map + n - a->data);
  }
  return NULL;
}

#endif
