/* Loads a relocatable x86-64 ELF object into this process, without LLVM.
 *
 * The object is what the host target emits: position-independent code of the small model, read-only
 * data, relocations between them, and calls of memcpy, memmove and memset at most. Nothing in it is
 * trusted: every offset, size, index and relocation is checked before it is used, so that damaged
 * bytes are an error and never a stray access. Writable data is refused, because compiled code has
 * no state.
 *
 * Code is mapped read and execute, data read only; no page is ever writable and executable at once.
 */
#ifndef ATTN_RUNTIME_HOST_LOADER_H
#define ATTN_RUNTIME_HOST_LOADER_H

#include <stddef.h>

struct host_code;

enum host_load_status {
  HOST_LOAD_OK,
  HOST_LOAD_INVALID,     /* the bytes are no object that the host target can have made */
  HOST_LOAD_UNSUPPORTED, /* an object of another machine */
  HOST_LOAD_NO_MEMORY
};

enum { HOST_LOAD_ERROR_SIZE = 160 };

/* `object` need not be aligned and may be freed afterwards. On success *code is to be given to
 * host_code_free; otherwise `error` says why. */
enum host_load_status host_code_load(const void *object, size_t size, struct host_code **code,
                                     char error[HOST_LOAD_ERROR_SIZE]);

/* The address of a global function of the object, or NULL. Valid until host_code_free. */
void *host_code_symbol(const struct host_code *code, const char *name);

/* Bytes mapped. */
size_t host_code_size(const struct host_code *code);

/* No thread may be running the code. NULL is fine. */
void host_code_free(struct host_code *code);

#endif
