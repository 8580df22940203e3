#include "compiler/schedule/budget.h"

#include "compiler/schedule/residence.h"

/* Besides tiles, as ptxas has it: kernels with less room have spilled. */
enum {
  OTHER_REGISTERS = 61,  /* indices, addresses */
  PRODUCT_REGISTERS = 40 /* and what a product has in flight */
};

enum state { ELSEWHERE, STREAMED, CODES, ELEMENTS }; /* the latter two: in shared memory */

struct placed {
  enum state state;
  bool made;         /* together with its operand */
  uint32_t last_use; /* the last op that reads it, of the region that is being counted */
};

struct estimate {
  struct arena *arena;
  const struct residence *where;
  struct placed *values; /* by id */
  size_t used, peak;     /* bytes of shared memory, as a stack */
};

/* ---- shared memory: what the target's functions for an op take and give back ---- */

static void allocate(struct estimate *s, size_t bytes)
{
  enum { UNIT = 16 };
  s->used += (bytes + UNIT - 1) / UNIT * UNIT;
  s->peak = s->used > s->peak ? s->used : s->peak;
}

static enum state *state_of(struct estimate *s, const struct tile_value *x)
{
  return &s->values[x->id].state;
}

static enum state arrived_state(const struct estimate *s, const struct tile_value *x)
{
  return residence_has_codes(s->where, x) ? CODES : ELEMENTS;
}

/* A copy in shared memory, unless the tile is there. */
static void fetch(struct estimate *s, const struct tile_value *x, enum residence_reader reader)
{
  enum state *state = state_of(s, x);
  if (*state == STREAMED)
    *state = arrived_state(s, x);
  if (*state != ELEMENTS)
    allocate(s, residence_tile_bytes(x->type, reader));
}

static void settle(struct estimate *s, const struct tile_value *x)
{
  if (*state_of(s, x) == ELSEWHERE && residence_settles(s->where, x)) {
    fetch(s, x, residence_reader_of(s->where, x));
    *state_of(s, x) = ELEMENTS;
  }
}

static void place_load(struct estimate *s, const struct tile_op *op)
{
  const struct tile_value *x = op->results[0];
  if (*state_of(s, x) == STREAMED || residence_is_lazy(s->where, op) ||
      residence_is_rearranged(s->where, op))
    return;
  if (!residence_wants_shared(s->where, x)) {
    settle(s, x);
    return;
  }
  allocate(s, residence_load_bytes(s->where, op));
  *state_of(s, x) = arrived_state(s, x);
  const size_t used = s->used;
  for (uint32_t k = tile_first_index(op->kind); k < op->operand_count; k++)
    if (op->operands[k]->type.kind == TILE_KIND_TILE &&
        !residence_is_row_formula(s->where, op->operands[k]))
      fetch(s, op->operands[k], READ_ROWS);
  s->used = used;
}

/* What a map or conversion makes of codes, or in place of its operand. */
static bool place_made(struct estimate *s, const struct tile_op *op)
{
  const struct tile_value *first = op->operands[0], *result = op->results[0];
  const struct tile_type type = result->type;
  if (op->kind == TILE_MAP && first->type.kind == TILE_KIND_TILE && first->type.rows == type.rows &&
      first->type.columns == type.columns && first->type.element == type.element &&
      *state_of(s, first) != ELSEWHERE && arrived_state(s, first) == ELEMENTS &&
      residence_wants_shared(s->where, first)) {
    *state_of(s, result) = ELEMENTS;
    return true;
  }
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_value *x = op->operands[k];
    if (*state_of(s, x) == ELSEWHERE || arrived_state(s, x) != CODES ||
        !residence_wants_shared(s->where, x))
      continue;
    const struct tile_value *made =
        op->kind == TILE_CONVERT ? result : residence_made_of(s->where, op);
    allocate(s, residence_tile_bytes(made->type, residence_reader_of(s->where, made)));
    *state_of(s, result) = *state_of(s, made) = ELEMENTS;
    s->values[made->id].made = true;
    return true;
  }
  return false;
}

static void place_product(struct estimate *s, const struct tile_op *op)
{
  const struct tile_value *a = op->operands[0], *b = op->operands[1], *result = op->results[0];
  const size_t used = s->used;
  const bool vectors = result->type.rows == 1 || result->type.columns == 1 ||
                       a->type.columns == 1 || op->transpose_a;
  const bool in_registers =
      !vectors && (residence_is_apart(s->where, result) || residence_kept(s->where, a) > 0 ||
                   (s->where->column_warps == 1 && *state_of(s, a) == ELSEWHERE));
  if (!in_registers)
    fetch(s, a, op->transpose_a ? READ_COLUMNS : READ_ROWS);
  fetch(s, b, op->transpose_b ? READ_ROWS : READ_COLUMNS);
  s->used = used;
  settle(s, result);
}

static void place_exchange(struct estimate *s, struct tile_type from, uint32_t axis)
{
  const size_t used = s->used;
  const uint32_t bytes = residence_exchange_bytes(s->where, from, axis);
  allocate(s, bytes);
  if (!residence_keeps_exchange(bytes))
    s->used = used;
}

static void place_region(struct estimate *s, const struct tile_region *region);

static void place_inner(struct estimate *s, const struct tile_region *region)
{
  const size_t used = s->used;
  place_region(s, region);
  s->used = used;
}

static void place_loop(struct estimate *s, const struct tile_op *op)
{
  const size_t used = s->used;
  const struct residence_streams streams = residence_streams_of(s->where, op);
  for (uint32_t n = 0; n < streams.count; n++)
    for (uint32_t k = 0; k < op->region_count; k++) {
      const struct tile_op *load = streams.loads[n][k];
      *state_of(s, load->results[0]) = STREAMED;
      if (k == 0)
        allocate(s, (size_t)residence_load_bytes(s->where, load) * streams.stages);
    }
  const size_t buffers = s->used - used;
  for (uint32_t k = 0; k < op->region_count; k++)
    place_inner(s, op->regions[k]);
  s->used = used;
  for (uint32_t k = 0; k < op->result_count; k++) {
    const struct tile_value *x = op->regions[0]->arguments[1 + k];
    if (!residence_is_apart(s->where, x))
      continue;
    if (x->type.columns == 1) {
      if (s->where->column_warps > 1)
        place_exchange(s, x->type, 1);
      continue;
    }
    const size_t before = s->used;
    const uint32_t blocks = residence_apart_blocks(s->where, x->type, (uint32_t)buffers);
    allocate(s, residence_apart_bytes(s->where, x->type, blocks));
    s->used = before;
  }
}

static void place_reduction(struct estimate *s, const struct tile_op *op)
{
  const struct tile_type from = op->operands[0]->type;
  const struct residence *r = s->where;
  bool across = (op->axis == 1 ? r->column_warps : r->row_warps) > 1;
  if ((op->axis == 1 ? from.columns : from.rows) > 1 && across &&
      !residence_is_apart(r, op->results[0]))
    place_exchange(s, from, op->axis);
}

static bool is_rearranged(const struct estimate *s, const struct tile_value *x)
{
  return x->def != NULL && x->def->kind == TILE_LOAD && residence_is_rearranged(s->where, x->def);
}

/* Through copies in shared memory, one of its own where the op writes to it. */
static void place_whole(struct estimate *s, const struct tile_op *op, enum residence_reader reader)
{
  const size_t used = s->used;
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_value *x = op->operands[k];
    const bool own = op->kind == TILE_SCAN || (op->kind == TILE_TRIANGULAR_SOLVE && k == 1);
    if (own)
      allocate(s, residence_tile_bytes(x->type, reader));
    else if (x->type.kind == TILE_KIND_TILE && x->type.rows * x->type.columns > 1 &&
             !is_rearranged(s, x))
      fetch(s, x, reader);
  }
  s->used = used;
}

static void place_op(struct estimate *s, const struct tile_op *op)
{
  if (op->result_count == 1 && residence_is_only_rows(s->where, op->results[0]))
    return;
  switch (op->kind) {
  case TILE_PARALLEL: place_region(s, op->regions[0]); return;
  case TILE_FOR:
  case TILE_FOR_SEGMENTS: place_loop(s, op); return;
  case TILE_IF:
    place_inner(s, op->regions[0]);
    place_inner(s, op->regions[1]);
    return;
  case TILE_LOAD: place_load(s, op); return;
  case TILE_PRODUCT: place_product(s, op); return;
  case TILE_REDUCE: place_reduction(s, op); return;
  case TILE_MAP:
  case TILE_CONVERT:
    if (!s->values[op->results[0]->id].made && !place_made(s, op))
      settle(s, op->results[0]);
    return;
  case TILE_CONTRACT: place_whole(s, op, READ_ROWS); break;
  case TILE_PERMUTE:
    if (!residence_permutes_within(s->where, op))
      place_whole(s, op, READ_COLUMNS);
    break;
  case TILE_TRANSPOSE:
  case TILE_SCAN:
  case TILE_TRIANGULAR_SOLVE: place_whole(s, op, READ_COLUMNS); break;
  case TILE_BROADCAST: break;
  case TILE_SCALAR:
  case TILE_YIELD:
  case TILE_LIMIT_ROWS:
  case TILE_LIMIT_COLUMNS:
  case TILE_SPLAT:
  case TILE_IOTA:
  case TILE_STORE:
  case TILE_ACCUMULATE:
  case TILE_CHECK:
  case TILE_SCALE_ROWS:
  case TILE_BUFFER:
  case TILE_COPY_ASYNC:
  case TILE_PRODUCT_ASYNC:
  case TILE_WAIT:
  case TILE_PIPE_ACQUIRE:
  case TILE_PIPE_COMMIT:
  case TILE_PIPE_WAIT:
  case TILE_PIPE_RELEASE:
  case TILE_BUFFER_LOAD:
  case TILE_BUFFER_STORE:
  case TILE_ROLE:
  case TILE_BARRIER:
  case TILE_OP_COUNT: return;
  }
  settle(s, op->results[0]);
}

static void place_region(struct estimate *s, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    place_op(s, op);
}

/* ---- registers ---- */

/* A thread has two rows and two columns of every block. */
static uint32_t registers_of(const struct estimate *s, const struct tile_value *x)
{
  const struct residence *r = s->where;
  const struct tile_type type = x->type;
  if (s->values[x->id].state != ELSEWHERE)
    return residence_kept(r, x);
  const bool made_when_read =
      x->def != NULL && (x->def->kind == TILE_SPLAT || x->def->kind == TILE_IOTA ||
                         (x->def->kind == TILE_LOAD &&
                          (residence_is_lazy(r, x->def) || residence_is_rearranged(r, x->def))));
  if (type.kind != TILE_KIND_TILE || made_when_read || residence_is_only_rows(r, x))
    return 0;
  const uint32_t rows = type.rows == 1 ? 1 : 2 * residence_row_blocks(r, type.rows);
  const uint32_t blocks =
      residence_is_apart(r, x) ? (type.columns + 7) / 8 : residence_column_blocks(r, type.columns);
  uint32_t columns = type.columns == 1 ? 1 : 2 * blocks;
  if (x->def != NULL && x->def->kind == TILE_PERMUTE && type.element == TILE_F32)
    columns = residence_permuted_alike(r, x->def, NULL);
  const uint32_t count = rows * columns;
  if (type.element == TILE_BOOL)
    return (count + 31) / 32;
  const bool half = type.element == TILE_F16 || type.element == TILE_BF16;
  return half ? (count + 1) / 2 : count;
}

/* What `region` and those in it read is read at `position` of a region around them. */
static void note_uses(struct estimate *s, const struct tile_op *op, uint32_t position)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    s->values[op->operands[k]->id].last_use = position;
  for (uint32_t k = 0; k < op->region_count; k++)
    for (const struct tile_op *inner = op->regions[k]->first; inner != NULL; inner = inner->next)
      note_uses(s, inner, position);
}

/* From the op at `position` on until the last that reads it: an op's results may lie where the
 * operands that it reads last were. */
static void add_value(const struct estimate *s, const struct tile_value *x, uint32_t position,
                      int64_t *change)
{
  const uint32_t last_use = s->values[x->id].last_use;
  if (last_use <= position)
    return;
  change[position] += registers_of(s, x);
  change[last_use] -= registers_of(s, x);
}

/* Powers and the like are formulas of their own. */
static bool is_long(const struct expr *e, uint32_t height)
{
  if (e->height >= height)
    return true;
  if (e->op == EXPR_POW || e->op == EXPR_SIN || e->op == EXPR_COS || e->op == EXPR_UNIFORM)
    return true;
  for (uint32_t k = 0; k < e->arg_count; k++)
    if (is_long(e->args[k], height))
      return true;
  return false;
}

/* Products of f32 from that op on. */
static uint32_t float_products(const struct tile_op *op)
{
  uint32_t count = 0;
  for (const struct tile_op *k = op; k != NULL; k = k->next)
    count += k->kind == TILE_PRODUCT && k->operands[0]->type.element == TILE_F32;
  return count;
}

/* A product of f32 splits its operands and has sums of its own, and others than one for scores and
 * one for values overlap with it. Elements of a long formula, or those made of codes, are computed
 * several at a time, while such a product begins. */
static uint32_t formula_registers(const struct estimate *s, const struct tile_op *op)
{
  enum {
    FLOAT_ROWS = 35, /* of 16 rows: 4 blocks of sums, and part of the first operand in parts */
    OVERLAP = 24,    /* of one product with another */
    BESIDE = 48,     /* of one with a formula */
    CODES = 40,      /* words of codes, their scales, and elements made of them */
    LONG = 5         /* operations on top of each other */
  };
  const struct tile_type type = op->result_count > 0 ? op->results[0]->type : (struct tile_type){0};
  const uint32_t row_blocks = residence_row_blocks(s->where, type.rows);
  if (op->kind == TILE_PRODUCT && op->operands[0]->type.element == TILE_F32) {
    const uint32_t floats =
        type.rows > 1 && type.columns > 1 ? float_products(op->parent->first) : 0;
    return (FLOAT_ROWS + (floats > 2 ? (floats - 2) * OVERLAP : 0)) * row_blocks;
  }
  if (op->kind != TILE_MAP || type.rows == 1 || type.columns == 1)
    return 0;
  const uint32_t beside = float_products(op) > 0 ? BESIDE : 0;
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (residence_has_codes(s->where, op->operands[k]))
      return CODES + beside;
  if (!is_long(op->expr, LONG))
    return 0;
  const uint32_t elements = 4 * row_blocks * residence_column_blocks(s->where, type.columns);
  return (elements < 64 ? 32 + elements / 2 : 64) + beside;
}

/* The most that values of this region and of those in it take at once. */
static int64_t registers_of_region(struct estimate *s, const struct tile_region *region)
{
  uint32_t count = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    note_uses(s, op, ++count);
  int64_t *change = ARENA_ARRAY(s->arena, int64_t, (size_t)count + 1);
  for (uint32_t k = 0; k < region->argument_count; k++)
    add_value(s, region->arguments[k], 0, change);
  uint32_t position = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    position++;
    for (uint32_t k = 0; k < op->result_count; k++)
      add_value(s, op->results[k], position, change);
  }
  int64_t alive = change[0], most = alive;
  position = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->region_count; k++) {
      int64_t inside = alive + registers_of_region(s, op->regions[k]);
      most = inside > most ? inside : most;
    }
    int64_t before = alive; /* with operands that are read for the last time */
    alive += change[++position];
    int64_t here = (before > alive ? before : alive) + formula_registers(s, op);
    most = here > most ? here : most;
  }
  return most;
}

static bool has_product(const struct tile_region *region)
{
  bool has = false;
  for (const struct tile_op *op = region->first; op != NULL && !has; op = op->next) {
    has = op->kind == TILE_PRODUCT || op->kind == TILE_CONTRACT;
    for (uint32_t k = 0; k < op->region_count && !has; k++)
      has = has_product(op->regions[k]);
  }
  return has;
}

/* ---- programs ---- */

struct budget budget_of_kernel(struct arena *arena, const struct tile_kernel *kernel,
                               const struct schedule *schedule)
{
  struct estimate s = {.arena = arena,
                       .where = residence_new(arena, kernel, schedule),
                       .values = ARENA_ARRAY(arena, struct placed, kernel->value_count)};
  place_region(&s, kernel->body);
  struct budget budget = {.shared = s.peak};
  if (has_product(kernel->body))
    budget.registers = PRODUCT_REGISTERS;
  budget.registers += OTHER_REGISTERS + (uint32_t)registers_of_region(&s, kernel->body);
  return budget;
}

struct budget budget_of_program(struct arena *arena, const struct tile_program *program,
                                const struct schedule *schedule)
{
  struct budget most = {0};
  for (size_t k = 0; k < program->kernels.count; k++) {
    struct budget budget = budget_of_kernel(arena, program->kernels.items[k], schedule);
    most.registers = budget.registers > most.registers ? budget.registers : most.registers;
    most.shared = budget.shared > most.shared ? budget.shared : most.shared;
  }
  return most;
}
