/* Modules, their functions and variables. */
#include "tests/device/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void module_free(struct module *module)
{
  if (module->ptx != NULL)
    ptx_module_free(module->ptx);
  while (module->functions != NULL) {
    struct function *function = module->functions;
    module->functions = function->next;
    free(function->name);
    free(function);
  }
  free(module->text);
  free(module);
}

static CUresult load(const void *data, struct module **module, char *log, size_t log_size)
{
  struct image image;
  const CUresult result = image_read(data, SIZE_MAX, &image, log, log_size);
  if (result != CUDA_SUCCESS)
    return result;
  *module = calloc(1, sizeof(**module));
  if (*module == NULL) {
    free(image.text);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  **module = (struct module){.text = image.text, .isa = image.isa, .target = image.target};
  device_select(driver_context()->ordinal);
  (*module)->ptx = ptx_module_load(image.text, log, log_size);
  if ((*module)->ptx == NULL) {
    module_free(*module);
    return CUDA_ERROR_INVALID_PTX;
  }
  object_add(&(*module)->object, driver_context(), OBJECT_MODULE);
  return CUDA_SUCCESS;
}

CUresult do_cuModuleLoadDataEx(CUmodule *handle, const void *image, unsigned count,
                               CUjit_option *options, void **values)
{
  const struct jit_options given = {count, options, values};
  if (handle == NULL || image == NULL || !jit_options_valid(&given))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  char log[JIT_LOG] = "";
  result = load(image, handle, log, sizeof(log));
  jit_options_write(&given, "", result == CUDA_SUCCESS ? "" : log);
  if (result != CUDA_SUCCESS)
    report_log("cuModuleLoadDataEx: %s", log);
  return result;
}

CUresult do_cuModuleLoadData(CUmodule *handle, const void *image)
{
  return do_cuModuleLoadDataEx(handle, image, 0, NULL, NULL);
}

CUresult do_cuModuleUnload(CUmodule handle)
{
  struct module *module = object_find(handle, OBJECT_MODULE);
  if (module == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  const CUresult result = capture_forbid_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  device_select(module->object.context->ordinal);
  ptx_module_free(module->ptx);
  module->ptx = NULL;
  module->object.hidden = true;
  return CUDA_SUCCESS;
}

CUresult do_cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *bytes, CUmodule handle,
                                 const char *name)
{
  const struct module *module = object_find(handle, OBJECT_MODULE);
  uint64_t place;
  size_t size;
  if (module == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (name == NULL || (address == NULL && bytes == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  if (!ptx_module_global(module->ptx, name, &place, &size))
    return CUDA_ERROR_NOT_FOUND;
  if (address != NULL)
    *address = place;
  if (bytes != NULL)
    *bytes = size;
  return CUDA_SUCCESS;
}

/* ---- functions ---- */

struct function *function_find(CUfunction handle)
{
  for (uint32_t i = 0; i < settings_load()->devices; i++) {
    struct object *object = driver_device_context(i)->objects;
    for (; object != NULL; object = object->next) {
      if (object->kind != OBJECT_MODULE || object->hidden)
        continue;
      struct function *function = ((struct module *)object)->functions;
      for (; function != NULL; function = function->next) {
        if (function == handle)
          return function;
      }
    }
  }
  return NULL;
}

/* The numbers of the entry's .reqntid, which its header has between its name and its body. */
static void read_required_threads(const char *text, const char *name, uint32_t required[3])
{
  static const char entry[] = ".entry", directive[] = ".reqntid";
  const size_t length = strlen(name);
  for (const char *place = text; (place = strstr(place, entry)) != NULL;) {
    place += strlen(entry);
    place += strspn(place, " \t\r\n");
    if (strncmp(place, name, length) != 0 || strchr("( \t\r\n{.", place[length]) == NULL)
      continue;
    const char *body = strchr(place, '{');
    const char *found = strstr(place, directive);
    if (found == NULL || body == NULL || found > body)
      return;
    required[0] = required[1] = required[2] = 1;
    sscanf(found + strlen(directive), "%u , %u , %u", &required[0], &required[1], &required[2]);
    return;
  }
}

CUresult do_cuModuleGetFunction(CUfunction *handle, CUmodule module_handle, const char *name)
{
  struct module *module = object_find(module_handle, OBJECT_MODULE);
  if (module == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (handle == NULL || name == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  for (*handle = module->functions; *handle != NULL; *handle = (*handle)->next) {
    if (strcmp((*handle)->name, name) == 0)
      return CUDA_SUCCESS;
  }
  const struct ptx_entry *entry = ptx_module_entry(module->ptx, name);
  if (entry == NULL)
    return CUDA_ERROR_NOT_FOUND;
  struct function *function = calloc(1, sizeof(*function));
  char *copy = strdup(name);
  if (function == NULL || copy == NULL) {
    free(function);
    free(copy);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *function =
      (struct function){.next = module->functions, .module = module, .entry = entry, .name = copy};
  read_required_threads(module->text, name, function->required);
  const uint32_t fixed = ptx_entry_static_shared(entry);
  if (fixed < property_shared_default())
    function->max_dynamic = property_shared_default() - fixed;
  for (uint32_t i = 0; i < ptx_entry_param_count(entry); i++) {
    uint32_t offset, bytes;
    ptx_entry_param(entry, i, &offset, &bytes);
    if (offset + bytes > function->param_bytes)
      function->param_bytes = offset + bytes;
  }
  module->functions = function;
  *handle = function;
  return CUDA_SUCCESS;
}
