/* Making caches, freeing them, and what they take. */
#include "dsl/base/memory.h"
#include "runtime/cache.h"
#include "runtime/cuda_device.h"
#include "runtime/program.h"

enum { MAX_LAYERS = 65536, MAX_SEQUENCES = 1 << 20, HOST_ALIGNMENT = 64 };

/* ---- options ---- */

static attn_status check_counts(const attn_cache_options *options, const struct error_sink *sink)
{
  if (options->layers == 0 || options->layers > MAX_LAYERS)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "layers is %u; a cache has 1 to %d",
                        options->layers, MAX_LAYERS);
  if (options->sequences == 0 || options->sequences > MAX_SEQUENCES)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "sequences is %u; a cache has 1 to %d",
                        options->sequences, MAX_SEQUENCES);
  if (options->order != ATTN_CACHE_HEADS_FIRST && options->order != ATTN_CACHE_TOKENS_FIRST)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "order is %d, which is no attn_cache_order",
                        (int)options->order);
  return ATTN_OK;
}

static attn_status settle_type(const struct unit *front, attn_type wanted,
                               const struct error_sink *sink, enum dtype *type)
{
  const attn_type own = front->info.type;
  *type = dtype_of_attn(own == ATTN_TYPE_ANY ? wanted : own);
  if (own != ATTN_TYPE_ANY && wanted != ATTN_TYPE_ANY && wanted != own)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "type is %s, but '%s' takes %s",
                        attn_type_name(wanted), front->info.name, attn_type_name(own));
  if (*type != DTYPE_F32 && *type != DTYPE_F16 && *type != DTYPE_BF16)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "type is %s; say which of f32, f16 and bf16 '%s' will be launched with",
                        attn_type_name(wanted), front->info.name);
  return ATTN_OK;
}

/* Fills layers, storages and storage_of. */
static attn_status share_layers(struct attn_cache *cache, const attn_cache_options *options,
                                const struct error_sink *sink)
{
  const uint32_t *producers = options->producers;
  cache->layers = options->layers;
  cache->storage_of = mem_alloc_zeroed(options->layers, sizeof(*cache->storage_of));
  if (cache->storage_of == NULL)
    return error_out_of_memory(sink);
  for (uint32_t layer = 0; layer < options->layers; layer++) {
    if (producers == NULL || producers[layer] == layer)
      cache->storage_of[layer] = cache->storages++;
  }
  for (uint32_t layer = 0; producers != NULL && layer < options->layers; layer++) {
    const uint32_t producer = producers[layer];
    if (producer >= options->layers)
      return error_report(sink, ATTN_ERROR_ARGUMENT, "producers[%u] is %u, but there are %u layers",
                          layer, producer, options->layers);
    if (producers[producer] != producer)
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "producers[%u] is %u, which has no keys and values of its own: "
                          "producers[%u] is %u",
                          layer, producer, producer, producers[producer]);
    cache->storage_of[layer] = cache->storage_of[producer];
  }
  return ATTN_OK;
}

/* ---- memory ---- */

static attn_status allocate_device(struct attn_cache *cache, size_t bytes,
                                   const struct error_sink *sink)
{
  attn_status status = cuda_enter(cache->context->device, sink);
  if (status != ATTN_OK)
    return status;
  cuda_address address = 0;
  status = cuda_allocate(sink, bytes, "a cache", &address);
  cache->allocated = cache->memory = (unsigned char *)(uintptr_t)address;
  if (status == ATTN_OK)
    status = cuda_check(sink, cuda.fill(address, 0, bytes, cache->stream), "clear a cache");
  cuda_leave();
  return status;
}

static attn_status allocate_host(struct attn_cache *cache, size_t bytes,
                                 const struct error_sink *sink)
{
  if (bytes <= SIZE_MAX - HOST_ALIGNMENT)
    cache->allocated = mem_alloc_zeroed(1, bytes + HOST_ALIGNMENT);
  if (cache->allocated == NULL)
    return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY, "out of memory: the cache takes %zu bytes",
                        bytes);
  mem_prefer_large_pages(cache->allocated, bytes + HOST_ALIGNMENT);
  const uintptr_t address = (uintptr_t)cache->allocated;
  cache->memory = (unsigned char *)cache->allocated + (HOST_ALIGNMENT - address % HOST_ALIGNMENT);
  return ATTN_OK;
}

static attn_status allocate(struct attn_cache *cache, const struct error_sink *sink)
{
  size_t bytes;
  if (__builtin_mul_overflow(cache->storage_size, (size_t)cache->storages, &bytes))
    return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY,
                        "a cache of this size does not fit into the address space");
  attn_status status = cache->context->device != NULL ? allocate_device(cache, bytes, sink)
                                                      : allocate_host(cache, bytes, sink);
  if (status != ATTN_OK)
    return status;
  cache->sequences = mem_alloc_zeroed(cache->sequence_count, sizeof(*cache->sequences));
  cache->pages = mem_alloc_zeroed(cache->page_count, sizeof(*cache->pages));
  cache->free_pages = mem_alloc_zeroed(cache->page_count, sizeof(*cache->free_pages));
  if (cache->sequences == NULL || cache->pages == NULL || cache->free_pages == NULL)
    return error_out_of_memory(sink);
  for (uint32_t n = 0; n < cache->sequence_count; n++)
    cache->sequences[n].generation = 1;
  for (uint32_t page = cache->page_count; page-- > 0;)
    cache->free_pages[cache->free_count++] = page;
  return ATTN_OK;
}

/* ---- life ---- */

static void free_memory(struct attn_cache *cache)
{
  const struct error_sink quiet = {NULL, NULL, 0};
  if (cache->context->device == NULL) {
    mem_free(cache->allocated);
  } else if (cache->allocated != NULL && cuda_enter(cache->context->device, &quiet) == ATTN_OK) {
    cuda.synchronize(); /* launches may be under way */
    cuda.free((cuda_address)(uintptr_t)cache->allocated);
    cuda_leave();
  }
}

void attn_cache_free(attn_cache *cache)
{
  if (cache == NULL)
    return;
  cache_free_batches(cache);
  free_memory(cache);
  for (uint32_t n = 0; cache->sequences != NULL && n < cache->sequence_count; n++)
    mem_free(cache->sequences[n].pages);
  mem_free(cache->sequences);
  mem_free(cache->pages);
  mem_free(cache->free_pages);
  mem_free(cache->storage_of);
  arena_free(&cache->arena);
  pthread_mutex_destroy(&cache->lock);
  unit_release(cache->front);
  context_release(cache->context);
  mem_free(cache);
}

static attn_status lay_out_in_guard(struct attn_cache *cache, const attn_cache_options *options,
                                    enum dtype type, const struct error_sink *sink)
{
  if (arena_guard(&cache->arena))
    return error_out_of_memory(sink);
  return cache_lay_out(cache, options, type, sink);
}

attn_status cache_create(struct attn_context *context, struct unit *front,
                         const attn_cache_options *options, const struct error_sink *sink,
                         attn_cache **out)
{
  enum dtype type = DTYPE_ANY;
  attn_status status = check_counts(options, sink);
  if (status == ATTN_OK)
    status = settle_type(front, options->type, sink, &type);
  if (status == ATTN_OK && context->device == NULL && options->stream != NULL)
    status = error_report(sink, ATTN_ERROR_ARGUMENT, "stream must be NULL on the cpu");
  if (status != ATTN_OK)
    return status;
  struct attn_cache *cache = mem_alloc_zeroed(1, sizeof(*cache));
  if (cache == NULL)
    return error_out_of_memory(sink);
  cache->context = context_retain(context);
  cache->front = unit_retain(front);
  cache->stream = options->stream;
  cache->sequence_count = options->sequences;
  arena_init(&cache->arena);
  pthread_mutex_init(&cache->lock, NULL);
  status = lay_out_in_guard(cache, options, type, sink);
  if (status == ATTN_OK)
    status = share_layers(cache, options, sink);
  if (status == ATTN_OK)
    status = allocate(cache, sink);
  if (status != ATTN_OK) {
    attn_cache_free(cache);
    return status;
  }
  *out = cache;
  return ATTN_OK;
}

attn_status attn_cache_create(attn_program *program, const attn_cache_options *given,
                              attn_cache **out)
{
  if (program == NULL || out == NULL)
    return ATTN_ERROR_ARGUMENT;
  *out = NULL;
  struct error_sink sink = {program->context, NULL, 0};
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  if (given != NULL && !options_copy(&options, sizeof(options), given, given->size))
    return error_report(&sink, ATTN_ERROR_ARGUMENT,
                        "the cache options have the size %zu; begin with ATTN_CACHE_OPTIONS_INIT",
                        given->size);
  sink.buffer = options.error;
  sink.size = options.error_size;
  return cache_create(program->context, program->front, &options, &sink, out);
}

/* ---- memory ---- */

attn_cache_usage attn_cache_memory(attn_cache *cache)
{
  attn_cache_usage usage = {0};
  if (cache == NULL)
    return usage;
  pthread_mutex_lock(&cache->lock);
  uint64_t tokens = 0;
  for (uint32_t n = 0; n < cache->sequence_count; n++) {
    usage.sequences += cache->sequences[n].used;
    tokens += cache->sequences[n].length;
  }
  const bool paged = cache->layout == CACHE_PAGED;
  usage.pages = paged ? cache->page_count : cache->sequence_count;
  usage.pages_free = paged ? cache->free_count : cache->sequence_count - usage.sequences;
  pthread_mutex_unlock(&cache->lock);

  const uint64_t storages = cache->storages;
  usage.tokens = tokens;
  usage.page = cache->page;
  usage.token_bytes = (double)storages * (double)cache->block_bytes / (double)cache->page;
  usage.sequence_bytes = storages * cache->recent_bytes;
  usage.bytes =
      storages * cache->block_bytes * usage.pages + usage.sequence_bytes * cache->sequence_count;
  usage.used = storages * cache->block_bytes * (usage.pages - usage.pages_free) +
               usage.sequence_bytes * usage.sequences;
  usage.other_bytes = storages * cache->storage_size - usage.bytes;
  return usage;
}
