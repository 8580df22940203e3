/* The kernels are a tile program of their own. A tile is a column of elements along the last
 * dimension, addressed by row: only columns and reads want a last stride of 1. */
#include "runtime/cuda_copy.h"

#include "compiler/tile/abi.h"
#include "dsl/base/memory.h"
#include "runtime/context.h"
#include "runtime/cuda_code.h"

#include <assert.h>
#include <string.h>

enum { COPY_KINDS = 4, COPY_SLOTS = 2 * (1 + 2 * SPEC_MAX_RANK) + SPEC_MAX_RANK + 1 };
static_assert(SPEC_MAX_RANK == 8, "the program below has eight dimensions");

/* How elements are moved: as they are, without a conversion that could change them. */
static const struct kind {
  enum dtype type;
  const char *tensor, *tile;
} kinds[COPY_KINDS] = {
    {DTYPE_I32, "i32", "i32"},
    {DTYPE_F16, "f16", "f16"},
    {DTYPE_BF16, "bf16", "bf16"},
    {DTYPE_U8, "u8", "i32"},
};

static const char kernel_text[] =
    "kernel copy_%s\n"
    "  tensor x %s[8]\n"
    "  tensor y %s[8] written\n"
    "  param n0 int param n1 int param n2 int param n3 int\n"
    "  param n4 int param n5 int param n6 int param n7 int\n"
    "{\n"
    "  %%n0: index = scalar => long(n0)\n"
    "  %%n1: index = scalar => long(n1)\n"
    "  %%n2: index = scalar => long(n2)\n"
    "  %%n3: index = scalar => long(n3)\n"
    "  %%n4: index = scalar => long(n4)\n"
    "  %%n5: index = scalar => long(n5)\n"
    "  %%n6: index = scalar => long(n6)\n"
    "  %%tiles: index = scalar => (long(n7) + 255L) // 256L\n"
    "  parallel (%%a, %%b, %%c, %%d, %%e, %%f, %%g, %%t)\n"
    "         < (%%n0, %%n1, %%n2, %%n3, %%n4, %%n5, %%n6, %%tiles) {\n"
    "    %%h: index = scalar %%t => $0 * 256L\n"
    "    %%live: index = scalar %%h => long(n7) - $0\n"
    "    %%one: index = scalar => 1L\n"
    "    %%z: %s[256,1] = load x[%%a, %%b, %%c, %%d, %%e, %%f, %%g, %%h] rows 7 "
    "live %%live, %%one\n"
    "    store %%z to y[%%a, %%b, %%c, %%d, %%e, %%f, %%g, %%h] rows 7 live %%live, %%one\n"
    "  }\n"
    "}\n";
static const char cache_key[] = "copies between strided tensors, 1";

struct cuda_copy {
  struct arena arena;
  struct compiled *compiled;
  struct cuda_code *code;
  struct cuda_function *functions[COPY_KINDS];
};

/* ---- making ---- */

static bool build(struct cuda_copy *copy)
{
  struct arena *arena = &copy->arena;
  if (arena_guard(arena))
    return false;
  const char *text = "";
  for (size_t k = 0; k < COPY_KINDS; k++) {
    const char *kernel = arena_format(arena, kernel_text, kinds[k].tensor, kinds[k].tensor,
                                      kinds[k].tensor, kinds[k].tile);
    text = arena_format(arena, "%s%s", text, kernel);
  }
  struct source_set *sources = ARENA_NEW(arena, struct source_set);
  struct diagnostics *diagnostics = ARENA_NEW(arena, struct diagnostics);
  struct expr_pool *pool = ARENA_NEW(arena, struct expr_pool);
  source_set_init(sources, arena);
  diagnostics_init(diagnostics, arena, sources);
  expr_pool_init(pool, arena);
  uint32_t source = source_add(sources, "copy.tile", text, strlen(text));
  struct tile_program *program = tile_parse(arena, pool, sources, source, diagnostics);
  assert(program != NULL);
  const struct compile_options options = {.target = TARGET_SM_80, .type = DTYPE_F32};
  copy->compiled = compile_wrap(arena, program, &options);
  return true;
}

static attn_status load(struct cuda_device *device, struct cuda_copy *copy,
                        const struct error_sink *sink)
{
  attn_status status = cuda_code_load(device, copy->compiled, sink, &copy->code);
  for (size_t k = 0; status == ATTN_OK && k < COPY_KINDS; k++)
    status = cuda_code_function(copy->code, &copy->compiled->kernels.items[k], sink,
                                &copy->functions[k]);
  if (status != ATTN_OK) {
    cuda_code_free(copy->code);
    copy->code = NULL;
  }
  return status;
}

static attn_status emit(struct cuda_copy *copy, const struct error_sink *sink)
{
  const char *error = NULL;
  switch (compile_emit(&copy->arena, copy->compiled, COMPILE_OBJECT, NULL, &error)) {
  case COMPILE_OK: return ATTN_OK;
  case COMPILE_OUT_OF_MEMORY: return error_out_of_memory(sink);
  case COMPILE_UNAVAILABLE: return error_report(sink, ATTN_ERROR_UNSUPPORTED, "%s", error);
  case COMPILE_FAILED: break;
  }
  return error_report(sink, ATTN_ERROR_INTERNAL, "cannot compile copies of tensors: %s", error);
}

static attn_status compile(struct cuda_device *device, const struct disk_cache *disk,
                           struct cuda_copy *copy, const struct error_sink *sink)
{
  const struct error_sink quiet = {NULL, NULL, 0};
  unsigned char key[sizeof(cache_key) + CUDA_KEY_SIZE];
  memcpy(key, cache_key, sizeof(cache_key));
  cuda_device_key(device, key + sizeof(cache_key));
  if (disk_cache_load(disk, key, sizeof(key), copy->compiled) == DISK_CACHE_HIT &&
      load(device, copy, &quiet) == ATTN_OK)
    return ATTN_OK;
  mem_free(copy->compiled->code);
  copy->compiled->code = NULL;
  attn_status status = emit(copy, sink);
  if (status == ATTN_OK)
    status = cuda_code_assemble(copy->compiled, sink);
  if (status == ATTN_OK)
    status = load(device, copy, sink);
  if (status == ATTN_OK)
    disk_cache_store(disk, key, sizeof(key), copy->compiled);
  return status;
}

static attn_status make(struct cuda_device *device, const struct disk_cache *disk,
                        const struct error_sink *sink)
{
  struct cuda_copy *copy = mem_alloc_zeroed(1, sizeof(*copy));
  if (copy == NULL)
    return error_out_of_memory(sink);
  arena_init(&copy->arena);
  attn_status status = build(copy) ? compile(device, disk, copy, sink) : error_out_of_memory(sink);
  if (copy->compiled != NULL) {
    mem_free(copy->compiled->code); /* it is loaded now, or no good */
    copy->compiled->code = NULL;
  }
  if (status == ATTN_OK)
    device->copy = copy;
  else
    cuda_copy_free(copy);
  return status;
}

attn_status cuda_copy_prepare(struct cuda_device *device, const struct disk_cache *disk,
                              const struct error_sink *sink, const struct cuda_copy **copy)
{
  pthread_mutex_lock(&device->copy_lock);
  attn_status status = device->copy == NULL ? make(device, disk, sink) : ATTN_OK;
  *copy = device->copy;
  pthread_mutex_unlock(&device->copy_lock);
  return status;
}

void cuda_copy_free(struct cuda_copy *copy)
{
  if (copy == NULL)
    return;
  cuda_code_free(copy->code);
  arena_free(&copy->arena);
  mem_free(copy);
}

/* ---- copying ---- */

static size_t kind_of(enum dtype type)
{
  size_t k = 0;
  if (dtype_size(type) == 4 || dtype_size(type) == 8)
    type = DTYPE_I32;
  else if (dtype_size(type) == 1)
    type = DTYPE_U8;
  while (kinds[k].type != type)
    k++;
  return k;
}

/* Dimensions that the tensor lacks are in front and have the size 1. */
static int64_t *put_tensor(const struct bound_tensor *tensor, int64_t offset, int64_t scale,
                           int64_t *slot)
{
  const uint32_t lacking = SPEC_MAX_RANK - tensor->rank;
  *slot++ = (int64_t)(intptr_t)tensor->data + offset;
  for (uint32_t d = 0; d < SPEC_MAX_RANK; d++)
    *slot++ = d < lacking ? 0 : tensor->strides[d - lacking] * scale;
  for (uint32_t d = 0; d < SPEC_MAX_RANK; d++)
    *slot++ = d < lacking ? 1 : tensor->sizes[d - lacking];
  return slot;
}

attn_status cuda_copy_enqueue(const struct cuda_copy *copy, const struct bound_tensor *to,
                              const struct bound_tensor *from, struct cuda_stream *stream,
                              const struct error_sink *sink)
{
  const size_t kind = kind_of(to->type);
  const struct compiled_kernel *kernel = &copy->compiled->kernels.items[kind];
  const int64_t halves = dtype_size(to->type) == 8 ? 2 : 1; /* each moved as 32 bits */
  attn_status status = ATTN_OK;
  for (int64_t half = 0; half < halves && status == ATTN_OK; half++) {
    int64_t slots[COPY_SLOTS];
    int64_t *slot = put_tensor(from, half * 4, halves, slots);
    slot = put_tensor(to, half * 4, halves, slot);
    memcpy(slot, slots + 1 + SPEC_MAX_RANK, SPEC_MAX_RANK * sizeof(*slot)); /* the sizes again */
    slot[SPEC_MAX_RANK] = 0;                                                /* nothing is checked */
    status = cuda_code_launch(kernel, copy->functions[kind], slots, stream, sink);
  }
  return status;
}
