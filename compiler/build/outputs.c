/* Outputs that need the final weights: the matrix itself, entropies, and what every key receives.
 */
#include "compiler/build/passes.h"

bool outputs_want(const struct spec *spec, enum output_kind kind)
{
  for (uint32_t n = 0; n < spec->output_count; n++)
    if (spec->outputs[n].kind == kind)
      return true;
  return false;
}

/* ---- weights ---- */

static uint32_t weights_output(const struct spec *spec)
{
  uint32_t n = 0;
  while (n < spec->output_count && spec->outputs[n].kind != OUTPUT_WEIGHTS)
    n++;
  return n;
}

/* Tiles that no walk visits hold hidden pairs only. */
void outputs_clear_weights(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  uint32_t output = weights_output(b->spec);
  if (output == b->spec->output_count)
    return;
  struct tile_value *first = build_value(b, frame_scalar(), expr_long(pool, 0));
  struct tile_value *end =
      tile_scalar(t, TILE_INDEX, build_long(b, build_size(b, EXPR_VAR_SIZE_NK)), NULL, 0);
  struct tile_value *zeros = tile_splat(t, TILE_F32, b->rows, b->columns, 0);
  uint32_t number = build_output(b, output);
  struct tile_op *loop = tile_for(t, first, end, b->columns, NULL, 0);
  struct tile_value *parts[] = {end, loop->regions[0]->arguments[0]};
  const struct expr *left =
      expr_sub(pool, expr_arg(pool, 0, EXPR_LONG), expr_arg(pool, 1, EXPR_LONG));
  struct placement place = {.column = parts[1],
                            .live_columns = tile_scalar(t, TILE_INDEX, left, parts, 2)};
  operand_store(b, number, place, zeros);
  tile_yield(t, NULL, 0);
  tile_end_region(t);
}

void outputs_store_weights(struct build *b, struct tile_value *weights)
{
  uint32_t output = weights_output(b->spec);
  if (output == b->spec->output_count)
    return;
  struct placement place = {.column = b->key_base, .live_columns = b->live_keys};
  operand_store(b, build_output(b, output), place, weights);
}

/* ---- entropy ---- */

struct tile_value *outputs_add_entropy(struct build *b, struct tile_value *entropy,
                                       struct tile_value *weights)
{
  struct expr_pool *pool = b->pool;
  const struct expr *w = expr_arg(pool, 0, EXPR_FLOAT), *zero = expr_float(pool, 0);
  const struct expr *term = expr_mul(pool, w, expr_unary(pool, EXPR_LOG, w));
  term = expr_select(pool, expr_binary(pool, EXPR_EQ, w, zero), zero, term);
  struct tile_value *terms = row_map(&b->tile, term, 1, weights);
  const struct expr *sum =
      expr_sub(pool, expr_arg(pool, 0, EXPR_FLOAT), expr_arg(pool, 1, EXPR_FLOAT));
  return row_map(&b->tile, sum, 2, entropy, tile_reduce(&b->tile, TILE_REDUCE_SUM, 1, terms));
}
