/* What the readers and writers of tensor files share; used by tensor_file.c, npy.c, safetensors.c.
 */
#ifndef ATTN_RUNTIME_ATTNC_TENSOR_FORMAT_H
#define ATTN_RUNTIME_ATTNC_TENSOR_FORMAT_H

#include "runtime/attnc/tensor_file.h"

/* The bytes of a file, open or in memory. PATH is borrowed. */
struct tensor_source {
  const char *path;
  const unsigned char *bytes; /* NULL when they are read from fd */
  int fd;
  uint64_t size;
};

/* Writes "PATH: tensor 'NAME': ..." (NAME may be NULL) with control characters replaced, and
 * returns STATUS. Long paths and names are shortened so that the message always fits. */
enum tensor_status tensor_fail(struct tensor_error *error, enum tensor_status status,
                               const char *path, const char *name, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Copies SIZE bytes from OFFSET on; offset + size <= source->size. Fails when the file has become
 * shorter since it was opened. */
enum tensor_status tensor_source_read(const struct tensor_source *source, uint64_t offset,
                                      void *target, size_t size, struct tensor_error *error);

/* Makes TENSOR and fills it from OFFSET on. The caller has checked with tensor_shape_size that the
 * shape is sound and its bytes lie in the source. Fails on booleans other than 0 and 1. */
enum tensor_status tensor_load(struct tensor *tensor, const struct tensor_source *source,
                               uint64_t offset, const char *name, DLDataType dtype, int ndim,
                               const int64_t *shape, struct tensor_error *error);

enum tensor_status npy_read(struct tensor_list *list, const struct tensor_source *source,
                            struct tensor_error *error);
enum tensor_status safetensors_read(struct tensor_list *list, const struct tensor_source *source,
                                    struct tensor_error *error);

/* A piece of a file to be written; borrowed. */
struct tensor_piece {
  const void *data;
  size_t size;
};

/* Replaces the file PATH by the pieces, as tensor_file_write promises. */
enum tensor_status tensor_replace_file(const char *path, const struct tensor_piece *pieces,
                                       size_t count, struct tensor_error *error);

enum tensor_status npy_write(const char *path, const struct tensor *tensor,
                             struct tensor_error *error);
enum tensor_status safetensors_write(const char *path, const struct tensor *tensors, size_t count,
                                     struct tensor_error *error);

#endif
