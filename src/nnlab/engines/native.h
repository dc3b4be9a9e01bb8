/* What native.c and the kernels share: how a network lies in memory.

   Axes: B rows (examples of a batch), I inputs and O outputs of a layer, N examples.

   Terms, those of BLIS. Where C += A B is computed, as in outputs [B, O] += inputs [B, I] times
   weight [I, O],
   - MR x NR is a register block: so many rows and columns of C stay in registers while a kernel
     adds up their terms. Each instruction set has its own; MT x NT is one for gradients of many
     examples.
   - KC x NC is a packed panel of B: KC is its depth, the most terms that a kernel adds up before
     it stores a sum, and NC its width.

   Layout. Rows of outputs and deltas are contiguous and padded to a multiple of LANES floats. A
   weight is [I, O] with O padded likewise, packed into panels of KC inputs x NC outputs (fewer at
   the edges). Each panel is contiguous, and the panels of the same inputs follow one another, so
   that every pass over the weights walks forward through memory. Padding holds arbitrary numbers
   and is never read as an input: it cannot reach a result. */

#ifndef NNLAB_NATIVE_H
#define NNLAB_NATIVE_H

#include "team.h"

/* What the kernels need is included here, before a kernels_*.c changes the compiler's target. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Floats in the widest vector, and in a cache line. */
enum { LANES = 16 };
/* A panel is 28 kB, as much as L1 allows: sums are loaded and stored once per panel. 784 inputs
   are 7 panels. */
enum { KC = 112, NC = 64 };
/* Examples evaluated at a time: weights are read once for all of them. */
enum { EVALUATION_ROWS = 48 };
/* Examples whose products are summed in registers where zeros are skipped; a bit of
   ActiveInput.rows each. */
enum { GROUP = 32 };
/* Zeros are skipped where at most 1/3 of a batch is not zero. */
enum { SPARSE_SHARE = 3 };

enum { IDENTITY, RELU, TANH, SIGMOID }; /* the order is that of ACTIVATIONS in library.py */
enum { PLAIN, MOMENTUM, ADAM, ADAMW };  /* the order is that of RULES in library.py */

/* An input of a panel that is not zero in some examples of a group. */
typedef struct {
    int32_t input; /* counted from the panel's first */
    uint32_t rows; /* bit r: not zero in the r-th example */
} ActiveInput;

/* Trainable numbers of a layer. */
typedef struct {
    float *weight; /* [I, O] in panels */
    float *bias;   /* [O] */
} Parameters;

typedef struct {
    int64_t inputs, outputs, padded;
    int32_t activation, biased;    /* not biased: the bias stays zero */
    Parameters values, moments[2]; /* moments: momentum, or Adam's first and second */
    float *out;                    /* [B, padded], after the activation */
    const float **row;             /* [B] its rows */
    double dropout;                /* the probability that an output is dropped; if above 0: */
    float *factor, *kept;          /* [B, padded]: 0 or 1 / (1 - p), and out times that */
    const float **kept_row;        /* [B] its rows */
} Layer;

/* What an example counts in the cross entropy, each [classes padded]: base[c] times -log p[c] of
   every class, and peak[y] times that of its own class y; the mean is by the sum of weight[y].
   NULL: base 0, peak and weight 1. spread: the sum of base. */
typedef struct {
    const float *base, *peak, *weight;
    float spread;
} Loss;

typedef struct {
    int32_t layers;
    Loss loss;
    int64_t rows;  /* most examples at a time */
    int64_t steps; /* optimizer steps taken; 0 means that the moments are unset */
    Layer *layer;
    const float **example, **next;  /* [B] rows of the data: inputs of this batch, of the next */
    int64_t next_rows;              /* how many rows the next batch has */
    const uint64_t *keys;           /* those still to be used in dropout; NULL: evaluation */
    const int64_t *index, *labels;  /* [B] which examples this batch has, and their labels */
    uint8_t *right;                 /* [B] where it is told which of them are right, or NULL */
    float *delta, *delta_below;     /* [B, widest padded]: d loss / d (x W + b) of a layer */
    float *columns, *columns_below; /* the same transposed, [widest, examples] of NC examples after
                                       the others; columns: also packed for an update */
    float *gradient;                /* [widest padded] of a bias */
    float *kept_delta;              /* [B, padded] that of the last layer, while it is clipped */
    int32_t *nonzero;      /* which inputs are not zero, counted from the first of their panel */
    int64_t *start;        /* [B, panels] where each row's list of a panel begins in `nonzero` */
    ActiveInput *active;   /* [groups, I] those of a panel from the place of its first input on */
    int64_t *active_count; /* [groups, panels] how many */
    float *squares; /* [panels of outputs, I] of a weight, in their order, while it is clipped */
    Team *team;     /* NULL: one thread */
} Network;

/* A panel of a weight or part of one: [inputs, outputs] floats that begin at `offset`, in rows
   `stride` apart. Where zeros are skipped, maybe two panels, with the outputs of both. */
typedef struct {
    int64_t offset, inputs, outputs, stride;
} Panel;

/* So many floats that are needed next. */
typedef struct {
    const float *from;
    int64_t count;
} Ahead;

typedef struct {
    const float *inputs;   /* [N, width] */
    const float *base;     /* [N, outputs of the first layer], its x W0; NULL: not the dual form */
    const int64_t *labels; /* [N] classes; not read where there are targets */
    const float *targets;  /* [N, outputs] of a regression; NULL: a classification */
    const int64_t *index;  /* [length] into all */
    int64_t examples, width, length;
} Split;

/* A copy of what is used as positions, which no other thread can change once it is checked. */
typedef struct {
    int64_t *index, *label; /* [count] rows of the split's inputs, and their labels */
    uint8_t *right;         /* [count] of the caller's, for an evaluation, or NULL */
    int64_t count;
} Examples;

typedef struct {
    int32_t rule, nesterov;
    double lr, weight_decay, l1, l2, clip_norm, momentum, dampening, beta1, beta2, eps;
} Optimizer;

/* Some rows of a matrix, [count] of them. */
typedef struct {
    const float *matrix;
    const int64_t *index;
    int64_t count;
} Rows;

/* The inner products that are computed in one go. */
enum { GRAM_ROWS = 512, GRAM_COLUMNS = 512 };

/* Room for what they need meanwhile; so many more rows than there are fill a register block. */
typedef struct {
    float left[(GRAM_ROWS + LANES) * KC], right[NC * KC], panel[KC * NC];
    float sums[(GRAM_ROWS + LANES) * GRAM_COLUMNS];
} GramRoom;

/* The kernels of one instruction set: an epoch of training, an evaluation, and inner products. The
   first two put into sums the loss, the number of correct predictions and the examples' weight, each
   summed over examples; of a regression the squared errors of each output, then the absolute ones. */
typedef struct {
    void (*train)(Network *, const Split *, const Examples *, int64_t batch, const Optimizer *,
                  double *sums);
    void (*evaluate)(Network *, const Split *, const Examples *, double *sums);
    void (*inner_products)(Rows left, Rows right, int64_t width, GramRoom *, float *products,
                           int64_t stride);
} Kernels;

extern const Kernels nnlab_baseline;
#if defined(__x86_64__)
extern const Kernels nnlab_avx2, nnlab_avx512;
#endif

static inline int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* How many units of a size hold so many. */
static inline int64_t count_units(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

static inline int64_t count_panels(int64_t inputs)
{
    return count_units(inputs, KC);
}

/* The panel of a weight that begins at input i and output o, multiples of KC and NC. */
static inline Panel panel_at(const Layer *layer, int64_t i, int64_t o)
{
    Panel panel = {
        .inputs = smaller(KC, layer->inputs - i),
        .outputs = smaller(NC, layer->padded - o),
    };
    panel.stride = panel.outputs;
    panel.offset = i * layer->padded + o * panel.inputs;
    return panel;
}

/* Rows or columns from one on, up to but not including another. */
typedef struct {
    int64_t from, to;
} Range;

/* The part of a panel that begins at input i and output o, multiples of LANES, and ends where the
   panel or a range does. */
static inline Panel panel_within(const Layer *layer, int64_t i, int64_t o, Range inputs,
                                 Range outputs)
{
    const int64_t above = i % KC, before = o % NC;
    Panel panel = panel_at(layer, i - above, o - before);
    panel.offset += above * panel.stride + before;
    panel.inputs = smaller(panel.inputs - above, inputs.to - i);
    panel.outputs = smaller(panel.outputs - before, outputs.to - o);
    return panel;
}

#endif
