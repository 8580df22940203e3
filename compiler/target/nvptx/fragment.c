/* Tiles in registers. */
#include "compiler/target/nvptx/lower.h"

uint32_t gpu_register_count(const struct gpu *g, struct tile_type type)
{
  struct gpu_shape shape = gpu_shape(g, type);
  uint32_t count = shape.rows * shape.columns;
  return gpu_is_packed(type) ? count / 2 : count;
}

LLVMTypeRef gpu_register_type(const struct gpu *g, struct tile_type type)
{
  switch (type.element) {
  case TILE_F32: return g->e->f32;
  case TILE_F16:
  case TILE_BF16: return gpu_is_packed(type) ? g->e->i32 : g->e->f32;
  case TILE_I32: return g->e->i32;
  case TILE_INDEX: return g->e->i64;
  case TILE_BOOL: return g->e->i1;
  }
  return g->e->i32;
}

LLVMValueRef gpu_zero(struct gpu *g, struct tile_type type)
{
  return LLVMConstNull(gpu_register_type(g, type));
}

LLVMValueRef *gpu_new_fragment(struct gpu *g, const struct tile_value *value)
{
  struct gpu_value *v = gpu_value(g, value);
  *v = (struct gpu_value){.kind = GPU_FRAGMENT};
  v->elements = ARENA_ARRAY(g->arena, LLVMValueRef, gpu_register_count(g, value->type));
  return v->elements;
}

LLVMValueRef gpu_round(struct gpu *g, enum tile_element element, LLVMValueRef value)
{
  if (!gpu_is_half(element))
    return value;
  LLVMValueRef both[2];
  enum dtype type = gpu_half_type(element);
  emit_gpu_unpack(g->e, type, emit_gpu_pack(g->e, type, value, value), both);
  return both[0];
}

const LLVMValueRef *gpu_registers(struct gpu *g, const struct tile_value *value)
{
  struct gpu_value *v = gpu_value(g, value);
  if (v->kind == GPU_FRAGMENT)
    return v->elements;
  uint32_t count = gpu_register_count(g, value->type);
  LLVMValueRef *registers = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  gpu_stream_arrive(g, value);
  gpu_fill(g, value->type, &v->place, registers);
  return registers;
}

LLVMValueRef gpu_element(struct gpu *g, const struct tile_value *value, uint32_t r, uint32_t c)
{
  struct gpu_value *v = gpu_value(g, value);
  if (v->kind == GPU_SCALAR)
    return v->scalar;
  if (v->kind == GPU_LAZY)
    return gpu_load_lazily(g, value, r, c);
  struct gpu_shape shape = gpu_shape(g, value->type);
  uint32_t number = (shape.rows > 1 ? r : 0) * shape.columns + (shape.columns > 1 ? c : 0);
  if (v->kind != GPU_FRAGMENT) {
    gpu_stream_arrive(g, value);
    LLVMValueRef row = gpu_row(g, value->type, r);
    return gpu_shared_load(g, &v->place, row, gpu_column(g, value->type, c));
  }
  if (!gpu_is_packed(value->type))
    return v->elements[number];
  LLVMValueRef both[2];
  emit_gpu_unpack(g->e, gpu_half_type(value->type.element), v->elements[number / 2], both);
  return both[number % 2];
}

void gpu_set_elements(struct gpu *g, const struct tile_value *value, const LLVMValueRef *elements)
{
  struct tile_type type = value->type;
  LLVMValueRef *registers = gpu_new_fragment(g, value);
  uint32_t count = gpu_register_count(g, type);
  for (uint32_t k = 0; k < count; k++) {
    if (gpu_is_packed(type))
      registers[k] =
          emit_gpu_pack(g->e, gpu_half_type(type.element), elements[2 * k], elements[2 * k + 1]);
    else
      registers[k] = gpu_round(g, type.element, elements[k]);
  }
}
