/* Inner products of examples. Part of kernels.h.

   A block of them is a product like any other, once its columns' examples are transposed. Register
   blocks are never cut short, so a sum has the same order wherever a block begins or ends, and an
   inner product the same bits in either of its places. */

/* products[r][c] = left[r] . right[c], up to GRAM_ROWS x GRAM_COLUMNS of them.
   products: [rows, columns], in rows `stride` apart; room: its sums are zeros. */
static void inner_products(Rows left, Rows right, int64_t width, GramRoom *room, float *products,
                           int64_t stride)
{
    const int64_t rows = left.count, columns = right.count;
    const int64_t all = round_up(rows, MR);
    const float *row[GRAM_ROWS + MR];
    for (int64_t r = 0; r < all; r++)
        row[r] = room->left + r * KC;
    for (int64_t i = 0; i < width; i += KC) {
        const int64_t terms = smaller(KC, width - i);
        for (int64_t r = 0; r < rows; r++)
            copy(room->left + r * KC, left.matrix + left.index[r] * width + i, terms);
        for (int64_t c = 0; c < columns; c += NC) {
            const int64_t count = smaller(NC, columns - c), padded = round_up(count, LANES);
            for (int64_t k = 0; k < count; k++)
                copy(room->right + k * KC, right.matrix + right.index[c + k] * width + i, terms);
            transpose(room->right, KC, room->panel, padded, padded, count, terms);
            multiply(all, padded, row, 0, room->panel, padded, room->sums + c * all, padded, terms,
                     &(Ahead){0});
        }
    }
    for (int64_t c = 0; c < columns; c += NC) {
        const int64_t count = smaller(NC, columns - c), padded = round_up(count, LANES);
        for (int64_t r = 0; r < rows; r++)
            copy(products + r * stride + c, room->sums + c * all + r * padded, count);
    }
}
