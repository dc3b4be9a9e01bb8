/* The arithmetic of an epoch, written once and compiled for each instruction set: a kernels_*.c
   selects the compiler's target, defines
     KERNELS  the name of its table,
     V        the number of floats in a vector,
     MR, NR   its register block; NR is a multiple of V,
     MT, NT   the same for gradients of many examples,
     EACH_INNER, EACH_OUTER   the sizes of blocks in use, those at the edges too,
   and includes this file. native.h says what the letters and terms mean.

   Why it is fast. With a batch of ten, a library call per product costs more than the product,
   and weights that are read three times per step (forward, gradient, update) cost more than the
   arithmetic. So here
   - an epoch is one call;
   - products go through two small kernels, `inner` and `outer`, whose sums stay in registers;
   - plain SGD of up to DEPTH examples is folded into the gradient product: W += X^T (-lr D), so
     a weight is read once and written once; otherwise each panel of the gradient is used while
     it is in L1;
   - of large layers, what is needed next is prefetched little by little meanwhile, and for the
     gradients of many examples inputs and deltas are packed: their rows are some kB apart, often a
     power of two, and would push each other out of L1;
   - a panel of the first layer that was just updated is multiplied with the next batch while it
     is in L1: of a wide first layer, which no nearer cache holds, a step reads each weight once;
   - inputs that are exactly zero (four fifths of an MNIST image) are skipped in the first
     layer. Adding 0 * w changes no sum, so the result is that of the dense product. It would if
     w were not finite: so nothing is skipped in a call that begins with such a weight, nor from
     the first gradient on that is not finite.

   A team divides the work of a step by outputs (forward, update) or by inputs (the deltas below),
   never by the terms of a sum: so each sum has one order, and its bits are the same with any number
   of threads.

   Why it is exact. A sum begins with zero, never with a number that may be much larger than its
   terms: a weight gets a batch's whole gradient at once, and the bias comes last. Long sums are
   sums of shorter ones. tests/test_native.py holds the error against float64 to twice torch's.

   The dual form (dual.py says when and why): if a split has `base`, its inputs are rows of a Gram
   matrix, and the first layer's weight holds a row of coefficients per training example. Going
   forward is the same product, begun with the examples' rows of `base`; an update adds each
   example's delta to its own row. */

/* Floats of a weight that the second cache, 1 MB or so, does not hold. */
enum { BEYOND_L2 = 1 << 18 };
/* Examples whose products with a dense input are summed in registers. */
enum { DEPTH = 256 };
/* Examples below which most of a vector of them would be empty. */
enum { FEW_ROWS = 4 };
/* Inputs below which looking for zeros does not pay. */
enum { FEWEST_SPARSE = 64 };
/* Products below which one thread is done before another has begun. */
#ifndef FEWEST_DIVIDED
#define FEWEST_DIVIDED (1 << 17)
#endif
/* Outputs below which a team divides the inputs of an update instead. */
enum { EVENLY_DIVIDED = 512 };
/* Inputs that a team divides are cut into this many at least. More than MR rows make register
   blocks of more than MR / 2, in which `inner` has one sum per output, whatever their number. */
enum { FEWEST_INPUTS = LANES };
_Static_assert(MR + 2 <= FEWEST_INPUTS, "the order of sums would depend on the number of threads");

#include "vectors.h"
#include "products.h"
#include "gram.h"

/* ---- a team ---- */

typedef struct Step Step;

/* What is done to a layer by all members of a team at once. */
typedef struct {
    Network *net;
    int32_t l;
    int64_t rows;
    int sparse;                   /* zeros among the inputs are skipped */
    int multiplied;               /* forward: `out` holds x W already */
    const float *base;            /* forward: as in Split */
    uint64_t key;                 /* forward: of dropout */
    const Step *step;             /* update */
    int by_inputs, multiply_next; /* update: as in update_weight */
} Work;

/* Do all parts of some work, in which there are about so many products. */
static void divide(Part *part, const Work *work, int64_t products)
{
    nnlab_divide(products < FEWEST_DIVIDED ? NULL : work->net->team, part, work);
}

/* A member's part of `count` things, cut at multiples of a unit. */
static Range part_of(int64_t count, int64_t unit, int32_t member, int32_t members)
{
    const int64_t units = count_units(count, unit);
    return (Range){
        .from = smaller(count, units * member / members * unit),
        .to = smaller(count, units * (member + 1) / members * unit),
    };
}

/* A member's part of a layer's outputs. Where zeros are skipped, panels are whole. */
static Range outputs_for(const Layer *layer, int sparse, int32_t member, int32_t members)
{
    return part_of(layer->padded, sparse ? NC : NT, member, members);
}

/* A member's part of a layer's inputs: no fewer than FEWEST_INPUTS, unless a panel has fewer. */
static Range inputs_for(const Layer *layer, int32_t member, int32_t members)
{
    const int64_t units = larger(1, layer->inputs / FEWEST_INPUTS);
    const int64_t end = units * (member + 1) / members;
    return (Range){
        .from = units * member / members * FEWEST_INPUTS,
        .to = end == units ? layer->inputs : end * FEWEST_INPUTS,
    };
}

/* Some columns of a matrix as stretches of memory: of all columns a single one. */
typedef struct {
    int64_t lines, length;
} Lines;

static Lines lines_of(int64_t rows, int64_t columns, int64_t stride)
{
    return columns == stride ? (Lines){1, rows * columns} : (Lines){rows, columns};
}

/* ---- forward ---- */

/* out = activation(out + bias), the bias last: sums that begin with it would be rounded like it. */
static void activate(const Layer *layer, int64_t rows, Range outputs)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = outputs.from; o < outputs.to; o += V) {
            float *out = layer->out + r * layer->padded + o;
            const vec x = load(out) + load(layer->values.bias + o);
            if (layer->activation == IDENTITY)
                store(out, x);
            else if (layer->activation == RELU) /* not x > 0 ? x : 0: NaN would become 0 */
                store(out, blend(x < 0.f, (vec){0}, x));
            else if (layer->activation == TANH)
                store(out, vec_tanh(x));
            else
                store(out, vec_sigmoid(x));
        }
}

/* As `mixed` in dropout.py. */
INLINE uvec mixed(uvec x)
{
    x = (x ^ (x >> 16)) * UINT32_C(0x21f0aaad);
    x = (x ^ (x >> 15)) * UINT32_C(0x735a2d97);
    return x ^ (x >> 15);
}

/* Drop outputs of a layer, as `multipliers` in dropout.py says. */
static void drop(const Layer *layer, int64_t rows, Range outputs, uint64_t key)
{
    const vec scale = broadcast((float)(1 / (1 - layer->dropout)));
    const int32_t threshold = (int32_t)nearbyint(layer->dropout * (1 << 24));
    const uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    uvec lanes = {0};
    for (uint32_t i = 0; i < V; i++)
        lanes[i] = i;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = outputs.from; o < outputs.to; o += V) {
            const uvec places = lanes + ((uint32_t)(r * layer->outputs + o) + low);
            const ivec random = (ivec)(mixed(mixed(places) ^ high) >> 8);
            const vec factor = blend(random >= threshold, scale, (vec){0});
            const int64_t at = r * layer->padded + o;
            store(layer->factor + at, factor);
            store(layer->kept + at, load(layer->out + at) * factor);
        }
}

/* Prefetch columns i to i + KC of some examples: they are too many streams for the hardware
   to foresee. */
INLINE void prefetch_inputs(const Network *net, const float *const *example, int64_t i,
                            int64_t rows)
{
    const int64_t end = smaller(i + KC, net->layer[0].inputs);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = i; c < end; c += LANES)
            __builtin_prefetch(example[r] + c, 0, 2);
}

/* Whether some outputs of a layer are dropped, as in training. */
static int drops(const Network *net, const Layer *layer)
{
    return layer->dropout > 0 && net->keys != NULL;
}

/* [rows] the inputs of a layer. */
static const float *const *inputs_of(const Network *net, int32_t l)
{
    if (l == 0)
        return net->example;
    const Layer *below = &net->layer[l - 1];
    return drops(net, below) ? below->kept_row : below->row;
}

static void clear_outputs(const Layer *layer, int64_t rows, Range outputs)
{
    const Lines part = lines_of(rows, outputs.to - outputs.from, layer->padded);
    for (int64_t r = 0; r < part.lines; r++)
        memset(layer->out + r * layer->padded + outputs.from, 0,
               (size_t)part.length * sizeof(float));
}

/* Whether L2 does not hold a layer's weights. */
static int beyond_l2(const Layer *layer)
{
    return layer->inputs * layer->padded > BEYOND_L2;
}

/* The panel that follows one in memory, if no near cache holds it. Of a few examples, the processor
   foresees it as well, and there is little to do meanwhile. */
static Ahead next_panel(const Layer *layer, const float *weight, int64_t rows)
{
    return (Ahead){weight + KC * NC, rows > GROUP && beyond_l2(layer) ? KC * NC : 0};
}

/* The panel at an input and an output; pairing: with the next one, if that is as wide and the
   registers hold the sums of both. */
static Panel panel_or_pair(const Layer *layer, int64_t i, int64_t o, Range inputs, Range outputs,
                           int pairing)
{
    Panel panel = panel_within(layer, i, o, inputs, outputs);
    if (pairing && WIDEST == 2 * NC && o % NC == 0 && o + 2 * NC <= outputs.to)
        panel.outputs = 2 * NC;
    return panel;
}

/* out += x W. */
static void linear(const Network *net, int32_t l, int64_t rows, int sparse, Range outputs)
{
    const Layer *layer = &net->layer[l];
    const Range inputs = {0, layer->inputs};
    for (int64_t i = 0; i < layer->inputs; i += KC) {
        if (l == 0 && !sparse)
            prefetch_inputs(net, net->example, i + KC, rows);
        Panel panel;
        for (int64_t o = outputs.from; o < outputs.to; o += panel.outputs) {
            panel = panel_or_pair(layer, i, o, inputs, outputs, sparse);
            const float *weight = layer->values.weight + panel.offset;
            const Ahead ahead = next_panel(layer, weight, rows);
            if (sparse)
                multiply_sparse(net, i, panel, rows, weight, layer->out + o);
            else
                multiply(rows, panel.outputs, inputs_of(net, l), i, weight, panel.stride,
                         layer->out + o, layer->padded, panel.inputs, &ahead);
        }
    }
}

/* Dual form: the part of x W that training does not move. */
static void add_base(const Network *net, const float *base, int64_t rows, Range outputs)
{
    const Layer *layer = &net->layer[0];
    const int64_t end = smaller(outputs.to, layer->outputs);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = outputs.from; o < end; o++)
            layer->out[r * layer->padded + o] += base[net->index[r] * layer->outputs + o];
}

static void forward_part(const void *given, int32_t member, int32_t members)
{
    const Work *work = given;
    const Network *net = work->net;
    const Layer *layer = &net->layer[work->l];
    const Range outputs = outputs_for(layer, work->sparse, member, members);
    if (!work->multiplied) {
        clear_outputs(layer, work->rows, outputs);
        linear(net, work->l, work->rows, work->sparse, outputs);
        if (work->base != NULL)
            add_base(net, work->base, work->rows, outputs);
    }
    activate(layer, work->rows, outputs);
    if (drops(net, layer))
        drop(layer, work->rows, outputs, work->key);
}

/* multiplied: the first layer's `out` holds x W already. base: as in Split. */
static void forward(Network *net, int64_t rows, int sparse, int multiplied, const float *base)
{
    for (int32_t l = 0; l < net->layers; l++) {
        const Layer *layer = &net->layer[l];
        const Work work = {
            .net = net,
            .l = l,
            .rows = rows,
            .sparse = sparse && l == 0,
            .multiplied = multiplied && l == 0,
            .base = l == 0 ? base : NULL,
            .key = drops(net, layer) ? *net->keys++ : 0,
        };
        divide(forward_part, &work, rows * layer->padded * (work.multiplied ? 1 : layer->inputs));
    }
}

/* The position of the largest; the first of equals, and NaN counts as largest, as in torch. */
static int64_t argmax(const float *z, int64_t count)
{
    int64_t best = 0;
    for (int64_t c = 1; c < count && z[best] == z[best]; c++)
        if (z[c] > z[best] || z[c] != z[c])
            best = c;
    return best;
}

/* Put exp(z - z[best]) into e, 0 into its padding, and return their sum. */
static double exponentials(const Layer *layer, float *z, int64_t best, float *e)
{
    const float largest = z[best];
    vec total = {0};
    for (int64_t c = layer->outputs; c < layer->padded; c++)
        z[c] = -INFINITY;
    for (int64_t c = 0; c < layer->padded; c += V) {
        const vec each = vec_exp(load(z + c) - largest);
        store(e + c, each);
        total += each;
    }
    double sum = 0;
    for (int i = 0; i < V; i++)
        sum += total[i];
    return sum;
}

static void count_right(Network *net, int64_t r, int64_t best, double *sums)
{
    const uint8_t right = best == net->labels[r];
    sums[1] += right;
    if (net->right != NULL)
        net->right[r] = right;
}

/* Add the cross entropy, the number of correct predictions and the examples' weight to sums, and
   put the gradient of the mean cross entropy with respect to the logits, (softmax - one hot) / rows,
   into delta. */
static void cross_entropy(Network *net, int64_t rows, double *sums)
{
    const Layer *layer = &net->layer[net->layers - 1];
    const float share = 1.f / (float)rows;
    for (int64_t r = 0; r < rows; r++) {
        float *z = layer->out + r * layer->padded;
        float *delta = net->delta + r * layer->padded;
        const int64_t best = argmax(z, layer->outputs);
        const double sum = exponentials(layer, z, best, delta);
        const float scale = share / (float)sum;
        for (int64_t c = 0; c < layer->padded; c += V)
            store(delta + c, load(delta + c) * scale);
        delta[net->labels[r]] -= share;
        sums[0] += log(sum) + (double)z[best] - (double)z[net->labels[r]];
        count_right(net, r, best, sums);
    }
    sums[2] += (double)rows;
}

/* The same where classes are weighted or labels smoothed, see Loss. */
static void weighted_cross_entropy(Network *net, int64_t rows, double *sums)
{
    const Layer *layer = &net->layer[net->layers - 1];
    const Loss *loss = &net->loss;
    double weight = 0;
    for (int64_t r = 0; r < rows; r++)
        weight += (double)loss->weight[net->labels[r]];
    const float share = (float)(1 / weight);
    for (int64_t r = 0; r < rows; r++) {
        float *z = layer->out + r * layer->padded;
        float *delta = net->delta + r * layer->padded;
        const int64_t best = argmax(z, layer->outputs), label = net->labels[r];
        const double sum = exponentials(layer, z, best, delta);
        const double log_sum = log(sum) + (double)z[best];
        const float peak = loss->peak[label];
        const float scale = (loss->spread + peak) / (float)sum;
        for (int64_t c = 0; c < layer->padded; c += V)
            store(delta + c, (load(delta + c) * scale - load(loss->base + c)) * share);
        delta[label] -= peak * share;
        sums[0] += (double)peak * (log_sum - (double)z[label]);
        for (int64_t c = 0; loss->spread > 0 && c < layer->outputs; c++)
            sums[0] += (double)loss->base[c] * (log_sum - (double)z[c]);
        count_right(net, r, best, sums);
    }
    sums[2] += weight;
}

/* Add the squared error of each output to sums, after them the absolute ones, and put the gradient
   of the mean squared error into delta. */
static void squared_error(Network *net, const float *targets, int64_t rows, double *sums)
{
    const Layer *layer = &net->layer[net->layers - 1];
    const int64_t outputs = layer->outputs;
    const float share = 2.f / (float)(rows * outputs);
    for (int64_t r = 0; r < rows; r++) {
        const float *target = targets + net->index[r] * outputs;
        float *delta = net->delta + r * layer->padded;
        memset(delta, 0, (size_t)layer->padded * sizeof(float));
        for (int64_t c = 0; c < outputs; c++) {
            const float error = layer->out[r * layer->padded + c] - target[c];
            delta[c] = share * error;
            sums[c] += (double)error * (double)error;
            sums[outputs + c] += fabs((double)error);
        }
    }
}

/* How many numbers `add_loss` adds to. */
static int64_t count_sums(const Network *net, const Split *split)
{
    return split->targets == NULL ? 3 : 2 * net->layer[net->layers - 1].outputs;
}

/* Add what these rows came to to sums, and put the gradient of their mean loss into delta. */
static void add_loss(Network *net, const Split *split, int64_t rows, double *sums)
{
    if (split->targets != NULL)
        squared_error(net, split->targets, rows, sums);
    else if (net->loss.weight != NULL)
        weighted_cross_entropy(net, rows, sums);
    else
        cross_entropy(net, rows, sums);
}

/* ---- backward ---- */

/* Multiply delta by the activation's derivative, which its result gives. out, delta: [count]. */
static void differentiate(int32_t activation, const float *out, float *delta, int64_t count)
{
    if (activation == IDENTITY)
        return;
    for (int64_t i = 0; i < count; i += V) {
        const vec y = load(out + i), d = load(delta + i);
        if (activation == RELU)
            store(delta + i, blend(y <= 0.f, (vec){0}, d));
        else if (activation == TANH)
            store(delta + i, d * (1.f - y * y));
        else
            store(delta + i, d * (1.f - y) * y);
    }
}

static void transpose_part(const void *given, int32_t member, int32_t members)
{
    const Work *work = given;
    const Network *net = work->net;
    const Layer *layer = &net->layer[work->l];
    const Range outputs = outputs_for(layer, 0, member, members);
    for (int64_t r = 0; r < work->rows; r += NC) {
        const int64_t rows = smaller(NC, work->rows - r), width = round_up(rows, LANES);
        transpose(net->delta + r * layer->padded + outputs.from, layer->padded,
                  net->columns + r * layer->outputs + outputs.from * width, width, width, rows,
                  smaller(outputs.to, layer->outputs) - outputs.from);
    }
}

/* delta_below = delta W^T for up to NC examples from `first` on, computed transposed, W delta^T, so
   that rows of W are read as they lie and the examples are the lanes of a vector. */
static void backward_many(const Network *net, const Layer *layer, int64_t first, int64_t rows,
                          Range inputs)
{
    const int64_t stride = round_up(rows, LANES), length = inputs.to - inputs.from;
    const Range outputs = {0, layer->outputs};
    const float *columns = net->columns + first * layer->outputs;
    float *below = net->columns_below + first * layer->inputs + inputs.from * stride;
    memset(below, 0, (size_t)(length * stride) * sizeof(float));
    for (int64_t i = inputs.from; i < inputs.to; i += KC - i % KC)
        for (int64_t o = 0; o < layer->outputs; o += NC) {
            const Panel panel = panel_within(layer, i, o, inputs, outputs);
            const float *weight = layer->values.weight + panel.offset, *row[KC];
            const Ahead ahead = next_panel(layer, weight, rows);
            for (int64_t r = 0; r < panel.inputs; r++)
                row[r] = weight + r * panel.stride;
            multiply(panel.inputs, stride, row, 0, columns + o * stride, stride,
                     below + (i - inputs.from) * stride, stride, panel.outputs, &ahead);
        }
    const int64_t padded = round_up(layer->inputs, LANES);
    transpose(below, stride, net->delta_below + first * padded + inputs.from, padded,
              round_up(length, LANES), length, rows);
}

/* The same for a few rows, most lanes of which would be empty: dot products along outputs. */
static void backward_few(const Network *net, const Layer *layer, int64_t rows, Range inputs)
{
    const int64_t padded = round_up(layer->inputs, LANES);
    const Range outputs = {0, layer->outputs};
    for (int64_t r = 0; r < rows; r++)
        memset(net->delta_below + r * padded + inputs.from, 0,
               (size_t)round_up(inputs.to - inputs.from, LANES) * sizeof(float));
    for (int64_t i = inputs.from; i < inputs.to; i += KC - i % KC)
        for (int64_t o = 0; o < layer->outputs; o += NC) {
            const Panel panel = panel_within(layer, i, o, inputs, outputs);
            for (int64_t p = 0; p < panel.inputs; p++)
                for (int64_t r = 0; r < rows; r++)
                    net->delta_below[r * padded + i + p] +=
                        dot(layer->values.weight + panel.offset + p * panel.stride,
                            net->delta + r * layer->padded + o, panel.outputs);
        }
}

static void backward_part(const void *given, int32_t member, int32_t members)
{
    const Work *work = given;
    const Network *net = work->net;
    const Layer *layer = &net->layer[work->l], *below = layer - 1;
    const Range inputs = inputs_for(layer, member, members);
    if (inputs.from == inputs.to)
        return;
    if (work->rows < FEW_ROWS)
        backward_few(net, layer, work->rows, inputs);
    for (int64_t r = 0; work->rows >= FEW_ROWS && r < work->rows; r += NC)
        backward_many(net, layer, r, smaller(NC, work->rows - r), inputs);
    const int64_t width = round_up(inputs.to - inputs.from, LANES);
    const Lines part = lines_of(work->rows, width, below->padded);
    for (int64_t r = 0; r < part.lines; r++) {
        const int64_t at = r * below->padded + inputs.from;
        if (drops(net, below))
            for (int64_t i = at; i < at + part.length; i++)
                net->delta_below[i] *= below->factor[i];
        differentiate(below->activation, below->out + at, net->delta_below + at, part.length);
    }
}

/* Go from the deltas of a layer to those of the layer below. */
static void backward(Network *net, int32_t l, int64_t rows)
{
    const Layer *layer = &net->layer[l];
    const Work work = {.net = net, .l = l, .rows = rows};
    if (rows >= FEW_ROWS)
        divide(transpose_part, &work, rows * layer->padded);
    divide(backward_part, &work, rows * layer->padded * layer->inputs);
}

/* ---- the optimizers ---- */

/* The numbers of one optimizer step; g is the gradient.
   SGD: buffer = momentum * buffer + undampened * g; nesterov takes g + lookahead * buffer.
   Adam: first += (1 - beta1) * (g - first), second = beta2 * second + (1 - beta2) * g^2, and
   w -= size * first / (sqrt(second) * root + eps). */
struct Step {
    int32_t rule, nesterov, penalised;
    float lr, decay, shrink; /* shrink: lr * decay */
    float l1, twice_l2;      /* of the penalties l1 |w| + l2 w^2 on every weight */
    double clip;             /* the longest that the gradient may be; 0: any */
    float momentum, undampened, lookahead;
    float one_minus_beta1, one_minus_beta2, beta2, size, root, eps;
};

/* torch's update rules, their per-step numbers computed in double as torch does. */
static Step next_step(const Optimizer *optimizer, int64_t steps)
{
    const double t = (double)(steps + 1);
    return (Step){
        .rule = optimizer->rule,
        .nesterov = optimizer->nesterov,
        .penalised = optimizer->l1 != 0 || optimizer->l2 != 0,
        .l1 = (float)optimizer->l1,
        .twice_l2 = (float)(2 * optimizer->l2),
        .clip = optimizer->clip_norm,
        .lr = (float)optimizer->lr,
        .shrink = (float)(optimizer->lr * optimizer->weight_decay),
        .decay = (float)optimizer->weight_decay,
        /* torch's first momentum buffer is the gradient itself, undampened */
        .momentum = steps == 0 ? 0 : (float)optimizer->momentum,
        .undampened = steps == 0 ? 1 : (float)(1 - optimizer->dampening),
        .lookahead = (float)optimizer->momentum,
        .one_minus_beta1 = (float)(1 - optimizer->beta1),
        .one_minus_beta2 = (float)(1 - optimizer->beta2),
        .beta2 = (float)optimizer->beta2,
        .size = (float)(optimizer->lr / (1 - pow(optimizer->beta1, t))),
        .root = (float)(1 / sqrt(1 - pow(optimizer->beta2, t))),
        .eps = (float)optimizer->eps,
    };
}

/* Add the gradient of the penalties on `count` weights w to that of the loss. */
static void add_penalties(const Step *step, int64_t count, const float *restrict w,
                          float *restrict g)
{
    const Step k = *step;
    for (int64_t i = 0; i < count; i++) {
        const float sign = (float)((w[i] > 0) - (w[i] < 0));
        g[i] += k.l1 * sign + k.twice_l2 * w[i];
    }
}

/* Update `count` parameters w from their gradient g; m and s are their moments. */
static void apply_rule(const Step *step, int64_t count, float *restrict w, const float *restrict g,
                       float *restrict m, float *restrict s)
{
    const Step k = *step;
    if (k.rule == PLAIN)
        for (int64_t i = 0; i < count; i++)
            w[i] -= k.shrink * w[i] + k.lr * g[i];
    else if (k.rule == MOMENTUM && k.nesterov)
        for (int64_t i = 0; i < count; i++) {
            const float gradient = g[i] + k.decay * w[i];
            m[i] = k.momentum * m[i] + k.undampened * gradient;
            w[i] -= k.lr * (gradient + k.lookahead * m[i]);
        }
    else if (k.rule == MOMENTUM)
        for (int64_t i = 0; i < count; i++) {
            m[i] = k.momentum * m[i] + k.undampened * (g[i] + k.decay * w[i]);
            w[i] -= k.lr * m[i];
        }
    else
        for (int64_t i = 0; i < count; i++) {
            const float gradient = k.rule == ADAM ? g[i] + k.decay * w[i] : g[i];
            const float shrink = k.rule == ADAM ? 0 : k.shrink;
            m[i] += k.one_minus_beta1 * (gradient - m[i]);
            s[i] = k.beta2 * s[i] + k.one_minus_beta2 * gradient * gradient;
            w[i] -= shrink * w[i] + k.size * m[i] / (sqrtf(s[i]) * k.root + k.eps);
        }
}

/* Put the gradient of a bias into net->gradient. */
static void sum_deltas(const Network *net, const Layer *layer, int64_t rows, Range outputs)
{
    for (int64_t o = outputs.from; o < outputs.to; o += V) {
        vec total = {0};
        for (int64_t g = 0; g < rows; g += GROUP) {
            vec sum = {0};
            for (int64_t r = g; r < smaller(g + GROUP, rows); r++)
                sum += load(net->delta + r * layer->padded + o);
            total += sum;
        }
        store(net->gradient + o, total);
    }
}

/* The numbers of a moment from one on; NULL if the optimizer has no such moment. */
static float *moment_from(float *moment, int64_t from)
{
    return moment == NULL ? NULL : moment + from;
}

static void update_bias(const Network *net, const Layer *layer, int64_t rows, const Step *step,
                        Range outputs)
{
    if (!layer->biased)
        return;
    sum_deltas(net, layer, rows, outputs);
    apply_rule(step, outputs.to - outputs.from, layer->values.bias + outputs.from,
               net->gradient + outputs.from, moment_from(layer->moments[0].bias, outputs.from),
               moment_from(layer->moments[1].bias, outputs.from));
}

static void scale(float *values, int64_t count, float factor)
{
    for (int64_t i = 0; i < count; i++)
        values[i] *= factor;
}

static void scale_deltas(const Network *net, const Layer *layer, int64_t rows, float factor,
                         Range outputs)
{
    const Lines part = lines_of(rows, outputs.to - outputs.from, layer->padded);
    for (int64_t r = 0; r < part.lines; r++)
        scale(net->delta + r * layer->padded + outputs.from, part.length, factor);
}

/* The examples' part in the gradient of a panel, or of part of one. */
typedef struct {
    int64_t rows, i;       /* i: the panel's first input */
    const float *const *x; /* [rows] inputs, of which the panel's are `from` and on */
    const float *delta;    /* [rows, outputs of the panel], as in multiply_transposed */
    int64_t from, stride, slice;
    int sparse, packed; /* whether zeros among the inputs are skipped, and deltas lie in slices */
} Terms;

/* Whether deltas are packed for an update: where their rows, some kB apart, would push each other out
   of L1. */
static int packs(const Work *work)
{
    return !work->sparse && work->rows > GROUP;
}

/* The terms of a panel that begins at input i, output o, from where the network has them. */
static Terms terms_of(const Work *work, int64_t i, int64_t o)
{
    const Network *net = work->net;
    return (Terms){
        .rows = work->rows,
        .i = i,
        .x = inputs_of(net, work->l),
        .delta = net->delta + o,
        .from = i,
        .stride = net->layer[work->l].padded,
        .slice = NR,
        .sparse = work->sparse,
    };
}

/* Add x^T delta - shrink sum to `sum`, a panel or part of one. ahead: prefetch what lies so many
   floats after it; 0: nothing. */
static void add_products(const Network *net, const Terms *terms, Panel panel, float *sum,
                         float shrink, int64_t ahead)
{
    const int64_t most = terms->sparse ? GROUP : DEPTH;
    for (int64_t g = 0; g < terms->rows; g += most) {
        const float *delta = terms->delta + g * terms->stride;
        if (terms->sparse)
            multiply_transposed_sparse(net, terms->i, panel, g / GROUP, sum, delta, shrink);
        else
            multiply_transposed(terms->packed ? MT : MR, terms->packed ? NT : NR, panel,
                                terms->x + g, terms->from, sum, delta, terms->stride, terms->slice,
                                smaller(most, terms->rows - g), shrink, ahead);
    }
}

/* Put the gradient of a panel or part of one, penalties included, into `gradient`, [KC, NC] with
   the panel's stride. */
static void sum_products(const Work *work, const Terms *terms, Panel panel, float *gradient)
{
    const Step *step = work->step;
    const Lines part = lines_of(panel.inputs, panel.outputs, panel.stride);
    const float *weight = work->net->layer[work->l].values.weight + panel.offset;
    memset(gradient, 0, (size_t)(panel.inputs * panel.stride) * sizeof(float));
    add_products(work->net, terms, panel, gradient, 0, 0);
    for (int64_t r = 0; step->penalised && r < part.lines; r++)
        add_penalties(step, part.length, weight + r * panel.stride, gradient + r * panel.stride);
}

/* Update part of a panel from its gradient. */
static void update_panel(const Layer *layer, Panel panel, const Step *step, const float *gradient)
{
    const Lines part = lines_of(panel.inputs, panel.outputs, panel.stride);
    for (int64_t r = 0; r < part.lines; r++) {
        const int64_t at = panel.offset + r * panel.stride;
        apply_rule(step, part.length, layer->values.weight + at, gradient + r * panel.stride,
                   moment_from(layer->moments[0].weight, at),
                   moment_from(layer->moments[1].weight, at));
    }
}

/* Whether plain SGD adds x^T (-lr delta) to the weights at once: where registers hold the sums. More
   examples, penalties and the other rules need x^T delta by itself: a gradient is summed up before
   a weight gets any of it. */
static int updates_at_once(const Step *step, int64_t rows, int sparse)
{
    return step->rule == PLAIN && rows <= (sparse ? GROUP : DEPTH) && !step->penalised;
}

/* Put the deltas times a factor into net->columns in slices of NT outputs, [rows, NT] each. */
static void pack_deltas(const Network *net, const Layer *layer, int64_t rows, float factor,
                        Range outputs)
{
    for (int64_t o = outputs.from; o < outputs.to; o += NT)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < smaller(NT, outputs.to - o); c += V)
                store(net->columns + o * rows + r * NT + c,
                      load(net->delta + r * layer->padded + o + c) * factor);
}

/* Columns i to i + KC of some inputs, without what lies between their rows. */
typedef struct {
    const float *row[DEPTH];
    float inputs[DEPTH * KC];
} Slice;

static void pack_inputs(const Work *work, int64_t i, Slice *slice)
{
    const float *const *x = inputs_of(work->net, work->l);
    const int64_t count = smaller(KC, work->net->layer[work->l].inputs - i);
    for (int64_t r = 0; r < work->rows; r++)
        copy(slice->inputs + r * KC, x[r] + i, count);
}

/* The same terms with packed deltas and, if they fit in a slice, packed inputs. */
static Terms packed_terms(const Work *work, const Slice *slice, int64_t i, int64_t o)
{
    Terms terms = terms_of(work, i, o);
    terms.packed = 1;
    terms.delta = work->net->columns + o * work->rows;
    terms.stride = NT;
    terms.slice = work->rows * NT;
    if (work->rows <= DEPTH) {
        terms.x = slice->row;
        terms.from = i % KC;
    }
    return terms;
}

/* Update the bias; delta is then what the weights are to be updated from. */
static void begin_update(const Work *work, Range outputs)
{
    const Layer *layer = &work->net->layer[work->l];
    const int direct = updates_at_once(work->step, work->rows, work->sparse);
    const float factor = direct ? -work->step->lr : 1;
    update_bias(work->net, layer, work->rows, work->step, outputs);
    if (packs(work))
        pack_deltas(work->net, layer, work->rows, factor, outputs);
    else if (direct)
        scale_deltas(work->net, layer, work->rows, factor, outputs);
}

/* Update weights panel by panel, each while it is in L1. */
static void update_weights(const Work *work, Range inputs, Range outputs)
{
    const Network *net = work->net;
    const Step *step = work->step;
    const Layer *layer = &net->layer[work->l];
    const int direct = updates_at_once(step, work->rows, work->sparse), packed = packs(work);
    const float shrink = direct ? step->shrink : 0;
    const int64_t ahead = direct && beyond_l2(layer) ? KC * NC : 0;
    _Alignas(64) float gradient[KC * NC];
    Slice slice;
    if (work->multiply_next)
        clear_outputs(layer, net->next_rows, outputs);
    for (int64_t r = 0; r < smaller(DEPTH, work->rows); r++)
        slice.row[r] = slice.inputs + r * KC;
    for (int64_t i = inputs.from; i < inputs.to; i += KC - i % KC) {
        if (work->l == 0)
            prefetch_inputs(net, net->next, i + KC, net->next_rows);
        if (packed && work->rows <= DEPTH)
            pack_inputs(work, i - i % KC, &slice);
        Panel panel;
        for (int64_t o = outputs.from; o < outputs.to; o += panel.outputs) {
            panel = panel_or_pair(layer, i, o, inputs, outputs, direct && work->sparse);
            const Terms terms = packed ? packed_terms(work, &slice, i, o) : terms_of(work, i, o);
            float *weight = layer->values.weight + panel.offset;
            if (direct) {
                add_products(net, &terms, panel, weight, shrink, ahead);
            } else {
                sum_products(work, &terms, panel, gradient);
                update_panel(layer, panel, step, gradient);
            }
            if (work->multiply_next)
                multiply(net->next_rows, panel.outputs, net->next, i, weight, panel.stride,
                         layer->out + o, layer->padded, panel.inputs, &(Ahead){0});
        }
    }
}

static void update_part(const void *given, int32_t member, int32_t members)
{
    const Work *work = given;
    const Layer *layer = &work->net->layer[work->l];
    if (work->by_inputs) {
        const Range outputs = {0, layer->padded};
        update_weights(work, inputs_for(layer, member, members), outputs);
    } else {
        const Range inputs = {0, layer->inputs};
        const Range outputs = outputs_for(layer, work->sparse, member, members);
        begin_update(work, outputs);
        update_weights(work, inputs, outputs);
    }
}

/* Update a layer. multiply_next: put the next batch through the new weights of the first layer; its
   x W is then in layer->out. */
static void update(Network *net, int32_t l, int64_t rows, int sparse, const Step *step,
                   int multiply_next)
{
    const Layer *layer = &net->layer[l];
    const Work work = {
        .net = net,
        .l = l,
        .rows = rows,
        .sparse = sparse,
        .step = step,
        /* A few outputs are divided badly. */
        .by_inputs = l > 0 && layer->padded < EVENLY_DIVIDED,
        .multiply_next = multiply_next,
    };
    if (sparse)
        find_all_active(net, rows, updates_at_once(step, rows, 1) && step->shrink != 0);
    if (work.by_inputs)
        begin_update(&work, (Range){0, layer->padded});
    divide(update_part, &work, rows * layer->inputs * layer->padded);
}

/* ---- clipping ---- */

/* Put the squared lengths of the gradient of each input of each panel into net->squares. */
static void squares_part(const void *given, int32_t member, int32_t members)
{
    const Work *work = given;
    const Network *net = work->net;
    const Layer *layer = &net->layer[work->l];
    const int64_t across = count_units(layer->padded, NC);
    const Range panels = part_of(count_panels(layer->inputs) * across, 1, member, members);
    _Alignas(64) float gradient[KC * NC];
    for (int64_t p = panels.from; p < panels.to; p++) {
        const int64_t i = p / across * KC, o = p % across * NC;
        const Panel panel = panel_at(layer, i, o);
        float *squares = net->squares + i * across + p % across * panel.inputs;
        const Terms terms = terms_of(work, i, o);
        sum_products(work, &terms, panel, gradient);
        for (int64_t r = 0; r < panel.inputs; r++) {
            const float *row = gradient + r * panel.stride;
            squares[r] = dot(row, row, smaller(panel.outputs, layer->outputs - o));
        }
    }
}

/* The squared length of a layer's gradient, penalties included, in an order of its own. */
static double squared_gradient(Network *net, int32_t l, int64_t rows, int sparse, const Step *step)
{
    const Layer *layer = &net->layer[l];
    const Work work = {.net = net, .l = l, .rows = rows, .sparse = sparse, .step = step};
    double sum = 0;
    if (layer->biased) {
        sum_deltas(net, layer, rows, (Range){0, layer->padded});
        sum += (double)dot(net->gradient, net->gradient, layer->outputs);
    }
    if (sparse)
        find_all_active(net, rows, 0);
    divide(squares_part, &work, rows * layer->inputs * layer->padded);
    for (int64_t i = 0; i < layer->inputs * count_units(layer->padded, NC); i++)
        sum += (double)net->squares[i];
    return sum;
}

static void go_down(Network *net)
{
    float *const done = net->delta;
    net->delta = net->delta_below;
    net->delta_below = done;
}

/* Shrink the gradient where it is longer than step->clip: the last layer's deltas, in proportion to
   which are all others, and the penalties. As in torch's clip_grad_norm_. */
static void clip(Network *net, int64_t rows, int sparse, Step *step)
{
    const int64_t count = rows * net->layer[net->layers - 1].padded;
    double squared = 0;
    memcpy(net->kept_delta, net->delta, (size_t)count * sizeof(float));
    for (int32_t l = net->layers - 1; l > 0; l--) {
        squared += squared_gradient(net, l, rows, 0, step);
        backward(net, l, rows);
        go_down(net);
    }
    squared += squared_gradient(net, 0, rows, sparse, step);
    memcpy(net->delta, net->kept_delta, (size_t)count * sizeof(float));
    const float factor = (float)(step->clip / (sqrt(squared) + 1e-6));
    if (factor > 1) /* not if it is NaN */
        return;
    scale(net->delta, count, factor);
    step->l1 *= factor;
    step->twice_l2 *= factor;
}

static void coefficients_part(const void *given, int32_t member, int32_t members)
{
    const Work *work = given;
    const Network *net = work->net;
    const Layer *layer = &net->layer[0];
    const Range inputs = {0, layer->inputs}, outputs = outputs_for(layer, 0, member, members);
    update_bias(net, layer, work->rows, work->step, outputs);
    for (int64_t r = 0; r < work->rows; r++) {
        const int64_t row = net->index[r] % KC, i = net->index[r] - row;
        for (int64_t o = outputs.from; o < outputs.to; o += NC - o % NC) {
            const Panel panel = panel_within(layer, i, o, inputs, outputs);
            float *coefficient = layer->values.weight + panel.offset + row * panel.stride;
            for (int64_t c = 0; c < panel.outputs; c++)
                coefficient[c] -= work->step->lr * net->delta[r * layer->padded + o + c];
        }
    }
}

/* Dual form of plain SGD: the coefficients of an example grow by -lr times its delta. */
static void update_coefficients(Network *net, int64_t rows, const Step *step)
{
    const Work work = {.net = net, .rows = rows, .step = step};
    divide(coefficients_part, &work, rows * net->layer[0].padded);
}

/* ---- an epoch ---- */

static void select_inputs(const Split *split, const Examples *examples, int64_t from, int64_t rows,
                          const float **example)
{
    for (int64_t r = 0; r < rows; r++)
        example[r] = split->inputs + examples->index[from + r] * split->width;
}

static void select_labels(Network *net, const Examples *examples, int64_t from)
{
    net->index = examples->index + from;
    net->labels = examples->label + from;
    net->right = examples->right == NULL ? NULL : examples->right + from;
}

static int finite_first_layer(const Network *net)
{
    const Layer *layer = &net->layer[0];
    return all_finite(layer->values.weight, layer->inputs * layer->padded);
}

/* Update all layers but the first, from the last to it; net->delta is then the first's. */
static void update_upper_layers(Network *net, int64_t rows, const Step *step)
{
    for (int32_t l = net->layers - 1; l > 0; l--) {
        backward(net, l, rows);
        update(net, l, rows, 0, step, 0);
        go_down(net);
    }
}

static void train(Network *net, const Split *split, const Examples *examples, int64_t batch,
                  const Optimizer *optimizer, double *sums)
{
    const int64_t n = examples->count;
    const Layer *first = &net->layer[0];
    int may_skip = split->base == NULL && finite_first_layer(net), multiplied = 0;
    int64_t rows = smaller(batch, n);
    memset(sums, 0, (size_t)count_sums(net, split) * sizeof(double));
    select_inputs(split, examples, 0, rows, net->example);
    int sparse = may_skip && find_nonzero(net, net->example, rows);
    for (int64_t from = 0; from < n; from += rows, rows = net->next_rows) {
        Step step = next_step(optimizer, net->steps);
        net->next_rows = smaller(batch, n - from - rows);
        select_inputs(split, examples, from + rows, net->next_rows, net->next);
        prefetch_inputs(net, net->next, 0, net->next_rows);
        select_labels(net, examples, from);
        forward(net, rows, sparse, multiplied, split->base);
        add_loss(net, split, rows, sums);
        if (step.clip > 0)
            clip(net, rows, sparse, &step);
        update_upper_layers(net, rows, &step);
        may_skip = may_skip && all_finite(net->delta, rows * first->padded);
        if (split->base != NULL) {
            update_coefficients(net, rows, &step);
        } else if (sparse && may_skip) {
            update(net, 0, rows, 1, &step, 0);
            sparse = find_nonzero(net, net->next, net->next_rows);
            multiplied = 0;
        } else {
            sparse = may_skip && find_nonzero(net, net->next, net->next_rows);
            multiplied = !sparse && net->next_rows * first->padded <= BEYOND_L2;
            update(net, 0, rows, 0, &step, multiplied);
        }
        const float **const done = net->example;
        net->example = net->next;
        net->next = done;
        net->steps++;
    }
}

static void evaluate(Network *net, const Split *split, const Examples *examples, double *sums)
{
    const int may_skip = split->base == NULL && finite_first_layer(net);
    memset(sums, 0, (size_t)count_sums(net, split) * sizeof(double));
    for (int64_t from = 0; from < examples->count; from += EVALUATION_ROWS) {
        const int64_t rows = smaller(EVALUATION_ROWS, examples->count - from);
        select_inputs(split, examples, from, rows, net->example);
        select_labels(net, examples, from);
        const int sparse = may_skip && find_nonzero(net, net->example, rows);
        forward(net, rows, sparse, 0, split->base);
        add_loss(net, split, rows, sums);
    }
}

const Kernels KERNELS = {train, evaluate, inner_products};
