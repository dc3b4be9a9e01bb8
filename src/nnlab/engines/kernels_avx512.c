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
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
