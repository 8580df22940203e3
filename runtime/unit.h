/* A unit: one attention of a source text, checked and, for one storage type, compiled. Programs and
 * the code cache share units by reference; from the moment that one is shared it does not change,
 * but for its evaluators, which have a lock, and diagnostics that its maker prints.
 */
#ifndef ATTN_RUNTIME_UNIT_H
#define ATTN_RUNTIME_UNIT_H

#include "compiler/cache/plan.h"
#include "compiler/pipeline.h"
#include "dsl/expr_eval.h"
#include "runtime/context.h"
#include "runtime/cuda_code.h"
#include "runtime/disk_cache.h"
#include "runtime/host_loader.h"

/* Which of a spec's compiled forms. */
struct unit_variant {
  enum dtype type; /* F32, F16 or BF16 */
  enum kernel_kind kernel;
  bool on_cache;       /* always of APPEND */
  bool packed_queries; /* with on_cache: what compile_options says; of APPEND, the new tokens */
  uint32_t queries;    /* DECODE: what compile_options says; else 0 */
  bool shared_prefix;  /* DECODE with on_cache, not packed: what compile_options says */
};

/* What is compiled, apart from the variant. All borrowed. */
struct unit_source {
  const char *name, *text;
  size_t length;
  const char *attention; /* or NULL */
  const struct spec_set *sets;
  size_t set_count;
  struct schedule schedule;
  struct cuda_device *device;    /* where it runs; NULL: the CPU */
  attn_read_import *read_import; /* or NULL */
  void *user;
  const struct unit
      *imports; /* not NULL: imports are answered as they were when this unit was checked */
};

struct unit_import {
  const char *from, *path;
  const char *text; /* NULL: there is no such file */
  size_t length;
};

/* An evaluator of the unit's expressions, in use by one launch at a time. */
struct unit_evaluator {
  struct unit_evaluator *next;
  struct arena arena;
  struct expr_evaluator *evaluator;
};

struct unit_kernel {
  const struct tile_kernel *tile;
  uint32_t slot_count;
  bool checks_tables; /* and does nothing else: lengths, page_table and seen of a cache */
  /* on the CPU */
  int64_t (*tasks)(const int64_t *slots);
  void (*run)(const int64_t *slots, int64_t task, void *scratch);
  size_t scratch_bytes;
  /* on a device; the rest stands in unit->compiled */
  struct cuda_function *function;
};

enum { UNIT_MAX_WORKSPACES = 16, UNIT_DECODE_SIZES = 5 };

/* The launch tables of a rotary, spec->dim_qk entries each; see unit_rotary_tables. */
struct rotary_tables {
  int32_t *turns;
  float *rest, *cosine, *sine;
};

struct unit {
  atomic_uint references;
  unsigned char *key; /* everything that the code depends on; NULL until compiled */
  size_t key_size;
  uint64_t key_hash;

  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  VECTOR(struct unit_import) imports;
  struct spec *spec;
  attn_program_info info;                               /* in the arena */
  const char *const *input_texts, *const *output_texts; /* "input 'doc'", by number */
  const char *const *cache_texts;                       /* "cache tensor 'k'" */
  const struct cache_plan *cache; /* of the spec, whether or not the code reads it */

  /* decode_queries for 1, 2, 4, 8 and 16 rows on the source's device. */
  uint32_t decode_queries[UNIT_DECODE_SIZES];

  struct unit_variant variant; /* of the code; before unit_compile its type is ANY */
  struct compiled *compiled;
  struct cuda_device *device; /* of the context, which outlives its units; NULL on the CPU */
  struct host_code *code;     /* on the CPU */
  struct cuda_code *device_code;
  struct cuda_faults *faults; /* on a device, where a kernel has checks */
  bool from_disk;             /* the code */
  struct unit_kernel *kernels;
  size_t kernel_count;
  /* By role_index: the declaration of each workspace tensor. */
  const struct tile_tensor *workspaces[UNIT_MAX_WORKSPACES];
  uint32_t workspace_count;
  uint64_t summaries_used; /* bits by number */
  /* Of APPEND, bits by number: the inputs and parameters that a launch reads; and the cache's
   * tensors that kernels write. */
  uint64_t inputs_used, params_used;
  bool cache_written[CACHE_MAX_TENSORS];
  bool needs_evaluator; /* a launch evaluates expressions of the spec */
  bool rotary_is_constant;
  struct rotary_tables rotary;   /* filled when constant */
  cuda_address rotary_on_device; /* the same, one table after the other */
  attn_timings timings;

  pthread_mutex_t lock;
  struct unit_evaluator *evaluators; /* not in use */
};

/* Parses and checks. On success *unit has one reference. On failure too when there are diagnostics
 * to print, so that the caller can; otherwise *unit is NULL. */
attn_status unit_check(const struct unit_source *source, const struct error_sink *sink,
                       struct unit **unit);

/* Reports what the target cannot compile in unit->diagnostics, without making code.
 * The unit must not be shared yet. unit_compile must not follow. */
attn_status unit_try_build(struct unit *unit, const struct unit_source *source,
                           const struct unit_variant *variant, const struct error_sink *sink);

/* Compiles a checked unit that nobody shares yet, whose key is made for the same variant, or takes
 * its code from `disk`; and loads it. */
attn_status unit_compile(struct unit *unit, const struct unit_source *source,
                         const struct unit_variant *variant, const struct disk_cache *disk,
                         const struct error_sink *sink);

/* The stage `form` of a checked unit that nobody shares, as text of mem_alloc; for ATTN_FORM_OBJECT
 * bytes. */
attn_status unit_text(struct unit *unit, const struct unit_source *source,
                      const struct unit_variant *variant, attn_form form, char **text,
                      size_t *length, const struct error_sink *sink);

/* Fills unit->key for a variant. */
attn_status unit_make_key(struct unit *unit, const struct unit_source *source,
                          const struct unit_variant *variant, const struct error_sink *sink);

/* Whether that site is about a cache's lengths, page_table or seen. */
bool unit_checks_tables(const struct unit *unit, const struct tile_fault_site *site);

/* Whether launches are given starts of sequences. */
bool unit_is_packed(const struct unit *unit);

/* Fills unit->info and unit->cache from unit->spec. Runs inside the guard of the unit's arena. */
void unit_describe(struct unit *unit);

/* The diagnostics as text in the unit's arena; NULL when out of memory. Only for the thread that
 * called unit_check. */
const char *unit_diagnostics(struct unit *unit, attn_diagnostics_format format);

struct unit *unit_retain(struct unit *unit);
void unit_release(struct unit *unit); /* NULL is fine */

/* NULL when out of memory. One whose arena ran out of memory is not given back but freed. NULL is
 * fine for both. */
struct unit_evaluator *unit_take_evaluator(struct unit *unit);
void unit_give_evaluator(struct unit *unit, struct unit_evaluator *evaluator);
void unit_free_evaluator(struct unit_evaluator *evaluator);

/* Fills the tables of spec->rotary with the values that are set in the evaluator. For channel c of
 * a vector x, its partner p in the pair and the position t, kernels compute angle(t) / (2 pi) mod 1
 * = (int32)(t * turns[c], wrapped) * 2^-32 + t * rest[c] x'[c] = x[c] * cos(angle) * cosine[c] +
 * x[p] * sin(angle) * sine[c] Channels that do not rotate have turns = rest = 0, cosine = 1, sine =
 * 0. False when an angle is not finite. Runs inside the guard of the evaluator's arena. */
bool unit_rotary_tables(const struct spec *spec, struct expr_evaluator *evaluator,
                        const struct rotary_tables *tables);

/* The type of a tensor of elements of `type` as launches take it: U8 for e4m3, e5m2 and what is
 * below a byte, of which one holds tile_elements_per_byte. */
enum dtype unit_memory_type(enum dtype type);

/* The spec-side number of a type, and back. */
enum dtype dtype_of_attn(attn_type type);
attn_type attn_of_dtype(enum dtype type);

#endif
