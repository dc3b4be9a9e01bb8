/* Matrix products, dense and with inputs that are zero. Part of kernels.h.

   A is given by pointers to its rows, which may lie anywhere, so that examples need not be copied.
   A register block has so few rows that even where all map to one set of L1, it holds them. */

/* ---- what is needed next ---- */

/* Prefetch a share of what is needed next, while there are `all` register blocks to compute and
   `done` of them are: all at once would keep waiting what this one needs. Inlined, or gcc drops the
   call, which changes nothing that it knows of. */
INLINE void prefetch_share(const Ahead *ahead, int64_t done, int64_t all)
{
    if (ahead->count == 0)
        return; /* before a division that takes as long as some rows of a block */
    const int64_t lines = ahead->count / LANES, end = lines * (done + 1) / all;
    for (int64_t i = lines * done / all; i < end; i++)
        __builtin_prefetch(ahead->from + i * LANES, 0, 2);
}

INLINE void prefetch_block(const float *block, int64_t rows, int64_t columns, int64_t stride)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c += LANES)
            __builtin_prefetch(block + r * stride + c, 0, 2);
}

/* ---- dense ---- */

INLINE void add_term(const int rows, const int vectors, const float *const *row, int64_t t,
                     const float *b, int64_t b_stride, vec sum[][NR / V])
{
    vec right[NR / V];
    UNROLLED_FOR(v, vectors)
        right[v] = load(b + t * b_stride + v * V);
    UNROLLED_FOR(r, rows) {
        const float left = row[r][t];
        UNROLLED_FOR(v, vectors)
            sum[r][v] += left * right[v];
    }
}

/* C += A B for a register block of C: `rows` rows and `vectors` vectors, at most MR x NR.
   a: [rows], of which A is columns `from` to `from + terms`; b: [terms, vectors * V];
   c: [rows, vectors * V]; strides in floats. */
INLINE void inner(const int rows, const int vectors, const float *const *a, int64_t from,
                  const float *b, int64_t b_stride, float *c, int64_t c_stride, int64_t terms)
{
    /* Few rows leave registers for several sums each: shorter ones, which are more exact and do
       not wait for one another. */
    const int partials = rows * 4 <= MR ? 4 : rows * 2 <= MR ? 2 : 1;
    const float *row[MT];
    vec sum[MT][NR / V] = {{{0}}}; /* row r has those at r, r + rows, ... */
    int64_t t = 0;
    UNROLLED_FOR(r, rows)
        row[r] = a[r] + from;
    for (; t + partials <= terms; t += partials)
        UNROLLED_FOR(p, partials)
            add_term(rows, vectors, row, t + p, b, b_stride, sum + p * rows);
    for (; t < terms; t++)
        add_term(rows, vectors, row, t, b, b_stride, sum);
    for (int p = partials / 2; p > 0; p /= 2)
        UNROLLED_FOR(r, p * rows)
            UNROLLED_FOR(v, vectors)
                sum[r][v] += sum[r + p * rows][v];
    UNROLLED_FOR(r, rows)
        UNROLLED_FOR(v, vectors) {
            float *to = c + r * c_stride + v * V;
            store(to, load(to) + sum[r][v]);
        }
}

/* B += A^T C - shrink B for a register block of B: `rows` rows and `vectors` vectors, at most
   MR x NR or MT x NT. The sums over the rows of A begin with zero and are added to B once, so that
   B, which may hold much larger numbers, is rounded once. Shapes as above; terms: the rows of A. */
INLINE void outer(const int rows, const int vectors, const float *const *a, int64_t from, float *b,
                  int64_t b_stride, const float *c, int64_t c_stride, int64_t terms, float shrink)
{
    vec sum[MT][NR / V] = {{{0}}};
    for (int64_t t = 0; t < terms; t++) {
        const float *left = a[t] + from;
        __asm__("" : "+r"(left)); /* or gcc keeps the addresses of its numbers in registers */
        vec right[NR / V];
        UNROLLED_FOR(v, vectors)
            right[v] = load(c + t * c_stride + v * V);
        UNROLLED_FOR(r, rows)
            UNROLLED_FOR(v, vectors)
                sum[r][v] += left[r] * right[v];
    }
    UNROLLED_FOR(r, rows)
        UNROLLED_FOR(v, vectors) {
            float *to = b + r * b_stride + v * V;
            const vec before = load(to);
            store(to, before + (sum[r][v] - shrink * before));
        }
}

/* Both for every number of rows and vectors that a register block may have. */
typedef void Inner(const float *const *a, int64_t from, const float *b, int64_t b_stride, float *c,
                   int64_t c_stride, int64_t terms);
typedef void Outer(const float *const *a, int64_t from, float *b, int64_t b_stride, const float *c,
                   int64_t c_stride, int64_t terms, float shrink);

#define DEFINE_INNER(rows, vectors)                                                           \
    static void inner_##rows##_##vectors(const float *const *a, int64_t from, const float *b, \
                                         int64_t b_stride, float *c, int64_t c_stride,        \
                                         int64_t terms)                                       \
    {                                                                                         \
        inner(rows, vectors, a, from, b, b_stride, c, c_stride, terms);                       \
    }
#define DEFINE_OUTER(rows, vectors)                                                          \
    static void outer_##rows##_##vectors(const float *const *a, int64_t from, float *b,      \
                                         int64_t b_stride, const float *c, int64_t c_stride, \
                                         int64_t terms, float shrink)                        \
    {                                                                                        \
        outer(rows, vectors, a, from, b, b_stride, c, c_stride, terms, shrink);              \
    }
#define INNER(rows, vectors) [((vectors) - 1) * MT + (rows) - 1] = inner_##rows##_##vectors,
#define OUTER(rows, vectors) [((vectors) - 1) * MT + (rows) - 1] = outer_##rows##_##vectors,
#define EACH_OF_2(F, v) F(1, v) F(2, v)
#define EACH_OF_6(F, v) EACH_OF_2(F, v) F(3, v) F(4, v) F(5, v) F(6, v)
#define EACH_OF_12(F, v) EACH_OF_6(F, v) F(7, v) F(8, v) F(9, v) F(10, v) F(11, v) F(12, v)
#define EACH_2(EACH_ROWS, F) EACH_ROWS(F, 1) EACH_ROWS(F, 2)
#define EACH_4(EACH_ROWS, F) EACH_2(EACH_ROWS, F) EACH_ROWS(F, 3) EACH_ROWS(F, 4)
EACH_INNER(DEFINE_INNER)
EACH_OUTER(DEFINE_OUTER)
static Inner *const INNERS[NR / V * MT] = {EACH_INNER(INNER)};
static Outer *const OUTERS[NR / V * MT] = {EACH_OUTER(OUTER)};

/* C += A B for any number of rows of C, cut into register blocks.
   b: [terms, width], c: [rows, width]; width: a multiple of LANES. */
static void multiply(int64_t rows, int64_t width, const float *const *a, int64_t from,
                     const float *b, int64_t b_stride, float *c, int64_t c_stride, int64_t terms,
                     const Ahead *ahead)
{
    /* Of a single vector there are registers for more rows, whose sums wait less for one another;
       where that leaves each of them one sum. */
    const int64_t most = V == 16 && width == V && rows > MR + 1 ? MT : MR;
    const int64_t blocks = count_units(rows, most);
    int64_t left = blocks;
    for (int64_t r = 0, height; r < rows; r += height, left--) {
        height = (rows - r + left - 1) / left; /* 10 rows are 5 and 5 rather than 6 and 4 */
        prefetch_share(ahead, blocks - left, blocks);
        for (int64_t o = 0; o < width; o += NR) {
            const int64_t vectors = smaller(NR / V, (width - o) / V);
            INNERS[(vectors - 1) * MT + height - 1](a + r, from, b + o, b_stride,
                                                    c + r * c_stride + o, c_stride, terms);
        }
    }
}

/* B += A^T C - shrink B for a panel B of a weight, cut into register blocks of at most `most` x
   `width`. c: [terms, outputs of the panel] in slices of `width` columns, `slice` floats apart. */
static void multiply_transposed(int64_t most, int64_t width, Panel panel, const float *const *a,
                                int64_t from, float *b, const float *c, int64_t c_stride,
                                int64_t slice, int64_t terms, float shrink, int64_t ahead)
{
    int64_t left = count_units(panel.inputs, most);
    for (int64_t r = 0, height; r < panel.inputs; r += height, left--) {
        height = (panel.inputs - r + left - 1) / left;
        for (int64_t o = 0; o < panel.outputs; o += width) {
            const int64_t vectors = smaller(width, panel.outputs - o) / V;
            float *to = b + r * panel.stride + o;
            if (ahead != 0)
                prefetch_block(to + ahead, height, vectors * V, panel.stride);
            OUTERS[(vectors - 1) * MT + height - 1](a, from + r, to, panel.stride,
                                                    c + o / width * slice, c_stride, terms, shrink);
        }
    }
}

/* ---- zeros in the inputs of the first layer ---- */

/* Append the positions in x[0..n) that are not zero; returns how many there are then. */
INLINE int64_t append_nonzero(const float *x, int64_t n, int32_t *list, int64_t count)
{
    int64_t i = 0;
#if V == 16
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
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

/* List the nonzero inputs of each row, panel by panel; returns 0 if there are too many: in all,
   or so many in the first rows that it is not worth looking on. */
static int find_nonzero(Network *net, const float *const *example, int64_t rows)
{
    const int64_t inputs = net->layer[0].inputs;
    const int64_t most = rows * inputs / SPARSE_SHARE;
    int64_t count = 0, *start = net->start;
    if (inputs < FEWEST_SPARSE)
        return 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = example[r];
        for (int64_t i = 0; i < inputs; i += KC) {
            *start++ = count;
            count = append_nonzero(x + i, smaller(KC, inputs - i), net->nonzero, count);
            if (count > most || count > (r + 1) * inputs / 2)
                return 0;
        }
    }
    *start = count;
    return 1;
}

/* Of some inputs, which examples of a group each is not zero in, as bits, and in how many.
   x: [rows], of which the inputs are columns `from` to `from + inputs`; bits, sizes: [inputs], these
   as floats, for `append_nonzero`. */
INLINE void mark_active(const float *const *x, int64_t rows, int64_t from, int64_t inputs,
                        int32_t *bits, float *sizes)
{
    int64_t i = 0;
    for (; i + V <= inputs; i += V) {
        ivec set = {0};
        vec size = {0};
        for (int64_t r = 0; r < rows; r++) {
            const ivec yes = load(x[r] + from + i) != 0.f; /* -1 */
            set |= yes & (int32_t)(UINT32_C(1) << r);
            size += blend(yes, broadcast(1.f), (vec){0});
        }
        memcpy(bits + i, &set, sizeof(ivec));
        store(sizes + i, size);
    }
    for (; i < inputs; i++) {
        uint32_t set = 0;
        for (int64_t r = 0; r < rows; r++)
            set |= (uint32_t)(x[r][from + i] != 0) << r;
        bits[i] = (int32_t)set;
        sizes[i] = (float)__builtin_popcount(set);
    }
}

/* List the inputs of a panel that are not zero in some example of a group, or all of them; returns
   how many. They are sorted by the number of those examples, so that the processor predicts when
   `sparse_outer` is done with an input: otherwise it would be wrong for most of them. */
static int64_t find_active(const float *const *x, int64_t rows, int64_t from, int64_t inputs,
                           int all, ActiveInput *active)
{
    int32_t bits[KC], list[KC];
    float sizes[KC];
    int64_t begin[GROUP + 2] = {0}; /* where those that are not zero in k examples begin */
    mark_active(x, rows, from, inputs, bits, sizes);
    int64_t count = append_nonzero(sizes, inputs, list, 0);
    for (int64_t i = 0; all && i < inputs; i++)
        list[i] = (int32_t)i;
    count = all ? inputs : count;
    for (int64_t n = 0; n < count; n++)
        begin[(int32_t)sizes[list[n]] + 1]++;
    for (int32_t k = 1; k <= GROUP; k++)
        begin[k] += begin[k - 1];
    for (int64_t n = 0; n < count; n++) {
        const int32_t i = list[n];
        active[begin[(int32_t)sizes[i]]++] = (ActiveInput){i, (uint32_t)bits[i]};
    }
    return count;
}

/* The same for a single example, whose nonzero inputs are listed already. */
static int64_t find_active_of_one(const int32_t *nonzero, int64_t count, ActiveInput *active)
{
    for (int64_t n = 0; n < count; n++)
        active[n] = (ActiveInput){nonzero[n], 1};
    return count;
}

static void find_all_active(Network *net, int64_t rows, int all)
{
    const int64_t inputs = net->layer[0].inputs, *start = net->start;
    int64_t *count = net->active_count;
    for (int64_t g = 0; g < rows; g += GROUP)
        for (int64_t i = 0; i < inputs; i += KC, start++) {
            ActiveInput *active = net->active + g / GROUP * inputs + i;
            if (rows == 1 && !all)
                *count++ = find_active_of_one(net->nonzero + start[0], start[1] - start[0], active);
            else
                *count++ = find_active(net->example + g, smaller(GROUP, rows - g), i,
                                       smaller(KC, inputs - i), all, active);
        }
}

/* Every number of outputs that a panel may have: the multiples of LANES up to NC. With registers for
   the sums of 2 NC, zeros are skipped once for two panels, of which the second is `apart`. */
#if V == 16
enum { WIDEST = 2 * NC };
#define EACH_WIDTH(F) F(16) F(32) F(48) F(64) F(128)
#else
enum { WIDEST = NC };
#define EACH_WIDTH(F) F(16) F(32) F(48) F(64)
#endif

/* y += x W over the listed inputs of a panel. x: its inputs; w: [KC, width], y: [width]. */
INLINE void sparse_inner(const int width, const float *x, const int32_t *list, int64_t count,
                         const float *w, int64_t apart, float *y)
{
    vec sum[WIDEST / V];
    const int vectors = width / V, stride = width < NC ? width : NC;
    UNROLLED_FOR(v, vectors)
        sum[v] = (vec){0};
    for (int64_t n = 0; n < count; n++) {
        const float input = x[list[n]];
        const float *weight = w + list[n] * (int64_t)stride, *second = weight + apart;
        UNROLLED_FOR(v, vectors)
            sum[v] += input * load(v * V < NC ? weight + v * V : second + (v * V - NC));
    }
    UNROLLED_FOR(v, vectors)
        store(y + v * V, load(y + v * V) + sum[v]);
}

/* W += X^T D - shrink W for the active inputs of a panel, each of whose sums stays in registers.
   x: rows of the group; from: the panel's first input; d: [rows of the group, stride]. */
INLINE void sparse_outer(const int width, const float *const *x, int64_t from,
                         const ActiveInput *active, int64_t count, const float *d, int64_t stride,
                         float *w, int64_t apart, float shrink)
{
    const int vectors = width / V, w_stride = width < NC ? width : NC;
    for (int64_t n = 0; n < count; n++) {
        const int64_t input = active[n].input;
        vec sum[WIDEST / V];
        UNROLLED_FOR(v, vectors)
            sum[v] = (vec){0};
        for (uint32_t left = active[n].rows; left != 0; left &= left - 1) {
            const int r = __builtin_ctz(left);
            const float value = x[r][from + input];
            UNROLLED_FOR(v, vectors)
                sum[v] += value * load(d + r * stride + v * V);
        }
        float *weight = w + input * w_stride, *second = weight + apart;
        UNROLLED_FOR(v, vectors) {
            float *to = v * V < NC ? weight + v * V : second + (v * V - NC);
            const vec before = load(to);
            if (shrink != 0)
                sum[v] -= shrink * before;
            store(to, before + sum[v]);
        }
    }
}

/* Y += X W for one panel w of the first layer, which begins at input `from`.
   y: [rows, outputs of the panel], from the panel's first output on. */
static void multiply_sparse(const Network *net, int64_t from, Panel panel, int64_t rows,
                            const float *w, float *y)
{
    const int64_t panels = count_panels(net->layer[0].inputs), apart = panel.inputs * NC;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t *start = net->start + r * panels + from / KC;
        const int32_t *list = net->nonzero + start[0];
        const int64_t count = start[1] - start[0];
        const float *x = net->example[r] + from;
        float *row = y + r * net->layer[0].padded;
#define CASE(width)                                         \
    case width:                                             \
        sparse_inner(width, x, list, count, w, apart, row); \
        break;
        switch (panel.outputs) {
            EACH_WIDTH(CASE)
        }
#undef CASE
    }
}

/* W += X^T D - shrink W for one panel w of the first layer and a group of examples.
   d: [rows of the group, outputs of the panel], from the panel's first output on. */
static void multiply_transposed_sparse(const Network *net, int64_t from, Panel panel, int64_t group,
                                       float *w, const float *d, float shrink)
{
    const int64_t inputs = net->layer[0].inputs, stride = net->layer[0].padded;
    const ActiveInput *active = net->active + group * inputs + from;
    const int64_t count = net->active_count[group * count_panels(inputs) + from / KC];
    const float *const *x = net->example + group * GROUP;
    const int64_t apart = panel.inputs * NC;
#define CASE(width)                                                               \
    case width:                                                                   \
        sparse_outer(width, x, from, active, count, d, stride, w, apart, shrink); \
        break;
    switch (panel.outputs) {
        EACH_WIDTH(CASE)
    }
#undef CASE
}
