#include "runtime/cuda_faults.h"

#include "compiler/tile/abi.h"
#include "runtime/cuda_device.h"

#include <stdio.h>
#include <string.h>

struct cuda_faults {
  struct cuda_faults *previous, *next; /* of the device, under its lock */
  struct cuda_device *device;
  const struct unit *unit;
  size_t kernels, sites;   /* sites of all kernels */
  cuda_address records;    /* [CUDA_FAULT_RING][kernels] */
  struct tile_fault *host; /* the same, pinned; written by the device */
  atomic_uint taken;       /* places, counted on */
  pthread_mutex_t lock;    /* held while a fault is reported */
  int64_t *sizes;          /* [CUDA_FAULT_RING][sites]: of the dimensions that were checked */
};

static size_t count_sites(const struct unit *unit)
{
  size_t sites = 0;
  for (size_t n = 0; n < unit->kernel_count; n++)
    sites += unit->kernels[n].tile->sites.count;
  return sites;
}

static attn_status make(struct cuda_faults *faults, const struct error_sink *sink)
{
  const size_t bytes = CUDA_FAULT_RING * faults->kernels * sizeof(struct tile_fault);
  void *host = NULL;
  attn_status status = cuda_allocate(sink, bytes, "the records of checks", &faults->records);
  if (status == ATTN_OK)
    status = cuda_check(sink, cuda.host_allocate(&host, bytes), "allocate pinned memory");
  if (status != ATTN_OK)
    return status;
  faults->host = host;
  memset(host, 0, bytes);
  cuda_result result = cuda.fill(faults->records, 0, bytes, NULL);
  if (result == CUDA_OK)
    result = cuda.stream_synchronize(NULL);
  return cuda_check(sink, result, "clear the records of checks");
}

attn_status cuda_faults_new(struct cuda_device *device, const struct unit *unit,
                            const struct error_sink *sink, struct cuda_faults **out)
{
  *out = NULL;
  size_t sites = count_sites(unit);
  if (sites == 0)
    return ATTN_OK;
  struct cuda_faults *faults = mem_alloc_zeroed(1, sizeof(*faults));
  if (faults == NULL)
    return error_out_of_memory(sink);
  *faults = (struct cuda_faults){
      .device = device, .unit = unit, .kernels = unit->kernel_count, .sites = sites};
  pthread_mutex_init(&faults->lock, NULL);
  pthread_mutex_lock(&device->lock);
  faults->next = device->faults;
  if (faults->next != NULL)
    faults->next->previous = faults;
  device->faults = faults;
  pthread_mutex_unlock(&device->lock);
  faults->sizes = mem_alloc_zeroed(CUDA_FAULT_RING * sites, sizeof(*faults->sizes));
  attn_status status = faults->sizes == NULL ? error_out_of_memory(sink) : make(faults, sink);
  if (status != ATTN_OK)
    cuda_faults_free(faults);
  else
    *out = faults;
  return status;
}

void cuda_faults_free(struct cuda_faults *faults)
{
  if (faults == NULL)
    return;
  pthread_mutex_lock(&faults->device->lock);
  if (faults->previous != NULL)
    faults->previous->next = faults->next;
  else
    faults->device->faults = faults->next;
  if (faults->next != NULL)
    faults->next->previous = faults->previous;
  pthread_mutex_unlock(&faults->device->lock);
  if (faults->records != 0)
    cuda.free(faults->records); /* waits: nothing writes to `host` from here on */
  if (faults->host != NULL)
    cuda.host_free(faults->host);
  mem_free(faults->sizes);
  pthread_mutex_destroy(&faults->lock);
  mem_free(faults);
}

/* ---- launches ---- */

uint32_t cuda_faults_take(struct cuda_faults *faults, const struct launch_plan *plan)
{
  uint32_t place =
      atomic_fetch_add_explicit(&faults->taken, 1, memory_order_relaxed) % CUDA_FAULT_RING;
  int64_t *sizes = faults->sizes + place * faults->sites;
  for (size_t n = 0; n < faults->kernels; n++) {
    const struct tile_kernel *tile = faults->unit->kernels[n].tile;
    for (size_t s = 0; s < tile->sites.count; s++)
      __atomic_store_n(sizes++, launch_fault_size(plan, &tile->sites.items[s]), __ATOMIC_RELAXED);
  }
  return place;
}

cuda_address cuda_faults_record(const struct cuda_faults *faults, uint32_t place, size_t kernel)
{
  return faults->records + (place * faults->kernels + kernel) * sizeof(struct tile_fault);
}

attn_status cuda_faults_fetch(struct cuda_faults *faults, uint32_t place,
                              struct cuda_stream *stream, const struct error_sink *sink)
{
  cuda_result result =
      cuda.download(faults->host + place * faults->kernels, cuda_faults_record(faults, place, 0),
                    faults->kernels * sizeof(struct tile_fault), stream);
  return result == CUDA_OK ? ATTN_OK : cuda_check(sink, result, "fetch the records of checks");
}

/* ---- reports ---- */

static bool is_raised(const struct cuda_faults *faults, size_t number)
{
  return __atomic_load_n(&faults->host[number].raised, __ATOMIC_ACQUIRE) != 0;
}

/* The record of the oldest launch that has a fault; CUDA_FAULT_RING * kernels where none has. */
static size_t first_raised(const struct cuda_faults *faults)
{
  const size_t count = CUDA_FAULT_RING * faults->kernels;
  const unsigned taken = atomic_load_explicit(&faults->taken, memory_order_relaxed);
  const size_t oldest = taken % CUDA_FAULT_RING * faults->kernels;
  for (size_t n = 0; n < count; n++) {
    if (is_raised(faults, (oldest + n) % count))
      return (oldest + n) % count;
  }
  return count;
}

/* Forgets every fault that has come to the host. */
static attn_status clear(struct cuda_faults *faults, struct cuda_stream *stream,
                         const struct error_sink *sink)
{
  const size_t count = CUDA_FAULT_RING * faults->kernels;
  cuda_result result = CUDA_OK;
  for (size_t n = 0; n < count && result == CUDA_OK; n++) {
    if (is_raised(faults, n))
      result = cuda.fill(cuda_faults_record(faults, 0, n), 0, sizeof(struct tile_fault), stream);
  }
  if (result == CUDA_OK)
    result = cuda.stream_synchronize(stream);
  if (result != CUDA_OK)
    return cuda_check(sink, result, "clear the records of checks");
  for (size_t n = 0; n < count; n++)
    __atomic_store_n(&faults->host[n].raised, 0, __ATOMIC_RELEASE);
  return ATTN_OK;
}

static attn_status report(struct cuda_faults *faults, size_t number, struct cuda_stream *stream,
                          const struct error_sink *sink)
{
  const size_t place = number / faults->kernels, kernel = number % faults->kernels;
  const struct unit *unit = faults->unit;
  const struct tile_kernel *tile = unit->kernels[kernel].tile;
  const struct tile_fault fault = faults->host[number];
  struct tile_fault_site site = launch_fault_site(unit->spec, tile, fault.site);
  int64_t size = -1;
  if (fault.site >= 0 && (size_t)fault.site < tile->sites.count) {
    size_t at = place * faults->sites + (size_t)fault.site;
    for (size_t n = 0; n < kernel; n++)
      at += unit->kernels[n].tile->sites.count;
    size = __atomic_load_n(&faults->sizes[at], __ATOMIC_RELAXED);
  }
  attn_status status = clear(faults, stream, sink);
  if (status != ATTN_OK)
    return status;
  char prefix[160];
  snprintf(prefix, sizeof(prefix), "an earlier launch of '%.120s': ", unit->spec->name);
  return launch_report_fault(unit, sink, prefix, &site, fault.index, size);
}

attn_status cuda_faults_report(struct cuda_faults *faults, struct cuda_stream *stream,
                               const struct error_sink *sink)
{
  const size_t none = CUDA_FAULT_RING * faults->kernels;
  if (first_raised(faults) == none)
    return ATTN_OK;
  pthread_mutex_lock(&faults->lock);
  const size_t number = first_raised(faults);
  attn_status status = number == none ? ATTN_OK : report(faults, number, stream, sink);
  pthread_mutex_unlock(&faults->lock);
  return status;
}

attn_status cuda_faults_report_any(struct cuda_device *device, struct cuda_stream *stream,
                                   const struct error_sink *sink)
{
  const struct error_sink quiet = {NULL, NULL, 0};
  attn_status first = ATTN_OK;
  pthread_mutex_lock(&device->lock);
  for (struct cuda_faults *f = device->faults; f != NULL; f = f->next) {
    attn_status status = cuda_faults_report(f, stream, first == ATTN_OK ? sink : &quiet);
    first = first == ATTN_OK ? status : first;
  }
  pthread_mutex_unlock(&device->lock);
  return first;
}
