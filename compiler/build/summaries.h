/* Kernels that summarise inputs, for targets whose launches cannot. */
#ifndef ATTN_COMPILER_BUILD_SUMMARIES_H
#define ATTN_COMPILER_BUILD_SUMMARIES_H

#include "compiler/build/build.h"

/* Kernels summarize_NAME in front of those of the program, for each summary that they read. */
void summaries_build(struct build *b);

#endif
