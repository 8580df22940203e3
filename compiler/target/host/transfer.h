/* Private to the host target: moving rows between memory and tiles (transfer.c).
 *
 * This is the work of functions of the module. Loads and stores of a kernel differ in where their
 * rows lie and seldom in how, so that a few functions do for all of them: code for each of them
 * would be half of a kernel's, and half of the time to compile it.
 */
#ifndef ATTN_COMPILER_TARGET_HOST_TRANSFER_H
#define ATTN_COMPILER_TARGET_HOST_TRANSFER_H

#include "compiler/target/host/place.h"

/* How a function moves rows; it is emitted once. */
struct host_transfer {
  enum { HOST_LOAD_ROWS, HOST_LOAD_LANES, HOST_STORE_LANES } way;
  enum dtype stored;
  enum tile_element element;
  bool contiguous; /* elements of a row are neighbours */
  bool blocks;     /* LANES: there can be whole blocks of lanes by lanes elements */
  bool adds;       /* to what is in memory */
  LLVMValueRef function;
  LLVMTypeRef type;
};

/* Rows of a row-major tile, `width` elements apart and as many of each filled: with what is in
 * memory where row m + r is live, and with zeros behind that. */
struct host_rows {
  LLVMValueRef to;                      /* row 0 of the tile, or the only one */
  LLVMValueRef live_rows, live_columns; /* i64, may be negative */
  int64_t rows, width;
};
/* From row m of the place on; with more rows than one the place is even and has whole bytes. */
void host_transfer_rows(struct host *h, const struct place *place, enum tile_element element,
                        LLVMValueRef m, const struct host_rows *rows);

/* As many rows of a panel as a vector has lanes, from row m of the place on; `lanes` is where those
 * of column 0 are. `tile`: of the whole. A load makes zeros of what is not there. */
void host_transfer_load_lanes(struct host *h, const struct place *place, struct tile_type tile,
                              LLVMValueRef m, LLVMValueRef lanes);
void host_transfer_store_lanes(struct host *h, const struct place *place, struct tile_type tile,
                               bool adds, LLVMValueRef m, LLVMValueRef lanes);

/* One element, or a vector of them, given as a tile of type `element` holds them. `adds`: to what
 * is there. */
void host_transfer_store(struct host *h, const struct place *place, enum tile_element element,
                         bool adds, LLVMValueRef row, LLVMValueRef column, LLVMValueRef value);

#endif
