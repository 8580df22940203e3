/* The host target: tile programs to code for the CPU at hand, in LLVM vectors.
 *
 * Layouts. A tile with several rows lies in memory either ROW_MAJOR (element (m, n) at m * stride +
 * n) or in PANELs: groups of `panel_rows` rows interleaved, element (m, n) at (m / P) * columns * P
 * + n * P + m % P, so that a vector holds one column of consecutive rows. Row statistics are then
 * vectors, reductions along a row are vertical, and a product reads its first operand as vectors
 * and broadcasts elements of its second, which needs no packing. Results and first operands of
 * products are panels, second operands row-major, everything else follows (layout.c).
 * Tiles with few rows, which would leave most lanes dead, are row-major in all of this (few.h).
 *
 * Groups. Consecutive ops on panels with the same rows form a group (group.c): one loop over panels
 * that runs all of them on one panel, so that what passes between them stays in the first-level
 * cache or in registers. Within a panel, elementwise ops and row reductions over the same columns
 * share one loop.
 *
 * Memory. Every buffer has a fixed place in the thread's scratch area.
 *
 * Threads. Objects of more than a few hundred instructions are made in two parts (parts.h), side by
 * side where the process may use two processors and else one after the other, and joined
 * (object.h); the bytes are the same. The body of a loop for tiles that are masked is a function of
 * its own (outline.h), so that there is something to divide in a program of one kernel. Texts are
 * made in one piece.
 */
#ifndef ATTN_COMPILER_TARGET_HOST_HOST_H
#define ATTN_COMPILER_TARGET_HOST_HOST_H

#include "compiler/pipeline.h"

/* As compile_emit of pipeline.h, for TARGET_HOST. The thread that it may start ends before it
 * returns, and takes no signals. */
enum compile_status host_emit(struct arena *arena, struct compiled *compiled,
                              enum compile_form form, char **text, const char **error);

/* The CPU that code is made for: the one that this process runs on or, where ATTN_HOST_CPU says so,
 * an older one whose code runs there. Texts are static or in the arena. */
struct host_machine {
  const char *unavailable; /* NULL, or why no code can be made here; the other texts are "" then */
  const char *triple, *cpu, *features;
  uint32_t vector_bits;     /* widest that code is made for */
  uint32_t registers;       /* that hold vectors */
  bool multiplies_and_adds; /* in one instruction, as it does what follows */
  bool converts_halves;     /* f16 to f32 and back */
  bool rounds;              /* to whole numbers */
  bool looks_up;            /* chooses bytes by bytes (AVX512_VBMI) */
  bool dots_bf16;           /* adds products of pairs of bf16 (AVX512_BF16) */
  bool dots_int8;           /* adds products of four bytes (AVX512_VNNI or AVX_VNNI) */
};
struct host_machine host_machine_detect(struct arena *arena);

/* The level of x86-64 that code is made for instead of this processor: what ATTN_HOST_CPU was at
 * the first call, or NULL. */
const char *host_wanted_cpu(void);

/* As compile_identity of pipeline.h. */
const char *host_identity(void);

/* NULL, or why code cannot be made with these lanes, row_vectors and column_registers; those that
 * are 0 are fine. */
const char *host_schedule_is_wrong(const struct schedule *schedule);

/* Sets the fields of the schedule that are 0 to the machine's: lanes, row_vectors,
 * column_registers. */
void host_schedule_complete(const struct host_machine *machine, struct schedule *schedule);

#endif
