// What the kernels of attention's scalar order are made of: tiles that are staged in shared memory, chains of products in
// registers, and which of a block's keys a query sees.
#pragma once

#include "attention.cuh"

namespace mmk::cuda::flash {

inline constexpr int side = 16, threads = side * side;
inline constexpr int key_block = 128, panel_queries = 48, chunk = 256; // of the definition (ops/attention.h)
inline constexpr int slice = 32;                  // of a head dimension, or of keys, that is staged at once
inline constexpr int lanes_of_columns = 4 * side; // columns of a thread come in fours

// Rows of a thread: eight bytes' numbers need twice the registers and the shared memory.
template <class C> inline constexpr int rows_each = sizeof(C) == 4 ? 4 : 2;
template <class C> inline constexpr int tile_rows = side * rows_each<C>;

// Columns of a thread, in packs of W.
template <int W> MMK_INLINE int column_of(int tx, int j) { return j / W * side * W + tx * W + j % W; }

// to[d][i] = from[i][d] * factor for d in [0, depth) and rows i in [0, count); further rows are zero. A warp takes 8 d of
// 4 rows: whole sectors of global memory, and 32 banks, since every pitch is 4 more than a multiple of 16.
template <int rows, int pitch, class C, class T> __device__ inline void
stage_columns(C (&to)[slice][pitch], const T* from, int64_t row, int64_t count, int depth, C factor) {
#pragma unroll 4
    for (int i = int(threadIdx.x); i < rows * slice; i += threads) {
        const int lane = i % 32, group = i / 32;
        const int d = group % (slice / 8) * 8 + lane % 8, r = group / (slice / 8) * 4 + lane / 8;
        if (d < depth) to[d][r] = r < count ? widen(from[r * row + d]) * factor : C(0);
    }
}
// to[i][c] = from[i][c] of rows [0, count); columns from `columns` on are zero.
template <int width, int pitch, class C, class T>
__device__ inline void stage_rows(C (*to)[pitch], const T* from, int64_t row, int count, int columns) {
#pragma unroll 4
    for (int i = int(threadIdx.x); i < count * width; i += threads) {
        const int c = i % width, r = i / width;
        to[r][c] = c < columns ? widen(from[r * row + c]) : C(0);
    }
}

// sum[i][j] = a of the thread's row i . b of its column j: chains of 256 products, added in order. `park` keeps the sum of
// the chunks before the last: registers hold one chain.
template <int W, int columns, class C, int pitch_a, int pitch_b, int pitch_p, class T>
__device__ inline void dot_products(C (&sum)[rows_each<C>][columns], C (&room_a)[slice][pitch_a],
                                    C (&room_b)[slice][pitch_b], C (*park)[pitch_p], const T* a, int64_t a_row,
                                    int64_t a_count, C a_factor, const T* b, int64_t b_row, int64_t b_count, C b_factor,
                                    int depth) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows; ++i)
#pragma unroll
        for (int j = 0; j < columns; ++j) sum[i][j] = C(0);
    for (int first = 0; first < depth; first += slice) {
        const int count = depth - first < slice ? depth - first : slice;
        if (first > 0 && first % chunk == 0)
#pragma unroll
            for (int j = 0; j < columns; ++j)
#pragma unroll
                for (int i = 0; i < rows; ++i) {
                    C& parked = park[column_of<W>(tx, j)][ty * rows + i];
                    parked = first == chunk ? sum[i][j] : parked + sum[i][j];
                    sum[i][j] = C(0);
                }
        if (!MMK_DEFECT(attention_missing_barrier)) __syncthreads(); // what was staged before has been read
        stage_columns<side * rows>(room_a, a + first, a_row, a_count, count, a_factor);
        stage_columns<side * columns>(room_b, b + first, b_row, b_count, count, b_factor);
        __syncthreads();
#pragma unroll 2
        for (int d = 0; d < count; ++d) {
            const auto x = *reinterpret_cast<const Pack<C, rows>*>(&room_a[d][ty * rows]);
            Pack<C, W> y[columns / W];
#pragma unroll
            for (int j = 0; j < columns / W; ++j)
                y[j] = *reinterpret_cast<const Pack<C, W>*>(&room_b[d][column_of<W>(tx, j * W)]);
#pragma unroll
            for (int i = 0; i < rows; ++i)
#pragma unroll
                for (int j = 0; j < columns; ++j) sum[i][j] = fma_scalar(x.at[i], y[j / W].at[j % W], sum[i][j]);
        }
    }
    if (depth > chunk)
#pragma unroll
        for (int j = 0; j < columns; ++j)
#pragma unroll
            for (int i = 0; i < rows; ++i) sum[i][j] = park[column_of<W>(tx, j)][ty * rows + i] + sum[i][j];
}

// sum[i][j] += factors[k][row i] * values[k][column j], k rising; with `some`, hidden factors are left out.
template <bool some, int columns, class C, int pitch_f, int pitch_v> __device__ inline void
continue_chain(C (&sum)[rows_each<C>][columns], const C (*factors)[pitch_f], const C (*values)[pitch_v], int count) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll 2
    for (int k = 0; k < count; ++k) {
        const auto x = *reinterpret_cast<const Pack<C, rows>*>(&factors[k][ty * rows]);
        Pack<C, 4> y[columns / 4];
#pragma unroll
        for (int j = 0; j < columns / 4; ++j)
            y[j] = *reinterpret_cast<const Pack<C, 4>*>(&values[k][column_of<4>(tx, j * 4)]);
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (!some || !is_hidden(x.at[i]))
#pragma unroll
                for (int j = 0; j < columns; ++j) sum[i][j] = fma_scalar(x.at[i], y[j / 4].at[j % 4], sum[i][j]);
    }
}
// The chain over all of a block's `count` keys or queries, whose values are staged `step` at a time.
template <int step, int columns, class C, int pitch_f, int pitch_v, class T>
__device__ inline void chain_of(C (&sum)[rows_each<C>][columns], const C (*factors)[pitch_f], C (*room)[pitch_v],
                                const T* values, int64_t row, int count, int width, bool some) {
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
#pragma unroll
        for (int j = 0; j < columns; ++j) sum[i][j] = C(0);
    for (int first = 0; first < count; first += step) {
        const int rows = count - first < step ? count - first : step;
        __syncthreads();
        stage_rows<side * columns>(room, values + first * row, row, rows, width);
        __syncthreads();
        if (some)
            continue_chain<true>(sum, factors + first, room, rows);
        else
            continue_chain<false>(sum, factors + first, room, rows);
    }
}

template <int columns, class C>
MMK_PTX void add_chain(C (&sum)[rows_each<C>][columns], const C (&chain)[rows_each<C>][columns]) {
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
#pragma unroll
        for (int j = 0; j < columns; ++j) sum[i][j] = sum[i][j] + chain[i][j];
}

// A block's task: a tile of rows of an item's head, and some columns of the results. Columns run fastest, so that the
// blocks that read the same keys run together.
struct Task {
    int64_t b, h, first, column;
};
template <class Room> MMK_INLINE Task task_of(int64_t task, int64_t groups, int64_t tiles, int64_t heads) {
    const int64_t sample = task / groups / tiles;
    return {sample / heads, sample % heads, task / groups % tiles * Room::rows, task % groups * Room::width};
}
// Output columns beyond a tile's width are other blocks', which find the scores again.
template <int width> MMK_INLINE int64_t groups_of(int64_t columns) {
    return columns <= width ? 1 : ceil_div(columns, width);
}
// 128 columns a block where that saves finding scores twice; types but float32 are not worth more code.
inline bool is_wide(int columns) { return columns > lanes_of_columns; }

// How many of a block's `count` keys lie before a bound.
MMK_INLINE int in_block(int64_t bound, int64_t key, int count) {
    return int(bound - key < 0 ? 0 : bound - key < count ? bound - key : count);
}
// The keys of a block that a query sees, but for the mask; `limit` is the first behind them.
struct Sight {
    int begin, end;
};
MMK_INLINE Sight sight_of(const AttentionItem& item, int64_t query, int64_t limit, int64_t key, int count) {
    return {in_block(item.start(query), key, count), in_block(limit, key, count)};
}
MMK_INLINE bool sees(const Shape& shape, const uint8_t* mask, int64_t query, int64_t key, int at, const Sight& sight) {
    return at >= sight.begin && at < sight.end &&
           (!mask || mask[query * shape.mask.row + (key + at) * shape.mask.step]);
}

// What a block knows of its item and head: in shared memory, as it is needed once a block of keys, and registers are full.
template <class T> struct Kept {
    AttentionItem item;
    Relative<T> relative;
    int64_t rows, keys; // of the item's results

    MMK_PTX void find(const Shape& shape, const Dress<T>& dress, int64_t b, int64_t h) {
        __syncthreads(); // the last task's has been read
        if (threadIdx.x == 0) {
            const AttentionItem it = shape.item(b);
            item = it, relative = dress.relative(b, h), rows = shape.rows(it), keys = shape.key_rows(it);
        }
        __syncthreads();
    }
};

// A key's derivatives of the soft cap, by query of the tile.
template <class C> using Slopes = C[tile_rows<C> + 4];
template <class C> inline constexpr Slopes<C>* no_slopes = nullptr;

// Products become scores of base 2, soft cap, distances and bias included, where key and query are in range; a thread's
// own pass through shared memory, so that the code is there once and not once a register. `slopes`, if not null, receives
// the soft cap's derivatives. Columns are keys and rows queries, or the other way round.
template <int W, bool keys_are_rows, int columns, class T, class C, int pitch>
__device__ inline void dress_scores(C (&s)[rows_each<C>][columns], C (*park)[pitch], C (*slopes)[pitch],
                                    const Dress<T>& dress, const Relative<T>& relative, const T* bias, int64_t queries,
                                    int64_t keys, int64_t first_query, int64_t first_key, int64_t position) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int j = 0; j < columns; ++j)
#pragma unroll
        for (int i = 0; i < rows; ++i) park[column_of<W>(tx, j)][ty * rows + i] = s[i][j];
#pragma unroll 1
    for (int j = 0; j < columns; ++j)
#pragma unroll 1
        for (int i = 0; i < rows; ++i) {
            const int column = column_of<W>(tx, j), row = ty * rows + i;
            const int64_t query = first_query + (keys_are_rows ? column : row);
            const int64_t key = first_key + (keys_are_rows ? row : column);
            if (query >= queries || key >= keys) continue;
            C slope;
            park[column][row] = dress.score(park[column][row], relative, bias, query, key, position, slope);
            if (slopes) slopes[column][row] = slope;
        }
#pragma unroll
    for (int j = 0; j < columns; ++j)
#pragma unroll
        for (int i = 0; i < rows; ++i) s[i][j] = park[column_of<W>(tx, j)][ty * rows + i];
}

} // namespace mmk::cuda::flash
