/* The smallest program that uses the installed library; prints its version.
 *
 *     cc main.c $(pkg-config --cflags --libs attn)
 */
#include <attn/attn.h>
#include <stdio.h>

int main(void)
{
  return puts(attn_version()) < 0;
}
