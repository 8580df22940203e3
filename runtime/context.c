#include "runtime/context.h"

#include "dsl/base/memory.h"
#include "runtime/cuda_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ATTN_VERSION
#error "the build defines ATTN_VERSION"
#endif

enum { MAX_CACHE_ENTRIES = 65536 };

static const char out_of_memory[] = "out of memory";

const char *attn_version(void)
{
  return ATTN_VERSION;
}

const char *attn_status_text(attn_status status)
{
  switch (status) {
  case ATTN_OK: return "ok";
  case ATTN_ERROR_SPEC: return "the spec has errors";
  case ATTN_ERROR_ARGUMENT: return "wrong argument";
  case ATTN_ERROR_FAULT: return "index out of range while computing";
  case ATTN_ERROR_OUT_OF_MEMORY: return out_of_memory;
  case ATTN_ERROR_UNSUPPORTED: return "not supported";
  case ATTN_ERROR_DEVICE: return "the device failed";
  case ATTN_ERROR_IO: return "a file cannot be read";
  case ATTN_ERROR_INTERNAL: return "internal error";
  }
  return "unknown status";
}

bool options_copy(void *options, size_t known, const void *from, size_t given)
{
  if (given < sizeof(size_t) || given > 65536)
    return false;
  const unsigned char *bytes = from;
  for (size_t n = known; n < given; n++) {
    if (bytes[n] != 0)
      return false;
  }
  memcpy(options, from, given < known ? given : known);
  return true;
}

static void keep_error(struct attn_context *context, char *text, const char *fixed)
{
  pthread_mutex_lock(&context->lock);
  char *before = context->error;
  context->error = text;
  context->fixed_error = fixed;
  pthread_mutex_unlock(&context->lock);
  mem_free(before);
}

static size_t copy_text(const char *text, char *buffer, size_t size)
{
  size_t length = strlen(text);
  if (buffer != NULL && size != 0) {
    size_t copied = length < size ? length : size - 1;
    memcpy(buffer, text, copied);
    buffer[copied] = '\0';
  }
  return length;
}

attn_status error_report(const struct error_sink *sink, attn_status status, const char *format, ...)
{
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  if (sink->buffer != NULL && sink->size != 0)
    vsnprintf(sink->buffer, sink->size, format, arguments);
  va_end(arguments);
  if (sink->context != NULL) {
    va_list measured;
    va_copy(measured, again);
    int length = vsnprintf(NULL, 0, format, measured);
    va_end(measured);
    size_t size = length < 0 ? 1 : (size_t)length + 1;
    char *text = mem_alloc(size);
    if (text != NULL)
      vsnprintf(text, size, format, again);
    /* Without memory for its text an error still is what it is. */
    keep_error(sink->context, text, text == NULL ? attn_status_text(status) : NULL);
  }
  va_end(again);
  return status;
}

attn_status error_out_of_memory(const struct error_sink *sink)
{
  copy_text(out_of_memory, sink->buffer, sink->size);
  if (sink->context != NULL)
    keep_error(sink->context, NULL, out_of_memory);
  return ATTN_ERROR_OUT_OF_MEMORY;
}

/* *number: N of "cuda:N", 0 of "cuda", -1 of "cpu". */
static attn_status parse_device(const struct error_sink *sink, const char *device, int *number)
{
  enum { MOST = 1023 };
  *number = -1;
  if (device == NULL || strcmp(device, "cpu") == 0)
    return ATTN_OK;
  if (strcmp(device, "cuda") == 0)
    device = "cuda:0";
  const char *digit = device + 5;
  if (strncmp(device, "cuda:", 5) == 0 && *digit >= '0' && *digit <= '9') {
    *number = 0;
    for (; *digit >= '0' && *digit <= '9' && *number <= MOST; digit++)
      *number = *number * 10 + (*digit - '0');
    if (*digit == '\0' && *number <= MOST)
      return ATTN_OK;
  }
  return error_report(sink, ATTN_ERROR_ARGUMENT,
                      "unknown device '%.40s'; use \"cpu\", or \"cuda:0\", \"cuda:1\", ...",
                      device);
}

static void free_context(struct attn_context *context)
{
  thread_pool_free(context->threads);
  code_cache_destroy(&context->cache); /* code goes before its device */
  disk_cache_destroy(&context->disk);
  attn_context_trim(context);
  cuda_device_close(context->device);
  mem_free(context->error);
  pthread_mutex_destroy(&context->lock);
  mem_free(context);
}

attn_status attn_context_create(const attn_context_options *given, attn_context **out)
{
  if (out == NULL)
    return ATTN_ERROR_ARGUMENT;
  *out = NULL;
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  if (given != NULL && !options_copy(&options, sizeof(options), given, given->size))
    return ATTN_ERROR_ARGUMENT;
  struct error_sink sink = {NULL, options.error, options.error_size};
  int number;
  attn_status status = parse_device(&sink, options.device, &number);
  if (status != ATTN_OK)
    return status;
  if (options.code_cache_entries > MAX_CACHE_ENTRIES)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "code_cache_entries is %u; the most is %d",
                        options.code_cache_entries, MAX_CACHE_ENTRIES);
  unsigned count;
  char error[128];
  if (!thread_count_choose(options.threads, getenv("ATTN_NUM_THREADS"), &count, error,
                           sizeof(error)))
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "%s", error);

  struct attn_context *context = mem_alloc_zeroed(1, sizeof(*context));
  if (context == NULL)
    return error_out_of_memory(&sink);
  if (!code_cache_init(&context->cache, options.code_cache_entries)) {
    mem_free(context);
    return error_out_of_memory(&sink);
  }
  atomic_init(&context->references, 1);
  pthread_mutex_init(&context->lock, NULL);
  if (disk_cache_init(&context->disk, options.code_cache_directory))
    context->threads = thread_pool_new(number < 0 ? count : 1);
  if (context->threads == NULL)
    status = error_out_of_memory(&sink);
  else if (number >= 0)
    status = cuda_device_open(number, &sink, &context->device);
  if (status != ATTN_OK) {
    free_context(context);
    return status;
  }
  *out = context;
  return ATTN_OK;
}

struct attn_context *context_retain(struct attn_context *context)
{
  atomic_fetch_add(&context->references, 1);
  return context;
}

void context_release(struct attn_context *context)
{
  if (context == NULL || atomic_fetch_sub(&context->references, 1) != 1)
    return;
  free_context(context);
}

void attn_context_free(attn_context *context)
{
  context_release(context);
}

size_t attn_context_error(attn_context *context, char *buffer, size_t size)
{
  if (context == NULL)
    return copy_text("", buffer, size);
  pthread_mutex_lock(&context->lock);
  const char *text = context->error != NULL         ? context->error
                     : context->fixed_error != NULL ? context->fixed_error
                                                    : "";
  size_t length = copy_text(text, buffer, size);
  pthread_mutex_unlock(&context->lock);
  return length;
}

attn_statistics attn_context_statistics(attn_context *context)
{
  return (attn_statistics){
      .compilations = atomic_load_explicit(&context->compilations, memory_order_relaxed),
      .cache_hits = atomic_load_explicit(&context->cache_hits, memory_order_relaxed),
      .disk_hits = atomic_load_explicit(&context->disk_hits, memory_order_relaxed),
      .launches = atomic_load_explicit(&context->launches, memory_order_relaxed),
  };
}

DLDevice attn_context_device(const attn_context *context)
{
  return context->device == NULL ? (DLDevice){kDLCPU, 0}
                                 : (DLDevice){kDLCUDA, context->device->number};
}

unsigned attn_context_threads(const attn_context *context)
{
  return thread_pool_count(context->threads);
}

static void free_block(struct block *block)
{
  mem_free(block->memory);
  mem_free(block);
}

void attn_context_trim(attn_context *context)
{
  pthread_mutex_lock(&context->lock);
  struct block *block = context->blocks;
  context->blocks = NULL;
  pthread_mutex_unlock(&context->lock);
  while (block != NULL) {
    struct block *next = block->next;
    free_block(block);
    block = next;
  }
  const struct error_sink quiet = {NULL, NULL, 0};
  if (context->device != NULL && cuda_enter(context->device, &quiet) == ATTN_OK) {
    cuda_device_trim(context->device);
    cuda_leave();
  }
}

struct block *context_take_block(struct attn_context *context, size_t size)
{
  pthread_mutex_lock(&context->lock);
  struct block *block = context->blocks;
  if (block != NULL)
    context->blocks = block->next;
  pthread_mutex_unlock(&context->lock);
  if (block == NULL)
    block = mem_alloc_zeroed(1, sizeof(*block));
  if (block == NULL || block->size >= size)
    return block;

  mem_free(block->memory);
  block->size = 0;
  block->memory = size > SIZE_MAX - BLOCK_ALIGNMENT ? NULL : mem_alloc(size + BLOCK_ALIGNMENT);
  if (block->memory == NULL) {
    mem_free(block);
    return NULL;
  }
  uintptr_t address = (uintptr_t)block->memory;
  block->data = (unsigned char *)block->memory + (BLOCK_ALIGNMENT - address % BLOCK_ALIGNMENT);
  block->size = size;
  return block;
}

void context_give_block(struct attn_context *context, struct block *block)
{
  if (block == NULL)
    return;
  pthread_mutex_lock(&context->lock);
  block->next = context->blocks;
  context->blocks = block;
  pthread_mutex_unlock(&context->lock);
}
