/* Vectors of V floats, and functions of them. Part of kernels.h. */

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define UNROLL _Pragma("GCC unroll 64")
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
/* A loop without a jump; the compiler must know the count. */
#define UNROLLED_FOR(i, count) \
    UNROLL                     \
    for (int i = 0; i < (count); i++)

typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));
typedef uint32_t uvec __attribute__((vector_size(4 * V)));
typedef float unaligned_vec __attribute__((vector_size(4 * V), aligned(4), may_alias));

INLINE vec broadcast(float a)
{
    return a - (vec){0};
}

INLINE vec load(const float *p)
{
    return *(const unaligned_vec *)p;
}

INLINE void store(float *p, vec a)
{
    *(unaligned_vec *)p = a;
}

/* memcpy, of which gcc makes an instruction that takes long to begin. */
INLINE void copy(float *to, const float *from, int64_t count)
{
    int64_t i = 0;
    for (; i + V <= count; i += V)
        store(to + i, load(from + i));
    for (; i < count; i++)
        to[i] = from[i];
}

/* Lane by lane: yes where mask, else no. */
INLINE vec blend(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

INLINE float dot(const float *a, const float *b, int64_t count)
{
    const int64_t whole = count / V * V;
    vec sums = {0};
    for (int64_t i = 0; i < whole; i += V)
        sums += load(a + i) * load(b + i);
    float sum = 0;
    for (int64_t i = whole; i < count; i++)
        sum += a[i] * b[i];
    for (int i = 0; i < V; i++)
        sum += sums[i];
    return sum;
}

INLINE int all_finite(const float *values, int64_t count)
{
    vec sum = {0}; /* stays zero, but infinity and NaN times zero are NaN */
    for (int64_t i = 0; i + V <= count; i += V)
        sum += load(values + i) * 0.f;
    for (int64_t i = count / V * V; i < count; i++)
        sum[0] += values[i] * 0.f;
    float total = 0;
    for (int i = 0; i < V; i++)
        total += sum[i];
    return total == 0;
}

/* exp(x), within 2 units in the last place; NaN stays NaN, overflow is infinite.
   Cephes' expf: x = n ln 2 + r, a polynomial in r, times 2^n in two factors, since 2^128 and
   the subnormal powers are no floats. */
INLINE vec vec_exp(vec x)
{
    const vec high = broadcast(89.f), low = broadcast(-104.f);
    vec a = blend(x > high, high, x);
    a = blend(a < low, low, a);
    const vec magic = broadcast(12582912.f); /* 1.5 * 2^23: adding it rounds to an integer */
    const vec shifted = a * 1.44269504f + magic;
    const vec n = shifted - magic;
    const vec r = (a - n * 0.693359375f) - n * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    const ivec power = (ivec)shifted - (ivec)magic;
    const ivec half = power >> 1;
    return p * (vec)((half + 127) << 23) * (vec)((power - half + 127) << 23);
}

INLINE vec vec_sigmoid(vec x)
{
    return 1.f / (1.f + vec_exp(-x));
}

/* Cephes' tanhf: a polynomial near zero, where the quotient would cancel. */
INLINE vec vec_tanh(vec x)
{
    const vec size = blend(x < 0.f, -x, x);
    const vec quotient = 1.f - 2.f / (vec_exp(2.f * size) + 1.f);
    const vec large = blend(x < 0.f, -quotient, quotient);
    const vec z = x * x;
    vec p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    return blend(size < 0.625f, p * z * x + x, large);
}

#if V == 4
#define INTERLEAVED_LOW 0, 4, 1, 5
#define INTERLEAVED_HIGH 2, 6, 3, 7
#elif V == 8
#define INTERLEAVED_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define INTERLEAVED_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define INTERLEAVED_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define INTERLEAVED_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif

/* Transpose x [V, V]. Interleaving the first half of the rows with the second moves the highest bit
   of a number's row to the lowest of its column; after log2(V) times all bits have moved. */
INLINE void transpose_block(vec *x)
{
    vec y[V];
    UNROLL
    for (int moved = 1; moved < V; moved *= 2) {
        UNROLLED_FOR(k, V / 2) {
            y[2 * k] = SHUFFLE(x[k], x[k + V / 2], INTERLEAVED_LOW);
            y[2 * k + 1] = SHUFFLE(x[k], x[k + V / 2], INTERLEAVED_HIGH);
        }
        UNROLLED_FOR(k, V)
            x[k] = y[k];
    }
}

/* to[c][r] = from[r][c]; rows of `to` are padded with zeros up to `width`. Strides and width are
   multiples of LANES. */
static void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride,
                      int64_t width, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < width; r += V)
        for (int64_t c = 0; c < columns; c += V) {
            vec x[V];
            UNROLLED_FOR(k, V)
                x[k] = r + k < rows ? load(from + (r + k) * from_stride + c) : (vec){0};
            transpose_block(x);
            UNROLLED_FOR(k, V)
                if (c + k < columns)
                    store(to + (c + k) * to_stride + r, x[k]);
        }
}
