/* Executors of instructions that compute each thread's result from its own operands. */
#ifndef ATTN_TESTS_DEVICE_PTX_LANEWISE_H
#define ATTN_TESTS_DEVICE_PTX_LANEWISE_H

#include "tests/device/ptx_machine.h"

/* The executor for an instruction with these modifiers, NULL when there is none. */
ptx_executor *ptx_integer_executor(enum ptx_opcode opcode, const struct ptx_modifiers *modifiers);
ptx_executor *ptx_float_executor(enum ptx_opcode opcode, const struct ptx_modifiers *modifiers);
ptx_executor *ptx_half_executor(enum ptx_opcode opcode, const struct ptx_modifiers *modifiers);

/* Functions of one, two, three operands: `expression` of a, b, c, which LOAD makes of 64 bits;
 * STORE makes 64 bits of it. */
#define PTX_LANEWISE_1(function, T, LOAD, STORE, expression)                                       \
  static enum ptx_step function(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)     \
  {                                                                                                \
    const uint64_t *x = ptx_read(warp, op->src[0]);                                                \
    uint64_t *d = ptx_write(warp, op->dst[0]);                                                     \
    PTX_EACH_LANE(lane, mask)                                                                      \
    {                                                                                              \
      const T a = LOAD(x[lane]);                                                                   \
      d[lane] = STORE(expression);                                                                 \
    }                                                                                              \
    return PTX_NEXT;                                                                               \
  }
#define PTX_LANEWISE_2(function, T, LOAD, STORE, expression)                                       \
  static enum ptx_step function(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)     \
  {                                                                                                \
    const uint64_t *x = ptx_read(warp, op->src[0]), *y = ptx_read(warp, op->src[1]);               \
    uint64_t *d = ptx_write(warp, op->dst[0]);                                                     \
    PTX_EACH_LANE(lane, mask)                                                                      \
    {                                                                                              \
      const T a = LOAD(x[lane]), b = LOAD(y[lane]);                                                \
      d[lane] = STORE(expression);                                                                 \
    }                                                                                              \
    return PTX_NEXT;                                                                               \
  }
#define PTX_LANEWISE_3(function, T, LOAD, STORE, expression)                                       \
  static enum ptx_step function(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)     \
  {                                                                                                \
    const uint64_t *x = ptx_read(warp, op->src[0]), *y = ptx_read(warp, op->src[1]);               \
    const uint64_t *z = ptx_read(warp, op->src[2]);                                                \
    uint64_t *d = ptx_write(warp, op->dst[0]);                                                     \
    PTX_EACH_LANE(lane, mask)                                                                      \
    {                                                                                              \
      const T a = LOAD(x[lane]), b = LOAD(y[lane]), c = LOAD(z[lane]);                             \
      d[lane] = STORE(expression);                                                                 \
    }                                                                                              \
    return PTX_NEXT;                                                                               \
  }

#endif
