/* Runs kernels that a test emits itself on the stand-in device, one module with one entry. */
#ifndef ATTN_TESTS_DEVICE_GPU_RUNNER_H
#define ATTN_TESTS_DEVICE_GPU_RUNNER_H

#include "compiler/emit/gpu.h"
#include "compiler/target/nvptx/machine.h"
#include "tests/device/device.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

struct gpu_code {
  struct arena arena;
  struct nvptx_module module;
  struct emit *e;
  LLVMValueRef slots;
  uint32_t threads;
  struct ptx_module *loaded;
};

/* Leaves the builder in the entry's body. */
static inline void gpu_code_open(struct gpu_code *code, uint32_t slot_count, uint32_t threads)
{
  *code = (struct gpu_code){.threads = threads};
  arena_init(&code->arena);
  ck_assert(!arena_guard(&code->arena));
  const char *error = llvm_api_load_gpu();
  if (error == NULL)
    error = nvptx_module_open(&code->module, &code->arena);
  ck_assert_msg(error == NULL, "%s", error);
  code->e = &code->module.e;
  code->slots = emit_gpu_kernel(code->e, "kernel_name", slot_count, threads, 0);
}

static inline void gpu_code_close(struct gpu_code *code)
{
  ptx_module_free(code->loaded);
  nvptx_module_close(&code->module);
  arena_free(&code->arena);
}

/* The i64 of a slot. */
static inline LLVMValueRef gpu_slot(struct gpu_code *code, int64_t index)
{
  struct emit *e = code->e;
  return emit_load(e, e->i64, emit_address(e, e->i64, code->slots, emit_i64(e, index)), 8);
}

/* Element `index` (i32) of an array of f32 or i32 at the address in a slot. */
static inline LLVMValueRef gpu_at(struct gpu_code *code, int64_t slot, LLVMValueRef index)
{
  struct emit *e = code->e;
  LLVMValueRef base = emit_gpu_global(e, gpu_slot(code, slot));
  return emit_address(e, e->i32, base, LLVMBuildSExt(e->builder, index, e->i64, ""));
}

/* Ends the entry and loads its PTX. */
static inline void gpu_code_load(struct gpu_code *code)
{
  LLVMBuildRetVoid(code->e->builder);
  const char *text = NULL;
  const char *error = nvptx_module_optimize(&code->module, &code->arena);
  if (error == NULL)
    error = nvptx_module_ptx(&code->module, &code->arena, &text);
  ck_assert_msg(error == NULL, "%s", error);
  char log[1024] = "";
  code->loaded = ptx_module_load(text, log, sizeof(log));
  ck_assert_msg(code->loaded != NULL, "%s\n%s", log, text);
}

static inline void gpu_code_run(const struct gpu_code *code, uint32_t blocks, uint32_t shared,
                                const int64_t *slots)
{
  struct ptx_launch launch = {.entry = ptx_module_entry(code->loaded, "kernel_name"),
                              .grid = {blocks, 1, 1},
                              .block = {code->threads, 1, 1},
                              .dynamic_shared = shared,
                              .params = (const unsigned char *)slots,
                              .seed = 1};
  ck_assert_ptr_nonnull(launch.entry);
  struct device_fault fault = {.kind = DEVICE_OK};
  struct device_counts counts;
  ck_assert_msg(ptx_run(&launch, &fault, &counts), "line %u: %s", fault.line, fault.text);
}

/* Memory of the device, and the host's view of it. */
struct gpu_array {
  uint64_t address;
  void *data;
};

static inline struct gpu_array gpu_array_new(size_t bytes)
{
  struct gpu_array array = {.address = device_allocate(bytes)};
  ck_assert(array.address != 0);
  array.data = device_translate(array.address, bytes);
  return array;
}

#endif
