/* Equivalences of caches, as properties of the compiled code: layouts, steps, orders of keys and
 * ways to share and drop them that must not matter. */
#include "tests/numeric/cache_properties/model.h"

int main(void)
{
  Suite *suite = suite_create("cache_properties");
  TCase *tests = tcase_create("properties");
  layouts_add(tests);
  keys_add(tests);
  sharing_add(tests);
  eviction_add(tests);
  storage_add(tests);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  /* One process: compiled specs are shared. */
  srunner_set_fork_status(runner, CK_NOFORK);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  end_context();
  return failed == 0 ? 0 : 1;
}
