/* What the printer, the parser and the verifier of tile programs share beyond ir.h. */
#ifndef ATTN_COMPILER_TILE_TEXT_H
#define ATTN_COMPILER_TILE_TEXT_H

#include "compiler/tile/ir.h"

#include <assert.h>

/* Limits of the text and of well-formed programs; they keep every pass over a program finite and
 * its recursion shallow.
 */
enum {
  TILE_MAX_KERNELS = 64,
  TILE_MAX_TENSORS = 256,
  TILE_MAX_PARAMS = 256,
  TILE_MAX_SIDE = 4096,        /* rows or columns of a tile */
  TILE_MAX_ELEMENTS = 1 << 22, /* rows * columns */
  TILE_MAX_SEGMENTS = 64,
  TILE_MAX_NESTING = 64, /* regions in regions */
  TILE_MAX_EXPR_HEIGHT = 512
};

/* "plain", "query", … as after a tensor's or parameter's declaration. */
const char *tile_role_name(enum tile_role role);

/* Words that mean something in expressions, so that no tensor or parameter can have them for a
 * name. */
bool tile_name_is_reserved(const char *name);

/* The name of an op that is written as a call, and of a conversion; NULL for the others. */
const char *tile_expr_function(enum expr_op op);

/* A text that grows in an arena. */
struct tile_text {
  struct arena *arena;
  VECTOR(char) bytes;
};
void tile_text_add(struct tile_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "f32[96,64]", "index", "buffer(f16[64,64,swizzle], 3)", "token". */
void tile_text_type(struct tile_text *text, struct tile_type type);

/* Prints the expressions of one program (print_expr.c). Operands of commutative ops are ordered by
 * structure, not by when they were made, and what is used several times is defined once by `let`,
 * so that the text is the same after reading it into another pool and never larger than the DAG. */
struct tile_expr_printer;
struct tile_expr_printer *tile_expr_printer_new(struct tile_text *text,
                                                const struct expr_pool *pool);
void tile_print_expr(struct tile_expr_printer *printer, const struct tile_kernel *kernel,
                     const struct expr *e);

/* The first line of an op's text. */
char *tile_print_op(struct arena *arena, const struct tile_kernel *kernel,
                    const struct tile_op *op);

/* The type that a READ of a tensor has: FLOAT, INT or BOOL. Integer tensors may also be read as
 * LONG. */
enum expr_type tile_read_type(enum dtype element);

#endif
