/* One explanation as text and as JSON. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "compiler/schedule/schedule.h"
#include "runtime/attnc/explain.h"
#include "runtime/attnc/spec_print.h"

enum { TEXTS = 4, TEXT_SIZE = 32, FORMULA_MAX = 160 };

static char *next_text(void)
{
  static char texts[TEXTS][TEXT_SIZE];
  static unsigned next;
  return texts[next++ % TEXTS];
}

/* At most four digits, and no power of ten: x is below 10 000. */
static void put_scaled(char *text, double x, const char *unit)
{
  int decimals = x >= 999.5 || x == floor(x) ? 0 : x >= 99.95 ? 1 : x >= 9.995 ? 2 : 3;
  int length = snprintf(text, TEXT_SIZE, "%.*f", decimals, x);
  while (decimals > 0 && text[length - 1] == '0')
    text[--length] = '\0', decimals--;
  if (text[length - 1] == '.')
    text[--length] = '\0';
  snprintf(text + length, TEXT_SIZE - (size_t)length, "%s", unit);
}

const char *bytes_text(double bytes)
{
  static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};
  char *text = next_text();
  size_t unit = 0;
  for (; bytes >= 1024 && unit < sizeof(units) / sizeof(units[0]) - 1; unit++)
    bytes /= 1024;
  put_scaled(text, bytes, units[unit]);
  return text;
}

const char *count_text(double count)
{
  static const char *const units[] = {"", " M", " G", " T", " P", " E"};
  char *text = next_text();
  size_t unit = 0;
  if (count < 1e6) {
    snprintf(text, TEXT_SIZE, "%.0f", count);
    return text;
  }
  count /= 1e6;
  for (unit = 1; count >= 1000 && unit < sizeof(units) / sizeof(units[0]) - 1; unit++)
    count /= 1000;
  put_scaled(text, count, units[unit]);
  return text;
}

static double share_of(double part, double whole)
{
  return whole > 0 ? part / whole : 0;
}

/* ---- text ---- */

struct printer {
  const struct explanation *x;
  struct arena *arena;
  struct expr_names names;
  FILE *out;
};

/* A line with a label in front; without, a further line of the last label. */
static void line(const struct printer *p, const char *label, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void line(const struct printer *p, const char *label, const char *format, ...)
{
  va_list arguments;
  fprintf(p->out, "%-11s", label);
  va_start(arguments, format);
  vfprintf(p->out, format, arguments);
  va_end(arguments);
  fputc('\n', p->out);
}

static const char *formula(const struct printer *p, const struct expr *e)
{
  return expr_print(p->arena, e, &p->names);
}

/* Nested conditions and roundings make a few masks' formulas too long to read. */
static const char *short_formula(const struct printer *p, const struct expr *e)
{
  const char *text = formula(p, e);
  size_t length = strlen(text);
  if (length <= FORMULA_MAX)
    return text;
  return arena_format(p->arena, "(a formula of %zu characters, see --json)", length);
}

static const char *place_text(enum bounds_place place)
{
  switch (place) {
  case BOUNDS_MASK: return "every pair of a tile that is not skipped";
  case BOUNDS_PAIR: return "visible pairs";
  case BOUNDS_ROW: return "every query";
  case BOUNDS_KEY: return "every key";
  }
  return "";
}

/* What the assembler said of a kernel; NULL where there is none. */
static const struct ptxas_kernel *assembled(const struct explanation *x,
                                            const struct compiled_kernel *kernel)
{
  for (size_t k = 0; k < x->assembled.kernels.count; k++)
    if (strcmp(x->assembled.kernels.items[k].name, kernel->tile->name) == 0)
      return &x->assembled.kernels.items[k];
  return NULL;
}

static void print_code(const struct printer *p)
{
  const struct explanation *x = p->x;
  const char *size = bytes_text((double)x->compiled->code_size);
  if (x->compiled->options.target == TARGET_HOST) {
    line(p, "code", "%s, and %s of working memory a thread", size,
         bytes_text((double)x->scratch_bytes));
    return;
  }
  line(p, "code", "%s of PTX", size);
  for (size_t k = 0; k < x->compiled->kernels.count; k++) {
    const struct compiled_kernel *kernel = &x->compiled->kernels.items[k];
    const struct ptxas_kernel *taken = assembled(x, kernel);
    line(p, "", "%s: blocks of %u threads and %s of shared memory", kernel->tile->name,
         kernel->threads, bytes_text((double)kernel->shared_bytes));
    if (taken != NULL)
      line(p, "", "%s: %u registers a thread, %s spilled", kernel->tile->name, taken->registers,
           taken->stack == 0 ? "none" : bytes_text((double)taken->stack));
  }
}

/* How a GPU's blocks are made, and what they ask for. */
static void print_blocks(const struct printer *p)
{
  const struct explanation *x = p->x;
  const struct schedule *schedule = &x->schedule, *table = &x->table;
  line(p, "", "%u warps, %u along the rows and %u along the columns; %u buffer%s for each operand",
       schedule->warps, schedule->warps / schedule->column_warps, schedule->column_warps,
       schedule->stages, schedule->stages == 1 ? "" : "s");
  if (memcmp(schedule, table, sizeof(*schedule)) != 0)
    line(p, "", "the table has %u rows by %u keys and %u warps; this is what fits", table->rows,
         table->columns, table->warps);
}

static void print_budget(const struct printer *p)
{
  const struct explanation *x = p->x;
  for (size_t k = 0; x->compiled != NULL && k < x->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = x->compiled->kernels.items[k].tile;
    struct budget budget = budget_of_kernel(p->arena, kernel, &x->schedule);
    line(p, k == 0 ? "budget" : "", "%s: about %u of %d registers a thread, %s of %s shared memory",
         kernel->name, budget.registers, (int)BUDGET_REGISTERS, bytes_text((double)budget.shared),
         bytes_text((double)(budget.shared > BUDGET_SHARED ? BUDGET_MOST_SHARED : BUDGET_SHARED)));
  }
}

static void print_decode(const struct printer *p)
{
  const struct explanation *x = p->x;
  const struct schedule *schedule = &x->decode;
  if (x->decode_queries == 0)
    return;
  line(p, "decode", "%u row%s by %u keys a tile, for %u quer%s", schedule->rows,
       schedule->rows == 1 ? "" : "s", schedule->columns, x->decode_queries,
       x->decode_queries == 1 ? "y" : "ies");
  if (!x->decode_splits)
    line(p, "", "keys are not split: the weights themselves take a second look");
  else if (schedule->tasks == SCHEDULE_ALL_TASKS)
    line(p, "", "keys are split into parts of %u", schedule->part);
  else
    line(p, "", "keys are split until there are %u tasks, into parts of %u or more",
         schedule->tasks, schedule->part);
}

static void print_schedule(const struct printer *p)
{
  const struct explanation *x = p->x;
  const struct spec *spec = x->spec;
  uint32_t channels = spec->dim_qk > spec->dim_v ? spec->dim_qk : spec->dim_v;
  line(p, "schedule", "%s, by its table for %u channels: %u rows by %u keys a tile",
       target_name(x->target), channels, x->schedule.rows, x->schedule.columns);
  if (x->target != TARGET_HOST)
    print_blocks(p);
  if (x->share > 1)
    line(p, "", "a tile has %u queries of %u heads, which share their keys and values",
         x->schedule.rows / x->share, x->share);
  else if (spec->query_heads > spec->kv_heads)
    line(p, "", "a tile has %u queries of one head%s", x->schedule.rows,
         visible_by_head(spec) ? ", as heads see different keys" : "");
  else
    line(p, "", "a tile has %u queries of one head", x->schedule.rows);
  if (x->not_lowered != NULL)
    line(p, "", "but %s", x->not_lowered);
  for (size_t k = 0; k < x->product_count; k++) {
    const struct explain_product *product = &x->products[k];
    line(p, k == 0 ? "products" : "", "%u x %u, summed over %u %s", product->rows, product->columns,
         product->inner, product->over_keys ? "keys" : "channels");
  }
  if (x->target != TARGET_HOST)
    print_budget(p);
  if (x->request->compile && x->compiled != NULL)
    print_code(p);
  print_decode(p);
}

/* "lo <= j < hi", and the condition under which it is not empty. */
static void print_range(const struct printer *p, const char *who, const struct expr *lo,
                        const struct expr *hi)
{
  const struct expr *condition = NULL;
  if (hi->op == EXPR_SELECT && hi->args[2] == lo) {
    condition = hi->args[0];
    hi = hi->args[1];
  }
  if (lo == hi)
    line(p, "", "%-10s nothing for certain", who);
  else
    line(p, "", "%-10s %s <= j < %s%s%s", who, short_formula(p, lo), short_formula(p, hi),
         condition != NULL ? ", where " : "", condition != NULL ? short_formula(p, condition) : "");
}

static void print_segments(const struct printer *p)
{
  const struct visibility_walk *walk = &p->x->visibility->keys;
  if (walk->segment_count == 0)
    line(p, "segments", "none: nothing is ever visible");
  else
    line(p, "segments", "of the keys j, for a tile of queries at positions %s to %s",
         expr_var_name(EXPR_VAR_TILE_I0), expr_var_name(EXPR_VAR_TILE_I1));
  for (uint32_t n = 0; n < walk->segment_count; n++) {
    const struct visibility_segment *segment = &walk->segments[n];
    print_range(p, "some see", segment->may_lo, segment->may_hi);
    print_range(p, "all see", segment->must_lo, segment->must_hi);
  }
  if (walk->tested)
    line(p, "", "not all of the mask has such a form: each tile that is left is tested");
}

static void print_guards(const struct printer *p)
{
  const struct explanation *x = p->x;
  if (x->guard_count == 0)
    line(p, "guards", "none: every index is in range, or its size is checked at the launch");
  for (size_t k = 0; k < x->guard_count; k++) {
    const struct bounds_guard *guard = &x->guards[k];
    for (uint32_t n = 0; n < guard->read->arg_count; n++)
      if ((guard->proved >> n & 1) == 0)
        line(p, k == 0 ? "guards" : "", "%s: index %u, %s, is checked for %s",
             formula(p, guard->read), n, formula(p, guard->read->args[n]),
             place_text(guard->place));
  }
}

static void print_bound(const struct printer *p)
{
  const struct explanation *x = p->x;
  double intensity = share_of(x->cost.flops, x->cost.tensor_bytes);
  const char *per_byte = x->cost.tensor_bytes > 0 ? count_text(intensity) : "0";
  if (x->peak.gflops <= 0) {
    line(p, "bound", "%s FLOP a byte: by compute on a machine that does fewer, by memory on one",
         per_byte);
    line(p, "", "that does more (--measure asks this one)");
    return;
  }
  double compute = x->cost.flops / x->peak.gflops * 1e-6;
  double memory = x->cost.tensor_bytes / x->peak.gbytes * 1e-6;
  line(p, "machine", "%.1f GFLOP/s, %.1f GB/s%s%s", x->peak.gflops, x->peak.gbytes,
       x->peak.vector != NULL ? ", measured with " : "",
       x->peak.vector != NULL ? x->peak.vector : "");
  line(p, "bound", "by %s: %s FLOP a byte; at best %.3g ms to compute, %.3g ms to move",
       compute >= memory ? "compute" : "memory", per_byte, compute, memory);
}

static void print_call(const struct printer *p)
{
  const struct explanation *x = p->x;
  const struct workload *workload = &x->workload;
  const struct tile_counts *counts = &x->counts;
  double tiles = counts->empty + counts->partial + counts->full;
  const char *about = counts->sampled ? "about " : "";
  line(p, "sizes", "B = %" PRId64 ", NQ = %" PRId64 ", NK = %" PRId64 "%s", workload->batch,
       workload->queries, workload->keys, workload->ragged ? ", the longest of ragged" : "");
  line(p, "visible", "%s%.4g %% of %s pairs", x->visible_sampled ? "about " : "",
       100 * share_of(x->visible, x->pairs), count_text(x->pairs));
  line(p, "tiles", "%s%s, of %" PRId64 " queries by %" PRId64 " keys%s", about, count_text(tiles),
       x->size.rows, x->size.columns, x->share > 1 ? ", for each head" : "");
  line(p, "", "%-8s %8s  %6.2f %%  skipped", "EMPTY", count_text(counts->empty),
       100 * share_of(counts->empty, tiles));
  line(p, "", "%-8s %8s  %6.2f %%  computed, the mask asked for each pair", "PARTIAL",
       count_text(counts->partial), 100 * share_of(counts->partial, tiles));
  line(p, "", "%-8s %8s  %6.2f %%  computed without the mask", "FULL", count_text(counts->full),
       100 * share_of(counts->full, tiles));
  if (counts->sampled)
    line(p, "", "(from %" PRIu64 " of %" PRIu64 " row tiles)", counts->looked_at,
         counts->row_tiles);
  line(p, "FLOPs", "%s%s, %.4g %% of the %s without a mask", about, count_text(x->cost.flops),
       100 * share_of(x->cost.flops, x->cost.dense_flops), count_text(x->cost.dense_flops));
  line(p, "bytes", "%s of tensors, each once", bytes_text(x->cost.tensor_bytes));
  line(p, "", "%s%s by tiles, %.4g %% of the %s without a mask", about,
       bytes_text(x->cost.tile_bytes), 100 * share_of(x->cost.tile_bytes, x->cost.dense_tile_bytes),
       bytes_text(x->cost.dense_tile_bytes));
  print_bound(p);
}

static void print_cache(const struct printer *p)
{
  const struct explanation *x = p->x;
  double token = cost_token_bytes(x->spec, x->workload.type);
  double layers = (double)x->request->layers;
  line(p, "cache", "%s a token and layer%s", bytes_text(token),
       x->spec->value_is_key ? ", as keys hold the values" : "");
  if (x->request->layers > 1)
    line(p, "", "%s a token for %" PRIu64 " layers", bytes_text(layers * token),
         x->request->layers);
  if (x->request->context > 0)
    line(p, "", "%s for %" PRIu64 " tokens and %" PRIu64 " layer%s",
         bytes_text(layers * cost_context_bytes(x->spec, x->workload.type, x->request->context)),
         x->request->context, x->request->layers, x->request->layers == 1 ? "" : "s");
}

static void print_all(const struct printer *p)
{
  const struct explanation *x = p->x;
  const struct spec *spec = x->spec;
  fprintf(p->out, "%s\n", spec->name);
  line(p, "heads", "q = %u, kv = %u", spec->query_heads, spec->kv_heads);
  line(p, "dim", "qk = %u, v = %u", spec->dim_qk, spec->dim_v);
  line(p, "type", "%s%s", dtype_name(x->workload.type),
       spec->type == DTYPE_ANY ? " (the spec leaves it open)" : "");
  for (uint32_t k = 0; k < spec->map_count; k++)
    line(p, k == 0 ? "weights" : "", "%s%s%s", spec->maps[k].name != NULL ? spec->maps[k].name : "",
         spec->maps[k].name != NULL ? ": " : "", normalizer_name(spec->maps[k].normalizer));
  if (spec->select.present)
    line(p, "select", "blocks of %u keys; what follows counts the mask alone", spec->select.block);
  print_schedule(p);
  print_segments(p);
  print_guards(p);
  if (x->size.rows > 0)
    print_call(p);
  print_cache(p);
}

bool explain_print(struct explanation *x, FILE *out)
{
  if (arena_guard(&x->document.arena))
    return false;
  struct printer printer = {.x = x, .arena = &x->document.arena, .out = out};
  printer.names = spec_names(printer.arena, x->spec);
  print_all(&printer);
  return true;
}

/* ---- JSON ---- */

static void json_kernels(const struct explanation *x, struct json *json)
{
  json_open(json, "kernels", '[');
  for (size_t k = 0; k < x->compiled->kernels.count; k++) {
    const struct compiled_kernel *kernel = &x->compiled->kernels.items[k];
    const struct ptxas_kernel *taken = assembled(x, kernel);
    json_open(json, NULL, '{');
    json_text(json, "name", kernel->tile->name);
    json_integer(json, "threads", kernel->threads);
    json_integer(json, "shared_bytes", kernel->shared_bytes);
    if (taken != NULL) {
      json_integer(json, "registers", taken->registers);
      json_integer(json, "stack_bytes", taken->stack);
    }
    json_close(json, '}');
  }
  json_close(json, ']');
}

static void json_blocks(const struct printer *p, struct json *json)
{
  const struct explanation *x = p->x;
  json_integer(json, "warps", x->schedule.warps);
  json_integer(json, "column_warps", x->schedule.column_warps);
  json_integer(json, "stages", x->schedule.stages);
  json_open(json, "budget", '[');
  for (size_t k = 0; x->compiled != NULL && k < x->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = x->compiled->kernels.items[k].tile;
    struct budget budget = budget_of_kernel(p->arena, kernel, &x->schedule);
    json_open(json, NULL, '{');
    json_text(json, "kernel", kernel->name);
    json_integer(json, "registers", budget.registers);
    json_integer(json, "shared_bytes", (int64_t)budget.shared);
    json_close(json, '}');
  }
  json_close(json, ']');
}

static void json_decode(const struct explanation *x, struct json *json)
{
  json_open(json, "decode", '{');
  json_integer(json, "rows", x->decode.rows);
  json_integer(json, "columns", x->decode.columns);
  json_integer(json, "queries", x->decode_queries);
  json_bool(json, "splits", x->decode_splits);
  if (x->decode_splits && x->decode.tasks != SCHEDULE_ALL_TASKS)
    json_integer(json, "tasks", x->decode.tasks);
  if (x->decode_splits)
    json_integer(json, "part", x->decode.part);
  json_close(json, '}');
}

static void json_schedule(const struct printer *p, struct json *json)
{
  const struct explanation *x = p->x;
  json_open(json, "schedule", '{');
  json_text(json, "target", target_name(x->target));
  json_integer(json, "rows", x->schedule.rows);
  json_integer(json, "columns", x->schedule.columns);
  json_integer(json, "heads_per_tile", x->share);
  if (x->target != TARGET_HOST)
    json_blocks(p, json);
  json_bool(json, "lowered", x->compiled != NULL);
  if (x->not_lowered != NULL)
    json_text(json, "not_lowered", x->not_lowered);
  if (x->request->compile && x->compiled != NULL) {
    json_integer(json, "code_bytes", (int64_t)x->compiled->code_size);
    if (x->compiled->options.target == TARGET_HOST)
      json_integer(json, "scratch_bytes", (int64_t)x->scratch_bytes);
    else
      json_kernels(x, json);
  }
  json_open(json, "products", '[');
  for (size_t k = 0; k < x->product_count; k++) {
    json_open(json, NULL, '{');
    json_integer(json, "rows", x->products[k].rows);
    json_integer(json, "columns", x->products[k].columns);
    json_integer(json, "summed", x->products[k].inner);
    json_text(json, "over", x->products[k].over_keys ? "keys" : "channels");
    json_close(json, '}');
  }
  json_close(json, ']');
  if (x->decode_queries != 0)
    json_decode(x, json);
  json_close(json, '}');
}

static void json_mask(const struct printer *p, struct json *json)
{
  const struct explanation *x = p->x;
  const struct visibility_walk *walk = &x->visibility->keys;
  json_open(json, "segments", '[');
  for (uint32_t n = 0; n < walk->segment_count; n++) {
    json_open(json, NULL, '{');
    json_text(json, "may_first", formula(p, walk->segments[n].may_lo));
    json_text(json, "may_end", formula(p, walk->segments[n].may_hi));
    json_text(json, "must_first", formula(p, walk->segments[n].must_lo));
    json_text(json, "must_end", formula(p, walk->segments[n].must_hi));
    json_close(json, '}');
  }
  json_close(json, ']');
  json_bool(json, "tile_test", walk->tested);
  json_open(json, "guards", '[');
  for (size_t k = 0; k < x->guard_count; k++) {
    for (uint32_t n = 0; n < x->guards[k].read->arg_count; n++) {
      if ((x->guards[k].proved >> n & 1) != 0)
        continue;
      json_open(json, NULL, '{');
      json_text(json, "read", formula(p, x->guards[k].read));
      json_integer(json, "index", n);
      json_text(json, "checked_for", place_text(x->guards[k].place));
      json_close(json, '}');
    }
  }
  json_close(json, ']');
}

static void json_call(const struct explanation *x, struct json *json)
{
  json_open(json, "call", '{');
  json_integer(json, "B", x->workload.batch);
  json_integer(json, "NQ", x->workload.queries);
  json_integer(json, "NK", x->workload.keys);
  json_number(json, "visible", x->visible);
  json_number(json, "pairs", x->pairs);
  json_bool(json, "visible_estimated", x->visible_sampled);
  json_open(json, "tiles", '{');
  json_integer(json, "queries", x->size.rows);
  json_integer(json, "keys", x->size.columns);
  json_number(json, "empty", x->counts.empty);
  json_number(json, "partial", x->counts.partial);
  json_number(json, "full", x->counts.full);
  json_bool(json, "estimated", x->counts.sampled);
  json_close(json, '}');
  json_number(json, "flops", x->cost.flops);
  json_number(json, "dense_flops", x->cost.dense_flops);
  json_number(json, "tensor_bytes", x->cost.tensor_bytes);
  json_number(json, "tile_bytes", x->cost.tile_bytes);
  json_number(json, "dense_tile_bytes", x->cost.dense_tile_bytes);
  json_number(json, "flops_per_byte", share_of(x->cost.flops, x->cost.tensor_bytes));
  if (x->peak.gflops > 0) {
    json_number(json, "machine_gflops", x->peak.gflops);
    json_number(json, "machine_gbytes", x->peak.gbytes);
    bool compute = x->cost.flops / x->peak.gflops >= x->cost.tensor_bytes / x->peak.gbytes;
    json_text(json, "bound", compute ? "compute" : "memory");
  }
  json_close(json, '}');
}

static void json_all(const struct printer *p, struct json *json)
{
  const struct explanation *x = p->x;
  const struct spec *spec = x->spec;
  double layers = (double)x->request->layers;
  json_open(json, NULL, '{');
  json_text(json, "name", spec->name);
  json_integer(json, "query_heads", spec->query_heads);
  json_integer(json, "kv_heads", spec->kv_heads);
  json_integer(json, "dim_qk", spec->dim_qk);
  json_integer(json, "dim_v", spec->dim_v);
  json_text(json, "type", dtype_name(x->workload.type));
  json_schedule(p, json);
  json_mask(p, json);
  if (x->size.rows > 0)
    json_call(x, json);
  json_open(json, "cache", '{');
  double token = cost_token_bytes(spec, x->workload.type);
  json_number(json, "bytes_per_token_and_layer", token);
  json_integer(json, "layers", (int64_t)x->request->layers);
  json_number(json, "bytes_per_token", layers * token);
  if (x->request->context > 0) {
    json_integer(json, "context", (int64_t)x->request->context);
    json_number(json, "bytes",
                layers * cost_context_bytes(spec, x->workload.type, x->request->context));
  }
  json_close(json, '}');
  json_close(json, '}');
}

bool explain_json(struct explanation *x, struct json *json)
{
  if (arena_guard(&x->document.arena))
    return false;
  struct printer printer = {.x = x, .arena = &x->document.arena};
  printer.names = spec_names(printer.arena, x->spec);
  json_all(&printer, json);
  return true;
}
