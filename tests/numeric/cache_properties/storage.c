/* Storage types: what lies on their grid is exact, and everything else obeys the error rule against
 * the reference on what the cache holds. */
#include "tests/numeric/cache_properties/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/attnc/decode.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/random.h"

/* ---- on the grid ---- */

/* Elements are code * scale + zero, and those that share a scale are `run` along channels or
 * tokens. The first of a run has the code `first` and the second one `second`, so that the scale
 * that append finds is the one that was meant. */
struct grid {
  int least, most, first, second;
  int run;
  bool by_token; /* runs are along tokens */
  float scale, zero;
  const float *values; /* of codes, or NULL: themselves */
};

static struct grid grids[2]; /* of k and v */

/* Codes of a table, by code + 8. */
static const float centroids[16] = {-1,     -0.75f, -0.5f,  -0.375f, -0.25f, -0.125f, -0.0625f, 0,
                                    0.125f, 0.25f,  0.375f, 0.5f,    0.625f, 0.75f,   0.875f,   1};
/* Numbers of e4m3 and e5m2. */
static const float eights[16] = {448, -448, 416,  -352, 256, -144, 104,  60,
                                 -30, 13,   -5.5, 3,    -1,  0.5,  0.25, 0};
static const float fives[16] = {57344, -57344, 49152, -40960, 28672, -10240, 3584, 1280,
                                -640,  320,    -112,  40,     -20,   8,      4,    0};

static float on_grid(enum what what, int story, int64_t position, int head, int channel)
{
  if (what == WHAT_Q)
    return any_element(what, story, position, head, channel);
  const struct grid *g = &grids[what == WHAT_V];
  const uint64_t bits = random_bits((uint64_t)story * 2 + (uint64_t)what,
                                    (uint64_t)((position * HEADS + head) * DIM + channel));
  const int64_t place = g->run == 0 ? 2 : (g->by_token ? position : channel) % g->run;
  int code = g->least + (int)(bits % (uint64_t)(g->most - g->least + 1));
  code = place == 0 ? g->first : place == 1 ? g->second : code;
  const float value = g->values != NULL ? g->values[code - g->least] : (float)code;
  return value * g->scale + g->zero;
}

struct stored {
  const char *cache;
  struct grid k, v;
};

#define SIGNED(MOST, RUN)                                                                          \
  {                                                                                                \
    -(MOST), MOST, MOST, -(MOST), RUN, false, 0.125f, 0, NULL                                      \
  }
#define ASYMMETRIC(LEAST, MOST, RUN, BY_TOKEN)                                                     \
  {                                                                                                \
    LEAST, MOST, LEAST, MOST, RUN, BY_TOKEN, 0.25f, 0.5f, NULL                                     \
  }
#define LISTED(VALUES, RUN, SCALE)                                                                 \
  {                                                                                                \
    0, 15, 0, 1, RUN, false, SCALE, 0, VALUES                                                      \
  }

static const struct stored stored[] = {
    {"paged(page = 4), k = f16, v = bf16", SIGNED(7, 0), SIGNED(7, 0)},
    {"dense, k = int8, v = int8",
     {-127, 127, 127, -127, DIM, false, 0x1p-6f, 0, NULL},
     {-127, 127, 127, -127, DIM, false, 0x1p-5f, 0, NULL}},
    {"paged(page = 16), k = int8(asymmetric = true), v = int8(group = 8, asymmetric = true)",
     {-128, 127, -128, 127, DIM, false, 0x1p-6f, 0.5f, NULL},
     {-128, 127, -128, 127, 8, false, 0x1p-6f, -1, NULL}},
    {"paged(page = 5), k = int4(group = 8), v = int4", SIGNED(7, 8), SIGNED(7, DIM)},
    {"dense, k = int4(group = 4, asymmetric = true), v = int2(group = 8, asymmetric = true)",
     ASYMMETRIC(-8, 7, 4, false), ASYMMETRIC(-2, 1, 8, false)},
    {"ring(capacity = 160), k = int2, v = int2(group = 4)", SIGNED(1, DIM), SIGNED(1, 4)},
    {"paged(page = 3), k = e4m3, v = e5m2", LISTED(eights, DIM, 0x1p-8f),
     LISTED(fives, DIM, 0x1p-15f)},
    {"dense, k = e5m2(group = 8), v = e4m3(group = 4)", LISTED(fives, 8, 0x1p-15f),
     LISTED(eights, 4, 0x1p-8f)},
    /* KIVI */
    {"paged(page = 16), k = int4(axis = channel, group = 16, residual = 32, asymmetric = true), "
     "v = int4(group = 8, residual = 32, asymmetric = true)",
     ASYMMETRIC(-8, 7, 16, true), ASYMMETRIC(-8, 7, 8, false)},
    {"paged(page = 8), k = int2(axis = channel, group = 4, residual = 8, asymmetric = true), "
     "v = int2(group = 4, residual = 7, asymmetric = true)",
     ASYMMETRIC(-2, 1, 4, true), ASYMMETRIC(-2, 1, 4, false)},
    {"dense, k = int8(axis = channel, group = 8, residual = 16), v = int8(axis = channel, group = "
     "4, residual = 4)",
     {-127, 127, 127, -127, 8, true, 0x1p-6f, 0, NULL},
     {-127, 127, 127, -127, 4, true, 0x1p-6f, 0, NULL}},
    /* KVQuant: scales that are given, before rotation, and a table */
    {"paged(page = 16), k = int4(axis = channel, table = centroids), v = int4(asymmetric = true), "
     "rope = read",
     {-8, 7, -8, 7, 0, false, 0.125f, 0, centroids},
     ASYMMETRIC(-8, 7, DIM, false)},
};
enum { STORED = sizeof(stored) / sizeof(*stored) };

/* Calibrated scales, of f16. */
static void give_scales(struct store *s)
{
  struct array *scales = store_find(s, "k.scale");
  for (size_t n = 0; n < scales->bytes / 2; n++)
    ((uint16_t *)scales->host)[n] = 0x3000; /* 0.125 */
  array_upload(scales);
}

START_TEST(grid_is_exact)
{
  struct draw draw = draw_of("grid", _i);
  static struct rows found, wanted;
  char text[1024];
  const struct stored *c = &stored[_i];
  const bool table = c->k.values == centroids;
  const char *statements = table ? "  mask causal\n  position rope\n" : "  mask causal\n";
  struct batch whole = {.sequences = 2, .stories = {0, 1}, .lengths = {1, 2}};
  whole.lengths[0] = pick(&draw, 40, on_device() ? 50 : MOST_TOKENS - 1);
  whole.lengths[1] = pick(&draw, 1, 40);
  grids[0] = c->k;
  grids[1] = c->v;
  plain_rows(statements, on_grid, &whole, &wanted);
  struct array values;
  array_make(&values, ATTN_TYPE_F32, 1, (int64_t[]){16});
  memcpy(values.host, centroids, sizeof(centroids));
  array_upload(&values);
  attn_named_tensor input = {"centroids", &values.tensor};
  if (table)
    whole.inputs = &input, whole.input_count = 1;
  snprintf(text, sizeof(text), "%s%s  cache %s\n", table ? "  input centroids : f32[16]\n" : "",
           statements, c->cache);
  struct model m = model_open(text, NULL);
  struct store s;
  m.element = on_grid;
  store_open(&s, &m, 2, MOST_TOKENS, &draw);
  if (table)
    give_scales(&s);
  store_fill(&s, &m, &whole, &draw, &found);
  expect_rows(c->cache, &found, &wanted);
  array_free(&values);
  store_close(&s);
  model_close(&m);
}
END_TEST

/* ---- off the grid ---- */

/* Every type, axis, group, zero, residual, rest and table, in specs of three types. */
static const char *const types[] = {
    "k = f32, v = f16",
    "k = bf16, v = f32",
    "k = e4m3, v = e5m2(group = 4)",
    "k = e5m2(group = 8), v = e4m3(axis = channel)",
    "k = int8, v = int8(asymmetric = true)",
    "k = int8(axis = channel, asymmetric = true), v = int8(group = 4, residual = 9)",
    "k = int4(group = 8), v = int2(group = 4, asymmetric = true)",
    "k = int2(asymmetric = true, residual = 5), v = int4(axis = channel)",
    "k = int4(channels = 8), v = e4m3(channels = 12, group = 4)",
    "k = int4(axis = channel, table = t4), v = int2(table = t2, asymmetric = true)",
    "k = e4m3(axis = channel, group = 4, residual = 8), v = e5m2(residual = 16)",
    "k = int8(axis = channel, group = 8, residual = 16), v = int4(residual = 3, group = 8)",
    "k = e4m3(group = 1), v = int8(group = 1)",
    "k = int4(axis = channel, group = 16, residual = 16, asymmetric = true), "
    "v = int4(group = 8, residual = 8, asymmetric = true)",
    "k = int2(axis = channel, group = 4, residual = 4, asymmetric = true), "
    "v = int2(axis = channel, group = 8, residual = 8, asymmetric = true)",
};
enum { TYPES = sizeof(types) / sizeof(*types) };

START_TEST(errors_obey_the_rule)
{
  static const char *const layouts[] = {"paged(page = 16)", "dense",
                                        "ring(capacity = 20, sinks = 2)"};
  static const enum dtype spec_types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  static const attn_type launch_types[] = {ATTN_TYPE_F32, ATTN_TYPE_F16, ATTN_TYPE_BF16};
  const bool grouped = strstr(types[_i], "axis = channel, group") != NULL;
  char text[1024], error[2048] = "";
  /* Pairs of which one channel is in codes are not rotated when read. */
  const bool reads = _i % 2 == 0 && strstr(types[_i], "channels") == NULL;
  /* Of 16 bits a device rounds more, and the rule asks for luck that is not in one draw. */
  const int which = on_device() ? 0 : _i % 3;
  int layout = _i / 3 % 3;
  if (grouped && layout == 2) /* a ring loses tokens one by one */
    layout = 0;
  const int length =
      snprintf(text, sizeof(text),
               "attention t {\n  heads q = 4, kv = 2\n  dim 32\n  input t4 : f32[16]\n  input t2 : "
               "f32[4]\n  position rope\n  mask causal\n  cache %s, %s%s\n}\n",
               layouts[layout], types[_i], reads ? ", rope = read" : "");
  struct document document;
  struct option_list sets = {0};
  struct prepared prepared = {.context = shared_context()};
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.type = launch_types[which];
  options.error = error;
  options.error_size = sizeof(error);
  ck_assert_int_eq(document_check(&document, "t.attn", text, (size_t)length, &sets), EXIT_FINE);
  attn_status status =
      attn_compile(shared_context(), text, (size_t)length, NULL, &options, &prepared.program);
  ck_assert_msg(status == ATTN_OK, "%s\n%s", text, error);
  static struct decode decode;
  ck_assert_int_eq(decode_try(&decode, document.file->specs.items[0], spec_types[which], &prepared,
                              (uint64_t)_i, true),
                   EXIT_FINE);
  ck_assert_int_gt(decode.checked, 0);
  const struct comparison *worst = &decode.comparison;
  ck_assert_msg(decode_is_right(&decode), "%s%s is %.9g, the reference has %.9g", text,
                worst->where, worst->out, worst->ref);
  decode_free(&decode);
  attn_program_free(prepared.program);
  document_close(&document);
}
END_TEST

void storage_add(TCase *tests)
{
  tcase_add_loop_test(tests, grid_is_exact, 0, draws(STORED, 5));
  tcase_add_loop_test(tests, errors_obey_the_rule, 0, draws(TYPES, 3));
}
