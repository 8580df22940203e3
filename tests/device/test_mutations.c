/* Mutation tests of the stand-in: faults planted into kernels have to be named by the interpreter
 * or to change the result. In a pipeline written by hand, where nothing is there without need,
 * every one of them does. What the compiler emits has barriers and waits that others make
 * unnecessary; there, a missing one may be harmless, but never change a result without being named.
 */
#include "compiler/pipeline.h"
#include "compiler/reference/reference.h"
#include "compiler/tile/tasks.h"
#include "tests/device/device.h"
#include "tests/device/mutate.h"

#include <math.h>

enum { MAX_TENSORS = 8, MAX_PARAMS = 4, MAX_SLOTS = 128, SEEDS = 2, WARP_LIMIT = 200000 };

/* ---- subjects: programs with sizes that take every loop through several rounds ---- */

struct subject {
  const char *name;
  const char *text; /* of a spec, or the name of a file of tests/golden/tile */
  enum dtype type;  /* of a spec */
  struct schedule schedule;
  struct {
    const char *name;
    int64_t sizes[4]; /* 0: no such dimension */
  } tensors[MAX_TENSORS];
  struct {
    const char *name;
    double value;
  } params[MAX_PARAMS];
};

#define CAUSAL "attention causal { heads 1\n dim 64\n mask causal\n output lse\n }\n"
#define CAUSAL_TENSORS                                                                             \
  .tensors = {{"q", {1, 1, 200, 64}},                                                              \
              {"k", {1, 1, 200, 64}},                                                              \
              {"v", {1, 1, 200, 64}},                                                              \
              {"o", {1, 1, 200, 64}},                                                              \
              {"lse", {1, 1, 200}}},                                                               \
  .params = {{"B", 1}, {"NQ", 200}, {"NK", 200}}

static const struct subject subjects[] = {
    {"causal_f16", CAUSAL, DTYPE_F16, {.rows = 64, .columns = 64, .stages = 1}, CAUSAL_TENSORS},
    {"causal_f16_staged",
     CAUSAL,
     DTYPE_F16,
     {.rows = 64, .columns = 64, .stages = 2},
     CAUSAL_TENSORS},
    {"causal_f32", CAUSAL, DTYPE_F32, {.rows = 64, .columns = 32}, CAUSAL_TENSORS},
    {"matmul",
     "matmul_epilogue.tile",
     DTYPE_F32,
     {0},
     .tensors = {{"a", {100, 80}}, {"b", {80, 70}}, {"bias", {70}}, {"c", {100, 70}}},
     .params = {{"m", 100}, {"n", 70}, {"k", 80}}},
    {"transposed",
     "transposed_product.tile",
     DTYPE_F32,
     {0},
     .tensors = {{"p", {130, 40}}, {"g", {130, 64}}, {"dv", {40, 64}}},
     .params = {{"m", 130}, {"n", 40}, {"d", 64}}},
    {"flash_tile",
     "flash_attention.tile",
     DTYPE_F32,
     {0},
     .tensors = {{"q", {1, 90, 64}},
                 {"k", {1, 90, 64}},
                 {"v", {1, 90, 64}},
                 {"o", {1, 90, 64}},
                 {"lse", {1, 90}}},
     .params = {{"b", 1}, {"n", 90}, {"scale", 0.125}}},
};

/* ---- a subject, emitted, with its tensors on the device ---- */

struct array {
  const char *name;
  enum dtype type;
  bool written;
  size_t count; /* elements */
  uint64_t address;
  unsigned char *data; /* the host's view */
  unsigned char *kept; /* what inputs hold, or what outputs came to be without a fault */
};

struct world {
  const char *name;
  const struct subject *subject; /* NULL for the pipeline */
  struct arena arena;
  struct source_set sources;
  struct expr_pool pool;
  struct diagnostics diagnostics;
  struct compiled *compiled; /* NULL for the pipeline */
  const char *entry;
  uint32_t threads, shared_bytes;
  char *ptx;
  struct array arrays[MAX_TENSORS];
  uint32_t array_count;
  uint64_t fault;
  int64_t slots[MAX_SLOTS];
  int64_t tasks;
};

static void read_file(const char *name, char *text, size_t size)
{
  char path[512];
  const char *folder = getenv("ATTN_SOURCE_DIR");
  ck_assert_msg(folder != NULL, "set ATTN_SOURCE_DIR to the project's folder");
  snprintf(path, sizeof(path), "%s/tests/golden/tile/%s", folder, name);
  FILE *file = fopen(path, "r");
  ck_assert_msg(file != NULL, "%s cannot be read", path);
  text[fread(text, 1, size - 1, file)] = '\0';
  fclose(file);
}

static void build(struct world *w)
{
  static char text[1 << 16];
  const struct subject *subject = w->subject;
  const struct compile_options options = {
      .target = TARGET_SM_80, .type = subject->type, .schedule = subject->schedule};
  const bool tile = strstr(subject->text, ".tile") != NULL;
  if (tile)
    read_file(subject->text, text, sizeof(text));
  else
    snprintf(text, sizeof(text), "%s", subject->text);
  const uint32_t source = source_add(&w->sources, subject->name, text, strlen(text));
  if (tile) {
    const struct tile_program *program =
        tile_parse(&w->arena, &w->pool, &w->sources, source, &w->diagnostics);
    if (program != NULL)
      w->compiled = compile_wrap(&w->arena, program, &options);
  } else {
    const struct spec_file *file =
        spec_check(&w->arena, &w->sources, source, NULL, &w->diagnostics);
    if (!diagnostics_has_errors(&w->diagnostics))
      w->compiled = compile_build(&w->arena, file->specs.items[0], &options, &w->diagnostics);
  }
  ck_assert_msg(w->compiled != NULL, "%s", diagnostics_print(&w->diagnostics, false));
  const char *error = NULL;
  ck_assert_msg(compile_emit(&w->arena, w->compiled, COMPILE_ASSEMBLY, &w->ptx, &error) ==
                    COMPILE_OK,
                "%s", error);
  ck_assert_uint_eq(w->compiled->kernels.count, 1);
  w->entry = w->compiled->kernels.items[0].tile->name;
  w->threads = w->compiled->kernels.items[0].threads;
  w->shared_bytes = w->compiled->kernels.items[0].shared_bytes;
}

static const struct tile_kernel *kernel_of(const struct world *w)
{
  return w->compiled->kernels.items[0].tile;
}

/* Memory for an array, with what it holds before a launch; inputs are in [-2, 2). */
static void make_array(struct world *w, struct array array)
{
  const size_t bytes = array.count * dtype_size(array.type);
  array.address = device_allocate(bytes);
  array.data = device_translate(array.address, bytes);
  array.kept = malloc(bytes);
  ck_assert(array.data != NULL && array.kept != NULL);
  uint32_t random = 12345 + w->array_count;
  for (size_t i = 0; i < array.count; i++) {
    random = random * 1664525 + 1013904223;
    dtype_store(array.type, array.kept, (int64_t)i, (double)(random >> 8) / (1 << 22) - 2);
  }
  w->arrays[w->array_count++] = array;
}

/* The tensor's array and slots. */
static void make_tensor(struct world *w, const struct tile_tensor *tensor, uint32_t number)
{
  struct array array = {
      .name = tensor->name, .type = tensor->element, .written = tensor->written, .count = 1};
  const int64_t *sizes = NULL;
  for (uint32_t i = 0; i < MAX_TENSORS && w->subject->tensors[i].name != NULL; i++) {
    if (strcmp(w->subject->tensors[i].name, tensor->name) == 0)
      sizes = w->subject->tensors[i].sizes;
  }
  ck_assert_msg(sizes != NULL, "nobody says how large %s is", tensor->name);
  int64_t *slot = &w->slots[tile_tensor_slot(kernel_of(w), number)];
  for (uint32_t d = tensor->rank; d-- > 0;) {
    slot[1 + d] = (int64_t)array.count;
    slot[1 + tensor->rank + d] = sizes[d];
    array.count *= (size_t)sizes[d];
  }
  make_array(w, array);
  slot[0] = (int64_t)w->arrays[w->array_count - 1].address;
}

static void open_world(struct world *w, const struct subject *subject)
{
  *w = (struct world){.name = subject->name, .subject = subject};
  arena_init(&w->arena);
  ck_assert(!arena_guard(&w->arena));
  source_set_init(&w->sources, &w->arena);
  expr_pool_init(&w->pool, &w->arena);
  diagnostics_init(&w->diagnostics, &w->arena, &w->sources);
  build(w);
  const struct tile_kernel *kernel = kernel_of(w);
  ck_assert_uint_le(kernel->tensors.count, MAX_TENSORS);
  ck_assert_uint_le(tile_slot_count(kernel), MAX_SLOTS);
  for (uint32_t t = 0; t < kernel->tensors.count; t++)
    make_tensor(w, &kernel->tensors.items[t], t);
  for (uint32_t p = 0; p < kernel->params.count; p++) {
    for (uint32_t i = 0; i < MAX_PARAMS && subject->params[i].name != NULL; i++) {
      const double value = subject->params[i].value;
      int64_t *slot = &w->slots[tile_param_slot(kernel, p)];
      if (strcmp(kernel->params.items[p].name, subject->params[i].name) != 0)
        continue;
      *slot = (int64_t)value;
      if (kernel->params.items[p].type == EXPR_FLOAT)
        memcpy(slot, &value, sizeof(value));
    }
  }
  w->fault = device_allocate(sizeof(struct tile_fault));
  w->slots[tile_fault_slot(kernel)] = (int64_t)w->fault;
  w->tasks = tile_task_count(kernel, w->slots);
  ck_assert_int_gt(w->tasks, 0);
}

static void close_world(struct world *w)
{
  for (uint32_t i = 0; i < w->array_count; i++) {
    device_free(w->arrays[i].address);
    free(w->arrays[i].kept);
  }
  device_free(w->fault);
  free(w->ptx);
  if (w->compiled != NULL)
    arena_free(&w->arena);
}

/* ---- running it ---- */

static bool run(struct world *w, const char *ptx, uint64_t seed, struct device_fault *fault)
{
  char log[1024] = "";
  struct device_counts counts;
  struct ptx_module *module = ptx_module_load(ptx, log, sizeof(log));
  ck_assert_msg(module != NULL, "%s: %s", w->name, log);
  for (uint32_t i = 0; i < w->array_count; i++) {
    const struct array *array = &w->arrays[i];
    const size_t bytes = array->count * dtype_size(array->type);
    if (array->written)
      memset(array->data, 0xff, bytes);
    else
      memcpy(array->data, array->kept, bytes);
  }
  memset(device_translate(w->fault, sizeof(struct tile_fault)), 0, sizeof(struct tile_fault));
  const struct ptx_launch launch = {.entry = ptx_module_entry(module, w->entry),
                                    .grid = {(uint32_t)w->tasks, 1, 1},
                                    .block = {w->threads, 1, 1},
                                    .dynamic_shared = w->shared_bytes,
                                    .params = (const unsigned char *)w->slots,
                                    .seed = seed,
                                    .warp_limit = WARP_LIMIT};
  ck_assert_ptr_nonnull(launch.entry);
  const bool done = ptx_run(&launch, fault, &counts);
  ptx_module_free(module);
  return done;
}

static bool same_results(const struct world *w)
{
  for (uint32_t i = 0; i < w->array_count; i++) {
    const struct array *array = &w->arrays[i];
    if (memcmp(array->data, array->kept, array->count * dtype_size(array->type)) != 0)
      return false;
  }
  const struct tile_fault *fault = device_translate(w->fault, sizeof(*fault));
  return fault->raised == 0;
}

/* Runs what the compiler emitted, and keeps its results. */
static void run_unchanged(struct world *w)
{
  struct device_fault fault = {.kind = DEVICE_OK};
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    ck_assert_msg(run(w, w->ptx, seed, &fault), "%s, line %u: %s", w->name, fault.line, fault.text);
    for (uint32_t i = 0; i < w->array_count && seed == 1; i++) {
      const struct array *array = &w->arrays[i];
      memcpy(array->kept, array->data, array->count * dtype_size(array->type));
    }
    ck_assert_msg(same_results(w), "%s: the results depend on the scheduler", w->name);
  }
}

/* ---- what the results have to be ---- */

static double element(const struct world *w, const char *name, int64_t index)
{
  for (uint32_t i = 0; i < w->array_count; i++) {
    if (strcmp(w->arrays[i].name, name) == 0)
      return dtype_load(w->arrays[i].type, w->arrays[i].data, index);
  }
  ck_abort_msg("there is no %s", name);
  return 0;
}

static double attention(const struct world *w, int64_t index)
{
  const int64_t row = index / 64, channel = index % 64;
  double sum = 0, value = 0;
  for (int64_t key = 0; key <= row; key++) {
    double dot = 0;
    for (int64_t c = 0; c < 64; c++)
      dot += element(w, "q", 64 * row + c) * element(w, "k", 64 * key + c);
    const double weight = exp(dot / 8);
    sum += weight;
    value += weight * element(w, "v", 64 * key + channel);
  }
  return value / sum;
}

static double product(const struct world *w, int64_t index)
{
  const int64_t row = index / 70, column = index % 70;
  double sum = element(w, "bias", column);
  for (int64_t k = 0; k < 80; k++)
    sum += element(w, "a", 80 * row + k) * element(w, "b", 70 * k + column);
  return sum / (1 + exp(-1.702 * sum));
}

static double transposed(const struct world *w, int64_t index)
{
  const int64_t row = index / 64, column = index % 64;
  double sum = 0;
  for (int64_t m = 0; m < 130; m++)
    sum += element(w, "p", 40 * m + row) * element(w, "g", 64 * m + column);
  return sum;
}

/* A sample of the results, so that what is compared below is what the program means. */
static void check_values(const struct world *w)
{
  const bool is_product = strcmp(w->subject->name, "matmul") == 0;
  const bool is_transposed = strcmp(w->subject->name, "transposed") == 0;
  const char *name = is_product ? "c" : is_transposed ? "dv" : "o";
  int64_t count = 0;
  for (uint32_t i = 0; i < w->array_count; i++) {
    if (strcmp(w->arrays[i].name, name) == 0)
      count = (int64_t)w->arrays[i].count;
  }
  const double bound = w->subject->type == DTYPE_F16 ? 4e-3 : 1e-4;
  for (int64_t index = 0; index < count; index += 97) {
    const double is = element(w, name, index);
    const double wanted = is_product      ? product(w, index)
                          : is_transposed ? transposed(w, index)
                                          : attention(w, index);
    ck_assert_msg(fabs(is - wanted) <= bound * (1 + fabs(wanted)), "%s[%lld] is %g, not %g", name,
                  (long long)index, is, wanted);
  }
}

/* ---- a pipeline by hand ---- */

/* Two warps sum the tiles of `in`, 64 rows of 16 bytes each: out[thread] gets the sum over the
 * tiles of the word that ldmatrix gives it, out of rows that the other warp has copied. One copy is
 * under way while the tile before it is read. */
static const char pipeline_ptx[] =
    ".version 7.0\n"
    ".target sm_80\n"
    ".address_size 64\n"
    ".extern .shared .align 16 .b8 tiles[];\n"
    ".visible .entry pipeline(.param .u64 in, .param .u64 out, .param .u64 count, .param .u64 "
    "rows)\n"
    ".reqntid 64, 1, 1\n"
    "{\n"
    "  .reg .pred %p<5>;\n"
    "  .reg .b32 %r<20>;\n"
    "  .reg .b64 %rd<10>;\n"
    "  ld.param.u64 %rd1, [in];\n"
    "  ld.param.u64 %rd2, [out];\n"
    "  ld.param.u32 %r1, [count];\n"
    "  ld.param.u32 %r18, [rows];\n"
    "  mov.u32 %r2, %tid.x;\n"
    "  mov.u32 %r3, tiles;\n"
    "  shl.b32 %r4, %r2, 4;\n"
    "  add.s32 %r5, %r3, %r4;\n" /* where the thread's row goes in the first buffer */
    "  cvt.u64.u32 %rd3, %r4;\n"
    "  add.s64 %rd4, %rd1, %rd3;\n" /* the thread's row of the tile */
    "  and.b32 %r6, %r2, 39;\n"     /* a row of the thread's warp, of 8 */
    "  xor.b32 %r7, %r6, 32;\n"     /* and of the other's */
    "  shl.b32 %r8, %r7, 4;\n"
    "  add.s32 %r9, %r3, %r8;\n"
    "  mov.u32 %r10, 0;\n" /* sum */
    "  mov.u32 %r11, 0;\n" /* tile */
    "  mov.u32 %r12, 0;\n" /* its buffer */
    "  mov.u64 %rd5, %rd4;\n"
    "  mov.u32 %r14, %r3;\n"
    "  cp.async.cg.shared.global [%r5], [%rd4], 16;\n"
    "  cp.async.commit_group;\n"
    "$next:\n"
    "  add.s32 %r13, %r11, 1;\n"
    "  setp.ge.u32 %p1, %r13, %r1;\n"
    "  @%p1 bra $copied;\n"
    "  xor.b32 %r15, %r12, 1024;\n"
    "  add.s32 %r14, %r5, %r15;\n"
    "  add.s64 %rd5, %rd5, 1024;\n"
    "  cp.async.cg.shared.global [%r14], [%rd5], 16;\n"
    "$copied:\n"
    "  cp.async.commit_group;\n"
    "  cp.async.wait_group 1;\n"
    "  bar.sync 0;\n"
    "  add.s32 %r16, %r9, %r12;\n"
    "  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r17}, [%r16];\n"
    "  add.s32 %r10, %r10, %r17;\n"
    "  bar.sync 0;\n"
    "  xor.b32 %r12, %r12, 1024;\n"
    "  mov.u32 %r11, %r13;\n"
    "  setp.lt.u32 %p2, %r11, %r1;\n"
    "  @%p2 bra $next;\n"
    "  setp.ge.u32 %p3, %r2, %r18;\n"
    "  @%p3 bra $done;\n"
    "  mul.wide.u32 %rd6, %r2, 4;\n"
    "  add.s64 %rd7, %rd2, %rd6;\n"
    "  st.global.b32 [%rd7], %r10;\n"
    "$done:\n"
    "  ret;\n"
    "}\n";
enum { PIPELINE_TILES = 6, PIPELINE_ROWS = 63 };

static void open_pipeline(struct world *w)
{
  *w = (struct world){
      .name = "pipeline", .entry = "pipeline", .threads = 64, .shared_bytes = 2048, .tasks = 1};
  w->ptx = strdup(pipeline_ptx);
  ck_assert_ptr_nonnull(w->ptx);
  make_array(w, (struct array){"in", DTYPE_F32, false, PIPELINE_TILES * 256, 0, NULL, NULL});
  make_array(w, (struct array){"out", DTYPE_I32, true, PIPELINE_ROWS, 0, NULL, NULL});
  w->fault = device_allocate(sizeof(struct tile_fault));
  w->slots[0] = (int64_t)w->arrays[0].address;
  w->slots[1] = (int64_t)w->arrays[1].address;
  w->slots[2] = PIPELINE_TILES;
  w->slots[3] = PIPELINE_ROWS;
}

static void check_pipeline(const struct world *w)
{
  const uint32_t *in = (const uint32_t *)(const void *)w->arrays[0].data;
  const uint32_t *out = (const uint32_t *)(const void *)w->arrays[1].data;
  for (uint32_t thread = 0; thread < PIPELINE_ROWS; thread++) {
    const uint32_t row = ((thread & 32) ^ 32) + thread % 32 / 4;
    uint32_t sum = 0;
    for (uint32_t tile = 0; tile < PIPELINE_TILES; tile++)
      sum += in[256 * tile + 4 * row + thread % 4];
    ck_assert_uint_eq(out[thread], sum);
  }
}

/* ---- planting faults ---- */

enum outcome { SURVIVED, DIFFERED, FAULTED, OUTCOMES };

static bool is_about_order(enum mutation mutation)
{
  return mutation <= DROP_COMMIT;
}

static enum outcome try_mutant(struct world *w, const char *ptx, struct device_fault *fault)
{
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    *fault = (struct device_fault){.kind = DEVICE_OK};
    if (!run(w, ptx, seed, fault))
      return FAULTED;
    if (!same_results(w))
      return DIFFERED;
  }
  return SURVIVED;
}

/* Whether a run comes to the trap in the text, which is freed. (The fault may be another: threads
 * that do not trap miss the others at their next barrier.) */
static bool traps(struct world *w, char *ptx)
{
  struct device_fault fault = {.kind = DEVICE_OK};
  const bool trapped = !run(w, ptx, 1, &fault);
  free(ptx);
  return trapped;
}

/* Whether the fault at the line would change what a run does. */
static bool matters(struct world *w, enum mutation mutation, uint32_t line)
{
  if (!traps(w, mutation == MOVE_BOUND ? trap_on_equal(w->ptx, line) : trap_before(w->ptx, line)))
    return false;
  char *other = mutation == SWAP_INDEX ? trap_on_other_index(w->ptx, line) : NULL;
  return mutation != SWAP_INDEX || (other != NULL && traps(w, other));
}

/* Leaves at most `most` sites, and of those the ones that matter. */
static void sites_choose(struct world *w, struct sites *sites, enum mutation mutation, size_t most)
{
  size_t chosen = 0;
  sites_find(sites, w->ptx, mutation);
  const size_t step = sites->count <= most ? 1 : (sites->count + most - 1) / most;
  for (size_t i = 0; i < sites->count; i += step) {
    if (matters(w, mutation, sites->lines[i]))
      sites->lines[chosen++] = sites->lines[i];
  }
  sites->count = chosen;
}

static void report(const struct world *w, enum mutation mutation, uint32_t line,
                   enum outcome outcome, const struct device_fault *fault)
{
  size_t length;
  const char *text = line_find(w->ptx, line, &length);
  if (outcome == SURVIVED || getenv("ATTN_MUTATIONS") != NULL)
    printf("%s: %s, line %u:%.*s: %s%s\n", w->name, mutation_names[mutation], line + 1, (int)length,
           text,
           outcome == SURVIVED   ? "no difference"
           : outcome == DIFFERED ? "another result"
                                 : "",
           outcome == FAULTED ? fault->text : "");
}

/* Plants each fault of a kind by itself. */
static void plant(struct world *w, enum mutation mutation, size_t most, uint32_t tally[OUTCOMES])
{
  static struct sites sites;
  struct device_fault fault;
  sites_choose(w, &sites, mutation, most);
  for (size_t i = 0; i < sites.count; i++) {
    char *ptx = mutate(w->ptx, mutation, sites.lines[i]);
    ck_assert_ptr_nonnull(ptx);
    const enum outcome outcome = try_mutant(w, ptx, &fault);
    tally[outcome]++;
    report(w, mutation, sites.lines[i], outcome, &fault);
    free(ptx);
    ck_assert_msg(!is_about_order(mutation) || outcome != DIFFERED,
                  "%s: %s, line %u: another result, and no fault was named", w->name,
                  mutation_names[mutation], sites.lines[i] + 1);
  }
}

/* Drops several barriers, waits and commits at once: those that make each other unnecessary. */
static void plant_several(struct world *w, uint32_t rounds)
{
  static struct sites sites;
  struct device_fault fault;
  uint32_t random = 7;
  for (uint32_t round = 0; round < rounds; round++) {
    char *ptx = strdup(w->ptx);
    for (uint32_t k = 0; k < 3 && ptx != NULL; k++) {
      random = random * 1664525 + 1013904223;
      const enum mutation mutation = (random >> 28) % 2 == 0 ? DROP_BARRIER : DROP_WAIT;
      sites_find(&sites, ptx, mutation);
      if (sites.count == 0)
        continue;
      char *changed = mutate(ptx, mutation, sites.lines[(random >> 8) % sites.count]);
      free(ptx);
      ptx = changed;
    }
    ck_assert_ptr_nonnull(ptx);
    ck_assert_msg(try_mutant(w, ptx, &fault) != DIFFERED,
                  "%s, round %u: another result, and no fault was named", w->name, round);
    free(ptx);
  }
}

START_TEST(every_fault_of_a_pipeline_is_caught)
{
  static const uint32_t wanted[MUTATIONS] = {2, 1, 1, 2, 1, 2, 3};
  struct world w;
  open_pipeline(&w);
  run_unchanged(&w);
  check_pipeline(&w);
  for (enum mutation mutation = 0; mutation < MUTATIONS; mutation++) {
    uint32_t tally[OUTCOMES] = {0};
    plant(&w, mutation, MAX_SITES, tally);
    ck_assert_msg(tally[SURVIVED] == 0, "%s: see above", mutation_names[mutation]);
    ck_assert_msg(tally[FAULTED] + tally[DIFFERED] == wanted[mutation], "%s: %u + %u",
                  mutation_names[mutation], tally[FAULTED], tally[DIFFERED]);
  }
  close_world(&w);
}
END_TEST

START_TEST(faults_of_emitted_kernels_are_caught)
{
  struct world w;
  open_world(&w, &subjects[_i]);
  run_unchanged(&w);
  check_values(&w);
  for (enum mutation mutation = 0; mutation < MUTATIONS; mutation++) {
    uint32_t tally[OUTCOMES] = {0};
    plant(&w, mutation, mutation == MOVE_BOUND ? 40 : 12, tally);
    const uint32_t caught = tally[FAULTED] + tally[DIFFERED];
    printf("%s: %s: %u named, %u other results, %u harmless\n", w.name, mutation_names[mutation],
           tally[FAULTED], tally[DIFFERED], tally[SURVIVED]);
    /* Nothing makes up for a wrong address. A bound may be one of several that say the same. */
    if (mutation == SHIFT_MATRIX || mutation == SWAP_INDEX)
      ck_assert_uint_eq(tally[SURVIVED], 0);
    if (is_about_order(mutation))
      ck_assert_uint_ge(caught, tally[SURVIVED]);
    ck_assert(caught > 0 || tally[SURVIVED] == 0);
  }
  plant_several(&w, 20);
  close_world(&w);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("mutations");
  TCase *tests = tcase_create("mutations");
  tcase_add_test(tests, every_fault_of_a_pipeline_is_caught);
  tcase_add_loop_test(tests, faults_of_emitted_kernels_are_caught, 0,
                      sizeof(subjects) / sizeof(subjects[0]));
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
