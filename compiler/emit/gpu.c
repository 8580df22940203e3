#include "compiler/emit/gpu.h"

#include "compiler/tile/abi.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
  PTX_KERNEL = 71, /* calling convention */
  SHARED_ALIGN = 1024,
  SHARED_SPACE = 3
};
static const uint32_t all_lanes = 0xffffffff;

static LLVMAttributeRef attribute(struct emit *e, const char *name, uint64_t value)
{
  return LLVMCreateEnumAttribute(e->context, LLVMGetEnumAttributeKindForName(name, strlen(name)),
                                 value);
}

static LLVMAttributeRef text_attribute(struct emit *e, const char *name, const char *value)
{
  return LLVMCreateStringAttribute(e->context, name, (unsigned)strlen(name), value,
                                   (unsigned)strlen(value));
}

static LLVMValueRef constant_bits(struct emit *e, uint32_t bits)
{
  return LLVMConstInt(e->i32, bits, false);
}

static void set_number(struct emit *e, const char *name, uint32_t number)
{
  char text[16];
  snprintf(text, sizeof(text), "%u", (unsigned)number);
  LLVMAddAttributeAtIndex(e->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          text_attribute(e, name, text));
}

LLVMValueRef emit_gpu_kernel(struct emit *e, const char *name, uint32_t slot_count,
                             uint32_t threads, uint32_t blocks)
{
  LLVMTypeRef parameter = e->pointer;
  emit_function(e, name, LLVMFunctionType(e->none, &parameter, 1, false), true);
  LLVMSetFunctionCallConv(e->function, PTX_KERNEL);
  set_number(e, "nvvm.reqntid", threads);
  if (blocks > 0)
    set_number(e, "nvvm.minctasm", blocks);
  const char *by_value = "byval";
  LLVMAttributeRef attributes[] = {
      LLVMCreateTypeAttribute(e->context,
                              LLVMGetEnumAttributeKindForName(by_value, strlen(by_value)),
                              LLVMArrayType2(e->i64, slot_count)),
      attribute(e, "align", 8),
      attribute(e, "readonly", 0),
      attribute(e, "noalias", 0),
  };
  for (size_t k = 0; k < sizeof(attributes) / sizeof(*attributes); k++)
    LLVMAddAttributeAtIndex(e->function, 1, attributes[k]);
  return LLVMGetParam(e->function, 0);
}

static LLVMValueRef special_register(struct emit *e, const char *name)
{
  return emit_intrinsic(e, name, NULL, NULL, 0);
}

LLVMValueRef emit_gpu_thread(struct emit *e)
{
  return special_register(e, "llvm.nvvm.read.ptx.sreg.tid.x");
}

LLVMValueRef emit_gpu_lane(struct emit *e)
{
  return LLVMBuildAnd(e->builder, emit_gpu_thread(e), emit_i32(e, EMIT_WARP - 1), "");
}

LLVMValueRef emit_gpu_warp(struct emit *e)
{
  return LLVMBuildLShr(e->builder, emit_gpu_thread(e), emit_i32(e, 5), "");
}

LLVMValueRef emit_gpu_block(struct emit *e)
{
  return special_register(e, "llvm.nvvm.read.ptx.sreg.ctaid.x");
}

void emit_gpu_barrier(struct emit *e)
{
  LLVMValueRef number = emit_i32(e, 0);
  emit_intrinsic(e, "llvm.nvvm.barrier.cta.sync.aligned.all", NULL, &number, 1);
}

void emit_gpu_warp_barrier(struct emit *e)
{
  LLVMValueRef lanes = constant_bits(e, all_lanes);
  emit_intrinsic(e, "llvm.nvvm.bar.warp.sync", NULL, &lanes, 1);
}

static LLVMValueRef shuffle(struct emit *e, const char *float_name, const char *int_name,
                            LLVMValueRef value, LLVMValueRef operand)
{
  /* The last operand bounds the lanes: to all of the warp. */
  LLVMValueRef args[] = {constant_bits(e, all_lanes), value, operand, emit_i32(e, EMIT_WARP - 1)};
  return emit_intrinsic(e, LLVMTypeOf(value) == e->f32 ? float_name : int_name, NULL, args, 4);
}

LLVMValueRef emit_gpu_shuffle_xor(struct emit *e, LLVMValueRef value, uint32_t mask)
{
  return shuffle(e, "llvm.nvvm.shfl.sync.bfly.f32", "llvm.nvvm.shfl.sync.bfly.i32", value,
                 constant_bits(e, mask));
}

LLVMValueRef emit_gpu_shuffle(struct emit *e, LLVMValueRef value, LLVMValueRef lane)
{
  return shuffle(e, "llvm.nvvm.shfl.sync.idx.f32", "llvm.nvvm.shfl.sync.idx.i32", value, lane);
}

LLVMValueRef emit_gpu_warp_any(struct emit *e, LLVMValueRef condition)
{
  LLVMValueRef args[] = {constant_bits(e, all_lanes), condition};
  return emit_intrinsic(e, "llvm.nvvm.vote.any.sync", NULL, args, 2);
}

LLVMValueRef emit_gpu_block_any(struct emit *e, LLVMValueRef condition)
{
  LLVMValueRef args[] = {emit_i32(e, 0), condition};
  return emit_intrinsic(e, "llvm.nvvm.barrier.cta.red.or.aligned.all", NULL, args, 2);
}

LLVMValueRef emit_gpu_shared(struct emit *e, LLVMValueRef offset)
{
  if (e->window == NULL) {
    e->window =
        LLVMAddGlobalInAddressSpace(e->module, LLVMArrayType2(e->i8, 0), "window", SHARED_SPACE);
    LLVMSetLinkage(e->window, LLVMExternalLinkage);
    LLVMSetAlignment(e->window, SHARED_ALIGN);
  }
  return emit_address(e, e->i8, e->window, offset);
}

LLVMValueRef emit_gpu_global(struct emit *e, LLVMValueRef address)
{
  return LLVMBuildIntToPtr(e->builder, address, e->global, "");
}

void emit_gpu_ldmatrix(struct emit *e, unsigned count, bool transposed, LLVMValueRef address,
                       LLVMValueRef *out)
{
  assert(count == 1 || count == 2 || count == 4);
  char name[64];
  snprintf(name, sizeof(name), "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x%u%s.b16", count,
           transposed ? ".trans" : "");
  LLVMValueRef loaded = emit_intrinsic(e, name, e->shared, &address, 1);
  if (count == 1) {
    out[0] = loaded;
    return;
  }
  for (unsigned k = 0; k < count; k++)
    out[k] = LLVMBuildExtractValue(e->builder, loaded, k, "");
}

void emit_gpu_mma(struct emit *e, enum dtype type, const LLVMValueRef a[4], const LLVMValueRef b[2],
                  LLVMValueRef c[4])
{
  const char *name = "llvm.nvvm.mma.m16n8k8.row.col.tf32";
  if (type == DTYPE_F16)
    name = "llvm.nvvm.mma.m16n8k16.row.col.f32.f32";
  else if (type == DTYPE_BF16)
    name = "llvm.nvvm.mma.m16n8k16.row.col.bf16";
  LLVMValueRef args[10];
  unsigned count = 0;
  for (unsigned k = 0; k < 4; k++)
    args[count++] = a[k];
  for (unsigned k = 0; k < 2; k++)
    args[count++] = b[k];
  for (unsigned k = 0; type == DTYPE_F16 && k < count; k++)
    args[k] = LLVMBuildBitCast(e->builder, args[k], LLVMVectorType(e->f16, 2), "");
  for (unsigned k = 0; k < 4; k++)
    args[count++] = c[k];
  LLVMValueRef sums = emit_intrinsic(e, name, NULL, args, count);
  /* LLVM knows of the others that all threads must reach them together, but not of this one. */
  LLVMAddCallSiteAttribute(sums, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                           attribute(e, "convergent", 0));
  for (unsigned k = 0; k < 4; k++)
    c[k] = LLVMBuildExtractValue(e->builder, sums, k, "");
}

LLVMValueRef emit_gpu_to_tf32(struct emit *e, LLVMValueRef value)
{
  return emit_intrinsic(e, "llvm.nvvm.f2tf32.rna", NULL, &value, 1);
}

LLVMValueRef emit_gpu_pack(struct emit *e, enum dtype type, LLVMValueRef low, LLVMValueRef high)
{
  LLVMValueRef args[] = {high, low};
  LLVMValueRef pair = emit_intrinsic(
      e, type == DTYPE_F16 ? "llvm.nvvm.ff2f16x2.rn" : "llvm.nvvm.ff2bf16x2.rn", NULL, args, 2);
  return LLVMBuildBitCast(e->builder, pair, e->i32, "");
}

void emit_gpu_unpack(struct emit *e, enum dtype type, LLVMValueRef pair, LLVMValueRef out[2])
{
  if (type == DTYPE_F16) {
    LLVMValueRef halves = LLVMBuildBitCast(e->builder, pair, LLVMVectorType(e->f16, 2), "");
    for (int k = 0; k < 2; k++) {
      LLVMValueRef half = LLVMBuildExtractElement(e->builder, halves, emit_i32(e, k), "");
      out[k] = LLVMBuildFPExt(e->builder, half, e->f32, "");
    }
    return;
  }
  /* A bf16 is the upper half of an f32. */
  LLVMValueRef low = LLVMBuildShl(e->builder, pair, emit_i32(e, 16), "");
  LLVMValueRef high = LLVMBuildAnd(e->builder, pair, constant_bits(e, 0xffff0000), "");
  out[0] = LLVMBuildBitCast(e->builder, low, e->f32, "");
  out[1] = LLVMBuildBitCast(e->builder, high, e->f32, "");
}

void emit_gpu_copy(struct emit *e, unsigned bytes, LLVMValueRef shared, LLVMValueRef global,
                   LLVMValueRef present)
{
  assert(bytes == 4 || bytes == 8 || bytes == 16);
  /* 16 bytes can leave out the first cache (cg), which what is read once does not need. */
  char name[64];
  snprintf(name, sizeof(name), "llvm.nvvm.cp.async.%s.shared.global.%u%s",
           bytes == 16 ? "cg" : "ca", bytes, present == NULL ? "" : ".s");
  LLVMValueRef args[] = {shared, global, present};
  emit_intrinsic(e, name, NULL, args, present == NULL ? 2 : 3);
}

void emit_gpu_copy_commit(struct emit *e)
{
  emit_intrinsic(e, "llvm.nvvm.cp.async.commit.group", NULL, NULL, 0);
}

void emit_gpu_copy_wait(struct emit *e, uint32_t pending)
{
  LLVMValueRef count = constant_bits(e, pending);
  emit_intrinsic(e, "llvm.nvvm.cp.async.wait.group", NULL, &count, 1);
}

/* Bit by bit: the rest so far moves up and takes in the highest bit of a, whose lowest becomes one
 * of the quotient's. The rest stays below b, which is 2^63 at most. */
static LLVMValueRef long_division(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  struct emit_loop loop;
  const LLVMValueRef start[] = {a, emit_i64(e, 0)};
  emit_loop_begin(e, &loop, emit_i32(e, 0), emit_i32(e, 64), 1, start, 2);
  LLVMValueRef one = emit_i64(e, 1), bits = loop.carried[0];
  LLVMValueRef rest = LLVMBuildShl(e->builder, loop.carried[1], one, "");
  rest = LLVMBuildOr(e->builder, rest, LLVMBuildLShr(e->builder, bits, emit_i64(e, 63), ""), "");
  bits = LLVMBuildShl(e->builder, bits, one, "");
  LLVMValueRef fits = LLVMBuildICmp(e->builder, LLVMIntUGE, rest, b, "");
  bits = LLVMBuildOr(e->builder, bits, LLVMBuildZExt(e->builder, fits, e->i64, ""), "");
  rest = emit_select(e, fits, LLVMBuildSub(e->builder, rest, b, ""), rest);
  emit_loop_end(e, &loop, (LLVMValueRef[]){bits, rest});
  return loop.result[0];
}

LLVMValueRef emit_gpu_divide(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  LLVMBuilderRef builder = e->builder;
  LLVMValueRef zero = emit_i64(e, 0);
  LLVMValueRef differ =
      LLVMBuildICmp(builder, LLVMIntSLT, LLVMBuildXor(builder, a, b, ""), zero, "");
  LLVMValueRef operands[2] = {a, b};
  for (int k = 0; k < 2; k++)
    operands[k] = emit_select(e, LLVMBuildICmp(builder, LLVMIntSLT, operands[k], zero, ""),
                              LLVMBuildNeg(builder, operands[k], ""), operands[k]);
  LLVMValueRef high = LLVMBuildLShr(builder, LLVMBuildOr(builder, operands[0], operands[1], ""),
                                    emit_i64(e, 32), "");
  struct emit_branch branch;
  LLVMBasicBlockRef from[2];
  LLVMValueRef quotients[2];
  emit_if(e, &branch, LLVMBuildICmp(builder, LLVMIntEQ, high, zero, ""));
  quotients[0] = LLVMBuildUDiv(builder, LLVMBuildTrunc(builder, operands[0], e->i32, ""),
                               LLVMBuildTrunc(builder, operands[1], e->i32, ""), "");
  quotients[0] = LLVMBuildZExt(builder, quotients[0], e->i64, "");
  from[0] = LLVMGetInsertBlock(builder);
  emit_else(e, &branch);
  quotients[1] = long_division(e, operands[0], operands[1]);
  from[1] = LLVMGetInsertBlock(builder);
  emit_end_if(e, &branch);
  LLVMValueRef quotient = LLVMBuildPhi(builder, e->i64, "");
  LLVMAddIncoming(quotient, quotients, from, 2);
  return emit_select(e, differ, LLVMBuildNeg(builder, quotient, ""), quotient);
}

void emit_gpu_fault(struct emit *e, LLVMValueRef record, LLVMValueRef site, LLVMValueRef index)
{
  LLVMValueRef base = emit_gpu_global(e, record);
  LLVMValueRef swapped =
      LLVMBuildAtomicCmpXchg(e->builder, base, emit_i32(e, 0), emit_i32(e, 1),
                             LLVMAtomicOrderingMonotonic, LLVMAtomicOrderingMonotonic, false);
  struct emit_branch branch;
  emit_if(e, &branch, LLVMBuildExtractValue(e->builder, swapped, 1, ""));
  LLVMValueRef at = emit_i64(e, (int64_t)offsetof(struct tile_fault, site));
  emit_store(e, site, emit_address(e, e->i8, base, at), 4);
  at = emit_i64(e, (int64_t)offsetof(struct tile_fault, index));
  emit_store(e, index, emit_address(e, e->i8, base, at), 8);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
}
