/* The kernels for what every processor of its kind can run. */

#include "native.h"

#define KERNELS nnlab_baseline
#define V 4 /* floats in a vector */
#if defined(__aarch64__)
#define MR 6 /* 32 registers: 6 x 4 sums, 4 weights, an input */
#else
#define MR 2 /* 16 registers: 2 x 4 sums, 4 weights */
#endif
#define NR (4 * V)
#include "kernels.h"
