/* The tables of a batch, their copy on the device, and the tensors that are made of them. */
#include "dsl/base/memory.h"
#include "runtime/cache.h"
#include "runtime/cuda_device.h"

#include <string.h>

/* ---- memory ---- */

/* The driver reads host memory when the stream comes to the copy. */
static attn_status wait_for_upload(const struct attn_cache_batch *batch,
                                   const struct error_sink *sink)
{
  return batch->uploaded == NULL
             ? ATTN_OK
             : cuda_check(sink, cuda.event_synchronize(batch->uploaded), "wait for a copy");
}

static void free_on_device(int32_t *host, int32_t *device)
{
  if (device != NULL) {
    cuda.synchronize(); /* launches may be under way */
    cuda.free((cuda_address)(uintptr_t)device);
  }
  if (host != NULL)
    cuda.host_free(host);
}

void cache_free_tables(struct attn_cache_batch *batch)
{
  const struct error_sink quiet = {NULL, NULL, 0};
  if (batch->cache->context->device == NULL) {
    mem_free(batch->tables);
  } else if (cache_enter(batch->cache, &quiet) == ATTN_OK) {
    free_on_device(batch->tables, batch->device_tables);
    if (batch->uploaded != NULL)
      cuda.event_destroy(batch->uploaded);
    cache_leave(batch->cache);
  }
}

static attn_status grow_on_device(struct attn_cache_batch *batch, size_t count,
                                  const struct error_sink *sink)
{
  enum { DISABLE_TIMING = 2 }; /* CU_EVENT_DISABLE_TIMING */
  void *host = NULL;
  cuda_address device = 0;
  cuda_result result = CUDA_OK;
  if (batch->uploaded == NULL)
    result = cuda.event_create(&batch->uploaded, DISABLE_TIMING);
  if (result == CUDA_OK)
    result = cuda.host_allocate(&host, count * sizeof(int32_t));
  attn_status status = cuda_check(sink, result, "allocate pinned memory");
  if (status == ATTN_OK)
    status = cuda_allocate(sink, count * sizeof(int32_t), "the tables of a batch", &device);
  if (status != ATTN_OK) {
    free_on_device(host, NULL);
    return status;
  }
  free_on_device(batch->tables, batch->device_tables);
  batch->tables = host;
  batch->device_tables = (int32_t *)(uintptr_t)device;
  batch->table_capacity = count;
  return ATTN_OK;
}

static attn_status grow_tables(struct attn_cache_batch *batch, size_t count,
                               const struct error_sink *sink)
{
  const size_t wanted = count + count / 2 + 64;
  if (count <= batch->table_capacity && batch->tables != NULL)
    return ATTN_OK;
  if (wanted < count || wanted > SIZE_MAX / sizeof(int32_t))
    return error_out_of_memory(sink);
  if (batch->cache->context->device != NULL)
    return grow_on_device(batch, wanted, sink);
  int32_t *tables = mem_realloc(batch->tables, wanted * sizeof(*tables));
  if (tables == NULL)
    return error_out_of_memory(sink);
  batch->tables = tables;
  batch->table_capacity = wanted;
  return ATTN_OK;
}

attn_status cache_reserve_tables(const struct attn_cache *cache, struct attn_cache_batch *batch,
                                 const struct error_sink *sink)
{
  batch->width = cache->layout == CACHE_PAGED ? 1 : 0;
  for (size_t n = 0; n < batch->count; n++) {
    struct cache_entry *entry = &batch->entries[n];
    if (entry->number == CACHE_NOBODY || cache->layout != CACHE_PAGED)
      continue;
    const uint32_t length = cache->sequences[entry->number].length + entry->added;
    entry->pinned = cache_pages_of(cache, length);
    batch->width = entry->pinned > batch->width ? entry->pinned : batch->width;
  }
  const size_t row = 1 + (size_t)cache->stored + batch->width;
  if (__builtin_mul_overflow(batch->count, row, &batch->table_size))
    return error_out_of_memory(sink);
  attn_status status = grow_tables(batch, batch->table_size, sink);
  return status == ATTN_OK ? wait_for_upload(batch, sink) : status;
}

/* ---- contents ---- */

static void fill_tables(struct attn_cache *cache, struct attn_cache_batch *batch)
{
  int32_t *lengths = batch->tables, *seen = lengths + batch->count;
  int32_t *table = cache->stored ? seen + batch->count : seen;
  memset(batch->tables, 0, batch->table_size * sizeof(*batch->tables));
  for (size_t n = 0; n < batch->count; n++, table += batch->width) {
    const struct cache_entry *entry = &batch->entries[n];
    if (entry->number == CACHE_NOBODY)
      continue;
    const struct cache_sequence *sequence = &cache->sequences[entry->number];
    const uint32_t length = sequence->length + entry->added;
    const bool kept_only = cache->stored && cache->layout == CACHE_RING && length > cache->page;
    lengths[n] = (int32_t)(kept_only ? cache->page : length);
    if (cache->stored)
      seen[n] = (int32_t)(sequence->seen + entry->added);
    for (uint32_t t = 0; t < entry->pinned; t++) {
      table[t] = (int32_t)sequence->pages[t];
      cache_pin_page(cache, sequence->pages[t]);
    }
  }
}

void cache_unpin_tables(struct attn_cache *cache, const struct attn_cache_batch *batch)
{
  const int32_t *table = batch->tables + batch->count * (1 + (size_t)cache->stored);
  for (size_t n = 0; n < batch->count; n++, table += batch->width) {
    for (uint32_t t = 0; t < batch->entries[n].pinned; t++)
      cache_unpin_page(cache, (uint32_t)table[t]);
  }
}

attn_status cache_fill_tables(struct attn_cache *cache, struct attn_cache_batch *batch,
                              const struct error_sink *sink)
{
  fill_tables(cache, batch);
  if (cache->context->device == NULL || batch->table_size == 0)
    return ATTN_OK;
  cuda_result result = cuda.upload((cuda_address)(uintptr_t)batch->device_tables, batch->tables,
                                   batch->table_size * sizeof(*batch->tables), cache->stream);
  if (result == CUDA_OK)
    result = cuda.event_record(batch->uploaded, cache->stream);
  if (result != CUDA_OK)
    cache_unpin_tables(cache, batch);
  return cuda_check(sink, result, "upload the tables of a batch");
}

/* ---- tensors ---- */

/* Shape and strides of a tensor, which are the same in all storages. Returns where it begins: for
 * tables in int32 from the first, else in bytes in a storage. */
static size_t shape_tensor(const struct attn_cache *cache, struct attn_cache_batch *batch,
                           uint32_t tensor, int64_t first, int64_t step)
{
  const struct cache_array *array = &cache->arrays[tensor];
  int64_t *shape = batch->shapes[tensor], *strides = batch->strides[tensor];
  memcpy(shape, array->shape, sizeof(array->shape));
  memcpy(strides, array->strides, sizeof(array->strides));
  switch (array->kind) {
  case CACHE_ARRAY_TABLE:
    shape[0] = (int64_t)batch->count;
    strides[0] = 1;
    if (array->tensor->part == CACHE_PAGE_TABLE) {
      shape[1] = strides[0] = batch->width;
      strides[1] = 1;
      return batch->count * (1 + (size_t)cache->stored);
    }
    return array->tensor->part == CACHE_SEEN ? batch->count : 0;
  case CACHE_ARRAY_SLOTS:
    if (cache->layout == CACHE_PAGED)
      return array->offset;
    break;
  case CACHE_ARRAY_RECENT: break;
  case CACHE_ARRAY_CONSTANT: return array->offset;
  }
  shape[0] = (int64_t)batch->count;
  strides[0] *= step;
  return array->offset + (size_t)first * array->block;
}

void cache_make_tensors(const struct attn_cache *cache, struct attn_cache_batch *batch,
                        int64_t first, int64_t step)
{
  const DLDevice device = attn_context_device(cache->context);
  const uint32_t count = cache->plan->count;
  for (uint32_t n = 0; n < count; n++) {
    const struct cache_array *array = &cache->arrays[n];
    const size_t begin = shape_tensor(cache, batch, n, first, step);
    for (uint32_t storage = 0; storage < cache->storages; storage++) {
      DLTensor *tensor = &batch->tensors[storage * count + n];
      int32_t *tables = cache->context->device != NULL ? batch->device_tables : batch->tables;
      *tensor = (DLTensor){.device = device,
                           .ndim = (int32_t)array->tensor->rank,
                           .dtype = array->type,
                           .shape = batch->shapes[n],
                           .strides = batch->strides[n]};
      if (array->kind == CACHE_ARRAY_TABLE)
        tensor->data = tables + begin;
      else
        tensor->data = cache->memory + storage * cache->storage_size + begin;
      batch->named[storage * count + n] = (attn_named_tensor){array->tensor->name, tensor};
    }
  }
}
