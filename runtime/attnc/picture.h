/* Pictures of 8-bit RGB dots: rectangles, lines, text in a font of their own, and PNG files.
 *
 * Coordinates are in dots from the left upper corner; what lies outside is cut off. Letters stand
 * in cells of 6 by 10 dots times the size, capitals 7 high.
 */
#ifndef ATTN_RUNTIME_ATTNC_PICTURE_H
#define ATTN_RUNTIME_ATTNC_PICTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PICTURE_LETTERS = 95, PICTURE_CELL_WIDTH = 6, PICTURE_CELL_HEIGHT = 10 };
enum { PICTURE_MAX_SIDE = 16384 };

struct color {
  uint8_t red, green, blue;
};
#define COLOR(hex)                                                                                 \
  ((struct color){(uint8_t)((hex) >> 16), (uint8_t)((hex) >> 8 & 0xff), (uint8_t)((hex)&0xff)})

struct picture {
  int width, height;
  struct color *dots; /* owned; row by row */
};

/* White. False when out of memory or a side is not in 1 .. PICTURE_MAX_SIDE; then it is zeroed. */
bool picture_init(struct picture *picture, int width, int height);
void picture_free(struct picture *picture);

/* `share` of b and the rest of a, 0 <= share <= 1. */
struct color color_mix(struct color a, struct color b, double share);

struct color picture_get(const struct picture *picture, int x, int y); /* white outside */
void picture_fill(struct picture *picture, int x, int y, int width, int height, struct color color);
/* The outermost dots of a rectangle. */
void picture_frame(struct picture *picture, int x, int y, int width, int height,
                   struct color color);

enum picture_anchor { ANCHOR_LEFT, ANCHOR_MIDDLE, ANCHOR_RIGHT };
int picture_text_width(const char *text, int size);
/* x is the left end, the middle or the right end; y the top. Bytes that are not printable ASCII are
 * shown as '?'. */
void picture_text(struct picture *picture, int x, int y, int size, enum picture_anchor anchor,
                  struct color color, const char *text);
/* Turned to the left: it runs upwards, x is the top of the letters, y the middle. */
void picture_text_up(struct picture *picture, int x, int y, int size, struct color color,
                     const char *text);

/* As a PNG file in *data, which is freed with mem_free. False when out of memory. */
bool picture_png(const struct picture *picture, unsigned char **data, size_t *size);

/* Of the font: whether dot (x, y) of a letter's cell is set. */
bool picture_letter_dot(char letter, int x, int y);

#endif
