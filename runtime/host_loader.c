#include "runtime/host_loader.h"

#include "dsl/base/memory.h"

#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  MAX_SECTIONS = 4096,
  MAX_SYMBOLS = 1 << 20,
  MAX_ALIGNMENT = 4096,
  STUB_SIZE = 8 /* jmp *disp32(%rip), padded */
};
static const size_t max_image = (size_t)1 << 30;

struct named_function {
  char *name;
  void *address;
};

struct host_code {
  unsigned char *image;
  size_t image_size;
  struct named_function *functions;
  size_t function_count;
};

struct section {
  Elf64_Shdr header;
  const char *name;
  bool loaded;
  size_t offset; /* in the image */
};

enum { NO_ENTRY = UINT32_MAX };

/* Everything that is known while an object is loaded; freed at its end. */
struct loader {
  const unsigned char *bytes;
  size_t size;
  enum host_load_status status;
  char *error;

  Elf64_Ehdr header;
  struct section *sections;
  size_t section_count;

  const unsigned char *symbols; /* Elf64_Sym, not aligned */
  size_t symbol_count;
  const char *names;
  size_t names_size;

  /* By symbol: its entry in the table of addresses, or NO_ENTRY. */
  uint32_t *entries;
  uint32_t entry_count;

  size_t code_size, stubs, data,
      table; /* code [0, code_size), then offsets of the other parts in the image */
  struct host_code *code;
};

static bool fail(struct loader *l, enum host_load_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool fail(struct loader *l, enum host_load_status status, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(l->error, HOST_LOAD_ERROR_SIZE, format, arguments);
  va_end(arguments);
  l->status = status;
  return false;
}

static bool no_memory(struct loader *l)
{
  return fail(l, HOST_LOAD_NO_MEMORY, "out of memory while loading compiled code");
}

static bool in_file(const struct loader *l, uint64_t offset, uint64_t size)
{
  return offset <= l->size && size <= l->size - offset;
}

static bool is_prefix(const char *prefix, const char *text)
{
  return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool read_header(struct loader *l)
{
  if (l->size < sizeof(l->header))
    return fail(l, HOST_LOAD_INVALID, "object code of %zu bytes is shorter than an ELF header",
                l->size);
  memcpy(&l->header, l->bytes, sizeof(l->header));
  const Elf64_Ehdr *h = &l->header;
  if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0)
    return fail(l, HOST_LOAD_INVALID, "object code is not in ELF format");
  if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB)
    return fail(l, HOST_LOAD_UNSUPPORTED, "object code is not 64-bit little-endian");
  if (h->e_machine != EM_X86_64)
    return fail(
        l, HOST_LOAD_UNSUPPORTED,
        "unsupported machine: the object is for ELF machine %u, this loader takes x86-64 (%d) only",
        h->e_machine, EM_X86_64);
  if (h->e_type != ET_REL || h->e_version != EV_CURRENT)
    return fail(l, HOST_LOAD_INVALID, "object code is not a relocatable ELF file");
  if (h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shnum == 0 || h->e_shnum > MAX_SECTIONS)
    return fail(l, HOST_LOAD_INVALID, "object code has a damaged section table");
  if (!in_file(l, h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr)))
    return fail(l, HOST_LOAD_INVALID, "the section table lies outside the object");
  if (h->e_shstrndx >= h->e_shnum)
    return fail(l, HOST_LOAD_INVALID, "object code has no section names");
  return true;
}

/* A string table that ends with a zero byte, so that every offset in it is a string. */
static bool string_table(struct loader *l, const Elf64_Shdr *s, const char **text, size_t *size)
{
  if (s->sh_type != SHT_STRTAB || !in_file(l, s->sh_offset, s->sh_size) || s->sh_size == 0 ||
      l->bytes[s->sh_offset + s->sh_size - 1] != 0)
    return fail(l, HOST_LOAD_INVALID, "object code has a damaged string table");
  *text = (const char *)l->bytes + s->sh_offset;
  *size = s->sh_size;
  return true;
}

static bool read_symbol_table(struct loader *l, const Elf64_Shdr *s)
{
  if (l->symbols != NULL)
    return fail(l, HOST_LOAD_INVALID, "object code has two symbol tables");
  if (s->sh_entsize != sizeof(Elf64_Sym) || s->sh_size % sizeof(Elf64_Sym) != 0 ||
      s->sh_size / sizeof(Elf64_Sym) > MAX_SYMBOLS || !in_file(l, s->sh_offset, s->sh_size) ||
      s->sh_link >= l->section_count)
    return fail(l, HOST_LOAD_INVALID, "object code has a damaged symbol table");
  l->symbols = l->bytes + s->sh_offset;
  l->symbol_count = s->sh_size / sizeof(Elf64_Sym);
  return string_table(l, &l->sections[s->sh_link].header, &l->names, &l->names_size);
}

static bool read_sections(struct loader *l)
{
  l->section_count = l->header.e_shnum;
  l->sections = mem_alloc_zeroed(l->section_count, sizeof(*l->sections));
  if (l->sections == NULL)
    return no_memory(l);
  for (size_t n = 0; n < l->section_count; n++)
    memcpy(&l->sections[n].header, l->bytes + l->header.e_shoff + n * sizeof(Elf64_Shdr),
           sizeof(Elf64_Shdr));

  const char *names = NULL;
  size_t names_size = 0;
  if (!string_table(l, &l->sections[l->header.e_shstrndx].header, &names, &names_size))
    return false;
  for (size_t n = 0; n < l->section_count; n++) {
    struct section *s = &l->sections[n];
    const Elf64_Shdr *h = &s->header;
    if (h->sh_name >= names_size)
      return fail(l, HOST_LOAD_INVALID, "section %zu has no name", n);
    s->name = names + h->sh_name;
    if (h->sh_type == SHT_SYMTAB && !read_symbol_table(l, h))
      return false;
    /* Nothing unwinds through compiled code. */
    if ((h->sh_flags & SHF_ALLOC) == 0 || h->sh_size == 0 || strcmp(s->name, ".eh_frame") == 0)
      continue;
    if ((h->sh_flags & SHF_WRITE) != 0 && !is_prefix(".data.rel.ro", s->name))
      return fail(l, HOST_LOAD_INVALID, "section %.40s is writable; compiled code has no state",
                  s->name);
    if (h->sh_type != SHT_PROGBITS || (h->sh_flags & SHF_TLS) != 0)
      return fail(l, HOST_LOAD_INVALID,
                  "section %.40s is of a kind that compiled code does not have", s->name);
    if (!in_file(l, h->sh_offset, h->sh_size))
      return fail(l, HOST_LOAD_INVALID, "section %.40s lies outside the object", s->name);
    if (h->sh_addralign > MAX_ALIGNMENT || (h->sh_addralign & (h->sh_addralign - 1)) != 0)
      return fail(l, HOST_LOAD_INVALID, "section %.40s has the alignment %llu", s->name,
                  (unsigned long long)h->sh_addralign);
    s->loaded = true;
  }
  return true;
}

static Elf64_Sym symbol_at(const struct loader *l, size_t index)
{
  Elf64_Sym symbol;
  memcpy(&symbol, l->symbols + index * sizeof(symbol), sizeof(symbol));
  return symbol;
}

static const char *symbol_name(const struct loader *l, const Elf64_Sym *symbol)
{
  return symbol->st_name < l->names_size ? l->names + symbol->st_name : "";
}

static uint64_t external_address(const char *name)
{
  if (strcmp(name, "memcpy") == 0)
    return (uint64_t)(uintptr_t)memcpy;
  if (strcmp(name, "memmove") == 0)
    return (uint64_t)(uintptr_t)memmove;
  if (strcmp(name, "memset") == 0)
    return (uint64_t)(uintptr_t)memset;
  return 0;
}

static bool symbol_address(struct loader *l, size_t index, uint64_t *address)
{
  Elf64_Sym symbol = symbol_at(l, index);
  const char *name = symbol_name(l, &symbol);
  if (symbol.st_shndx == SHN_UNDEF) {
    *address = external_address(name);
    return *address != 0 ||
           fail(l, HOST_LOAD_INVALID, "compiled code needs '%.60s', which it may not call", name);
  }
  if (symbol.st_shndx == SHN_ABS) {
    *address = symbol.st_value;
    return true;
  }
  if (symbol.st_shndx >= l->section_count || !l->sections[symbol.st_shndx].loaded)
    return fail(l, HOST_LOAD_INVALID, "symbol '%.60s' lies in no section that is loaded", name);
  const struct section *s = &l->sections[symbol.st_shndx];
  if (symbol.st_value > s->header.sh_size)
    return fail(l, HOST_LOAD_INVALID, "symbol '%.60s' lies outside its section", name);
  *address = (uint64_t)(uintptr_t)l->code->image + s->offset + symbol.st_value;
  return true;
}

/* Calls `visit` for each relocation of a loaded section, with its indices checked. */
typedef bool visit_relocation(struct loader *l, const struct section *target,
                              const Elf64_Rela *relocation);
static bool for_relocations(struct loader *l, visit_relocation *visit)
{
  for (size_t n = 0; n < l->section_count; n++) {
    const Elf64_Shdr *h = &l->sections[n].header;
    if (h->sh_type != SHT_RELA && h->sh_type != SHT_REL)
      continue;
    if (h->sh_info >= l->section_count)
      return fail(l, HOST_LOAD_INVALID, "relocations of a section that does not exist");
    const struct section *target = &l->sections[h->sh_info];
    if (!target->loaded)
      continue;
    if (h->sh_type == SHT_REL || h->sh_entsize != sizeof(Elf64_Rela) ||
        h->sh_size % sizeof(Elf64_Rela) != 0 || !in_file(l, h->sh_offset, h->sh_size))
      return fail(l, HOST_LOAD_INVALID, "section %.40s has damaged relocations", target->name);
    for (size_t at = 0; at < h->sh_size; at += sizeof(Elf64_Rela)) {
      Elf64_Rela relocation;
      memcpy(&relocation, l->bytes + h->sh_offset + at, sizeof(relocation));
      if (ELF64_R_SYM(relocation.r_info) >= l->symbol_count)
        return fail(l, HOST_LOAD_INVALID, "a relocation of %.40s has no symbol", target->name);
      if (!visit(l, target, &relocation))
        return false;
    }
  }
  return true;
}

static bool is_undefined(const struct loader *l, size_t index)
{
  return symbol_at(l, index).st_shndx == SHN_UNDEF;
}

/* An entry in the table of addresses: for what is loaded from it, and for calls that leave the
 * image. */
static bool count_entry(struct loader *l, const struct section *target,
                        const Elf64_Rela *relocation)
{
  (void)target;
  size_t index = ELF64_R_SYM(relocation->r_info);
  uint32_t type = (uint32_t)ELF64_R_TYPE(relocation->r_info);
  bool needed = type == R_X86_64_GOTPCREL || type == R_X86_64_GOTPCRELX ||
                type == R_X86_64_REX_GOTPCRELX ||
                (type == R_X86_64_PLT32 && is_undefined(l, index));
  if (needed && l->entries[index] == NO_ENTRY)
    l->entries[index] = l->entry_count++;
  return true;
}

static bool count_entries(struct loader *l)
{
  l->entries = mem_alloc_zeroed(l->symbol_count, sizeof(*l->entries));
  if (l->entries == NULL)
    return no_memory(l);
  for (size_t n = 0; n < l->symbol_count; n++)
    l->entries[n] = NO_ENTRY;
  return for_relocations(l, count_entry);
}

static bool place_sections(struct loader *l, bool executable, size_t *cursor)
{
  for (size_t n = 0; n < l->section_count; n++) {
    struct section *s = &l->sections[n];
    if (!s->loaded || ((s->header.sh_flags & SHF_EXECINSTR) != 0) != executable)
      continue;
    size_t alignment = s->header.sh_addralign == 0 ? 1 : (size_t)s->header.sh_addralign;
    s->offset = (*cursor + alignment - 1) / alignment * alignment;
    if (s->header.sh_size > max_image - s->offset)
      return fail(l, HOST_LOAD_INVALID, "compiled code is larger than %zu bytes", max_image);
    *cursor = s->offset + (size_t)s->header.sh_size;
    if (*cursor > max_image / 2)
      return fail(l, HOST_LOAD_INVALID, "compiled code is larger than %zu bytes", max_image / 2);
  }
  return true;
}

/* The image: code and stubs, then on pages of their own read-only data and the table of addresses.
 */
static bool map_image(struct loader *l)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t cursor = 0;
  if (!place_sections(l, true, &cursor))
    return false;
  l->stubs = (cursor + STUB_SIZE - 1) / STUB_SIZE * STUB_SIZE;
  l->code_size = l->stubs + (size_t)l->entry_count * STUB_SIZE;
  l->data = (l->code_size + page - 1) / page * page;
  cursor = l->data;
  if (!place_sections(l, false, &cursor))
    return false;
  l->table = (cursor + 7) / 8 * 8;
  size_t end = l->table + (size_t)l->entry_count * 8;
  size_t size = (end + page - 1) / page * page;
  if (l->code_size == 0)
    return fail(l, HOST_LOAD_INVALID, "object code holds no code");

  unsigned char *image =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (image == MAP_FAILED)
    return no_memory(l);
  l->code->image = image;
  l->code->image_size = size;
  memset(image, 0xcc, l->data); /* int3 between functions */
  for (size_t n = 0; n < l->section_count; n++) {
    const struct section *s = &l->sections[n];
    if (s->loaded)
      memcpy(image + s->offset, l->bytes + s->header.sh_offset, (size_t)s->header.sh_size);
  }
  return true;
}

static bool fill_entries(struct loader *l)
{
  unsigned char *image = l->code->image;
  for (size_t n = 0; n < l->symbol_count; n++) {
    if (l->entries[n] == NO_ENTRY)
      continue;
    uint64_t address;
    if (!symbol_address(l, n, &address))
      return false;
    size_t entry = l->table + (size_t)l->entries[n] * 8;
    size_t stub = l->stubs + (size_t)l->entries[n] * STUB_SIZE;
    memcpy(image + entry, &address, 8);
    /* Library functions may be further than 2 GiB away, so that a call goes through a jump to the
     * table's entry. */
    int32_t distance = (int32_t)((int64_t)entry - (int64_t)(stub + 6));
    image[stub] = 0xff;
    image[stub + 1] = 0x25;
    memcpy(image + stub + 2, &distance, 4);
  }
  return true;
}

static bool put32(struct loader *l, unsigned char *place, int64_t value, bool is_signed)
{
  if (is_signed ? value != (int32_t)value : value != (int64_t)(uint32_t)value)
    return fail(l, HOST_LOAD_INVALID, "a relocation does not fit into 32 bits");
  uint32_t bits = (uint32_t)value;
  memcpy(place, &bits, 4);
  return true;
}

static bool apply(struct loader *l, const struct section *target, const Elf64_Rela *relocation)
{
  uint32_t type = (uint32_t)ELF64_R_TYPE(relocation->r_info);
  size_t index = ELF64_R_SYM(relocation->r_info);
  if (type == R_X86_64_NONE)
    return true;
  size_t width = type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4;
  if (relocation->r_offset > target->header.sh_size ||
      target->header.sh_size - relocation->r_offset < width)
    return fail(l, HOST_LOAD_INVALID, "a relocation lies outside section %.40s", target->name);
  unsigned char *place = l->code->image + target->offset + relocation->r_offset;
  /* Sums wrap, as a linker's do; what does not fit its field is refused by put32. */
  uint64_t here = (uint64_t)(uintptr_t)place, addend = (uint64_t)relocation->r_addend, address;

  switch (type) {
  case R_X86_64_GOTPCREL:
  case R_X86_64_GOTPCRELX:
  case R_X86_64_REX_GOTPCRELX:
    address = (uint64_t)(uintptr_t)l->code->image + l->table + (uint64_t)l->entries[index] * 8;
    return put32(l, place, (int64_t)(address + addend - here), true);
  case R_X86_64_PLT32:
    if (is_undefined(l, index)) {
      address =
          (uint64_t)(uintptr_t)l->code->image + l->stubs + (uint64_t)l->entries[index] * STUB_SIZE;
      return put32(l, place, (int64_t)(address + addend - here), true);
    }
    break;
  case R_X86_64_PC32:
  case R_X86_64_PC64:
  case R_X86_64_64:
  case R_X86_64_32:
  case R_X86_64_32S: break;
  default:
    return fail(l, HOST_LOAD_INVALID,
                "section %.40s has a relocation of type %u, which is not supported", target->name,
                type);
  }

  if (!symbol_address(l, index, &address))
    return false;
  address += addend;
  if (type == R_X86_64_64 || type == R_X86_64_PC64) {
    uint64_t value = type == R_X86_64_64 ? address : address - here;
    memcpy(place, &value, 8);
    return true;
  }
  if (type == R_X86_64_32 || type == R_X86_64_32S)
    return put32(l, place, (int64_t)address, type == R_X86_64_32S);
  return put32(l, place, (int64_t)(address - here), true);
}

static bool is_exported(const struct loader *l, const Elf64_Sym *symbol)
{
  return ELF64_ST_BIND(symbol->st_info) == STB_GLOBAL &&
         ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && symbol->st_shndx != SHN_UNDEF &&
         symbol->st_shndx < l->section_count && l->sections[symbol->st_shndx].loaded &&
         (l->sections[symbol->st_shndx].header.sh_flags & SHF_EXECINSTR) != 0 &&
         symbol->st_value < l->sections[symbol->st_shndx].header.sh_size;
}

static bool collect_functions(struct loader *l)
{
  size_t count = 0, bytes = 0;
  for (size_t n = 0; n < l->symbol_count; n++) {
    Elf64_Sym symbol = symbol_at(l, n);
    if (!is_exported(l, &symbol))
      continue;
    count++;
    bytes += strlen(symbol_name(l, &symbol)) + 1;
  }
  struct named_function *functions = mem_alloc(count * sizeof(*functions) + bytes);
  if (functions == NULL)
    return no_memory(l);
  l->code->functions = functions;
  char *text = (char *)(functions + count);
  for (size_t n = 0; n < l->symbol_count; n++) {
    Elf64_Sym symbol = symbol_at(l, n);
    if (!is_exported(l, &symbol))
      continue;
    const char *name = symbol_name(l, &symbol);
    size_t length = strlen(name) + 1;
    memcpy(text, name, length);
    functions[l->code->function_count++] = (struct named_function){
        text, l->code->image + l->sections[symbol.st_shndx].offset + symbol.st_value};
    text += length;
  }
  return true;
}

static bool protect(struct loader *l)
{
  unsigned char *image = l->code->image;
  __builtin___clear_cache((char *)image, (char *)image + l->code_size);
  if (mprotect(image, l->data, PROT_READ | PROT_EXEC) != 0 ||
      (l->code->image_size > l->data &&
       mprotect(image + l->data, l->code->image_size - l->data, PROT_READ) != 0))
    return fail(l, HOST_LOAD_NO_MEMORY,
                "this system does not let the process run code that it compiled");
  return true;
}

enum host_load_status host_code_load(const void *object, size_t size, struct host_code **code,
                                     char error[HOST_LOAD_ERROR_SIZE])
{
  struct loader l = {.bytes = object, .size = size, .status = HOST_LOAD_OK, .error = error};
  *code = NULL;
  error[0] = '\0';
  if (!read_header(&l))
    return l.status;
  l.code = mem_alloc_zeroed(1, sizeof(*l.code));
  bool ok = (l.code != NULL || no_memory(&l)) && read_sections(&l) && count_entries(&l) &&
            map_image(&l) && fill_entries(&l) && for_relocations(&l, apply) &&
            collect_functions(&l) && protect(&l);
  mem_free(l.entries);
  mem_free(l.sections);
  if (!ok) {
    host_code_free(l.code);
    return l.status;
  }
  *code = l.code;
  return HOST_LOAD_OK;
}

void *host_code_symbol(const struct host_code *code, const char *name)
{
  for (size_t n = 0; n < code->function_count; n++) {
    if (strcmp(code->functions[n].name, name) == 0)
      return code->functions[n].address;
  }
  return NULL;
}

size_t host_code_size(const struct host_code *code)
{
  return code->image_size;
}

void host_code_free(struct host_code *code)
{
  if (code == NULL)
    return;
  if (code->image != NULL)
    munmap(code->image, code->image_size);
  mem_free(code->functions);
  mem_free(code);
}
