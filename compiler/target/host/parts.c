#include "compiler/target/host/parts.h"

static bool is_defined(LLVMValueRef function)
{
  return LLVMGetFirstBasicBlock(function) != NULL;
}

/* About how long a function takes, in instructions: code around loops takes longer than code in
 * them. Found by timing the functions of several modules, of which it explains all but an eighth.
 */
static size_t weigh(LLVMValueRef function)
{
  enum { BLOCK = 24 };
  size_t weight = 0;
  for (LLVMBasicBlockRef block = LLVMGetFirstBasicBlock(function); block != NULL;
       block = LLVMGetNextBasicBlock(block)) {
    weight += BLOCK;
    for (LLVMValueRef at = LLVMGetFirstInstruction(block); at != NULL;
         at = LLVMGetNextInstruction(at))
      weight++;
  }
  return weight;
}

struct host_division host_divide(struct arena *arena, LLVMModuleRef module)
{
  enum { LEAST = 1200 }; /* weight of a module that is worth two threads */
  size_t count = 0, total = 0;
  for (LLVMValueRef f = LLVMGetFirstFunction(module); f != NULL; f = LLVMGetNextFunction(f))
    count++;
  size_t *weights = ARENA_ARRAY(arena, size_t, count), n = 0;
  for (LLVMValueRef f = LLVMGetFirstFunction(module); f != NULL; f = LLVMGetNextFunction(f), n++) {
    weights[n] = weigh(f);
    total += weights[n];
  }
  unsigned *owner = ARENA_ARRAY(arena, unsigned, count);
  struct host_division division = {total < LEAST ? 1 : HOST_MAX_PARTS, owner};
  /* The largest that is left goes to the part with least (Graham 1969). */
  size_t loads[HOST_MAX_PARTS] = {0};
  for (size_t left = count; left > 0; left--) {
    size_t next = 0;
    for (n = 1; n < count; n++)
      next = weights[n] > weights[next] ? n : next;
    unsigned part = 0;
    for (unsigned k = 1; k < division.parts; k++)
      part = loads[k] < loads[part] ? k : part;
    owner[next] = part;
    loads[part] += weights[next];
    weights[next] = 0;
  }
  return division;
}

void host_keep_part(LLVMModuleRef module, const struct host_division *division, unsigned part)
{
  size_t n = 0;
  for (LLVMValueRef f = LLVMGetFirstFunction(module); f != NULL; f = LLVMGetNextFunction(f), n++) {
    if (!is_defined(f))
      continue;
    bool internal = LLVMGetLinkage(f) == LLVMInternalLinkage;
    bool own = division->owner[n] == part;
    if (internal || !own)
      LLVMSetLinkage(f, own ? LLVMExternalLinkage : LLVMAvailableExternallyLinkage);
    if (internal)
      LLVMSetVisibility(f, LLVMHiddenVisibility);
  }
}
