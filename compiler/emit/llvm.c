#include "compiler/emit/llvm.h"

#include <assert.h>
#include <string.h>

void emit_open(struct emit *e, struct arena *arena, const char *module_name, unsigned lanes)
{
  *e = (struct emit){.arena = arena, .lanes = lanes};
  e->context = LLVMContextCreate();
  e->module = LLVMModuleCreateWithNameInContext(module_name, e->context);
  e->builder = LLVMCreateBuilderInContext(e->context);
  e->i1 = LLVMInt1TypeInContext(e->context);
  e->i8 = LLVMInt8TypeInContext(e->context);
  e->i16 = LLVMInt16TypeInContext(e->context);
  e->i32 = LLVMInt32TypeInContext(e->context);
  e->i64 = LLVMInt64TypeInContext(e->context);
  e->f16 = LLVMHalfTypeInContext(e->context);
  e->bf16 = LLVMBFloatTypeInContext(e->context);
  e->f32 = LLVMFloatTypeInContext(e->context);
  e->f64 = LLVMDoubleTypeInContext(e->context);
  e->pointer = LLVMPointerTypeInContext(e->context, 0);
  e->global = e->pointer;
  e->none = LLVMVoidTypeInContext(e->context);
}

void emit_open_gpu(struct emit *e, struct arena *arena, const char *module_name)
{
  emit_open(e, arena, module_name, 1);
  e->gpu = true;
  e->fuses = true;
  e->global = LLVMPointerTypeInContext(e->context, 1);
  e->shared = LLVMPointerTypeInContext(e->context, 3);
}

void emit_close(struct emit *e)
{
  if (e->builder != NULL)
    LLVMDisposeBuilder(e->builder);
  if (e->module != NULL)
    LLVMDisposeModule(e->module);
  if (e->context != NULL)
    LLVMContextDispose(e->context);
  *e = (struct emit){0};
}

LLVMBasicBlockRef emit_block(struct emit *e, const char *name)
{
  return LLVMAppendBasicBlockInContext(e->context, e->function, name);
}

void emit_function(struct emit *e, const char *name, LLVMTypeRef type, bool external)
{
  e->function = LLVMAddFunction(e->module, name, type);
  LLVMSetLinkage(e->function, external ? LLVMExternalLinkage : LLVMInternalLinkage);
  static const char *const attributes[] = {"nounwind"};
  for (size_t k = 0; k < sizeof(attributes) / sizeof(*attributes); k++) {
    unsigned kind = LLVMGetEnumAttributeKindForName(attributes[k], strlen(attributes[k]));
    LLVMAddAttributeAtIndex(e->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                            LLVMCreateEnumAttribute(e->context, kind, 0));
  }
  /* Loops that zero or copy must not become calls: the object has to load without a linker. */
  LLVMAddAttributeAtIndex(e->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateStringAttribute(e->context, "no-builtins", 11, "", 0));
  e->entry = emit_block(e, "entry");
  LLVMBasicBlockRef body = emit_block(e, "body");
  LLVMPositionBuilderAtEnd(e->builder, e->entry);
  LLVMBuildBr(e->builder, body);
  LLVMPositionBuilderAtEnd(e->builder, body);
}

LLVMTypeRef emit_vector_type(struct emit *e, LLVMTypeRef element)
{
  return LLVMVectorType(element, e->lanes);
}

bool emit_is_vector(LLVMValueRef value)
{
  return LLVMGetTypeKind(LLVMTypeOf(value)) == LLVMVectorTypeKind;
}

LLVMTypeRef emit_element_type(LLVMValueRef value)
{
  LLVMTypeRef type = LLVMTypeOf(value);
  return LLVMGetTypeKind(type) == LLVMVectorTypeKind ? LLVMGetElementType(type) : type;
}

LLVMTypeRef emit_type_like(struct emit *e, LLVMValueRef like, LLVMTypeRef element)
{
  return emit_is_vector(like) ? emit_vector_type(e, element) : element;
}

LLVMValueRef emit_broadcast(struct emit *e, LLVMValueRef scalar)
{
  if (emit_is_vector(scalar))
    return scalar;
  LLVMTypeRef type = emit_vector_type(e, LLVMTypeOf(scalar));
  LLVMValueRef one =
      LLVMBuildInsertElement(e->builder, LLVMGetPoison(type), scalar, emit_i32(e, 0), "");
  LLVMValueRef zeros = LLVMConstNull(LLVMVectorType(e->i32, e->lanes));
  return LLVMBuildShuffleVector(e->builder, one, LLVMGetPoison(type), zeros, "");
}

static LLVMValueRef splat_constant(LLVMTypeRef type, LLVMValueRef scalar)
{
  LLVMValueRef lanes[64];
  unsigned count = LLVMGetVectorSize(type);
  assert(count <= 64);
  for (unsigned k = 0; k < count; k++)
    lanes[k] = scalar;
  return LLVMConstVector(lanes, count);
}

LLVMValueRef emit_float_of(LLVMTypeRef type, double value)
{
  if (LLVMGetTypeKind(type) == LLVMVectorTypeKind)
    return splat_constant(type, LLVMConstReal(LLVMGetElementType(type), value));
  return LLVMConstReal(type, value);
}

LLVMValueRef emit_float_like(LLVMValueRef like, double value)
{
  return emit_float_of(LLVMTypeOf(like), value);
}

LLVMValueRef emit_int_of(LLVMTypeRef type, int64_t value)
{
  if (LLVMGetTypeKind(type) == LLVMVectorTypeKind)
    return splat_constant(type,
                          LLVMConstInt(LLVMGetElementType(type), (unsigned long long)value, true));
  return LLVMConstInt(type, (unsigned long long)value, true);
}

LLVMValueRef emit_i64(struct emit *e, int64_t value)
{
  return LLVMConstInt(e->i64, (unsigned long long)value, true);
}

LLVMValueRef emit_i32(struct emit *e, int32_t value)
{
  return LLVMConstInt(e->i32, (unsigned long long)(long long)value, true);
}

LLVMValueRef emit_lane_numbers(struct emit *e)
{
  LLVMValueRef lanes[64];
  for (unsigned k = 0; k < e->lanes; k++)
    lanes[k] = emit_i32(e, (int32_t)k);
  return LLVMConstVector(lanes, e->lanes);
}

LLVMValueRef emit_intrinsic(struct emit *e, const char *name, LLVMTypeRef overload,
                            LLVMValueRef *args, unsigned count)
{
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  assert(id != 0);
  unsigned overloads = overload != NULL;
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(e->module, id, &overload, overloads);
  LLVMTypeRef type = LLVMIntrinsicGetType(e->context, id, &overload, overloads);
  return LLVMBuildCall2(e->builder, type, function, args, count, "");
}

LLVMValueRef emit_fma(struct emit *e, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c)
{
  if (e->splits_fma)
    return LLVMBuildFAdd(e->builder, LLVMBuildFMul(e->builder, a, b, ""), c, "");
  return emit_intrinsic(e, "llvm.fma", LLVMTypeOf(a), (LLVMValueRef[]){a, b, c}, 3);
}

/* A number of 26 digits, x less which has no more than that (Veltkamp 1968). */
static LLVMValueRef upper_half(struct emit *e, LLVMValueRef x)
{
  LLVMValueRef far = LLVMBuildFMul(e->builder, x, emit_float_like(x, 0x1p27 + 1), "");
  return LLVMBuildFSub(e->builder, far, LLVMBuildFSub(e->builder, far, x, ""), "");
}

/* The product of f64 as a sum of two numbers without error (Dekker 1971), and `c`. */
static LLVMValueRef add_in_two_parts(struct emit *e, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c)
{
  LLVMBuilderRef at = e->builder;
  LLVMValueRef a_high = upper_half(e, a), b_high = upper_half(e, b);
  LLVMValueRef a_low = LLVMBuildFSub(at, a, a_high, ""), b_low = LLVMBuildFSub(at, b, b_high, "");
  LLVMValueRef product = LLVMBuildFMul(at, a, b, "");
  LLVMValueRef rest = LLVMBuildFSub(at, LLVMBuildFMul(at, a_high, b_high, ""), product, "");
  rest = LLVMBuildFAdd(at, rest, LLVMBuildFMul(at, a_high, b_low, ""), "");
  rest = LLVMBuildFAdd(at, rest, LLVMBuildFMul(at, a_low, b_high, ""), "");
  rest = LLVMBuildFAdd(at, rest, LLVMBuildFMul(at, a_low, b_low, ""), "");
  return LLVMBuildFAdd(at, LLVMBuildFAdd(at, product, c, ""), rest, "");
}

LLVMValueRef emit_exact_fma(struct emit *e, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c)
{
  if (!e->splits_fma)
    return emit_fma(e, a, b, c);
  if (emit_element_type(a) == e->f64)
    return add_in_two_parts(e, a, b, c);
  LLVMTypeRef wide = emit_type_like(e, a, e->f64); /* holds products of f32 */
  LLVMValueRef product = LLVMBuildFMul(e->builder, LLVMBuildFPExt(e->builder, a, wide, ""),
                                       LLVMBuildFPExt(e->builder, b, wide, ""), "");
  LLVMValueRef sum =
      LLVMBuildFAdd(e->builder, product, LLVMBuildFPExt(e->builder, c, wide, ""), "");
  return LLVMBuildFPTrunc(e->builder, sum, LLVMTypeOf(a), "");
}

LLVMValueRef emit_select(struct emit *e, LLVMValueRef condition, LLVMValueRef yes, LLVMValueRef no)
{
  return LLVMBuildSelect(e->builder, condition, yes, no, "");
}

LLVMValueRef emit_address(struct emit *e, LLVMTypeRef element, LLVMValueRef base,
                          LLVMValueRef index)
{
  return LLVMBuildInBoundsGEP2(e->builder, element, base, &index, 1, "");
}

LLVMValueRef emit_load(struct emit *e, LLVMTypeRef type, LLVMValueRef address, unsigned align)
{
  LLVMValueRef value = LLVMBuildLoad2(e->builder, type, address, "");
  LLVMSetAlignment(value, align);
  return value;
}

void emit_store(struct emit *e, LLVMValueRef value, LLVMValueRef address, unsigned align)
{
  LLVMSetAlignment(LLVMBuildStore(e->builder, value, address), align);
}

LLVMValueRef emit_variable(struct emit *e, LLVMTypeRef type)
{
  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
  LLVMPositionBuilderBefore(e->builder, LLVMGetBasicBlockTerminator(e->entry));
  LLVMValueRef slot = LLVMBuildAlloca(e->builder, type, "");
  LLVMPositionBuilderAtEnd(e->builder, here);
  return slot;
}

void emit_loop_begin(struct emit *e, struct emit_loop *loop, LLVMValueRef lo, LLVMValueRef hi,
                     int64_t step, const LLVMValueRef *init, unsigned count)
{
  assert(count <= EMIT_MAX_CARRIED);
  loop->hi = hi;
  loop->step = step;
  loop->count = count;
  loop->guarded = true;
  loop->once = false;
  if (LLVMIsAConstantInt(lo) != NULL && LLVMIsAConstantInt(hi) != NULL) {
    int64_t turns = LLVMConstIntGetSExtValue(hi) - LLVMConstIntGetSExtValue(lo);
    loop->guarded = turns <= 0;
    loop->once = turns > 0 && turns <= step && !e->gpu;
  }
  if (loop->once) { /* straight on: what is stored before need not be loaded again */
    loop->index = lo;
    for (unsigned k = 0; k < count; k++)
      loop->carried[k] = init[k];
    return;
  }
  loop->body = emit_block(e, "loop");
  loop->exit = emit_block(e, "done");
  loop->before = LLVMGetInsertBlock(e->builder);
  if (loop->guarded)
    LLVMBuildCondBr(e->builder, LLVMBuildICmp(e->builder, LLVMIntSLT, lo, hi, ""), loop->body,
                    loop->exit);
  else
    LLVMBuildBr(e->builder, loop->body);
  LLVMPositionBuilderAtEnd(e->builder, loop->body);
  loop->index = LLVMBuildPhi(e->builder, LLVMTypeOf(lo), "");
  LLVMAddIncoming(loop->index, &lo, &loop->before, 1);
  for (unsigned k = 0; k < count; k++) {
    loop->init[k] = init[k];
    loop->carried[k] = LLVMBuildPhi(e->builder, LLVMTypeOf(init[k]), "");
    LLVMAddIncoming(loop->carried[k], &loop->init[k], &loop->before, 1);
  }
}

void emit_never_unroll(struct emit *e, LLVMValueRef branch)
{
  static const char never[] = "llvm.loop.unroll.disable";
  LLVMMetadataRef text = LLVMMDStringInContext2(e->context, never, sizeof(never) - 1);
  /* The node of a loop refers to itself, which tells it from that of another loop. */
  LLVMMetadataRef self = LLVMTemporaryMDNode(e->context, NULL, 0);
  LLVMMetadataRef parts[] = {self, LLVMMDNodeInContext2(e->context, &text, 1)};
  LLVMMetadataRef node = LLVMMDNodeInContext2(e->context, parts, 2);
  LLVMMetadataReplaceAllUsesWith(self, node);
  static const char kind[] = "llvm.loop";
  LLVMSetMetadata(branch, LLVMGetMDKindIDInContext(e->context, kind, sizeof(kind) - 1),
                  LLVMMetadataAsValue(e->context, node));
}

/* Keeps a loop's counter from LLVM's analysis of recurrences, without an instruction. Loop strength
 * reduction would weigh the ways to reach every address of a body from every other: a third of a
 * host module's time, for code that runs no faster. */
static LLVMValueRef hide_recurrence(struct emit *e, LLVMValueRef index)
{
  LLVMValueRef args[2] = {index, LLVMConstNull(LLVMTypeOf(index))};
  return emit_intrinsic(e, "llvm.expect", LLVMTypeOf(index), args, 2);
}

void emit_loop_end(struct emit *e, struct emit_loop *loop, const LLVMValueRef *next)
{
  for (unsigned k = 0; k < loop->count && loop->once; k++)
    loop->result[k] = next[k];
  if (loop->once)
    return;
  LLVMValueRef step = LLVMConstInt(LLVMTypeOf(loop->index), (unsigned long long)loop->step, true);
  LLVMValueRef index = LLVMBuildNSWAdd(e->builder, loop->index, step, "");
  if (!e->gpu)
    index = hide_recurrence(e, index);
  LLVMValueRef more = LLVMBuildICmp(e->builder, LLVMIntSLT, index, loop->hi, "");
  LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->builder);
  LLVMValueRef branch = LLVMBuildCondBr(e->builder, more, loop->body, loop->exit);
  if (e->gpu)
    emit_never_unroll(e, branch);
  LLVMAddIncoming(loop->index, &index, &latch, 1);
  for (unsigned k = 0; k < loop->count; k++) {
    LLVMValueRef value = next[k];
    LLVMAddIncoming(loop->carried[k], &value, &latch, 1);
  }
  LLVMPositionBuilderAtEnd(e->builder, loop->exit);
  for (unsigned k = 0; k < loop->count; k++) {
    loop->result[k] = LLVMBuildPhi(e->builder, LLVMTypeOf(next[k]), "");
    LLVMValueRef value = next[k];
    LLVMAddIncoming(loop->result[k], &value, &latch, 1);
    if (loop->guarded)
      LLVMAddIncoming(loop->result[k], &loop->init[k], &loop->before, 1);
  }
}

void emit_if(struct emit *e, struct emit_branch *branch, LLVMValueRef condition)
{
  LLVMBasicBlockRef then = emit_block(e, "then");
  branch->otherwise = emit_block(e, "else");
  branch->exit = emit_block(e, "endif");
  LLVMBuildCondBr(e->builder, condition, then, branch->otherwise);
  LLVMPositionBuilderAtEnd(e->builder, then);
}

void emit_else(struct emit *e, struct emit_branch *branch)
{
  LLVMBuildBr(e->builder, branch->exit);
  LLVMPositionBuilderAtEnd(e->builder, branch->otherwise);
}

void emit_end_if(struct emit *e, struct emit_branch *branch)
{
  LLVMBuildBr(e->builder, branch->exit);
  LLVMPositionBuilderAtEnd(e->builder, branch->exit);
}
