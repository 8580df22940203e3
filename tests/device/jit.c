/* Options of the driver's compiler, and cuLink, which makes a cubin of PTX. */
#include "tests/device/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct link {
  struct object object;
  struct jit_options options; /* copies; the buffers stay the caller's */
  struct image image;         /* what was added */
  void *cubin;
};

/* ---- options ---- */

static void **option_value(const struct jit_options *options, CUjit_option option)
{
  for (unsigned i = 0; i < options->count; i++) {
    if (options->options[i] == option)
      return &options->values[i];
  }
  return NULL;
}

bool jit_options_valid(const struct jit_options *options)
{
  if (options->count != 0 && (options->options == NULL || options->values == NULL))
    return false;
  for (unsigned i = 0; i < options->count; i++) {
    if (options->options[i] < 0 || options->options[i] > CU_JIT_LAST_OPTION)
      return false;
  }
  /* A buffer without a size cannot be filled. */
  return (option_value(options, CU_JIT_ERROR_LOG_BUFFER) == NULL ||
          option_value(options, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) != NULL) &&
         (option_value(options, CU_JIT_INFO_LOG_BUFFER) == NULL ||
          option_value(options, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES) != NULL);
}

static void fill(void **buffer, void **size, const char *text)
{
  if (size == NULL)
    return;
  /* The size comes as the value itself, and what is filled goes back in its place. */
  const size_t room = (size_t)(unsigned)(uintptr_t)*size;
  size_t used = 0;
  if (buffer != NULL && *buffer != NULL && room != 0) {
    const int length = snprintf(*buffer, room, "%s", text);
    used = length <= 0 ? 0 : (size_t)length < room ? (size_t)length + 1 : room;
  }
  *size = (void *)(uintptr_t)used;
}

void jit_options_write(const struct jit_options *options, const char *info, const char *error)
{
  fill(option_value(options, CU_JIT_INFO_LOG_BUFFER),
       option_value(options, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES), info);
  fill(option_value(options, CU_JIT_ERROR_LOG_BUFFER),
       option_value(options, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES), error);
  void **time = option_value(options, CU_JIT_WALL_TIME);
  const float seconds = 0;
  if (time != NULL)
    memcpy(time, &seconds, sizeof(seconds));
}

/* ---- cuLink ---- */

void link_free(struct object *object)
{
  struct link *link = (struct link *)object;
  free(link->options.options);
  free(link->options.values);
  free(link->image.text);
  free(link->cubin);
  free(link);
}

CUresult do_cuLinkCreate_v2(unsigned count, CUjit_option *options, void **values,
                            CUlinkState *state)
{
  const struct jit_options given = {count, options, values};
  if (state == NULL || !jit_options_valid(&given))
    return CUDA_ERROR_INVALID_VALUE;
  struct link *link = calloc(1, sizeof(*link));
  if (link == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  link->options.options = malloc((count + 1) * sizeof(*options));
  link->options.values = malloc((count + 1) * sizeof(*values));
  if (link->options.options == NULL || link->options.values == NULL) {
    link_free(&link->object);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  link->options.count = count;
  if (count != 0) {
    memcpy(link->options.options, options, count * sizeof(*options));
    memcpy(link->options.values, values, count * sizeof(*values));
  }
  object_add(&link->object, driver_context(), OBJECT_LINK);
  *state = link;
  return CUDA_SUCCESS;
}

/* Reads the text as loading it would, so that errors of the PTX come up here. */
static CUresult compile(const struct image *image, char *log, size_t log_size)
{
  device_select(driver_context()->ordinal);
  struct ptx_module *module = ptx_module_load(image->text, log, log_size);
  if (module == NULL)
    return CUDA_ERROR_INVALID_PTX;
  ptx_module_free(module);
  return CUDA_SUCCESS;
}

CUresult do_cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size,
                             const char *name, unsigned count, CUjit_option *options, void **values)
{
  const struct jit_options given = {count, options, values};
  struct link *link = object_find(state, OBJECT_LINK);
  if (link == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (data == NULL || size == 0 || type < 0 || type > CU_JIT_INPUT_LAST || link->cubin != NULL ||
      !jit_options_valid(&given))
    return CUDA_ERROR_INVALID_VALUE;
  if ((type != CU_JIT_INPUT_PTX && type != CU_JIT_INPUT_CUBIN) || link->image.text != NULL) {
    report_log("cuLinkAddData: the stand-in links one text of PTX or one cubin");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  char log[JIT_LOG] = "", line[JIT_LOG + 256] = "";
  CUresult result = image_read(data, size, &link->image, log, sizeof(log));
  if (result == CUDA_SUCCESS)
    result = compile(&link->image, log, sizeof(log));
  if (result != CUDA_SUCCESS) {
    free(link->image.text);
    link->image.text = NULL;
    snprintf(line, sizeof(line), "%.200s: %s", name == NULL ? "input" : name, log);
  }
  jit_options_write(&link->options, "", line);
  return result;
}

CUresult do_cuLinkComplete(CUlinkState state, void **cubin, size_t *size)
{
  struct link *link = object_find(state, OBJECT_LINK);
  size_t bytes;
  if (link == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (cubin == NULL || link->image.text == NULL || link->cubin != NULL)
    return CUDA_ERROR_INVALID_VALUE;
  link->cubin = image_make(&link->image, &bytes);
  if (link->cubin == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *cubin = link->cubin;
  if (size != NULL)
    *size = bytes;
  return CUDA_SUCCESS;
}

CUresult do_cuLinkDestroy(CUlinkState state)
{
  struct link *link = object_find(state, OBJECT_LINK);
  if (link == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  object_remove(&link->object);
  link_free(&link->object);
  return CUDA_SUCCESS;
}
