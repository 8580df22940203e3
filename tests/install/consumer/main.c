/* The smallest program that uses the installed library; prints its version. */
#include <attn/attn.h>
#include <stdio.h>

int main(void)
{
  return puts(attn_version()) < 0;
}
