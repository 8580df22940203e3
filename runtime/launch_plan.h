/* Inside libattn: what a launch needs besides the caller's tensors, on any device: where each piece
 * lies in one stretch of memory, what kernels are given, and the reports of their faults. */
#ifndef ATTN_RUNTIME_LAUNCH_PLAN_H
#define ATTN_RUNTIME_LAUNCH_PLAN_H

#include "runtime/launch_tensors.h"

enum {
  LAUNCH_MAX_TENSORS = 4 + SPEC_MAX_INPUTS + SPEC_MAX_OUTPUTS,
  LAUNCH_ROTARY_TABLES = 4,
  LAUNCH_HOST_CACHE = 4, /* lengths, page_table and seen have smaller numbers in any plan */
  LAUNCH_ALIGNMENT = 256
};

/* Bytes handed out one after the other. */
struct launch_space {
  size_t size;
};
/* False when sizes overflow. Offsets are multiples of LAUNCH_ALIGNMENT. */
bool launch_reserve(struct launch_space *space, size_t bytes, size_t *offset);

/* A tensor whose last stride is not 1, for the time of the launch. Never one of a cache. */
struct launch_packed {
  struct bound_tensor *tensor; /* becomes the copy */
  struct bound_tensor original;
  bool written;
  size_t offset; /* of the copy */
};

/* Large, and not to be cleared: the parts in use are set as they are planned. */
struct launch_plan {
  struct unit *unit;
  struct unit_evaluator *evaluator; /* NULL when there is nothing to evaluate */
  const struct error_sink *sink;
  uint32_t packed_count;
  size_t starts_offset[2], rotary_offset[LAUNCH_ROTARY_TABLES];
  size_t summary_offset[SPEC_MAX_INPUTS], workspace_offset[UNIT_MAX_WORKSPACES];
  size_t cache_offset[LAUNCH_HOST_CACHE];

  /* What kernels are given. The plan sets all but `data`. */
  struct bound_tensor starts[2], rotary[LAUNCH_ROTARY_TABLES], workspaces[UNIT_MAX_WORKSPACES];
  struct call call;
  struct bound_tensor summaries[SPEC_MAX_INPUTS];
  struct launch_packed packed[LAUNCH_MAX_TENSORS];
};

/* Plans; each takes its space and returns false when sizes overflow. With SIZE_MAX as its offset a
 * table is not needed: starts that are given as kernels read them, i64 without gaps, unless
 * `copy_starts`; rotary tables that are constant. */
bool launch_plan_starts(struct launch_plan *plan, struct launch_space *space, bool copy_starts);
bool launch_plan_rotary(struct launch_plan *plan, struct launch_space *space);
bool launch_plan_packed(struct launch_plan *plan, struct launch_space *space);
bool launch_plan_summaries(struct launch_plan *plan, struct launch_space *space);
/* Runs inside the guard of the evaluator's arena where the unit has workspaces. */
bool launch_plan_workspaces(struct launch_plan *plan, struct launch_space *space);
/* Cache tensors in the CPU's memory that a launch on a device copies. */
bool launch_plan_cache(struct launch_plan *plan, struct launch_space *space);
/* Whether that cache tensor, n < LAUNCH_HOST_CACHE, is one of them. */
bool launch_cache_is_on_host(const struct launch_plan *plan, uint32_t n);

/* The input that a summary in use is of; false for one that is not. */
bool launch_summary_input(const struct launch_plan *plan, uint32_t summary, uint32_t *input);

/* Writes starts as i64 to `out`; the given ones are in host memory. */
void launch_copy_starts(const struct launch_plan *plan, int which, int64_t *out);

/* Copies those cache tensors, compact, to their offsets in `image`. */
void launch_copy_cache(const struct launch_plan *plan, unsigned char *image);

/* Evaluates the rotary tables of this launch with the reader that the evaluator has. */
attn_status launch_evaluate_rotary(struct launch_plan *plan, const struct rotary_tables *tables);

/* Fills the slots of a kernel (abi.h). */
attn_status launch_fill_slots(const struct launch_plan *plan, const struct tile_kernel *tile,
                              int64_t *slots, int64_t fault);

/* The size of the dimension that a check of the kernel is about; -1 where the tensor is packed,
 * whose dimensions are not those that the spec counts, or is not given. */
int64_t launch_fault_size(const struct launch_plan *plan, const struct tile_fault_site *site);

/* ERROR_FAULT with its text: "PREFIXinput 'table': index 40 is out of range for dimension 0 of size
 * 32 (spec.attn:5:9)". `size`: -1 to leave it out. */
attn_status launch_report_fault(const struct unit *unit, const struct error_sink *sink,
                                const char *prefix, const struct tile_fault_site *site,
                                int64_t index, int64_t size);
/* The site that a record of the kernel names. */
struct tile_fault_site launch_fault_site(const struct spec *spec, const struct tile_kernel *tile,
                                         int32_t number);

#endif
