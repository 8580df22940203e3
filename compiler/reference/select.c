/* Block selection: which blocks of keys a row may see besides its mask (MoBA, Lu et al. 2025; NSA,
 * Yuan et al. 2025). A block without a visible key is no candidate. Forced blocks (`always`) are
 * taken first and count; the rest goes by rank, ties to the lowest index. With per = g the heads of
 * a group share one choice: ranks are added up, and a block forced or visible for one head is so
 * for all. */
#include "compiler/reference/run.h"

#include <math.h>
#include <string.h>

static union expr_value compute_mean(void *user, const struct expr *e)
{
  struct ref_run_state *run = user;
  const struct expr *body = e->args[1];
  int64_t first = run->block * run->spec->select.block;
  int64_t last = first + run->spec->select.block;
  double sum = 0;
  int64_t count = 0;
  for (int64_t j = first; j < last && j < run->keys; j++) {
    if (!run->key_visible[j])
      continue;
    expr_set_bound(run->evaluator, (uint32_t)e->value.i, j - first);
    sum = ref_step(run, sum + ref_evaluate_real(run, body));
    count++;
  }
  return (union expr_value){.f = count == 0 ? 0 : ref_step(run, sum / (double)count)};
}

void ref_select_prepare(struct ref_run_state *run)
{
  const struct spec *spec = run->spec;
  if (!spec->select.present)
    return;
  size_t keys = (size_t)run->call->max_keys;
  size_t blocks = keys / spec->select.block + 1;
  run->key_visible = ARENA_ARRAY(run->arena, bool, keys);
  run->chosen = ARENA_ARRAY(run->arena, bool, blocks);
  run->forced = ARENA_ARRAY(run->arena, bool, blocks);
  run->candidate = ARENA_ARRAY(run->arena, bool, blocks);
  run->ranks = ARENA_ARRAY(run->arena, double, blocks);
  for (size_t n = 0; n < spec->pool->nodes.count; n++)
    if (spec->pool->nodes.items[n]->op == EXPR_MEAN)
      expr_set_shortcut(run->evaluator, spec->pool->nodes.items[n], compute_mean, run);
}

/* Adds what head run->h says about every block. */
static void rank_blocks(struct ref_run_state *run)
{
  const struct spec_select *select = &run->spec->select;
  for (int64_t j = 0; j < run->keys; j++)
    run->key_visible[j] = ref_mask_holds(run, j);
  for (int64_t n = 0; n < run->block_count; n++) {
    int64_t first = n * select->block;
    bool any = false;
    for (int64_t j = first; j < first + select->block && j < run->keys; j++)
      any |= run->key_visible[j];
    if (!any)
      continue;
    run->block = n;
    expr_set_int(run->evaluator, EXPR_VAR_N, n);
    expr_reset_reads(run->evaluator); /* a mean hangs on the row's visible keys, too */
    run->candidate[n] = true;
    run->forced[n] |= expr_evaluate(run->evaluator, select->always).i != 0;
    run->ranks[n] += ref_evaluate_real(run, select->by);
  }
}

/* The best block not chosen yet, or -1. A NaN ranks below everything. */
static int64_t best_block(const struct ref_run_state *run)
{
  int64_t best = -1;
  for (int64_t n = 0; n < run->block_count; n++) {
    if (!run->candidate[n] || run->chosen[n])
      continue;
    if (best < 0 || run->ranks[n] > run->ranks[best] ||
        (isnan(run->ranks[best]) && !isnan(run->ranks[n])))
      best = n;
  }
  return best;
}

void ref_select_blocks(struct ref_run_state *run)
{
  const struct spec *spec = run->spec;
  run->block_count = (run->keys + spec->select.block - 1) / spec->select.block;
  for (int64_t n = 0; n < run->block_count; n++) {
    run->chosen[n] = run->forced[n] = run->candidate[n] = false;
    run->ranks[n] = 0;
  }
  int64_t head = run->h;
  int64_t group = spec->query_heads / spec->kv_heads;
  if (spec->select.per_group) {
    for (int64_t h = run->g * group; h < (run->g + 1) * group; h++) {
      ref_set_head(run, h);
      rank_blocks(run);
    }
    ref_set_head(run, head);
  } else {
    rank_blocks(run);
  }
  int64_t left = expr_evaluate(run->evaluator, spec->select.top).i;
  for (int64_t n = 0; n < run->block_count; n++)
    if (run->candidate[n] && run->forced[n]) {
      run->chosen[n] = true;
      left--;
    }
  double worst = 0;
  bool ranked = false;
  for (; left > 0; left--) {
    int64_t best = best_block(run);
    if (best < 0)
      return;
    run->chosen[best] = true;
    worst = run->ranks[best];
    ranked = true;
  }
  int64_t next = best_block(run);
  if (ranked && next >= 0 && ref_is_near(worst, run->ranks[next]))
    run->near_tie = true;
}
