/* A block while it runs: warps, their registers and control flow, shared memory and what is known
 * of each of its bytes, barriers. ptx_run.c drives it; executors (ptx_op.execute) change it.
 *
 * Threads of a warp run in lockstep, in paths: a divergent branch divides a path in two that end at
 * the branch's join, where the path below goes on with the threads of both.
 */
#ifndef ATTN_TESTS_DEVICE_PTX_MACHINE_H
#define ATTN_TESTS_DEVICE_PTX_MACHINE_H

#include "tests/device/ptx.h"

enum { PTX_MAX_WARPS = 32, PTX_BARRIERS = 16 };

struct ptx_path {
  uint32_t pc, join, mask;
};

/* A function that has been entered. */
struct ptx_frame {
  const struct ptx_function *function;
  struct ptx_frame *caller;
  const struct ptx_call *call; /* that entered it */
  uint32_t call_mask;
  uint64_t (*registers)[PTX_LANES];
  uint32_t *predicates;   /* a bit per lane */
  unsigned char *params;  /* frame_param_bytes for every lane */
  uint32_t local_base;    /* where the function's local memory begins in the thread's */
  struct ptx_path *paths; /* the last one runs */
  uint32_t path_count, path_capacity;
};

/* cp.async of a warp's threads, until each has waited for it. */
struct ptx_copy {
  const struct ptx_op *op;
  uint32_t pending;                       /* lanes that have not waited */
  bool moved;                             /* the bytes have arrived, though nobody may look yet */
  uint32_t index[PTX_LANES];              /* of the target in shared memory */
  const unsigned char *source[PTX_LANES]; /* NULL where there is nothing to read */
  uint8_t filled[PTX_LANES];              /* bytes from the source; zeros follow */
  uint32_t group[PTX_LANES];
};

enum ptx_warp_state { PTX_READY, PTX_WAITING, PTX_DONE };

struct ptx_block;
struct ptx_warp {
  /* Of the frame at hand, for speed: */
  uint64_t (*registers)[PTX_LANES];
  const uint64_t (*constants)[PTX_LANES];
  uint32_t *predicates;
  struct ptx_frame *frame;
  struct ptx_block *block;
  enum ptx_warp_state state;
  uint32_t index;
  uint32_t lanes;         /* that the block has */
  uint32_t alive;         /* that have not exited */
  uint32_t carry;         /* the condition code, a bit per lane */
  uint32_t depth;         /* frames */
  uint64_t steps;         /* instructions executed in this block */
  struct ptx_frame *left; /* frames to be used again, linked by `caller` */
  const struct ptx_op *waits_at;
  uint32_t waits_for; /* barrier */
  unsigned char *local[PTX_LANES];
  uint32_t local_bytes; /* of each of those */
  struct ptx_copy *copies;
  uint32_t copy_count, copy_capacity;
  uint32_t group[PTX_LANES]; /* number of the open group of copies */
  /* The latest epoch of each warp that happened before what this one does now; its own is the
   * current one. A barrier ends an epoch. */
  uint32_t clock[PTX_MAX_WARPS];
};

/* What is known of a byte of shared memory. */
enum ptx_cell_flags {
  PTX_CELL_ASYNC = 1,  /* last written by an asynchronous copy */
  PTX_CELL_FLIGHT = 2, /* which is still in flight */
  PTX_CELL_STRONG = 4  /* last written by an atomic or volatile operation */
};
struct ptx_cell {
  uint32_t epoch; /* of the warp that wrote it; 0: nothing was written */
  uint8_t warp, lane, flags, unused;
};

struct ptx_barrier {
  uint32_t threads; /* that it waits for; 0 for all of the block */
  uint32_t arrived; /* threads */
  uint32_t warps;   /* bit for each that arrived */
  uint32_t waiting; /* bit for each that waits */
  uint32_t line;    /* of an instruction that arrived */
  uint32_t result;  /* of a reduction */
  uint32_t clock[PTX_MAX_WARPS];
};

/* The allocation that an instruction used last. */
struct ptx_range {
  uint64_t base, bytes;
  unsigned char *host;
};

struct ptx_block {
  const struct ptx_launch *launch;
  const struct ptx_function *entry;
  struct device_fault *fault;
  struct device_counts *counts;
  unsigned char *params; /* of the launch, a copy */
  uint32_t id[3];
  uint32_t thread_count, warp_count;
  uint64_t random;
  struct ptx_warp *warps;
  struct ptx_barrier barriers[PTX_BARRIERS];
  struct ptx_range *ranges;
  /* Shared memory: the dynamic part, then from static_start on the static one. */
  unsigned char *shared;
  uint32_t static_start, shared_bytes;
  struct ptx_cell *cells;
  uint32_t *stamps; /* the last store that touched the byte */
  uint32_t stamp;
  uint32_t
      *reads[PTX_MAX_WARPS]; /* by warp: 2 * epoch of its last read, + 1 unless it was atomic */
};

/* ---- for executors ---- */

/* Records a fault of a thread; returns PTX_FAULT. The text is a clause: "...: out of bounds". */
enum ptx_step ptx_raise(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                        enum device_fault_kind kind, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
uint64_t ptx_random(struct ptx_block *block);

/* Lanes of a mask in order. */
#define PTX_EACH_LANE(lane, mask)                                                                  \
  for (uint32_t rest_ = (mask), lane = rest_ == 0 ? 0 : (uint32_t)__builtin_ctz(rest_);            \
       rest_ != 0; rest_ &= rest_ - 1, lane = rest_ == 0 ? 0 : (uint32_t)__builtin_ctz(rest_))

static inline const uint64_t *ptx_read(const struct ptx_warp *warp, int32_t operand)
{
  return operand >= 0 ? warp->registers[operand] : warp->constants[~operand];
}

static inline uint64_t *ptx_write(struct ptx_warp *warp, int32_t operand)
{
  return warp->registers[operand];
}

static inline struct ptx_path *ptx_path(struct ptx_warp *warp)
{
  return &warp->frame->paths[warp->frame->path_count - 1];
}

/* A predicate with its negation; operands of decode. */
static inline uint32_t ptx_predicate_mask(const struct ptx_warp *warp, int32_t predicate,
                                          bool negated)
{
  const uint32_t value = warp->predicates[predicate];
  return negated ? ~value : value;
}

static inline void ptx_set_predicate(struct ptx_warp *warp, int32_t predicate, uint32_t mask,
                                     uint32_t value)
{
  if (predicate >= 0) {
    warp->predicates[predicate] = (warp->predicates[predicate] & ~mask) | (value & mask);
  }
}

/* Faults unless all threads of `needed` are in `active`. */
enum ptx_step ptx_require(struct ptx_warp *warp, const struct ptx_op *op, uint32_t active,
                          uint32_t needed);

/* ---- shared memory (ptx_shared.c) ---- */

/* Where `bytes` at an address lie in shared memory. */
enum ptx_step ptx_shared_index(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                               uint64_t address, uint32_t bytes, uint32_t alignment,
                               uint32_t *index);
/* Checks and notes a read, or a write of the bytes at `value`. */
enum ptx_step ptx_shared_read(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                              uint32_t index, uint32_t bytes, bool strong);
enum ptx_step ptx_shared_write(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                               uint32_t index, uint32_t bytes, bool strong, const void *value);
/* An asynchronous copy into the bytes begins; ends, as seen by the thread that waited. */
enum ptx_step ptx_shared_copy_begins(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                     uint32_t index, uint32_t bytes);
void ptx_shared_copy_ends(struct ptx_warp *warp, uint32_t lane, uint32_t index, uint32_t bytes);

/* ---- memory (ptx_memory.c) ---- */

/* The host's view of global memory. */
enum ptx_step ptx_global_access(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                uint64_t address, uint32_t bytes, uint32_t alignment,
                                unsigned char **host);

/* ---- control (ptx_control.c, ptx_barrier.c) ---- */

/* Enters a function; false when there is no memory or too many calls are open. */
bool ptx_enter(struct ptx_warp *warp, const struct ptx_function *function,
               const struct ptx_call *call, uint32_t mask);
/* Drops paths that are at their end and frames without paths; the warp is PTX_DONE without frames.
 */
void ptx_settle(struct ptx_warp *warp);
void ptx_free_frame(struct ptx_frame *frame);
/* Opens every barrier that nobody is missing at. */
void ptx_open_barriers(struct ptx_block *block);
/* Copies arrive early, some of them (ptx_async.c). */
void ptx_move_some_copies(struct ptx_warp *warp);
/* All copies of these lanes end: they have exited. */
void ptx_finish_copies(struct ptx_warp *warp, uint32_t lanes);

#endif
