/* Expressions of a tile kernel as LLVM values: scalars, or vectors where an operand is one. */
#ifndef ATTN_COMPILER_EMIT_EXPR_H
#define ATTN_COMPILER_EMIT_EXPR_H

#include "compiler/emit/storage.h"
#include "compiler/tile/abi.h"

/* The function at hand's view of the launch arguments: each slot is loaded once, in the entry
 * block. */
struct emit_slots {
  const struct tile_kernel *kernel;
  LLVMValueRef array;   /* const int64_t * */
  LLVMValueRef *loaded; /* by slot; NULL until asked for */
};
void emit_slots_init(struct emit *e, struct emit_slots *slots, const struct tile_kernel *kernel,
                     LLVMValueRef array);
LLVMValueRef emit_slot(struct emit *e, struct emit_slots *slots, uint32_t slot); /* i64 */
LLVMValueRef emit_tensor_base(struct emit *e, struct emit_slots *slots,
                              uint32_t tensor); /* pointer */
LLVMValueRef emit_tensor_stride(struct emit *e, struct emit_slots *slots, uint32_t tensor,
                                uint32_t dim);

/* Gives operand `index` of the op at hand: of the LLVM type of its element (see emit_expr_type),
 * scalar or vector. */
typedef LLVMValueRef emit_operand(void *user, uint32_t index);

struct emit_expression {
  struct emit *e;
  struct emit_slots *slots;
  emit_operand *operand;
  void *user;
  LLVMValueRef variables[EXPR_VAR_COUNT]; /* TILE_J0, TILE_J1 in the tests of for_segments */
  LLVMValueRef active; /* lanes that stand for elements; the others read no tensor. NULL (after a
                          reset) when all do */
  /* private */
  LLVMValueRef *values; /* by node id */
  size_t value_count;
  VECTOR(uint32_t) order; /* ids in the order in which they were emitted */
  LLVMValueRef bound[EXPR_MAX_LEVEL + 1];
};
/* `pool`: of the program; nodes that are added to it later cannot be emitted. */
void emit_expression_init(struct emit_expression *x, struct emit *e, struct emit_slots *slots,
                          const struct expr_pool *pool);
/* Forgets every value: the builder moved to a place that they do not dominate, or the operands
 * changed. */
void emit_expression_reset(struct emit_expression *x);
LLVMValueRef emit_expression(struct emit_expression *x, const struct expr *node);

#endif
