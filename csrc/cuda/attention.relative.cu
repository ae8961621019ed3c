// The gradient of the table of relative biases: the scores' gradients summed along diagonals. A block takes a segment of
// 16 panels of an item's head and walks its tiles of keys; a second kernel adds the segments. The scores are found once
// more; what is kept between the kernels is one table a segment, 1 / 768 of what the scores would take a row of it.
#include "attention.scalar.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int segment_panels = 16;

template <class C> struct TableRoom {
    static constexpr int keys = tile_rows<C>, carried = panel_queries - 1;
    C a[slice][keys + 4], b[slice][panel_queries + 4], park[panel_queries][keys + 4];
    C ds[panel_queries][keys + 1];
    C line[keys + carried], left[key_block], right[key_block];
};

// The diagonals x = key - query + 47 of [first, first + count), which are complete, go to what they belong to.
template <class C> __device__ inline void flush_diagonals(TableRoom<C>& room, int64_t first, int count,
                                                          int64_t position, int64_t radius, C* entries) {
    if (int(threadIdx.x) >= count) return;
    const int64_t x = first + int(threadIdx.x), distance = x - TableRoom<C>::carried - position;
    C& to = distance <= -radius  ? room.left[x % key_block]
            : distance >= radius ? room.right[x % key_block]
                                 : entries[distance + radius];
    to = to + room.line[threadIdx.x];
}

// The gradients ds of a panel's scores, the queries from `first` on against a tile of keys: [query][key], 0 where a key
// is hidden.
template <class T, class C> __device__ inline void find_panel_gradients(TableRoom<C>& room, const Backward<T>& g,
                                                                        const AttentionItem& item,
                                                                        const Relative<T>& relative, int64_t b,
                                                                        int64_t h, int64_t first, int64_t key) {
    constexpr int rows = rows_each<C>, queries_each = panel_queries / side, keys = TableRoom<C>::keys;
    const Shape& shape = g.shape;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const T *const q = g.q.of(b, h) + first * g.q.row, *const gy = g.gy.of(b, h) + first * g.gy.row;
    const T *const k = g.k.of(b, h / shape.group) + key * g.k.row, *const v =
                                                                       g.v.of(b, h / shape.group) + key * g.v.row;
    const uint8_t* const mask = shape.mask.of(b, h);
    const T* const bias = g.dress.bias.of(b, h);
    const int64_t rest = shape.queries - first, left = shape.keys - key;
    C s[rows][queries_each], dp[rows][queries_each];
    dot_products<1>(s, room.a, room.b, room.park, k, g.k.row, left, C(1), q, g.q.row, rest, g.folded, shape.depth);
    dot_products<1>(dp, room.a, room.b, room.park, v, g.v.row, left, C(1), gy, g.gy.row, rest, C(1), shape.columns);
#pragma unroll
    for (int j = 0; j < queries_each; ++j) {
        const int at = column_of<1>(tx, j);
        const int64_t query = first + at, row = (b * shape.heads + h) * shape.queries + query;
        const C lse = at < rest ? g.lse[row] : minus_infinity<C>(), delta = at < rest ? g.delta[row] : C(0);
        const Sight sight = sight_of(item, query, lse == minus_infinity<C>() ? 0 : item.limit(query), key, keys);
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            C ds = C(0), slope;
            if (sees(shape, mask, query, key, ty * rows + i, sight)) {
                const C score =
                    g.dress.score(s[i][j], relative, bias, query, key + ty * rows + i, item.position, slope);
                ds = softmax_exp2(fma_scalar(C(-log2_e), lse, score)) * (dp[i][j] - delta);
            }
            room.ds[at][ty * rows + i] = ds;
        }
    }
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
    sum_diagonals(Backward<T> g, int64_t width, int64_t segments, int64_t tasks) {
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
        const Relative<T> relative = g.dress.relative(b, h);
        C* const entries = g.segments + task * width;
        for (int64_t x = thread; x < width; x += threads) entries[x] = C(0);
        if (thread < key_block) room.left[thread] = room.right[thread] = C(0);
        for (int64_t first = begin; first < begin + segment_queries && first < shape.queries; first += panel_queries) {
            const int64_t end = last_limit(item, first, panel_queries), position = item.position + first;
            if (thread < Room::keys + Room::carried) room.line[thread] = C(0);
            int64_t key = item.start(first) / Room::keys * Room::keys;
            for (; key < end; key += Room::keys) {
                find_panel_gradients(room, g, item, relative, b, h, first, key);
                if (!MMK_DEFECT(attention_table_early_sums)) __syncthreads();
                add_diagonals(room);
                __syncthreads();
                flush_diagonals(room, key, Room::keys, position, radius, entries);
                carry_over(room);
            }
            __syncthreads();
            flush_diagonals(room, key, Room::carried, position, radius, entries);
            __syncthreads();
        }
        if (thread == 0) add_ends(room, radius, entries);
        __syncthreads(); // the next task's sums
    }
}

template <class T> __global__ void __launch_bounds__(threads)
    add_segments(const Compute<T>* segments, int64_t count, int64_t size, T* gtable) {
    using C = Compute<T>;
    for (int64_t x = int64_t(blockIdx.x) * threads + threadIdx.x; x < size; x += int64_t(gridDim.x) * threads) {
        C sum = C(0);
        for (int64_t i = 0; i < count; ++i) sum = sum + segments[i * size + x];
        gtable[x] = narrow<T>(sum);
    }
}

} // namespace

template <class T> void backward_table(Context& context, const Backward<T>& problem, int64_t width, T* gtable) {
    using Room = TableRoom<Compute<T>>;
    Backward<T> g = problem;
    const int64_t segments = ceil_div(ceil_div(g.shape.queries, panel_queries), segment_panels);
    const int64_t tasks = g.shape.batch * g.shape.heads * segments, size = g.shape.heads * width;
    g.segments = context.scratch<Compute<T>>(tasks * width);
    if (tasks > 0)
        MMK_LAUNCH(context, sum_diagonals<T>, grid_of(tasks), threads, sizeof(Room), g, width, segments, tasks);
    MMK_LAUNCH(context, add_segments<T>, grid_of(ceil_div(size, threads)), threads, 0, g.segments,
               g.shape.batch * segments, size, gtable);
}

template void backward_table(Context&, const Backward<float>&, int64_t, float*);
template void backward_table(Context&, const Backward<double>&, int64_t, double*);

} // namespace mmk::cuda::flash
