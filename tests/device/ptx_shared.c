/* Shared memory, and what is known of each byte: who wrote it when, who has read it, whether a copy
 * into it is in flight.
 *
 * Order between warps is kept with vector clocks (Fidge 1988, Mattern 1989), one number per warp,
 * that barriers join: an access is ordered before another when the second one's warp has seen its
 * epoch. Accesses of one warp are ordered as its instructions are. */
#include "tests/device/ptx_machine.h"

enum ptx_step ptx_shared_index(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                               uint64_t address, uint32_t bytes, uint32_t alignment,
                               uint32_t *index)
{
  const struct ptx_block *block = warp->block;
  const uint64_t in_dynamic = address - PTX_SHARED_BASE;
  const uint64_t in_static = address - PTX_STATIC_SHARED_BASE;
  const uint32_t dynamic_bytes = block->launch->dynamic_shared;
  const uint32_t static_bytes = block->shared_bytes - block->static_start;
  if (in_dynamic < dynamic_bytes && dynamic_bytes - in_dynamic >= bytes) {
    *index = (uint32_t)in_dynamic;
  } else if (in_static < static_bytes && static_bytes - in_static >= bytes) {
    *index = block->static_start + (uint32_t)in_static;
  } else {
    return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                     "%u bytes at offset %lld of shared memory, which has %u dynamic and %u static "
                     "ones: out of bounds",
                     bytes, (long long)in_dynamic, dynamic_bytes, static_bytes);
  }
  if ((address & (alignment - 1)) != 0) {
    return ptx_raise(warp, op, lane, DEVICE_MISALIGNED,
                     "offset %llu of shared memory is not a multiple of %u",
                     (unsigned long long)in_dynamic, alignment);
  }
  return PTX_NEXT;
}

static enum ptx_step raise_conflict(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                    uint32_t index, const char *what)
{
  const struct ptx_cell *cell = &warp->block->cells[index];
  const uint32_t writer = cell->warp * (uint32_t)PTX_LANES + cell->lane;
  if ((cell->flags & PTX_CELL_FLIGHT) != 0) {
    return ptx_raise(
        warp, op, lane, DEVICE_ASYNC_HAZARD,
        "%s of byte %u of shared memory while the copy that thread %u began is in flight", what,
        index, writer);
  }
  if ((cell->flags & PTX_CELL_ASYNC) != 0) {
    return ptx_raise(warp, op, lane, DEVICE_ASYNC_HAZARD,
                     "%s of byte %u of shared memory with no barrier after the copy that thread %u "
                     "waited for",
                     what, index, writer);
  }
  return ptx_raise(warp, op, lane, DEVICE_RACE,
                   "%s of byte %u of shared memory with no barrier after the write of thread %u",
                   what, index, writer);
}

/* Whether the last write of the byte is not ordered before what the warp does now. */
static bool conflicts(const struct ptx_warp *warp, const struct ptx_cell *cell, bool strong)
{
  if ((cell->flags & PTX_CELL_FLIGHT) != 0) {
    return true;
  }
  return cell->epoch > warp->clock[cell->warp] && !(strong && (cell->flags & PTX_CELL_STRONG) != 0);
}

static bool same_cell(const struct ptx_cell *a, const struct ptx_cell *b)
{
  return memcmp(a, b, sizeof(*a)) == 0;
}

enum ptx_step ptx_shared_read(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                              uint32_t index, uint32_t bytes, bool strong)
{
  struct ptx_block *block = warp->block;
  const struct ptx_cell *cells = block->cells;
  uint32_t *reads = block->reads[warp->index];
  const uint32_t stamp = 2 * warp->clock[warp->index] + !strong;
  for (uint32_t k = index; k < index + bytes; k++) {
    if (reads[k] < stamp) {
      reads[k] = stamp;
    }
    if (k > index && same_cell(&cells[k], &cells[k - 1])) {
      continue;
    }
    if (cells[k].epoch == 0) {
      return ptx_raise(warp, op, lane, DEVICE_UNWRITTEN_SHARED,
                       "byte %u of shared memory is read, but nothing has written it", k);
    }
    if (conflicts(warp, &cells[k], strong)) {
      return raise_conflict(warp, op, lane, k, "read");
    }
  }
  return PTX_NEXT;
}

/* Faults when another warp's write or read of a byte is not ordered before this. */
static enum ptx_step check_write(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                 uint32_t index, uint32_t bytes, bool strong, bool copy)
{
  struct ptx_block *block = warp->block;
  const struct ptx_cell *cells = block->cells;
  for (uint32_t k = index; k < index + bytes; k++) {
    if ((k == index || !same_cell(&cells[k], &cells[k - 1])) &&
        conflicts(warp, &cells[k], strong)) {
      return raise_conflict(warp, op, lane, k, copy ? "copy" : "write");
    }
  }
  for (uint32_t other = 0; other < block->warp_count; other++) {
    if (other == warp->index) {
      continue;
    }
    const uint32_t *reads = block->reads[other];
    const uint32_t seen = 2 * warp->clock[other] + 1;
    for (uint32_t k = index; k < index + bytes; k++) {
      if (reads[k] > seen && (!strong || (reads[k] & 1) != 0)) {
        return ptx_raise(warp, op, lane, copy ? DEVICE_ASYNC_HAZARD : DEVICE_RACE,
                         "%s of byte %u of shared memory with no barrier after the read of warp %u",
                         copy ? "copy" : "write", k, other);
      }
    }
  }
  return PTX_NEXT;
}

enum ptx_step ptx_shared_write(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                               uint32_t index, uint32_t bytes, bool strong, const void *value)
{
  struct ptx_block *block = warp->block;
  if (check_write(warp, op, lane, index, bytes, strong, false) == PTX_FAULT) {
    return PTX_FAULT;
  }
  const struct ptx_cell cell = {.epoch = warp->clock[warp->index],
                                .warp = (uint8_t)warp->index,
                                .lane = (uint8_t)lane,
                                .flags = strong ? PTX_CELL_STRONG : 0};
  const unsigned char *from = value;
  for (uint32_t k = 0; k < bytes; k++) {
    const uint32_t at = index + k;
    if (!strong && block->stamps[at] == block->stamp && block->shared[at] != from[k]) {
      return ptx_raise(
          warp, op, lane, DEVICE_RACE,
          "threads %u and %u write different values to byte %u of shared memory at once",
          warp->index * (uint32_t)PTX_LANES + block->cells[at].lane, warp->index * PTX_LANES + lane,
          at);
    }
    block->stamps[at] = block->stamp;
    block->cells[at] = cell;
  }
  memcpy(block->shared + index, value, bytes);
  return PTX_NEXT;
}

enum ptx_step ptx_shared_copy_begins(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                     uint32_t index, uint32_t bytes)
{
  if (check_write(warp, op, lane, index, bytes, false, true) == PTX_FAULT) {
    return PTX_FAULT;
  }
  for (uint32_t k = index; k < index + bytes; k++) {
    warp->block->cells[k] = (struct ptx_cell){.epoch = warp->clock[warp->index],
                                              .warp = (uint8_t)warp->index,
                                              .lane = (uint8_t)lane,
                                              .flags = PTX_CELL_ASYNC | PTX_CELL_FLIGHT};
  }
  return PTX_NEXT;
}

void ptx_shared_copy_ends(struct ptx_warp *warp, uint32_t lane, uint32_t index, uint32_t bytes)
{
  for (uint32_t k = index; k < index + bytes; k++) {
    warp->block->cells[k] = (struct ptx_cell){.epoch = warp->clock[warp->index],
                                              .warp = (uint8_t)warp->index,
                                              .lane = (uint8_t)lane,
                                              .flags = PTX_CELL_ASYNC};
  }
}
