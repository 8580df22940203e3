/* From a checked spec, or a tile program's text, to compiled code: the list of stages, with the
 * time that each took. */
#ifndef ATTN_COMPILER_PIPELINE_H
#define ATTN_COMPILER_PIPELINE_H

#include "compiler/analysis/visibility.h"
#include "compiler/tile/abi.h"
#include "compiler/tile/ir.h"
#include "dsl/spec.h"

enum target {
  TARGET_HOST,
  TARGET_SM_80 /* PTX for NVIDIA GPUs of compute capability 8.0 and up */
};
const char *target_name(enum target target); /* "host", "sm_80" */

enum kernel_kind {
  KERNEL_FORWARD,
  KERNEL_DECODE, /* few query rows: the keys are split into parts, which a second kernel merges */
  KERNEL_APPEND  /* new tokens into a cache */
};

/* Tile sizes and the like; 0 where the table decides. Printed by explain, overridable, never part
 * of a spec. */
struct schedule {
  uint32_t rows;             /* query rows of a tile, heads of a group packed */
  uint32_t columns;          /* keys of a tile */
  uint32_t lanes;            /* f32 lanes of a vector */
  uint32_t row_vectors;      /* vectors of rows in a panel */
  uint32_t column_registers; /* columns of a register tile */
  uint32_t warps;            /* GPU: warps of a block */
  uint32_t
      column_warps; /* GPU: of these, how many divide the columns of a tile; a divisor of warps */
  uint32_t stages;  /* GPU: tiles in flight, the one at hand included: 1 or 2 */
  uint32_t tasks;   /* decode: keys are split until there are so many tasks */
  uint32_t part;    /* decode: but not into parts of fewer keys */
};

/* schedule.tasks: as many parts as `part` allows. Where each of them begins depends neither on the
 * batch nor on the longest sequence then (below 16384 parts), and so do a sequence's results. */
#define SCHEDULE_ALL_TASKS UINT32_MAX

struct compile_options {
  enum target target;
  enum kernel_kind kernel;
  enum dtype type; /* F32, F16 or BF16: what DTYPE_ANY and DTYPE_SPEC become */
  struct schedule schedule;
  bool on_cache;       /* k, v and cached inputs are read from a cache (docs/caches.md) */
  bool packed_queries; /* with on_cache: sequences have different numbers of queries, packed one
                          after the other as in ragged batches */
  uint32_t queries;    /* DECODE: rows that tiles are made for, see decode_queries; 0 is 1 */
  bool shared_prefix;  /* DECODE, on_cache: launches say how many leading tokens all sequences have
                          in the same pages. A spec that cannot use it is compiled without */
};

/* For a launch with nq rows: the `queries` to compile its decode kernels for, a power of two up to
 * 16 and not less than nq; 0 where the forward kernel serves it better. A decode kernel takes any
 * number of rows. What looks at rows twice is not split: its decode kernel is the forward kernel in
 * small tiles. Works with the spec's expressions, so that no other thread may compile it meanwhile,
 * and inside the guard of their arena. */
uint32_t decode_queries(const struct spec *spec, enum target target, int64_t nq);

/* Compiled code and what a launcher must know. In the arena; `code` is allocated with mem_alloc and
 * owned by the caller. */
struct compiled_kernel {
  const struct tile_kernel *tile;
  size_t scratch_bytes;  /* host: per thread */
  uint32_t threads;      /* GPU: of a block */
  uint32_t shared_bytes; /* GPU: dynamic shared memory of a block */
};

/* A launch table of one rotary: see pipeline.c. */
struct compile_timings {
  double build, optimize, emit; /* milliseconds that passed; where threads went through the last two
                                   side by side, in proportion to what each stage took of them */
};

struct cache_plan;

struct compiled {
  const struct spec *spec;        /* NULL for hand-written tile programs */
  struct compile_options options; /* with the schedule that was used */
  const struct tile_program *program;
  const struct cache_plan *cache; /* whose tensors kernels take by role; NULL where none does */
  VECTOR(struct compiled_kernel) kernels;
  const struct visibility
      *visibility; /* summaries that the launcher computes; NULL for hand-written programs */
  unsigned char
      *code; /* host: a relocatable ELF object without undefined symbols, see runtime/host_loader.h;
                GPU: PTX text, whose terminating zero code_size does not count */
  size_t code_size;
  struct compile_timings timings;
};

/* Spec to tile program. Features that the target does not lower yet are errors in `diagnostics`
 * ("not yet lowered for TARGET", with their place) and give NULL. */
struct compiled *compile_build(struct arena *arena, const struct spec *spec,
                               const struct compile_options *options,
                               struct diagnostics *diagnostics);
/* Wraps a hand-written program. */
struct compiled *compile_wrap(struct arena *arena, const struct tile_program *program,
                              const struct compile_options *options);

enum compile_form { COMPILE_OBJECT, COMPILE_LLVM, COMPILE_ASSEMBLY /* GPU: PTX */ };
enum compile_status {
  COMPILE_OK,
  COMPILE_OUT_OF_MEMORY,
  COMPILE_FAILED,
  COMPILE_UNAVAILABLE /* the code generator is not installed; *error says what to install */
};

/* Tile program to code. Runs the verifier first. OBJECT fills compiled->code; the others give
 * NUL-terminated text in *text (mem_alloc'd, the caller frees). On failure *error (in the arena)
 * says why. Arms its own guard: may be called without one, and leaves nothing behind when memory
 * runs out. Thread-safe for different arenas. */
enum compile_status compile_emit(struct arena *arena, struct compiled *compiled,
                                 enum compile_form form, char **text, const char **error);

/* Everything besides program and options that the target's code depends on: the version of the code
 * generator and the processor with its features. Static; NULL where code must not outlive the
 * process. Does not load the code generator. */
const char *compile_identity(enum target target);

#endif
