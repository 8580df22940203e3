#include "runtime/attnc/show_picture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
  MARGIN = 20,
  TITLE = 64,        /* height of title and subtitle */
  AXIS_TITLE = 26,   /* room for "key position j" */
  TICK = 5,          /* length of a tick */
  TICK_SPACE = 56,   /* between labels of ticks, at least */
  LEAST_HEIGHT = 24, /* of a panel, as one with a single query */
  LEGEND = 330,
  PANEL_GAP = 22,
  PANEL_TITLE = 20,
  LEAST_TILE = 8 /* dots of a tile's side from which on edges are drawn */
};

static const uint32_t ink = 0x202020, gray = 0x707070, edge = 0xa0a0a0;

int show_side(size_t panels)
{
  return panels <= 1 ? 512 : panels <= 4 ? 320 : panels <= 16 ? 208 : 128;
}

int64_t show_cells(int64_t size, int64_t other, int side)
{
  int64_t larger = size > other ? size : other;
  if (larger <= side || size == 0)
    return size;
  int64_t cells = (int64_t)ceil((double)size * side / (double)larger);
  return cells < size ? cells : size;
}

/* ---- colours ---- */

/* Between the colours of a scale, x from 0 to 1. */
static struct color along(const uint32_t *scale, int count, double x)
{
  double at = fmin(fmax(x, 0), 1) * (count - 1);
  int n = at >= count - 1 ? count - 2 : (int)at;
  return color_mix(COLOR(scale[n]), COLOR(scale[n + 1]), at - n);
}

struct color show_weight_color(const struct show_figure *figure, double weight)
{
  static const uint32_t heat[] = {0xffffff, 0xfee391, 0xfe9929, 0xcc4c02, 0x66140a, 0x1a0505};
  static const uint32_t cold[] = {0xffffff, 0x92c5de, 0x2166ac, 0x053061};
  if (isnan(weight))
    return COLOR(0xff00ff);
  double x = figure->limit > 0 ? sqrt(fabs(weight) / figure->limit) : 0;
  return weight < 0 ? along(cold, sizeof(cold) / sizeof(cold[0]), x)
                    : along(heat, sizeof(heat) / sizeof(heat[0]), x);
}

struct color show_mask_color(enum visibility_class class, double share)
{
  static const uint32_t hidden[] = {0xf2f2f2, 0xfdebd3, 0xd1e5f0};
  static const uint32_t visible[] = {0x707070, 0xd9720a, 0x2166ac};
  /* What little is visible in a cell is still to be seen. */
  double x = share > 0 ? 0.25 + 0.75 * share : 0;
  return color_mix(COLOR(hidden[class]), COLOR(visible[class]), x);
}

/* ---- panels ---- */

struct layout {
  int columns, rows;           /* panels */
  int cell_width, cell_height; /* dots */
  int width, height;           /* of a panel */
  int labels;                  /* width of the labels of queries */
  int text;                    /* size of letters at panels */
  int left, top;               /* of the first panel */
};

/* 1, 2 or 5 times a power of ten, so that labels stand `space` dots apart. */
static int64_t tick_step(int64_t positions, int dots, int space)
{
  double least = (double)positions * space / dots;
  int64_t step = 1;
  while ((double)step < least) {
    int64_t ten = step;
    if ((double)(ten * 2) >= least)
      return ten * 2;
    if ((double)(ten * 5) >= least)
      return ten * 5;
    step = ten * 10;
  }
  return step;
}

/* The middle of a position's cell. */
static int dot_of(int64_t position, int64_t positions, int dots)
{
  return (int)(((double)position + 0.5) / (double)positions * dots);
}

static void draw_ticks(struct picture *picture, const struct layout *layout,
                       const struct show_panel *panel, int x, int y)
{
  char label[24];
  struct color color = COLOR(ink);
  snprintf(label, sizeof(label), "%lld  ", (long long)panel->keys);
  int space = picture_text_width(label, layout->text);
  int64_t step = tick_step(panel->keys, layout->width, space > TICK_SPACE ? space : TICK_SPACE);
  for (int64_t j = 0; j < panel->keys; j += step) {
    int at = x + dot_of(j, panel->keys, layout->width);
    picture_fill(picture, at, y + layout->height + 1, 1, TICK, color);
    snprintf(label, sizeof(label), "%lld", (long long)j);
    picture_text(picture, at, y + layout->height + TICK + 4, layout->text, ANCHOR_MIDDLE, color,
                 label);
  }
  step = tick_step(panel->queries, layout->height, TICK_SPACE);
  int64_t first = panel->offset % step;
  first = first == 0 ? 0 : first > 0 ? step - first : -first;
  if (first >= panel->queries) /* no round position */
    first = 0;
  for (int64_t r = first; r < panel->queries; r += step) {
    int at = y + dot_of(r, panel->queries, layout->height);
    picture_fill(picture, x - 1 - TICK, at, TICK, 1, color);
    snprintf(label, sizeof(label), "%lld", (long long)(r + panel->offset));
    picture_text(picture, x - TICK - 5, at - 7 * layout->text / 2, layout->text, ANCHOR_RIGHT,
                 color, label);
  }
}

static void draw_edges(struct picture *picture, const struct layout *layout,
                       const struct show_figure *figure, const struct show_panel *panel, int x,
                       int y)
{
  double width = (double)figure->tile.columns * layout->width / (double)panel->keys;
  double height = (double)figure->tile.rows * layout->height / (double)panel->queries;
  for (int n = 1; width >= LEAST_TILE && n * width < layout->width; n++)
    picture_fill(picture, x + (int)(n * width), y, 1, layout->height, COLOR(edge));
  for (int n = 1; height >= LEAST_TILE && n * height < layout->height; n++)
    picture_fill(picture, x, y + (int)(n * height), layout->width, 1, COLOR(edge));
}

static void draw_panel(struct picture *picture, const struct layout *layout,
                       const struct show_figure *figure, const struct show_panel *panel, int x,
                       int y)
{
  char title[64];
  if (figure->count > 1) {
    snprintf(title, sizeof(title), "h = %lld", (long long)panel->h);
    picture_text(picture, x, y - 10 * layout->text - 2, layout->text, ANCHOR_LEFT, COLOR(ink),
                 title);
  }
  picture_frame(picture, x - 1, y - 1, layout->width + 2, layout->height + 2, COLOR(ink));
  if (panel->rows == 0 || panel->columns == 0)
    return;
  for (int64_t row = 0; row < panel->rows; row++) {
    for (int64_t column = 0; column < panel->columns; column++) {
      int64_t n = row * panel->columns + column;
      struct color color = figure->weights ? show_weight_color(figure, panel->values[n])
                                           : show_mask_color(panel->classes[n], panel->values[n]);
      picture_fill(picture, x + (int)column * layout->cell_width,
                   y + (int)row * layout->cell_height, layout->cell_width, layout->cell_height,
                   color);
    }
  }
  if (!figure->weights)
    draw_edges(picture, layout, figure, panel, x, y);
  draw_ticks(picture, layout, panel, x, y);
}

/* ---- legend ---- */

static void draw_swatch(struct picture *picture, int x, int *y, struct color color,
                        const char *text)
{
  picture_fill(picture, x, *y, 22, 16, color);
  picture_frame(picture, x, *y, 22, 16, COLOR(edge));
  picture_text(picture, x + 32, *y + 1, 2, ANCHOR_LEFT, COLOR(ink), text);
  *y += 26;
}

static void draw_note(struct picture *picture, int x, int *y, const char *text)
{
  picture_text(picture, x, *y, 1, ANCHOR_LEFT, COLOR(gray), text);
  *y += 14;
}

static void draw_mask_legend(struct picture *picture, const struct show_figure *figure, int x,
                             int y)
{
  static const char *const names[] = {"EMPTY", "PARTIAL", "FULL"};
  double counts[3] = {0};
  char text[96];
  for (size_t k = 0; k < figure->count; k++) {
    counts[VISIBILITY_EMPTY] += figure->panels[k].counts.empty;
    counts[VISIBILITY_PARTIAL] += figure->panels[k].counts.partial;
    counts[VISIBILITY_FULL] += figure->panels[k].counts.full;
  }
  double all = counts[0] + counts[1] + counts[2];
  draw_swatch(picture, x, &y, show_mask_color(VISIBILITY_FULL, 1), "visible, FULL tile");
  draw_swatch(picture, x, &y, show_mask_color(VISIBILITY_PARTIAL, 1), "visible, PARTIAL tile");
  draw_swatch(picture, x, &y, show_mask_color(VISIBILITY_PARTIAL, 0), "hidden, PARTIAL tile");
  draw_swatch(picture, x, &y, show_mask_color(VISIBILITY_EMPTY, 0), "EMPTY tile, skipped");
  y += 8;
  snprintf(text, sizeof(text), "tiles: %lld x %lld", (long long)figure->tile.rows,
           (long long)figure->tile.columns);
  picture_text(picture, x, y, 2, ANCHOR_LEFT, COLOR(ink), text);
  y += 24;
  for (int class = 2; class >= 0; class --) {
    snprintf(text, sizeof(text), "%-8s %.4g %%", names[class],
             all > 0 ? 100 * counts[class] / all : 0);
    picture_text(picture, x, y, 2, ANCHOR_LEFT, COLOR(ink), text);
    y += 22;
  }
  y += 8;
  if (figure->cells_are_tiles) {
    draw_note(picture, x, &y, "Tiles are smaller than a dot: the colour");
    draw_note(picture, x, &y, "is the class of what the dot stands for.");
  }
  if (figure->panels[0].rows < figure->panels[0].queries ||
      figure->panels[0].columns < figure->panels[0].keys)
    draw_note(picture, x, &y, "Darker: more of a dot's pairs are visible.");
}

static void draw_weight_legend(struct picture *picture, const struct show_figure *figure, int x,
                               int y)
{
  enum { BAR_HEIGHT = 256, BAR_WIDTH = 22, MARKS = 4 };
  char text[48];
  int whole = figure->negative ? 2 * BAR_HEIGHT : BAR_HEIGHT;
  picture_text(picture, x, y, 2, ANCHOR_LEFT, COLOR(ink), "weight");
  y += 34;
  for (int n = 0; n < whole; n++) {
    double root = 1 - (double)n / (BAR_HEIGHT - 1);
    double weight = root * fabs(root) * figure->limit;
    picture_fill(picture, x, y + n, BAR_WIDTH, 1, show_weight_color(figure, weight));
  }
  picture_frame(picture, x - 1, y - 1, BAR_WIDTH + 2, whole + 2, COLOR(edge));
  for (int mark = figure->negative ? -MARKS : 0; mark <= MARKS; mark++) {
    double root = (double)mark / MARKS;
    int at = y + (int)((1 - root) * (BAR_HEIGHT - 1));
    picture_fill(picture, x + BAR_WIDTH + 1, at, TICK, 1, COLOR(ink));
    snprintf(text, sizeof(text), "%.3g", root * fabs(root) * figure->limit);
    picture_text(picture, x + BAR_WIDTH + TICK + 6, at - 7, 2, ANCHOR_LEFT, COLOR(ink), text);
  }
  y += whole + 16;
  draw_note(picture, x, &y, "A dot shows the weight of most magnitude");
  draw_note(picture, x, &y, "that it stands for; the scale is that of");
  draw_note(picture, x, &y, "the square root.");
}

/* ---- the whole ---- */

static int digits(int64_t number)
{
  char text[24];
  return snprintf(text, sizeof(text), "%lld", (long long)number);
}

static struct layout make_layout(const struct show_figure *figure)
{
  struct layout layout = {.text = figure->count > 4 ? 1 : 2, .width = 1, .height = 1};
  int64_t rows = 1, columns = 1;
  int letters = 1;
  for (size_t k = 0; k < figure->count; k++) {
    const struct show_panel *panel = &figure->panels[k];
    rows = panel->rows > rows ? panel->rows : rows;
    columns = panel->columns > columns ? panel->columns : columns;
    int last = digits(panel->offset + panel->queries), first = digits(panel->offset);
    last = first > last ? first : last;
    letters = last > letters ? last : letters;
  }
  int64_t larger = rows > columns ? rows : columns;
  int dots = larger < figure->side ? figure->side / (int)larger : 1;
  layout.cell_width = dots;
  layout.cell_height = dots;
  if (rows * dots < LEAST_HEIGHT)
    layout.cell_height = (LEAST_HEIGHT + (int)rows - 1) / (int)rows;
  if (columns * dots < LEAST_HEIGHT)
    layout.cell_width = (LEAST_HEIGHT + (int)columns - 1) / (int)columns;
  layout.width = (int)columns * layout.cell_width;
  layout.height = (int)rows * layout.cell_height;
  layout.labels = letters * PICTURE_CELL_WIDTH * layout.text + TICK + 6;
  layout.columns = (int)ceil(sqrt((double)figure->count));
  layout.rows = ((int)figure->count + layout.columns - 1) / layout.columns;
  layout.left = MARGIN + AXIS_TITLE + layout.labels;
  layout.top = MARGIN + TITLE + (figure->count > 1 ? PANEL_TITLE : 0);
  return layout;
}

bool show_draw(struct picture *picture, const struct show_figure *figure)
{
  const char *down = "query position i";
  struct layout layout = make_layout(figure);
  int step_x = layout.width + layout.labels + PANEL_GAP;
  int step_y = layout.height + TICK + 4 + PICTURE_CELL_HEIGHT * layout.text + PANEL_GAP +
               (figure->count > 1 ? PANEL_TITLE : 0);
  int legend_x = layout.left + layout.columns * step_x - layout.labels + 8;
  int legend_height = figure->weights ? (figure->negative ? 640 : 380) : 290;
  int panels_height = layout.rows * step_y + AXIS_TITLE;
  int height = layout.top + (panels_height > legend_height ? panels_height : legend_height);
  int width = legend_x + LEGEND;
  int title_width = 2 * MARGIN + picture_text_width(figure->title, 3);
  int subtitle_width = 2 * MARGIN + picture_text_width(figure->subtitle, 2);
  width = title_width > width ? title_width : width;
  width = subtitle_width > width ? subtitle_width : width;
  if (!picture_init(picture, width, height + MARGIN))
    return false;
  picture_text(picture, MARGIN, MARGIN, 3, ANCHOR_LEFT, COLOR(ink), figure->title);
  picture_text(picture, MARGIN, MARGIN + 32, 2, ANCHOR_LEFT, COLOR(gray), figure->subtitle);
  for (size_t k = 0; k < figure->count; k++)
    draw_panel(picture, &layout, figure, &figure->panels[k],
               layout.left + (int)k % layout.columns * step_x,
               layout.top + (int)k / layout.columns * step_y);
  picture_text(picture, layout.left + (layout.columns * step_x - layout.labels - PANEL_GAP) / 2,
               layout.top + layout.rows * step_y, 2, ANCHOR_MIDDLE, COLOR(ink), "key position j");
  int middle = layout.top + (layout.rows * step_y - PANEL_GAP) / 2 - 10;
  int highest = layout.top + picture_text_width(down, 2) / 2;
  picture_text_up(picture, MARGIN, middle > highest ? middle : highest, 2, COLOR(ink), down);
  if (figure->weights)
    draw_weight_legend(picture, figure, legend_x, layout.top);
  else
    draw_mask_legend(picture, figure, legend_x, layout.top);
  return true;
}
