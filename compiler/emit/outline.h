/* Makes a function of part of one, so that two threads can make code of what was one. */
#ifndef ATTN_COMPILER_EMIT_OUTLINE_H
#define ATTN_COMPILER_EMIT_OUTLINE_H

#include "compiler/emit/llvm.h"

/* Moves the blocks that `first` leads to, until `exit`, from the function at hand to one of their
 * own, which is called in their place. One branch leads to them, `first` and `exit` begin with no
 * phi, and no value of theirs is used elsewhere. Variables (emit_variable) that only they use move
 * with them. The builder stays where it is, in no block that moves. Leaves alone what has fewer
 * than `least` instructions, and returns false.
 *
 * `again`: addresses and what the entry block loads, which must not change, are found once more in
 * the new function, so that it needs fewer parameters; otherwise the function is the same for
 * blocks that differ in these. */
bool emit_outline(struct emit *e, const char *name, LLVMBasicBlockRef first, LLVMBasicBlockRef exit,
                  size_t least, bool again);

#endif
