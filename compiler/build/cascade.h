/* Sequences that share their first pages: the keys in them are walked once for all (Juravsky et
 * al., "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024). A launch says how
 * many tokens P they are, a multiple of the page.
 *
 *   forward_prefix  tasks: heads of a tile, tile of flat rows, part      keys [0, P)
 *   forward_part    as ever, keys [P, NK)
 *   merge           the parts of both
 *
 * Flat rows are the rows of all sequences, one after the other: t = b * NQ + r. Row m of a tile is
 * head h0 + m % share of flat row t0 + m / share. In forward_prefix B, SIZE_NK and the keys are
 * those of the *leader*, the first sequence with P tokens or more, whose SIZE_NK is P; what
 * formulas say of a row's own sequence is rewritten as expressions over EXPR_VAR_T.
 *
 * A sequence with fewer tokens than P has no part in this: forward_part walks all its keys, and
 * merge leaves out what forward_prefix found for its rows.
 *
 * Private to compiler/build.
 */
#ifndef ATTN_COMPILER_BUILD_CASCADE_H
#define ATTN_COMPILER_BUILD_CASCADE_H

#include "compiler/build/build.h"

/* Whether the options ask for it and the spec's formulas say the same of a shared key in every
 * sequence: nothing of a key depends on its sequence but where it lies. Such as read [B, NK] that
 * is not cached, select blocks, keep a residual, store positions or have indices to check are
 * computed without. */
bool cascade_is_possible(struct build *b);

/* How many parts forward_prefix has: LONG, over the sizes. */
const struct expr *cascade_part_count(struct build *b);
/* How many parts `merge` merges of the sequence at hand, index; those of forward_prefix follow the
 * others. */
struct tile_value *cascade_merged_parts(struct build *b);

/* What was before, while a kernel of a cascade is built. */
struct cascade_frame {
  const struct spec *spec;
  const struct visibility *visibility;
  uint32_t rows;
};
/* Opens `parallel` of forward_prefix, enters the task and cuts its walks. Gives the number of the
 * part among all, index. */
struct tile_value *cascade_enter_prefix(struct build *b, struct cascade_frame *frame);
void cascade_leave_prefix(struct build *b, const struct cascade_frame *frame);
/* Around forward_part: hides keys that lie in the prefix. */
void cascade_begin_rest(struct build *b, struct cascade_frame *frame);
void cascade_end_rest(struct build *b, const struct cascade_frame *frame);

#endif
