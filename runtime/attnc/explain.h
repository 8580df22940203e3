/* What is known of a spec without running it: its tiles, costs, schedule, guards and cache. */
#ifndef ATTN_RUNTIME_ATTNC_EXPLAIN_H
#define ATTN_RUNTIME_ATTNC_EXPLAIN_H

#include "compiler/analysis/bounds.h"
#include "compiler/pipeline.h"
#include "runtime/attnc/cost.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/json.h"
#include "runtime/attnc/peak.h"
#include "runtime/attnc/ptxas.h"

struct explain_request {
  const char *shape, *name, *output, *gflops, *bandwidth;
  const char *target; /* NULL: the host */
  int type;
  uint64_t seed, context, layers, threads;
  bool compare, measure, compile, json;
  bool tensors; /* make all tensors, not only those that the mask reads */
  struct option_list files, params, sets, schedule;
};

enum { EXPLAIN_MAX_PRODUCTS = 16 };

/* A tile product: [rows, inner] x [inner, columns]. */
struct explain_product {
  uint32_t rows, inner, columns;
  bool over_keys; /* the sum runs over keys, not over channels */
};

struct explanation {
  const struct explain_request *request;
  struct document document;
  struct workload workload; /* no sizes and tensors without --shape and --in */
  const struct spec *spec;
  const struct visibility *visibility;
  struct compiled *compiled; /* NULL where the target does not lower the spec: `not_lowered` */
  const char *not_lowered;
  struct schedule schedule, table; /* the one in use, and what it began with */
  /* Of decode kernels, for `decode_queries` rows at most; 0 where single rows have none. */
  struct schedule decode;
  uint32_t decode_queries;
  bool decode_splits; /* their keys */
  enum target target;
  uint32_t share; /* query heads that a tile packs */
  const struct bounds_guard *guards;
  size_t guard_count;
  struct explain_product products[EXPLAIN_MAX_PRODUCTS];
  size_t product_count;
  /* with --compile */
  size_t scratch_bytes;          /* host: of a thread */
  struct ptxas_report assembled; /* GPU: empty without an assembler */

  /* with a shape */
  struct tile_size size;
  struct tile_counts counts;
  double visible, pairs;
  bool visible_sampled;
  struct cost cost;

  struct peak peak; /* gflops is 0 where nothing is known */
};

/* Fills an explanation of the file at `path`, which explain_close frees in any case. `peak`: the
 * machine's figures, or NULL. */
enum exit_status explain_open(struct explanation *explanation,
                              const struct explain_request *request, const char *path,
                              const struct peak *peak);
void explain_close(struct explanation *explanation);

/* 327680 is "320 KiB": four digits at most. Valid until the next four calls. */
const char *bytes_text(double bytes);
/* "1.23e+09" only beyond what reads well: 43690, 5.64 M, 12.3 G, 1.2 T. As bytes_text. */
const char *count_text(double count);

/* False when memory runs out. */
bool explain_print(struct explanation *explanation, FILE *out);
bool explain_json(struct explanation *explanation, struct json *json);

/* A table of several, or their JSON, and a bar chart as a PNG file where the request says so. */
enum exit_status explain_compare(struct explanation *all, size_t count);

#endif
