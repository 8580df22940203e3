#include "compiler/build/split.h"

#include "compiler/build/cascade.h"
#include "compiler/build/passes.h"

enum {
  NO_TILE = 1 << 30 /* beyond every tile of keys */
};

static struct tile_value *scalar(struct build *b, const char *name, const struct expr *e,
                                 struct tile_value *const *operands, size_t count)
{
  struct tile_value *value = tile_scalar(&b->tile, TILE_INDEX, e, operands, count);
  tile_set_name(&b->tile, value, name);
  return value;
}

static const struct expr *argument(struct build *b, uint32_t n)
{
  return expr_arg(b->pool, n, EXPR_LONG);
}

/* ---- how many parts ---- */

/* Tiles of keys that a part has at least. */
static uint32_t least_tiles(const struct build *b)
{
  return (b->options->schedule.part + b->columns - 1) / b->columns;
}

uint32_t split_least_keys(const struct build *b)
{
  return least_tiles(b) * b->columns;
}

/* LONG, over the sizes. */
static const struct expr *part_count(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct schedule *schedule = &b->options->schedule;
  const struct expr *one = expr_long(pool, 1);
  const struct expr *keys = build_long(b, build_var(b, EXPR_VAR_SIZE_NK));
  const struct expr *least = expr_long(pool, split_least_keys(b));
  const struct expr *parts;
  if (schedule->tasks == SCHEDULE_ALL_TASKS) {
    parts = expr_quotient_up(pool, keys, least);
  } else {
    const struct expr *tiles = expr_mul(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_B)),
                                        expr_long(pool, b->spec->query_heads / b->share));
    tiles = expr_max(pool, expr_mul(pool, tiles, build_row_tiles(b)), one);
    parts = expr_min(pool, expr_quotient_up(pool, expr_long(pool, schedule->tasks), tiles),
                     expr_quotient(pool, keys, least));
  }
  return expr_min(pool, expr_max(pool, parts, one), expr_long(pool, SPLIT_MOST_PARTS));
}

struct tile_value *split_part_count(struct build *b)
{
  return scalar(b, "parts", operand_launch_size(b, part_count(b)), NULL, 0);
}

/* ---- which keys ---- */

/* The tiles of keys that the segments meet, as ascending ranges that do not overlap. Tiles are
 * numbered twice: by position, and by how many of the ranges' tiles come before. */
struct tile_ranges {
  uint32_t count;
  struct tile_value *begins[VISIBILITY_MAX_SEGMENTS];
  struct tile_value *ordinals[VISIBILITY_MAX_SEGMENTS + 1]; /* of begins, and how many in all */
  struct tile_value *end;                                   /* behind the last */
};

/* Tiles of segment n: begin in operand 2n, end in 2n + 1; both 0 where it is empty. */
static void find_tiles(struct build *b, uint32_t count, struct tile_value *const *ends,
                       struct tile_value **tiles)
{
  struct expr_pool *pool = b->pool;
  const struct expr *lo = argument(b, 0), *hi = argument(b, 1), *zero = expr_long(pool, 0);
  const struct expr *step = expr_long(pool, b->columns);
  const struct expr *some = expr_binary(pool, EXPR_LT, lo, hi);
  for (uint32_t n = 0; n < count; n++) {
    tiles[2 * n] =
        scalar(b, "tile_lo", expr_select(pool, some, expr_quotient(pool, lo, step), zero),
               &ends[2 * n], 2);
    tiles[2 * n + 1] =
        scalar(b, "tile_hi", expr_select(pool, some, expr_quotient_up(pool, hi, step), zero),
               &ends[2 * n], 2);
  }
}

/* From the left: the first tile that was not passed and what follows it without a hole in one
 * segment. Each step passes the rest of a segment. */
static void order_tiles(struct build *b, struct tile_value *const *tiles,
                        struct tile_ranges *ranges)
{
  struct expr_pool *pool = b->pool;
  const uint32_t count = ranges->count;
  const struct expr *zero = expr_long(pool, 0), *passed = argument(b, 2 * count);
  const struct expr *begin = expr_long(pool, NO_TILE), *end = zero;
  for (uint32_t n = 0; n < count; n++) {
    const struct expr *own = argument(b, 2 * n), *own_end = argument(b, 2 * n + 1);
    const struct expr *ahead = expr_binary(pool, EXPR_LT, passed, own_end);
    const struct expr *holds = expr_binary(pool, EXPR_LE, own, argument(b, 2 * count + 1));
    begin =
        expr_min(pool, begin,
                 expr_select(pool, ahead, expr_max(pool, own, passed), expr_long(pool, NO_TILE)));
    end = expr_max(pool, end, expr_select(pool, holds, own_end, zero));
  }
  const struct expr *length = expr_max(pool, expr_sub(pool, argument(b, 0), argument(b, 1)), zero);
  struct tile_value *operands[2 * VISIBILITY_MAX_SEGMENTS + 2];
  for (uint32_t n = 0; n < 2 * count; n++)
    operands[n] = tiles[n];
  operands[2 * count] = ranges->ordinals[0] = build_value(b, frame_scalar(), zero);
  for (uint32_t n = 0; n < count; n++) {
    operands[2 * count + 1] = ranges->begins[n] =
        scalar(b, "begin", begin, operands, 2 * count + 1);
    ranges->end = operands[2 * count] = scalar(b, "end", end, operands, 2 * count + 2);
    struct tile_value *parts[] = {ranges->end, ranges->begins[n], ranges->ordinals[n]};
    ranges->ordinals[n + 1] =
        scalar(b, "ordinal", expr_add(pool, argument(b, 2), length), parts, 3);
  }
}

/* The first position of the tile that so many of the ranges' tiles come before. */
static struct tile_value *position_of(struct build *b, const struct tile_ranges *ranges,
                                      struct tile_value *ordinal)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *operands[2 * VISIBILITY_MAX_SEGMENTS + 3] = {ordinal, ranges->end};
  uint32_t count = 2;
  for (uint32_t n = 0; n < ranges->count; n++)
    operands[count++] = ranges->begins[n];
  for (uint32_t n = 0; n <= ranges->count; n++)
    operands[count++] = ranges->ordinals[n];
  const struct expr *tile = argument(b, 1);
  for (uint32_t n = ranges->count; n-- > 0;) {
    const struct expr *first = argument(b, 2 + ranges->count + n);
    const struct expr *next = argument(b, 2 + ranges->count + n + 1);
    const struct expr *inside = expr_sub(pool, argument(b, 0), first);
    tile = expr_select(pool, expr_binary(pool, EXPR_LT, argument(b, 0), next),
                       expr_add(pool, argument(b, 2 + n), inside), tile);
  }
  return scalar(b, "cut", expr_mul(pool, tile, expr_long(pool, b->columns)), operands, count);
}

void split_cut(struct build *b, struct tile_value *part, struct tile_value *parts)
{
  struct expr_pool *pool = b->pool;
  struct tile_ranges ranges = {.count = b->visibility->keys.segment_count};
  struct tile_value *tiles[2 * VISIBILITY_MAX_SEGMENTS];
  if (ranges.count == 0)
    return;
  b->cut_segments = ARENA_ARRAY(b->arena, struct tile_value *, 2 * (size_t)ranges.count);
  struct tile_value **ends = b->cut_segments;
  pass_segments(b, ends);
  find_tiles(b, ranges.count, ends, tiles);
  order_tiles(b, tiles, &ranges);

  struct tile_value *sizes[] = {ranges.ordinals[ranges.count], parts};
  const struct expr *length = expr_max(pool, expr_quotient_up(pool, argument(b, 0), argument(b, 1)),
                                       expr_long(pool, least_tiles(b)));
  struct tile_value *operands[] = {part, scalar(b, "part_tiles", length, sizes, 2)};
  for (uint32_t k = 0; k < 2; k++) {
    const struct expr *ordinal =
        expr_mul(pool, expr_add(pool, argument(b, 0), expr_long(pool, k)), argument(b, 1));
    struct tile_value *cut =
        position_of(b, &ranges, scalar(b, k == 0 ? "first" : "behind", ordinal, operands, 2));
    for (uint32_t n = 0; n < ranges.count; n++) {
      struct tile_value *both[] = {ends[2 * n + k], cut};
      const struct expr *x = argument(b, 0), *y = argument(b, 1);
      ends[2 * n + k] = scalar(b, k == 0 ? "lo" : "hi",
                               k == 0 ? expr_max(pool, x, y) : expr_min(pool, x, y), both, 2);
    }
  }
}

struct tile_value *split_enter_part(struct build *b)
{
  struct tile_value *parts = split_part_count(b);
  struct tile_value **indices = build_open_row_parts(b, parts);
  tile_set_name(&b->tile, indices[3], "part");
  build_enter_rows(b, indices);
  split_cut(b, indices[3], parts);
  return indices[3];
}

void split_leave_part(struct build *b)
{
  b->cut_segments = NULL;
  tile_end_region(&b->tile);
}

/* ---- what parts find ---- */

/* Tensors by what they hold, numbered as statistics of rows are: no program has both. */
enum part_tensor { PART_STATISTICS, PART_WINNERS, PART_SUMS, PART_TENSORS };

static enum part_tensor tensor_of(const struct tile_value *x)
{
  if (x->type.columns > 1)
    return PART_SUMS;
  return x->type.element == TILE_I32 ? PART_WINNERS : PART_STATISTICS;
}

/* Where each value of a state lies. */
struct part_layout {
  uint32_t counts[PART_TENSORS];
  uint32_t places[PASS_MAX_CARRIED]; /* among those of its tensor */
};

static void lay_out(struct tile_value **const *state, uint32_t count, struct part_layout *layout)
{
  *layout = (struct part_layout){0};
  for (uint32_t k = 0; k < count; k++)
    layout->places[k] = layout->counts[tensor_of(*state[k])]++;
}

static uint32_t part_workspace(struct build *b, const struct part_layout *layout,
                               enum part_tensor tensor, bool written)
{
  static const char *const names[] = {[PART_STATISTICS] = "part_statistics",
                                      [PART_WINNERS] = "part_winners",
                                      [PART_SUMS] = "part_sums"};
  uint32_t columns = layout->counts[tensor] * (tensor == PART_SUMS ? b->spec->dim_v : 1);
  const struct expr *parts = part_count(b);
  if (b->cascades)
    parts = expr_add(b->pool, parts, cascade_part_count(b));
  const struct expr *all = expr_mul(b->pool, parts, expr_long(b->pool, columns));
  const struct workspace workspace = {.number = WORKSPACE_ROWS + (uint32_t)tensor,
                                      .name = names[tensor],
                                      .element = tensor == PART_WINNERS ? DTYPE_I32 : DTYPE_F32,
                                      .columns = expr_convert(b->pool, all, EXPR_INT)};
  return build_workspace(b, &workspace, written);
}

static struct placement place_of(struct build *b, const struct part_layout *layout,
                                 const struct tile_value *x, uint32_t k, struct tile_value *part)
{
  struct expr_pool *pool = b->pool;
  const uint32_t width = x->type.columns;
  const struct expr *place =
      expr_add(pool, expr_mul(pool, argument(b, 0), expr_long(pool, layout->counts[tensor_of(x)])),
               expr_long(pool, layout->places[k]));
  return (struct placement){
      .column = scalar(b, "column", expr_mul(pool, place, expr_long(pool, width)), &part, 1),
      .live_columns = build_value(b, frame_scalar(), expr_long(pool, width))};
}

void split_store(struct build *b, struct tile_value *part, struct tile_value **const *state,
                 uint32_t count)
{
  struct part_layout layout;
  lay_out(state, count, &layout);
  for (uint32_t k = 0; k < count; k++) {
    struct tile_value *x = *state[k];
    operand_store(b, part_workspace(b, &layout, tensor_of(x), true),
                  place_of(b, &layout, x, k, part), x);
  }
}

static void load_part(struct build *b, struct tile_value *part, struct tile_value **const *state,
                      struct tile_value **loaded, uint32_t count)
{
  struct part_layout layout;
  lay_out(state, count, &layout);
  for (uint32_t k = 0; k < count; k++) {
    const struct tile_value *x = *state[k];
    loaded[k] = operand_load_tokens(b, part_workspace(b, &layout, tensor_of(x), false),
                                    place_of(b, &layout, x, k, part), x->type);
  }
}

void split_load(struct build *b, struct tile_value *part, struct tile_value **const *state,
                uint32_t count)
{
  struct tile_value *loaded[PASS_MAX_CARRIED];
  load_part(b, part, state, loaded, count);
  for (uint32_t k = 0; k < count; k++)
    *state[k] = loaded[k];
}

/* What was loaded, or `nothing` where the part does not exist. Sums need no choice. */
static struct tile_value *if_exists(struct build *b, struct tile_value *exists,
                                    struct tile_value *loaded, struct tile_value *nothing)
{
  const enum tile_element element = loaded->type.element;
  const enum expr_type type = tile_element_expr_type(element);
  if (loaded->type.columns > 1)
    return loaded;
  struct tile_value *operands[] = {exists, loaded, nothing};
  const struct expr *choice = expr_select(b->pool, expr_arg(b->pool, 0, EXPR_BOOL),
                                          expr_arg(b->pool, 1, type), expr_arg(b->pool, 2, type));
  return tile_map(&b->tile, element, choice, operands, 3);
}

static struct tile_value *has_part(struct build *b, struct tile_value *first, uint32_t n,
                                   struct tile_value *parts)
{
  struct tile_value *operands[] = {first, parts};
  const struct expr *number = expr_add(b->pool, argument(b, 0), expr_long(b->pool, n));
  return tile_scalar(&b->tile, TILE_BOOL, expr_binary(b->pool, EXPR_LT, number, argument(b, 1)),
                     operands, 2);
}

struct tile_value *split_has_rest(struct build *b, struct tile_value *first,
                                  struct tile_value *parts)
{
  return has_part(b, first, 1, parts);
}

void split_load_rest(struct build *b, struct tile_value *first, struct tile_value *parts,
                     struct tile_value **const *const *states, uint32_t several, uint32_t count)
{
  struct tile_value *(*loaded)[PASS_MAX_CARRIED] = arena_alloc(b->arena, sizeof(*loaded) * several);
  struct tile_value **exist = ARENA_ARRAY(b->arena, struct tile_value *, several);
  struct tile_value *live_rows = b->live_rows;
  for (uint32_t n = 1; n < several; n++) {
    struct tile_value *operands[] = {first, parts};
    const struct expr *last = expr_sub(b->pool, argument(b, 1), expr_long(b->pool, 1));
    const struct expr *number = expr_add(b->pool, argument(b, 0), expr_long(b->pool, n));
    exist[n] = has_part(b, first, n, parts);
    struct tile_value *rows[] = {exist[n], live_rows};
    const struct expr *live = expr_select(b->pool, expr_arg(b->pool, 0, EXPR_BOOL), argument(b, 1),
                                          expr_long(b->pool, 0));
    b->live_rows = scalar(b, "live_rows", live, rows, 2); /* none of a part that is not there */
    load_part(b, scalar(b, "part", expr_min(b->pool, number, last), operands, 2), states[n],
              loaded[n], count);
  }
  b->live_rows = live_rows;
  for (uint32_t n = 1; n < several; n++)
    for (uint32_t k = 0; k < count; k++)
      *states[n][k] = if_exists(b, exist[n], loaded[n][k], *states[n][k]);
}
