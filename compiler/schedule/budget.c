#include "compiler/schedule/budget.h"

/* Indices, addresses and what a product has in flight, besides tiles. */
enum {
  OTHER_REGISTERS = 88, /* as ptxas has it: kernels with less room have spilled */
  LONG_FORMULA = 5,     /* operations on top of each other */
  FORMULA_REGISTERS = 64,
  UNIT = 16,       /* bytes that a thread copies, and that ldmatrix reads of a row */
  ALL_BANKS = 128, /* bytes */
  PAIRS = 32       /* bytes that four threads read of a row of f32 */
};

struct placed {
  uint32_t uses;
  bool is_first;           /* of a product's operands */
  bool shared, by_columns; /* in shared memory, and read that way */
  uint32_t last_use;       /* the last op that reads it, of the region that is being counted */
};

struct estimate {
  struct arena *arena;
  const struct schedule *schedule;
  uint32_t row_warps;
  struct placed *values; /* by id */
};

static uint32_t ceil_div(uint32_t x, uint32_t y)
{
  return (x + y - 1) / y;
}

static uint32_t element_bytes(enum tile_element element)
{
  switch (element) {
  case TILE_F16:
  case TILE_BF16: return 2;
  case TILE_BOOL: return 1;
  case TILE_INDEX: return 8;
  case TILE_F32:
  case TILE_I32: break;
  }
  return 4;
}

uint32_t budget_pitch(uint32_t columns, enum tile_element element, bool by_columns)
{
  bool half = element == TILE_F16 || element == TILE_BF16;
  uint32_t bytes = columns * (half ? 2 : 4);
  if (half || by_columns)
    return (ceil_div(bytes, UNIT) | 1u) * UNIT;
  return (bytes + ALL_BANKS - PAIRS - 1) / ALL_BANKS * ALL_BANKS + PAIRS;
}

static uint32_t padded(uint32_t size)
{
  return ceil_div(size, BUDGET_BLOCK_ROWS) * BUDGET_BLOCK_ROWS;
}

static size_t shared_bytes(struct tile_type type, bool by_columns)
{
  return (size_t)padded(type.rows) * budget_pitch(padded(type.columns), type.element, by_columns);
}

/* A thread has two rows and two columns of every block. */
static uint32_t fragment_registers(const struct estimate *s, struct tile_type type)
{
  if (type.kind != TILE_KIND_TILE)
    return 0;
  uint32_t rows = 2 * ceil_div(ceil_div(type.rows, BUDGET_BLOCK_ROWS), s->row_warps);
  uint32_t columns =
      2 * ceil_div(ceil_div(type.columns, BUDGET_BLOCK_COLUMNS), s->schedule->column_warps);
  uint32_t count = (type.rows == 1 ? 1 : rows) * (type.columns == 1 ? 1 : columns);
  if (type.element == TILE_BOOL)
    return ceil_div(count, 32);
  return ceil_div(count * element_bytes(type.element), 4);
}

/* ---- placement ---- */

enum {
  KEPT_REGISTERS = 32,
  KEPT_FLOATS = 16
}; /* of a first operand from before a loop that stays in registers */

/* A tile that a map writes its result over: its first operand, of the same type, which was loaded
 * beside it and which nothing else reads. The result is a product's second operand. */
static const struct tile_value *loaded_operand(const struct estimate *s, const struct tile_op *op)
{
  if (op->kind != TILE_MAP || s->values[op->results[0]->id].is_first)
    return NULL;
  const struct tile_value *x = op->operands[0];
  const struct tile_type type = op->results[0]->type;
  bool fits = x->def != NULL && x->def->parent == op->parent && x->def->kind == TILE_LOAD &&
              x->type.element == type.element && x->type.rows == type.rows &&
              x->type.columns == type.columns && s->values[x->id].uses == 1;
  return fits ? x : NULL;
}

static bool is_product(const struct tile_op *op)
{
  return op->kind == TILE_PRODUCT || op->kind == TILE_CONTRACT;
}

/* Whether operand k of a product was loaded into shared memory, or put there before a loop. */
static bool lies_shared(const struct estimate *s, const struct tile_op *op, uint32_t k)
{
  const struct tile_op *def = op->operands[k]->def;
  if (!is_product(op) || k > 1 || def == NULL)
    return false;
  if (def->kind == TILE_LOAD || loaded_operand(s, def) != NULL)
    return true;
  struct tile_type type = op->operands[k]->type;
  uint32_t most = type.element == TILE_F32 ? KEPT_FLOATS : KEPT_REGISTERS;
  bool small = k == 0 && s->schedule->column_warps == 1 && fragment_registers(s, type) <= most;
  return def->parent != op->parent && !small;
}

/* The inner index of the product runs along the operand's columns, not its rows. */
static bool is_read_by_columns(const struct tile_op *op, uint32_t k)
{
  return k == 0 ? op->transpose_a : op->kind == TILE_PRODUCT && !op->transpose_b;
}

static void count_uses(struct estimate *s, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->operand_count; k++) {
      struct placed *placed = &s->values[op->operands[k]->id];
      placed->uses++;
      placed->is_first |= is_product(op) && k == 0;
    }
    for (uint32_t k = 0; k < op->region_count; k++)
      count_uses(s, op->regions[k]);
  }
}

static void place_region(struct estimate *s, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->operand_count; k++) {
      const struct tile_value *x = op->operands[k];
      if (!lies_shared(s, op, k))
        continue;
      const struct tile_value *under = loaded_operand(s, x->def);
      struct placed *placed = &s->values[under != NULL ? under->id : x->id];
      placed->by_columns |= is_read_by_columns(op, k);
      placed->shared = s->values[x->id].shared = true;
    }
    for (uint32_t k = 0; k < op->region_count; k++)
      place_region(s, op->regions[k]);
  }
}

/* ---- shared memory ---- */

/* What an op needs while it runs: to pass elements from warp to warp. */
static size_t exchanged_bytes(const struct estimate *s, const struct tile_op *op)
{
  const struct tile_type x = op->operand_count > 0 ? op->operands[0]->type : (struct tile_type){0};
  const uint32_t column_warps = s->schedule->column_warps;
  size_t bytes = 0;
  switch ((int)op->kind) {
  case TILE_PRODUCT:
  case TILE_CONTRACT:
    for (uint32_t k = 0; k < 2; k++) {
      bool from_registers =
          k == 0 && op->kind == TILE_PRODUCT && !op->transpose_a && column_warps == 1;
      if (!from_registers && !s->values[op->operands[k]->id].shared)
        bytes += shared_bytes(op->operands[k]->type, is_read_by_columns(op, k));
    }
    return bytes;
  case TILE_REDUCE:
    if (op->axis == 0)
      return s->row_warps > 1 ? (size_t)padded(x.columns) * 4 * s->row_warps : 0;
    return column_warps > 1 ? (size_t)padded(x.rows) * 4 * column_warps : 0;
  case TILE_TRANSPOSE:
  case TILE_SCAN: return shared_bytes(x, true);
  default: return 0;
  }
}

static bool is_loop(const struct tile_op *op)
{
  return op->kind == TILE_FOR || op->kind == TILE_FOR_SEGMENTS;
}

/* Tiles are kept until the region ends; what regions and exchanges take is given back. */
static size_t shared_of_region(const struct estimate *s, const struct tile_region *region,
                               bool in_loop)
{
  size_t kept = 0, most = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->result_count; k++) {
      const struct placed *placed = &s->values[op->results[k]->id];
      bool buffered = in_loop && op->kind == TILE_LOAD;
      if (placed->shared && loaded_operand(s, op) == NULL)
        kept += shared_bytes(op->results[k]->type, placed->by_columns) *
                (buffered ? s->schedule->stages : 1);
    }
    size_t passing = exchanged_bytes(s, op);
    for (uint32_t k = 0; k < op->region_count; k++) {
      size_t bytes = shared_of_region(s, op->regions[k], in_loop || is_loop(op));
      passing = bytes > passing ? bytes : passing;
    }
    most = passing > most ? passing : most;
  }
  return kept + most;
}

/* ---- registers ---- */

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
 * operands that it reads last were. Splats, iotas and rows of tables are made where they are read.
 */
static void add_value(const struct estimate *s, const struct tile_value *x, uint32_t position,
                      int64_t *change)
{
  const struct placed *placed = &s->values[x->id];
  bool made_when_read =
      x->def != NULL && (x->def->kind == TILE_SPLAT || x->def->kind == TILE_IOTA ||
                         (x->def->kind == TILE_LOAD && x->type.rows == 1));
  if (placed->shared || made_when_read || placed->last_use <= position)
    return;
  change[position] += fragment_registers(s, x->type);
  change[placed->last_use] -= fragment_registers(s, x->type);
}

/* Elements of a long formula are computed several at a time; a product of f32 splits its operands
 * and has sums of its own. */
static uint32_t formula_registers(const struct estimate *s, const struct tile_op *op)
{
  enum {
    FLOAT_ROWS = 48 /* of 16 rows: 4 blocks of sums, and one of the first operand in parts */
  };
  if (op->kind == TILE_PRODUCT && op->operands[0]->type.element == TILE_F32)
    return FLOAT_ROWS * ((op->results[0]->type.rows + 16 * s->row_warps - 1) / (16 * s->row_warps));
  bool pairs =
      op->kind == TILE_MAP && op->results[0]->type.rows > 1 && op->results[0]->type.columns > 1;
  return pairs && op->expr->height >= LONG_FORMULA ? FORMULA_REGISTERS : 0;
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

/* ---- programs ---- */

struct budget budget_of_kernel(struct arena *arena, const struct tile_kernel *kernel,
                               const struct schedule *schedule)
{
  struct estimate s = {.arena = arena,
                       .schedule = schedule,
                       .row_warps = schedule->warps / schedule->column_warps,
                       .values = ARENA_ARRAY(arena, struct placed, kernel->value_count)};
  count_uses(&s, kernel->body);
  place_region(&s, kernel->body);
  struct budget budget = {.shared = shared_of_region(&s, kernel->body, false)};
  budget.registers = OTHER_REGISTERS + (uint32_t)registers_of_region(&s, kernel->body);
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
