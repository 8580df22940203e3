/* Forward kernels on a cache: every layout, numbering and storage type, against the reference on
 * what the test itself gathers from the cache. */
#include "tests/numeric/cache_reference.h"

enum { TEXT = 1024 };

/* `body` with the cache and with what the cache means for keys that are given. */
static void check_built(enum target target, const char *cached, const char *plain, enum dtype type,
                        const struct cache_batch *batches, size_t count)
{
  struct cache_world w;
  struct compile_options options = {
      .target = target, .type = type, .on_cache = true, .packed_queries = batches[0].packed};
  cache_world_open(&w, cached, plain, &options);
  for (size_t k = 0; k < count; k++) {
    cache_world_fill(&w, &batches[k]);
    cache_world_run(&w);
    cache_world_check(&w, cached);
  }
  cache_world_close(&w);
}

static void check_pair(const char *cached, const char *plain, enum dtype type,
                       const struct cache_batch *batches, size_t count)
{
  check_built(TARGET_HOST, cached, plain, type, batches, count);
}

static const struct cache_batch chunks[] = {
    {.batch = 4, .queries = 3, .lengths = {37, 0, 5, 150}, .seed = 1},
    {.batch = 2, .queries = 1, .lengths = {1, 64}, .heads_first = true, .seed = 2},
    {.batch = 1, .queries = 20, .lengths = {131}, .seed = 3},
    {.batch = 3, .queries = 4, .lengths = {2, 128, 3}, .heads_first = true, .seed = 4},
};
static const struct cache_batch packed[] = {
    {.batch = 4,
     .queries = 9,
     .lengths = {37, 12, 0, 150},
     .query_lengths = {9, 0, 0, 4},
     .packed = true,
     .seed = 5},
    {.batch = 2,
     .queries = 2,
     .lengths = {64, 3},
     .query_lengths = {1, 2},
     .packed = true,
     .seed = 6},
};

/* A spec whose cache numbers keys as the tensors k and v do. */
static void check_cache(const char *body, const char *cache, enum dtype type)
{
  char cached[3 * TEXT], plain[2 * TEXT];
  snprintf(cached, sizeof(cached), "attention a {\n%s cache %s\n}\n", body, cache);
  snprintf(plain, sizeof(plain), "attention a {\n%s}\n", body);
  check_pair(cached, plain, type, chunks, sizeof(chunks) / sizeof(*chunks));
}

/* Sequences with different numbers of queries. */
static void check_packed(const char *body, const char *cache)
{
  char cached[3 * TEXT], plain[2 * TEXT];
  snprintf(cached, sizeof(cached), "attention a {\n%s cache %s\n}\n", body, cache);
  snprintf(plain, sizeof(plain), "attention a {\n%s}\n", body);
  check_pair(cached, plain, DTYPE_F32, packed, sizeof(packed) / sizeof(*packed));
}

static const char *const layouts[] = {"dense", "paged(page = 1)", "paged(page = 3)",
                                      "paged(page = 16)", "paged(page = 64)"};
enum { LAYOUTS = sizeof(layouts) / sizeof(*layouts) };

#define CAUSAL " heads q = 4, kv = 2\n dim qk = 24, v = 16\n mask causal\n"

START_TEST(plain_layouts)
{
  for (size_t n = 0; n < LAYOUTS; n++)
    check_cache(n % 2 == 0 ? CAUSAL : " heads 2\n dim 16\n mask i - j < 20\n position rope()\n",
                layouts[n], DTYPE_F32);
  check_cache(CAUSAL, "paged(page = 64)", DTYPE_F16);
  check_cache(CAUSAL, "paged(page = 16)", DTYPE_BF16);
  check_cache(" heads 2\n dim 16\n", "paged(page = 64)", DTYPE_F32);
  check_cache(" heads 2\n dim 16\n", "paged(page = 3)", DTYPE_F32);
}
END_TEST

START_TEST(rotation)
{
  for (size_t n = 0; n < LAYOUTS; n += 2) {
    char cache[TEXT];
    snprintf(cache, sizeof(cache), "%s, rope = read", layouts[n]);
    check_cache(" heads q = 4, kv = 2\n dim 16\n mask causal\n position rope()\n", cache,
                DTYPE_F32);
    check_cache(" heads 2\n dim qk = 24, v = 16\n value k[0:16]\n mask causal\n"
                " position rope(from = 16, dim = 8, pairing = interleaved)\n",
                cache, DTYPE_F32);
  }
}
END_TEST

START_TEST(packed_queries)
{
  check_packed(CAUSAL, "dense");
  check_packed(CAUSAL " output lse\n", "paged(page = 3), k = int8");
  check_packed(" heads 2\n dim 16\n input qr : type[B, H, NQ, 8]\n"
               " input kr : type[B, NK, 8] cached\n mask causal\n"
               " similarity dot(q, k) + dot(qr[b, h, r], kr[b, j])\n",
               "paged(page = 16)");
  check_packed(" heads q = 4, kv = 2\n dim 16\n mask causal\n position rope()\n",
               "paged(page = 64), rope = read");
}
END_TEST

START_TEST(latent)
{
  for (size_t n = 0; n < LAYOUTS; n += 2)
    check_cache(" heads q = 4, kv = 1\n dim qk = 24, v = 16\n value k[0:16]\n mask causal\n"
                " scale 0.2\n",
                layouts[n], DTYPE_F32);
}
END_TEST

START_TEST(cached_inputs)
{
  static const char *const bodies[] = {
      " heads 2\n dim 16\n input doc : i32[B, NK] cached\n"
      " mask causal and doc[b, i] == doc[b, j]\n",
      " heads q = 2, kv = 1\n dim 16\n input gate : f32[B, H, NK] cached\n"
      " input on : bool[NK] cached\n input bias : f32[B, NK]\n"
      " score s + gate[b, h, j] + bias[b, j]\n mask causal and on[j]\n",
      " heads 2\n dim 16\n input qr : type[B, H, NQ, 8]\n"
      " input kr : type[B, NK, 8] cached\n mask causal\n"
      " similarity dot(q, k) + dot(qr[b, h, r], kr[b, j])\n",
      " heads 2\n dim 16\n input doc : i32[B, NK] cached\n"
      " mask causal and doc[b, clamp(j + 1, 0, NK - 1)] != 2\n",
      /* keys that are gathered */
      " heads 2\n dim 16\n input at : i32[B, NK]\n input kg : type[B, NK, 16] cached\n"
      " mask causal\n similarity dot(q, kg[b, clamp(at[b, j], 0, NK - 1)])\n",
  };
  for (size_t k = 0; k < sizeof(bodies) / sizeof(*bodies); k++)
    for (size_t n = k % 2; n < LAYOUTS; n += 2)
      check_cache(bodies[k], layouts[n], DTYPE_F32);
}
END_TEST

START_TEST(storage_types)
{
  static const char *const types[] = {
      "f16",
      "bf16",
      "e4m3",
      "e5m2",
      "int8",
      "int4",
      "int2",
      "int8(group = 8)",
      "int4(group = 8, asymmetric = true)",
      "int2(asymmetric = true)",
      "int8(axis = channel)",
      "e4m3(axis = channel)",
      "int4(axis = channel, group = 8, residual = 16)",
      "int2(axis = channel, group = 16, residual = 16, asymmetric = true)",
      "int4(axis = channel, residual = 5)",
      "int8(residual = 7)",
      "int4(group = 8, residual = 33)",
      "e4m3(channels = 8)",
      "int4(channels = 8, group = 4, asymmetric = true)",
      "int8(axis = channel, channels = 8, residual = 3)",
      "int4(table = levels)",
      "int4(axis = channel, table = levels, asymmetric = true)",
  };
  static const char *const places[] = {"dense", "paged(page = 16)", "paged(page = 64)"};
  for (size_t k = 0; k < sizeof(types) / sizeof(*types); k++) {
    char cache[TEXT], body[TEXT];
    snprintf(cache, sizeof(cache), "%s, k = %s, v = %s", places[k % 3], types[k], types[k]);
    bool table = strstr(types[k], "levels") != NULL;
    snprintf(body, sizeof(body), "%s%s", table ? " input levels : f32[16]\n" : "", CAUSAL);
    check_cache(body, cache, k % 4 == 0 ? DTYPE_F16 : DTYPE_F32);
  }
}
END_TEST

START_TEST(published_formats)
{
  /* KIVI */
  check_cache(" heads q = 4, kv = 2\n dim 32\n mask causal\n position rope()\n",
              "paged(page = 64), k = int4(axis = channel, group = 32, residual = 64,"
              " asymmetric = true), v = int4(group = 32, residual = 64, asymmetric = true)",
              DTYPE_F16);
  /* FlashMLA's row */
  check_cache(" heads q = 4, kv = 1\n dim qk = 40, v = 32\n value k[0:32]\n mask causal\n"
              " position rope(from = 32, dim = 8)\n",
              "paged(page = 64), k = e4m3(group = 8, channels = 32)", DTYPE_BF16);
  /* KVQuant */
  check_cache(" heads 2\n dim 16\n mask causal\n position rope()\n input levels : f32[16]\n",
              "paged(page = 16), k = int4(axis = channel, table = levels, asymmetric = true),"
              " v = int4(table = levels), rope = read",
              DTYPE_F32);
  check_cache(" heads 2\n dim 16\n mask causal\n position rope(pairing = interleaved)\n",
              "paged(page = 16), k = int8(channels = 10, residual = 9), rope = read", DTYPE_F32);
}
END_TEST

/* Rows enough for dot products of bytes, with fewer keys than they take at once, one, and none; and
 * rows that see no key. */
START_TEST(short_sequences_in_codes)
{
  static const struct cache_batch batches[] = {
      {.batch = 4, .queries = 20, .lengths = {0, 1, 7, 40}, .seed = 12},
      {.batch = 2, .queries = 35, .lengths = {1, 0}, .heads_first = true, .seed = 13},
  };
  static const char *const masks[] = {"causal", "3 <= i - j < 9"};
  static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};
  for (size_t n = 0; n < 4; n++) {
    char plain[TEXT], cached[2 * TEXT];
    const char *body = " heads q = 4, kv = 2\n dim qk = 24, v = 16\n mask";
    snprintf(plain, sizeof(plain), "attention a {\n%s %s\n}\n", body, masks[n / 2]);
    snprintf(cached, sizeof(cached), "attention a {\n%s %s\n cache %s, k = int8, v = %s\n}\n", body,
             masks[n / 2], layouts[n], n == 1 ? "int4" : "int8");
    check_pair(cached, plain, types[n % 2], batches, 2);
  }
}
END_TEST

/* ---- rings and eviction ---- */

static const struct cache_batch rings[] = {
    {.batch = 4, .queries = 3, .lengths = {37, 0, 5, 150}, .seed = 7},
    {.batch = 3, .queries = 1, .lengths = {20, 21, 64}, .heads_first = true, .seed = 8},
    {.batch = 1, .queries = 12, .lengths = {83}, .seed = 9},
};

static void check_ring(const char *cached, const char *plain)
{
  check_pair(cached, plain, DTYPE_F32, rings, sizeof(rings) / sizeof(*rings));
}

#define RING(sinks, capacity) "ring(capacity = " #capacity ", sinks = " #sinks ")"
#define LEFT(sinks, capacity) " mask j < " #sinks " or j >= NK - " #capacity "\n"

START_TEST(rings_by_position)
{
  check_ring("attention a {\n" CAUSAL " cache " RING(4, 16) "\n}\n",
             "attention a {\n" CAUSAL LEFT(4, 16) "}\n");
  check_ring("attention a {\n" CAUSAL " position rope(dim = 16)\n cache " RING(0, 32) "\n}\n",
             "attention a {\n" CAUSAL " position rope(dim = 16)\n" LEFT(0, 32) "}\n");
  check_ring("attention a {\n" CAUSAL " position alibi()\n cache " RING(0, 64) "\n}\n",
             "attention a {\n" CAUSAL " position alibi()\n" LEFT(0, 64) "}\n");
  check_ring("attention a {\n" CAUSAL " position rope(dim = 16)\n cache " RING(
                 64, 64) ", k = int8, v = int4(residual = 3), rope = read\n}\n",
             "attention a {\n" CAUSAL " position rope(dim = 16)\n" LEFT(64, 64) "}\n");
}
END_TEST

START_TEST(rings_by_rank)
{
  check_ring("attention a {\n" CAUSAL
             " position rope(dim = 16)\n cache " RING(4, 16) ", rope = read, positions = slot\n}\n",
             "attention a {\n" CAUSAL " position rope(dim = 16)\n}\n");
  check_ring("attention a {\n" CAUSAL " input doc : i32[B, NK] cached\n"
             " mask doc[b, i] >= doc[b, j] or NK > 10\n cache " RING(
                 0, 20) ", k = int8(residual = 5), positions = slot\n}\n",
             "attention a {\n" CAUSAL " input doc : i32[B, NK]\n"
             " mask doc[b, i] >= doc[b, j] or NK > 10\n}\n");
}
END_TEST

#define STORED "pos[b, j] <= r + seen[b] - NQ"

START_TEST(rings_by_store)
{
  check_ring("attention a {\n heads 2\n dim 16\n mask causal\n cache " RING(
                 4, 16) ", positions = stored\n}\n",
             "attention a {\n heads 2\n dim 16\n input pos : i32[B, NK]\n input seen : i32[B]\n"
             " mask " STORED "\n}\n");
}
END_TEST

START_TEST(evicted_keys)
{
  static const struct cache_batch batches[] = {
      {.batch = 3, .queries = 3, .lengths = {50, 9, 200}, .evicted = {20, 0, 131}, .seed = 10},
      {.batch = 2, .queries = 1, .lengths = {70, 7}, .evicted = {6, 1}, .seed = 11},
  };
  for (size_t n = 0; n < LAYOUTS; n += 2) {
    char cached[TEXT];
    snprintf(cached, sizeof(cached),
             "attention a {\n heads 2\n dim 16\n mask causal and doc[b, j] <= doc[b, i]\n"
             " input doc : i32[B, NK] cached\n score s - 0.01 * (i - j)\n"
             " cache %s, positions = stored\n}\n",
             layouts[n]);
    check_pair(cached,
               "attention a {\n heads 2\n dim 16\n input pos : i32[B, NK]\n"
               " input seen : i32[B]\n input doc : i32[B, NK]\n"
               " mask " STORED " and doc[b, j] <= doc[b, r + NK - NQ]\n"
               " score s - 0.01 * (r + seen[b] - NQ - pos[b, j])\n}\n",
               DTYPE_F32, batches, 2);
    snprintf(cached, sizeof(cached),
             "attention a {\n heads 2\n dim 16\n mask causal\n position rope()\n"
             " cache %s, positions = stored, rope = read\n}\n",
             layouts[n]);
    check_pair(cached,
               "attention a {\n heads 2\n dim 16\n input pos : i32[B, NK]\n"
               " mask pos[b, j] <= pos[b, i]\n position rope(at = pos[b, t])\n}\n",
               DTYPE_F32, batches, 2);
  }
}
END_TEST

/* ---- the rest of the language ---- */

START_TEST(other_statements)
{
  static const char *const bodies[] = {
      " heads 2\n dim 16\n mask causal\n output lse, max, entropy\n",
      " heads 2\n dim 16\n mask causal\n output mass\n",
      " heads 2\n dim 16\n mask causal\n output weights\n",
      " heads 2\n dim 16\n mask causal\n normalize sparsemax\n",
      " heads 2\n dim 16\n mask causal\n weight w ** 2.0\n",
      " heads 2\n dim 16\n mask causal\n similarity sum(c) tanh(q[c] + k[c])\n",
      " heads 2\n dim 16\n mask causal\n"
      " select block = 16, top = 2, by = dot(q, mean(k)), always = n == i // 16\n",
      " heads 2\n dim 16\n mask causal\n align start\n",
      " heads 2\n dim 16\n mask causal\n value v[c] * 2.0 + k[c]\n",
      " heads 2\n dim 32\n mask causal\n map x = softmax(dot(q[0:16], k[0:16]))\n"
      " map y = softmax(dot(q[16:32], k[16:32]))\n weight x - 0.5 * y\n",
  };
  static const char *const caches[] = {"paged(page = 16)", "paged(page = 64), k = int8",
                                       "dense, k = int4, v = e4m3(residual = 9)"};
  for (size_t k = 0; k < sizeof(bodies) / sizeof(*bodies); k++) {
    char plain[TEXT], cached[TEXT];
    const char *start = strstr(bodies[k], " align start\n");
    size_t head = start == NULL ? strlen(bodies[k]) : (size_t)(start - bodies[k]);
    snprintf(plain, sizeof(plain), "attention a {\n%.*s}\n", (int)head, bodies[k]);
    snprintf(cached, sizeof(cached), "attention a {\n%s cache %s\n}\n", bodies[k], caches[k % 3]);
    check_pair(cached, plain, DTYPE_F32, chunks, sizeof(chunks) / sizeof(*chunks));
  }
}
END_TEST

/* Not inline: what a loop around it keeps in registers would not survive the guard's longjmp. */
__attribute__((noinline)) static void check_refused(const char *text, const char *message)
{
  struct cache_world w = {0};
  arena_init(&w.arena);
  ck_assert(!arena_guard(&w.arena));
  source_set_init(&w.sources, &w.arena);
  diagnostics_init(&w.diagnostics, &w.arena, &w.sources);
  const struct compile_options options = {.type = DTYPE_F32, .on_cache = true};
  const struct spec *spec = cache_read_spec(&w, text);
  ck_assert_ptr_null(compile_build(&w.arena, spec, &options, &w.diagnostics));
  const char *printed = diagnostics_print(&w.diagnostics, false);
  ck_assert_msg(strstr(printed, message) != NULL, "%s", printed);
  ck_assert_msg(strstr(printed, "E0504") != NULL, "%s", printed);
  arena_free(&w.arena);
}

START_TEST(what_is_not_lowered)
{
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"attention a {\n heads 2\n dim 16\n position rope()\n"
       " cache dense, k = int8(channels = 8), rope = read\n}\n",
       "a rotation when read of pairs with one channel in codes and one without"},
      {"attention a {\n heads 2\n dim 16\n cache dense\n"
       " position rope(scaling = dynamic(2.0, 64))\n}\n",
       "an angle that depends on a sequence's own length"},
      {"attention a {\n heads 2\n dim 16\n cache dense\n input x : f32[B, NK] cached\n"
       " score s + x[0, j]\n}\n",
       "the cache of another sequence"},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++)
    check_refused(cases[k].text, cases[k].message);
}
END_TEST

/* As they are built for GPUs, run on this machine: operands of products in 16 bits. */
START_TEST(gpu_programs)
{
  static const char *const caches[] = {
      "paged(page = 64)",
      "paged(page = 3), rope = read",
      "paged(page = 64), k = int8, v = int8",
      "paged(page = 16), k = e4m3(group = 8), v = e5m2",
      "paged(page = 64), k = int4(axis = channel, group = 16, residual = 32, asymmetric = true),"
      " v = int4(residual = 32, asymmetric = true)",
      "dense, k = int8(channels = 16), v = f32",
  };
  const char *body = " heads q = 4, kv = 2\n dim 32\n mask causal\n position rope()\n";
  for (size_t k = 0; k < sizeof(caches) / sizeof(*caches); k++) {
    char cached[3 * TEXT], plain[2 * TEXT];
    snprintf(cached, sizeof(cached), "attention a {\n%s cache %s\n}\n", body, caches[k]);
    snprintf(plain, sizeof(plain), "attention a {\n%s}\n", body);
    check_built(TARGET_SM_80, cached, plain, k % 2 == 0 ? DTYPE_F16 : DTYPE_BF16, chunks,
                sizeof(chunks) / sizeof(*chunks));
  }
}
END_TEST

int main(void)
{
  const struct {
    const char *name;
    const TTest *test;
  } cases[] = {
      {"plain_layouts", plain_layouts},
      {"rotation", rotation},
      {"packed_queries", packed_queries},
      {"latent", latent},
      {"cached_inputs", cached_inputs},
      {"storage_types", storage_types},
      {"published_formats", published_formats},
      {"short_sequences_in_codes", short_sequences_in_codes},
      {"rings_by_position", rings_by_position},
      {"rings_by_rank", rings_by_rank},
      {"rings_by_store", rings_by_store},
      {"evicted_keys", evicted_keys},
      {"other_statements", other_statements},
      {"what_is_not_lowered", what_is_not_lowered},
      {"gpu_programs", gpu_programs},
  };
  Suite *suite = suite_create("cache_forward");
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) { /* CK_RUN_CASE chooses one */
    TCase *tcase = tcase_create(cases[k].name);
    tcase_add_test(tcase, cases[k].test);
    suite_add_tcase(suite, tcase);
  }
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
