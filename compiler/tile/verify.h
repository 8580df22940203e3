/* Private to the verifier: verify.c walks the program, verify_ops.c has the rules of single ops,
 * verify_expr.c those of expressions, verify_staged.c follows tokens and slots. The first thing
 * that is wrong is kept; after it nothing else is looked at. */
#ifndef ATTN_COMPILER_TILE_VERIFY_H
#define ATTN_COMPILER_TILE_VERIFY_H

#include "compiler/tile/text.h"

struct tile_verifier {
  struct arena *arena;
  const struct tile_program *program;
  const struct tile_kernel *kernel;
  const char *error;
  const struct tile_value **visible; /* by id: the value where it may be used, else NULL */
  uint32_t *stamps; /* by id of an expression: the number of the walk that saw it last */
  uint32_t stamp;
  VECTOR(const struct expr *) stack; /* of such a walk */
};

/* Keeps the message, with the text of `op` where that is not NULL. Returns false. */
bool tile_reject(struct tile_verifier *v, const struct tile_op *op, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

bool tile_types_equal(struct tile_type a, struct tile_type b);

/* What an op may hold apart from regions: counts, operand and result types, attributes. Operands
 * are visible. */
bool tile_verify_op(struct tile_verifier *v, const struct tile_op *op);

/* Leaves and types of an expression; ARGs stand for `operands`. `flags` of the op says whether it
 * may read, its kind which TILE variables are allowed. */
bool tile_verify_expr(struct tile_verifier *v, const struct tile_op *op, const struct expr *e,
                      struct tile_value *const *operands, size_t count);
/* A workspace's size. */
bool tile_verify_size(struct tile_verifier *v, const struct expr *e);

/* Tokens and slots of a kernel whose ops are all right by themselves. */
bool tile_verify_staged(struct tile_verifier *v);

#endif
