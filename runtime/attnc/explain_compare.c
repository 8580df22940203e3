/* Several explanations side by side. */
#include <inttypes.h>
#include <string.h>

#include "runtime/attnc/chart.h"
#include "runtime/attnc/explain.h"

static double computed_share(const struct explanation *x)
{
  return x->cost.dense_flops > 0 ? x->cost.flops / x->cost.dense_flops : 0;
}

static double token_bytes(const struct explanation *x)
{
  return (double)x->request->layers * cost_token_bytes(x->spec, x->workload.type);
}

static double context_bytes(const struct explanation *x)
{
  return (double)x->request->layers *
         cost_context_bytes(x->spec, x->workload.type, x->request->context);
}

static void print_table(const struct explanation *all, size_t count)
{
  const struct explain_request *request = all[0].request;
  bool sized = all[0].size.rows > 0;
  int width = 4;
  for (size_t k = 0; k < count; k++)
    width = (int)strlen(all[k].spec->name) > width ? (int)strlen(all[k].spec->name) : width;
  printf("%-*s  %7s  %9s  %12s", width, "name", "heads", "dim", "bytes/token");
  if (request->context > 0)
    printf("  %12s", "cache");
  if (sized)
    printf("  %8s  %8s  %10s  %10s", "visible", "computed", "FLOPs", "bytes");
  printf("\n");
  for (size_t k = 0; k < count; k++) {
    const struct explanation *x = &all[k];
    char heads[32], dims[32];
    snprintf(heads, sizeof(heads), "%u/%u", x->spec->query_heads, x->spec->kv_heads);
    snprintf(dims, sizeof(dims), "%u/%u", x->spec->dim_qk, x->spec->dim_v);
    printf("%-*s  %7s  %9s  %12s", width, x->spec->name, heads, dims, bytes_text(token_bytes(x)));
    if (request->context > 0)
      printf("  %12s", bytes_text(context_bytes(x)));
    if (sized)
      printf("  %6.2f %%  %6.2f %%  %10s  %10s", 100 * (x->pairs > 0 ? x->visible / x->pairs : 0),
             100 * computed_share(x), count_text(x->cost.flops), bytes_text(x->cost.tile_bytes));
    printf("\n");
  }
  printf("bytes/token: of the cache, for %" PRIu64 " layer%s", request->layers,
         request->layers == 1 ? "" : "s");
  if (request->context > 0)
    printf("; cache: of %" PRIu64 " tokens", request->context);
  if (sized)
    printf("; computed: share of the pairs in tiles that are not skipped;\nbytes: what tiles read "
           "and write");
  printf("\n");
}

static enum exit_status write_chart(const struct explanation *all, size_t count)
{
  const struct explain_request *request = all[0].request;
  bool sized = all[0].size.rows > 0;
  struct arena arena;
  struct picture picture;
  unsigned char *data;
  size_t size;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return fail_memory();
  }
  const char **names = ARENA_ARRAY(&arena, const char *, count);
  const char **byte_labels = ARENA_ARRAY(&arena, const char *, count);
  const char **share_labels = ARENA_ARRAY(&arena, const char *, count);
  double *bytes = ARENA_ARRAY(&arena, double, count);
  double *shares = ARENA_ARRAY(&arena, double, count);
  for (size_t k = 0; k < count; k++) {
    names[k] = all[k].spec->name;
    bytes[k] = request->context > 0 ? context_bytes(&all[k]) : token_bytes(&all[k]);
    shares[k] = computed_share(&all[k]);
    byte_labels[k] = arena_format(&arena, "%s", bytes_text(bytes[k]));
    share_labels[k] = arena_format(&arena, "%.3g %%", 100 * shares[k]);
  }
  char title[128], bytes_title[96];
  snprintf(title, sizeof(title), "%zu attentions%s%s", count, sized ? " at " : "",
           sized && request->shape != NULL ? request->shape : "");
  if (request->context > 0)
    snprintf(bytes_title, sizeof(bytes_title), "cache, %" PRIu64 " tokens, %" PRIu64 " layers",
             request->context, request->layers);
  else
    snprintf(bytes_title, sizeof(bytes_title), "cache a token, %" PRIu64 " layer%s",
             request->layers, request->layers == 1 ? "" : "s");
  const struct chart_panel panels[] = {{bytes_title, bytes, byte_labels, 0},
                                       {"FLOPs of all without a mask", shares, share_labels, 1}};
  bool good = chart_draw(&picture, title, names, count, panels, sized ? 2 : 1);
  arena_free(&arena);
  if (!good)
    return fail_memory();
  good = picture_png(&picture, &data, &size);
  picture_free(&picture);
  enum exit_status status = good ? write_output(request->output, data, size) : fail_memory();
  mem_free(data);
  return status;
}

enum exit_status explain_compare(struct explanation *all, size_t count)
{
  if (all[0].request->json) {
    struct json json = {.file = stdout};
    bool good = true;
    json_open(&json, NULL, '[');
    for (size_t k = 0; k < count && good; k++)
      good = explain_json(&all[k], &json);
    json_close(&json, ']');
    if (!good)
      return fail_memory();
  } else {
    print_table(all, count);
  }
  return all[0].request->output != NULL ? write_chart(all, count) : EXIT_FINE;
}
