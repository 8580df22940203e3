/* Equivalences of two specs on the same tensors. */
#include "tests/numeric/equivalences/equivalences.h"

#include <math.h>
#include <string.h>

struct pair {
  const char *name;
  const char *params, *left; /* a spec whose parameters' defaults, or inputs, make it... */
  const char *right;         /* ...the same as this one */
  /* The inputs that do so have this value throughout; NULL when there are none. */
  const double *inputs;
  /* What shows that the left spec is not always the same: another value of a parameter, or the
   * inputs as drawn. Neither where the two are the same whatever is given. */
  const char *away;
};

static const double zero = 0, one = 1, below_all = -INFINITY;

static const char causal[] = USUAL "mask causal";
static const char full[] = USUAL;
static const char turned[] = USUAL "mask causal\nposition rope";

#define MASK(e) USUAL "mask " e
#define TURNED(e) USUAL "mask causal\nposition rope(" e ")"
#define TWO_HALVES "heads q = 4, kv = 2\ndim qk = 32, v = 12\nmask causal\n"
#define TWO_MAPS                                                                                   \
  TWO_HALVES "map a = softmax(dot(q[0:16], k[0:16]) / 4.0)\n"                                      \
             "map n = softmax(dot(q[16:32], k[16:32]) / 4.0)\n"
#define HEAD_NORM "\npost 0.8 * o[c] * rsqrt((sum(n < DV) o[n] ** 2) / DV + 1e-5)"

static const struct pair pairs[] = {
    {"1: as many K/V heads as query heads = MHA", NULL, "heads q = 4, kv = 4\ndim 16",
     "heads 4\ndim 16", NULL, NULL},

    {"2: causal in a wide window = causal", "left: int = 1000000",
     MASK("causal and window(left, 0)"), causal, NULL, "left=3"},
    {"2: wide sliding = causal", "width: int = 1000000", MASK("sliding(width)"), causal, NULL,
     "width=3"},
    {"2: window of exactly Lk - 1 = causal", NULL, MASK("window(NK - 1, 0)"), causal, NULL, NULL},
    {"2: wide window = full", "reach: int = 1000000", MASK("window(reach, reach)"), full, NULL,
     "reach=9"},

    {"3: sinks >= Lk = causal", "n: int = 1000", MASK("causal and (sinks(n) or sliding(4))"),
     causal, NULL, "n=2"},
    {"3: no sink = window", "n: int = 0", MASK("causal and (sinks(n) or sliding(9))"),
     MASK("window(8, 0)"), NULL, "n=2"},
    {"3: dilation 1 = window", "step: int = 1", MASK("dilated(7, step)"), MASK("window(7, 7)"),
     NULL, "step=3"},
    {"3: strided with l = 1 = causal", "stride: int = 1", MASK("strided(stride)"), causal, NULL,
     "stride=5"},
    {"3: fixed with l >= Lk = causal", "stride: int = 1000", MASK("fixed(stride, 1)"), causal, NULL,
     "stride=6"},

    {"4: a table of visible blocks = full", NULL,
     USUAL "align start\ninput table : bool[H, (NQ + 15) // 16, (NK + 15) // 16]\n"
           "mask block_table(table, 16)",
     USUAL "align start", &one, "inputs"},

    {"5: sink -inf = softmax", NULL,
     USUAL "mask causal\ninput a : f32[H]\nnormalize softmax(sink = a[h])\noutput lse",
     USUAL "mask causal\noutput lse", &below_all, "inputs"},
    {"5: sink 0 = off by one", NULL,
     USUAL "mask causal\ninput a : f32[H]\nnormalize softmax(sink = a[h])\noutput lse",
     USUAL "mask causal\nnormalize softmax(plus = 1)\noutput lse", &zero, "inputs"},
    {"5: a high soft cap = none", "cap: float = 1e6", USUAL "mask causal\nscore softcap(s, cap)",
     causal, NULL, "cap=0.5"},

    {"6: ALiBi with slope 0 = plain", NULL,
     USUAL "mask causal\ninput slope : f32[H]\nposition alibi(slope = slope[h])", causal, &zero,
     "inputs"},
    {"6: T5 with a table of 0 = plain", NULL,
     USUAL "mask causal\ninput table : f32[32, H]\nposition t5(table)", causal, &zero, "inputs"},
    {"6: Shaw with tables of 0 = plain", NULL,
     USUAL "input rel_k : f32[17, D]\ninput rel_v : f32[17, DV]\n"
           "position shaw(rel_k, rel_v, clip = 8)",
     full, &zero, "inputs"},
    {"6: bias 0 = plain", NULL,
     USUAL "mask causal\ninput bias : f32[B, H, NQ, NK]\nscore s + bias[b, h, r, j]", causal, &zero,
     "inputs"},
    {"6: ALiBi = slope * j", NULL, USUAL "mask causal\nposition alibi",
     USUAL "mask causal\nscore s + alibi_key_bias(alibi_slope, j)", NULL, NULL},
    {"6: ALiBi = -slope * (i - j)", NULL, USUAL "mask causal\nposition alibi",
     USUAL "mask causal\nscore s + alibi_causal_bias(alibi_slope, i, j)", NULL, NULL},

    {"7: RoPE moved by 5", "moved: int = 5", TURNED("at = t + moved"), turned, NULL, NULL},
    {"7: RoPE in pairs, moved by -40", "moved: int = -40",
     TURNED("at = t + moved, pairing = interleaved"), TURNED("pairing = interleaved"), NULL, NULL},
    {"7: position 0 throughout = NoPE", "step: int = 0", TURNED("at = t * step"), causal, NULL,
     "step=1"},
    {"7: PI with factor 1 = RoPE", "factor: float = 1.0", TURNED("scaling = linear(factor)"),
     turned, NULL, "factor=4"},
    {"7: NTK with factor 1 = RoPE", "factor: float = 1.0", TURNED("scaling = ntk(factor)"), turned,
     NULL, "factor=4"},
    {"7: dynamic NTK with factor 1, within the original length = RoPE", "original: int = 1000",
     TURNED("scaling = dynamic(1.0, original)"), turned, NULL, "original=8"},
    {"7: YaRN with factor 1 = RoPE", "factor: float = 1.0",
     TURNED("scaling = yarn(factor, original = 64)"), turned, NULL, "factor=4"},
    {"7: LongRoPE with factors of 1 = RoPE", NULL,
     USUAL "mask causal\ninput long : f32[8]\ninput short : f32[8]\n"
           "position rope(scaling = longrope(1.0, 64, long, short))",
     turned, &one, "inputs"},
    {"7: Llama 3 with factor 1 = RoPE", "factor: float = 1.0",
     TURNED("scaling = llama3(factor = factor, original = 64.0)"), turned, NULL, "factor=8"},

    {"8: differential with lambda 0 = its first map", NULL,
     TWO_MAPS "input lambda : f32[H]\nweight a - lambda[h] * n",
     TWO_HALVES "similarity dot(q[0:16], k[0:16])\nscale 0.25", &zero, "inputs"},
    {"8: the same with the head norm", NULL,
     TWO_MAPS "input lambda : f32[H]\nweight a - lambda[h] * n" HEAD_NORM,
     TWO_HALVES "similarity dot(q[0:16], k[0:16])\nscale 0.25" HEAD_NORM, &zero, "inputs"},
    {"8: renormalised differential with lambda 0 = softmax", "lambda: float = 0.0",
     TWO_MAPS "weight renormalize(max(a - lambda * n, 0.0))",
     TWO_HALVES "similarity dot(q[0:16], k[0:16])\nscale 0.25", NULL, "lambda=0.7"},

    {"10: MoBA that takes all blocks = causal", NULL,
     USUAL "mask causal\nselect block = 16, top = 1000, by = dot(q, mean(k)), "
           "always = n == i // 16, per = h",
     causal, NULL, NULL},
    {"10: MoBA with blocks of one key = causal", NULL,
     USUAL "mask causal\nselect block = 1, top = 1000, by = dot(q, mean(k)), "
           "always = n == i, per = h",
     causal, NULL, NULL},
    {"10: MoBA that takes its own block only = causal within blocks", NULL,
     USUAL "mask causal\nselect block = 16, top = 1, by = dot(q, mean(k)), "
           "always = n == i // 16, per = h",
     MASK("causal and block_local(16)"), NULL, NULL},
    {"10: NSA's selected branch that takes all blocks = causal", NULL,
     USUAL "input importance : f32[B, G, NQ, (NK + 15) // 16]\nmask causal\n"
           "select block = 16, top = 1000, by = importance[b, g, r, n],\n"
           "always = n == 0 or i // 16 - 1 <= n <= i // 16, per = g",
     causal, NULL, NULL},
    {"10: NSA's selected branch that takes its forced blocks only = those", NULL,
     USUAL "input importance : f32[B, G, NQ, (NK + 15) // 16]\nmask causal\n"
           "select block = 16, top = 3, by = importance[b, g, r, n],\n"
           "always = n == 0 or i // 16 - 1 <= n <= i // 16, per = g",
     MASK("causal and (sinks(16) or block_window(16, 1))"), NULL, NULL},

    {"13: sinks and a window that hold all tokens = causal", "width: int = 94",
     USUAL "position rope\nmask causal and (sinks(3) or sliding(max(width, NK - 3)))", turned, NULL,
     NULL},
    {"13: a budget of all keys = full", NULL,
     USUAL "select block = 1, top = 1000, by = dot(q, mean(k)), per = g", full, NULL, NULL},
};

static void run(struct attention *a, const char *name, struct sizes sizes, uint64_t seed,
                const double *inputs, const char *setting)
{
  attention_prepare(a, sizes, seed, setting);
  if (inputs != NULL)
    for (uint32_t n = 0; n < a->spec->input_count; n++)
      tensor_fill(&a->work.inputs[n], *inputs);
  attention_launch(a, name);
}

START_TEST(pair)
{
  const struct pair *p = &pairs[_i];
  struct attention left, right = {0};
  if (!attention_open(&left, p->name, p->params, p->left))
    return;
  if (!attention_open(&right, p->name, NULL, p->right)) {
    attention_close(&left);
    return;
  }
  for (uint64_t draw = 0; draw < draws(); draw++) {
    struct sizes sizes = sizes_draw(draw);
    run(&left, p->name, sizes, draw, p->inputs, NULL);
    run(&right, p->name, sizes, draw, NULL, NULL);
    expect_same(p->name, &left.work.o, &right.work.o);
    for (uint32_t n = 0; n < right.spec->output_count; n++)
      expect_same(p->name, &left.work.outputs[n], &right.work.outputs[n]);
    if (draw != 0 || p->away == NULL)
      continue;
    bool drawn = strcmp(p->away, "inputs") == 0;
    run(&left, p->name, sizes, draw, NULL, drawn ? NULL : p->away);
    ck_assert_msg(tensor_distance(&left.work.o, &right.work.o) > 1e-3,
                  "%s: also the same with other %s", p->name, p->away);
  }
  attention_close(&left);
  attention_close(&right);
}
END_TEST

void pairs_add(TCase *tests)
{
  tcase_add_loop_test(tests, pair, 0, (int)(sizeof(pairs) / sizeof(*pairs)));
}
