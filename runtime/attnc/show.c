/* attnc show: the visible set or the weights of a call, in the terminal or as a PNG file. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/attnc/common_options.h"
#include "runtime/attnc/explain.h"
#include "runtime/attnc/show_picture.h"

enum {
  MAX_SIDE = 1 << 30,
  TEXT_COLUMNS = 64,
  TEXT_LINES = 32,
  MAX_WEIGHTS = 1 << 27,    /* 1 GiB of them */
  CLASSIFICATIONS = 1 << 21 /* of a panel's parts: a few seconds */
};

struct show_request {
  struct explain_request explain;
  const char *head;
  uint64_t batch, tile_rows, tile_keys;
  bool weights;
};

struct show {
  const struct show_request *request;
  struct explanation x;
  struct visible visible;
  struct arena arena; /* of `visible` */
  struct show_figure figure;
  struct ref_result reference; /* with --weights */
  int64_t reference_heads;
  bool sampled;
};

/* ---- values ---- */

static enum exit_status compute_weights(struct show *show, int64_t last_head)
{
  struct workload *workload = &show->x.workload;
  const struct spec *spec = workload->spec;
  int64_t group = spec->query_heads / spec->kv_heads;
  show->reference_heads = (last_head / group + 1) * group;
  double count = (double)workload->batch * (double)show->reference_heads *
                 (double)workload->queries * (double)workload->keys;
  if (count > MAX_WEIGHTS)
    return fail_with(EXIT_USAGE,
                     "that would be %.3g weights, more than %d; choose fewer queries or keys, or "
                     "a lower --head",
                     count, MAX_WEIGHTS);
  struct spec *with_weights = arena_copy(&show->arena, spec, sizeof(*spec));
  with_weights->output_count = 1;
  with_weights->outputs[0] = (struct spec_output){.kind = OUTPUT_WEIGHTS, .span = spec->span};
  bool talks = is_terminal(STDERR_FILENO);
  if (talks)
    fputs("computing the weights in float64 ...", stderr);
  workload->spec = with_weights;
  bool good =
      workload_reference(workload, REF_EXACT, (uint32_t)show->reference_heads, &show->reference);
  workload->spec = spec;
  if (talks)
    fputs("\r\033[K", stderr);
  if (!good)
    return fail_memory();
  if (show->reference.fault.raised)
    return fail_with(EXIT_WRONG,
                     "index %lld is outside dim %u of an input, which has %lld elements",
                     (long long)show->reference.fault.index, show->reference.fault.dim,
                     (long long)show->reference.fault.size);
  return EXIT_FINE;
}

/* The weight of most magnitude among rows [r0, r1) and keys [j0, j1). */
static double largest_weight(const struct show *show, const struct show_panel *panel, int64_t r0,
                             int64_t r1, int64_t j0, int64_t j1)
{
  const struct workload *workload = &show->x.workload;
  const double *weights =
      show->reference.outputs[0] +
      (panel->b * show->reference_heads + panel->h) * workload->queries * workload->keys;
  double largest = 0;
  for (int64_t r = r0; r < r1; r++) {
    for (int64_t j = j0; j < j1; j++) {
      double weight = weights[r * workload->keys + j];
      if (isnan(weight) || fabs(weight) > fabs(largest))
        largest = weight;
    }
  }
  return largest;
}

/* How often parts of a cell may be halved: few cells are partly visible, as a rule, and then each
 * may be looked at closely. */
static unsigned choose_depth(struct show *show, const struct show_panel *panel)
{
  double partial = 1;
  for (int64_t row = 0; row < panel->rows; row++) {
    int64_t r0 = visible_boundary(panel->queries, panel->rows, row);
    int64_t r1 = visible_boundary(panel->queries, panel->rows, row + 1);
    for (int64_t column = 0; column < panel->columns; column++) {
      int64_t j0 = visible_boundary(panel->keys, panel->columns, column);
      int64_t j1 = visible_boundary(panel->keys, panel->columns, column + 1);
      partial += (r1 - r0) * (j1 - j0) > 1 &&
                 visible_class(&show->visible, r0, r1, j0, j1) == VISIBILITY_PARTIAL;
    }
  }
  double depth = log2(CLASSIFICATIONS / partial);
  return depth < 1 ? 1 : (unsigned)depth;
}

static void show_progress(const struct show_panel *panel, int64_t row, double *shown)
{
  if (now_ms() - *shown < 300)
    return;
  *shown = now_ms();
  fprintf(stderr, "\rhead %lld: %lld %% ...", (long long)panel->h,
          (long long)(100 * row / panel->rows));
}

static bool fill_panel(struct show *show, struct show_panel *panel)
{
  size_t count = (size_t)panel->rows * (size_t)panel->columns;
  bool talks = is_terminal(STDERR_FILENO);
  double shown = now_ms() + 500;
  panel->values = mem_alloc_zeroed(count + 1, sizeof(*panel->values));
  if (panel->values == NULL)
    return false;
  bool weights = show->request->weights;
  unsigned depth = weights ? 0 : choose_depth(show, panel);
  for (int64_t row = 0; row < panel->rows; row++) {
    int64_t r0 = visible_boundary(panel->queries, panel->rows, row);
    int64_t r1 = visible_boundary(panel->queries, panel->rows, row + 1);
    if (talks)
      show_progress(panel, row, &shown);
    for (int64_t column = 0; column < panel->columns; column++) {
      int64_t j0 = visible_boundary(panel->keys, panel->columns, column);
      int64_t j1 = visible_boundary(panel->keys, panel->columns, column + 1);
      double value = weights ? largest_weight(show, panel, r0, r1, j0, j1)
                             : visible_share(&show->visible, r0, r1, j0, j1, depth, &show->sampled);
      panel->values[row * panel->columns + column] = value;
      show->figure.negative |= value < 0;
      if (fabs(value) > show->figure.limit)
        show->figure.limit = fabs(value);
    }
  }
  if (talks && shown <= now_ms())
    fputs("\r\033[K", stderr);
  return true;
}

/* Classes of the tiles that cells lie in, or of the cells where tiles are smaller. */
static bool fill_classes(struct show *show, struct show_panel *panel)
{
  struct tiles tiles;
  const struct tile_size *size = &show->figure.tile;
  int64_t columns = tiles_columns(&show->visible, size);
  panel->classes = mem_alloc_zeroed((size_t)(panel->rows * panel->columns) + 1, 1);
  uint8_t *row_classes = mem_alloc_zeroed((size_t)columns + 1, 1);
  if (panel->classes == NULL || row_classes == NULL) {
    mem_free(row_classes);
    return false;
  }
  tiles_open(&tiles, &show->visible, size);
  int64_t walked = -1;
  for (int64_t row = 0; row < panel->rows; row++) {
    int64_t r0 = visible_boundary(panel->queries, panel->rows, row);
    int64_t r1 = visible_boundary(panel->queries, panel->rows, row + 1);
    if (!show->figure.cells_are_tiles && r0 / size->rows != walked) {
      struct tile_counts ignored = {0};
      walked = r0 / size->rows;
      tiles_walk(&tiles, walked, &ignored, row_classes);
    }
    for (int64_t column = 0; column < panel->columns; column++) {
      int64_t j0 = visible_boundary(panel->keys, panel->columns, column);
      int64_t j1 = visible_boundary(panel->keys, panel->columns, column + 1);
      panel->classes[row * panel->columns + column] =
          show->figure.cells_are_tiles ? (uint8_t)visible_class(&show->visible, r0, r1, j0, j1)
                                       : row_classes[j0 / size->columns];
    }
  }
  mem_free(row_classes);
  return true;
}

/* ---- panels ---- */

static enum exit_status choose_heads(struct show *show, int64_t *first, int64_t *last)
{
  const struct spec *spec = show->x.spec;
  uint64_t head = 0;
  *first = 0;
  *last = 0;
  if (strcmp(show->request->head, "all") == 0) {
    bool alike = !show->request->weights && !visible_by_head(spec);
    if (alike && spec->query_heads > 1)
      complain("note: all heads see the same; this is head 0");
    *last = alike ? 0 : (int64_t)spec->query_heads - 1;
    return EXIT_FINE;
  }
  if (!parse_number(show->request->head, 0, spec->query_heads - 1, &head))
    return fail_with(EXIT_USAGE, "--head takes a head from 0 to %u or 'all', not '%s'",
                     spec->query_heads - 1, show->request->head);
  *first = (int64_t)head;
  *last = (int64_t)head;
  return EXIT_FINE;
}

static enum exit_status add_panel(struct show *show, int64_t b, int64_t h, bool picture)
{
  struct show_panel *panel = &show->figure.panels[show->figure.count++];
  visible_enter(&show->visible, b, h);
  *panel = (struct show_panel){.b = b,
                               .h = h,
                               .queries = show->visible.queries,
                               .keys = show->visible.keys,
                               .offset = show->visible.offset};
  if (panel->queries == 0 || panel->keys == 0)
    return EXIT_FINE;
  int side = picture ? show->figure.side : TEXT_COLUMNS;
  panel->rows = show_cells(panel->queries, panel->keys, side);
  panel->columns = show_cells(panel->keys, panel->queries, side);
  if (!picture && show->request->weights && panel->rows > TEXT_LINES)
    panel->rows = TEXT_LINES;
  struct tile_size *tile = &show->figure.tile;
  show->figure.cells_are_tiles =
      tile->rows * panel->rows < panel->queries || tile->columns * panel->columns < panel->keys;
  tiles_count_entered(&show->visible, tile, &panel->counts);
  if (!fill_panel(show, panel) || !fill_classes(show, panel))
    return fail_memory();
  return EXIT_FINE;
}

/* ---- output ---- */

static void print_weights(const struct show *show, const struct show_panel *panel)
{
  static const char *const shades[] = {"·", "░", "▒", "▓", "█"};
  printf("weights of b = %lld, h = %lld: %lld queries down, %lld keys across\n",
         (long long)panel->b, (long long)panel->h, (long long)panel->queries,
         (long long)panel->keys);
  if (panel->columns > 0) {
    char last[24];
    int width = snprintf(last, sizeof(last), "%lld", (long long)panel->keys - 1);
    int gap = (int)panel->columns - 1 - width;
    printf("%9s0%*s%s\n", "j: ", gap > 1 ? gap : 1, "", panel->keys > 1 ? last : "");
  }
  for (int64_t row = 0; row < panel->rows; row++) {
    int64_t i = visible_boundary(panel->queries, panel->rows, row) + panel->offset;
    if (row % 4 == 0)
      printf(row == 0 ? "i: %4lld │" : "%7lld │", (long long)i);
    else
      printf("%8s│", "");
    for (int64_t column = 0; column < panel->columns; column++) {
      double weight = fabs(panel->values[row * panel->columns + column]);
      double share = show->figure.limit > 0 ? sqrt(weight / show->figure.limit) : 0;
      int level = weight > 0 ? 1 + (int)(share * 3.999) : 0;
      fputs(isnan(weight) ? "?" : shades[level], stdout);
    }
    fputs("│\n", stdout);
  }
  printf("%7s  · 0", "");
  for (int level = 1; level <= 4; level++)
    printf("   %s to %.3g", shades[level], show->figure.limit * level * level / 16);
  fputs("\n", stdout);
}

static enum exit_status print_text(struct show *show)
{
  struct workload *workload = &show->x.workload;
  for (size_t k = 0; k < show->figure.count; k++) {
    const struct show_panel *panel = &show->figure.panels[k];
    const struct tile_counts *counts = &panel->counts;
    if (k > 0)
      printf("\n");
    if (show->request->weights)
      print_weights(show, panel);
    else if (!visible_draw(workload, panel->b, panel->h, stdout))
      return fail_memory();
    double all = counts->empty + counts->partial + counts->full;
    if (all > 0 && !show->request->weights)
      printf("%9stiles of %lld x %lld: %s EMPTY, %s PARTIAL, %s FULL\n", "",
             (long long)show->figure.tile.rows, (long long)show->figure.tile.columns,
             count_text(counts->empty), count_text(counts->partial), count_text(counts->full));
  }
  return EXIT_FINE;
}

static void print_json(const struct show *show)
{
  struct json json = {.file = stdout};
  json_open(&json, NULL, '{');
  json_text(&json, "name", show->x.spec->name);
  json_text(&json, "values", show->request->weights ? "weight" : "visible share");
  json_integer(&json, "tile_queries", show->figure.tile.rows);
  json_integer(&json, "tile_keys", show->figure.tile.columns);
  json_bool(&json, "estimated", show->sampled);
  json_open(&json, "heads", '[');
  for (size_t k = 0; k < show->figure.count; k++) {
    const struct show_panel *panel = &show->figure.panels[k];
    json_open(&json, NULL, '{');
    json_integer(&json, "b", panel->b);
    json_integer(&json, "h", panel->h);
    json_integer(&json, "queries", panel->queries);
    json_integer(&json, "keys", panel->keys);
    json_integer(&json, "offset", panel->offset);
    json_number(&json, "empty_tiles", panel->counts.empty);
    json_number(&json, "partial_tiles", panel->counts.partial);
    json_number(&json, "full_tiles", panel->counts.full);
    json_open(&json, "cells", '[');
    for (int64_t row = 0; row < panel->rows; row++)
      json_numbers(&json, NULL, panel->values + row * panel->columns, panel->columns);
    json_close(&json, ']');
    json_close(&json, '}');
  }
  json_close(&json, ']');
  json_close(&json, '}');
}

static enum exit_status write_picture(struct show *show)
{
  const struct workload *workload = &show->x.workload;
  const struct show_panel *first = &show->figure.panels[0];
  struct picture picture;
  unsigned char *data;
  size_t size;
  char head[32] = "all heads", subtitle[160];
  if (show->figure.count == 1)
    snprintf(head, sizeof(head), "head %lld", (long long)first->h);
  snprintf(subtitle, sizeof(subtitle), "%s: sequence %lld, %s, NQ = %lld, NK = %lld%s",
           show->request->weights ? "weights" : "visible pairs", (long long)first->b, head,
           (long long)first->queries, (long long)first->keys, workload->ragged ? ", ragged" : "");
  show->figure.title = show->x.spec->name;
  show->figure.subtitle = subtitle;
  if (!show_draw(&picture, &show->figure))
    return fail_memory();
  bool good = picture_png(&picture, &data, &size);
  picture_free(&picture);
  enum exit_status status =
      good ? write_output(show->x.request->output, data, size) : fail_memory();
  mem_free(data);
  return status;
}

static enum exit_status run(struct show *show, const char *path)
{
  const struct show_request *request = show->request;
  struct workload *workload = &show->x.workload;
  int64_t first, last;
  enum exit_status status = explain_open(&show->x, &request->explain, path, NULL);
  if (status == EXIT_FINE)
    status = choose_heads(show, &first, &last);
  if (status != EXIT_FINE)
    return status;
  if (request->batch >= (uint64_t)workload->batch)
    return fail_with(EXIT_USAGE, "--batch %llu: there are %lld sequences, counted from 0",
                     (unsigned long long)request->batch, (long long)workload->batch);
  if (arena_guard(&show->arena))
    return fail_memory();
  if (arena_guard(&show->x.document.arena)) /* which the analysis adds to */
    return fail_memory();
  if (request->weights)
    status = compute_weights(show, last);
  struct show_figure *figure = &show->figure;
  figure->weights = request->weights;
  figure->side = show_side((size_t)(last - first + 1));
  figure->tile = show->x.size;
  if (request->tile_rows > 0)
    figure->tile.rows = (int64_t)request->tile_rows;
  if (request->tile_keys > 0)
    figure->tile.columns = (int64_t)request->tile_keys;
  figure->panels = ARENA_ARRAY(&show->arena, struct show_panel, (size_t)(last - first + 1));
  visible_open(&show->visible, workload, &show->arena);
  bool picture = request->explain.output != NULL;
  for (int64_t h = first; h <= last && status == EXIT_FINE; h++)
    status = add_panel(show, (int64_t)request->batch, h, picture && !request->explain.json);
  if (status == EXIT_FINE && request->explain.json)
    print_json(show);
  else if (status == EXIT_FINE && !picture)
    status = print_text(show);
  return status == EXIT_FINE && picture ? write_picture(show) : status;
}

static bool is_png(const char *path)
{
  size_t length = strlen(path);
  return length > 4 && strcmp(path + length - 4, ".png") == 0;
}

static enum exit_status check_request(const struct show_request *request)
{
  const struct explain_request *explain = &request->explain;
  if (explain->shape == NULL && explain->files.count == 0)
    return fail_with(EXIT_USAGE, "show needs sizes: --shape B=1,NQ=64,NK=64, or --in FILE");
  if (request->weights && explain->shape != NULL && explain->files.count > 0)
    return fail_with(EXIT_USAGE, "--weights takes all tensors from --in FILE, or random ones of "
                                 "--shape; leave one out");
  if (explain->output != NULL && !is_png(explain->output))
    return fail_with(EXIT_USAGE, "-o %s: end the name with .png", explain->output);
  if (explain->output != NULL && explain->json)
    return fail_with(EXIT_USAGE, "--json prints numbers and -o draws them; leave one out");
  return EXIT_FINE;
}

enum exit_status command_show(int argc, char **argv)
{
  struct show_request request = {.head = "0", .explain = {.layers = 1}};
  struct explain_request *explain = &request.explain;
  const struct option options[] = {
      {"shape", 0, OPTION_TEXT, "B=1,NQ=64,NK=64", "sizes; NK is NQ and B is 1 where left out",
       &explain->shape, 0, 0},
      {"in", 'i', OPTION_LIST, "[NAME=]FILE", "inputs of the mask; without --shape all tensors",
       &explain->files, 0, 0},
      {"seed", 0, OPTION_NUMBER, "N", "of the tensors that no file has; 0 by default",
       &explain->seed, 0, UINT64_MAX},
      option_params(&explain->params),
      option_sets(&explain->sets),
      {"type", 0, OPTION_CHOICE, "any|f32|f16|bf16", "of q, k and v", &explain->type, 0, 0},
      option_attention(&explain->name),
      {"head", 0, OPTION_TEXT, "H|all", "the query head, or a grid of all; 0 by default",
       &request.head, 0, 0},
      {"batch", 0, OPTION_NUMBER, "B", "the sequence; 0 by default", &request.batch, 0, MAX_SIDE},
      {"weights", 'w', OPTION_FLAG, NULL, "the weights of the reference instead of the mask",
       &request.weights, 0, 0},
      {"tile-rows", 0, OPTION_NUMBER, "N", "queries of a tile, instead of the schedule's",
       &request.tile_rows, 1, MAX_SIDE},
      {"tile-keys", 0, OPTION_NUMBER, "N", "keys of a tile", &request.tile_keys, 1, MAX_SIDE},
      {"output", 'o', OPTION_TEXT, "FILE.png", "draw a picture", &explain->output, 0, 0},
      option_json(&explain->json),
  };
  const struct usage usage = {
      .command = "show",
      .arguments = "SPEC (--shape SIZES | --in FILE...) [options]",
      .summary = "Draws what the queries of a spec see, or their weights.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = 1,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  status = check_request(&request);
  if (status != EXIT_FINE)
    return status;
  explain->tensors = request.weights;
  struct show show = {.request = &request};
  arena_init(&show.arena);
  status = run(&show, argv[0]);
  for (size_t k = 0; k < show.figure.count; k++) {
    mem_free(show.figure.panels[k].values);
    mem_free(show.figure.panels[k].classes);
  }
  ref_result_free(&show.reference);
  arena_free(&show.arena);
  explain_close(&show.x);
  return status;
}
