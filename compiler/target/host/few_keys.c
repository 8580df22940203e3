/* Products with few rows by a transposed operand of codes, b [N, K], with lanes along its rows,
 * which are keys: no lanes have to be added up, a scale is a factor of a lane's sum, and codes are
 * not ordered by columns at all. What is turned are words of several codes, not numbers. Numbers of
 * 8 bits are codes without a scale, where words of four can be read.
 *
 * b = codes * scale + zero, where scale and zero are of
 * - a key, or groups of neighbouring columns of a key: a group has its sum of a * code, of which
 * each key makes what it stands for; a * zero is zero times the sum of a over the group.
 * - columns, and shared by keys (tiles of tokens that were quantised together): a is multiplied by
 *   the scale, once for all blocks of keys that follow each other and share it. */
#include "compiler/emit/narrow.h"
#include "compiler/target/host/few_product.h"

#include <string.h>

enum {
  CHAINS = 8, /* of multiply-adds that do not wait for each other */
  FOUR = 4,   /* numbers of a word that are no codes */
  RAW = 32    /* columns over which sums of numbers in words keep enough of their digits: these are
                 several times as large as codes, and what they are too large by cancels in the end */
};

struct few_keys {
  struct few_product *p;
  struct few_rows *codes;
  struct few_affine parts;  /* `scale` NULL: 1 */
  bool shared;              /* scale and zero are of columns */
  uint32_t stride;          /* codes of a word */
  uint32_t groups;          /* of columns */
  double offset;            /* of numbers in words */
  LLVMValueRef words;       /* [K / stride, N] in memory */
  LLVMValueRef scale, zero; /* [groups, N] in memory, or NULL */
  LLVMValueRef sums;        /* [M, groups]: of a */
};

/* ---- which ---- */

/* Groups of columns that an operand [N, groups] is of; 0 where it is not such a one in memory. */
static uint32_t groups_of(struct few_rows *rows, uint32_t columns, uint32_t stride)
{
  const struct tile_op *op = rows->value->def;
  if (rows->value->type.kind != TILE_KIND_TILE || rows->value->type.element != TILE_F32 ||
      rows->value->type.rows == 1)
    return 0;
  if (rows->place.kind == HOST_MEMORY && rows->value->type.columns == 1)
    return 1;
  if (rows->place.kind != HOST_LAZY || op->kind != TILE_PERMUTE ||
      rows->operands[0].place.kind != HOST_MEMORY)
    return 0;
  const uint32_t repeats = few_repeats(rows->h, op), groups = columns / repeats;
  LLVMValueRef apart = rows->operands[0].place.stride;
  bool close = LLVMIsAConstantInt(apart) != NULL && LLVMConstIntGetSExtValue(apart) == groups;
  bool all = op->permutation[0] == 0 && rows->operands[0].value->type.columns == groups &&
             rows->operands[0].value->type.rows > 1;
  return close && all && repeats % stride == 0 && groups <= FEW_MOST_STRIDE &&
                 (groups & (groups - 1)) == 0
             ? groups
             : 0;
}

/* Scale and zero lie at the same places along rows that indices choose. */
static bool is_shared(const struct few_affine *parts)
{
  const struct few_rows *both[2] = {parts->scale, parts->zero};
  for (uint32_t k = 0; k < 2; k++) {
    if (both[k] == NULL)
      continue;
    const struct few_rows *first = parts->scale;
    if (both[k]->place.kind != HOST_VIEW || both[k]->place.view->gather_count != 1 ||
        both[k]->place.view->gathers[0].value != first->place.view->gathers[0].value ||
        both[k]->place.view->offset != NULL || both[k]->value->type.element != TILE_F32)
      return false;
  }
  return true;
}

static bool find(struct few_keys *x, struct few_product *p)
{
  const uint32_t lanes = p->h->e.lanes;
  *x = (struct few_keys){.p = p, .codes = &p->b, .groups = 1};
  if (few_affine_parts(&p->b, &x->parts))
    x->codes = x->parts.codes;
  else
    x->parts = (struct few_affine){.codes = x->codes};
  if (p->columns % lanes != 0 || lanes > FEW_MOST_STRIDE || x->codes->place.kind != HOST_VIEW)
    return false;
  x->stride = few_stride(x->codes, p->inner);
  if (x->stride == 1 || (x->codes->place.view->offset == NULL && x->stride != FOUR))
    return false;
  if (x->parts.scale == NULL)
    return true;
  x->shared = is_shared(&x->parts);
  if (x->shared)
    return p->sum == NULL;
  x->groups = groups_of(x->parts.scale, p->inner, x->stride);
  if (x->groups != 0 && p->inner / x->groups <= RAW)
    x->offset = emit_words_offset(x->codes->place.view->stored);
  return x->groups != 0 &&
         (x->parts.zero == NULL || groups_of(x->parts.zero, p->inner, x->stride) == x->groups);
}

/* ---- what is turned ---- */

static LLVMValueRef plus(struct emit *e, LLVMValueRef index, int64_t more)
{
  return LLVMBuildAdd(e->builder, index, emit_i64(e, more), "");
}

static LLVMValueRef times(struct emit *e, LLVMValueRef index, int64_t factor)
{
  return LLVMBuildMul(e->builder, index, emit_i64(e, factor), "");
}

static LLVMValueRef load_floats(struct emit *e, LLVMValueRef base, LLVMValueRef index)
{
  return emit_load(e, emit_vector_type(e, e->f32), emit_address(e, e->f32, base, index), 4);
}

static LLVMValueRef load_repeated(struct emit *e, LLVMValueRef base, LLVMValueRef index)
{
  return emit_broadcast(e, emit_load(e, e->f32, emit_address(e, e->f32, base, index), 4));
}

static void turn_words(struct few_keys *x)
{
  struct host *h = x->p->h;
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes, keys = x->p->columns, set = lanes * x->stride;
  x->words = host_allocate(h, (size_t)x->p->inner / x->stride * keys * sizeof(float));
  struct emit_loop blocks, sets;
  emit_loop_begin(e, &blocks, emit_i64(e, 0), emit_i64(e, keys), lanes, NULL, 0);
  emit_loop_begin(e, &sets, emit_i64(e, 0), emit_i64(e, x->p->inner), set, NULL, 0);
  LLVMValueRef vectors[FEW_MOST_STRIDE];
  for (uint32_t k = 0; k < lanes; k++) {
    few_rows_begin(x->codes, plus(e, blocks.index, k), 1);
    vectors[k] = few_words(x->codes, 0, sets.index, x->stride);
    vectors[k] = LLVMBuildBitCast(e->builder, vectors[k], emit_vector_type(e, e->f32), "");
  }
  host_turn(h, vectors);
  LLVMValueRef word = LLVMBuildUDiv(e->builder, sets.index, emit_i64(e, x->stride), "");
  LLVMValueRef to = LLVMBuildAdd(e->builder, times(e, word, keys), blocks.index, "");
  for (uint32_t k = 0; k < lanes; k++)
    emit_store(e, vectors[k], emit_address(e, e->f32, x->words, plus(e, to, (int64_t)k * keys)), 4);
  emit_loop_end(e, &sets, NULL);
  emit_loop_end(e, &blocks, NULL);
}

/* [N, groups] as [groups, N]. */
static LLVMValueRef turned_groups(struct few_keys *x, const struct few_rows *rows)
{
  struct host *h = x->p->h;
  struct emit *e = &h->e;
  const uint32_t keys = x->p->columns;
  if (rows->place.kind == HOST_LAZY)
    rows = &rows->operands[0];
  if (x->groups == 1)
    return rows->place.base;
  LLVMValueRef to = host_allocate(h, (size_t)x->groups * keys * sizeof(float));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, keys), e->lanes, NULL, 0);
  LLVMValueRef vectors[FEW_MOST_STRIDE], from = times(e, loop.index, x->groups);
  for (uint32_t g = 0; g < x->groups; g++)
    vectors[g] = load_floats(e, rows->place.base, plus(e, from, (int64_t)g * e->lanes));
  few_take_apart(h, vectors, x->groups);
  for (uint32_t g = 0; g < x->groups; g++)
    emit_store(e, vectors[g], emit_address(e, e->f32, to, plus(e, loop.index, (int64_t)g * keys)),
               4);
  emit_loop_end(e, &loop, NULL);
  return to;
}

/* Sums of a's elements over each group. */
static void sum_groups(struct few_keys *x)
{
  struct few_product *p = x->p;
  struct host *h = p->h;
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes, count = p->rows * x->groups, size = p->inner / x->groups;
  x->sums = host_allocate(h, ((size_t)count + lanes) * sizeof(float));
  for (uint32_t k = 0; k < count; k += lanes) {
    LLVMValueRef some[64];
    for (uint32_t l = 0; l < lanes; l++) {
      const uint32_t one = k + l < count ? k + l : k;
      LLVMValueRef first = few_address(p, &p->a, emit_i64(e, one / x->groups),
                                       emit_i64(e, (int64_t)(one % x->groups) * size));
      some[l] = load_floats(e, first, emit_i64(e, 0));
      for (uint32_t c = lanes; c < size; c += lanes)
        some[l] = LLVMBuildFAdd(e->builder, some[l], load_floats(e, first, emit_i64(e, c)), "");
    }
    emit_store(e, few_add_lanes(h, some), emit_address(e, e->f32, x->sums, emit_i64(e, k)), 4);
  }
}

/* ---- sums of products ---- */

/* Turning words is a burst of reads, while few prefetches can be under way at a time: so they are
 * spread over the steps of the sums. Those of word number `word` for `count` keys from `first` on.
 */
static void prefetch_share(struct few_keys *x, LLVMValueRef first, uint32_t count,
                           LLVMValueRef word)
{
  struct emit *e = &x->p->h->e;
  const uint32_t steps = x->p->inner / x->stride, share = (count + steps - 1) / steps;
  LLVMValueRef row = LLVMBuildAdd(e->builder, first, times(e, word, share), "");
  for (uint32_t k = 0; k < share; k++) {
    few_rows_begin(x->codes, plus(e, row, k), 1);
    few_prefetch(x->codes, emit_i64(e, 0), x->p->inner);
  }
}

/* Adds to sums, of row m and vector v number m * part + v, the products of a's elements with the
 * codes of words `from` to `to` of the keys from `first` on. Each is the sum of `chains` of them.
 */
static void add_words(struct few_keys *x, LLVMValueRef first, uint32_t part, LLVMValueRef from,
                      LLVMValueRef to, LLVMValueRef *sums)
{
  struct few_product *p = x->p;
  struct emit *e = &p->h->e;
  LLVMTypeRef words = emit_vector_type(e, e->i32);
  const uint32_t own = p->rows * part;
  uint32_t chains = 1;
  while (own * chains < CHAINS)
    chains *= 2;
  LLVMValueRef carried[EMIT_MAX_CARRIED];
  for (uint32_t k = 0; k < own * chains; k++)
    carried[k] = LLVMConstNull(emit_vector_type(e, e->f32));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, from, to, 1, carried, own * chains);
  memcpy(carried, loop.carried, sizeof(carried));
  LLVMValueRef at[FEW_MAX_BLOCK];
  LLVMValueRef row = LLVMBuildAdd(e->builder, times(e, loop.index, p->columns), first, "");
  for (uint32_t v = 0; v < part; v++)
    at[v] = emit_load(e, words,
                      emit_address(e, e->i32, x->words, plus(e, row, (int64_t)v * e->lanes)), 4);
  prefetch_share(x, first, part * e->lanes, loop.index);
  for (uint32_t n = 0; n < x->stride; n++) {
    LLVMValueRef a[HOST_FEW_ROWS], column = plus(e, times(e, loop.index, x->stride), n);
    for (uint32_t m = 0; m < p->rows; m++)
      a[m] = load_repeated(e, few_address(p, &p->a, emit_i64(e, m), column), emit_i64(e, 0));
    for (uint32_t v = 0; v < part; v++) {
      const enum dtype stored = x->codes->place.view->stored;
      LLVMValueRef b = emit_from_words(e, stored, at[v], n);
      if (x->offset == 0 && emit_words_offset(stored) != 0)
        b = LLVMBuildFSub(e->builder, b, emit_float_like(b, emit_words_offset(stored)), "");
      for (uint32_t m = 0; m < p->rows; m++) {
        LLVMValueRef *sum = &carried[n % chains * own + m * part + v];
        *sum = emit_fma(e, a[m], b, *sum);
      }
    }
  }
  emit_loop_end(e, &loop, carried);
  for (uint32_t k = 0; k < own; k++) {
    sums[k] = loop.result[k];
    for (uint32_t n = 1; n < chains; n++)
      sums[k] = LLVMBuildFAdd(e->builder, sums[k], loop.result[n * own + k], "");
  }
}

/* c of the keys from `first` on plus what group number `group` adds to it. */
static void add_group(struct few_keys *x, LLVMValueRef first, uint32_t part, LLVMValueRef group)
{
  struct few_product *p = x->p;
  struct emit *e = &p->h->e;
  const uint32_t words = p->inner / x->groups / x->stride;
  LLVMValueRef sums[EMIT_MAX_CARRIED], from = times(e, group, words);
  add_words(x, first, part, from, plus(e, from, words), sums);
  for (uint32_t v = 0; v < part; v++) {
    LLVMValueRef key = plus(e, first, (int64_t)v * e->lanes);
    LLVMValueRef at = LLVMBuildAdd(e->builder, times(e, group, p->columns), key, "");
    LLVMValueRef scale = x->scale == NULL ? NULL : load_floats(e, x->scale, at);
    LLVMValueRef zero = x->zero == NULL ? NULL : load_floats(e, x->zero, at);
    if (p->unit != 1)
      scale = emit_float_of(emit_vector_type(e, e->f32), p->unit);
    if (x->offset != 0) {
      LLVMValueRef offset = emit_float_like(scale, -x->offset);
      zero = zero == NULL ? LLVMBuildFMul(e->builder, scale, offset, "")
                          : emit_fma(e, scale, offset, zero);
    }
    for (uint32_t m = 0; m < p->rows; m++) {
      LLVMValueRef to = few_address(p, &p->c, emit_i64(e, m), key);
      LLVMValueRef all = plus(e, group, (int64_t)m * x->groups);
      LLVMValueRef dots = emit_load(e, emit_vector_type(e, e->f32), to, 4);
      if (zero != NULL)
        dots = emit_fma(e, load_repeated(e, x->sums, all), zero, dots);
      dots = scale == NULL ? LLVMBuildFAdd(e->builder, dots, sums[m * part + v], "")
                           : emit_fma(e, sums[m * part + v], scale, dots);
      emit_store(e, dots, to, 4);
    }
  }
}

static void by_groups(struct few_keys *x)
{
  struct few_product *p = x->p;
  struct emit *e = &p->h->e;
  uint32_t part = few_block_of(p);
  while (p->columns % (part * e->lanes) != 0)
    part /= 2;
  struct emit_loop parts, groups;
  if (x->offset != 0 || x->parts.zero != NULL)
    sum_groups(x);
  if (x->parts.scale != NULL)
    x->scale = turned_groups(x, x->parts.scale);
  if (x->parts.zero != NULL)
    x->zero = turned_groups(x, x->parts.zero);
  emit_loop_begin(e, &parts, emit_i64(e, 0), emit_i64(e, p->columns), part * e->lanes, NULL, 0);
  for (uint32_t m = 0; m < p->rows; m++)
    for (uint32_t v = 0; v < part; v++) {
      LLVMValueRef key = plus(e, parts.index, (int64_t)v * e->lanes), row = emit_i64(e, m);
      LLVMValueRef start = few_start(p, row, key, e->lanes);
      if (start == NULL)
        start = LLVMConstNull(emit_vector_type(e, e->f32));
      emit_store(e, start, few_address(p, &p->c, row, key), 4);
    }
  emit_loop_begin(e, &groups, emit_i64(e, 0), emit_i64(e, x->groups), 1, NULL, 0);
  add_group(x, parts.index, part, groups.index);
  emit_loop_end(e, &groups, NULL);
  emit_loop_end(e, &parts, NULL);
}

/* ---- scales of columns ---- */

/* Whether the keys of the block that begins at `first` share their scales. */
static LLVMValueRef share_scales(struct few_keys *x, LLVMValueRef first)
{
  struct emit *e = &x->p->h->e;
  LLVMTypeRef type = emit_vector_type(e, e->i64);
  LLVMValueRef base = emit_address(e, e->i64, x->parts.scale->place.base, first);
  LLVMValueRef all = emit_load(e, type, base, 8);
  LLVMValueRef one = emit_broadcast(e, emit_load(e, e->i64, base, 8));
  LLVMValueRef other = LLVMBuildICmp(e->builder, LLVMIntNE, all, one, "");
  LLVMTypeRef bits = LLVMIntTypeInContext(e->context, e->lanes);
  other = LLVMBuildBitCast(e->builder, other, bits, "");
  return LLVMBuildICmp(e->builder, LLVMIntEQ, other, LLVMConstNull(bits), "");
}

/* a times the scales of the key, and the sum of a times its zeros. */
static void scale_rows(struct few_keys *x, LLVMValueRef key, const struct host_value *scaled)
{
  struct few_product *p = x->p;
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMValueRef sums[HOST_FEW_ROWS];
  for (uint32_t m = 0; m < p->rows; m++)
    sums[m] = LLVMConstNull(emit_vector_type(e, e->f32));
  few_rows_begin(x->parts.scale, key, 1);
  if (x->parts.zero != NULL)
    few_rows_begin(x->parts.zero, key, 1);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, p->inner), e->lanes, sums, p->rows);
  few_prefetch(x->parts.scale, loop.index, e->lanes);
  if (x->parts.zero != NULL)
    few_prefetch(x->parts.zero, loop.index, e->lanes);
  const struct few_columns at = {.first = loop.index, .count = e->lanes, .stride = 1};
  LLVMValueRef scale = few_elements(x->parts.scale, 0, &at);
  LLVMValueRef zero = x->parts.zero == NULL ? LLVMConstNull(LLVMTypeOf(scale))
                                            : few_elements(x->parts.zero, 0, &at);
  for (uint32_t m = 0; m < p->rows; m++) {
    LLVMValueRef row = emit_i64(e, m);
    LLVMValueRef a = emit_load(e, LLVMTypeOf(scale), few_address(p, &p->a, row, loop.index), 4);
    sums[m] = emit_fma(e, a, zero, loop.carried[m]);
    emit_store(e, LLVMBuildFMul(e->builder, a, scale, ""), few_address(p, scaled, row, loop.index),
               4);
  }
  emit_loop_end(e, &loop, sums);
  for (uint32_t m = 0; m < p->rows; m++)
    emit_store(e, host_reduce_lanes(h, TILE_REDUCE_SUM, loop.result[m]),
               emit_address(e, e->f32, x->sums, emit_i64(e, m)), 4);
}

static void shared_block(struct few_keys *x, LLVMValueRef first, const struct host_value *scaled)
{
  struct few_product *p = x->p;
  struct emit *e = &p->h->e;
  const struct host_value own = p->a;
  LLVMValueRef sums[EMIT_MAX_CARRIED];
  p->a = *scaled;
  add_words(x, first, 1, emit_i64(e, 0), emit_i64(e, p->inner / x->stride), sums);
  p->a = own;
  for (uint32_t m = 0; m < p->rows; m++) {
    LLVMValueRef term = load_repeated(e, x->sums, emit_i64(e, m));
    emit_store(e, LLVMBuildFAdd(e->builder, sums[m], term, ""),
               few_address(p, &p->c, emit_i64(e, m), first), 4);
  }
}

static void by_shares(struct few_keys *x)
{
  struct few_product *p = x->p;
  struct host *h = p->h;
  struct emit *e = &h->e;
  struct host_value scaled = {.kind = HOST_MEMORY, .stride = emit_i64(e, p->inner)};
  scaled.base = host_allocate(h, (size_t)p->rows * p->inner * sizeof(float));
  x->sums = host_allocate(h, HOST_FEW_ROWS * sizeof(float));
  struct emit_loop blocks, keys;
  struct emit_branch share, made;
  LLVMValueRef last = LLVMConstNull(e->i64);
  emit_loop_begin(e, &blocks, emit_i64(e, 0), emit_i64(e, p->columns), e->lanes, &last, 1);
  LLVMValueRef scales =
      emit_load(e, e->i64, emit_address(e, e->i64, x->parts.scale->place.base, blocks.index), 8);
  LLVMValueRef shared = share_scales(x, blocks.index);
  emit_if(e, &share, shared);
  emit_if(e, &made, LLVMBuildICmp(e->builder, LLVMIntNE, scales, blocks.carried[0], ""));
  scale_rows(x, blocks.index, &scaled);
  emit_else(e, &made);
  emit_end_if(e, &made);
  shared_block(x, blocks.index, &scaled);
  emit_else(e, &share);
  emit_loop_begin(e, &keys, blocks.index, plus(e, blocks.index, e->lanes), 1, NULL, 0);
  few_dots_block(p, keys.index, 1);
  emit_loop_end(e, &keys, NULL);
  emit_end_if(e, &share);
  last = emit_select(e, shared, scales, last);
  emit_loop_end(e, &blocks, &last);
}

bool few_dots_by_keys(struct few_product *p)
{
  struct few_keys x;
  if (!find(&x, p))
    return false;
  turn_words(&x);
  p->stride = 1;
  if (x.shared)
    by_shares(&x);
  else
    by_groups(&x);
  return true;
}
