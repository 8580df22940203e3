/* The stand-in's memory as the interpreter sees it. */
#include "tests/device/device.h"

#include <check.h>
#include <string.h>
#include <unistd.h>

START_TEST(allocations_end_at_a_page)
{
  static const size_t sizes[] = {1, 256, 257, 4095, 4096, 100000};
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (int i = 0; i < 6; i++) {
    const size_t rounded = (sizes[i] + DEVICE_ALIGNMENT - 1) / DEVICE_ALIGNMENT * DEVICE_ALIGNMENT;
    const uint64_t address = device_allocate(sizes[i]);
    ck_assert_uint_ne(address, 0);
    ck_assert_uint_eq((address + rounded) % page, 0);
    const unsigned char *place = device_translate(address, sizes[i]);
    ck_assert_ptr_nonnull(place);
    ck_assert((uint64_t)(uintptr_t)place != address);
    for (size_t k = 0; k < sizes[i]; k++)
      ck_assert_uint_eq(place[k], 0xff);
    ck_assert(device_free(address));
  }
  ck_assert_uint_eq(device_allocate(0), 0);
  ck_assert_uint_eq(device_allocate(SIZE_MAX), 0);
}
END_TEST

START_TEST(accesses_lie_in_one_allocation)
{
  uint64_t base;
  size_t bytes;
  const uint64_t first = device_allocate(100), second = device_allocate(5000);
  ck_assert_ptr_nonnull(device_translate(first + 96, 4));
  ck_assert_ptr_null(device_translate(first + 97, 4));
  ck_assert_ptr_null(device_translate(first + 100, 0));
  ck_assert_ptr_null(device_translate(first - 1, 2));
  ck_assert_ptr_null(device_translate(first, SIZE_MAX));
  ck_assert_ptr_null(device_translate(0, 1));
  ck_assert_ptr_null(device_translate((uint64_t)(uintptr_t)device_translate(first, 1), 1));
  ck_assert(device_range(second + 4999, &base, &bytes));
  ck_assert_uint_eq(base, second);
  ck_assert_uint_eq(bytes, 5000);
  ck_assert(!device_range(second + 5000, &base, &bytes));
  ck_assert(!device_free(second + 1));
  ck_assert(device_free(second));
  ck_assert(!device_free(second));
  ck_assert_ptr_null(device_translate(second, 1));
  ck_assert_ptr_nonnull(device_translate(first, 100));
  ck_assert(device_free(first));
}
END_TEST

START_TEST(devices_have_their_own)
{
  uint64_t base;
  size_t bytes;
  const uint64_t on0 = device_allocate(64);
  device_select(1);
  const uint64_t on1 = device_allocate(32);
  ck_assert_uint_eq(device_allocated(), 32);
  ck_assert_uint_eq(device_allocation_count(), 1);
  ck_assert_ptr_null(device_translate(on0, 1));
  ck_assert_ptr_nonnull(device_translate(on1, 32));
  ck_assert(device_range(on0, &base, &bytes));
  device_select(0);
  ck_assert_uint_eq(device_allocated(), 64);
  ck_assert(device_free(on1));
  ck_assert(device_free(on0));
}
END_TEST

/* Many at a time, freed in another order: the table of allocations stays sorted, addresses are not
 * used again at once. */
START_TEST(many_allocations)
{
  enum { COUNT = 2000 };
  static uint64_t addresses[COUNT];
  for (uint32_t i = 0; i < COUNT; i++)
    addresses[i] = device_allocate(i + 1);
  for (uint32_t i = 0; i < COUNT; i++) {
    const uint32_t k = i * 7 % COUNT;
    unsigned char *place = device_translate(addresses[k], k + 1);
    ck_assert_ptr_nonnull(place);
    memset(place, 1, k + 1);
    ck_assert(device_free(addresses[k]));
    const uint64_t again = device_allocate(k + 1);
    ck_assert_uint_ne(again, addresses[k]);
    ck_assert(device_free(again));
  }
  ck_assert_uint_eq(device_allocation_count(), 0);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("memory");
  TCase *tests = tcase_create("memory");
  tcase_add_test(tests, allocations_end_at_a_page);
  tcase_add_test(tests, accesses_lie_in_one_allocation);
  tcase_add_test(tests, devices_have_their_own);
  tcase_add_test(tests, many_allocations);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
