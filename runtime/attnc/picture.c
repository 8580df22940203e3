#include "runtime/attnc/picture.h"

#include <math.h>
#include <png.h>
#include <string.h>

#include "dsl/base/memory.h"

bool picture_init(struct picture *picture, int width, int height)
{
  *picture = (struct picture){0};
  if (width < 1 || height < 1 || width > PICTURE_MAX_SIDE || height > PICTURE_MAX_SIDE)
    return false;
  size_t size = (size_t)width * (size_t)height * sizeof(*picture->dots);
  struct color *dots = mem_alloc(size);
  if (dots == NULL)
    return false;
  memset(dots, 0xff, size);
  *picture = (struct picture){width, height, dots};
  return true;
}

void picture_free(struct picture *picture)
{
  mem_free(picture->dots);
  *picture = (struct picture){0};
}

static uint8_t mix(uint8_t a, uint8_t b, double share)
{
  return (uint8_t)lround(a + (b - a) * share);
}

struct color color_mix(struct color a, struct color b, double share)
{
  return (struct color){mix(a.red, b.red, share), mix(a.green, b.green, share),
                        mix(a.blue, b.blue, share)};
}

static bool is_inside(const struct picture *picture, int x, int y)
{
  return x >= 0 && y >= 0 && x < picture->width && y < picture->height;
}

static struct color *dot(const struct picture *picture, int x, int y)
{
  return &picture->dots[(size_t)y * (size_t)picture->width + (size_t)x];
}

struct color picture_get(const struct picture *picture, int x, int y)
{
  return is_inside(picture, x, y) ? *dot(picture, x, y) : COLOR(0xffffff);
}

void picture_fill(struct picture *picture, int x, int y, int width, int height, struct color color)
{
  for (int row = y; row < y + height; row++)
    for (int column = x; column < x + width; column++)
      if (is_inside(picture, column, row))
        *dot(picture, column, row) = color;
}

void picture_frame(struct picture *picture, int x, int y, int width, int height, struct color color)
{
  picture_fill(picture, x, y, width, 1, color);
  picture_fill(picture, x, y + height - 1, width, 1, color);
  picture_fill(picture, x, y, 1, height, color);
  picture_fill(picture, x + width - 1, y, 1, height, color);
}

int picture_text_width(const char *text, int size)
{
  int letters = (int)strlen(text);
  return letters == 0 ? 0 : (letters * PICTURE_CELL_WIDTH - 1) * size;
}

void picture_text(struct picture *picture, int x, int y, int size, enum picture_anchor anchor,
                  struct color color, const char *text)
{
  int width = picture_text_width(text, size);
  x -= anchor == ANCHOR_MIDDLE ? width / 2 : anchor == ANCHOR_RIGHT ? width : 0;
  for (; *text != '\0'; text++, x += PICTURE_CELL_WIDTH * size)
    for (int row = 0; row < PICTURE_CELL_HEIGHT; row++)
      for (int column = 0; column < PICTURE_CELL_WIDTH; column++)
        if (picture_letter_dot(*text, column, row))
          picture_fill(picture, x + column * size, y + row * size, size, size, color);
}

void picture_text_up(struct picture *picture, int x, int y, int size, struct color color,
                     const char *text)
{
  y += picture_text_width(text, size) / 2;
  for (; *text != '\0'; text++, y -= PICTURE_CELL_WIDTH * size)
    for (int row = 0; row < PICTURE_CELL_HEIGHT; row++)
      for (int column = 0; column < PICTURE_CELL_WIDTH; column++)
        if (picture_letter_dot(*text, column, row))
          picture_fill(picture, x + row * size, y - (column + 1) * size, size, size, color);
}

/* ---- PNG ---- */

/* What is made on the way, where it is found when libpng jumps out. */
struct encoder {
  png_structp png;
  png_infop info;
  unsigned char *data;
  size_t size, capacity;
};

static void append(png_structp png, png_bytep data, size_t size)
{
  struct encoder *encoder = png_get_io_ptr(png);
  if (size > encoder->capacity - encoder->size) {
    size_t capacity = 2 * encoder->capacity + size;
    unsigned char *larger = mem_realloc(encoder->data, capacity);
    if (larger == NULL)
      png_error(png, "out of memory");
    encoder->data = larger;
    encoder->capacity = capacity;
  }
  memcpy(encoder->data + encoder->size, data, size);
  encoder->size += size;
}

static void flush(png_structp png)
{
  (void)png;
}

static png_voidp allocate(png_structp png, png_alloc_size_t size)
{
  (void)png;
  return mem_alloc(size);
}

static void release(png_structp png, png_voidp block)
{
  (void)png;
  mem_free(block);
}

/* libpng's own would print. */
_Noreturn static void escape(png_structp png, png_const_charp message)
{
  (void)message;
  png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp message)
{
  (void)png;
  (void)message;
}

static bool encode(const struct picture *picture, struct encoder *encoder)
{
  encoder->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, NULL, escape, ignore, NULL,
                                           allocate, release);
  if (encoder->png == NULL || setjmp(png_jmpbuf(encoder->png)) != 0)
    return false;
  encoder->info = png_create_info_struct(encoder->png);
  if (encoder->info == NULL)
    return false;
  png_set_write_fn(encoder->png, encoder, append, flush);
  png_set_IHDR(encoder->png, encoder->info, (png_uint_32)picture->width,
               (png_uint_32)picture->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(encoder->png, encoder->info);
  for (int y = 0; y < picture->height; y++)
    png_write_row(encoder->png, (png_const_bytep)dot(picture, 0, y));
  png_write_end(encoder->png, NULL);
  return true;
}

bool picture_png(const struct picture *picture, unsigned char **data, size_t *size)
{
  struct encoder encoder = {0};
  bool good = encode(picture, &encoder);
  png_destroy_write_struct(&encoder.png, &encoder.info);
  if (!good) {
    mem_free(encoder.data);
    encoder.data = NULL;
    encoder.size = 0;
  }
  *data = encoder.data;
  *size = encoder.size;
  return good;
}
