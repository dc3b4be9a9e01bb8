/* The kernels for AVX-512. */

#include "native.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(                                                      \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,popcnt"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,popcnt")
#endif

#define KERNELS nnlab_avx512
#define V 16 /* floats in a vector */
#define MR 6 /* 32 registers: 6 x 4 sums, 4 weights, an input */
#define NR (4 * V)
#define MT 12 /* 12 x 2 sums, 2 deltas, an input: of a narrow block L1 holds more examples */
#define NT (2 * V)
#define EACH_INNER(F) EACH_OF_12(F, 1) EACH_OF_6(F, 2) EACH_OF_6(F, 3) EACH_OF_6(F, 4)
#define EACH_OUTER(F) EACH_2(EACH_OF_12, F) EACH_OF_6(F, 3) EACH_OF_6(F, 4)
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
