#include "compiler/schedule/schedule.h"

#include "compiler/schedule/host_tiles.h"
#include "compiler/tile/text.h"

enum {
  MOST_WARPS = 32,
  WARPS_WORTH = 8 /* more leave a thread fewer than 255 registers */
};

/* The first row of target and kernel whose `bytes` is not less than an element of q, k and v has,
 * and `channels` than the larger of D and DV, counts. */
struct entry {
  enum target target;
  enum kernel_kind kernel; /* DECODE, or any other */
  uint32_t bytes, channels;
  struct schedule schedule;
};

#define GPU(ROWS, COLUMNS, WARPS, COLUMN_WARPS)                                                    \
  {                                                                                                \
    .rows = (ROWS), .columns = (COLUMNS), .warps = (WARPS), .column_warps = (COLUMN_WARPS),        \
    .stages = 1                                                                                    \
  }
/* All warps along the keys. Tasks for two blocks on each of 132 multiprocessors. */
#define GPU_DECODE(ROWS, COLUMNS, WARPS)                                                           \
  {                                                                                                \
    .rows = (ROWS), .columns = (COLUMNS), .warps = (WARPS), .column_warps = (WARPS), .stages = 2,  \
    .tasks = 264, .part = 256                                                                      \
  }
/* Tiles of K and V together lie in the second-level cache of a core. */
#define HOST_DECODE(COLUMNS)                                                                       \
  {                                                                                                \
    .rows = 64, .columns = (COLUMNS), .tasks = 64, .part = 256                                     \
  }
static const struct entry table[] = {
    {TARGET_HOST, KERNEL_FORWARD, 4, 128, {.rows = 192, .columns = 128}},
    {TARGET_HOST, KERNEL_FORWARD, 4, 256, {.rows = 192, .columns = 64}},
    {TARGET_HOST, KERNEL_FORWARD, 4, UINT32_MAX, {.rows = 96, .columns = 64}},
    {TARGET_HOST, KERNEL_DECODE, 4, 256, HOST_DECODE(64)},
    {TARGET_HOST, KERNEL_DECODE, 4, UINT32_MAX, HOST_DECODE(32)},
    /* Near the sizes of FlashAttention-2 (Dao 2023) on the same instructions, but with no more than
     * what registers hold: 32 rows a warp up to 64 channels, 16 from there on. */
    {TARGET_SM_80, KERNEL_FORWARD, 2, 64, GPU(128, 64, 4, 1)},
    {TARGET_SM_80, KERNEL_FORWARD, 2, 128, GPU(128, 64, 8, 1)},
    {TARGET_SM_80, KERNEL_FORWARD, 2, 256, GPU(64, 64, 4, 1)},
    {TARGET_SM_80, KERNEL_FORWARD, 2, UINT32_MAX, GPU(32, 32, 8, 4)},
    {TARGET_SM_80, KERNEL_FORWARD, 4, 64, GPU(64, 32, 4, 1)},
    {TARGET_SM_80, KERNEL_FORWARD, 4, 128, GPU(64, 32, 4, 1)},
    {TARGET_SM_80, KERNEL_FORWARD, 4, 256, GPU(32, 32, 4, 2)},
    {TARGET_SM_80, KERNEL_FORWARD, 4, UINT32_MAX, GPU(16, 16, 8, 8)},
    {TARGET_SM_80, KERNEL_DECODE, 2, 64, GPU_DECODE(64, 128, 4)},
    {TARGET_SM_80, KERNEL_DECODE, 2, 128, GPU_DECODE(64, 64, 4)},
    {TARGET_SM_80, KERNEL_DECODE, 2, 256, GPU_DECODE(32, 64, 8)},
    {TARGET_SM_80, KERNEL_DECODE, 2, UINT32_MAX, GPU_DECODE(32, 32, 8)},
    {TARGET_SM_80, KERNEL_DECODE, 4, 64, GPU_DECODE(32, 64, 4)},
    {TARGET_SM_80, KERNEL_DECODE, 4, 128, GPU_DECODE(32, 32, 4)},
    {TARGET_SM_80, KERNEL_DECODE, 4, 256, GPU_DECODE(16, 32, 4)},
    {TARGET_SM_80, KERNEL_DECODE, 4, UINT32_MAX, GPU_DECODE(16, 16, 8)},
};
#undef GPU
#undef GPU_DECODE
#undef HOST_DECODE

static uint32_t either(uint32_t wanted, uint32_t found)
{
  return wanted != 0 ? wanted : found;
}

static uint32_t at_most(uint32_t x, uint32_t limit)
{
  return x < limit ? x : limit;
}

struct schedule schedule_choose(const struct spec *spec, const struct compile_options *options)
{
  uint32_t channels = spec->dim_qk > spec->dim_v ? spec->dim_qk : spec->dim_v;
  uint32_t bytes = (uint32_t)dtype_size(options->type);
  bool decode = options->kernel == KERNEL_DECODE;
  size_t n = 0;
  while (table[n].target != options->target || (table[n].kernel == KERNEL_DECODE) != decode ||
         table[n].bytes < bytes || table[n].channels < channels)
    n++;
  const struct schedule *wanted = &options->schedule, *found = &table[n].schedule;
  struct schedule chosen = *wanted;
  chosen.warps = either(wanted->warps, found->warps);
  chosen.column_warps = either(wanted->column_warps, found->column_warps);
  chosen.stages = either(wanted->stages, found->stages);
  chosen.columns = at_most(either(wanted->columns, found->columns), TILE_MAX_SIDE);
  chosen.rows = at_most(either(wanted->rows, found->rows), TILE_MAX_SIDE);
  chosen.tasks = either(wanted->tasks, found->tasks);
  chosen.part = either(wanted->part, found->part);
  if (options->target == TARGET_HOST && !decode)
    host_fit_tile(&chosen, wanted, spec->dim_qk + spec->dim_v, host_second_level_cache());
  return chosen;
}

const char *schedule_is_wrong(const struct schedule *schedule)
{
  if (schedule->warps > MOST_WARPS)
    return "a block has 32 warps at most";
  if (schedule->stages > 2)
    return "there are 1 or 2 stages";
  if (schedule->warps % schedule->column_warps != 0)
    return "column_warps must divide warps";
  return NULL;
}

/* Fewer columns, down to `least`, in steps of a product's inner dimension. */
static bool fewer_columns(struct schedule *s, const struct schedule *wanted, uint32_t least)
{
  if (wanted->columns != 0 || s->columns <= least)
    return false;
  s->columns = (s->columns - 1) / BUDGET_BLOCK_ROWS * BUDGET_BLOCK_ROWS;
  return true;
}

/* One block of rows less for each warp. */
static bool fewer_rows(struct schedule *s, const struct schedule *wanted)
{
  uint32_t step = BUDGET_BLOCK_ROWS * (s->warps / s->column_warps);
  if (wanted->rows != 0 || s->rows <= step)
    return false;
  s->rows = (s->rows - 1) / step * step;
  return true;
}

/* Twice as many warps, which share the rows or, where each has one block of them, the columns. */
static bool more_warps(struct schedule *s, const struct schedule *wanted, uint32_t most)
{
  if (wanted->warps != 0 || wanted->column_warps != 0 || s->warps * 2 > most)
    return false;
  if (s->rows <= BUDGET_BLOCK_ROWS * (s->warps / s->column_warps))
    s->column_warps *= 2;
  s->warps *= 2;
  return true;
}

/* Half of the rows, and the warps that had them along the columns. */
static bool fewer_row_warps(struct schedule *s, const struct schedule *wanted)
{
  uint32_t row_warps = s->warps / s->column_warps;
  bool open = wanted->rows == 0 && wanted->column_warps == 0;
  if (!open || row_warps % 2 != 0)
    return false;
  s->rows = BUDGET_BLOCK_ROWS * (row_warps / 2);
  s->column_warps *= 2;
  return true;
}

bool schedule_reduce(struct schedule *schedule, const struct compile_options *options,
                     const struct budget *found, size_t shared)
{
  const struct schedule *wanted = &options->schedule;
  if (found->shared > shared && schedule->stages > 1 && wanted->stages == 0) {
    schedule->stages = 1;
    return true;
  }
  /* Somewhat shorter tiles of keys cost less than warps that have fewer rows each. */
  enum { LITTLE = 12 };
  const bool little = found->shared <= shared && found->registers <= BUDGET_REGISTERS + LITTLE;
  if (little && fewer_columns(schedule, wanted, 48))
    return true;
  if (found->registers > BUDGET_REGISTERS && more_warps(schedule, wanted, WARPS_WORTH))
    return true;
  return fewer_columns(schedule, wanted, 32) || fewer_rows(schedule, wanted) ||
         fewer_row_warps(schedule, wanted) || fewer_columns(schedule, wanted, 16);
}

void schedule_complete(struct arena *arena, const struct tile_program *program,
                       struct schedule *schedule)
{
  bool open = schedule->warps == 0 && schedule->column_warps == 0;
  schedule->warps = either(schedule->warps, 4);
  schedule->column_warps = either(schedule->column_warps, 1);
  schedule->stages = either(schedule->stages, 1);
  while (open && schedule->warps < WARPS_WORTH &&
         budget_of_program(arena, program, schedule).registers > BUDGET_REGISTERS) {
    schedule->warps *= 2;
    schedule->column_warps *= schedule->column_warps * 4 > schedule->warps ? 1 : 2;
  }
}
