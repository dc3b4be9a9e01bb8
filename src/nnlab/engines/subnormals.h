/* The processor's mode for numbers that are nearly zero. */

#ifndef NNLAB_SUBNORMALS_H
#define NNLAB_SUBNORMALS_H

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Have the processor take subnormal numbers as zero; returns its mode before, for `restore_mode`.
   Adam's first moments decay to such numbers where an input is zero for long: 5 % of them in 12
   epochs of experiment A, and a step then takes 434 us instead of 94. They are smaller than
   1.2e-38, far below what a weight or a sum can tell from zero. */
static inline uint64_t flush_subnormals(void)
{
#if defined(__x86_64__)
    const uint32_t before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zero */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | UINT64_C(1) << 24));
    return before;
#else
    return 0;
#endif
}

static inline void restore_mode(uint64_t before)
{
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

#endif
