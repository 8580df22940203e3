/* The stand-in's global memory: one mapping an allocation, so that the hardware of the host helps
 * to find what strays. */
#include "tests/device/device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* User addresses have at most 47 bits (x86-64) or 48 (AArch64). A host that follows a device
 * address faults, and addresses keep below 2^49 as those of real GPUs do. */
#define DEVICE_BIT (UINT64_C(1) << 48)

enum { FREED_RANGES = 1024 }; /* kept unmapped, so that their addresses are not used again soon */

struct mapping {
  unsigned char *start;
  size_t size;
};
struct range {
  unsigned char *start;
  size_t bytes;
  uint32_t device;
  struct mapping mapping; /* with the pages before and behind */
};

static struct {
  struct range *ranges; /* by address */
  uint32_t count, capacity;
  uint32_t last; /* the range that the latest access was in */
  uint32_t device;
  struct mapping freed[FREED_RANGES]; /* a ring */
  uint32_t next_freed;
} memory;

void device_select(uint32_t device)
{
  memory.device = device;
}

/* The number of ranges that start at or below the place. */
static uint32_t ranges_up_to(const unsigned char *place)
{
  uint32_t low = 0, high = memory.count;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (memory.ranges[middle].start <= place)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool holds(const struct range *range, const unsigned char *place, size_t bytes)
{
  if (place < range->start)
    return false;
  const size_t offset = (size_t)(place - range->start);
  return offset < range->bytes && bytes <= range->bytes - offset;
}

static unsigned char *host_place(uint64_t address)
{
  return (address & DEVICE_BIT) == 0 ? NULL : (unsigned char *)(uintptr_t)(address ^ DEVICE_BIT);
}

static struct range *find_range(uint64_t address, size_t bytes)
{
  const unsigned char *place = host_place(address);
  if (place == NULL || memory.count == 0)
    return NULL;
  if (memory.last < memory.count && holds(&memory.ranges[memory.last], place, bytes))
    return &memory.ranges[memory.last];
  const uint32_t count = ranges_up_to(place);
  if (count == 0 || !holds(&memory.ranges[count - 1], place, bytes))
    return NULL;
  memory.last = count - 1;
  return &memory.ranges[count - 1];
}

static bool reserve_range(void)
{
  if (memory.count < memory.capacity)
    return true;
  const uint32_t capacity = memory.capacity == 0 ? 64 : 2 * memory.capacity;
  struct range *ranges = realloc(memory.ranges, capacity * sizeof(*ranges));
  if (ranges == NULL)
    return false;
  memory.ranges = ranges;
  memory.capacity = capacity;
  return true;
}

uint64_t device_allocate(size_t bytes)
{
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (bytes == 0 || bytes > SIZE_MAX / 4 || !reserve_range())
    return 0;
  const size_t rounded = (bytes + DEVICE_ALIGNMENT - 1) / DEVICE_ALIGNMENT * DEVICE_ALIGNMENT;
  const size_t inner = (rounded + page - 1) / page * page;
  struct mapping mapping = {NULL, inner + 2 * page};
  mapping.start = mmap(NULL, mapping.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping.start == MAP_FAILED)
    return 0;
  if (mprotect(mapping.start + page, inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping.start, mapping.size);
    return 0;
  }
  unsigned char *start = mapping.start + page + inner - rounded;
  memset(start, 0xff, rounded);
  const uint32_t at = ranges_up_to(start);
  memmove(&memory.ranges[at + 1], &memory.ranges[at], (memory.count - at) * sizeof(struct range));
  memory.ranges[at] = (struct range){start, bytes, memory.device, mapping};
  memory.count++;
  return (uint64_t)(uintptr_t)start | DEVICE_BIT;
}

bool device_free(uint64_t address)
{
  const struct range *range = find_range(address, 1);
  if (range == NULL || range->start != host_place(address))
    return false;
  const struct mapping mapping = range->mapping;
  struct mapping *oldest = &memory.freed[memory.next_freed];
  if (oldest->start != NULL)
    munmap(oldest->start, oldest->size);
  *oldest = mapping;
  memory.next_freed = (memory.next_freed + 1) % FREED_RANGES;
  mprotect(mapping.start, mapping.size, PROT_NONE);
  madvise(mapping.start, mapping.size, MADV_DONTNEED);
  const uint32_t at = (uint32_t)(range - memory.ranges);
  memory.count--;
  memmove(&memory.ranges[at], &memory.ranges[at + 1], (memory.count - at) * sizeof(struct range));
  return true;
}

void *device_translate(uint64_t address, size_t bytes)
{
  const struct range *range = find_range(address, bytes);
  return range == NULL || range->device != memory.device ? NULL : host_place(address);
}

bool device_range(uint64_t address, uint64_t *base, size_t *bytes)
{
  const struct range *range = find_range(address, 1);
  if (range == NULL)
    return false;
  *base = (uint64_t)(uintptr_t)range->start | DEVICE_BIT;
  *bytes = range->bytes;
  return true;
}

size_t device_allocated(void)
{
  size_t bytes = 0;
  for (uint32_t i = 0; i < memory.count; i++) {
    if (memory.ranges[i].device == memory.device)
      bytes += memory.ranges[i].bytes;
  }
  return bytes;
}

uint32_t device_allocation_count(void)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < memory.count; i++)
    count += memory.ranges[i].device == memory.device;
  return count;
}
