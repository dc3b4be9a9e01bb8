/* The kernels for what every processor of its kind can run. */

#include "native.h"

#define KERNELS nnlab_baseline
#define V 4 /* floats in a vector */
#if defined(__aarch64__)
#define MR 6 /* 32 registers: 6 x 4 sums, 4 weights, an input */
#define EACH_INNER(F) EACH_4(EACH_OF_6, F)
#else
#define MR 2 /* 16 registers: 2 x 4 sums, 4 weights */
#define EACH_INNER(F) EACH_4(EACH_OF_2, F)
#endif
#define NR (4 * V)
#define MT MR
#define NT NR
#define EACH_OUTER EACH_INNER
#include "kernels.h"
