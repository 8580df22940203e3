/* libattn: compiles attention written as an .attn spec and computes it.
 *
 *     attn_context *context;
 *     attn_program *program;
 *     attn_context_create(NULL, &context);
 *     attn_compile_file(context, "sliding.attn", NULL, &program);
 *
 *     attn_arguments arguments = ATTN_ARGUMENTS_INIT;
 *     arguments.q = &q, arguments.k = &k, arguments.v = &v, arguments.o = &o;
 *     attn_launch(program, &arguments);
 *
 * A context stands for a device and its threads, a program for one compiled spec. A program is
 * compiled once and launched with tensors of any size: only heads, channels and constants of the
 * spec are compiled in. (Launches on a cache have code of their own, see attn_variant.) On the CPU
 * a launch computes; on a GPU it enqueues work on a stream.
 *
 * Errors. Functions that can fail return an attn_status and leave their out-parameters NULL or zero
 * when it is not ATTN_OK. The text of the error is kept on the context (attn_context_error) until
 * its next error; where several threads use one context, the options and arguments take a buffer
 * that receives the text of that very call.
 *
 * Threads. Every function may be called from any number of threads at once, on the same context and
 * program, except that nothing may use a handle while or after it is freed.
 *
 * Structs that callers fill in start with their size, which the ..._INIT macros set along with
 * every default. Programs built against an older header keep working with a newer library.
 *
 * C99 and C++ can include this header.
 */
#ifndef ATTN_ATTN_H
#define ATTN_ATTN_H

#include <dlpack/dlpack.h>

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ATTN_API __attribute__((visibility("default")))
#else
#define ATTN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version, "MAJOR.MINOR.PATCH". */
ATTN_API const char *attn_version(void);

/* ---- status ---- */

typedef enum attn_status {
  ATTN_OK = 0,
  ATTN_ERROR_SPEC,     /* the spec is wrong; the error text is the list of diagnostics */
  ATTN_ERROR_ARGUMENT, /* a tensor, parameter or option is wrong; nothing was computed */
  ATTN_ERROR_FAULT,    /* an index was out of range while computing; the results are undefined */
  ATTN_ERROR_OUT_OF_MEMORY, /* nothing was changed, except that results may be partly written */
  ATTN_ERROR_UNSUPPORTED,   /* a device or feature that this version does not have, or the code
                               generator is not installed */
  ATTN_ERROR_DEVICE,        /* the device or the operating system failed */
  ATTN_ERROR_IO,            /* a file could not be read */
  ATTN_ERROR_INTERNAL       /* a bug of this library; please report it with its text */
} attn_status;

/* A few words in English, never NULL, also for unknown values: "out of memory". */
ATTN_API const char *attn_status_text(attn_status status);

/* ---- contexts ---- */

typedef struct attn_context attn_context;

typedef struct attn_context_options {
  size_t size;
  const char *device; /* "cpu", the default where NULL; or "cuda:N", where "cuda" is "cuda:0" */
  /* Threads that compute at once, the calling one included. 0: the environment's ATTN_NUM_THREADS,
   * or where that is not set the processors in the calling thread's affinity mask, as far as its
   * control groups grant their time. A launch from a parallel region of OpenMP takes its caller
   * alone. Results do not depend on it, bit for bit. */
  unsigned threads;
  /* Compiled specs kept for the next compilation of the same text; those in use by a program are
   * kept regardless. */
  unsigned code_cache_entries; /* 64 */
  char *error;                 /* or NULL: receives the text when creation fails */
  size_t error_size;
  /* Where compiled code is kept for the next process. NULL: the environment's ATTN_CACHE_DIR, else
   * $XDG_CACHE_HOME/attnc, else $HOME/.cache/attnc; "": nowhere. ATTN_CACHE=0 in the environment
   * switches it off in any case. A folder that cannot be used is not an error. */
  const char *code_cache_directory;
} attn_context_options;

#define ATTN_CONTEXT_OPTIONS_INIT                                                                  \
  {                                                                                                \
    sizeof(attn_context_options), NULL, 0, 64, NULL, 0, NULL                                       \
  }

/* `options` may be NULL for the defaults. The context must be freed; a process that forks must not
 * use it in the child.
 *
 * ERROR_ARGUMENT: a thread count out of 1 .. 1024, an unknown device, more than there are.
 * ERROR_UNSUPPORTED: "cuda:N" without a driver, with one older than CUDA 11.4, or on a GPU of a
 * compute capability below 8.0. The driver is libcuda.so.1, or the file that the environment's
 * ATTN_CUDA_LIBRARY names; it is loaded when the first such context is made.
 *
 * A context on cuda:N uses the device's primary context, as the CUDA runtime API and PyTorch do, so
 * that their memory and streams can be used. Every function leaves the calling thread's current
 * CUDA context as it was. `threads` means nothing there. */
ATTN_API attn_status attn_context_create(const attn_context_options *options,
                                         attn_context **context);

/* Programs of the context stay usable: what they need goes with the last of them. NULL is fine. */
ATTN_API void attn_context_free(attn_context *context);

/* Copies the text of the context's last error, "" if there was none, cut to size - 1 bytes and
 * always terminated (unless size is 0). Returns the length of the whole text, as snprintf does. */
ATTN_API size_t attn_context_error(attn_context *context, char *buffer, size_t size);

typedef struct attn_statistics {
  uint64_t compilations; /* code generations */
  uint64_t cache_hits;   /* compilations answered from the context's code cache */
  uint64_t disk_hits;    /* compilations answered from the code cache on disk */
  uint64_t launches;     /* successful ones */
} attn_statistics;
ATTN_API attn_statistics attn_context_statistics(attn_context *context);

/* Where the context's tensors are: kDLCPU, or kDLCUDA with the device's number. */
ATTN_API DLDevice attn_context_device(const attn_context *context);

/* Threads that a launch uses at most. */
ATTN_API unsigned attn_context_threads(const attn_context *context);

/* Gives back the working memory that the context keeps for the next launch. On a GPU it waits for
 * launches that use it. */
ATTN_API void attn_context_trim(attn_context *context);

/* ---- devices ---- */

typedef struct attn_device_info {
  char name[128];   /* "NVIDIA H100 PCIe" */
  int number;       /* N of "cuda:N" */
  int major, minor; /* compute capability */
  int multiprocessors;
  uint64_t memory; /* bytes of it */
  int supported;   /* whether a context can be made on it */
} attn_device_info;

/* The GPUs of this machine: *count of them, the first `capacity` of which are described in
 * `devices`. ERROR_UNSUPPORTED: there is no driver, with the reason in `error`, which may be NULL.
 */
ATTN_API attn_status attn_device_list(attn_device_info *devices, size_t capacity, size_t *count,
                                      char *error, size_t error_size);

/* Memory on the context's device, for programs that have no other use for CUDA's own functions.
 * Aligned to 256 bytes, its contents undefined; ERROR_OUT_OF_MEMORY says how much there is. `free`
 * waits for launches that use it; NULL is fine. On the CPU it is ordinary memory. */
ATTN_API attn_status attn_memory_allocate(attn_context *context, size_t bytes, void **memory);
ATTN_API void attn_memory_free(attn_context *context, void *memory);

/* Copies from and to host memory, after all work on `stream`, which is NULL on the CPU; return when
 * the copy is made. */
ATTN_API attn_status attn_memory_upload(attn_context *context, void *to, const void *from,
                                        size_t bytes, void *stream);
ATTN_API attn_status attn_memory_download(attn_context *context, void *to, const void *from,
                                          size_t bytes, void *stream);

/* ---- compiling ---- */

typedef struct attn_program attn_program;

/* Element types. ATTN_TYPE_ANY: of q, k, v and o of a spec without a `type` statement, settled by
 * each launch. */
typedef enum attn_type {
  ATTN_TYPE_ANY,
  ATTN_TYPE_F32,
  ATTN_TYPE_F16,
  ATTN_TYPE_BF16,
  ATTN_TYPE_I32,
  ATTN_TYPE_I64,
  ATTN_TYPE_U8,
  ATTN_TYPE_BOOL, /* one byte, 0 or 1. As a DLTensor: code 6 (DLPack's kDLBool) or kDLUInt, 8 bits
                   */
  ATTN_TYPE_I8    /* of cache tensors */
} attn_type;
ATTN_API const char *attn_type_name(attn_type type); /* "f32"; "any" */

/* What attn_launch computes with. DECODE is for few query rows: query heads of a group share a
 * tile, and the keys are split into parts that are computed side by side and then merged. ANY, the
 * default, takes DECODE where a launch has so few rows that it is faster: on a cache, and on k and
 * v of 2048 tokens or more. */
typedef enum attn_kernel {
  ATTN_KERNEL_FORWARD,
  ATTN_KERNEL_DECODE,
  ATTN_KERNEL_APPEND, /* what attn_append runs; not for attn_compile_options */
  ATTN_KERNEL_ANY
} attn_kernel;

/* NAME=VALUE as text: the value of a const parameter, or a new default of another. */
typedef struct attn_setting {
  const char *name;
  const char *value;
} attn_setting;

/* Overrides of the compiler's own choice; 0 keeps it. Results may change in their last bits. */
typedef struct attn_schedule {
  uint32_t rows;             /* query rows of a tile */
  uint32_t columns;          /* keys of a tile */
  uint32_t lanes;            /* CPU: f32 lanes of a vector: 4, 8 or 16 */
  uint32_t row_vectors;      /* CPU: vectors of rows in a panel, up to 4 */
  uint32_t column_registers; /* CPU: columns of a register tile, up to 16; times row_vectors 32 */
  uint32_t warps;            /* GPU: warps of a block */
  uint32_t column_warps;     /* GPU: of these, how many divide the columns of a tile */
  uint32_t stages;           /* GPU: 1, or 2 to have the next tile of keys under way earlier */
} attn_schedule;

/* Finds the text of `import "path"` in the file called `from`. Returns a malloc'd text of *length
 * bytes that the library frees with free(), or NULL when there is no such file; the prelude is
 * searched then. */
typedef char *attn_read_import(void *user, const char *from, const char *path, size_t *length);

typedef enum attn_diagnostics_format {
  ATTN_DIAGNOSTICS_TEXT,
  ATTN_DIAGNOSTICS_COLOR,
  ATTN_DIAGNOSTICS_JSON
} attn_diagnostics_format;

typedef struct attn_compile_options {
  size_t size;
  const char *attention; /* which one of the file; NULL when it has one only */
  attn_type type; /* F32, F16 or BF16 for a spec without `type`; ANY, the default, leaves it to the
                     launches */
  attn_kernel kernel;
  const attn_setting *sets;
  size_t set_count;
  attn_schedule schedule;
  /* NULL: attn_compile knows the prelude's files only, attn_compile_file also those beside the
   * importing file. */
  attn_read_import *read_import;
  void *user;
  /* Not NULL: *diagnostics becomes the errors, warnings and notes, to be freed with attn_text_free,
   * or NULL where there are none. Also when compiling succeeds. */
  char **diagnostics;
  attn_diagnostics_format diagnostics_format;
  char *error; /* or NULL: receives the text when compiling fails */
  size_t error_size;
  /* Two more of the schedule: DECODE splits keys until there are `decode_tasks` tasks, but not into
   * parts of fewer than `decode_part` keys. With UINT32_MAX tasks every part has that length, and
   * the bits of a sequence's results do not depend on the rest of the batch. */
  uint32_t decode_tasks, decode_part;
} attn_compile_options;

#define ATTN_COMPILE_OPTIONS_INIT                                                                  \
  {                                                                                                \
    sizeof(attn_compile_options), NULL, ATTN_TYPE_ANY, ATTN_KERNEL_ANY, NULL, 0,                   \
        {0, 0, 0, 0, 0, 0, 0, 0}, NULL, NULL, NULL, ATTN_DIAGNOSTICS_TEXT, NULL, 0, 0, 0           \
  }

/* Compiles `length` bytes of source text. `name` stands for the file in diagnostics; NULL is
 * "<input>". A spec without a `type` statement is checked here and compiled by the first launch of
 * each type, unless options->type settles it. Compiling what the context has compiled before shares
 * the code. The program must be freed. `options` may be NULL.
 *
 * ERROR_SPEC: the text has errors, or uses what is not yet compiled for the device. ERROR_ARGUMENT:
 * no such attention; several and none named; a type that the spec does not have. */
ATTN_API attn_status attn_compile(attn_context *context, const char *text, size_t length,
                                  const char *name, const attn_compile_options *options,
                                  attn_program **program);

/* The same for a file. ERROR_IO: it cannot be read. */
ATTN_API attn_status attn_compile_file(attn_context *context, const char *path,
                                       const attn_compile_options *options, attn_program **program);

/* No call may be running on it. NULL is fine. On a GPU it waits for the device, so that launches
 * end before their code goes. */
ATTN_API void attn_program_free(attn_program *program);

/* Compiles now what the first launch with q, k and v of this type would compile, where it has no
 * cache tensors and many query rows. ANY: the program's own type, or f32. */
ATTN_API attn_status attn_program_prepare(attn_program *program, attn_type type);

/* A launch as far as it decides what code it runs. Each different one is compiled when it is first
 * needed; a program that must not wait then asks for all that it will use when it begins. */
typedef struct attn_variant {
  size_t size;
  attn_type type;     /* ANY: the program's own type, or f32 */
  attn_kernel kernel; /* APPEND: of attn_append. ANY: what a launch with so many `queries` runs */
  int64_t queries;   /* NQ; of packed sequences, that of the longest. Numbers up to 16 that have the
                        same next power of two share code, and so do all greater ones */
  int on_cache;      /* with cache tensors; attn_append always */
  int packed;        /* and with query_starts */
  int shared_prefix; /* and with a shared_prefix */
} attn_variant;

#define ATTN_VARIANT_INIT                                                                          \
  {                                                                                                \
    sizeof(attn_variant), ATTN_TYPE_ANY, ATTN_KERNEL_ANY, 1, 0, 0, 0                               \
  }

/* Compiles now what such a launch would compile. */
ATTN_API attn_status attn_program_prepare_for(attn_program *program, const attn_variant *variant);

typedef enum attn_form {
  ATTN_FORM_TILE,     /* the tile program */
  ATTN_FORM_LLVM,     /* optimised LLVM IR */
  ATTN_FORM_ASSEMBLY, /* for this processor */
  ATTN_FORM_OBJECT    /* a relocatable object file: bytes, not text */
} attn_form;

/* A stage of the program as text, for q, k and v of `type` (ANY: the program's own type, or f32).
 * *text is terminated by a zero byte that *length, which may be NULL, does not count; free it with
 * attn_text_free. */
ATTN_API attn_status attn_program_text(attn_program *program, attn_form form, attn_type type,
                                       char **text, size_t *length);

ATTN_API void attn_text_free(char *text);

/* Milliseconds that the compilation for `type` took. ERROR_ARGUMENT when it was not compiled yet.
 * Shared code tells the times of the compilation that made it. Code from disk was neither optimised
 * nor emitted: both are 0. */
typedef struct attn_timings {
  double check, build, optimize, emit, load;
} attn_timings;
ATTN_API attn_status attn_program_timings(attn_program *program, attn_type type,
                                          attn_timings *timings);

/* ---- what a program takes ---- */

typedef struct attn_tensor_info {
  const char *name;
  attn_type type; /* ANY: that of q */
  uint32_t rank;
  const char *const *dims; /* `rank` texts, as in the spec: "B", "NK", "(NK + 63) // 64" */
} attn_tensor_info;

typedef enum attn_kind { ATTN_KIND_BOOL, ATTN_KIND_INT, ATTN_KIND_FLOAT } attn_kind;

typedef struct attn_param_info {
  const char *name;
  attn_kind kind;
  int has_default;
  int64_t default_int; /* of bools and ints */
  double default_float;
} attn_param_info;

typedef struct attn_program_info {
  const char *name;
  attn_type type;                                /* of q, k, v and o; ANY where a launch decides */
  uint32_t query_heads, kv_heads, dim_qk, dim_v; /* H, G, D, DV */
  int ragged;                                    /* tensors are packed, see attn_arguments */
  int value_is_key;                              /* the value is a slice of k: there is no v */
  attn_tensor_info q, k, v, o;                   /* v.name is NULL where there is no v */
  const attn_tensor_info *inputs;
  size_t input_count;
  const attn_tensor_info *outputs; /* "lse", "mass", ...; "lse(a)" of a named map */
  size_t output_count;
  const attn_param_info *params; /* launch parameters; consts are not among them */
  size_t param_count;
  /* What a cache is made of, in the types and shapes that launches take: of types below a byte the
   * bytes, of a `dense` cache the sizes per sequence. Dimensions: "B", "table" (pages that a
   * sequence may have), "pages", "slots", "slots / 32" (tokens that share a scale), "16", or the
   * expression of a cached input. Also of a spec without a `cache` statement, whose cache is dense.
   */
  const attn_tensor_info *cache;
  size_t cache_count;
} attn_program_info;

/* Valid until the program is freed. */
ATTN_API const attn_program_info *attn_program_describe(const attn_program *program);

/* ---- launching ---- */

typedef struct attn_named_tensor {
  const char *name;
  const DLTensor *tensor;
} attn_named_tensor;

typedef struct attn_param {
  const char *name;
  attn_kind kind;
  int64_t int_value; /* of BOOL and INT */
  double float_value;
} attn_param;

static inline attn_param attn_param_int(const char *name, int64_t value)
{
  attn_param param = {name, ATTN_KIND_INT, value, 0.0};
  return param;
}
static inline attn_param attn_param_float(const char *name, double value)
{
  attn_param param = {name, ATTN_KIND_FLOAT, 0, value};
  return param;
}

/* What a launch reads and writes. Everything is borrowed until attn_launch returns; on a GPU,
 * tensors and workspace until the work on the stream is done.
 *
 * Shapes. q [B, H, NQ, D], k [B, G, NK, D], v [B, G, NK, DV], o [B, H, NQ, DV]; the outputs lse,
 * max and entropy [B, H, NQ], mass [B, H, NK], weights [B, H, NQ, NK], all f32. B and NQ are taken
 * from q, NK from k. Any of the three may be 0.
 *
 * Ragged batches (`cache ragged`). The sequences lie one after the other without padding. In each
 * tensor that has a dimension B and a dimension NQ, or else NK, these two become one leading
 * dimension, the total: q [total, H, D], k [total, G, D], o [total, H, DV], lse [total, H]; an
 * input i32[B, NK] is [total]. query_starts [B + 1], i32 or i64, begins with 0, does not decrease
 * and ends with q's total: sequence b has the rows from query_starts[b] up to query_starts[b + 1].
 * key_starts does the same for k; NULL when it equals query_starts. In inputs that are not packed
 * NQ and NK are the lengths of the longest sequence.
 *
 * Types. q, k, v and o have the program's type, or one and the same where the spec leaves it open;
 * inputs have the types that the spec declares.
 *
 * Strides are in elements, as in DLPack; NULL is row-major. What is read may have any that are not
 * negative, 0 included. Elements of a written tensor must not share memory, nor may its address
 * range overlap that of another tensor. A tensor whose last stride is not 1 is copied for the time
 * of the launch.
 *
 * Memory is the context's device's, aligned to the element's size: kDLCPU, or kDLCUDA with the
 * number of the device. `data` may be NULL only where a dimension is 0. query_starts and key_starts
 * of a context on a GPU may be in either memory; in the CPU's the launch does not have to wait for
 * them. Alignment to 16 bytes makes launches on a GPU faster.
 *
 * Parameters that have a default may be left out. An int is also accepted for a float, and an int
 * of 0 or 1 for a bool.
 *
 * Caches. With `cache`, every tensor of attn_program_info's cache by name, keys and values are read
 * from there: k, v, key_starts and the inputs that the spec declares `cached` are not given. B is
 * the size of `lengths`. q is [B, H, NQ, D], or with query_starts packed as in ragged batches:
 * [total, H, D]; o and outputs likewise. Sequence b has lengths[b] tokens; its queries are the last
 * ones unless the spec aligns them otherwise. NK of outputs and of inputs that are not cached is
 * max_length. docs/caches.md says what each tensor holds:
 *
 *   lengths      i32 [B]: tokens of each sequence, those of this launch included; 0 is fine
 *   page_table   i32 [B, table]: `cache paged`. Entry t of a sequence is the page of its tokens t *
 *                page to t * page + page - 1; entries beyond its length are not looked at.
 * Sequences may share pages seen         i32 [B]: `positions stored`: tokens that a sequence ever
 * had positions    i32 [slots]: `positions stored`: each kept token's own k, v         [slots, G,
 * D], [slots, G, DV] (what `channels` keeps of them), in their storage k.scale, k.zero, k.recent,
 * k.rest, and the same of v: as the spec's storage asks NAME         [slots, ...]: an input
 * declared cached, without its dimensions B and NK
 *
 * where [slots] is [pages, page], [B, slots] or for a ring [B, sinks + capacity]. e4m3 and e5m2 are
 * given as u8 (or as DLPack's types of these names), int8 as i8, int4 and int2 as u8 with 2 or 4
 * codes a byte along the last dimension. Strides are free, but the last one is 1: cache tensors are
 * never copied. Those that attn_append writes must not share elements with anything; their address
 * ranges may interleave, as keys and scales in one row do.
 *
 * On a GPU lengths, page_table and seen may be in the CPU's memory, too: they are copied for the
 * launch. Where the host can see them the launch checks them, and names sequence and page. Those in
 * device memory are not waited for: kernels clamp what they read from them, so that nothing outside
 * is touched, and report a fault. */
typedef struct attn_arguments {
  size_t size;
  const DLTensor *q, *k, *v; /* v is NULL where the value is a slice of k */
  const DLTensor *o;         /* written */
  const attn_named_tensor *inputs;
  size_t input_count;
  const attn_named_tensor *outputs; /* written; every output of the spec must be given */
  size_t output_count;
  const attn_param *params;
  size_t param_count;
  const DLTensor *query_starts, *key_starts; /* ragged programs only */
  void *stream; /* a CUstream or cudaStream_t of the device; NULL is its legacy default stream.
                   NULL on the CPU */
  char *error;  /* or NULL: receives the text when the launch fails */
  size_t error_size;
  /* Device memory for the launch, of at least attn_workspace_size bytes, aligned to 256, in use
   * until the work on the stream is done. NULL: the context keeps some for each stream. */
  void *workspace;
  size_t workspace_size;
  const attn_named_tensor *cache; /* or NULL: k and v are given */
  size_t cache_count;
  /* The most tokens of a sequence that this launch is planned for. 0: the largest of `lengths`
   * where the host can see them, else what the page table or the slots hold. A graph is repeated
   * with what it was captured with. */
  int64_t max_length;
  /* Tokens that all sequences with a length above 0 have in the same pages, as forks have: a
   * multiple of the page that no such length is below. Launches with few rows, without
   * query_starts, then read them once for all sequences, where the spec lets them (docs/caches.md);
   * all others take no notice. Results are the same but for rounding. 0: none. Checked where the
   * host can see lengths and page_table; on a GPU that cannot, keys of the first sequence that is
   * long enough stand for those of the others. */
  int64_t shared_prefix;
} attn_arguments;

#define ATTN_ARGUMENTS_INIT                                                                        \
  {                                                                                                \
    sizeof(attn_arguments), NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL, 0, NULL, NULL, NULL,   \
        NULL, 0, NULL, 0, NULL, 0, 0, 0                                                            \
  }

/* Checks everything, then computes; returns when the results are written. Bits of the results
 * depend on the spec, the arguments, the processor and the schedule, not on the threads. Launches
 * of several host threads on one context that each have work for several threads take turns.
 *
 * ERROR_ARGUMENT: something does not fit; the text names it, and nothing was written. ERROR_FAULT:
 * an index that the spec computes left its input; the text names input, index and place.
 * ERROR_SPEC, of the first launch of its kind (attn_variant): it cannot be compiled.
 *
 * On a GPU it returns when the work is enqueued on the stream. A fault is reported by attn_sync, or
 * by the program's next launch, which then does nothing else. Launches wait for nothing, but: for
 * memory, where the context's own workspace has to grow; for the stream, where query_starts or
 * key_starts are in device memory or a rotary angle reads an input.
 *
 * A launch can be captured into a CUDA graph. The program must outlive the graph. Where
 * attn_workspace_size is not 0 it needs a workspace of the caller, and it must not be one of those
 * that wait for the stream. Launch once before, so that nothing is compiled while capturing.
 * attn_sync reports faults of graphs, too. */
ATTN_API attn_status attn_launch(attn_program *program, const attn_arguments *arguments);

/* The bytes of workspace that attn_launch takes with these arguments, whose workspace is not looked
 * at; 0 on the CPU. Makes the checks of a launch, with their errors. */
ATTN_API attn_status attn_workspace_size(attn_program *program, const attn_arguments *arguments,
                                         size_t *bytes);

/* Writes new tokens into a cache: rotates their keys where the spec's cache keeps rotated ones,
 * quantises, and stores. Compiled from the same spec, at its first use.
 *
 * Takes k [B, G, NEW, D], v, and the inputs declared cached with NEW in place of NK; or with
 * query_starts, where sequences get different numbers of tokens, these packed: k [total, G, D]. And
 * the cache, whose `lengths` (and `seen`) are as they will be afterwards: the new tokens of
 * sequence b are those from lengths[b] - NEW on. q, o and outputs are not given. Other inputs and
 * parameters are needed where rotation or a table of the storage reads them, and not looked at
 * otherwise.
 *
 * The pages that it writes must belong to one sequence each, as must their place in its table. A
 * sequence of length 0 gets nothing. What a ring does not keep is not stored.
 *
 * Otherwise as attn_launch, with its errors. */
ATTN_API attn_status attn_append(attn_program *program, const attn_arguments *arguments);

/* attn_workspace_size of attn_append. */
ATTN_API attn_status attn_append_workspace_size(attn_program *program,
                                                const attn_arguments *arguments, size_t *bytes);

/* Waits until all work on the stream is done, and reports the first fault of the launches of this
 * context that have ended: ERROR_FAULT, as attn_launch on the CPU gives it. With that all faults so
 * far are forgotten. ERROR_DEVICE: the device failed. On the CPU there is nothing to wait for. */
ATTN_API attn_status attn_sync(attn_context *context, void *stream);

#ifdef __cplusplus
}
#endif

#endif
