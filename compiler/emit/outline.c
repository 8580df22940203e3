#include "compiler/emit/outline.h"

struct outline {
  struct emit *e;
  LLVMBasicBlockRef exit;
  VECTOR(LLVMBasicBlockRef) blocks;
  VECTOR(LLVMValueRef) values; /* of the function at hand that the blocks use */
  VECTOR(LLVMValueRef) variables;
  bool again;
  VECTOR(LLVMValueRef) found; /* what is found again, operands first */
  LLVMValueRef *copies;       /* of them */
};

static bool has_block(const struct outline *o, LLVMBasicBlockRef block)
{
  for (size_t k = 0; k < o->blocks.count; k++)
    if (o->blocks.items[k] == block)
      return true;
  return false;
}

static size_t find_blocks(struct outline *o, LLVMBasicBlockRef first)
{
  size_t instructions = 0;
  vector_push(o->e->arena, &o->blocks, first);
  for (size_t k = 0; k < o->blocks.count; k++) {
    LLVMBasicBlockRef block = o->blocks.items[k];
    for (LLVMValueRef at = LLVMGetFirstInstruction(block); at != NULL;
         at = LLVMGetNextInstruction(at))
      instructions++;
    LLVMValueRef end = LLVMGetBasicBlockTerminator(block);
    for (unsigned n = 0; n < LLVMGetNumSuccessors(end); n++) {
      LLVMBasicBlockRef next = LLVMGetSuccessor(end, n);
      if (next != o->exit && !has_block(o, next))
        vector_push(o->e->arena, &o->blocks, next);
    }
  }
  return instructions;
}

static bool is_used_inside_only(const struct outline *o, LLVMValueRef variable)
{
  for (LLVMUseRef use = LLVMGetFirstUse(variable); use != NULL; use = LLVMGetNextUse(use))
    if (!has_block(o, LLVMGetInstructionParent(LLVMGetUser(use))))
      return false;
  return true;
}

static bool may_be_found_again(const struct outline *o, LLVMValueRef value)
{
  if (LLVMIsAInstruction(value) == NULL)
    return true;
  const LLVMOpcode op = LLVMGetInstructionOpcode(value);
  bool loaded = op == LLVMLoad && LLVMGetInstructionParent(value) == o->e->entry;
  if (!loaded && op != LLVMGetElementPtr && op != LLVMIntToPtr)
    return false;
  for (unsigned n = 0; n < (unsigned)LLVMGetNumOperands(value); n++)
    if (!may_be_found_again(o, LLVMGetOperand(value, n)))
      return false;
  return true;
}

static void note_value(struct outline *o, LLVMValueRef value)
{
  bool instruction = LLVMIsAInstruction(value) != NULL;
  if (!instruction && LLVMIsAArgument(value) == NULL)
    return;
  if (instruction && has_block(o, LLVMGetInstructionParent(value)))
    return;
  for (size_t k = 0; k < o->values.count; k++)
    if (o->values.items[k] == value)
      return;
  for (size_t k = 0; k < o->variables.count; k++)
    if (o->variables.items[k] == value)
      return;
  for (size_t k = 0; k < o->found.count; k++)
    if (o->found.items[k] == value)
      return;
  if (o->again && instruction && may_be_found_again(o, value)) {
    for (unsigned n = 0; n < (unsigned)LLVMGetNumOperands(value); n++)
      note_value(o, LLVMGetOperand(value, n));
    vector_push(o->e->arena, &o->found, value);
    return;
  }
  if (LLVMIsAAllocaInst(value) != NULL && is_used_inside_only(o, value))
    vector_push(o->e->arena, &o->variables, value);
  else
    vector_push(o->e->arena, &o->values, value);
}

/* Calls `visit` for each operand of the blocks. */
typedef void visit_operand(struct outline *o, LLVMValueRef instruction, unsigned index);
static void for_operands(struct outline *o, visit_operand *visit)
{
  for (size_t k = 0; k < o->blocks.count; k++)
    for (LLVMValueRef at = LLVMGetFirstInstruction(o->blocks.items[k]); at != NULL;
         at = LLVMGetNextInstruction(at))
      for (unsigned n = 0; n < (unsigned)LLVMGetNumOperands(at); n++)
        visit(o, at, n);
}

static void note_operand(struct outline *o, LLVMValueRef instruction, unsigned index)
{
  note_value(o, LLVMGetOperand(instruction, index));
}

static void use_parameter(struct outline *o, LLVMValueRef instruction, unsigned index)
{
  LLVMValueRef value = LLVMGetOperand(instruction, index);
  for (unsigned k = 0; k < o->values.count; k++)
    if (o->values.items[k] == value)
      LLVMSetOperand(instruction, index, LLVMGetParam(o->e->function, k));
  for (size_t k = 0; k < o->found.count; k++)
    if (o->found.items[k] == value)
      LLVMSetOperand(instruction, index, o->copies[k]);
}

static void redirect(LLVMValueRef terminator, LLVMBasicBlockRef from, LLVMBasicBlockRef to)
{
  for (unsigned n = 0; n < LLVMGetNumSuccessors(terminator); n++)
    if (LLVMGetSuccessor(terminator, n) == from)
      LLVMSetSuccessor(terminator, n, to);
}

bool emit_outline(struct emit *e, const char *name, LLVMBasicBlockRef first, LLVMBasicBlockRef exit,
                  size_t least, bool again)
{
  struct outline o = {.e = e, .exit = exit, .again = again};
  if (find_blocks(&o, first) < least)
    return false;
  for_operands(&o, note_operand);

  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder), outer_entry = e->entry;
  LLVMValueRef outer = e->function;
  LLVMBasicBlockRef call = emit_block(e, "call");
  redirect(LLVMGetUser(LLVMGetFirstUse(LLVMBasicBlockAsValue(first))), first, call);

  LLVMTypeRef *types = ARENA_ARRAY(e->arena, LLVMTypeRef, o.values.count);
  for (size_t k = 0; k < o.values.count; k++)
    types[k] = LLVMTypeOf(o.values.items[k]);
  LLVMTypeRef type = LLVMFunctionType(e->none, types, (unsigned)o.values.count, false);
  emit_function(e, name, type, false);
  LLVMValueRef inner = e->function;
  LLVMBasicBlockRef body = LLVMGetInsertBlock(e->builder), last = body;
  LLVMBuildBr(e->builder, first);
  for (size_t k = 0; k < o.blocks.count; k++) {
    LLVMMoveBasicBlockAfter(o.blocks.items[k], last);
    last = o.blocks.items[k];
  }
  LLVMBasicBlockRef end = emit_block(e, "end");
  for (size_t k = 0; k < o.blocks.count; k++)
    redirect(LLVMGetBasicBlockTerminator(o.blocks.items[k]), exit, end);
  LLVMPositionBuilderAtEnd(e->builder, end);
  LLVMBuildRetVoid(e->builder);
  LLVMPositionBuilderBefore(e->builder, LLVMGetBasicBlockTerminator(e->entry));
  for (size_t k = 0; k < o.variables.count; k++) {
    LLVMInstructionRemoveFromParent(o.variables.items[k]);
    LLVMInsertIntoBuilder(e->builder, o.variables.items[k]);
  }
  o.copies = ARENA_ARRAY(e->arena, LLVMValueRef, o.found.count);
  for (size_t k = 0; k < o.found.count; k++) {
    o.copies[k] = LLVMInstructionClone(o.found.items[k]);
    LLVMInsertIntoBuilder(e->builder, o.copies[k]);
    for (unsigned n = 0; n < (unsigned)LLVMGetNumOperands(o.copies[k]); n++)
      use_parameter(&o, o.copies[k], n);
  }
  for_operands(&o, use_parameter);

  e->function = outer;
  e->entry = outer_entry;
  LLVMPositionBuilderAtEnd(e->builder, call);
  LLVMBuildCall2(e->builder, type, inner, o.values.items, (unsigned)o.values.count, "");
  LLVMBuildBr(e->builder, exit);
  LLVMPositionBuilderAtEnd(e->builder, here);
  return true;
}
