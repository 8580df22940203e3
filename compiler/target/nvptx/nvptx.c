/* From lowered kernels to PTX: errors, times and their clean-up. */
#include "compiler/target/nvptx/nvptx.h"

#include "compiler/target/nvptx/lower.h"
#include "compiler/target/nvptx/machine.h"

#include <llvm/Config/llvm-config.h>
#include <string.h>
#include <time.h>

static double milliseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static enum compile_status run(struct nvptx_module *module, struct arena *arena,
                               struct compiled *compiled, enum compile_form form, char **text,
                               const char **error)
{
  double started = milliseconds();
  *error = nvptx_module_open(module, arena);
  for (size_t k = 0; *error == NULL && k < compiled->kernels.count; k++)
    *error = nvptx_lower_kernel(&module->e, arena, compiled, &compiled->kernels.items[k]);
  double built = milliseconds();
  if (*error == NULL)
    *error = nvptx_module_optimize(module, arena);
  double optimized = milliseconds();
  const char *result = NULL;
  if (*error == NULL)
    *error = form == COMPILE_LLVM ? nvptx_module_llvm(module, &result)
                                  : nvptx_module_ptx(module, arena, &result);
  if (*error != NULL)
    return COMPILE_FAILED;
  compiled->timings.build += built - started;
  compiled->timings.optimize += optimized - built;
  compiled->timings.emit += milliseconds() - optimized;
  size_t size = strlen(result);
  char *copy = mem_alloc(size + 1);
  if (copy == NULL)
    return COMPILE_OUT_OF_MEMORY;
  memcpy(copy, result, size + 1);
  if (form != COMPILE_OBJECT) {
    *text = copy;
    return COMPILE_OK;
  }
  mem_free(compiled->code);
  compiled->code = (unsigned char *)copy;
  compiled->code_size = size;
  return COMPILE_OK;
}

enum compile_status nvptx_emit(struct arena *arena, struct compiled *compiled,
                               enum compile_form form, char **text, const char **error)
{
  *error = llvm_api_load_gpu();
  if (*error != NULL)
    return COMPILE_UNAVAILABLE;
  struct nvptx_module *module = mem_alloc_zeroed(1, sizeof(*module));
  enum compile_status status = COMPILE_OUT_OF_MEMORY;
  if (module != NULL && !arena_guard(arena))
    status = run(module, arena, compiled, form, text, error);
  if (status == COMPILE_OUT_OF_MEMORY)
    *error = "out of memory";
  if (module == NULL)
    return status;
  nvptx_module_close(module);
  mem_free(module);
  return status;
}

const char *nvptx_identity(void)
{
  return "sm_80, LLVM " LLVM_VERSION_STRING;
}
