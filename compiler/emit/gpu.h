/* What code for an NVIDIA GPU has besides plain instructions: kernels, the numbers of threads and
 * blocks, shared memory, barriers, shuffles, tensor cores and asynchronous copies. Everything that
 * works on a whole warp or block must be reached by all of its threads. Terms and layouts are those
 * of "PTX ISA", NVIDIA, version 7.0, chapter 9.
 *
 * Pointers into global memory have the type e->global, into shared memory e->shared; emit_address,
 * emit_load and emit_store take either. Indices into shared memory are i32.
 */
#ifndef ATTN_COMPILER_EMIT_GPU_H
#define ATTN_COMPILER_EMIT_GPU_H

#include "compiler/emit/llvm.h"
#include "dsl/spec.h"

enum { EMIT_WARP = 32 }; /* threads */

/* Starts an entry whose parameter is `slot_count` 64-bit slots by value, for blocks of `threads`
 * threads, of which a multiprocessor shall have room for `blocks` at once; 0 leaves that to ptxas.
 * The builder is left in the entry's body block. Returns the address of the slots, for loads with
 * constant indices (emit_slots_init). */
LLVMValueRef emit_gpu_kernel(struct emit *e, const char *name, uint32_t slot_count,
                             uint32_t threads, uint32_t blocks);

LLVMValueRef emit_gpu_thread(struct emit *e); /* i32: of the block */
LLVMValueRef emit_gpu_warp(struct emit *e);   /* i32: of the block; the same in a warp's threads */
LLVMValueRef emit_gpu_lane(struct emit *e);   /* i32: of the warp */
LLVMValueRef emit_gpu_block(struct emit *e);  /* i32: of the grid */

void emit_gpu_barrier(struct emit *e);      /* the block's threads wait for each other */
void emit_gpu_warp_barrier(struct emit *e); /* the warp's do */

/* The value (f32 or i32) of the thread whose lane differs in the bits of `mask`. */
LLVMValueRef emit_gpu_shuffle_xor(struct emit *e, LLVMValueRef value, uint32_t mask);
/* Of the thread with that lane (i32). */
LLVMValueRef emit_gpu_shuffle(struct emit *e, LLVMValueRef value, LLVMValueRef lane);
/* Whether the condition (i1) holds in any thread of the warp, of the block. The latter is a barrier
 * too. */
LLVMValueRef emit_gpu_warp_any(struct emit *e, LLVMValueRef condition);
LLVMValueRef emit_gpu_block_any(struct emit *e, LLVMValueRef condition);

/* The block's dynamic shared memory, aligned to 1024 bytes, from byte `offset` (i32) on. */
LLVMValueRef emit_gpu_shared(struct emit *e, LLVMValueRef offset);
/* An address in global memory as a pointer. */
LLVMValueRef emit_gpu_global(struct emit *e, LLVMValueRef address /* i64 */);

/* Loads `count` (1, 2 or 4) matrices of 8 x 8 16-bit elements. Thread t's `address` (16-byte
 * aligned) is that of row t % 8 of matrix t / 8; threads from 8 * count on need a valid address
 * too. Each thread gets, in out[n], the elements 2 (t % 4) and the next of row t / 4 of matrix n;
 * of its column t / 4 when transposed. */
void emit_gpu_ldmatrix(struct emit *e, unsigned count, bool transposed, LLVMValueRef address,
                       LLVMValueRef *out);

/* c += a b with f32 sums. DTYPE_F16, DTYPE_BF16: mma.m16n8k16, each i32 of a and b two elements.
 * DTYPE_F32: mma.m16n8k8 of tf32, each i32 one element (emit_gpu_to_tf32). The lower index of a
 * pair is in the low half. For thread t, g = t / 4, q = t % 4, element (row, column):
 *
 *            m16n8k16                                              m16n8k8
 *   a[0..3]  (g, 2q) (g + 8, 2q) (g, 2q + 8) (g + 8, 2q + 8)       (g, q) (g + 8, q) (g, q + 4) (g
 * + 8, q + 4) b[0..1]  (2q, g) (2q + 8, g), pairs along the rows             (q, g) (q + 4, g)
 *   c[0..3]  (g, 2q) (g, 2q + 1) (g + 8, 2q) (g + 8, 2q + 1)       the same
 */
void emit_gpu_mma(struct emit *e, enum dtype type, const LLVMValueRef a[4], const LLVMValueRef b[2],
                  LLVMValueRef c[4]);

/* The nearest tf32 (8 bits of exponent, 10 of mantissa), ties away from 0, as the bits (i32) of an
 * f32. */
LLVMValueRef emit_gpu_to_tf32(struct emit *e, LLVMValueRef value);
/* Two f32, rounded to nearest even, as the halves of an i32, and back. DTYPE_F16 or DTYPE_BF16. */
LLVMValueRef emit_gpu_pack(struct emit *e, enum dtype type, LLVMValueRef low, LLVMValueRef high);
void emit_gpu_unpack(struct emit *e, enum dtype type, LLVMValueRef pair, LLVMValueRef out[2]);

/* Begins the copy of `bytes` (4, 8 or 16; both addresses aligned to as many) from global to shared
 * memory. `present` (i32; NULL for all): bytes to read, the others become zero; with 0 nothing is
 * read. */
void emit_gpu_copy(struct emit *e, unsigned bytes, LLVMValueRef shared, LLVMValueRef global,
                   LLVMValueRef present);
/* Closes the group of the copies that this thread began since the last; waits until at most
 * `pending` of its groups are unfinished. Other threads see them after a barrier. */
void emit_gpu_copy_commit(struct emit *e);
void emit_gpu_copy_wait(struct emit *e, uint32_t pending);

/* a / b of i64, towards zero; b is neither 0 nor -1. For a plain division by no constant ptxas
 * calls a function, whose registers it chooses itself: what is alive around the call must lie
 * elsewhere, and was spilled where a mask divides positions. */
LLVMValueRef emit_gpu_divide(struct emit *e, LLVMValueRef a, LLVMValueRef b);

/* Writes the fault record (struct tile_fault of compiler/tile/abi.h, its address an i64) unless
 * another thread has. */
void emit_gpu_fault(struct emit *e, LLVMValueRef record, LLVMValueRef site, LLVMValueRef index);

#endif
