/* The one function of the stand-in that no driver has, for tests that find it by dlsym. */
#ifndef ATTN_TESTS_DEVICE_INJECT_H
#define ATTN_TESTS_DEVICE_INJECT_H

/* The nth call from now on (1 is the next) of the function ("cuMemAlloc" or "cuMemAlloc_v2")
 * returns the error, a number of CUresult, and does nothing else. An error that no context
 * survives, such as 700, is the end of the context that is current then. NULL takes back all that
 * was asked for. Returns 0 when it cannot be done. ATTN_DEVICE_INJECT=FUNCTION:NTH:ERROR,... does
 * the same from the first call on. */
__attribute__((visibility("default"))) int device_inject(const char *function, int nth, int error);

#endif
