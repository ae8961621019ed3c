// Attention and its gradients in the CPU floor's order, one fused multiply-add after another: float32 and float64, and
// the head dimensions that tensor cores do not take. 256 threads own a tile of queries (or of keys) and walk the blocks
// of the other side; scores stay in registers, p and ds pass through shared memory as [key][query] or [query][key], so
// that each thread finds the factors of its rows side by side.
#include "attention.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int side = 16, threads = side * side;
constexpr int key_block = 128, panel_queries = 48, chunk = 256; // of the definition (ops/attention.h)
constexpr int slice = 32;                  // of a head dimension, or of keys, that is staged at once
constexpr int lanes_of_columns = 4 * side; // columns of a thread come in fours

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

// A tile of queries against blocks of keys. b holds slices of keys, then of rows of values.
template <class C, int wide> struct QueryRoom {
    static constexpr int rows = tile_rows<C>, width = lanes_of_columns * wide;
    C a[slice][rows + 4], b[slice][key_block + 4], p[key_block][rows + 4], factor[rows];
};
// A tile of keys against panels of queries.
template <class C, int wide> struct KeyRoom {
    static constexpr int rows = tile_rows<C>, width = lanes_of_columns * wide, step = 16;
    C a[slice][rows + 4], b[slice][panel_queries + 4], values[step][width + 4];
    C p[panel_queries][rows + 4], ds[panel_queries][rows + 4];
};

// Where in the grid of tasks a block is: column groups fastest, so that those who read the same keys run together.
struct Place {
    int64_t group, tile, sample;
};
MMK_INLINE Place place_of(int64_t task, int64_t groups, int64_t tiles) {
    return {task % groups, task / groups % tiles, task / groups / tiles};
}
// Output columns beyond a tile's width are other blocks', which find the scores again.
template <int width> MMK_INLINE int64_t groups_of(int64_t columns) {
    return columns <= width ? 1 : ceil_div(columns, width);
}

// The scores of base 2 of a tile's queries against a block's keys, where key and query are in range.
template <class T, class Problem, class C>
__device__ inline void add_bias(C (&s)[rows_each<C>][key_block / side], const Problem& problem, const T* bias,
                                int64_t first_query, int64_t first_key, int count) {
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
#pragma unroll
        for (int j = 0; j < key_block / side; ++j) {
            const int64_t query = first_query + ty * rows_each<C> + i, key = first_key + column_of<4>(tx, j);
            if (query < problem.shape.queries && key < first_key + count)
                s[i][j] =
                    fma_scalar(widen(bias[query * problem.bias.row + key * problem.bias.step]), C(log2_e), s[i][j]);
        }
}
// How many of a block's `count` keys lie before the limit, and whether a query sees the one `at`.
MMK_INLINE int before_limit(int64_t limit, int64_t key, int count) {
    return int(limit - key < 0 ? 0 : limit - key < count ? limit - key : count);
}
MMK_INLINE bool sees(const Shape& shape, const uint8_t* mask, int64_t query, int64_t key, int at, int seen) {
    return at < seen && (!mask || mask[query * shape.mask.row + (key + at) * shape.mask.step]);
}

template <class T, int wide> __global__ void __launch_bounds__(threads, 1) attend(Forward<T> f, int64_t tasks) {
    using C = Compute<T>;
    using Room = QueryRoom<C, wide>;
    constexpr int rows = rows_each<C>, keys_each = key_block / side, columns_each = 4 * wide;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    // the threads that sum a row of p, key after key; they are spread over all warps
    const int sum_row = int(threadIdx.x) % (threads / Room::rows) == 0 ? int(threadIdx.x) / (threads / Room::rows) : -1;
    const Shape& shape = f.shape;
    const int64_t groups = groups_of<Room::width>(shape.columns), tiles = ceil_div(shape.queries, Room::rows);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Place place = place_of(task, groups, tiles);
        const int64_t b = place.sample / shape.heads, h = place.sample % shape.heads, first = place.tile * Room::rows;
        const T* const q = f.q.of(b, h) + first * f.q.row;
        const T *const k = f.k.of(b, h / shape.group), *const v =
                                                           f.v.of(b, h / shape.group) + place.group * Room::width;
        const int width = shape.columns - int(place.group) * Room::width;
        const uint8_t* const mask = shape.mask.of(b, h);
        const T* const bias = f.bias.of(b, h);
        C out[rows][columns_each] = {}, maximum[rows], total = C(0);
#pragma unroll
        for (int i = 0; i < rows; ++i) maximum[i] = minus_infinity<C>();
        const int64_t end = shape.limit(first, Room::rows);
        for (int64_t key = 0; key < end; key += key_block) {
            const int count = int(end - key < key_block ? end - key : key_block);
            const bool some = mask || key + count > shape.limit(first);
            C s[rows][keys_each], factor[rows];
            dot_products<4>(s, room.a, room.b, room.p, q, f.q.row, shape.queries - first, f.folded, k + key * f.k.row,
                            f.k.row, count, C(1), shape.depth);
            if (bias) add_bias(s, f, bias, first, key, count);
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                const int64_t query = first + ty * rows + i;
                const int seen = some ? before_limit(shape.limit(query), key, count) : count;
                uint32_t hides = 0;
                C top = maximum[i];
#pragma unroll
                for (int j = 0; j < keys_each; ++j) {
                    const int at = column_of<4>(tx, j);
                    if (!sees(shape, mask, query, key, at, seen)) hides |= 1u << j;
                    if (!(hides >> j & 1)) top = top < s[i][j] ? s[i][j] : top;
                }
#pragma unroll
                for (int lane = side / 2; lane >= 1; lane /= 2) {
                    const C other = __shfl_xor_sync(0xffffffffu, top, lane, side);
                    top = top < other ? other : top;
                }
                const C safe = top == minus_infinity<C>() ? C(0) : top; // -inf - -inf would be NaN
                factor[i] = softmax_exp2(maximum[i] - safe);
                maximum[i] = top;
#pragma unroll
                for (int j = 0; j < keys_each; ++j) {
                    s[i][j] = softmax_exp2(s[i][j] - safe);
                    if (hides >> j & 1) s[i][j] = hidden<C>();
                }
                if (tx == 0) room.factor[ty * rows + i] = factor[i];
            }
#pragma unroll
            for (int j = 0; j < keys_each; ++j) {
                Pack<C, rows> column;
#pragma unroll
                for (int i = 0; i < rows; ++i) column.at[i] = s[i][j];
                *reinterpret_cast<Pack<C, rows>*>(&room.p[column_of<4>(tx, j)][ty * rows]) = column;
            }
            __syncthreads();
            if (sum_row >= 0) {
                C sum = C(0);
                for (int i = 0; i < count; ++i)
                    if (const C p = room.p[i][sum_row]; !is_hidden(p)) sum = sum + p;
                total = fma_scalar(total, room.factor[sum_row], sum);
            }
            C chain[rows][columns_each];
            chain_of<slice>(chain, room.p, room.b, v + key * f.v.row, f.v.row, count, width, some);
#pragma unroll
            for (int i = 0; i < rows; ++i)
#pragma unroll
                for (int j = 0; j < columns_each; ++j) out[i][j] = fma_scalar(out[i][j], factor[i], chain[i][j]);
        }
        __syncthreads();
        if (sum_row >= 0) room.factor[sum_row] = total;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            const int64_t query = first + ty * rows + i;
            if (query >= shape.queries) continue;
            const C sum = room.factor[ty * rows + i], inverse = C(1) / sum;
            const bool alive = sum != C(0);
            T* const y = f.y.of(b, h) + query * f.y.row + place.group * Room::width;
#pragma unroll
            for (int j = 0; j < columns_each; ++j)
                if (const int at = column_of<4>(tx, j); at < width)
                    y[at] = narrow<T>(alive ? out[i][j] * inverse + C(0) : C(0));
            if (f.lse && tx == 0 && place.group == 0)
                f.lse[place.sample * shape.queries + query] =
                    alive ? fma_scalar(maximum[i], C(ln_2), log(sum)) : minus_infinity<C>();
        }
    }
}

template <class T, int wide> __global__ void __launch_bounds__(threads, 1)
    differentiate_queries(Backward<T> g, int64_t tasks) {
    using C = Compute<T>;
    using Room = QueryRoom<C, wide>;
    constexpr int rows = rows_each<C>, keys_each = key_block / side, columns_each = 4 * wide;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const Shape& shape = g.shape;
    const int64_t groups = g.gbias ? 1 : groups_of<Room::width>(shape.depth),
                  tiles = ceil_div(shape.queries, Room::rows);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Place place = place_of(task, groups, tiles);
        const int64_t b = place.sample / shape.heads, h = place.sample % shape.heads, first = place.tile * Room::rows;
        const T *const q = g.q.of(b, h) + first * g.q.row, *const gy = g.gy.of(b, h) + first * g.gy.row;
        const T *const k = g.k.of(b, h / shape.group), *const v = g.v.of(b, h / shape.group);
        const int width = shape.depth - int(place.group) * Room::width;
        C sum[rows][columns_each] = {}, lse[rows], delta[rows];
        bool dead = false;
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            const int64_t query = first + ty * rows + i, row = place.sample * shape.queries + query;
            lse[i] = query < shape.queries ? g.lse[row] : minus_infinity<C>();
            delta[i] = query < shape.queries ? g.delta[row] : C(0);
            dead |= query < shape.queries && lse[i] == minus_infinity<C>();
        }
        const bool any_dead = __syncthreads_or(dead);
        const int64_t end = shape.limit(first, Room::rows);
        for (int64_t key = 0; key < (g.gbias ? shape.keys : end); key += key_block) {
            const int count = int(end - key < 0 ? 0 : end - key < key_block ? end - key : key_block);
            const uint8_t* const mask = shape.mask.of(b, h);
            const bool some = mask || any_dead || key + count > shape.limit(first);
            C s[rows][keys_each], dp[rows][keys_each];
            if (count > 0) {
                dot_products<4>(s, room.a, room.b, room.p, q, g.q.row, shape.queries - first, g.folded,
                                k + key * g.k.row, g.k.row, count, C(1), shape.depth);
                if (const T* const bias = g.bias.of(b, h)) add_bias(s, g, bias, first, key, count);
                dot_products<4>(dp, room.a, room.b, room.p, gy, g.gy.row, shape.queries - first, C(1),
                                v + key * g.v.row, g.v.row, count, C(1), shape.columns);
            }
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                const int64_t query = first + ty * rows + i;
                const int64_t limit = lse[i] == minus_infinity<C>() ? 0 : shape.limit(query);
                const int seen = some ? before_limit(limit, key, count) : count;
#pragma unroll
                for (int j = 0; j < keys_each; ++j) {
                    const int at = column_of<4>(tx, j);
                    if (sees(shape, mask, query, key, at, seen)) {
                        const C p = softmax_exp2(fma_scalar(C(-log2_e), lse[i], s[i][j]));
                        s[i][j] = p * (dp[i][j] - delta[i]);
                    } else
                        s[i][j] = hidden<C>();
                    if (g.gbias && query < shape.queries && key + at < shape.keys)
                        g.gbias[(place.sample * shape.queries + query) * shape.keys + key + at] =
                            narrow<T>(is_hidden(s[i][j]) ? C(0) : s[i][j]);
                }
            }
            if (g.gbias) continue;
#pragma unroll
            for (int j = 0; j < keys_each; ++j) {
                Pack<C, rows> column;
#pragma unroll
                for (int i = 0; i < rows; ++i) column.at[i] = s[i][j];
                *reinterpret_cast<Pack<C, rows>*>(&room.p[column_of<4>(tx, j)][ty * rows]) = column;
            }
            C chain[rows][columns_each];
            chain_of<slice>(chain, room.p, room.b, k + key * g.k.row + place.group * Room::width, g.k.row, count, width,
                            some);
#pragma unroll
            for (int i = 0; i < rows; ++i)
#pragma unroll
                for (int j = 0; j < columns_each; ++j) sum[i][j] = sum[i][j] + chain[i][j];
        }
        __syncthreads(); // the next tile's votes and sums
        if (g.gbias) continue;
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (const int64_t query = first + ty * rows + i; query < shape.queries)
#pragma unroll
                for (int j = 0; j < columns_each; ++j)
                    if (const int at = column_of<4>(tx, j); at < width)
                        g.gq.of(b, h)[query * g.gq.row + place.group * Room::width + at] =
                            narrow<T>(sum[i][j] * g.scale);
    }
}

template <class T, int wide> __global__ void __launch_bounds__(threads, 1)
    differentiate_keys(Backward<T> g, int64_t tasks) {
    using C = Compute<T>;
    using Room = KeyRoom<C, wide>;
    constexpr int rows = rows_each<C>, queries_each = panel_queries / side, columns_each = 4 * wide;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const Shape& shape = g.shape;
    const int widest = shape.depth > shape.columns ? shape.depth : shape.columns;
    const int64_t groups = groups_of<Room::width>(widest), tiles = ceil_div(shape.keys, Room::rows);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Place place = place_of(task, groups, tiles);
        const int64_t b = place.sample / shape.key_heads, key_head = place.sample % shape.key_heads;
        const int64_t key = place.tile * Room::rows, column = place.group * Room::width;
        const int64_t left = shape.keys - key;
        const T *const k = g.k.of(b, key_head) + key * g.k.row, *const v = g.v.of(b, key_head) + key * g.v.row;
        C gk[rows][columns_each] = {}, gv[rows][columns_each] = {};
        for (int64_t h = key_head * shape.group; h < (key_head + 1) * shape.group; ++h)
            for (int64_t first = 0; first < shape.queries; first += panel_queries) {
                if (shape.limit(first, panel_queries) <= key) continue;
                const int64_t rest = shape.queries - first;
                const int count = int(rest < panel_queries ? rest : panel_queries);
                const T *const q = g.q.of(b, h) + first * g.q.row, *const gy = g.gy.of(b, h) + first * g.gy.row;
                const uint8_t* const mask = shape.mask.of(b, h);
                const T* const bias = g.bias.of(b, h);
                C s[rows][queries_each], dp[rows][queries_each];
                dot_products<1>(s, room.a, room.b, room.p, k, g.k.row, left, C(1), q, g.q.row, rest, g.folded,
                                shape.depth);
                dot_products<1>(dp, room.a, room.b, room.p, v, g.v.row, left, C(1), gy, g.gy.row, rest, C(1),
                                shape.columns);
#pragma unroll
                for (int j = 0; j < queries_each; ++j) {
                    const int at = column_of<1>(tx, j);
                    const int64_t query = first + at, row = (b * shape.heads + h) * shape.queries + query;
                    const bool real = at < count;
                    const C lse = real ? g.lse[row] : minus_infinity<C>(), delta = real ? g.delta[row] : C(0);
                    const int64_t limit = lse == minus_infinity<C>() ? 0 : shape.limit(query);
                    const int seen = before_limit(limit, key, Room::rows);
                    Pack<C, rows> p, ds;
#pragma unroll
                    for (int i = 0; i < rows; ++i) {
                        const int64_t other = key + ty * rows + i;
                        if (sees(shape, mask, query, key, ty * rows + i, seen)) {
                            const C score = bias ? fma_scalar(widen(bias[query * g.bias.row + other * g.bias.step]),
                                                              C(log2_e), s[i][j])
                                                 : s[i][j];
                            p.at[i] = softmax_exp2(fma_scalar(C(-log2_e), lse, score));
                            ds.at[i] = p.at[i] * (dp[i][j] - delta);
                        } else
                            p.at[i] = ds.at[i] = hidden<C>();
                    }
                    *reinterpret_cast<Pack<C, rows>*>(&room.p[at][ty * rows]) = p;
                    *reinterpret_cast<Pack<C, rows>*>(&room.ds[at][ty * rows]) = ds;
                }
                C chain[rows][columns_each];
                if (column < shape.columns) {
                    chain_of<Room::step>(chain, room.p, room.values, gy + column, g.gy.row, count,
                                         shape.columns - int(column), true);
#pragma unroll
                    for (int i = 0; i < rows; ++i)
#pragma unroll
                        for (int j = 0; j < columns_each; ++j) gv[i][j] = gv[i][j] + chain[i][j];
                }
                if (column < shape.depth) {
                    chain_of<Room::step>(chain, room.ds, room.values, q + column, g.q.row, count,
                                         shape.depth - int(column), true);
#pragma unroll
                    for (int i = 0; i < rows; ++i)
#pragma unroll
                        for (int j = 0; j < columns_each; ++j) gk[i][j] = gk[i][j] + chain[i][j];
                }
            }
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (const int64_t other = key + ty * rows + i; other < shape.keys)
#pragma unroll
                for (int j = 0; j < columns_each; ++j) {
                    const int64_t at = column + column_of<4>(tx, j);
                    if (at < shape.depth) g.gk.of(b, key_head)[other * g.gk.row + at] = narrow<T>(gk[i][j] * g.scale);
                    if (at < shape.columns) g.gv.of(b, key_head)[other * g.gv.row + at] = narrow<T>(gv[i][j]);
                }
    }
}

template <class T, int wide> void launch_forward(Context& context, const Forward<T>& f) {
    using Room = QueryRoom<Compute<T>, wide>;
    const int64_t tasks =
        f.shape.batch * f.shape.heads * ceil_div(f.shape.queries, Room::rows) * groups_of<Room::width>(f.shape.columns);
    if (tasks > 0) MMK_LAUNCH(context, (attend<T, wide>), grid_of(tasks), threads, sizeof(Room), f, tasks);
}
template <class T, int wide> void launch_queries(Context& context, const Backward<T>& g) {
    using Room = QueryRoom<Compute<T>, wide>;
    const int64_t tasks = g.shape.batch * g.shape.heads * ceil_div(g.shape.queries, Room::rows) *
                          (g.gbias ? 1 : groups_of<Room::width>(g.shape.depth));
    if (tasks > 0)
        MMK_LAUNCH(context, (differentiate_queries<T, wide>), grid_of(tasks), threads, sizeof(Room), g, tasks);
}
template <class T, int wide> void launch_keys(Context& context, const Backward<T>& g) {
    using Room = KeyRoom<Compute<T>, wide>;
    const int widest = g.shape.depth > g.shape.columns ? g.shape.depth : g.shape.columns;
    const int64_t tasks =
        g.shape.batch * g.shape.key_heads * ceil_div(g.shape.keys, Room::rows) * groups_of<Room::width>(widest);
    if (tasks > 0) MMK_LAUNCH(context, (differentiate_keys<T, wide>), grid_of(tasks), threads, sizeof(Room), g, tasks);
}

// 128 columns a block where that saves finding scores twice; the other types are not worth more code.
template <class T> bool is_wide(int columns) { return std::is_same_v<T, float> && columns > lanes_of_columns; }

} // namespace

template <class T> void forward_scalar(Context& context, const Forward<T>& problem) {
    if constexpr (std::is_same_v<T, float>)
        if (is_wide<T>(problem.shape.columns)) return launch_forward<T, 2>(context, problem);
    launch_forward<T, 1>(context, problem);
}
template <class T> void backward_queries_scalar(Context& context, const Backward<T>& problem) {
    if constexpr (std::is_same_v<T, float>)
        if (is_wide<T>(problem.shape.depth)) return launch_queries<T, 2>(context, problem);
    launch_queries<T, 1>(context, problem);
}
template <class T> void backward_keys_scalar(Context& context, const Backward<T>& problem) {
    if constexpr (std::is_same_v<T, float>)
        if (is_wide<T>(problem.shape.depth > problem.shape.columns ? problem.shape.depth : problem.shape.columns))
            return launch_keys<T, 2>(context, problem);
    launch_keys<T, 1>(context, problem);
}

#define MMK_ATTENTION_SCALAR(T)                                                                                        \
    template void forward_scalar(Context&, const Forward<T>&);                                                         \
    template void backward_queries_scalar(Context&, const Backward<T>&);                                               \
    template void backward_keys_scalar(Context&, const Backward<T>&);
MMK_ATTENTION_SCALAR(float)
MMK_ATTENTION_SCALAR(double)

} // namespace mmk::cuda::flash
