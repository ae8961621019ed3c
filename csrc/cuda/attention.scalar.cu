// Attention and its gradients in the CPU floor's order, one fused multiply-add after another: float32 and float64, and
// the head dimensions and options that tensor cores do not take. 256 threads own a tile of queries (or of keys) and walk
// the blocks of the other side; scores stay in registers, p and ds pass through shared memory as [key][query] or
// [query][key], so that each thread finds the factors of its rows side by side.
#include "attention.scalar.cuh"

namespace mmk::cuda::flash {
namespace {

// A tile of queries against blocks of keys. b holds slices of keys, then of rows of values.
template <class C, int wide> struct QueryRoom {
    static constexpr int rows = tile_rows<C>, width = lanes_of_columns * wide;
    C a[slice][rows + 4], b[slice][key_block + 4], p[key_block][rows + 4], factor[rows];
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

// The biases of a tile's queries against a block's keys, onto scores of base 2, where key and query are in range.
template <class T, class C> __device__ inline void add_bias(C (&s)[rows_each<C>][key_block / side], const Grid<T>& grid,
                                                            const T* bias, int64_t queries, int64_t first_query,
                                                            int64_t first_key, int count) {
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
#pragma unroll
        for (int j = 0; j < key_block / side; ++j) {
            const int64_t query = first_query + ty * rows_each<C> + i, key = first_key + column_of<4>(tx, j);
            if (query < queries && key < first_key + count)
                s[i][j] = fma_scalar(widen(bias[query * grid.row + key * grid.step]), C(log2_e), s[i][j]);
        }
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
    SHARED(Kept<T>, kept, [1]);
    const int64_t groups = groups_of<Room::width>(shape.columns), tiles = ceil_div(shape.queries, Room::rows);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Place place = place_of(task, groups, tiles);
        const int64_t b = place.sample / shape.heads, h = place.sample % shape.heads, first = place.tile * Room::rows;
        kept[0].find(shape, f.dress, b, h);
        const AttentionItem& item = kept[0].item;
        const T* const q = f.q.of(b, h) + (item.query_start + first) * f.q.row;
        const T* const k = f.k.of(b, h / shape.group) + item.key_start * f.k.row;
        const T* const v = f.v.of(b, h / shape.group) + item.key_start * f.v.row + place.group * Room::width;
        const int width = shape.columns - int(place.group) * Room::width;
        const uint8_t* const mask = shape.mask.of(b, h);
        const T* const bias = f.dress.bias.of(b, h);
        C out[rows][columns_each] = {}, maximum[rows], total = C(0);
#pragma unroll
        for (int i = 0; i < rows; ++i) maximum[i] = minus_infinity<C>();
        const int64_t end = last_limit(item, first, Room::rows);
        for (int64_t key = item.start(first) / key_block * key_block; key < end; key += key_block) {
            const int count = int(end - key < key_block ? end - key : key_block);
            const bool some = mask || !all_see(item, shape.queries, first, Room::rows, key, count);
            C s[rows][keys_each], factor[rows];
            dot_products<4>(s, room.a, room.b, room.p, q, f.q.row, kept[0].rows - first, f.folded, k + key * f.k.row,
                            f.k.row, count, C(1), shape.depth);
            if (f.dress.more_than_bias())
                dress_scores<4, false>(s, room.p, no_slopes<C, Room::rows>, f.dress, kept[0].relative, bias,
                                       kept[0].rows, key + count, first, key, item.position);
            else if (bias)
                add_bias(s, f.dress.bias, bias, shape.queries, first, key, count);
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                const int64_t query = first + ty * rows + i;
                const int begin = some ? in_block(item.start(query), key, count) : 0;
                const int seen = some ? in_block(item.limit(query), key, count) : count;
                uint32_t hides = 0;
                C top = maximum[i];
#pragma unroll
                for (int j = 0; j < keys_each; ++j) {
                    const int at = column_of<4>(tx, j);
                    if (!sees(shape, mask, query, key, at, begin, seen)) hides |= 1u << j;
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
            if (query >= kept[0].rows) continue;
            C sum = room.factor[ty * rows + i], empty = minus_infinity<C>();
            const bool alive = sum != C(0);
            if (f.sink) {
                const C own = widen(f.sink[h]), score = own * C(log2_e);
                const C top = maximum[i] < score ? score : maximum[i], factor = softmax_exp2(maximum[i] - top);
                sum = fma_scalar(sum, factor, softmax_exp2(score - top));
                maximum[i] = top;
                empty = query < item.queries ? own : empty;
#pragma unroll
                for (int j = 0; j < columns_each; ++j) out[i][j] = out[i][j] * factor;
            }
            const C inverse = C(1) / sum;
            const int64_t row = item.query_start + query;
            T* const y = f.y.of(b, h) + row * f.y.row + place.group * Room::width;
#pragma unroll
            for (int j = 0; j < columns_each; ++j)
                if (const int at = column_of<4>(tx, j); at < width)
                    y[at] = narrow<T>(alive ? out[i][j] * inverse + C(0) : C(0));
            if (f.lse && tx == 0 && place.group == 0)
                f.lse[shape.rule.row(shape.heads, b, h) + row] =
                    alive ? fma_scalar(maximum[i], C(ln_2), log(sum)) : empty;
        }
    }
}

// Where a task's operands begin: in shared memory, as registers are few.
template <class T> struct TaskRows {
    const T *q, *gy, *k, *v;
};

template <class T, int wide> __global__ void __launch_bounds__(threads, 1)
    differentiate_queries(Backward<T> g, int64_t tasks) {
    using C = Compute<T>;
    using Room = QueryRoom<C, wide>;
    constexpr int rows = rows_each<C>, keys_each = key_block / side, columns_each = 4 * wide;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    const bool capped = g.dress.cap > C(0) && !g.gbias;
    auto* const slopes = reinterpret_cast<Slopes<C>*>(memory + 1); // where there is a soft cap
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const Shape& shape = g.shape;
    SHARED(Kept<T>, kept, [1]);
    SHARED(TaskRows<T>, rows_of, [1]);
    const int64_t groups = g.gbias ? 1 : groups_of<Room::width>(shape.depth),
                  tiles = ceil_div(shape.queries, Room::rows);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Place place = place_of(task, groups, tiles);
        const int64_t b = place.sample / shape.heads, h = place.sample % shape.heads, first = place.tile * Room::rows;
        kept[0].find(shape, g.dress, b, h);
        const AttentionItem& item = kept[0].item;
        const int64_t head_row = shape.rule.row(shape.heads, b, h) + item.query_start;
        if (threadIdx.x == 0)
            rows_of[0] = {g.q.of(b, h) + (item.query_start + first) * g.q.row,
                          g.gy.of(b, h) + (item.query_start + first) * g.gy.row,
                          g.k.of(b, h / shape.group) + item.key_start * g.k.row,
                          g.v.of(b, h / shape.group) + item.key_start * g.v.row};
        const uint8_t* const mask = shape.mask.of(b, h);
        const T* const bias = g.dress.bias.of(b, h);
        const int width = shape.depth - int(place.group) * Room::width;
        C sum[rows][columns_each] = {}, lse[rows], delta[rows];
        bool dead = false;
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            const int64_t query = first + ty * rows + i, row = head_row + query;
            lse[i] = query < kept[0].rows ? g.lse[row] : minus_infinity<C>();
            delta[i] = query < kept[0].rows ? g.delta[row] : C(0);
            dead |= query < kept[0].rows && lse[i] == minus_infinity<C>();
        }
        const bool any_dead = __syncthreads_or(dead);
        const int64_t begin = item.start(first) / key_block * key_block, end = last_limit(item, first, Room::rows);
        for (int64_t key = g.gbias ? 0 : begin; key < (g.gbias ? shape.keys : end); key += key_block) {
            const int count = int(end - key < 0 ? 0 : end - key < key_block ? end - key : key_block);
            const bool some = mask || any_dead || !all_see(item, shape.queries, first, Room::rows, key, count);
            C s[rows][keys_each], dp[rows][keys_each];
            if (count > 0) {
                dot_products<4>(s, room.a, room.b, room.p, rows_of[0].q, g.q.row, kept[0].rows - first, g.folded,
                                rows_of[0].k + key * g.k.row, g.k.row, count, C(1), shape.depth);
                if (!g.dress.more_than_bias() && bias)
                    add_bias(s, g.dress.bias, bias, shape.queries, first, key, count);
                dot_products<4>(dp, room.a, room.b, room.p, rows_of[0].gy, g.gy.row, kept[0].rows - first, C(1),
                                rows_of[0].v + key * g.v.row, g.v.row, count, C(1), shape.columns);
                if (g.dress.more_than_bias())
                    dress_scores<4, false>(s, room.p, capped ? slopes : no_slopes<C, Room::rows>, g.dress,
                                           kept[0].relative, bias, kept[0].rows, key + count, first, key,
                                           item.position);
            }
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                const int64_t query = first + ty * rows + i;
                const int64_t limit = lse[i] == minus_infinity<C>() ? 0 : item.limit(query);
                const int from = some ? in_block(item.start(query), key, count) : 0;
                const int seen = some ? in_block(limit, key, count) : count;
#pragma unroll
                for (int j = 0; j < keys_each; ++j) {
                    const int at = column_of<4>(tx, j);
                    if (sees(shape, mask, query, key, at, from, seen)) {
                        const C p = softmax_exp2(fma_scalar(C(-log2_e), lse[i], s[i][j]));
                        s[i][j] = p * (dp[i][j] - delta[i]);
                        if (capped) s[i][j] = s[i][j] * slopes[at][ty * rows + i];
                    } else
                        s[i][j] = hidden<C>();
                    if (g.gbias && query < shape.queries && key + at < shape.keys)
                        g.gbias[(head_row + query) * shape.keys + key + at] =
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
            chain_of<slice>(chain, room.p, room.b, rows_of[0].k + key * g.k.row + place.group * Room::width, g.k.row,
                            count, width, some);
#pragma unroll
            for (int i = 0; i < rows; ++i)
#pragma unroll
                for (int j = 0; j < columns_each; ++j) sum[i][j] = sum[i][j] + chain[i][j];
        }
        __syncthreads(); // the next tile's votes and sums
        if (g.gbias) continue;
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (const int64_t query = first + ty * rows + i; query < kept[0].rows)
#pragma unroll
                for (int j = 0; j < columns_each; ++j)
                    if (const int at = column_of<4>(tx, j); at < width)
                        g.gq.of(b, h)[(item.query_start + query) * g.gq.row + place.group * Room::width + at] =
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
    SHARED(Kept<T>, kept, [1]);
    const int widest = shape.depth > shape.columns ? shape.depth : shape.columns;
    const int64_t groups = groups_of<Room::width>(widest), tiles = ceil_div(shape.keys, Room::rows);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Place place = place_of(task, groups, tiles);
        const int64_t b = place.sample / shape.key_heads, key_head = place.sample % shape.key_heads;
        const int64_t key = place.tile * Room::rows, column = place.group * Room::width;
        kept[0].find(shape, g.dress, b, key_head * shape.group);
        const AttentionItem& item = kept[0].item;
        const int64_t left = kept[0].keys - key;
        const T* const k = g.k.of(b, key_head) + (item.key_start + key) * g.k.row;
        const T* const v = g.v.of(b, key_head) + (item.key_start + key) * g.v.row;
        C gk[rows][columns_each] = {}, gv[rows][columns_each] = {};
        for (int64_t h = key_head * shape.group; h < (key_head + 1) * shape.group; ++h) {
            if (h > key_head * shape.group && g.dress.more_than_bias()) kept[0].find(shape, g.dress, b, h);
            for (int64_t first = 0; first < kept[0].rows; first += panel_queries) {
                if (last_limit(item, first, panel_queries) <= key || item.start(first) >= key + Room::rows) continue;
                const int64_t rest = kept[0].rows - first,
                              head_row = shape.rule.row(shape.heads, b, h) + item.query_start;
                const int count = int(rest < panel_queries ? rest : panel_queries);
                const T* const q = g.q.of(b, h) + (item.query_start + first) * g.q.row;
                const T* const gy = g.gy.of(b, h) + (item.query_start + first) * g.gy.row;
                const uint8_t* const mask = shape.mask.of(b, h);
                const T* const bias = g.dress.bias.of(b, h);
                C s[rows][queries_each], dp[rows][queries_each];
                dot_products<1>(s, room.a, room.b, room.p, k, g.k.row, left, C(1), q, g.q.row, rest, g.folded,
                                shape.depth);
                dot_products<1>(dp, room.a, room.b, room.p, v, g.v.row, left, C(1), gy, g.gy.row, rest, C(1),
                                shape.columns);
                if (g.dress.more_than_bias())
                    dress_scores<1, true>(s, room.p, room.ds, g.dress, kept[0].relative, bias, kept[0].rows,
                                          kept[0].keys, first, key, item.position);
#pragma unroll
                for (int j = 0; j < queries_each; ++j) {
                    const int at = column_of<1>(tx, j);
                    const int64_t query = first + at, row = head_row + query;
                    const bool real = at < count;
                    const C lse = real ? g.lse[row] : minus_infinity<C>(), delta = real ? g.delta[row] : C(0);
                    const int64_t limit = lse == minus_infinity<C>() ? 0 : item.limit(query);
                    const int from = in_block(item.start(query), key, Room::rows);
                    const int seen = in_block(limit, key, Room::rows);
                    Pack<C, rows> p, ds;
#pragma unroll
                    for (int i = 0; i < rows; ++i) {
                        const int64_t other = key + ty * rows + i;
                        if (sees(shape, mask, query, key, ty * rows + i, from, seen)) {
                            const C score =
                                bias && !g.dress.more_than_bias()
                                    ? fma_scalar(widen(bias[query * g.dress.bias.row + other * g.dress.bias.step]),
                                                 C(log2_e), s[i][j])
                                    : s[i][j];
                            p.at[i] = softmax_exp2(fma_scalar(C(-log2_e), lse, score));
                            ds.at[i] = p.at[i] * (dp[i][j] - delta);
                            if (g.dress.cap > C(0)) ds.at[i] = ds.at[i] * room.ds[at][ty * rows + i];
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
        }
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (const int64_t other = key + ty * rows + i, row = item.key_start + other; other < kept[0].keys)
#pragma unroll
                for (int j = 0; j < columns_each; ++j) {
                    const int64_t at = column + column_of<4>(tx, j);
                    if (at < shape.depth) g.gk.of(b, key_head)[row * g.gk.row + at] = narrow<T>(gk[i][j] * g.scale);
                    if (at < shape.columns) g.gv.of(b, key_head)[row * g.gv.row + at] = narrow<T>(gv[i][j]);
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
        MMK_LAUNCH(context, (differentiate_queries<T, wide>), grid_of(tasks), threads,
                   sizeof(Room) + (g.dress.cap > 0 && !g.gbias ? key_block * sizeof(Slopes<Compute<T>>) : 0), g, tasks);
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
