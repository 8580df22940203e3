/* Inside libattn: tensors that a launch makes besides those it is given. */
#ifndef ATTN_RUNTIME_LAUNCH_TENSORS_H
#define ATTN_RUNTIME_LAUNCH_TENSORS_H

#include "runtime/arguments.h"

/* What empty tensors point to: 4096 zeros. Nobody writes there, for there is no element to write.
 */
unsigned char *tensor_zero_page(void);

/* Row-major strides for the sizes, `empty`, and the bytes of the elements. False when that
 * overflows. */
bool tensor_make_compact(struct bound_tensor *tensor, size_t *bytes);

/* Copies every element; both have the same type and sizes, and `to` shares no memory with `from`.
 */
void tensor_copy(const struct bound_tensor *to, const struct bound_tensor *from);

/* The summary of an input along its last dimension: the smallest and the largest element of each
 * block of VISIBILITY_SUMMARY_BLOCK (the last block is what remains). Sizes: those of the input,
 * but ceil(n / block) for the last one, and then 2: minimum, maximum. f32 for float inputs, where a
 * NaN makes both of its block NaN; i32 for the others, of 64-bit integers the low half, as READ
 * gives it. `summary_shape` sets type, rank and sizes. */
void summary_shape(const struct bound_tensor *input, struct bound_tensor *summary);
void summary_fill(const struct bound_tensor *input, const struct bound_tensor *summary);

/* For expressions that read inputs: `user` is the struct call. Ranges are not available. */
bool call_read(void *user, uint32_t tensor, const int64_t *indices, size_t count,
               union expr_value *value, struct expr_fault *fault);

#endif
