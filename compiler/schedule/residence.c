#include "compiler/schedule/residence.h"

enum {
  UNIT = 16,       /* bytes that a thread copies, and that ldmatrix reads of a row */
  ALL_BANKS = 128, /* bytes */
  PAIRS = 32,      /* bytes that four threads read of a row of f32 */
  BLOCK_ROWS = 16, /* of an accumulator of mma.m16n8 */
  BLOCK_COLUMNS = 8,
  KEPT_REGISTERS = 32, /* of a first operand that stays in them */
  KEPT_FLOATS = 16
};

/* ---- elements in memory ---- */

bool residence_is_code(enum dtype type)
{
  switch (type) {
  case DTYPE_U8:
  case DTYPE_I8:
  case DTYPE_I4:
  case DTYPE_I2:
  case DTYPE_E4M3:
  case DTYPE_E5M2: return true;
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_I32:
  case DTYPE_I64:
  case DTYPE_BOOL:
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_COUNT: return false;
  }
  return false;
}

uint32_t residence_bits(enum dtype type)
{
  uint32_t shared = tile_elements_per_byte(type);
  return shared > 1 ? 8 / shared : 8 * (uint32_t)dtype_size(type);
}

static const struct tile_tensor *tensor_of(const struct residence *r,
                                           const struct tile_access *access)
{
  return &r->kernel->tensors.items[access->tensor];
}

bool residence_has_unit_columns(const struct residence *r, const struct tile_access *access)
{
  return access->column_dim != TILE_NO_DIM && access->column_dim + 1u == tensor_of(r, access)->rank;
}

/* ---- registers ---- */

static uint32_t ceil_div(uint32_t x, uint32_t y)
{
  return (x + y - 1) / y;
}

uint32_t residence_row_blocks(const struct residence *r, uint32_t rows)
{
  return ceil_div(ceil_div(rows, BLOCK_ROWS), r->row_warps);
}

uint32_t residence_column_blocks(const struct residence *r, uint32_t columns)
{
  return ceil_div(ceil_div(columns, BLOCK_COLUMNS), r->column_warps);
}

/* ---- sizes in shared memory ---- */

static bool is_half(enum tile_element element)
{
  return element == TILE_F16 || element == TILE_BF16;
}

static uint32_t padded(uint32_t size)
{
  return ceil_div(size, BLOCK_ROWS) * BLOCK_ROWS;
}

uint32_t residence_element_bytes(enum tile_element element)
{
  return is_half(element) ? 2 : 4;
}

uint32_t residence_pitch(uint32_t columns, enum tile_element element, enum residence_reader reader)
{
  uint32_t bytes = columns * residence_element_bytes(element);
  if (is_half(element) || reader == READ_COLUMNS)
    return (ceil_div(bytes, UNIT) | 1u) * UNIT;
  return (bytes + ALL_BANKS - PAIRS - 1) / ALL_BANKS * ALL_BANKS + PAIRS;
}

uint32_t residence_code_pitch(uint32_t columns, enum dtype codes)
{
  return (ceil_div(columns * residence_bits(codes), 8 * UNIT) | 1u) * UNIT;
}

uint32_t residence_tile_bytes(struct tile_type type, enum residence_reader reader)
{
  uint32_t rows = type.rows == 1 ? 1 : padded(type.rows);
  return rows * residence_pitch(padded(type.columns), type.element, reader);
}

uint32_t residence_load_bytes(const struct residence *r, const struct tile_op *load)
{
  const struct tile_value *value = load->results[0];
  if (residence_is_column(r, load))
    return padded(value->type.rows) * residence_element_bytes(value->type.element);
  if (!residence_has_codes(r, value))
    return residence_tile_bytes(value->type, residence_reader_of(r, value));
  return padded(value->type.rows) *
         residence_code_pitch(padded(value->type.columns), tensor_of(r, &load->access)->element);
}

/* A word for each of the thread's results, but a bit for bools, from every warp, and from every
 * thread of a warp that has other results. */
uint32_t residence_exchange_bytes(const struct residence *r, struct tile_type from, uint32_t axis)
{
  const bool along = axis == 1;
  const uint32_t length = along ? from.rows : from.columns;
  const uint32_t blocks =
      along ? residence_row_blocks(r, length) : residence_column_blocks(r, length);
  const uint32_t count = length == 1 ? 1 : 2 * blocks;
  const uint32_t words = from.element == TILE_BOOL ? ceil_div(count, 32) : count;
  const uint32_t threads = along ? r->row_warps * 8 : r->column_warps * 4;
  return (along ? r->column_warps : r->row_warps) * (length == 1 ? 1 : threads) * words * 4;
}

bool residence_keeps_exchange(uint32_t bytes)
{
  enum { MOST = 1024 };
  return bytes <= MOST;
}

/* ---- formulas of rows ---- */

/* `asked`: of the formula's parts, which several paths lead to. */
static bool reads_back(const struct residence *r, const struct expr *e, bool *asked)
{
  if ((e->deps & EXPR_DEP(EXPR_DEP_READ)) == 0 || asked[e->id])
    return false;
  asked[e->id] = true;
  if (e->op == EXPR_READ && r->reads_back[e->value.i])
    return true;
  for (uint32_t k = 0; k < e->arg_count; k++)
    if (reads_back(r, e->args[k], asked))
      return true;
  return false;
}

bool residence_reads_back(const struct residence *r, const struct expr *e)
{
  return e != NULL && (e->deps & EXPR_DEP(EXPR_DEP_READ)) != 0 &&
         reads_back(r, e, ARENA_ARRAY(r->arena, bool, (size_t)e->id + 1));
}

bool residence_is_row_formula(const struct residence *r, const struct tile_value *value)
{
  const struct tile_op *op = value->def;
  if (op == NULL || value->type.columns != 1)
    return false;
  if (op->kind != TILE_IOTA && op->kind != TILE_SPLAT && op->kind != TILE_MAP &&
      op->kind != TILE_LOAD)
    return false;
  if (op->kind == TILE_MAP ? residence_reads_back(r, op->expr)
                           : op->kind == TILE_LOAD && r->reads_back[op->access.tensor])
    return false;
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (op->operands[k]->type.kind != TILE_KIND_SCALAR &&
        !residence_is_row_formula(r, op->operands[k]))
      return false;
  return true;
}

bool residence_is_only_rows(const struct residence *r, const struct tile_value *value)
{
  const struct residence_value *v = &r->values[value->id];
  if (value->type.kind != TILE_KIND_TILE || v->users.count == 0 ||
      !residence_is_row_formula(r, value))
    return false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    bool index =
        user->kind == TILE_LOAD || (user->kind == TILE_STORE && user->operands[0] != value);
    if (!index && (user->kind != TILE_MAP || !residence_is_only_rows(r, user->results[0])))
      return false;
  }
  return true;
}

/* ---- operands of products ---- */

static bool is_product_operand(const struct tile_op *op, const struct tile_value *value)
{
  return op->kind == TILE_PRODUCT && (op->operand_count < 3 || op->operands[2] != value);
}

static bool is_tile(const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_TILE && value->type.rows > 1 && value->type.columns > 1;
}

static bool is_real(enum tile_element element)
{
  return element == TILE_F32 || is_half(element);
}

static bool has_size(const struct tile_value *value, struct tile_type type)
{
  return value->type.rows == type.rows && value->type.columns == type.columns;
}

/* A map of a tile that only second operands of products are made of works in place. */
static bool maps_in_place(const struct residence *r, const struct tile_op *map,
                          const struct tile_value *value)
{
  if (map->kind != TILE_MAP || r->values[value->id].users.count != 1)
    return false;
  const struct tile_value *result = map->results[0];
  const struct residence_value *made = &r->values[result->id];
  if (!has_size(result, value->type) || result->type.element != value->type.element ||
      made->users.count == 0)
    return false;
  for (size_t n = 0; n < made->users.count; n++) {
    const struct tile_op *user = made->users.items[n];
    if (!is_product_operand(user, result) || user->operands[0] == result)
      return false;
  }
  return true;
}

bool residence_has_codes(const struct residence *r, const struct tile_value *value)
{
  const struct tile_op *load = value->def;
  return load != NULL && load->kind == TILE_LOAD && is_tile(value) &&
         residence_is_code(tensor_of(r, &load->access)->element) &&
         residence_has_unit_columns(r, &load->access);
}

const struct tile_value *residence_made_of(const struct residence *r, const struct tile_op *op)
{
  if (op->kind != TILE_MAP && op->kind != TILE_CONVERT)
    return NULL;
  const struct tile_value *result = op->results[0];
  if (residence_wants_shared(r, result))
    return result;
  if (op->kind == TILE_CONVERT || r->values[result->id].users.count != 1)
    return NULL;
  const struct tile_op *convert = r->values[result->id].users.items[0];
  return convert->kind == TILE_CONVERT && convert->parent == op->parent
             ? residence_made_of(r, convert)
             : NULL;
}

/* A map or conversion of codes that makes an operand of products. */
static bool maps_codes(const struct residence *r, const struct tile_op *op,
                       const struct tile_value *value)
{
  if (!residence_has_codes(r, value))
    return false;
  const struct tile_value *made = residence_made_of(r, op);
  return made != NULL && has_size(made, value->type);
}

bool residence_wants_shared(const struct residence *r, const struct tile_value *value)
{
  const struct residence_value *v = &r->values[value->id];
  if (!is_tile(value) || v->users.count == 0 ||
      (!is_real(value->type.element) && !residence_has_codes(r, value)))
    return false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    if (!is_product_operand(user, value) && !maps_in_place(r, user, value) &&
        !maps_codes(r, user, value))
      return false;
  }
  return true;
}

enum residence_reader residence_reader_of(const struct residence *r, const struct tile_value *value)
{
  const struct residence_value *v = &r->values[value->id];
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    if (user->kind == TILE_MAP || user->kind == TILE_CONVERT)
      return residence_reader_of(r, user->results[0]);
    if (user->kind == TILE_PRODUCT &&
        (user->operands[1] == value ? !user->transpose_b : user->transpose_a))
      return READ_COLUMNS;
  }
  return READ_ROWS;
}

/* A map that makes an operand of products from codes needs its other operands an element at a
 * time. */
static bool is_made_of_codes(const struct residence *r, const struct tile_op *map)
{
  for (uint32_t k = 0; k < map->operand_count; k++)
    if (residence_has_codes(r, map->operands[k]) && residence_wants_shared(r, map->operands[k]))
      return true;
  return false;
}

/* Wide row vectors that are used once in each element of a map would fill the registers, and so
 * would a scale for each code. */
bool residence_is_lazy(const struct residence *r, const struct tile_op *load)
{
  enum { FEW = 4 }; /* blocks */
  const struct tile_value *result = load->results[0];
  const struct residence_value *v = &r->values[result->id];
  if (r->reads_back[load->access.tensor] || result->type.columns == 1 ||
      residence_column_blocks(r, result->type.columns) <= FEW)
    return false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    if (user->kind != TILE_MAP || user->parent != load->parent ||
        (result->type.rows > 1 && !is_made_of_codes(r, user)))
      return false;
  }
  return true;
}

/* ---- permutations ---- */

bool residence_is_rearranged(const struct residence *r, const struct tile_op *load)
{
  enum { NARROW = 16 };
  const struct tile_value *result = load->results[0];
  const struct residence_value *v = &r->values[result->id];
  if (r->reads_back[load->access.tensor] || result->type.rows == 1 ||
      result->type.columns > NARROW || v->users.count == 0)
    return false;
  for (uint32_t k = 0; k < load->operand_count; k++)
    if (load->operands[k]->type.kind == TILE_KIND_TILE &&
        !residence_is_row_formula(r, load->operands[k]))
      return false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    bool wide = user->kind == TILE_PERMUTE && result->type.columns > 1 &&
                !residence_permutes_within(r, user);
    bool column = user->kind == TILE_TRANSPOSE && result->type.columns == 1;
    if (user->parent != load->parent || !(wide || column))
      return false;
  }
  return true;
}

/* Column `c` of the thread with that pair of columns in that column warp, or UINT32_MAX. */
static uint32_t source_of(const struct residence *r, const struct tile_op *permute, uint32_t c,
                          uint32_t warp, uint32_t quad)
{
  const uint32_t columns = permute->results[0]->type.columns;
  const uint32_t column = warp * BLOCK_COLUMNS * residence_column_blocks(r, columns) +
                          c / 2 * BLOCK_COLUMNS + 2 * quad + c % 2;
  return column < columns ? permute->permutation[column] : UINT32_MAX;
}

static bool is_alike(const struct residence *r, const struct tile_op *permute, uint32_t a,
                     uint32_t b)
{
  for (uint32_t warp = 0; warp < r->column_warps; warp++)
    for (uint32_t quad = 0; quad < 4; quad++) {
      const uint32_t x = source_of(r, permute, a, warp, quad);
      const uint32_t y = source_of(r, permute, b, warp, quad);
      if (x != y && y != UINT32_MAX)
        return false;
    }
  return true;
}

uint32_t residence_permuted_alike(const struct residence *r, const struct tile_op *permute,
                                  uint32_t *first)
{
  const uint32_t columns = permute->results[0]->type.columns;
  const uint32_t count = columns == 1 ? 1 : 2 * residence_column_blocks(r, columns);
  uint32_t found = 0;
  for (uint32_t c = 0; c < count; c++) {
    uint32_t like = 0;
    while (like < c && columns > 1 && !is_alike(r, permute, like, c))
      like++;
    found += like == c;
    if (first != NULL)
      first[c] = like;
  }
  return found;
}

bool residence_permuted(const struct residence *r, const struct tile_op *permute, uint32_t c,
                        uint32_t *from)
{
  const uint32_t columns = permute->results[0]->type.columns;
  *from = UINT32_MAX;
  for (uint32_t quad = 0; quad < 4; quad++) {
    uint32_t column = c / 2 * 8 + 2 * quad + c % 2;
    if (column >= columns)
      continue;
    uint32_t source = permute->permutation[column];
    if (source % 8 / 2 != quad)
      return false;
    uint32_t wanted = source / 8 * 2 + source % 2;
    if (*from != UINT32_MAX && *from != wanted)
      return false;
    *from = wanted;
  }
  if (*from == UINT32_MAX)
    *from = 0;
  return r->column_warps == 1;
}

bool residence_permutes_within(const struct residence *r, const struct tile_op *permute)
{
  const struct tile_type from = permute->operands[0]->type, to = permute->results[0]->type;
  bool within = to.columns > 1 && from.columns == to.columns;
  if (from.columns == 1) /* which every thread of a row has */
    return true;
  for (uint32_t c = 0; within && c < 2 * residence_column_blocks(r, to.columns); c++) {
    uint32_t own;
    within = residence_permuted(r, permute, c, &own);
  }
  return within;
}

/* ---- operands from before a loop ---- */

static bool is_inside(const struct tile_region *region, const struct tile_op *op)
{
  while (op != NULL && op->parent != region)
    op = op->parent->parent;
  return op != NULL;
}

/* Whether a loop lies between the region and the op in it. */
static bool in_inner_loop(const struct tile_region *region, const struct tile_op *op)
{
  if (!is_inside(region, op))
    return false;
  while (op->parent != region) {
    op = op->parent->parent;
    if (op->kind == TILE_FOR || op->kind == TILE_FOR_SEGMENTS)
      return true;
  }
  return false;
}

static uint32_t register_count(const struct residence *r, struct tile_type type)
{
  uint32_t count =
      4 * residence_row_blocks(r, type.rows) * residence_column_blocks(r, type.columns);
  return is_half(type.element) ? count / 2 : count;
}

bool residence_settles(const struct residence *r, const struct tile_value *value)
{
  if (!is_tile(value) || value->def == NULL)
    return false;
  const struct residence_value *v = &r->values[value->id];
  bool first = false, second = false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    if (!is_product_operand(user, value) || !in_inner_loop(value->def->parent, user))
      continue;
    first = first || user->operands[0] == value;
    second = second || user->operands[1] == value;
  }
  uint32_t most = is_half(value->type.element) ? KEPT_REGISTERS : KEPT_FLOATS;
  bool small = register_count(r, value->type) <= most && r->column_warps == 1;
  return second || (first && !small);
}

/* How many registers it is worth to keep the value in. */
static uint32_t worth_keeping(const struct residence *r, const struct tile_value *value)
{
  if (!is_tile(value) || !is_half(value->type.element) || residence_has_codes(r, value))
    return 0;
  const struct residence_value *v = &r->values[value->id];
  bool wanted = false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    wanted |= user->kind == TILE_PRODUCT && user->operands[0] == value && !user->transpose_a &&
              in_inner_loop(value->def->parent, user);
  }
  uint32_t steps = padded(value->type.columns) / 16;
  return wanted ? 4 * residence_row_blocks(r, value->type.rows) * steps : 0;
}

static void find_kept(struct residence *r, const struct tile_region *region, uint32_t *total)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->result_count; k++) {
      uint32_t count = worth_keeping(r, op->results[k]);
      count = *total + count <= KEPT_REGISTERS ? count : 0;
      r->values[op->results[k]->id].kept = count;
      *total += count;
    }
    for (uint32_t k = 0; k < op->region_count; k++)
      find_kept(r, op->regions[k], total);
  }
}

uint32_t residence_kept(const struct residence *r, const struct tile_value *value)
{
  return r->values[value->id].kept;
}

bool residence_is_apart(const struct residence *r, const struct tile_value *value)
{
  return r->values[value->id].apart;
}

/* ---- the kernel ---- */

/* Formulas share their parts: each is counted once for a formula, however many paths lead there. */
static void count_reads(const struct expr *e, bool *counted, uint32_t *accesses)
{
  if ((e->deps & EXPR_DEP(EXPR_DEP_READ)) == 0 || counted[e->id])
    return;
  counted[e->id] = true;
  if (e->op == EXPR_READ)
    accesses[e->value.i]++;
  for (uint32_t k = 0; k < e->arg_count; k++)
    count_reads(e->args[k], counted, accesses);
}

static void look_at_formula(struct residence *r, const struct expr *e, uint32_t *accesses)
{
  if (e != NULL && (e->deps & EXPR_DEP(EXPR_DEP_READ)) != 0)
    count_reads(e, ARENA_ARRAY(r->arena, bool, (size_t)e->id + 1), accesses);
}

static void look_at(struct residence *r, const struct tile_region *region, uint32_t *accesses)
{
  for (struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->operand_count; k++)
      vector_push(r->arena, &r->values[op->operands[k]->id].users, op);
    if (op->kind == TILE_LOAD || op->kind == TILE_STORE || op->kind == TILE_ACCUMULATE)
      accesses[op->access.tensor]++;
    look_at_formula(r, op->expr, accesses);
    look_at_formula(r, op->expr2, accesses);
    for (uint32_t k = 0; k < op->region_count; k++)
      look_at(r, op->regions[k], accesses);
  }
}

const struct residence *residence_new(struct arena *arena, const struct tile_kernel *kernel,
                                      const struct schedule *schedule)
{
  const size_t tensors = kernel->tensors.count;
  struct residence *r = ARENA_NEW(arena, struct residence);
  *r = (struct residence){
      .arena = arena,
      .kernel = kernel,
      .row_warps = schedule->warps / schedule->column_warps,
      .column_warps = schedule->column_warps,
      .stages = schedule->stages,
      .values = ARENA_ARRAY(arena, struct residence_value, kernel->value_count),
      .reads_back = ARENA_ARRAY(arena, bool, tensors),
  };
  uint32_t *accesses = ARENA_ARRAY(arena, uint32_t, tensors);
  look_at(r, kernel->body, accesses);
  for (size_t t = 0; t < tensors; t++)
    r->reads_back[t] = kernel->tensors.items[t].written && accesses[t] > 1;
  residence_find_apart(r);
  uint32_t kept = 0;
  if (r->column_warps > 1 && r->row_warps == 1) /* else columns are divided for want of registers */
    find_kept(r, kernel->body, &kept);
  return r;
}
