/* The checks of a launch: each wrong argument with its text, and what is allowed. */
#include "runtime/arguments.h"

#include "runtime/launch_tensors.h"
#include "runtime/tensor_check.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char spec_text[] =
    "attention t(width: int, cap: float = 2.0, on: bool = true, const size: int = 3) {\n"
    "  heads q = 4, kv = 2\n"
    "  dim qk = 8, v = 6\n"
    "  type f32\n"
    "  input doc : i32[B, NK]\n"
    "  input valid : bool[B, NK]\n"
    "  input bias : type[H, (NK + 63) // 64]\n"
    "  mask 0 <= i - j < width and doc[b, i] == doc[b, j] and on and valid[b, j]\n"
    "  score s * cap + bias[h, j // 64] * size\n"
    "  output lse\n"
    "}\n";

static const char ragged_text[] = "attention t {\n"
                                  "  heads 2\n"
                                  "  dim 4\n"
                                  "  type f32\n"
                                  "  input doc : i32[B, NK]\n"
                                  "  input gain : f32[B, H]\n"
                                  "  score s * gain[b, h]\n"
                                  "  mask doc[b, i] == doc[b, j]\n"
                                  "  cache ragged\n"
                                  "  output lse\n"
                                  "}\n";

/* A launch that passes, to be spoilt; B = 3, NQ = 5, NK = 70. */
enum { TENSORS = 8 };
enum { Q, K, V, O, DOC, VALID, BIAS, LSE };
struct setting {
  struct unit *unit;
  unsigned char *memory[TENSORS];
  int64_t shapes[TENSORS][SPEC_MAX_RANK];
  int64_t strides[TENSORS][SPEC_MAX_RANK];
  DLTensor tensors[TENSORS];
  attn_named_tensor inputs[8], outputs[8];
  attn_param params[8];
  attn_arguments arguments;
  struct call call;
  char text[512];
};

static const DLDataType f32 = {kDLFloat, 32, 1}, i32 = {kDLInt, 32, 1}, i64 = {kDLInt, 64, 1},
                        u8 = {kDLUInt, 8, 1};

static void make_tensor(struct setting *s, int n, DLDataType type, int rank, const int64_t *shape)
{
  size_t count = 1;
  for (int d = 0; d < rank; d++) {
    s->shapes[n][d] = shape[d];
    count *= (size_t)shape[d];
  }
  s->memory[n] = calloc(count + 64, type.bits / 8u);
  ck_assert_ptr_nonnull(s->memory[n]);
  s->tensors[n] = (DLTensor){.data = s->memory[n],
                             .device = {kDLCPU, 0},
                             .ndim = rank,
                             .dtype = type,
                             .shape = s->shapes[n],
                             .strides = NULL};
}

static struct unit *check_text(const char *text)
{
  char error[1024] = "";
  struct error_sink sink = {NULL, error, sizeof(error)};
  struct unit_source source = {.name = "t.attn", .text = text, .length = strlen(text)};
  struct unit *unit;
  ck_assert_msg(unit_check(&source, &sink, &unit) == ATTN_OK, "%s", error);
  unit->variant.type = DTYPE_F32;
  return unit;
}

static struct setting *setting_new(void)
{
  struct setting *s = calloc(1, sizeof(*s));
  ck_assert_ptr_nonnull(s);
  s->unit = check_text(spec_text);
  make_tensor(s, Q, f32, 4, (int64_t[]){3, 4, 5, 8});
  make_tensor(s, K, f32, 4, (int64_t[]){3, 2, 70, 8});
  make_tensor(s, V, f32, 4, (int64_t[]){3, 2, 70, 6});
  make_tensor(s, O, f32, 4, (int64_t[]){3, 4, 5, 6});
  make_tensor(s, DOC, i32, 2, (int64_t[]){3, 70});
  make_tensor(s, VALID, u8, 2, (int64_t[]){3, 70});
  make_tensor(s, BIAS, f32, 2, (int64_t[]){4, 2});
  make_tensor(s, LSE, f32, 3, (int64_t[]){3, 4, 5});
  s->inputs[0] = (attn_named_tensor){"bias", &s->tensors[BIAS]};
  s->inputs[1] = (attn_named_tensor){"doc", &s->tensors[DOC]};
  s->inputs[2] = (attn_named_tensor){"valid", &s->tensors[VALID]};
  s->outputs[0] = (attn_named_tensor){"lse", &s->tensors[LSE]};
  s->params[0] = attn_param_int("width", 7);
  s->arguments = (attn_arguments)ATTN_ARGUMENTS_INIT;
  s->arguments.q = &s->tensors[Q];
  s->arguments.k = &s->tensors[K];
  s->arguments.v = &s->tensors[V];
  s->arguments.o = &s->tensors[O];
  s->arguments.inputs = s->inputs;
  s->arguments.input_count = 3;
  s->arguments.outputs = s->outputs;
  s->arguments.output_count = 1;
  s->arguments.params = s->params;
  s->arguments.param_count = 1;
  return s;
}

static void setting_free(struct setting *s)
{
  for (int n = 0; n < TENSORS; n++)
    free(s->memory[n]);
  unit_release(s->unit);
  free(s);
}

static attn_status check(struct setting *s)
{
  struct error_sink sink = {NULL, s->text, sizeof(s->text)};
  s->text[0] = '\0';
  struct unit_evaluator *evaluator = unit_take_evaluator(s->unit);
  ck_assert_ptr_nonnull(evaluator);
  attn_status status = arguments_check(s->unit, &s->arguments, evaluator, &sink, &s->call);
  unit_give_evaluator(s->unit, evaluator);
  return status;
}

static void passes(struct setting *s)
{
  ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);
}

static void fails(struct setting *s, const char *text)
{
  ck_assert_int_eq(check(s), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(s->text, text);
  setting_free(s);
}

START_TEST(right_arguments_are_bound)
{
  struct setting *s = setting_new();
  passes(s);
  ck_assert_int_eq(s->call.batch, 3);
  ck_assert_int_eq(s->call.max_queries, 5);
  ck_assert_int_eq(s->call.max_keys, 70);
  ck_assert_ptr_eq(s->call.q.data, s->memory[Q]);
  ck_assert_int_eq(s->call.q.strides[0], 160);
  ck_assert_int_eq(s->call.q.strides[3], 1);
  ck_assert_int_eq(s->call.params[0].i, 7);
  ck_assert(s->call.params[1].f == 2.0);
  ck_assert_int_eq(s->call.params[2].i, 1);
  ck_assert_ptr_eq(s->call.inputs[0].data, s->memory[DOC]);
  ck_assert_ptr_eq(s->call.inputs[2].data, s->memory[BIAS]);
  ck_assert_ptr_eq(s->call.outputs[0].data, s->memory[LSE]);
  setting_free(s);
}
END_TEST

/* What is wrong, and the text. */
#define WRONG(text, ...)                                                                           \
  do {                                                                                             \
    struct setting *s = setting_new();                                                             \
    __VA_ARGS__;                                                                                   \
    fails(s, text);                                                                                \
  } while (0)

START_TEST(wrong_shapes)
{
  WRONG("q is missing", s->arguments.q = NULL);
  WRONG("o is missing", s->arguments.o = NULL);
  WRONG("q has 3 dimensions, it needs 4: [B, H, NQ, D]", s->tensors[Q].ndim = 3);
  WRONG("q has -1 dimensions, it needs 4: [B, H, NQ, D]", s->tensors[Q].ndim = -1);
  WRONG("q has no shape", s->tensors[Q].shape = NULL);
  WRONG("q: dimension 1 is 8 but H is 4", s->shapes[Q][1] = 8);
  WRONG("q: dimension 3 is 9 but D is 8", s->shapes[Q][3] = 9);
  WRONG("k: dimension 0 is 2 but B is 3 (from q)", s->shapes[K][0] = 2);
  WRONG("k: dimension 1 is 4 but G is 2", s->shapes[K][1] = 4);
  WRONG("v: dimension 2 is 69 but NK is 70 (from k)", s->shapes[V][2] = 69);
  WRONG("v: dimension 3 is 8 but DV is 6", s->shapes[V][3] = 8);
  WRONG("o: dimension 2 is 4 but NQ is 5 (from q)", s->shapes[O][2] = 4);
  WRONG("input 'doc': dimension 1 is 37 but NK is 70 (from k)", s->shapes[DOC][1] = 37);
  WRONG("input 'bias': dimension 1 is 3 but (NK + 63) // 64 is 2", s->shapes[BIAS][1] = 3);
  WRONG("output 'lse': dimension 2 is 6 but NQ is 5 (from q)", s->shapes[LSE][2] = 6);
  WRONG("q: dimension 2 is -5", s->shapes[Q][2] = -5);
  WRONG("q: dimension 2 is 2147483648, more than an int of the language holds (2147483647)",
        s->shapes[Q][2] = INT64_C(1) << 31);
  WRONG(
      "q: dimension 0 is 9223372036854775807, more than an int of the language holds (2147483647)",
      s->shapes[Q][0] = INT64_MAX);
}
END_TEST

static void set_strides(struct setting *s, int n, int64_t a, int64_t b, int64_t c, int64_t d)
{
  const int64_t strides[] = {a, b, c, d};
  memcpy(s->strides[n], strides, sizeof(strides));
  s->tensors[n].strides = s->strides[n];
}

START_TEST(wrong_memory)
{
  WRONG("q has no data (NULL)", s->tensors[Q].data = NULL);
  WRONG("k is on cuda:1; this context computes on the cpu",
        s->tensors[K].device = (DLDevice){kDLCUDA, 1});
  WRONG("k is on a device of DLPack type 8; this context computes on the cpu",
        s->tensors[K].device = (DLDevice){kDLMetal, 0});
  WRONG("k: the type is f16, it must be f32", s->tensors[K].dtype.bits = 16);
  WRONG("k: the type is f64, it must be f32", s->tensors[K].dtype.bits = 64);
  WRONG("k: the type is code 2, 32 bits, 4 lanes, it must be f32", s->tensors[K].dtype.lanes = 4);
  WRONG("k: the type is code 99, 32 bits, 1 lanes, it must be f32", s->tensors[K].dtype.code = 99);
  WRONG("input 'doc': the type is f32, it must be i32", s->tensors[DOC].dtype = f32);
  WRONG("input 'valid': the type is i32, it must be bool", s->tensors[VALID].dtype = i32);
  WRONG("q is not aligned: its address is no multiple of 4 bytes", s->tensors[Q].byte_offset = 2);
  WRONG("q: its sizes and strides reach further than memory does",
        s->tensors[Q].byte_offset = UINT64_MAX - 3);
  WRONG("q: dimension 2 has the stride -8; strides must not be negative, copy the tensor first",
        set_strides(s, Q, 160, 40, -8, 1));
  WRONG("q: its sizes and strides reach further than memory does",
        set_strides(s, Q, INT64_MAX, 40, 8, 1));
  WRONG("q: its sizes and strides reach further than memory does",
        set_strides(s, Q, INT64_MAX / 2, 40, 8, 1));
  WRONG("q: its sizes and strides reach further than memory does",
        set_strides(s, Q, INT64_MAX / 8, 40, 8, 1));
  WRONG("o is written, but with the stride 0 of dimension 1 its elements share memory",
        set_strides(s, O, 120, 0, 6, 1));
  WRONG("o is written, but with the stride 5 of dimension 2 its elements share memory",
        set_strides(s, O, 120, 30, 5, 1));
  WRONG("output 'lse' is written, but with the stride 1 of dimension 2 its elements share memory",
        set_strides(s, LSE, 20, 1, 1, 0));
  WRONG("o is written, but its memory overlaps that of q", s->tensors[O].data = s->memory[Q]);
  WRONG("o is written, but its memory overlaps that of v", s->tensors[O].data = s->memory[V] + 64);
  WRONG("o is written, but its memory overlaps that of input 'bias'",
        s->tensors[BIAS].data = s->memory[O] + 40);
  WRONG("output 'lse' is written, but its memory overlaps that of o",
        s->tensors[LSE].data = s->memory[O]);
  WRONG("stream must be NULL on the cpu", s->arguments.stream = s);
}
END_TEST

START_TEST(wrong_names)
{
  WRONG("'t' has no input 'dok'; did you mean 'doc'?", s->inputs[1].name = "dok");
  WRONG("'t' has no input 'zzzzzz'", s->inputs[1].name = "zzzzzz");
  WRONG("inputs[1] has no name", s->inputs[1].name = NULL);
  WRONG("input 'doc' is NULL", s->inputs[1].tensor = NULL);
  WRONG("input 'bias' is given twice", s->inputs[1].name = "bias");
  WRONG("input 'valid' is missing", s->arguments.input_count = 2);
  WRONG("inputs is NULL but input_count is 3", s->arguments.inputs = NULL);
  WRONG("output 'lse' is missing", s->arguments.output_count = 0);
  WRONG("'t' has no output 'lsi'; did you mean 'lse'?", s->outputs[0].name = "lsi");
  WRONG("'t' takes no query_starts and key_starts: its cache is not ragged",
        s->arguments.query_starts = &s->tensors[DOC]);
}
END_TEST

START_TEST(wrong_params)
{
  WRONG("parameter 'width' is missing and has no default", s->arguments.param_count = 0);
  WRONG("'t' has no parameter 'with'; did you mean 'width'?", s->params[0].name = "with");
  WRONG("params[0] has no name", s->params[0].name = NULL);
  WRONG("params is NULL but param_count is 1", s->arguments.params = NULL);
  WRONG("parameter 'width' is an int, it got a float",
        s->params[0] = attn_param_float("width", 1.0));
  WRONG("parameter 'width' has the kind 7, which does not exist", s->params[0].kind = (attn_kind)7);
  WRONG("parameter 'width' is 2147483648; it must be from -2147483648 to 2147483647",
        s->params[0].int_value = INT64_C(1) << 31);
  WRONG("parameter 'on' is 2; it must be from 0 to 1", s->params[1] = attn_param_int("on", 2),
        s->arguments.param_count = 2);
  WRONG("parameter 'width' is given twice", s->params[1] = attn_param_int("width", 2),
        s->arguments.param_count = 2);
  WRONG("parameter 'size' is const: it is set when the spec is compiled (sets)",
        s->params[1] = attn_param_int("size", 2), s->arguments.param_count = 2);

  struct setting *s = setting_new();
  s->params[1] = attn_param_int("cap", 3);
  s->params[2] = attn_param_int("on", 0);
  s->arguments.param_count = 3;
  passes(s);
  ck_assert(s->call.params[1].f == 3.0);
  ck_assert_int_eq(s->call.params[2].i, 0);
  setting_free(s);
}
END_TEST

START_TEST(any_stride_that_is_not_negative_will_do)
{
  struct setting *s = setting_new();
  set_strides(s, Q, 0, 0, 0, 0);     /* one number everywhere */
  set_strides(s, K, 8, 24, 48, 1);   /* another order of dimensions */
  set_strides(s, O, 1, 3, 12, 60);   /* column-major */
  set_strides(s, LSE, 40, 10, 2, 0); /* with gaps */
  free(s->memory[LSE]);
  s->tensors[LSE].data = s->memory[LSE] = calloc(120, 4);
  passes(s);
  ck_assert_int_eq(s->call.o.strides[3], 60);
  setting_free(s);
}
END_TEST

START_TEST(dimensions_of_one_may_have_any_stride)
{
  struct setting *s = setting_new();
  s->shapes[Q][2] = s->shapes[O][2] = s->shapes[LSE][2] = 1;
  set_strides(s, Q, 32, 8, -77, 1);
  set_strides(s, O, 24, 6, 0, 1);
  set_strides(s, LSE, 4, 1, INT64_MAX, 0);
  passes(s);
  ck_assert_int_eq(s->call.q.strides[2], 0);
  ck_assert_int_eq(s->call.outputs[0].strides[2], 1);
  setting_free(s);
}
END_TEST

START_TEST(empty_tensors_need_no_memory)
{
  struct setting *s = setting_new();
  s->shapes[K][2] = s->shapes[V][2] = s->shapes[DOC][1] = s->shapes[VALID][1] = s->shapes[BIAS][1] =
      0;
  s->tensors[K].data = s->tensors[V].data = s->tensors[DOC].data = NULL;
  s->tensors[K].byte_offset = 3;
  passes(s);
  ck_assert_int_eq(s->call.max_keys, 0);
  ck_assert(s->call.k.empty && s->call.inputs[0].empty && !s->call.q.empty);
  ck_assert_ptr_nonnull(s->call.k.data);
  for (int n = 0; n < 4096; n++)
    ck_assert_uint_eq(s->call.k.data[n], 0);
  for (int d = 0; d < 4; d++)
    ck_assert_int_eq(s->call.k.strides[d], 0);
  ck_assert_int_eq(s->call.k.sizes[3], 8);
  setting_free(s);

  s = setting_new();
  s->shapes[Q][0] = s->shapes[K][0] = s->shapes[V][0] = s->shapes[O][0] = 0;
  s->shapes[DOC][0] = s->shapes[VALID][0] = s->shapes[LSE][0] = 0;
  s->tensors[O].data = NULL;
  passes(s);
  ck_assert_int_eq(s->call.batch, 0);
  setting_free(s);
}
END_TEST

/* q [9, 2, 4], k and v [6, 2, 4]; sequences of 4, 0 and 5 queries, and of 2, 3 and 1 keys. */
static struct setting *ragged_new(DLDataType type)
{
  static const int64_t queries[] = {0, 4, 4, 9}, keys[] = {0, 2, 5, 6};
  struct setting *s = calloc(1, sizeof(*s));
  ck_assert_ptr_nonnull(s);
  s->unit = check_text(ragged_text);
  make_tensor(s, Q, f32, 3, (int64_t[]){9, 2, 4});
  make_tensor(s, K, f32, 3, (int64_t[]){6, 2, 4});
  make_tensor(s, V, f32, 3, (int64_t[]){6, 2, 4});
  make_tensor(s, O, f32, 3, (int64_t[]){9, 2, 4});
  make_tensor(s, DOC, i32, 1, (int64_t[]){6});
  make_tensor(s, BIAS, f32, 2, (int64_t[]){3, 2});
  make_tensor(s, LSE, f32, 2, (int64_t[]){9, 2});
  make_tensor(s, VALID, type, 1, (int64_t[]){8});
  for (int n = 0; n < 4; n++) {
    if (type.bits == 32) {
      ((int32_t *)(void *)s->memory[VALID])[n] = (int32_t)queries[n];
      ((int32_t *)(void *)s->memory[VALID])[4 + n] = (int32_t)keys[n];
    } else {
      ((int64_t *)(void *)s->memory[VALID])[n] = queries[n];
      ((int64_t *)(void *)s->memory[VALID])[4 + n] = keys[n];
    }
  }
  s->shapes[VALID][0] = 4;
  s->inputs[0] = (attn_named_tensor){"doc", &s->tensors[DOC]};
  s->inputs[1] = (attn_named_tensor){"gain", &s->tensors[BIAS]};
  s->outputs[0] = (attn_named_tensor){"lse", &s->tensors[LSE]};
  s->arguments = (attn_arguments)ATTN_ARGUMENTS_INIT;
  s->arguments.q = &s->tensors[Q];
  s->arguments.k = &s->tensors[K];
  s->arguments.v = &s->tensors[V];
  s->arguments.o = &s->tensors[O];
  s->arguments.inputs = s->inputs;
  s->arguments.input_count = 2;
  s->arguments.outputs = s->outputs;
  s->arguments.output_count = 1;
  s->arguments.query_starts = &s->tensors[VALID];
  return s;
}

static attn_status check_ragged(struct setting *s)
{
  DLTensor keys = s->tensors[VALID];
  keys.byte_offset = 4u * keys.dtype.bits / 8u;
  s->arguments.key_starts = &keys;
  return check(s);
}

static void ragged_fails(struct setting *s, const char *text)
{
  ck_assert_int_eq(check_ragged(s), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(s->text, text);
  setting_free(s);
}

START_TEST(ragged_batches)
{
  const DLDataType types[] = {i32, i64};
  for (int n = 0; n < 2; n++) {
    struct setting *s = ragged_new(types[n]);
    ck_assert_msg(check_ragged(s) == ATTN_OK, "%s", s->text);
    ck_assert_int_eq(s->call.batch, 3);
    ck_assert_int_eq(s->call.max_queries, 5);
    ck_assert_int_eq(s->call.max_keys, 3);
    ck_assert_int_eq(s->call.total_queries, 9);
    ck_assert_int_eq(s->call.total_keys, 6);
    ck_assert_int_eq(s->call.q.rank, 3);
    setting_free(s);
  }

  struct setting *s = ragged_new(i64); /* key_starts left out: those of the queries */
  s->shapes[K][0] = s->shapes[V][0] = s->shapes[DOC][0] = 6;
  ck_assert_int_eq(check(s), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(s->text, "k: dimension 0 is 6 but the total of keys is 9 (from key_starts)");
  setting_free(s);

  s = ragged_new(i64);
  s->arguments.query_starts = NULL;
  ragged_fails(s, "query_starts is missing");
  s = ragged_new(i64);
  ((int64_t *)(void *)s->memory[VALID])[0] = 1;
  ragged_fails(s, "query_starts[0] is 1, it must be 0");
  s = ragged_new(i64);
  ((int64_t *)(void *)s->memory[VALID])[2] = 3;
  ragged_fails(s, "query_starts[2] is 3, less than the 4 before it");
  s = ragged_new(i64);
  ((int64_t *)(void *)s->memory[VALID])[7] = INT64_C(1) << 40;
  ragged_fails(s, "key_starts[3] is 1099511627776, more than 2147483647");
  s = ragged_new(i32);
  ((int32_t *)(void *)s->memory[VALID])[3] = 8;
  ragged_fails(s, "q: dimension 0 is 9 but the total of queries is 8 (from query_starts)");
  s = ragged_new(i32);
  s->shapes[DOC][0] = 7;
  ragged_fails(s, "input 'doc': dimension 0 is 7 but the total of keys is 6 (from key_starts)");
  s = ragged_new(i32);
  s->shapes[BIAS][0] = 2;
  ragged_fails(s, "input 'gain': dimension 0 is 2 but B is 3 (from query_starts)");
  s = ragged_new(i32);
  s->shapes[VALID][0] = 0;
  ragged_fails(s, "query_starts is empty; for B sequences it has B + 1 elements");
}
END_TEST

START_TEST(types_settled_by_q)
{
  static const char any[] = "attention t {\n  heads 1\n  dim 4\n}\n";
  struct unit *unit = check_text(any);
  char text[160] = "";
  struct error_sink sink = {NULL, text, sizeof(text)};
  DLTensor q = {.dtype = {kDLBfloat, 16, 1}};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  enum dtype type;
  ck_assert_int_eq(arguments_type(unit, "q", arguments.q, &sink, &type), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(text, "q is missing");
  arguments.q = &q;
  ck_assert_int_eq(arguments_type(unit, "q", arguments.q, &sink, &type), ATTN_OK);
  ck_assert_int_eq(type, DTYPE_BF16);
  q.dtype = i32;
  ck_assert_int_eq(arguments_type(unit, "q", arguments.q, &sink, &type), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(text, "q: the type is i32, it must be f32, f16 or bf16");
  unit_release(unit);
}
END_TEST

START_TEST(summaries_hold_minima_and_maxima)
{
  enum { ROWS = 2, COUNT = 130 };
  int32_t ints[ROWS * COUNT * 2];
  float floats[ROWS * COUNT * 2];
  for (int n = 0; n < ROWS * COUNT * 2; n++) {
    ints[n] = (n * 7919) % 1000 - 500;
    floats[n] = (float)ints[n] / 8.0f;
  }
  floats[2 * (COUNT + 70)] = NAN; /* row 1, block 1 */
  for (int kind = 0; kind < 2; kind++) {
    struct bound_tensor input = {.data = kind == 0 ? (void *)ints : (void *)floats,
                                 .type = kind == 0 ? DTYPE_I32 : DTYPE_F32,
                                 .rank = 2,
                                 .sizes = {ROWS, COUNT},
                                 .strides = {2 * COUNT, 2}};
    struct bound_tensor summary = {0};
    size_t bytes;
    summary_shape(&input, &summary);
    ck_assert(tensor_make_compact(&summary, &bytes));
    ck_assert_uint_eq(bytes, ROWS * 3 * 2 * 4);
    ck_assert_uint_eq(summary.rank, 3);
    union {
      int32_t i[ROWS * 3 * 2];
      float f[ROWS * 3 * 2];
    } out;
    summary.data = (unsigned char *)&out;
    summary_fill(&input, &summary);
    for (int row = 0; row < ROWS; row++) {
      for (int block = 0; block < 3; block++) {
        float low = INFINITY, high = -INFINITY;
        for (int n = block * 64; n < COUNT && n < block * 64 + 64; n++) {
          float value =
              kind == 0 ? (float)ints[2 * (row * COUNT + n)] : floats[2 * (row * COUNT + n)];
          low = value < low ? value : low;
          high = value > high ? value : high;
        }
        const int at = (row * 3 + block) * 2;
        if (kind == 0) {
          ck_assert_int_eq(out.i[at], (int32_t)low);
          ck_assert_int_eq(out.i[at + 1], (int32_t)high);
        } else if (row == 1 && block == 1) {
          ck_assert(isnan(out.f[at]) && isnan(out.f[at + 1]));
        } else {
          ck_assert(out.f[at] == low && out.f[at + 1] == high);
        }
      }
    }
  }
}
END_TEST

/* The tables as the header defines them, against sines and cosines in double. */
START_TEST(rotary_tables_rotate)
{
  static const char text[] =
      "attention t {\n  heads 1\n  dim 16\n  position rope(base = 10000.0, dim = 8, from = 4)\n}\n";
  struct unit *unit = check_text(text);
  struct unit_evaluator *evaluator = unit_take_evaluator(unit);
  int32_t turns[16];
  float rest[16], cosine[16], sine[16];
  struct rotary_tables tables = {turns, rest, cosine, sine};
  ck_assert(unit_rotary_tables(unit->spec, evaluator->evaluator, &tables));
  for (int c = 0; c < 16; c++) {
    if (c < 4 || c >= 12) {
      ck_assert(turns[c] == 0 && rest[c] == 0.0f && cosine[c] == 1.0f && sine[c] == 0.0f);
      continue;
    }
    const int pair = (c - 4) % 4;
    ck_assert(cosine[c] == 1.0f);
    ck_assert(sine[c] == (c < 8 ? -1.0f : 1.0f));
    const int64_t positions[] = {0, 1, 17, 4095, 1000000, -3};
    for (size_t n = 0; n < sizeof(positions) / sizeof(positions[0]); n++) {
      const int64_t t = positions[n];
      const double angle = (double)t * pow(10000.0, -2.0 * pair / 8.0);
      const uint32_t wrapped = (uint32_t)t * (uint32_t)turns[c];
      const float fraction = (float)(int32_t)wrapped * 0x1p-32f + (float)t * rest[c];
      ck_assert_double_eq_tol(cos(6.283185307179586 * (double)fraction), cos(angle), 1e-6);
      ck_assert_double_eq_tol(sin(6.283185307179586 * (double)fraction), sin(angle), 1e-6);
    }
  }
  unit_give_evaluator(unit, evaluator);
  unit_release(unit);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("arguments");
  TCase *tests = tcase_create("arguments");
  tcase_add_test(tests, right_arguments_are_bound);
  tcase_add_test(tests, wrong_shapes);
  tcase_add_test(tests, wrong_memory);
  tcase_add_test(tests, wrong_names);
  tcase_add_test(tests, wrong_params);
  tcase_add_test(tests, any_stride_that_is_not_negative_will_do);
  tcase_add_test(tests, dimensions_of_one_may_have_any_stride);
  tcase_add_test(tests, empty_tensors_need_no_memory);
  tcase_add_test(tests, ragged_batches);
  tcase_add_test(tests, types_settled_by_q);
  tcase_add_test(tests, summaries_hold_minima_and_maxima);
  tcase_add_test(tests, rotary_tables_rotate);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
