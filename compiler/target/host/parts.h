/* A module in two parts, so that two threads can make code of it.
 *
 * Every part begins as the whole module in a context of its own: to lower again costs less than to
 * move functions from one context to another. It then keeps the functions that are its own and
 * declares the others. Which function goes where depends on the module alone, so that the object is
 * the same whatever machine made it. More parts would serve machines with more processors, but
 * cost the others a lowering each, and the largest function is a third of most modules.
 */
#ifndef ATTN_COMPILER_TARGET_HOST_PARTS_H
#define ATTN_COMPILER_TARGET_HOST_PARTS_H

#include "compiler/emit/llvm.h"

enum { HOST_MAX_PARTS = 2 };

struct host_division {
  unsigned parts;        /* 1 for a module that is not worth more */
  const unsigned *owner; /* part of each function; those without a body are counted too */
};

/* Parts that take about as long; the first has the largest function. The module is as lowered. In
 * the arena. */
struct host_division host_divide(struct arena *arena, LLVMModuleRef module);

/* Makes of other parts' functions definitions that are there to be forgotten (LLVM's passes
 * elim-avail-extern and globaldce do so), and of internal functions hidden ones, which other parts
 * can call. The module is one lowered from the same program as the one that was divided. */
void host_keep_part(LLVMModuleRef module, const struct host_division *division, unsigned part);

#endif
