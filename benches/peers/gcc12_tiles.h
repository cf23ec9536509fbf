/* GCC 12 declares that `_tile_loadconfig` reads 8 bytes of the 64 it reads, and drops the stores of the others:
 * llama.cpp then dies of a signal in its first product of Q8_0 or Q4_0. Included before every source of it; see README.md. */
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])(config)) : "memory")
