/* Any bytes as a tensor file: the first says which format the rest is (even .npy, odd
 * .safetensors). What is accepted must be sound and fully readable; nothing may leak either way. */
#include <stdlib.h>
#include <string.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/tensor_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
  if (!holds)
    abort();
}

static void inspect(struct tensor *tensor)
{
  int64_t count;
  size_t bytes;
  require(tensor_shape_size(tensor->dtype, tensor->ndim, tensor->shape, &count, &bytes));
  require(bytes == tensor->bytes && count == tensor_count(tensor));
  require((uintptr_t)tensor->data % TENSOR_ALIGNMENT == 0);
  for (int64_t k = 0; k < count; k++)
    tensor_set(tensor, k, tensor_get(tensor, k));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size == 0)
    return 0;
  int64_t live = mem_live_count();
  enum tensor_format format = data[0] % 2 == 0 ? TENSOR_FORMAT_NPY : TENSOR_FORMAT_SAFETENSORS;
  struct tensor_list list;
  struct tensor_error error = {"?"};
  enum tensor_status status =
      tensor_file_parse(&list, format, data + 1, size - 1, "fuzz/input.bin", &error);
  require(status == TENSOR_OK || list.items == NULL);
  require(status == TENSOR_OK || strncmp(error.text, "fuzz/input.bin: ", 16) == 0);
  for (size_t k = 0; k < list.count; k++) {
    inspect(&list.items[k]);
    require(tensor_list_find(&list, list.items[k].name) == &list.items[k]);
  }
  tensor_list_free(&list);
  require(mem_live_count() == live);
  return 0;
}
