#include "compiler/schedule/host_tiles.h"

#include <pthread.h>
#include <unistd.h>

static size_t second_level = 1 << 20;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void ask(void)
{
#ifdef _SC_LEVEL2_CACHE_SIZE
  long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0)
    second_level = (size_t)bytes;
#endif
}

size_t host_second_level_cache(void)
{
  pthread_once(&once, ask);
  return second_level;
}

/* The fewest that are worth it: below, packing k and v for a tile of rows and what is done once for
 * a tile of keys take a share that shows. */
enum { LEAST_ROWS = 48, LEAST_COLUMNS = 32 };

void host_fit_tile(struct schedule *chosen, const struct schedule *wanted, uint32_t channels,
                   size_t cache)
{
  for (;;) {
    size_t bytes = ((size_t)chosen->rows + chosen->columns) * channels * sizeof(float);
    bool columns = wanted->columns == 0 && chosen->columns / 2 >= LEAST_COLUMNS;
    bool rows = wanted->rows == 0 && chosen->rows / 2 >= LEAST_ROWS;
    if (bytes <= cache / 4 * 3 || (!columns && !rows))
      return;
    if (rows && (chosen->rows > chosen->columns || !columns))
      chosen->rows /= 2;
    else
      chosen->columns /= 2;
  }
}
