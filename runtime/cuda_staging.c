#include "runtime/cuda_staging.h"

#include "dsl/base/memory.h"
#include "runtime/context.h"

enum {
  STEP = 4096,   /* sizes are multiples of it, so that launches a little larger fit, too */
  LOOKED_AT = 4, /* of the oldest, where several streams are behind by different times */
  CUDA_EVENT_NO_TIMING = 2, /* CU_EVENT_DISABLE_TIMING */
};

static void free_staging(struct cuda_staging *staging)
{
  if (staging->event != NULL)
    cuda.event_destroy(staging->event);
  if (staging->data != NULL)
    cuda.host_free(staging->data);
  mem_free(staging);
}

static struct cuda_staging *make(size_t bytes, const struct error_sink *sink, attn_status *status)
{
  struct cuda_staging *staging = mem_alloc_zeroed(1, sizeof(*staging));
  if (staging == NULL) {
    *status = error_out_of_memory(sink);
    return NULL;
  }
  void *data = NULL;
  staging->size = bytes > SIZE_MAX - STEP ? bytes : (bytes + STEP - 1) / STEP * STEP;
  cuda_result result = cuda.event_create(&staging->event, CUDA_EVENT_NO_TIMING);
  if (result == CUDA_OK)
    result = cuda.host_allocate(&data, staging->size);
  staging->data = data;
  *status = cuda_check(sink, result, "allocate pinned memory");
  if (*status == ATTN_OK)
    return staging;
  free_staging(staging);
  return NULL;
}

/* The list is in the order of use: the first that are not in use any more. */
static struct cuda_staging *find(struct cuda_device *device, size_t bytes)
{
  struct cuda_staging **link = &device->stagings;
  for (int n = 0; n < LOOKED_AT && *link != NULL; n++, link = &(*link)->next) {
    struct cuda_staging *staging = *link;
    if (staging->size < bytes || cuda.event_query(staging->event) != CUDA_OK)
      continue;
    *link = staging->next;
    return staging;
  }
  return NULL;
}

struct cuda_staging *cuda_staging_take(struct cuda_device *device, size_t bytes,
                                       const struct error_sink *sink, attn_status *status)
{
  pthread_mutex_lock(&device->lock);
  struct cuda_staging *staging = find(device, bytes);
  pthread_mutex_unlock(&device->lock);
  return staging != NULL ? staging : make(bytes, sink, status);
}

void cuda_staging_give(struct cuda_device *device, struct cuda_staging *staging,
                       struct cuda_stream *stream)
{
  if (staging == NULL)
    return;
  if (cuda.event_record(staging->event, stream) != CUDA_OK) {
    cuda.stream_synchronize(stream); /* nobody will tell when it is free */
    free_staging(staging);
    return;
  }
  staging->next = NULL;
  pthread_mutex_lock(&device->lock);
  struct cuda_staging **end = &device->stagings;
  while (*end != NULL)
    end = &(*end)->next;
  *end = staging;
  pthread_mutex_unlock(&device->lock);
}

void cuda_staging_trim(struct cuda_device *device, bool all)
{
  pthread_mutex_lock(&device->lock);
  struct cuda_staging **link = &device->stagings;
  while (*link != NULL) {
    struct cuda_staging *staging = *link;
    if (!all && cuda.event_query(staging->event) != CUDA_OK) {
      link = &staging->next;
      continue;
    }
    *link = staging->next;
    free_staging(staging);
  }
  pthread_mutex_unlock(&device->lock);
}
