/* Products are found: any sum over channels of a row part times a column part. Where the term is
 * another function of one row part and one column part, as in additive scores, the sum is a
 * contraction. */
#include "compiler/build/build.h"
#include "compiler/tile/text.h"
#include "dsl/expr_fold.h"

/* Multiplies the factors of `e` into the row or the column part. False where one varies along both.
 */
static bool split(struct build *b, const struct expr *e, struct product *product)
{
  VECTOR(const struct expr *) pending = {0};
  vector_push(b->arena, &pending, e);
  while (pending.count > 0) {
    e = pending.items[--pending.count];
    unsigned class = build_class(b, e, frame_pair()) & (CLASS_QUERY | CLASS_KEY);
    if (class == (CLASS_QUERY | CLASS_KEY)) {
      if (e->op != EXPR_MUL && e->op != EXPR_NEG)
        return false;
      for (uint32_t k = e->arg_count; k-- > 0;)
        vector_push(b->arena, &pending, e->args[k]);
      if (e->op == EXPR_NEG)
        vector_push(b->arena, &pending, expr_float(b->pool, -1));
      continue;
    }
    const struct expr **part = class == CLASS_KEY ? &product->column : &product->row;
    *part = *part == NULL ? e : expr_mul(b->pool, *part, e);
  }
  return product->row != NULL && product->column != NULL;
}

/* Finds the one row part and the one column part that `e` is made of. */
static bool split_term(struct build *b, const struct expr *root, struct product *product)
{
  VECTOR(const struct expr *) pending = {0};
  vector_push(b->arena, &pending, root);
  while (pending.count > 0) {
    const struct expr *e = pending.items[--pending.count];
    unsigned class = build_class(b, e, frame_pair()) & (CLASS_QUERY | CLASS_KEY);
    if (class == 0)
      continue;
    if (class == (CLASS_QUERY | CLASS_KEY)) {
      if (e->op == EXPR_READ || expr_op_is_binder(e->op))
        return false;
      for (uint32_t k = e->arg_count; k-- > 0;)
        vector_push(b->arena, &pending, e->args[k]);
      continue;
    }
    const struct expr **part = class == CLASS_KEY ? &product->column : &product->row;
    if (e->type != EXPR_FLOAT || (*part != NULL && *part != e))
      return false;
    *part = e;
  }
  return product->row != NULL && product->column != NULL;
}

bool product_find(struct build *b, const struct expr *e, struct product *product)
{
  *product = (struct product){0};
  unsigned both = CLASS_QUERY | CLASS_KEY;
  bool fits = e->op == EXPR_SUM && e->type == EXPR_FLOAT && e->args[0]->op == EXPR_CONST &&
              e->args[0]->value.i > 0 && e->args[0]->value.i <= TILE_MAX_SIDE &&
              e->deps >> EXPR_DEP_BOUND == 0 && !b->one_channel &&
              build_class(b, e, frame_pair()) == both;
  if (!fits)
    return false;
  const struct expr *channel = expr_variable(b->pool, EXPR_VAR_C);
  const struct expr *body = build_substitute_bound(b, e->args[1], (uint32_t)e->value.i, channel);
  bool found = split(b, body, product);
  if (!found) {
    *product = (struct product){.term = body};
    found = split_term(b, body, product);
  }
  product->channels = (uint32_t)e->args[0]->value.i;
  return found;
}

enum tile_element product_element(struct build *b, const struct product *product)
{
  if (product->term != NULL)
    return TILE_F32;
  enum tile_element row =
      operand_element(b, frame_channels(CLASS_QUERY, product->channels), product->row);
  enum tile_element column =
      operand_element(b, frame_channels(CLASS_KEY, product->channels), product->column);
  return row == column ? row : TILE_F32;
}

struct contraction {
  struct build *b;
  const struct product *product;
  VECTOR(struct tile_value *) operands;
};

static const struct expr *replace_part(void *user, const struct expr *e)
{
  struct contraction *c = user;
  struct build *b = c->b;
  if (e == c->product->row)
    return expr_arg(b->pool, 0, EXPR_FLOAT);
  if (e == c->product->column)
    return expr_arg(b->pool, 1, EXPR_FLOAT);
  if ((build_class(b, e, frame_pair()) & (CLASS_QUERY | CLASS_KEY)) != 0)
    return NULL;
  if (e->op == EXPR_CONST)
    return e;
  struct tile_value *value = build_value(b, frame_channels(0, c->product->channels), e);
  vector_push(b->arena, &c->operands, value);
  enum expr_type held = tile_element_expr_type(value->type.element);
  const struct expr *own = expr_arg(b->pool, (uint32_t)c->operands.count - 1, held);
  return expr_convert(b->pool, own, e->type);
}

static struct tile_value *part_value(struct build *b, const struct product *product, unsigned axis)
{
  const struct expr *part = axis == CLASS_KEY ? product->column : product->row;
  struct frame frame = frame_channels(axis, product->channels);
  return product_element(b, product) != TILE_F32 ? build_operand(b, frame, part)
                                                 : build_tile(b, frame, part);
}

struct tile_value *product_row(struct build *b, const struct product *product)
{
  return part_value(b, product, CLASS_QUERY);
}

struct tile_value *product_value(struct build *b, const struct product *product)
{
  struct tile_value *row = product_row(b, product);
  struct tile_value *column = part_value(b, product, CLASS_KEY);
  if (product->term == NULL)
    return tile_product(&b->tile, row, false, column, true, NULL);
  struct contraction c = {b, product, {0}};
  vector_push(b->arena, &c.operands, row);
  vector_push(b->arena, &c.operands, column);
  const struct expr *term = build_transform(b, product->term, replace_part, &c);
  struct tile_type type = tile_type_tile(TILE_F32, row->type.rows, column->type.rows);
  struct tile_op *op =
      tile_op_new(&b->tile, TILE_CONTRACT, c.operands.items, c.operands.count, &type, 1);
  op->expr = term;
  return op->results[0];
}
