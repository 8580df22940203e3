/* The forward kernel: a task has one tile of rows and walks the keys that these can see, once where
 * sums under unnormalised weights can be finished at the end, and otherwise first for the rows'
 * statistics and then for the weights themselves. For decoding the one walk is split. */
#include "compiler/build/cascade.h"
#include "compiler/build/passes.h"
#include "compiler/build/split.h"

#include <math.h>

struct forward {
  struct build_maps maps;
  struct value_sums sums;
  struct tile_value *accumulators[SPEC_MAX_MAPS][SUMS_MAX]; /* of map 0 in a second look */
  struct final_weights final;
  struct tile_value *total; /* of the weights, for `renormalize` */
  struct tile_value *entropies[SPEC_MAX_OUTPUTS];
  uint32_t searched; /* the map whose search walks */
  struct tile_value *probe[ROWS_MAX_PROBE];
};

static bool is_map(const struct expr *e)
{
  return e->op == EXPR_MAP;
}

static bool stores_weights(const struct spec *spec)
{
  return outputs_want(spec, OUTPUT_MASS) || outputs_want(spec, OUTPUT_WEIGHTS);
}

bool forward_looks_twice(struct build *b)
{
  const struct spec *spec = b->spec;
  bool needs = spec->weight_kind == WEIGHT_RENORMALIZE ||
               !build_is_linear(b, spec->weight, is_map) || stores_weights(spec) ||
               outputs_want(spec, OUTPUT_ENTROPY);
  for (uint32_t m = 0; m < spec->map_count; m++)
    needs |= row_algebra_of(spec->maps[m].normalizer)->search != NULL;
  return needs;
}

static void start_sums(struct build *b, struct forward *f, uint32_t map)
{
  for (uint32_t n = 0; n < f->sums.count; n++)
    f->accumulators[map][n] = tile_splat(&b->tile, TILE_F32, b->rows, b->spec->dim_v, 0);
}

static void carry_sums(struct forward *f, struct pass *pass, uint32_t map)
{
  for (uint32_t n = 0; n < f->sums.count; n++)
    pass_carry(pass, &f->accumulators[map][n]);
}

/* ---- one look ---- */

static void visit_once(struct build *b, void *user, const struct pass_tile *tile)
{
  struct forward *f = user;
  struct build_maps *maps = &f->maps;
  struct tile_value *weights[SPEC_MAX_MAPS], *rescale[SPEC_MAX_MAPS];
  for (uint32_t m = 0; m < maps->count; m++) {
    struct build_map *map = &maps->items[m];
    struct row_scores scores = pass_row_scores(b, tile, maps, m);
    weights[m] = map->algebra->update(&b->tile, &map->state, &scores, &rescale[m]);
    if (maps->in_walk[m] == NULL || maps->in_walk[m]->op == EXPR_MAP)
      continue;
    build_set_value(b, expr_map(b->pool, m), frame_pair(), weights[m]);
    weights[m] = build_tile(b, frame_pair(), maps->in_walk[m]);
    /* 0 times what the formula makes of a hidden pair may be NaN */
    weights[m] = weights_where(b, tile->visible, NULL, weights[m]);
  }
  sums_enter_tile(b, &f->sums, tile);
  for (uint32_t m = 0; m < maps->count; m++)
    if (maps->in_walk[m] != NULL)
      sums_add(b, &f->sums, f->accumulators[m], weights[m], rescale[m], tile);
}

/* What is left of the weight, of the sums of every map. */
static struct tile_value *combine(struct build *b, struct forward *f, uint32_t sum)
{
  struct build_maps *maps = &f->maps;
  struct frame frame = frame_channels(CLASS_QUERY, b->spec->dim_v);
  size_t mark = b->values.count;
  bool plain = maps->weight->op == EXPR_MAP;
  for (uint32_t m = 0; m < maps->count; m++) {
    struct build_map *map = &maps->items[m];
    if (maps->in_walk[m] != NULL)
      build_set_value(
          b, expr_map(b->pool, m), frame,
          map->algebra->finish(&b->tile, &map->state, &map->rest, f->accumulators[m][sum]));
  }
  struct tile_value *total = build_tile(b, frame, maps->weight);
  b->values.count = mark;
  return plain ? total : weights_where(b, NULL, maps_alive(b, maps), total);
}

static void start_once(struct build *b, struct forward *f)
{
  struct build_maps *maps = &f->maps;
  for (uint32_t m = 0; m < maps->count; m++)
    maps->items[m].state = maps_start_rows(b, &maps->items[m]);
  maps_split_weight(b, maps);
  for (uint32_t m = 0; m < maps->count; m++)
    if (maps->in_walk[m] != NULL) {
      f->sums.largest = fmax(f->sums.largest, maps_largest(b, maps, maps->in_walk[m]));
      start_sums(b, f, m);
    }
  if (f->sums.count == 1 && b->spec->weight == expr_map(b->pool, 0))
    maps->items[0].state.rounded = sums_element(b, &f->sums, 0);
}

/* The accumulators and then the states of all maps. */
static void carry_once(struct forward *f, struct pass *pass)
{
  for (uint32_t m = 0; m < f->maps.count; m++)
    if (f->maps.in_walk[m] != NULL)
      carry_sums(f, pass, m);
  for (uint32_t m = 0; m < f->maps.count; m++)
    pass_carry_state(pass, &f->maps.items[m]);
}

static void walk_once(struct build *b, struct forward *f, struct pass *pass)
{
  const bool flat = b->flat_sequence != NULL; /* nothing is checked, and positions do not ascend */
  *pass = (struct pass){.maps = &f->maps,
                        .wanted = ~0u,
                        .checks = flat ? 0 : CHECK_ALL,
                        .whole = flat,
                        .visit = visit_once,
                        .user = f};
  start_once(b, f);
  carry_once(f, pass);
  pass_walk(b, pass);
}

static struct tile_value *end_once(struct build *b, struct forward *f)
{
  maps_rest(b, &f->maps);
  struct tile_value *totals[SUMS_MAX];
  for (uint32_t n = 0; n < f->sums.count; n++)
    totals[n] = combine(b, f, n);
  return sums_choose(b, &f->sums, totals);
}

/* ---- two looks ---- */

static void visit_statistics(struct build *b, void *user, const struct pass_tile *tile)
{
  struct forward *f = user;
  for (uint32_t m = 0; m < f->maps.count; m++) {
    struct build_map *map = &f->maps.items[m];
    struct row_scores scores = pass_row_scores(b, tile, &f->maps, m);
    struct tile_value *rescale;
    map->algebra->update(&b->tile, &map->state, &scores, &rescale);
    if (map->top == NULL)
      continue;
    struct tile_value *shown =
        row_where_visible(&b->tile, tile->visible, tile->scores[m], -(double)INFINITY);
    map->top = row_larger(&b->tile, map->top, row_largest(&b->tile, shown));
  }
}

static void gather_statistics(struct build *b, struct forward *f)
{
  struct pass pass = {.maps = &f->maps,
                      .wanted = ~0u,
                      .checks = CHECK_MASK | CHECK_SCORES,
                      .visit = visit_statistics,
                      .user = f};
  for (uint32_t m = 0; m < f->maps.count; m++) {
    struct build_map *map = &f->maps.items[m];
    map->state = maps_start_rows(b, map);
    if (map->state.maximum == NULL)
      map->top = tile_splat(&b->tile, TILE_F32, b->rows, 1, -(double)INFINITY);
    pass_carry_state(&pass, map);
  }
  pass_walk(b, &pass);
}

static void visit_search(struct build *b, void *user, const struct pass_tile *tile)
{
  struct forward *f = user;
  struct build_map *map = &f->maps.items[f->searched];
  struct row_scores scores = pass_row_scores(b, tile, &f->maps, f->searched);
  map->algebra->search->look(&b->tile, &map->state, &scores, f->probe);
}

/* Bool [1, 1]: whether a row that lives has not settled. */
static struct tile_value *is_open(struct build *b, const struct build_map *map)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *operands[] = {
      map->algebra->search->open(&b->tile, &map->state),
      build_value(b, (struct frame){CLASS_QUERY, 0, 0}, build_row_lives(b))};
  const struct expr *both =
      expr_and(pool, expr_arg(pool, 0, EXPR_BOOL), expr_arg(pool, 1, EXPR_BOOL));
  return tile_reduce(&b->tile, TILE_REDUCE_ANY, 0,
                     tile_map(&b->tile, TILE_BOOL, both, operands, 2));
}

static size_t list_state(struct build_map *map, struct tile_value *list[ROWS_MAX_STATE],
                         struct tile_type types[ROWS_MAX_STATE])
{
  struct tile_value **fields[ROWS_MAX_STATE];
  size_t count = row_state_fields(&map->state, fields);
  for (size_t k = 0; k < count; k++) {
    list[k] = *fields[k];
    types[k] = list[k]->type;
  }
  return count;
}

static void assign_state(struct build_map *map, struct tile_value *const *list)
{
  struct tile_value **fields[ROWS_MAX_STATE];
  size_t count = row_state_fields(&map->state, fields);
  for (size_t k = 0; k < count; k++)
    *fields[k] = list[k];
}

/* Walks until every row has settled, `passes` times at most. */
static void search_map(struct build *b, struct forward *f, uint32_t m)
{
  struct tile_builder *t = &b->tile;
  struct build_map *map = &f->maps.items[m];
  const struct row_search *search = map->algebra->search;
  struct tile_value *state[ROWS_MAX_STATE];
  struct tile_type types[ROWS_MAX_STATE];
  build_value(b, (struct frame){CLASS_QUERY, 0, 0}, build_row_lives(b));
  size_t count = list_state(map, state, types);
  struct tile_value *first = build_value(b, frame_scalar(), expr_long(b->pool, 0));
  struct tile_value *end = build_value(b, frame_scalar(), expr_long(b->pool, search->passes));
  size_t mark = b->values.count;
  struct tile_op *loop = tile_for(t, first, end, 1, state, count);
  assign_state(map, loop->regions[0]->arguments + 1);
  list_state(map, state, types);
  struct tile_op *choice = tile_if(t, is_open(b, map), types, count);
  struct pass pass = {.maps = &f->maps, .wanted = 1u << m, .visit = visit_search, .user = f};
  f->searched = m;
  size_t probes = search->begin(t, b->rows, f->probe);
  for (size_t k = 0; k < probes; k++)
    pass_carry(&pass, &f->probe[k]);
  pass_walk(b, &pass);
  search->step(t, &map->state, f->probe);
  struct tile_value *next[ROWS_MAX_STATE];
  list_state(map, next, types);
  tile_yield(t, next, count);
  tile_open_region(t, choice, 1);
  tile_yield(t, state, count);
  tile_end_region(t);
  tile_yield(t, choice->results, count);
  tile_end_region(t);
  assign_state(map, loop->results);
  b->values.count = mark;
}

static void add_to_total(struct build *b, struct forward *f, struct tile_value *weights)
{
  struct expr_pool *pool = b->pool;
  const struct expr *sum =
      expr_add(pool, expr_arg(pool, 0, EXPR_FLOAT), expr_arg(pool, 1, EXPR_FLOAT));
  f->total =
      row_map(&b->tile, sum, 2, f->total, tile_reduce(&b->tile, TILE_REDUCE_SUM, 1, weights));
}

static void visit_total(struct build *b, void *user, const struct pass_tile *tile)
{
  struct forward *f = user;
  add_to_total(b, f, final_weights_of(b, &f->final, tile));
}

static void visit_weights(struct build *b, void *user, const struct pass_tile *tile)
{
  struct forward *f = user;
  const struct spec *spec = b->spec;
  struct tile_value *weights = final_weights_of(b, &f->final, tile);
  for (uint32_t n = 0; n < spec->output_count; n++)
    if (f->entropies[n] != NULL)
      f->entropies[n] = outputs_add_entropy(
          b, f->entropies[n],
          build_find_value(b, expr_map(b->pool, spec->outputs[n].map), frame_pair()));
  if (f->total != NULL && f->final.total == NULL)
    add_to_total(b, f, weights);
  outputs_store_weights(b, weights);
  sums_enter_tile(b, &f->sums, tile);
  sums_add(b, &f->sums, f->accumulators[0], weights, NULL, tile);
}

static struct tile_value *look_twice(struct build *b, struct forward *f)
{
  const struct spec *spec = b->spec;
  gather_statistics(b, f);
  for (uint32_t m = 0; m < f->maps.count; m++)
    if (f->maps.items[m].algebra->search != NULL)
      search_map(b, f, m);
  maps_rest(b, &f->maps);
  maps_close(b, &f->maps);
  f->final = (struct final_weights){.maps = &f->maps, .alive = maps_alive(b, &f->maps)};
  unsigned checks = CHECK_WEIGHT | CHECK_VALUE;
  if (spec->weight_kind == WEIGHT_RENORMALIZE)
    f->total = tile_splat(&b->tile, TILE_F32, b->rows, 1, 0);
  if (f->total != NULL && stores_weights(spec)) { /* which are to be divided already */
    struct pass pass = {
        .maps = &f->maps, .wanted = ~0u, .checks = CHECK_WEIGHT, .visit = visit_total, .user = f};
    pass_carry(&pass, &f->total);
    pass_walk(b, &pass);
    f->final.total = f->total;
    checks = CHECK_VALUE;
  }
  outputs_clear_weights(b);
  struct pass pass = {.maps = &f->maps,
                      .wanted = ~0u,
                      .checks = checks,
                      .whole = outputs_want(spec, OUTPUT_WEIGHTS),
                      .visit = visit_weights,
                      .user = f};
  f->sums.largest =
      f->final.total != NULL ? (double)INFINITY : maps_largest(b, &f->maps, spec->weight);
  start_sums(b, f, 0);
  carry_sums(f, &pass, 0);
  for (uint32_t n = 0; n < spec->output_count; n++)
    if (spec->outputs[n].kind == OUTPUT_ENTROPY) {
      f->entropies[n] = tile_splat(&b->tile, TILE_F32, b->rows, 1, 0);
      pass_carry(&pass, &f->entropies[n]);
    }
  bool divides = f->total != NULL && f->final.total == NULL;
  if (divides)
    pass_carry(&pass, &f->total);
  pass_walk(b, &pass);
  if (outputs_want(spec, OUTPUT_MASS))
    mass_store_rows(b, &f->final);
  struct tile_value *o = sums_choose(b, &f->sums, f->accumulators[0]);
  return divides ? divide_by_total(b, o, f->total) : o;
}

/* ---- the kernel ---- */

static bool needs_guards(struct build *b)
{
  const struct spec *spec = b->spec;
  bool needs = checks_needed(b, spec->mask, BOUNDS_MASK) ||
               checks_needed(b, spec->weight, BOUNDS_PAIR) ||
               checks_needed(b, spec->value, BOUNDS_PAIR);
  for (uint32_t m = 0; m < spec->map_count; m++)
    needs |= checks_needed(b, spec->maps[m].score, BOUNDS_PAIR);
  return needs;
}

/* Of a kernel that walks keys, whose task was entered. */
static struct forward *enter_walks(struct build *b)
{
  struct forward *f = ARENA_NEW(b->arena, struct forward);
  maps_init(b, &f->maps);
  sums_plan(b, &f->sums);
  if (b->visibility->keys.segment_count > 0) {
    maps_hoist(b, &f->maps);
    sums_hoist(b, &f->sums);
    if (b->flat_sequence == NULL && needs_guards(b))
      build_hoist(b, frame_pair(), build_mask_reached(b));
  }
  if (b->spec->has_rotary && b->flat_sequence == NULL)
    checks_emit(b, (struct frame){CLASS_QUERY, 0, 0}, b->spec->rotary.query_position, BOUNDS_ROW,
                build_row_sees(b));
  return f;
}

static void build_whole(struct build *b)
{
  build_open_kernel(b, "forward");
  build_enter_rows(b, build_open_rows(b));
  struct forward *f = enter_walks(b);
  struct pass pass;
  struct tile_value *o;
  if (forward_looks_twice(b)) {
    o = look_twice(b, f);
  } else {
    walk_once(b, f, &pass);
    o = end_once(b, f);
  }
  finish_store(b, &f->maps, o, f->entropies);
  tile_end_region(&b->tile);
}

/* ---- parts of the keys, and their merge ---- */

static void build_prefix(struct build *b)
{
  struct cascade_frame frame;
  build_open_kernel(b, "forward_prefix");
  struct tile_value *part = cascade_enter_prefix(b, &frame);
  struct pass pass;
  walk_once(b, enter_walks(b), &pass);
  split_store(b, part, pass.carried, pass.carried_count);
  cascade_leave_prefix(b, &frame);
}

static void build_part(struct build *b)
{
  build_open_kernel(b, "forward_part");
  struct tile_value *part = split_enter_part(b);
  struct pass pass;
  walk_once(b, enter_walks(b), &pass);
  split_store(b, part, pass.carried, pass.carried_count);
  split_leave_part(b);
}

/* How many parts are merged in a turn. A GPU waits for memory once a turn; there are as many as
 * registers hold. Those that the last turn lacks are as good as empty, which changes no bit. */
static uint32_t parts_at_once(const struct build *b, const struct pass *state)
{
  enum { REGISTERS = 200, MADE = 2 /* of the size of a part: what they are added to */ };
  enum { BLOCK_ROWS = 16, BLOCK_COLUMNS = 8, BLOCK_REGISTERS = 4 };
  const struct schedule *s = &b->options->schedule;
  if (b->options->target == TARGET_HOST)
    return 1;
  const uint32_t row_step = BLOCK_ROWS * (s->warps / s->column_warps);
  const uint32_t column_step = BLOCK_COLUMNS * s->column_warps;
  uint32_t registers = 0;
  for (uint32_t k = 0; k < state->carried_count; k++) {
    const struct tile_type type = (*state->carried[k])->type;
    const uint32_t row_blocks = (type.rows + row_step - 1) / row_step;
    const uint32_t column_blocks = (type.columns + column_step - 1) / column_step;
    registers += row_blocks * (type.columns == 1 ? 2 : BLOCK_REGISTERS * column_blocks);
  }
  const uint32_t parts = REGISTERS / registers;
  return parts <= MADE + 1 ? 1 : parts - MADE > ROWS_MAX_PARTS ? ROWS_MAX_PARTS : parts - MADE;
}

static void merge_into(struct build *b, struct forward *f, const struct forward *parts,
                       uint32_t count)
{
  for (uint32_t m = 0; m < f->maps.count; m++) {
    struct build_map *map = &f->maps.items[m];
    struct row_part found[ROWS_MAX_PARTS];
    for (uint32_t n = 0; n < count; n++)
      found[n] = (struct row_part){&parts[n].maps.items[m].state, parts[n].accumulators[m]};
    map->algebra->merge(&b->tile, &map->state, f->accumulators[m],
                        f->maps.in_walk[m] != NULL ? f->sums.count : 0, found, count);
  }
}

/* What is merged: the state of the rows so far, and those of the parts of a turn. */
struct merging {
  struct forward *whole, *parts;
  struct pass state;                  /* whose carried values are those of `whole` */
  struct tile_value **const **states; /* likewise, of each part */
  uint32_t several;
};

/* Merges part `first` and, where there are any, those that follow it in the turn. */
static void merge_turn(struct build *b, struct merging *m, struct tile_value *first,
                       struct tile_value *end)
{
  struct tile_builder *t = &b->tile;
  const uint32_t count = m->state.carried_count;
  struct tile_value *before[PASS_MAX_CARRIED], *merged[PASS_MAX_CARRIED];
  struct tile_type types[PASS_MAX_CARRIED];
  split_load(b, first, m->states[0], count);
  if (m->several == 1) {
    merge_into(b, m->whole, m->parts, 1);
    return;
  }
  for (uint32_t k = 0; k < count; k++) {
    before[k] = *m->state.carried[k];
    types[k] = before[k]->type;
  }
  struct tile_op *choice = tile_if(t, split_has_rest(b, first, end), types, count);
  const size_t mark = b->values.count;
  split_load_rest(b, first, end, m->states, m->several, count);
  for (uint32_t region = 0; region < 2; region++) {
    merge_into(b, m->whole, m->parts, region == 0 ? m->several : 1);
    for (uint32_t k = 0; k < count; k++) {
      merged[k] = *m->state.carried[k];
      *m->state.carried[k] = before[k];
    }
    tile_yield(t, merged, count);
    b->values.count = mark;
    if (region == 0)
      tile_open_region(t, choice, 1);
  }
  tile_end_region(t);
  for (uint32_t k = 0; k < count; k++)
    *m->state.carried[k] = choice->results[k];
}

static void merge_parts(struct build *b, struct forward *f)
{
  struct tile_builder *t = &b->tile;
  struct merging m = {.whole = f};
  carry_once(f, &m.state);
  const uint32_t count = m.state.carried_count;
  m.several = parts_at_once(b, &m.state);
  m.parts = ARENA_ARRAY(b->arena, struct forward, m.several);
  struct pass *found = ARENA_ARRAY(b->arena, struct pass, m.several);
  m.states = ARENA_ARRAY(b->arena, struct tile_value * *const *, m.several);
  for (uint32_t n = 0; n < m.several; n++) {
    m.parts[n] = *f;
    carry_once(&m.parts[n], &found[n]);
    m.states[n] = found[n].carried;
  }
  struct tile_value *carried[PASS_MAX_CARRIED];
  for (uint32_t k = 0; k < count; k++)
    carried[k] = *m.state.carried[k];
  struct tile_value *first = build_value(b, frame_scalar(), expr_long(b->pool, 0));
  struct tile_value *parts = b->cascades ? cascade_merged_parts(b) : split_part_count(b);
  struct tile_op *loop = tile_for(t, first, parts, m.several, carried, count);
  size_t mark = b->values.count;
  struct tile_value **arguments = loop->regions[0]->arguments;
  tile_set_name(t, arguments[0], "part");
  for (uint32_t k = 0; k < count; k++)
    *m.state.carried[k] = arguments[1 + k];
  merge_turn(b, &m, arguments[0], parts);
  for (uint32_t k = 0; k < count; k++)
    carried[k] = *m.state.carried[k];
  tile_yield(t, carried, count);
  tile_end_region(t);
  b->values.count = mark;
  for (uint32_t k = 0; k < count; k++)
    *m.state.carried[k] = loop->results[k];
}

static void build_merge(struct build *b)
{
  build_open_kernel(b, "merge");
  build_enter_rows(b, build_open_rows(b));
  struct forward *f = ARENA_NEW(b->arena, struct forward);
  maps_init(b, &f->maps);
  sums_plan(b, &f->sums);
  start_once(b, f);
  merge_parts(b, f);
  finish_store(b, &f->maps, end_once(b, f), f->entropies);
  tile_end_region(&b->tile);
}

void forward_build(struct build *b)
{
  if (b->options->kernel == KERNEL_DECODE && !forward_looks_twice(b)) {
    struct cascade_frame frame;
    b->cascades = cascade_is_possible(b);
    if (b->cascades) {
      build_prefix(b);
      cascade_begin_rest(b, &frame);
    }
    build_part(b);
    if (b->cascades)
      cascade_end_rest(b, &frame);
    build_merge(b);
  } else {
    build_whole(b);
  }
}
