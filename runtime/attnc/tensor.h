/* A dense row-major tensor in host memory, as the command reads, makes, compares and writes it.
 *
 * A tensor owns its name and its data; tensor_free gives both back and is harmless on a zeroed
 * tensor. Tensors may be moved in memory, which ends the life of views taken before.
 */
#ifndef ATTN_RUNTIME_ATTNC_TENSOR_H
#define ATTN_RUNTIME_ATTNC_TENSOR_H

#include <dlpack/dlpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TENSOR_MAX_RANK = 8, TENSOR_ALIGNMENT = 64 };

enum tensor_status {
  TENSOR_OK = 0,
  TENSOR_INVALID,   /* the data or the request is wrong */
  TENSOR_IO,        /* the system refused: no such file, no permission, disk full */
  TENSOR_NO_MEMORY, /* an allocation failed */
};

/* Filled when a status is not TENSOR_OK, untouched otherwise. Never NULL where one is asked for. */
struct tensor_error {
  char text[512];
};

struct tensor {
  char *name; /* UTF-8; owned */
  DLDataType dtype;
  int ndim;                       /* 0 <= ndim <= TENSOR_MAX_RANK */
  int64_t shape[TENSOR_MAX_RANK]; /* each >= 0 */
  void *data;                     /* TENSOR_ALIGNMENT-aligned; not NULL even when bytes is 0 */
  size_t bytes;                   /* elements times element size */
  void *block;                    /* what data lies in; owned */
  void *on_device;                /* a copy in a device's memory, device.h; or NULL */
};

/* The element types. DLPack 0.6 has no name for booleans; later versions give them code 6. */
enum { TENSOR_DTYPE_CODE_BOOL = 6 };
#define TENSOR_DTYPE_F64 ((DLDataType){kDLFloat, 64, 1})
#define TENSOR_DTYPE_F32 ((DLDataType){kDLFloat, 32, 1})
#define TENSOR_DTYPE_F16 ((DLDataType){kDLFloat, 16, 1})
#define TENSOR_DTYPE_BF16 ((DLDataType){kDLBfloat, 16, 1})
#define TENSOR_DTYPE_I64 ((DLDataType){kDLInt, 64, 1})
#define TENSOR_DTYPE_I32 ((DLDataType){kDLInt, 32, 1})
#define TENSOR_DTYPE_I8 ((DLDataType){kDLInt, 8, 1})
#define TENSOR_DTYPE_U8 ((DLDataType){kDLUInt, 8, 1})
#define TENSOR_DTYPE_BOOL ((DLDataType){TENSOR_DTYPE_CODE_BOOL, 8, 1})

/* "f32", "f16", "bf16", "f64", "i32", "i64", "u8", "i8" or "bool"; NULL for any other type. */
const char *tensor_dtype_name(DLDataType dtype);
bool tensor_dtype_parse(const char *text, DLDataType *dtype); /* false when it is none of those */
bool tensor_dtype_equal(DLDataType a, DLDataType b);
size_t tensor_dtype_size(DLDataType dtype); /* bytes of one element; 0 for any other type */

/* The number of elements and bytes of a shape. False when the type or rank is not supported, a dim
 * is negative, or the product of the dims that are not zero, in bytes, exceeds PTRDIFF_MAX: zeros
 * are left out so that strides computed from the shape cannot overflow either. */
bool tensor_shape_size(DLDataType dtype, int ndim, const int64_t *shape, int64_t *count,
                       size_t *bytes);

/* Makes a tensor of zeros, copying NAME and SHAPE. On failure the tensor is zeroed. */
enum tensor_status tensor_init(struct tensor *tensor, const char *name, DLDataType dtype, int ndim,
                               const int64_t *shape, struct tensor_error *error);
void tensor_free(struct tensor *tensor);
enum tensor_status tensor_rename(struct tensor *tensor, const char *name,
                                 struct tensor_error *error);

int64_t tensor_count(const struct tensor *tensor); /* elements */

/* Element INDEX in row-major order, 0 <= index < tensor_count. i64 loses bits beyond 2^53. */
double tensor_get(const struct tensor *tensor, int64_t index);
/* How far the elements of two tensors are from each other: 0 for two NaNs or infinities of one
 * sign, infinite where they are of different kinds. */
double tensor_element_distance(const struct tensor *a, const struct tensor *b, int64_t index);
/* Floats round to nearest even and overflow to infinity; integers round to nearest even and
 * saturate, NaN giving 0; bool is false for zero only. */
void tensor_set(struct tensor *tensor, int64_t index, double value);

/* A compact CPU view that borrows shape and data; it ends with the tensor. */
DLTensor tensor_view(struct tensor *tensor);

/* Tensors with different names, owned. */
struct tensor_list {
  struct tensor *items;
  size_t count;
};
struct tensor *tensor_list_find(const struct tensor_list *list, const char *name); /* or NULL */
void tensor_list_free(struct tensor_list *list);

#endif
