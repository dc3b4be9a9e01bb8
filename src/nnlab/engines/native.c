/* The native engine: minibatch training of a multilayer perceptron on one core.

   native.py loads this file as a shared library through ctypes; it needs a C11 compiler with
   GCC's vector extensions (gcc or clang) and nothing else, not even Python's headers.

   Axes: B rows (examples of a batch), I inputs and O outputs of a layer, N examples.

   Why it is fast. With a batch of ten, a library call per product costs more than the product,
   and weights that are read three times per step (forward, gradient, update) cost more than the
   arithmetic. So here
   - an epoch is one call;
   - products go through two small kernels, `inner` and `outer`, whose sums or factors stay in
     registers;
   - plain SGD of up to GROUP examples is folded into the gradient product: W += X^T (-lr D), so
     a weight is read once and written once; otherwise each block of the gradient is used while
     it is in L1;
   - a block of the first layer that was just updated is multiplied with the next batch while it
     is in L1: of a wide first layer, which no nearer cache holds, a step reads each weight once;
   - inputs that are exactly zero (four fifths of an MNIST image) are skipped in the first
     layer. Adding 0 * w changes no sum, so the result is that of the dense product. It would if
     w were not finite: so nothing is skipped in a call that begins with such a weight, nor from
     the first gradient on that is not finite.

   Why it is exact. A sum begins with zero, never with a number that may be much larger than its
   terms: a weight gets a batch's whole gradient at once, and the bias comes last. Long sums are
   sums of shorter ones. tests/test_native.py holds the error against float64 to twice torch's.

   The dual form (dual.py says when and why): if a split has `base`, its inputs are rows of a Gram
   matrix, and the first layer's weight holds a row of coefficients per training example. Going
   forward is the same product, begun with the examples' rows of `base`; an update adds each
   example's delta to its own row.

   Layout. Rows of outputs and deltas are contiguous and padded to a multiple of LANES
   floats. A weight is [I, O] with O padded likewise, cut into blocks of BLOCK inputs x PANEL
   outputs (fewer at the edges). Each block is contiguous, and the blocks of the same inputs
   follow one another, so that every pass over the weights walks forward through memory.
   Padding holds arbitrary numbers and is never read as an input: it cannot reach a result.

   Portability. The second half of the file, the kernels, is compiled once per instruction set
   (`#include "native.c"` below), and the best that the processor has is chosen at run time.
   There is no global state: calls on different networks may run at the same time. */

#ifndef LEVEL /* ---- first half: networks, checks, the calls that Python makes ---- */

#define _GNU_SOURCE /* posix_memalign, madvise and clock_gettime, which C11 does not know */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { LANES = 16 };
enum { LINE = 16 }; /* floats in a cache line */
enum { BLOCK = 112, PANEL = 64 }; /* a block of weights, 28 kB, is as tall as L1 allows: sums are
                                    loaded and stored once per block. 784 is 7 blocks. */
enum { FAR = 1 << 18 }; /* floats of a weight that the second cache, 1 MB or so, does not hold */
enum { HUGE_PAGE = 1 << 21, HUGE_PAGES = 1 << 22 }; /* bytes; where to begin using them */
enum { EVALUATION_ROWS = 48 }; /* examples at a time: weights are read once for all of them */
enum { GROUP = 32 }; /* examples whose products are summed in registers; a bit of a Crossing each */
enum { FEW_ROWS = 4 };         /* below it, a vector of examples would be mostly empty */
enum { FEWEST_SPARSE = 64 };   /* inputs below which looking for zeros does not pay */
enum { SPARSE_SHARE = 3 };     /* zeros are skipped where at most 1/3 of a batch is not zero */

enum { IDENTITY, RELU, TANH, SIGMOID };  /* the order is that of ACTIVATIONS in native.py */
enum { PLAIN, MOMENTUM, ADAM, ADAMW };   /* the order is that of RULES in native.py */
enum { FINE, BAD_ORDER, BAD_INDEX, BAD_LABEL, BAD_WIDTH, EMPTY, NO_MEMORY }; /* likewise */

/* An input that is not zero in some examples of a group: bit r of rows stands for the r-th. */
typedef struct {
    int32_t input; /* counted from the start of its block */
    uint32_t rows;
} Crossing;

/* Trainable numbers of a layer: [I, O] in blocks, and the bias [O]. */
typedef struct {
    float *weight, *bias;
} Parameters;

typedef struct {
    int64_t inputs, outputs, padded;
    int32_t activation;
    Parameters values, moments[2]; /* moments: momentum, or Adam's first and second */
    float *out;                    /* [B, padded], after the activation */
    const float **row;             /* [B] its rows */
} Layer;

typedef struct {
    int32_t layers;
    int64_t rows;  /* most examples at a time */
    int64_t steps; /* optimizer steps taken; 0 means that the moments are unset */
    Layer *layer;
    const float **example, **next;  /* [B] rows of the data: inputs of this batch, of the next */
    int64_t next_rows;              /* how many rows the next batch has */
    const int64_t *number, *labels; /* [B] which examples this batch has, and their labels */
    float *delta, *delta_below;     /* [B, widest padded]: d loss / d (x W + b) of a layer */
    float *columns, *columns_below; /* the same transposed, [widest, B padded] */
    float *gradient;                /* of one block of a weight, or of a bias */
    int32_t *nonzero; /* which inputs are not zero, counted from the start of their block */
    int64_t *start;   /* [B, blocks] where in `nonzero` the list of each row and block begins */
    Crossing *crossing; /* [groups, I] those of a block from the place of its first input on */
    int64_t *crossings; /* [groups, blocks] how many */
} Network;

/* A block of a weight: [tall, width] floats that begin at position `at`. */
typedef struct {
    int64_t at, tall, width;
} Block;

typedef struct {
    const float *inputs;   /* [N, width] */
    const float *base;     /* [N, outputs of the first layer], its x W0; NULL: not the dual form */
    const int64_t *labels; /* [N] */
    const int64_t *index;  /* [length] into both */
    int64_t examples, width, length;
} Split;

/* A copy of what is used as positions, which no other thread can change once it is checked. */
typedef struct {
    int64_t *number, *label; /* [count] rows of the split's inputs, and their labels */
    int64_t count;
} Examples;

typedef struct {
    int32_t rule, nesterov;
    double lr, weight_decay, momentum, dampening, beta1, beta2, eps;
} Optimizer;

/* The numbers of one optimizer step. */
typedef struct {
    int32_t rule, nesterov;
    float lr, decay, shrink;                     /* shrink: lr * decay */
    float momentum, fresh, ahead;                /* SGD */
    float first, second, beta2, size, root, eps; /* Adam */
} Step;

typedef struct {
    void (*train)(Network *, const Split *, const Examples *, int64_t batch, const Optimizer *,
                  double *sums);
    void (*evaluate)(Network *, const Split *, const Examples *, double *sums);
} Kernels;

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The block of a weight that begins at input i and output o, multiples of BLOCK and PANEL. */
static Block block_at(const Layer *layer, int64_t i, int64_t o)
{
    Block block = {
        .tall = smaller(BLOCK, layer->inputs - i),
        .width = smaller(PANEL, layer->padded - o),
    };
    block.at = i * layer->padded + o * block.tall;
    return block;
}

/* Zeroed memory that starts on a cache line. */
static void *zeros(int64_t count, int64_t size)
{
    void *memory;
#if defined(__SANITIZE_ADDRESS__)
    size_t bytes = (size_t)(count * size + 1); /* no room in which a mistake would go unseen */
#else
    size_t bytes = (size_t)round_up(count * size + 64, 64);
#endif
    const int huge = bytes >= HUGE_PAGES;
    if (posix_memalign(&memory, huge ? HUGE_PAGE : 64, bytes) != 0)
        return NULL;
#if defined(__linux__)
    if (huge) /* fewer address translations; if the system has none to give, no harm is done */
        madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memset(memory, 0, bytes);
}

static int32_t make_parameters(Parameters *p, const Layer *layer)
{
    p->weight = zeros(layer->inputs * layer->padded, sizeof(float));
    p->bias = zeros(layer->padded, sizeof(float));
    return p->weight != NULL && p->bias != NULL;
}

static void free_parameters(Parameters *p)
{
    free(p->weight);
    free(p->bias);
}

void nnlab_free(Network *net)
{
    for (int32_t l = 0; l < net->layers; l++) {
        free_parameters(&net->layer[l].values);
        free_parameters(&net->layer[l].moments[0]);
        free_parameters(&net->layer[l].moments[1]);
        free(net->layer[l].out);
        free(net->layer[l].row);
    }
    free(net->layer);
    free(net->example);
    free(net->next);
    free(net->delta);
    free(net->delta_below);
    free(net->columns);
    free(net->columns_below);
    free(net->gradient);
    free(net->nonzero);
    free(net->start);
    free(net->crossing);
    free(net->crossings);
    free(net);
}

static int32_t make_buffers(Network *net)
{
    const int64_t inputs = net->layer[0].inputs;
    const int64_t blocks = round_up(inputs, BLOCK) / BLOCK;
    const int64_t groups = round_up(net->rows, GROUP) / GROUP;
    int64_t widest = 0;
    for (int32_t l = 0; l < net->layers; l++)
        widest = net->layer[l].padded > widest ? net->layer[l].padded : widest;
    const int64_t rows = net->rows, tall = widest * round_up(rows, LANES);

    net->example = zeros(rows, sizeof(float *));
    net->next = zeros(rows, sizeof(float *));
    net->delta = zeros(rows * widest, sizeof(float));
    net->delta_below = zeros(rows * widest, sizeof(float));
    net->columns = zeros(tall, sizeof(float));
    net->columns_below = zeros(tall, sizeof(float));
    net->gradient = zeros(widest + BLOCK * PANEL, sizeof(float));
    net->nonzero = zeros(rows * inputs / SPARSE_SHARE + BLOCK + LANES, sizeof(int32_t));
    net->start = zeros(rows * (blocks + 1), sizeof(int64_t));
    net->crossing = zeros(groups * inputs, sizeof(Crossing));
    net->crossings = zeros(groups * blocks, sizeof(int64_t));
    return net->example && net->next && net->delta && net->delta_below && net->columns &&
           net->columns_below && net->gradient && net->nonzero && net->start &&
           net->crossing && net->crossings;
}

/* sizes: inputs, then the outputs of each layer. Returns NULL when memory runs out. */
Network *nnlab_create(int32_t layers, const int64_t *sizes, const int32_t *activations,
                      int32_t moments, int64_t batch)
{
    Network *net = zeros(1, sizeof(Network));
    if (net == NULL)
        return NULL;
    net->layer = zeros(layers, sizeof(Layer));
    net->layers = net->layer == NULL ? 0 : layers;
    net->rows = batch > EVALUATION_ROWS ? batch : EVALUATION_ROWS;
    int32_t whole = net->layer != NULL;
    for (int32_t l = 0; l < net->layers; l++) {
        Layer *layer = &net->layer[l];
        layer->inputs = sizes[l];
        layer->outputs = sizes[l + 1];
        layer->padded = round_up(sizes[l + 1], LANES);
        layer->activation = activations[l];
        layer->out = zeros(net->rows * layer->padded, sizeof(float));
        layer->row = zeros(net->rows, sizeof(float *));
        whole = whole && layer->out != NULL && layer->row != NULL;
        for (int64_t r = 0; whole && r < net->rows; r++)
            layer->row[r] = layer->out + r * layer->padded;
        whole = whole && make_parameters(&layer->values, layer);
        for (int32_t i = 0; i < moments; i++)
            whole = whole && make_parameters(&layer->moments[i], layer);
    }
    if (whole && make_buffers(net))
        return net;
    nnlab_free(net);
    return NULL;
}

/* which: 0 the values, 1 and 2 the moments. */
static Parameters *parameters(Network *net, int32_t l, int32_t which)
{
    return which == 0 ? &net->layer[l].values : &net->layer[l].moments[which - 1];
}

/* Copy weights [I, O] in blocks from (`set`) or to torch's [O, I]. */
static void exchange(const Layer *layer, float *weight, float *torch, int32_t set)
{
    for (int64_t i = 0; i < layer->inputs; i += BLOCK)
        for (int64_t o = 0; o < layer->outputs; o += PANEL) {
            const Block block = block_at(layer, i, o);
            const int64_t width = smaller(block.width, layer->outputs - o);
            for (int64_t t = 0; t < block.tall; t++)
                for (int64_t w = 0; w < width; w++) {
                    float *const here = weight + block.at + t * block.width + w;
                    float *const there = torch + (o + w) * layer->inputs + i + t;
                    if (set)
                        *here = *there;
                    else
                        *there = *here;
                }
        }
}

/* weight: [O, I], bias: [O], as torch keeps them. */
void nnlab_set(Network *net, int32_t l, int32_t which, float *weight, const float *bias)
{
    const Layer *layer = &net->layer[l];
    const Parameters *p = parameters(net, l, which);
    exchange(layer, p->weight, weight, 1);
    memcpy(p->bias, bias, (size_t)layer->outputs * sizeof(float));
}

void nnlab_get(Network *net, int32_t l, int32_t which, float *weight, float *bias)
{
    const Layer *layer = &net->layer[l];
    const Parameters *p = parameters(net, l, which);
    exchange(layer, p->weight, weight, 0);
    memcpy(bias, p->bias, (size_t)layer->outputs * sizeof(float));
}

int64_t nnlab_steps(const Network *net)
{
    return net->steps;
}

void nnlab_set_steps(Network *net, int64_t steps)
{
    net->steps = steps;
}

/* Read a number once, though another thread may be changing it. */
static int64_t read_once(const int64_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

/* Copy the examples at `order`, all if it is NULL, and look at each number before it is used as a
   position. Returns a problem; bad: the place in the order, the value found there, and the
   limit. */
static int32_t copy_checked(const Network *net, const Split *split, const int64_t *order,
                            Examples *to, int64_t *bad)
{
    const int64_t classes = net->layer[net->layers - 1].outputs;
    /* In the dual form an example that is trained on has a row in the first layer's weight. */
    const int64_t examples = split->base != NULL && order != NULL
                                 ? smaller(split->examples, net->layer[0].inputs)
                                 : split->examples;
    for (int64_t i = 0; i < to->count; i++) {
        const int64_t place = order == NULL ? i : read_once(order + i);
        bad[0] = i, bad[1] = place, bad[2] = split->length;
        if (place < 0 || place >= split->length)
            return BAD_ORDER;
        const int64_t number = read_once(split->index + place);
        bad[1] = number, bad[2] = examples;
        if (number < 0 || number >= examples)
            return BAD_INDEX;
        const int64_t label = read_once(split->labels + number);
        bad[1] = label, bad[2] = classes;
        if (label < 0 || label >= classes)
            return BAD_LABEL;
        to->number[i] = number;
        to->label[i] = label;
    }
    return FINE;
}

/* The caller frees what is in `to`, whatever the result. */
static int32_t take_examples(const Network *net, const Split *split, const int64_t *order,
                             int64_t count, Examples *to, int64_t *bad)
{
    *to = (Examples){.count = count};
    if (split->width != net->layer[0].inputs) {
        bad[0] = 0, bad[1] = split->width, bad[2] = net->layer[0].inputs;
        return BAD_WIDTH;
    }
    if (count < 1)
        return EMPTY;
    to->number = zeros(count, sizeof(int64_t));
    to->label = zeros(count, sizeof(int64_t));
    if (to->number == NULL || to->label == NULL)
        return NO_MEMORY;
    return copy_checked(net, split, order, to, bad);
}

static void free_examples(Examples *examples)
{
    free(examples->number);
    free(examples->label);
}

/* torch's update rules, their per-step numbers computed in double as torch does. */
static Step next_step(const Optimizer *optimizer, int64_t steps)
{
    const double taken = (double)(steps + 1);
    const int32_t rule = optimizer->rule;
    const double correction = 1 - pow(optimizer->beta1, taken);
    Step step = {
        .rule = rule,
        .nesterov = optimizer->nesterov,
        .lr = (float)optimizer->lr,
        .shrink = (float)(optimizer->lr * optimizer->weight_decay),
        .decay = (float)optimizer->weight_decay,
        /* torch's first momentum buffer is the gradient itself, undampened */
        .momentum = steps == 0 ? 0 : (float)optimizer->momentum,
        .fresh = steps == 0 ? 1 : (float)(1 - optimizer->dampening),
        .ahead = (float)optimizer->momentum,
        .first = (float)(1 - optimizer->beta1),
        .second = (float)(1 - optimizer->beta2),
        .beta2 = (float)optimizer->beta2,
        .size = (float)(optimizer->lr / correction),
        .root = (float)(1 / sqrt(1 - pow(optimizer->beta2, taken))),
        .eps = (float)optimizer->eps,
    };
    return step;
}

/* The kernels for each instruction set, worst first. */
#define NAME_(name, level) name##_##level
#define NAME__(name, level) NAME_(name, level)
#define NAME(name) NAME__(name, LEVEL)

#define LEVEL baseline
#define V 4 /* floats in a vector */
#if defined(__aarch64__)
#define TILE_ROWS 6
#else
#define TILE_ROWS 2 /* 16 registers: 2 x 4 sums, 4 weights */
#endif
#define TILE_VECTORS 4
#include "native.c"
#undef LEVEL
#undef V
#undef TILE_ROWS
#undef TILE_VECTORS

#if defined(__x86_64__)

#define LEVEL avx2
#define V 8
#define TILE_ROWS 6 /* 16 registers: 6 x 2 sums, 2 weights, an input */
#define TILE_VECTORS 2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "native.c"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef LEVEL
#undef V
#undef TILE_ROWS
#undef TILE_VECTORS

#define LEVEL avx512
#define V 16
#define TILE_ROWS 6 /* 32 registers: 6 x 4 sums, 4 weights, an input */
#define TILE_VECTORS 4
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,popcnt"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,popcnt")
#endif
#include "native.c"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef LEVEL
#undef V
#undef TILE_ROWS
#undef TILE_VECTORS

#endif /* __x86_64__ */

static const Kernels *const LEVELS[] = {
    &kernels_baseline,
#if defined(__x86_64__)
    &kernels_avx2,
    &kernels_avx512,
#endif
};

/* The highest level that this processor can run, as a position in LEVELS. */
int32_t nnlab_best_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Have the processor take subnormal numbers as zero; returns its mode before, for `restore_mode`.
   Adam's first moments decay to such numbers where an input is zero for long: 5 % of them in 12
   epochs of experiment A, and a step then takes 434 us instead of 94. They are smaller than
   1.2e-38, far below what a weight or a sum can tell from zero. */
static uint64_t flush_subnormals(void)
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

static void restore_mode(uint64_t before)
{
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

/* Train once through split->index[order[0..n-1]]. sums: loss, number correct, and seconds,
   taken here because Python's thread may wait long for the GIL when the call returns. */
int32_t nnlab_train(Network *net, const Split *split, const int64_t *order, int64_t n,
                    int64_t batch, const Optimizer *optimizer, int32_t level, double *sums,
                    int64_t *bad)
{
    const double started = seconds_now();
    Examples examples;
    const int32_t problem = take_examples(net, split, order, n, &examples, bad);
    if (problem == FINE) {
        const uint64_t mode = flush_subnormals();
        LEVELS[level]->train(net, split, &examples, smaller(batch, net->rows), optimizer, sums);
        restore_mode(mode);
        sums[2] = seconds_now() - started;
    }
    free_examples(&examples);
    return problem;
}

int32_t nnlab_evaluate(Network *net, const Split *split, int32_t level, double *sums, int64_t *bad)
{
    Examples examples;
    const int32_t problem = take_examples(net, split, NULL, split->length, &examples, bad);
    if (problem == FINE) {
        const uint64_t mode = flush_subnormals();
        LEVELS[level]->evaluate(net, split, &examples, sums);
        restore_mode(mode);
    }
    free_examples(&examples);
    return problem;
}

#else /* ---- second half: the kernels, once per LEVEL ---- */

#define INLINE static inline __attribute__((always_inline))
#define vec NAME(vec)
#define ivec NAME(ivec)
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#if V == 4
#define LOW_HALVES 0, 4, 1, 5
#define HIGH_HALVES 2, 6, 3, 7
#elif V == 8
#define LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));
typedef float NAME(place) __attribute__((vector_size(4 * V), aligned(4), may_alias));

INLINE vec NAME(fill)(float a)
{
    return a - (vec){0};
}

INLINE vec NAME(load)(const float *p)
{
    return *(const NAME(place) *)p;
}

INLINE void NAME(store)(float *p, vec a)
{
    *(NAME(place) *)p = a;
}

/* Lane by lane: yes where mask, else no. */
INLINE vec NAME(choose)(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* ---- products ---- */

INLINE void NAME(add_term)(const int rows, const int vectors, const float *const *row, int64_t t,
                           const float *b, int64_t b_stride, vec sum[][TILE_VECTORS])
{
    vec right[TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++)
        right[v] = NAME(load)(b + t * b_stride + v * V);
    UNROLL for (int r = 0; r < rows; r++) {
        const float left = row[r][t];
        UNROLL for (int v = 0; v < vectors; v++)
            sum[r][v] += left * right[v];
    }
}

/* C += A B for `rows` rows and `vectors` vectors of C, which stay in registers.
   a: rows, of which A is columns `from` to `from + terms`; b: [terms, vectors * V],
   c: [rows, vectors * V]; strides in floats. Rows of A may lie anywhere, so that examples need
   not be copied; a tile has so few that even where all map to one set of L1, it holds them. */
INLINE void NAME(inner)(const int rows, const int vectors, const float *const *a, int64_t from,
                        const float *b, int64_t b_stride, float *c, int64_t c_stride,
                        int64_t terms)
{
    /* Few rows leave registers for several sums each: shorter ones, which are more exact and do
       not wait for one another. */
    const int ways = rows * 4 <= TILE_ROWS ? 4 : rows * 2 <= TILE_ROWS ? 2 : 1;
    const float *row[TILE_ROWS];
    vec sum[TILE_ROWS][TILE_VECTORS] = {{{0}}}; /* of row r: those at r, r + rows, ... */
    int64_t t = 0;
    UNROLL for (int r = 0; r < rows; r++)
        row[r] = a[r] + from;
    for (; t + ways <= terms; t += ways)
        UNROLL for (int w = 0; w < ways; w++)
            NAME(add_term)(rows, vectors, row, t + w, b, b_stride, sum + w * rows);
    for (; t < terms; t++)
        NAME(add_term)(rows, vectors, row, t, b, b_stride, sum);
    for (int w = ways / 2; w > 0; w /= 2)
        UNROLL for (int r = 0; r < w * rows; r++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[r][v] += sum[r + w * rows][v];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) {
            float *place = c + r * c_stride + v * V;
            NAME(store)(place, NAME(load)(place) + sum[r][v]);
        }
}

/* B += A^T C - shrink B for `tall` rows and `vectors` vectors of B, whose sums over the rows of A
   stay in registers: they begin with zero and are added to B once, so that B, which may hold much
   larger numbers, is rounded once. Shapes as above; terms: the rows of A.
   far: fetch the block that follows b meanwhile, which comes from far away. */
INLINE void NAME(outer)(const int tall, const int vectors, const int far,
                        const float *const *a, int64_t from, float *b, int64_t b_stride,
                        const float *c, int64_t c_stride, int64_t terms, float shrink)
{
    vec sum[TILE_ROWS][TILE_VECTORS] = {{{0}}};
    for (int64_t r = 0; r < terms; r++) {
        const float *left = a[r] + from;
        vec right[TILE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            right[v] = NAME(load)(c + r * c_stride + v * V);
        UNROLL for (int t = 0; t < tall; t++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[t][v] += left[t] * right[v];
    }
    UNROLL for (int t = 0; t < tall; t++)
        UNROLL for (int v = 0; v < vectors; v++) {
            float *place = b + t * b_stride + v * V;
            if (far)
                __builtin_prefetch(place + BLOCK * PANEL, 0, 2);
            const vec before = NAME(load)(place);
            NAME(store)(place, before + (sum[t][v] - shrink * before));
        }
}

/* Each for every number of rows and vectors that a tile may have. */
#define TILE(rows, vectors)                                                           \
    static void NAME(inner_##rows##_##vectors)(                                       \
        const float *const *a, int64_t from, const float *b, int64_t b_stride,        \
        float *c, int64_t c_stride, int64_t terms)                                    \
    {                                                                                 \
        NAME(inner)(rows, vectors, a, from, b, b_stride, c, c_stride, terms);         \
    }                                                                                 \
    static void NAME(outer_##rows##_##vectors)(                                       \
        const float *const *a, int64_t from, float *b, int64_t b_stride,              \
        const float *c, int64_t c_stride, int64_t terms, float shrink)                \
    {                                                                                 \
        NAME(outer)(rows, vectors, 0, a, from, b, b_stride, c, c_stride, terms, shrink); \
    }                                                                                 \
    static void NAME(outer_far_##rows##_##vectors)(                                   \
        const float *const *a, int64_t from, float *b, int64_t b_stride,              \
        const float *c, int64_t c_stride, int64_t terms, float shrink)                \
    {                                                                                 \
        NAME(outer)(rows, vectors, 1, a, from, b, b_stride, c, c_stride, terms, shrink); \
    }
#if TILE_ROWS == 6
#define EACH_ROWS(F, v) F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v)
#else
#define EACH_ROWS(F, v) F(1, v) F(2, v)
#endif
#if TILE_VECTORS == 4
#define EACH_TILE(F) EACH_ROWS(F, 1) EACH_ROWS(F, 2) EACH_ROWS(F, 3) EACH_ROWS(F, 4)
#else
#define EACH_TILE(F) EACH_ROWS(F, 1) EACH_ROWS(F, 2)
#endif
#define INNER(rows, vectors) NAME(inner_##rows##_##vectors),
#define OUTER(rows, vectors) NAME(outer_##rows##_##vectors),
#define OUTER_FAR(rows, vectors) NAME(outer_far_##rows##_##vectors),
EACH_TILE(TILE)
typedef void NAME(Inner)(const float *const *, int64_t, const float *, int64_t, float *, int64_t,
                         int64_t);
typedef void NAME(Outer)(const float *const *, int64_t, float *, int64_t, const float *, int64_t,
                         int64_t, float);
static NAME(Inner) *const NAME(INNERS)[TILE_VECTORS * TILE_ROWS] = {EACH_TILE(INNER)};
static NAME(Outer) *const NAME(OUTERS)[TILE_VECTORS * TILE_ROWS] = {EACH_TILE(OUTER)};
static NAME(Outer) *const NAME(OUTERS_FAR)[TILE_VECTORS * TILE_ROWS] = {EACH_TILE(OUTER_FAR)};

/* C += A B for any number of rows of C, cut into tiles.
   b: [terms, width], c: [rows, width]; width: a multiple of LANES. */
static void NAME(multiply)(int64_t rows, int64_t width, const float *const *a, int64_t from,
                           const float *b, int64_t b_stride, float *c, int64_t c_stride,
                           int64_t terms)
{
    int64_t left = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t r = 0, tall; r < rows; r += tall, left--) {
        tall = (rows - r + left - 1) / left; /* 10 rows are 5 and 5 rather than 6 and 4 */
        for (int64_t o = 0; o < width; o += TILE_VECTORS * V) {
            const int64_t vectors = smaller(TILE_VECTORS, (width - o) / V);
            NAME(INNERS)[(vectors - 1) * TILE_ROWS + tall - 1](
                a + r, from, b + o, b_stride, c + r * c_stride + o, c_stride, terms);
        }
    }
}

/* B += A^T C - shrink B for any number of rows of B, with OUTERS or OUTERS_FAR.
   b: [tall, width], contiguous; c: [terms, width]. */
static void NAME(multiply_transposed)(NAME(Outer) *const *outers, Block block,
                                      const float *const *a, int64_t from, float *b,
                                      const float *c, int64_t c_stride, int64_t terms,
                                      float shrink)
{
    int64_t left = (block.tall + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t t = 0, tall; t < block.tall; t += tall, left--) {
        tall = (block.tall - t + left - 1) / left;
        for (int64_t o = 0; o < block.width; o += TILE_VECTORS * V) {
            const int64_t vectors = smaller(TILE_VECTORS, (block.width - o) / V);
            outers[(vectors - 1) * TILE_ROWS + tall - 1](
                a, from + t, b + t * block.width + o, block.width, c + o, c_stride, terms, shrink);
        }
    }
}

INLINE float NAME(dot)(const float *a, const float *b, int64_t count)
{
    const int64_t whole = count / V * V;
    vec sums = {0};
    for (int64_t i = 0; i < whole; i += V)
        sums += NAME(load)(a + i) * NAME(load)(b + i);
    float sum = 0;
    for (int64_t i = whole; i < count; i++)
        sum += a[i] * b[i];
    for (int i = 0; i < V; i++)
        sum += sums[i];
    return sum;
}

/* ---- functions of vectors ---- */

/* exp(x), within 2 units in the last place; NaN stays NaN, overflow is infinite.
   Cephes' expf: x = n ln 2 + r, a polynomial in r, times 2^n in two factors, since 2^128 and
   the subnormal powers are no floats. */
INLINE vec NAME(exponential)(vec x)
{
    const vec high = NAME(fill)(89.f), low = NAME(fill)(-104.f);
    vec a = NAME(choose)(x > high, high, x);
    a = NAME(choose)(a < low, low, a);
    const vec magic = NAME(fill)(12582912.f); /* 1.5 * 2^23: adding it rounds to an integer */
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

INLINE vec NAME(sigmoid)(vec x)
{
    return 1.f / (1.f + NAME(exponential)(-x));
}

/* Cephes' tanhf: a polynomial near zero, where the quotient would cancel. */
INLINE vec NAME(tanh)(vec x)
{
    const vec size = NAME(choose)(x < 0.f, -x, x);
    const vec quotient = 1.f - 2.f / (NAME(exponential)(2.f * size) + 1.f);
    const vec large = NAME(choose)(x < 0.f, -quotient, quotient);
    const vec z = x * x;
    vec p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    return NAME(choose)(size < 0.625f, p * z * x + x, large);
}

/* out = activation(out + bias), the bias last: sums that begin with it would be rounded like it. */
static void NAME(activate)(const Layer *layer, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < layer->padded; o += V) {
            float *out = layer->out + r * layer->padded + o;
            const vec x = NAME(load)(out) + NAME(load)(layer->values.bias + o);
            if (layer->activation == IDENTITY)
                NAME(store)(out, x);
            else if (layer->activation == RELU) /* not x > 0 ? x : 0: NaN would become 0 */
                NAME(store)(out, NAME(choose)(x < 0.f, (vec){0}, x));
            else if (layer->activation == TANH)
                NAME(store)(out, NAME(tanh)(x));
            else
                NAME(store)(out, NAME(sigmoid)(x));
        }
}

/* Times the activation's derivative, which its result gives: out, delta: [count]. */
static void NAME(differentiate)(int32_t activation, const float *out, float *delta, int64_t count)
{
    if (activation == IDENTITY)
        return;
    for (int64_t i = 0; i < count; i += V) {
        const vec y = NAME(load)(out + i), d = NAME(load)(delta + i);
        if (activation == RELU)
            NAME(store)(delta + i, NAME(choose)(y <= 0.f, (vec){0}, d));
        else if (activation == TANH)
            NAME(store)(delta + i, d * (1.f - y * y));
        else
            NAME(store)(delta + i, d * (1.f - y) * y);
    }
}

INLINE int NAME(all_finite)(const float *values, int64_t count)
{
    vec sum = {0}; /* stays zero, but infinity and NaN times zero are NaN */
    for (int64_t i = 0; i + V <= count; i += V)
        sum += NAME(load)(values + i) * 0.f;
    for (int64_t i = count / V * V; i < count; i++)
        sum[0] += values[i] * 0.f;
    float total = 0;
    for (int i = 0; i < V; i++)
        total += sum[i];
    return total == 0;
}

/* ---- zeros in the inputs ---- */

/* Append the positions in x[0..n) that are not zero; returns how many there are then. */
INLINE int64_t NAME(append_nonzero)(const float *x, int64_t n, int32_t *list, int64_t count)
{
    int64_t i = 0;
#if V == 16
    const __m512i lanes =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i + V <= n; i += V) {
        const __mmask16 mask =
            _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
        const __m512i positions = _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)i));
        _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(mask, positions));
        count += __builtin_popcount(mask);
    }
#endif
    for (; i < n; i++) {
        list[count] = (int32_t)i;
        count += x[i] != 0;
    }
    return count;
}

/* List the nonzero inputs of each row, block by block; returns 0 if there are too many: in all,
   or so many in the first rows that it is not worth looking on. */
static int NAME(find_nonzero)(Network *net, const float *const *example, int64_t rows)
{
    const int64_t inputs = net->layer[0].inputs;
    const int64_t most = rows * inputs / SPARSE_SHARE;
    int64_t count = 0, *start = net->start;
    if (inputs < FEWEST_SPARSE)
        return 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = example[r];
        for (int64_t i = 0; i < inputs; i += BLOCK) {
            *start++ = count;
            count = NAME(append_nonzero)(x + i, smaller(BLOCK, inputs - i), net->nonzero, count);
            if (count > most || count > (r + 1) * inputs / 2)
                return 0;
        }
    }
    *start = count;
    return 1;
}

/* out += x W over the listed inputs of a block.
   w: [BLOCK, strips * LANES], out: [strips * LANES]. */
INLINE void NAME(gather)(const int strips, const float *x, const int32_t *list, int64_t count,
                         const float *w, float *out)
{
    enum { MOST = PANEL / V };
    vec sum[MOST];
    const int vectors = strips * (LANES / V);
    UNROLL for (int v = 0; v < vectors; v++)
        sum[v] = (vec){0};
    for (int64_t n = 0; n < count; n++) {
        const float input = x[list[n]];
        const float *weight = w + list[n] * (int64_t)(strips * LANES);
        UNROLL for (int v = 0; v < vectors; v++)
            sum[v] += input * NAME(load)(weight + v * V);
    }
    UNROLL for (int v = 0; v < vectors; v++)
        NAME(store)(out + v * V, NAME(load)(out + v * V) + sum[v]);
}

/* W += X^T D - shrink W for the crossings of a group: each input's sum is made in registers.
   x: rows of the group; i: the block's first input; d: [rows of the group, stride]. */
INLINE void NAME(scatter)(const int strips, const float *const *x, int64_t i,
                          const Crossing *crossing, int64_t count, const float *d, int64_t stride,
                          float *w, float shrink)
{
    enum { MOST = PANEL / V };
    const int vectors = strips * (LANES / V);
    for (int64_t n = 0; n < count; n++) {
        const int64_t input = crossing[n].input;
        vec sum[MOST];
        UNROLL for (int v = 0; v < vectors; v++)
            sum[v] = (vec){0};
        for (uint32_t left = crossing[n].rows; left != 0; left &= left - 1) {
            const int r = __builtin_ctz(left);
            const float value = x[r][i + input];
            UNROLL for (int v = 0; v < vectors; v++)
                sum[v] += value * NAME(load)(d + r * stride + v * V);
        }
        float *weight = w + input * (strips * LANES);
        UNROLL for (int v = 0; v < vectors; v++) {
            const vec before = NAME(load)(weight + v * V);
            NAME(store)(weight + v * V, before + (sum[v] - shrink * before));
        }
    }
}

/* List the inputs of a block with the examples of a group in which each is not zero; `all`: also
   those that are it in none. Inputs that cross equally many examples stand together, so that the
   processor foresees when `scatter` is done with one: otherwise it would guess wrong at most. */
static int64_t NAME(find_crossings)(const float *const *x, int64_t rows, int64_t i, int64_t tall,
                                    int all, Crossing *crossing)
{
    int32_t bits[BLOCK + V], sizes[BLOCK + V];
    int64_t begin[GROUP + 2] = {0}; /* of those that cross so many examples */
    int64_t t = 0;
    for (; t + V <= tall; t += V) {
        ivec set = {0}, size = {0};
        for (int64_t r = 0; r < rows; r++) {
            const ivec yes = NAME(load)(x[r] + i + t) != 0.f; /* -1 */
            set |= yes & (int32_t)(UINT32_C(1) << r);
            size -= yes;
        }
        memcpy(bits + t, &set, sizeof(ivec));
        memcpy(sizes + t, &size, sizeof(ivec));
    }
    for (; t < tall; t++) {
        uint32_t set = 0;
        for (int64_t r = 0; r < rows; r++)
            set |= (uint32_t)(x[r][i + t] != 0) << r;
        bits[t] = (int32_t)set;
        sizes[t] = __builtin_popcount(set);
    }
    for (t = 0; t < tall; t++)
        begin[sizes[t] + 1]++;
    const int64_t first = all ? 0 : begin[1];
    begin[1] -= first;
    for (int32_t k = 2; k <= GROUP; k++)
        begin[k] += begin[k - 1];
    for (t = 0; t < tall; t++)
        if (all || sizes[t] > 0)
            crossing[begin[sizes[t]]++] = (Crossing){(int32_t)t, (uint32_t)bits[t]};
    return tall - first;
}

/* The same for a single example, whose list is there already. */
static int64_t NAME(cross_one)(const int32_t *list, int64_t count, Crossing *crossing)
{
    for (int64_t n = 0; n < count; n++)
        crossing[n] = (Crossing){list[n], 1};
    return count;
}

static void NAME(find_all_crossings)(Network *net, int64_t rows, int all)
{
    const int64_t inputs = net->layer[0].inputs, *start = net->start;
    int64_t *count = net->crossings;
    for (int64_t g = 0; g < rows; g += GROUP)
        for (int64_t i = 0; i < inputs; i += BLOCK, start++) {
            Crossing *crossing = net->crossing + g / GROUP * inputs + i;
            *count++ = rows == 1 && !all
                           ? NAME(cross_one)(net->nonzero + start[0], start[1] - start[0], crossing)
                           : NAME(find_crossings)(net->example + g, smaller(GROUP, rows - g), i,
                                                  smaller(BLOCK, inputs - i), all, crossing);
        }
}

/* Gather from one block w of the first layer, row by row.
   i: the block's first input; out: from the block's first output. */
static void NAME(gather_block)(const Network *net, int64_t i, Block block, int64_t rows,
                               const float *w, float *out)
{
    const int64_t blocks = round_up(net->layer[0].inputs, BLOCK) / BLOCK;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t *start = net->start + r * blocks + i / BLOCK;
        const int32_t *list = net->nonzero + start[0];
        const int64_t count = start[1] - start[0];
        const float *x = net->example[r] + i;
        float *row = out + r * net->layer[0].padded;
#define CASE(strips)                                  \
    case strips:                                      \
        NAME(gather)(strips, x, list, count, w, row); \
        break;
        switch (block.width / LANES) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
    }
}

/* Scatter into one block w of the first layer from a group of examples; delta: theirs. */
static void NAME(scatter_block)(const Network *net, int64_t i, Block block, int64_t group,
                                float *w, const float *delta, float shrink)
{
    const int64_t inputs = net->layer[0].inputs, stride = net->layer[0].padded;
    const int64_t blocks = round_up(inputs, BLOCK) / BLOCK;
    const Crossing *crossing = net->crossing + group * inputs + i;
    const int64_t count = net->crossings[group * blocks + i / BLOCK];
    const float *const *x = net->example + group * GROUP;
#define CASE(strips)                                                            \
    case strips:                                                                \
        NAME(scatter)(strips, x, i, crossing, count, delta, stride, w, shrink); \
        break;
    switch (block.width / LANES) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
}

/* ---- a batch ---- */

/* Ask for columns i to i + BLOCK of some examples: they are too many streams for the hardware
   to foresee. */
static void NAME(fetch)(const Network *net, const float *const *example, int64_t i, int64_t rows)
{
    const int64_t end = smaller(i + BLOCK, net->layer[0].inputs);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = i; c < end; c += LINE)
            __builtin_prefetch(example[r] + c, 0, 2);
}

/* The rows that a layer takes in. */
static const float *const *NAME(rows_of)(const Network *net, int32_t l)
{
    return l > 0 ? net->layer[l - 1].row : net->example;
}

static void NAME(clear)(const Layer *layer, int64_t rows)
{
    memset(layer->out, 0, (size_t)(rows * layer->padded) * sizeof(float));
}

/* out += x W. */
static void NAME(linear)(Network *net, int32_t l, int64_t rows, int sparse)
{
    const Layer *layer = &net->layer[l];
    for (int64_t i = 0; i < layer->inputs; i += BLOCK) {
        if (l == 0 && !sparse)
            NAME(fetch)(net, net->example, i + BLOCK, rows);
        for (int64_t o = 0; o < layer->padded; o += PANEL) {
            const Block block = block_at(layer, i, o);
            float *weight = layer->values.weight + block.at;
            if (sparse)
                NAME(gather_block)(net, i, block, rows, weight, layer->out + o);
            else
                NAME(multiply)(rows, block.width, NAME(rows_of)(net, l), i, weight, block.width,
                               layer->out + o, layer->padded, block.tall);
        }
    }
}

/* Dual form: the part of x W that training does not move. */
static void NAME(add_base)(Network *net, const float *base, int64_t rows)
{
    const Layer *layer = &net->layer[0];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < layer->outputs; o++)
            layer->out[r * layer->padded + o] += base[net->number[r] * layer->outputs + o];
}

/* begun: the first layer's x W is there already. base: as in Split. */
static void NAME(forward)(Network *net, int64_t rows, int sparse, int begun, const float *base)
{
    for (int32_t l = 0; l < net->layers; l++) {
        const Layer *layer = &net->layer[l];
        if (l > 0 || !begun) {
            NAME(clear)(layer, rows);
            NAME(linear)(net, l, rows, sparse && l == 0);
            if (l == 0 && base != NULL)
                NAME(add_base)(net, base, rows);
        }
        NAME(activate)(layer, rows);
    }
}

/* The position of the largest; the first of equals, and NaN counts as largest, as in torch. */
static int64_t NAME(argmax)(const float *z, int64_t count)
{
    int64_t best = 0;
    for (int64_t c = 1; c < count && z[best] == z[best]; c++)
        if (z[c] > z[best] || z[c] != z[c])
            best = c;
    return best;
}

/* Add the cross entropy and the hits of the rows to sums, and put the gradient of their mean
   cross entropy with respect to the logits, (softmax - one hot) / rows, into delta. */
static void NAME(cross_entropy)(Network *net, int64_t rows, double *sums)
{
    const Layer *layer = &net->layer[net->layers - 1];
    const float share = 1.f / (float)rows;
    for (int64_t r = 0; r < rows; r++) {
        float *z = layer->out + r * layer->padded;
        float *delta = net->delta + r * layer->padded;
        const int64_t best = NAME(argmax)(z, layer->outputs);
        const float largest = z[best];
        vec total = {0};
        for (int64_t c = layer->outputs; c < layer->padded; c++)
            z[c] = -INFINITY;
        for (int64_t c = 0; c < layer->padded; c += V) {
            const vec e = NAME(exponential)(NAME(load)(z + c) - largest);
            NAME(store)(delta + c, e);
            total += e;
        }
        double sum = 0;
        for (int i = 0; i < V; i++)
            sum += total[i];
        const float scale = share / (float)sum;
        for (int64_t c = 0; c < layer->padded; c += V)
            NAME(store)(delta + c, NAME(load)(delta + c) * scale);
        delta[net->labels[r]] -= share;
        sums[0] += log(sum) + (double)largest - (double)z[net->labels[r]];
        sums[1] += best == net->labels[r];
    }
}

/* Turn the rows of a V x V matrix into its columns: a zip of both halves moves the last bit of
   a number's row to its column, so after log2(V) of them all bits have changed places. */
INLINE void NAME(turn)(vec *x)
{
    vec y[V];
    UNROLL for (int zips = 1; zips < V; zips *= 2) {
        UNROLL for (int k = 0; k < V / 2; k++) {
            y[2 * k] = SHUFFLE(x[k], x[k + V / 2], LOW_HALVES);
            y[2 * k + 1] = SHUFFLE(x[k], x[k + V / 2], HIGH_HALVES);
        }
        UNROLL for (int k = 0; k < V; k++)
            x[k] = y[k];
    }
}

/* to[c][r] = from[r][c]; rows of `to` are padded with zeros. Strides are multiples of LANES. */
static void NAME(transpose)(const float *from, int64_t from_stride, float *to, int64_t to_stride,
                            int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < to_stride; r += V)
        for (int64_t c = 0; c < columns; c += V) {
            vec x[V];
            UNROLL for (int k = 0; k < V; k++)
                x[k] = r + k < rows ? NAME(load)(from + (r + k) * from_stride + c) : (vec){0};
            NAME(turn)(x);
            UNROLL for (int k = 0; k < V; k++)
                if (c + k < columns)
                    NAME(store)(to + (c + k) * to_stride + r, x[k]);
        }
}

/* delta_below = delta W^T, computed transposed, W delta^T, so that rows of W are read as they
   lie and the examples are the lanes of a vector. */
static void NAME(backward_many)(Network *net, const Layer *layer, int64_t rows)
{
    const int64_t wide = round_up(rows, LANES);
    NAME(transpose)(net->delta, layer->padded, net->columns, wide, rows, layer->outputs);
    memset(net->columns_below, 0, (size_t)(layer->inputs * wide) * sizeof(float));
    for (int64_t i = 0; i < layer->inputs; i += BLOCK)
        for (int64_t o = 0; o < layer->outputs; o += PANEL) {
            const Block block = block_at(layer, i, o);
            const float *row[BLOCK];
            for (int64_t t = 0; t < block.tall; t++)
                row[t] = layer->values.weight + block.at + t * block.width;
            NAME(multiply)(block.tall, wide, row, 0, net->columns + o * wide, wide,
                           net->columns_below + i * wide, wide,
                           smaller(PANEL, layer->outputs - o));
        }
    NAME(transpose)(net->columns_below, wide, net->delta_below, round_up(layer->inputs, LANES),
                    layer->inputs, rows);
}

/* The same for a few rows, most lanes of which would be empty: dot products along outputs. */
static void NAME(backward_few)(Network *net, const Layer *layer, int64_t rows)
{
    const int64_t padded = round_up(layer->inputs, LANES);
    memset(net->delta_below, 0, (size_t)(rows * padded) * sizeof(float));
    for (int64_t i = 0; i < layer->inputs; i += BLOCK)
        for (int64_t o = 0; o < layer->outputs; o += PANEL) {
            const Block block = block_at(layer, i, o);
            const int64_t count = smaller(PANEL, layer->outputs - o);
            for (int64_t t = 0; t < block.tall; t++)
                for (int64_t r = 0; r < rows; r++)
                    net->delta_below[r * padded + i + t] +=
                        NAME(dot)(layer->values.weight + block.at + t * block.width,
                                  net->delta + r * layer->padded + o, count);
        }
}

/* Go from the deltas of a layer to those of the layer below. */
static void NAME(backward)(Network *net, const Layer *layer, const Layer *below, int64_t rows)
{
    if (rows < FEW_ROWS)
        NAME(backward_few)(net, layer, rows);
    else
        NAME(backward_many)(net, layer, rows);
    NAME(differentiate)(below->activation, below->out, net->delta_below, rows * below->padded);
}

/* ---- the optimizers ---- */

/* Update `count` parameters w from their gradient g; m and s are their moments. */
static void NAME(apply)(const Step *step, int64_t count, float *restrict w,
                        const float *restrict g, float *restrict m, float *restrict s)
{
    const Step k = *step;
    if (k.rule == PLAIN)
        for (int64_t i = 0; i < count; i++)
            w[i] -= k.shrink * w[i] + k.lr * g[i];
    else if (k.rule == MOMENTUM && k.nesterov)
        for (int64_t i = 0; i < count; i++) {
            const float gradient = g[i] + k.decay * w[i];
            m[i] = k.momentum * m[i] + k.fresh * gradient;
            w[i] -= k.lr * (gradient + k.ahead * m[i]);
        }
    else if (k.rule == MOMENTUM)
        for (int64_t i = 0; i < count; i++) {
            m[i] = k.momentum * m[i] + k.fresh * (g[i] + k.decay * w[i]);
            w[i] -= k.lr * m[i];
        }
    else
        for (int64_t i = 0; i < count; i++) {
            const float gradient = k.rule == ADAM ? g[i] + k.decay * w[i] : g[i];
            const float shrink = k.rule == ADAM ? 0 : k.shrink;
            m[i] += k.first * (gradient - m[i]);
            s[i] = k.beta2 * s[i] + k.second * gradient * gradient;
            w[i] -= shrink * w[i] + k.size * m[i] / (sqrtf(s[i]) * k.root + k.eps);
        }
}

static void NAME(update_bias)(Network *net, Layer *layer, int64_t rows, const Step *step)
{
    float *gradient = net->gradient;
    for (int64_t o = 0; o < layer->padded; o += V) {
        vec total = {0};
        for (int64_t g = 0; g < rows; g += GROUP) {
            vec sum = {0};
            for (int64_t r = g; r < smaller(g + GROUP, rows); r++)
                sum += NAME(load)(net->delta + r * layer->padded + o);
            total += sum;
        }
        NAME(store)(gradient + o, total);
    }
    NAME(apply)(step, layer->padded, layer->values.bias, gradient, layer->moments[0].bias,
                layer->moments[1].bias);
}

static void NAME(scale)(float *values, int64_t count, float factor)
{
    for (int64_t i = 0; i < count; i++)
        values[i] *= factor;
}

/* Update the weights of a layer block by block, each while it is in L1.
   A gradient is summed up before a weight gets any of it. Where registers hold the sums, plain SGD
   adds x^T (-lr delta) to the weights at once, which overwrites delta; more examples than a
   group, and the other rules, need x^T delta in net->gradient.
   begin: put the next batch through the new weights of the first layer; its x W is then in
   layer->out. */
static void NAME(update_weight)(Network *net, int32_t l, int64_t rows, int sparse,
                                const Step *step, int begin)
{
    Layer *layer = &net->layer[l];
    const int direct = step->rule == PLAIN && rows <= GROUP;
    const int far = direct && layer->inputs * layer->padded > FAR;
    const float shrink = direct ? step->shrink : 0;
    NAME(Outer) *const *outers = far ? NAME(OUTERS_FAR) : NAME(OUTERS);
    if (begin)
        NAME(clear)(layer, net->next_rows);
    if (direct)
        NAME(scale)(net->delta, rows * layer->padded, -step->lr);
    if (sparse)
        NAME(find_all_crossings)(net, rows, shrink != 0);
    for (int64_t i = 0; i < layer->inputs; i += BLOCK) {
        if (l == 0)
            NAME(fetch)(net, net->next, i + BLOCK, net->next_rows);
        for (int64_t o = 0; o < layer->padded; o += PANEL) {
            const Block block = block_at(layer, i, o);
            const int64_t count = block.tall * block.width;
            float *weight = layer->values.weight + block.at, *second = layer->moments[1].weight;
            float *sum = direct ? weight : net->gradient;
            if (!direct)
                memset(sum, 0, (size_t)count * sizeof(float));
            for (int64_t g = 0; g < rows; g += GROUP) {
                const float *delta = net->delta + g * layer->padded + o;
                if (sparse)
                    NAME(scatter_block)(net, i, block, g / GROUP, sum, delta, shrink);
                else
                    NAME(multiply_transposed)(outers, block, NAME(rows_of)(net, l) + g, i, sum,
                                              delta, layer->padded, smaller(GROUP, rows - g),
                                              shrink);
            }
            if (!direct)
                NAME(apply)(step, count, weight, sum, layer->moments[0].weight + block.at,
                            second == NULL ? NULL : second + block.at);
            if (begin)
                NAME(multiply)(net->next_rows, block.width, net->next, i, weight, block.width,
                               layer->out + o, layer->padded, block.tall);
        }
    }
}

/* Dual form of plain SGD: the coefficients of an example grow by -lr times its delta. */
static void NAME(update_coefficients)(Network *net, int64_t rows, const Step *step)
{
    Layer *layer = &net->layer[0];
    for (int64_t r = 0; r < rows; r++) {
        const int64_t row = net->number[r] % BLOCK, i = net->number[r] - row;
        for (int64_t o = 0; o < layer->padded; o += PANEL) {
            const Block block = block_at(layer, i, o);
            float *coefficient = layer->values.weight + block.at + row * block.width;
            for (int64_t w = 0; w < block.width; w++)
                coefficient[w] -= step->lr * net->delta[r * layer->padded + o + w];
        }
    }
}

/* ---- an epoch ---- */

static void NAME(take_inputs)(const Split *split, const Examples *examples, int64_t from,
                              int64_t rows, const float **example)
{
    for (int64_t r = 0; r < rows; r++)
        example[r] = split->inputs + examples->number[from + r] * split->width;
}

static void NAME(take_labels)(Network *net, const Examples *examples, int64_t from)
{
    net->number = examples->number + from;
    net->labels = examples->label + from;
}

static int NAME(finite_first_layer)(const Network *net)
{
    const Layer *layer = &net->layer[0];
    return NAME(all_finite)(layer->values.weight, layer->inputs * layer->padded);
}

static void NAME(train)(Network *net, const Split *split, const Examples *examples,
                        int64_t batch, const Optimizer *optimizer, double *sums)
{
    const int64_t n = examples->count;
    int may_skip = split->base == NULL && NAME(finite_first_layer)(net), begun = 0;
    int64_t rows = smaller(batch, n);
    sums[0] = sums[1] = 0;
    NAME(take_inputs)(split, examples, 0, rows, net->example);
    int sparse = may_skip && NAME(find_nonzero)(net, net->example, rows);
    for (int64_t from = 0; from < n; from += rows, rows = net->next_rows) {
        const Step step = next_step(optimizer, net->steps);
        net->next_rows = smaller(batch, n - from - rows);
        NAME(take_inputs)(split, examples, from + rows, net->next_rows, net->next);
        NAME(fetch)(net, net->next, 0, net->next_rows);
        NAME(take_labels)(net, examples, from);
        NAME(forward)(net, rows, sparse, begun, split->base);
        NAME(cross_entropy)(net, rows, sums);
        for (int32_t l = net->layers - 1; l >= 0; l--) {
            Layer *layer = &net->layer[l];
            if (l > 0)
                NAME(backward)(net, layer, layer - 1, rows);
            else
                may_skip = may_skip && NAME(all_finite)(net->delta, rows * layer->padded);
            NAME(update_bias)(net, layer, rows, &step);
            if (l > 0) {
                NAME(update_weight)(net, l, rows, 0, &step, 0);
            } else if (split->base != NULL) {
                NAME(update_coefficients)(net, rows, &step);
            } else if (sparse && may_skip) {
                NAME(update_weight)(net, 0, rows, 1, &step, 0);
                sparse = NAME(find_nonzero)(net, net->next, net->next_rows);
                begun = 0;
            } else {
                sparse = may_skip && NAME(find_nonzero)(net, net->next, net->next_rows);
                begun = !sparse;
                NAME(update_weight)(net, 0, rows, 0, &step, begun);
            }
            float *const done = net->delta;
            net->delta = net->delta_below;
            net->delta_below = done;
        }
        const float **const done = net->example;
        net->example = net->next;
        net->next = done;
        net->steps++;
    }
}

static void NAME(evaluate)(Network *net, const Split *split, const Examples *examples,
                           double *sums)
{
    const int may_skip = split->base == NULL && NAME(finite_first_layer)(net);
    sums[0] = sums[1] = 0;
    for (int64_t from = 0; from < examples->count; from += EVALUATION_ROWS) {
        const int64_t rows = smaller(EVALUATION_ROWS, examples->count - from);
        NAME(take_inputs)(split, examples, from, rows, net->example);
        NAME(take_labels)(net, examples, from);
        const int sparse = may_skip && NAME(find_nonzero)(net, net->example, rows);
        NAME(forward)(net, rows, sparse, 0, split->base);
        NAME(cross_entropy)(net, rows, sums);
    }
}

static const Kernels NAME(kernels) = {NAME(train), NAME(evaluate)};

#undef INLINE
#undef vec
#undef ivec
#undef UNROLL
#undef SHUFFLE
#undef LOW_HALVES
#undef HIGH_HALVES
#undef TILE
#undef EACH_ROWS
#undef EACH_TILE
#undef INNER
#undef OUTER
#undef OUTER_FAR

#endif
