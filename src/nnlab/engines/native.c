/* The native engine: minibatch training of a multilayer perceptron on one core or several.

   library.py loads the library through ctypes. This file is what it calls: networks, checks, and the
   choice of an instruction set. native.h says how a network lies in memory. The arithmetic, in
   kernels.h, is compiled once per instruction set by kernels_*.c, and the best that the processor
   has is chosen at run time. All of it needs a C11 compiler with GCC's vector extensions (gcc or
   clang) and nothing else, not even Python's headers.

   There is no global state: calls on different networks may run at the same time. The threads of a
   network's team live as long as it does. */

#define _GNU_SOURCE /* posix_memalign, madvise and clock_gettime, which C11 does not know */

#include "native.h"
#include "subnormals.h"

#include <stdlib.h>
#include <time.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { HUGE_PAGE = 1 << 21, HUGE_PAGES = 1 << 22 }; /* bytes; where to begin using them */

enum { FINE, BAD_ORDER, BAD_INDEX, BAD_LABEL, BAD_WIDTH, EMPTY, NO_MEMORY }; /* as in library.py */

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
        free(net->layer[l].factor);
        free(net->layer[l].kept);
        free(net->layer[l].kept_row);
    }
    free(net->layer);
    free(net->example);
    free(net->next);
    free(net->delta);
    free(net->delta_below);
    free(net->columns);
    free(net->columns_below);
    free(net->gradient);
    free(net->kept_delta);
    free(net->nonzero);
    free(net->start);
    free(net->active);
    free(net->active_count);
    free(net->squares);
    nnlab_free_team(net->team);
    free(net);
}

static int32_t make_buffers(Network *net)
{
    const int64_t inputs = net->layer[0].inputs;
    const int64_t panels = count_panels(inputs);
    const int64_t groups = count_units(net->rows, GROUP);
    int64_t widest = 0, lines = 0;
    for (int32_t l = 0; l < net->layers; l++) {
        const Layer *layer = &net->layer[l];
        widest = larger(widest, layer->padded);
        lines = larger(lines, layer->inputs * count_units(layer->padded, NC));
    }
    const int64_t rows = net->rows, transposed = round_up(widest, NC) * round_up(rows, LANES);

    net->example = zeros(rows, sizeof(float *));
    net->next = zeros(rows, sizeof(float *));
    net->delta = zeros(rows * widest, sizeof(float));
    net->delta_below = zeros(rows * widest, sizeof(float));
    net->columns = zeros(transposed, sizeof(float));
    net->columns_below = zeros(transposed, sizeof(float));
    net->gradient = zeros(widest, sizeof(float));
    net->kept_delta = zeros(rows * net->layer[net->layers - 1].padded, sizeof(float));
    net->nonzero = zeros(rows * inputs / SPARSE_SHARE + KC + LANES, sizeof(int32_t));
    net->start = zeros(rows * (panels + 1), sizeof(int64_t));
    net->active = zeros(groups * inputs, sizeof(ActiveInput));
    net->active_count = zeros(groups * panels, sizeof(int64_t));
    net->squares = zeros(lines, sizeof(float));
    return net->example && net->next && net->delta && net->delta_below && net->columns &&
           net->columns_below && net->gradient && net->kept_delta && net->nonzero && net->start &&
           net->active && net->active_count && net->squares;
}

static int32_t make_rows(float **values, const float ***row, int64_t rows, int64_t width)
{
    *values = zeros(rows * width, sizeof(float));
    *row = zeros(rows, sizeof(float *));
    if (*values == NULL || *row == NULL)
        return 0;
    for (int64_t r = 0; r < rows; r++)
        (*row)[r] = *values + r * width;
    return 1;
}

static int32_t make_outputs(Layer *layer, int64_t rows)
{
    if (!make_rows(&layer->out, &layer->row, rows, layer->padded))
        return 0;
    if (layer->dropout == 0)
        return 1;
    layer->factor = zeros(rows * layer->padded, sizeof(float));
    return layer->factor != NULL && make_rows(&layer->kept, &layer->kept_row, rows, layer->padded);
}

/* sizes: inputs, then the outputs of each layer; biased: whether it has a bias; dropout: the
   probability that an output is dropped. Returns NULL when memory runs out. */
Network *nnlab_create(int32_t layers, const int64_t *sizes, const int32_t *activations,
                      const int32_t *biased, const double *dropout, int32_t moments, int64_t batch)
{
    Network *net = zeros(1, sizeof(Network));
    if (net == NULL)
        return NULL;
    net->layer = zeros(layers, sizeof(Layer));
    net->layers = net->layer == NULL ? 0 : layers;
    net->rows = larger(batch, EVALUATION_ROWS);
    int32_t complete = net->layer != NULL;
    for (int32_t l = 0; l < net->layers; l++) {
        Layer *layer = &net->layer[l];
        layer->inputs = sizes[l];
        layer->outputs = sizes[l + 1];
        layer->padded = round_up(sizes[l + 1], LANES);
        layer->activation = activations[l];
        layer->biased = biased[l];
        layer->dropout = dropout[l];
        complete = complete && make_outputs(layer, net->rows);
        complete = complete && make_parameters(&layer->values, layer);
        for (int32_t i = 0; i < moments; i++)
            complete = complete && make_parameters(&layer->moments[i], layer);
    }
    if (complete && make_buffers(net))
        return net;
    nnlab_free(net);
    return NULL;
}

/* which: 0 the values, 1 and 2 the moments. */
static Parameters *parameters(Network *net, int32_t l, int32_t which)
{
    return which == 0 ? &net->layer[l].values : &net->layer[l].moments[which - 1];
}

/* Copy a weight from (`set`) or to torch's [O, I]. */
static void copy_weights(const Layer *layer, float *weight, float *torch, int32_t set)
{
    for (int64_t i = 0; i < layer->inputs; i += KC)
        for (int64_t o = 0; o < layer->outputs; o += NC) {
            const Panel panel = panel_at(layer, i, o);
            const int64_t outputs = smaller(panel.outputs, layer->outputs - o);
            for (int64_t r = 0; r < panel.inputs; r++)
                for (int64_t c = 0; c < outputs; c++) {
                    float *const ours = weight + panel.offset + r * panel.outputs + c;
                    float *const theirs = torch + (o + c) * layer->inputs + i + r;
                    if (set)
                        *ours = *theirs;
                    else
                        *theirs = *ours;
                }
        }
}

/* weight: [O, I], bias: [O], as torch keeps them. */
void nnlab_set(Network *net, int32_t l, int32_t which, float *weight, const float *bias)
{
    const Layer *layer = &net->layer[l];
    const Parameters *p = parameters(net, l, which);
    copy_weights(layer, p->weight, weight, 1);
    memcpy(p->bias, bias, (size_t)layer->outputs * sizeof(float));
}

void nnlab_get(Network *net, int32_t l, int32_t which, float *weight, float *bias)
{
    const Layer *layer = &net->layer[l];
    const Parameters *p = parameters(net, l, which);
    copy_weights(layer, p->weight, weight, 0);
    memcpy(bias, p->bias, (size_t)layer->outputs * sizeof(float));
}

/* base, peak, weight: as in Loss, which keeps the addresses. */
void nnlab_set_loss(Network *net, const float *base, const float *peak, const float *weight)
{
    net->loss = (Loss){.base = base, .peak = peak, .weight = weight};
    for (int64_t c = 0; c < net->layer[net->layers - 1].outputs; c++)
        net->loss.spread += base[c];
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

/* Copy the examples at `order`, all if it is NULL, and check each number before it is used as a
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
        const int64_t index = read_once(split->index + place);
        bad[1] = index, bad[2] = examples;
        if (index < 0 || index >= examples)
            return BAD_INDEX;
        to->index[i] = index;
        if (split->targets != NULL)
            continue;
        const int64_t label = read_once(split->labels + index);
        bad[1] = label, bad[2] = classes;
        if (label < 0 || label >= classes)
            return BAD_LABEL;
        to->label[i] = label;
    }
    return FINE;
}

/* The caller frees what is in `to`, whatever the result. */
static int32_t copy_examples(const Network *net, const Split *split, const int64_t *order,
                             int64_t count, Examples *to, int64_t *bad)
{
    *to = (Examples){.count = count};
    if (split->width != net->layer[0].inputs) {
        bad[0] = 0, bad[1] = split->width, bad[2] = net->layer[0].inputs;
        return BAD_WIDTH;
    }
    if (count < 1)
        return EMPTY;
    to->index = zeros(count, sizeof(int64_t));
    to->label = zeros(count, sizeof(int64_t));
    if (to->index == NULL || to->label == NULL)
        return NO_MEMORY;
    return copy_checked(net, split, order, to, bad);
}

static void free_examples(Examples *examples)
{
    free(examples->index);
    free(examples->label);
}

/* Worst first; the order is that of LEVELS in library.py. */
static const Kernels *const LEVELS[] = {
    &nnlab_baseline,
#if defined(__x86_64__)
    &nnlab_avx2,
    &nnlab_avx512,
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

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void read_clock(const void *seconds, int32_t member, int32_t members)
{
    (void)members;
    (*(double *const *)seconds)[member] = seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

/* What the members of a team have had of the processors so far. */
static double processor_seconds(Team *team)
{
    const int32_t members = nnlab_members(team);
    double each[members], *seconds = each, sum = 0;
    nnlab_divide(team, read_clock, &seconds);
    for (int32_t i = 0; i < members; i++)
        sum += each[i];
    return sum;
}

/* Have the network train and be evaluated on so many threads, this one included; returns how many
   there are, fewer where the system gives no more. Numbers do not depend on it. */
int32_t nnlab_set_threads(Network *net, int32_t threads)
{
    net->team = nnlab_resize_team(net->team, threads);
    return nnlab_members(net->team);
}

/* Train once through split->index[order[0..n-1]]. keys: one for each step and layer with dropout,
   from which follows what is dropped. sums: as in Kernels. seconds: that passed, taken here because
   Python's thread may wait long for the GIL when the call returns, and those of the processors that
   this thread and its team had. */
int32_t nnlab_train(Network *net, const Split *split, const int64_t *order, int64_t n,
                    int64_t batch, const uint64_t *keys, const Optimizer *optimizer, int32_t level,
                    double *sums, double *seconds, int64_t *bad)
{
    const double used = processor_seconds(net->team);
    const double started = seconds_of(CLOCK_MONOTONIC);
    Examples examples;
    const int32_t problem = copy_examples(net, split, order, n, &examples, bad);
    if (problem == FINE) {
        const uint64_t mode = flush_subnormals();
        net->keys = keys;
        LEVELS[level]->train(net, split, &examples, smaller(batch, net->rows), optimizer, sums);
        restore_mode(mode);
        seconds[0] = seconds_of(CLOCK_MONOTONIC) - started;
        seconds[1] = processor_seconds(net->team) - used;
    }
    free_examples(&examples);
    return problem;
}

static Rows rows_from(const Rows *rows, int64_t first, int64_t most)
{
    return (Rows){rows->matrix, rows->index + first, smaller(most, rows->count - first)};
}

/* All inner products of some rows of matrices that are `width` wide, whose positions the caller has
   checked. products: [left, right]. */
int32_t nnlab_inner_products(const Rows *left, const Rows *right, int64_t width, int32_t level,
                             float *products)
{
    GramRoom *room = zeros(1, sizeof(GramRoom));
    if (room == NULL)
        return NO_MEMORY;
    const uint64_t mode = flush_subnormals();
    for (int64_t r = 0; r < left->count; r += GRAM_ROWS)
        for (int64_t c = 0; c < right->count; c += GRAM_COLUMNS) {
            memset(room->sums, 0, sizeof(room->sums));
            LEVELS[level]->inner_products(rows_from(left, r, GRAM_ROWS),
                                          rows_from(right, c, GRAM_COLUMNS), width, room,
                                          products + r * right->count + c, right->count);
        }
    restore_mode(mode);
    free(room);
    return FINE;
}

/* right: [length], of a classification which examples are classified rightly. */
int32_t nnlab_evaluate(Network *net, const Split *split, int32_t level, double *sums,
                       uint8_t *right, int64_t *bad)
{
    Examples examples;
    const int32_t problem = copy_examples(net, split, NULL, split->length, &examples, bad);
    if (problem == FINE) {
        const uint64_t mode = flush_subnormals();
        examples.right = right;
        net->keys = NULL;
        LEVELS[level]->evaluate(net, split, &examples, sums);
        restore_mode(mode);
    }
    free_examples(&examples);
    return problem;
}
