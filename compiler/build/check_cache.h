/* Private to compiler/build, as build.h. */
#ifndef ATTN_COMPILER_BUILD_CHECK_CACHE_H
#define ATTN_COMPILER_BUILD_CHECK_CACHE_H

#include "compiler/build/build.h"

/* Makes the kernel `check_cache` (docs/caches.md). Needs b->cache. */
void check_cache_build(struct build *b);

#endif
