// The scores' gradients summed by head: over items, for a bias that all share, and along diagonals, for the table of
// relative biases and for slopes, which weigh them by their distances. There a block takes a segment of 16 panels of an
// item's head and walks its tiles of keys; another kernel adds the segments. The scores are found once more; what is kept
// between the kernels is one table a segment, 1 / 768 of what the scores would take a row of it.
#include "attention.scalar.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int segment_panels = 16;

template <class C> struct PanelRoom {
    static constexpr int keys = tile_rows<C>;
    C a[slice][keys + 4], b[slice][panel_queries + 4], park[panel_queries][keys + 4];
};
template <class C> struct TableRoom : PanelRoom<C> {
    using PanelRoom<C>::keys;
    static constexpr int carried = panel_queries - 1;
    C ds[panel_queries][keys + 1];
    C line[keys + carried], left[key_block], right[key_block];
};

// The diagonals x = key - query + 47 of [first, first + count), which are complete, go to what they belong to; without
// entries it is slopes that they are for.
template <class C> __device__ inline void flush_diagonals(TableRoom<C>& room, int64_t first, int count,
                                                          int64_t position, int64_t radius, C* entries) {
    if (int(threadIdx.x) >= count) return;
    const int64_t x = first + int(threadIdx.x), distance = x - TableRoom<C>::carried - position;
    if (!entries) {
        C& to = room.left[x % key_block];
        to = fma_scalar(C(distance < 0 ? distance : -distance), room.line[threadIdx.x], to);
        return;
    }
    C& to = distance <= -radius  ? room.left[x % key_block]
            : distance >= radius ? room.right[x % key_block]
                                 : entries[distance + radius];
    to = to + room.line[threadIdx.x];
}

// A thread's gradients of the scores of a panel, the queries from `first` on against a tile of keys: 0 where a key is
// hidden.
template <class T, class C> __device__ inline void find_panel_gradients(C (&ds)[rows_each<C>][panel_queries / side],
                                                                        PanelRoom<C>& room, const Backward<T>& g,
                                                                        const AttentionItem& item, int64_t b, int64_t h,
                                                                        int64_t first, int64_t key) {
    constexpr int rows = rows_each<C>, queries_each = panel_queries / side, keys = PanelRoom<C>::keys;
    const Shape& shape = g.shape;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const T* const q = g.q.of(b, h) + (item.query_start + first) * g.q.row;
    const T* const gy = g.gy.of(b, h) + (item.query_start + first) * g.gy.row;
    const T* const k = g.k.of(b, h / shape.group) + (item.key_start + key) * g.k.row;
    const T* const v = g.v.of(b, h / shape.group) + (item.key_start + key) * g.v.row;
    const uint8_t* const mask = shape.mask.of(b, h);
    const T* const bias = g.dress.bias.of(b, h);
    const Relative<T> relative = g.dress.relative(b, h);
    const int64_t rest = shape.rows(item) - first, left = shape.key_rows(item) - key;
    const int64_t head_row = shape.rule.row(shape.heads, b, h) + item.query_start;
    C dp[rows][queries_each];
    dot_products<1>(ds, room.a, room.b, room.park, k, g.k.row, left, C(1), q, g.q.row, rest, g.folded, shape.depth);
    dot_products<1>(dp, room.a, room.b, room.park, v, g.v.row, left, C(1), gy, g.gy.row, rest, C(1), shape.columns);
#pragma unroll
    for (int j = 0; j < queries_each; ++j) {
        const int at = column_of<1>(tx, j);
        const int64_t query = first + at, row = head_row + query;
        const C lse = at < rest ? g.lse[row] : minus_infinity<C>(), delta = at < rest ? g.delta[row] : C(0);
        const Sight sight = sight_of(item, query, lse == minus_infinity<C>() ? 0 : item.limit(query), key, keys);
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            C slope;
            if (sees(shape, mask, query, key, ty * rows + i, sight)) {
                const C score =
                    g.dress.score(ds[i][j], relative, bias, query, key + ty * rows + i, item.position, slope);
                ds[i][j] = softmax_exp2(fma_scalar(C(-log2_e), lse, score)) * (dp[i][j] - delta);
            } else
                ds[i][j] = C(0);
        }
    }
}
// The same, for all threads: [query][key].
template <class T, class C> __device__ inline void share_panel_gradients(TableRoom<C>& room, const Backward<T>& g,
                                                                         const AttentionItem& item, int64_t b,
                                                                         int64_t h, int64_t first, int64_t key) {
    C ds[rows_each<C>][panel_queries / side];
    find_panel_gradients(ds, room, g, item, b, h, first, key);
#pragma unroll
    for (int j = 0; j < panel_queries / side; ++j)
#pragma unroll
        for (int i = 0; i < rows_each<C>; ++i)
            room.ds[column_of<1>(int(threadIdx.x) % side, j)][int(threadIdx.x) / side * rows_each<C> + i] = ds[i][j];
}

// ds along the tile's diagonals, onto what the tile before has carried over: a thread a diagonal, query after query.
template <class C> __device__ inline void add_diagonals(TableRoom<C>& room) {
    constexpr int keys = TableRoom<C>::keys, carried = TableRoom<C>::carried;
    const int thread = int(threadIdx.x);
    if (thread >= keys + carried) return;
    C sum = room.line[thread];
    for (int i = 0; i < panel_queries; ++i)
        if (const int at = thread - carried + i; at >= 0 && at < keys) sum = sum + room.ds[i][at];
    room.line[thread] = sum;
}
// The diagonals that the next tile of keys continues come first.
template <class C> __device__ inline void carry_over(TableRoom<C>& room) {
    constexpr int keys = TableRoom<C>::keys, carried = TableRoom<C>::carried;
    const int thread = int(threadIdx.x);
    const bool carries = thread < carried && !MMK_DEFECT(attention_table_dropped_carry);
    const C sum = carries ? room.line[keys + thread] : C(0);
    __syncthreads();
    if (thread < keys + carried) room.line[thread] = sum;
}
// The distances beyond the table's ends belong to its first and its last entry.
template <class C> __device__ inline void add_ends(const TableRoom<C>& room, int64_t radius, C* entries) {
    C first = C(0), last = C(0);
    for (int x = 0; x < key_block; ++x) first = first + room.left[x], last = last + room.right[x];
    entries[0] = entries[0] + first;
    entries[2 * radius] = entries[2 * radius] + (MMK_DEFECT(attention_table_missing_end) ? C(0) : last);
}

template <class T> __global__ void __launch_bounds__(threads, 1)
    sum_diagonals(Backward<T> g, int64_t width, bool of_slopes, int64_t segments, int64_t tasks) {
    using C = Compute<T>;
    using Room = TableRoom<C>;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    const int thread = int(threadIdx.x);
    const Shape& shape = g.shape;
    const int64_t radius = width / 2, segment_queries = segment_panels * panel_queries;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t h = task % shape.heads, b = task / shape.heads / segments;
        const int64_t begin = task / shape.heads % segments * segment_queries;
        const AttentionItem item = shape.item(b);
        const int64_t item_rows = shape.rows(item);
        C *const entries = g.segments + task * width, *const to = of_slopes ? nullptr : entries;
        for (int64_t x = thread; x < width; x += threads) entries[x] = C(0);
        if (thread < key_block) room.left[thread] = room.right[thread] = C(0);
        // a segment beyond a sequence's end has no other barrier before its sums are read
        if (!MMK_DEFECT(attention_slopes_early_sums)) __syncthreads();
        for (int64_t first = begin; first < begin + segment_queries && first < item_rows; first += panel_queries) {
            const int64_t end = last_limit(item, first, panel_queries), position = item.position + first;
            if (thread < Room::keys + Room::carried) room.line[thread] = C(0);
            int64_t key = item.start(first) / Room::keys * Room::keys;
            for (; key < end; key += Room::keys) {
                share_panel_gradients(room, g, item, b, h, first, key);
                if (!MMK_DEFECT(attention_table_early_sums)) __syncthreads();
                add_diagonals(room);
                __syncthreads();
                flush_diagonals(room, key, Room::keys, position, radius, to);
                carry_over(room);
            }
            __syncthreads();
            flush_diagonals(room, key, Room::carried, position, radius, to);
            __syncthreads();
        }
        if (thread == 0) add_ends(room, radius, entries);
        __syncthreads(); // the next task's sums
    }
}

// to[group][x] = the sum over i of segments[group][i][x], in order.
template <class T> __global__ void __launch_bounds__(threads)
    add_segments(const Compute<T>* segments, int64_t groups, int64_t count, int64_t size, T* to) {
    using C = Compute<T>;
    const int64_t all = groups * size;
    for (int64_t x = int64_t(blockIdx.x) * threads + threadIdx.x; x < all; x += int64_t(gridDim.x) * threads) {
        const C* const from = segments + x / size * count * size + x % size;
        C sum = C(0);
        for (int64_t i = 0; i < count; ++i) sum = sum + from[i * size];
        to[x] = narrow<T>(sum);
    }
}

// ds of a tile of keys and a panel of queries, over the items of a segment: a block owns it, a thread its elements.
template <class T> __global__ void __launch_bounds__(threads, 1)
    sum_items(Backward<T> g, int64_t panels, int64_t tiles, int64_t tasks) {
    using C = Compute<T>;
    constexpr int rows = rows_each<C>, queries_each = panel_queries / side, keys = PanelRoom<C>::keys;
    DYN_SHARED(PanelRoom<C>, memory);
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const Shape& shape = g.shape;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t key = task % tiles * keys, first = task / tiles % panels * panel_queries;
        const int64_t h = task / tiles / panels % shape.heads, segment = task / tiles / panels / shape.heads;
        const int64_t begin = segment * shared_bias_items;
        C sum[rows][queries_each] = {};
        for (int64_t b = begin; b < begin + shared_bias_items && b < shape.batch; ++b) {
            const AttentionItem item = shape.item(b);
            if (last_limit(item, first, panel_queries) <= key || item.start(first) >= key + keys) continue;
            C ds[rows][queries_each];
            find_panel_gradients(ds, *memory, g, item, b, h, first, key);
#pragma unroll
            for (int i = 0; i < rows; ++i)
#pragma unroll
                for (int j = 0; j < queries_each; ++j) sum[i][j] = sum[i][j] + ds[i][j];
        }
#pragma unroll
        for (int i = 0; i < rows; ++i)
#pragma unroll
            for (int j = 0; j < queries_each; ++j) {
                const int64_t query = first + column_of<1>(tx, j), other = key + ty * rows + i;
                if (query < shape.queries && other < shape.keys)
                    g.segments[((segment * shape.heads + h) * shape.queries + query) * shape.keys + other] = sum[i][j];
            }
    }
}

// Of all items together, or of each.
template <class T> void backward_distances(Context& context, const Backward<T>& problem, int64_t width, bool of_slopes,
                                           bool together, T* to) {
    using Room = TableRoom<Compute<T>>;
    Backward<T> g = problem;
    const int64_t segments = ceil_div(ceil_div(g.shape.queries, panel_queries), segment_panels);
    const int64_t tasks = g.shape.batch * g.shape.heads * segments, size = g.shape.heads * width;
    const int64_t groups = together ? 1 : g.shape.batch, count = together ? g.shape.batch * segments : segments;
    g.segments = context.scratch<Compute<T>>(tasks * width);
    if (tasks > 0)
        MMK_LAUNCH(context, sum_diagonals<T>, grid_of(tasks), threads, sizeof(Room), g, width, of_slopes, segments,
                   tasks);
    if (groups * size > 0)
        MMK_LAUNCH(context, add_segments<T>, grid_of(ceil_div(groups * size, threads)), threads, 0, g.segments, groups,
                   count, size, to);
}

} // namespace

template <class T> void backward_table(Context& context, const Backward<T>& problem, int64_t width, T* gtable) {
    backward_distances<T>(context, problem, width, false, true, gtable);
}
template <class T> void backward_slopes(Context& context, const Backward<T>& problem, T* gslopes) {
    backward_distances<T>(context, problem, 1, true, problem.shape.rule.packed(), gslopes);
}

template <class T> void backward_shared_bias(Context& context, const Backward<T>& problem, T* gbias) {
    using Room = PanelRoom<Compute<T>>;
    Backward<T> g = problem;
    const int64_t segments = ceil_div(g.shape.batch, shared_bias_items), size = g.shape.queries * g.shape.keys;
    const int64_t panels = ceil_div(g.shape.queries, panel_queries), tiles = ceil_div(g.shape.keys, Room::keys);
    const int64_t tasks = segments * g.shape.heads * panels * tiles, all = g.shape.heads * size;
    g.segments = context.scratch<Compute<T>>(segments * all);
    if (tasks > 0) MMK_LAUNCH(context, sum_items<T>, grid_of(tasks), threads, sizeof(Room), g, panels, tiles, tasks);
    if (all > 0)
        MMK_LAUNCH(context, add_segments<T>, grid_of(ceil_div(all, threads)), threads, 0, g.segments, 1, segments, all,
                   gbias);
}

template void backward_shared_bias(Context&, const Backward<float>&, float*);
template void backward_shared_bias(Context&, const Backward<double>&, double*);
template void backward_table(Context&, const Backward<float>&, int64_t, float*);
template void backward_table(Context&, const Backward<double>&, int64_t, double*);
template void backward_slopes(Context&, const Backward<float>&, float*);
template void backward_slopes(Context&, const Backward<double>&, double*);

} // namespace mmk::cuda::flash
