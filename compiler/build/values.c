/* Values of formulas: each made once where its class allows. */
#include "compiler/build/access.h"

/* The frame's part that a value of this class varies along. */
static struct frame own_frame(struct frame frame, unsigned class)
{
  struct frame own = {frame.rows & class, frame.columns & class, 0};
  if (class & CLASS_CHANNEL)
    own.channels = frame.channels;
  return own;
}

static bool same_frame(struct frame a, struct frame b)
{
  return a.rows == b.rows && a.columns == b.columns && a.channels == b.channels;
}

unsigned build_class(const struct build *b, const struct expr *e, struct frame frame)
{
  const uint64_t rows =
      EXPR_DEP(EXPR_VAR_I) | EXPR_DEP(EXPR_VAR_R) | EXPR_DEP(EXPR_VAR_T) | EXPR_DEP(EXPR_VAR_LSE);
  const uint64_t tests = EXPR_DEP(EXPR_VAR_TILE_J0) | EXPR_DEP(EXPR_VAR_TILE_J1);
  unsigned class = 0;
  if ((e->deps & rows) != 0 || (b->share > 1 && expr_depends(e, EXPR_VAR_H)))
    class |= CLASS_QUERY;
  if (expr_depends(e, EXPR_VAR_J))
    class |= CLASS_KEY;
  if (!b->one_channel && expr_depends(e, EXPR_VAR_C))
    class |= CLASS_CHANNEL;
  if ((e->deps & tests) != 0)
    class |= CLASS_TEST;
  if ((e->deps >> EXPR_DEP_MAP & 1) != 0)
    class |= frame.rows | frame.columns;
  return class;
}

void build_set_value(struct build *b, const struct expr *e, struct frame frame,
                     struct tile_value *value)
{
  struct build_value entry = {e, own_frame(frame, build_class(b, e, frame)), false, value};
  vector_push(b->arena, &b->values, entry);
}

void build_set_var(struct build *b, enum expr_var var, struct frame frame, struct tile_value *value)
{
  build_set_value(b, expr_variable(b->pool, var), frame, value);
}

static struct tile_value *find_value(struct build *b, const struct expr *e, struct frame own,
                                     bool stored)
{
  for (size_t n = b->values.count; n-- > 0;) {
    const struct build_value *known = &b->values.items[n];
    if (known->e == e && known->stored == stored && same_frame(known->frame, own))
      return known->value;
  }
  return NULL;
}

struct tile_value *build_find_value(struct build *b, const struct expr *e, struct frame frame)
{
  return find_value(b, e, own_frame(frame, build_class(b, e, frame)), false);
}

uint32_t build_axis_size(const struct build *b, struct frame frame, unsigned axis)
{
  switch (axis) {
  case CLASS_QUERY: return b->rows;
  case CLASS_KEY: return b->columns;
  case CLASS_CHANNEL: return frame.channels;
  }
  return 1;
}

static enum tile_element element_of(enum expr_type type)
{
  switch (type) {
  case EXPR_BOOL: return TILE_BOOL;
  case EXPR_INT: return TILE_I32;
  case EXPR_LONG: return TILE_INDEX;
  case EXPR_FLOAT:
  case EXPR_SINGLE: break;
  }
  return TILE_F32;
}

/* An op that computes e. */
static struct tile_value *compute(struct build *b, struct frame frame, const struct expr *e)
{
  struct lowering l = {.b = b, .frame = frame};
  const struct expr *lowered = lower_expr(&l, e);
  bool tiled = false;
  for (size_t k = 0; k < l.operands.count; k++)
    tiled |= l.operands.items[k]->type.kind == TILE_KIND_TILE;
  if (lowered->op == EXPR_ARG) /* e folded to one of its operands */
    return l.operands.items[lowered->value.i];
  if (lowered->height > 512)
    build_unsupported(b, e->span, "a formula more than 512 operations deep");
  enum tile_element element = element_of(lowered->type);
  if (tiled)
    return tile_map(&b->tile, element, lowered, l.operands.items, l.operands.count);
  return tile_scalar(&b->tile, element, lowered, l.operands.items, l.operands.count);
}

/* base + m / share for the rows of a tile, or base + m % share. */
static struct tile_value *unpack_rows(struct build *b, struct tile_value *base, enum expr_op op)
{
  struct expr_pool *pool = b->pool;
  const struct expr *part =
      expr_binary(pool, op, expr_arg(pool, 0, EXPR_INT), expr_int(pool, b->share));
  const struct expr *first = expr_convert(pool, expr_arg(pool, 1, EXPR_LONG), EXPR_INT);
  struct tile_value *zero = build_value(b, frame_scalar(), expr_long(pool, 0));
  struct tile_value *operands[] = {tile_iota(&b->tile, zero, b->rows, 1), base};
  return tile_map(&b->tile, TILE_I32, expr_add(pool, first, part), operands, 2);
}

/* A variable's value that no task has set: positions, made where they are first used. */
static struct tile_value *variable(struct build *b, enum expr_var var, struct frame frame)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *value;
  switch ((int)var) {
  case EXPR_VAR_C:
    return tile_iota(&b->tile, build_value(b, frame_scalar(), expr_long(pool, 0)), 1,
                     frame.channels);
  case EXPR_VAR_J:
    value = tile_iota(&b->tile, b->key_base, frame.rows == CLASS_KEY ? b->columns : 1,
                      frame.rows == CLASS_KEY ? 1 : b->columns);
    break;
  case EXPR_VAR_T:
    value = b->share == 1 ? tile_iota(&b->tile, b->row_base, b->rows, 1)
                          : unpack_rows(b, b->row_base, EXPR_FLOORDIV);
    break;
  case EXPR_VAR_H: value = unpack_rows(b, b->head_base, EXPR_MOD); break;
  case EXPR_VAR_R: {
    const struct expr *last =
        expr_sub(pool, expr_variable(pool, EXPR_VAR_SIZE_NQ), expr_int(pool, 1));
    value = compute(b, frame, expr_binary(pool, EXPR_MIN, expr_variable(pool, EXPR_VAR_T), last));
    break;
  }
  default: /* EXPR_VAR_I */
    value = compute(
        b, frame,
        expr_add(pool, expr_variable(pool, EXPR_VAR_R), expr_variable(pool, EXPR_VAR_OFFSET)));
  }
  tile_set_name(&b->tile, value, var == EXPR_VAR_T ? "row" : expr_var_name(var));
  return value;
}

struct tile_value *build_value(struct build *b, struct frame frame, const struct expr *e)
{
  unsigned class = build_class(b, e, frame);
  struct tile_value *value = build_find_value(b, e, frame);
  if (value != NULL)
    return value;
  struct span span = b->tile.span;
  b->tile.span = e->span;
  frame = own_frame(frame, class);
  struct product product;
  if (e->op == EXPR_VAR) {
    value = variable(b, (enum expr_var)e->value.i, frame);
  } else if (product_find(b, e, &product)) {
    value = product_value(b, &product);
  } else {
    if (e->op == EXPR_READ)
      value = operand_load(b, frame, e);
    if (value == NULL)
      value = compute(b, frame, e);
  }
  b->tile.span = span;
  build_set_value(b, e, frame, value);
  return value;
}

struct tile_value *build_tile(struct build *b, struct frame frame, const struct expr *e)
{
  struct tile_value *value = build_value(b, frame, e);
  uint32_t rows = build_axis_size(b, frame, frame.rows);
  uint32_t columns = build_axis_size(b, frame, frame.columns);
  bool scalar = value->type.kind == TILE_KIND_SCALAR;
  if (!scalar && value->type.rows == rows && value->type.columns == columns)
    return value;
  struct tile_type type = tile_type_tile(value->type.element, rows, columns);
  return tile_op_new(&b->tile, scalar ? TILE_SPLAT : TILE_BROADCAST, &value, 1, &type, 1)
      ->results[0];
}

struct tile_value *build_at_tile(struct build *b, const struct expr *e)
{
  if (!expr_depends(e, EXPR_VAR_J))
    return build_value(b, frame_scalar(), e);
  struct tile_value *value = find_value(b, e, frame_scalar(), false);
  if (value != NULL)
    return value;
  const struct expr *first = expr_convert(b->pool, expr_arg(b->pool, 0, EXPR_LONG), EXPR_INT);
  struct lowering l = {.b = b, .frame = frame_scalar()};
  vector_push(b->arena, &l.operands, b->key_base);
  const struct expr *lowered = lower_expr(&l, expr_substitute(b->pool, e, EXPR_VAR_J, first));
  value = tile_scalar(&b->tile, TILE_I32, lowered, l.operands.items, l.operands.count);
  vector_push(b->arena, &b->values, ((struct build_value){e, frame_scalar(), false, value}));
  return value;
}

struct tile_value *build_operand(struct build *b, struct frame frame, const struct expr *e)
{
  if (operand_element(b, frame, e) == TILE_F32)
    return build_tile(b, frame, e);
  struct tile_value *value = find_value(b, e, frame, true);
  if (value != NULL)
    return value;
  struct span span = b->tile.span;
  b->tile.span = e->span;
  value = operand_load_stored(b, frame, e);
  b->tile.span = span;
  vector_push(b->arena, &b->values, ((struct build_value){e, frame, true, value}));
  return value;
}

/* A node that a loop over keys can take from before it. */
static bool is_hoistable(const struct build *b, const struct expr *e, struct frame frame)
{
  bool leaf =
      e->op == EXPR_CONST || e->op == EXPR_PARAM || e->op == EXPR_BOUND || e->op == EXPR_ARG;
  return !leaf && e->deps >> EXPR_DEP_BOUND == 0 &&
         (build_class(b, e, frame) & (CLASS_KEY | CLASS_TEST)) == 0;
}

void build_hoist(struct build *b, struct frame frame, const struct expr *root)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    struct product product;
    if (product_find(b, e, &product)) {
      product_hoist(b, &product);
    } else if (e->op == EXPR_READ && access_is_cached(b, (uint32_t)e->value.i) &&
               !is_hoistable(b, e, frame)) {
      build_hoist(b, frame, access_element(b, e));
    } else if (is_hoistable(b, e, frame)) {
      bool by_row = (build_class(b, e, frame) & CLASS_QUERY) != 0;
      if (e->op != EXPR_VAR || by_row) /* others are set already, or cost nothing */
        build_value(b, frame, e);
    } else {
      for (uint32_t k = 0; k < e->arg_count; k++)
        wanted[e->args[k]->id] = true;
    }
  }
}
