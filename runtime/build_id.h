/* Tells one build of the library from another that has the same version number. */
#ifndef ATTN_RUNTIME_BUILD_ID_H
#define ATTN_RUNTIME_BUILD_ID_H

#include <stddef.h>

enum { BUILD_ID_SIZE = 20 };

/* Copies up to BUILD_ID_SIZE bytes of the identity that the linker gave (--build-id) to the
 * executable or library which holds this function. Returns their number, 0 when there is none. */
size_t build_id(unsigned char bytes[BUILD_ID_SIZE]);

#endif
