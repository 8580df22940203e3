/* Allocations, copies and what the driver knows about a pointer. */
#include "tests/device/driver.h"

#include <stdlib.h>
#include <string.h>

enum { HOST_ALIGNMENT = 4096 };

/* ---- allocations ---- */

static size_t used_bytes(const struct context *context)
{
  size_t bytes = 0;
  for (const struct object *object = context->objects; object != NULL; object = object->next) {
    if (object->kind == OBJECT_MEMORY)
      bytes += ((const struct memory *)object)->bytes;
  }
  return bytes;
}

static bool fits(const struct context *context, size_t bytes)
{
  const size_t total = settings_load()->memory, used = used_bytes(context);
  return used <= total && bytes <= total - used;
}

static CUresult allocate(struct context *context, CUdeviceptr *address, size_t bytes)
{
  if (!fits(context, bytes)) {
    /* Memory may be waiting in a queue to be freed. */
    const CUresult result = queue_run_all(context);
    if (result != CUDA_SUCCESS)
      return result;
    if (!fits(context, bytes))
      return CUDA_ERROR_OUT_OF_MEMORY;
  }
  struct memory *memory = calloc(1, sizeof(*memory));
  device_select(context->ordinal);
  const uint64_t place = memory == NULL ? 0 : device_allocate(bytes);
  if (place == 0) {
    free(memory);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memory->address = place;
  memory->bytes = bytes;
  object_add(&memory->object, context, OBJECT_MEMORY);
  *address = place;
  return CUDA_SUCCESS;
}

void memory_release(struct memory *memory)
{
  if (memory->object.kind == OBJECT_MEMORY)
    device_free(memory->address);
  else
    free((void *)(uintptr_t)memory->address);
  free(memory);
}

/* The allocation, on any device, that holds `bytes` at the address. */
static struct memory *find_memory(uint64_t address, size_t bytes, enum object_kind kind)
{
  for (uint32_t i = 0; i < settings_load()->devices; i++) {
    struct object *object = driver_device_context(i)->objects;
    for (; object != NULL; object = object->next) {
      struct memory *memory = (struct memory *)object;
      if (object->kind == kind && !object->hidden && address >= memory->address &&
          address - memory->address < memory->bytes &&
          bytes <= memory->bytes - (size_t)(address - memory->address))
        return memory;
    }
  }
  return NULL;
}

CUresult do_cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
  if (address == NULL || bytes == 0)
    return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = capture_forbid_unsafe();
  return result != CUDA_SUCCESS ? result : allocate(driver_context(), address, bytes);
}

/* What is still in the queues is not waited for: the driver only says that it may. */
CUresult do_cuMemFree_v2(CUdeviceptr address)
{
  const CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS || address == 0)
    return result;
  struct memory *memory = find_memory(address, 1, OBJECT_MEMORY);
  if (memory == NULL || memory->address != address || memory->freeing)
    return CUDA_ERROR_INVALID_VALUE;
  object_remove(&memory->object);
  memory_release(memory);
  return CUDA_SUCCESS;
}

CUresult do_cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream handle)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (address == NULL || bytes == 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (stream->capture != NULL) {
    report_log("cuMemAllocAsync: the stand-in does not capture allocations");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return allocate(stream->object.context, address, bytes);
}

CUresult do_cuMemFreeAsync(CUdeviceptr address, CUstream handle)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  struct memory *memory = find_memory(address, 1, OBJECT_MEMORY);
  if (memory == NULL || memory->address != address || memory->freeing || stream->capture != NULL)
    return CUDA_ERROR_INVALID_VALUE;
  struct command *command = command_new(COMMAND_FREE);
  if (command != NULL)
    command->address = address;
  const CUresult pushed = queue_push(stream, command);
  memory->freeing = pushed == CUDA_SUCCESS;
  memory->object.hidden = memory->freeing;
  return pushed;
}

CUresult do_cuMemAllocHost_v2(void **pointer, size_t bytes)
{
  if (pointer == NULL || bytes == 0)
    return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  struct memory *memory = calloc(1, sizeof(*memory));
  void *place = NULL;
  if (memory == NULL || posix_memalign(&place, HOST_ALIGNMENT, bytes) != 0) {
    free(memory);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memset(place, 0xff, bytes);
  memory->address = (uint64_t)(uintptr_t)place;
  memory->bytes = bytes;
  object_add(&memory->object, driver_context(), OBJECT_HOST_MEMORY);
  *pointer = place;
  return CUDA_SUCCESS;
}

CUresult do_cuMemFreeHost(void *pointer)
{
  const CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  struct memory *memory = find_memory((uint64_t)(uintptr_t)pointer, 1, OBJECT_HOST_MEMORY);
  if (memory == NULL || memory->address != (uint64_t)(uintptr_t)pointer)
    return CUDA_ERROR_INVALID_VALUE;
  object_remove(&memory->object);
  memory_release(memory);
  return CUDA_SUCCESS;
}

CUresult do_cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
  if (free_bytes == NULL || total == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *total = settings_load()->memory;
  *free_bytes = *total - used_bytes(driver_context());
  return CUDA_SUCCESS;
}

/* ---- copies ---- */

/* Device addresses have to lie in an allocation, which host pointers never do. */
static bool is_device(uint64_t address, size_t bytes)
{
  uint64_t base;
  size_t size;
  if (device_range(address, &base, &size) && bytes <= size - (size_t)(address - base))
    return true;
  report_log("%zu bytes at 0x%llx are not in one allocation of a device", bytes,
             (unsigned long long)address);
  return false;
}

static bool is_host(const void *pointer)
{
  uint64_t base;
  size_t size;
  if (pointer != NULL && !device_range((uint64_t)(uintptr_t)pointer, &base, &size))
    return true;
  report_log("%p is not host memory", pointer);
  return false;
}

/* Puts the copy into the stream; a host pointer that is not NULL takes the place of the address. */
static CUresult push_copy(struct stream *stream, enum command_kind kind, uint64_t to, void *to_host,
                          uint64_t from, const void *from_host, size_t bytes)
{
  if (bytes == 0)
    return CUDA_SUCCESS;
  if (!(kind == COMMAND_TO_HOST ? is_host(to_host) : is_device(to, bytes)) ||
      !(kind == COMMAND_TO_DEVICE ? is_host(from_host) : is_device(from, bytes)))
    return CUDA_ERROR_INVALID_VALUE;
  struct command *command = command_new(kind);
  if (command != NULL) {
    command->copy.to = to;
    command->copy.to_host = to_host;
    command->copy.from = from;
    command->copy.from_host = from_host;
    command->copy.bytes = bytes;
  }
  return queue_push(stream, command);
}

/* Copies that wait are work of the legacy stream. */
static CUresult wait_for_copy(CUresult pushed)
{
  return pushed == CUDA_SUCCESS ? queue_run_now(driver_context()->legacy) : pushed;
}

CUresult do_cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
  struct stream *stream = driver_context()->legacy;
  const CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  return wait_for_copy(push_copy(stream, COMMAND_TO_DEVICE, to, NULL, 0, from, bytes));
}

CUresult do_cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
  struct stream *stream = driver_context()->legacy;
  const CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  return wait_for_copy(push_copy(stream, COMMAND_TO_HOST, 0, to, from, NULL, bytes));
}

/* The host's memory is read or written when the stream comes to it, whether it is pinned or not: of
 * pageable memory the driver says only that a copy might be synchronous. */
CUresult do_cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream handle)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  return push_copy(stream, COMMAND_TO_DEVICE, to, NULL, 0, from, bytes);
}

CUresult do_cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream handle)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  return push_copy(stream, COMMAND_TO_HOST, 0, to, from, NULL, bytes);
}

CUresult do_cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  return push_copy(stream, COMMAND_WITHIN_DEVICE, to, NULL, from, NULL, bytes);
}

static CUresult push_set(CUdeviceptr to, unsigned value, size_t width, size_t count,
                         CUstream handle)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (count == 0)
    return CUDA_SUCCESS;
  if (count > SIZE_MAX / width || to % width != 0 || !is_device(to, width * count))
    return CUDA_ERROR_INVALID_VALUE;
  struct command *command = command_new(COMMAND_SET);
  if (command != NULL) {
    command->set.to = to;
    command->set.value = value;
    command->set.width = width;
    command->set.count = count;
  }
  return queue_push(stream, command);
}

CUresult do_cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream handle)
{
  return push_set(to, value, 1, count, handle);
}

CUresult do_cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream handle)
{
  return push_set(to, value, 4, count, handle);
}

/* ---- what is known of a pointer ---- */

/* Writes an attribute of the pointer, which lies in the allocation or, where that is NULL, in
 * memory that the driver does not know. */
static CUresult pointer_attribute(void *value, CUpointer_attribute attribute,
                                  const struct memory *memory, CUdeviceptr pointer)
{
  const bool known = memory != NULL;
  const bool on_device = known && memory->object.kind == OBJECT_MEMORY;
  uint64_t wide = 0;
  uint32_t narrow = 0;
  size_t width = 0; /* bytes of the attribute */
  if (attribute == CU_POINTER_ATTRIBUTE_CONTEXT) {
    wide = known ? (uint64_t)(uintptr_t)memory->object.context : 0;
    width = sizeof(CUcontext);
  } else if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) {
    narrow = !known ? 0 : on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
    width = sizeof(narrow);
  } else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) {
    wide = on_device ? pointer : 0;
    width = sizeof(CUdeviceptr);
  } else if (attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER) {
    wide = known && !on_device ? pointer : 0;
    width = sizeof(void *);
  } else if (attribute == CU_POINTER_ATTRIBUTE_BUFFER_ID) {
    wide = known ? memory->object.id : 0;
    width = sizeof(wide);
  } else if (attribute == CU_POINTER_ATTRIBUTE_IS_MANAGED) {
    width = sizeof(narrow);
  } else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) {
    narrow = known ? memory->object.context->ordinal : (uint32_t)-2; /* "no device" */
    width = sizeof(narrow);
  } else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR) {
    wide = known ? memory->address : 0;
    width = sizeof(CUdeviceptr);
  } else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_SIZE) {
    wide = known ? memory->bytes : 0;
    width = sizeof(size_t);
  } else if (attribute == CU_POINTER_ATTRIBUTE_MAPPED) {
    narrow = known;
    width = sizeof(narrow);
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  memcpy(value, width == sizeof(narrow) ? (const void *)&narrow : (const void *)&wide, width);
  return CUDA_SUCCESS;
}

static const struct memory *find_any(CUdeviceptr pointer)
{
  const struct memory *memory = find_memory(pointer, 1, OBJECT_MEMORY);
  return memory != NULL ? memory : find_memory(pointer, 1, OBJECT_HOST_MEMORY);
}

CUresult do_cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer)
{
  const struct memory *memory = find_any(pointer);
  if (value == NULL || memory == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER && memory->object.kind == OBJECT_MEMORY)
    return CUDA_ERROR_INVALID_VALUE;
  return pointer_attribute(value, attribute, memory, pointer);
}

/* Unlike the singular, this answers for unknown pointers too, with zeros. */
CUresult do_cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **values,
                                   CUdeviceptr pointer)
{
  const struct memory *memory = find_any(pointer);
  if (count == 0 || attributes == NULL || values == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; i++) {
    const CUresult result = pointer_attribute(values[i], attributes[i], memory, pointer);
    if (result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}
