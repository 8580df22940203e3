#include "runtime/disk_cache.h"

#include "runtime/build_id.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef ATTN_VERSION
#error "the build defines ATTN_VERSION"
#endif

enum {
  FORMAT = 2,
  MAX_ENTRY = 64 << 20, /* bytes of a file */
  IDENTITY_SIZE = 640,
  HASH_DIGITS = 32,
  TOUCH_SECONDS = 3600, /* use is noted to the hour: the noting is a write */
  STALE_SECONDS = 3600, /* after which an unfinished file is known to be abandoned */
  OLDEST_COUNT = 64,
};
static const char magic[8] = "attncode";
static const char entry_suffix[] = ".attncode";
static const char unfinished_prefix[] = ".attncode-";

/* ---- 128-bit hash ---- */

/* FNV-1a (Fowler, Noll, Vo 1991). Every step is a bijection of the state, so that files which
 * differ in one byte never have the same checksum. Keys that share a hash share a file name, which
 * the comparison of the keys settles. */
struct hash {
  unsigned __int128 state;
};

static struct hash hash_start(void)
{
  return (struct hash){((unsigned __int128)UINT64_C(0x6c62272e07bb0142) << 64) |
                       UINT64_C(0x62b821756295c58d)};
}

static void hash_add(struct hash *hash, const void *data, size_t size)
{
  const unsigned __int128 prime = ((unsigned __int128)1 << 88) + 0x13b;
  const unsigned char *bytes = data;
  unsigned __int128 state = hash->state;
  for (size_t n = 0; n < size; n++)
    state = (state ^ bytes[n]) * prime;
  hash->state = state;
}

/* ---- where ---- */

static const char *environment(const char *name)
{
  const char *value = getenv(name);
  return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Sets *folder and *below, the two parts of the directory's path; false for none. */
static bool choose_directory(const char *asked, const char **folder, const char **below)
{
  const char *off = getenv("ATTN_CACHE");
  *below = "";
  /* A program with more rights than its caller must not run code that the caller left somewhere. */
  if ((off != NULL && strcmp(off, "0") == 0) || getauxval(AT_SECURE) != 0)
    return false;
  if (asked != NULL || (asked = environment("ATTN_CACHE_DIR")) != NULL) {
    *folder = asked;
    return asked[0] != '\0';
  }
  *below = "/attnc";
  *folder = environment("XDG_CACHE_HOME");
  if (*folder != NULL &&
      (*folder)[0] == '/') /* others are to be ignored, says the XDG specification */
    return true;
  *below = "/.cache/attnc";
  *folder = environment("HOME");
  return *folder != NULL && (*folder)[0] == '/';
}

bool disk_cache_init(struct disk_cache *cache, const char *directory)
{
  *cache = (struct disk_cache){.max_bytes = DISK_CACHE_MAX_BYTES};
  const char *folder, *below;
  if (!choose_directory(directory, &folder, &below))
    return true;
  size_t size = strlen(folder) + strlen(below) + 1;
  cache->directory = mem_alloc(size);
  if (cache->directory == NULL)
    return false;
  snprintf(cache->directory, size, "%s%s", folder, below);
  return true;
}

void disk_cache_destroy(struct disk_cache *cache)
{
  mem_free(cache->directory);
  cache->directory = NULL;
}

static void make_directories(const char *path)
{
  char part[PATH_MAX];
  size_t length = strlen(path);
  if (length >= sizeof(part))
    return;
  for (size_t n = 1; n <= length; n++) {
    if (path[n] != '/' && path[n] != '\0')
      continue;
    memcpy(part, path, n);
    part[n] = '\0';
    mkdir(part, 0700); /* what fails here fails again, and for good, when the file is made */
  }
}

/* ---- keys ---- */

struct disk_key {
  char identity[IDENTITY_SIZE];
  const void *bytes;
  size_t identity_size, size;
  char path[PATH_MAX];
};

static bool make_key(struct disk_key *key, const struct disk_cache *cache, const void *bytes,
                     size_t size, enum target target)
{
  const char *code = compile_identity(target);
  if (cache == NULL || cache->directory == NULL || code == NULL)
    return false;
  unsigned char build[BUILD_ID_SIZE];
  size_t build_size = build_id(build);
  char digits[2 * BUILD_ID_SIZE + 1] = "";
  for (size_t n = 0; n < build_size; n++)
    snprintf(digits + 2 * n, 3, "%02x", build[n]);
  int length = snprintf(key->identity, sizeof(key->identity), "attn %s, build %s, %s", ATTN_VERSION,
                        digits, code);
  if (length < 0 || (size_t)length >= sizeof(key->identity))
    return false;
  key->identity_size = (size_t)length;
  key->bytes = bytes;
  key->size = size;
  struct hash hash = hash_start();
  hash_add(&hash, key->identity, key->identity_size + 1); /* with its end: the key begins there */
  hash_add(&hash, bytes, size);
  length = snprintf(key->path, sizeof(key->path), "%s/%016llx%016llx%s", cache->directory,
                    (unsigned long long)(hash.state >> 64), (unsigned long long)hash.state,
                    entry_suffix);
  return length > 0 && (size_t)length < sizeof(key->path);
}

/* ---- entries ----
 * header | identity | key | of each kernel: struct kernel_sizes | code | hash of all that precedes.
 * Numbers are as this machine stores them: code is for nothing else. */

struct header {
  char magic[sizeof(magic)];
  uint32_t format, target;
  uint64_t kernel_count, identity_size, key_size, code_size;
  struct schedule schedule;
};

struct kernel_sizes {
  uint64_t scratch_bytes;
  uint32_t threads, shared_bytes;
};

/* The next part of a file. */
static const void *take(const unsigned char *file, size_t *cursor, size_t size)
{
  const void *part = file + *cursor;
  *cursor += size;
  return part;
}

static bool header_fits(const struct header *header, const struct disk_key *key,
                        const struct compiled *compiled, uint64_t file_size)
{
  if (memcmp(header->magic, magic, sizeof(magic)) != 0 || header->format != FORMAT ||
      header->target != (uint32_t)compiled->options.target ||
      header->kernel_count != compiled->kernels.count ||
      header->identity_size != key->identity_size || header->key_size != key->size ||
      header->code_size > MAX_ENTRY)
    return false;
  return file_size == sizeof(*header) + key->identity_size + key->size +
                          compiled->kernels.count * sizeof(struct kernel_sizes) +
                          header->code_size + sizeof(struct hash);
}

static bool read_all(int file, void *to, size_t size)
{
  unsigned char *bytes = to;
  while (size != 0) {
    ssize_t got = read(file, bytes, size);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return false;
    bytes += got;
    size -= (size_t)got;
  }
  return true;
}

/* Takes what the whole file at `bytes` says over into `compiled`, and leaves its code at the
 * beginning of `bytes`. */
static bool take_entry(unsigned char *bytes, size_t size, const struct disk_key *key,
                       struct compiled *compiled)
{
  struct header header;
  struct hash found, expected = hash_start();
  memcpy(&header, bytes, sizeof(header));
  hash_add(&expected, bytes, size - sizeof(found));
  memcpy(&found, bytes + size - sizeof(found), sizeof(found));
  size_t cursor = sizeof(header);
  const void *identity = take(bytes, &cursor, key->identity_size);
  const void *full_key = take(bytes, &cursor, key->size);
  if (found.state != expected.state || memcmp(identity, key->identity, key->identity_size) != 0 ||
      memcmp(full_key, key->bytes, key->size) != 0)
    return false;
  for (size_t n = 0; n < compiled->kernels.count; n++) {
    struct compiled_kernel *kernel = &compiled->kernels.items[n];
    struct kernel_sizes sizes;
    memcpy(&sizes, take(bytes, &cursor, sizeof(sizes)), sizeof(sizes));
    kernel->scratch_bytes = (size_t)sizes.scratch_bytes;
    kernel->threads = sizes.threads;
    kernel->shared_bytes = sizes.shared_bytes;
  }
  compiled->options.schedule = header.schedule;
  memmove(bytes, bytes + cursor, (size_t)header.code_size);
  bytes[header.code_size] = 0; /* where the checksum or more was */
  compiled->code = bytes;
  compiled->code_size = (size_t)header.code_size;
  return true;
}

/* Not mapped: a file that somebody cuts short while it is read would be a signal. */
static enum disk_cache_result read_entry(int file, const struct stat *info,
                                         const struct disk_key *key, struct compiled *compiled)
{
  struct header header;
  if (info->st_size < (off_t)sizeof(header) || info->st_size > MAX_ENTRY ||
      !read_all(file, &header, sizeof(header)) ||
      !header_fits(&header, key, compiled, (uint64_t)info->st_size))
    return DISK_CACHE_MISS;
  size_t size = (size_t)info->st_size;
  unsigned char *bytes = mem_alloc(size);
  if (bytes == NULL)
    return DISK_CACHE_OUT_OF_MEMORY;
  memcpy(bytes, &header, sizeof(header));
  if (read_all(file, bytes + sizeof(header), size - sizeof(header)) &&
      take_entry(bytes, size, key, compiled))
    return DISK_CACHE_HIT;
  mem_free(bytes);
  return DISK_CACHE_MISS;
}

static bool is_trusted(const struct stat *info)
{
  return S_ISREG(info->st_mode) && (info->st_uid == geteuid() || info->st_uid == 0) &&
         (info->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

enum disk_cache_result disk_cache_load(const struct disk_cache *cache, const void *bytes,
                                       size_t size, struct compiled *compiled)
{
  struct disk_key key;
  if (!make_key(&key, cache, bytes, size, compiled->options.target))
    return DISK_CACHE_MISS;
  int file = open(key.path,
                  O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); /* opening a pipe would wait */
  if (file < 0)
    return DISK_CACHE_MISS;
  struct stat info;
  enum disk_cache_result result = DISK_CACHE_MISS;
  if (fstat(file, &info) == 0 && is_trusted(&info))
    result = read_entry(file, &info, &key, compiled);
  if (result == DISK_CACHE_HIT && time(NULL) - info.st_mtime > TOUCH_SECONDS)
    futimens(file, NULL);
  close(file);
  return result;
}

/* ---- storing ---- */

struct writer {
  int file;
  bool failed;
  struct hash hash;
};

static void put(struct writer *writer, const void *data, size_t size)
{
  const unsigned char *bytes = data;
  hash_add(&writer->hash, data, size);
  while (size != 0 && !writer->failed) {
    ssize_t done = write(writer->file, bytes, size);
    if (done < 0 && errno == EINTR)
      continue;
    writer->failed = done <= 0;
    if (!writer->failed) {
      bytes += done;
      size -= (size_t)done;
    }
  }
}

static void put_entry(struct writer *writer, const struct disk_key *key,
                      const struct compiled *compiled)
{
  struct header header;
  memset(&header, 0, sizeof(header)); /* the padding, too */
  memcpy(header.magic, magic, sizeof(magic));
  header.format = FORMAT;
  header.target = (uint32_t)compiled->options.target;
  header.kernel_count = compiled->kernels.count;
  header.identity_size = key->identity_size;
  header.key_size = key->size;
  header.code_size = compiled->code_size;
  header.schedule = compiled->options.schedule;
  put(writer, &header, sizeof(header));
  put(writer, key->identity, key->identity_size);
  put(writer, key->bytes, key->size);
  for (size_t n = 0; n < compiled->kernels.count; n++) {
    const struct compiled_kernel *kernel = &compiled->kernels.items[n];
    const struct kernel_sizes sizes = {kernel->scratch_bytes, kernel->threads,
                                       kernel->shared_bytes};
    put(writer, &sizes, sizeof(sizes));
  }
  put(writer, compiled->code, compiled->code_size);
  struct hash hash = writer->hash;
  put(writer, &hash, sizeof(hash));
}

static bool open_unfinished(const struct disk_cache *cache, char path[PATH_MAX], int *file)
{
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  /* The thread's stack tells threads of a process apart. */
  int length = snprintf(path, PATH_MAX, "%s/%s%lx-%lx%09lx-%lx", cache->directory,
                        unfinished_prefix, (unsigned long)getpid(), (unsigned long)now.tv_sec,
                        (unsigned long)now.tv_nsec, (unsigned long)(uintptr_t)&now);
  if (length < 0 || length >= PATH_MAX)
    return false;
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  *file = open(path, flags, 0600);
  if (*file < 0 && errno == ENOENT) {
    make_directories(cache->directory);
    *file = open(path, flags, 0600);
  }
  return *file >= 0;
}

/* ---- cleaning ---- */

/* The files of a directory that were not used for the longest, oldest first, and the bytes of all.
 */
struct oldest {
  struct old_file {
    struct timespec used;
    off_t size;
    char name[HASH_DIGITS + sizeof(entry_suffix)];
  } files[OLDEST_COUNT];
  size_t count;
  uint64_t bytes;
};

static bool is_before(struct timespec a, struct timespec b)
{
  return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec < b.tv_nsec;
}

static bool is_entry_name(const char *name)
{
  return strspn(name, "0123456789abcdef") == HASH_DIGITS &&
         strcmp(name + HASH_DIGITS, entry_suffix) == 0;
}

static void note_file(struct oldest *oldest, const char *name, const struct stat *info)
{
  oldest->bytes += (uint64_t)info->st_size;
  size_t place = oldest->count;
  while (place > 0 && is_before(info->st_mtim, oldest->files[place - 1].used))
    place--;
  if (place == OLDEST_COUNT)
    return;
  size_t kept = oldest->count < OLDEST_COUNT ? oldest->count++ : OLDEST_COUNT - 1;
  memmove(&oldest->files[place + 1], &oldest->files[place],
          (kept - place) * sizeof(oldest->files[0]));
  oldest->files[place].used = info->st_mtim;
  oldest->files[place].size = info->st_size;
  memcpy(oldest->files[place].name, name, sizeof(oldest->files[place].name));
}

/* Removes what writers left that were killed, too. The folder may be one that holds other things.
 */
static void scan(DIR *directory, struct oldest *oldest)
{
  time_t now = time(NULL);
  const struct dirent *entry;
  while ((entry = readdir(directory)) != NULL) {
    struct stat info;
    bool is_entry = is_entry_name(entry->d_name);
    bool is_unfinished = strncmp(entry->d_name, unfinished_prefix, strlen(unfinished_prefix)) == 0;
    if ((!is_entry && !is_unfinished) ||
        fstatat(dirfd(directory), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(info.st_mode))
      continue;
    if (is_entry)
      note_file(oldest, entry->d_name, &info);
    else if (now - info.st_mtime > STALE_SECONDS)
      unlinkat(dirfd(directory), entry->d_name, 0);
  }
}

/* Down to 7/8 of the bound, so that not every store from then on cleans. */
static void clean(const struct disk_cache *cache)
{
  uint64_t goal = cache->max_bytes;
  DIR *directory = opendir(cache->directory);
  bool more = directory != NULL;
  while (more) {
    struct oldest oldest;
    oldest.count = 0;
    oldest.bytes = 0;
    rewinddir(directory);
    scan(directory, &oldest);
    more = false;
    for (size_t n = 0; n < oldest.count && oldest.bytes > goal; n++) {
      goal = cache->max_bytes / 8 * 7;
      oldest.bytes -= (uint64_t)oldest.files[n].size;
      /* One that cannot be removed ends it: the next look would find it again. */
      more = unlinkat(dirfd(directory), oldest.files[n].name, 0) == 0 || errno == ENOENT;
      if (!more)
        break;
    }
    more = more && oldest.bytes > goal;
  }
  if (directory != NULL)
    closedir(directory);
}

void disk_cache_store(const struct disk_cache *cache, const void *bytes, size_t size,
                      const struct compiled *compiled)
{
  struct disk_key key;
  char unfinished[PATH_MAX];
  struct writer writer = {.hash = hash_start()};
  if (size > MAX_ENTRY / 2 || compiled->code_size > MAX_ENTRY / 4 ||
      !make_key(&key, cache, bytes, size, compiled->options.target) ||
      !open_unfinished(cache, unfinished, &writer.file))
    return;
  put_entry(&writer, &key, compiled);
  /* Without fsync: a file that a crash cut short fails its checksum. */
  bool good = close(writer.file) == 0 && !writer.failed;
  if (good && rename(unfinished, key.path) == 0)
    clean(cache);
  else
    unlink(unfinished);
}
