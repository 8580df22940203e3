#include "compiler/target/host/object.h"

#include <elf.h>
#include <string.h>

/* One of the objects, and where its parts go. */
struct input {
  const unsigned char *bytes;
  Elf64_Ehdr header;
  Elf64_Shdr *sections;
  Elf64_Sym *symbols;
  size_t symbol_count;
  const char *names;
  size_t names_size;
  uint32_t name_base;   /* of its names in the joined table */
  uint32_t *section_at; /* number of each section in the result; 0 where it has none */
  uint32_t *symbol_at;  /* the same of symbols */
};

enum { MAX_ALIGNMENT = 4096 };

struct joiner {
  struct arena *arena;
  struct input *inputs;
  size_t input_count;
  size_t names_size;
  VECTOR(Elf64_Shdr) sections; /* of the result; sh_offset is in it */
  VECTOR(const unsigned char *) contents;
  VECTOR(Elf64_Sym) symbols;
};

static bool lies_within(uint64_t offset, uint64_t size, size_t whole)
{
  return offset <= whole && size <= whole - offset;
}

/* Copies the tables of an object, whose structs need not be aligned in it. False for what LLVM does
 * not make of our modules: other formats, groups of sections, tables that do not fit. */
static bool read_input(struct joiner *j, struct input *in, const struct host_object *object)
{
  in->bytes = object->bytes;
  if (object->size < sizeof(in->header))
    return false;
  memcpy(&in->header, object->bytes, sizeof(in->header));
  const Elf64_Ehdr *h = &in->header;
  if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_ident[EI_CLASS] != ELFCLASS64 ||
      h->e_type != ET_REL || h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shstrndx >= h->e_shnum ||
      !lies_within(h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr), object->size))
    return false;
  in->sections = arena_copy(j->arena, object->bytes + h->e_shoff, h->e_shnum * sizeof(Elf64_Shdr));
  const Elf64_Shdr *table = NULL;
  for (uint32_t n = 1; n < h->e_shnum; n++) {
    const Elf64_Shdr *s = &in->sections[n];
    bool lies = s->sh_type == SHT_NOBITS || lies_within(s->sh_offset, s->sh_size, object->size);
    if (!lies || s->sh_addralign > MAX_ALIGNMENT)
      return false;
    if (s->sh_type == SHT_SYMTAB)
      table = s;
    else if (s->sh_type != SHT_PROGBITS && s->sh_type != SHT_NOBITS && s->sh_type != SHT_RELA &&
             s->sh_type != SHT_STRTAB && s->sh_type != SHT_X86_64_UNWIND)
      return false;
  }
  /* LLVM keeps the names of sections and of symbols in one table. */
  const Elf64_Shdr *names = &in->sections[h->e_shstrndx];
  if (table == NULL || table->sh_link != h->e_shstrndx || names->sh_type != SHT_STRTAB)
    return false;
  in->symbol_count = table->sh_size / sizeof(Elf64_Sym);
  in->symbols = arena_copy(j->arena, object->bytes + table->sh_offset, table->sh_size);
  in->names = (const char *)object->bytes + names->sh_offset;
  in->names_size = names->sh_size;
  if (in->names_size == 0 || in->names[in->names_size - 1] != '\0')
    return false;
  in->name_base = (uint32_t)j->names_size;
  j->names_size += in->names_size;
  in->section_at = ARENA_ARRAY(j->arena, uint32_t, h->e_shnum);
  in->symbol_at = ARENA_ARRAY(j->arena, uint32_t, in->symbol_count);
  return true;
}

static bool is_content(const Elf64_Shdr *section)
{
  return section->sh_type != SHT_NULL && section->sh_type != SHT_SYMTAB &&
         section->sh_type != SHT_STRTAB;
}

static bool add_sections(struct joiner *j)
{
  vector_push(j->arena, &j->sections, (Elf64_Shdr){0});
  vector_push(j->arena, &j->contents, NULL);
  for (size_t k = 0; k < j->input_count; k++) {
    struct input *in = &j->inputs[k];
    for (uint32_t n = 1; n < in->header.e_shnum; n++) {
      Elf64_Shdr section = in->sections[n];
      if (!is_content(&section))
        continue;
      if (section.sh_name >= in->names_size)
        return false;
      in->section_at[n] = (uint32_t)j->sections.count;
      vector_push(j->arena, &j->contents, in->bytes + section.sh_offset);
      section.sh_name += in->name_base;
      vector_push(j->arena, &j->sections, section);
    }
  }
  return j->sections.count < SHN_LORESERVE - 2;
}

static bool is_global(const Elf64_Sym *symbol)
{
  return ELF64_ST_BIND(symbol->st_info) != STB_LOCAL;
}

/* Where a symbol goes: locals before all others, as the format asks for, and what is not defined
 * last, when all that may define it is known. */
enum turn { TURN_LOCAL, TURN_GLOBAL, TURN_UNDEFINED, TURN_COUNT };
static enum turn turn_of(const Elf64_Sym *symbol)
{
  if (!is_global(symbol))
    return TURN_LOCAL;
  if (symbol->st_shndx == SHN_UNDEF)
    return TURN_UNDEFINED;
  return ELF64_ST_VISIBILITY(symbol->st_other) == STV_HIDDEN ? TURN_LOCAL : TURN_GLOBAL;
}

/* The number that the global symbol of that name has in the result, or 0. */
static uint32_t find_symbol(const struct joiner *j, const char *name)
{
  for (size_t k = 0; k < j->input_count; k++) {
    const struct input *in = &j->inputs[k];
    for (size_t n = 1; n < in->symbol_count; n++)
      if (in->symbol_at[n] != 0 && is_global(&in->symbols[n]) &&
          strcmp(in->names + in->symbols[n].st_name, name) == 0)
        return in->symbol_at[n];
  }
  return 0;
}

static bool add_symbol(struct joiner *j, struct input *in, size_t n)
{
  Elf64_Sym symbol = in->symbols[n];
  if (symbol.st_name >= in->names_size)
    return false;
  if (symbol.st_shndx == SHN_UNDEF) {
    in->symbol_at[n] = find_symbol(j, in->names + symbol.st_name);
    if (in->symbol_at[n] != 0)
      return true;
  } else if (symbol.st_shndx < SHN_LORESERVE) {
    if (symbol.st_shndx >= in->header.e_shnum)
      return false;
    symbol.st_shndx = (uint16_t)in->section_at[symbol.st_shndx];
  }
  if (is_global(&symbol) && turn_of(&symbol) == TURN_LOCAL) {
    symbol.st_info = ELF64_ST_INFO(STB_LOCAL, ELF64_ST_TYPE(symbol.st_info));
    symbol.st_other = STV_DEFAULT;
  }
  if (symbol.st_name != 0) /* sections have no names as symbols */
    symbol.st_name += in->name_base;
  in->symbol_at[n] = (uint32_t)j->symbols.count;
  vector_push(j->arena, &j->symbols, symbol);
  return true;
}

/* *locals: the symbols before the first global one. */
static bool add_symbols(struct joiner *j, size_t *locals)
{
  vector_push(j->arena, &j->symbols, (Elf64_Sym){0});
  for (enum turn turn = TURN_LOCAL; turn < TURN_COUNT; turn++) {
    for (size_t k = 0; k < j->input_count; k++)
      for (size_t n = 1; n < j->inputs[k].symbol_count; n++)
        if (turn_of(&j->inputs[k].symbols[n]) == turn && !add_symbol(j, &j->inputs[k], n))
          return false;
    if (turn == TURN_LOCAL)
      *locals = j->symbols.count;
  }
  return true;
}

/* Points relocations to sections and symbols by their numbers in the result. */
static bool renumber(struct joiner *j)
{
  const uint32_t table = (uint32_t)j->sections.count;
  for (size_t k = 0; k < j->input_count; k++) {
    const struct input *in = &j->inputs[k];
    for (uint32_t n = 1; n < in->header.e_shnum; n++) {
      const Elf64_Shdr *from = &in->sections[n];
      if (from->sh_type != SHT_RELA)
        continue;
      if (from->sh_info >= in->header.e_shnum)
        return false;
      Elf64_Shdr *section = &j->sections.items[in->section_at[n]];
      section->sh_link = table;
      section->sh_info = in->section_at[from->sh_info];
      const size_t count = section->sh_size / sizeof(Elf64_Rela);
      Elf64_Rela *relocations = arena_copy(j->arena, in->bytes + from->sh_offset, from->sh_size);
      for (size_t r = 0; r < count; r++) {
        const uint64_t symbol = ELF64_R_SYM(relocations[r].r_info);
        if (symbol >= in->symbol_count)
          return false;
        relocations[r].r_info =
            ELF64_R_INFO((uint64_t)in->symbol_at[symbol], ELF64_R_TYPE(relocations[r].r_info));
      }
      j->contents.items[in->section_at[n]] = (const unsigned char *)relocations;
    }
  }
  return true;
}

/* The tables of symbols and of names, as the last sections. */
static void add_tables(struct joiner *j, size_t locals)
{
  char *names = arena_alloc(j->arena, j->names_size);
  uint32_t own_name[2] = {0};
  for (size_t k = 0; k < j->input_count; k++) {
    const struct input *in = &j->inputs[k];
    memcpy(names + in->name_base, in->names, in->names_size);
    for (uint32_t n = 1; n < in->header.e_shnum; n++)
      if (!is_content(&in->sections[n]))
        own_name[in->sections[n].sh_type == SHT_STRTAB] = in->name_base + in->sections[n].sh_name;
  }
  const uint32_t first = (uint32_t)j->sections.count;
  vector_push(j->arena, &j->sections,
              (Elf64_Shdr){.sh_name = own_name[0],
                           .sh_type = SHT_SYMTAB,
                           .sh_size = j->symbols.count * sizeof(Elf64_Sym),
                           .sh_link = first + 1,
                           .sh_info = (uint32_t)locals,
                           .sh_addralign = 8,
                           .sh_entsize = sizeof(Elf64_Sym)});
  vector_push(j->arena, &j->contents, (const unsigned char *)j->symbols.items);
  vector_push(j->arena, &j->sections,
              (Elf64_Shdr){.sh_name = own_name[1],
                           .sh_type = SHT_STRTAB,
                           .sh_size = j->names_size,
                           .sh_addralign = 1});
  vector_push(j->arena, &j->contents, (const unsigned char *)names);
}

/* Gives each section its place and returns the size of the whole. */
static size_t place_sections(struct joiner *j, size_t *headers)
{
  size_t end = sizeof(Elf64_Ehdr);
  for (size_t n = 1; n < j->sections.count; n++) {
    Elf64_Shdr *section = &j->sections.items[n];
    const size_t alignment = section->sh_addralign == 0 ? 1 : section->sh_addralign;
    section->sh_offset = end = (end + alignment - 1) / alignment * alignment;
    if (section->sh_type != SHT_NOBITS)
      end += section->sh_size;
  }
  *headers = (end + 7) / 8 * 8;
  return *headers + j->sections.count * sizeof(Elf64_Shdr);
}

static enum compile_status write_joined(struct joiner *j, unsigned char **joined, size_t *size)
{
  size_t headers;
  *size = place_sections(j, &headers);
  *joined = mem_alloc_zeroed(1, *size);
  if (*joined == NULL)
    return COMPILE_OUT_OF_MEMORY;
  Elf64_Ehdr header = j->inputs[0].header;
  header.e_shoff = headers;
  header.e_shnum = (uint16_t)j->sections.count;
  header.e_shstrndx = (uint16_t)(j->sections.count - 1);
  memcpy(*joined, &header, sizeof(header));
  for (size_t n = 1; n < j->sections.count; n++) {
    const Elf64_Shdr *section = &j->sections.items[n];
    if (section->sh_type != SHT_NOBITS && section->sh_size != 0)
      memcpy(*joined + section->sh_offset, j->contents.items[n], section->sh_size);
  }
  memcpy(*joined + headers, j->sections.items, j->sections.count * sizeof(Elf64_Shdr));
  return COMPILE_OK;
}

enum compile_status host_join_objects(struct arena *arena, const struct host_object *objects,
                                      size_t count, unsigned char **joined, size_t *size,
                                      const char **error)
{
  struct joiner j = {.arena = arena, .input_count = count};
  j.inputs = ARENA_ARRAY(arena, struct input, count);
  bool fits = true;
  size_t locals = 0;
  for (size_t k = 0; k < count && fits; k++)
    fits = read_input(&j, &j.inputs[k], &objects[k]);
  if (!fits || !add_sections(&j) || !add_symbols(&j, &locals) || !renumber(&j)) {
    *error = "LLVM made an object of a kind that parts of code cannot be joined from";
    return COMPILE_FAILED;
  }
  add_tables(&j, locals);
  return write_joined(&j, joined, size);
}
