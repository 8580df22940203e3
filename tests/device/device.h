/* The stand-in device: memory, kernels in PTX and their execution, behind the driver API of
 * driver.c. Private to tests/device.
 *
 * Everything here is used under one lock of driver.c; nothing here is thread-safe by itself.
 */
#ifndef ATTN_TESTS_DEVICE_DEVICE_H
#define ATTN_TESTS_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- global memory (memory.c) ----
 *
 * An allocation is mapped by itself between unmapped pages, its end against the page behind it
 * (up to the alignment of 256 bytes that the driver promises), and filled with a pattern that is a
 * NaN in every float type. An address is the host's own address, with a bit set that no host
 * pointer has, so that one cannot be taken for the other. */
enum { DEVICE_ALIGNMENT = 256 };
/* The device (0 at first) whose memory is allocated, counted and translated from here on: a kernel
 * does not see what another device has. */
void device_select(uint32_t device);
uint64_t device_allocate(size_t bytes); /* 0 when there is no memory */
bool device_free(uint64_t address);     /* false when it is not the start of an allocation */
/* The host's view of `bytes` at `address`; NULL where they do not lie inside one allocation. */
void *device_translate(uint64_t address, size_t bytes);
/* The allocation, of any device, that holds the address. */
bool device_range(uint64_t address, uint64_t *base, size_t *bytes);
size_t device_allocated(void); /* bytes in use */
uint32_t device_allocation_count(void);

/* ---- modules (ptx_parse.c and on) ---- */
struct ptx_module;
struct ptx_entry;
/* NULL after an error, which `log` then tells with its line: what the JIT log of the driver would.
 */
struct ptx_module *ptx_module_load(const char *text, char *log, size_t log_size);
void ptx_module_free(struct ptx_module *module);
const struct ptx_entry *ptx_module_entry(const struct ptx_module *module, const char *name);
uint32_t ptx_entry_param_count(const struct ptx_entry *entry);
/* Offset in the parameter block and bytes of a parameter. */
void ptx_entry_param(const struct ptx_entry *entry, uint32_t index, uint32_t *offset,
                     uint32_t *bytes);
uint32_t ptx_entry_static_shared(const struct ptx_entry *entry);
uint32_t ptx_entry_max_threads(const struct ptx_entry *entry); /* .reqntid/.maxntid, else 1024 */
/* A .global variable of the module; false when there is none. */
bool ptx_module_global(const struct ptx_module *module, const char *name, uint64_t *address,
                       size_t *bytes);

/* ---- execution (ptx_run.c and on) ---- */
enum device_fault_kind {
  DEVICE_OK,
  DEVICE_OUT_OF_BOUNDS, /* global, shared, local or parameter memory */
  DEVICE_MISALIGNED,
  DEVICE_UNWRITTEN_SHARED,  /* a read of shared memory that nothing wrote in this block */
  DEVICE_RACE,              /* two threads, one of them writing, with no barrier between */
  DEVICE_ASYNC_HAZARD,      /* memory used while an asynchronous copy into it was in flight */
  DEVICE_DIVERGENT_BARRIER, /* a barrier, ldmatrix, mma or shuffle with threads of the warp missing
                             */
  DEVICE_DEADLOCK,
  DEVICE_TRAP,
  DEVICE_UNSUPPORTED /* an instruction that the interpreter does not know */
};
struct device_fault {
  enum device_fault_kind kind;
  uint32_t block[3], thread; /* where */
  uint32_t line;             /* of the PTX text */
  char text[400];            /* one sentence: what happened, with the instruction */
};
struct ptx_launch {
  const struct ptx_entry *entry;
  uint32_t grid[3], block[3];
  uint32_t dynamic_shared;
  const unsigned char *params; /* the parameter block, laid out as ptx_entry_param says */
  uint64_t seed;       /* of the scheduler: order of warps and of asynchronous completions */
  uint64_t warp_limit; /* instructions of a warp that make a loop without end; 0: very many */
};
struct device_counts {
  uint64_t instructions; /* by warps */
  uint64_t blocks;
};
/* Runs the grid to its end or to the first fault. Results depend on the seed only where the kernel
 * has a race, which is reported wherever it can be seen. `counts` can be NULL. */
bool ptx_run(const struct ptx_launch *launch, struct device_fault *fault,
             struct device_counts *counts);

#endif
