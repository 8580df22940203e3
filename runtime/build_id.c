#define _GNU_SOURCE /* dl_iterate_phdr */
#include "runtime/build_id.h"

#include <elf.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct search {
  uintptr_t address; /* of something in the file that is looked for */
  unsigned char *bytes;
  size_t count;
};

static bool holds(const struct dl_phdr_info *file, uintptr_t address)
{
  for (size_t n = 0; n < file->dlpi_phnum; n++) {
    const ElfW(Phdr) *part = &file->dlpi_phdr[n];
    if (part->p_type == PT_LOAD && address - (file->dlpi_addr + part->p_vaddr) < part->p_memsz)
      return true;
  }
  return false;
}

static size_t padded(size_t size)
{
  return (size + 3) / 4 * 4;
}

static bool read_note(struct search *search, const unsigned char *notes, size_t size)
{
  ElfW(Nhdr) note;
  while (size >= sizeof(note)) {
    memcpy(&note, notes, sizeof(note));
    size_t name = padded(note.n_namesz), bytes = padded(note.n_descsz);
    if (name > size - sizeof(note) || bytes > size - sizeof(note) - name)
      return false;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof(ELF_NOTE_GNU) &&
        memcmp(notes + sizeof(note), ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0) {
      search->count = note.n_descsz < BUILD_ID_SIZE ? note.n_descsz : BUILD_ID_SIZE;
      memcpy(search->bytes, notes + sizeof(note) + name, search->count);
      return true;
    }
    notes += sizeof(note) + name + bytes;
    size -= sizeof(note) + name + bytes;
  }
  return false;
}

static int visit(struct dl_phdr_info *file, size_t size, void *user)
{
  (void)size;
  struct search *search = user;
  if (!holds(file, search->address))
    return 0;
  for (size_t n = 0; n < file->dlpi_phnum; n++) {
    const ElfW(Phdr) *part = &file->dlpi_phdr[n];
    const unsigned char *notes = (const unsigned char *)(file->dlpi_addr + part->p_vaddr);
    if (part->p_type == PT_NOTE && read_note(search, notes, part->p_memsz))
      break;
  }
  return 1;
}

size_t build_id(unsigned char bytes[BUILD_ID_SIZE])
{
  static const char here = 0;
  struct search search = {(uintptr_t)&here, bytes, 0};
  dl_iterate_phdr(visit, &search);
  return search.count;
}
