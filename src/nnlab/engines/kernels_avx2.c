/* The kernels for AVX2 with fused multiply-add. */

#include "native.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define KERNELS nnlab_avx2
#define V 8  /* floats in a vector */
#define MR 6 /* 16 registers: 6 x 2 sums, 2 weights, an input */
#define NR (2 * V)
#define MT MR
#define NT NR
#define EACH_INNER(F) EACH_2(EACH_OF_6, F)
#define EACH_OUTER(F) EACH_2(EACH_OF_6, F)
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
