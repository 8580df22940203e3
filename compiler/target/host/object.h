/* Joins ELF objects of LLVM's into one, as ld -r does. */
#ifndef ATTN_COMPILER_TARGET_HOST_OBJECT_H
#define ATTN_COMPILER_TARGET_HOST_OBJECT_H

#include "compiler/pipeline.h"

struct host_object {
  const unsigned char *bytes; /* a relocatable ELF object of 64 bits; need not be aligned */
  size_t size;
};

/* One relocatable object with the sections of all of them, in their order; sections of one name
 * stay several. What one object needs and another defines is resolved, and what is hidden becomes
 * local, so that nobody who links the result meets it. *joined is from mem_alloc, the caller's to
 * free. COMPILE_FAILED where an object is none that LLVM makes of code and constants; *error is
 * static then. `arena` holds what is needed meanwhile. */
enum compile_status host_join_objects(struct arena *arena, const struct host_object *objects,
                                      size_t count, unsigned char **joined, size_t *size,
                                      const char **error);

#endif
