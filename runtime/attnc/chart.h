/* Bar charts: panels beside each other, a bar for each item, names at the left. */
#ifndef ATTN_RUNTIME_ATTNC_CHART_H
#define ATTN_RUNTIME_ATTNC_CHART_H

#include "runtime/attnc/picture.h"

struct chart_panel {
  const char *title;
  const double *values;      /* an item each; not negative */
  const char *const *labels; /* what is written at the bar's end */
  double limit;              /* the value of a whole bar; 0: the largest one */
};

/* Makes the picture, to be freed by the caller. False when out of memory or when it would be too
 * large. */
bool chart_draw(struct picture *picture, const char *title, const char *const *names, size_t count,
                const struct chart_panel *panels, size_t panel_count);

#endif
