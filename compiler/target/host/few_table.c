/* Tables of the addresses of rows, as views are: filled by functions that all views of a module
 * call. */
#include "compiler/target/host/few.h"

#include <assert.h>

/* Of i64: a vector of the machine's usual width. */
static uint32_t lanes_of(const struct host *h)
{
  return h->e.lanes / 2;
}

/* table(base, rows, start, stride, live, zeros, next, then indices and their stride of each gather)
 */
enum { BASE, ROWS, START, STRIDE, LIVE, ZEROS, NEXT, GATHERS };

/* Entries `from` to `to`. They go up by the same step, so that nothing but indices is multiplied in
 * the loop. */
static void fill(struct host *h, const LLVMValueRef *given, uint32_t gathers, LLVMValueRef from,
                 LLVMValueRef to, bool behind)
{
  struct emit *e = &h->e;
  LLVMTypeRef vector = emit_vector_type(e, e->i64);
  LLVMValueRef numbers = LLVMBuildSExt(e->builder, emit_lane_numbers(e), vector, "");
  LLVMValueRef step = LLVMBuildMul(e->builder, given[STRIDE], emit_i64(e, e->lanes), "");
  LLVMValueRef first = LLVMBuildMul(e->builder, numbers, emit_broadcast(e, given[STRIDE]), "");
  first = LLVMBuildAdd(e->builder, first, emit_broadcast(e, given[behind ? NEXT : START]), "");
  LLVMValueRef next[3] = {first, emit_i64(e, 0), numbers};
  struct emit_loop loop;
  emit_loop_begin(e, &loop, from, to, e->lanes, next, behind ? 2 : 3);
  LLVMValueRef at = loop.carried[0];
  for (uint32_t k = 0; k < gathers; k++) {
    LLVMValueRef index = emit_address(e, e->i32, given[GATHERS + 2 * k], loop.carried[1]);
    index = emit_load(e, emit_vector_type(e, e->i32), index, 4);
    index = LLVMBuildMul(e->builder, LLVMBuildSExt(e->builder, index, vector, ""),
                         emit_broadcast(e, given[GATHERS + 2 * k + 1]), "");
    at = LLVMBuildAdd(e->builder, at, index, "");
  }
  next[0] = LLVMBuildAdd(e->builder, loop.carried[0], emit_broadcast(e, step), "");
  next[1] = LLVMBuildAdd(e->builder, loop.carried[1], emit_i64(e, e->lanes), "");
  if (behind) { /* several tiles where they are short */
    LLVMValueRef within = LLVMBuildICmp(e->builder, LLVMIntSLT, next[1], given[ROWS], "");
    next[1] = emit_select(e, within, next[1], emit_i64(e, 0));
  } else {
    LLVMValueRef live = emit_broadcast(e, given[LIVE]), zeros = emit_broadcast(e, given[ZEROS]);
    live = LLVMBuildICmp(e->builder, LLVMIntSLT, loop.carried[2], live, "");
    at = emit_select(e, live, at, zeros);
    next[2] = LLVMBuildAdd(e->builder, loop.carried[2], emit_int_of(vector, e->lanes), "");
  }
  emit_store(e, at, emit_address(e, e->i64, given[BASE], loop.index), 8);
  emit_loop_end(e, &loop, next);
}

static LLVMValueRef emit_table(struct host *h, LLVMTypeRef type, uint32_t gathers)
{
  struct emit *e = &h->e;
  struct host_outer outer;
  LLVMValueRef function = host_function_begin(h, &outer, "table", type);
  LLVMValueRef given[GATHERS + 2 * SPEC_MAX_RANK];
  for (uint32_t k = 0; k < GATHERS + 2 * gathers; k++)
    given[k] = LLVMGetParam(function, k);
  const unsigned own = e->lanes;
  e->lanes = lanes_of(h);
  fill(h, given, gathers, emit_i64(e, 0), given[ROWS], false);
  fill(h, given, gathers, given[ROWS],
       LLVMBuildAdd(e->builder, given[ROWS], emit_i64(e, FEW_ROWS_AHEAD + FEW_MAX_BLOCK), ""),
       true);
  e->lanes = own;
  host_function_end(h, &outer);
  return function;
}

void few_table_fill(struct host *h, const struct few_table *table)
{
  struct emit *e = &h->e;
  const uint32_t gathers = table->gathers, count = GATHERS + 2 * gathers;
  LLVMTypeRef types[GATHERS + 2 * SPEC_MAX_RANK] = {e->pointer, e->i64, e->i64, e->i64,
                                                    e->i64,     e->i64, e->i64};
  LLVMValueRef given[GATHERS + 2 * SPEC_MAX_RANK] = {
      table->base, emit_i64(e, table->rows), table->start, table->stride, table->live, table->zeros,
      table->next};
  for (uint32_t k = 0; k < gathers; k++) {
    types[GATHERS + 2 * k] = e->pointer;
    types[GATHERS + 2 * k + 1] = e->i64;
    given[GATHERS + 2 * k] = table->indices[k];
    given[GATHERS + 2 * k + 1] = table->apart[k];
  }
  LLVMTypeRef type = LLVMFunctionType(e->none, types, count, false);
  LLVMValueRef *function = &h->table_functions[gathers];
  if (*function == NULL)
    *function = emit_table(h, type, gathers);
  LLVMBuildCall2(e->builder, type, *function, given, count, "");
}

/* clear(to, from, tests, rows, count, zeros) */
static LLVMValueRef emit_clear(struct host *h, LLVMTypeRef type)
{
  struct emit *e = &h->e;
  struct host_outer outer;
  LLVMValueRef function = host_function_begin(h, &outer, "clear_rows", type);
  LLVMValueRef given[6];
  for (uint32_t k = 0; k < 6; k++)
    given[k] = LLVMGetParam(function, k);
  const unsigned own = e->lanes;
  e->lanes = lanes_of(h);
  LLVMTypeRef vector = emit_vector_type(e, e->i64);
  LLVMValueRef zeros = emit_broadcast(e, given[5]);
  for (uint32_t part = 0; part < 2; part++) { /* what follows the tile's rows is for prefetches */
    struct emit_loop loop;
    emit_loop_begin(e, &loop, part == 0 ? emit_i64(e, 0) : given[3], given[3 + part], e->lanes,
                    NULL, 0);
    LLVMValueRef some = emit_load(e, vector, emit_address(e, e->i64, given[1], loop.index), 8);
    if (part == 0)
      some = emit_select(e, few_load_test(h, given[2], loop.index, e->lanes), some, zeros);
    emit_store(e, some, emit_address(e, e->i64, given[0], loop.index), 8);
    emit_loop_end(e, &loop, NULL);
  }
  e->lanes = own;
  host_function_end(h, &outer);
  return function;
}

LLVMValueRef few_table_clear(struct host *h, LLVMValueRef table, LLVMValueRef tests, uint32_t rows,
                             LLVMValueRef zeros)
{
  struct emit *e = &h->e;
  const uint32_t count = rows + FEW_ROWS_AHEAD + FEW_MAX_BLOCK;
  assert(rows % e->lanes == 0);
  LLVMValueRef to = host_allocate(h, ((size_t)count + e->lanes) * sizeof(int64_t));
  LLVMTypeRef types[6] = {e->pointer, e->pointer, e->pointer, e->i64, e->i64, e->i64};
  LLVMTypeRef type = LLVMFunctionType(e->none, types, 6, false);
  LLVMValueRef given[6] = {to, table, tests, emit_i64(e, rows), emit_i64(e, count), zeros};
  if (h->clear_function == NULL)
    h->clear_function = emit_clear(h, type);
  LLVMBuildCall2(e->builder, type, h->clear_function, given, 6, "");
  return to;
}
