/* Programs as they are built for GPUs, run on this machine: operands of products in 16 bits, a
 * factor in the row algebra, kernels that summarise inputs. What they compute is compared with the
 * reference by the error rule; that GPU code computes the same as this machine's is for the tests
 * of that target. */
#include "tests/numeric/program_world.h"

static void check_within(const char *text, double slack)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  static const struct sizes all[] = {{2, 7, 9}, {1, 70, 150}, {1, 130, 129}};
  for (size_t t = 0; t < 3; t++)
    for (size_t n = 0; n < 3; n++) {
      struct world w;
      open_world(&w, text, &(struct compile_options){.target = TARGET_SM_80, .type = types[t]},
                 all[n]);
      make_arrays(&w, all[n], 0);
      run_world(&w);
      compare_within(&w, all[n], slack);
      close_world(&w);
    }
}

static void check_spec(const char *text)
{
  check_within(text, 0);
}

START_TEST(plain_specs)
{
  check_spec("attention a {\n heads 2\n dim 16\n mask causal\n}\n");
  check_spec("attention a {\n heads q = 6, kv = 2\n dim qk = 24, v = 40\n}\n");
  check_spec("attention a {\n heads 2\n dim 32\n mask causal\n position rope()\n}\n");
  check_spec("attention a {\n heads 2\n dim qk = 24, v = 16\n value k[0:16]\n mask i - j < 20\n"
             " position rope(from = 16, dim = 8, pairing = interleaved)\n}\n");
  check_spec("attention a {\n heads 2\n dim 16\n similarity dot(q, k) / 3.0\n"
             " score tanh(s / 5.0) * 5.0\n}\n");
}
END_TEST

START_TEST(normalisers)
{
  static const char *const names[] = {"sigmoid", "relu", "linear(at_least = 1.0)", "none",
                                      "sparsemax"};
  for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
    char text[256];
    snprintf(text, sizeof(text),
             "attention a {\n heads 2\n dim 16\n mask causal\n normalize %s\n}\n", names[k]);
    check_spec(text);
  }
}
END_TEST

/* f16 ends at 65504, so that the rule takes a direct evaluation in f32 for its measure there; but
 * the result is rounded. */
START_TEST(large_weights)
{
  check_within("attention a {\n heads 2\n dim 16\n normalize relu\n score s * 40000.0\n"
               " post o[c] / 1000000.0\n}\n",
               0x1p-11);
  check_within("attention a {\n heads 2\n dim 16\n weight w * 200000.0\n"
               " post o[c] / 200000.0\n}\n",
               0x1p-11);
}
END_TEST

START_TEST(several_looks)
{
  check_spec("attention a {\n heads 2\n dim 16\n mask causal\n weight w ** 2.0\n}\n");
  check_spec("attention a {\n heads 2\n dim 32\n mask causal\n"
             " map x = softmax(dot(q[0:16], k[0:16]))\n map y = softmax(dot(q[16:32], k[16:32]))\n"
             " weight x - 0.5 * y\n}\n");
  check_spec("attention a {\n heads 2\n dim 16\n mask causal\n normalize softmax(sink = 0.5)\n}\n");
}
END_TEST

/* ---- summaries ---- */

static void check_summary(const char *text, const char *input, int64_t nan_every)
{
  static const struct sizes all[] = {
      {2, 200, 200}, {1, 65, 129}, {3, 40, 64}, {65, 3, 64}, {3, 40, 1}};
  for (size_t n = 0; n < sizeof(all) / sizeof(all[0]); n++) {
    struct world w;
    if (strstr(text, "ragged") != NULL && n > 2) /* as many sequences as are shorter */
      break;
    open_world(&w, text, &(struct compile_options){.target = TARGET_SM_80, .type = DTYPE_F32},
               all[n]);
    make_arrays(&w, all[n], nan_every);
    run_world(&w);
    const struct tile_array *x = array_of(&w, input);
    char name[64];
    snprintf(name, sizeof(name), "%s_summary", input);
    const struct tile_array *summary = array_of(&w, name);
    ck_assert_msg(summary != NULL, "%s makes no summary of %s", text, input);
    int64_t last = x->sizes[x->rank - 1], blocks = (last + 63) / 64;
    for (int64_t block = 0; block < summary->count / 2; block++) {
      double low = (double)INFINITY, high = -(double)INFINITY;
      bool nan = false;
      for (int64_t k = block % blocks * 64; k < last && k < (block % blocks + 1) * 64; k++) {
        double value = tile_array_get(x, block / blocks * last + k);
        nan |= isnan(value);
        low = fmin(low, value);
        high = fmax(high, value);
      }
      double got[] = {tile_array_get(summary, 2 * block), tile_array_get(summary, 2 * block + 1)};
      bool right = nan ? isnan(got[0]) && isnan(got[1]) : got[0] == low && got[1] == high;
      ck_assert_msg(right, "%s: block %d of %s is [%g, %g], not [%g, %g]", text, (int)block, input,
                    got[0], got[1], nan ? (double)NAN : low, nan ? (double)NAN : high);
    }
    close_world(&w);
  }
}

START_TEST(summaries)
{
  check_summary("attention a {\n heads 2\n dim 8\n input doc : i32[B, NK]\n"
                " mask doc[b, i] == doc[b, j]\n}\n",
                "doc", 0);
  check_summary("attention a {\n heads 2\n dim 8\n input doc : i32[B, NK]\n cache ragged\n"
                " mask doc[b, i] == doc[b, j]\n}\n",
                "doc", 0);
  check_summary("attention a {\n heads 2\n dim 8\n input on : bool[B, H, NK]\n"
                " mask on[b, h, j]\n}\n",
                "on", 0);
  check_summary("attention a {\n heads 2\n dim 8\n input x : f32[NK]\n mask x[j] > 0.5\n}\n", "x",
                0);
  check_summary("attention a {\n heads 2\n dim 8\n input x : f16[H, NK]\n mask x[h, j] > 0.5\n}\n",
                "x", 41);
}
END_TEST

START_TEST(masks_with_summaries)
{
  check_spec("attention a {\n heads 2\n dim 16\n input doc : i32[B, NK]\n"
             " mask causal and doc[b, i] == doc[b, j]\n}\n");
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("gpu_programs");
  TCase *tcase = tcase_create("gpu_programs");
  tcase_add_test(tcase, plain_specs);
  tcase_add_test(tcase, normalisers);
  tcase_add_test(tcase, large_weights);
  tcase_add_test(tcase, several_looks);
  tcase_add_test(tcase, summaries);
  tcase_add_test(tcase, masks_with_summaries);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
