// The gradients of attention in the CPU floor's order, for what attention.scalar.cu computes. A tile of queries walks
// blocks of keys for their gradients or for those of the biases, a tile of keys walks panels of queries for those of keys
// and values; p and ds pass through shared memory as [key][query] or [query][key].
#include "attention.scalar_queries.cuh"

namespace mmk::cuda::flash {
namespace {

// The thread's rows of a tile, of which `count` are real, and its columns, of which `width` are.
template <int columns, class T, class C>
MMK_PTX void store_rows(T* to, int64_t row, int64_t count, int width, const C (&sum)[rows_each<C>][columns], C factor) {
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
        if (const int at_row = ty * rows_each<C> + i; at_row < count)
#pragma unroll
            for (int j = 0; j < columns; ++j)
                if (const int at = column_of<4>(tx, j); at < width)
                    to[at_row * row + at] = narrow<T>(sum[i][j] * factor);
}

// Where a tile's operands begin: in shared memory, as registers are few.
template <class T> struct TileRows {
    const T *q, *gy, *k, *v;

    MMK_PTX void find(const Backward<T>& g, const AttentionItem& item, const Task& task) {
        const int64_t row = item.query_start + task.first, key_head = task.h / g.shape.group;
        q = g.q.of(task.b, task.h) + row * g.q.row;
        gy = g.gy.of(task.b, task.h) + row * g.gy.row;
        k = g.k.of(task.b, key_head) + item.key_start * g.k.row;
        v = g.v.of(task.b, key_head) + item.key_start * g.v.row;
    }
};

// What the forward pass and gy left of a thread's rows.
template <class C> struct RowTerms {
    C lse[rows_each<C>], delta[rows_each<C>];

    // Gives whether one of them that is real sees nothing.
    template <class T> MMK_PTX bool find(const Backward<T>& g, const Kept<T>& kept, const Task& task) {
        const int64_t row = g.shape.rule.row(g.shape.heads, task.b, task.h) + kept.item.query_start;
        const int ty = int(threadIdx.x) / side;
        bool dead = false;
#pragma unroll
        for (int i = 0; i < rows_each<C>; ++i) {
            const int64_t query = task.first + ty * rows_each<C> + i;
            lse[i] = query < kept.rows ? g.lse[row + query] : minus_infinity<C>();
            delta[i] = query < kept.rows ? g.delta[row + query] : C(0);
            dead |= query < kept.rows && lse[i] == minus_infinity<C>();
        }
        return dead;
    }
};

// Scores become their gradients ds; `slopes` are the soft cap's derivatives, or null.
template <class C> __device__ inline void find_gradients(Scores<C>& s, const Scores<C>& dp, const RowTerms<C>& terms,
                                                         bool capped, const Slopes<C>* slopes, const Shape& shape,
                                                         const AttentionItem& item, const uint8_t* mask,
                                                         const KeyBlock& block) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        const int64_t query = block.first + ty * rows + i;
        const C lse = terms.lse[i];
        const Sight sight = block.sight(item, query, lse == minus_infinity<C>() ? 0 : item.limit(query));
#pragma unroll
        for (int j = 0; j < keys_each; ++j) {
            const int at = column_of<4>(tx, j);
            if (sees(shape, mask, query, block.key, at, sight)) {
                s[i][j] = softmax_exp2(fma_scalar(C(-log2_e), lse, s[i][j])) * (dp[i][j] - terms.delta[i]);
                if (capped) s[i][j] = s[i][j] * slopes[at][ty * rows + i];
            } else
                s[i][j] = hidden<C>();
        }
    }
}

// ds are the gradients of the biases.
template <class T, class C> MMK_PTX void store_bias_gradients(const Backward<T>& g, const AttentionItem& item,
                                                              const Task& task, const KeyBlock& block,
                                                              const Scores<C>& ds) {
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const int64_t row = g.shape.rule.row(g.shape.heads, task.b, task.h) + item.query_start;
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i)
#pragma unroll
        for (int j = 0; j < keys_each; ++j) {
            const int64_t query = task.first + ty * rows_each<C> + i, key = block.key + column_of<4>(tx, j);
            if (query < g.shape.queries && key < g.shape.keys)
                g.gbias[(row + query) * g.shape.keys + key] = narrow<T>(is_hidden(ds[i][j]) ? C(0) : ds[i][j]);
        }
}

// gq, or gbias, which takes the keys that no query sees too.
template <class T, int wide> __global__ void __launch_bounds__(threads, 1)
    differentiate_queries(Backward<T> g, int64_t tasks) {
    using C = Compute<T>;
    using Room = QueryRoom<C, wide>;
    constexpr int rows = rows_each<C>, columns = 4 * wide;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    const bool capped = g.dress.cap > C(0) && !g.gbias;
    auto* const slopes = reinterpret_cast<Slopes<C>*>(memory + 1);
    SHARED(Kept<T>, kept, [1]);
    SHARED(TileRows<T>, tile, [1]);
    const Shape& shape = g.shape;
    const AttentionItem& item = kept[0].item;
    const int64_t groups = g.gbias ? 1 : groups_of<Room::width>(shape.depth),
                  tiles = ceil_div(shape.queries, Room::rows);
    for (int64_t i = blockIdx.x; i < tasks; i += gridDim.x) {
        const Task task = task_of<Room>(i, groups, tiles, shape.heads);
        const int64_t b = task.b, h = task.h, first = task.first;
        kept[0].find(shape, g.dress, b, h);
        if (threadIdx.x == 0) tile[0].find(g, item, task);
        const uint8_t* const mask = shape.mask.of(b, h);
        const T* const bias = g.dress.bias.of(b, h);
        RowTerms<C> terms;
        const bool any_dead = __syncthreads_or(terms.find(g, kept[0], task));
        C sum[rows][columns] = {};
        const int64_t begin = item.start(first) / key_block * key_block, end = last_limit(item, first, Room::rows);
        for (int64_t key = g.gbias ? 0 : begin; key < (g.gbias ? shape.keys : end); key += key_block) {
            const int count = int(end - key < 0 ? 0 : end - key < key_block ? end - key : key_block);
            const bool some = mask || any_dead || !all_see(item, shape.queries, first, Room::rows, key, count);
            const KeyBlock block{key, first, count, some};
            C s[rows][keys_each], dp[rows][keys_each], chain[rows][columns];
            if (count > 0) {
                find_scores(s, room, g, kept[0], tile[0].q, tile[0].k, bias, block, capped ? slopes : no_slopes<C>);
                dot_products<4>(dp, room.a, room.b, room.p, tile[0].gy, g.gy.row, kept[0].rows - first, C(1),
                                tile[0].v + key * g.v.row, g.v.row, count, C(1), shape.columns);
            }
            find_gradients(s, dp, terms, capped, slopes, shape, item, mask, block);
            if (g.gbias) {
                store_bias_gradients(g, item, task, block, s);
                continue;
            }
            keep(room.p, s);
            chain_of<slice>(chain, room.p, room.b, tile[0].k + key * g.k.row + task.column, g.k.row, count,
                            shape.depth - int(task.column), some);
            add_chain(sum, chain);
        }
        __syncthreads(); // the next tile's votes and sums
        if (g.gbias) continue;
        store_rows(g.gq.of(b, h) + (item.query_start + first) * g.gq.row + task.column, g.gq.row, kept[0].rows - first,
                   shape.depth - int(task.column), sum, g.scale);
    }
}

// A tile of keys against panels of queries.
template <class C, int wide> struct KeyRoom {
    static constexpr int rows = tile_rows<C>, width = lanes_of_columns * wide, step = 16;
    C a[slice][rows + 4], b[slice][panel_queries + 4], values[step][width + 4];
    C p[panel_queries][rows + 4], ds[panel_queries][rows + 4];
};
inline constexpr int queries_each = panel_queries / side;
template <class C> using PanelScores = C[rows_each<C>][queries_each];

// The queries [first, first + count) of head h, against the tile of keys that begins at `key`.
struct Panel {
    int64_t b, h, first, key;
    int count;
};

// s and dp become p and ds, which are kept on chip: [query][key]. room.ds holds the soft cap's derivatives till then.
template <class T, class C, int wide>
__device__ inline void find_panel_gradients(KeyRoom<C, wide>& room, const PanelScores<C>& s, const PanelScores<C>& dp,
                                            const Backward<T>& g, const AttentionItem& item, const Panel& panel) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const uint8_t* const mask = g.shape.mask.of(panel.b, panel.h);
    const T* const bias = g.dress.more_than_bias() ? nullptr : g.dress.bias.of(panel.b, panel.h); // not in s yet
    const int64_t head_row = g.shape.rule.row(g.shape.heads, panel.b, panel.h) + item.query_start;
#pragma unroll
    for (int j = 0; j < queries_each; ++j) {
        const int at = column_of<1>(tx, j);
        const int64_t query = panel.first + at, row = head_row + query;
        const C lse = at < panel.count ? g.lse[row] : minus_infinity<C>(),
                delta = at < panel.count ? g.delta[row] : C(0);
        const Sight sight = sight_of(item, query, lse == minus_infinity<C>() ? 0 : item.limit(query), panel.key,
                                     KeyRoom<C, wide>::rows);
        Pack<C, rows> p, ds;
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            const int64_t key = panel.key + ty * rows + i;
            if (sees(g.shape, mask, query, panel.key, ty * rows + i, sight)) {
                const C score = bias ? fma_scalar(widen(bias[query * g.dress.bias.row + key * g.dress.bias.step]),
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
}

// What a panel's queries give to gk and gv, of the columns from `column` on.
template <class T, class C, int wide>
__device__ inline void add_panel(C (&gk)[rows_each<C>][4 * wide], C (&gv)[rows_each<C>][4 * wide],
                                 KeyRoom<C, wide>& room, const Backward<T>& g, const Kept<T>& kept, const T* k,
                                 const T* v, const Panel& panel, int column) {
    const Shape& shape = g.shape;
    const int64_t row = kept.item.query_start + panel.first, rest = kept.rows - panel.first;
    const T* const q = g.q.of(panel.b, panel.h) + row * g.q.row;
    const T* const gy = g.gy.of(panel.b, panel.h) + row * g.gy.row;
    PanelScores<C> s, dp;
    const int64_t left = kept.keys - panel.key;
    dot_products<1>(s, room.a, room.b, room.p, k, g.k.row, left, C(1), q, g.q.row, rest, g.folded, shape.depth);
    dot_products<1>(dp, room.a, room.b, room.p, v, g.v.row, left, C(1), gy, g.gy.row, rest, C(1), shape.columns);
    if (g.dress.more_than_bias())
        dress_scores<1, true>(s, room.p, room.ds, g.dress, kept.relative, g.dress.bias.of(panel.b, panel.h), kept.rows,
                              kept.keys, panel.first, panel.key, kept.item.position);
    find_panel_gradients(room, s, dp, g, kept.item, panel);
    C chain[rows_each<C>][4 * wide];
    if (column < shape.columns) {
        chain_of<KeyRoom<C, wide>::step>(chain, room.p, room.values, gy + column, g.gy.row, panel.count,
                                         shape.columns - column, true);
        add_chain(gv, chain);
    }
    if (column < shape.depth) {
        chain_of<KeyRoom<C, wide>::step>(chain, room.ds, room.values, q + column, g.q.row, panel.count,
                                         shape.depth - column, true);
        add_chain(gk, chain);
    }
}

template <class T, int wide> __global__ void __launch_bounds__(threads, 1)
    differentiate_keys(Backward<T> g, int64_t tasks) {
    using C = Compute<T>;
    using Room = KeyRoom<C, wide>;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    SHARED(Kept<T>, kept, [1]);
    const Shape& shape = g.shape;
    const AttentionItem& item = kept[0].item;
    const int widest = shape.depth > shape.columns ? shape.depth : shape.columns;
    const int64_t groups = groups_of<Room::width>(widest), tiles = ceil_div(shape.keys, Room::rows);
    for (int64_t i = blockIdx.x; i < tasks; i += gridDim.x) {
        const Task task = task_of<Room>(i, groups, tiles, shape.key_heads);
        const int64_t b = task.b, key = task.first, first_head = task.h * shape.group;
        const int column = int(task.column);
        kept[0].find(shape, g.dress, b, first_head);
        const T* const k = g.k.of(b, task.h) + (item.key_start + key) * g.k.row;
        const T* const v = g.v.of(b, task.h) + (item.key_start + key) * g.v.row;
        C gk[rows_each<C>][4 * wide] = {}, gv[rows_each<C>][4 * wide] = {};
        for (int64_t h = first_head; h < first_head + shape.group; ++h) {
            if (h > first_head && g.dress.more_than_bias()) kept[0].find(shape, g.dress, b, h);
            for (int64_t first = 0; first < kept[0].rows; first += panel_queries) {
                if (last_limit(item, first, panel_queries) <= key || item.start(first) >= key + Room::rows) continue;
                const int64_t rest = kept[0].rows - first;
                const Panel panel{b, h, first, key, int(rest < panel_queries ? rest : panel_queries)};
                add_panel(gk, gv, room, g, kept[0], k, v, panel, column);
            }
        }
        const int64_t row = item.key_start + key, left = kept[0].keys - key;
        store_rows(g.gk.of(b, task.h) + row * g.gk.row + column, g.gk.row, left, shape.depth - column, gk, g.scale);
        store_rows(g.gv.of(b, task.h) + row * g.gv.row + column, g.gv.row, left, shape.columns - column, gv, C(1));
    }
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

} // namespace

template <class T> void backward_queries_scalar(Context& context, const Backward<T>& problem) {
    if constexpr (std::is_same_v<T, float>)
        if (is_wide(problem.shape.depth)) return launch_queries<T, 2>(context, problem);
    launch_queries<T, 1>(context, problem);
}
template <class T> void backward_keys_scalar(Context& context, const Backward<T>& problem) {
    if constexpr (std::is_same_v<T, float>)
        if (is_wide(problem.shape.depth > problem.shape.columns ? problem.shape.depth : problem.shape.columns))
            return launch_keys<T, 2>(context, problem);
    launch_keys<T, 1>(context, problem);
}

#define MMK_ATTENTION_SCALAR_GRAD(T)                                                                                   \
    template void backward_queries_scalar(Context&, const Backward<T>&);                                               \
    template void backward_keys_scalar(Context&, const Backward<T>&);
MMK_ATTENTION_SCALAR_GRAD(float)
MMK_ATTENTION_SCALAR_GRAD(double)

} // namespace mmk::cuda::flash
