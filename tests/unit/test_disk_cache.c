/* The code cache on disk: whatever happens to its files, code that comes out of it is the code that
 * went in. */
#include "attn/attn.h"
#include "runtime/disk_cache.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[64], cache_path[80];

static void set_up(void)
{
  unsetenv("ATTN_CACHE");
  unsetenv("ATTN_CACHE_DIR");
  snprintf(folder, sizeof(folder), "/tmp/attn-disk-cache-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(cache_path, sizeof(cache_path), "%s/a/cache", folder);
}

static void remove_all(const char *path)
{
  DIR *directory = opendir(path);
  const struct dirent *entry;
  chmod(path, 0700);
  while (directory != NULL && (entry = readdir(directory)) != NULL) {
    char below[PATH_MAX];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
    if (unlink(below) != 0)
      remove_all(below);
  }
  if (directory != NULL)
    closedir(directory);
  rmdir(path);
}

static void tear_down(void)
{
  remove_all(folder);
}

/* The entries in the cache; `path` becomes that of one. */
static int entries(char path[PATH_MAX])
{
  int count = 0;
  DIR *directory = opendir(cache_path);
  const struct dirent *entry;
  while (directory != NULL && (entry = readdir(directory)) != NULL) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    if (path != NULL)
      snprintf(path, PATH_MAX, "%s/%s", cache_path, entry->d_name);
    count++;
  }
  if (directory != NULL)
    closedir(directory);
  return count;
}

static void set_age(const char *path, time_t seconds)
{
  const time_t then = time(NULL) - seconds;
  const struct timespec times[2] = {{.tv_sec = then}, {.tv_sec = then}};
  ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* ---- entries alone ---- */

enum { CODE_SIZE = 300, KERNELS = 2 };

struct sample {
  struct disk_cache cache;
  struct compiled_kernel kernels[KERNELS];
  struct compiled compiled;
  unsigned char code[CODE_SIZE];
};

static void sample_open(struct sample *s)
{
  *s = (struct sample){0};
  ck_assert(disk_cache_init(&s->cache, cache_path));
  for (int n = 0; n < CODE_SIZE; n++)
    s->code[n] = (unsigned char)(n * 7 + n / 256);
  for (int n = 0; n < KERNELS; n++)
    s->kernels[n].scratch_bytes = (size_t)(1000 + n);
  s->compiled.kernels.items = s->kernels;
  s->compiled.kernels.count = KERNELS;
  s->compiled.options.schedule = (struct schedule){.rows = 16, .columns = 32, .lanes = 8};
  s->compiled.code = s->code;
  s->compiled.code_size = CODE_SIZE;
}

static void sample_store(struct sample *s, const char *key)
{
  disk_cache_store(&s->cache, key, strlen(key), &s->compiled);
}

/* Checks a hit against what was stored. */
static bool sample_load(const struct sample *s, const char *key)
{
  struct compiled_kernel kernels[KERNELS] = {0};
  struct compiled compiled = {.kernels = {.items = kernels, .count = KERNELS}};
  switch (disk_cache_load(&s->cache, key, strlen(key), &compiled)) {
  case DISK_CACHE_MISS: ck_assert_ptr_null(compiled.code); return false;
  case DISK_CACHE_OUT_OF_MEMORY: ck_abort_msg("out of memory");
  case DISK_CACHE_HIT: break;
  }
  ck_assert_uint_eq(compiled.code_size, CODE_SIZE);
  ck_assert_mem_eq(compiled.code, s->code, CODE_SIZE);
  ck_assert_uint_eq(kernels[0].scratch_bytes, 1000);
  ck_assert_uint_eq(kernels[1].scratch_bytes, 1001);
  ck_assert_uint_eq(compiled.options.schedule.rows, 16);
  ck_assert_uint_eq(compiled.options.schedule.lanes, 8);
  mem_free(compiled.code);
  return true;
}

static void sample_close(struct sample *s)
{
  disk_cache_destroy(&s->cache);
}

START_TEST(what_is_stored_is_found)
{
  struct sample s;
  sample_open(&s);
  ck_assert(!sample_load(&s, "key"));
  sample_store(&s, "key");
  ck_assert(sample_load(&s, "key"));
  ck_assert(!sample_load(&s, "kez"));
  ck_assert(!sample_load(&s, "keyy"));
  sample_store(&s, "key"); /* replaces */
  sample_store(&s, "");
  ck_assert(sample_load(&s, "key"));
  ck_assert(sample_load(&s, ""));
  ck_assert_int_eq(entries(NULL), 2);

  struct compiled one = s.compiled; /* another program than the entry's */
  one.kernels.count = 1;
  ck_assert_int_eq(disk_cache_load(&s.cache, "key", 3, &one), DISK_CACHE_MISS);
  sample_close(&s);
}
END_TEST

START_TEST(every_flipped_byte_is_noticed)
{
  struct sample s;
  char path[PATH_MAX];
  struct stat info;
  sample_open(&s);
  sample_store(&s, "a key of some length");
  ck_assert_int_eq(entries(path), 1);
  int file = open(path, O_RDWR);
  ck_assert_int_ge(file, 0);
  ck_assert_int_eq(fstat(file, &info), 0);
  ck_assert_int_gt(info.st_size, CODE_SIZE);
  for (off_t at = 0; at < info.st_size; at++) {
    unsigned char byte, flips[] = {0xff, 1, 0x80};
    ck_assert_int_eq(pread(file, &byte, 1, at), 1);
    for (size_t n = 0; n < sizeof(flips); n++) {
      unsigned char flipped = byte ^ flips[n];
      ck_assert_int_eq(pwrite(file, &flipped, 1, at), 1);
      ck_assert_msg(!sample_load(&s, "a key of some length"), "byte %d", (int)at);
    }
    ck_assert_int_eq(pwrite(file, &byte, 1, at), 1);
  }
  ck_assert(sample_load(&s, "a key of some length"));
  ck_assert_int_eq(pwrite(file, "", 1, info.st_size), 1); /* one byte more */
  ck_assert(!sample_load(&s, "a key of some length"));
  for (off_t size = info.st_size - 1; size >= 0; size--) {
    ck_assert_int_eq(ftruncate(file, size), 0);
    ck_assert(!sample_load(&s, "a key of some length"));
  }
  close(file);
  sample_store(&s, "a key of some length");
  ck_assert(sample_load(&s, "a key of some length"));
  sample_close(&s);
}
END_TEST

/* An entry under another key's name: the key that it holds decides. */
START_TEST(keys_that_share_a_hash_are_told_apart)
{
  struct sample s;
  char first[PATH_MAX], second[PATH_MAX], moved[PATH_MAX];
  sample_open(&s);
  sample_store(&s, "key 1");
  ck_assert_int_eq(entries(first), 1);
  snprintf(moved, sizeof(moved), "%s/moved", folder);
  ck_assert_int_eq(rename(first, moved), 0);
  sample_store(&s, "key 2");
  ck_assert_int_eq(entries(second), 1);
  ck_assert_str_ne(first, second);
  ck_assert_int_eq(rename(moved, second), 0);
  ck_assert(!sample_load(&s, "key 2"));
  sample_close(&s);
}
END_TEST

START_TEST(files_of_another_kind_are_not_read)
{
  struct sample s;
  char path[PATH_MAX], kept[PATH_MAX];
  sample_open(&s);
  sample_store(&s, "key");
  ck_assert_int_eq(entries(path), 1);
  ck_assert_int_eq(chmod(path, 0622), 0); /* anybody can have written it */
  ck_assert(!sample_load(&s, "key"));
  ck_assert_int_eq(chmod(path, 0400), 0);
  ck_assert(sample_load(&s, "key"));
  snprintf(kept, sizeof(kept), "%s/kept", folder);
  ck_assert_int_eq(rename(path, kept), 0);
  ck_assert_int_eq(symlink(kept, path), 0);
  ck_assert(!sample_load(&s, "key"));
  unlink(path);
  ck_assert_int_eq(mkfifo(path, 0600), 0);
  ck_assert(!sample_load(&s, "key")); /* and does not wait for a writer */
  unlink(path);
  ck_assert_int_eq(mkdir(path, 0700), 0);
  ck_assert(!sample_load(&s, "key"));
  sample_store(&s, "key");
  ck_assert(!sample_load(&s, "key"));
  ck_assert_int_eq(entries(NULL), 1); /* nothing unfinished stays */
  sample_close(&s);
}
END_TEST

START_TEST(places_that_cannot_be_written_hold_nothing)
{
  struct sample s;
  char file[80];
  snprintf(file, sizeof(file), "%s/file", folder);
  close(open(file, O_WRONLY | O_CREAT, 0600));
  char below[100], deep[PATH_MAX + 100];
  snprintf(below, sizeof(below), "%s/cache", file);
  memset(deep, 'd', sizeof(deep) - 1);
  deep[0] = '/';
  deep[sizeof(deep) - 1] = '\0';
  const char *places[] = {below, file, "/proc/attn-cache", "/dev/null", deep};
  for (size_t n = 0; n < sizeof(places) / sizeof(*places); n++) {
    sample_open(&s);
    sample_close(&s);
    ck_assert(disk_cache_init(&s.cache, places[n]));
    sample_store(&s, "key");
    ck_assert(!sample_load(&s, "key"));
    sample_close(&s);
  }
}
END_TEST

START_TEST(a_folder_to_read_from_alone)
{
  struct sample s;
  char path[PATH_MAX], above[80];
  sample_open(&s);
  sample_store(&s, "key");
  ck_assert_int_eq(entries(path), 1);
  snprintf(above, sizeof(above), "%s/a", folder);
  ck_assert_int_eq(
      chmod(path, 0444) | chmod(cache_path, 0555) | chmod(above, 0555) | chmod(folder, 0755), 0);
  set_age(path, 500000);
  if (getuid() == 0) /* who may write everywhere; what root owns is read by all */
    ck_assert_int_eq(seteuid(65534), 0);
  ck_assert(sample_load(&s, "key"));
  sample_store(&s, "other");
  ck_assert(!sample_load(&s, "other"));
  ck_assert_int_eq(seteuid(getuid()), 0);
  ck_assert_int_eq(entries(NULL), 1);
  ck_assert_int_eq(chmod(above, 0700), 0);
  sample_close(&s);
}
END_TEST

static void expect_directory(const char *asked, const char *expected)
{
  struct disk_cache cache;
  ck_assert(disk_cache_init(&cache, asked));
  if (expected == NULL)
    ck_assert_ptr_null(cache.directory);
  else
    ck_assert_str_eq(cache.directory, expected);
  disk_cache_destroy(&cache);
}

START_TEST(the_environment_chooses_the_place)
{
  setenv("HOME", "/home/somebody", 1);
  unsetenv("XDG_CACHE_HOME");
  expect_directory(NULL, "/home/somebody/.cache/attnc");
  setenv("XDG_CACHE_HOME", "not/absolute", 1);
  expect_directory(NULL, "/home/somebody/.cache/attnc");
  setenv("XDG_CACHE_HOME", "/xdg", 1);
  expect_directory(NULL, "/xdg/attnc");
  setenv("ATTN_CACHE_DIR", "/chosen", 1);
  expect_directory(NULL, "/chosen");
  expect_directory("asked", "asked");
  expect_directory("", NULL);
  setenv("ATTN_CACHE", "0", 1);
  expect_directory("asked", NULL);
  expect_directory(NULL, NULL);
  unsetenv("ATTN_CACHE");
  unsetenv("ATTN_CACHE_DIR");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  expect_directory(NULL, NULL);
  setenv("HOME", "", 1);
  expect_directory(NULL, NULL);
}
END_TEST

static void make_file(char path[PATH_MAX], const char *name)
{
  snprintf(path, PATH_MAX, "%s/%s", cache_path, name);
  int file = open(path, O_WRONLY | O_CREAT, 0600);
  ck_assert_int_ge(file, 0);
  ck_assert_int_eq(ftruncate(file, 100000), 0);
  close(file);
}

START_TEST(the_longest_unused_entries_go)
{
  struct sample s;
  char path[PATH_MAX], foreign[PATH_MAX], young[PATH_MAX], old[PATH_MAX], key[16];
  struct stat info;
  sample_open(&s);
  sample_store(&s, "used");
  ck_assert_int_eq(entries(path), 1);
  set_age(path, 500000);
  ck_assert(sample_load(&s, "used"));
  ck_assert_int_eq(stat(path, &info), 0);
  ck_assert_int_ge(info.st_mtime, time(NULL) - 60); /* the use is noted */
  make_file(foreign, "notes.txt");
  make_file(young, ".attncode-1-2-3");
  make_file(old, ".attncode-4-5-6");
  set_age(foreign, 1000000);
  set_age(old, 1000000);

  /* More than one look at the folder takes. */
  s.cache.max_bytes = UINT64_MAX;
  enum { COUNT = 150, ROOM = 20 };
  for (int n = 0; n < COUNT; n++) {
    int before = entries(NULL);
    snprintf(key, sizeof(key), "%d", n);
    sample_store(&s, key);
    ck_assert_int_eq(entries(NULL), before + (n == 0 ? 0 : 1)); /* the first removes `old` */
  }
  DIR *directory = opendir(cache_path);
  const struct dirent *entry;
  while ((entry = readdir(directory)) != NULL) {
    char each[PATH_MAX];
    snprintf(each, sizeof(each), "%s/%s", cache_path, entry->d_name);
    if (entry->d_name[0] != '.' && strcmp(each, path) != 0)
      set_age(each, 100000);
  }
  closedir(directory);
  s.cache.max_bytes = (uint64_t)info.st_size * ROOM;
  sample_store(&s, "new");
  int left = entries(NULL) - 2; /* foreign, young */
  ck_assert_int_le(left, ROOM);
  ck_assert_int_ge(left, ROOM * 7 / 8 - 1);
  ck_assert(sample_load(&s, "new"));
  ck_assert(sample_load(&s, "used"));
  ck_assert_int_eq(access(foreign, F_OK), 0);
  ck_assert_int_eq(access(young, F_OK), 0);
  ck_assert_int_ne(access(old, F_OK), 0);
  sample_close(&s);
}
END_TEST

/* ---- programs ---- */

enum { HEADS = 2, ROWS = 3, KEYS = 7, DIM = 8 };

struct problem {
  float q[HEADS * ROWS * DIM], k[HEADS * KEYS * DIM], v[HEADS * KEYS * DIM], o[HEADS * ROWS * DIM];
};

static const char text[] = "attention a {\n type f32\n heads 2\n dim 8\n mask j <= i + 3\n}\n";

static DLTensor tensor(float *data, int64_t shape[4], int64_t rows)
{
  shape[0] = 1, shape[1] = HEADS, shape[2] = rows, shape[3] = DIM;
  return (DLTensor){
      .data = data, .device = {kDLCPU, 0}, .ndim = 4, .dtype = {kDLFloat, 32, 1}, .shape = shape};
}

static attn_status launch(attn_program *program, struct problem *p)
{
  int64_t shapes[4][4];
  for (int n = 0; n < HEADS * ROWS * DIM; n++)
    p->q[n] = sinf((float)n), p->o[n] = NAN;
  for (int n = 0; n < HEADS * KEYS * DIM; n++)
    p->k[n] = cosf((float)(3 * n)), p->v[n] = sinf((float)(n * n));
  DLTensor q = tensor(p->q, shapes[0], ROWS), k = tensor(p->k, shapes[1], KEYS),
           v = tensor(p->v, shapes[2], KEYS), o = tensor(p->o, shapes[3], ROWS);
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &q, arguments.k = &k, arguments.v = &v, arguments.o = &o;
  return attn_launch(program, &arguments);
}

/* Compiles and launches in a context of its own. */
static attn_status compute(const char *directory, const char *spec, struct problem *p,
                           attn_statistics *statistics, char error[1024])
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  attn_context *context;
  attn_program *program;
  options.threads = 1;
  options.code_cache_directory = directory;
  attn_status status = attn_context_create(&options, &context);
  if (status != ATTN_OK)
    return status;
  status = attn_compile(context, spec, strlen(spec), "t.attn", NULL, &program);
  if (status == ATTN_OK)
    status = launch(program, p);
  if (error != NULL)
    attn_context_error(context, error, 1024);
  *statistics = attn_context_statistics(context);
  attn_program_free(program);
  attn_context_free(context);
  return status;
}

static struct problem expected;

static void expect(bool from_disk)
{
  struct problem p;
  attn_statistics statistics;
  ck_assert_int_eq(compute(cache_path, text, &p, &statistics, NULL), ATTN_OK);
  ck_assert_uint_eq(statistics.disk_hits, from_disk);
  ck_assert_uint_eq(statistics.compilations, !from_disk);
  ck_assert_mem_eq(p.o, expected.o, sizeof(p.o));
}

static void set_up_program(void)
{
  attn_statistics statistics;
  set_up();
  ck_assert_int_eq(compute("", text, &expected, &statistics, NULL), ATTN_OK);
  ck_assert_uint_eq(statistics.compilations, 1);
}

START_TEST(contexts_share_the_cache)
{
  expect(false);
  expect(true);
  expect(true);
  ck_assert_int_eq(entries(NULL), 1);
  static const char other[] = "attention a {\n type f32\n heads 2\n dim 8\n mask j <= i + 4\n}\n";
  struct problem p;
  attn_statistics statistics;
  ck_assert_int_eq(compute(cache_path, other, &p, &statistics, NULL), ATTN_OK);
  ck_assert_uint_eq(statistics.compilations, 1);
  ck_assert_int_eq(entries(NULL), 2);
  setenv("ATTN_CACHE", "0", 1);
  expect(false);
}
END_TEST

START_TEST(damaged_entries_are_compiled_again)
{
  char path[PATH_MAX];
  struct stat info;
  expect(false);
  ck_assert_int_eq(entries(path), 1);
  ck_assert_int_eq(stat(path, &info), 0);
  for (int n = 0; n <= 8; n++) {
    off_t at = (info.st_size - 1) * n / 8;
    unsigned char byte;
    int file = open(path, O_RDWR);
    ck_assert_int_eq(pread(file, &byte, 1, at), 1);
    byte = (unsigned char)~byte;
    if (n % 2 == 0)
      ck_assert_int_eq(pwrite(file, &byte, 1, at), 1);
    else
      ck_assert_int_eq(ftruncate(file, at), 0);
    close(file);
    expect(false);
    expect(true); /* replaced */
  }
  ck_assert_int_eq(entries(NULL), 1);
}
END_TEST

/* In a process that has no code generator. */
START_TEST(a_hit_needs_no_llvm)
{
  struct problem p;
  attn_statistics statistics;
  char error[1024];
  pid_t child = fork();
  if (child == 0) {
    compute(cache_path, text, &p, &statistics, NULL);
    _exit(0);
  }
  ck_assert_int_eq(waitpid(child, NULL, 0), child);
  setenv("ATTN_LLVM_LIBRARY", "/there/is/no/such/library", 1);
  ck_assert_int_eq(compute(cache_path, text, &p, &statistics, error), ATTN_OK);
  ck_assert_uint_eq(statistics.disk_hits, 1);
  ck_assert_str_eq(error, "");
  for (int n = 0; n < 2; n++) {
    ck_assert_int_eq(compute("", text, &p, &statistics, error), ATTN_ERROR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(error, "/there/is/no/such/library"));
    ck_assert_ptr_nonnull(strstr(error, "apt-get install libllvm22"));
  }
}
END_TEST

START_TEST(another_library_is_not_taken_for_llvm)
{
  struct problem p;
  attn_statistics statistics;
  char error[1024];
  setenv("ATTN_LLVM_LIBRARY", "libm.so.6", 1);
  ck_assert_int_eq(compute("", text, &p, &statistics, error), ATTN_ERROR_UNSUPPORTED);
  ck_assert_ptr_nonnull(strstr(error, "not LLVM 22"));
}
END_TEST

static int compute_often(void)
{
  for (int n = 0; n < 4; n++) {
    struct problem p;
    attn_statistics statistics;
    if (compute(cache_path, text, &p, &statistics, NULL) != ATTN_OK ||
        memcmp(p.o, expected.o, sizeof(p.o)) != 0)
      return 1;
  }
  return 0;
}

/* Makes the entry wrong in a new way each time. */
static void damage(unsigned turn)
{
  char path[PATH_MAX];
  if (entries(path) == 0)
    return;
  int file = open(path, O_WRONLY);
  if (file < 0)
    return;
  if (turn % 3 == 0)
    ck_assert_int_eq(ftruncate(file, turn * 37 % 5000), 0);
  else
    ck_assert_int_eq(pwrite(file, "damaged", 7, turn * 41 % 5000), 7);
  close(file);
}

START_TEST(eight_processes_and_a_vandal)
{
  enum { PROCESSES = 8 };
  pid_t children[PROCESSES];
  for (int n = 0; n < PROCESSES; n++) {
    children[n] = fork();
    if (children[n] == 0)
      _exit(compute_often());
    ck_assert_int_gt(children[n], 0);
  }
  unsigned turn = 0;
  for (int n = 0; n < PROCESSES; n++) {
    int status = -1;
    pid_t ended;
    while ((ended = waitpid(children[n], &status, WNOHANG)) == 0) {
      damage(turn++);
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    ck_assert_int_eq(ended, children[n]);
    ck_assert_int_eq(status, 0);
  }
  ck_assert_int_eq(entries(NULL), 1); /* and nothing unfinished */
}
END_TEST

/* Any one allocation on the way from disk to the result fails: out of memory, nothing else, and
 * nothing leaks. */
START_TEST(allocations_that_fail)
{
  expect(false);
  bool done = false;
  for (uint64_t n = 1; !done; n++) {
    struct problem p;
    attn_statistics statistics;
    ck_assert_uint_lt(n, 100000);
    const int64_t live = mem_live_count();
    const uint64_t before = mem_allocation_count();
    mem_fail_at(n);
    attn_status status = compute(cache_path, text, &p, &statistics, NULL);
    done = mem_allocation_count() - before < n;
    mem_fail_at(0);
    ck_assert_int_eq(status, done ? ATTN_OK : ATTN_ERROR_OUT_OF_MEMORY);
    ck_assert_int_eq(mem_live_count(), live);
    if (done)
      ck_assert_uint_eq(statistics.disk_hits, 1);
  }
  ck_assert_int_eq(entries(NULL), 1);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("disk_cache");
  TCase *alone = tcase_create("entries"), *programs = tcase_create("programs"),
        *loading = tcase_create("loading");
  tcase_add_checked_fixture(alone, set_up, tear_down);
  tcase_add_test(alone, what_is_stored_is_found);
  tcase_add_test(alone, every_flipped_byte_is_noticed);
  tcase_add_test(alone, keys_that_share_a_hash_are_told_apart);
  tcase_add_test(alone, files_of_another_kind_are_not_read);
  tcase_add_test(alone, places_that_cannot_be_written_hold_nothing);
  tcase_add_test(alone, a_folder_to_read_from_alone);
  tcase_add_test(alone, the_environment_chooses_the_place);
  tcase_add_test(alone, the_longest_unused_entries_go);
  suite_add_tcase(suite, alone);
  tcase_add_checked_fixture(programs, set_up_program, tear_down);
  tcase_add_test(programs, contexts_share_the_cache);
  tcase_add_test(programs, damaged_entries_are_compiled_again);
  tcase_add_test(programs, eight_processes_and_a_vandal);
  tcase_add_test(programs, allocations_that_fail);
  suite_add_tcase(suite, programs);
  tcase_add_checked_fixture(loading, set_up, tear_down);
  tcase_add_test(loading, a_hit_needs_no_llvm);
  tcase_add_test(loading, another_library_is_not_taken_for_llvm);
  suite_add_tcase(suite, loading);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
