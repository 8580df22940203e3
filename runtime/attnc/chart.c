#include "runtime/attnc/chart.h"

enum {
  MARGIN = 24,
  TEXT = 2, /* size of the letters */
  ROW = 34,
  BAR = 20,
  PANEL = 360,
  LABEL = 150, /* room for a label behind the longest bar */
  GAP = 28,
  HEAD = 84
};

static struct color panel_color(size_t n)
{
  static const uint32_t colors[] = {0x2166ac, 0xe08214, 0x1b7837, 0x762a83};
  return COLOR(colors[n % (sizeof(colors) / sizeof(colors[0]))]);
}

static void draw_panel(struct picture *picture, int x, size_t number, size_t count,
                       const struct chart_panel *panel)
{
  const struct color ink = COLOR(0x202020), line = COLOR(0xd0d0d0);
  double limit = panel->limit;
  for (size_t n = 0; n < count && panel->limit <= 0; n++)
    limit = panel->values[n] > limit ? panel->values[n] : limit;
  picture_text(picture, x, HEAD - 30, TEXT, ANCHOR_LEFT, ink, panel->title);
  picture_fill(picture, x - 1, HEAD, 1, (int)count * ROW, COLOR(0x808080));
  for (int quarter = 1; quarter <= 4; quarter++)
    picture_fill(picture, x + PANEL * quarter / 4, HEAD, 1, (int)count * ROW, line);
  for (size_t n = 0; n < count; n++) {
    int y = HEAD + (int)n * ROW;
    double share = limit > 0 ? panel->values[n] / limit : 0;
    int width = (int)((share < 1 ? share : 1) * PANEL + 0.5);
    picture_fill(picture, x, y + (ROW - BAR) / 2, width, BAR, panel_color(number));
    picture_text(picture, x + width + 8, y + (ROW - 7 * TEXT) / 2, TEXT, ANCHOR_LEFT, ink,
                 panel->labels[n]);
  }
}

bool chart_draw(struct picture *picture, const char *title, const char *const *names, size_t count,
                const struct chart_panel *panels, size_t panel_count)
{
  const struct color ink = COLOR(0x202020);
  int left = 0;
  for (size_t n = 0; n < count; n++) {
    int width = picture_text_width(names[n], TEXT);
    left = width > left ? width : left;
  }
  left += MARGIN + 12;
  int width = left + (int)panel_count * (PANEL + LABEL + GAP) - GAP + MARGIN;
  if (!picture_init(picture, width, HEAD + (int)count * ROW + MARGIN))
    return false;
  picture_text(picture, MARGIN, MARGIN - 4, TEXT, ANCHOR_LEFT, ink, title);
  for (size_t n = 0; n < count; n++)
    picture_text(picture, left - 12, HEAD + (int)n * ROW + (ROW - 7 * TEXT) / 2, TEXT, ANCHOR_RIGHT,
                 ink, names[n]);
  for (size_t n = 0; n < panel_count; n++)
    draw_panel(picture, left + (int)n * (PANEL + LABEL + GAP), n, count, &panels[n]);
  return true;
}
