/* Products are found: any sum over channels of a row part times a column part. Where the term is
 * another function of one row part and one column part, as in additive scores, the sum is a
 * contraction. */
#include "compiler/build/access.h"
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

/* ---- keys of a cache ---- */

/* A product whose column is stored in codes, or whose channels lie in several tensors, is the sum
 * of products over ranges of channels. Where the keys of a range have one scale each, their codes
 * are the column and the product is scaled after it. */
struct piece {
  struct product product;
  const struct expr *scale; /* FLOAT over keys; NULL */
  bool codes; /* the column is codes that are whole numbers, and 16 bits do for rows */
};
enum { MAX_PIECES = 16 };

static const struct expr *from_channel(struct build *b, const struct expr *e, uint32_t first)
{
  const struct expr *moved =
      expr_add(b->pool, expr_variable(b->pool, EXPR_VAR_C), expr_int(b->pool, (int32_t)first));
  return first == 0 ? e : expr_substitute(b->pool, e, EXPR_VAR_C, moved);
}

/* How many channels from `at` on lie in one tensor and, where a product with so few channels pays,
 * under one scale of what has that storage. On the host each product adds up the lanes of every
 * score, which takes longer than to scale the codes. */
static uint32_t piece_end(const struct build *b, const struct spec_storage *storage,
                          uint32_t channels, uint32_t at)
{
  if (at >= channels)
    return UINT32_MAX;
  bool groups = b->keeps_storage && storage->axis == CACHE_AXIS_TOKEN && storage->group > 0;
  return groups ? at - at % storage->group + storage->group : channels;
}

static bool separates_pairs(const struct build *b, const struct expr *e, uint32_t at)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)e->id + 1);
  wanted[e->id] = true;
  for (uint32_t id = e->id + 1; id-- > 0;) {
    const struct expr *node = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    int64_t from;
    bool rotated = node->op == EXPR_READ && operand_is_rotated(b, node->value.i);
    if (rotated &&
        (!operand_is_channel(node->args[3], &from) || rotary_separates(b, (uint32_t)from + at)))
      return true;
    for (uint32_t k = 0; k < node->arg_count; k++)
      wanted[node->args[k]->id] = true;
  }
  return false;
}

bool product_takes_codes(struct build *b, const struct expr *read)
{
  enum dtype spec = b->options->type;
  enum dtype type = cache_storage(b->cache->spec, (uint32_t)read->value.i)->type;
  return b->options->target == TARGET_HOST && (spec == DTYPE_F16 || spec == DTYPE_BF16) &&
         (type == DTYPE_I8 || type == DTYPE_I4 || type == DTYPE_I2);
}

bool product_take_scale(struct build *b, const struct expr *read, uint32_t channels,
                        const struct expr **codes, const struct expr **scale)
{
  struct access_parts parts;
  access_parts(b, read, &parts);
  const struct spec_storage *storage = cache_storage(b->cache->spec, (uint32_t)read->value.i);
  bool plain = parts.scale != NULL && parts.recent == NULL && !storage->asymmetric &&
               storage->table == 0 && !operand_is_rotated(b, read->value.i);
  if (!plain || storage->axis != CACHE_AXIS_TOKEN)
    return false;
  int64_t from;
  if (!operand_is_channel(parts.channel, &from) || from >= parts.channels)
    return false;
  if (storage->group != 0 && from % storage->group + channels > storage->group)
    return false;
  const struct expr *first = expr_int(b->pool, 0);
  *scale = expr_substitute(b->pool, parts.scale, EXPR_VAR_C, first);
  *codes = parts.data;
  return true;
}

/* One piece, the product itself, where it is not of that kind. */
static uint32_t split_cached(struct build *b, const struct product *product,
                             struct piece pieces[MAX_PIECES])
{
  const struct expr *read = product->column;
  uint32_t count = 0;
  int64_t from;
  pieces[0] = (struct piece){.product = *product};
  bool cached = product->term == NULL && read->op == EXPR_READ &&
                (read->value.i == EXPR_TENSOR_K || read->value.i == EXPR_TENSOR_V) &&
                access_is_cached(b, (uint32_t)read->value.i) &&
                operand_is_channel(read->args[3], &from);
  if (!cached)
    return 1;
  uint32_t source = (uint32_t)read->value.i, first = (uint32_t)from;
  const struct spec_storage *storage = cache_storage(b->cache->spec, source);
  uint32_t channels = cache_channels(b->cache->spec, source);
  for (uint32_t at = 0; at < product->channels;) {
    uint32_t end = piece_end(b, storage, channels, first + at), next = product->channels;
    next = end - first < next ? end - first : next;
    bool last = next == product->channels;
    bool apart = !last && (separates_pairs(b, product->row, next) ||
                           separates_pairs(b, product->column, next));
    if (count == MAX_PIECES || apart) {
      pieces[0] = (struct piece){.product = *product};
      return 1;
    }
    pieces[count] = (struct piece){.product = {.row = from_channel(b, product->row, at),
                                               .column = from_channel(b, product->column, at),
                                               .channels = next - at}};
    struct piece *piece = &pieces[count++];
    piece->codes = product_take_scale(b, piece->product.column, piece->product.channels,
                                      &piece->product.column, &piece->scale) &&
                   product_takes_codes(b, read);
    at = next;
  }
  return count;
}

static struct tile_value *scaled(struct build *b, struct tile_value *x, const struct expr *scale)
{
  if (scale == NULL)
    return x;
  struct tile_value *by_key = build_tile(b, (struct frame){CLASS_KEY, 0, 0}, scale);
  struct tile_value *operands[] = {x, tile_transpose(&b->tile, by_key)};
  const struct expr *e =
      expr_mul(b->pool, expr_arg(b->pool, 0, EXPR_FLOAT), expr_arg(b->pool, 1, EXPR_FLOAT));
  return tile_map(&b->tile, TILE_F32, e, operands, 2);
}

static struct tile_value *added(struct build *b, struct tile_value *x, struct tile_value *y)
{
  struct tile_value *operands[] = {x, y};
  const struct expr *e =
      expr_add(b->pool, expr_arg(b->pool, 0, EXPR_FLOAT), expr_arg(b->pool, 1, EXPR_FLOAT));
  return tile_map(&b->tile, TILE_F32, e, operands, 2);
}

static struct tile_value *cached_product(struct build *b, const struct piece *pieces,
                                         uint32_t count)
{
  struct tile_value *sum = NULL;
  for (uint32_t n = 0; n < count; n++) {
    const struct piece *piece = &pieces[n];
    struct tile_value *row = part_value(b, &piece->product, CLASS_QUERY);
    struct tile_value *column = part_value(b, &piece->product, CLASS_KEY);
    bool alone = piece->scale != NULL; /* before others are added */
    struct tile_value *own = tile_product(&b->tile, row, false, column, true, alone ? NULL : sum);
    own->def->codes = piece->codes;
    own = scaled(b, own, piece->scale);
    sum = alone && sum != NULL ? added(b, sum, own) : own;
  }
  return sum;
}

void product_hoist(struct build *b, const struct product *product)
{
  struct piece pieces[MAX_PIECES];
  uint32_t count = split_cached(b, product, pieces);
  for (uint32_t n = 0; n < count; n++) {
    part_value(b, &pieces[n].product, CLASS_QUERY);
    build_hoist(b, frame_channels(CLASS_KEY, pieces[n].product.channels), pieces[n].product.column);
  }
}

struct tile_value *product_value(struct build *b, const struct product *product)
{
  struct piece pieces[MAX_PIECES];
  uint32_t count = split_cached(b, product, pieces);
  if (product->term == NULL)
    return cached_product(b, pieces, count);
  struct tile_value *row = part_value(b, product, CLASS_QUERY);
  struct tile_value *column = part_value(b, product, CLASS_KEY);
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
