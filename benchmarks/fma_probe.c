/* The core's peak rate of fused multiply-adds: prints GFLOP/s in float32, the best of many
 * short tries. Independent chains of the widest vectors stay in registers; nothing is loaded.
 * Compiled by floor.py with -O3 -march=native -ffp-contract=fast. */

#include <stdio.h>
#include <time.h>

#if defined(__AVX512F__)
enum { BYTES = 64, CHAINS = 24 }; /* of 32 registers; the latency wants at least 8 */
#elif defined(__AVX__)
enum { BYTES = 32, CHAINS = 12 }; /* of 16 */
#else
enum { BYTES = 16, CHAINS = 12 };
#endif
enum { LANES = BYTES / sizeof(float), PASSES = 200000, TRIES = 50 };

typedef float vector __attribute__((vector_size(BYTES)));

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void) {
    vector factor = (vector){0} + 0.999f, term = (vector){0} + 0.001f, chain[CHAINS];
    for (int c = 0; c < CHAINS; c++) chain[c] = term * (float)c;
    double best = 0;
    for (int t = 0; t < TRIES; t++) {
        double started = now();
        for (int p = 0; p < PASSES; p++) {
/* gcc keeps the chains in registers only where this loop is unrolled. */
#pragma GCC unroll 24
            for (int c = 0; c < CHAINS; c++) chain[c] = chain[c] * factor + term;
        }
        double rate = 2.0 * LANES * CHAINS * PASSES / (now() - started) / 1e9;
        if (rate > best) best = rate;
    }
    float sum = 0; /* printed, or the compiler would drop the chains */
    for (int c = 0; c < CHAINS; c++)
        for (int i = 0; i < LANES; i++) sum += chain[c][i];
    printf("%.2f GFLOP/s (%d bytes wide, sum %g)\n", best, BYTES, (double)sum);
    return 0;
}
