/* How a launch hands its arguments to a compiled kernel: one array of 64-bit slots.
 *
 *   for each tensor, in order: the data pointer, then `rank` strides in elements, then `rank` sizes
 *   for each parameter, in order: an int or bool as int64, a float as the bits of a double
 *   last: pointer to a struct tile_fault
 *
 * Compiled host code has, for a kernel NAME:
 *   int64_t NAME_tasks(const int64_t *slots)                              how many tasks; they are
 * independent void NAME(const int64_t *slots, int64_t task, void *scratch)          scratch:
 * 64-byte aligned, one per thread
 *
 * PTX has, for a kernel NAME, an entry NAME whose one parameter is that array by value
 * (.param .align 8 .b8 [8 * slots]); addresses are the device's. The grid is (tasks, 1, 1), the
 * block (threads, 1, 1), and shared_bytes of dynamic shared memory are asked for; both stand in
 * struct compiled_kernel. tile_task_count (tasks.h) computes the number of tasks.
 *
 * What the launcher guarantees: the innermost stride of every tensor with column accesses or reads
 * is 1 (it packs others first); an empty tensor's pointer is a page of zeros and its strides are 0;
 * sizes and strides do not overflow.
 */
#ifndef ATTN_COMPILER_TILE_ABI_H
#define ATTN_COMPILER_TILE_ABI_H

#include "compiler/tile/ir.h"

struct tile_fault {
  int32_t raised; /* 0, or 1 once a check has failed; the first one to set it writes the rest */
  int32_t site;   /* index into the kernel's fault sites */
  int64_t index;  /* the index that was out of range */
};

static inline uint32_t tile_tensor_slot(const struct tile_kernel *kernel, uint32_t tensor)
{
  uint32_t slot = 0;
  for (uint32_t t = 0; t < tensor; t++)
    slot += 1 + 2 * kernel->tensors.items[t].rank;
  return slot;
}
static inline uint32_t tile_param_slot(const struct tile_kernel *kernel, uint32_t param)
{
  return tile_tensor_slot(kernel, (uint32_t)kernel->tensors.count) + param;
}
static inline uint32_t tile_fault_slot(const struct tile_kernel *kernel)
{
  return tile_param_slot(kernel, (uint32_t)kernel->params.count);
}
static inline uint32_t tile_slot_count(const struct tile_kernel *kernel)
{
  return tile_fault_slot(kernel) + 1;
}

#endif
