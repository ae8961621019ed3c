// A tile of queries against blocks of keys: what the forward pass and the gradients of queries and of biases share.
#pragma once

#include "attention.scalar.cuh"

namespace mmk::cuda::flash {

// b holds slices of keys, then of rows of values.
template <class C, int wide> struct QueryRoom {
    static constexpr int rows = tile_rows<C>, width = lanes_of_columns * wide;
    C a[slice][rows + 4], b[slice][key_block + 4], p[key_block][rows + 4], factor[rows];
};

// What a thread holds of a tile's scores: its rows, and keys in packs of four.
inline constexpr int keys_each = key_block / side;
template <class C> using Scores = C[rows_each<C>][keys_each];

// The keys [key, key + count), the tile's first query, and whether some of the keys may be hidden from some of the tile.
struct KeyBlock {
    int64_t key, first;
    int count;
    bool some;

    MMK_MEMBER Sight sight(const AttentionItem& item, int64_t query, int64_t limit) const {
        return {some ? in_block(item.start(query), key, count) : 0, some ? in_block(limit, key, count) : count};
    }
};

// The biases of a tile's queries against a block's keys, onto scores of base 2, where key and query are in range.
template <class T, class C> __device__ inline void add_bias(Scores<C>& s, const Grid<T>& grid, const T* bias,
                                                            int64_t queries, const KeyBlock& block) {
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
#pragma unroll
        for (int j = 0; j < keys_each; ++j) {
            const int64_t query = block.first + ty * rows_each<C> + i, key = block.key + column_of<4>(tx, j);
            if (query < queries && key < block.key + block.count)
                s[i][j] = fma_scalar(widen(bias[query * grid.row + key * grid.step]), C(log2_e), s[i][j]);
        }
}

// The scores of base 2 of a block's keys, `problem` being Forward or Backward; q begins at the tile, k at the item.
// `slopes`, if not null, receives the soft cap's derivatives.
template <class Problem, class T, class C, int wide>
__device__ inline void find_scores(Scores<C>& s, QueryRoom<C, wide>& room, const Problem& problem, const Kept<T>& kept,
                                   const T* q, const T* k, const T* bias, const KeyBlock& block, Slopes<C>* slopes) {
    const Dress<T>& dress = problem.dress;
    dot_products<4>(s, room.a, room.b, room.p, q, problem.q.row, kept.rows - block.first, problem.folded,
                    k + block.key * problem.k.row, problem.k.row, block.count, C(1), problem.shape.depth);
    if (dress.more_than_bias())
        dress_scores<4, false>(s, room.p, slopes, dress, kept.relative, bias, kept.rows, block.key + block.count,
                               block.first, block.key, kept.item.position);
    else if (bias)
        add_bias(s, dress.bias, bias, problem.shape.queries, block);
}

// Scores, by now p or ds, for the chain over keys: [key][query], so that a thread's rows lie side by side.
template <class C, int pitch> MMK_PTX void keep(C (*to)[pitch], const Scores<C>& s) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int j = 0; j < keys_each; ++j) {
        Pack<C, rows> column;
#pragma unroll
        for (int i = 0; i < rows; ++i) column.at[i] = s[i][j];
        *reinterpret_cast<Pack<C, rows>*>(&to[column_of<4>(tx, j)][ty * rows]) = column;
    }
}

} // namespace mmk::cuda::flash
