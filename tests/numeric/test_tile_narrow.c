/* Types of a byte and less against their definitions, code by code, and rows that lie anywhere with
 * indices of dead rows that lead out of memory. test_tile_cache.c has loops over caches.
 *
 * In a text `_M_` and `_N_` stand for a tile's size, `_T_` for a tensor's type and `_E_` for a
 * tile's element type.
 */
#include "tests/numeric/tile_interpreter.h"

#include <check.h>

static struct arena arena;

static void setup(void)
{
  arena_init(&arena);
}

static void teardown(void)
{
  arena_free(&arena);
}

struct filling {
  int m, n;
  const char *type, *element;
};

static const char *fill_in(const char *text, struct filling f)
{
  char *result = arena_alloc(&arena, 4 * strlen(text) + 1);
  char *out = result;
  while (*text != '\0') {
    int used = 0;
    if (strncmp(text, "_M_", 3) == 0)
      used = sprintf(out, "%d", f.m);
    else if (strncmp(text, "_N_", 3) == 0)
      used = sprintf(out, "%d", f.n);
    else if (strncmp(text, "_T_", 3) == 0)
      used = sprintf(out, "%s", f.type);
    else if (strncmp(text, "_E_", 3) == 0)
      used = sprintf(out, "%s", f.element);
    else
      *out = *text;
    out += used == 0 ? 1 : used;
    text += used == 0 ? 1 : 3;
  }
  *out = '\0';
  return result;
}

static const struct schedule schedules[] = {
    {0}, {.lanes = 4, .row_vectors = 1, .column_registers = 3}, {.row_vectors = 3}};
enum { SCHEDULES = sizeof(schedules) / sizeof(*schedules) };

static void open_code(struct tile_code *code, const char *text, const struct schedule *schedule)
{
  const char *error = tile_code_open(code, text, schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
}

static const enum dtype types[] = {DTYPE_U8, DTYPE_I8, DTYPE_I4, DTYPE_I2, DTYPE_E4M3, DTYPE_E5M2};

static struct tile_array array(const char *name, enum dtype type, uint32_t rank, int64_t a,
                               int64_t b, int64_t c)
{
  int64_t sizes[] = {a, b, c};
  struct tile_array made = tile_array_new(name, type, rank, sizes, (int64_t[]){0, 1, 3});
  tile_array_fill(&made, (uint32_t)(a * 31 + b * 7 + c + name[0]));
  return made;
}

/* ---- every code ---- */

static double float8_value(enum dtype type, int bits)
{
  int fraction_bits = type == DTYPE_E4M3 ? 3 : 2;
  int bias = type == DTYPE_E4M3 ? 7 : 15;
  int exponent = (bits & 0x7f) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
  double sign = bits & 0x80 ? -1 : 1;
  if (type == DTYPE_E4M3 && (bits & 0x7f) == 0x7f)
    return (double)NAN;
  if (type == DTYPE_E5M2 && exponent == 31)
    return fraction != 0 ? (double)NAN : sign * (double)INFINITY;
  if (exponent == 0)
    return sign * ldexp(fraction, 1 - bias - fraction_bits);
  return sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

/* Element `number` of a byte. */
static double code_value(enum dtype type, int byte, int number)
{
  if (type == DTYPE_E4M3 || type == DTYPE_E5M2)
    return float8_value(type, byte);
  int width = 8 / (int)tile_elements_per_byte(type);
  int code = byte >> (number * width) & ((1 << width) - 1);
  bool negative = type != DTYPE_U8 && code >> (width - 1) != 0;
  return negative ? code - (1 << width) : code;
}

#define HEAD                                                                                       \
  "{\n%tasks: index = scalar => 1L\nparallel (%task) < (%tasks) {\n"                               \
  "%z: index = scalar => 0L\n%one: index = scalar => 1L\n%all: index = scalar => 4096L\n"          \
  "%rows: i32[_M_,1] = iota %z\n%columns: i32[1,_N_] = iota %z\n"

/* Loaded in panels, in rows, turned, as one odd column, and read by an expression. */
static const char loads[] =
    "kernel t\n  tensor x _T_[2] tensor y f32[2] written tensor ys f32[2] written\n"
    "  tensor yt f32[2] written tensor yr f32[2] written tensor yc f32[1] written\n" HEAD
    "%x: _E_[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%y: f32[_M_,_N_] = convert %x\n"
    "store %y to y[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%xs: _E_[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%scan: _E_[_M_,_N_] = scan max axis 0 %xs\n%s: f32[_M_,_N_] = map %xs, %scan => _$_\n"
    "store %s to ys[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%xt: _E_[_N_,_M_] = load x[%z, %z] rows 1 columns 0 live %all, %all\n"
    "%t: f32[_N_,_M_] = convert %xt\n"
    "store %t to yt[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%xc: _E_[_M_,1] = load x[%z, %one] rows 0 live %all, %one\n%c: f32[_M_,1] = convert %xc\n"
    "store %c to yc[%z] rows 0 live %all, %one\n"
    "%r: f32[_M_,_N_] = map %rows, %columns => _READ_\n"
    "store %r to yr[%z, %z] rows 0 columns 1 live %all, %all\n}\n}\n";

static const char *replaced(const char *text, const char *what, const char *with)
{
  const char *at = strstr(text, what);
  return arena_format(&arena, "%.*s%s%s", (int)(at - text), text, with, at + strlen(what));
}

static void check_loads(enum dtype type, const char *element, const struct schedule *schedule)
{
  enum { ROWS = 16 };
  bool real = type == DTYPE_E4M3 || type == DTYPE_E5M2;
  int several = (int)tile_elements_per_byte(type);
  int columns = 256 / ROWS * several;
  const char *text = fill_in(loads, (struct filling){ROWS, columns, dtype_name(type), element});
  text = replaced(text, "_$_", strcmp(element, "i32") == 0 ? "float($0)" : "$0");
  text = replaced(text, "_READ_", real ? "x[$0, $1]" : "float(x[$0, $1])");
  struct tile_code code;
  open_code(&code, text, schedule);
  int64_t sizes[] = {ROWS, columns};
  struct tile_array arrays[] = {
      tile_array_new("x", type, 2, sizes, NULL),   array("y", DTYPE_F32, 2, ROWS, columns, 0),
      array("ys", DTYPE_F32, 2, ROWS, columns, 0), array("yr", DTYPE_F32, 2, ROWS, columns, 0),
      array("yt", DTYPE_F32, 2, columns, ROWS, 0), array("yc", DTYPE_F32, 1, ROWS, 0, 0)};
  enum { COUNT = sizeof(arrays) / sizeof(*arrays) };
  for (int k = 0; k < 256; k++)
    arrays[0].data[k] = (unsigned char)k;
  struct tile_launch launch = {.arrays = arrays, .array_count = COUNT};
  const char *error = tile_run(&code, &launch);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  for (int64_t k = 0; k < ROWS * columns; k++) {
    int64_t m = k / columns, n = k % columns;
    double wanted = code_value(type, (int)(k / several), (int)(k % several));
    double got[] = {tile_array_get(&arrays[1], k), tile_array_get(&arrays[2], k),
                    tile_array_get(&arrays[3], k), tile_array_get(&arrays[4], n * ROWS + m),
                    n == 1 ? tile_array_get(&arrays[5], m) : wanted};
    for (size_t way = 0; way < sizeof(got) / sizeof(*got); way++)
      ck_assert_msg((isnan(got[way]) && isnan(wanted)) || got[way] == wanted,
                    "%s as %s, element %lld, way %zu: %g instead of %g", dtype_name(type), element,
                    (long long)k, way, got[way], wanted);
  }
  for (size_t k = 0; k < COUNT; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
}

START_TEST(every_code_is_loaded)
{
  static const char *const elements[] = {"f32", "f16", "bf16", "i32"};
  enum dtype type = types[_i];
  for (size_t k = 0; k < 4; k++)
    if (k < 3 || (type != DTYPE_E4M3 && type != DTYPE_E5M2))
      check_loads(type, elements[k], &schedules[k % SCHEDULES]);
  check_loads(type, "f32", &schedules[1]);
  check_loads(type, "f32", &(struct schedule){.lanes = 16, .row_vectors = 1});
}
END_TEST

/* The byte for `value`, by looking at all finite ones. */
static int nearest_code(enum dtype type, double value)
{
  int best = 0;
  for (int code = 0; code < 128; code++) {
    double at = float8_value(type, code), far = fabs(fabs(value) - at);
    double least = fabs(fabs(value) - float8_value(type, best));
    if (isfinite(at) && (far < least || (far == least && code % 2 == 0)))
      best = code;
  }
  if (isinf(value) || fabs(value) > 57344)
    best = type == DTYPE_E4M3 ? 0x7e : 0x7b;
  return best | (signbit(value) ? 0x80 : 0);
}

static const char stores[] =
    "kernel t\n  tensor x f32[2] tensor y _T_[2] written tensor ys _T_[2] written\n" HEAD
    "%x: f32[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%y: f32[_M_,_N_] = map %x => $0 * 1.0\n"
    "store %y to y[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%r: f32[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%s: f32[_M_,_N_] = scan sum axis 0 %r\n%t: f32[_M_,_N_] = map %r, %s => $0\n"
    "store %t to ys[%z, %z] rows 0 columns 1 live %all, %all\n}\n}\n";

/* Every number of the type, every tie, what lies close to ties, and what is too large. */
START_TEST(every_float8_is_stored)
{
  enum dtype type = _i == 0 ? DTYPE_E4M3 : DTYPE_E5M2;
  enum { ROWS = 40, COLUMNS = 21 };
  const char *text = fill_in(stores, (struct filling){ROWS, COLUMNS, dtype_name(type), "f32"});
  struct tile_code code;
  open_code(&code, text, &schedules[0]);
  struct tile_array arrays[] = {array("x", DTYPE_F32, 2, ROWS, COLUMNS, 0),
                                array("y", type, 2, ROWS, COLUMNS, 0),
                                array("ys", type, 2, ROWS, COLUMNS, 0)};
  double values[ROWS * COLUMNS] = {0};
  int count = 0;
  int last = type == DTYPE_E4M3 ? 0x7e : 0x7b;
  for (int k = 0; k <= last; k++) {
    double low = float8_value(type, k), high = k == last ? low * 1.5 : float8_value(type, k + 1);
    double tie = (low + high) / 2, sign = k % 2 == 0 ? 1 : -1;
    double around[] = {low, tie, tie * (1 - 0x1p-20), tie * (1 + 0x1p-20)};
    for (int n = 0; n < 4; n++)
      values[count++] = sign * around[n];
    values[count++] = -sign * tie;
  }
  static const double special[] = {
      -0.0,  (double)INFINITY, -(double)INFINITY, (double)NAN, 1e30, -1e30, 449, 65536, 1e-30,
      -1e-40};
  for (size_t k = 0; k < sizeof(special) / sizeof(*special); k++)
    values[count++] = special[k];
  ck_assert_int_le(count, ROWS * COLUMNS);
  for (int k = 0; k < ROWS * COLUMNS; k++)
    tile_array_set(&arrays[0], k, values[k]);
  struct tile_launch launch = {.arrays = arrays, .array_count = 3};
  const char *error = tile_run(&code, &launch);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  for (int k = 0; k < ROWS * COLUMNS; k++) {
    for (int way = 1; way < 3; way++) {
      int got = arrays[way].data[tile_array_offset(&arrays[way], k)];
      bool well =
          isnan(values[k]) ? isnan(float8_value(type, got)) : got == nearest_code(type, values[k]);
      ck_assert_msg(well, "%s of %.9g is %#x", dtype_name(type), values[k], (unsigned)got);
    }
  }
  for (size_t k = 0; k < 3; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
}
END_TEST

/* ---- rows that lie anywhere ---- */

static const char gather_head[] =
    "kernel t\n"
    "  tensor pool _T_[3] tensor page i32[1] tensor slot i32[1] tensor x f32[2] tensor e f32[2]\n"
    "  tensor y f32[2] written tensor yc f32[1] written tensor ye f32[2] written\n"
    "  tensor to _E_[3] written tensor toc _E_[2] written\n"
    "  param lm int param ln int param pages int\n" HEAD
    "%lm: index = scalar => long(lm)\n%ln: index = scalar => long(ln)\n"
    "%page: i32[_M_,1] = load page[%z] rows 0 live %all, %one\n"
    "%slot: i32[_M_,1] = load slot[%z] rows 0 live %all, %one\n";

#define GATHER "%t: f32[_M_,_N_] = load pool[%page, %slot, %z] columns 2 live %lm, %ln\n"
#define STORE_Y "store %y to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
#define LOAD_X "%x: f32[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %lm, %ln\n"
#define LOAD_E "%e: f32[4,_N_] = load e[%z, %z] rows 0 columns 1 live %all, %all\n"

static const char *const bodies[] = {
    /* in panels and row-major; index tiles from outside the group and from inside */
    GATHER "%y: f32[_M_,_N_] = map %t => $0 * 2.0\n" STORE_Y,
    GATHER
    "%s: f32[_M_,_N_] = scan sum axis 0 %t\n%y: f32[_M_,_N_] = map %t, %s => $0 + $1\n" STORE_Y,
    "%p: i32[_M_,1] = map %rows => select(long($0) < long(lm), page[$0], 1073741824)\n"
    "%q: i32[_M_,1] = map %slot => $0 + 0\n"
    "%t: f32[_M_,_N_] = load pool[%p, %q, %z] columns 2 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 * 2.0\n" STORE_Y,
    /* one index tile, with rows along another dimension, and without */
    "%t: f32[_M_,_N_] = load pool[%page, %z, %z] rows 1 columns 2 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 * 2.0\n" STORE_Y,
    "%t: f32[_M_,_N_] = load pool[%z, %slot, %z] columns 2 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 * 2.0\n" STORE_Y,
    /* index tiles without memory */
    "%k: i32 = scalar => lm // 2\n%p: i32[_M_,1] = splat %k\n"
    "%t: f32[_M_,_N_] = load pool[%p, %rows, %z] columns 2 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 * 2.0\n" STORE_Y,
    "%t: f32[_M_,_N_] = load pool[%rows, %slot, %z] columns 2 live %lm, %ln\n"
    "%s: f32[_M_,_N_] = scan sum axis 0 %t\n%y: f32[_M_,_N_] = map %t, %s => $0 + $1\n" STORE_Y,
    /* columns, as scales are, at an odd place */
    "%c: f32[_M_,1] = load pool[%page, %slot, %one] live %lm, %one\n" GATHER
    "%y: f32[_M_,_N_] = map %t, %c => $0 * $1\n" STORE_Y
    "store %c to yc[%z] rows 0 live %lm, %one\n",
    "%c: f32[_M_,1] = load pool[%page, %slot, %one] live %all, %z\n"
    "store %c to yc[%z] rows 0 live %lm, %one\n",
    /* columns that do not run along the last dimension */
    "%t: f32[_M_,_M_] = load pool[%page, %z, %one] columns 1 live %lm, %lm\n"
    "%r: f32[_M_,1] = reduce sum axis 1 %t\nstore %r to yc[%z] rows 0 live %lm, %one\n",
    /* the second operand of products with few rows and with many */
    LOAD_E GATHER "%q: f32[4,_M_] = product %e, %t transposed\n%o: f32[4,_N_] = product %q, %t\n"
                  "store %o to ye[%z, %z] rows 0 columns 1 live %all, %all\n",
    LOAD_X GATHER "%q: f32[_M_,_M_] = product %x, %t transposed\n"
                  "%y: f32[_M_,_N_] = product %q, %t\n" STORE_Y,
    LOAD_E GATHER
    "%c: f32[_M_,1] = load pool[%page, %slot, %one] live %lm, %one\n"
    "%d: f32[_M_,_N_] = map %t, %c => $0 * $1\n%q: f32[4,_M_] = product %e, %d transposed\n"
    "%o: f32[4,_N_] = product %q, %t\n"
    "store %o to ye[%z, %z] rows 0 columns 1 live %all, %all\n",
    /* scatters */
    LOAD_X "%v: _E_[_M_,_N_] = map %x => _$_\n"
           "store %v to to[%page, %slot, %z] columns 2 live %lm, %ln\n",
    LOAD_X "%w: f32[_M_,_N_] = scan max axis 0 %x\n%v: _E_[_M_,_N_] = map %w => _$_\n"
           "store %v to to[%page, %slot, %z] columns 2 live %lm, %ln\n",
    LOAD_X "%r: f32[_M_,1] = reduce max axis 1 %x\n%v: _E_[_M_,1] = map %r => _$_\n"
           "%p: i32[_M_,1] = map %page => $0 * 1\n"
           "store %v to toc[%p, %slot] live %lm, %one\n",
    LOAD_X "%v: _E_[_M_,_N_] = map %x => _$_\n"
           "store %v to to[%page, %z, %z] rows 1 columns 2 live %lm, %ln\n",
};

static void run_gather(const char *body, int m, int n, enum dtype type,
                       const struct schedule *schedule)
{
  enum dtype element = type == DTYPE_I8 ? DTYPE_I32 : DTYPE_F32;
  struct filling filling = {m, n, dtype_name(type), dtype_name(element)};
  const char *text = arena_format(&arena, "%s%s}\n}\n", gather_head, body);
  if (strstr(text, "_$_") != NULL)
    text = replaced(text, "_$_", element == DTYPE_I32 ? "int($0 * 8.0)" : "$0 * 8.0");
  text = fill_in(text, filling);
  struct tile_code code;
  open_code(&code, text, schedule);
  for (int cut = 0; cut < 3; cut++) {
    struct tile_array arrays[] = {
        array("pool", type, 3, m, m, n),      array("page", DTYPE_I32, 1, m, 0, 0),
        array("slot", DTYPE_I32, 1, m, 0, 0), array("x", DTYPE_F32, 2, m, n, 0),
        array("e", DTYPE_F32, 2, 4, n, 0),    array("y", DTYPE_F32, 2, m, n, 0),
        array("yc", DTYPE_F32, 1, m, 0, 0),   array("ye", DTYPE_F32, 2, 4, n, 0),
        array("to", element, 3, m, m, n),     array("toc", element, 2, m, m, 0)};
    enum { COUNT = sizeof(arrays) / sizeof(*arrays) };
    int lm = cut == 0 ? m : cut == 1 ? (m + 1) / 2 : 0;
    for (int64_t k = 0; k < m; k++) {
      tile_array_set(&arrays[1], k, k < lm ? (double)((k * 5 + 2) % m) : 0x40000000);
      tile_array_set(&arrays[2], k, k < lm ? (double)((k * 3 + 1) % m) : -0x40000000);
    }
    struct tile_argument params[] = {
        {"lm", lm}, {"ln", cut == 1 ? n - n / 3 : n}, {"pages", (double)m}};
    struct tile_launch launch = {arrays, COUNT, params, 3, {0}};
    const char *error = tile_compare(&arena, &code, &launch, 1e-5);
    ck_assert_msg(error == NULL, "%d x %d of %s, cut %d: %s\n%s", m, n, dtype_name(type), cut,
                  error, text);
    for (size_t k = 0; k < COUNT; k++)
      tile_array_free(&arrays[k]);
  }
  tile_code_close(&code);
}

START_TEST(rows_lie_anywhere)
{
  static const struct {
    int m, n;
    enum dtype type;
  } cases[] = {{41, 21, DTYPE_F32}, {16, 16, DTYPE_I8}, {33, 8, DTYPE_I4},
               {1, 19, DTYPE_F16},  {7, 13, DTYPE_I2},  {18, 3, DTYPE_E4M3}};
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++)
    run_gather(bodies[_i], cases[k].m, cases[k].n, cases[k].type, &schedules[k % SCHEDULES]);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("narrow types and gathers");
  TCase *tests = tcase_create("narrow");
  tcase_set_timeout(tests, 120);
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, every_code_is_loaded, 0, sizeof(types) / sizeof(*types));
  tcase_add_loop_test(tests, every_float8_is_stored, 0, 2);
  tcase_add_loop_test(tests, rows_lie_anywhere, 0, sizeof(bodies) / sizeof(*bodies));
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
