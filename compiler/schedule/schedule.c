#include "compiler/schedule/schedule.h"

#include "compiler/tile/text.h"

/* The first row whose `channels` is not less than the larger of D and DV counts. */
struct entry {
  enum target target;
  uint32_t channels;
  struct schedule schedule;
};

static const struct entry table[] = {
    {TARGET_HOST, 128, {.rows = 192, .columns = 128}},
    {TARGET_HOST, 256, {.rows = 192, .columns = 64}},
    {TARGET_HOST, UINT32_MAX, {.rows = 96, .columns = 64}},
};

static uint32_t either(uint32_t wanted, uint32_t found)
{
  return wanted != 0 ? wanted : found;
}

static uint32_t at_most(uint32_t x, uint32_t limit)
{
  return x < limit ? x : limit;
}

struct schedule schedule_choose(const struct spec *spec, const struct compile_options *options,
                                uint32_t share)
{
  uint32_t channels = spec->dim_qk > spec->dim_v ? spec->dim_qk : spec->dim_v;
  size_t n = 0;
  while (table[n].target != options->target || table[n].channels < channels)
    n++;
  const struct schedule *wanted = &options->schedule, *found = &table[n].schedule;
  struct schedule chosen = *wanted;
  chosen.columns = at_most(either(wanted->columns, found->columns), TILE_MAX_SIDE);
  uint32_t rows = at_most(either(wanted->rows, found->rows), TILE_MAX_SIDE) / share;
  chosen.rows = (rows == 0 ? 1 : rows) * share;
  return chosen;
}
