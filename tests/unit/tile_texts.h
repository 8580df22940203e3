/* What the suites about tile programs share: one arena a test, and reading texts. */
#ifndef ATTN_TESTS_UNIT_TILE_TEXTS_H
#define ATTN_TESTS_UNIT_TILE_TEXTS_H

#include "compiler/tile/ir.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct arena arena;

static inline void setup(void)
{
  arena_init(&arena);
}

static inline void teardown(void)
{
  arena_free(&arena);
}

/* A reading of one text, in a pool of its own. */
struct reading {
  struct source_set sources;
  struct expr_pool pool;
  struct diagnostics diagnostics;
  struct tile_program *program; /* NULL after errors */
};

static inline struct reading *read_text(const char *text, size_t length)
{
  struct reading *r = ARENA_NEW(&arena, struct reading);
  source_set_init(&r->sources, &arena);
  expr_pool_init(&r->pool, &arena);
  uint32_t source = source_add(&r->sources, "text.tile", text, length);
  diagnostics_init(&r->diagnostics, &arena, &r->sources);
  r->program = tile_parse(&arena, &r->pool, &r->sources, source, &r->diagnostics);
  ck_assert((r->program == NULL) == diagnostics_has_errors(&r->diagnostics));
  return r;
}

static inline struct tile_program *read_good(const char *text)
{
  struct reading *r = read_text(text, strlen(text));
  ck_assert_msg(r->program != NULL, "%s\n%s", diagnostics_print(&r->diagnostics, false), text);
  return r->program;
}

/* Verified, and the same text again after printing it and reading that. Returns the text. */
static inline const char *check_round_trip(const struct tile_program *program)
{
  const char *error = tile_verify(&arena, program);
  const char *text = tile_print(&arena, program);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  struct tile_program *again = read_good(text);
  error = tile_verify(&arena, again);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  ck_assert_str_eq(tile_print(&arena, again), text);
  return text;
}

static inline char *read_file(const char *path)
{
  const char *root = getenv("ATTN_SOURCE_DIR");
  const char *full = arena_format(&arena, "%s/%s", root == NULL ? "." : root, path);
  FILE *file = fopen(full, "rb");
  ck_assert_msg(file != NULL, "cannot open %s", full);
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  char *text = arena_alloc(&arena, (size_t)size + 1);
  ck_assert_uint_eq(fread(text, 1, (size_t)size, file), (size_t)size);
  fclose(file);
  return text;
}

/* A kernel whose parallel is open, with tensors and values that the tests of the verifier use. */
#define TILE_PREAMBLE                                                                              \
  "kernel t\n"                                                                                     \
  "  tensor x f32[2]\n  tensor y f32[2] written\n  tensor z i32[1]\n  tensor h f16[3]\n"           \
  "  tensor d int4[3]\n  tensor u u8[2] written\n  tensor s e4m3[2] written\n"                     \
  "  param n int\n  param g float\n  site tensor 4 dim 0\n{\n"                                     \
  "  %e: index = scalar => long(n)\nparallel (%i) < (%e) {\n"                                      \
  "%c: bool = scalar => n < 3\n%k: i32 = scalar => n\n%f: f32 = scalar => g\n"                     \
  "%a: f32[32,16] = load x[%i, %k] rows 0 columns 1 live %e, %e\n"                                 \
  "%q: f16[32,16] = load h[%i, %i, %k] rows 0 columns 2 live %e, %e\n"                             \
  "%r: f32[32,1] = reduce sum axis 1 %a\n"                                                         \
  "%o: i32[32,1] = load z[%i] rows 0 live %e, %e\n"

#endif
