/* Tensors in files: .npy (one tensor) and .safetensors (several, by name).
 *
 * Formats: numpy.lib.format 1.0 to 3.0; the safetensors format of Hugging Face. Both little endian.
 * A header is never believed: every size it states is checked against the file before anything is
 * allocated for it or read. Each error text names the file, the tensor where there is one, and
 * what to do about it.
 */
#ifndef ATTN_RUNTIME_ATTNC_TENSOR_FILE_H
#define ATTN_RUNTIME_ATTNC_TENSOR_FILE_H

#include "runtime/attnc/tensor.h"

enum tensor_format { TENSOR_FORMAT_NPY, TENSOR_FORMAT_SAFETENSORS };

/* By the ending of the name; false when it is neither. */
bool tensor_format_of(const char *path, enum tensor_format *format);

/* Reads every tensor of the regular file PATH, in the order of their data. The tensor of a .npy
 * file is named after the file, without folder and ending. A .npy array in Fortran order is
 * transposed in memory to row-major. LIST is written in any case: empty on failure, else
 * tensor_list_free it. */
enum tensor_status tensor_file_read(struct tensor_list *list, const char *path,
                                    struct tensor_error *error);

/* The same from SIZE bytes in memory; LABEL stands for the path in names and error texts. */
enum tensor_status tensor_file_parse(struct tensor_list *list, enum tensor_format format,
                                     const void *bytes, size_t size, const char *label,
                                     struct tensor_error *error);

/* Writes the tensors to PATH in the format of its ending; .npy takes exactly one and no bf16. The
 * bytes go to a new file beside PATH that replaces PATH when all is on disk: PATH holds either its
 * old content or all of the new one, and on failure the new file is removed. */
enum tensor_status tensor_file_write(const char *path, const struct tensor *tensors, size_t count,
                                     struct tensor_error *error);

#endif
