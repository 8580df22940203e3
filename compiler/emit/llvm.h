/* Thin wrappers over LLVM's C API: one module being written, its types, loops in SSA form,
 * intrinsics. The only folder besides the targets that includes an LLVM header.
 *
 * LLVM's own allocations cannot be made to fail by mem_fail_at, and abort the process when memory
 * really runs out. All objects here belong to `context` and die with it (emit_close), so that
 * unwinding a compilation leaks nothing.
 */
#ifndef ATTN_COMPILER_EMIT_LLVM_H
#define ATTN_COMPILER_EMIT_LLVM_H

#include "compiler/emit/llvm_api.h"
#include "dsl/base/memory.h"

struct emit {
  struct arena *arena;
  LLVMContextRef context;
  LLVMModuleRef module;
  LLVMBuilderRef builder;
  LLVMTypeRef i1, i8, i16, i32, i64, f16, bf16, f32, f64, pointer, none;
  LLVMTypeRef
      global; /* pointer to what the launcher passes: on a GPU of an address space of its own */
  LLVMTypeRef shared;  /* GPU: pointer into shared memory */
  LLVMValueRef window; /* GPU: the dynamic shared memory; NULL until emit_gpu_shared is called */
  bool gpu;
  /* What the processor has no instruction for, so that several make it. (LLVM would call functions
   * of libraries, which compiled code does not have.) */
  bool splits_fma;    /* multiply-add: emit_fma makes a product and a sum */
  bool splits_halves; /* conversions between f16 and f32 */
  bool splits_floor;  /* rounding to whole numbers */
  bool looks_up; /* for each byte of a vector of 64 one of 128, in one instruction (AVX512_VBMI) */
  bool fuses; /* expressions may make one instruction, with one rounding, of a product and a sum */
  unsigned lanes; /* f32 elements of a vector; 1 on a GPU, where there are no vectors */
  LLVMValueRef function;
  LLVMBasicBlockRef entry; /* of `function`; ends in a branch, before which slots are loaded */
};

void emit_open(struct emit *e, struct arena *arena, const char *module_name, unsigned lanes);
/* As emit_open, for an NVIDIA GPU. */
void emit_open_gpu(struct emit *e, struct arena *arena, const char *module_name);
void emit_close(struct emit *e); /* also when emit_open was never called on a zeroed struct */

/* Starts a function of internal (or external) linkage; the builder is left in its body block. */
void emit_function(struct emit *e, const char *name, LLVMTypeRef type, bool external);

LLVMTypeRef emit_vector_type(struct emit *e, LLVMTypeRef element); /* `lanes` of them */
bool emit_is_vector(LLVMValueRef value);
LLVMTypeRef emit_element_type(LLVMValueRef value); /* of a vector its element, else its own type */
/* `element` widened to the shape of `like`. */
LLVMTypeRef emit_type_like(struct emit *e, LLVMValueRef like, LLVMTypeRef element);
LLVMValueRef emit_broadcast(struct emit *e, LLVMValueRef scalar);
/* A constant of the element type and shape of `like`. */
LLVMValueRef emit_float_like(LLVMValueRef like, double value);
LLVMValueRef emit_float_of(LLVMTypeRef type, double value);
LLVMValueRef emit_int_of(LLVMTypeRef type, int64_t value);
LLVMValueRef emit_i64(struct emit *e, int64_t value);
LLVMValueRef emit_i32(struct emit *e, int32_t value);
/* <0, 1, 2, ...> of i32 lanes */
LLVMValueRef emit_lane_numbers(struct emit *e);

LLVMValueRef emit_intrinsic(struct emit *e, const char *name, LLVMTypeRef overload,
                            LLVMValueRef *args, unsigned count);
LLVMValueRef emit_fma(struct emit *e, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c);
/* As emit_fma, where `c` may take away most of the product: that keeps all of its digits on every
 * processor. */
LLVMValueRef emit_exact_fma(struct emit *e, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c);
LLVMValueRef emit_select(struct emit *e, LLVMValueRef condition, LLVMValueRef yes, LLVMValueRef no);

/* Element `index` (i64) of an array of `element` at `base`. */
LLVMValueRef emit_address(struct emit *e, LLVMTypeRef element, LLVMValueRef base,
                          LLVMValueRef index);
LLVMValueRef emit_load(struct emit *e, LLVMTypeRef type, LLVMValueRef address, unsigned align);
void emit_store(struct emit *e, LLVMValueRef value, LLVMValueRef address, unsigned align);

/* A variable of the function at hand, on its stack; LLVM turns it into registers. */
LLVMValueRef emit_variable(struct emit *e, LLVMTypeRef type);

/* for (index = lo; index < hi; index += step), with values carried from one turn to the next. */
enum { EMIT_MAX_CARRIED = 32 };
struct emit_loop {
  LLVMBasicBlockRef before, body, exit;
  LLVMValueRef index;
  LLVMValueRef hi;
  int64_t step;
  bool guarded; /* there may be no turn at all */
  bool once;    /* exactly one turn: no loop is made */
  unsigned count;
  LLVMValueRef init[EMIT_MAX_CARRIED];
  LLVMValueRef carried[EMIT_MAX_CARRIED]; /* inside the loop */
  LLVMValueRef result[EMIT_MAX_CARRIED];  /* after it */
};
void emit_loop_begin(struct emit *e, struct emit_loop *loop, LLVMValueRef lo, LLVMValueRef hi,
                     int64_t step, const LLVMValueRef *init, unsigned count);
void emit_loop_end(struct emit *e, struct emit_loop *loop, const LLVMValueRef *next);
/* The branch closes a loop that neither LLVM nor ptxas is to unroll. ptxas would do so with most
 * loops of a kernel, and take half a minute and all registers for a body of a few hundred
 * instructions; those of emit_loop_begin are marked so on a GPU. */
void emit_never_unroll(struct emit *e, LLVMValueRef branch);

/* if (condition) { ... } */
struct emit_branch {
  LLVMBasicBlockRef otherwise, exit;
};
void emit_if(struct emit *e, struct emit_branch *branch, LLVMValueRef condition);
void emit_else(struct emit *e, struct emit_branch *branch);
void emit_end_if(struct emit *e, struct emit_branch *branch);

LLVMBasicBlockRef emit_block(struct emit *e, const char *name);

#endif
