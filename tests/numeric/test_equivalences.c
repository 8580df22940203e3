/* Equivalences between variants of attention, as properties of compiled code: what one spec gives,
 * another one, or several launches put together, must give too. No reference is asked. */
#include "tests/numeric/equivalences/equivalences.h"

#include <stdio.h>

int main(void)
{
  Suite *suite = suite_create("equivalences");
  TCase *tests = tcase_create("equivalences");
  pairs_add(tests);
  heads_add(tests);
  keys_add(tests);
  weights_add(tests);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  /* One process: it shares compiled specs and counts what is skipped. */
  srunner_set_fork_status(runner, CK_NOFORK);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  printf("%u equivalences skipped\n", attention_skipped());
  srunner_free(runner);
  attention_end();
  return failed == 0 ? 0 : 1;
}
